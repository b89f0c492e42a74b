"""What the paper claims, held against values that a run found: ``notebooks/claims.yaml``.

A claim says what would have to hold of a notebook's values (:mod:`emomm_study.report.values`), as
comparisons of two of them, or of one with a number or with a published one. Its verdict follows from
their intervals: *holds*, *fails*, or *open* where they leave it. No number of a run is typed there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from emomm_study import paper
from emomm_study.paths import ROOT
from emomm_study.report.numbers import bracketed, number

CLAIMS = ROOT / "notebooks" / "claims.yaml"
HOLDS, FAILS, OPEN, NOT_MEASURED = "holds", "fails", "open", "not measured"
COLUMNS = ["item", "claim", "published", "here", "verdict", "notebook"]
_COMPARISON = re.compile(r"(?P<left>.+?) (?P<sign>[<>]) (?P<right>.+)")
_FIELD = re.compile(r"\{([^{}]+)\}")
_TWO_DIGITS = re.compile(r"\d\d")


class NotMeasured(LookupError):
    """A value that a claim speaks of is not among those of the run."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval, which is the value itself where none is known."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, row: pd.Series) -> Interval:
        low, high = (row["value"] if pd.isna(row[end]) else row[end] for end in ("low", "high"))
        return cls(float(row["value"]), float(low), float(high))

    def less(self, other: Interval) -> Interval:
        """The difference, its interval as of independent values: half-widths add as squares."""
        value = self.value - other.value
        below = np.hypot(self.value - self.low, other.high - other.value)
        above = np.hypot(self.high - self.value, other.value - other.low)
        return Interval(value, value - float(below), value + float(above))

    def printed(self, scale: float, digits: int) -> str:
        """``38.4 [34.1, 42.5]``; the value alone where it has no interval."""
        value = number(self.value * scale, digits)
        if self.low == self.high:
            return value
        return f"{value} {bracketed(self.low * scale, self.high * scale, digits)}"


@dataclass(frozen=True)
class Claim:
    """One statement of the paper, or a question that it leaves.

    Attributes
    ----------
    item
        Table, figure or section of the paper.
    notebook
        Two digits: the one whose values it is held against.
    published, here
        What stands beside it, with fields: ``{id}`` of a published number
        (``data/paper/claims.csv``, :func:`emomm_study.paper.items`), ``{name}`` of a value; a name with
        ``*`` stands for the first value that it matches, or with ``**`` for the range of all.
    holds
        Comparisons, all of which have to hold: ``a > b``, where ``b`` may be a number or a
        published one.
    scale, digits
        What values are multiplied by and how many decimals are printed.
    """

    item: str
    claim: str
    notebook: str
    here: str
    holds: tuple[str, ...]
    published: str = ""
    scale: float = 1.0
    digits: int = 2


@cache
def published() -> Mapping[str, float]:
    """Every published number by its identifier, ``vcc_drop_v`` or ``table6/test/target_top1``."""
    every = [paper.claim_items(), *(paper.items(n) for n in (1, 2, 6, 7, 8))]
    rows = pd.concat(every, ignore_index=True)
    return dict(zip(rows["item"].str.removeprefix("claim/"), rows["published"], strict=True))


def read_claims(path: Path = CLAIMS) -> list[Claim]:
    """The claims in their order, none without a file; ``ValueError`` naming the entry that is none."""
    if not path.is_file():
        return []
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))["claims"]
    return [_claim(path, place, entry) for place, entry in enumerate(entries, 1)]


def _claim(path: Path, place: int, entry: Mapping) -> Claim:
    where = f"{path.name}: claim {place}"
    try:
        found = Claim(**(dict(entry) | {"holds": tuple(entry["holds"])}))
        for text in found.holds:
            compared(text)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{where}: {error}; see report.claims.Claim") from None
    if not _TWO_DIGITS.fullmatch(str(found.notebook)):
        raise ValueError(f"{where}: notebook is two digits in quotes; got {found.notebook!r}")
    for name in _FIELD.findall(found.published):
        if name not in published():
            raise ValueError(f"{where}: {name!r} is no published number")
    return found


def compared(text: str) -> tuple[str, str, str]:
    """``("a", ">", "b")`` of ``"a > b"``; ``ValueError`` for anything else."""
    if not (found := _COMPARISON.fullmatch(text)):
        raise ValueError(f"expected a comparison such as 'a > b'; got {text!r}")
    return found["left"], found["sign"], found["right"]


class Values:
    """The values of one notebook by name; ``table`` has columns ``name, value, low, high``."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._rows = {row["name"]: Interval.of(row) for _, row in table.iterrows()}

    def matching(self, name: str) -> list[Interval]:
        """Of a name, or a pattern with ``*``; raises :class:`NotMeasured` where there is none."""
        if name in self._rows:
            return [self._rows[name]]
        found = [v for key, v in self._rows.items() if "*" in name and fnmatchcase(key, name)]
        if not found:
            raise NotMeasured(name)
        return found if "**" in name else found[:1]

    def fill(self, text: str, scale: float, digits: int) -> str:
        """A text with its fields replaced by values."""

        def field(found: re.Match) -> str:
            every = self.matching(found[1])
            if len(every) == 1:
                return every[0].printed(scale, digits)
            least, most = min(v.value for v in every), max(v.value for v in every)
            return f"{number(least * scale, digits)} to {number(most * scale, digits)}"

        return _FIELD.sub(field, text)

    def verdict(self, comparisons: Sequence[str]) -> str:
        """``fails`` where one comparison does, ``holds`` where all do, else ``open``."""
        words = {word for text in comparisons for word in self._verdicts(text)}
        return FAILS if FAILS in words else OPEN if OPEN in words else HOLDS

    def _verdicts(self, text: str) -> Iterator[str]:
        left, sign, right = compared(text)
        other = self._right(right)
        for value in self.matching(left):
            apart = value.less(other) if sign == ">" else other.less(value)
            yield HOLDS if apart.low > 0 else FAILS if apart.high < 0 else OPEN

    def _right(self, text: str) -> Interval:
        try:
            point = published()[text] if text in published() else float(text)
        except ValueError:
            return self.matching(text)[0]
        return Interval(point, point, point)


def judged(claims: Sequence[Claim], values: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row a claim with the columns ``COLUMNS``; ``values`` by the notebook's two digits.

    Where a value is missing the verdict is ``not measured``, and ``here`` empty.
    """
    known = {notebook: Values(table) for notebook, table in values.items()}
    rows = []
    for claim in claims:
        own = known.get(claim.notebook, Values(pd.DataFrame()))
        try:
            here = own.fill(claim.here, claim.scale, claim.digits)
            verdict = own.verdict(claim.holds)
        except NotMeasured:
            here, verdict = "", NOT_MEASURED
        printed = _FIELD.sub(lambda f: f"{published()[f[1]]:g}", claim.published)
        rows.append((claim.item, claim.claim, printed, here, verdict, claim.notebook))
    return pd.DataFrame(rows, columns=COLUMNS)


def markdown_table(rows: pd.DataFrame) -> str:
    """A table of texts in Markdown; bars in them are escaped."""
    cells = rows.astype(str).map(lambda text: text.replace("|", "\\|"))
    lines = [list(cells), ["---"] * len(cells.columns), *cells.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
