"""Which piece of work goes to which worker, and what becomes of one whose worker is lost."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")
AT_ONCE = 2
"""Pieces that a worker is given: one to compute, and one to read meanwhile."""
AHEAD = 4
"""Pieces a worker, under way or done, that may wait for an earlier one before all go slower."""
DEATHS = 2
"""Workers that a piece may cost before it is held to be at fault."""


@dataclass(order=True)
class Task(Generic[Piece]):
    """A piece, by its place among all and its part of that place.

    Attributes
    ----------
    deaths
        Workers lost while it was the first of their pieces.
    alone
        Whether it was with a worker when that was lost, so that it gets one for itself.
    """

    place: int
    part: int
    piece: Piece = field(compare=False)
    deaths: int = field(default=0, compare=False)
    alone: bool = field(default=False, compare=False)


class Schedule(Generic[Piece, Result]):
    """Pieces in their order for workers that come and go; results in the order of the pieces.

    Parameters
    ----------
    pieces
        What is to be done.
    cut
        The parts of a piece that :data:`DEATHS` workers were lost with; one that has no parts is at
        fault itself.
    at_fault
        The result of such a one.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        cut: Callable[[Piece], Sequence[Piece]],
        at_fault: Callable[[Piece], Result],
    ) -> None:
        self._waiting = [Task(place, 0, piece) for place, piece in enumerate(pieces)]
        self._cut, self._at_fault = cut, at_fault
        self._with: dict[Hashable, list[Task[Piece]]] = {}
        self._results: dict[int, dict[int, Result]] = {}
        self._parts = [1] * len(pieces)
        self._place = 0

    @property
    def over(self) -> bool:
        """Whether all results have been given."""
        return self._place == len(self._parts)

    def under_way(self, worker: Hashable) -> Sequence[Task[Piece]]:
        """What a worker has, the first first."""
        return self._with.get(worker, ())

    def next(self, worker: Hashable, workers: int) -> Task[Piece] | None:
        """What to give to a worker, of so many, next; None for nothing now."""
        own = self._with.setdefault(worker, [])
        if not self._waiting or len(own) >= AT_ONCE or any(task.alone for task in own):
            return None
        first = self._waiting[0]
        if first.place >= self._place + AHEAD * workers or (first.alone and own):
            return None
        own.append(heapq.heappop(self._waiting))
        return own[-1]

    def done(self, worker: Hashable, task: Task[Piece], result: Result) -> None:
        """A worker has done a task."""
        self._with[worker].remove(task)
        self._keep(task, result)

    def lost(self, worker: Hashable) -> None:
        """A worker is gone: what it had goes to others, each by itself, or is cut, or at fault."""
        tasks = self._with.pop(worker, [])
        for place, task in enumerate(tasks):
            # Work on the others had not begun, or no further than reading.
            task.deaths += place == 0
            task.alone = True
            if task.deaths < DEATHS:
                heapq.heappush(self._waiting, task)
                continue
            parts = self._cut(task.piece)
            if len(parts) <= 1:
                self._keep(task, self._at_fault(task.piece))
                continue
            self._parts[task.place] = len(parts)
            for part, piece in enumerate(parts):
                heapq.heappush(self._waiting, Task(task.place, part, piece, alone=True))

    def _keep(self, task: Task[Piece], result: Result) -> None:
        self._results.setdefault(task.place, {})[task.part] = result

    def results(self) -> Iterator[Result]:
        """What has come since, up to the first place that is not whole; a result a part."""
        while not self.over and len(self._results.get(self._place, ())) == self._parts[self._place]:
            found = self._results.pop(self._place)
            self._place += 1
            yield from (found[part] for part in sorted(found))
