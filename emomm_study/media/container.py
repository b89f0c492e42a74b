"""Opening a film or a sound track: the stream that a player plays, and why it cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import av
from av.container import InputContainer
from av.stream import Disposition, Stream


class MediaError(ValueError):
    """A clip's file that cannot be used: missing, empty, damaged, or without the needed stream."""


AGAIN = "copy the clip again from the dataset, or leave it out"
ANEW = "cut or convert it anew (mp4 with H.264 and AAC)"
Kind = Literal["video", "audio"]


def require_file(path: Path) -> None:
    """Raise :class:`MediaError` unless the path is a file with something in it."""
    try:
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: it cannot be reached ({error})") from error
    if size is None:
        raise MediaError(f"{path}: no such file; check the corpus root and the loader's report")
    if size == 0:
        raise MediaError(f"{path}: the file is empty; copy the clip again from the dataset")


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Make a :class:`MediaError` that names the file of whatever a library raises about it.

    ``what`` could not be done.
    """
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(f"{path}: {what} ({reason(error)}); {AGAIN}") from error


def reason(error: Exception) -> str:
    """One line of what a library says about a file; raises an error that is not the file's fault.

    Memory that the machine lacks is none, but memory that FFmpeg asks for because a damaged
    header says so is.
    """
    if isinstance(error, MemoryError) and not isinstance(error, av.FFmpegError):
        raise error
    said = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
    return (said.strip().splitlines() or [type(error).__name__])[0][:200]


def opened(path: Path) -> InputContainer:
    """A container open for reading; tags in any encoding, since nobody reads them."""
    return av.open(str(path), metadata_errors="replace")


def chosen_stream(container: InputContainer, kind: Kind) -> Stream | None:
    """The stream of a kind that a player plays by itself, and never a cover picture."""
    stream = container.streams.best(kind)
    if stream is None or stream.disposition & Disposition.attached_pic:
        return None
    return stream


def stream_defect(stream: Stream) -> str | None:
    """Why a stream cannot be decoded, as far as its header tells."""
    codec = stream.codec_context
    if codec is None:
        return f"its {stream.type} is in a codec that FFmpeg cannot decode here"
    if codec.codec_tag in ("encv", "enca"):
        return f"its {stream.type} is encrypted"
    if stream.type == "video" and not (codec.width > 0 and codec.height > 0):
        return "its header gives the pictures no size"
    entries = stream.index_entries
    if len(entries) and all(entry.is_discard for entry in entries):
        return f"an edit list hides all of its {stream.type}"
    return None


def missing_bytes(container: InputContainer, size: int) -> int:
    """Bytes that a container's index points to beyond the ``size`` of its file."""
    # An interrupted copy keeps its header, but its index points past the end.
    ends = (
        entry.pos + entry.size
        for stream in container.streams
        if stream.type in ("video", "audio")
        for entry in stream.index_entries
    )
    return max(0, max(ends, default=0) - size)


def require_stream(container: InputContainer, path: Path, kind: Kind) -> Stream:
    """The stream that a player plays, or a :class:`MediaError` that says why there is none."""
    stream = chosen_stream(container, kind)
    if stream is None:
        sense = "seen" if kind == "video" else "heard"
        raise MediaError(f"{path}: no {kind} stream, the clip cannot be {sense}; {AGAIN}")
    if defect := stream_defect(stream):
        raise MediaError(f"{path}: {defect}; {ANEW}, or leave it out")
    size = path.stat().st_size
    if missing := missing_bytes(container, size):
        raise MediaError(f"{path}: cut short, {size} of at least {size + missing} bytes; {AGAIN}")
    return stream
