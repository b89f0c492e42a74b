"""Sound files that soundfile reads, and what it does not say: that the header promises more."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

import soundfile

SOUND_FORMATS = frozenset(f".{name.lower()}" for name in soundfile.available_formats())
"""File name endings that soundfile reads; anything else is opened as a media container."""

UNKNOWN_LENGTH = 0x7FFF_0000
"""Bytes; a length that was not known while writing is written as 0 or as at least this."""
MOST_FRAMES = 2**48
"""Where soundfile does not know the length either, it names a number beyond."""
RATES = range(1_000, 1_000_000)
"""Samples a second that can be a voice's; another number is a damaged header."""

_CHUNKS = {b"RIFF": "<4sI", b"RIFX": ">4sI", b"RF64": "<4sI", b"BW64": "<4sI", b"FORM": ">4sI"}
_SOUND = (b"data", b"SSND", b"BODY")
_OGG_PAGE = 65_307


def sound_file(path: Path) -> soundfile.SoundFile:
    """A sound file open for reading, whatever bytes its name is made of."""
    return soundfile.SoundFile(os.fsencode(path))


def missing_sound(path: Path) -> int | None:
    """Bytes of sound that a file's header promises and the file does not hold.

    0 where it is whole, or in a format that cannot tell; None where its length was not known while
    it was written, as into a pipe: then all that follows the header is sound.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        kind = file.read(4)
        if kind in _CHUNKS:
            return _missing_chunk(file, _CHUNKS[kind], size)
        if kind == b"riff":
            return _missing_wave64(file, size)
        if kind == b".snd":
            start, length = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
            return _missing(start, length, size)
        if kind == b"OggS":
            file.seek(max(0, size - _OGG_PAGE))
            return _missing_page(file.read())
    return 0


def _missing(start: int, length: int, size: int, unknown: int = UNKNOWN_LENGTH) -> int | None:
    return None if length == 0 or length >= unknown else max(0, start + length - size)


def _missing_chunk(file: BinaryIO, form: str, size: int) -> int | None:
    """Of RIFF's and AIFF's chunks: a name, a length of 32 bits, content padded to an even one."""
    (announced,) = struct.unpack(form[0] + "I", file.read(4).ljust(4, b"\0"))
    file.seek(12)
    wide = None
    while len(head := file.read(8)) == 8:
        name, length = struct.unpack(form, head)
        start = file.tell()
        if name == b"ds64":
            _, wide = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
        if name in _SOUND:
            if length == 0xFFFF_FFFF and wide is not None:
                return _missing(start, wide, size, MOST_FRAMES)
            # No sound at all, in a file that is otherwise as long as it says.
            if length == 0 and 0 <= size - 8 - announced <= 1:
                return 0
            return _missing(start, length, size)
        file.seek(start + length + length % 2)
    return 0


def _missing_wave64(file: BinaryIO, size: int) -> int | None:
    """Of Wave64's chunks: a name of 16 bytes, a length of 64 bits that counts both, padded to 8."""
    file.seek(40)
    while len(head := file.read(24)) == 24:
        (length,) = struct.unpack("<Q", head[16:])
        start = file.tell()
        if head.startswith(b"data"):
            return _missing(start, max(0, length - 24), size, MOST_FRAMES)
        if length < 24:
            return 0
        file.seek(min(start - 24 + (length + 7) // 8 * 8, size))
    return 0


def _missing_page(tail: bytes) -> int:
    """Of Ogg's pages: the last one is whole and says that it is the last."""
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + 27:
        return 1
    segments = tail[at + 27 : at + 27 + tail[at + 26]]
    lost = at + 27 + tail[at + 26] + sum(segments) - len(tail)
    return max(lost, 0 if tail[at + 5] & 4 else 1)


def sound_defect(path: Path) -> str | None:
    """Why a sound file cannot be used, as far as its header and its end tell.

    Raises ``soundfile.LibsndfileError`` where soundfile cannot open it, or ``OSError``.
    """
    missing = missing_sound(path)
    size = path.stat().st_size
    with sound_file(path) as sound:
        if missing:
            return f"cut short: {size} of at least {size + missing} bytes"
        if sound.samplerate not in RATES:
            return f"its header says {sound.samplerate} samples a second"
        if sound.frames == 0 and missing is not None:
            return "it holds no samples"
        if sound.format == "FLAC" and 0 < sound.frames < MOST_FRAMES and not _ends(sound):
            return f"cut short: fewer than the {sound.frames} samples of its header"
    return None


def _ends(sound: soundfile.SoundFile) -> bool:
    """Whether the last sample that a header promises is there."""
    try:
        sound.seek(sound.frames - 1)
        return len(sound.read(1)) == 1
    except soundfile.LibsndfileError:
        return False


def says_its_length(sound: soundfile.SoundFile) -> bool:
    """Whether soundfile knows where a sound ends, which it needs to know to read it."""
    return 0 < sound.frames < MOST_FRAMES
