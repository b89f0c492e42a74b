"""Checkpoints laid out as Qwen2.5-Omni's published ones are, of any size, with random weights.

All of it is there: thinker, talker and vocoder under their prefixes, in shards with an index, the
settings as the hub's files spell them, and the true vocabulary.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from emomm_study.mini.model.build import MiniConfig, build_processor
from tests import true_vocabulary

# Imported here: beside a CPU build of torch they need emomm_study.systems to be imported first.
from transformers.initialization import no_init_weights  # isort: skip
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration  # isort: skip

VOCABULARY = 152_064
"""Rows of the published embeddings: 151,665 tokens, padded."""
WINDOW = 300
"""Seconds that the published feature extractor pads a sound to."""
PREPROCESSOR = {
    "chunk_length": WINDOW, "dither": 0.0, "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128, "hop_length": 160, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "Qwen2VLImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711], "max_pixels": 12_845_056, "merge_size": 2,
    "min_pixels": 3136, "n_fft": 400, "n_samples": 4_800_000, "nb_max_frames": 30_000,
    "padding_side": "right", "padding_value": 0.0, "patch_size": 14,
    "processor_class": "Qwen2_5OmniProcessor", "return_attention_mask": True,
    "sampling_rate": 16_000, "temporal_patch_size": 2,
}  # fmt: skip
_TOKENS = {"audio_token_index": 151_646, "image_token_index": 151_655, "video_token_index": 151_656,
           "audio_start_token_id": 151_647, "audio_end_token_id": 151_648,
           "vision_start_token_id": 151_652, "vision_end_token_id": 151_653,
           "position_id_per_seconds": 25, "seconds_per_chunk": 2}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Of the thinker: decoder, then the towers of picture and sound."""

    hidden: int = 32
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 64
    tower: int = 32
    tower_layers: int = 1
    vision_heads: int = 2
    vision_ffn: int = 32
    audio_heads: int = 2
    audio_ffn: int = 32

    def narrowed(self, parts: int) -> Sizes:
        """One part of so many of every width and number of heads; heads are as wide as before."""
        widths = {field.name for field in fields(self)} - {"layers", "tower_layers"}
        return replace(self, **{name: getattr(self, name) // parts for name in widths})


TINY = Sizes()
SEVEN_B = Sizes(hidden=3584, layers=1, heads=28, kv_heads=4, ffn=18_944, tower=1280,
                vision_heads=16, vision_ffn=3420, audio_heads=20, audio_ffn=5120)  # fmt: skip
"""The widths of Qwen2.5-Omni-7B, and one layer of each kind."""


def _decoder(sizes: Sizes) -> dict:
    half = sizes.hidden // sizes.heads // 2
    section = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    return {
        "model_type": "qwen2_5_omni_text", "hidden_act": "silu", "hidden_size": sizes.hidden,
        "intermediate_size": sizes.ffn, "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.kv_heads,
        "max_position_embeddings": 32_768, "max_window_layers": sizes.layers,
        "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "use_sliding_window": False,
        "sliding_window": 32_768, "vocab_size": VOCABULARY, "use_cache": True,
        "rope_scaling": {"mrope_section": section, "rope_type": "default", "type": "default"},
    }  # fmt: skip


def _thinker(sizes: Sizes) -> dict:
    vision = {
        "model_type": "qwen2_5_omni_vision_encoder", "depth": sizes.tower_layers,
        "embed_dim": sizes.tower, "hidden_size": sizes.tower, "hidden_act": "silu",
        "in_channels": 3, "in_chans": 3, "intermediate_size": sizes.vision_ffn,
        "num_heads": sizes.vision_heads, "out_hidden_size": sizes.hidden, "patch_size": 14,
        "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2,
        "tokens_per_second": 25, "window_size": 112,
        "fullatt_block_indexes": [sizes.tower_layers - 1],
    }  # fmt: skip
    audio = {
        "model_type": "qwen2_5_omni_audio_encoder", "d_model": sizes.tower,
        "encoder_layers": sizes.tower_layers, "encoder_attention_heads": sizes.audio_heads,
        "encoder_ffn_dim": sizes.audio_ffn, "max_source_positions": 1500, "n_window": 100,
        "num_mel_bins": 128, "output_dim": sizes.hidden,
    }  # fmt: skip
    return _TOKENS | {
        "model_type": "qwen2_5_omni_thinker", "architectures": ["Qwen2OmniNaViTThinkerForConditionalGeneration"],
        "text_config": _decoder(sizes), "vision_config": vision, "audio_config": audio,
        "bos_token_id": 151_644, "eos_token_id": 151_645, "pad_token_id": 151_643,
        "user_token_id": 872, "ignore_index": -100, "init_std": 0.02,
    }  # fmt: skip


def _talker(sizes: Sizes) -> dict:
    small = {"hidden_size": 32, "head_dim": 8, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_window_layers": 1}  # fmt: skip
    scaling = {"mrope_section": [2, 1, 1], "rope_type": "default", "type": "default"}
    codes = {"tts_codec_start_token_id": 8293, "tts_codec_end_token_id": 8294,
             "tts_codec_pad_token_id": 8292, "tts_codec_mask_token_id": 8296,
             "tts_text_start_token_id": 151_860, "tts_text_end_token_id": 151_861,
             "tts_text_pad_token_id": 151_859}  # fmt: skip
    return _decoder(sizes) | _TOKENS | codes | small | {
        "model_type": "qwen2_5_omni_talker", "architectures": ["Qwen2OmniTalkerForConditionalGeneration"],
        "embedding_size": sizes.hidden, "vocab_size": 8448, "rope_scaling": scaling,
    }  # fmt: skip


def _vocoder() -> dict:
    dit = {"model_type": "qwen2_5_omni_dit", "hidden_size": 32, "num_hidden_layers": 1,
           "num_attention_heads": 2, "head_dim": 16, "emb_dim": 32, "enc_emb_dim": 16,
           "enc_dim": 16, "enc_channels": [16, 16, 16, 16, 48], "enc_attention_channels": 16,
           "enc_se_channels": 16, "mel_dim": 80, "num_embeds": 8193}  # fmt: skip
    vocoder = {"model_type": "qwen2_5_omni_bigvgan", "mel_dim": 80, "upsample_initial_channel": 64}
    return {"model_type": "qwen2_5_omni_token2wav", "dit_config": dit, "bigvgan_config": vocoder}


def config(sizes: Sizes) -> dict:
    """``config.json`` in the words of the published one."""
    return {
        "architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni",
        "enable_audio_output": True, "enable_talker": True, "torch_dtype": "bfloat16",
        "thinker_config": _thinker(sizes), "talker_config": _talker(sizes),
        "token2wav_config": _vocoder(),
    }  # fmt: skip


def _draw(parameter: torch.Tensor, std: float) -> None:
    """Fill with one million normal numbers over and over, which takes seconds for a billion."""
    block = torch.empty(1_000_003, dtype=parameter.dtype).normal_(std=std)
    flat = parameter.detach().view(-1)
    for begin in range(0, len(flat), len(block)):
        part = flat[begin : begin + len(block)]
        part.copy_(block[: len(part)])


def write(folder: Path, sizes: Sizes = TINY, *, std: float = 0.2, shard: str = "2MB") -> Path:
    """A checkpoint with weights in bfloat16, drawn with a spread of ``std``."""
    described = config(sizes)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with no_init_weights():
            whole = Qwen2_5OmniForConditionalGeneration(Qwen2_5OmniConfig.from_dict(described))
    finally:
        torch.set_default_dtype(torch.float32)
    for name, parameter in whole.named_parameters():
        _draw(parameter, std)
        if re.search(r"(norm\w*|ln_\w+)\.weight$", name):
            parameter.detach().add_(1)
    whole.save_pretrained(folder, max_shard_size=shard)
    # Not as this version of transformers would write them, but as the hub's files read.
    for name, content in (
        ("config.json", described),
        ("preprocessor_config.json", PREPROCESSOR),
        ("chat_template.json", {"chat_template": build_processor(MiniConfig()).chat_template}),
    ):
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    true_vocabulary.tokenizer(folder, renamed=true_vocabulary.OMNI)
    return folder
