"""Rows of attention as tensors: scores of decision queries, biases on them, what they bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Scope = Literal["decision", "all"]
OTHER = -1
"""Modality id of a position that belongs to no modality; T, A, V are 0, 1, 2."""


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
    """

    layer: int
    mass: Tensor
    counts: Tensor
    query_state: Tensor
    modality_states: Tensor
    embedded: Tensor

    @property
    def present(self) -> Tensor:
        """``(B, 3)`` bool: which modalities a prompt holds."""
        return self.counts > 0

    @property
    def nmas(self) -> Tensor:
        """``(B, C, H, 3)`` mean attention a token (Eq. 5), NaN where absent."""
        return nmas(self.mass, self.counts[:, None, None])

    def take(self, rows: Tensor) -> LayerView:
        """Of some prompts, chosen by a bool ``(B,)`` or by indices."""
        values = (getattr(self, field.name) for field in fields(self)[1:])
        return LayerView(self.layer, *(value[rows] for value in values))

    def columns(self, own: Tensor) -> LayerView:
        """Of some of the C columns."""
        return replace(self, mass=self.mass[:, own], query_state=self.query_state[:, own])


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
    """

    heads: Tensor
    modality: Tensor
    scale: Tensor | None = None
    significant: Tensor | None = None
    boost: Callable[[Tensor], Tensor] = torch.zeros_like


class Intervention(Protocol):
    """What decides, layer by layer, how attention is changed."""

    scope: Scope
    first_layer: int
    """Counted from 1; no earlier layer is shown to it."""

    def __call__(self, view: LayerView) -> Bias | None: ...


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
            scores = scores.masked_fill(~visible[:, :, None], -torch.inf)
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


def biased(
    scores: Tensor, attention: Tensor, bias: Bias, one_hot: Tensor, significant: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows of attention under a bias, and ``(B, H, C)`` where it moves any score (Eq. 14-15).

    ``scores`` and ``attention`` are ``(B, H, C, K)``, ``one_hot`` ``(B, K, 3)`` says which keys are
    T, A, V, ``significant`` ``(B, C, K)`` which are S_v. A row that nothing moved stays as it is.
    """
    scale, modality = bias.scale, bias.modality.transpose(1, 2)
    changed = scores if scale is None else scores * scale.transpose(1, 2)[..., None]
    changed = changed + modality @ one_hot[:, None].transpose(2, 3)
    there = (one_hot.amax(1) > 0)[:, None, None]
    moved = ((bias.modality != 0) & there).any(-1)
    if scale is not None:
        moved = moved | (scale != 1)
    if significant is not None:
        marked = significant[:, None].to(attention.dtype)
        boost = bias.boost((attention * marked).sum(-1).transpose(1, 2))
        changed = changed + boost.transpose(1, 2)[..., None] * marked
        moved = moved | ((boost != 0) & significant.any(-1, keepdim=True))
    moved = (moved & bias.heads).transpose(1, 2)
    return torch.where(moved[..., None], changed.softmax(-1), attention), moved


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
    by_modality = bias.modality[:, 0, :, None].expand(-1, -1, queries, -1)
    columns, marks = [by_modality], [one_hot]
    there = (one_hot.amax(1) > 0)[:, None]
    moved = ((bias.modality[:, 0] != 0) & there).any(-1)
    if significant is not None:
        indicator = significant[:, None, :, None].to(value.dtype)
        ones = indicator.expand(-1, groups, -1, value.shape[3]).contiguous()
        mass = kernel(query, key, ones, mask, scaling=scaling, **given)[0][..., 0]
        boost = bias.boost(mass.to(by_modality.dtype))
        columns.append(boost.transpose(1, 2)[..., None])
        marks.append(significant[..., None].to(one_hot.dtype))
        moved = moved | ((boost != 0).any(1) & significant.any(-1, keepdim=True))
    if bias.scale is not None:
        query = query * bias.scale[:, 0, :, None, None].to(query.dtype)
        moved = moved | (bias.scale[:, 0] != 1)
    exact = torch.cat(columns, -1) / scaling
    # What a narrow type rounds off a column, a second one adds.
    extra = exact.to(query.dtype)
    extra = torch.cat([extra, (exact - extra).to(query.dtype)], -1)
    marked = torch.cat([*marks, *marks], -1)[:, None].expand(-1, groups, -1, -1).to(key.dtype)
    # Kernels want sizes in steps of eight, and the same for values as for keys.
    width = -(-max(size + extra.shape[-1], value.shape[3]) // 8) * 8
    query, key, wider = (
        torch.nn.functional.pad(x, (0, width - x.shape[3]))
        for x in (torch.cat([query, extra], -1), torch.cat([key, marked], -1), value)
    )
    output = kernel(query, key, wider, mask, scaling=scaling, **given)[0]
    return output[..., : value.shape[3]], bias.heads[:, 0] & moved
