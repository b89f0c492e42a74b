"""Two ways of answering on the same clips: differences, exact McNemar, verdicts, Eq. 18."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from emomm_lib.metrics.bootstrap import (
    DEFAULT,
    Bootstrap,
    paired_bootstrap,
)
from emomm_lib.metrics.scores import METRICS

KEYS = ["sample_id", "coalition"]
GAIN_METRICS = ("acc5", "acc2", "f1")
"""Perf(.) of Eq. 18."""
MARGIN = 0.015
"""What is too small to matter in this study: 1.5 points of accuracy."""


def exact_mcnemar(baseline_right: ArrayLike, right: ArrayLike) -> tuple[int, int, float]:
    """Instances that became right, that became wrong, and McNemar's exact two-sided p-value.

    Both are bool ``(N,)``. Under the null an instance that changed is as likely to have become
    right as wrong; 1.0 where none changed. Instances count as independent, which several coalitions
    of one clip are not. Raises ``ValueError`` for other shapes and missing values.
    """
    for values in (baseline_right, right):
        if missing := int(np.sum(pd.isna(np.asarray(values)))):
            raise ValueError(f"{missing} instances are neither right nor wrong; leave them out")
    before, after = np.asarray(baseline_right, bool), np.asarray(right, bool)
    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"expected two vectors of one length; got {before.shape}, {after.shape}")
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    changed = gained + lost
    p = float(binomtest(gained, changed, 0.5).pvalue) if changed else 1.0
    return gained, lost, p


def matched(frame: pd.DataFrame, other: pd.DataFrame, names: str) -> pd.DataFrame:
    joined = frame.merge(other[[*KEYS, "label_pred", "score_pred"]], on=KEYS, suffixes=("", "_new"))
    if len(joined) != len(frame) or len(joined) != len(other):
        raise ValueError(
            f"{names} are not about the same instances: {len(frame)} and {len(other)}, "
            f"{len(joined)} in common; leave out those that either could not score"
        )
    return joined


def paired_frame(
    baseline: pd.DataFrame,
    steered: pd.DataFrame,
    by: str = "subset",
    metrics: Sequence[str] = ("acc5", "f1", "mae"),
    *,
    cluster: str = "sample_id",
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """Differences steered - baseline with 95% intervals, and McNemar for accuracy.

    Whole clusters are resampled: clips, or speakers with ``cluster="speaker_id"``.

    Both frames have one row an instance: ``sample_id, coalition, label_gt, score_gt, label_pred,
    score_pred`` and the group column. Returns ``*by, metric, value, low, high, n, gained, lost, p``
    in the metrics' own units; the last three for ``acc5`` only. Instances without a score in either
    frame are left out of ``mae``. Raises ``ValueError`` for frames on different instances.
    """
    both = matched(baseline, steered, "baseline and steered")
    rows = []
    for group, part in both.groupby(by):
        for name in metrics:
            metric = METRICS[name]
            column = f"{metric.column}_pred"
            known = part[part[column].notna() & part[f"{column}_new"].notna()]
            if not len(known):
                continue
            interval = paired_bootstrap(
                metric,
                known[f"{metric.column}_gt"],
                known[column],
                known[f"{column}_new"],
                clusters=known[cluster],
                bootstrap=bootstrap,
            )
            right = (known[c] == known["label_gt"] for c in (column, f"{column}_new"))
            change = exact_mcnemar(*right) if name == "acc5" else (None, None, np.nan)
            rows.append(
                (group, name, interval.value, interval.low, interval.high, interval.n, *change)
            )
    columns = [by, "metric", "value", "low", "high", "n", "gained", "lost", "p"]
    return pd.DataFrame(rows, columns=columns)


def _by_clip(frame: pd.DataFrame, name: str, columns: Sequence[str]) -> pd.DataFrame:
    needed = ["sample_id", "label_gt", "label_pred", *columns]
    if absent := [column for column in needed if column not in frame]:
        raise ValueError(f"{name} lacks the columns {absent}; it has {list(frame.columns)}")
    if frame["sample_id"].duplicated().any():
        twice = frame.loc[frame["sample_id"].duplicated(), "sample_id"].iloc[0]
        raise ValueError(f"{name} has clip {twice} twice; pass one coalition's answers")
    return frame.set_index("sample_id").sort_index()


def marginal_gain(
    with_video: pd.DataFrame,
    without_video: pd.DataFrame,
    metrics: Sequence[str] = GAIN_METRICS,
    *,
    cluster: str = "sample_id",
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """Marginal gain of video, Delta V = Perf(TAV) - Perf(TA), with 95% intervals (Eq. 18).

    Both frames have one row a clip, the same clips: ``sample_id, label_gt, label_pred``. Both are
    resampled together by ``cluster``: clips, or speakers with ``speaker_id``. Returns ``metric,
    value, low, high, n``, the gain as a difference of fractions in [-1, 1].

    The effect of another view of the video on Delta V is the gain of one view *over the other*,
    because Perf(TA) cancels. Raises ``ValueError`` for a clip twice, other clips or other truth in
    the two frames, missing columns, and an unknown metric.
    """
    extra = [] if cluster == "sample_id" else [cluster]
    after = _by_clip(with_video, "with_video", extra)
    before = _by_clip(without_video, "without_video", [])
    if unknown := set(metrics) - set(METRICS):
        raise ValueError(f"unknown metrics {sorted(unknown)}; there are {list(METRICS)}")
    if not after.index.equals(before.index):
        apart = sorted(after.index.symmetric_difference(before.index))
        raise ValueError(
            f"with_video and without_video are not about the same clips: {len(apart)} are in one "
            f"only, among them {apart[:3]}; leave out those that either could not score"
        )
    if other := after.index[after["label_gt"] != before["label_gt"]].tolist():
        raise ValueError(f"label_gt of {other[:3]} differs between with_video and without_video")
    clusters = after.index if cluster == "sample_id" else after[cluster]
    rows = []
    for name in metrics:
        interval = paired_bootstrap(
            METRICS[name],
            after["label_gt"],
            before["label_pred"],
            after["label_pred"],
            clusters=clusters,
            bootstrap=bootstrap,
        )
        rows.append((name, interval.value, interval.low, interval.high, interval.n))
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "n"])


def equivalence_frame(
    measure: Callable[[Bootstrap], pd.DataFrame],
    margin: float = MARGIN,
    *,
    alpha: float = 0.05,
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """Differences with a verdict: is there one, and is it too small to matter?

    Two one-sided tests by bootstrap (Schuirmann, 1987): a difference is ``equivalent`` to zero
    where its interval at level 1 - 2 alpha lies inside (-margin, margin), and ``different`` from
    zero where its interval at the bootstrap's level excludes 0. ``measure`` gives a frame with
    ``value, low, high`` in the margin's unit: ``lambda b: paired_frame(old, new, bootstrap=b)``.
    Returns it with ``equivalent`` (bool) and ``verdict``: one of the two words, ``negligible`` for
    both (there, and smaller than the margin), or ``undecided``, also for NaN. Raises ``ValueError``
    for a margin that is not positive or an alpha outside (0, 0.5).
    """
    if not (margin > 0 and 0 < alpha < 0.5):
        raise ValueError(f"margin is positive and alpha in (0, 0.5); got {margin} and {alpha}")
    found, near = (measure(b) for b in (bootstrap, replace(bootstrap, level=1 - 2 * alpha)))
    equivalent = ((near["low"] > -margin) & (near["high"] < margin)).to_numpy()
    different = ((found["low"] > 0) | (found["high"] < 0)).to_numpy()
    words = np.array(["undecided", "equivalent", "different", "negligible"], dtype=object)
    return found.assign(equivalent=equivalent, verdict=words[equivalent + 2 * different])
