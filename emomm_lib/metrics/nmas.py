"""Normalized Mean Attention Score and what it says of adoption: Eq. 5, Sec. 4.3, Appendix C.1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emomm_lib.labels import COALITIONS, MODALITIES
from emomm_lib.metrics._outcomes import KEYS, LABELS, check, check_right, groups, present, row
from emomm_lib.metrics.bootstrap import DEFAULT, Bootstrap, counted, intervals_of, means
from emomm_lib.metrics.gtar import SETTINGS, conflict_parts

CELLS = tuple(
    (c, m)
    for c, row_present in zip(COALITIONS, present(pd.Series(COALITIONS)), strict=True)
    if c in SETTINGS
    for m, there in zip(MODALITIES, row_present, strict=True)
    if there
)
"""Our nine (coalition, modality) points of Figure 3 right; the paper does not name its own."""
_COALITION_OF_CELL = np.array([[c == name for name in SETTINGS] for c, _ in CELLS], dtype=float)
ROUNDING = 1e-3
"""What sums of half-precision attention weights may exceed 1 by."""


@dataclass(frozen=True, eq=False)
class TraceTable:
    """Attention of the decision query to the modalities, one row a clip and coalition.

    Attributes
    ----------
    index
        ``sample_id, coalition`` of each of the N rows, no pair twice.
    mass
        Attention weights summed over the tokens of T, A, V, ``(N, L, H, 3)`` floats in [0, 1].
    counts
        Number of those tokens, ``(N, 3)`` integers: 0, with mass 0, for an absent modality.

    Raises ``ValueError`` for other shapes or values, naming the first row concerned.
    """

    index: pd.DataFrame
    mass: NDArray[np.float32]
    counts: NDArray[np.integer]

    def __post_init__(self) -> None:
        n, m = len(self.index), len(MODALITIES)
        check(self.index, KEYS, "the traces")
        shape = self.mass.shape
        if len(shape) != 4 or (shape[0], shape[3]) != (n, m) or 0 in shape:
            raise ValueError(
                f"mass must be ({n}, layers, heads, {m}) for {n} rows of the index; got {shape}"
            )
        if self.counts.shape != (n, m) or not np.issubdtype(self.counts.dtype, np.integer):
            raise ValueError(
                f"counts must be integers of shape {(n, m)}; got {self.counts.dtype} "
                f"{self.counts.shape}"
            )
        self._refuse(self.index.duplicated(list(KEYS)).to_numpy(), "is there twice")
        self._refuse(
            ((self.counts > 0) != present(self.index["coalition"])).any(axis=1),
            "has tokens of a modality outside its coalition, or none of one in it",
        )
        highest, lowest = self.mass.max(axis=(1, 2)), self.mass.min(axis=(1, 2))
        within = ((lowest >= 0) & (highest <= 1 + ROUNDING)).all(axis=1)
        self._refuse(~within, "has attention mass outside [0, 1]")
        self._refuse(
            ((self.counts == 0) & (highest > 0)).any(axis=1), "has mass on an absent modality"
        )

    def _refuse(self, bad: NDArray[np.bool_], why: str) -> None:
        if bad.any():
            first = self.index.iloc[int(np.argmax(bad))]
            raise ValueError(
                f"the trace of clip {first['sample_id']}, coalition {first['coalition']}, {why} "
                f"({int(bad.sum())} such rows); record these clips again or leave them out"
            )

    def __len__(self) -> int:
        return len(self.index)

    def select(self, rows: ArrayLike) -> TraceTable:
        """The rows of a boolean mask ``(N,)``, or at integer positions in their order."""
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise ValueError(f"a mask must have shape ({len(self)},); got {rows.shape}")
            rows = np.flatnonzero(rows)
        index = self.index.iloc[rows].reset_index(drop=True)
        return TraceTable(index, self.mass[rows], self.counts[rows])

    def nmas(self) -> NDArray[np.float64]:
        """Attention weight per token ``(N, L, H, 3)`` (Eq. 5), NaN for absent modalities.

        Takes twice the memory of float32 ``mass``.
        """
        return self.mass / self._tokens()[:, None, None, :]

    def _tokens(self) -> NDArray[np.float64]:
        return np.where(self.counts > 0, self.counts, np.nan)


def layer_nmas(traces: TraceTable) -> NDArray[np.float64]:
    """nMAS averaged over heads, ``(N, L, 3)``; NaN for absent modalities (Eq. 5)."""
    # Heads share their tokens, so that the mean may be taken before the division.
    return traces.mass.mean(axis=2, dtype=np.float64) / traces._tokens()[:, None, :]


def layer_shares(traces: TraceTable) -> NDArray[np.float64]:
    """Each present modality's share of a layer's nMAS, ``(N, L, 3)``, NaN for absent ones.

    nMAS is averaged over heads and normalised over the present modalities, which then add up to 1:
    the shares of Figures 9(b) and 10. A single modality has share 1; where a layer gives no mass to
    any, shares are NaN. Heads that attend more count more; :func:`layer_budget` counts them alike.
    """
    return _shares(layer_nmas(traces))


def layer_budget(mass: ArrayLike, counts: ArrayLike) -> NDArray[np.float64]:
    """Attention budget of each layer: every head's shares of nMAS, averaged over heads.

    The paper's preference of a layer (text after Eq. 6) with nMAS's shares in place of its softmax,
    which Tables 7 and 8, the case cards and the explorer show. Two heads that rank modalities
    differently weigh alike, however much they attend to them; in :func:`layer_shares` they do not.

    Parameters
    ----------
    mass, counts
        Attention on the tokens of T, A, V, ``(..., L, H, 3)``, and their numbers, ``(..., 3)``.

    Returns ``(..., L, 3)``, which adds up to 1 over present modalities and is NaN for absent ones; a
    head that attends to none of them counts as 0 and leaves a rest.
    """
    mass, counts = np.asarray(mass, dtype=np.float64), np.asarray(counts)[..., None, None, :]
    density = mass / np.maximum(counts, 1)
    total = density.sum(axis=-1, keepdims=True)
    own = np.divide(density, total, out=np.zeros_like(density), where=total > 0)
    return np.where(counts[..., 0, :] > 0, own.mean(axis=-2), np.nan)


def _shares(density: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.nansum(density, axis=-1, keepdims=True)
    return density / np.where(total > 0, total, np.nan)


def _mean_over_layers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means ``(N, 3)`` of ``(N, L, 3)`` over the layers where a value is known, NaN without any."""
    layers = values.shape[1]
    sums = counted(values.swapaxes(1, 2).reshape(-1, layers)).reshape(-1, 2, layers).sum(axis=2)
    return means(sums).reshape(len(values), -1)


def _by_coalition(
    traces: TraceTable,
) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
    """``coalition, positions, columns of its modalities`` in an order independent of the rows'."""
    index = traces.index.reset_index(drop=True)
    for (coalition,), part in groups(index.assign(position=index.index), ["coalition"]):
        if coalition != "none":
            modalities = np.flatnonzero(present(pd.Series([coalition]))[0])
            yield coalition, part["position"].to_numpy(), modalities


def nmas_by_layer(traces: TraceTable, *, bootstrap: Bootstrap = DEFAULT) -> pd.DataFrame:
    """nMAS and its share in every layer, with 95% intervals over clips (Figures 9(b) and 10).

    Returns ``coalition, layer, modality, quantity, value, low, high, n`` with layers from 1, the
    present modalities only, and ``quantity`` ``nmas`` (attention weight a token, mean over heads)
    or ``share`` (:func:`layer_shares`, in [0, 1]).
    """
    density = layer_nmas(traces)
    quantities = {"nmas": density, "share": _shares(density)}
    rows = []
    for coalition, at, modalities in _by_coalition(traces):
        values = np.stack([q[at][:, :, modalities] for q in quantities.values()], axis=1)
        found = intervals_of(counted(values.reshape(len(at), -1)), means, bootstrap=bootstrap)
        names = np.ndindex(values.shape[1:])
        rows += [
            (coalition, layer + 1, MODALITIES[modalities[m]], list(quantities)[q], *row(interval))
            for (q, layer, m), interval in zip(names, found, strict=True)
        ]
    columns = ["coalition", "layer", "modality", "quantity", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


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
        "share": _mean_over_layers(_shares(density)),
    }
    rows = []
    for coalition, at, modalities in _by_coalition(traces):
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


def preference_points(outcomes: pd.DataFrame, traces: TraceTable) -> pd.DataFrame:
    """GTAR and nMAS share of each modality in each coalition, on the same rows (Figure 3 right).

    The rows are those of S_tc with a_x^m = 1 that have both an outcome and a trace. Returns
    ``coalition, modality, gtar, share, n``, nine rows: ``gtar`` and ``share`` (mean over layers and
    clips) in [0, 1], NaN where ``n`` is 0. Raises ``ValueError`` for missing columns, labels other
    than 0..4, a clip's coalition twice, or no such row.
    """
    found = _adoption(outcomes, traces)
    ones = np.ones(len(found.cell))
    totals = found.sums([found.right, found.share, ones]).sum(axis=0).reshape(-1, 3)
    with np.errstate(invalid="ignore"):
        averages = totals[:, :2] / totals[:, 2:]
    rows = [
        (*cell, *average, int(n))
        for cell, average, n in zip(CELLS, averages.tolist(), totals[:, 2], strict=True)
    ]
    return pd.DataFrame(rows, columns=["coalition", "modality", "gtar", "share", "n"])


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
