"""Modalities and coalitions, classes, score grids, polarity (Sec. 3.1-3.2, Appendix A.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
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
STEPS_PER_UNIT = 5
"""Scores lie on a grid of step 0.2 in [-1, 1]; a score times five is an integer."""


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


class Corpus(StrEnum):
    """The two corpora of EmoMM, by the names used in tables, manifests and file names."""

    CH_SIMS = "ch_sims_v2"
    CMU_MOSI = "cmu_mosi"


@dataclass(frozen=True)
class ScoreGrid:
    """The allowed scores of each class in one corpus (Appendix A.1; Appendix E's score policy).

    Parameters
    ----------
    weak_limit
        Largest absolute grid step (score times five) that is still a *weak* class.
    """

    weak_limit: int

    def labels(self, steps: NDArray[np.integer]) -> NDArray[np.int64]:
        """Class 0..4 of grid steps in -5..5; ``ValueError`` for anything else."""
        steps = numbers(steps, "grid steps")
        if (bad := ~np.isin(steps, range(-STEPS_PER_UNIT, STEPS_PER_UNIT + 1))).any():
            raise ValueError(
                f"grid steps are whole numbers in [-{STEPS_PER_UNIT}, {STEPS_PER_UNIT}]; got "
                f"{shown_values(steps[bad])}"
            )
        strength = np.where(steps == 0, 0, np.where(np.abs(steps) <= self.weak_limit, 1, 2))
        return (NEUTRAL + np.sign(steps) * strength).astype(np.int64)

    def scores(self, label: int) -> tuple[float, ...]:
        """Allowed scores of a class, ascending: ``CH_SIMS.scores(3) == (0.2, 0.4, 0.6)``.

        Raises ``ValueError`` for anything but a class 0..4.
        """
        if np.ndim(label):
            raise ValueError(f"scores are asked of one class at a time; got {label!r}")
        label = class_labels(label)
        steps = np.arange(-STEPS_PER_UNIT, STEPS_PER_UNIT + 1)
        return tuple((steps[self.labels(steps) == label] / STEPS_PER_UNIT).tolist())


GRIDS = {Corpus.CH_SIMS: ScoreGrid(weak_limit=3), Corpus.CMU_MOSI: ScoreGrid(weak_limit=2)}


def _within(values: ArrayLike, limit: float, name: str) -> NDArray[np.float64]:
    """Numbers in [-limit, limit], or ``ValueError``."""
    found = numbers(values, name)
    if (bad := ~(np.abs(found) <= limit * (1 + 1e-9))).any():
        raise ValueError(f"{name} must lie in [-{limit}, {limit}]; got {shown_values(found[bad])}")
    return found


def nearest_step(score: ArrayLike) -> NDArray[np.int64]:
    """Nearest grid step of scores in [-1, 1]; a tie goes to the step farther from zero.

    ``nearest_step([0.29, 0.3, -0.3]) == [1, 2, -2]``. A missing value, one outside [-1, 1] and one
    that is no number raise ``ValueError``.
    """
    score = _within(score, 1, "scores")
    # 12 decimals absorb the error of a division by 3, so that an exact tie stays one.
    scaled = np.round(np.abs(score) * STEPS_PER_UNIT, 12)
    return (np.sign(score) * np.floor(scaled + 0.5)).astype(np.int64)


def on_grid(score: ArrayLike, tolerance: float = 1e-6) -> NDArray[np.bool_]:
    """Whether each score is a multiple of 0.2 in [-1, 1]; a missing one is not.

    Raises ``ValueError`` for what is no number.
    """
    score = numbers(score, "scores")
    inside = np.abs(score) <= 1 + tolerance
    steps = np.where(inside, score, 0) * STEPS_PER_UNIT
    return inside & (np.abs(steps - np.rint(steps)) <= tolerance * STEPS_PER_UNIT)


def score_to_label(score: ArrayLike, corpus: Corpus | str) -> NDArray[np.int64]:
    """Class 0..4 of scores in [-1, 1] under a corpus's mapping (Appendix A.1).

    ``score_to_label(0.6, "ch_sims_v2") == 3`` and ``score_to_label(0.6, "cmu_mosi") == 4``. Raises
    ``ValueError`` as :func:`nearest_step`, and for an unknown corpus.
    """
    return GRIDS[Corpus(corpus)].labels(nearest_step(score))


def mosi_intensity_to_score(intensity: ArrayLike) -> NDArray[np.float64]:
    """CMU-MOSI's sentiment intensity in [-3, 3], scaled to [-1, 1] and put on the 0.2 grid.

    Raises ``ValueError`` for a missing value, one out of range and one that is no number.
    """
    return nearest_step(_within(intensity, 3, "intensities") / 3) / STEPS_PER_UNIT


def polarity(label: ArrayLike) -> NDArray[np.int64]:
    """Polarity -1, 0 or +1 of classes 0..4; neutral is a polarity of its own (Sec. 3.2).

    Keeps the shape, also of an empty array. Raises ``ValueError`` as :func:`class_labels`.
    """
    return np.sign(class_labels(label) - NEUTRAL)
