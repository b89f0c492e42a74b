"""Agreement and scores of predictions: Eq. 1, Sec. 6.1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emomm_lib.labels import (
    SENTIMENT5,
    SOURCES,
    LabelSet,
    as_array,
    class_labels,
    numbers,
    polarity,
    shown_values,
)
from emomm_lib.metrics.bootstrap import DEFAULT, Bootstrap, bootstrap_interval, ratio

N_CLASSES = len(SENTIMENT5)


def _pair(truth: ArrayLike, prediction: ArrayLike) -> tuple[NDArray, NDArray]:
    truth, prediction = as_array(truth), as_array(prediction)
    if truth.ndim != 1 or truth.shape != prediction.shape or not len(truth):
        raise ValueError(
            "metrics take two one-dimensional arrays of one length, at least 1; got shapes "
            f"{truth.shape} and {prediction.shape}"
        )
    for name, values in (("first", truth), ("second", prediction)):
        if bad := np.flatnonzero(pd.isna(values)).tolist():
            raise ValueError(
                f"the {name} argument has no value at positions {bad[:5]} ({len(bad)} in all); a "
                "failed item is neither right nor wrong: drop it from both and report it"
            )
    return truth, prediction


def _labels(
    truth: ArrayLike, prediction: ArrayLike, labels: LabelSet = SENTIMENT5
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    truth, prediction = _pair(truth, prediction)
    return class_labels(truth, labels=labels), class_labels(prediction, labels=labels)


def _scores(truth: ArrayLike, prediction: ArrayLike) -> tuple[NDArray, NDArray]:
    one, two = (numbers(values, "scores") for values in _pair(truth, prediction))
    for values in (one, two):
        if not (finite := np.isfinite(values)).all():
            raise ValueError(f"scores must be finite; got {shown_values(values[~finite])}")
    return one, two


def agreement(y_i: ArrayLike, y_j: ArrayLike, labels: LabelSet = SENTIMENT5) -> float:
    """Agreement C_ij in [0, 1] of two label sources, 1 - mean |y_i - y_j| / (K - 1) (Eq. 1).

    Both are labels 0..K-1 of shape ``(N,)``. Raises ``ValueError`` for other values, missing values,
    unequal or zero length, and labels without an order. ``agreement([0, 4], [0, 3]) == 0.875``.
    """
    labels.need_order("agreement")
    y_i, y_j = _labels(y_i, y_j, labels)
    return float(1 - np.abs(y_i - y_j).mean() / (len(labels) - 1))


def agreement_matrix(frame: pd.DataFrame, sources: Sequence[str] = SOURCES) -> pd.DataFrame:
    """C_ij of every pair of sources (Eq. 1, Table 4), from columns ``label_<source>``.

    Returns a symmetric frame with ``sources`` as index and columns. Raises like :func:`agreement`.
    """
    values = [
        [agreement(frame[f"label_{i}"], frame[f"label_{j}"]) for j in sources] for i in sources
    ]
    return pd.DataFrame(values, index=list(sources), columns=list(sources))


@dataclass(frozen=True)
class Metric:
    """A metric that is a function of sums over clips, which makes its bootstrap vectorised.

    Attributes
    ----------
    name
        Name in tidy results: ``acc5, acc2, acc2_signed, f1, mae``, ``acc`` or ``weighted_f1``.
    column
        ``label`` or ``score``: which columns of a predictions table it reads.
    contributions
        Truth and prediction ``(N,)`` to what each clip adds, ``(N, k)``.
    finish
        Sums ``(..., k)`` to values ``(...)``; NaN where the metric is undefined.
    """

    name: str
    column: Literal["label", "score"]
    contributions: Callable[[ArrayLike, ArrayLike], NDArray[np.float64]]
    finish: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    def __call__(self, truth: ArrayLike, prediction: ArrayLike) -> float:
        """Value on all clips; raises like :func:`agreement`."""
        return float(self.finish(self.contributions(truth, prediction).sum(axis=0)))


def _counted(counted: NDArray, value: NDArray) -> NDArray[np.float64]:
    return np.stack([np.where(counted, value, 0.0), counted], axis=1).astype(np.float64)


def _right(labels: LabelSet, truth: ArrayLike, prediction: ArrayLike) -> NDArray[np.float64]:
    truth, prediction = _labels(truth, prediction, labels)
    return _counted(np.ones(len(truth)), truth == prediction)


def _right_side(labels: LabelSet, truth: ArrayLike, prediction: ArrayLike) -> NDArray[np.float64]:
    truth, prediction = _pair(truth, prediction)
    truth, prediction = polarity(truth, labels), polarity(prediction, labels)
    return _counted(np.ones(len(truth)), (truth >= 0) == (prediction >= 0))


def _right_sign(labels: LabelSet, truth: ArrayLike, prediction: ArrayLike) -> NDArray[np.float64]:
    truth, prediction = _pair(truth, prediction)
    truth, prediction = polarity(truth, labels), polarity(prediction, labels)
    return _counted(truth != 0, (truth > 0) == (prediction > 0))


def _absolute_error(truth: ArrayLike, prediction: ArrayLike) -> NDArray[np.float64]:
    truth, prediction = _scores(truth, prediction)
    # Rounded so that equal errors of grid scores stay equal and are grouped when resampling.
    return _counted(np.ones(len(truth)), np.round(np.abs(truth - prediction), 9))


def _confusion(labels: LabelSet, truth: ArrayLike, prediction: ArrayLike) -> NDArray[np.float64]:
    truth, prediction = _labels(truth, prediction, labels)
    return np.eye(len(labels) ** 2)[truth * len(labels) + prediction]


def _class_f1(k: int, sums: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """How often each class is the truth, and its F1: NaN where it is neither truth nor prediction."""
    table = sums.reshape(*sums.shape[:-1], k, k)
    true = table.sum(axis=-1)
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return true, 2 * hits / (true + table.sum(axis=-2))


def _f1_of_confusion(k: int, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.nanmean(_class_f1(k, sums)[1], axis=-1)


def _weighted_f1_of_confusion(k: int, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    true, each = _class_f1(k, sums)
    with np.errstate(invalid="ignore"):
        return np.nansum(true * each, axis=-1) / true.sum(axis=-1)


@cache
def metrics_of(labels: LabelSet) -> dict[str, Metric]:
    """The metrics that a set of labels allows, by name.

    ``acc``, ``f1`` (macro) and ``weighted_f1`` of any; ``acc2`` and ``acc2_signed`` where classes
    have a polarity; ``acc5`` and ``mae`` of the paper's five classes, which alone have scores.
    """
    k, found = len(labels), [Metric("acc", "label", partial(_right, labels), ratio)]
    if labels == SENTIMENT5:
        found = [Metric("acc5", "label", partial(_right, labels), ratio), *found]
    if labels.polarity:
        found.append(Metric("acc2", "label", partial(_right_side, labels), ratio))
        found.append(Metric("acc2_signed", "label", partial(_right_sign, labels), ratio))
    confused = partial(_confusion, labels)
    found.append(Metric("f1", "label", confused, partial(_f1_of_confusion, k)))
    found.append(Metric("weighted_f1", "label", confused, partial(_weighted_f1_of_confusion, k)))
    if labels == SENTIMENT5:
        found.append(Metric("mae", "score", _absolute_error, ratio))
    return {metric.name: metric for metric in found}


accuracy5 = metrics_of(SENTIMENT5)["acc5"]
"""Share in [0, 1] of labels 0..4 predicted exactly (Sec. 6.1)."""
accuracy2 = metrics_of(SENTIMENT5)["acc2"]
"""Negative against non-negative, over all clips; in [0, 1]."""
accuracy2_signed = metrics_of(SENTIMENT5)["acc2_signed"]
"""Negative against positive over clips whose ground truth is not neutral; in [0, 1]. A neutral
prediction counts as not positive, so it is right for a negative clip. NaN where no clip counts."""
macro_f1 = metrics_of(SENTIMENT5)["f1"]
"""Unweighted mean in [0, 1] of the F1 of each class that occurs in truth or prediction."""
weighted_f1 = metrics_of(SENTIMENT5)["weighted_f1"]
"""Mean in [0, 1] of the F1 of each class, weighted by how often it is the truth."""
mae = metrics_of(SENTIMENT5)["mae"]
"""Mean absolute error in [0, 2] of scores in [-1, 1] (Sec. 6.1)."""
METRICS = {m.name: m for m in (accuracy5, accuracy2, accuracy2_signed, macro_f1, mae)}
"""The paper\'s metrics, and MAE, by name."""


def metric_named(name: str, labels: LabelSet = SENTIMENT5) -> Metric:
    """A metric by its name; ``ValueError`` that says why a set of labels has none such."""
    known = metrics_of(labels)
    if name in known:
        return known[name]
    if name not in metrics_of(SENTIMENT5):
        raise ValueError(f"unknown metrics ['{name}']; there are {list(known)}")
    if name == "mae":
        labels.need_order(name)
    elif name != "acc5":
        labels.need_polarity(name)
    what = "scores" if name == "mae" else "five classes"
    raise ValueError(
        f"{name} is of the {what} of {SENTIMENT5.name}, and {labels.name} has none; there are "
        f"{list(known)}"
    )


def score_frame(
    frame: pd.DataFrame,
    by: Sequence[str] = (),
    metrics: Sequence[str] = tuple(METRICS),
    *,
    cluster: str | None = None,
    bootstrap: Bootstrap = DEFAULT,
    labels: LabelSet = SENTIMENT5,
) -> pd.DataFrame:
    """Metrics with 95% intervals of a predictions table, one row a group and metric.

    Reads ``label_gt, label_pred, score_gt, score_pred`` (only what ``metrics`` need), the group
    columns ``by`` and the column ``cluster``. Returns ``*by, metric, value, low, high, n``; all but
    ``n`` (clips) in the metric's own unit, accuracies and F1 in 0..1. Of other ``labels`` name the
    metrics: :func:`metrics_of` has those that they allow. Raises ``ValueError`` for an unknown metric,
    one that the labels do not allow, or missing columns, and like :func:`agreement`.
    """
    known = {name: metric_named(name, labels) for name in metrics}
    used = [f"{metric.column}_{side}" for metric in known.values() for side in ("gt", "pred")]
    needed = {*used, *by, *([cluster] if cluster else [])}
    if missing := sorted(needed - set(frame.columns)):
        raise ValueError(f"the predictions table lacks the columns {missing}")
    groups = frame.groupby(list(by), sort=True, observed=True) if by else [((), frame)]
    rows = []
    for key, part in groups:
        for name, metric in known.items():
            interval = bootstrap_interval(
                metric,
                part[f"{metric.column}_gt"],
                part[f"{metric.column}_pred"],
                clusters=part[cluster] if cluster else None,
                bootstrap=bootstrap,
            )
            rows.append((*key, name, interval.value, interval.low, interval.high, interval.n))
    return pd.DataFrame(rows, columns=[*by, "metric", "value", "low", "high", "n"])
