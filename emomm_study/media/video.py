"""Frames of a clip as a player shows them, sampled evenly in time (decord; PyAV where it errs)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from emomm_study.media.container import (
    AGAIN,
    MediaError,
    opened,
    reading,
    require_file,
    require_stream,
)
from emomm_study.paths import is_utf8

__all__ = ["Frames", "MediaError", "VideoSettings", "read_frames", "read_video", "require_file"]

# Failures come back as exceptions that name the file; ffmpeg's own lines would repeat them.
decord.logging.set_level(decord.logging.QUIET)

MOST_PIXELS = 2**26
"""Of a frame, twice those of an 8K film: what asks for more is a damaged header."""


@dataclass(frozen=True)
class VideoSettings:
    """How frames are sampled: a fixed number a clip, or a rate.

    Parameters
    ----------
    num_frames
        Frames a clip; a shorter clip repeats frames.
    fps
        Frames a second; then ``num_frames`` must be None, there are never more frames than the
        film has, and only one that is shown for long is repeated.
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
        Sampled frames a second of the clip: N divided by the time that its pictures are shown.
    """

    frames: NDArray[np.uint8]
    fps: float


@dataclass(frozen=True)
class Timeline:
    """When the pictures of a film are shown.

    Attributes
    ----------
    starts
        When each begins to be shown, ascending, in ticks; it is shown until the next one begins.
    end
        When the last one ceases to be shown.
    tick
        Seconds.
    """

    starts: Sequence[int]
    end: int
    tick: Fraction

    def sample(self, settings: VideoSettings) -> tuple[list[int], float]:
        """Pictures shown at the middles of N equal spans of time, and N divided by all of it.

        Middles, because clips cut from longer videos often start on a frozen frame. Integer
        arithmetic: of a film of eight frames at one rate, four are ``[1, 3, 5, 7]``.
        """
        span = self.end - self.starts[0]
        seconds = span * self.tick
        if settings.num_frames is not None:
            count = settings.num_frames
        else:
            wanted = round(float(seconds) * settings.fps)
            count = max(1, min(wanted, settings.max_frames, len(self.starts)))
        middles = (self.starts[0] + (2 * k + 1) * span // (2 * count) for k in range(count))
        indices = [bisect_right(self.starts, middle) - 1 for middle in middles]
        return indices, float(count / seconds)


def read_video(path: str | Path, settings: VideoSettings = VideoSettings()) -> Frames:
    """Sampled frames of a clip and their rate; its sound track is never touched.

    Frames are those that a player shows: what an edit list hides is left out, a picture lasts
    until the next one, quarter turns and mirrors of the display matrix are carried out. Pixels
    that are not square stay as they are stored, as in every model's own pipeline: its processor
    resizes the frames anyway. One check a file (packets without decoding them, and the first
    frame) decides whether decord counts the same pictures; if not, PyAV decodes them.

    Raises
    ------
    MediaError
        When the file is missing, empty or damaged, or has no video stream that can be decoded.
    """
    path = Path(path)
    require_file(path)
    with reading(path, "its frames cannot be decoded"):
        timeline = _plain_timeline(path)
        if timeline is not None:
            indices, fps = timeline.sample(settings)
            return Frames(_by_decord(path, indices, len(timeline.starts), settings.threads), fps)
        timeline, size = _decoded_timeline(path, settings.threads)
        indices, fps = timeline.sample(settings)
        return Frames(_by_pyav(path, indices, size, settings.threads), fps)


def read_frames(path: str | Path, settings: VideoSettings = VideoSettings()) -> NDArray[np.uint8]:
    """Sampled frames ``(N, H, W, 3)`` uint8 RGB of a clip; raises as :func:`read_video`."""
    return read_video(path, settings).frames


def _film(container: InputContainer, path: Path, threads: int = 1) -> VideoStream:
    stream = require_stream(container, path, "video")
    codec = stream.codec_context
    codec.thread_count = threads
    codec.options = {"max_pixels": str(MOST_PIXELS)}
    return stream


def _plain_timeline(path: Path) -> Timeline | None:
    """The timeline of a film that decord reads as a player does, None for any other.

    decord counts packets. They are the pictures shown where the index has them all, none is hidden,
    they follow each other at one rate from zero on, and none of a group is shown before its key
    frame. Its other limits: narrow pictures (their rows are padded), mirrors, 10-bit colour,
    fields, codecs younger than its FFmpeg, and names of files that are not UTF-8.
    """
    with opened(path) as container:
        stream = _film(container, path)
        if container.format.name.split(",")[0] != "mov" or stream.codec_context.name != "h264":
            return None
        if not is_utf8(path):
            return None
        packets, first = [], None
        for packet in container.demux(stream):
            if first is None:
                first = next(iter(packet.decode()), None)
            if packet.dts is not None:
                packets.append(packet)
        whole = len(packets) == stream.frames and len(container.streams.video) == 1
        if first is None or not whole or not _plain_picture(first, stream):
            return None
        if any(p.is_discard or p.is_corrupt or not p.size or p.pts is None for p in packets):
            return None
        starts = [p.pts for p in packets]
        step = packets[0].duration
        ordered = list(range(0, len(starts) * step, step)) if step else []
        if sorted(starts) != ordered or any(p.duration != step for p in packets):
            return None
        groups = [i for i, p in enumerate(packets) if p.is_keyframe]
        # Within a closed group the key frame is shown first, after all that came before it.
        if groups[:1] != [0] or any(starts[i] != i * step for i in groups):
            return None
        if any(min(starts[i:]) < starts[i] for i in groups):
            return None
        if any(p.has_sidedata("new_extradata") for p in packets):
            return None
        return Timeline(ordered, len(ordered) * step, stream.time_base)


def _plain_picture(frame: av.VideoFrame, stream: VideoStream) -> bool:
    width = frame.width
    return (
        frame.format.name in ("yuv420p", "yuvj420p")
        and not frame.interlaced_frame
        and _turned(frame) is None
        and (width, frame.height) == (stream.width, stream.height)
        # Wide enough that the padding of a row is less than the row.
        and (width >= 192 or width % 64 == 0)
    )


def _by_decord(path: Path, indices: list[int], total: int, threads: int) -> NDArray[np.uint8]:
    reader = decord.VideoReader(str(path), num_threads=threads)
    if len(reader) != total:
        raise MediaError(f"{path}: {total} frames by its index, {len(reader)} by decord; {AGAIN}")
    return reader.get_batch(indices).asnumpy()


def _shown(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Decoded frames but those that come too late to be shown."""
    last = None
    for frame in container.decode(stream):
        if frame.pts is None or last is None or frame.pts > last:
            last = frame.pts
            yield frame


def _decoded_timeline(path: Path, threads: int) -> tuple[Timeline, tuple[int, int]]:
    """The timeline that decoding shows, and the size ``(width, height)`` of its first frame."""
    with opened(path) as container:
        stream = _film(container, path, threads)
        rate = stream.average_rate or stream.guessed_rate
        tick, size, starts, length = stream.time_base, None, [], 0
        for frame in _shown(container, stream):
            size = size or (frame.width, frame.height)
            starts.append(frame.pts)
            length = frame.duration
    if size is None:
        raise MediaError(f"{path}: no picture of its video stream is shown; {AGAIN}")
    if None in starts or not tick:
        if not rate:
            raise MediaError(f"{path}: it says neither when nor how fast its pictures are shown")
        return Timeline(range(len(starts)), len(starts), 1 / Fraction(rate)), size
    if not length:
        gap = starts[-1] - starts[-2] if len(starts) > 1 else 0
        length = gap or (max(1, round(1 / (rate * tick))) if rate else 1)
    return Timeline(starts, starts[-1] + length, tick), size


def _by_pyav(
    path: Path, indices: list[int], size: tuple[int, int], threads: int
) -> NDArray[np.uint8]:
    wanted, pictures = set(indices), {}
    with opened(path) as container:
        for i, frame in enumerate(_shown(container, _film(container, path, threads))):
            if i in wanted:
                pictures[i] = _rgb(frame, size)
            if len(pictures) == len(wanted):
                break
    return np.stack([pictures[i] for i in indices])


def _rgb(frame: av.VideoFrame, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame ``(H, W, 3)`` at the film's size, turned as its display matrix says."""
    picture = frame.to_ndarray(format="rgb24", width=size[0], height=size[1], threads=1)
    turned = _turned(frame)
    if turned is None:
        return picture
    across, right, down = turned
    picture = picture.transpose(1, 0, 2) if across else picture
    return np.ascontiguousarray(picture[::down, ::right])


def _turned(frame: av.VideoFrame) -> tuple[bool, int, int] | None:
    """How a player turns a frame: swap its axes, then directions of x and y; None for not at all.

    By the display matrix ``(a b u; c d v; x y w)``, which sends (p, q) to (ap + cq, bp + dq).
    Angles between quarter turns go to the nearest of them.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    across = abs(b) + abs(c) > abs(a) + abs(d)
    right, down = (c, b) if across else (a, d)
    turn = across, -1 if right < 0 else 1, -1 if down < 0 else 1
    return None if turn == (False, 1, 1) else turn
