"""What an answer hangs on: reading that is cut, of a modality, by some queries, from a layer on.

Attention is cut exactly where the model makes it (:func:`emomm_lib.block`). It needs no training and no
second model, and any decoder that the hook takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from emomm_lib import OTHER, Block, Bootstrap, Prefill, block, intervals_of, replay_blocked
from emomm_lib.labels import MODALITIES
from emomm_lib.metrics.bootstrap import DEFAULT, counted, means
from emomm_lib.metrics.outcomes import row
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.streamed import answers_in_ways, subsets_of
from emomm_study.systems.interface import Query, Steerable


@dataclass(frozen=True)
class Cut:
    """Reading of some modalities that is cut.

    Attributes
    ----------
    queries
        Whose: of the ``decision`` query alone, or of the ``instruction``, all tokens that are no
        modality's but the decision token.
    modalities
        Letters of T, A, V.
    first_layer
        From which layer on, counted from 1; in all of them when None.
    """

    queries: Literal["decision", "instruction"]
    modalities: str
    first_layer: int | None = None

    @property
    def name(self) -> str:
        return f"{self.queries}, {self.modalities}"


def cuts(layers: int) -> list[Cut]:
    """Of a decoder's depth: the decision query's from each layer on and by modality, and the others'."""
    return [
        *(Cut("decision", "TAV", k) for k in range(1, layers + 1)),
        *(Cut("decision", m) for m in MODALITIES),
        Cut("instruction", "TAV"),
    ]


@torch.inference_mode()
def cut_logits(
    model: Steerable, queries: Sequence[Query], prompts: Prefill, asked: Sequence[Cut]
) -> Tensor:
    """Logits of A..E ``(B, C, 5)`` under each of C cuts.

    ``prompts`` are those of ``queries``, prefilled. Cuts of the decision query cost one token each,
    one of the instruction a whole prompt.
    """
    blocks = [Block(c.modalities, c.first_layer or 1) for c in asked if c.queries == "decision"]
    replayed = iter(replay_blocked(prompts, blocks).hidden.unbind(1) if blocks else ())
    hidden = [
        next(replayed) if cut.queries == "decision" else _instruction_cut(model, queries, cut)
        for cut in asked
    ]
    return model.letter_logits(torch.stack(hidden, 1))


def _instruction_cut(model: Steerable, queries: Sequence[Query], cut: Cut) -> Tensor:
    prompt = model.prepare(queries)
    marks = (prompt.modality_ids == OTHER) & (prompt.attention_mask > 0)
    marks[:, -1] = False
    window = cut.first_layer or 1, None
    with block(model.model, prompt.modality_ids, cut.modalities, layers=window, queries=marks):
        return model.decoder(
            inputs_embeds=prompt.inputs_embeds,
            attention_mask=prompt.attention_mask,
            position_ids=prompt.position_ids,
            use_cache=False,
        ).last_hidden_state[:, -1]


def knockouts(
    bench: Experiment, clips: pd.DataFrame, *, bootstrap: Bootstrap = DEFAULT
) -> pd.DataFrame:
    """What of the answers to whole clips goes with reading that is cut (:func:`cuts`).

    Returns ``subset, cut, first_layer, quantity, value, low, high, n, lost``, means over clips with
    95% intervals. ``cut`` is whose reading of what (``decision, TAV``), ``first_layer`` from where
    on, missing for all layers. ``quantity`` is ``changed``, the share of answers that another class
    takes the place of, or ``accuracy``, the change in five-class accuracy. ``lost`` clips of the
    subset could not be read or asked. Answers are kept on disk. Raises ``ValueError`` where no clip
    could be asked.
    """
    model = bench.steerable("cutting what it reads")
    asked = cuts(model.layers)

    def logits(names: Sequence[str], queries: Sequence[Query], prompts: Prefill) -> Tensor:
        plain = model.letter_logits(prompts.hidden)[:, None]
        return torch.cat([plain, cut_logits(model, queries, prompts, asked)], 1)

    rows = []
    said = answers_in_ways("knockouts", bench, clips, [], logits)
    for subset, own, truth, lost in subsets_of(clips, said):
        right = own.eq(truth, axis=0).astype(float)
        measured = {"changed": own.ne(own[0], axis=0), "accuracy": right.sub(right[0], axis=0)}
        for quantity, values in measured.items():
            found = intervals_of(counted(values.iloc[:, 1:]), means, bootstrap=bootstrap)
            rows += [
                (subset, cut.name, cut.first_layer, quantity, *row(interval), lost)
                for cut, interval in zip(asked, found, strict=True)
            ]
    columns = ["subset", "cut", "first_layer", "quantity", "value", "low", "high", "n", "lost"]
    return pd.DataFrame(rows, columns=columns).astype({"first_layer": "Int64"})
