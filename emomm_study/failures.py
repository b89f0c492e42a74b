"""A clip that fails costs its own items; a program that fails stops the run, in one sentence."""

from __future__ import annotations

import errno
import sqlite3
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emomm_study.paths import ROOT

IN_A_ROW = 20
"""Clips that fail alike, where nothing has worked yet, before the program is held to be broken."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE})
# By name: who only looks for people does not need torch.
_DEVICE = frozenset({"OutOfMemoryError", "AcceleratorError"})
_CPU_ALLOCATOR, _WORKER = "DefaultCPUAllocator", "DataLoader worker"


class RunStopped(RuntimeError):
    """A run cannot go on: one sentence on why, what of it is kept, and how to go on."""


class Broken(Exception):
    """Clips fail in a way that is not theirs; the message says in which."""


@dataclass(frozen=True)
class Failure:
    """Why something of a clip could not be done.

    Attributes
    ----------
    stage
        What was tried, as ``reading the sound``.
    reason
        One line, for people.
    error
        The exception's type where nobody foresaw it; None for a refusal in words of our own.
    place
        Where in the code it came from.
    """

    stage: str
    reason: str
    error: str | None = None
    place: str = ""

    @classmethod
    def of(
        cls,
        error: BaseException,
        stage: str,
        clip: str,
        refusals: tuple[type[Exception], ...] = (),
    ) -> Failure:
        """The failure that an exception is; those of ``refusals`` speak for themselves.

        Raises ``error`` itself where it is the program's: see :func:`is_the_programs`.
        """
        if is_the_programs(error):
            error.add_note(f"{stage} of {clip}")
            raise error
        if isinstance(error, refusals):
            return cls(stage, one_line(_said(error)))
        error = _first(error)
        return cls(stage, f"{stage}: {named(error)}", type(error).__name__, place_of(error))


def is_the_programs(error: BaseException) -> bool:
    """Whether an exception, raised while a clip was worked on, is not the clip's.

    Memory, disk, open files or the device have run out, a store cannot be used, what clips are
    asked of is :class:`Broken`, or somebody wants the program to end. Everything else that is
    raised in a clip's turn is the clip's.
    """
    types = {kind.__name__ for kind in type(error).__mro__}
    if not isinstance(error, Exception):
        # A Rust library's panic, which is no Exception, is about the text that it was given.
        return "PanicException" not in types
    if isinstance(error, OSError) and error.errno in _FULL | _NO_FILES | {errno.ENOMEM}:
        return True
    # FFmpeg's has the words of a damaged header: it was asked for more than there can be.
    if isinstance(error, MemoryError) and "FFmpegError" not in types:
        return True
    if isinstance(error, (sqlite3.Error, Broken)):
        return True
    return bool(types & _DEVICE) or _CPU_ALLOCATOR in str(error)


def named(error: BaseException) -> str:
    """``Type: message`` in one line of at most 500 characters, whatever the message holds."""
    said = one_line(_said(error))
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def place_of(error: BaseException) -> str:
    """File and line from which an exception came; empty where it was never raised."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    path = Path(frames[-1].filename)
    if path.is_relative_to(ROOT):
        path = path.relative_to(ROOT)
    elif "site-packages" in path.parts:
        path = Path(*path.parts[path.parts.index("site-packages") + 1 :])
    return f"{path}:{frames[-1].lineno}"


def _first(error: BaseException) -> BaseException:
    """The exception itself, where Python has put another in its place on its way."""
    while isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration):
        error = error.__cause__
    return error


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "its message cannot be shown"


def one_line(text: str) -> str:
    """A text as a reason is kept: without line breaks, in at most 500 characters."""
    # Lone surrogates, as of a file's name that is not UTF-8, can be kept in no store.
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= 500 else f"{line[:499]}…"


class Watch:
    """Tells clips that fail from a program that is broken.

    Where something was tried and has never worked in this run, failures that nobody foresaw are in
    doubt: after :data:`IN_A_ROW` clips in a row that failed at it by exceptions of one type, they
    are not the clips'.
    """

    def __init__(self) -> None:
        self._worked: set[str] = set()
        self._alike: dict[str, tuple[str, set[str]]] = {}

    def worked(self, stages: Iterable[str]) -> None:
        """What has been done for some clip."""
        self._worked |= set(stages)

    def failed(self, clip: str, failure: Failure) -> None:
        """Count a failure; raises :class:`Broken` where it is one too many of its kind."""
        if not self.doubts(failure):
            return
        kind, clips = self._alike.get(failure.stage, (failure.error, set()))
        clips = clips | {clip} if kind == failure.error else {clip}
        self._alike[failure.stage] = failure.error, clips
        if len(clips) >= IN_A_ROW:
            where = f" at {failure.place}" if failure.place else ""
            raise Broken(
                f"the first {len(clips)} clips all failed{where} ({failure.reason}), so the "
                "program is broken and not the clips"
            )

    def doubts(self, failure: Failure) -> bool:
        """Whether a failure may yet turn out to be the program's."""
        return failure.error is not None and failure.stage not in self._worked


@dataclass
class Kept:
    """How far a run has come: items ``done`` of ``total``, None until it has a plan."""

    done: int = 0
    total: int | None = None


@contextmanager
def in_one_sentence(store: Path, unit: str, batch_size: int | None = None) -> Iterator[Kept]:
    """Turn whatever ends a run into :class:`RunStopped`: what happened, is kept, and is to do.

    Before there is a plan, only what is the machine's is turned; an interruption stays one.
    """
    kept = Kept()
    try:
        yield kept
    except RunStopped:
        raise
    except BaseException as error:
        of_the_machine = _of_the_machine(error, store, batch_size)
        if kept.total is None and of_the_machine is None:
            raise
        have = "" if kept.total is None else f"{kept.done:,} of {kept.total:,} {unit} are kept in "
        have = f"{have}{store}" if have else f"what {store} holds is kept"
        if isinstance(error, KeyboardInterrupt):
            error.add_note(f"{have}; run it again to go on from there")
        if not isinstance(error, Exception):
            raise
        if of_the_machine is not None:
            what, advice = of_the_machine
            raise RunStopped(f"{what}: {have}; {advice}, then run it again: it goes on") from None
        what, advice = str(error), "mend that"
        if not isinstance(error, Broken):
            error = _first(error)
            where = "; ".join(filter(None, [place_of(error), *_notes(error)]))
            what = f"{named(error)} ({where}), which is an error of the program, not of a clip"
        raise RunStopped(f"{what}: {have}; {advice}, then run it again: it goes on") from error


def _notes(error: BaseException) -> list[str]:
    return [one_line(note) for note in getattr(error, "__notes__", [])]


def _of_the_machine(
    error: BaseException, store: Path, batch_size: int | None
) -> tuple[str, str] | None:
    """What has run out, and what to do about it; None for anything else."""
    said = ", ".join([named(error), *_notes(error)])
    types = {kind.__name__ for kind in type(error).__mro__}
    number = error.errno if isinstance(error, OSError) else None
    smaller = "look for people with processes=1"
    if batch_size is not None:
        smaller = f"choose a batch_size below {batch_size}"
        if batch_size == 1:
            smaller = "choose fewer frames or seconds a clip"
    if _WORKER in str(error) or "BrokenProcessPool" in types:
        also = ' and, in a script, under if __name__ == "__main__"'
        return (
            f"a process of the run was killed, most often for want of memory ({said})",
            f"{smaller}{also if batch_size is None else ' or processes=1'}",
        )
    if (
        isinstance(error, MemoryError)
        or number == errno.ENOMEM
        or "OutOfMemoryError" in types
        or _CPU_ALLOCATOR in str(error)
    ):
        return f"out of memory ({said})", smaller
    if number in _FULL or (_of_a_store(error, types) and _says_full(error)):
        return f"the disk is full ({said})", f"make room on the disk of {store.parent}"
    if number in _NO_FILES:
        return f"too many files are open ({said})", "raise the limit (ulimit -n)"
    if "AcceleratorError" in types:
        return f"the device has failed ({said})", "see to the device"
    if _of_a_store(error, types):
        return f"what is kept cannot be read or written ({said})", f"see to {store.parent}"
    return None


def _of_a_store(error: BaseException, types: set[str]) -> bool:
    # Those that are raised in a clip's turn never come here.
    return isinstance(error, (sqlite3.Error, OSError)) or "SafetensorError" in types


def _says_full(error: BaseException) -> bool:
    words = str(error)
    return "disk is full" in words or "No space left" in words or "quota exceeded" in words.lower()
