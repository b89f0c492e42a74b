"""Independent pieces of work in several processes, their results in order."""

from __future__ import annotations

import gc
import os
import pickle
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from emomm_study.failures import named, place_of

Piece = TypeVar("Piece")
Result = TypeVar("Result")
BEHIND = 2
"""Results that may wait for a second thread's work on them."""


def processes_for(device: torch.device | str) -> int:
    """One a core where the model runs on the CPU under Linux; 1 elsewhere.

    Small operations gain little from a second thread. A GPU is one for all, and forking is not
    safe on other systems.
    """
    if torch.device(device).type != "cpu" or sys.platform != "linux":
        return 1
    return len(os.sched_getaffinity(0))


class _Work(Dataset):
    def __init__(self, work: Callable[[Any], Any], pieces: Sequence[Any]) -> None:
        self._work, self._pieces = work, pieces

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._work(self._pieces[index])
        except Exception as error:
            return Raised.by(error)


class _There(Exception):
    """Stands for where in another process an exception was raised: its message is the traceback."""


@dataclass(frozen=True)
class Raised:
    """An exception on its way from a process, and its traceback, which cannot travel."""

    error: Exception
    there: str

    @classmethod
    def by(cls, error: Exception) -> Raised:
        there = "".join(traceback.format_exception(error))
        error.add_note(f"in a process of the run, at {place_of(error)}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            # Some types cannot be made again from what they hold.
            error = RuntimeError(named(error))
        return cls(error, there)

    def again(self) -> NoReturn:
        """Raise it here; its cause shows where it came from."""
        raise self.error from _There(f"\n{self.there}")


@contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """While forking: children find no garbage of their parent, and never look for it.

    Garbage can hold threads, as FFmpeg's pictures do. A child does not have them, and would wait
    for their end when it frees what holds them.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _as_is(result: Any) -> Any:
    return result


def in_order(
    work: Callable[[Piece], Result], pieces: Sequence[Piece], processes: int
) -> Iterator[Result]:
    """``work`` of every piece, in the order of the pieces, whichever is done first.

    Processes are forked, so that a model in memory is shared and nothing is loaded again; each
    computes with one thread. Results travel by pickling. With one process, or one piece, the work
    is done here. An exception in a process is raised here in its turn, with its type and message;
    its cause shows where it came from.
    """
    processes = min(processes, len(pieces))
    if processes <= 1:
        for piece in pieces:
            # Not by map, which takes a StopIteration for the end of the pieces.
            yield work(piece)
        return
    # The tokenizers' own threads do not survive a fork, of which they warn in every process.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    loader = DataLoader(
        _Work(work, pieces),
        batch_size=None,
        num_workers=processes,
        collate_fn=_as_is,
        multiprocessing_context="fork",
    )
    with _nothing_to_collect():
        results = iter(loader)
    for result in results:
        if isinstance(result, Raised):
            result.again()
        yield result


def once_done(
    work: Callable[[Result], object], turns: Iterable[Sequence[Result]]
) -> Iterator[Result]:
    """Results in their order, each once ``work`` on it is done, by one other thread.

    A turn is what has come since the one before, perhaps nothing: what is done meanwhile is given
    then, and no later than :data:`BEHIND` results after it. What work raises is raised in its
    result's turn, and nothing more is worked on; what turns raise, when all before it is given.
    """
    coming: deque[tuple[Result, Future]] = deque()
    stopped, left = None, iter(turns)

    def first() -> Result:
        result, working = coming.popleft()
        working.result()
        return result

    pool = ThreadPoolExecutor(1, thread_name_prefix="write")
    try:
        while True:
            try:
                turn = next(left, None)
            except Exception as error:
                stopped, turn = error, None
            if turn is None:
                break
            for result in turn:
                coming.append((result, pool.submit(work, result)))
                if len(coming) > BEHIND:
                    yield first()
            while coming and coming[0][1].done():
                yield first()
        while coming:
            yield first()
        if stopped is not None:
            raise stopped
    finally:
        pool.shutdown(cancel_futures=True)
