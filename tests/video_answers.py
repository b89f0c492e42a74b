"""Made-up answers about clips with and without video."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

SCORES = {
    "acc5": accuracy_score,
    "acc2": lambda t, p: np.mean([(a >= 2) == (b >= 2) for a, b in zip(t, p, strict=True)]),
    "f1": lambda t, p: f1_score(t, p, average="macro", zero_division=0),
}
LABEL = st.integers(0, 4)


def answers(truth, guesses, **columns):
    ids = [f"c{i:03d}" for i in range(len(truth))]
    return pd.DataFrame({"sample_id": ids, "label_gt": truth, "label_pred": guesses, **columns})


def drawn(seed, accuracy, clips=60):
    truth = np.random.default_rng(7).integers(0, 5, clips)
    rng = np.random.default_rng(seed)
    wrong = (truth + rng.integers(1, 5, clips)) % 5
    return answers(truth, np.where(rng.random(clips) < accuracy, truth, wrong))
