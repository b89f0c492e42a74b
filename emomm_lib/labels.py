"""Modalities and coalitions, classes, score grids, polarity (Sec. 3.1-3.2, Appendix A.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
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
        """Class 0..4 of grid steps in -5..5."""
        steps = np.asarray(steps)
        strength = np.where(steps == 0, 0, np.where(np.abs(steps) <= self.weak_limit, 1, 2))
        return (NEUTRAL + np.sign(steps) * strength).astype(np.int64)

    def scores(self, label: int) -> tuple[float, ...]:
        """Allowed scores of a class, ascending: ``CH_SIMS.scores(3) == (0.2, 0.4, 0.6)``."""
        steps = np.arange(-STEPS_PER_UNIT, STEPS_PER_UNIT + 1)
        return tuple((steps[self.labels(steps) == label] / STEPS_PER_UNIT).tolist())


GRIDS = {Corpus.CH_SIMS: ScoreGrid(weak_limit=3), Corpus.CMU_MOSI: ScoreGrid(weak_limit=2)}


def nearest_step(score: ArrayLike) -> NDArray[np.int64]:
    """Nearest grid step of scores in [-1, 1]; a tie goes to the step farther from zero.

    ``nearest_step([0.29, 0.3, -0.3]) == [1, 2, -2]``. NaN or a value outside [-1, 1] raises
    ``ValueError``.
    """
    score = np.asarray(score, dtype=np.float64)
    bad = ~(np.abs(score) <= 1 + 1e-9)
    if bad.any():
        raise ValueError(f"scores must lie in [-1, 1]; got {np.unique(score[bad])[:5].tolist()}")
    # 12 decimals absorb the error of a division by 3, so that an exact tie stays one.
    scaled = np.round(np.abs(score) * STEPS_PER_UNIT, 12)
    return (np.sign(score) * np.floor(scaled + 0.5)).astype(np.int64)


def on_grid(score: ArrayLike, tolerance: float = 1e-6) -> NDArray[np.bool_]:
    """Whether each score is a multiple of 0.2 in [-1, 1]; NaN is not."""
    score = np.asarray(score, dtype=np.float64)
    inside = np.abs(score) <= 1 + tolerance
    steps = np.where(inside, score, 0) * STEPS_PER_UNIT
    return inside & (np.abs(steps - np.rint(steps)) <= tolerance * STEPS_PER_UNIT)


def score_to_label(score: ArrayLike, corpus: Corpus | str) -> NDArray[np.int64]:
    """Class 0..4 of scores in [-1, 1] under a corpus's mapping (Appendix A.1).

    ``score_to_label(0.6, "ch_sims_v2") == 3`` and ``score_to_label(0.6, "cmu_mosi") == 4``.
    """
    return GRIDS[Corpus(corpus)].labels(nearest_step(score))


def mosi_intensity_to_score(intensity: ArrayLike) -> NDArray[np.float64]:
    """CMU-MOSI's sentiment intensity in [-3, 3], scaled to [-1, 1] and put on the 0.2 grid."""
    return nearest_step(np.asarray(intensity, dtype=np.float64) / 3) / STEPS_PER_UNIT


def polarity(label: ArrayLike) -> NDArray[np.int64]:
    """Polarity -1, 0 or +1 of classes 0..4; neutral is a polarity of its own (Sec. 3.2)."""
    return np.sign(np.asarray(label) - NEUTRAL).astype(np.int64)
