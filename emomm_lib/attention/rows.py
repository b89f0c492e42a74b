"""Rows of attention as tensors: scores of decision queries, biases on them, what they bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Scope = Literal["decision", "all"]
OTHER = -1
"""Modality id of a position that belongs to no modality; T, A, V are 0, 1, 2."""


@dataclass(frozen=True)
class DecisionRow:
    """What one layer's decision query sees before anything is changed.

    C is 1 in a forward pass; in a replay, C queries of one prompt stand side by side.

    Attributes
    ----------
    layer
        Counted from 0.
    mass
        ``(B, H, C, 3)`` attention on all tokens of T, A, V.
    query_state
        ``(B, C, D)`` hidden state of the decision token that enters the layer.
    modality_states
        ``(B, 3, D)`` mean hidden states of T, A, V entering the layer, zero where absent.
    embedded
        ``(B, 3, D)`` the same entering the first layer, before modalities have mixed.
    """

    layer: int
    mass: Tensor
    query_state: Tensor
    modality_states: Tensor
    embedded: Tensor


@dataclass(frozen=True)
class Bias:
    """What to do to attention scores in one layer (Eq. 15); C as in :class:`DecisionRow`.

    Attributes
    ----------
    heads
        ``(B, H, C)`` bool: the heads concerned. All others keep their attention exactly.
    modality
        ``(B, H, C, 3)`` added to the scores of keys of T, A, V.
    scale
        ``(B, H, C)`` factor on the scores before anything is added, or None.
    significant
        ``(B, C, S)`` bool over the prompt's positions: S_v, or None.
    boost
        Maps the attention ``(B, H, C or Q)`` that queries pay to S_v to what is added to their
        scores of it.
    """

    heads: Tensor
    modality: Tensor
    scale: Tensor | None = None
    significant: Tensor | None = None
    boost: Callable[[Tensor], Tensor] | None = None


class Intervention(Protocol):
    """What decides, layer by layer, how attention is changed."""

    scope: Scope
    first_layer: int
    """Counted from 0; no row of an earlier layer is shown to it."""

    def __call__(self, row: DecisionRow) -> Bias | None: ...


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
    changed = scores if bias.scale is None else scores * bias.scale[..., None]
    changed = changed + bias.modality @ one_hot[:, None].transpose(2, 3)
    there = (one_hot.amax(1) > 0)[:, None, None]
    moved = ((bias.modality != 0) & there).any(-1)
    if bias.scale is not None:
        moved = moved | (bias.scale != 1)
    if significant is not None:
        marked = significant[:, None].to(attention.dtype)
        boost = bias.boost((attention * marked).sum(-1))
        changed = changed + boost[..., None] * marked
        moved = moved | ((boost != 0) & significant.any(-1)[:, None])
    moved = moved & bias.heads
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
    **given,
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
    by_modality = bias.modality.expand(-1, -1, queries, -1)
    columns, marks = [by_modality], [one_hot]
    there = (one_hot.amax(1) > 0)[:, None, None]
    moved = ((bias.modality != 0) & there).any(-1)[..., 0]
    if significant is not None:
        indicator = significant[:, None, :, None].to(value.dtype)
        ones = indicator.expand(-1, groups, -1, value.shape[3]).contiguous()
        mass = kernel(query, key, ones, mask, scaling=scaling, **given)[0][..., 0].transpose(1, 2)
        boost = bias.boost(mass.to(by_modality.dtype))
        columns.append(boost[..., None])
        marks.append(significant[..., None].to(one_hot.dtype))
        moved = moved | ((boost != 0).any(-1) & significant.any(-1, keepdim=True))
    if bias.scale is not None:
        query = query * bias.scale[..., None].to(query.dtype)
        moved = moved | (bias.scale != 1)[..., 0]
    exact = torch.cat(columns, -1) / scaling
    # What a narrow type rounds off a column, a second one adds.
    extra = exact.to(query.dtype)
    extra = torch.cat([extra, (exact - extra).to(query.dtype)], -1)
    marks = torch.cat([*marks, *marks], -1)[:, None].expand(-1, groups, -1, -1).to(key.dtype)
    # Kernels want sizes in steps of eight, and the same for values as for keys.
    width = -(-max(size + extra.shape[-1], value.shape[3]) // 8) * 8
    query, key, wider = (
        torch.nn.functional.pad(x, (0, width - x.shape[3]))
        for x in (torch.cat([query, extra], -1), torch.cat([key, marks], -1), value)
    )
    output = kernel(query, key, wider, mask, scaling=scaling, **given)[0]
    return output[..., : value.shape[3]], bias.heads[..., 0] & moved
