"""Gemini's batch jobs: many requests at once at a lower price, answered within a day.

A job's name is noted on disk as soon as the service has given it, with a key for each of its
requests; a later run finds it there, waits for it and takes its answers. The note goes when the
answers have been kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emomm_study.failures import Broken
from emomm_study.paths import whole
from emomm_study.systems.interface import Said, Unanswered

Put = Callable[[Any], None]


@dataclass(frozen=True)
class Request:
    """A question as a job's request; ``key`` is a digest of it, and which of its like it is."""

    index: int
    key: str
    contents: list
    config: dict
    size: int


@dataclass(frozen=True)
class Job:
    """A job that was noted: its name, the keys of its requests, and the note itself."""

    name: str
    keys: frozenset[str]
    note: Path


def keyed(bodies: Sequence[tuple[list, dict, int]]) -> list[Request]:
    """Requests of ``(contents, config, bytes)``; a run that is resumed gives them the same keys."""
    seen: Counter[str] = Counter()
    made = []
    for index, (contents, config, size) in enumerate(bodies):
        text = json.dumps([contents, config], sort_keys=True, default=lambda data: data.hex())
        digest = hashlib.sha256(text.encode()).hexdigest()[:24]
        made.append(Request(index, f"{digest}-{seen[digest]}", contents, config, size))
        seen[digest] += 1
    return made


def noted(folder: Path) -> list[Job]:
    """The jobs whose answers were not taken yet."""
    found = []
    for note in sorted(folder.glob("*.json")):
        said = json.loads(note.read_text(encoding="utf-8"))
        found.append(Job(said["name"], frozenset(said["keys"]), note))
    return found


def note(folder: Path, name: str, requests: Sequence[Request]) -> Job:
    """Write down a job."""
    keys = [request.key for request in requests]
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    path = folder / f"{digest}.json"
    with whole(path) as partial:
        partial.write_text(json.dumps({"name": name, "keys": keys}), encoding="utf-8")
    return Job(name, frozenset(keys), path)


def portions(requests: Sequence[Request], most: int) -> Iterator[list[Request]]:
    """Requests in order, as many together as ``most`` bytes hold."""
    part: list[Request] = []
    for request in requests:
        if part and sum(own.size for own in part) + request.size > most:
            yield part
            part = []
        part.append(request)
    if part:
        yield part


async def ask_jobs(
    requests: Sequence[Request],
    folder: Path,
    most: int,
    *,
    create: Callable[[list[Request]], Any],
    look: Callable[[str], Any],
    read: Callable[[Request, Any], Said],
    put: Put,
    pause: float,
) -> None:
    """Put ``(index, Said)`` of every request, and a :class:`Job` once all of its are there.

    ``create`` makes a job of requests and gives its name, ``look`` gives a job as it is; both are
    coroutines. ``read`` makes an answer of a response.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = {request.key: request for request in requests}
    jobs = []
    for job in noted(folder):
        if own := [left.pop(key) for key in job.keys & left.keys()]:
            jobs.append((job, own))
    for part in portions([r for r in requests if r.key in left], most):
        try:
            name = await create(part)
        except Unanswered as error:
            for request in part:
                put((request.index, error))
            continue
        jobs.append((note(folder, name, part), part))
    for job, own in jobs:
        ended = await _ended(job, look, pause)
        for request, said in _taken(ended, own, read):
            put((request.index, said))
        put(job)


async def _ended(job: Job, look: Callable[[str], Any], pause: float) -> Any:
    while True:
        try:
            found = await look(job.name)
        except Unanswered:
            found = None  # It was the way there; the job goes on without us.
        except Broken as error:
            raise Broken(
                f"{error}; {job.name} is noted in {job.note}: remove it to ask anew"
            ) from None
        if found is not None and found.done:
            return found
        await asyncio.sleep(pause)


def _taken(
    job: Any, requests: Sequence[Request], read: Callable[[Request, Any], Said]
) -> Iterator[tuple[Request, Said]]:
    """What a job that has ended says to each request, by the keys that came back."""
    answers = (job.dest and job.dest.inlined_responses) or []
    by_key = {(own.metadata or {}).get("key"): own for own in answers}
    state = getattr(job.state, "name", job.state)
    for request in requests:
        own = by_key.get(request.key)
        if own is None:
            yield request, Unanswered(f"the job ended as {state} without an answer", "always")
        elif own.error is not None or own.response is None:
            said = "" if own.error is None else f" ({own.error.code}: {own.error.message})"
            yield request, Unanswered(f"the job has an error in place of an answer{said}", "once")
        else:
            yield request, read(request, own.response)
