"""Five simulated annotators, who vote so that the means have given classes.

They stand in for people where the clips are surrogates, so that the whole path from votes to
labels runs. They see and hear nothing: each *perceives* the middle of the class that a modality was
constructed to have, plus noise of its own, and votes for the nearest of -1, 0 and 1. Nothing about
people follows from their agreement, which is what the noise was set to give.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from emomm_lib.labels import CLASSES, MODALITIES
from emomm_study.annotation.campaign import (
    ANNOTATORS_A_CLIP,
    VOTES,
    Answer,
    Campaign,
    CampaignError,
)
from emomm_study.corpora.scores import GRIDS, Corpus, score_to_label

BALLOTS = np.array(list(itertools.product(VOTES, repeat=ANNOTATORS_A_CLIP)))
"""All ways in which five people can vote, ``(243, 5)``."""
BORDER = 0.5
"""Where the nearest vote changes from neutral to signed."""
_MADE_BY = "simulated annotators"


def ballot_labels(corpus: Corpus | str) -> NDArray[np.int64]:
    """Class 0..4 of each of the 243 ballots by a corpus's mapping of the mean."""
    return score_to_label(BALLOTS.sum(axis=1) / ANNOTATORS_A_CLIP, corpus)


def latent(label: int, corpus: Corpus | str) -> float:
    """What is perceived of a class without noise: the mean of its scores, in [-1, 1]."""
    return float(np.mean(GRIDS[Corpus(corpus)].scores(label)))


@dataclass(frozen=True)
class SimulatedAnnotators:
    """Five annotators: how noisy their perception is, how far their leanings differ, how they slip.

    Attributes
    ----------
    noise
        Standard deviation of each one's perception, in units of the score; more noise, less
        agreement. The default gives Table 3's classes a pooled Fleiss' kappa near 0.54.
    leaning
        Standard deviation over annotators of a constant that each adds to all it perceives.
    slip
        Probability that a vote is one of the three at random, whatever was perceived.
    seed
        Of leanings and votes.
    """

    noise: float = 0.13
    leaning: float = 0.03
    slip: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        # Without slips some classes could have no possible ballot, up to rounding.
        if not (self.noise > 0 and self.leaning >= 0 and 0 < self.slip <= 1):
            raise ValueError(
                "expected a positive noise, a leaning of at least 0 and a slip in (0, 1]; got "
                f"{self.noise}, {self.leaning} and {self.slip}"
            )

    def leanings(self) -> NDArray[np.float64]:
        """Each annotator's constant, ``(5,)``."""
        rng = np.random.default_rng([self.seed, len(MODALITIES)])
        return self.leaning * rng.standard_normal(ANNOTATORS_A_CLIP)

    def probabilities(self, label: int, corpus: Corpus | str) -> NDArray[np.float64]:
        """Probability ``(243,)`` of each ballot, given that the mean has class ``label``.

        Votes are independent given what is perceived; ballots of other classes are struck out
        and the rest is scaled to sum to 1. The means are thus exact and no vote is redrawn.
        """
        perceived = latent(label, corpus) + self.leanings()
        low, high = (norm.cdf((border - perceived) / self.noise) for border in (-BORDER, BORDER))
        nearest = np.stack([low, high - low, 1 - high])
        vote = (1 - self.slip) * nearest + self.slip / len(VOTES)
        joint = vote[BALLOTS - VOTES[0], np.arange(ANNOTATORS_A_CLIP)].prod(axis=1)
        joint[ballot_labels(corpus) != label] = 0
        return joint / joint.sum()

    def vote(
        self, labels: ArrayLike, corpus: Corpus | str, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Votes ``(N, 5)`` on items of classes ``(N,)`` in 0..4, one exact draw each.

        Raises ``ValueError`` for other classes.
        """
        labels = np.asarray(labels)
        if not np.isin(labels, range(len(CLASSES))).all():
            raise ValueError(f"classes are integers 0 to 4; got {np.unique(labels).tolist()[:7]}")
        luck, votes = rng.random(len(labels)), np.empty((len(labels), ANNOTATORS_A_CLIP), int)
        for label in np.unique(labels):
            own = labels == label
            reached = np.cumsum(self.probabilities(int(label), corpus))
            # Scaled by the last sum, which is 1 up to rounding, so that no draw falls behind it.
            drawn = np.searchsorted(reached, luck[own] * reached[-1], side="right")
            votes[own] = BALLOTS[drawn]
        return votes


def simulate(
    campaign: Campaign,
    labels: pd.DataFrame,
    corpus: Corpus | str,
    annotators: SimulatedAnnotators,
) -> int:
    """Let simulated annotators answer what is open in a campaign; returns how many answers.

    Each modality's votes have a mean in the class that ``labels`` gives the clip; a campaign that
    is full is left as it is, and one that was begun with the same annotators is completed with the
    same votes. One pass a modality for everybody, each in one transaction.

    Parameters
    ----------
    campaign
        Of one team of five, without a calibration round.
    labels
        ``sample_id, label_t, label_a, label_v`` (classes 0..4) of all its clips at least.

    Raises ``ValueError`` for a campaign of several teams, or clips without labels.
    """
    if len(campaign.annotators) != ANNOTATORS_A_CLIP or len(campaign.calibration):
        raise ValueError(
            f"{campaign.path}: simulated annotators answer campaigns of one team of five without a "
            f"calibration; it has {len(campaign.annotators)} annotators and "
            f"{len(campaign.calibration)} clips of calibration"
        )
    known = labels.set_index("sample_id")
    if len(absent := campaign.items[~campaign.items["sample_id"].isin(known.index)]):
        names = ", ".join(absent["sample_id"].head(3))
        raise ValueError(f"no labels for {len(absent)} clips of {campaign.path}: {names}, …")
    known = known.loc[campaign.items["sample_id"]]
    seqs = campaign.items["seq"].tolist()
    there = campaign.votes()
    given = set(zip(there["annotator"], there["modality"], there["seq"], strict=True))
    number = 0
    for k, modality in enumerate(MODALITIES):
        rng = np.random.default_rng([annotators.seed, k])
        votes = annotators.vote(known[f"label_{modality.lower()}"], corpus, rng)
        answers = [
            Answer(name, modality, seq, label)
            for name, column in zip(campaign.annotators, votes.T.tolist(), strict=True)
            for seq, label in zip(seqs, column, strict=True)
            if (name, modality, seq) not in given
        ]
        if answers:
            campaign.record(answers)
        number += len(answers)
    return number


def simulated_campaign(
    path: str | Path,
    labels: pd.DataFrame,
    corpus: Corpus | str = Corpus.CMU_MOSI,
    annotators: SimulatedAnnotators | None = None,
) -> Campaign:
    """A campaign over the clips of ``labels`` that simulated annotators have filled.

    What is there is kept if it was made from the same labels by the same annotators and code; a
    simulated campaign of another kind is made anew. One that was made by people, or holds anything
    else, is refused with :class:`CampaignError`.
    """
    path, annotators = Path(path), annotators or SimulatedAnnotators()
    labels = labels[["sample_id", *(f"label_{m.lower()}" for m in MODALITIES)]]
    labels = labels.sort_values("sample_id", ignore_index=True)
    settings = {
        "made_by": _MADE_BY,
        "annotators": asdict(annotators),
        "corpus": Corpus(corpus).value,
        "labels": hashlib.sha256(labels.to_csv(index=False).encode()).hexdigest()[:16],
        "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16],
    }
    if path.exists():
        found = Campaign(path)
        if not is_simulated(found):
            raise CampaignError(
                f"{path}: this campaign was not made by simulated annotators, whose votes would "
                "mix with people's; name another file"
            )
        if found.settings != settings:
            for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                name.unlink(missing_ok=True)
    campaign = (
        Campaign(path)
        if path.exists()
        else Campaign.create(path, labels["sample_id"], settings=settings)
    )
    simulate(campaign, labels, corpus, annotators)
    return campaign


def is_simulated(campaign: Campaign) -> bool:
    """Whether a campaign was made by :func:`simulated_campaign`."""
    return campaign.settings.get("made_by") == _MADE_BY
