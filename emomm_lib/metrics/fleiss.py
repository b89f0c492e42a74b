"""Fleiss' kappa as a function of sums over items (Fleiss, 1971; Appendix A.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emomm_lib.labels import numbers


def fleiss_parts(counts: ArrayLike) -> NDArray[np.float64]:
    """What items add to Fleiss' kappa: ``(N, k)`` votes by category to ``(N, k + 2)``.

    Columns are the votes of each category, the share of an item's pairs of raters that agree, and
    one; :func:`fleiss_of` makes kappa of their sums. Raises ``ValueError`` unless all items have
    the same number of votes, at least two, in whole numbers.
    """
    counts = numbers(counts, "votes")
    if not ((counts >= 0) & (counts == np.floor(counts)) & np.isfinite(counts)).all():
        raise ValueError("votes are counted in whole numbers, none of them missing or below 0")
    raters = counts.sum(axis=1)
    if len(np.unique(raters)) > 1 or (raters < 2).any():
        raise ValueError(
            "Fleiss' kappa takes items with equally many votes, at least two; got "
            f"{np.unique(raters).astype(int).tolist()[:5]}"
        )
    pairs = (counts * (counts - 1)).sum(axis=1) / (raters * (raters - 1))
    return np.column_stack([counts, pairs, np.ones(len(counts))])


def fleiss_of(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Observed and expected agreement and kappa, ``(..., 3)``, of sums ``(..., k + 2)``.

    kappa = (P - P_e) / (1 - P_e) with P the mean share of agreeing pairs and P_e the sum of squared
    shares of the categories (Fleiss, 1971). NaN without items, and where all votes are
    alike, up to rounding of P_e.
    """
    sums = np.asarray(sums, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = sums[..., -2] / sums[..., -1]
        shares = sums[..., :-2] / sums[..., :-2].sum(axis=-1, keepdims=True)
        expected = (shares**2).sum(axis=-1)
        kappa = np.where(expected < 1 - 1e-12, (observed - expected) / (1 - expected), np.nan)
    return np.stack([observed, expected, kappa], axis=-1)
