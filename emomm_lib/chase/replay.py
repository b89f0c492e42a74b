"""A batch of prompts computed once, then any number of steering configurations on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import Cache
from transformers.modeling_utils import PreTrainedModel

from emomm_lib.attention import Replayed, Trace, check_replayable, record, replay_decision
from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.gates import Gate
from emomm_lib.chase.saliency import attention_importance
from emomm_lib.chase.steer import Decisions, Steerer


@dataclass(frozen=True)
class Prefill:
    """B prompts as the unsteered model computed them.

    Attributes
    ----------
    hidden
        ``(B, D)`` last hidden state of the decision token: the plain model's answer.
    trace
        What it attended to, with states; what a router is trained on.
    cache
        Of all positions but the decision token's.
    embeds, position, mask, modality_ids
        ``(B, D)`` and ``(axes, B)`` of the decision token; ``(B, S)`` and ``(B, S)``.
    """

    model: PreTrainedModel
    hidden: Tensor
    trace: Trace
    cache: Cache
    embeds: Tensor
    position: Tensor
    mask: Tensor
    modality_ids: Tensor

    def shortened(self) -> Prefill:
        """The same with the decision token taken off the cache, which is changed in place.

        Raises ``NotImplementedError`` for a cache with sliding layers.
        """
        check_replayable(self.cache)
        for layer in self.cache.layers:
            layer.crop(-1)
        return self

    @property
    def attention_importance(self) -> Tensor:
        """``(B, S)`` mean attention on visual tokens; needs ``rows=True``."""
        return attention_importance(self.trace.rows, self.modality_ids)


@torch.no_grad()
def prefill(
    model: PreTrainedModel,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    modality_ids: Tensor,
    *,
    rows: bool = False,
) -> Prefill:
    """Run the decoder over a left-padded batch and keep what replays need.

    Shapes as for :func:`emomm_lib.chase.saliency.gradient_importance`; ``rows`` keeps whole rows
    of attention.
    """
    with record(model, modality_ids, rows=rows) as trace:
        done = model.get_decoder()(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=True,
        )
    return Prefill(
        model,
        done.last_hidden_state[:, -1],
        trace,
        done.past_key_values,
        inputs_embeds[:, -1],
        position_ids[..., -1],
        attention_mask,
        modality_ids,
    ).shortened()


@torch.no_grad()
def replay(
    prompts: Prefill,
    columns: Sequence[tuple[Gate, SteeringConfig]],
    *,
    importance: Tensor | None = None,
    rows: bool = False,
    at_once: int = 128,
) -> tuple[Replayed, Decisions]:
    """The decision tokens under C gates and configurations; equal to C steered forward passes.

    Costs C decision tokens, not C prompts. Parameters as for :class:`Steerer`; all scopes must be
    ``decision``. ``at_once`` columns are computed together, which takes memory of B H C S numbers
    several times over.
    """
    if at_once < 1:
        raise ValueError(f"at_once is at least 1; got {at_once}")
    parts, decided = [], []
    states = prompts.trace.modality_states
    for start in range(0, max(len(columns), 1), at_once):
        own = columns[start : start + at_once]
        steerer = Steerer(prompts.model, own, prompts.modality_ids, importance)
        parts.append(
            replay_decision(
                prompts.model,
                prompts.cache,
                prompts.embeds,
                prompts.position,
                prompts.mask,
                prompts.modality_ids,
                columns=len(own),
                modality_states=states,
                intervention=steerer,
                rows=rows,
            )
        )
        decided.append(steerer.decisions)
    if len(parts) == 1:
        return parts[0], decided[0]
    return _joined(parts), _joined(decided)


def _joined(parts: Sequence[Replayed] | Sequence[Decisions]) -> Replayed | Decisions:
    """Columns of several replays side by side."""
    joined = {}
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if values[0] is None:
            joined[field.name] = None
        elif isinstance(values[0], list):
            joined[field.name] = [torch.cat(layer, 2) for layer in zip(*values, strict=True)]
        else:
            joined[field.name] = torch.cat(values, 1)
    return type(parts[0])(**joined)
