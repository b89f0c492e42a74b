"""Performance Shapley Modality Value and video contribution collapse: Eq. 2 and 16, Sec. 4.2.

A share of PSMV is a ratio to ``V(TAV) - V(none)``: near zero it is unstable and its interval is
wide. And PSMV alone cannot show a preference: a perfect reader that weighs all modalities alike
can collapse as well where labels conflict (``readers``), so results belong beside such a reader's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import factorial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import block_diag

from emomm_lib.labels import COALITIONS, MODALITIES, coalition_modalities, coalition_name
from emomm_lib.metrics.bootstrap import DEFAULT, Bootstrap, Interval, intervals_of, warn_undefined
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
    return _shares(values)


def _gains_nothing(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    total = values[..., _WHOLE] - values[..., _NONE]
    return np.abs(total) <= ROUNDING * np.abs(values).max(axis=-1)


def _shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    total = values[..., _WHOLE] - values[..., _NONE]
    return (values @ WEIGHTS) / np.where(_gains_nothing(values), np.nan, total)[..., None]


def _complete(part: pd.DataFrame, what: str) -> pd.DataFrame:
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


def _over_groups(
    outcomes: pd.DataFrame, by: Sequence[str]
) -> list[tuple[tuple, NDArray[np.float64]]]:
    check(outcomes, [*KEYS, "right", *by])
    check_right(outcomes, "right")
    return [
        (key, _complete(part, _named(by, key)).to_numpy(np.float64))
        for key, part in groups(outcomes, by)
    ]


def _over(sums: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    return sums / n


def _psmv_and_shares(sums: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    return np.concatenate([psmv(sums / n), _shares(sums)], axis=-1)


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
    for key, table in _over_groups(outcomes, by):
        found = intervals_of(table, partial(_over, n=len(table)), bootstrap=bootstrap)
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
    for key, table in _over_groups(outcomes, by):
        found = intervals_of(
            table,
            partial(_psmv_and_shares, n=len(table)),
            bootstrap=bootstrap,
        )
        if np.isnan(found[-1].value):
            warn_undefined(f"PSMV's share of {_named(by, key)}", NO_GAIN)
        names = [(m, quantity) for quantity in ("psmv", "share") for m in MODALITIES]
        rows += [(*key, *name, *row(i)) for name, i in zip(names, found, strict=True)]
    return pd.DataFrame(rows, columns=[*by, "modality", "quantity", "value", "low", "high", "n"])


def _two_subsets(outcomes: pd.DataFrame, what: str = "the outcomes") -> dict[str, pd.DataFrame]:
    check(outcomes, [*KEYS, "right", "subset"], what)
    check_right(outcomes, "right", what)
    if (found := set(outcomes["subset"])) != set(SUBSETS):
        raise ValueError(
            f"the subsets of {what} must be {SUBSETS}, that of the whole clip in all its rows; "
            f"got {sorted(found)}"
        )
    return {
        key[0]: _complete(part, f"subset {key[0]} of {what}")
        for key, part in groups(outcomes, ["subset"])
    }


def _between_subsets(
    align: NDArray[np.float64],
    conflict: NDArray[np.float64],
    finish: Callable[[NDArray, NDArray], NDArray],
    bootstrap: Bootstrap,
) -> list[Interval]:
    """Intervals of ``finish(mean of align, mean of conflict)``, the two resampled independently."""
    sizes = np.repeat([len(align), len(conflict)], align.shape[1])
    return intervals_of(
        block_diag(align, conflict),
        lambda sums: finish(*np.split(sums / sizes, 2, axis=-1)),
        strata=np.repeat(SUBSETS, [len(align), len(conflict)]),
        bootstrap=bootstrap,
    )


def accuracy_drops(outcomes: pd.DataFrame, *, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """Accuracy on Align minus accuracy on Conflict, by coalition (Figure 3 left).

    Returns ``coalition, value, low, high, n``: differences in [-1, 1] with 95% intervals, the two
    disjoint groups of clips resampled independently, and the clips of both. The paper gives 0.160
    for V, 0.104 for T and 0.098 for A. Raises like :func:`coalition_accuracy`, and for subsets
    other than ``align`` and ``conflict``.
    """
    align, conflict = (t.to_numpy(np.float64) for t in _two_subsets(outcomes).values())
    found = _between_subsets(align, conflict, np.subtract, bootstrap)
    rows = [(c, *row(i)) for c, i in zip(COALITIONS, found, strict=True)]
    return pd.DataFrame(rows, columns=["coalition", "value", "low", "high", "n"])


def vcc(
    outcomes: pd.DataFrame,
    readers: Mapping[str, pd.DataFrame] | None = None,
    modality: str = "V",
    *,
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """Collapse of a modality's PSMV share from Align to Conflict, beside that of readers.

    ``readers`` are outcomes of the same clips by ``readers.reader_outcomes``. Returns ``source,
    quantity, value, low, high, n``: ``source`` is ``model`` or a reader's name, ``quantity`` is
    ``share_align``, ``share_conflict`` and ``collapse``, their difference, and for a reader
    ``excess``, the model's collapse minus the reader's on the same resampled clips. Shares are
    fractions; published for V: 0.333 - 0.208 = 0.125 (Sec. 4.2). Labels alone
    can make a reader without any preference collapse, so that at most an excess speaks of the
    model. Align and Conflict are
    resampled independently.

    A share is NaN, with its interval, where the modalities together gain nothing up to rounding;
    so is what it enters. A ``RuntimeWarning`` names it. Only clips that the model and all readers
    have under all eight coalitions count; ``n`` says how many. Raises like :func:`accuracy_drops`,
    and where no clip is common to all.
    """
    if modality not in MODALITIES:
        raise ValueError(f"modality must be one of {MODALITIES}; got {modality!r}")
    if "model" in (readers := dict(readers or {})):
        raise ValueError("a reader may not be called 'model'; give it another name")
    sources = ["model", *readers]
    tables = [_two_subsets(outcomes)]
    tables += [_two_subsets(frame, f"reader {name!r}") for name, frame in readers.items()]
    joined = []
    for subset in SUBSETS:
        common = pd.concat([t[subset] for t in tables], axis=1, join="inner").sort_index()
        if not len(common):
            raise ValueError(
                f"no {subset} clip is common to {sources}; give readers the same clips"
            )
        joined.append(common.to_numpy(np.float64))
    m = MODALITIES.index(modality)

    def finish(align: NDArray, conflict: NDArray) -> NDArray:
        shares = [
            _shares(x.reshape(*x.shape[:-1], len(sources), -1))[..., m] for x in (align, conflict)
        ]
        collapse = shares[0] - shares[1]
        excess = collapse[..., :1] - collapse[..., 1:]
        return np.concatenate([*shares, collapse, excess], axis=-1)

    found = _between_subsets(joined[0], joined[1], finish, bootstrap)
    sizes = {"share_align": len(joined[0]), "share_conflict": len(joined[1])}
    names = [(s, q) for q in (*sizes, "collapse") for s in sources]
    names += [(s, "excess") for s in readers]
    rows = [(s, q, *row(i, sizes.get(q))) for (s, q), i in zip(names, found, strict=True)]
    for source, quantity, value, *_ in rows:
        if quantity in sizes and np.isnan(value):
            warn_undefined(f"{quantity} of {source}", NO_GAIN)
    rows.sort(key=lambda r: sources.index(r[0]))
    return pd.DataFrame(rows, columns=["source", "quantity", "value", "low", "high", "n"])
