"""One joint distribution of (GT, T, A, V) labels per corpus, exact on the published statistics.

The paper prints marginals (Table 3), pairwise agreements (Table 4) and quotas (Appendix A.1), not
labels. Of all label tables that satisfy them, this module takes the one nearest to the
maximum-entropy distribution, which assumes nothing beyond them. The result is committed as
``data/annotations/surrogate_counts.csv``; ``python -m emomm_lib.corpora.surrogate.joint`` makes it
again, byte for byte, in a few seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp, minimize
from scipy.sparse import csr_array, hstack
from scipy.special import logsumexp, softmax

from emomm_lib import paper
from emomm_lib.labels import CLASSES, SOURCES, Corpus, polarity
from emomm_lib.paths import ROOT

COUNTS_FILE = ROOT / "data" / "annotations" / "surrogate_counts.csv"
MOSI_CONFLICTS = 1630
"""Conflict clips among CMU-MOSI's 2,000, estimated from the mix in Table 1's Overall column."""
SHAPE = (len(CLASSES),) * len(SOURCES)
CELLS = np.indices(SHAPE).reshape(len(SOURCES), -1)
"""Labels of the 625 cells, shape (4, 625), in lexicographic order of (GT, T, A, V)."""
CONFLICT = (polarity(CELLS[1:]) != polarity(CELLS[0])).any(axis=0)
EQUAL = (CELLS[1:] == CELLS[0]).all(axis=0)
PAIRS = tuple(combinations(SOURCES, 2))


@dataclass(frozen=True)
class JointTargets:
    """What a label table must satisfy exactly.

    Attributes
    ----------
    marginals
        Clips of each class 0..4 by source ``gt, t, a, v`` (Table 3).
    differences
        Sum over clips of |y_i - y_j| by pair of sources, in the order of :data:`PAIRS` (Table 4).
    conflict, equal
        Clips where some modality's polarity differs from GT's, and where all four labels are the
        same (Appendix A.1); None leaves the number free.
    """

    marginals: Mapping[str, tuple[int, ...]]
    differences: Mapping[tuple[str, str], int]
    conflict: int | None = None
    equal: int | None = None

    def __post_init__(self) -> None:
        totals = {source: sum(self.marginals[source]) for source in SOURCES}
        if len(set(totals.values())) != 1:
            raise ValueError(f"marginals must have one total, got {totals}; compare with Table 3")

    @property
    def clips(self) -> int:
        return sum(self.marginals["gt"])

    def system(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Equations ``rows @ counts == totals``: rows (R, 625) of full rank, totals (R,)."""
        rows, totals = [], []
        for i, source in enumerate(SOURCES):
            # Every source has the same total, so the last class of T, A and V follows.
            for label in range(len(CLASSES) - (i > 0)):
                rows.append(CELLS[i] == label)
                totals.append(self.marginals[source][label])
        for pair in PAIRS:
            i, j = (SOURCES.index(source) for source in pair)
            rows.append(np.abs(CELLS[i] - CELLS[j]))
            totals.append(self.differences[pair])
        for quota, cells in ((self.conflict, CONFLICT), (self.equal, EQUAL)):
            if quota is not None:
                rows.append(cells)
                totals.append(quota)
        return np.array(rows, dtype=float), np.array(totals, dtype=float)


def difference_sum(agreement: float, clips: int, decimals: int = 4) -> int:
    """The integer sum of |y_i - y_j| behind a printed agreement C_ij in 0..1 (Eq. 1).

    A tie at the rounding border counts as inside: ``difference_sum(0.7998, 2000) == 1602``, whose
    exact agreement is 0.79975. Raises ``ValueError`` when no integer, or more than one, prints so.
    """
    middle, slack = 4 * clips * (1 - agreement), 4 * clips * 0.5 * 10**-decimals + 1e-6
    sums = range(int(np.ceil(middle - slack)), int(np.floor(middle + slack)) + 1)
    if len(sums) != 1:
        raise ValueError(
            f"agreement {agreement} over {clips} clips fits the sums {list(sums)}, not exactly "
            "one; check the number of clips and of printed decimals"
        )
    return sums[0]


def published_targets(
    corpus: Corpus | str, conflict: int | None = None, folder: Path | None = None
) -> JointTargets:
    """Tables 3 and 4 and the quotas of Appendix A.1 as exact targets.

    Parameters
    ----------
    conflict
        Conflict clips wanted; None takes the quota for CH-SIMS and :data:`MOSI_CONFLICTS` for
        CMU-MOSI. For CMU-MOSI, which has no quota, the nearest number that Tables 3 and 4 allow is
        used.
    folder
        Folder of the published tables; None takes ``data/paper``.
    """
    corpus, where = Corpus(corpus), {} if folder is None else {"folder": folder}
    counts = paper.table(3, **where).query("corpus == @corpus.value")
    counts = counts.set_index(["source", "label"])["count"]
    agreement = paper.table(4, **where).query("corpus == @corpus.value")
    agreement = agreement.set_index(["source_i", "source_j"])["agreement"]
    marginals = {s: tuple(int(counts[s, label]) for label in CLASSES) for s in SOURCES}
    clips = sum(marginals["gt"])
    differences = {pair: difference_sum(agreement[pair], clips) for pair in PAIRS}
    if corpus is Corpus.CH_SIMS:
        quotas = paper.claims(**where).set_index("id")["value"]
        wanted = int(quotas["quota_ch_sims_conflict"]) if conflict is None else conflict
        return JointTargets(marginals, differences, wanted, int(quotas["quota_ch_sims_equal"]))
    targets = JointTargets(marginals, differences)
    wanted = MOSI_CONFLICTS if conflict is None else conflict
    return replace(targets, conflict=nearest_conflict(targets, wanted))


def nearest_conflict(targets: JointTargets, wanted: int) -> int:
    """``wanted``, or the border of the range of conflict clips that the other targets allow.

    The range is that of the linear program; whether integer counts reach the number exactly is
    proved by :func:`round_to_counts`. Raises ``ValueError`` when the targets contradict each other.
    """
    rows, totals = replace(targets, conflict=None).system()
    border = []
    for sign in (1, -1):
        result = linprog(sign * CONFLICT.astype(float), A_eq=rows, b_eq=totals)
        if result.x is None:
            raise ValueError(f"no label table satisfies the targets: {result.message}")
        border.append(result.x[CONFLICT].sum())
    return min(max(wanted, int(np.ceil(border[0] - 1e-6))), int(np.floor(border[1] + 1e-6)))


def max_entropy(targets: JointTargets) -> NDArray[np.float64]:
    """Expected clips per cell, (5, 5, 5, 5), of the maximum-entropy distribution for the targets.

    It is the exponential family over the rows of :meth:`JointTargets.system`, found by Newton's
    method on the convex dual. Raises ``ValueError`` when the targets are not met to 1e-5 clips,
    because no distribution with all cells possible has them.
    """
    rows, totals = targets.system()
    mean = totals / targets.clips

    def dual(theta: NDArray) -> tuple[float, NDArray]:
        exponent = theta @ rows
        return logsumexp(exponent) - theta @ mean, rows @ softmax(exponent) - mean

    def curvature(theta: NDArray) -> NDArray:
        p = softmax(theta @ rows)
        expectation = rows @ p
        return (rows * p) @ rows.T - np.outer(expectation, expectation)

    # A solution takes about ten steps; where there is none the dual falls for ever.
    options = {"gtol": 1e-10, "maxiter": 100}
    start = np.zeros(len(totals))
    found = minimize(dual, start, method="trust-exact", jac=True, hess=curvature, options=options)
    expected = targets.clips * softmax(found.x @ rows)
    worst = np.abs(rows @ expected - totals).max()
    if not worst <= 1e-5:
        raise ValueError(
            f"no maximum-entropy distribution meets the targets; one is off by {worst:.3g} clips"
        )
    return expected.reshape(SHAPE)


def round_to_counts(expected: NDArray[np.floating], targets: JointTargets) -> NDArray[np.int64]:
    """Integer clips per cell, (5, 5, 5, 5), nearest to ``expected``, that meet the targets exactly.

    The integer program minimises the sum over cells of |count - expected| to proven optimality,
    with each count less than two from its expectation. Raises ``ValueError`` when there is none.
    """
    rows, totals = targets.system()
    # Six decimals: the last bits of the dual's solution must not choose the optimum.
    expected = np.round(np.asarray(expected, dtype=float).ravel(), 6)
    base = np.floor(expected)
    # count = base + up + further up - down; leaving the two neighbouring integers costs 1 a clip.
    cost = np.r_[1 - 2 * (expected - base), np.ones(2 * base.size)]
    most = np.r_[np.ones(2 * base.size), np.minimum(base, 1)]
    matrix, rest = csr_array(rows), totals - rows @ base
    result = milp(
        cost,
        integrality=np.ones_like(cost),
        bounds=Bounds(0, most),
        constraints=LinearConstraint(hstack([matrix, matrix, -matrix]).tocsr(), rest, rest),
        options={"mip_rel_gap": 0},
    )
    if result.x is None:
        raise ValueError(
            f"no integer counts near the expected ones meet the targets: {result.message}"
        )
    up, further, down = np.rint(result.x).reshape(3, -1)
    counts = (base + up + further - down).astype(np.int64)
    if (rows @ counts != totals).any():
        raise ValueError(
            "the integer program's solution misses the targets; report scipy's version"
        )
    return counts.reshape(SHAPE)


def solve(corpus: Corpus | str, conflict: int | None = None) -> NDArray[np.int64]:
    """Clips per cell, (5, 5, 5, 5), computed from :func:`published_targets`."""
    targets = published_targets(corpus, conflict)
    return round_to_counts(max_entropy(targets), targets)


def joint_counts(corpus: Corpus | str, path: Path = COUNTS_FILE) -> NDArray[np.int64]:
    """Clips per cell, (5, 5, 5, 5), as committed in ``data/annotations``.

    Raises ``FileNotFoundError`` or ``ValueError`` naming the file when it is missing or spoiled.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; make it with python -m {_MODULE}")
    frame = pd.read_csv(path)
    columns = ["corpus", *SOURCES, "count"]
    if list(frame.columns) != columns:
        raise ValueError(f"{path}: expected the columns {columns}, got {list(frame.columns)}")
    frame = frame[frame["corpus"] == Corpus(corpus).value]
    cells, numbers = frame[list(SOURCES)].to_numpy(), frame["count"].to_numpy()
    if not ((cells >= 0) & (cells < len(CLASSES))).all() or not (numbers > 0).all() or frame.empty:
        raise ValueError(
            f"{path}: labels must be 0..4 and counts positive; make it with python -m {_MODULE}"
        )
    counts = np.zeros(SHAPE, dtype=np.int64)
    np.add.at(counts, tuple(cells.T), numbers)
    return counts


def label_table(corpus: Corpus | str) -> pd.DataFrame:
    """The corpus's 2,000 label tuples: ``label_gt, label_t, label_a, label_v`` in 0..4, sorted."""
    labels = np.repeat(CELLS, joint_counts(corpus).ravel(), axis=1)
    return pd.DataFrame({f"label_{s}": labels[i].astype(np.int64) for i, s in enumerate(SOURCES)})


def write_counts(path: Path = COUNTS_FILE) -> None:
    """Solve both corpora and write the non-empty cells as ``corpus, gt, t, a, v, count``."""
    frames = []
    for corpus in Corpus:
        counts = solve(corpus).ravel()
        cells = {source: CELLS[i][counts > 0] for i, source in enumerate(SOURCES)}
        frames.append(pd.DataFrame({"corpus": corpus.value, **cells, "count": counts[counts > 0]}))
    pd.concat(frames).to_csv(path, index=False, lineterminator="\n")


_MODULE = "emomm_lib.corpora.surrogate.joint"

if __name__ == "__main__":
    write_counts()
