"""Encoded faces and voices on disk, and clips put together of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
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


def assembled(bank: EncodedBank, plan: pd.DataFrame, seed: int) -> list[Encoded]:
    """A face and a voice from the bank for every planned clip, in half precision as they are kept."""
    rng = np.random.default_rng([seed, 5])
    return [bank.draw(clip, rng) for clip in plan.to_dict("records")]


def longer(clip: Encoded, steps: int) -> Encoded:
    """The clip with a video of so many moments: its own, over and over, which add nothing new."""
    assert clip.video is not None and clip.grid is not None
    moments, height, width = clip.grid.tolist()
    own = clip.video.view(moments, -1, clip.video.shape[-1])
    again = own[torch.arange(steps) % moments].flatten(0, 1)
    return replace(clip, video=again, grid=torch.tensor([steps, height, width]))


def beside_rooms(clip: Encoded, other: Encoded, rooms: torch.Tensor, tokens: int) -> Encoded:
    """The clip with another video's room appended: tokens that show no face, as a step of time.

    ``rooms`` are the places in ``other.video`` that show the room alone; they are repeated.
    """
    assert clip.video is not None and clip.grid is not None and other.video is not None
    _, height, width = clip.grid.tolist()
    steps = -(-tokens // (height * width))
    places = rooms[torch.arange(steps * height * width) % len(rooms)]
    video = torch.cat([clip.video, other.video[places]])
    grid = clip.grid + torch.tensor([steps, 0, 0])
    return replace(clip, video=video, grid=grid)
