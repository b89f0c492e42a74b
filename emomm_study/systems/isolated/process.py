"""A second process that is asked in lines of JSON: started, timed, read strictly, ended whole."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import Any

LONGEST = 2**20
"""Bytes of a line out; what is longer is no answer."""
_KEPT, _LINES, _WIDTH = 2**13, 6, 200
_SECRET = re.compile(r"(?i)key|token|secret|passw|credential|auth|cookie")
# They would bring the harness's own packages into an environment that was chosen without them.
_NOT_PASSED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


class Lost(Exception):
    """A process that is gone, hangs or is out of step: only a new one can be asked again."""


class DriverProcess:
    """A driver and all that it starts, in a process group of its own.

    At most one line is under way. A guard beside it ends the group where this process is killed.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """``environment`` is added to this process's. Raises ``OSError`` for what cannot be run."""
        self.command = list(command)
        self._read, self._said = b"", b""
        guard = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))]
        self._guard = subprocess.Popen(
            guard,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if k not in _NOT_PASSED} | {**environment},
            )
        except BaseException:
            self._dismiss()
            raise
        self._guard.stdin.write(f"{self._process.pid}\n".encode())
        self._guard.stdin.flush()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            os.set_blocking(pipe.fileno(), False)
        self._silent = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, given: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """What it says to a line with an ``id``, within some seconds.

        Raises :class:`Lost`, with the reason, for anything but one whole line that is a JSON object
        with this ``id``.
        """
        said = self.hear(seconds, (json.dumps(given) + "\n").encode())
        if said.get("id") != given["id"]:
            raise Lost(f"it answered to {_shown(str(said.get('id')))}, which was not asked")
        return said

    def hear(self, seconds: float, line: bytes = b"") -> dict[str, Any]:
        """Its next line, after it was sent one; raises :class:`Lost`."""
        got = self._exchange(line, time.monotonic() + seconds, seconds)
        try:
            said = json.loads(got)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise Lost(f"on its standard output stands what is no JSON object: {_shown(got)}")
        return said

    def _exchange(self, line: bytes, deadline: float, seconds: float) -> bytes:
        unsent, pipes = memoryview(line), self._process
        with DefaultSelector() as ready:
            ready.register(pipes.stdout, EVENT_READ)
            if not self._silent:
                ready.register(pipes.stderr, EVENT_READ)
            if line:
                ready.register(pipes.stdin, EVENT_WRITE)
            while b"\n" not in self._read:
                if len(self._read) > LONGEST:
                    raise Lost(f"a line of its standard output is longer than {LONGEST:,} bytes")
                if (left := deadline - time.monotonic()) <= 0:
                    half = f", but {_shown(self._read)}" if self._read else ""
                    raise Lost(f"no whole line came within {seconds:g} s{half}")
                for key, _ in ready.select(left):
                    if key.fileobj is pipes.stdin:
                        unsent = self._send(unsent)
                        if not unsent:
                            ready.unregister(pipes.stdin)
                    elif key.fileobj is pipes.stderr:
                        if not self._listen():
                            ready.unregister(pipes.stderr)
                    elif chunk := os.read(pipes.stdout.fileno(), 2**16):
                        self._read += chunk
                    else:
                        half = f" in the middle of a line: {_shown(self._read)}"
                        raise Lost(f"it ended{half if self._read else ''} ({self.status()})")
        found, _, self._read = self._read.partition(b"\n")
        return found

    def _send(self, unsent: memoryview) -> memoryview:
        try:
            return unsent[os.write(self._process.stdin.fileno(), unsent[: 2**16]) :]
        except BrokenPipeError:
            # Its standard output tells how it ended.
            return unsent[:0]

    def _listen(self) -> bool:
        """Take what is on standard error; whether more may come."""
        try:
            chunk = os.read(self._process.stderr.fileno(), 2**16)
        except BlockingIOError:
            return True
        self._silent = not chunk
        self._said = (self._said + chunk)[-_KEPT:]
        return bool(chunk)

    def status(self) -> str:
        """How it ended, in words; waits a second for it."""
        code = self._over(1)
        if code is None:
            return "still running, its standard output closed"
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"

    def _over(self, seconds: float) -> int | None:
        """Its exit status, when it has ended; what it has started is ended then."""
        if self._process.returncode is None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None
            # At once: the group's number may be somebody else's when nobody is left in it.
            self._kill()
        return self._process.returncode

    def interrupt(self) -> None:
        """Kill the whole group and do not wait: who listens to it hears that it ended."""
        if self._process.returncode is None:
            self._kill()

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def last_words(self, most: int = 1000) -> str:
        """The last lines of its standard error, in one line, without secrets."""
        end = time.monotonic() + 1
        while not self._silent and (left := end - time.monotonic()) > 0:
            if not self._waiting(left) or not self._listen():
                break
        lines = self._said.decode("utf-8", "replace").splitlines()
        lines = [" ".join(line.split())[-_WIDTH:] for line in lines if line.strip()]
        said = without_secrets(" | ".join(lines[-_LINES:]))
        return said if len(said) <= most else f"…{said[1 - most :]}"

    def _waiting(self, seconds: float) -> bool:
        # One that lives may say nothing more.
        seconds = 0 if self._over(0) is None else seconds
        with DefaultSelector() as ready:
            ready.register(self._process.stderr, EVENT_READ)
            return bool(ready.select(seconds))

    def end(self) -> None:
        """End the whole group, and leave no process behind."""
        if self._process.returncode is None:
            self._kill()
        self._dismiss()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            try:
                pipe.close()
            except OSError:
                pass

    def _dismiss(self) -> None:
        # Killed and not told: it would take the end of its input for the end of the harness.
        self._guard.kill()
        self._guard.wait()
        self._guard.stdin.close()


def shown_command(command: Sequence[str]) -> str:
    """A command as a shell takes it."""
    return without_secrets(shlex.join(command))


def without_secrets(text: str) -> str:
    """A text without the values of environment variables that are named like secrets."""
    hidden = {v for k, v in os.environ.items() if _SECRET.search(k) and len(v.strip()) >= 6}
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, "[hidden]")
    return text


def _shown(text: bytes | str) -> str:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    said = without_secrets(" ".join(said.split()))
    return repr(said if len(said) <= 80 else f"{said[:79]}…")
