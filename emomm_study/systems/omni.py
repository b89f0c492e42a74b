"""Any Qwen2.5-Omni thinker, small or large: media in, five letter logits and a score out."""

from __future__ import annotations

import emomm_lib._torchvision  # noqa: F401

# isort: split
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    BatchFeature,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from emomm_study.systems.backbone import Backbone, weights_fingerprint, without_weights
from emomm_study.systems.interface import Encoded, Media, Query, made_ready
from emomm_study.systems.prompts import messages

SUPPORTED = ("qwen2_5_omni", "qwen2_5_omni_thinker")
STEP = 3
"""Seconds to a multiple of which sounds are padded, up to the feature extractor's window."""


@dataclass(frozen=True)
class Features:
    """A batch of ``count`` clips as the encoders take it: patches, and sounds by clips' places."""

    count: int
    video: BatchFeature | None
    sounds: Sequence[tuple[Sequence[int], BatchFeature]]


class OmniModel(Backbone):
    """A thinker and its processor behind the benchmark's questions."""

    version = 3
    axes = 3

    def __init__(
        self,
        model: Qwen2_5OmniThinkerForConditionalGeneration,
        processor: Qwen2_5OmniProcessor,
        fingerprint: str,
        pixels: tuple[int, int] | None = None,
    ) -> None:
        spelled = {"V": processor.video_token, "A": processor.audio_token}
        super().__init__(model, processor.tokenizer, fingerprint, spelled)
        _check_numbers(model.config, processor)
        self.processor = processor
        size = processor.video_processor.size
        self.frame_size = (
            {"shortest_edge": pixels[0], "longest_edge": pixels[1]} if pixels else dict(size)
        )

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        dtype: str = "auto",
        device: str = "cpu",
        pixels: tuple[int, int] | None = None,
        weights: bool = True,
    ) -> OmniModel:
        """Load a thinker from a folder or a hub id.

        ``dtype`` is a torch dtype's name or ``auto``; ``pixels`` is the least and the most pixels
        of a frame, to which it is resized (the video processor's own setting when None). Without
        ``weights`` it has shapes alone, and computes none (``systems.size``). Raises
        ``ValueError`` for a folder without ``config.json`` or an architecture that this adapter
        does not know.
        """
        path = Path(name_or_path)
        if path.is_dir() and not (path / "config.json").exists():
            raise ValueError(f"{path} has no config.json; expected a folder by save_pretrained")
        config = AutoConfig.from_pretrained(str(name_or_path))
        if config.model_type not in SUPPORTED:
            raise ValueError(
                f"{name_or_path} is a {config.model_type!r} model; this adapter reads {SUPPORTED}"
            )
        kind = Qwen2_5OmniThinkerForConditionalGeneration
        if weights:
            model = kind.from_pretrained(str(name_or_path), dtype=dtype, use_safetensors=True)
            model = model.to(device)
        else:
            own = Qwen2_5OmniThinkerConfig.from_pretrained(str(name_or_path))
            model = without_weights(kind, own, dtype)
        processor = Qwen2_5OmniProcessor.from_pretrained(str(name_or_path))
        return cls(model, processor, weights_fingerprint(path, config), pixels)

    def settings(self) -> dict[str, Any]:
        """All on this side that can change an answer, for run fingerprints."""
        return super().settings() | {"frame_size": self.frame_size}

    @torch.inference_mode()
    def features(self, clips: Sequence[Media]) -> Features:
        """What the processors make of a batch of clips, on the CPU."""
        seen = [clip.frames.frames for clip in clips if clip.frames is not None]
        heard = [i for i, clip in enumerate(clips) if clip.sound is not None]
        extractor, sounds = self.processor.feature_extractor, []
        long = [i for i in heard if len(clips[i].sound) > extractor.n_samples]
        # Beyond its window the extractor cuts a sound off, or it takes no others beside it.
        for some in [[i for i in heard if i not in long], *([i] for i in long)]:
            if not some:
                continue
            own = [clips[i].sound for i in some]
            done = extractor(
                own,
                sampling_rate=extractor.sampling_rate,
                padding="max_length",
                max_length=self._padded(own),
                truncation=some[0] not in long,
                return_attention_mask=True,
                return_tensors="pt",
            )
            sounds.append((some, done))
        return Features(len(clips), self._patches(seen) if seen else None, sounds)

    @torch.inference_mode()
    def encode(self, clips: Sequence[Media]) -> list[Encoded]:
        """Run both encoders once over a batch of clips."""
        features = made_ready(clips) or self.features(clips)
        seen = [i for i, c in enumerate(clips) if c.frames is not None]
        video: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        kept: dict[int, torch.Tensor] = {}
        audio: dict[int, torch.Tensor] = {}
        if (done := features.video) is not None:
            grid = done["video_grid_thw"].to(self.device)
            pixels = done["pixel_values_videos"].to(self.device)
            embeds = self.model.get_video_features(pixels, grid).pooler_output
            video = dict(zip(seen, zip(embeds, grid, strict=True), strict=True))
        kept = {
            i: self._kept(clips[i], self.video_grid(video[i][1]))
            for i in seen
            if clips[i].region is not None
        }
        for some, done in features.sounds:
            mask = done["attention_mask"].to(self.device)
            mel = done["input_features"].to(self.device, self.model.dtype)
            embeds = self.model.get_audio_features(mel, feature_attention_mask=mask)
            lengths = self.model.model.audio_tower._get_feat_extract_output_lengths(mask.sum(-1))[1]
            parts = torch.split(embeds.last_hidden_state, lengths.tolist())
            audio |= zip(some, parts, strict=True)
        patch = self.processor.video_processor.temporal_patch_size
        video |= {i: (video[i][0][kept[i]], video[i][1]) for i in kept}
        return [
            Encoded(
                video=video[i][0] if i in video else None,
                grid=video[i][1] if i in video else None,
                seconds_per_grid=patch / clips[i].frames.fps if i in video else None,
                audio=audio.get(i),
                kept=kept.get(i),
            )
            for i in range(len(clips))
        ]

    def _padded(self, sounds: Sequence[np.ndarray]) -> int:
        """Samples to pad sounds to, for features as if padded to the extractor's window.

        The published window is 300 s, whose features take a second of a core and 15 MB a clip. Only
        the silence that a sound's last spectrum reaches into counts. In steps, so that the products
        behind features, whose last bits depend on their shapes, have few shapes.
        """
        extractor = self.processor.feature_extractor
        step = STEP * extractor.sampling_rate
        needed = max(map(len, sounds)) + extractor.n_fft
        return min(-(-needed // step) * step, extractor.n_samples)

    def _patches(self, videos: Sequence[np.ndarray | torch.Tensor]) -> BatchFeature:
        return self.processor.video_processor(
            videos, size=self.frame_size, do_sample_frames=False, return_tensors="pt"
        )

    def blank(self, frames: tuple[int, int, int] | None, samples: int | None) -> Encoded:
        """What :meth:`encode` would make of a clip of that size, in shapes alone (on ``meta``)."""
        shape = partial(torch.empty, device="meta", dtype=self.model.dtype)
        width, video, grid, audio = self.decoder.config.hidden_size, None, None, None
        if frames is not None:
            number, *size = frames
            made = self._patches([torch.empty(number, 3, *size, dtype=torch.uint8, device="meta")])
            grid = made["video_grid_thw"][0]
            video = shape(math.prod(self.video_grid(grid)), width)
        if samples is not None:
            extractor = self.processor.feature_extractor
            # The mask has every hop of the sound, and the features none that only begins in it.
            hops = max(samples, extractor.n_samples) // extractor.hop_length
            mel = torch.tensor(min(-(-samples // extractor.hop_length), hops))
            tower = self.model.model.audio_tower
            audio = shape(int(tower._get_feat_extract_output_lengths(mel)[1]), width)
        return Encoded(video, grid, None if grid is None else 1.0, audio)

    def video_grid(self, grid: torch.Tensor) -> tuple[int, int, int]:
        """``(t, h, w)`` of a video's tokens, from the grid of its patches."""
        merge = self.model.config.vision_config.spatial_merge_size
        t, h, w = grid.tolist()
        return t, h // merge, w // merge

    def _chat(self, query: Query) -> str:
        return self.processor.apply_chat_template(
            messages(query.coalition, query.corpus, query.transcript),
            tokenize=False,
            add_generation_prompt=True,
        )

    def _positions(
        self, ids: torch.Tensor, mask: torch.Tensor, queries: Sequence[Query]
    ) -> torch.Tensor:
        seen = [q.clip for q in queries if "V" in q.coalition]
        if not seen:
            return super()._positions(ids, mask, queries)
        heard = [q.clip for q in queries if "A" in q.coalition]
        positions, _ = self.model.model.get_rope_index(
            ids,
            video_grid_thw=torch.stack([c.grid for c in seen]),
            attention_mask=mask,
            audio_seqlens=self._mel_lengths(heard),
            second_per_grids=torch.tensor([c.seconds_per_grid for c in seen]),
        )
        return positions

    def _mel_lengths(self, clips: Sequence[Encoded]) -> torch.Tensor | None:
        """Mel frames for each clip's number of audio tokens: what the rope index asks for."""
        if not clips:
            return None
        return torch.tensor([4 * len(c.audio) for c in clips], device=self.device)


def _check_numbers(config: Qwen2_5OmniThinkerConfig, processor: Qwen2_5OmniProcessor) -> None:
    """Refuse a tokenizer whose tokens of media are not those that the model looks for."""
    expected = {
        processor.video_token: config.video_token_id,
        processor.audio_token: config.audio_token_id,
        processor.vision_bos_token: config.vision_start_token_id,
        processor.audio_bos_token: config.audio_start_token_id,
    }
    found = {token: processor.tokenizer.convert_tokens_to_ids(token) for token in expected}
    if wrong := [f"{t} is {found[t]}, not {n}" for t, n in expected.items() if found[t] != n]:
        raise ValueError(
            f"the tokenizer is another than the model was made with: {'; '.join(wrong)} as its "
            "config.json says; give the checkpoint the tokenizer's files that it was published with"
        )
