"""Normalized Mean Attention Score of stored traces: Eq. 5, Sec. 4.3, Appendix C.1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emomm_lib.labels import MODALITIES
from emomm_lib.metrics.bootstrap import DEFAULT, Bootstrap, counted, intervals_of, means
from emomm_lib.metrics.outcomes import KEYS, check, groups, present, row

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
    return normalised(layer_nmas(traces))


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


def normalised(density: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.nansum(density, axis=-1, keepdims=True)
    return density / np.where(total > 0, total, np.nan)


def by_coalition(
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
    quantities = {"nmas": density, "share": normalised(density)}
    rows = []
    for coalition, at, modalities in by_coalition(traces):
        values = np.stack([q[at][:, :, modalities] for q in quantities.values()], axis=1)
        found = intervals_of(counted(values.reshape(len(at), -1)), means, bootstrap=bootstrap)
        names = np.ndindex(values.shape[1:])
        rows += [
            (coalition, layer + 1, MODALITIES[modalities[m]], list(quantities)[q], *row(interval))
            for (q, layer, m), interval in zip(names, found, strict=True)
        ]
    columns = ["coalition", "layer", "modality", "quantity", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)
