"""The two corpora, and which class each of their scores is (Sec. 3.1, Appendix A.1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emomm_lib.labels import NEUTRAL, class_labels, numbers, shown_values

STEPS_PER_UNIT = 5
"""Scores lie on a grid of step 0.2 in [-1, 1]; a score times five is an integer."""


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

    def labels(self, steps: ArrayLike) -> NDArray[np.int64]:
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
