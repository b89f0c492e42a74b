"""A batch of prompts computed once, then any number of steering configurations on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache
from transformers.modeling_utils import PreTrainedModel

from emomm_lib.attention import Replayed, Trace, record, replay_decision
from emomm_lib.chase.gates import Gate
from emomm_lib.chase.saliency import attention_importance
from emomm_lib.chase.steer import Decisions, Steerer
from emomm_lib.chase.steering import SteeringConfig


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
    cache = done.past_key_values
    for layer in cache.layers:
        layer.crop(-1)
    return Prefill(
        model,
        done.last_hidden_state[:, -1],
        trace,
        cache,
        inputs_embeds[:, -1],
        position_ids[..., -1],
        attention_mask,
        modality_ids,
    )


def replay(
    prompts: Prefill,
    columns: Sequence[tuple[Gate, SteeringConfig]],
    *,
    importance: Tensor | None = None,
    rows: bool = False,
) -> tuple[Replayed, Decisions]:
    """The decision tokens under C gates and configurations; equal to C steered forward passes.

    Costs C decision tokens, not C prompts. Parameters as for :class:`Steerer`; all scopes must be
    ``decision``.
    """
    steerer = Steerer(prompts.model, columns, prompts.modality_ids, importance)
    replayed = replay_decision(
        prompts.model,
        prompts.cache,
        prompts.embeds,
        prompts.position,
        prompts.mask,
        prompts.modality_ids,
        columns=len(columns),
        modality_states=prompts.trace.modality_states,
        intervention=steerer,
        rows=rows,
    )
    return replayed, steerer.decisions
