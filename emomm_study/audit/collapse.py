"""How far labels alone fix the PSMV shares of readers without preference (Sec. 4.2).

A reader of ``emomm_lib.metrics.reference`` that sees labels has, in each cell of (GT, T, A, V), a known
probability of the right class under each coalition. Its PSMV is therefore linear in the numbers of
clips in the cells, and its share, PSMV over ``V(TAV) - V(none)``, a ratio of two linear functions:
what the published tables allow it to be is a linear program each (Charnes and Cooper, 1962).

The paper's shares, 33.3% and 20.8%, are those of a model on its own clips. What is said here is
about the clips' labels: whether they alone would force, allow, or exclude such a fall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import block_diag
from scipy.optimize import linprog

from emomm_lib.labels import CLASSES, COALITIONS, MODALITIES, coalition_modalities
from emomm_lib.metrics.psmv import SUBSETS, psmv
from emomm_lib.metrics.reference import READERS
from emomm_study import paper
from emomm_study.audit.joint import (
    CELLS,
    CONFLICT,
    SHAPE,
    JointTargets,
    nearest_conflict,
    published_targets,
    table_targets,
)
from emomm_study.corpora.scores import Corpus
from emomm_study.paths import PAPER_DATA

_CELLS = CELLS.shape[1]
_IN = {"align": ~CONFLICT, "conflict": CONFLICT}


@cache
def reader_values(reader: str, reliability: float = 1.0) -> NDArray[np.float64]:
    """Probability of the right class in each cell under each coalition, (625, 8).

    The order is that of ``CELLS`` and ``COALITIONS``; without a modality it is 1/5. A reader sees
    each present modality's label with probability ``reliability`` (0..1), the same for all, and one
    of the five classes drawn uniformly else. Raises ``ValueError`` for an unknown reader or a
    reliability out of range.
    """
    if reader not in READERS or not 0 <= reliability <= 1:
        raise ValueError(
            f"reader must be one of {list(READERS)} and reliability in 0..1; got {reader!r} and "
            f"{reliability!r}"
        )
    values = np.full((_CELLS, len(COALITIONS)), 1 / len(CLASSES))
    for k, name in enumerate(COALITIONS):
        if seen := [1 + MODALITIES.index(m) for m in coalition_modalities(name)]:
            values[:, k] = READERS[reader](CELLS[seen].T)[np.arange(_CELLS), CELLS[0]]
    # A modality that is absent does not change the value, and blurring leaves that so.
    blur = reliability * np.eye(len(CLASSES)) + (1 - reliability) / len(CLASSES)
    blurred = np.einsum("ta,vb,wc,gabck->gtvwk", blur, blur, blur, values.reshape(*SHAPE, -1))
    return blurred.reshape(_CELLS, -1)


@dataclass(frozen=True)
class Allowed:
    """The label tables that published numbers allow, one or more corpora side by side.

    ``name`` says which clips and numbers; the cells of the corpora are concatenated: ``rows``
    (R, 625 C) and ``totals`` (R,) for C corpora.
    """

    corpora: tuple[Corpus, ...]
    constraints: str
    rows: NDArray[np.float64]
    totals: NDArray[np.float64]

    @property
    def name(self) -> str:
        return self.corpora[0].value if len(self.corpora) == 1 else "both"

    def tile(self, cells: NDArray) -> NDArray[np.float64]:
        """A function of the cells (625,), the same in each corpus."""
        return np.tile(np.asarray(cells, dtype=float), len(self.corpora))


def allowed(folder: Path = PAPER_DATA, mosi_conflicts: int | None = None) -> tuple[Allowed, ...]:
    """What is examined: each corpus and both together, by constraints.

    ``tables`` are Tables 3 and 4, ``quotas`` adds CH-SIMS's, and ``mix``, where ``mosi_conflicts``
    is given, also fixes CMU-MOSI's conflict clips (estimated from the mix in Table 1), or the
    nearest number that the tables allow. Raises like ``joint.table_targets``.
    """
    tables = {corpus: table_targets(corpus, folder) for corpus in Corpus}
    sets = {
        ("tables", Corpus.CH_SIMS): tables[Corpus.CH_SIMS],
        ("quotas", Corpus.CH_SIMS): published_targets(Corpus.CH_SIMS, folder),
        ("tables", Corpus.CMU_MOSI): tables[Corpus.CMU_MOSI],
    }
    both = [("tables", "tables"), ("quotas", "tables")]
    if mosi_conflicts is not None:
        fixed = nearest_conflict(tables[Corpus.CMU_MOSI], mosi_conflicts)
        sets["mix", Corpus.CMU_MOSI] = replace(tables[Corpus.CMU_MOSI], conflict=fixed)
        both.append(("quotas", "mix"))
    found = [_allowed(name, {corpus: targets}) for (name, corpus), targets in sets.items()]
    for ch_sims, mosi in both:
        parts = {c: sets[n, c] for n, c in ((ch_sims, Corpus.CH_SIMS), (mosi, Corpus.CMU_MOSI))}
        found.append(_allowed("mix" if mosi == "mix" else ch_sims, parts))
    return tuple(found)


def _allowed(constraints: str, targets: Mapping[Corpus, JointTargets]) -> Allowed:
    systems = [t.system() for t in targets.values()]
    rows = block_diag(*(rows for rows, _ in systems))
    return Allowed(tuple(targets), constraints, rows, np.concatenate([t for _, t in systems]))


@dataclass(frozen=True)
class Ratio:
    """Range of a ratio of two linear functions of the counts.

    ``low`` and ``high`` are infinite where the denominator can come arbitrarily near zero; with
    them the counts that reach the ends, (625 C,), or None.
    """

    low: float
    high: float
    lowest: NDArray[np.float64] | None
    highest: NDArray[np.float64] | None


def ratio_range(
    part: Allowed,
    above: NDArray[np.floating],
    below: NDArray[np.floating],
    floors: Sequence[NDArray[np.floating]] = (),
) -> Ratio:
    """Exact range of ``above @ counts / below @ counts`` over the allowed label tables.

    All are functions of the cells, (625,). Only tables count where ``below @ counts`` is positive
    and ``floor @ counts`` not negative for each floor; without such tables the range is NaN.
    """
    above, below = part.tile(above), part.tile(below)
    # Counts times t with t = 1 / (below @ counts), and t itself as the last variable.
    equal = np.vstack([np.c_[part.rows, -part.totals], np.r_[below, 0]])
    right = np.r_[np.zeros(len(part.totals)), 1.0]
    kept = {}
    if floors:
        kept = {"A_ub": [-np.r_[part.tile(f), 0] for f in floors], "b_ub": np.zeros(len(floors))}
    ends = []
    for sign in (1, -1):
        found = linprog(sign * np.r_[above, 0], A_eq=equal, b_eq=right, **kept)
        if found.status == 2:
            return Ratio(np.nan, np.nan, None, None)
        if found.status == 3 or found.x is None:
            ends.append((-sign * np.inf, None))
        else:
            counts = found.x[:-1] / found.x[-1] if found.x[-1] > 1e-12 else None
            ends.append((sign * found.fun, counts))
    (low, lowest), (high, highest) = ends
    return Ratio(low, high, lowest, highest)


def _parts(reader: str, subset: str, reliability: float = 1.0) -> tuple[NDArray, NDArray, NDArray]:
    """PSMV (625, 3), its total and the clip itself, in each cell of the subset; zero elsewhere."""
    inside = _IN[subset][:, None]
    values = psmv(reader_values(reader, reliability)) * inside
    return values, values.sum(axis=1), inside[:, 0].astype(float)


def share_ranges(
    parts: tuple[Allowed, ...],
    least: float = 0.0,
) -> pd.DataFrame:
    """What readers' PSMV can be on Align and Conflict over all label tables that are allowed.

    Returns ``corpus, constraints, reader, subset, modality, quantity, low, high``. ``quantity`` is
    ``psmv`` (accuracy, -1..1), ``share`` (a fraction of the total gain ``V(TAV) - V(none)``) and,
    with ``modality`` TAV, ``gain``, that total. Of ``share`` only tables count where the reader
    gains, and gains at least ``least`` (accuracy); an end is infinite where the gain can come
    arbitrarily near zero, and NaN where no table is left. ``least`` stands in ``frame.attrs``.
    """
    rows = []
    for part in parts:
        for reader in READERS:
            for subset in SUBSETS:
                values, gain, size = _parts(reader, subset)
                asked = [("TAV", "gain", gain, size, ())]
                for k, m in enumerate(MODALITIES):
                    asked.append((m, "psmv", values[:, k], size, ()))
                    asked.append((m, "share", values[:, k], gain, (gain - least * size,)))
                for modality, quantity, above, below, floors in asked:
                    found = ratio_range(part, above, below, floors)
                    key = (part.name, part.constraints, reader, subset, modality, quantity)
                    rows.append((*key, found.low, found.high))
    columns = ["corpus", "constraints", "reader", "subset", "modality", "quantity", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.attrs["least"] = least
    return frame


def shares_of(
    counts: Mapping[Corpus, NDArray[np.floating]], reliability: float = 1.0
) -> pd.DataFrame:
    """Readers' PSMV on given label tables, for each corpus and both together.

    ``counts`` are clips per cell by corpus, (5, 5, 5, 5). Returns ``corpus, reader, subset,
    modality, quantity, value`` with quantities as by :func:`share_ranges`.
    """
    tables = {Corpus(c).value: np.asarray(x, dtype=float).ravel() for c, x in counts.items()}
    if len(tables) > 1:
        tables["both"] = sum(tables.values())
    rows = []
    for name, x in tables.items():
        for reader in READERS:
            for subset in SUBSETS:
                values, gain, size = _parts(reader, subset, reliability)
                clips, total = x @ size, x @ gain
                key = (name, reader, subset)
                rows.append((*key, "TAV", "gain", total / clips))
                for k, m in enumerate(MODALITIES):
                    rows.append((*key, m, "psmv", x @ values[:, k] / clips))
                    rows.append((*key, m, "share", x @ values[:, k] / total if total else np.nan))
    columns = ["corpus", "reader", "subset", "modality", "quantity", "value"]
    return pd.DataFrame(rows, columns=columns)


def falls(
    parts: tuple[Allowed, ...],
    folder: Path = PAPER_DATA,
    least: float = 0.05,
) -> pd.DataFrame:
    """Whether readers without preference can show the published fall of V's share, or none.

    Returns ``corpus, constraints, reader, fall, share_align, share_conflict, holds, gain_conflict,
    detail``. ``fall`` is ``published`` (33.3% to 20.8%, Sec. 4.2), ``none`` (the published share of
    Align on both) or ``rise`` (as large a change upwards). ``holds`` where some allowed label table
    gives the reader exactly these shares while it gains at least ``least`` (accuracy) on both
    subsets; ``gain_conflict`` is the greatest total gain on Conflict with which it can, NaN where
    none does.
    """
    facts = paper.claims(folder).set_index("id")["value"] / 100
    align, conflict = facts["vcc_share_v_align"], facts["vcc_share_v_conflict"]
    wanted = {"published": conflict, "none": align, "rise": 2 * align - conflict}
    rows = []
    for part in parts:
        for reader in READERS:
            cells = {subset: _parts(reader, subset) for subset in SUBSETS}
            for fall, target in wanted.items():
                gain = _most_gain(part, cells, {"align": align, "conflict": target}, least)
                holds = bool(np.isfinite(gain))
                detail = f"at a gain on Conflict of up to {100 * gain:.1f} points"
                key = (part.name, part.constraints, reader, fall, align, target, holds, gain)
                rows.append((*key, detail if holds else "by no allowed label table"))
    columns = ["corpus", "constraints", "reader", "fall", "share_align", "share_conflict", "holds"]
    return pd.DataFrame(rows, columns=[*columns, "gain_conflict", "detail"])


def _most_gain(
    part: Allowed,
    cells: Mapping[str, tuple[NDArray, NDArray, NDArray]],
    shares: Mapping[str, float],
    least: float,
) -> float:
    """Greatest gain on Conflict with these shares of V by subset; NaN where they are impossible."""
    video = MODALITIES.index("V")
    # share = psmv / gain is linear once the share is given.
    fixed = [part.tile(v[:, video] - shares[s] * gain) for s, (v, gain, _) in cells.items()]
    rows = np.vstack([part.rows, *fixed])
    asked = replace(part, rows=rows, totals=np.append(part.totals, np.zeros(len(fixed))))
    floors = [gain - least * size for _, gain, size in cells.values()]
    _, gain, size = cells["conflict"]
    return ratio_range(asked, gain, size, floors).high


def outline(
    part: Allowed,
    reader: str,
    subset: str,
    directions: int = 24,
) -> pd.DataFrame:
    """Outline of what a reader's total gain and V's PSMV can be at the same time.

    The pairs that the allowed label tables give form a convex polygon, whose corners are found in
    ``directions`` directions and their opposites. Returns ``gain, psmv`` (accuracy), the corners in
    order. A share is the slope of the line from the origin to a pair.
    """
    values, gain, size = _parts(reader, subset)
    psmv_cells = values[:, MODALITIES.index("V")]
    tiled = [part.tile(cells) for cells in (gain, psmv_cells, size)]
    near, far = [], []
    for angle in np.pi * np.arange(directions) / directions:
        found = ratio_range(part, np.cos(angle) * gain + np.sin(angle) * psmv_cells, size)
        far.append(found.highest)
        near.append(found.lowest)
    corners = [
        (counts @ tiled[0] / (counts @ tiled[2]), counts @ tiled[1] / (counts @ tiled[2]))
        for counts in (*far, *near)
        if counts is not None
    ]
    return pd.DataFrame(corners, columns=["gain", "psmv"]).round(9).drop_duplicates()
