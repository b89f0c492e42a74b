"""Tiny decoders with random weights, prompts for them, and what they compute in float64."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch

from emomm_lib import OTHER
from emomm_study.mini.model.build import MiniConfig, build_model, build_processor
from emomm_study.mini.model.build_vita import (
    VitaMiniConfig,
    build_model as build_vita_model,
    build_tokenizer as build_vita_tokenizer,
)

# Imported here: beside a CPU build of torch they need emomm_study.systems to be imported first.
from transformers.masking_utils import eager_mask  # isort: skip
from transformers import (  # isort: skip
    AttentionInterface,
    AttentionMaskInterface,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Phi4MultimodalConfig,
    Phi4MultimodalForCausalLM,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 120}  # fmt: skip
T, A, V = 0, 1, 2


def qwen25():
    small = MiniConfig(hidden=32, layers=3, heads=4, kv_heads=2, ffn=48, vision_hidden=32,
                       vision_layers=1, vision_heads=2, vision_ffn=32, audio_hidden=32,
                       audio_layers=1, audio_heads=2, audio_ffn=32, side=56)  # fmt: skip
    return build_model(build_processor(small), small)


def qwen3():
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    text = SIZES | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
                    "moe_intermediate_size": 16, "rope_parameters": rope}  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16,
              "out_hidden_size": 32, "deepstack_visual_indexes": []}  # fmt: skip
    audio = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2,
             "encoder_ffn_dim": 16, "output_dim": 32, "num_mel_bins": 16,
             "downsample_hidden_size": 8}  # fmt: skip
    config = Qwen3OmniMoeThinkerConfig(text_config=text, vision_config=vision, audio_config=audio,
                                       vision_start_token_id=110)  # fmt: skip
    return Qwen3OmniMoeThinkerForConditionalGeneration(config)


def gemma3():
    text = SIZES | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 12,
                    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                    "pad_token_id": 0}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    tokens = {"image_token_index": 100, "boi_token_index": 101, "eoi_token_index": 102}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)
    return Gemma3ForConditionalGeneration(config)


def phi4():
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 28, "crop_size": 28,
              "image_token_id": 100}  # fmt: skip
    audio = {"hidden_size": 16, "intermediate_size": 16, "num_blocks": 1, "input_size": 16,
             "num_attention_heads": 2, "ext_pw_out_channel": 16, "nemo_conv_channels": 16,
             "depthwise_separable_out_channel": 16, "audio_token_id": 101}  # fmt: skip
    config = Phi4MultimodalConfig(**SIZES, vision_config=vision, audio_config=audio,
                                  pad_token_id=0, bos_token_id=1, eos_token_id=2,
                                  rope_parameters={"rope_type": "default", "rope_theta": 1e4,
                                                   "partial_rotary_factor": 1.0})  # fmt: skip
    return Phi4MultimodalForCausalLM(config)


def vita():
    small = VitaMiniConfig(hidden=32, layers=3, heads=4, kv_heads=2, ffn=48, vision_hidden=32,
                           vision_layers=1, vision_heads=2, vision_ffn=32, audio_channels=4,
                           audio_hidden=32, audio_layers=1, audio_heads=2, audio_ffn=32,
                           side=56)  # fmt: skip
    return build_vita_model(build_vita_tokenizer(small), small)


MAKERS = {"qwen2.5-omni": qwen25, "vita": vita, "qwen3-omni": qwen3, "gemma3": gemma3,
          "phi4": phi4}  # fmt: skip


def make(name):
    torch.manual_seed(0)
    model = MAKERS[name]().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model


def inputs(rows: int = 3, length: int = 30, padded: bool = True, seed: int = 0):
    """Tokens, mask and modality ids; row 0 has T A V, row 1 lacks A, row 2 has only V."""
    rng = np.random.default_rng(seed)
    tokens = torch.tensor(rng.integers(3, 90, (rows, length)))
    ids = torch.full((rows, length), OTHER)
    mask = torch.ones_like(tokens)
    for row in range(rows):
        start = 7 * (row % 2) if padded else 0
        mask[row, :start] = 0
        ids[row, start + 1 : start + 9] = V
        if row % 3 == 0:
            ids[row, start + 10 : start + 15] = A
        if row % 3 < 2:
            ids[row, start + 16 : start + 19] = T
    return tokens, mask, ids


def whole_matrix(module, query, key, value, mask, scaling=None, **_):
    """Attention as defined, every weight in float64; transformers' eager rounds them to 32 bits."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scaling
    scores = scores.masked_fill(mask < 0, -1e300)
    weights = scores.softmax(-1)
    return torch.einsum("bhqk,bhkd->bqhd", weights, value), weights


AttentionInterface.register("whole_matrix", whole_matrix)
AttentionMaskInterface.register("whole_matrix", eager_mask)


@torch.no_grad()
def reference(model, tokens, mask, ids):
    """Masses, states and rows of the last position from whole float64 matrices, by plain loops."""
    exact = copy.deepcopy(model).double()
    text = exact.config.get_text_config(decoder=True)
    text._attn_implementation = "whole_matrix"
    if hasattr(text, "num_experts"):
        exact.set_experts_implementation("eager")
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = exact(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False,
                output_attentions=True, output_hidden_states=True)  # fmt: skip
    layers, heads = len(out.attentions), out.attentions[0].shape[1]
    assert out.attentions[0].dtype == torch.float64
    mass = torch.zeros(len(tokens), layers, heads, 3, dtype=torch.double)
    pooled = torch.zeros(len(tokens), layers, 3, out.hidden_states[0].shape[-1]).double()
    for b, layer, m in itertools.product(range(len(tokens)), range(layers), range(3)):
        chosen = [k for k in range(tokens.shape[1]) if ids[b, k] == m]
        for h in range(heads):
            mass[b, layer, h, m] = sum(out.attentions[layer][b, h, -1, k] for k in chosen)
        if chosen:
            pooled[b, layer, m] = sum(out.hidden_states[layer][b, k] for k in chosen) / len(chosen)
    query = torch.stack([h[:, -1] for h in out.hidden_states[:layers]], 1)
    rows = torch.stack([a[:, :, -1] for a in out.attentions], 1)
    return mass, query, pooled, rows


def run(model, tokens, mask, **more):
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    return model(input_ids=tokens, attention_mask=mask, position_ids=positions, **more)


def fingerprint(model):
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    configs = [model.config, *(getattr(model.config, n) for n in model.config.sub_configs)]
    return hooks, [c._attn_implementation for c in configs]
