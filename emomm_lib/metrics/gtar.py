"""Ground-Truth Aligned Rate: Eq. 3, 4 and 17, Appendix B.2.

The paper says aligned of a modality with GT's polarity. Of labels that have none, as emotions, it is
one with GT's class (:func:`emomm_lib.labels.side`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emomm_lib.labels import MODALITIES, SENTIMENT5, LabelSet, side
from emomm_lib.metrics.bootstrap import DEFAULT, Bootstrap, intervals_of, means
from emomm_lib.metrics.outcomes import (
    KEYS,
    LABELS,
    check,
    check_labels,
    check_right,
    groups,
    present,
    row,
)

SETTINGS = {
    "TAV": "conflict",
    "TA": "missing_conflict",
    "TV": "missing_conflict",
    "AV": "missing_conflict",
}
"""Coalitions in which a modality can be right against another, and their setting in Figure 9(a)."""


def conflict_parts(
    outcomes: pd.DataFrame, labels: LabelSet = SENTIMENT5
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Availability ``(N, 3)``, a_x^m of Eq. 3 ``(N, 3)`` and membership of S_tc ``(N,)`` of rows.

    ``outcomes`` needs ``sample_id, coalition`` and the four labels; modalities are T, A, V. Raises
    ``ValueError`` for missing columns and for labels other than 0..K-1.
    """
    check(outcomes, [*KEYS, *LABELS])
    check_labels(outcomes, LABELS, labels=labels)
    signs = side(outcomes[list(LABELS)].to_numpy(np.int64), labels)
    available = present(outcomes["coalition"])
    aligned = available & (signs[:, 1:] == signs[:, :1])
    return available, aligned, (available & ~aligned).sum(axis=1) == 1


def target_conflict(outcomes: pd.DataFrame, labels: LabelSet = SENTIMENT5) -> NDArray[np.bool_]:
    """Whether each row is in S_tc: exactly one *available* modality differs in polarity from GT.

    ``(N,)`` in the order of the rows. With text positive, video and ground truth negative,
    coalition TV is in S_tc (Appendix B.2); so is T alone, and V alone is not. Raises like
    :func:`conflict_parts`.
    """
    return conflict_parts(outcomes, labels)[2]


def gtar_frame(
    outcomes: pd.DataFrame,
    by: Sequence[str] = ("setting",),
    *,
    bootstrap: Bootstrap = DEFAULT,
    labels: LabelSet = SENTIMENT5,
) -> pd.DataFrame:
    """GTAR of each modality with 95% intervals (Eq. 4, Figure 9(a)).

    Reads ``sample_id, coalition``, the four labels and ``right_polarity`` (c_x in [0, 1]; of labels
    without a polarity, whether the class is right) of the rows with two or three modalities. ``by``
    may name ``setting`` (``conflict``: TAV; ``missing_conflict``: TA, TV and AV pooled),
    ``coalition`` and any column. Returns ``*by,
    modality, value, low, high, n``: rates in [0, 1], ``n`` the denominator of Eq. 4, for modalities
    available in the group; a value is NaN where ``n`` is 0. The bootstrap draws whole clips.
    Published: 0.857 for T, 0.706 for V in ``conflict``. Raises ``ValueError`` for missing columns,
    labels other than 0..4, ``right_polarity`` outside [0, 1], a clip's coalition twice in a group,
    or no row with two modalities.
    """
    own = [c for c in by if c != "setting"]
    check(outcomes, [*KEYS, *LABELS, "right_polarity", *own])
    outcomes = outcomes[outcomes["coalition"].isin(list(SETTINGS))]
    if not len(outcomes):
        raise ValueError(f"GTAR needs rows of the coalitions {list(SETTINGS)}; there are none")
    check_right(outcomes, "right_polarity")
    outcomes = outcomes.assign(setting=outcomes["coalition"].map(SETTINGS))
    rows = []
    for key, part in groups(outcomes, by):
        available, aligned, in_conflict = conflict_parts(part, labels)
        a = aligned & in_conflict[:, None]
        c = part["right_polarity"].to_numpy(np.float64)
        found = intervals_of(
            np.hstack([a * c[:, None], a]),
            means,
            clusters=part["sample_id"],
            bootstrap=bootstrap,
        )
        rows += [
            (*key, m, *row(interval, int(n)))
            for m, interval, n, anywhere in zip(
                MODALITIES,
                found,
                a.sum(axis=0).tolist(),
                [bool(own.any()) for own in available.T],
                strict=True,
            )
            if anywhere
        ]
    return pd.DataFrame(rows, columns=[*by, "modality", "value", "low", "high", "n"])
