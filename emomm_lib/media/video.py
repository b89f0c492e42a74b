"""Frames of a clip, sampled evenly and deterministically (decord)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import decord
import numpy as np
from numpy.typing import NDArray

# Failures come back as exceptions that name the file; ffmpeg's own lines would repeat them.
decord.logging.set_level(decord.logging.QUIET)


class MediaError(ValueError):
    """A clip's file that cannot be used: missing, empty, damaged, or without the needed stream."""


@dataclass(frozen=True)
class VideoSettings:
    """How frames are sampled: a fixed number a clip, or a rate.

    Parameters
    ----------
    num_frames
        Frames a clip; a shorter clip repeats frames.
    fps
        Frames a second; then ``num_frames`` must be None, and no frame is repeated.
    max_frames
        Upper limit under ``fps``; a longer clip is sampled more sparsely.
    threads
        Decoder threads; does not change the frames.
    """

    num_frames: int | None = 8
    fps: float | None = None
    max_frames: int = 768
    threads: int = 1

    def __post_init__(self) -> None:
        if (self.num_frames is None) == (self.fps is None):
            raise ValueError(f"set one of num_frames and fps, the other to None; got {self}")
        amount = self.fps if self.num_frames is None else self.num_frames
        if amount <= 0 or self.max_frames <= 0:
            raise ValueError(f"num_frames, fps and max_frames must be positive; got {self}")


@dataclass(frozen=True)
class Frames:
    """Sampled frames.

    Attributes
    ----------
    frames
        ``(N, H, W, 3)`` uint8, RGB.
    fps
        Sampled frames a second of the clip: N divided by its duration.
    """

    frames: NDArray[np.uint8]
    fps: float


def frame_indices(total: int, native_fps: float, settings: VideoSettings) -> NDArray[np.int64]:
    """Frames at the middle of N equal spans of a clip of ``total`` frames.

    Middles, because clips cut from longer videos often start on a frozen frame. Integer
    arithmetic: ``frame_indices(8, 25, VideoSettings(num_frames=4))`` is ``[1, 3, 5, 7]``.
    """
    if settings.num_frames is not None:
        count = settings.num_frames
    else:
        wanted = round(total / native_fps * settings.fps)
        count = max(1, min(wanted, settings.max_frames, total))
    return (2 * np.arange(count, dtype=np.int64) + 1) * total // (2 * count)


def read_video(path: str | Path, settings: VideoSettings = VideoSettings()) -> Frames:
    """Sampled frames of a clip and their rate; its sound track is never touched.

    Raises
    ------
    MediaError
        When the file is missing, empty or damaged, or has no video stream.
    """
    path = Path(path)
    require_file(path)
    try:
        reader = decord.VideoReader(str(path), num_threads=settings.threads)
        native_fps = float(reader.get_avg_fps())
        if not len(reader) or not native_fps > 0:
            raise MediaError(f"{path}: the video stream is empty; copy the clip again")
        indices = frame_indices(len(reader), native_fps, settings)
        frames = reader.get_batch(indices).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise MediaError(
            f"{path}: its frames cannot be decoded (damaged, cut short, or no video stream); copy "
            "the clip again from the dataset, or leave it out"
        ) from error
    return Frames(frames, len(indices) * native_fps / len(reader))


def read_frames(path: str | Path, settings: VideoSettings = VideoSettings()) -> NDArray[np.uint8]:
    """Sampled frames ``(N, H, W, 3)`` uint8 RGB of a clip; raises as :func:`read_video`."""
    return read_video(path, settings).frames


def require_file(path: Path) -> None:
    """Raise :class:`MediaError` unless the path is a file with something in it."""
    if not path.is_file():
        raise MediaError(f"{path}: no such file; check the corpus root and the loader's report")
    if path.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty; copy the clip again from the dataset")
