"""How a profile names a system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Named:
    """What a profile says of a system: ``folder or hub id``, and options after a question mark.

    ``VITA-MLLM/VITA-1.5?audio=full`` has the option ``audio``; they are the kind's own.
    """

    path: str
    options: dict[str, str]

    @classmethod
    def of(cls, text: str) -> Named:
        """Raises ``ValueError`` for options that are not ``name=value``, joined by ``&``."""
        path, _, rest = text.partition("?")
        try:
            options = dict(parse_qsl(rest, strict_parsing=True)) if rest else {}
        except ValueError:
            raise ValueError(
                f"{text}: expected options as name=value, joined by &, after the question mark"
            ) from None
        return cls(path, options)

    @property
    def name(self) -> str:
        """Without folders or owner."""
        return Path(self.path).name
