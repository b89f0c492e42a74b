"""The one place that touches a model's attention: what the decision query looks at, by layer.

The decoder's attention function is exchanged, by transformers' public interfaces, for one that
calls the model's own kernel and then computes a single row beside it: that of the decision query,
the last position of the prompt. Beyond the kernel's own work nothing of size queries x keys is
made, and the output is the kernel's.
"""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.modeling_utils import PreTrainedModel

from emomm_lib.labels import MODALITIES

OTHER = -1
"""Modality id of a position that belongs to no modality; T, A, V are 0, 1, 2."""
_PREFIX = "emomm_"
_UNKNOWN = ("softcap", "s_aux", "position_bias")
"""Arguments of an attention function that change its scores in ways this file does not repeat."""


def modality_ids(
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
    """

    def __init__(self, ids: Tensor, layers: int, states: bool, rows: bool) -> None:
        if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(
                f"modality_ids is an integer tensor (batch, positions); got {ids.dtype} of shape "
                f"{tuple(ids.shape)}"
            )
        if ids.min() < OTHER or ids.max() >= len(MODALITIES):
            raise ValueError(
                f"modality_ids holds {OTHER} (none) or 0..2 for {MODALITIES}; got values from "
                f"{int(ids.min())} to {int(ids.max())}"
            )
        self._ids = ids
        self._one_hot = ids[..., None] == torch.arange(len(MODALITIES), device=ids.device)
        self.counts = self._one_hot.sum(1)
        self._states, self._keep_rows = states, rows
        self._span: list[tuple[int, int] | None] = [None] * layers
        self._computed = [0] * layers
        self._start = 0
        self._mass: list[Tensor | None] = [None] * layers
        self._rows: list[Tensor | None] = [None] * layers
        self._query: list[Tensor | None] = [None] * layers
        self._sums: list[Tensor | None] = [None] * layers
        self._keys: dict[tuple, Tensor] = {}

    @property
    def mass(self) -> Tensor:
        """``(B, L, H, 3)`` attention on all tokens of T, A, V; with the rest it sums to 1."""
        return self._stacked(self._mass)

    @property
    def nmas(self) -> Tensor:
        """``(B, L, H, 3)`` mean attention a token of T, A, V (Eq. 5); NaN where it is absent."""
        mass = self.mass
        counts = self.counts.to(mass)[:, None, None]
        return torch.where(counts > 0, mass / counts, torch.nan)

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
        if bool(self._one_hot[:, : self._start].any()):
            raise RuntimeError(
                f"the first {self._start} positions came from a cache made outside of record(), so "
                "their hidden states were not seen; prefill inside, or pass states=False"
            )
        sums = self._stacked(self._sums)
        return sums / self.counts.to(sums).clamp(min=1)[:, None, :, None]

    def row(self, sample: int, modality: str) -> Tensor:
        """``(L, H, |K_m|)`` attention on each token of a modality, in the order of the prompt."""
        self._require(self._keep_rows, "rows")
        rows = torch.stack([r[sample].cpu() for r in self._rows if r is not None])
        chosen = (self._ids[sample] == MODALITIES.index(modality)).cpu()
        return rows[..., : len(chosen)][..., chosen]

    def _require(self, kept: bool, name: str) -> None:
        if not kept:
            raise RuntimeError(f"not recorded; pass {name}=True to record()")

    def _stacked(self, layers: list[Tensor | None]) -> Tensor:
        missing = [i + 1 for i, value in enumerate(layers) if value is None]
        if missing:
            raise RuntimeError(
                f"the decision query, position {self._ids.shape[1]} of the prompt, was not "
                f"computed in decoder layers {missing}; run the model inside record() with the "
                "whole prompt"
            )
        return torch.stack([value.to(layers[0].device) for value in layers], dim=1)

    def _enter_layer(self, layer: int, hidden: Tensor, past: int) -> None:
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
        if not self._states:
            return
        hidden = hidden.detach().to(_wide(hidden.dtype))
        pick = self._on(hidden, past, end).transpose(1, 2)
        # Rows of zeros where nothing of a modality is here: the sum over chunks stays right.
        pooled = torch.bmm(pick, hidden[:, : end - past])
        self._sums[layer] = pooled if self._sums[layer] is None else self._sums[layer] + pooled
        if end == positions:
            # A view would keep all positions of every layer alive.
            self._query[layer] = hidden[:, end - 1 - past].clone()

    def _attend(
        self,
        layer: int,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        **given,
    ) -> None:
        """The decision query's row of a layer, where this pass computes it."""
        past, width = self._span[layer]
        index = self._ids.shape[1] - 1 - past
        if not 0 <= index < width:
            return
        if unknown := [name for name in _UNKNOWN if given.get(name) is not None]:
            raise NotImplementedError(
                f"{type(module).__name__} gives its attention {unknown}, which is not recorded"
            )
        keys = key.shape[2]
        # A sliding cache has dropped its oldest keys; a static one has empty slots at its end.
        first = max(0, past + width - keys)
        causal = given.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        visible = None if mask is None else mask[:, :, index, :keys]
        if layer == 0 and visible is not None and given.get("sliding_window") is None:
            self._check_visible(visible, first)
        end = index + 1 if visible is None and causal and width > 1 else keys
        row = attention_row(query[:, :, index], key[:, :, :end], visible, given.get("scaling"))
        self._mass[layer] = torch.bmm(row, self._on(row, first, first + end))
        if self._keep_rows:
            whole = row.new_zeros(*row.shape[:2], max(first + end, self._ids.shape[1]))
            whole[..., first : first + end] = row
            self._rows[layer] = whole

    def _check_visible(self, visible: Tensor, first: int) -> None:
        """Every marked token, and the decision query itself, must be visible to that query."""
        seen = visible if visible.dtype == torch.bool else visible > torch.finfo(visible.dtype).min
        seen = seen.all(1).expand(len(self._ids), -1)[:, : self._ids.shape[1] - first]
        needed = self._one_hot.any(-1)[:, first:].to(seen.device).clone()
        needed[:, -1] = True
        if bool((needed & ~seen).any()):
            raise ValueError(
                "the decision query (the last position) cannot see itself or a position that "
                "modality_ids marks: pad on the left, and mark padding with -1"
            )

    def _on(self, like: Tensor, start: int, end: int) -> Tensor:
        """``(B, end - start, 3)`` one-hot modality of positions, zero after the prompt."""
        at = (like.device, like.dtype, start, end)
        if at not in self._keys:
            chosen = self._one_hot[:, start:end]
            padded = nn.functional.pad(chosen, (0, 0, 0, end - start - chosen.shape[1]))
            self._keys[at] = padded.to(like)
        return self._keys[at]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def attention_row(
    query: Tensor, key: Tensor, visible: Tensor | None, scaling: float | None
) -> Tensor:
    """Softmax-normalised attention ``(B, H, K)`` of one query over all keys, at least in float32.

    ``query`` is ``(B, H, d)``, ``key`` ``(B, H_kv, K, d)`` with H a multiple of H_kv, both rotated;
    ``visible`` ``(B or 1, H or 1, K)`` is bool or additive; ``scaling`` is 1/sqrt(d) when None.
    Costs O(H K d).
    """
    batch, heads, size = query.shape
    groups = key.shape[1]
    dtype = _wide(query.dtype)
    grouped = query.view(batch, groups, heads // groups, size).to(dtype)
    grouped = grouped * (size**-0.5 if scaling is None else scaling)
    scores = torch.matmul(grouped, key.to(dtype).transpose(2, 3)).view(batch, heads, -1)
    if visible is not None:
        if visible.dtype == torch.bool:
            scores = scores.masked_fill(~visible, -torch.inf)
        else:
            scores = scores + visible
    return scores.softmax(-1)


_ACTIVE: WeakKeyDictionary[nn.Module, tuple[int, Trace]] = WeakKeyDictionary()


def _recorded(base: str, module: nn.Module, query, key, value, mask, **given) -> tuple:
    """The attention function of a recorded layer: the model's own, then the decision row."""
    output = _kernel(base, module)(module, query, key, value, mask, **given)
    if (active := _ACTIVE.get(module)) is not None:
        layer, trace = active
        trace._attend(layer, module, query.detach(), key.detach(), mask, **given)
    return output


def _kernel(base: str, module: nn.Module) -> Callable:
    if base == "eager":
        # Each modeling file has its own, which is not registered anywhere.
        return sys.modules[type(module).__module__].eager_attention_forward
    return AttentionInterface()[base]


for _base, _mask in (("sdpa", sdpa_mask), ("eager", eager_mask)):
    AttentionInterface.register(_PREFIX + _base, partial(_recorded, _base))
    # Without a mask function of the same name, transformers passes no mask at all.
    AttentionMaskInterface.register(_PREFIX + _base, _mask)


def decoder_attention(model: PreTrainedModel) -> list[tuple[nn.Module, nn.Module]]:
    """The decoder's layers in order, each as (layer, its attention module).

    Found by what they are, the innermost modules that know a layer index and causality and hold
    the text configuration, since their paths differ between architectures and releases. Raises
    ``NotImplementedError`` when that does not give one attention module a layer.
    """
    decoder = model.get_decoder()
    text = decoder.config
    # Plain attributes: looking one up that a module lacks would cost more than all the rest.
    named = {
        name: module
        for name, module in decoder.named_modules()
        if vars(module).get("config") is text
        and isinstance(vars(module).get("layer_idx"), int)
        and "is_causal" in vars(module)
    }
    inner = [n for n in named if not any(m.startswith(n + ".") for m in named)]
    found = sorted((named[n].layer_idx, n) for n in inner)
    wanted = text.num_hidden_layers
    if [index for index, _ in found] != list(range(wanted)):
        raise NotImplementedError(
            f"{type(model).__name__}: expected one attention module in each of {wanted} decoder "
            f"layers, found {[n for _, n in found]}; this architecture cannot be recorded"
        )
    return [(decoder.get_submodule(n.rpartition(".")[0]), named[n]) for _, n in found]


@contextmanager
def record(
    model: PreTrainedModel, modality_ids: Tensor, *, states: bool = True, rows: bool = False
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
        Keep the decision query's whole rows of attention, for :meth:`Trace.row`.

    The model computes exactly what it would otherwise, and is left as it was, also after an
    exception. Raises ``RuntimeError`` when the model is being recorded already, when a decoder
    layer did not compute the decision query, or computed it twice; ``NotImplementedError`` for an
    architecture or attention implementation that cannot be recorded.
    """
    decoder = model.get_decoder()
    base = decoder.config._attn_implementation
    if base.startswith(_PREFIX):
        raise RuntimeError("this model is being recorded already; records do not nest")
    if base not in ("sdpa", "eager"):
        raise NotImplementedError(
            f"attention implementation {base!r} cannot be recorded; call "
            'model.set_attn_implementation("sdpa") first'
        )
    layers = decoder_attention(model)
    trace = Trace(modality_ids, len(layers), states, rows)
    with ExitStack() as undo:
        # The empty key: this configuration alone, and none below it.
        undo.callback(decoder.set_attn_implementation, {"": base})
        decoder.set_attn_implementation({"": _PREFIX + base})
        for index, (layer, attention) in enumerate(layers):
            undo.callback(_ACTIVE.pop, attention, None)
            _ACTIVE[attention] = index, trace
            hook = partial(_before_layer, index, trace)
            undo.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield trace
    # A silent no-op is the commonest bug of hooks: say so at once.
    trace._stacked(trace._mass)
    trace._keys.clear()


def _before_layer(index: int, trace: Trace, layer: nn.Module, args: tuple, kwargs: dict) -> None:
    hidden = args[0] if args else kwargs["hidden_states"]
    cache = kwargs.get("past_key_values")
    past = 0 if cache is None else int(cache.get_seq_length(index))
    trace._enter_layer(index, hidden, past)
