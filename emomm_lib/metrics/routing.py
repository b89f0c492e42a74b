"""How well a gate routes on true conflicts: Table 6."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from emomm_lib.metrics.bootstrap import DEFAULT, Bootstrap, Interval, interval_of, ratio

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

    Where there is no such conflict all three are NaN, of 0 prompts.
    """
    p, g = np.asarray(conflict, float), np.asarray(gate, float)
    r, there = np.asarray(right, bool), np.asarray(present, bool)
    true = (r != there).any(1) & r.any(1)
    if not true.any():
        nothing = Interval(np.nan, np.nan, np.nan, bootstrap.level, 0)
        return dict.fromkeys(TABLE6, nothing)
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
            ratio,
            clusters=groups,
            bootstrap=bootstrap,
        )
    return found
