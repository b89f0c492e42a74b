"""Modalities kept apart in the first layers, so that a decoder learns to read them in later ones.

Trained freely, a decoder reads its evidence in layer 1. What is kept apart here is every look at a
modality's tokens from outside of that modality: by another's tokens, by the instruction, by the
decision token and the reply.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_utils import PreTrainedModel

from emomm_lib import OTHER
from emomm_lib.attention.hook import Call, watched

DEEPEST = 5
"""At most so many layers are kept apart in a step."""
SHALLOW = 3
"""In the first layers, so many, attention across is penalised."""


class Apart:
    """One step's rule, in a forward pass: layers that cannot look across, and what others do.

    Attributes
    ----------
    layers
        So many of the first layers are blocked.
    weighed
        Whether attention across is added up in the first ``SHALLOW`` layers.
    """

    def __init__(self, layers: int, weighed: bool) -> None:
        self.layers, self.weighed = layers, weighed
        self._across: Tensor | None = None
        self._sum: Tensor | None = None

    @classmethod
    def drawn(cls, blocked: float, weighed: bool, rng: np.random.Generator) -> Apart | None:
        """A step's rule: with probability ``blocked``, 1 to ``DEEPEST`` layers; None for none."""
        if blocked == 0 and not weighed:
            return None
        return cls(int(rng.integers(1, DEEPEST + 1)) if rng.random() < blocked else 0, weighed)

    @contextmanager
    def watching(self, model: PreTrainedModel, ids: Tensor) -> Iterator[None]:
        """While the model runs prompts whose tokens are of modalities ``ids`` ``(B, S)``."""
        self._ids, self._across, self._sum = ids, None, None
        with watched(model, lambda layers: self):
            yield

    def taken(self) -> Tensor:
        """Attention across, summed over layers and heads.

        A mean over the decision token and the reply, one over the instruction, one over tokens of
        modalities, so that few tokens do not hide among many; summed, so that no head hides.
        """
        if self._sum is None:
            raise RuntimeError("nothing was weighed; run the model inside watching()")
        return self._sum

    def enter(self, layer: int, hidden: Tensor, past: int) -> None:
        """Nothing is needed before a layer."""

    def leave(self) -> None:
        """Nothing is left to check."""

    def attend(self, layer: int, call: Call) -> tuple[Tensor, Tensor | None]:
        if layer < self.layers:
            kernel, given = call.kernel, call.given | {"is_causal": False}
            return kernel(call.query, call.key, call.value, self._mask(call), **given)
        if self.weighed and layer < SHALLOW:
            self._weigh(call)
        return call.output()

    def _look(self, call: Call) -> Tensor:
        """``(B, Q, K)``: whether a look is at a modality from outside of it."""
        if self._across is None:
            width = call.query.shape[2] - self._ids.shape[1]
            ids = functional.pad(self._ids, (0, width), value=OTHER)
            self._across = (ids[:, None] != OTHER) & (ids[:, None] != ids[:, :, None])
        return self._across

    def _mask(self, call: Call) -> Tensor:
        queries, keys = call.query.shape[2], call.key.shape[2]
        mask = call.mask
        if mask is None:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=call.query.device).tril()
            mask = mask[None, None]
        across = self._look(call)[:, None]
        if mask.dtype == torch.bool:
            return mask[..., :keys] & ~across
        return mask[..., :keys].masked_fill(across, torch.finfo(mask.dtype).min)

    def _weigh(self, call: Call) -> None:
        groups = call.query.shape[1] // call.key.shape[1]
        key = call.key.repeat_interleave(groups, 1)
        scaling = call.scaling or call.query.shape[-1] ** -0.5
        scores = call.query @ key.transpose(2, 3) * scaling
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        seen = causal if call.mask is None else call.mask[..., : key.shape[2]]
        if seen.dtype == torch.bool:
            scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        else:
            scores = scores + seen
        across = self._look(call)
        mass = (scores.softmax(-1) * across[:, None]).sum(-1).sum(1)
        width = self._ids.shape[1]
        ids = functional.pad(self._ids, (0, mass.shape[1] - width), value=OTHER)
        # Padding sees nothing, and no query before the first of a modality looks across.
        looks = (across & (causal if call.mask is None else self._visible(call))).any(-1)
        last = torch.arange(mass.shape[1], device=mass.device) >= width - 1
        own = [looks & last, looks & ~last & (ids == OTHER), looks & ~last & (ids != OTHER)]
        parts = [(mass * part).sum() / part.sum().clamp(min=1) for part in own]
        total = torch.stack(parts).sum()
        self._sum = total if self._sum is None else self._sum + total

    def _visible(self, call: Call) -> Tensor:
        seen = call.mask[:, 0, :, : call.key.shape[2]]
        return seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2
