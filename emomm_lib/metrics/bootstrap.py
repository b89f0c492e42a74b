"""Bootstrap intervals over clips, of statistics that are functions of sums over clips."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from emomm_lib.metrics.scores import Metric

Finish = Callable[[NDArray[np.float64]], NDArray[np.float64]]
BLOCK = 4_000_000
"""Most counts held at a time, 32 MB of them."""


@dataclass(frozen=True)
class Bootstrap:
    """How an interval is drawn: number of ``resamples``, ``seed``, confidence ``level``."""

    resamples: int = 2000
    seed: int = 0
    level: float = 0.95


DEFAULT = Bootstrap()


@dataclass(frozen=True)
class Interval:
    """A value on ``n`` clips and its bootstrap interval at confidence ``level``.

    Where the value is undefined, NaN, so are ``low`` and ``high``. ``left_out`` counts the
    resamples in which it was undefined: the interval is of the others.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    left_out: int = 0


def warn_undefined(what: str, why: str) -> None:
    """Say why a statistic is NaN, where its ``n`` does not show it."""
    warnings.warn(f"{what} is undefined, NaN: {why}", RuntimeWarning, stacklevel=3)


def _unit_sums(contributions: NDArray[np.float64], clusters: ArrayLike) -> NDArray[np.float64]:
    clusters = np.asarray(clusters)
    if clusters.shape != contributions.shape[:1] or pd.isna(clusters).any():
        raise ValueError(
            f"clusters must name one group for each of the {len(contributions)} clips; got "
            f"shape {clusters.shape}, {int(pd.isna(clusters).sum())} of them missing"
        )
    return pd.DataFrame(contributions).groupby(clusters).sum().to_numpy()


def _redrawn(
    units: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Sums ``(resamples, k)`` over units ``(n, k)`` drawn n at a time with replacement."""
    # Units that add the same are exchangeable, so it is enough to draw how often each *kind* comes
    # up: the same distribution as drawing units, at the cost of a few dozen kinds.
    kinds, counts = np.unique(units, axis=0, return_counts=True)
    n, step = len(units), max(1, BLOCK // len(kinds))
    sums = np.empty((resamples, units.shape[1]))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        if len(kinds) < n:
            drawn = rng.multinomial(n, counts / n, size=size)
        else:
            # Where no two units are alike, drawing the units themselves is six times as fast.
            cells = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
            drawn = np.bincount(cells.ravel(), minlength=size * n).reshape(size, n)
        sums[start : start + size] = drawn @ kinds
    return sums


def resampled_sums(
    contributions: NDArray[np.float64],
    clusters: ArrayLike | None,
    bootstrap: Bootstrap,
    strata: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Sums ``(resamples, k)`` of contributions ``(N, k)`` over units drawn with replacement.

    A unit is a row, or a whole cluster. With ``strata`` (a name a row) each stratum is resampled
    independently and keeps its size. Needs the memory of its result and about 100 MB. Raises
    ``ValueError`` for clusters or strata of another length, or a cluster in two strata.
    """
    resamples = bootstrap.resamples
    rng = np.random.default_rng(bootstrap.seed)
    if strata is None:
        units = contributions if clusters is None else _unit_sums(contributions, clusters)
        return _redrawn(units, resamples, rng)
    strata = np.asarray(strata)
    if strata.shape != contributions.shape[:1] or pd.isna(strata).any():
        raise ValueError(
            f"strata must name one group for each of the {len(contributions)} clips; got shape "
            f"{strata.shape}, {int(pd.isna(strata).sum())} of them missing"
        )
    total = np.zeros((resamples, contributions.shape[1]))
    seen: set = set()
    for stratum in np.unique(strata):
        chosen = strata == stratum
        units = contributions[chosen]
        if clusters is not None:
            members = np.asarray(clusters)[chosen]
            if both := sorted(seen & set(members.tolist())):
                raise ValueError(f"clusters {both[:3]} lie in two strata, which are independent")
            seen |= set(members.tolist())
            units = _unit_sums(units, members)
        total += _redrawn(units, resamples, rng)
    return total


def _interval(value: float, draws: NDArray[np.float64], level: float, n: int) -> Interval:
    left_out = int(np.isnan(draws).sum())
    if np.isnan(value) or left_out == len(draws):
        return Interval(value, float("nan"), float("nan"), level, n, left_out)
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(value, float(low), float(high), level, n, left_out)


def intervals_of(
    contributions: ArrayLike,
    finish: Finish,
    *,
    clusters: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    bootstrap: Bootstrap = DEFAULT,
) -> list[Interval]:
    """Percentile bootstrap intervals of several statistics, all on the same resampled clips.

    Parameters
    ----------
    contributions
        What each clip (row) adds, ``(N, k)``, finite.
    finish
        Sums ``(..., k)`` to the statistics ``(..., j)``; NaN where one is undefined. Such a
        resample is left out of the quantiles and counted in ``left_out``; where the statistic is
        undefined on the clips themselves, its interval is NaN too.
    clusters
        Names ``(N,)`` of groups that are drawn whole: speakers, or clips where one clip has rows.
    strata
        Names ``(N,)`` of groups that are resampled independently of each other and keep their
        size, such as the disjoint clips of Align and Conflict.

    Returns j intervals whose ``n`` is N. The same seed gives the same intervals. Raises
    ``ValueError`` for other shapes, no clips, or values that are not finite.
    """
    contributions = np.asarray(contributions, dtype=np.float64)
    if contributions.ndim != 2 or not contributions.size or not np.isfinite(contributions).all():
        raise ValueError(
            "contributions must be finite, one row a clip and at least one clip and column; got "
            f"shape {contributions.shape}, {int((~np.isfinite(contributions)).sum())} not finite"
        )
    draws = finish(resampled_sums(contributions, clusters, bootstrap, strata))
    values = finish(contributions.sum(axis=0))
    return [
        _interval(float(value), drawn, bootstrap.level, len(contributions))
        for value, drawn in zip(values, draws.T, strict=True)
    ]


def interval_of(
    contributions: ArrayLike,
    finish: Finish,
    *,
    clusters: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    bootstrap: Bootstrap = DEFAULT,
) -> Interval:
    """Percentile bootstrap interval of one statistic; ``finish`` gives ``(...)`` of ``(..., k)``.

    Arguments and errors as in :func:`intervals_of`.
    """
    (interval,) = intervals_of(
        contributions,
        lambda sums: np.asarray(finish(sums))[..., None],
        clusters=clusters,
        strata=strata,
        bootstrap=bootstrap,
    )
    return interval


def bootstrap_interval(
    metric: Metric,
    truth: ArrayLike,
    prediction: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    bootstrap: Bootstrap = DEFAULT,
) -> Interval:
    """Percentile bootstrap interval of a metric over clips, or over whole clusters.

    ``truth``, ``prediction`` and ``clusters`` (speakers, or clips where one clip has several rows)
    have shape ``(N,)``. The order of the rows does not matter, and the same seed gives the same
    interval. NaN as in :func:`intervals_of`. Raises like :func:`agreement`.
    """
    return interval_of(
        metric.contributions(truth, prediction),
        metric.finish,
        clusters=clusters,
        bootstrap=bootstrap,
    )


def paired_bootstrap(
    metric: Metric,
    truth: ArrayLike,
    baseline: ArrayLike,
    prediction: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    bootstrap: Bootstrap = DEFAULT,
) -> Interval:
    """Interval of ``metric(prediction) - metric(baseline)``, both on the same resampled clips.

    Arguments and errors as in :func:`bootstrap_interval`; row n of both predictions is clip n.
    """
    pair = [metric.contributions(truth, values) for values in (baseline, prediction)]
    k = pair[0].shape[1]
    return interval_of(
        np.hstack(pair),
        lambda sums: metric.finish(sums[..., k:]) - metric.finish(sums[..., :k]),
        clusters=clusters,
        bootstrap=bootstrap,
    )


def means(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ratios ``(..., k)`` of sums ``(..., 2 k)``: totals first, then how many were counted."""
    k = sums.shape[-1] // 2
    with np.errstate(invalid="ignore"):
        return sums[..., :k] / sums[..., k:]


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first of two sums ``(..., 2)`` over the second; NaN for nothing of nothing."""
    return means(sums)[..., 0]


def counted(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Contributions ``(N, 2 k)`` whose :func:`means` are those of values ``(N, k)`` without NaN."""
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values)
    return np.hstack([np.where(known, values, 0.0), known])
