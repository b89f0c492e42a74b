"""Drivers in other processes as a system of the study: what it is sent, and what is believed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch

from emomm_lib.labels import LETTERS
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.systems.drivers.serving import PROTOCOL
from emomm_study.systems.interface import Answers, Encoded, Media, NotOffered, Query, Said, Wrote
from emomm_study.systems.isolated.media import RunFolder, in_16_bits, most_sounds
from emomm_study.systems.isolated.worker import DriverFailed, Hello, Worker
from emomm_study.systems.prompts import TRANSCRIPT_PREFIX, messages, reply

LARGEST = float(np.finfo(np.float32).max)
CHANNEL = 1
"""Raised whenever what a driver is sent for the same clip changes; part of fingerprints."""


class IsolatedSystem:
    """A system that answers from other processes, each asked one question at a time.

    A process is started when it is first needed, which is for :meth:`settings` already, and once
    more whenever it was ended. It is ended when it hangs or is out of step, with :meth:`close`, and
    with this object or program, even one that is killed. All that run have to say the same hello.

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
    environments
        One driver for each, asked side by side, with these variables beside this process's own.
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
        environments: Sequence[Mapping[str, str]] = ({},),
    ) -> None:
        self.title, self.command = title, list(command)
        self.options = dict(options or {})
        self._hello = Hello()
        alike = (title, command, timeout, loading, self._hello)
        self._workers = [Worker(*alike, environment) for environment in environments]

    @property
    def fingerprint(self) -> str:
        """The driver's name and what it says of its weights."""
        hello = self.settings()["driver"]
        return f"{hello['name']}@{hello['weights']}"

    def settings(self) -> dict[str, Any]:
        """What the driver says of itself, and how it is asked.

        Starts it, and raises ``DriverUnusable`` where it does not start.
        """
        if self._hello.said is None:
            self._workers[0].started()
        told = {"options": self.options} if self.options else {}
        return {"driver": self._hello.said, "protocol": PROTOCOL, "channel": CHANNEL, **told}

    @property
    def pids(self) -> list[int]:
        """Of the drivers' processes that run."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def close(self) -> None:
        """End all drivers and remove their files; the next question starts them anew."""
        for worker in self._workers:
            worker.close()

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
        return self._answers(queries, [self._said(query, "letters") for query in queries])

    def _answers(self, queries: Sequence[Query], said: Sequence[dict[str, Any]]) -> Answers:
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
        """What each question came to: an answer, a reply, or why there is neither, as they come.

        Each driver has one question under way, all of a clip in a row, and gets the next when the
        caller has taken its answer: so no more are lost with this program than there are drivers.
        """
        clips: dict[int, deque[int]] = {}
        for i, query in enumerate(queries):
            clips.setdefault(id(query.clip), deque()).append(i)
        left, busy = deque(clips.values()), {}
        pool = ThreadPoolExecutor(len(self._workers), thread_name_prefix="driver")

        def give(worker: Worker, own: deque[int]) -> None:
            own = own or (left.popleft() if left else own)
            if own:
                i = own.popleft()
                busy[pool.submit(self._came_to, worker, queries[i], free)] = worker, own, i

        try:
            for worker in self._workers:
                give(worker, deque())
            while busy:
                for future in wait(busy, return_when=FIRST_COMPLETED).done:
                    worker, own, i = busy.pop(future)
                    yield i, future.result()
                    give(worker, own)
        finally:
            _call_off(pool, busy)

    def _came_to(self, worker: Worker, query: Query, free: bool) -> Said:
        try:
            if not free:
                return self._answers([query], [self._said(query, "letters", worker)])
            own = self._said(query, "free", worker)
            return Wrote(own["reply"], _details(own))
        except Exception as error:
            return error

    def _said(self, query: Query, mode: str, worker: Worker | None = None) -> dict[str, Any]:
        """What the driver says to a question, checked."""
        worker = worker or self._workers[0]
        given = _line(query, mode, worker.folder)
        return worker.ask(given, lambda said: _wrong(said, given, query))


def _call_off(pool: ThreadPoolExecutor, busy: Mapping[Future, tuple[Worker, deque, int]]) -> None:
    """End what is under way, whose answers nobody waits for any more."""
    workers = [worker for worker, *_ in busy.values()]
    for worker in workers:
        worker.call_off()
    pool.shutdown(cancel_futures=True)
    for worker in workers:
        worker.resume()


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
