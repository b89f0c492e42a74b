"""Modalities and coalitions, classes and their polarity (Sec. 3.1-3.2, Appendix A.1)."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

CLASSES = ("N", "WN", "Neu", "WP", "P")
CLASS_NAMES = ("Negative", "Weakly Negative", "Neutral", "Weakly Positive", "Positive")
LETTERS = ("A", "B", "C", "D", "E")
MODALITIES = ("T", "A", "V")
COALITIONS = ("none", "T", "A", "V", "TA", "TV", "AV", "TAV")
"""All subsets of {T, A, V}, smallest first."""
SOURCES = ("gt", "t", "a", "v")
"""Suffixes of the label and score columns: ground truth, text, audio, video."""
NEUTRAL = 2


def coalition_name(modalities: Iterable[str]) -> str:
    """The name of a set of modalities in the order T, A, V: ``coalition_name("VT") == "TV"``.

    The empty set is ``"none"``. Raises ``ValueError`` for a repetition and for any other letter.
    """
    given = list(modalities)
    if not set(given) <= set(MODALITIES) or len(set(given)) != len(given):
        raise ValueError(f"modalities are distinct letters of {MODALITIES}, got {given}")
    return "".join(m for m in MODALITIES if m in given) or "none"


def coalition_modalities(name: str) -> tuple[str, ...]:
    """The modalities of a coalition, ``("T", "V")`` for ``"TV"``; ``ValueError`` if unknown."""
    if name not in COALITIONS:
        raise ValueError(f"unknown coalition {name!r}, expected one of {COALITIONS}")
    return () if name == "none" else tuple(name)


def as_array(values: ArrayLike) -> NDArray:
    """An array in which a boolean in a list of numbers is still a boolean."""
    # As objects, or a boolean in a list of numbers becomes one of them.
    return np.asarray(values, dtype=None if hasattr(values, "dtype") else object)


def _numeric(values: NDArray) -> NDArray[np.bool_]:
    """Which values are real numbers; booleans, text and what stands for a missing value are not."""
    if values.dtype.kind in "iuf":
        return np.ones(values.shape, bool)
    if values.dtype.kind != "O":
        return np.zeros(values.shape, bool)
    found = [isinstance(v, Real) and not isinstance(v, bool | np.bool_) for v in values.flat]
    return np.array(found, dtype=bool).reshape(values.shape)


def shown_values(values: ArrayLike) -> str:
    """The first distinct values of a complaint and how many there are: ``nan, 7 (3 in all)``."""
    values = as_array(values)
    names = dict.fromkeys(map(repr, values.ravel().tolist()))
    return f"{', '.join([*names][:5])} ({values.size} in all)"


def is_class(label: ArrayLike) -> NDArray[np.bool_]:
    """Whether each label is a class 0..4: a whole number, of an integer or a float type.

    NaN, NA, other numbers, booleans and text are not.
    """
    values = as_array(label)
    found = _numeric(values)
    found[found] = np.isin(values[found].astype(np.float64), range(len(CLASSES)))
    return found


def class_labels(label: ArrayLike, name: str = "labels") -> NDArray[np.int64]:
    """Labels as integers, in their shape; an empty array stays empty.

    Raises ``ValueError``, with ``name`` in front, that shows what is no class 0..4 and how many.
    """
    values = as_array(label)
    if not (good := is_class(values)).all():
        raise ValueError(
            f"{name} are whole numbers 0 to {len(CLASSES) - 1}; got {shown_values(values[~good])}"
        )
    return values.astype(np.int64)


def numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Real numbers as floats, None and NA as NaN; ``ValueError`` shows booleans and text."""
    values = as_array(values)
    if values.dtype.kind == "O":
        values = np.where(pd.isna(values), np.nan, values)
    if not (good := _numeric(values)).all():
        raise ValueError(f"{name} must be numbers; got {shown_values(values[~good])}")
    return values.astype(np.float64)


def polarity(label: ArrayLike) -> NDArray[np.int64]:
    """Polarity -1, 0 or +1 of classes 0..4; neutral is a polarity of its own (Sec. 3.2).

    Keeps the shape, also of an empty array. Raises ``ValueError`` as :func:`class_labels`.
    """
    return np.sign(class_labels(label) - NEUTRAL)
