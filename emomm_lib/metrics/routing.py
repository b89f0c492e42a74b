"""How well a gate routes on true conflicts: Table 6, and how far its probabilities can be read."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emomm_lib.metrics.bootstrap import DEFAULT, Bootstrap, Interval, interval_of

TABLE6 = ("conflict_recall", "target_top1", "joint_success")


def routing_metrics(
    conflict: ArrayLike,
    gate: ArrayLike,
    right: ArrayLike,
    present: ArrayLike,
    tau: float,
    *,
    clusters: ArrayLike | None = None,
    bootstrap: Bootstrap = DEFAULT,
) -> dict[str, Interval]:
    """Table 6 on the true conflicts among N prompts (Appendix D.4).

    *conflict_recall*: conflicts with p > tau in any layer. *target_top1*: of the layers steered in
    those, the share in which the gate's first modality is right. *joint_success*: conflicts that
    are steered and in whose steered layers the mean gate puts a right modality first. The last is
    not the product of the others, nor is it in the paper's table: one counts layers, the other
    prompts.
    A conflict in which no modality is right has no target and is left out of all three.

    Parameters
    ----------
    conflict, gate
        ``(N, L)`` p and ``(N, L, 3)`` g by layer, NaN in layers before l_r.
    right, present
        ``(N, 3)`` r_m and which modalities the prompt holds; a conflict has a wrong one.
    clusters
        Clips, where one gives several prompts.

    Raises ``ValueError`` when there is no such conflict.
    """
    p, g = np.asarray(conflict, float), np.asarray(gate, float)
    r, there = np.asarray(right, bool), np.asarray(present, bool)
    true = (r != there).any(1) & r.any(1)
    if not true.any():
        raise ValueError("none of the prompts is a conflict in which a modality is right")
    p, g, r = p[true], g[true], r[true]
    # A comparison with NaN is False: layers before l_r are not steered.
    steered = p > tau
    first = np.where(np.isnan(g), -1.0, g).argmax(-1)
    hit = np.take_along_axis(r, first, axis=1) & steered
    number = steered.sum(1)
    mean = np.where(steered[..., None], g, 0.0).sum(1) / np.maximum(number, 1)[:, None]
    joint = (number > 0) & np.take_along_axis(r, mean.argmax(-1)[:, None], axis=1)[:, 0]
    columns = np.column_stack(
        [number > 0, np.ones(len(p)), hit.sum(1), number, joint, np.ones(len(p))]
    ).astype(float)
    groups = None if clusters is None else np.asarray(clusters)[true]
    found = {}
    for i, name in enumerate(TABLE6):
        found[name] = interval_of(
            columns[:, 2 * i : 2 * i + 2],
            lambda sums: np.divide(
                sums[..., 0],
                sums[..., 1],
                out=np.full(sums.shape[:-1], np.nan),
                where=sums[..., 1] > 0,
            ),
            clusters=groups,
            bootstrap=bootstrap,
        )
    return found


def reliability(probability: ArrayLike, outcome: ArrayLike, bins: int = 10) -> pd.DataFrame:
    """Reliability diagram by bins of equal width: ``low, high, predicted, observed, n``.

    Empty bins are left out. ``probability`` is ``(N,)`` in [0, 1], ``outcome`` ``(N,)`` of 0 and 1;
    a bin holds its upper end. Raises ``ValueError`` for probabilities outside of [0, 1].
    """
    p, y = np.asarray(probability, float), np.asarray(outcome, float)
    if p.shape != y.shape or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("reliability takes probabilities in [0, 1], one for each outcome")
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(p, edges, right=True) - 1, 0, bins - 1)
    frame = pd.DataFrame({"bin": place, "predicted": p, "observed": y})
    table = frame.groupby("bin").agg(
        predicted=("predicted", "mean"), observed=("observed", "mean"), n=("observed", "size")
    )
    table.insert(0, "low", edges[table.index])
    table.insert(1, "high", edges[table.index + 1])
    return table.reset_index(drop=True)


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Mean distance of predicted and observed over a :func:`reliability` table, weighted by n."""
    gap = (table["predicted"] - table["observed"]).abs()
    return float((gap * table["n"]).sum() / table["n"].sum())


def gate_top1(gate: ArrayLike, right: ArrayLike, present: ArrayLike) -> NDArray[np.float64]:
    """1.0 where a gate ``(N, ..., 3)`` puts a right modality first; NaN if none or all are right.

    ``right`` and ``present`` are ``(N, 3)``. Returns ``(N, ...)``.
    """
    g, r = np.asarray(gate, float), np.asarray(right, bool)
    there = np.asarray(present, bool)
    decided = r.any(1) & (r != there).any(1)
    first = g.argmax(-1)
    hit = np.take_along_axis(r, first.reshape(len(r), -1), axis=1).reshape(first.shape)
    return np.where(decided.reshape(-1, *[1] * (first.ndim - 1)), hit.astype(float), np.nan)
