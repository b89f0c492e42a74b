"""Who wins when two modalities disagree: a preference that needs no ground truth (Sec. 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from emomm_lib.labels import SENTIMENT5, LabelSet
from emomm_lib.metrics.bootstrap import DEFAULT, Bootstrap, intervals_of, means
from emomm_lib.metrics.gtar import SETTINGS
from emomm_lib.metrics.outcomes import KEYS, check, check_labels, groups, row, with_evidence


def pair_frame(
    outcomes: pd.DataFrame,
    evidence: str = "answer",
    by: Sequence[str] = ("subset",),
    *,
    bootstrap: Bootstrap = DEFAULT,
    labels: LabelSet = SENTIMENT5,
) -> pd.DataFrame:
    """Which of two modalities answers follow where the two disagree, with 95% intervals.

    Reads ``sample_id, coalition, label_pred, *by`` and ``{evidence}_t, {evidence}_a, {evidence}_v``,
    classes of ``labels``: ``label``, or what the model itself answers to each modality alone. Rows with one
    modality or without evidence are left out.

    Returns ``*by, coalition, first, second, value, low, high, n, neither``. Of the ``n`` rows whose
    answer is the class of just one of the two, ``value`` in [0, 1] is the share in which it is the
    first's: 0.5 is no preference, NaN no such row. ``neither`` is the share of other answers among
    disagreements. In TAV the third may side with one of the two, and a majority wins as well. Raises
    ``ValueError`` for missing columns, other classes, a clip's coalition twice, or no row left.
    """
    check(outcomes, [*KEYS, "label_pred", *by])
    shown = outcomes[outcomes["coalition"].isin(list(SETTINGS))]
    known = with_evidence(shown, evidence, labels=labels)
    check_labels(known, ["label_pred"], labels=labels)
    rows = []
    for key, part in groups(known, [*by, "coalition"]):
        said = part["label_pred"].to_numpy(np.int64)[:, None]
        own = {m: part[f"{evidence}_{m.lower()}"].to_numpy(np.int64) for m in str(key[-1])}
        pairs = list(combinations(own, 2))
        first, second = (np.stack([own[pair[i]] for pair in pairs], 1) for i in (0, 1))
        apart, won = first != second, (first != second) & (said == first)
        decided = won | apart & (said == second)
        found = intervals_of(np.hstack([won, decided]).astype(float), means, bootstrap=bootstrap)
        neither = means(np.hstack([(apart & ~decided).sum(0), apart.sum(0)]).astype(float))
        rows += [
            (*key, *pair, *row(interval, int(n)), float(rest))
            for pair, interval, n, rest in zip(pairs, found, decided.sum(0), neither, strict=True)
        ]
    names = ["coalition", "first", "second", "value", "low", "high", "n", "neither"]
    return pd.DataFrame(rows, columns=[*by, *names])
