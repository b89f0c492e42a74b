"""The decision token alone, many times over, on one cached prompt.

When only the decision query is steered, the keys and values of all earlier positions do not depend
on how. A prompt is computed once, its cache cut before the last position, and C decision tokens a
sample are then computed side by side, each seeing the prompt and itself but not the others.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import PreTrainedModel

from emomm_lib.attention.hook import Call, watched
from emomm_lib.attention.record import Trace, record
from emomm_lib.attention.rows import (
    OTHER,
    Intervention,
    LayerView,
    biased,
    brought,
    decision_scores,
    mass_on,
    wide,
)
from emomm_lib.labels import MODALITIES


@dataclass(frozen=True)
class Replayed:
    """C decision tokens of each of B prompts.

    Attributes
    ----------
    hidden
        ``(B, C, D)`` the decoder's last hidden states.
    mass
        ``(B, C, L, H, 3)`` attention on all tokens of T, A, V, as it was used.
    rows
        ``(B, C, L, H, S)`` the whole rows, when they were asked for.
    keys, values
        ``(B, H_kv, C, d)`` a layer: what each decision token leaves in the cache.
    """

    hidden: Tensor
    mass: Tensor
    rows: Tensor | None
    keys: list[Tensor]
    values: list[Tensor]

    def cache(self, prompt: Cache, column: int) -> DynamicCache:
        """A cache of the whole prompt as one column leaves it, to generate from.

        ``prompt`` is the one that was replayed on, without the decision token.
        """
        own = DynamicCache()
        for index, layer in enumerate(replayable(prompt)):
            pairs = zip(_kept(layer), (self.keys[index], self.values[index]), strict=True)
            keys, values = (torch.cat([a, b[:, :, column, None]], 2) for a, b in pairs)
            own.update(keys, values, index)
        return own


class _Columns:
    """Watches the decoder compute C decision tokens after S - 1 cached positions."""

    def __init__(
        self,
        prompts: Prefill,
        intervention: Intervention | None,
        rows: bool,
    ) -> None:
        ids, mask = prompts.modality_ids, prompts.attention_mask
        self._past = ids.shape[1] - 1
        self._one_hot = ids[..., None] == torch.arange(len(MODALITIES), device=ids.device)
        self._visible = mask[:, None, :-1].bool()
        self._trace = prompts.trace
        self._intervention = intervention
        self._known: dict[Hashable, Any] = {}
        if intervention is not None:
            self._states = prompts.trace.modality_states
        self._keep_rows = rows
        self._query = prompts.hidden
        self.mass: dict[int, Tensor] = {}
        self.rows: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def enter(self, layer: int, hidden: Tensor, past: int) -> None:
        if past != self._past:
            raise RuntimeError(
                f"decoder layer {layer + 1} continues {past} cached positions; a replay needs the "
                f"{self._past} before the decision token in every layer"
            )
        self._query = hidden

    def leave(self) -> None:
        if self._intervention is not None:
            self._intervention.check()

    def attend(self, layer: int, call: Call) -> tuple[Tensor, None]:
        """Attention of each token to the prompt and itself; the kernel would show it the others."""
        call.check_known()
        keys, own_key = call.key.tensor_split([self._past], 2)
        values, own_value = call.value.tensor_split([self._past], 2)
        self.keys[layer], self.values[layer] = own_key, own_value
        scores = decision_scores(call.query, keys, self._visible, call.scaling, own_key)
        attention = scores.softmax(-1)
        known = self._known.setdefault(attention.device, {})
        if "one hot" not in known:
            known["one hot"] = self._one_hot.to(attention)
            known["counts"] = self._trace.counts.to(attention.device)
            known["all hold some"] = self._trace.all_hold_some
        one_hot = known["one hot"]
        mass = mass_on(attention, one_hot)
        asked = self._intervention
        if asked is not None and layer + 1 >= asked.first_layer:
            hidden = self._query.to(wide(self._query.dtype))
            means = self._states[:, layer], self._states[:, 0]
            seen = mass.transpose(1, 2), known["counts"], hidden, *means
            if (bias := asked(LayerView(layer + 1, *seen, known))) is not None:
                if "marks" not in known and bias.significant is not None:
                    known["marks"] = bias.significant.to(attention)
                attention, _ = biased(scores, attention, bias, one_hot, known.get("marks"))
                mass = mass_on(attention, one_hot)
        self.mass[layer] = mass.transpose(1, 2)
        if self._keep_rows:
            self.rows[layer] = attention.transpose(1, 2)
        output = brought(attention, values, own_value).to(call.query.dtype)
        return output.transpose(1, 2).contiguous(), None


def replayable(cache: Cache) -> list[DynamicLayer]:
    """Its layers; ``NotImplementedError`` for one that forgets positions, or is not kept by layer."""
    for layer in cache.layers:
        if type(layer) is not DynamicLayer:
            raise NotImplementedError(
                f"a cache of {type(layer).__name__} cannot be replayed on, only full attention"
            )
    return cast("list[DynamicLayer]", cache.layers)


def _kept(layer: DynamicLayer) -> tuple[Tensor, Tensor]:
    """Its keys and values ``(B, H_kv, positions, d)``."""
    if layer.keys is None or layer.values is None:
        raise RuntimeError(
            "the cache is empty; a replay needs the prompt before the decision token"
        )
    return layer.keys, layer.values


@dataclass(frozen=True)
class Prefill:
    """B prompts of S positions as the unsteered model computed them.

    Attributes
    ----------
    hidden
        ``(B, D)`` last hidden state of the decision token: the plain model's answer.
    trace
        What it attended to, with states; what a router is trained on.
    cache
        Of the S - 1 positions before the decision token's.
    inputs_embeds, position_ids
        ``(B, D)`` and ``(B,)`` or ``(axes, B)`` of the decision token.
    attention_mask, modality_ids
        ``(B, S)`` of the whole prompt, left-padded.
    """

    model: PreTrainedModel
    hidden: Tensor
    trace: Trace
    cache: Cache
    inputs_embeds: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    modality_ids: Tensor

    def shortened(self) -> Prefill:
        """The same with the decision token taken off the cache, which is changed in place.

        Raises ``NotImplementedError`` for a cache with sliding layers.
        """
        for layer in replayable(self.cache):
            layer.crop(-1)
        return self


@torch.no_grad()
def prefill(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    modality_ids: Tensor,
    *,
    rows: bool = False,
) -> Prefill:
    """Run a model over a left-padded batch and keep what replays need.

    Parameters
    ----------
    inputs
        What the model's ``forward`` takes: ``attention_mask`` ``(B, S)`` and the rest of what its
        processor makes, or embeddings and positions.
    modality_ids
        ``(B, S)``, as for :func:`emomm_lib.record`.
    rows
        Keep whole rows of attention in the trace.

    Raises like ``record``, ``ValueError`` without an ``attention_mask``, and
    ``NotImplementedError`` for a model whose cache forgets positions.
    """
    if inputs.get("attention_mask") is None:
        raise ValueError("inputs has no attention_mask, which tells a prompt from its padding")
    seen: dict[str, Any] = {}

    def keep(decoder: nn.Module, args: tuple, given: dict, output: Any) -> None:
        seen.update(given, output=output)

    decoder = model.get_decoder()
    few = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
    handle = decoder.register_forward_hook(keep, with_kwargs=True)
    try:
        with record(model, modality_ids, rows=rows) as trace:
            model(**{**few, **inputs, "use_cache": True})
    finally:
        handle.remove()
    embeds, positions = seen.get("inputs_embeds"), seen.get("position_ids")
    if embeds is None:
        embeds = model.get_input_embeddings()(seen["input_ids"])
    if positions is None:
        positions = torch.arange(embeds.shape[1], device=embeds.device).expand(len(embeds), -1)
    output = seen["output"]
    return Prefill(
        model,
        output.last_hidden_state[:, -1],
        trace,
        output.past_key_values,
        embeds[:, -1],
        positions[..., -1],
        inputs["attention_mask"],
        modality_ids,
    ).shortened()


def replay_decision(
    prompts: Prefill,
    *,
    columns: int = 1,
    intervention: Intervention | None = None,
    rows: bool = False,
) -> Replayed:
    """Compute the decision token of every prompt ``columns`` times on its cached beginning.

    Parameters
    ----------
    prompts
        Their cache has full attention in every layer; it is left as it was given.
    intervention
        Sees and changes ``columns`` rows of a prompt at once; its scope must be ``decision``.
    rows
        Keep whole rows of attention.

    Raises ``ValueError`` for another scope or shapes that do not fit, ``NotImplementedError`` for
    a cache with sliding or shared layers, ``RuntimeError`` as :func:`emomm_lib.record` does.
    """
    if intervention is not None and intervention.scope != "decision":
        raise ValueError(
            f"scope {intervention.scope!r} changes the prompt's own keys: it cannot be replayed; "
            "run the whole prompt"
        )
    mask, ids, embeds = prompts.attention_mask, prompts.modality_ids, prompts.inputs_embeds
    if mask.shape != ids.shape or len(embeds) != len(mask):
        raise ValueError(
            f"attention_mask {tuple(mask.shape)}, modality_ids {tuple(ids.shape)} and "
            f"inputs_embeds {tuple(embeds.shape)} do not belong to the same prompts"
        )
    if bool((ids[:, -1] != OTHER).any()):
        raise ValueError(
            "the decision token is marked as a modality's: steering it would change that "
            "modality's mean state, which a replay takes from the unsteered pass"
        )
    past, cache = mask.shape[1] - 1, prompts.cache
    layers = replayable(cache)
    if odd := sorted({layer.get_seq_length() for layer in layers} - {past}):
        raise RuntimeError(
            f"a decoder layer continues {odd[0]} cached positions; a replay needs the {past} "
            "before the decision token"
        )
    decoder, positions = prompts.model.get_decoder(), prompts.position_ids

    seen = _Columns(prompts, intervention, rows)
    try:
        with watched(prompts.model, lambda layers: seen):
            hidden = decoder(
                inputs_embeds=embeds[:, None].expand(-1, columns, -1),
                position_ids=positions[..., None].expand(*positions.shape, columns),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
    finally:
        # Also after a failure, which leaves only the first layers longer.
        for layer in layers:
            layer.keys, layer.values = (kept[:, :, :past] for kept in _kept(layer))
    every = range(len(layers))
    if missing := [index + 1 for index in every if index not in seen.mass]:
        raise RuntimeError(f"decoder layers {missing} did not compute the decision token")
    return Replayed(
        hidden,
        torch.stack([seen.mass[i] for i in every], 2),
        torch.stack([seen.rows[i] for i in every], 2) if rows else None,
        [seen.keys[i] for i in every],
        [seen.values[i] for i in every],
    )
