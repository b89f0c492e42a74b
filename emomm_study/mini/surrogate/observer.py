"""The ideal observer: what the surrogates' own generator says of the ground truth.

It reads without error what each modality shows and how emphatically, and weighs it by Bayes' rule,
knowing how labels, emphasis and confusion are drawn. No model that reads the same clips can be right
more often on clips so drawn. On clips drawn otherwise, conflicts for one that knows agreeing clips
alone, it says what follows from what it knows, and so stands beside a model trained on the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emomm_lib.labels import CLASSES, COALITIONS, MODALITIES, coalition_modalities
from emomm_lib.metrics.reference import expected
from emomm_study.mini.surrogate.cue import EmphasisCue, Expressiveness, shown_probabilities
from emomm_study.mini.surrogate.plan import CLASS_AGREEMENT, WEAKER_OR_STRONGER

RANDOM_EMPHASIS = EmphasisCue(0.5, 0.5)
"""Emphasis as training clips have it: of what agrees with GT as often as of what does not."""


def agreeing_labels() -> NDArray[np.float64]:
    """P(GT, T, A, V) ``(5, 5, 5, 5)`` of training clips: no polarity ever differs."""
    given = CLASS_AGREEMENT * np.eye(len(CLASSES))
    given[np.arange(len(CLASSES)), WEAKER_OR_STRONGER] += 1 - CLASS_AGREEMENT
    return np.einsum("gt,ga,gv->gtav", given, given, given) / len(CLASSES)


@dataclass(frozen=True)
class IdealObserver:
    """What it knows: how labels, emphasis and confusion are drawn.

    Attributes
    ----------
    labels
        ``(5, 5, 5, 5)`` probabilities or counts of (GT, T, A, V); by default those of training
        clips.
    lapse
        Probability with which it thinks that a modality shows any class at all. Training clips never
        show N beside P: with a small lapse, whatever needs the fewest of them explains such a clip.
    """

    labels: NDArray[np.float64] = field(default_factory=agreeing_labels)
    cue: EmphasisCue = RANDOM_EMPHASIS
    expressiveness: Expressiveness = field(default_factory=Expressiveness)
    lapse: float = 1e-3

    def posterior(
        self, shown: NDArray[np.int64], emphatic: NDArray[np.bool_], coalition: str
    ) -> NDArray[np.float64]:
        """P(GT | what a coalition's modalities show) ``(N, 5)``, summing to 1.

        ``shown`` ``(N, 3)`` in 0..4 and ``emphatic`` ``(N, 3)`` are of T, A, V.
        """
        joint = np.asarray(self.labels, float)
        agrees = np.eye(len(CLASSES), dtype=bool)
        # How often a modality is emphatic, by whether it agrees: without a cue, as often on average.
        seen = []
        for i, modality in enumerate(MODALITIES):
            if modality not in coalition_modalities(coalition):
                seen.append(np.ones((1, 1, 1)))
                continue
            rate = np.where(agrees, self.cue.agree, self.cue.disagree)
            if not self.cue.informative:
                own = joint.sum(tuple({1, 2, 3} - {i + 1}))
                rate = np.full_like(rate, (own * rate).sum() / own.sum())
            speaks = np.where(emphatic[:, i, None, None], rate, 1 - rate)
            shows = shown_probabilities(getattr(self.expressiveness, modality.lower()))
            shows = (1 - self.lapse) * shows + self.lapse / len(CLASSES)
            likely = shows[emphatic[:, i].astype(int), :, shown[:, i]]
            seen.append(speaks * likely[:, None])
        weight = np.einsum(
            "gtav,ngt,nga,ngv->ng", joint, *(np.broadcast_to(x, (len(shown), 5, 5)) for x in seen),
            optimize=True,
        )  # fmt: skip
        return weight / weight.sum(1, keepdims=True)

    def outcomes(self, plan: pd.DataFrame) -> pd.DataFrame:
        """Its expected outcomes on planned clips under all coalitions; a tie is split evenly.

        ``plan`` has ``sample_id, corpus, subset``, the four labels, ``shown_*`` and ``emphatic_*``.
        Columns as by :func:`emomm_lib.metrics.reference.reader_outcomes`.
        """
        shown, emphatic = (
            plan[[f"{name}_{m.lower()}" for m in MODALITIES]].to_numpy()
            for name in ("shown", "emphatic")
        )
        answers = {}
        for name in COALITIONS:
            posterior = self.posterior(shown, emphatic, name).round(12)
            best = posterior == posterior.max(1, keepdims=True)
            answers[name] = best / best.sum(1, keepdims=True)
        return expected(plan, answers)
