"""How much of Tables 1 and 2 the size of the test set leaves to chance.

Accuracies only: macro F1 and MAE have sampling errors that depend on answers clip by clip, which no
table gives. Sizes are those that :func:`emomm_study.audit.attainable.implied_sizes` derives.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm
from statsmodels.stats.proportion import proportion_confint

from emomm_study.audit.attainable import implied_sizes
from emomm_study.audit.mix import ROW
from emomm_study.paper import SUBSETS, claims, table
from emomm_study.paths import PAPER_DATA

ALPHA = 0.05
Z = float(norm.ppf(1 - ALPHA / 2))
EXCEEDS = "exceeds sampling error whatever the pairing"
DEPENDS = "depends on the pairing, which the tables do not give"
WITHIN = "within sampling error even at best"
VERDICTS = (EXCEEDS, DEPENDS, WITHIN)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a share in [0, 1] of ``n`` independent instances."""
    return tuple(map(float, proportion_confint(share * n, n, ALPHA, method="wilson")))


def clopper_pearson(share: float, n: int) -> tuple[float, float]:
    """Clopper and Pearson's 95% interval, never too narrow; ``share n`` need not be whole."""
    return tuple(map(float, proportion_confint(share * n, n, ALPHA, method="beta")))


def subset_sizes(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """How many independent units a subset has at most and at least: ``subset, counted, n``.

    ``instances`` counts every one as independent. Missing has three instances of one clip and
    Overall four, which are not; ``clips`` counts a clip once, which is what is left when they
    always go together. The truth lies between. On Align and Conflict an instance is a clip.
    """
    sizes = {subset: round(n) for subset, n in implied_sizes(folder).items()}
    clips = round(sizes["missing"] / claims(folder).set_index("id").at["missing_per_clip", "value"])
    rows = []
    for subset in SUBSETS:
        rows.append((subset, "instances", sizes[subset]))
        if subset in ("missing", "overall"):
            rows.append((subset, "clips", clips))
    return pd.DataFrame(rows, columns=["subset", "counted", "n"])


def accuracy_intervals(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """95% intervals of Table 1's accuracies at the implied sizes, in percent.

    Columns ``model, method, subset, counted, n, acc, low, high, exact_low, exact_high``: Wilson's
    interval, and beside it Clopper and Pearson's. ``counted`` as in :func:`subset_sizes`.
    """
    frame = table(1, folder)[[*ROW, "subset", "acc"]].merge(subset_sizes(folder), on="subset")
    for prefix, interval in (("", wilson), ("exact_", clopper_pearson)):
        ends = [interval(a / 100, n) for a, n in zip(frame["acc"], frame["n"], strict=True)]
        frame[[f"{prefix}low", f"{prefix}high"]] = 100 * np.array(ends)
    columns = ["counted", "n", "acc", "low", "high", "exact_low", "exact_high"]
    return frame[[*ROW, "subset", *columns]]


@dataclass(frozen=True)
class Pairing:
    """What two accuracies on the same ``n`` instances say about their difference, in 0..1.

    Whether a difference exceeds chance depends on the discordance, the share of instances that
    exactly one of the two gets right. The accuracies p and q bound it by |q - p| and
    min(p + q, 2 - p - q).

    Attributes
    ----------
    best, worst
        95% intervals of the difference at the least and the largest discordance.
    discordance
        Those two.
    critical
        Largest discordance at which McNemar's exact test still tells the difference from zero;
        NaN where it never does.
    p_best, p_worst
        p-values of that test at the two ends.
    """

    difference: float
    n: int
    discordance: tuple[float, float]
    best: tuple[float, float]
    worst: tuple[float, float]
    critical: float
    p_best: float
    p_worst: float

    @property
    def verdict(self) -> str:
        """One of :data:`VERDICTS`, by the exact test."""
        if self.p_best > ALPHA:
            return WITHIN
        return EXCEEDS if self.p_worst <= ALPHA else DEPENDS


def mcnemar_p(discordant: int, net: int) -> float:
    """McNemar's exact two-sided p-value of ``net`` more gained than lost among ``discordant``.

    Raises ``ValueError`` when no such counts exist: the two must have the same parity.
    """
    if (discordant + net) % 2 or abs(net) > discordant:
        raise ValueError(f"no counts gain {net} net out of {discordant}")
    gained = (discordant + net) // 2
    return float(binomtest(gained, discordant, 0.5).pvalue) if discordant else 1.0


def pairing(p: float, q: float, n: int) -> Pairing:
    """Bounds on the difference q - p of two accuracies in 0..1 of the same ``n`` instances.

    The intervals are Agresti and Min's (2005): normal ones of a paired difference with half an
    instance added to each of the four outcomes, which keeps them honest where only a handful of
    instances differ. The exact test uses whole numbers of instances nearest to the accuracies.
    """
    right, other = round(p * n), round(q * n)
    net, most = abs(other - right), min(right + other, 2 * n - right - other)
    difference = q - p
    ends = (abs(difference), min(p + q, 2 - p - q))
    intervals = []
    for discordance in ends:
        changed, gained = n * discordance + 1, n * difference
        half = Z * np.sqrt(changed - gained**2 / (n + 2))
        intervals.append(tuple(float((gained + side * half) / (n + 2)) for side in (-1, 1)))
    # The bounds have the parity of the net change: each is a sum or difference of the same two
    # counts. The p-value grows with discordance, so that halving finds where it passes ALPHA.
    steps = (most - net) // 2
    least, beyond = -1, steps + 1
    while beyond - least > 1:
        middle = (least + beyond) // 2
        if mcnemar_p(net + 2 * middle, net) <= ALPHA:
            least = middle
        else:
            beyond = middle
    return Pairing(
        difference,
        n,
        ends,
        *intervals,
        (net + 2 * least) / n if least >= 0 else np.nan,
        mcnemar_p(net, net),
        mcnemar_p(most, net),
    )


def _pairs(folder: Path) -> pd.DataFrame:
    """Comparisons as ``kind, comparison, subset, first, second``; accuracies in percent."""
    one = table(1, folder).set_index([*ROW, "subset"])["acc"]
    two = table(2, folder).set_index("variant")["acc"]
    steered = one.xs("CHASE", level="method").index.get_level_values("model").unique()
    rows = [
        ("CHASE", f"{m}: CHASE - baseline", s, one[m, "CHASE", s], one[m, "baseline", s])
        for m in steered
        for s in SUBSETS
    ]
    rows += [
        ("ablation", f"full - {v}", "conflict", two["full"], two[v])
        for v in two.index
        if v not in ("full", "baseline")
    ]
    rows.append(("ablation", "no_router - baseline", "conflict", two["no_router"], two["baseline"]))
    first, second = steered[::-1][:2]
    rows += [
        ("systems", f"{first} - {second}, {m}", s, one[first, m, s], one[second, m, s])
        for m in ("baseline", "CHASE")
        for s in SUBSETS
    ]
    return pd.DataFrame(rows, columns=["kind", "comparison", "subset", "first", "second"])


def difference_bounds(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """What the tables say about the sampling error of each difference of accuracies.

    Columns ``kind`` (``CHASE``, ``ablation``, ``systems``), ``comparison, subset, counted, n,
    difference, low_best, high_best, low_worst, high_worst, least, most, critical, p_best, p_worst,
    verdict``: differences, intervals and discordances (``least, most, critical``) in points, as
    :class:`Pairing` explains them, and ``counted`` as in :func:`subset_sizes`. Each is one
    comparison at 95%; among so many some would exceed it by chance.
    """
    frame = _pairs(folder).merge(subset_sizes(folder), on="subset", sort=False)
    rows = []
    for row in frame.itertuples(index=False):
        bounds = pairing(row.second / 100, row.first / 100, row.n)
        shares = (bounds.difference, *bounds.best, *bounds.worst, *bounds.discordance)
        rows.append(
            (
                *(row.kind, row.comparison, row.subset, row.counted, row.n),
                *(100 * value for value in (*shares, bounds.critical)),
                *(bounds.p_best, bounds.p_worst, bounds.verdict),
            )
        )
    columns = ["kind", "comparison", "subset", "counted", "n", "difference"]
    columns += ["low_best", "high_best", "low_worst", "high_worst", "least", "most", "critical"]
    return pd.DataFrame(rows, columns=[*columns, "p_best", "p_worst", "verdict"])
