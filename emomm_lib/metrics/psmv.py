"""Performance Shapley Modality Value and video contribution collapse: Eq. 2 and 16, Sec. 4.2.

A share of PSMV is a ratio to ``V(TAV) - V(none)``: near zero it is unstable and its interval is
wide. And PSMV alone cannot show a preference: a perfect reader that weighs all modalities alike
can collapse as well where labels conflict (``reference``), so results belong beside such a reader's.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emomm_lib.labels import COALITIONS, MODALITIES, coalition_modalities, coalition_name
from emomm_lib.metrics.bootstrap import (
    DEFAULT,
    Bootstrap,
    counted,
    intervals_of,
    means,
    warn_undefined,
)
from emomm_lib.metrics.outcomes import KEYS, check, check_right, groups, row

SUBSETS = ("align", "conflict")


def _weights() -> NDArray[np.float64]:
    """Eq. 2 as a matrix ``(8, 3)`` that takes accuracies to PSMV."""
    size = len(MODALITIES)
    weights = np.zeros((len(COALITIONS), size))
    for i, name in enumerate(COALITIONS):
        members = coalition_modalities(name)
        for m in members:
            w = factorial(len(members) - 1) * factorial(size - len(members)) / factorial(size)
            without = COALITIONS.index(coalition_name(x for x in members if x != m))
            weights[i, MODALITIES.index(m)] += w
            weights[without, MODALITIES.index(m)] -= w
    return weights


WEIGHTS = _weights()
ROUNDING = 1e-9
"""A gain below this part of the largest accuracy is rounding: sums of thousands of thirds and
fifths err by some 1e-13 of themselves, and one clip more or less is 1e-6 of a million."""
NO_GAIN = "V(TAV) equals V(none) up to rounding, and a share would be of nothing"
_NONE, _WHOLE = COALITIONS.index("none"), COALITIONS.index("TAV")


def _eight(values: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] != len(COALITIONS):
        raise ValueError(
            f"values must end in {len(COALITIONS)} accuracies, those of {COALITIONS}; got shape "
            f"{values.shape}"
        )
    return values


def psmv(values: ArrayLike) -> NDArray[np.float64]:
    """PSMV ``(..., 3)`` of T, A, V from accuracies ``(..., 8)`` in the order COALITIONS (Eq. 2).

    In the unit of the accuracies; the three add up to ``V(TAV) - V(none)``. For V these are the
    terms of Eq. 16, 1/3, 1/6, 1/6, 1/3. Raises ``ValueError`` for another last dimension.
    """
    return _eight(values) @ WEIGHTS


def psmv_shares(values: ArrayLike) -> NDArray[np.float64]:
    """PSMV over its sum ``V(TAV) - V(none)``, ``(..., 3)`` from ``(..., 8)`` (Figure 3 medium).

    The three add up to 1 but may be negative or above 1, and are unstable where the sum is near
    zero. Where it is zero up to rounding, at most 1e-9 of the largest of the eight accuracies, they
    are NaN, with a ``RuntimeWarning`` that says so. Raises like :func:`psmv`.
    """
    values = _eight(values)
    if nothing := int(_gains_nothing(values).sum()):
        warn_undefined("PSMV's share", f"{NO_GAIN} ({nothing} in all)")
    return shares_of(values)


def _gains_nothing(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    total = values[..., _WHOLE] - values[..., _NONE]
    return np.abs(total) <= ROUNDING * np.abs(values).max(axis=-1)


def shares_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    total = values[..., _WHOLE] - values[..., _NONE]
    return (values @ WEIGHTS) / np.where(_gains_nothing(values), np.nan, total)[..., None]


def complete(part: pd.DataFrame, what: str) -> pd.DataFrame:
    """Correctness of the clips that were scored under all coalitions, a column each."""
    wide = part.pivot(index="sample_id", columns="coalition", values="right")
    wide = wide.reindex(columns=list(COALITIONS)).dropna()
    if not len(wide):
        raise ValueError(
            f"no clip of {what} was scored under all eight coalitions {COALITIONS}; PSMV needs "
            "them all, so predict the rest"
        )
    return wide


def _named(by: Sequence[str], key: tuple) -> str:
    return ", ".join(f"{c} {k}" for c, k in zip(by, key, strict=True)) or "the outcomes"


def _tables(outcomes: pd.DataFrame, by: Sequence[str]) -> list[tuple[tuple, NDArray[np.float64]]]:
    check(outcomes, [*KEYS, "right", *by])
    check_right(outcomes, "right")
    return [
        (key, complete(part, _named(by, key)).to_numpy(np.float64))
        for key, part in groups(outcomes, by)
    ]


def coalition_accuracy(
    outcomes: pd.DataFrame,
    by: Sequence[str] = ("subset",),
    *,
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """Five-class accuracy of each coalition with 95% intervals (Figure 3 left).

    Returns ``*by, coalition, value, low, high, n``: accuracies in [0, 1] over the ``n`` clips that
    were scored under all eight coalitions. Raises ``ValueError`` for missing columns, ``right``
    outside [0, 1], a clip's coalition twice in a group, and a group without a complete clip.
    """
    rows = []
    for key, table in _tables(outcomes, by):
        found = intervals_of(counted(table), means, bootstrap=bootstrap)
        rows += [(*key, c, *row(i)) for c, i in zip(COALITIONS, found, strict=True)]
    return pd.DataFrame(rows, columns=[*by, "coalition", "value", "low", "high", "n"])


def psmv_frame(
    outcomes: pd.DataFrame,
    by: Sequence[str] = ("subset",),
    *,
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """PSMV of each modality and its share, with 95% intervals (Eq. 2, Figure 3 medium).

    Returns ``*by, modality, quantity, value, low, high, n``; ``quantity`` is ``psmv`` (accuracy, in
    [-1, 1]) or ``share`` (see :func:`psmv_shares`, unstable where all modalities together gain
    little; where they gain nothing up to rounding, the share and its interval are NaN, with a
    ``RuntimeWarning``). Raises like :func:`coalition_accuracy`.
    """
    rows = []
    for key, table in _tables(outcomes, by):
        found = intervals_of(
            counted(table),
            lambda sums: np.concatenate([psmv(x := means(sums)), shares_of(x)], axis=-1),
            bootstrap=bootstrap,
        )
        if np.isnan(found[-1].value):
            warn_undefined(f"PSMV's share of {_named(by, key)}", NO_GAIN)
        names = [(m, quantity) for quantity in ("psmv", "share") for m in MODALITIES]
        rows += [(*key, *name, *row(i)) for name, i in zip(names, found, strict=True)]
    return pd.DataFrame(rows, columns=[*by, "modality", "quantity", "value", "low", "high", "n"])
