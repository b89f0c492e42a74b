"""What follows from reading a modality: cut it in a window of layers, or restore its attention.

A knockout says whether an answer needs what some queries read of a modality in some layers; a
restoration gives a modality the attention that it has elsewhere, and says how much of an effect goes
with it. Both are exact changes of attention, made where the model makes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from emomm_lib.attention.record import Trace, record
from emomm_lib.attention.replay import Prefill, Replayed, replay_decision
from emomm_lib.attention.rows import Bias, LayerView, Scope, exact, wide
from emomm_lib.labels import MODALITIES

Queries = Literal["decision", "all"] | Tensor
SHUT = -2048.0
"""Added to a score, leaves nothing of it in any precision, and has room in half precision."""


@dataclass(frozen=True)
class Block:
    """Modalities that are not read from ``first_layer`` to ``last_layer``, both 1-based.

    ``modalities`` are letters of T, A, V, none of them for a pass that is left alone; the last
    layer is the decoder's when None.
    """

    modalities: str
    first_layer: int = 1
    last_layer: int | None = None


class Blocking:
    """An intervention of C blocks side by side; in a forward pass C is 1.

    ``queries`` are the decision query, all of them, or those that a bool ``(B, S)`` marks. Raises
    ``ValueError`` for unknown modalities, a window outside of the decoder, or other shapes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: Sequence[Block],
        modality_ids: Tensor,
        queries: Queries = "decision",
    ) -> None:
        text = model.get_decoder().config
        windows = [_window(text.num_hidden_layers, b.first_layer, b.last_layer) for b in blocks]
        for block in blocks:
            if unknown := set(block.modalities) - set(MODALITIES):
                raise ValueError(
                    f"modalities are letters of {''.join(MODALITIES)}; got {sorted(unknown)}"
                )
        self.scope: Scope = (
            "decision" if isinstance(queries, str) and queries == "decision" else "all"
        )
        self._queries = None
        if isinstance(queries, Tensor):
            if queries.dtype != torch.bool or queries.shape != modality_ids.shape:
                raise ValueError(
                    f"queries is bool {tuple(modality_ids.shape)}, a mark on each that is cut; got "
                    f"{queries.dtype} {tuple(queries.shape)}"
                )
            self._queries = queries
        elif queries not in ("decision", "all"):
            raise ValueError(f"queries is 'decision', 'all' or marks (B, S); got {queries!r}")
        self.first_layer = min((first for first, _ in windows), default=1)
        shut = [[SHUT * (m in b.modalities) for m in MODALITIES] for b in blocks]
        self._windows, self._shut = windows, torch.tensor(shut)
        self._shape = len(modality_ids), len(blocks), text.num_attention_heads

    def ahead(self, layer: int, like: Tensor) -> Bias | None:
        """What is done in a layer, counted from 1, whatever its decision query sees."""
        works = torch.tensor([first <= layer <= last for first, last in self._windows])
        works &= (self._shut != 0).any(-1)
        if not works.any():
            return None
        heads = works[:, None].expand(self._shape).to(like.device)
        shut = self._shut.to(like.device, wide(like.dtype))
        modality = shut[:, None].expand(*self._shape, -1)
        return Bias(heads, modality, queries=self._queries)

    def __call__(self, view: LayerView) -> Bias | None:
        return self.ahead(view.layer, view.mass)

    def check(self) -> None:
        """Nothing can be wrong with it."""


class Restoring:
    """An intervention that gives a modality a mass of the decision query's attention, head by head.

    All its scores are raised by one number, so that its tokens keep their proportions among
    themselves, and so do all others: of a mass m it makes t by log t/(1-t) - log m/(1-m). Where the
    modality has no attention there is nothing to raise. Parameters as for :func:`restore`.
    """

    scope: Scope = "decision"
    ahead = None

    def __init__(
        self,
        model: PreTrainedModel,
        modality: str,
        mass: Tensor,
        layers: tuple[int, int | None] = (1, None),
    ) -> None:
        text = model.get_decoder().config
        shape = text.num_hidden_layers, text.num_attention_heads
        if modality not in MODALITIES:
            raise ValueError(f"modality is one of {MODALITIES}; got {modality!r}")
        if mass.ndim != 3 or mass.shape[1:] != shape:
            raise ValueError(
                f"mass is (B, L, H) = (B, {shape[0]}, {shape[1]}); got {tuple(mass.shape)}"
            )
        if not bool(((mass >= 0) & (mass <= 1)).all()):
            raise ValueError("mass is a share of attention in 0..1; some is not")
        self.first_layer, self._last = _window(shape[0], *layers)
        self._own, self._wanted = MODALITIES.index(modality), mass

    def __call__(self, view: LayerView) -> Bias | None:
        if view.layer > self._last:
            return None
        found = view.mass[..., self._own].to(exact(view.mass.device))
        wanted = self._wanted[:, view.layer - 1].to(found)[:, None].expand_as(found)
        raised = (wanted.logit() - found.logit()).clamp(SHUT, -SHUT)
        raised = torch.where(found > 0, raised, 0.0)
        modality = torch.zeros_like(view.mass)
        modality[..., self._own] = raised.to(modality)
        return Bias(torch.ones_like(found, dtype=torch.bool), modality)

    def check(self) -> None:
        """Nothing can be wrong with it."""


def _window(depth: int, first: int, last: int | None) -> tuple[int, int]:
    last = depth if last is None else last
    if not 1 <= first <= last <= depth:
        raise ValueError(f"layers {first} to {last}: the decoder has layers 1 to {depth}")
    return first, last


@contextmanager
def block(
    model: PreTrainedModel,
    modality_ids: Tensor,
    modalities: str,
    *,
    layers: tuple[int, int | None] = (1, None),
    queries: Queries = "decision",
    states: bool = False,
    rows: bool = False,
) -> Iterator[Trace]:
    """Cut what queries read of some modalities in a window of layers, while the model runs a batch.

    >>> with block(model, ids, "V", layers=(4, None)) as trace:     # doctest: +SKIP
    ...     model(**inputs)

    Parameters
    ----------
    modalities
        Letters of T, A, V. What is cut is dealt out to all that a query still sees.
    layers
        First and last of them, counted from 1; None for the decoder's last.
    queries
        ``decision``: the last of the prompt. ``all``: every one, in the prompt and after it, the
        modality's own tokens among themselves as well. Or marks ``(B, S)`` of those of the prompt.
    modality_ids, states, rows
        As for :func:`emomm_lib.record`, whose trace this yields: attention as it was used.

    The prompt may be computed in cached pieces. Raises like ``record`` and :class:`Blocking`.
    """
    blocking = Blocking(model, [Block(modalities, *layers)], modality_ids, queries)
    with record(model, modality_ids, states=states, rows=rows, intervention=blocking) as trace:
        yield trace


def replay_blocked(prompts: Prefill, blocks: Sequence[Block], *, rows: bool = False) -> Replayed:
    """The decision query under C blocks at the cost of C tokens; equal to C passes in :func:`block`.

    For a sweep over windows and modalities. Raises like :class:`Blocking` and
    :func:`emomm_lib.replay_decision`.
    """
    blocking = Blocking(prompts.model, blocks, prompts.modality_ids)
    return replay_decision(prompts, columns=len(blocks), intervention=blocking, rows=rows)


@contextmanager
def restore(
    model: PreTrainedModel,
    modality_ids: Tensor,
    modality: str,
    mass: Tensor,
    *,
    layers: tuple[int, int | None] = (1, None),
    rows: bool = False,
) -> Iterator[Trace]:
    """Give a modality the decision query's attention that it had in another pass (mediation).

    Parameters
    ----------
    modality
        One of T, A, V.
    mass
        ``(B, L, H)`` the attention on all its tokens in each layer and head, in 0..1: that of
        another trace, ``trace.mass[..., m]``.
    modality_ids, layers, rows
        As for :func:`block`.

    Raises like ``record``, and ``ValueError`` for what is no mass or does not fit the model.
    """
    restoring = Restoring(model, modality, mass, layers)
    with record(model, modality_ids, states=False, rows=rows, intervention=restoring) as trace:
        yield trace
