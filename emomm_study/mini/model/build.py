"""Omni-mini: a few million parameters of Qwen2.5-Omni's thinker, with a processor of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from emomm_study.mini.model.mini import SECONDS, Mini
from emomm_study.mini.model.tokenizer import train_tokenizer
from emomm_study.systems.omni import OmniModel

_SPECIAL = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class MiniConfig:
    """Sizes of Omni-mini. Frames are ``side`` pixels square, 28 pixels a token and side."""

    name: ClassVar[str] = "omni-mini"

    vocab_size: int = 1200
    hidden: int = 128
    layers: int = 8
    heads: int = 8
    kv_heads: int = 4
    ffn: int = 256
    vision_hidden: int = 96
    vision_layers: int = 3
    vision_heads: int = 4
    vision_ffn: int = 192
    audio_hidden: int = 96
    audio_layers: int = 2
    audio_heads: int = 4
    audio_ffn: int = 192
    mel_bins: int = 64
    audio_seconds: int = SECONDS
    side: int = 224

    def build(self) -> OmniMini:
        """The model with random weights."""
        return OmniMini(self)


def build_tokenizer(config: MiniConfig) -> PreTrainedTokenizerFast:
    """The small tokenizer with Qwen2.5-Omni's specials and ChatML."""
    tokenizer = train_tokenizer(
        config.vocab_size,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_SPECIAL.values()],
        ["<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens=_SPECIAL,
        clean_up_tokenization_spaces=False,
    )


def build_processor(config: MiniConfig | None = None) -> Qwen2_5OmniProcessor:
    """Qwen2.5-Omni's processor: small tokenizer, Whisper features, Qwen's video patches."""
    config = config or MiniConfig()
    pixels = config.side**2
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": pixels, "longest_edge": pixels}
        ),
        video_processor=Qwen2VLVideoProcessor(
            size={"shortest_edge": pixels, "longest_edge": pixels},
            cap_pixels_per_frame=False,
        ),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=config.mel_bins, chunk_length=config.audio_seconds
        ),
        tokenizer=build_tokenizer(config),
        chat_template=_CHAT_TEMPLATE,
    )


def build_model(
    processor: Qwen2_5OmniProcessor, config: MiniConfig | None = None
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The thinker with random weights, its token ids taken from the processor's tokenizer."""
    config = config or MiniConfig()
    tokenizer = processor.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _SPECIAL.items()}
    head_dim = config.hidden // config.heads
    half = head_dim // 2
    thinker = Qwen2_5OmniThinkerConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": config.hidden,
            "intermediate_size": config.ffn,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "max_position_embeddings": 4096,
            "max_window_layers": config.layers,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8],
            },
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": config.vision_layers,
            "hidden_size": config.vision_hidden,
            "intermediate_size": config.vision_ffn,
            "num_heads": config.vision_heads,
            "out_hidden_size": config.hidden,
            "fullatt_block_indexes": list(range(config.vision_layers)),
        },
        audio_config={
            "num_mel_bins": config.mel_bins,
            "encoder_layers": config.audio_layers,
            "encoder_attention_heads": config.audio_heads,
            "encoder_ffn_dim": config.audio_ffn,
            "d_model": config.audio_hidden,
            "n_window": 50 * config.audio_seconds,
            "max_source_positions": 50 * config.audio_seconds,
            "output_dim": config.hidden,
        },
        audio_token_index=ids["audio_token"],
        image_token_index=ids["image_token"],
        video_token_index=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
        user_token_id=tokenizer.convert_tokens_to_ids("<|im_start|>user\n"),
        tie_word_embeddings=True,
    )
    return Qwen2_5OmniThinkerForConditionalGeneration(thinker)


class OmniMini(Mini):
    """A thinker of any size in training."""

    def __init__(self, config: MiniConfig) -> None:
        processor = build_processor(config)
        model = build_model(processor, config)
        super().__init__(model, processor, model.model.visual, model.model.audio_tower)

    def see(self, videos: list[np.ndarray]) -> torch.Tensor:
        done = self.processor.video_processor(videos, return_tensors="pt", do_sample_frames=False)
        grid = done["video_grid_thw"]
        merge = self.model.config.vision_config.spatial_merge_size
        moments, height, width = grid[0].tolist()
        tokens = self.eyes(done["pixel_values_videos"], grid_thw=grid).pooler_output
        return tokens.view(len(videos), moments, height // merge, width // merge, -1)

    def sounds(self, waves: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        done = self.processor.feature_extractor(
            [w.astype(np.float32) for w in waves],
            sampling_rate=16_000,
            padding="max_length",
            return_attention_mask=True,
            return_tensors="pt",
        )
        return done["input_features"], done["attention_mask"]

    def hear(
        self, features: torch.Tensor, extent: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        done = self.model.get_audio_features(features, feature_attention_mask=extent)
        lengths = self.ears._get_feat_extract_output_lengths(extent.sum(-1))[1]
        return done.last_hidden_state, lengths

    def backbone(self) -> OmniModel:
        return OmniModel(self.model, self.processor, "in training")
