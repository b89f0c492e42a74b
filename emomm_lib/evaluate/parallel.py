"""Independent pieces of work in several processes, their results in order."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Piece = TypeVar("Piece")
Result = TypeVar("Result")


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
        return self._work(self._pieces[index])


def _as_is(result: Any) -> Any:
    return result


def in_order(
    work: Callable[[Piece], Result], pieces: Sequence[Piece], processes: int
) -> Iterator[Result]:
    """``work`` of every piece, in the order of the pieces, whichever is done first.

    Processes are forked, so that a model in memory is shared and nothing is loaded again; each
    computes with one thread. Results travel by pickling. With one process, or one piece, the work
    is done here. An exception in a process is raised here, its traceback in the message.
    """
    processes = min(processes, len(pieces))
    if processes <= 1:
        yield from map(work, pieces)
        return
    # The tokenizers' own threads do not survive a fork, of which they warn in every process.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    yield from DataLoader(
        _Work(work, pieces),
        batch_size=None,
        num_workers=processes,
        collate_fn=_as_is,
        multiprocessing_context="fork",
    )
