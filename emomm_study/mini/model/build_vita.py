"""VITA-mini: a few million parameters of VITA-1.5, with a processor of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from emomm_study.mini.model.mini import SECONDS, Mini
from emomm_study.mini.model.tokenizer import train_tokenizer
from emomm_study.systems.vita.adapter import PLACEHOLDERS, STATES, VitaModel
from emomm_study.systems.vita.configuration import VitaConfig
from emomm_study.systems.vita.modeling import VitaForConditionalGeneration
from emomm_study.systems.vita.processing import VitaProcessor

_PATCH = 14


@dataclass(frozen=True)
class VitaMiniConfig:
    """Sizes of VITA-mini. Frames are ``side`` pixels square, 28 pixels a token and side."""

    name: ClassVar[str] = "vita-mini"

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
    audio_channels: int = 48
    audio_hidden: int = 96
    audio_layers: int = 2
    audio_heads: int = 4
    audio_ffn: int = 192
    side: int = 140

    def build(self) -> VitaMini:
        """The model with random weights."""
        return VitaMini(self)


def build_tokenizer(config: VitaMiniConfig) -> PreTrainedTokenizerFast:
    """The small tokenizer with ChatML, the media's placeholders, and VITA's state tokens."""
    states = [STATES.text, STATES.speech, STATES.noise]
    tokenizer = train_tokenizer(
        config.vocab_size,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *PLACEHOLDERS.values()],
        [
            *("<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n"),
            *("<|im_end|>\n", *states),
        ],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, config: VitaMiniConfig | None = None
) -> VitaForConditionalGeneration:
    """The model with random weights, its vocabulary the tokenizer's."""
    config = config or VitaMiniConfig()
    sizes = VitaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=config.ffn,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=4096,
        max_window_layers=config.layers,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
        tokenizer_model_max_length=4096,
        vision_config={
            "image_size": config.side,
            "patch_size": _PATCH,
            "hidden_size": config.vision_hidden,
            "num_hidden_layers": config.vision_layers,
            "num_attention_heads": config.vision_heads,
            "intermediate_size": config.vision_ffn,
            # Trained from scratch, a tenth at first would hold the layers back.
            "layer_scale_init_value": 1.0,
        },
        audio_config={
            "subsampling_channels": config.audio_channels,
            "hidden_size": config.audio_hidden,
            "num_hidden_layers": config.audio_layers,
            "num_attention_heads": config.audio_heads,
            "intermediate_size": config.audio_ffn,
            "adapter_size": 2 * config.audio_hidden,
        },
    )
    model = VitaForConditionalGeneration(sizes)
    inner = model.model
    for tower in (inner.vision_tower, inner.mm_projector, inner.audio_encoder):
        for module in tower.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
                # By the number of inputs: deviations of 0.02 suit towers ten times as wide.
                module.reset_parameters()
    return model


class VitaMini(Mini):
    """A VITA of any size in training."""

    written = 1

    def __init__(self, config: VitaMiniConfig) -> None:
        tokenizer = build_tokenizer(config)
        model = build_model(tokenizer, config)
        processor = VitaProcessor.for_config(tokenizer, model.config)
        inner = model.model
        eyes = nn.ModuleList([inner.vision_tower, inner.mm_projector])
        super().__init__(model, processor, eyes, inner.audio_encoder)

    def see(self, videos: list[np.ndarray]) -> torch.Tensor:
        tokens = self.model.get_video_features(self.processor.frames(np.concatenate(videos)))
        side = self.processor.side // self.processor.patch // 2
        return tokens.view(len(videos), -1, side, side, self.hidden)

    def sounds(self, waves: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = SECONDS * self.processor.sampling_rate
        made = [self.processor.sound(wave[:longest].astype(np.float32)) for wave in waves]
        lengths = torch.tensor([len(features) for features in made])
        padded = torch.zeros(len(made), self.processor.frames_of_sound(longest), made[0].shape[1])
        for row, features in zip(padded, made, strict=True):
            row[: len(features)] = features
        return padded, lengths

    def fit_to(self, features: torch.Tensor, extent: torch.Tensor) -> None:
        """Set the features' means and deviations, which a published model brings with it."""
        count = extent.sum()
        total, squares = (torch.zeros(features.shape[-1], dtype=torch.float64) for _ in range(2))
        for part, lengths in zip(features.split(500), extent.split(500), strict=True):
            real = torch.arange(features.shape[1]) < lengths[:, None]
            values = part[real].double()
            total += values.sum(0)
            squares += values.square().sum(0)
        mean = total / count
        self.ears.encoder.global_cmvn.mean.copy_(mean)
        self.ears.encoder.global_cmvn.istd.copy_((squares / count - mean.square()).rsqrt())

    def hear(
        self, features: torch.Tensor, extent: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        made = self.model.get_audio_features(features, extent)
        return torch.cat(made), torch.tensor([len(tokens) for tokens in made])

    def backbone(self) -> VitaModel:
        return VitaModel(self.model, self.processor, "in training")
