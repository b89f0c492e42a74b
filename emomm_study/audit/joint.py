"""Which joint distributions of (GT, T, A, V) labels the published tables allow.

The paper prints marginals (Table 3), pairwise agreements (Table 4) and, for CH-SIMS v2.0, quotas
(Appendix A.1), but no labels. All of these are linear in the numbers of clips in the 625 cells of
(GT, T, A, V), so linear and integer programs tell what the printed numbers leave open, and what
they exclude. An exclusion comes with a certificate: weights of printed numbers, to add by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations
from math import ceil, floor, lcm
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from emomm_lib.labels import CLASSES, SOURCES, polarity
from emomm_study import paper
from emomm_study.corpora.scores import Corpus
from emomm_study.paths import PAPER_DATA

SHAPE = (len(CLASSES),) * len(SOURCES)
CELLS = np.indices(SHAPE).reshape(len(SOURCES), -1)
"""Labels of the 625 cells, shape (4, 625), in lexicographic order of (GT, T, A, V)."""
CONFLICT = (polarity(CELLS[1:]) != polarity(CELLS[0])).any(axis=0)
EQUAL = (CELLS[1:] == CELLS[0]).all(axis=0)
PAIRS = tuple(combinations(SOURCES, 2))

_SIGNS = polarity(CELLS)
_OPPOSITE = (_SIGNS[1:] * _SIGNS[0] < 0).any(axis=0)
KINDS = {
    "conflict": CONFLICT,
    "align": ~CONFLICT,
    "equal": EQUAL,
    "same polarity": ~CONFLICT & ~EQUAL,
    "opposite sign": _OPPOSITE,
    "neutral only": CONFLICT & ~_OPPOSITE,
}
"""Kinds of clips, (625,) each: ``conflict`` and ``align`` split the clips, ``equal`` and ``same
polarity`` split ``align``; ``opposite sign`` (some modality has the sign opposite to GT's) and
``neutral only`` (polarities differ by neutral against signed alone) split ``conflict``."""


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

    def check_parity(self) -> None:
        """Raise ``ValueError`` naming each pair whose sum of differences has the wrong parity.

        |y_i - y_j| is odd exactly when y_i - y_j is, so the parity of a pair's sum follows from
        Table 3.
        """
        sums = {s: int(np.dot(self.marginals[s], range(len(CLASSES)))) for s in SOURCES}
        wrong = {
            "-".join(pair): self.differences[pair]
            for pair in PAIRS
            if (self.differences[pair] - sums[pair[0]] + sums[pair[1]]) % 2
        }
        if wrong:
            raise ValueError(
                f"no labels have the sums of differences {wrong}: the label counts force the other "
                "parity; compare Tables 3 and 4"
            )


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


def table_targets(corpus: Corpus | str, folder: Path = PAPER_DATA) -> JointTargets:
    """Tables 3 and 4 alone as exact targets; raises like :func:`difference_sum`."""
    corpus = Corpus(corpus)
    counts = paper.table(3, folder).query("corpus == @corpus.value")
    counts = counts.set_index(["source", "label"])["count"]
    agreement = paper.table(4, folder).query("corpus == @corpus.value")
    agreement = agreement.set_index(["source_i", "source_j"])["agreement"]
    marginals = {s: tuple(int(counts[s, label]) for label in CLASSES) for s in SOURCES}
    clips = sum(marginals["gt"])
    return JointTargets(marginals, {pair: difference_sum(agreement[pair], clips) for pair in PAIRS})


@dataclass(frozen=True)
class Quotas:
    """Clips that Appendix A.1 gives to each of CH-SIMS's three kinds."""

    conflict: int
    equal: int
    same_polarity: int


def published_quotas(folder: Path = PAPER_DATA) -> Quotas:
    """CH-SIMS's quotas as printed: 1000, 500, 500 (Appendix A.1)."""
    value = paper.claims(folder).set_index("id")["value"]
    names = ("conflict", "equal", "same_polarity")
    return Quotas(*(int(value[f"quota_ch_sims_{name}"]) for name in names))


def published_targets(corpus: Corpus | str, folder: Path = PAPER_DATA) -> JointTargets:
    """Tables 3 and 4 and, for CH-SIMS, the quotas of Appendix A.1, where neutral is a polarity.

    The quota of same polarity follows from the others and the number of clips.
    """
    targets = table_targets(corpus, folder)
    if Corpus(corpus) is not Corpus.CH_SIMS:
        return targets
    quotas = published_quotas(folder)
    return replace(targets, conflict=quotas.conflict, equal=quotas.equal)


def nearest_conflict(targets: JointTargets, wanted: int) -> int:
    """``wanted``, or the border of the range of conflict clips that the other targets allow.

    The range is that of the linear program; :func:`kind_ranges` proves its ends. Raises
    ``ValueError`` when the targets contradict each other.
    """
    rows, totals = replace(targets, conflict=None).system()
    border = []
    for sign in (1, -1):
        result = linprog(sign * CONFLICT.astype(float), A_eq=rows, b_eq=totals)
        if result.x is None:
            raise ValueError(f"no label table satisfies the targets: {result.message}")
        border.append(result.x[CONFLICT].sum())
    return min(max(wanted, int(np.ceil(border[0] - 1e-6))), int(np.floor(border[1] + 1e-6)))


@dataclass(frozen=True)
class Equations:
    """Named equations ``rows @ counts == totals`` over the cells.

    ``names`` (R,), ``rows`` integers (R, 625), ``totals`` integers (R,). Unlike
    :meth:`JointTargets.system` it holds every printed number, those that follow from others, too.
    """

    names: tuple[str, ...]
    rows: NDArray[np.int64]
    totals: NDArray[np.int64]

    @classmethod
    def of(cls, targets: JointTargets) -> Equations:
        names, rows, totals = [], [], []
        for i, source in enumerate(SOURCES):
            for label, name in enumerate(CLASSES):
                names.append(f"{_shown(source)} = {name}")
                rows.append(CELLS[i] == label)
                totals.append(targets.marginals[source][label])
        for pair in PAIRS:
            i, j = (SOURCES.index(source) for source in pair)
            names.append(f"|{_shown(pair[0])} - {_shown(pair[1])}|")
            rows.append(np.abs(CELLS[i] - CELLS[j]))
            totals.append(targets.differences[pair])
        found = cls(tuple(names), np.array(rows, dtype=np.int64), np.array(totals, dtype=np.int64))
        for name, number in (("conflict", targets.conflict), ("equal", targets.equal)):
            if number is not None:
                found = found.plus(name, KINDS[name], number)
        return found

    def plus(self, name: str, cells: NDArray, total: int) -> Equations:
        """With one more: the sum of ``cells`` (625,) times the counts is ``total``."""
        rows = np.vstack([self.rows, np.asarray(cells, dtype=np.int64)])
        return Equations((*self.names, name), rows, np.append(self.totals, total))


def _shown(source: str) -> str:
    return source.upper()


@dataclass(frozen=True)
class Certificate:
    """Weights of printed numbers that bound a sum over clips, checked without rounding.

    ``weights`` by name of equation. In each of the 625 cells the weighted rows add up to at least
    what the cell counts for, so the weighted totals, ``bound``, are at least the sum.
    """

    weights: Mapping[str, Fraction]
    bound: Fraction

    def frame(self, equations: Equations) -> pd.DataFrame:
        """The sum to do by hand: ``number, weight, total, product``; the products give ``bound``.

        Weights and bound are times ``scale``, the least integer that makes all weights whole,
        which stands in ``frame.attrs["scale"]``.
        """
        scale, total = self.scale, dict(zip(equations.names, equations.totals, strict=True))
        rows = [
            (name, int(weight * scale), int(total[name]), int(weight * scale) * int(total[name]))
            for name, weight in self.weights.items()
        ]
        frame = pd.DataFrame(rows, columns=["number", "weight", "total", "product"])
        frame.attrs["scale"] = scale
        return frame

    @property
    def scale(self) -> int:
        return lcm(*(weight.denominator for weight in self.weights.values()))


def upper_bound(equations: Equations, cost: NDArray) -> Certificate:
    """The least upper bound of ``cost @ counts`` that follows from the equations, with its proof.

    ``cost`` is integer, (625,). The weights are those of the dual linear program; among its
    optimal ones the smallest in sum. Raises ``ValueError`` where the equations admit no counts, and
    ``ArithmeticError`` where rounding the weights to fractions spoils the proof.
    """
    rows, totals = equations.rows.astype(float), equations.totals.astype(float)
    cost = np.asarray(cost, dtype=np.int64)
    # weights = up - down, so that their size is linear.
    above, price = -np.hstack([rows.T, -rows.T]), np.r_[totals, -totals]
    free = {"A_ub": above, "b_ub": -cost.astype(float)}
    best = linprog(price, **free)
    if best.status == 3:
        raise ValueError("the equations contradict each other: no counts satisfy them")
    least = linprog(np.ones_like(price), **free, A_eq=price[None], b_eq=[best.fun])
    # The smallest weights are for the reader; the optimum itself is proof enough.
    for solution in (least.x, best.x):
        if solution is None:
            continue
        values = [Fraction(w).limit_denominator(1000) for w in np.subtract(*np.split(solution, 2))]
        scale = lcm(*(w.denominator for w in values))
        whole = np.array([int(w * scale) for w in values], dtype=object)
        if (whole @ equations.rows.astype(object) >= scale * cost.astype(object)).all():
            weights = {n: w for n, w in zip(equations.names, values, strict=True) if w}
            bound = sum(
                (w * int(t) for w, t in zip(values, equations.totals, strict=True)), Fraction()
            )
            return Certificate(weights, bound)
    raise ArithmeticError("the dual weights are no fractions with a small denominator")


def find_counts(equations: Equations, near: NDArray[np.floating]) -> NDArray[np.int64] | None:
    """Integer clips per cell, (625,), that satisfy the equations, sought near a real solution.

    Each count stays within a few clips of ``near`` (625,); None where none is found there.
    """
    base, rows = np.floor(near + 1e-9), csr_array(equations.rows.astype(float))
    rest = equations.totals - equations.rows @ base
    for reach in (1, 4):
        result = milp(
            np.zeros(base.size),
            integrality=np.ones(base.size),
            bounds=Bounds(-np.minimum(base, reach), np.full(base.size, reach + 1.0)),
            constraints=LinearConstraint(rows, rest, rest),
            options={"time_limit": 20},
        )
        if result.x is not None:
            counts = (base + np.rint(result.x)).astype(np.int64)
            if (equations.rows @ counts == equations.totals).all() and counts.min() >= 0:
                return counts
    return None


@dataclass(frozen=True)
class End:
    """The greatest integer that a sum over clips can reach.

    ``value`` bounds the sum by an exact certificate, ``proof``; ``counts`` (625,) reach it, or are
    None where none were found.
    """

    value: int
    proof: Certificate
    counts: NDArray[np.int64] | None


def greatest(equations: Equations, cost: NDArray, known: Sequence[NDArray[np.int64]] = ()) -> End:
    """Greatest of ``cost @ counts`` over all integer counts that satisfy the equations.

    The linear program bounds it, its dual proves the bound in fractions, and integer counts found
    near its solution, or ``known`` ones that satisfy the equations, reach it. Raises like
    :func:`upper_bound`.
    """
    proof = upper_bound(equations, cost)
    value = floor(proof.bound)
    for counts in known:
        if cost @ counts == value:
            return End(value, proof, counts)
    fixed = equations.plus("sum", cost, value)
    near = linprog(np.zeros(fixed.rows.shape[1]), A_eq=fixed.rows, b_eq=fixed.totals)
    counts = None if near.x is None else find_counts(fixed, near.x)
    return End(value, proof, counts)


def witness(targets: JointTargets) -> NDArray[np.int64]:
    """Integer clips per cell, (5, 5, 5, 5), that satisfy the targets.

    Raises ``ValueError`` where none do.
    """
    targets.check_parity()
    end = greatest(Equations.of(targets), np.zeros(CELLS.shape[1]))
    if end.counts is None:
        raise ValueError("no integer counts that satisfy the targets were found; check the tables")
    return end.counts.reshape(SHAPE)


def kind_ranges(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """How many clips of each kind the published numbers allow, for each corpus.

    Returns ``corpus, constraints, kind, low, high, exact``: integers ``low`` and ``high`` for each
    of :data:`KINDS`, under ``tables`` (Tables 3 and 4) and for CH-SIMS also ``tables and quotas``.
    The ends are proved by certificates, and reached by integer counts where ``exact``. Raises
    ``ValueError`` where the printed numbers contradict each other.
    """
    rows = []
    for corpus in Corpus:
        tables, published = table_targets(corpus, folder), published_targets(corpus, folder)
        tables.check_parity()
        found = {"tables": _ranges(tables)}
        if published != tables:
            found["tables and quotas"] = _ranges(published)
        for constraints, ranges in found.items():
            rows += [(corpus.value, constraints, kind, *ranges[kind]) for kind in KINDS]
    columns = ["corpus", "constraints", "kind", "low", "high", "exact"]
    return pd.DataFrame(rows, columns=columns)


def _ranges(targets: JointTargets) -> dict[str, tuple[int, int, bool]]:
    equations, found, known = Equations.of(targets), {}, []
    for kind in ("conflict", "equal", "same polarity", "opposite sign", "neutral only"):
        ends = []
        for sign in (-1, 1):
            ends.append(greatest(equations, sign * KINDS[kind], known))
            known += [ends[-1].counts] if ends[-1].counts is not None else []
        low, high = ends
        exact = low.counts is not None and high.counts is not None
        found[kind] = (-low.value, high.value, exact)
    low, high, exact = found["conflict"]
    return {**found, "align": (targets.clips - high, targets.clips - low, exact)}


@dataclass(frozen=True)
class Reading:
    """A reading of "conflict": its name, and the cells (625,) that it calls a conflict."""

    name: str
    conflict: NDArray[np.bool_]


def _readings() -> tuple[Reading, ...]:
    differs = _SIGNS[1:] != _SIGNS[0]
    far = np.abs(CELLS[1:] - CELLS[0]) >= 2

    def opposed(signs: NDArray) -> NDArray[np.bool_]:
        return (signs.max(axis=0) > 0) & (signs.min(axis=0) < 0)

    return (
        Reading("a modality's polarity differs from GT's (neutral is a polarity)", CONFLICT),
        Reading("a modality's sign is opposite to GT's", _OPPOSITE),
        Reading("two of the four labels have opposite signs", opposed(_SIGNS)),
        Reading("two modalities have opposite signs", opposed(_SIGNS[1:])),
        Reading(
            "two modalities differ in polarity, whatever GT", (_SIGNS[1:] != _SIGNS[1]).any(axis=0)
        ),
        Reading(
            "a signed modality's polarity differs from GT's",
            (differs & (_SIGNS[1:] != 0)).any(axis=0),
        ),
        Reading(
            "a modality's polarity differs from a signed GT's",
            (differs & (_SIGNS[0] != 0)).any(axis=0),
        ),
        Reading("two or three modalities' polarities differ from GT's", differs.sum(axis=0) >= 2),
        Reading("a modality's label is two or more classes from GT's", far.any(axis=0)),
        Reading("a modality's label differs from GT's", ~EQUAL),
    )


READINGS = _readings()
OPPOSITE = READINGS[1]


def reading_checks(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """Whether CH-SIMS's quotas can be met under each reading of "conflict".

    Returns ``reading, least, most, wanted, holds, detail``: proved bounds of the conflict clips
    that Tables 3 and 4 allow beside the quota of equal ones, the quota wanted, and whether integer
    counts meet all three quotas, the third being clips of GT's polarity in all modalities that are
    not equal. Where ``wanted`` is out of bounds, no meaning of the third quota would help.
    """
    quotas, tables = published_quotas(folder), table_targets(Corpus.CH_SIMS, folder)
    tables.check_parity()
    beside = Equations.of(replace(tables, equal=quotas.equal))
    rows = []
    for reading in READINGS:
        least = ceil(-upper_bound(beside, -reading.conflict.astype(int)).bound)
        most = floor(upper_bound(beside, reading.conflict).bound)
        inside = least <= quotas.conflict <= most
        holds = inside and _meets_quotas(beside, reading, quotas)
        detail = (
            f"{least} to {most} conflict clips beside {quotas.equal} equal ones, "
            f"{quotas.conflict} wanted"
        )
        if inside and not holds:
            detail += f", but not with {quotas.same_polarity} of same polarity"
        rows.append((reading.name, least, most, quotas.conflict, holds, detail))
    columns = ["reading", "least", "most", "wanted", "holds", "detail"]
    return pd.DataFrame(rows, columns=columns)


def _meets_quotas(beside: Equations, reading: Reading, quotas: Quotas) -> bool:
    asked = beside.plus("conflict", reading.conflict, quotas.conflict)
    asked = asked.plus("same polarity", KINDS["same polarity"], quotas.same_polarity)
    near = linprog(np.zeros(CELLS.shape[1]), A_eq=asked.rows, b_eq=asked.totals)
    return near.x is not None and find_counts(asked, near.x) is not None


def opposite_certificate(folder: Path = PAPER_DATA) -> tuple[Certificate, Equations]:
    """Proof that too few CH-SIMS clips can have a modality of the sign opposite to GT's.

    The certificate bounds their number beside the quota of equal clips, and holds whatever the
    third quota means; ``certificate.frame(equations)`` is the sum to add by hand.
    """
    quotas, tables = published_quotas(folder), table_targets(Corpus.CH_SIMS, folder)
    equations = Equations.of(replace(tables, equal=quotas.equal))
    return upper_bound(equations, OPPOSITE.conflict), equations


def least_repairs(folder: Path = PAPER_DATA) -> pd.DataFrame:
    """The least change that lets CH-SIMS meet its quotas with opposite signs as conflict.

    Returns ``changed, least, exact, unit``, a row for each thing that may change while all else
    stays as printed: the quotas (clips in none of them), Table 4 (units of the sum of
    |y_i - y_j|, of which one is 1/8000 of an agreement), and Table 3 (labels moved to another
    class). ``exact`` where integer counts reach ``least``; elsewhere it is a lower bound.
    """
    quotas, tables = published_quotas(folder), table_targets(Corpus.CH_SIMS, folder)
    tables.check_parity()
    printed, size = Equations.of(tables), CELLS.shape[1]
    asked = {
        "conflict": (OPPOSITE.conflict, quotas.conflict),
        "equal": (EQUAL, quotas.equal),
        "same polarity": (KINDS["same polarity"], quotas.same_polarity),
    }
    full = printed
    for name, (cells, number) in asked.items():
        full = full.plus(name, cells, number)
    # Clips of a kind are inside its quota or beyond it, and a quota is filled or open.
    inside, beyond, still = np.eye(3, dtype=np.int64), np.eye(3, dtype=np.int64), np.zeros((3, 3))
    kinds = np.array([cells for cells, _ in asked.values()], dtype=np.int64)
    quota = Equations(
        (*printed.names, *(f"{n}, all" for n in asked), *(f"{n}, quota" for n in asked)),
        np.vstack(
            [
                np.pad(printed.rows, ((0, 0), (0, 9))),
                np.hstack([kinds, -inside, -beyond, still]),
                np.hstack([np.zeros_like(kinds), inside, still, np.eye(3)]),
            ]
        ).astype(np.int64),
        np.r_[printed.totals, [0] * 3, [number for _, number in asked.values()]],
    )
    filled = greatest(quota, np.r_[np.zeros(size), np.ones(3), np.zeros(6)])
    rows = [("quotas", tables.clips - filled.value, filled.counts is not None, "clips in no quota")]
    for changed, mark, unit, worth in (
        ("Table 4", "|", "units of 1/8000 in all", 1),
        ("Table 3", "=", "labels moved", 2),
    ):
        loose = np.array([mark in name for name in full.names])
        moves = np.eye(len(full.names), dtype=np.int64)[:, loose]
        freed = Equations(full.names, np.hstack([full.rows, moves, -moves]), full.totals)
        end = greatest(freed, np.r_[np.zeros(size), -np.ones(2 * loose.sum())])
        rows.append((changed, ceil(-end.value / worth), end.counts is not None, unit))
    return pd.DataFrame(rows, columns=["changed", "least", "exact", "unit"])
