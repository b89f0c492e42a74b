"""Two ways of answering on the same instances: differences, exact McNemar, shares of a gain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from emomm_lib.labels import class_labels
from emomm_lib.metrics.bootstrap import interval_of, paired_bootstrap, warn_undefined
from emomm_lib.metrics.scores import METRICS

KEYS = ["sample_id", "coalition"]


def exact_mcnemar(baseline_right: ArrayLike, right: ArrayLike) -> tuple[int, int, float]:
    """Instances that became right, that became wrong, and McNemar's exact two-sided p-value.

    Both are bool ``(N,)``. Under the null an instance that changed is as likely to have become
    right as wrong; 1.0 where none changed. Instances count as independent, which several coalitions
    of one clip are not. Raises ``ValueError`` for other shapes and missing values.
    """
    for values in (baseline_right, right):
        if missing := int(np.sum(pd.isna(values))):
            raise ValueError(f"{missing} instances are neither right nor wrong; leave them out")
    before, after = np.asarray(baseline_right, bool), np.asarray(right, bool)
    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"expected two vectors of one length; got {before.shape}, {after.shape}")
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    changed = gained + lost
    p = float(binomtest(gained, changed, 0.5).pvalue) if changed else 1.0
    return gained, lost, p


def _matched(frame: pd.DataFrame, other: pd.DataFrame, names: str) -> pd.DataFrame:
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
    **bootstrap: int,
) -> pd.DataFrame:
    """Differences steered - baseline with 95% intervals, and McNemar for accuracy.

    Whole clusters are resampled: clips, or speakers with ``cluster="speaker_id"``.

    Both frames have one row an instance: ``sample_id, coalition, label_gt, score_gt, label_pred,
    score_pred`` and the group column. Returns ``*by, metric, value, low, high, n, gained, lost, p``
    in the metrics' own units; the last three for ``acc5`` only. Instances without a score in either
    frame are left out of ``mae``. Raises ``ValueError`` for frames on different instances.
    """
    both = _matched(baseline, steered, "baseline and steered")
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
                **bootstrap,
            )
            change = (None, None, np.nan)
            if name == "acc5":
                right = (known[c] == known["label_gt"] for c in (column, f"{column}_new"))
                change = exact_mcnemar(*right)
            rows.append(
                (group, name, interval.value, interval.low, interval.high, interval.n, *change)
            )
    columns = [by, "metric", "value", "low", "high", "n", "gained", "lost", "p"]
    return pd.DataFrame(rows, columns=columns)


def gain_share(
    baseline: pd.DataFrame,
    steered: pd.DataFrame,
    reference: pd.DataFrame,
    by: str = "subset",
    *,
    cluster: str = "sample_id",
    **bootstrap: int,
) -> pd.DataFrame:
    """What part of a reference's gain in Acc-5 a method reaches: ``by, value, low, high, n``.

    All three are resampled together by cluster; a resample in which the reference gains nothing, or
    loses, is left out. Where it does so on the instances themselves, value and interval are NaN,
    with a ``RuntimeWarning``. Frames and errors as for :func:`paired_frame`.
    """
    both = _matched(baseline, steered, "baseline and steered")
    both["label_reference"] = _matched(baseline, reference, "baseline and reference")[
        "label_pred_new"
    ].to_numpy()
    rows = []
    for group, part in both.groupby(by):
        truth = class_labels(part["label_gt"], "label_gt")
        before, after, best = (
            (class_labels(part[c], c) == truth).astype(float)
            for c in ("label_pred", "label_pred_new", "label_reference")
        )
        interval = interval_of(
            np.column_stack([after - before, best - before]),
            lambda sums: np.divide(
                sums[..., 0],
                sums[..., 1],
                out=np.full(sums.shape[:-1], np.nan),
                where=sums[..., 1] > 0,
            ),
            clusters=part[cluster],
            **bootstrap,
        )
        if np.isnan(interval.value):
            warn_undefined(f"the share of a gain on {group}", "the reference gains nothing there")
        rows.append((group, interval.value, interval.low, interval.high, interval.n))
    return pd.DataFrame(rows, columns=[by, "value", "low", "high", "n"])
