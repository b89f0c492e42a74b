"""VITA-1.5: a Qwen2 decoder with InternViT and the audio encoder beside its layers."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import torch
from torch import nn
from transformers import InternVLVisionModel, Qwen2ForCausalLM, Qwen2Model, initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming

from emomm_study.systems.vita.audio import Attention, Normalization, Whale
from emomm_study.systems.vita.configuration import VitaConfig


class InternViT(InternVLVisionModel):
    """transformers' InternViT, under a name of its own for its weights' published names."""


register_checkpoint_conversion_mapping(
    InternViT.__name__,
    [
        WeightRenaming("embeddings.class_embedding", "embeddings.cls_token"),
        WeightRenaming("embeddings.position_embedding", "embeddings.position_embeddings"),
        WeightRenaming("embeddings.patch_embedding", "embeddings.patch_embeddings.projection"),
        WeightRenaming("encoder.layers", "encoder.layer"),
        WeightRenaming("attn.proj", "attention.projection_layer"),
        WeightRenaming("norm1", "layernorm_before"),
        WeightRenaming("norm2", "layernorm_after"),
        WeightRenaming("ls1", "lambda_1"),
        WeightRenaming("ls2", "lambda_2"),
        WeightConverter(
            "attn.qkv",
            ["attention.q_proj", "attention.k_proj", "attention.v_proj"],
            operations=[Chunk(dim=0)],
        ),
    ],
    overwrite=True,
)

SCALE = 0.5
"""What the vision tower's output is multiplied by before its patches are joined."""
JOINED = 2
"""Patches a side that become one token."""


def joined(patches: torch.Tensor) -> torch.Tensor:
    """Square groups of patches side by side, ``(N, h w, D)`` to ``(N, h w / 4, 4 D)``.

    The channels of a token are those of its upper left patch, upper right, lower left, lower right.
    """
    side = round(patches.shape[1] ** 0.5)
    groups = patches.unflatten(1, (side // JOINED, JOINED, side // JOINED, JOINED))
    return groups.transpose(2, 3).flatten(3).flatten(1, 2)


class VisionTower(nn.Module):
    """Frames to joined patches, ``(N, tokens, 4 D)``."""

    def __init__(self, config: VitaConfig) -> None:
        super().__init__()
        self.vision_tower = InternViT(config.vision_config)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        states = self.vision_tower(pixel_values).last_hidden_state
        return joined(states[:, 1:] * SCALE)


class VitaModel(Qwen2Model):
    """The decoder; its ``forward`` is Qwen2's, and the encoders lie beside the layers."""

    config_class = VitaConfig

    def __init__(self, config: VitaConfig) -> None:
        super().__init__(config)
        side = config.vision_config.image_size[0] // config.vision_config.patch_size[0]
        if side % JOINED:
            raise ValueError(
                f"image_size {config.vision_config.image_size} has {side} patches of "
                f"{config.vision_config.patch_size} a side; expected an even number"
            )
        self.vision_tower = VisionTower(config)
        self.mm_projector = nn.Sequential(
            nn.Linear(JOINED**2 * config.vision_config.hidden_size, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )
        self.audio_encoder = Whale(config.audio_config, config.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        _initialize(module)


class VitaForConditionalGeneration(Qwen2ForCausalLM):
    """The decoder with its output layer. Media come in as embeddings, made by the two methods here.

    Loads the published weights by ``from_pretrained``, and ``save_pretrained`` writes their names
    again. ``forward`` and ``generate`` are those of Qwen2.
    """

    config_class = VitaConfig
    # Rounded to bfloat16, the features' means would be off by half a deviation.
    _keep_in_fp32_modules_strict = ["global_cmvn"]

    def __init__(self, config: VitaConfig) -> None:
        super(Qwen2ForCausalLM, self).__init__(config)
        self.model = VitaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        _initialize(module)

    def get_video_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Tokens of N frames ``(N, 3, S, S)``, each on its own: ``(N, tokens, hidden)``.

        S is ``config.vision_config.image_size``.
        """
        return self.model.mm_projector(self.model.vision_tower(pixel_values))

    def get_audio_features(
        self, features: torch.Tensor, lengths: torch.Tensor
    ) -> list[torch.Tensor]:
        """Tokens of each of B sounds, ``(tokens, hidden)``; see :meth:`.audio.Whale.forward`."""
        return self.model.audio_encoder(features, lengths)


def _initialize(module: nn.Module) -> None:
    """Random weights for what transformers does not know how to begin."""
    if isinstance(module, Attention):
        init.xavier_uniform_(module.pos_bias_u)
        init.xavier_uniform_(module.pos_bias_v)
    elif isinstance(module, Normalization):
        init.zeros_(module.mean)
        init.ones_(module.istd)
