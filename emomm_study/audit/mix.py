"""Table 1's Overall column as one mix of its subsets, and what that says about the test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linprog

from emomm_lib.metrics.scores import METRICS
from emomm_study.paper import claims, table
from emomm_study.paths import PAPER_DATA

PARTS = ("missing", "conflict", "align")
"""Order of weights everywhere here."""
DIGITS = {"acc": 2, "f1": 2, "mae": 3}
"""Decimals that Tables 1 and 2 print."""
ROW = ["model", "method"]


def rounding_bound(metric: str) -> Fraction:
    """Most by which a mix of printed values can miss a printed value: one unit in the last digit.

    Half a unit for the Overall value, and half a unit for the mix, whose weights sum to one.
    """
    return Fraction(1, 10 ** DIGITS[metric])


@dataclass(frozen=True)
class Weights:
    """Shares of Missing, Conflict and Align among the instances behind Overall; they sum to 1."""

    missing: float
    conflict: float
    align: float

    @property
    def conflict_share(self) -> float:
        """Share of conflicts among full-modality clips."""
        return self.conflict / (self.conflict + self.align)

    @property
    def missing_ratio(self) -> float:
        """Missing instances for one full-modality clip; Appendix A.3 makes three."""
        return self.missing / (self.conflict + self.align)


@dataclass(frozen=True)
class Fit:
    """Best weights under one norm, and the largest residual as a multiple of the rounding bound.

    ``worst`` above 1 means that these weights miss a printed value by more than rounding explains.
    """

    metrics: tuple[str, ...]
    norm: str
    weights: Weights
    worst: float


def overall_and_parts(metric: str, folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Table 1's column ``metric`` with a row a system: ``overall`` and :data:`PARTS`."""
    frame = table(1, folder)
    rows = pd.MultiIndex.from_frame(frame[ROW].drop_duplicates())
    wide = frame.pivot(index=ROW, columns="subset", values=metric)
    return wide.loc[rows, ["overall", *PARTS]]


def _system(
    metrics: Sequence[str], folder: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Parts ``(R, 3)`` and Overall ``(R,)`` in units of the rounding bound, all metrics stacked."""
    if not metrics or set(metrics) - set(DIGITS):
        raise ValueError(f"metrics are some of {tuple(DIGITS)}; got {tuple(metrics)}")
    scaled = [overall_and_parts(m, folder) / float(rounding_bound(m)) for m in metrics]
    values = np.concatenate([frame.to_numpy(float) for frame in scaled])
    return values[:, 1:], values[:, 0]


def _least_squares(parts: NDArray[np.float64], overall: NDArray[np.float64]) -> NDArray[np.float64]:
    # With three weights there are seven sets of positive ones; the best fit over all of them is
    # the optimum, without a solver's tolerance.
    best, least = np.zeros(3), np.inf
    for size in (1, 2, 3):
        for chosen in combinations(range(3), size):
            last, others = chosen[-1], list(chosen[:-1])
            solved, *_ = np.linalg.lstsq(
                parts[:, others] - parts[:, [last]], overall - parts[:, last], rcond=None
            )
            weights = np.zeros(3)
            weights[others], weights[last] = solved, 1 - solved.sum()
            error = float(((parts @ weights - overall) ** 2).sum())
            if weights.min() >= 0 and error < least:
                best, least = weights, error
    return best


def _smallest_largest(
    parts: NDArray[np.float64], overall: NDArray[np.float64], missing: float | None
) -> NDArray[np.float64]:
    slack = np.full((len(parts), 1), -1.0)
    fixed = (0.0, 1.0) if missing is None else (missing, missing)
    solution = linprog(
        [0, 0, 0, 1],
        A_ub=np.block([[parts, slack], [-parts, slack]]),
        b_ub=np.concatenate([overall, -overall]),
        A_eq=[[1, 1, 1, 0]],
        b_eq=[1],
        bounds=[fixed, (0, 1), (0, 1), (0, None)],
    )
    return solution.x[:3]


def best_weights(
    metrics: Sequence[str] = ("acc",),
    norm: str = "squares",
    folder: Path = PAPER_DATA,
    *,
    missing: float | None = None,
) -> Fit:
    """Weights, none negative and summing to 1, whose mix of the subsets is nearest to Overall.

    ``norm`` is ``squares`` (least squares) or ``largest`` (smallest largest residual). Several
    metrics count alike, each in units of :func:`rounding_bound`. ``missing`` fixes that weight,
    with norm ``largest`` only: 0.75 is three instances a clip. Raises ``ValueError`` for an unknown
    metric or norm, and like :func:`emomm_study.paper.table`.
    """
    parts, overall = _system(metrics, folder)
    if norm == "largest":
        weights = _smallest_largest(parts, overall, missing)
    elif norm == "squares" and missing is None:
        weights = _least_squares(parts, overall)
    else:
        raise ValueError(f"norm is 'squares', or 'largest' with or without missing; got {norm!r}")
    worst = float(np.abs(parts @ weights - overall).max())
    return Fit(tuple(metrics), norm, Weights(*map(float, weights)), worst)


def residuals(
    weights: Weights, metrics: Sequence[str] = tuple(DIGITS), folder: Path = PAPER_DATA
) -> pd.DataFrame:
    """Overall less the mix, by row and metric, in the metric's own unit.

    Columns ``model, method, metric, printed, mixed, residual, bound, holds``; ``holds`` where the
    residual is at most :func:`rounding_bound`.
    """
    frames = []
    for metric in metrics:
        wide = overall_and_parts(metric, folder)
        mixed = wide[list(PARTS)] @ [weights.missing, weights.conflict, weights.align]
        frame = pd.DataFrame({"metric": metric, "printed": wide["overall"], "mixed": mixed})
        frame["residual"] = frame["printed"] - frame["mixed"]
        frame["bound"] = float(rounding_bound(metric))
        frames.append(frame.reset_index())
    result = pd.concat(frames, ignore_index=True)
    # The slack only absorbs binary rounding of decimal numbers.
    result["holds"] = result["residual"].abs() <= result["bound"] + 1e-9
    return result


def _half_planes(metrics: Sequence[str], folder: Path) -> list[tuple[Fraction, Fraction, Fraction]]:
    """``(a, b, c)`` with a missing + b conflict <= c, exactly; align is what is left to 1."""
    planes = [(Fraction(-1), Fraction(0), Fraction(0)), (Fraction(0), Fraction(-1), Fraction(0))]
    planes.append((Fraction(1), Fraction(1), Fraction(1)))
    for metric in metrics:
        bound = rounding_bound(metric)
        for row in overall_and_parts(metric, folder).itertuples(index=False):
            # repr of a float read from a short decimal is that decimal.
            overall, missing, conflict, align = (Fraction(repr(float(value))) for value in row)
            a, b, c = missing - align, conflict - align, overall - align
            planes += [(a, b, c + bound), (-a, -b, bound - c)]
    return planes


def compatible(metrics: Sequence[str] = ("acc", "mae"), folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Corners of the set of all weights that rounding cannot exclude; empty where there are none.

    Weights belong to it when some unrounded values, each within half a unit of the printed one,
    make Overall the exact mix in every row and metric. The set is a polygon in two free weights,
    computed in rational numbers. Columns ``missing, conflict, align``, corners in order around it;
    :func:`best_weights` with norm ``largest`` says by how much an empty one fails. One mix for all
    rows supposes that all systems are scored on the same instances: where some answers of one
    system are left out, its own weights may lie a little outside.
    """
    planes = _half_planes(metrics, folder)
    corners = set()
    for (a, b, c), (d, e, f) in combinations(planes, 2):
        if determinant := a * e - b * d:
            x, y = (c * e - b * f) / determinant, (a * f - c * d) / determinant
            if all(p * x + q * y <= r for p, q, r in planes):
                corners.add((x, y))
    frame = pd.DataFrame(sorted(corners), columns=["missing", "conflict"], dtype=float)
    centre = frame.mean()
    angle = np.arctan2(frame["conflict"] - centre["conflict"], frame["missing"] - centre["missing"])
    frame = frame.iloc[np.argsort(angle)].reset_index(drop=True)
    return frame.assign(align=1 - frame["missing"] - frame["conflict"])


def implications(
    metrics: Sequence[str] = ("acc", "mae"), folder: Path = PAPER_DATA
) -> pd.DataFrame:
    """Ranges that the compatible weights leave for what the paper does not print.

    Columns ``quantity, low, high, expected, holds, detail``: ``expected`` is what the paper says,
    where it does, and ``holds`` whether it lies in the range (missing where it says nothing). Clips
    of the test split are the published share of both corpora's clips, and CMU-MOSI's conflicts
    suppose that the split is stratified by subset, so that the test set's share of conflicts is the
    benchmark's, in which CH-SIMS has its quota. Every quantity is monotone along any line, so its
    extremes lie in corners. Raises ``ValueError`` when no weights are compatible.
    """
    corners = compatible(metrics, folder)
    if corners.empty:
        worst = best_weights(metrics, "largest", folder).worst
        raise ValueError(
            f"no mix of subsets gives Overall {'/'.join(metrics)} within rounding: the best misses "
            f"by {worst:.2f} times what rounding explains; compare the rows with residuals()"
        )
    facts = claims(folder).set_index("id")["value"]
    both = 2 * facts["clips_per_corpus"]
    clips = both * facts["split_test"]
    weights = [Weights(*row) for row in corners[list(PARTS)].itertuples(index=False)]
    conflict = np.array([w.conflict_share for w in weights])
    ratio = np.array([w.missing_ratio for w in weights])
    three = facts["missing_per_clip"]
    rows = [
        (f"weight of {part}", corners[part], np.nan, f"mix of {'/'.join(metrics)}")
        for part in PARTS
    ]
    rows += [
        ("share of conflicts among full-modality clips", conflict, np.nan, "conflict / full"),
        (
            "Missing instances a full-modality clip",
            ratio,
            three,
            f"full-modality clips are {three / ratio.max():.1%} to {three / ratio.min():.1%} of "
            f"Missing / {three:.0f}",
        ),
        ("test clips in Conflict", conflict * clips, np.nan, f"of {clips:.0f} clips"),
        ("test clips in Align", (1 - conflict) * clips, np.nan, f"of {clips:.0f} clips"),
        (
            "CMU-MOSI's conflicts",
            conflict * both - facts["quota_ch_sims_conflict"],
            np.nan,
            f"of {facts['clips_per_corpus']:.0f}, if the split is stratified",
        ),
    ]
    frame = pd.DataFrame(
        [(q, float(np.min(v)), float(np.max(v)), e, d) for q, v, e, d in rows],
        columns=["quantity", "low", "high", "expected", "detail"],
    )
    inside = frame["expected"].between(frame["low"] - 1e-12, frame["high"] + 1e-12)
    frame["holds"] = inside.astype("boolean").mask(frame["expected"].isna())
    return frame[["quantity", "low", "high", "expected", "holds", "detail"]]


def rounded_mix_misfits(
    draws: int, metric: str = "acc", seed: int = 0, folder: Path = PAPER_DATA
) -> NDArray[np.float64]:
    """Largest residual of the best weights where one mix is true, ``(draws,)``, metric's unit.

    Each draw unrounds Table 1's subset columns anywhere within their last digit, mixes them by the
    weights that fit the table best, rounds the mix, and fits anew. None can exceed
    :func:`rounding_bound`; the draws say how near to it a true mix comes.
    """
    rng, unit = np.random.default_rng(seed), float(rounding_bound(metric))
    best = best_weights((metric,), "largest", folder).weights
    weights = np.array([best.missing, best.conflict, best.align])
    parts, _ = _system((metric,), folder)
    found = np.empty(draws)
    for k in range(draws):
        exact = parts + rng.uniform(-0.5, 0.5, parts.shape)
        overall = np.round(exact @ weights)
        fitted = _smallest_largest(parts, overall, None)
        found[k] = np.abs(parts @ fitted - overall).max() * unit
    return found


def f1_counterexample() -> tuple[float, float]:
    """Pooled and mixed macro F1 of two equal subsets: 1/3 and 1/2.

    Ten clips of class 0, all right (F1 1), and ten of class 4, all read as 0 (F1 0). Their mix is
    1/2; pooled, class 0 has F1 2/3 and class 4 has 0.
    """
    right, wrong = np.zeros((5, 5)), np.zeros((5, 5))
    right[0, 0] = wrong[4, 0] = 10
    f1 = METRICS["f1"].finish
    pooled, one, two = (float(f1(t.ravel())) for t in (right + wrong, right, wrong))
    return pooled, (one + two) / 2


def pooled_f1_misfits(draws: int, seed: int = 0, rows: int = 8) -> NDArray[np.float64]:
    """How far macro F1 of pooled answers is from any mix of its subsets', ``(draws,)`` in points.

    Each draw makes ``rows`` systems on the same three subsets in Table 1's proportions and fits one
    mix by least squares; the value is its largest residual. A system answers rightly at a rate of
    its own and of the subset's, from 0.2 to 0.6, and otherwise by a bias of its own towards some
    classes. A generic model and not one of Table 1's systems: its draws say what a residual would
    usually be, not what it must be.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array([0.75, 0.165, 0.085])
    truth = sizes[:, None] * rng.dirichlet(np.full(5, 20.0), (draws, 1, 3))
    rate = rng.uniform(0.2, 0.6, (draws, rows, 1)) + rng.uniform(-0.05, 0.05, (draws, rows, 3))
    bias = rng.dirichlet(np.ones(5), (draws, rows))
    right = rate[..., None, None] * np.eye(5)
    answer = right + (1 - rate[..., None, None]) * bias[:, :, None, None, :]
    confusion = truth[..., None] * answer
    f1 = METRICS["f1"].finish
    parts = 100 * f1(confusion.reshape(draws, rows, 3, 25))
    pooled = 100 * f1(confusion.sum(2).reshape(draws, rows, 25))
    fits = (_least_squares(p, o) for p, o in zip(parts, pooled, strict=True))
    return np.array([np.abs(p @ w - o).max() for p, o, w in zip(parts, pooled, fits, strict=True)])
