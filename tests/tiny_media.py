"""Makers of tiny media files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


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
