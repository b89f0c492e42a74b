"""What an API costs: tokens estimated before a run, counted after it, and the budget between."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

from emomm_study.failures import RunStopped


@dataclass(frozen=True)
class Tokens:
    """Tokens by what they stand for; ``thoughts`` and ``answer`` are written, the rest is read."""

    text: int = 0
    audio: int = 0
    video: int = 0
    thoughts: int = 0
    answer: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def total(self) -> int:
        """All of them."""
        return sum(astuple(self))

    def __str__(self) -> str:
        parts = ", ".join(f"{field.name} {getattr(self, field.name):,}" for field in fields(self))
        return f"{self.total:,} tokens ({parts})"


@dataclass(frozen=True)
class Asked:
    """What one request will hold, as far as the headers of a clip's files tell.

    Attributes
    ----------
    text
        All of it: transcript, instruction, and what stands before them.
    seconds, frames
        Of sound, and of film; 0 where there is none.
    """

    text: str
    seconds: float = 0.0
    frames: int = 0


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens, in any currency; sound costs as other input where not said."""

    input: float
    output: float
    audio: float | None = None

    def of(self, tokens: Tokens) -> float:
        """``Prices(2, 12).of(Tokens(text=500_000, answer=100_000)) == 2.2``."""
        audio = self.input if self.audio is None else self.audio
        read = (tokens.text + tokens.video) * self.input + tokens.audio * audio
        return (read + (tokens.thoughts + tokens.answer) * self.output) / 1e6


class OverBudget(RunStopped):
    """A run would cost more than it may; the message has the numbers."""


@dataclass(frozen=True)
class Budget:
    """What may be spent by one process: ``unit`` is ``tokens``, ``money``, or ``any`` for no limit."""

    limit: float
    unit: str

    @classmethod
    def of(cls, text: str, prices: Prices | None) -> Budget:
        """Of ``3000000tokens``, of ``12.5`` in the prices' currency, or of ``any``.

        Raises ``ValueError`` for anything else, and for money without prices.
        """
        if text == "any":
            return cls(math.inf, "any")
        number = text.removesuffix("tokens")
        unit = "money" if number == text else "tokens"
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if not limit >= 0:
            raise ValueError(f"a budget is 3000000tokens, 12.5 (money) or any; got {text!r}")
        if unit == "money" and prices is None:
            raise ValueError(
                f"budget={text} is money, which needs input_price and output_price; of tokens say "
                f"{text}tokens"
            )
        return cls(limit, unit)

    def cost(self, tokens: Tokens, prices: Prices | None) -> float:
        """Tokens in the budget's unit."""
        return prices.of(tokens) if self.unit == "money" and prices else float(tokens.total)

    def __str__(self) -> str:
        if self.unit == "any":
            return "any"
        return f"{self.limit:,.0f} tokens" if self.unit == "tokens" else f"{self.limit:,.2f}"


@dataclass(frozen=True)
class Bill:
    """Requests and tokens, before a run (estimated) or after it (as the service counted)."""

    requests: int
    tokens: Tokens
    prices: Prices | None = None

    @property
    def money(self) -> float | None:
        """In the prices' currency; None without prices."""
        return None if self.prices is None else self.prices.of(self.tokens)

    def __str__(self) -> str:
        money = "" if self.money is None else f", {self.money:,.2f} at the prices given"
        return f"{self.requests:,} requests, {self.tokens}{money}"


def spent(details: Iterable[str | None], prices: Prices | None = None) -> Bill:
    """What stored answers and failures cost, by the ``tokens`` of their ``details``.

    ``details`` is the column of that name, as ``Experiment.predictions`` returns it. An answer that
    replaced a failure is counted alone, so that a run's own count may be higher.
    """
    total, requests = Tokens(), 0
    for text in details:
        own = json.loads(text) if isinstance(text, str) else {}
        if "tokens" in own:
            total, requests = total + Tokens(**own["tokens"]), requests + 1
    return Bill(requests, total, prices)


def counted(usage: Any) -> Tokens:
    """Tokens of a ``usage_metadata``; what it gives no modality for counts as text."""
    if usage is None:
        return Tokens()
    by: dict[str, int] = {}
    for own in usage.prompt_tokens_details or []:
        name = str(getattr(own.modality, "value", own.modality))
        by[name] = by.get(name, 0) + (own.token_count or 0)
    audio, video = by.get("AUDIO", 0), by.get("VIDEO", 0)
    text = max(0, (usage.prompt_token_count or 0) - audio - video)
    written = usage.thoughts_token_count or 0, usage.candidates_token_count or 0
    return Tokens(text, audio, video, *written)


def as_json(tokens: Tokens) -> Mapping[str, int]:
    """Of tokens, those that there are."""
    return {f.name: n for f in fields(tokens) if (n := getattr(tokens, f.name))}
