"""Ways of steering under a name: where the gate comes from, and a configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.gates import ConstantGate, Gate
from emomm_lib.chase.router import Router
from emomm_lib.chase.targets import Agreement, conflict_target, gate_target
from emomm_study.evaluate.gates import Combined, GateByRow

Importance = Literal["gradient", "attention"]


@dataclass(frozen=True)
class Batch:
    """B prompts: their manifest rows with ``coalition``, and ``(B, 3)`` what they hold."""

    clips: pd.DataFrame
    present: Tensor


class GateSource(Protocol):
    """Gives every batch its gate."""

    def gate(self, batch: Batch) -> Gate: ...

    def settings(self) -> dict:
        """All that can change what it says, for fingerprints."""


def router_digest(router: Router) -> str:
    """Digest of a router's weights and shape."""
    digest = hashlib.sha256(f"{router.first_layer} {router.inputs}".encode())
    digest.update(f"{router.preference_kind} {router.fingerprint}".encode())
    for name, tensor in sorted(router.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Routed:
    """A trained router."""

    router: Router

    def gate(self, batch: Batch) -> Gate:
        return self.router

    def settings(self) -> dict:
        return {"router": router_digest(self.router)}


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """Several routers, each asked about the clips of one fold only, which it never saw.

    Attributes
    ----------
    routers
        One a fold.
    fold
        Fold of every clip, by sample_id.
    """

    routers: Sequence[Router]
    fold: Mapping[str, int]

    def gate(self, batch: Batch) -> Gate:
        index = torch.tensor([self.fold[name] for name in batch.clips["sample_id"]])
        return GateByRow(tuple(self.routers), index.to(batch.present.device))

    def settings(self) -> dict:
        folds = hashlib.sha256(json.dumps(sorted(self.fold.items())).encode()).hexdigest()[:16]
        return {"routers": [router_digest(r) for r in self.routers], "folds": folds}


@dataclass(frozen=True)
class Oracle:
    """p* and g* of the labels: what a router without error would say.

    Where no modality has GT's class, g* is even: there an oracle knows nothing.
    """

    agreement: Agreement = "label"
    epsilon: float = 0.01

    def gate(self, batch: Batch) -> Gate:
        labels = batch.clips[["label_t", "label_a", "label_v"]].to_numpy()
        given = batch.clips["label_gt"].to_numpy(), labels, batch.present.cpu().numpy()
        values = (
            conflict_target(*given, self.agreement),
            gate_target(*given, "label", self.epsilon),
        )
        return ConstantGate(*(torch.from_numpy(x).to(batch.present.device) for x in values))

    def settings(self) -> dict:
        return {"oracle": asdict(self)}


@dataclass(frozen=True)
class Chance:
    """p uniform in 0..1 and g uniform among all distributions, drawn anew for every prompt.

    Table 2's "w/o Router (Random Steering)", as far as the paper describes it.
    """

    seed: int = 0

    def gate(self, batch: Batch) -> Gate:
        drawn = []
        for name, coalition in zip(batch.clips["sample_id"], batch.clips["coalition"], strict=True):
            key = hashlib.sha256(f"{self.seed} {name} {coalition}".encode()).digest()
            rng = np.random.default_rng(int.from_bytes(key[:8], "little"))
            drawn.append([rng.random(), *rng.dirichlet(np.ones(3))])
        values = torch.tensor(drawn, device=batch.present.device)
        return ConstantGate(values[:, 0], values[:, 1:])

    def settings(self) -> dict:
        return {"chance": asdict(self)}


@dataclass(frozen=True)
class Always:
    """The same p and g for every prompt, such as a fixed boost of video."""

    conflict: float
    gate_of_tav: tuple[float, float, float]

    def gate(self, batch: Batch) -> Gate:
        count, device = len(batch.clips), batch.present.device
        return ConstantGate(
            torch.full((count,), self.conflict, device=device),
            torch.tensor(self.gate_of_tav, device=device).expand(count, 3),
        )

    def settings(self) -> dict:
        return {"always": asdict(self)}


@dataclass(frozen=True, eq=False)
class ByCorpus:
    """One g for all prompts of a corpus and fold, whatever the clip; p is 1.

    Attributes
    ----------
    gate_of_tav
        g by (corpus, fold).
    fold
        Fold of every clip, by sample_id.
    """

    gate_of_tav: Mapping[tuple[str, int], tuple[float, float, float]]
    fold: Mapping[str, int]

    def gate(self, batch: Batch) -> Gate:
        clips = zip(batch.clips["corpus"], batch.clips["sample_id"], strict=True)
        said = [self.gate_of_tav[corpus, self.fold[name]] for corpus, name in clips]
        device = batch.present.device
        return ConstantGate(torch.ones(len(said), device=device), torch.tensor(said, device=device))

    def settings(self) -> dict:
        said = sorted((*key, *gate) for key, gate in self.gate_of_tav.items())
        folds = hashlib.sha256(json.dumps(sorted(self.fold.items())).encode()).hexdigest()[:16]
        return {"by corpus": said, "folds": folds}


@dataclass(frozen=True, eq=False)
class Parts:
    """p of one source and g of another, to see which of them matters."""

    conflict: GateSource | str
    trust: GateSource | str

    def gate(self, batch: Batch) -> Gate:
        return Combined(self.conflict.gate(batch), self.trust.gate(batch))

    def settings(self) -> dict:
        return {"conflict": self.conflict.settings(), "gate": self.trust.settings()}


def with_routers(source: GateSource | str, router_of: Callable[[str], GateSource]) -> GateSource:
    """A source with a router, by its kind, wherever one is only named."""
    if isinstance(source, str):
        return router_of(source)
    if isinstance(source, Parts):
        parts = source.conflict, source.trust
        return Parts(*(with_routers(part, router_of) for part in parts))
    return source


@dataclass(frozen=True, eq=False)
class Method:
    """A way of steering to be measured.

    Attributes
    ----------
    source
        Where the gate comes from; the name of a kind of router stands for one that a study trains
        (:mod:`emomm_study.evaluate.protocol`).
    scored
        Whether replies' scores (for MAE), attention and routing are kept as well; they cost about
        as much as the prompt of a small model, so sweeps go without.
    clips
        The clips that it may be asked about, by sample_id; None for all.
    protocol
        What it is measured for, such as ``test`` or ``crossed``.
    variant
        Which of several configurations of one name.
    """

    name: str
    source: GateSource | str
    config: SteeringConfig
    importance: Importance = "gradient"
    scored: bool = False
    clips: Collection[str] | None = None
    protocol: str = ""
    variant: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        """What results tell methods apart by: ``method, protocol, variant``."""
        return self.name, self.protocol, self.variant

    def settings(self) -> dict:
        """All that can change what it answers, besides model, media and prompt.

        Raises ``TypeError`` for the name of a kind of router, which answers nothing by itself.
        """
        if isinstance(self.source, str):
            raise TypeError(
                f"{self.name}: no router yet, only the kind {self.source!r}; ask by a study's "
                "protocol, or give the method a trained one"
            )
        used = {"importance": self.importance} if self.config.beta > 0 else {}
        gate = self.source.settings()
        return {"config": asdict(self.config), "gate": gate, "scored": self.scored, **used}
