"""Makers of tiny media files, and a copy of the published tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from emomm_lib.paths import PAPER_DATA


def write_mp4(
    path: Path,
    *,
    frames: np.ndarray | None = None,
    fps: int = 8,
    sound: np.ndarray | None = None,
    rate: int = 16_000,
    header_first: bool = False,
) -> Path:
    """An mp4 (H.264, AAC) of frames (N, H, W, 3) and sound (samples,) or (channels, samples)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "faststart"} if header_first else {}
    with av.open(str(path), "w", options=options) as container:
        tracks = []
        if frames is not None:
            video = container.add_stream("libx264", rate=fps, options={"crf": "4", "g": "8"})
            video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
            tracks.append((video, [av.VideoFrame.from_ndarray(f, format="rgb24") for f in frames]))
        if sound is not None:
            channels = np.atleast_2d(sound).astype(np.float32)
            layout = "mono" if len(channels) == 1 else "stereo"
            audio = container.add_stream("aac", rate=rate, layout=layout)
            blocks = []
            for start in range(0, channels.shape[1], 1024):
                block = np.ascontiguousarray(channels[:, start : start + 1024])
                blocks.append(av.AudioFrame.from_ndarray(block, format="fltp", layout=layout))
                blocks[-1].sample_rate, blocks[-1].pts = rate, start
            tracks.append((audio, blocks))
        for stream, items in tracks:
            for item in [*items, None]:
                container.mux(stream.encode(item))
    return path


def grey_frames(count: int = 8, size: int = 32) -> np.ndarray:
    """Frame i is uniformly grey, i * 255 / count."""
    levels = (np.arange(count) * 255 // count).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, size, size, 3)).copy()


def tone(seconds: float = 1.0, rate: int = 16_000, hertz: float = 440) -> np.ndarray:
    """A sine of amplitude 0.5."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype("f4")


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
