"""What every metric of outcomes shares: checks, groups in a fixed order, tidy rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emomm_lib.labels import (
    COALITIONS,
    MODALITIES,
    SENTIMENT5,
    SOURCES,
    LabelSet,
    coalition_modalities,
    is_class,
    shown_values,
)
from emomm_lib.metrics.bootstrap import Interval

KEYS = ("sample_id", "coalition")
LABELS = tuple(f"label_{source}" for source in SOURCES)
_PRESENT = np.array([[m in coalition_modalities(name) for m in MODALITIES] for name in COALITIONS])


def check(frame: pd.DataFrame, columns: Sequence[str], what: str = "the outcomes") -> None:
    """Raises ``ValueError`` for missing columns, keys without a value and unknown coalitions."""
    if lacking := sorted(set(columns) - set(frame.columns)):
        raise ValueError(f"{what} lack the columns {lacking}; they have {list(frame.columns)}")
    if not len(frame):
        raise ValueError(f"{what} have no rows")
    if empty := [c for c in columns if not c.startswith(("label_", "right")) and _na(frame[c])]:
        raise ValueError(
            f"{what} have rows without a value in {empty}; a coalition 'none' read from a CSV file "
            "needs keep_default_na=False"
        )
    if "coalition" in columns and (unknown := set(frame["coalition"]) - set(COALITIONS)):
        raise ValueError(f"{what} have coalitions {sorted(unknown)}; there are {COALITIONS}")


def _na(column: pd.Series) -> bool:
    return bool(column.isna().any())


def check_right(frame: pd.DataFrame, column: str, what: str = "the outcomes") -> None:
    """Raises ``ValueError`` unless a column is a correctness in [0, 1] everywhere."""
    bad = frame.loc[~frame[column].astype(np.float64).between(0, 1), "sample_id"]
    if len(bad):
        raise ValueError(
            f"{column} of {what} must lie in [0, 1]; {len(bad)} rows do not, of clips "
            f"{bad.unique()[:3].tolist()}; leave failed items out, they are neither right nor wrong"
        )


def check_labels(
    frame: pd.DataFrame,
    columns: Iterable[str],
    what: str = "the outcomes",
    labels: LabelSet = SENTIMENT5,
) -> None:
    """Raises ``ValueError`` unless columns hold labels 0..K-1 everywhere."""
    for column in columns:
        bad = frame[~is_class(frame[column], labels)]
        if len(bad):
            raise ValueError(
                f"{column} of {what} must be a label 0 to {len(labels) - 1}; got "
                f"{shown_values(bad[column])}, of clips {bad['sample_id'].unique()[:3].tolist()}"
            )


def with_evidence(
    frame: pd.DataFrame,
    evidence: str,
    what: str = "the outcomes",
    labels: LabelSet = SENTIMENT5,
) -> pd.DataFrame:
    """Rows with a class 0..K-1 in ``{evidence}_t, _a, _v``; ``ValueError`` for other, or no row."""
    read = [f"{evidence}_{m.lower()}" for m in MODALITIES]
    if lacking := sorted(set(read) - set(frame.columns)):
        raise ValueError(f"{what} lack the columns {lacking} of evidence {evidence!r}")
    known = frame.dropna(subset=read).reset_index(drop=True)
    if not len(known):
        raise ValueError(f"no clip has a value in all of {read}")
    check_labels(known, read, what, labels)
    return known


def present(coalitions: pd.Series) -> NDArray[np.bool_]:
    """Whether each row's coalition holds T, A and V, ``(N, 3)``."""
    codes = pd.Categorical(coalitions, categories=COALITIONS).codes
    return _PRESENT[codes]


def groups(frame: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """Keys and parts of a frame, neither depending on the order of its rows.

    Coalitions come in their usual order. Raises ``ValueError`` where a part has a clip's coalition
    twice.
    """
    by = list(by)
    coalition = pd.Categorical(frame["coalition"], categories=COALITIONS, ordered=True)
    frame = frame.assign(coalition=coalition).sort_values(list(KEYS), ignore_index=True)
    for key, part in frame.groupby(by, sort=True, observed=True) if by else [((), frame)]:
        twice = part[part.duplicated(list(KEYS))]
        if len(twice):
            first = twice.iloc[0]
            raise ValueError(
                f"{len(twice)} clips have a coalition twice in one group, the first is "
                f"{first['sample_id']} {first['coalition']}; name in `by` what tells them apart"
            )
        yield key, part


def row(interval: Interval, n: int | None = None) -> tuple[float, float, float, int]:
    """The last four columns of a tidy result: ``value, low, high, n``."""
    return interval.value, interval.low, interval.high, interval.n if n is None else n
