"""How a label becomes something seen, heard or read: emphasis and confusion.

What a surrogate corpus can show is decided here. No modality is clearer than another, so that any
order among them is a model's own. With the informative cue a modality that has GT's class is emphatic
more often: something to be gained by trusting the emphatic modality is put in; what a model makes of
it is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from emomm_lib.labels import CLASSES, MODALITIES


@dataclass(frozen=True)
class EmphasisCue:
    """Probability that a modality is emphatic, by whether its class is GT's (Eq. 9's r_m).

    People who mean it, show it: with the default, whom to trust can be learnt from how clearly
    each modality speaks. Without ``informative`` every clip of a corpus has the same probability,
    a modality's mean one: nothing can be learnt from emphasis, and as many clips are emphatic, and
    as many confused, as with the cue.
    """

    agree: float = 0.85
    disagree: float = 0.15
    informative: bool = True


INFORMATIVE_CUE = EmphasisCue()
NULL_CUE = EmphasisCue(informative=False)
CUES = {"informative": INFORMATIVE_CUE, "null": NULL_CUE}


@dataclass(frozen=True)
class Confusion:
    """Probability that a modality shows a class next to its label, emphatic or plain."""

    emphatic: float
    plain: float


@dataclass(frozen=True)
class Expressiveness:
    """How faithfully each modality shows its label; by default all alike."""

    t: Confusion = field(default=Confusion(0.15, 0.35))
    a: Confusion = field(default=Confusion(0.15, 0.35))
    v: Confusion = field(default=Confusion(0.15, 0.35))


def shown_probabilities(confusion: Confusion) -> np.ndarray:
    """P(shown | label), plain and emphatic: ``(2, 5, 5)``, the label before what is shown."""
    n = len(CLASSES)
    step = (np.eye(n, k=1) + np.eye(n, k=-1)) / 2
    step[0, 1] = step[-1, -2] = 1
    rates = np.array([confusion.plain, confusion.emphatic])[:, None, None]
    return (1 - rates) * np.eye(n) + rates * step


def draw_emphasis(agrees: np.ndarray, cue: EmphasisCue, rng: np.random.Generator) -> np.ndarray:
    """Whether each modality of each clip is emphatic; ``agrees`` is ``(N, 3)`` in T, A, V."""
    probability = np.where(agrees, cue.agree, cue.disagree)
    if not cue.informative:
        probability = np.broadcast_to(probability.mean(axis=0), agrees.shape)
    return rng.random(agrees.shape) < probability


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
