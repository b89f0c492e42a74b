"""One prompt under many steerings: what a card, a heat map or a slider shows of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from emomm_lib import Decisions, prefill, replay
from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.gates import Gate
from emomm_lib.chase.saliency import gradient_importance
from emomm_lib.labels import MODALITIES
from emomm_lib.metrics.nmas import layer_budget
from emomm_study.systems.interface import Query, Steerable


@dataclass(frozen=True)
class Look:
    """What the model does with one prompt, steered in one way or not at all.

    Attributes
    ----------
    letters
        ``(5,)`` probabilities of A..E among themselves.
    share
        ``(L, 3)`` the attention budget that Tables 7 and 8 print
        (:func:`emomm_lib.metrics.nmas.layer_budget`), zero for absent modalities.
    mass
        ``(L, H, 3)`` attention on all tokens of T, A, V.
    rows
        ``(L, H, S)`` attention of the decision query on every position.
    conflict, gate, heads
        ``(L,)`` p, ``(L, 3)`` g and ``(L, H)`` the steered heads; None for the unsteered model,
        NaN in layers before l_r.
    """

    letters: np.ndarray
    share: np.ndarray
    mass: np.ndarray
    rows: np.ndarray
    conflict: np.ndarray | None = None
    gate: np.ndarray | None = None
    heads: np.ndarray | None = None

    @property
    def label(self) -> int:
        """The class it answers, 0..4."""
        return int(self.letters.argmax())


class Inspection:
    """A prompt computed once; every further look costs one decision token.

    Raises ``FloatingPointError`` where the model's logits are not finite, here or in a later look.

    Attributes
    ----------
    counts
        ``(3,)`` tokens of T, A, V.
    grid
        ``(t, h, w)`` of the video's tokens, None without video.
    """

    def __init__(self, model: Steerable, query: Query) -> None:
        self.model, self.query = model, query
        self._prompt = model.prepare([query])
        names = "inputs_embeds", "attention_mask", "position_ids"
        inputs = {name: getattr(self._prompt, name) for name in names}
        self._prefill = prefill(model.model, inputs, self._prompt.modality_ids, rows=True)
        self.counts = self._prefill.trace.counts[0].cpu().numpy()
        self.grid = None
        if "V" in query.coalition:
            self.grid = model.video_grid(query.clip.grid)
        self._letters(self._prefill.hidden)

    @property
    def modality_ids(self) -> np.ndarray:
        """``(S,)`` modality of every position, -1 for none."""
        return self._prefill.modality_ids[0].cpu().numpy()

    @property
    def layers(self) -> int:
        """L."""
        return self._prefill.trace.mass.shape[1]

    @property
    def heads(self) -> int:
        """H."""
        return self._prefill.trace.mass.shape[2]

    @cached_property
    def unsteered(self) -> Look:
        """The plain model."""
        trace = self._prefill.trace
        return self._look(self._prefill.hidden[0], trace.mass[0], trace.rows[0])

    @cached_property
    def importance(self) -> Tensor:
        """``(1, S)`` gradient x input on visual tokens (Eq. 24), one forward and backward pass."""
        p = self._prompt
        return gradient_importance(
            self.model.model,
            p.inputs_embeds,
            p.attention_mask,
            p.position_ids,
            p.modality_ids,
            self.model.letter_weights,
        )

    @torch.no_grad()
    def steered(self, columns: Sequence[tuple[Gate, SteeringConfig]]) -> list[Look]:
        """The prompt under each gate and configuration (scope ``decision``), side by side."""
        wanted = any(config.beta > 0 for _, config in columns)
        done, decided = replay(
            self._prefill, columns, importance=self.importance if wanted else None, rows=True
        )
        return [
            self._look(done.hidden[0, c], done.mass[0, c], done.rows[0, c], decided, c)
            for c in range(len(columns))
        ]

    def on_video(self, values: np.ndarray) -> np.ndarray:
        """Of numbers by position ``(..., S)`` those of video tokens, ``(..., t, h, w)``.

        NaN for tokens that were dropped. Raises ``ValueError`` for a prompt without video.
        """
        if self.grid is None:
            raise ValueError(f"the prompt {self.query.coalition} has no video")
        visual = self.modality_ids == MODALITIES.index("V")
        kept = self.query.clip.kept
        there = slice(None) if kept is None else kept.cpu().numpy()
        found = np.full((*values.shape[:-1], math.prod(self.grid)), np.nan)
        found[..., there] = values[..., visual]
        return found.reshape(*values.shape[:-1], *self.grid)

    def _look(
        self,
        hidden: Tensor,
        mass: Tensor,
        rows: Tensor,
        decided: Decisions | None = None,
        column: int = 0,
    ) -> Look:
        letters = self._letters(hidden)
        mass, rows = (x.double().cpu().numpy() for x in (mass, rows))
        share = np.nan_to_num(layer_budget(mass, self.counts))
        routed = ()
        if decided is not None:
            routed = (decided.conflict, decided.gate, decided.heads)
            routed = (x[0, column].cpu().numpy() for x in routed)
        return Look(letters, share, mass, rows, *routed)

    def _letters(self, hidden: Tensor) -> np.ndarray:
        logits = self.model.letter_logits(hidden).double()
        if not logits.isfinite().all():
            raise FloatingPointError("the model's logits of A..E are not finite")
        return logits.softmax(-1).cpu().numpy()
