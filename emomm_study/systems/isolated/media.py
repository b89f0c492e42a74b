"""A clip's frames and sound as files, for a process that shares no memory with this one."""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import tempfile
import wave
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emomm_study.media.container import MediaError
from emomm_study.media.video import Frames
from emomm_study.paths import cache_dir
from emomm_study.systems.drivers.serving import RATE


class RunFolder:
    """A folder for the clip that a run is at, gone when the run is over.

    It holds files of one video and one sound at most. A folder of a run that was killed is removed
    by the next run that makes its own.
    """

    def __init__(self) -> None:
        home = cache_dir("drivers")
        with (home / "lock").open("w") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            for other in home.glob("run-*"):
                _remove_unless_held(other)
            self.path = Path(tempfile.mkdtemp(prefix="run-", dir=home))
            self._held = (self.path / "held").open("w")
            fcntl.flock(self._held, fcntl.LOCK_EX)
        self._there: dict[str, tuple[Any, Path, list[str]]] = {}
        self._end = weakref.finalize(self, _close, self.path, self._held, os.getpid())

    def close(self) -> None:
        self._there.clear()
        self._end()

    def frames(self, frames: Frames) -> list[str]:
        """Paths of frames as PNG files, which lose nothing."""

        def write(folder: Path) -> list[Path]:
            paths = [folder / f"{i}.png" for i in range(len(frames.frames))]
            for path, picture in zip(paths, frames.frames, strict=True):
                Image.fromarray(picture).save(path, compress_level=1)
            return paths

        return self._written("frames", frames, write)

    def sound(self, samples: np.ndarray) -> str:
        """Path of 16 kHz mono sound, int16 ``(samples,)``, as a wav file."""

        def write(folder: Path) -> list[Path]:
            path = folder / "sound.wav"
            with wave.open(str(path), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(RATE)
                file.writeframes(samples.astype("<i2").tobytes())
            return [path]

        return self._written("sound", samples, write)[0]

    def _written(self, kind: str, what: Any, write: Callable[[Path], list[Path]]) -> list[str]:
        """What is there, or else is written in the place of what is there."""
        if kind in self._there:
            there, folder, paths = self._there[kind]
            if there is what:
                return paths
            del self._there[kind]
            shutil.rmtree(folder, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=self.path))
        try:
            paths = list(map(str, write(folder)))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._there[kind] = what, folder, paths
        return paths


def in_16_bits(samples: np.ndarray) -> np.ndarray:
    """Sound in -1..1 ``(samples,)`` as int16; what is louder is cut off.

    Raises :class:`MediaError` for silence: all zeros is what a reader leaves that has failed.
    """
    whole = np.clip(np.rint(np.nan_to_num(samples) * 2.0**15), -(2**15), 2**15 - 1)
    if not whole.any():
        raise MediaError(
            "the sound is all zeros in 16 bits, as a reader leaves it that has failed; leave the "
            "clip out, or see to its sound"
        )
    return whole.astype(np.int16)


def most_sounds(samples: np.ndarray) -> int:
    """How many places for sound a prompt may have at most: one a second begun."""
    return max(1, math.ceil(len(samples) / RATE))


def _close(folder: Path, held: Any, owner: int) -> None:
    # A forked process has a copy of the object, and not of the files.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
    held.close()


def _remove_unless_held(folder: Path) -> None:
    try:
        with (folder / "held").open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return
