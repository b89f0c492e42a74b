"""Instances that two ways answered."""

from __future__ import annotations

import numpy as np
import pandas as pd

from emomm_lib import Bootstrap

FEW = {"bootstrap": Bootstrap(200, 3)}


def answers(seed, clips=30, coalitions=("TAV", "TA", "AV"), accuracy=0.5):
    """A frame of instances: a clip's subset, truth and score are the same in all coalitions."""
    facts = np.random.default_rng(99)
    truth = facts.integers(0, 5, clips)
    rng = np.random.default_rng(seed)
    rows = []
    for i, coalition in ((i, c) for i in range(clips) for c in coalitions):
        right = rng.random() < accuracy
        guess = truth[i] if right else (truth[i] + rng.integers(1, 5)) % 5
        rows.append({"sample_id": f"c{i:02d}", "coalition": coalition,
                     "subset": ("align", "conflict")[i % 2], "label_gt": truth[i],
                     "score_gt": (truth[i] - 2) / 2, "label_pred": guess,
                     "score_pred": (guess - 2) / 2})  # fmt: skip
    return pd.DataFrame(rows)
