"""Rows of attention as tensors: scores of decision queries, biases on them, what they bring."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

Scope = Literal["decision", "all"]
OTHER = -1
"""Modality id of a position that belongs to no modality; T, A, V are 0, 1, 2."""
SINGLE_ONLY = frozenset({"mps"})
"""Kinds of devices that have no double precision."""
Made = TypeVar("Made")


def exact(device: torch.device) -> torch.dtype:
    """The precision in which heads are told apart: double, where a device has it."""
    return torch.float32 if device.type in SINGLE_ONLY else torch.float64


@dataclass(frozen=True)
class LayerView:
    """What one layer's decision query sees before anything is changed (Sec. 5.1).

    C is 1 in a forward pass; in a replay, C queries of one prompt stand side by side.

    Attributes
    ----------
    layer
        Counted from 1.
    mass
        ``(B, C, H, 3)`` attention on all tokens of T, A, V.
    counts
        ``(B, 3)`` number of those tokens.
    query_state
        ``(B, C, D)`` h_q, the decision token's hidden state as the layer receives it.
    modality_states
        ``(B, 3, D)`` h_T, h_A, h_V, means over tokens entering the layer, zero where absent.
    embedded
        ``(B, 3, D)`` the same entering the first layer, before modalities have mixed.
    known, worked_out
        What was made of the prompts alone for all layers of a pass, and in this one: :meth:`once`,
        :meth:`here`.
    """

    layer: int
    mass: Tensor
    counts: Tensor
    query_state: Tensor
    modality_states: Tensor
    embedded: Tensor
    known: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    worked_out: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def once(self, name: Hashable, make: Callable[[], Made]) -> Made:
        """What ``make`` makes, made in the first layer of a pass that asks for it."""
        if name not in self.known:
            self.known[name] = make()
        return self.known[name]

    def here(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """``(B, C, ...)`` as ``make`` makes it, made when this layer is first asked for it."""
        if name not in self.worked_out:
            self.worked_out[name] = make()
        return self.worked_out[name]

    @property
    def present(self) -> Tensor:
        """``(B, 3)`` bool: which modalities a prompt holds."""
        return self.once("present", lambda: self.counts > 0)

    @property
    def some(self) -> Tensor:
        """``(B, 1)`` bool: whether it holds any."""
        return self.once("some", lambda: self.present.any(-1, keepdim=True))

    def without_none(self, shares: Tensor) -> Tensor:
        """Shares of modalities ``(B, ..., 3)``, 0 in a prompt that holds none."""
        if self.known.get("all hold some"):
            return shares
        return shares * self.some.to(shares).view(-1, *[1] * (shares.ndim - 1))

    @property
    def tokens(self) -> Tensor:
        """``(B, 1, 1, 3)`` number of tokens, at least 1, in the precision that heads need."""
        dtype = exact(self.mass.device)
        return self.once("tokens", lambda: self.counts.clamp(min=1).to(dtype)[:, None, None])

    @property
    def shut(self) -> Tensor:
        """``(B, 1, 1, 3)`` to be added before a softmax: minus infinity shuts what is absent out.

        0 where none is present, or there would be nothing left.
        """

        def make() -> Tensor:
            shut = (self.some & ~self.present)[:, None, None]
            return torch.zeros_like(self.tokens).masked_fill(shut, -torch.inf)

        return self.once("shut", make)

    @property
    def nmas(self) -> Tensor:
        """``(B, C, H, 3)`` mean attention a token (Eq. 5), NaN where absent."""
        return (self.mass / self.tokens).masked_fill(~self.present[:, None, None], torch.nan)

    def take(self, rows: Tensor | slice, known: dict[Hashable, Any] | None = None) -> LayerView:
        """Of some prompts, chosen by a slice, a bool ``(B,)`` or indices.

        ``known`` is what earlier layers of the pass made of the same prompts, if it was kept.
        """
        names = "mass", "counts", "query_state", "modality_states", "embedded"
        own: dict[str, Any] = {name: getattr(self, name)[rows] for name in names}
        made = {name: values[rows] for name, values in self.worked_out.items()}
        return replace(self, **own, known={} if known is None else known, worked_out=made)

    def columns(self, own: Tensor | slice) -> LayerView:
        """Of some of the C columns."""
        made = {name: values[:, own] for name, values in self.worked_out.items()}
        mass, query = self.mass[:, own], self.query_state[:, own]
        return replace(self, mass=mass, query_state=query, worked_out=made)


@cache
def _number(value: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """It on a device, brought there once."""
    with torch.inference_mode(False):
        return torch.full((), value, dtype=dtype, device=device)


def nmas(mass: Tensor, counts: Tensor) -> Tensor:
    """Eq. 5: attention ``(..., 3)`` over the number of its tokens, NaN where there are none.

    ``counts`` are broadcastable to ``mass``; the result has the precision of ``mass``.
    """
    counts = counts.to(mass)
    return torch.where(counts > 0, mass / counts.clamp(min=1), torch.nan)


@dataclass(frozen=True)
class Bias:
    """What to do to attention scores in one layer (Eq. 15); C as in :class:`LayerView`.

    Attributes
    ----------
    heads
        ``(B, C, H)`` bool: the heads concerned. All others keep their attention exactly.
    modality
        ``(B, C, H, 3)`` added to the scores of keys of T, A, V.
    scale
        ``(B, C, H)`` factor on the scores before anything is added, or None.
    significant
        ``(B, C, S)`` bool over the prompt's positions: S_v, or None.
    boost
        Maps the attention ``(B, C or Q, H)`` that queries pay to S_v to what is added to their
        scores of it.
    most
        No more heads of a prompt are concerned than this; all may be when None.
    queries
        ``(B, S)`` bool over the prompt: whose scores, with scope ``all``; everyone's, and of those
        that follow the prompt, when None.
    """

    heads: Tensor
    modality: Tensor
    scale: Tensor | None = None
    significant: Tensor | None = None
    boost: Callable[[Tensor], Tensor] = torch.zeros_like
    most: int | None = None
    queries: Tensor | None = None


class Intervention(Protocol):
    """What decides, layer by layer, how attention is changed."""

    scope: Scope
    first_layer: int
    """Counted from 1; no earlier layer is shown to it."""

    @property
    def ahead(self) -> Callable[[int, Tensor], Bias | None] | None:
        """What it does in a layer, counted from 1, whatever it would see; None if it must look.

        The tensor is one of the layer's, whose device and precision it takes.
        """

    def __call__(self, view: LayerView) -> Bias | None: ...

    def check(self) -> None:
        """Raise what was wrong in a pass, once all of its layers have run."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision to compute in: float32 for anything narrower."""
    return torch.promote_types(dtype, torch.float32)


def _grouped(rows: Tensor, groups: int) -> Tensor:
    """``(B, H, C, n)`` as ``(B, H_kv, H/H_kv C, n)``: the heads that share a key, side by side."""
    batch, heads, columns, size = rows.shape
    return rows.reshape(batch, groups, heads // groups * columns, size)


def decision_scores(
    query: Tensor,
    key: Tensor,
    visible: Tensor | None,
    scaling: float | None,
    own_key: Tensor | None = None,
) -> Tensor:
    """Scores ``(B, H, C, K)`` of C queries a sample over the same keys, at least in float32.

    ``query`` is ``(B, H, C, d)``, ``key`` ``(B, H_kv, K, d)`` with H a multiple of H_kv, both
    rotated; ``visible`` ``(B or 1, H or 1, K)`` is bool or additive; ``scaling`` is 1/sqrt(d) when
    None. With ``own_key`` ``(B, H_kv, C, d)`` each query also sees the key of its own position, in
    a last column K + 1. Costs O(H C K d); keys are not repeated over heads.
    """
    batch, heads, columns, size = query.shape
    groups = key.shape[1]
    query = query.to(wide(query.dtype)) * (size**-0.5 if scaling is None else scaling)
    key = key.to(query.dtype)
    scores = _grouped(query, groups) @ key.transpose(2, 3)
    scores = scores.view(batch, heads, columns, -1)
    if visible is not None:
        if visible.dtype == torch.bool:
            hidden = _number(-torch.inf, scores.device, scores.dtype)
            scores = torch.where(visible[:, :, None], scores, hidden)
        else:
            scores = scores + visible[:, :, None]
    if own_key is None:
        return scores
    own = own_key.to(query.dtype).repeat_interleave(heads // groups, 1)
    return torch.cat([scores, (query * own).sum(-1, keepdim=True)], -1)


def brought(attention: Tensor, value: Tensor, own_value: Tensor | None = None) -> Tensor:
    """``(B, H, C, d)``: values ``(B, H_kv, K, d)`` weighted by rows of attention.

    ``own_value`` ``(B, H_kv, C, d)`` belongs to a last column, as in :func:`decision_scores`.
    """
    batch, heads, columns, keys = attention.shape
    groups = value.shape[1]
    shared = attention if own_value is None else attention[..., : keys - 1]
    result = _grouped(shared, groups) @ value.to(attention.dtype)
    result = result.view(batch, heads, columns, -1)
    if own_value is None:
        return result
    own = own_value.to(attention.dtype).repeat_interleave(heads // groups, 1)
    return result + attention[..., -1:] * own


def mass_on(attention: Tensor, one_hot: Tensor) -> Tensor:
    """Attention ``(B, H, C, K)`` on all keys of each modality ``(B, K, 3)``: ``(B, H, C, 3)``."""
    return torch.bmm(attention.flatten(1, 2), one_hot).view(*attention.shape[:3], -1)


def biased(
    scores: Tensor, attention: Tensor, bias: Bias, one_hot: Tensor, significant: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows of attention under a bias, and ``(B, H, C)`` where it moves any score (Eq. 14-15).

    ``scores`` and ``attention``, their softmax, are ``(B, H, C, K)``, ``one_hot`` ``(B, K, 3)`` says
    which keys are T, A, V, ``significant`` ``(B, C, K)`` which are S_v. A row that nothing moved stays
    as it is.
    """
    scaled = scores if bias.scale is None else scores * bias.scale.transpose(1, 2)[..., None]
    modality = bias.modality.transpose(1, 2).flatten(1, 2)
    changed = torch.baddbmm(scaled.flatten(1, 2), modality, one_hot.transpose(1, 2))
    changed = changed.view_as(scores)
    if significant is not None:
        marked = significant[:, None].to(attention.dtype)
        boost = bias.boost((attention * marked).sum(-1).transpose(1, 2)).transpose(1, 2)
        changed = torch.addcmul(changed, boost[..., None], marked)
    changed = torch.where(bias.heads.transpose(1, 2)[..., None], changed, scores)
    return changed.softmax(-1), (changed != scores).any(-1)


def biased_kernel(
    kernel: Callable[..., tuple],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Bias,
    one_hot: Tensor,
    significant: Tensor | None,
    *,
    scaling: float | None,
    **given: Any,
) -> tuple[Tensor, Tensor]:
    """Every query's attention under one bias a sample and head, in the model's own fast kernel.

    A bias by key's modality is a dot product: its values join the queries as columns, the one-hot
    modalities join the keys. How much each query attends to S_v, which Eq. 14 asks of every query,
    is the kernel's own output for values that are 1 there.

    Shapes as an attention function has them, ``bias`` with C = 1, ``one_hot`` ``(B, K, 3)`` and
    ``significant`` ``(B, K)``. Returns the kernel's output ``(B, Q, H, d)`` and ``(B, H)``, where
    anything was moved.
    """
    queries, size = query.shape[2:]
    scaling = size**-0.5 if scaling is None else scaling
    groups = key.shape[1]
    columns = [bias.modality[:, 0, :, None].expand(-1, -1, queries, -1)]
    marks = [one_hot]
    if significant is not None:
        marked = significant[..., None].to(one_hot.dtype)
        ones = marked[:, None].to(value.dtype).expand(-1, groups, -1, value.shape[3]).contiguous()
        mass = kernel(query, key, ones, mask, scaling=scaling, **given)[0][..., 0]
        boost = bias.boost(mass.to(bias.modality.dtype))
        columns.append(boost.transpose(1, 2)[..., None])
        marks.append(marked)
    added, marked = torch.cat(columns, -1), torch.cat(marks, -1)
    # Nothing moves towards what no key is of, and without S_v every query would be lifted to it.
    there = (marked.amax(1) > 0)[:, None, None]
    moved = ((added != 0) & there).flatten(2).any(-1)
    if bias.scale is not None:
        query = query * bias.scale[:, 0, :, None, None].to(query.dtype)
        moved = moved | (bias.scale[:, 0] != 1)
    exactly = added / scaling
    extra = exactly.to(query.dtype)
    if extra.dtype != exactly.dtype:
        # What a narrow type rounds off a column, a second one adds.
        extra = torch.cat([extra, (exactly - extra).to(query.dtype)], -1)
        marked = torch.cat([marked, marked], -1)
    marking = marked[:, None].expand(-1, groups, -1, -1).to(key.dtype)
    # Kernels want sizes in steps of eight, and the same for values as for keys.
    width = -(-max(size + extra.shape[-1], value.shape[3]) // 8) * 8
    query, key, wider = (_widened(x, width) for x in ((query, extra), (key, marking), (value,)))
    output = kernel(query, key, wider, mask, scaling=scaling, **given)[0]
    return output[..., : value.shape[3]], bias.heads[:, 0] & moved


def _widened(parts: tuple[Tensor, ...], width: int) -> Tensor:
    """Parts side by side, with zeros up to a width, in one copy."""
    missing = width - sum(part.shape[-1] for part in parts)
    zero = _number(0.0, parts[0].device, parts[0].dtype)
    return torch.cat([*parts, zero.expand(*parts[0].shape[:-1], missing)], -1)
