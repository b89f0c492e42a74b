"""Clips after the encoders, on disk: media are decoded and encoded once for all that is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from safetensors import safe_open

from emomm_study.evaluate.shards import ShardStore
from emomm_study.systems.interface import Encoded

ClipKey = tuple[str, str]
"""(sample_id, version), as in a plan."""
_PARTS = ("video", "grid", "audio")


class EncodingStore(ShardStore):
    """Encoded clips of one model and one way of reading media, by :data:`ClipKey`.

    Takes ``hidden x tokens`` numbers a clip: 88 KB for Omni-mini, tens of MB for a 7B model.
    """

    content = "encoded clips"

    def write(self, keys: Sequence[ClipKey], clips: Sequence[Encoded]) -> None:
        """Keep some clips that have both video and sound."""
        tensors = {
            f"{i}.{name}": getattr(clip, name).contiguous()
            for i, clip in enumerate(clips)
            for name in _PARTS
        }
        seconds = [clip.seconds_per_grid for clip in clips]
        self._keep(keys, tensors, seconds=json.dumps(seconds))

    def read(self, key: ClipKey, device: torch.device) -> Encoded:
        """One clip as it was encoded; ``KeyError`` where it was not."""
        file, i = self._place[key]
        with safe_open(file, "pt", device=str(device)) as shard:
            parts = {name: shard.get_tensor(f"{i}.{name}") for name in _PARTS}
            seconds = json.loads(shard.metadata()["seconds"])[i]
        return Encoded(seconds_per_grid=seconds, **parts)
