"""Video contribution collapse: what is lost from Align to Conflict, and beside readers (Sec. 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import block_diag

from emomm_lib.labels import COALITIONS, MODALITIES
from emomm_lib.metrics.bootstrap import (
    DEFAULT,
    Bootstrap,
    Interval,
    intervals_of,
    warn_undefined,
)
from emomm_lib.metrics.outcomes import KEYS, check, check_right, groups, row
from emomm_lib.metrics.psmv import NO_GAIN, SUBSETS, complete, shares_of


def _two_subsets(outcomes: pd.DataFrame, what: str = "the outcomes") -> dict[str, pd.DataFrame]:
    check(outcomes, [*KEYS, "right", "subset"], what)
    check_right(outcomes, "right", what)
    if not (found := set(outcomes["subset"])) <= set(SUBSETS):
        raise ValueError(
            f"the subsets of {what} must be {SUBSETS}, that of the whole clip in all its rows; "
            f"got {sorted(found)}"
        )
    empty = pd.DataFrame(columns=list(COALITIONS), dtype=float)
    return dict.fromkeys(SUBSETS, empty) | {
        key[0]: complete(part, f"subset {key[0]} of {what}")
        for key, part in groups(outcomes, ["subset"])
    }


def _between_subsets(
    align: NDArray[np.float64],
    conflict: NDArray[np.float64],
    finish: Callable[[NDArray, NDArray], NDArray],
    bootstrap: Bootstrap,
) -> list[Interval]:
    """Intervals of ``finish(mean of align, mean of conflict)``, the two resampled independently.

    The mean of a subset without a clip is NaN.
    """
    sizes = np.repeat([len(align) or np.nan, len(conflict) or np.nan], align.shape[1])
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
    for V, 0.104 for T and 0.098 for A. NaN where one of the two has no clip. Raises like
    :func:`coalition_accuracy`, and for subsets other than ``align`` and ``conflict``.
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

    ``readers`` are outcomes of the same clips by ``emomm_lib.reader_outcomes``. Returns ``source,
    quantity, value, low, high, n``: ``source`` is ``model`` or a reader's name, ``quantity`` is
    ``share_align``, ``share_conflict`` and ``collapse``, their difference, and for a reader
    ``excess``, the model's collapse minus the reader's on the same resampled clips. Shares are
    fractions; published for V: 0.333 - 0.208 = 0.125 (Sec. 4.2). Labels alone
    can make a reader without any preference collapse, so that at most an excess speaks of the
    model. Align and Conflict are
    resampled independently.

    A share is NaN, with its interval, where the modalities together gain nothing up to rounding,
    and where its subset has no clip; so is what it enters. A ``RuntimeWarning`` names it. Only clips that the model and all readers
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
        if not len(common) and any(len(t[subset]) for t in tables):
            raise ValueError(
                f"no {subset} clip is common to {sources}; give readers the same clips"
            )
        joined.append(common.to_numpy(np.float64))
    m = MODALITIES.index(modality)

    def finish(align: NDArray, conflict: NDArray) -> NDArray:
        shares = [
            shares_of(x.reshape(*x.shape[:-1], len(sources), -1))[..., m] for x in (align, conflict)
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
        if quantity in sizes and sizes[quantity] and np.isnan(value):
            warn_undefined(f"{quantity} of {source}", NO_GAIN)
    rows.sort(key=lambda r: sources.index(r[0]))
    return pd.DataFrame(rows, columns=["source", "quantity", "value", "low", "high", "n"])
