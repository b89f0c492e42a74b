"""What every driver shares: JSON lines in and out, media from files, and what is refused.

Imported by scripts that run in environments of their own, from Python 3.10 on, so that it needs
nothing but numpy. Lines are in ASCII alone, so that no encoding of either side matters. The first
line out is a ``hello``; in keys of its own it says whatever else can change an answer, as a
precision, or a version of the driver that is raised by hand. Then comes a line for every line in::

    {"hello": 1, "name": "...", "versions": {...}, "weights": "...", "device": "..."}
    {"id": "7", "frames": ["0.png"], "sound": "7.wav", "seconds_per_frame": 0.5,
     "system": "...", "text": "...", "transcript": [36, 52], "replies": ["A\\nScore: -1.0", ...],
     "mode": "letters"}
    {"id": "7", "letters": [0.1, ...], "scores": [-3.2, ...], "reply": null,
     "tokens": {"T": 4, "A": 0, "V": 32}, "markers": {"V": 1, "A": 0}, "seconds": 0.4}
    {"id": "8", "error": "..."}
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import wave
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

PROTOCOL = 1
"""Raised whenever a line changes its meaning."""
RATE = 16_000
LETTERS = "ABCDE"


class Query(NamedTuple):
    """One question, its media still in files.

    Attributes
    ----------
    frames, sound
        Paths of PNG files and of a 16 kHz mono wav file; ``[]`` and None where absent.
    seconds_per_frame
        Between two frames; 0.0 without frames.
    system, text
        What the system is told, and what the user says after the media: transcript (at
        ``text[slice(*transcript)]``, ``(0, 0)`` where there is none) and instruction.
    replies
        Whole replies, letter and score, whose log-probabilities are asked for.
    mode
        ``letters``: logits and log-probabilities; ``free``: what it writes.
    """

    id: str
    frames: list
    sound: str | None
    seconds_per_frame: float
    system: str
    text: str
    transcript: tuple
    replies: list
    mode: str

    @property
    def coalition(self) -> str:
        """The modalities that are there, of T, A, V."""
        there = self.transcript[1] > 0, self.sound is not None, bool(self.frames)
        return "".join(name for name, held in zip("TAV", there, strict=True) if held)


class Answer(NamedTuple):
    """What a driver says to a query.

    Attributes
    ----------
    letters
        Five logits of A..E at the decision token, or None in mode ``free``.
    scores
        A log-probability for each of the query's replies, given the letter or of the whole reply,
        or None where the driver gives none.
    reply
        What it wrote, or None in mode ``letters``.
    tokens
        By T, A, V.
    markers
        How many places for media its prompt has, by V and A, in either mode: 1 for V or as many as
        there are frames, 1 for A or up to one for every second begun, 0 for what was not sent. One
        place that holds both is counted for each. A query whose answer says otherwise is refused.
    """

    letters: list | None = None
    scores: list | None = None
    reply: str | None = None
    tokens: dict | None = None
    markers: dict | None = None


class Refused(ValueError):
    """A query that is not to be scored; the message says why."""


def read_frames(query: Query) -> list:
    """The frames as RGB images of Pillow."""
    from PIL import Image

    return [Image.open(path).convert("RGB") for path in query.frames]


def read_sound(query: Query, least: int = 0) -> np.ndarray | None:
    """Samples in -1..1, float32, at 16 kHz; zeros follow up to ``least``. None without sound.

    Raises :class:`Refused` for another rate, and for silence: all zeros is what a failed reader
    leaves behind.
    """
    if query.sound is None:
        return None
    with wave.open(query.sound, "rb") as file:
        found = file.getframerate(), file.getnchannels(), file.getsampwidth()
        if found != (RATE, 1, 2):
            raise Refused(
                f"the sound is (rate, channels, bytes) {found!r}; expected {(RATE, 1, 2)!r}"
            )
        data = file.readframes(file.getnframes())
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    if not samples.any():
        raise Refused("the sound is all zeros, as a reader leaves it that has failed")
    return np.pad(samples, (0, max(0, least - len(samples))))


def serve(hello: dict, answer: Callable[[Query], Answer], out) -> None:
    """Say hello on ``out`` and answer the queries that come on standard input, line by line.

    What ``answer`` raises becomes an ``error`` for its query; running out of memory ends the driver,
    whose next life has all of it again.
    """
    _write(out, _line(dict(hello, hello=PROTOCOL)))
    for line in sys.stdin:
        given = json.loads(line)
        query = Query(**{**given, "transcript": tuple(given["transcript"])})
        began = time.perf_counter()
        try:
            said = answer(query)
            _check(query, said)
            seconds = round(time.perf_counter() - began, 4)
            found = _line(dict(said._asdict(), id=query.id, seconds=seconds))
        except MemoryError:
            raise
        except Exception as error:
            if "out of memory" in str(error).lower():
                raise
            found = _line({"id": query.id, "error": f"{type(error).__name__}: {error}"})
        _write(out, found)


def _check(query: Query, said: Answer) -> None:
    """Raise :class:`Refused` for an answer that is none."""
    for name, values in (("letters", said.letters), ("scores", said.scores)):
        if values is not None and not all(map(math.isfinite, values)):
            raise Refused(f"the {name} are not finite; try bfloat16 in place of float16")
    if query.mode == "letters" and (said.letters is None or len(said.letters) != len(LETTERS)):
        raise Refused(f"expected five logits of A..E; got {said.letters!r}")
    if said.scores is not None and len(said.scores) != len(query.replies):
        raise Refused(f"expected {len(query.replies)} scores; got {len(said.scores)}")
    if query.mode == "free" and not isinstance(said.reply, str):
        raise Refused(f"expected a reply; got {said.reply!r}")


def take_stdout():
    """Standard output for answers alone: what prints from now on goes to standard error.

    Called before anything else is imported: torch, deepspeed and remote code print.
    """
    own = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return own


def _line(values: dict) -> str:
    return json.dumps(values) + "\n"


def _write(out, line: str) -> None:
    out.write(line)
    out.flush()
