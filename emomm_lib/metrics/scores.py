"""Agreement and scores of predictions: Eq. 1, Sec. 6.1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

from emomm_lib.labels import (
    CLASSES,
    NEUTRAL,
    SOURCES,
    as_array,
    class_labels,
    numbers,
    shown_values,
)
from emomm_lib.metrics.bootstrap import bootstrap_interval

N_CLASSES = len(CLASSES)
Neutral = Literal["non_negative", "excluded"]


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


def _labels(truth: ArrayLike, prediction: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    truth, prediction = _pair(truth, prediction)
    return class_labels(truth), class_labels(prediction)


def _scores(truth: ArrayLike, prediction: ArrayLike) -> tuple[NDArray, NDArray]:
    pair = tuple(numbers(values, "scores") for values in _pair(truth, prediction))
    for values in pair:
        if not (finite := np.isfinite(values)).all():
            raise ValueError(f"scores must be finite; got {shown_values(values[~finite])}")
    return pair


def agreement(y_i: ArrayLike, y_j: ArrayLike) -> float:
    """Agreement C_ij in [0, 1] of two label sources, 1 - mean |y_i - y_j| / 4 (Eq. 1).

    Both are labels 0..4 of shape ``(N,)``. Raises ``ValueError`` for other values, missing values
    and unequal or zero length. ``agreement([0, 4], [0, 3]) == 0.875``.
    """
    y_i, y_j = _labels(y_i, y_j)
    return float(1 - np.abs(y_i - y_j).mean() / (N_CLASSES - 1))


def agreement_matrix(frame: pd.DataFrame, sources: Sequence[str] = SOURCES) -> pd.DataFrame:
    """C_ij of every pair of sources (Eq. 1, Table 4), from columns ``label_<source>``.

    Returns a symmetric frame with ``sources`` as index and columns. Raises like :func:`agreement`.
    """
    values = [
        [agreement(frame[f"label_{i}"], frame[f"label_{j}"]) for j in sources] for i in sources
    ]
    return pd.DataFrame(values, index=list(sources), columns=list(sources))


def accuracy5(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Share in [0, 1] of labels 0..4 predicted exactly (Sec. 6.1).

    Labels have shape ``(N,)``. Raises like :func:`agreement`.
    """
    return float(accuracy_score(*_labels(truth, prediction)))


def _binary(
    truth: ArrayLike, prediction: ArrayLike, neutral: Neutral
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each clip counts, and whether it is right."""
    truth, prediction = _labels(truth, prediction)
    if neutral == "non_negative":
        return np.ones(len(truth), bool), (truth >= NEUTRAL) == (prediction >= NEUTRAL)
    if neutral == "excluded":
        return truth != NEUTRAL, (truth > NEUTRAL) == (prediction > NEUTRAL)
    raise ValueError(f"neutral must be 'non_negative' or 'excluded'; got {neutral!r}")


def accuracy2(truth: ArrayLike, prediction: ArrayLike, neutral: Neutral = "non_negative") -> float:
    """Two-class accuracy in [0, 1] of labels 0..4, in the two usual definitions of the field.

    ``non_negative``: negative against non-negative, over all clips. ``excluded``: negative against
    positive over clips whose ground truth is not neutral; a neutral prediction then counts as not
    positive, so it is right for a negative clip. Raises like :func:`agreement`; NaN where no clip
    counts.
    """
    counted, right = _binary(truth, prediction, neutral)
    return float(right[counted].mean()) if counted.any() else float("nan")


def macro_f1(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Unweighted mean in [0, 1] of the F1 of each class that occurs in truth or prediction.

    Labels 0..4 of shape ``(N,)`` (Sec. 6.1); scikit-learn's definition. Raises like
    :func:`agreement`.
    """
    return float(f1_score(*_labels(truth, prediction), average="macro", zero_division=0))


def mae(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Mean absolute error in [0, 2] of scores in [-1, 1] (Sec. 6.1).

    Raises ``ValueError`` for what is no finite number and for unequal or zero length.
    """
    return float(mean_absolute_error(*_scores(truth, prediction)))


@dataclass(frozen=True)
class Metric:
    """A metric that is a function of sums over clips, which makes its bootstrap vectorised.

    Attributes
    ----------
    name
        Name in tidy results: ``acc5, acc2, acc2_signed, f1, mae``.
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


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def _counted(counted: NDArray, value: NDArray) -> NDArray[np.float64]:
    return np.stack([np.where(counted, value, 0.0), counted], axis=1).astype(np.float64)


def _right(truth: ArrayLike, prediction: ArrayLike) -> NDArray[np.float64]:
    truth, prediction = _labels(truth, prediction)
    return _counted(np.ones(len(truth)), truth == prediction)


def _absolute_error(truth: ArrayLike, prediction: ArrayLike) -> NDArray[np.float64]:
    truth, prediction = _scores(truth, prediction)
    # Rounded so that equal errors of grid scores stay equal and are grouped when resampling.
    return _counted(np.ones(len(truth)), np.round(np.abs(truth - prediction), 9))


def _confusion(truth: ArrayLike, prediction: ArrayLike) -> NDArray[np.float64]:
    truth, prediction = _labels(truth, prediction)
    return np.eye(N_CLASSES**2)[truth * N_CLASSES + prediction]


def _f1_of_confusion(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    table = sums.reshape(*sums.shape[:-1], N_CLASSES, N_CLASSES)
    occurrences = table.sum(axis=-1) + table.sum(axis=-2)
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return np.nanmean(2 * hits / occurrences, axis=-1)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("acc5", "label", _right, _ratio),
        Metric("acc2", "label", lambda t, p: _counted(*_binary(t, p, "non_negative")), _ratio),
        Metric("acc2_signed", "label", lambda t, p: _counted(*_binary(t, p, "excluded")), _ratio),
        Metric("f1", "label", _confusion, _f1_of_confusion),
        Metric("mae", "score", _absolute_error, _ratio),
    )
}


def score_frame(
    frame: pd.DataFrame,
    by: Sequence[str] = (),
    metrics: Sequence[str] = tuple(METRICS),
    *,
    cluster: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Metrics with 95% intervals of a predictions table, one row a group and metric.

    Reads ``label_gt, label_pred, score_gt, score_pred`` (only what ``metrics`` need), the group
    columns ``by`` and the column ``cluster``. Returns ``*by, metric, value, low, high, n``; all but
    ``n`` (clips) in the metric's own unit, accuracies and F1 in 0..1. Raises ``ValueError`` for an
    unknown metric or missing columns, and like :func:`agreement`.
    """
    if unknown := set(metrics) - set(METRICS):
        raise ValueError(f"unknown metrics {sorted(unknown)}; there are {list(METRICS)}")
    used = [f"{METRICS[m].column}_{side}" for m in metrics for side in ("gt", "pred")]
    needed = {*used, *by, *([cluster] if cluster else [])}
    if missing := sorted(needed - set(frame.columns)):
        raise ValueError(f"the predictions table lacks the columns {missing}")
    groups = frame.groupby(list(by), sort=True, observed=True) if by else [((), frame)]
    rows = []
    for key, part in groups:
        for name in metrics:
            metric = METRICS[name]
            interval = bootstrap_interval(
                metric,
                part[f"{metric.column}_gt"],
                part[f"{metric.column}_pred"],
                clusters=part[cluster] if cluster else None,
                resamples=resamples,
                seed=seed,
            )
            rows.append((*key, name, interval.value, interval.low, interval.high, interval.n))
    return pd.DataFrame(rows, columns=[*by, "metric", "value", "low", "high", "n"])
