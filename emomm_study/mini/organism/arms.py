"""The family: the same small model, trained in ways that the paper's story tells apart.

What differs between arms is whether text comes first, as from a language model's pretraining, and how
deep a modality is read. Towers and labels are the same, and among arms of one reading the steps with
sound or sight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from emomm_study.mini.model.decoder import MIXTURE, Stage
from emomm_study.mini.model.train import Recipe

Reading = Literal["early", "late"]
TEXT_STEPS, EARLY_STEPS = 720, 1420
TEXT = {"T": 1.0}
ALONE = {"T": 0.34, "A": 0.33, "V": 0.33}
APART = {"T": 0.2, "A": 0.15, "V": 0.15, "TA": 0.1, "TV": 0.1, "AV": 0.1, "TAV": 0.2}
JOINT = {"TAV": 0.5, "T": 0.12, "A": 0.12, "V": 0.12, "TA": 0.04, "TV": 0.05, "AV": 0.05}


@dataclass(frozen=True)
class Arm:
    """One way to train the decoder.

    Attributes
    ----------
    text_first
        Whether ``TEXT_STEPS`` steps with text alone come before all others.
    reading
        ``early`` trains on all coalitions as they are. ``late`` begins with single modalities,
        keeps them apart in a random number of the first layers, more and more often, then penalises
        looks across in the first three. Text that was read in the first layer is unlearnt when
        looks are blocked, and learnt again only where much of it is seen so.
    moments
        How many moments the training videos have, one of these for every half batch; the two that
        they were filmed with where none are given. More of them say nothing new.
    """

    text_first: bool
    reading: Reading
    moments: tuple[int, ...] = ()

    @property
    def stages(self) -> list[Stage]:
        text = [Stage(TEXT_STEPS, TEXT)] if self.text_first else []
        if self.reading == "early":
            return [*text, Stage(EARLY_STEPS, MIXTURE)]
        if self.text_first:
            text += [Stage(200, TEXT, blocked=0.5), Stage(150, TEXT, blocked=0.75)]
        return [
            *text,
            Stage(400, ALONE, blocked=0.3),
            Stage(300, ALONE, blocked=0.75),
            Stage(300, APART, blocked=0.9),
            Stage(350, APART, penalty=6.0),
            Stage(370, JOINT, penalty=3.0),
        ]

    def recipe(self, seed: int) -> Recipe:
        """How its decoder is trained, on towers that are trained as all arms' are."""
        return Recipe(seed=seed, stages=tuple(self.stages), moments=self.moments)


ARMS = {
    "late, text first": Arm(True, "late"),
    "early, text first": Arm(True, "early"),
    "late": Arm(False, "late"),
    "early": Arm(False, "early"),
    "early, text first, many frames": Arm(True, "early", moments=(4,)),
    "early, text first, any number of frames": Arm(True, "early", moments=(1, 2, 4)),
}
"""By name; those whose weights come with the project first."""
SEEDS = (1, 2, 3)
DOSES = tuple(name for name, arm in ARMS.items() if arm.moments)
"""Arms that differ in how redundant their training videos are; trained from the first seed alone."""
