"""Encoded faces and voices on disk, and clips put together of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from emomm_study.mini.model.bank import Bank
from emomm_study.mini.model.decoder import EncodedBank, by_shown
from emomm_study.paths import whole
from emomm_study.systems.interface import Encoded


def save_encoded(path: Path, bank: EncodedBank) -> None:
    """Write a bank's clips after the towers; all have videos of one size."""
    clips = bank.clips
    tensors = {
        "video": torch.stack([c.video for c in clips]),
        "grid": torch.stack([c.grid for c in clips]),
        "seconds": torch.tensor([c.seconds_per_grid for c in clips], dtype=torch.float64),
        "audio": torch.cat([c.audio for c in clips]),
        "heard": torch.tensor([len(c.audio) for c in clips]),
    }
    with whole(path) as partial:
        save_file(tensors, partial)


def load_encoded(path: Path, bank: Bank) -> EncodedBank:
    """Read what :func:`save_encoded` wrote of a bank."""
    kept = load_file(path)
    audio = kept["audio"].split(kept["heard"].tolist())
    every = zip(kept["video"], kept["grid"], kept["seconds"].tolist(), audio, strict=True)
    clips = [Encoded(video, grid, seconds, sound) for video, grid, seconds, sound in every]
    return EncodedBank(clips, *by_shown(bank))


def assembled(
    bank: EncodedBank, plan: pd.DataFrame, seed: int
) -> tuple[list[Encoded], NDArray[np.int64]]:
    """A face and a voice for every planned clip, in half precision as they are kept; whose face."""
    rng = np.random.default_rng([seed, 5])
    clips, faces = [], []
    for planned in plan.to_dict("records"):
        face, voice = bank.drawn(planned, rng)
        clips.append(replace(bank.clips[face], audio=bank.clips[voice].audio))
        faces.append(face)
    return clips, np.array(faces, np.int64)


def beside_room(clip: Encoded, other: Encoded, parts: NDArray[np.uint8], moments: int) -> Encoded:
    """The clip with moments appended that show the room of another alone, and so no face.

    ``parts`` is what each token of the other's video shows, 0 the room; those are repeated.
    """
    assert clip.video is not None and clip.grid is not None and other.video is not None
    tokens = moments * int(clip.grid[1:].prod())
    rooms = np.flatnonzero(parts.ravel() == 0)
    more = other.video[torch.from_numpy(rooms[np.arange(tokens) % len(rooms)])]
    grid = clip.grid + torch.tensor([moments, 0, 0])
    return replace(clip, video=torch.cat([clip.video, more]), grid=grid)
