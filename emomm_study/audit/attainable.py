"""Which numbers of clips can print a published score: a mean of n whole steps is a fraction of n.

The granularity test of Brown and Heathers (2017, "The GRIM test"). A size that cannot print a value
says that the value is not a share of so many clips, and no more: a mean over several runs or over
two corpora, a score rounded twice, and answers that could not be read and were left out all do that
without any error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emomm_study.audit.mix import DIGITS, PARTS, ROW, best_weights, rounding_bound
from emomm_study.paper import claims, table
from emomm_study.paths import PAPER_DATA

PERCENT = Fraction(100)
"""What one clip answered rightly adds to n times an accuracy."""
GRID = Fraction(1, 5)
"""What one step of the score grid (0.2, Appendix A.1) adds to n times a MAE."""
SHARE = Fraction(1)
"""What one sample adds to n times a share, as in Table 6."""
SIZES = range(50, 1001)
"""Sizes among which windows are counted; larger ones are too fine to exclude much."""


def count_range(
    value: float, digits: int, step: Fraction, sizes: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Least and largest whole number k of steps with ``k step / n`` printing as ``value``.

    ``sizes`` n has any shape, positive integers; so have both results. None prints it where the
    least exceeds the largest. Half a unit in the last of ``digits`` decimals is allowed on both
    sides, both ends included, in whole-number arithmetic. Raises ``ValueError`` for a value with
    more decimals, or a size below 1.
    """
    n = np.asarray(sizes)
    if not np.issubdtype(n.dtype, np.integer) or (n.size and n.min() < 1):
        raise ValueError("sizes are integers from 1")
    units = round(float(value) * 10**digits)
    if abs(units - float(value) * 10**digits) > 1e-6:
        raise ValueError(f"{value!r} has more than {digits} decimals")
    n = n.astype(np.int64) * step.denominator
    whole = 2 * 10**digits * step.numerator
    return -(-(2 * units - 1) * n // whole), (2 * units + 1) * n // whole


def attainable_sizes(
    value: float, digits: int, step: Fraction, sizes: Iterable[int]
) -> NDArray[np.int64]:
    """Those of ``sizes`` at which some whole number of steps prints ``value``.

    ``attainable_sizes(50.15, 2, PERCENT, range(300, 700))`` is the odd numbers from 323 to
    343 and the even ones from 646. Raises like :func:`count_range`.
    """
    sizes = np.asarray([*sizes], dtype=np.int64)
    low, high = count_range(value, digits, step, sizes)
    return sizes[low <= high]


def _gap(values: NDArray[np.int64], at: float) -> tuple[float, float]:
    below, above = values[values <= at], values[values >= at]
    return (
        float(below.max()) if below.size else np.nan,
        float(above.min()) if above.size else np.nan,
    )


def implied_sizes(folder: Path = PAPER_DATA) -> Mapping[str, float]:
    """Instances of each subset and of all, if the test split has its share of both corpora's clips.

    The share of conflicts is that of the weights that fit Table 1's accuracies best, and each clip
    gives three Missing instances. Not whole numbers.
    """
    facts = claims(folder).set_index("id")["value"]
    clips = 2 * facts["clips_per_corpus"] * facts["split_test"]
    share = best_weights(("acc",), "largest", folder).weights.conflict_share
    missing = facts["missing_per_clip"] * clips
    sizes = {"align": (1 - share) * clips, "conflict": share * clips, "missing": missing}
    return {name: float(n) for name, n in {**sizes, "overall": clips + missing}.items()}


def accuracies(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Accuracies of Tables 1 and 2, one row a number: ``number, model, method, subset, acc, mae``.

    ``method`` is Table 2's variant where ``number`` is 2; its rows are on Conflict, and those that
    repeat Table 1 are left out.
    """
    one = table(1, folder)[[*ROW, "subset", "acc", "mae"]].assign(number=1)
    two = table(2, folder).rename(columns={"variant": "method"})
    two = two[~two["method"].isin(["full", "baseline"])].assign(number=2, subset="conflict")
    both = pd.concat([one, two], ignore_index=True)
    return both[["number", *ROW, "subset", "acc", "mae"]]


def _printed_share(low: int, high: int, sizes: NDArray[np.int64]) -> float:
    """Share of the printed accuracies ``low..high`` (hundredths) that one of ``sizes`` prints."""
    printed = np.zeros(high - low + 1, bool)
    for n in sizes.tolist():
        k = np.arange(low * n // 10_000, high * n // 10_000 + 2)
        # Both neighbours of a tie count as printed, as in count_range.
        for values in ((20_000 * k + n) // (2 * n), -((n - 20_000 * k) // (2 * n))):
            printed[values[(values >= low) & (values <= high)] - low] = True
    return float(printed.mean())


def _around(centre: float, reach: float) -> NDArray[np.int64]:
    return np.arange(int(np.ceil(centre * (1 - reach))), int(centre * (1 + reach)) + 1)


def row_sizes(folder: Path = PAPER_DATA, *, reach: float = 0.1) -> pd.DataFrame:
    """Sizes near the implied one that print each accuracy of Tables 1 and 2.

    Columns ``number, model, method, subset, acc, implied, below, above, sizes, share, rarity,
    mae_excludes, holds``. ``below`` and ``above`` are the nearest attainable sizes around the
    implied one; ``sizes`` are all within ``reach`` (a share of the implied size) either way, and
    ``share`` is their part of the sizes there. ``rarity`` is the base rate of so wide a gap: the
    part of all printed accuracies in the tables' range that have no attainable size nearer to the
    implied one than this one has. ``mae_excludes`` counts the sizes in reach that the MAE excludes:
    none where steps of 0.2/n are finer than its print. ``holds`` is false where no size in reach
    prints the accuracy, so that it is no share of about so many clips.
    """
    implied, frame = implied_sizes(folder), accuracies(folder)
    low, high = (round(100 * value) for value in (frame["acc"].min(), frame["acc"].max()))
    rows = []
    for row in frame.itertuples(index=False):
        centre = implied[row.subset]
        near = _around(centre, reach)
        wide = attainable_sizes(row.acc, DIGITS["acc"], PERCENT, range(1, int(3 * centre)))
        found = wide[(wide >= near[0]) & (wide <= near[-1])]
        mae = attainable_sizes(row.mae, DIGITS["mae"], GRID, near)
        below, above = _gap(wide, centre)
        gap = np.nanmin([centre - below, above - centre])
        nearer = np.arange(int(np.floor(centre - gap)) + 1, int(np.ceil(centre + gap)))
        rarity = 1 - _printed_share(low, high, nearer)
        rows.append(
            (
                *(row.number, row.model, row.method, row.subset, row.acc, centre, below, above),
                *(tuple(found.tolist()), len(found) / len(near), rarity, len(near) - len(mae)),
                len(found) > 0,
            )
        )
    columns = ["number", *ROW, "subset", "acc", "implied", "below", "above", "sizes", "share"]
    return pd.DataFrame(rows, columns=[*columns, "rarity", "mae_excludes", "holds"])


@dataclass(frozen=True)
class Windows:
    """Runs of ``width`` sizes in which every row of a subset finds one that prints its accuracy.

    Attributes
    ----------
    starts
        First sizes of these runs.
    tried
        Number of runs looked at.
    expected
        Number of such runs if every accuracy were any printed value of its range, independently.
    near
        Those expected within 10% of the implied size, which answers "how surprising is one here".
    """

    subset: str
    width: int
    starts: tuple[int, ...]
    tried: int
    expected: float
    near: float


def windows(
    subset: str,
    width: int,
    folder: Path = PAPER_DATA,
    *,
    sizes: range = SIZES,
) -> Windows:
    """Where in a wide range of sizes all of Table 1's accuracies of a subset fit a narrow window.

    The base rate needs no model of systems: each accuracy is replaced by any printed value between
    the least and the largest of the column. Rows count as independent, which the same system
    without and with CHASE may not be. Raises ``ValueError`` for an unknown subset.
    """
    frame = table(1, folder).query("subset == @subset")
    if frame.empty:
        raise ValueError(f"Table 1 has no subset {subset!r}")
    grid = np.arange(sizes.start, sizes.stop)
    low, high = (round(100 * value) for value in (frame["acc"].min(), frame["acc"].max()))
    fits = [np.isin(grid, attainable_sizes(a, DIGITS["acc"], PERCENT, grid)) for a in frame["acc"]]
    runs = np.lib.stride_tricks.sliding_window_view(np.array(fits), width, axis=1).any(-1).all(0)
    starts = grid[: len(runs)]
    # The share changes slowly with size, so that every tenth window is enough to integrate it.
    nodes = starts[::10]
    share = [_printed_share(low, high, np.arange(s, s + width)) for s in nodes]
    chance = np.interp(starts, nodes, share) ** len(frame)
    implied = implied_sizes(folder)[subset]
    near = np.abs(starts + (width - 1) / 2 - implied) <= 0.1 * implied
    return Windows(
        subset,
        width,
        tuple(starts[runs].tolist()),
        len(starts),
        float(chance.sum()),
        float(chance[near].sum()),
    )


def shared_sizes(folder: Path = PAPER_DATA, *, reach: float = 0.1) -> pd.DataFrame:
    """Whether a system without and with CHASE can have been scored on the same number of clips.

    On Align and Conflict; all others are too fine to tell. Columns ``model, subset, baseline,
    chase, shared, expected, holds``: attainable sizes within ``reach`` of the implied one, those in
    both, and how many would be in both by chance.
    """
    rows = row_sizes(folder, reach=reach).query("number == 1")
    sizes = rows.set_index([*ROW, "subset"])
    found = []
    for model in rows.loc[rows["method"] == "CHASE", "model"].unique():
        for subset in ("align", "conflict"):
            one, two = (sizes.loc[(model, method, subset)] for method in ("baseline", "CHASE"))
            shared = tuple(sorted(set(one["sizes"]) & set(two["sizes"])))
            expected = one["share"] * len(two["sizes"])
            found.append(
                (model, subset, one["sizes"], two["sizes"], shared, expected, bool(shared))
            )
    columns = ["model", "subset", "baseline", "chase", "shared", "expected", "holds"]
    return pd.DataFrame(found, columns=columns)


def _solutions(
    row: Mapping[str, pd.Series], boxes: Mapping[str, NDArray[np.int64]]
) -> Iterator[tuple[int, int, int]]:
    """Sizes (align, conflict, missing) of one row whose counts add up to its Overall accuracy."""
    digits, unit = DIGITS["acc"], float(rounding_bound("mae"))
    counts = {s: (boxes[s], *count_range(row[s]["acc"], digits, PERCENT, boxes[s])) for s in PARTS}
    sized = {
        s: tuple(values[low <= high] for values in (n, low, high))
        for s, (n, low, high) in counts.items()
    }
    missing, least, most = sized["missing"]
    for align, a_low, a_high in zip(*sized["align"], strict=True):
        for conflict, c_low, c_high in zip(*sized["conflict"], strict=True):
            total = align + conflict + missing
            low, high = count_range(row["overall"]["acc"], digits, PERCENT, total)
            fits = np.maximum(low, a_low + c_low + least) <= np.minimum(
                high, a_high + c_high + most
            )
            parts = (align, row["align"]), (conflict, row["conflict"]), (missing, row["missing"])
            mae = sum(n * r["mae"] for n, r in parts) / total
            fits &= np.abs(mae - row["overall"]["mae"]) <= unit + 1e-9
            yield from ((int(align), int(conflict), int(n)) for n in missing[fits])


def joint_sizes(folder: Path = PAPER_DATA, *, reach: float = 0.1) -> pd.DataFrame:
    """Sizes of the three subsets that print a row's four accuracies and its Overall MAE at once.

    All sizes within ``reach`` of the implied ones are tried. Columns ``model, method, solutions,
    align, conflict, total_low, total_high, ratio_low, ratio_high, three, holds, detail``:
    attainable ``align`` and ``conflict`` sizes that occur in a solution, the ranges of all sizes
    together and of Missing for one full-modality clip, and in how many solutions the latter is
    exactly Appendix A.3's three. ``holds`` is false where there is no solution; ``detail`` then
    says which of the accuracies no size in reach prints by itself.
    """
    facts = claims(folder).set_index("id")["value"]
    implied = implied_sizes(folder)
    boxes = {s: _around(n, reach) for s, n in implied.items()}
    indexed = table(1, folder).set_index([*ROW, "subset"])
    rows = []
    for model, method in indexed.index.droplevel("subset").unique():
        row = {s: indexed.loc[(model, method, s)] for s in boxes}
        found = np.array([*_solutions(row, boxes)], dtype=np.int64).reshape(-1, 3)
        align, conflict, missing = found.T
        ratio = missing / (align + conflict)
        none = [
            s
            for s in boxes
            if not len(attainable_sizes(row[s]["acc"], DIGITS["acc"], PERCENT, boxes[s]))
        ]
        detail = f"{len(found)} triples of sizes"
        if none:
            detail += "; no size in reach prints " + ", ".join(
                f"{s} {row[s]['acc']:.2f} ({boxes[s][0]}-{boxes[s][-1]})" for s in none
            )
        ranged = (found.sum(1), ratio)
        ends = [f(v) if len(found) else np.nan for v in ranged for f in (np.min, np.max)]
        rows.append(
            (
                *(model, method, len(found)),
                *(tuple(np.unique(v).tolist()) for v in (align, conflict)),
                *map(float, ends),
                int((missing == facts["missing_per_clip"] * (align + conflict)).sum()),
                len(found) > 0,
                detail,
            )
        )
    columns = [*ROW, "solutions", "align", "conflict", "total_low", "total_high"]
    columns += ["ratio_low", "ratio_high", "three", "holds", "detail"]
    return pd.DataFrame(rows, columns=columns)


def unprintable(
    value: float, around: int, digits: int = 2, step: Fraction = PERCENT, most: int = 20_000
) -> tuple[int, int]:
    """First and last of the run of sizes about ``around`` none of which prints ``value``.

    Both are ``around + 1, around`` (an empty run) when ``around`` itself prints it. ``most`` bounds
    the search. Runs are long near a simple fraction: of 344 to 645 clips no share but 1/2 itself is
    so near to 1/2 as 50.15%.
    """
    found = attainable_sizes(value, digits, step, range(1, most + 1))
    if around in found:
        return around + 1, around
    below, above = _gap(found, around)
    return (
        1 if np.isnan(below) else int(below) + 1,
        most if np.isnan(above) else int(above) - 1,
    )
