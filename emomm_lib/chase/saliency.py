"""Which visual tokens matter to the answer: gradient x input (Eq. 22-25), or attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GradientCheckpointingLayer
from transformers.modeling_utils import PreTrainedModel

from emomm_lib.chase.equations import checked_importance
from emomm_lib.labels import MODALITIES


def gradient_importance(
    model: PreTrainedModel,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    modality_ids: Tensor,
    letter_weights: Tensor,
    *,
    checkpointing: bool = False,
) -> Tensor:
    """I_k = \\|<dy/dh_k, h_k>\\| on visual tokens, ``(B, S)``, zero elsewhere (Eq. 22-24).

    y is the logit of the letter that the model answers, h_k a token's input embedding. One forward
    and one backward pass serve the whole batch; the weights gather no gradient.

    Parameters
    ----------
    inputs_embeds, attention_mask, position_ids, modality_ids
        A left-padded batch of prompts, ``(B, S, D)``, ``(B, S)``, ``(axes, B, S)``, ``(B, S)``.
    letter_weights
        ``(5, D)`` rows of the output layer for A..E.
    checkpointing
        Keep no layer's activations but compute them again: less memory, a forward pass more.

    Raises ``ValueError`` naming the row of a prompt whose gradient is not finite.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("gradients are needed: leave torch.inference_mode() around saliency")
    decoder = model.get_decoder()
    with torch.enable_grad(), _frozen(decoder), _checkpointed(decoder, checkpointing):
        embeds = inputs_embeds.detach().clone().requires_grad_()
        hidden = decoder(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
        ).last_hidden_state[:, -1]
        logits = hidden.float() @ letter_weights.detach().float().T
        # Rows do not see each other, so the gradient of the sum holds each row's own.
        [gradient] = torch.autograd.grad(logits.amax(-1).sum(), embeds)
    score = (gradient.float() * inputs_embeds.detach().float()).sum(-1).abs()
    visual = modality_ids == MODALITIES.index("V")
    return checked_importance(torch.where(visual, score, 0.0), visual)


def attention_importance(mean_attention: Tensor, modality_ids: Tensor) -> Tensor:
    """Mean attention of the decision query on visual tokens, ``(B, S)``, zero elsewhere.

    A cheap stand-in for the gradient: ``mean_attention`` ``(B, S)`` over layers and heads comes
    with any recorded pass (:attr:`emomm_lib.attention.record.Trace.mean_attention`). Raises
    ``ValueError`` naming the row of a prompt whose attention is not finite.
    """
    visual = modality_ids == MODALITIES.index("V")
    return checked_importance(torch.where(visual, mean_attention, 0.0), visual)


def normalized(importance: Tensor, epsilon: float = 1e-12) -> Tensor:
    """I-hat: importance over its sum in each prompt (Eq. 25), ``(B, S)``; zero without any.

    Raises ``ValueError`` naming the row and position of what is negative or not finite.
    """
    checked_importance(importance, torch.ones_like(importance, dtype=torch.bool))
    return importance / (importance.sum(-1, keepdim=True) + epsilon)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    wanted = [p for p in module.parameters() if p.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def _checkpointed(decoder: nn.Module, wanted: bool) -> Iterator[None]:
    """Checkpoint the decoder's layers, which transformers does in training mode only.

    The layers themselves enter it; what they contain, dropout for one, stays as it is.
    """
    if not wanted:
        yield
        return
    layers = [m for m in decoder.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise NotImplementedError(f"{type(decoder).__name__} has no layers to checkpoint")
    names = "training", "gradient_checkpointing", "_gradient_checkpointing_func"
    before = [
        {name: vars(layer)[name] for name in names if name in vars(layer)} for layer in layers
    ]
    ours = dict(zip(names, (True, True, partial(checkpoint, use_reentrant=False)), strict=True))
    try:
        for layer in layers:
            vars(layer).update(ours)
        yield
    finally:
        for layer, had in zip(layers, before, strict=True):
            for name in names:
                vars(layer).pop(name)
            vars(layer).update(had)
