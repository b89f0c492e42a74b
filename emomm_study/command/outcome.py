"""What a command comes to: numbers for programs, text for people, or a refusal in one sentence."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from emomm_study.paths import plain


@dataclass(frozen=True)
class Outcome:
    """What a command found.

    Attributes
    ----------
    found
        As JSON knows it (:func:`plain_json`).
    text
        The same for a terminal.
    status
        Of the process.
    """

    found: dict[str, Any]
    text: str
    status: int = 0


class Refused(Exception):
    """Something the user can mend; its text is the whole message."""


@contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """Make a :class:`Refused` of exceptions that speak to the user."""
    try:
        yield
    except kinds as error:
        said = str(error)
        if isinstance(error, OSError) and error.strerror and error.filename:
            said = f"{error.filename}: {error.strerror}"
        raise Refused(said) from error


def warn(text: str) -> None:
    """Tell the user something beside the result."""
    print(f"Note: {text}", file=sys.stderr)


def plain_json(value: Any) -> Any:
    """A result as JSON knows it: numbers of numpy and paths as Python's, what is not finite None."""
    if isinstance(value, dict):
        return {str(key): plain_json(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(own) for own in value]
    if hasattr(value, "tolist"):
        return plain_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else plain(str(value))
