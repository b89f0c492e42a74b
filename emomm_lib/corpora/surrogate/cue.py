"""How a label becomes something seen, heard or read: emphasis and confusion (DESIGN, Sec. 1)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from emomm_lib.labels import MODALITIES


@dataclass(frozen=True)
class EmphasisCue:
    """Probability that a modality is expressed emphatically, given that it agrees with GT.

    People who mean it, show it: with the default, whom to trust can be learnt from how clearly
    each modality speaks. ``NULL_CUE`` makes emphasis independent of agreement, so that nothing can
    be learnt from it; every other property of the clips stays the same.
    """

    agree: float = 0.85
    disagree: float = 0.15


INFORMATIVE_CUE = EmphasisCue()
NULL_CUE = EmphasisCue(agree=0.5, disagree=0.5)
CUES = {"informative": INFORMATIVE_CUE, "null": NULL_CUE}


@dataclass(frozen=True)
class Confusion:
    """Probability that a modality shows a class next to its label, emphatic or plain."""

    emphatic: float
    plain: float


@dataclass(frozen=True)
class Expressiveness:
    """How faithfully each modality shows its label: text best, video worst, as in Sec. 4.2."""

    t: Confusion = field(default=Confusion(0.02, 0.12))
    a: Confusion = field(default=Confusion(0.05, 0.20))
    v: Confusion = field(default=Confusion(0.10, 0.35))


def draw_emphasis(agrees: np.ndarray, cue: EmphasisCue, rng: np.random.Generator) -> np.ndarray:
    """Whether each modality of each clip is emphatic; ``agrees`` is bool of any shape."""
    return rng.random(agrees.shape) < np.where(agrees, cue.agree, cue.disagree)


def draw_shown(
    labels: np.ndarray,
    emphatic: np.ndarray,
    expressiveness: Expressiveness,
    rng: np.random.Generator,
) -> np.ndarray:
    """Classes that the clips really show; ``labels`` and ``emphatic`` are ``(N, 3)`` in T, A, V.

    A confused modality shows one of the two neighbouring classes (the only one at either end).
    """
    confusions = [getattr(expressiveness, m.lower()) for m in MODALITIES]
    rate = np.where(emphatic, [c.emphatic for c in confusions], [c.plain for c in confusions])
    confused = rng.random(labels.shape) < rate
    step = np.where(rng.random(labels.shape) < 0.5, -1, 1)
    step = np.where(labels == 0, 1, np.where(labels == 4, -1, step))
    return labels + np.where(confused, step, 0)
