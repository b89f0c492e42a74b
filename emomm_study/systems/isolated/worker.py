"""One driver's process over a run: started when needed, asked once more, told apart from others."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from emomm_study.failures import Broken
from emomm_study.systems.drivers.serving import PROTOCOL
from emomm_study.systems.interface import Unanswered
from emomm_study.systems.isolated.media import RunFolder
from emomm_study.systems.isolated.process import (
    DriverProcess,
    Lost,
    shown_command,
    without_secrets,
)

HELLO = {"name": str, "versions": dict, "weights": str, "device": str}
"""What a driver says of itself, beside the protocol's version, and as what."""


class DriverFailed(Unanswered):
    """A driver gave no answer to a question that can be scored; the message says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, kind=type(self).__name__)


class DriverUnusable(Broken):
    """A driver does not start, or is another than before; the message says what to do."""


class Called(Exception):
    """A worker was called off in the middle of a question."""


class Hello:
    """What a driver said of itself when it was first started, which each later one has to repeat."""

    def __init__(self) -> None:
        self.said: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def changed(self, said: Mapping[str, Any]) -> list[str]:
        """Names of what another start says otherwise; the first one says what the others repeat."""
        own = {name: said[name] for name in sorted(said) if name != "hello"}
        with self._lock:
            if self.said is None:
                self.said = own
            return sorted(k for k in {*own, *self.said} if own.get(k) != self.said.get(k))


class Worker:
    """A driver, one question at a time, in whatever process there is at the time.

    Parameters
    ----------
    title, command, timeout, loading
        As for :class:`emomm_study.systems.isolated.IsolatedSystem`.
    hello
        Shared by all that have to be the same driver.
    environment
        Variables that its process has beside those of this one.
    """

    def __init__(
        self,
        title: str,
        command: Sequence[str],
        timeout: float,
        loading: float,
        hello: Hello,
        environment: Mapping[str, str],
    ) -> None:
        self.title, self.command = title, list(command)
        self.timeout, self.loading = timeout, loading
        self.hello, self.environment = hello, dict(environment)
        self._ids = itertools.count()
        self._folder: RunFolder | None = None
        # In a list, so that what ends it holds no reference to this object.
        self._running: list[DriverProcess] = []
        self._owner = os.getpid()
        self._end = weakref.finalize(self, _end, self._running, self._owner)
        self._lock, self._called_off = threading.Lock(), False

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return self._running[0].pid if self._running else None

    @property
    def folder(self) -> RunFolder:
        """Where files of the clip lie that it is asked about."""
        if self._folder is None:
            self._folder = RunFolder()
        return self._folder

    def close(self) -> None:
        """End the process and remove its files; the next question starts it anew."""
        self._stop()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def call_off(self) -> None:
        """Make a question that another thread waits for end in :class:`Called`; see :meth:`resume`."""
        with self._lock:
            self._called_off = True
            for process in self._running:
                process.interrupt()

    def resume(self) -> None:
        """Be asked again after :meth:`call_off`, when the other thread is back."""
        self._stop()
        self._called_off = False

    def ask(
        self, given: Mapping[str, Any], wrong: Callable[[dict[str, Any]], str | None]
    ) -> dict[str, Any]:
        """What the driver says to a question, and as ``tried`` how often it was asked.

        Asked once more, of a new process, where it loses its way. Raises :class:`DriverFailed` for
        an error that it reports, for what ``wrong`` finds in an answer, and where it is lost twice.
        """
        reasons = []
        for tried in (1, 2):
            process = self.started()
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
            if (found := wrong(said)) is not None:
                raise DriverFailed(f"{self.title}: {found}")
            return said | {"tried": tried}
        both = reasons[-1] if len(set(reasons)) == 1 else "; then ".join(reasons)
        last = f"; its last words: {words}" if words else ""
        raise DriverFailed(
            f"{self.title}: asked twice, of a new process the second time: {both}{last}"
        )

    def started(self) -> DriverProcess:
        """The process, after its hello; raises :class:`DriverUnusable` where it does not start."""
        if os.getpid() != self._owner:
            raise RuntimeError(f"{self.title}: a driver is asked by the process that made it alone")
        if self._running:
            return self._running[0]
        # One that has worked may have been killed, or find its memory not yet given back.
        for left in (0,) if self.hello.said is None else (1, 0):
            try:
                return self._start()
            except DriverUnusable:
                if not left or self._called_off:
                    raise

    def _start(self) -> DriverProcess:
        shown = shown_command(self.command)
        with self._lock:
            if self._called_off:
                raise Called(self.title)
            try:
                process = DriverProcess(self.command, self.environment)
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
        if changed := self.hello.changed(hello):
            self._stop()
            raise DriverUnusable(
                f"{self.title} is not what it was when it was first started: its "
                f"{', '.join(changed)} changed; begin a new run, so that answers of both are told "
                "apart, or give all its processes the same (workers=1 asks one alone)"
            )
        return process

    def _stop(self) -> None:
        _end(self._running, self._owner)


def _end(running: list[DriverProcess], owner: int) -> None:
    while os.getpid() == owner and running:
        running.pop().end()


def _wrong_hello(hello: Mapping[str, Any]) -> str | None:
    if hello.get("hello") != PROTOCOL:
        return f"its hello is of protocol {hello.get('hello')!r}; expected {PROTOCOL}"
    lacking = [name for name, kind in HELLO.items() if not isinstance(hello.get(name), kind)]
    return f"its hello lacks {', '.join(lacking)}" if lacking else None
