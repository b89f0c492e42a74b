"""A driver in a second process as a system of the study: what it is sent, and what is believed."""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from emomm_lib.labels import LETTERS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.failures import Broken
from emomm_study.systems.drivers.serving import PROTOCOL
from emomm_study.systems.interface import (
    Answers,
    Encoded,
    Media,
    NotOffered,
    Query,
    Said,
    Unanswered,
    Wrote,
)
from emomm_study.systems.isolated.media import RunFolder, in_16_bits, most_sounds
from emomm_study.systems.isolated.process import (
    DriverProcess,
    Lost,
    shown_command,
    without_secrets,
)
from emomm_study.systems.prompts import TRANSCRIPT_PREFIX, messages, reply

HELLO = {"name": str, "versions": dict, "weights": str, "device": str}
"""What a driver says of itself, beside the protocol's version, and as what."""
LARGEST = float(np.finfo(np.float32).max)
CHANNEL = 1
"""Raised whenever what a driver is sent for the same clip changes; part of fingerprints."""


class DriverFailed(Unanswered):
    """A driver gave no answer to a question that can be scored; the message says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, kind=type(self).__name__)


class DriverUnusable(Broken):
    """A driver does not start, or is another than before; the message says what to do."""


class IsolatedSystem:
    """A system that answers from a second process, one question at a time.

    The process is started when it is first needed, which is for :meth:`settings` already, and once
    more whenever it was ended. It is ended when it hangs or is out of step, with :meth:`close`, and
    with this object or program, even one that is killed.

    Parameters
    ----------
    title
        What tables and messages call it.
    command
        The driver and its options.
    timeout
        Seconds that an answer may take.
    loading
        Seconds until the driver's hello, in which it may have to fetch and load weights.
    options
        What it is told that can change an answer; its hello may not say so. Part of settings.
    """

    one_by_one = True
    device = torch.device("cpu")

    def __init__(
        self,
        title: str,
        command: Sequence[str],
        *,
        timeout: float = 600,
        loading: float = 3600,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.title, self.command = title, list(command)
        self.timeout, self.loading = timeout, loading
        self.options = dict(options or {})
        self._hello: dict[str, Any] | None = None
        self._ids = itertools.count()
        self._folder: RunFolder | None = None
        # In a list, so that what ends it holds no reference to this object.
        self._running: list[DriverProcess] = []
        self._end = weakref.finalize(self, _end, self._running, os.getpid())
        self._owner = os.getpid()

    @property
    def fingerprint(self) -> str:
        """The driver's name and what it says of its weights."""
        hello = self.settings()["driver"]
        return f"{hello['name']}@{hello['weights']}"

    def settings(self) -> dict[str, Any]:
        """What the driver says of itself, and how it is asked.

        Starts it, and raises :class:`DriverUnusable` where it does not start.
        """
        if self._hello is None:
            self._process()
        told = {"options": self.options} if self.options else {}
        return {"driver": self._hello, "protocol": PROTOCOL, "channel": CHANNEL, **told}

    @property
    def pid(self) -> int | None:
        """Of the driver's process, while it runs."""
        return self._running[0].pid if self._running else None

    def close(self) -> None:
        """End the driver and remove its files; the next question starts it anew."""
        self._stop()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def encode(self, clips: Sequence[Media]) -> list[Encoded]:
        """Each clip as it will be sent: ``video`` are its frames, ``audio`` is int16 ``(samples,)``.

        They become files when they are asked about. Raises ``NotOffered`` for a region whose tokens
        are to be kept alone, and ``MediaError`` for silence.
        """
        if any(clip.region is not None for clip in clips):
            raise NotOffered(
                f"{self.title} is asked from outside, and its tokens cannot be dropped; keep the "
                "person by pixels alone (tokens=None)"
            )
        return [
            Encoded(
                clip.frames,
                None,
                None if clip.frames is None else 1 / clip.frames.fps,
                None if clip.sound is None else in_16_bits(clip.sound),
            )
            for clip in clips
        ]

    def answer(
        self, queries: Sequence[Query], *, trace: bool = False, states: bool = False
    ) -> Answers:
        """Letter by arg-max over the driver's logits of A..E, then the best score of that letter.

        ``score`` is None where the driver gives no log-probabilities. ``details`` has its tokens,
        markers and seconds. Raises ``NotOffered`` for a trace or states, and :class:`DriverFailed`.
        """
        if trace or states:
            raise NotOffered(f"{self.title} only answers; it shows no attention and no states")
        said = [self._said(query, "letters") for query in queries]
        logits = np.array([own["letters"] for own in said], np.float32).reshape(-1, len(LETTERS))
        label = logits.argmax(-1)
        scored = [own["scores"] is not None for own in said]
        if any(scored) and not all(scored):
            raise DriverFailed(f"{self.title}: it gave scores for some questions and not for all")
        score = [
            _best_score(query, int(k), own["scores"])
            for query, k, own in zip(queries, label, said, strict=True)
            if own["scores"] is not None
        ]
        tokens = [own["tokens"] for own in said]
        counts = None
        if all(tokens):
            counts = np.array([[own[m] for m in "TAV"] for own in tokens], np.int64).reshape(-1, 3)
        details = [_details(own) for own in said]
        numbers = np.array(score) if all(scored) else None
        return Answers(logits, label, numbers, counts=counts, details=details)

    def reply(self, queries: Sequence[Query]) -> list[str]:
        """What the driver writes when nothing constrains it; raises :class:`DriverFailed`."""
        return [self._said(query, "free")["reply"] for query in queries]

    def ask(self, queries: Sequence[Query], *, free: bool = False) -> Iterator[tuple[int, Said]]:
        """What each question came to: an answer, a reply, or why there is neither."""
        for i, query in enumerate(queries):
            said: Said
            try:
                if free:
                    own = self._said(query, "free")
                    said = Wrote(own["reply"], _details(own))
                else:
                    said = self.answer([query])
            except Exception as error:
                said = error
            yield i, said

    def _said(self, query: Query, mode: str) -> dict[str, Any]:
        """What the driver says to a question, checked; asked once more where it loses its way."""
        if self._folder is None:
            self._folder = RunFolder()
        given = _line(query, mode, self._folder)
        reasons = []
        for tried in (1, 2):
            process = self._process()
            try:
                said = process.ask({"id": str(next(self._ids)), **given}, self.timeout)
            except Lost as lost:
                reasons.append(str(lost))
                words = process.last_words(250)
                self._stop()
                continue
            except BaseException:
                # Its answer would be taken for the next question's.
                self._stop()
                raise
            if "error" in said:
                raise DriverFailed(f"{self.title}: {without_secrets(str(said['error']))}")
            if (wrong := _wrong(said, given, query)) is not None:
                raise DriverFailed(f"{self.title}: {wrong}")
            return said | {"tried": tried}
        both = reasons[-1] if len(set(reasons)) == 1 else "; then ".join(reasons)
        last = f"; its last words: {words}" if words else ""
        raise DriverFailed(
            f"{self.title}: asked twice, of a new process the second time: {both}{last}"
        )

    def _process(self) -> DriverProcess:
        """The driver, after its hello."""
        if os.getpid() != self._owner:
            raise RuntimeError(f"{self.title}: a driver is asked by the process that made it alone")
        if self._running:
            return self._running[0]
        # One that has worked may have been killed, or find its memory not yet given back.
        for left in (0,) if self._hello is None else (1, 0):
            try:
                return self._started()
            except DriverUnusable:
                if not left:
                    raise

    def _started(self) -> DriverProcess:
        shown = shown_command(self.command)
        try:
            process = DriverProcess(self.command)
        except OSError as error:
            raise DriverUnusable(
                f"{self.title} cannot be started ({error.strerror}): {shown}; see whether the "
                "Python that its name gives is there"
            ) from None
        self._running.append(process)
        try:
            hello = process.hear(self.loading)
            wrong = _wrong_hello(hello)
        except Lost as lost:
            wrong = str(lost)
        except BaseException:
            self._stop()
            raise
        if wrong is not None:
            words = process.last_words()
            self._stop()
            raise DriverUnusable(
                f"{self.title} did not start: {wrong}; its last words: {words or '(none)'}; run "
                f"it by hand to see all that it says, and mend its environment or options: {shown}"
            )
        hello = {name: hello[name] for name in sorted(hello) if name != "hello"}
        if self._hello not in (None, hello):
            changed = [k for k in {*hello, *self._hello} if hello.get(k) != self._hello.get(k)]
            self._stop()
            raise DriverUnusable(
                f"{self.title} is not what it was before it was started anew: its "
                f"{', '.join(sorted(changed))} changed; begin a new run, so that answers of both "
                "are told apart"
            )
        self._hello = hello
        return process

    def _stop(self) -> None:
        _end(self._running, self._owner)


def _end(running: list[DriverProcess], owner: int) -> None:
    while os.getpid() == owner and running:
        running.pop().end()


def _line(query: Query, mode: str, folder: RunFolder) -> dict[str, Any]:
    """What a driver is sent for a question, but for its id."""
    clip, coalition = query.clip, query.coalition
    for name, there in (("V", clip.video), ("A", clip.audio)):
        if name in coalition and there is None:
            raise ValueError(f"coalition {coalition} needs {name}; the clip has none")
    system, user = messages(coalition, query.corpus, query.transcript)
    start = len(TRANSCRIPT_PREFIX) if "T" in coalition else 0
    return {
        "frames": folder.frames(clip.video) if "V" in coalition else [],
        "sound": folder.sound(clip.audio) if "A" in coalition else None,
        "seconds_per_frame": clip.seconds_per_grid if "V" in coalition else 0.0,
        "system": system["content"][0]["text"],
        "text": user["content"][-1]["text"],
        "transcript": [start, start + len(query.transcript)] if start else [0, 0],
        "replies": [text for _, _, text in _replies(query)] if mode == "letters" else [],
        "mode": mode,
    }


def _replies(query: Query) -> list[tuple[int, float, str]]:
    """Every allowed answer of the query's corpus: class, score, and the reply that gives it."""
    grid = GRIDS[Corpus(query.corpus)]
    return [(k, s, reply(k, s)) for k in range(len(LETTERS)) for s in grid.scores(k)]


def _best_score(query: Query, label: int, given: Sequence[float]) -> float:
    # Of the replies that begin alike, so that it is one whether the letter's own part is counted.
    own = [(g, s) for (k, s, _), g in zip(_replies(query), given, strict=True) if k == label]
    return max(own, key=lambda pair: pair[0])[1]


def _details(said: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: said.get(name) for name in ("tokens", "markers", "seconds")}
    return {**kept, "asked_again": True} if said["tried"] > 1 else kept


def _wrong_hello(hello: Mapping[str, Any]) -> str | None:
    if hello.get("hello") != PROTOCOL:
        return f"its hello is of protocol {hello.get('hello')!r}; expected {PROTOCOL}"
    lacking = [name for name, kind in HELLO.items() if not isinstance(hello.get(name), kind)]
    return f"its hello lacks {', '.join(lacking)}" if lacking else None


def _wrong(said: dict[str, Any], given: Mapping[str, Any], query: Query) -> str | None:
    """Why a line is not an answer to a question; None where it is one."""
    for name in ("letters", "scores", "reply", "tokens", "markers"):
        said.setdefault(name, None)
    if given["mode"] == "free":
        if not isinstance(said["reply"], str):
            return f"expected a reply; got {said['reply']!r:.80}"
    else:
        wanted = {"letters": len(LETTERS), "scores": len(given["replies"])}
        for name, many in wanted.items():
            values = said[name]
            if name == "scores" and values is None:
                continue
            if not isinstance(values, list) or len(values) != many:
                return f"expected {many} numbers as its {name}; got {values!r:.80}"
            if not all(type(x) in (int, float) for x in values):
                return f"expected numbers as its {name}; got {values!r:.80}"
            if not all(abs(x) <= LARGEST for x in values):
                return f"its {name} are not finite: {values!r:.80}"
    tokens = said["tokens"]
    if tokens is not None and (not isinstance(tokens, dict) or not _counts(tokens, "TAV")):
        return f"expected how many tokens T, A and V have; got {tokens!r:.80}"
    return _wrong_markers(said["markers"], given, query)


def _wrong_markers(markers: object, given: Mapping[str, Any], query: Query) -> str | None:
    """Each modality that was sent needs its place, and none that was not."""
    if not isinstance(markers, dict) or not _counts(markers, "AV"):
        return f"expected how many places for media its prompt has, by A and V; got {markers!r:.80}"
    frames, sounds = len(given["frames"]), 0
    if given["sound"] is not None:
        sounds = most_sounds(query.clip.audio)
    if markers["V"] not in ({1, frames} if frames else {0}):
        return f"its prompt has {markers['V']} places for {frames} frames; expected 1 or as many"
    if not min(1, sounds) <= markers["A"] <= sounds:
        return f"its prompt has {markers['A']} places for sound; expected {min(1, sounds)}"
    return None


def _counts(found: Mapping[str, Any], names: str) -> bool:
    return all(type(found.get(name)) is int and found[name] >= 0 for name in names)
