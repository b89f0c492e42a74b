"""Steps in processes of their own, several at a time, each after those that it builds on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

GRACE = 20.0
"""Seconds that an interrupted step has to clean up behind itself."""


class StepDied(RuntimeError):
    """A step's process ended without a word, often for want of memory."""


def in_turn(
    steps: Sequence[str],
    builds_on: Mapping[str, Collection[str]],
    work: Callable[[str], None],
    jobs: int,
) -> None:
    """Do ``work`` for every step, at most ``jobs`` at a time.

    With one job, in the given order and in this process. With more, each step has a process of its
    own (a fork on Linux, elsewhere started anew, so that ``work`` has to be picklable) and starts
    when the steps it builds on are done; of those that could start, the one on which most others
    wait goes first.

    Parameters
    ----------
    builds_on
        Steps by step; those that are not among ``steps`` count as done. A step that is not named
        builds on all before it.

    Raises what a step raised. Steps that run beside it are let finish, and no other is started.
    ``KeyboardInterrupt`` is passed on to all of them. Raises ``ValueError`` for a step that builds
    on a later one.
    """
    needs = {
        step: set(builds_on.get(step, steps[:place])) & set(steps)
        for place, step in enumerate(steps)
    }
    if odd := [s for i, s in enumerate(steps) if not needs[s] <= set(steps[:i])]:
        raise ValueError(f"{odd} build on later steps; give steps in an order that works")
    if jobs <= 1:
        for step in steps:
            work(step)
        return
    waiting, done = list(steps), set()
    running: dict[Connection, tuple[str, BaseProcess]] = {}
    failure: BaseException | None = None
    try:
        while running or (waiting and failure is None):
            while failure is None and len(running) < jobs:
                ready = [step for step in waiting if needs[step] <= done]
                if not ready:
                    break
                step = max(ready, key=lambda s: len(_followers(s, needs)))
                waiting.remove(step)
                running |= [_start(work, step)]
            for end in wait(list(running)):
                step, process = running.pop(end)
                failure = _outcome(end, step) or failure
                process.join()
                done.add(step)
    except BaseException:
        _interrupt([process for _, process in running.values()])
        raise
    if failure is not None:
        raise failure


def _followers(step: str, needs: Mapping[str, Collection[str]]) -> set[str]:
    """All steps that have to wait for one."""
    own = {other for other, before in needs.items() if step in before}
    return own.union(*(_followers(other, needs) for other in own))


def _start(work: Callable[[str], None], step: str) -> tuple[Connection, tuple[str, BaseProcess]]:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    # What is imported here need not be imported again; elsewhere a fork is not safe.
    kind = "fork" if sys.platform == "linux" else "spawn"
    process = multiprocessing.get_context(kind).Process(
        target=_run, args=(work, step, theirs), name=step
    )
    process.start()
    theirs.close()
    return ours, (step, process)


def _run(work: Callable[[str], None], step: str, end: Connection) -> None:
    # A terminal sends Ctrl-C to its whole group; the parent passes it on once.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        work(step)
    except BaseException as error:
        try:
            end.send(error)
        except Exception:
            end.send(RuntimeError(traceback.format_exc()))
    else:
        end.send(None)


def _die_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _outcome(end: Connection, step: str) -> BaseException | None:
    with end:
        try:
            return end.recv()
        except EOFError:
            return StepDied(f"{step}: its process was killed; often for want of memory")


def _interrupt(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, signal.SIGINT)
    for process in processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
