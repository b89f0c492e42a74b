"""Steering with attention given back: what of its effect is carried by the mass on a modality."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import pandas as pd
import torch
from torch import Tensor

from emomm_lib import (
    Bias,
    Bootstrap,
    Gate,
    LayerView,
    Prefill,
    Replayed,
    Steerer,
    SteeringConfig,
    attention_importance,
    intervals_of,
    replay_decision,
)
from emomm_lib.attention.rows import Scope, exact
from emomm_lib.labels import MODALITIES
from emomm_lib.metrics.bootstrap import DEFAULT, counted, means
from emomm_lib.metrics.outcomes import row
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.methods import Batch, Oracle
from emomm_study.evaluate.streamed import answers_in_ways, subsets_of
from emomm_study.systems.interface import Query

NOTHING = "none"
RESTORED = (*MODALITIES, "TAV")
"""Modalities whose masses are given back, each alone and all of them."""
MOST = 2048.0
"""Nothing is raised or lowered by more; it shuts in any precision."""
LABELS = ["label_gt", *(f"label_{m.lower()}" for m in MODALITIES)]


class Adding:
    """Steering of C columns, and after it scores that are added by layer, head and modality.

    ``added`` is ``(B, C, H, 3)`` by layer, counted from 1; heads that steering leaves alone get it,
    too, and no steering.
    """

    scope: Scope = "decision"
    ahead = None

    def __init__(self, steerer: Steerer) -> None:
        self._steerer = steerer
        self.first_layer = steerer.first_layer
        self.added: dict[int, Tensor] = {}

    def __call__(self, view: LayerView) -> Bias | None:
        bias = self._steerer(view)
        if bias is None or (added := self.added.get(view.layer)) is None:
            return bias
        heads, boost = bias.heads, bias.boost
        modality = torch.where(heads[..., None], bias.modality, 0.0) + added.to(bias.modality)
        return replace(
            bias,
            heads=torch.ones_like(heads),
            modality=modality,
            scale=None if bias.scale is None else torch.where(heads, bias.scale, 1.0),
            boost=lambda mass: torch.where(heads, boost(mass), 0.0),
            most=None,
        )

    def check(self) -> None:
        """Raise what the gate said wrongly."""
        self._steerer.check()


def added_scores(found: Tensor, wanted: Tensor, restored: Tensor) -> Tensor:
    """What, added to the scores of modalities, gives some of them the mass that is wanted.

    Shapes ``(B, C, H, 3)``, masses in [0, 1]; ``restored`` ``(C, 3)`` bool says which. With r what is
    left beside those, a mass m becomes t by log t/m less log of the wanted r over the one found:
    tokens of a modality keep their proportions, and so does all that is left. Zero where nothing is
    restored, or there is no attention to begin with.
    """
    found, wanted = (x.to(exact(x.device)) for x in (found, wanted))
    marks = restored[:, None].to(found)
    left = [(1 - (x * marks).sum(-1, keepdim=True)).clamp(min=1e-12) for x in (wanted, found)]
    raised = (wanted / found).log() - (left[0] / left[1]).log()
    raised = raised.clamp(-MOST, MOST)
    return torch.where((marks > 0) & (found > 0), raised, 0.0)


@torch.no_grad()
def mediated(prompts: Prefill, gate: Gate, config: SteeringConfig) -> Replayed:
    """The decision token steered and unsteered, and each with masses of the other.

    Columns are steered, unsteered, and this pair for each of :data:`RESTORED`: the steered one with
    those modalities' masses as in the unsteered pass, and the other way round, in every head of every
    layer from l_r on. A layer's masses depend on all layers before it, so they are given back one
    layer after another: it costs a replay a layer. Visual tokens are marked by their attention.
    Raises like :func:`emomm_lib.replay`.
    """
    # No probability exceeds 1: columns that are not steered.
    pair = (gate, config), (gate, replace(config, tau=1.0))
    columns = [*pair] * (1 + len(RESTORED))
    importance = attention_importance(prompts.trace.mean_attention, prompts.modality_ids)
    adding = Adding(Steerer(prompts.model, columns, prompts.modality_ids, importance))

    def replayed() -> Replayed:
        return replay_decision(prompts, columns=len(columns), intervention=adding)

    done = replayed()
    steered, plain = done.mass[:, 0], done.mass[:, 1]
    wanted = torch.stack([steered, plain] + [plain, steered] * len(RESTORED), 1)
    marks = torch.tensor([[m in own for m in MODALITIES] for own in ("", *RESTORED)])
    marks = marks.repeat_interleave(2, 0).to(wanted.device)
    layers = done.mass.shape[2]
    for layer in range(adding.first_layer, layers + 1):
        found = done.mass[:, :, layer - 1]
        adding.added[layer] = added_scores(found, wanted[:, :, layer - 1], marks)
        done = replayed()
    return done


def mediation(
    bench: Experiment,
    clips: pd.DataFrame,
    config: SteeringConfig | None = None,
    *,
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """How much of what an oracle's steering does is carried by attention mass, modality by modality.

    The ``steered`` decision token is computed again with the masses of the unsteered one, and the
    ``unsteered`` with those of the steered one, in every layer from l_r on and every head
    (:func:`mediated`). Steering that moves nothing but masses
    (``beta`` 0) is carried by all three by construction; what it needs of each alone is not.

    Parameters
    ----------
    config
        The published one at the decoder's depth, with the preference as a share, when None. Visual
        tokens are marked by their attention.

    Returns ``subset, answer, restored, quantity, value, low, high, n, lost``. ``restored`` is the
    modality whose mass is the other pass's: ``none``, ``T``, ``A``, ``V`` or ``TAV``. ``quantity`` is
    ``changed``, the share of answers that differ from the unsteered one; ``like steered`` and ``like
    unsteered``, the share of the answers that steering changes which are as that pass's; or ``gain``,
    accuracy less the unsteered one. NaN, with ``n`` 0, where steering changes no answer. Answers are
    kept on disk. Raises ``ValueError`` where no clip could be asked, or for a scope of all queries.
    """
    model = bench.steerable("giving attention back")
    if config is None:
        config = SteeringConfig.at_published_depth(model.layers, preference="share")
    if config.scope != "decision":
        raise ValueError(
            f"attention is given back to the decision query; got scope {config.scope!r}"
        )
    by_name = clips.set_index("sample_id", drop=False)

    def logits(names: Sequence[str], queries: Sequence[Query], prompts: Prefill) -> Tensor:
        rows = by_name.loc[list(names)].reset_index(drop=True).assign(coalition="TAV")
        gate = Oracle().gate(Batch(rows, prompts.trace.counts > 0))
        return model.letter_logits(mediated(prompts, gate, config).hidden)

    made_of = [json.dumps(asdict(config)), clips[LABELS].to_csv(index=False)]
    said = answers_in_ways("mediation", bench, clips, made_of, logits)
    ways = [(answer, name) for name in (NOTHING, *RESTORED) for answer in ("steered", "unsteered")]
    rows = []
    for subset, own, truth, lost in subsets_of(clips, said):
        steered, plain = own[0], own[1]
        moved, right = steered != plain, own.eq(truth, axis=0).astype(float)
        measured = {
            "changed": own.ne(plain, axis=0).astype(float),
            "like steered": own.eq(steered, axis=0).astype(float)[moved].reindex(own.index),
            "like unsteered": own.eq(plain, axis=0).astype(float)[moved].reindex(own.index),
            "gain": right.sub(right[1], axis=0),
        }
        for quantity, values in measured.items():
            found = intervals_of(counted(values), means, bootstrap=bootstrap)
            n = int(values[0].notna().sum())
            rows += [
                (subset, *way, quantity, *row(interval, n), lost)
                for way, interval in zip(ways, found, strict=True)
            ]
    columns = ["subset", "answer", "restored", "quantity", "value", "low", "high", "n", "lost"]
    return pd.DataFrame(rows, columns=columns)
