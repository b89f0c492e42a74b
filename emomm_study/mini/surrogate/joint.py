"""One joint distribution of (GT, T, A, V) labels per corpus, exact on the published statistics.

The paper prints marginals (Table 3), pairwise agreements (Table 4) and quotas (Appendix A.1), not
labels. Of all label tables that satisfy them, this module takes the one nearest to the
maximum-entropy distribution, which assumes nothing beyond them. The result is committed as
``data/annotations/surrogate_counts.csv``; ``python -m emomm_study.mini.surrogate.joint`` makes it
again, byte for byte, in a few seconds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp, minimize
from scipy.sparse import csr_array, hstack
from scipy.special import logsumexp, softmax

from emomm_lib.labels import CLASSES, SOURCES
from emomm_study.audit.joint import CELLS, SHAPE, JointTargets, nearest_conflict, published_targets
from emomm_study.corpora.scores import Corpus
from emomm_study.paths import ROOT

COUNTS_FILE = ROOT / "data" / "annotations" / "surrogate_counts.csv"
MOSI_CONFLICTS = 1630
"""Conflict clips among CMU-MOSI's 2,000, estimated from the mix in Table 1's Overall column."""


def surrogate_targets(corpus: Corpus | str) -> JointTargets:
    """What the surrogates' labels satisfy: all that is published, and CMU-MOSI's conflict clips.

    CMU-MOSI has no quota; it gets :data:`MOSI_CONFLICTS`, or the nearest number that Tables 3 and 4
    allow.
    """
    targets = published_targets(corpus)
    if targets.conflict is not None:
        return targets
    return replace(targets, conflict=nearest_conflict(targets, MOSI_CONFLICTS))


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


def solve(corpus: Corpus | str) -> NDArray[np.int64]:
    """Clips per cell, (5, 5, 5, 5), computed from :func:`surrogate_targets`."""
    targets = surrogate_targets(corpus)
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


_MODULE = "emomm_study.mini.surrogate.joint"

if __name__ == "__main__":
    write_counts()
