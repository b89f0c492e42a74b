"""What the decision query sees in a forward pass, and that query or all of them steered."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from emomm_lib.attention.hook import Call, watched
from emomm_lib.attention.rows import (
    OTHER,
    Bias,
    Intervention,
    LayerView,
    biased,
    biased_kernel,
    brought,
    decision_scores,
    exact,
    mass_on,
    nmas,
    wide,
)
from emomm_lib.labels import MODALITIES


def mark_modalities(
    input_ids: Tensor, placeholders: Mapping[str, int], text: Tensor | None = None
) -> Tensor:
    """Modality of every position, from a processor's placeholder tokens.

    Parameters
    ----------
    input_ids
        ``(B, S)`` token ids, placeholders repeated once a token of audio or video.
    placeholders
        Token id by modality: ``{"A": audio_token_id, "V": video_token_id}``.
    text
        ``(B, S)`` bool, the tokens that count as T; none when absent.

    Returns ``(B, S)`` int64 of :data:`OTHER` or an index into ``MODALITIES``.
    """
    ids = torch.full_like(input_ids, OTHER)
    if text is not None:
        ids[text] = MODALITIES.index("T")
    for modality, token in placeholders.items():
        ids[input_ids == token] = MODALITIES.index(modality)
    return ids


class Trace:
    """What the decision query saw in each of L layers and H heads, for B prompts of S positions.

    Filled by the forward pass, or passes, that run inside :func:`record`; complete when it ends.

    Attributes
    ----------
    counts
        ``(B, 3)`` number of tokens of T, A, V (|K_m| of Eq. 5).
    all_hold_some
        Whether no prompt is without any.
    """

    def __init__(
        self,
        ids: Tensor,
        layers: int,
        states: bool,
        rows: bool,
        intervention: Intervention | None = None,
        earlier: tuple[Trace, Sequence[int] | Tensor] | None = None,
    ) -> None:
        if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(
                f"modality_ids is an integer tensor (batch, positions); got {ids.dtype} of shape "
                f"{tuple(ids.shape)}"
            )
        self._ids = ids
        self._one_hot = ids[..., None] == torch.arange(len(MODALITIES), device=ids.device)
        self.counts = self._one_hot.sum(1)
        fewest = self.counts.sum(1).min()
        low, high, fewest = torch.stack([ids.min(), ids.max(), fewest]).tolist()
        if low < OTHER or high >= len(MODALITIES):
            raise ValueError(
                f"modality_ids holds {OTHER} (none) or 0..2 for {MODALITIES}; got values from "
                f"{low} to {high}"
            )
        self.all_hold_some = fewest > 0
        self._places = torch.arange(len(ids), device=ids.device)[:, None]
        self._states, self._keep_rows = states, rows
        self._intervention = intervention
        acts_from = layers if intervention is None else intervention.first_layer - 1
        self._looks = intervention is not None and intervention.ahead is None
        self._pool_from = 0 if states else acts_from if self._looks else layers
        self._acts_from = acts_from
        self._kept: dict[int, Bias] = {}
        self._layers = layers
        self._span: dict[int, tuple[int, int]] = {}
        self._computed = [0] * layers
        self._start = 0
        self._mass: dict[int, Tensor] = {}
        self._rows: dict[int, Tensor] = {}
        self._shown: dict[int, tuple[int, Tensor]] = {}
        self._query: dict[int, Tensor] = {}
        self._sums: dict[int, Tensor] = {}
        self._known: dict[Hashable, Any] = {}
        self._unseen: Tensor | None = None
        if earlier is not None:
            before, chosen = earlier
            self._computed, self._start = list(before._computed), before._start
            self._sums = {layer: sums[chosen] for layer, sums in before._sums.items()}

    @property
    def mass(self) -> Tensor:
        """``(B, L, H, 3)`` attention on all tokens of T, A, V; with the rest it sums to 1.

        It is what the model used: under an intervention, the changed one.
        """
        return self._stacked(self._mass)

    @property
    def nmas(self) -> Tensor:
        """``(B, L, H, 3)`` mean attention a token of T, A, V (Eq. 5); NaN where it is absent."""
        return nmas(self.mass, self.counts[:, None, None])

    @property
    def mean_attention(self) -> Tensor:
        """``(B, S)`` attention on every position, averaged over layers and heads, in float64.

        In float32 on a device without double precision.
        """
        self._stacked(self._mass)
        device = self._ids.device
        total = torch.zeros(self._ids.shape, dtype=exact(device), device=device)
        for first, shown in self._shown.values():
            total[:, first : first + shown.shape[1]] += shown.to(device)
        return total / self._layers

    @property
    def query_state(self) -> Tensor:
        """``(B, L, D)`` hidden state of the decision token that enters each layer (Sec. 5.1)."""
        self._require(self._states, "states")
        return self._stacked(self._query)

    @property
    def modality_states(self) -> Tensor:
        """``(B, L, 3, D)`` mean hidden state of T, A, V entering each layer; zero where absent.

        Raises ``RuntimeError`` when tokens of a modality were in a cache made outside.
        """
        self._require(self._states, "states")
        self._check_seen()
        sums = self._stacked(self._sums)
        return sums / self.counts.to(sums).clamp(min=1)[:, None, :, None]

    @property
    def rows(self) -> Tensor:
        """``(B, L, H, S)`` attention on every position of the prompt."""
        self._require(self._keep_rows, "rows")
        return self._stacked(self._rows)[..., : self._ids.shape[1]]

    def _check_seen(self) -> None:
        if self._start and bool(self._one_hot[:, : self._start].any()):
            raise RuntimeError(
                f"the first {self._start} positions came from a cache made outside of record(), so "
                "their hidden states were not seen; prefill inside, or pass states=False"
            )

    def _require(self, kept: bool, name: str) -> None:
        if not kept:
            raise RuntimeError(f"not recorded; pass {name}=True to record()")

    def _stacked(self, by_layer: dict[int, Tensor]) -> Tensor:
        missing = [layer + 1 for layer in range(self._layers) if layer not in by_layer]
        if missing:
            raise RuntimeError(
                f"the decision query, position {self._ids.shape[1]} of the prompt, was not "
                f"computed in decoder layers {missing}; run the model inside record() with the "
                "whole prompt"
            )
        device = by_layer[0].device
        return torch.stack([by_layer[i].to(device) for i in range(self._layers)], dim=1)

    def enter(self, layer: int, hidden: Tensor, past: int) -> None:
        """Note which positions a layer is about to compute, and pool their states."""
        batch, positions = self._ids.shape
        if hidden.shape[0] != batch:
            raise RuntimeError(
                f"modality_ids has {batch} rows and the model runs {hidden.shape[0]}; beams and "
                "several return sequences are not supported"
            )
        span = self._span[layer] = (past, hidden.shape[1])
        if span != self._span[0]:
            raise RuntimeError(
                f"decoder layer {layer + 1} computes {span[1]} positions after {span[0]}, the "
                f"first {self._span[0][1]} after {self._span[0][0]}: this architecture skips "
                "positions and cannot be recorded"
            )
        end = min(past + span[1], positions)
        if past >= positions:
            return
        if self._computed[layer] == 0:
            self._start = past
        elif past != self._computed[layer]:
            raise RuntimeError(
                f"position {past + 1} was computed before, or positions were left out; enter "
                "record() anew for each batch, and generate with use_cache=True"
            )
        self._computed[layer] = end
        if layer < self._pool_from and (layer > 0 or not self._looks):
            return
        hidden = hidden.detach().to(wide(hidden.dtype))
        pick = self._on(hidden, past, end).transpose(1, 2)
        # Rows of zeros where nothing of a modality is here: the sum over chunks stays right.
        pooled = torch.bmm(pick, hidden[:, : end - past])
        self._sums[layer] = self._sums[layer] + pooled if layer in self._sums else pooled
        if end == positions and (self._states or (self._looks and layer >= self._acts_from)):
            last = hidden[:, end - 1 - past]
            # A view would keep all positions of every layer alive.
            self._query[layer] = last.clone() if self._states else last

    def attend(self, layer: int, call: Call) -> tuple[Tensor, Tensor | None]:
        """The kernel's output, and the decision query's row where this pass computes it."""
        output, weights = call.output()
        past, width = self._span[layer]
        index = self._ids.shape[1] - 1 - past
        keys = call.key.shape[2]
        # A sliding cache has dropped its oldest keys; a static one has empty slots at its end.
        first = max(0, past + width - keys)
        asked = self._intervention if layer >= self._acts_from else None
        bias = None if asked is None or asked.ahead is None else asked.ahead(layer + 1, output)
        if index >= width:
            if bias is not None and asked is not None and asked.scope == "all":
                output = self._steer_all(call, past, first, bias, output)
            return output, weights
        if index < 0:
            if (bias := self._kept.get(layer)) is not None:
                output = self._steer_all(call, past, first, bias, output)
            return output, weights
        call.check_known()
        causal = call.given.get("is_causal")
        causal = getattr(call.module, "is_causal", True) if causal is None else causal
        visible = None if call.mask is None else call.mask[:, :, index, :keys]
        if layer == 0 and visible is not None and call.given.get("sliding_window") is None:
            self._unseen = self._needed_unseen(visible, first)
        end = index + 1 if visible is None and causal and width > 1 else keys
        query, key = call.query[:, :, index : index + 1], call.key[:, :, :end]
        scores = decision_scores(query.detach(), key.detach(), visible, call.scaling)
        attention = scores.softmax(-1)
        one_hot = self._on(attention, first, first + end)
        mass = mass_on(attention, one_hot)
        if asked is not None and asked.ahead is None:
            bias = self._ask(asked, layer, mass)
        if asked is not None and bias is not None:
            significant = self._cut(bias.significant, attention, first, first + end)
            own = bias
            if bias.queries is not None:
                own = replace(bias, heads=bias.heads & bias.queries[:, -1:, None])
            attention, moved = biased(scores, attention, own, one_hot, significant)
            if asked.scope == "decision":
                changed = brought(attention, call.value[:, :, :end]).to(output).transpose(1, 2)
                moved = moved.transpose(1, 2)[..., None]
                output = _exchanged(output, (slice(None), slice(index, index + 1)), moved, changed)
            else:
                if past > 0 and asked.ahead is None:
                    raise RuntimeError(
                        "steering every query needs the whole prompt in one pass; "
                        f"{past} positions were computed before"
                    )
                if bias.queries is None:
                    self._kept[layer] = bias
                output = self._steer_all(call, past, first, bias, output)
            mass = mass_on(attention, one_hot)
        self._mass[layer] = mass[:, :, 0]
        row = attention[:, :, 0]
        stop = min(first + end, self._ids.shape[1])
        self._shown[layer] = first, row[..., : stop - first].mean(1, dtype=exact(row.device))
        if self._keep_rows:
            whole = row.new_zeros(*row.shape[:2], max(first + end, self._ids.shape[1]))
            whole[..., first : first + end] = row
            self._rows[layer] = whole
        return output, weights

    def leave(self) -> None:
        """Raise what was wrong in a pass: to look in its midst would have the host wait there."""
        unseen, self._unseen = self._unseen, None
        if unseen is not None and bool(unseen):
            raise ValueError(
                "the decision query (the last position) cannot see itself or a position that "
                "modality_ids marks: pad on the left, and mark padding with -1"
            )
        if self._intervention is not None:
            if self._looks:
                self._check_seen()
            self._intervention.check()

    def _ask(self, asked: Intervention, layer: int, mass: Tensor) -> Bias | None:
        known = self._known.setdefault(mass.device, {})
        if "counts" not in known:
            counts = self.counts.to(mass.device)
            divisor = counts.to(mass).clamp(min=1)[..., None]
            known |= {"counts": counts, "divisor": divisor, "all hold some": self.all_hold_some}
            known["embedded"] = self._sums[0].to(mass) / divisor
        query = self._query[layer] if self._states else self._query.pop(layer)
        means = self._sums[layer].to(mass) / known["divisor"], known["embedded"]
        mass = mass.transpose(1, 2)
        return asked(LayerView(layer + 1, mass, known["counts"], query[:, None], *means, known))

    def _steer_all(self, call: Call, past: int, first: int, bias: Bias, output: Tensor) -> Tensor:
        """Every query's attention under a layer's bias, of the heads concerned; others as they were."""
        end = first + call.key.shape[2]
        heads, chosen = output.shape[2], bias.heads[:, 0]
        most = heads if bias.most is None else min(bias.most, heads)
        if most == 0:
            return output
        batch = self._places.to(output.device)
        # Those concerned come first, in their order; where a prompt has fewer, others fill up.
        at = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        shared = at // (heads // call.key.shape[1])
        query, key, value = (
            x[batch, which]
            for x, which in ((call.query, at), (call.key, shared), (call.value, shared))
        )
        mask = call.mask
        if mask is not None and mask.shape[1] > 1:
            mask = mask.expand(len(output), -1, -1, -1)[batch, at]
        own = replace(
            bias,
            heads=bias.heads.gather(2, at[:, None]),
            modality=bias.modality[batch, 0, at][:, None],
            scale=None if bias.scale is None else bias.scale[batch, 0, at][:, None],
        )
        significant = self._cut(bias.significant, own.modality, first, end)
        changed, moved = biased_kernel(
            call.one_key_a_head(), query, key, value, mask, own,
            self._on(own.modality, first, end),
            None if significant is None else significant[:, 0], **({"scaling": None} | call.given),
        )  # fmt: skip
        moved = moved[..., None, None]
        if bias.queries is not None:
            asked = bias.queries[:, past : past + output.shape[1]]
            asked = nn.functional.pad(asked, (0, output.shape[1] - asked.shape[1]))
            moved = moved & asked[:, None, :, None]
        return _exchanged(output, (batch, slice(None), at), moved, changed.transpose(1, 2))

    def _cut(self, marks: Tensor | None, like: Tensor, start: int, end: int) -> Tensor | None:
        """Marks ``(B, C, S)`` on the prompt's positions at [start, end), as numbers, 0 after it."""
        if marks is None:
            return None
        at = "marks", like.device, like.dtype, start, end
        if at not in self._known:
            chosen = marks[..., start:end].to(like)
            self._known[at] = nn.functional.pad(chosen, (0, end - start - chosen.shape[-1]))
        return self._known[at]

    def _needed_unseen(self, visible: Tensor, first: int) -> Tensor:
        """Whether a marked token, or the decision query itself, is not visible to that query."""
        seen = visible if visible.dtype == torch.bool else visible > torch.finfo(visible.dtype).min
        seen = seen.all(1).expand(len(self._ids), -1)[:, : self._ids.shape[1] - first]
        needed = self._one_hot.any(-1)[:, first:].to(seen.device)
        return (needed & ~seen).any() | ~seen[:, -1].all()

    def _on(self, like: Tensor, start: int, end: int) -> Tensor:
        """``(B, end - start, 3)`` one-hot modality of positions, zero after the prompt."""
        at = "modalities", like.device, like.dtype, start, end
        if at not in self._known:
            chosen = self._one_hot[:, start:end]
            padded = nn.functional.pad(chosen, (0, 0, 0, end - start - chosen.shape[1]))
            self._known[at] = padded.to(like)
        return self._known[at]


def _exchanged(output: Tensor, at: tuple, moved: Tensor, changed: Tensor) -> Tensor:
    """What a kernel returned, which is nobody else's, with some of it exchanged where it moved."""
    if output.requires_grad or changed.requires_grad:
        output = output.clone()
        output[at] = torch.where(moved, changed, output[at])
    elif (own := output[at])._is_view():
        torch.where(moved, changed, own, out=own)
    else:
        output[at] = torch.where(moved, changed, own)
    return output


@contextmanager
def record(
    model: PreTrainedModel,
    modality_ids: Tensor,
    *,
    states: bool = True,
    rows: bool = False,
    intervention: Intervention | None = None,
    earlier: tuple[Trace, Sequence[int] | Tensor] | None = None,
) -> Iterator[Trace]:
    """Record what the decision query attends to while the model runs one batch.

    >>> with record(model, ids) as trace:          # doctest: +SKIP
    ...     model(**inputs)
    >>> trace.nmas                                  # (B, L, H, 3), Eq. 5

    Parameters
    ----------
    model
        A transformers model with a text decoder, under SDPA or eager attention.
    modality_ids
        ``(B, S)``, see :func:`modality_ids`; S positions are the prompt, left-padded, and the
        decision query is the last of them. The prompt may be computed in several cached passes;
        tokens generated after it are not recorded.
    states
        Keep hidden states of the decision token and mean states of the modalities.
    rows
        Keep the decision query's whole rows of attention, :attr:`Trace.rows`.
    intervention
        Changes attention on the way (``chase.steer`` makes one). With scope ``decision`` the row
        of the decision query alone; with ``all`` every query of the prompt and after it, for
        which the prompt must be computed in one pass.
    earlier
        The trace of a record that these prompts begin in, and which of its rows each one
        continues: mean states then cover both. Rows in a tensor are not brought to the device for
        every layer.

    Without an intervention the model computes exactly what it would otherwise; it is left as it
    was in any case, also after an exception. Raises ``RuntimeError`` when the model is being
    recorded already, when a decoder layer did not compute the decision query, or computed it
    twice; ``NotImplementedError`` for an architecture or attention implementation that cannot be
    recorded. What numbers alone tell, padding on the right for one, is raised when the pass ends.
    """

    def make(layers: int) -> Trace:
        return Trace(modality_ids, layers, states, rows, intervention, earlier)

    with watched(model, make) as trace:
        yield trace
    # A silent no-op is the commonest bug of hooks: say so at once.
    trace._stacked(trace._mass)
    trace.leave()
    trace._known.clear()
    trace._kept.clear()
