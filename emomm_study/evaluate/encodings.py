"""Clips after the encoders, on disk: media are decoded and encoded once for all that is asked."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from emomm_study.systems.omni import Encoded

ClipKey = tuple[str, str]
"""(sample_id, version), as in a plan."""
_PARTS = ("video", "grid", "audio")


class EncodingStore:
    """Encoded clips of one model and one way of reading media, which its folder is named after.

    A file a batch, written whole or not at all. Takes ``hidden x tokens`` numbers a clip: 88 KB
    for Omni-mini, tens of MB for a 7B model.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._place: dict[ClipKey, tuple[Path, int]] = {}
        self._files: set[Path] = set()
        self.refresh()

    def refresh(self) -> None:
        """Find what other processes have written."""
        for file in sorted(set(self.folder.glob("*.safetensors")) - self._files):
            self._note(file)

    def _note(self, file: Path) -> None:
        try:
            with safe_open(file, "pt") as shard:
                keys = [tuple(key) for key in json.loads(shard.metadata()["keys"])]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is not a file of encoded clips ({error}); delete it, and they are encoded "
                "again"
            ) from error
        self._place |= {key: (file, i) for i, key in enumerate(keys)}
        self._files.add(file)

    def __contains__(self, key: ClipKey) -> bool:
        return key in self._place

    def write(self, keys: Sequence[ClipKey], clips: Sequence[Encoded]) -> None:
        """Keep some clips that have both video and sound."""
        tensors = {}
        for i, clip in enumerate(clips):
            for name in _PARTS:
                tensors[f"{i}.{name}"] = getattr(clip, name).contiguous()
        seconds = [clip.seconds_per_grid for clip in clips]
        text = json.dumps([list(key) for key in keys])
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
        partial = file.with_suffix(".part")
        save_file(tensors, partial, {"keys": text, "seconds": json.dumps(seconds)})
        os.replace(partial, file)
        self._note(file)

    def read(self, key: ClipKey, device: torch.device) -> Encoded:
        """One clip as it was encoded; ``KeyError`` where it was not."""
        file, i = self._place[key]
        with safe_open(file, "pt", device=str(device)) as shard:
            parts = {name: shard.get_tensor(f"{i}.{name}") for name in _PARTS}
            seconds = json.loads(shard.metadata()["seconds"])[i]
        return Encoded(seconds_per_grid=seconds, **parts)
