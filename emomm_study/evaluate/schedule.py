"""Which piece of work goes to which worker, and what becomes of one whose worker is lost.

A worker that is lost says little about what it had: machines go, and memory runs out beside it. So
its pieces are set aside until all others are done, and then asked alone: nothing else is under way
anywhere. A piece with which a worker is lost then too is held against a *witness*, a part of one
that was done before: where that is done again, the loss counts; where its worker is lost as well,
it was no fault of the piece, whose losses count from none again. :data:`LOSSES` that count, one
after another, are the piece's own fault.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")
AT_ONCE = 2
"""Pieces that a worker is given: one to compute, and one to read meanwhile."""
AHEAD = 4
"""Pieces a worker, under way or done, that may wait for an earlier one before all go slower."""
LOSSES = 4
"""Workers that a piece costs, asked alone, before it is held to be at fault."""


@dataclass(eq=False)
class Task(Generic[Piece]):
    """A piece on its way.

    Attributes
    ----------
    place
        Of its result among those of all pieces; None for one that is asked alone.
    losses
        Workers lost with it alone that count.
    """

    piece: Piece
    place: int | None = None
    losses: int = 0


class Schedule(Generic[Piece, Result]):
    """Pieces in their order for workers that come and go.

    Results come in the order of the pieces, those of pieces that were set aside after all others.

    Parameters
    ----------
    pieces
        What is to be done.
    cut
        The parts of a piece: asked in its place where it is at fault, and the first is asked as a
        witness. One that has no parts is at fault itself.
    at_fault
        The result of such a one.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        cut: Callable[[Piece], Sequence[Piece]],
        at_fault: Callable[[Piece], Result],
    ) -> None:
        self._waiting = deque(Task(piece, place) for place, piece in enumerate(pieces))
        self._aside: deque[Task[Piece]] = deque()
        self._cut, self._at_fault = cut, at_fault
        self._with: dict[Hashable, list[Task[Piece]]] = {}
        self._witness: Task[Piece] | None = None
        self._doubted: tuple[Task[Piece], int] | None = None
        self._in_a_row: set[Task[Piece]] = set()
        # By place; nothing at that of a piece which was set aside.
        self._results: dict[int, list[Result]] = {}
        self._place, self._places = 0, len(pieces)

    @property
    def over(self) -> bool:
        """Whether all results have been given."""
        return self._place == self._places and not (
            self._aside or self._doubted or any(self._with.values())
        )

    @property
    def in_a_row(self) -> int:
        """Pieces with which workers were lost since one was done; each witness counts anew."""
        return len(self._in_a_row)

    def under_way(self, worker: Hashable) -> Sequence[Task[Piece]]:
        """What a worker has, the first first."""
        return self._with.get(worker, ())

    def next(self, worker: Hashable, workers: int) -> Task[Piece] | None:
        """What to give to a worker, of so many, next; None for nothing now."""
        own = self._with.setdefault(worker, [])
        if self._waiting:
            late = self._waiting[0].place >= self._place + AHEAD * workers
            if len(own) < AT_ONCE and not late:
                own.append(self._waiting.popleft())
                return own[-1]
        elif not any(self._with.values()) and (task := self._alone()):
            own.append(task)
            return task
        return None

    def _alone(self) -> Task[Piece] | None:
        if self._doubted:
            self._witness = Task(self._witness.piece)
            return self._witness
        return self._aside.popleft() if self._aside else None

    def done(self, worker: Hashable, task: Task[Piece], result: Result) -> None:
        """A worker has done a task."""
        self._with[worker].remove(task)
        self._in_a_row.clear()
        if task is self._witness:
            self._count()
            return
        if self._witness is None:
            self._witness = Task(self._cut(task.piece)[0])
        self._keep(task, result)

    def lost(self, worker: Hashable, *, hung: bool = False) -> None:
        """A worker is gone, or had to be ended, as one that ``hung``: no accident as others are."""
        tasks = self._with.pop(worker, [])
        # Work on the others had not begun, or no further than reading.
        self._in_a_row.update(tasks[:1])
        for task in tasks:
            if task is self._witness:
                unlucky, _ = self._doubted
                self._doubted, unlucky.losses = None, 0
                self._aside.append(unlucky)
            elif task.place is None:
                self._doubted = task, LOSSES if hung else 1
                if self._witness is None:
                    self._count()
            else:
                self._results[task.place] = []
                self._aside.append(Task(task.piece))

    def _count(self) -> None:
        """The loss in doubt counts: its piece is asked once more, cut, or at fault."""
        (task, losses), self._doubted = self._doubted, None
        task.losses += losses
        if task.losses < LOSSES:
            self._aside.append(task)
        elif len(parts := self._cut(task.piece)) > 1:
            self._aside.extend(map(Task, parts))
        else:
            self._keep(task, self._at_fault(task.piece))

    def _keep(self, task: Task[Piece], result: Result) -> None:
        place = task.place
        if place is None:
            # All before it are there: it was asked alone.
            place, self._places = self._places, self._places + 1
        self._results[place] = [result]

    def results(self) -> Iterator[Result]:
        """What has come since, up to the first place that is open."""
        while self._place in self._results:
            found = self._results.pop(self._place)
            self._place += 1
            yield from found
