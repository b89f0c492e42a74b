"""Tiny media files, and a copy of the published tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import settings
from tiny_media import grey_frames, tone, write_mp4

from emomm_study.paths import PAPER_DATA

# The same generated inputs on every machine, however busy; --hypothesis-profile=search draws others.
settings.register_profile("search", derandomize=False, deadline=None)
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


@pytest.fixture(scope="session")
def mp4_bytes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Tiny clips by kind: good, silent (no audio stream), blind (no video stream), cut, junk."""
    folder = tmp_path_factory.mktemp("mp4")
    frames, sound = grey_frames(), tone()
    good = write_mp4(folder / "good.mp4", frames=frames, sound=sound, header_first=True)
    return {
        "good": good.read_bytes(),
        "silent": write_mp4(folder / "silent.mp4", frames=frames).read_bytes(),
        "blind": write_mp4(folder / "blind.mp4", sound=sound).read_bytes(),
        "cut": good.read_bytes()[:-800],
        "junk": b"not a film" * 100,
        "zero": b"",
    }


@pytest.fixture
def put(mp4_bytes: dict[str, bytes]) -> Callable[..., Path]:
    """``put(path, kind)`` writes a tiny mp4 or wav; a wav's kinds are good, zero, junk, empty."""

    def put_file(path: Path, kind: str = "good") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".wav" and kind in ("good", "empty"):
            soundfile.write(path, tone() if kind == "good" else np.zeros(0), 16_000)
        else:
            path.write_bytes(mp4_bytes[kind])
        return path

    return put_file


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The published tables in a folder of their own, to be altered."""
    return shutil.copytree(PAPER_DATA, tmp_path / "paper")
