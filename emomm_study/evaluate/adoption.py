"""Attention by modality, and what it says of adoption: Sec. 4.3, Figure 3 (right), Appendix C.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emomm_lib import SETTINGS, Bootstrap, TraceTable, conflict_parts, layer_nmas, layer_shares
from emomm_lib.labels import COALITIONS, MODALITIES
from emomm_lib.metrics.bootstrap import DEFAULT, counted, intervals_of, means
from emomm_lib.metrics.nmas import by_coalition, normalised
from emomm_lib.metrics.outcomes import KEYS, LABELS, check, check_right, groups, present, row

CELLS = tuple(
    (c, m)
    for c, row_present in zip(COALITIONS, present(pd.Series(COALITIONS)), strict=True)
    if c in SETTINGS
    for m, there in zip(MODALITIES, row_present, strict=True)
    if there
)
"""Our nine (coalition, modality) points of Figure 3 right; the paper does not name its own."""
_COALITION_OF_CELL = np.array([[c == name for name in SETTINGS] for c, _ in CELLS], dtype=float)


def _mean_over_layers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means ``(N, 3)`` of ``(N, L, 3)`` over the layers where a value is known, NaN without any."""
    layers = values.shape[1]
    sums = counted(values.swapaxes(1, 2).reshape(-1, layers)).reshape(-1, 2, layers).sum(axis=2)
    return means(sums).reshape(len(values), -1)


def attention_by_modality(traces: TraceTable, *, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """How many tokens, how much attention and how much of it a token each modality gets (Sec. 4.3).

    Returns ``coalition, modality, quantity, value, low, high, n`` for the present modalities, means
    over clips with 95% intervals. ``quantity`` is ``tokens``, ``mass`` (summed attention, in [0,
    1]), ``nmas`` (attention a token) and ``share`` (:func:`layer_shares`), the last three averaged
    over layers, ``mass`` and ``nmas`` over heads too. Video may have mass and yet, over many tokens, a low
    density.
    """
    density = layer_nmas(traces)
    quantities = {
        "tokens": traces.counts.astype(np.float64),
        "mass": traces.mass.mean(axis=(1, 2), dtype=np.float64),
        "nmas": _mean_over_layers(density),
        "share": _mean_over_layers(normalised(density)),
    }
    rows = []
    for coalition, at, modalities in by_coalition(traces):
        values = np.stack([q[at][:, modalities] for q in quantities.values()], axis=2)
        found = intervals_of(counted(values.reshape(len(at), -1)), means, bootstrap=bootstrap)
        names = np.ndindex(values.shape[1:])
        rows += [
            (coalition, MODALITIES[modalities[m]], list(quantities)[q], *row(interval))
            for (m, q), interval in zip(names, found, strict=True)
        ]
    columns = ["coalition", "modality", "quantity", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class _Adoption:
    """Rows (clip, coalition, modality) of S_tc with a_x^m = 1: share of nMAS and c_x."""

    clip: NDArray
    cell: NDArray[np.int64]
    share: NDArray[np.float64]
    right: NDArray[np.float64]

    def sums(self, columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Contributions ``(rows, 9 * columns)``, each row's in its cell's block."""
        table = np.zeros((len(self.cell), len(CELLS), len(columns)))
        table[np.arange(len(self.cell)), self.cell] = np.stack(columns, axis=1)
        return table.reshape(len(self.cell), -1)


def _adoption(outcomes: pd.DataFrame, traces: TraceTable) -> _Adoption:
    check(outcomes, [*KEYS, *LABELS, "right_polarity"])
    check_right(outcomes, "right_polarity")
    outcomes = outcomes[outcomes["coalition"].isin(list(SETTINGS))]
    index = traces.index[list(KEYS)].assign(position=np.arange(len(traces)))
    joined = outcomes.merge(index, on=list(KEYS), validate="many_to_one")
    if not len(joined):
        raise ValueError(
            f"no row of the outcomes with coalition {list(SETTINGS)} has a trace; record traces of "
            "the clips that were scored"
        )
    ((_, joined),) = groups(joined, ())
    _, aligned, in_conflict = conflict_parts(joined)
    share = _mean_over_layers(layer_shares(traces))[joined["position"]]
    rows, modality = np.nonzero(aligned & in_conflict[:, None] & ~np.isnan(share))
    if not len(rows):
        raise ValueError("no row with a trace is in S_tc with an aligned modality; see Eq. 4")
    names = zip(joined["coalition"].iloc[rows], modality, strict=True)
    return _Adoption(
        joined["sample_id"].to_numpy()[rows],
        np.array([CELLS.index((c, MODALITIES[m])) for c, m in names]),
        share[rows, modality],
        joined["right_polarity"].to_numpy(np.float64)[rows],
    )


def preference_points(
    outcomes: pd.DataFrame, traces: TraceTable, *, bootstrap: Bootstrap = DEFAULT
) -> pd.DataFrame:
    """GTAR and nMAS share of each modality in each coalition, on the same rows (Figure 3 right).

    The rows are those of S_tc with a_x^m = 1 that have both an outcome and a trace. Returns
    ``coalition, modality, gtar, share, n`` and the ends of 95% intervals over whole clips
    (``gtar_low, gtar_high, share_low, share_high``), nine rows: ``gtar`` and ``share`` (mean over
    layers and clips) in [0, 1], NaN where ``n`` is 0. Raises ``ValueError`` for missing columns,
    labels other than 0..4, a clip's coalition twice, or no such row.
    """
    found = _adoption(outcomes, traces)
    contributions = found.sums([found.right, found.share, np.ones(len(found.cell))])

    def finish(sums: NDArray) -> NDArray:
        blocks = sums.reshape(*sums.shape[:-1], len(CELLS), 3)
        with np.errstate(invalid="ignore"):
            averages = blocks[..., :2] / blocks[..., 2:]
        return averages.reshape(*sums.shape[:-1], -1)

    intervals = intervals_of(contributions, finish, clusters=found.clip, bootstrap=bootstrap)
    many = contributions.reshape(-1, len(CELLS), 3)[..., 2].sum(axis=0)
    rows = [
        (*cell, gtar.value, gtar.low, gtar.high, share.value, share.low, share.high, int(n))
        for cell, gtar, share, n in zip(
            CELLS, intervals[::2], intervals[1::2], many, strict=True
        )
    ]  # fmt: skip
    names = [f"{of}{end}" for of in ("gtar", "share") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["coalition", "modality", *names, "n"])


def _pearson(
    weight: NDArray, x: NDArray, y: NDArray, xx: NDArray, yy: NDArray, xy: NDArray
) -> NDArray[np.float64]:
    """Pearson's r within cells from sums ``(..., cells)``, pooled over cells; NaN if constant."""
    n = np.where(weight > 0, weight, np.nan)
    spread_x, spread_y, joint = (
        np.nansum(pq - p * q / n, axis=-1) for pq, p, q in ((xx, x, x), (yy, y, y), (xy, x, y))
    )
    # Below this, what is left of a constant is rounding.
    flat = (spread_x <= 1e-12 * xx.sum(axis=-1)) | (spread_y <= 1e-12 * yy.sum(axis=-1))
    return joint / np.sqrt(np.where(flat, np.nan, spread_x * spread_y))


def nmas_gtar_correlation(
    outcomes: pd.DataFrame, traces: TraceTable, *, bootstrap: Bootstrap = DEFAULT
) -> pd.DataFrame:
    """Correlation of nMAS share with adoption, between modalities and within them (Figure 3 right).

    Returns ``quantity, value, low, high, n``. ``between``: Pearson's r over the nine points of
    :func:`preference_points` (``n`` of them have rows, at least 3 needed). ``adjusted``: the same
    less the means of each coalition's points, since a coalition of three modalities divides shares
    by three and has a majority on the right side whatever attention does. ``within``: Pearson's r
    over all ``n`` rows (clip, coalition, modality) of S_tc with a_x^m = 1 between share and
    ``right_polarity``, both less the mean of their (coalition, modality): does attention predict
    adoption beyond which modality it is? 95% intervals over whole clips; one resample recomputes
    all points. NaN where either side is constant. Raises like :func:`preference_points`.
    """
    found = _adoption(outcomes, traces)
    x, y = found.share, found.right
    contributions = found.sums([np.ones(len(x)), x, y, x * x, y * y, x * y])

    def finish(sums: NDArray) -> NDArray:
        blocks = np.moveaxis(sums.reshape(*sums.shape[:-1], len(CELLS), -1), -1, 0)
        weight = blocks[0]
        known = weight > 0
        divisor = np.where(known, weight, 1)
        a, b = blocks[1] / divisor, blocks[2] / divisor
        points = (known, a, b, a * a, b * b, a * b)
        between = _pearson(*(p.sum(axis=-1, keepdims=True).astype(float) for p in points))
        # Pooled within coalitions: _pearson takes each coalition's own means off.
        adjusted = _pearson(*(p.astype(float) @ _COALITION_OF_CELL for p in points))
        enough = known.sum(axis=-1) >= 3
        pair = (np.where(enough, r, np.nan) for r in (between, adjusted))
        return np.stack([*pair, _pearson(*blocks)], axis=-1)

    found_intervals = intervals_of(contributions, finish, clusters=found.clip, bootstrap=bootstrap)
    cells = len(np.unique(found.cell))
    sizes = {"between": cells, "adjusted": cells, "within": len(x)}
    rows = [
        (quantity, *row(interval, n))
        for (quantity, n), interval in zip(sizes.items(), found_intervals, strict=True)
    ]
    return pd.DataFrame(rows, columns=["quantity", "value", "low", "high", "n"])
