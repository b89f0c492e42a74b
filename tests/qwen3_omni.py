"""A tiny Qwen3-Omni with random weights, behind the adapter that docs/add_a_backbone.md writes."""

from __future__ import annotations

import re

from emomm_study.mini.model.build import _CHAT_TEMPLATE, _SPECIAL
from emomm_study.mini.model.tokenizer import train_tokenizer
from emomm_study.systems import table
from emomm_study.systems.backbone import Backbone
from tests.documented import ADD_A_BACKBONE, modules

# Imported here: beside a CPU build of torch they need emomm_study.systems to be imported first.
from transformers import (  # isort: skip
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

SPECIAL = {
    "image_token": "<|image_pad|>",
    "audio_token": "<|audio_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}
_PATCH, _MELS = 16, 16


def adapter() -> type[Backbone]:
    """The page's class, in the table under the names that the page gives it there."""
    found = modules(ADD_A_BACKBONE)["emomm_study.systems.qwen3_omni"].Qwen3Omni
    table.KINDS.update(kinds())
    return found


def kinds() -> dict[str, str]:
    """What the page adds to the table of kinds."""
    page = ADD_A_BACKBONE.read_text(encoding="utf-8")
    return dict(re.findall(r'^\+    "(\w+)": "(\S+)",$', page, re.M))


def processor(side: int = 64) -> Qwen3OmniMoeProcessor:
    """Qwen3-Omni's, with the small tokenizer; frames are ``side`` pixels square."""
    template = _CHAT_TEMPLATE
    for name, own in SPECIAL.items():
        template = template.replace(_SPECIAL[name], own)
    tokenizer = train_tokenizer(
        1200,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL.values()],
        ["<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"],
    )
    size = {"shortest_edge": side**2, "longest_edge": side**2}
    return Qwen3OmniMoeProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=_PATCH),
        video_processor=Qwen2VLVideoProcessor(
            size=size, patch_size=_PATCH, cap_pixels_per_frame=False
        ),
        feature_extractor=WhisperFeatureExtractor(feature_size=_MELS, chunk_length=3),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            padding_side="left",
            extra_special_tokens=SPECIAL,
            clean_up_tokenization_spaces=False,
        ),
        chat_template=template,
    )


def thinker(
    made: Qwen3OmniMoeProcessor, layers: int = 2, heads: int = 4
) -> Qwen3OmniMoeThinkerForConditionalGeneration:
    """The thinker; its tower feeds the decoder's first two layers, too, as published ones do."""
    tokenizer = made.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL.items()}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    config = Qwen3OmniMoeThinkerConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": 2,
            "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
            "rope_parameters": rope, "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": 3, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16,
            "out_hidden_size": 32, "deepstack_visual_indexes": [0, 1],
            "num_position_embeddings": 16, "patch_size": _PATCH,
        },
        audio_config={
            "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 16, "output_dim": 32, "num_mel_bins": _MELS,
            "downsample_hidden_size": 8, "max_source_positions": 100,
        },
        audio_token_id=ids["audio_token"],
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        vision_start_token_id=ids["vision_bos_token"],
        position_id_per_seconds=13,
    )  # fmt: skip
    return Qwen3OmniMoeThinkerForConditionalGeneration(config)
