"""Tiny media files, a copy of the published tables, and command lines carried out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import settings
from tiny_media import grey_frames, tone, write_mp4

from emomm_study.command.main import main
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


@pytest.fixture
def found(capsys):
    """Carries out a command line with ``--json``, and gives the object that it printed."""

    def run(*argv: str, status: int = 0) -> dict:
        capsys.readouterr()
        assert main([*argv, "--json"]) == status
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refused(capsys):
    """Carries out a command line that is refused, and gives the sentence."""

    def run(*argv: str) -> str:
        assert main(list(argv)) == 2
        out, err = capsys.readouterr()
        assert out == "" and "Traceback" not in err
        return err

    return run
