"""Outcomes and traces of made-up clips, and their shares of attention by loops."""

import numpy as np
import pandas as pd

import emomm_lib as m
from emomm_lib.labels import COALITIONS, coalition_modalities

PAIRS = ("TA", "TV", "AV", "TAV")


def made(n=40, seed=0, layers=3, heads=2, coalitions=COALITIONS):
    """Outcomes and traces of the same rows, shuffled alike."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (n, 4))
    rows = [(f"c{i:03d}", c, *labels[i]) for i in range(n) for c in coalitions]
    columns = ["sample_id", "coalition", "label_gt", "label_t", "label_a", "label_v"]
    frame = pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=seed, ignore_index=True)
    there = np.array([[k in coalition_modalities(c) for k in "TAV"] for c in frame["coalition"]])
    counts = there * rng.integers(5, 60, (len(frame), 3))
    mass = rng.dirichlet([2, 2, 2, 2], (len(frame), layers, heads))[..., :3]
    mass = (mass * there[:, None, None, :]).astype(np.float32)
    frame["right_polarity"] = (rng.random(len(frame)) < 0.3 + mass[:, 0, 0, 0]).astype(float)
    return frame, m.TraceTable(frame[["sample_id", "coalition"]], mass, counts)


def shares_by_loops(traces):
    n, layers, heads, _ = traces.mass.shape
    shares = np.full((n, layers, 3), np.nan)
    for i, coalition in enumerate(traces.index["coalition"]):
        at = ["TAV".index(k) for k in coalition_modalities(coalition)]
        for layer in range(layers):
            density = {
                k: np.mean(
                    [traces.mass[i, layer, h, k] / traces.counts[i, k] for h in range(heads)]
                )
                for k in at
            }
            for k in at:
                shares[i, layer, k] = density[k] / sum(density.values())
    return shares
