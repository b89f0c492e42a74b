"""Training a router on states that were recorded once (Sec. 5.1, Eq. 10; Algorithm 1, stage 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from emomm_lib.attention.record import Trace
from emomm_lib.chase.equations import Preference, masked_softmax, preference
from emomm_lib.chase.router import Inputs, Router, layer_input
from emomm_lib.chase.targets import Agreement, conflict_target, correctness, gate_target

Batch = tuple[Tensor, Tensor, Tensor]
"""Which prompts, and what :meth:`RouterStates.inputs` gives of them."""
AT_ONCE = 2**26
"""Bytes of inputs beyond which fewer prompts are gone through at a time."""


@dataclass(frozen=True)
class RouterStates:
    """What the unsteered model offered a router for N prompts.

    Attributes
    ----------
    index
        N rows: ``sample_id, coalition``.
    query_state, modality_states
        ``(N, L, D)``, ``(N, L, 3, D)`` entering each layer.
    mass, counts
        ``(N, L, H, 3)`` attention of the decision query on T, A, V, and ``(N, 3)`` their tokens.
    """

    index: pd.DataFrame
    query_state: Tensor
    modality_states: Tensor
    mass: Tensor
    counts: Tensor

    @property
    def present(self) -> Tensor:
        """``(N, 3)`` bool."""
        return self.counts > 0

    @classmethod
    def of(cls, trace: Trace, index: pd.DataFrame) -> RouterStates:
        """What a recorded pass offers of its B prompts; ``index`` as in the class."""
        if len(index) != len(trace.counts):
            raise ValueError(f"the trace has {len(trace.counts)} prompts, index {len(index)} rows")
        parts = trace.query_state, trace.modality_states, trace.mass, trace.counts
        return cls(index.reset_index(drop=True), *(part.detach().cpu() for part in parts))

    def take(self, rows: np.ndarray | Tensor) -> RouterStates:
        """Some of the prompts."""
        chosen = torch.as_tensor(rows)
        return RouterStates(
            self.index.iloc[chosen.numpy()].reset_index(drop=True),
            *(x[chosen] for x in (self.query_state, self.modality_states, self.mass, self.counts)),
        )

    def inputs(self, router: Router, rows: Tensor) -> tuple[Tensor, Tensor]:
        """A router's x ``(n, layers, F)``, and which modalities are present ``(n, 1, 3)``.

        One layer for a router whose input does not change with it.
        """
        present = self.present[rows]
        if router.inputs == "embedded":
            x = self.modality_states[rows, 0].flatten(1)[:, None]
        else:
            layers = slice(router.first_layer - 1, None)
            nmas = self.mass[rows, layers] / self.counts[rows, None, None].clamp(min=1)
            kind = router.preference_kind
            pi = preference(nmas.double(), present[:, None, None], kind).mean(2)
            query = self.query_state[rows, layers]
            x = layer_input(query, self.modality_states[rows, layers], pi.to(query))
        return x.to(router.mean), present[:, None].to(router.mean.device)

    def batches(self, router: Router, order: Iterable[Tensor]) -> Iterator[Batch]:
        """:meth:`inputs` of some rows after others."""
        for rows in order:
            yield rows, *self.inputs(router, rows)

    def in_order(self, router: Router, most: int = 512) -> Iterator[Batch]:
        """Batches of all prompts: of ``most``, or fewer where their inputs are large."""
        width = router.mean.nbytes * (self.query_state.shape[1] - router.first_layer + 1)
        size = min(most, max(1, AT_ONCE // width))
        return self.batches(router, torch.arange(len(self.index)).split(size))


@dataclass(frozen=True)
class RouterTargets:
    """What a router should have said: p* ``(N,)``, g* ``(N, 3)``, r ``(N, 3)`` bool (Eq. 9)."""

    conflict: Tensor
    gate: Tensor
    right: Tensor

    @classmethod
    def of(
        cls,
        states: RouterStates,
        clips: pd.DataFrame,
        agreement: Agreement = "label",
        epsilon: float = 0.01,
    ) -> RouterTargets:
        """From the labels of a manifest, over the modalities that each prompt holds.

        Raises ``KeyError`` for prompts of clips that the manifest lacks.
        """
        known = clips.set_index("sample_id")
        if absent := sorted(set(states.index["sample_id"]) - set(known.index)):
            raise KeyError(f"the manifest lacks clips {absent[:5]} that states were recorded of")
        labels = known.loc[states.index["sample_id"]]
        given = (
            labels["label_gt"].to_numpy(),
            labels[["label_t", "label_a", "label_v"]].to_numpy(),
            states.present.numpy(),
        )
        return cls(
            torch.from_numpy(conflict_target(*given, agreement)),
            torch.from_numpy(gate_target(*given, "label", epsilon)),
            torch.from_numpy(correctness(*given, "label")),
        )

    def take(self, rows: np.ndarray | Tensor) -> RouterTargets:
        """Some of the prompts."""
        chosen = torch.as_tensor(rows)
        return RouterTargets(self.conflict[chosen], self.gate[chosen], self.right[chosen])


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Published values (Sec. 6.1) by default.

    Attributes
    ----------
    first_layer
        l_r, counted from 1.
    agreement
        When p* is 1: a modality's ``label`` differs from GT's, or its ``polarity``.
    lambda_gate, lambda_conflict
        lambda_1 and lambda_2 of Eq. 10.
    epsilon
        Smoothing of g* (Eq. 9). Not published.
    inputs, standardize
        Extensions: the ``embedded`` means as the router's input instead of each ``layer``'s, and
        inputs shifted and scaled by their mean and deviation in training.
    """

    first_layer: int
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    batch_size: int = 32
    epochs: int = 10
    hidden: int = 128
    lambda_gate: float = 1.0
    lambda_conflict: float = 1.0
    agreement: Agreement = "label"
    epsilon: float = 0.01
    preference: Preference = "softmax"
    inputs: Inputs = "layer"
    standardize: bool = False
    seed: int = 0


def router_loss(
    conflict_logit: Tensor,
    gate_logit: Tensor,
    conflict: Tensor,
    gate: Tensor,
    lambda_gate: float = 1.0,
    lambda_conflict: float = 1.0,
) -> Tensor:
    """Eq. 10, its mean over prompts: the sum over layers of KL(g* || g) and BCE(p*, p).

    ``conflict_logit`` is ``(N, L)``, ``gate_logit`` ``(N, L, 3)`` with -inf where absent,
    ``conflict`` ``(N,)``, ``gate`` ``(N, 3)``. From logits, so that Eq. 19's and 20's epsilons are
    not needed.
    """
    log_g = gate_logit.log_softmax(-1)
    target = gate[:, None]
    # Where g* is 0, an absent modality, log g is -inf and 0 times it would be nan.
    cross = torch.where(target > 0, target * log_g, 0.0).sum(-1)
    kl = torch.xlogy(target, target).sum(-1) - cross
    bce = functional.binary_cross_entropy_with_logits(
        conflict_logit, conflict[:, None].expand_as(conflict_logit), reduction="none"
    )
    return (lambda_gate * kl + lambda_conflict * bce).sum(1).mean()


def train_router(
    states: RouterStates,
    targets: RouterTargets,
    settings: TrainingSettings,
    fingerprint: str,
    *,
    validation: tuple[RouterStates, RouterTargets] | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> tuple[Router, pd.DataFrame]:
    """A router for the model whose states these are, and its history by epoch.

    The history has ``epoch, loss`` and, with ``validation``, ``valid_loss, conflict_auc,
    gate_top1`` (of the mean over layers), NaN where validation has nothing to tell apart. The last epoch's weights are returned.
    Equal settings give equal weights. Raises ``ValueError`` without a prompt.
    """
    count, layers, size = states.query_state.shape
    if count == 0:
        raise ValueError("no prompt to train on; check the split's clips and coalitions")
    # Its own generators: nothing that the caller draws changes, nor is changed.
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed accelerators too.
        torch.default_generator.manual_seed(settings.seed)
        router = Router(
            state_size=size,
            layers=layers,
            fingerprint=fingerprint,
            first_layer=settings.first_layer,
            hidden=settings.hidden,
            preference_kind=settings.preference,
            inputs=settings.inputs,
        ).to(device)
    if settings.standardize:
        _standardize(router, states)
    order = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(
        router.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    history = []
    with tqdm(total=settings.epochs, unit="epoch", desc="router", disable=not progress) as bar:
        for epoch in range(1, settings.epochs + 1):
            router.train()
            total = 0.0
            drawn = torch.randperm(count, generator=order).split(settings.batch_size)
            for rows, *given in states.batches(router, drawn):
                loss = _loss(router, targets, rows, given, settings)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(rows)
            entry: dict[str, float] = {"epoch": epoch, "loss": total / count}
            if validation is not None:
                entry |= _validate(router, *validation, settings)
            history.append(entry)
            bar.update()
            bar.set_postfix({k: f"{v:.3f}" for k, v in entry.items() if k != "epoch"})
    return router.eval(), pd.DataFrame(history)


@torch.no_grad()
def routed(router: Router, states: RouterStates, batch_size: int = 512) -> tuple[Tensor, Tensor]:
    """p ``(N, layers)`` and g ``(N, layers, 3)`` on recorded, unsteered states.

    Layers are those from l_r on, or one for a router that reads what enters the first.
    """
    router.eval()
    parts = []
    for _, x, present in states.in_order(router, batch_size):
        conflict, gate = router(x, present)
        parts.append((conflict.sigmoid().cpu(), masked_softmax(gate, present).cpu()))
    conflicts, gates = zip(*parts, strict=True)
    return torch.cat(conflicts), torch.cat(gates)


def _standardize(router: Router, states: RouterStates) -> None:
    """Set the shift and scale of a router's inputs from the prompts it is trained on."""
    count, total = 0, router.mean.double() * 0
    squares = total.clone()
    for _, x, _ in states.in_order(router):
        x = x.double().flatten(0, 1)
        count, total, squares = count + len(x), total + x.sum(0), squares + x.square().sum(0)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    router.mean.copy_(mean)
    # A feature that never changes would be divided by nothing.
    router.scale.copy_(torch.where(deviation > 1e-6, deviation, 1.0))


def _loss(
    router: Router,
    targets: RouterTargets,
    rows: Tensor,
    given: Sequence[Tensor],
    settings: TrainingSettings,
) -> Tensor:
    """Eq. 10 on some of the prompts, whose inputs are ``given``."""
    conflict, gate = router(*given)
    return router_loss(
        conflict,
        gate,
        targets.conflict[rows].to(conflict.device),
        targets.gate[rows].to(conflict.device),
        settings.lambda_gate,
        settings.lambda_conflict,
    )


def area(outcome: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve of scores ``(N,)`` for outcomes of 0 and 1; NaN if all are alike."""
    return float(roc_auc_score(outcome, score)) if len(np.unique(outcome)) > 1 else np.nan


@torch.no_grad()
def _validate(
    router: Router, states: RouterStates, targets: RouterTargets, settings: TrainingSettings
) -> dict[str, float]:
    router.eval()
    loss = 0.0
    for rows, *given in states.in_order(router):
        loss += float(_loss(router, targets, rows, given, settings)) * len(rows)
    conflict, gate = routed(router, states)
    mixed = targets.right.any(1) & (targets.right != states.present).any(1)
    first = gate.mean(1).argmax(-1, keepdim=True)
    return {
        "valid_loss": loss / len(states.index),
        "conflict_auc": area(targets.conflict.numpy(), conflict.mean(1).numpy()),
        "gate_top1": float(targets.right.gather(1, first)[mixed].float().mean()),
    }
