"""Figure 5: how EmoMM comes out of two corpora, with a run's counts."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emomm_study.report.frames import need
from emomm_study.report.style import CORPUS_NAMES, FAINT, GREY, INK, SUBSET_COLOURS, context, titled

_STRATA = {"conflict": "conflict", "equal": "equal labels", "same_polarity": "same polarity"}
_BY = {"ch_sims_v2": "quota", "cmu_mosi": "class"}
_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_WIDE, _HIGH = 0.205, 0.36


def figure5(loaded: pd.DataFrame, manifest: pd.DataFrame, votes: int | None) -> Figure:
    """Boxes from folders to subsets, each with how many clips are in it.

    Parameters
    ----------
    loaded
        A row a corpus: ``corpus, usable clips, excluded``.
    manifest
        The benchmark, a row a clip: ``corpus, stratum, split, subset``.
    votes
        Of annotators on CMU-MOSI's modalities; None where its labels came from elsewhere.

    Raises ``ValueError`` for a missing column.
    """
    need(loaded, "loaded", "corpus", "usable clips", "excluded")
    need(manifest, "manifest", "corpus", "stratum", "split", "subset")
    with context():
        fig, ax = plt.subplots(figsize=(10.5, 3.5), layout="constrained")
        ax.set(xlim=(-0.01, 1.01), ylim=(0, 1))
        ax.axis("off")
        rows = {"ch_sims_v2": 0.76, "cmu_mosi": 0.26}
        for row in loaded.to_dict("records"):
            y, own = rows[row["corpus"]], manifest[manifest["corpus"] == row["corpus"]]
            name = CORPUS_NAMES[row["corpus"]]
            _box(
                ax,
                0.10,
                y,
                name,
                f"{row['usable clips']:,} usable clips",
                f"{row['excluded']:,} left out",
            )
            strata = [f"{many:,} {_STRATA[s]}" for s, many in own["stratum"].value_counts().items()]
            drawn = f"{len(own):,} drawn by {_BY[row['corpus']]}"
            _box(ax, 0.37, y, drawn, *strata, *_labels(row["corpus"], votes))
            _arrow(ax, (0.10, y), (0.37, y))
            _arrow(ax, (0.37, y), (0.64, 0.51))
        splits = manifest["split"].value_counts()
        parts = [f"{splits.get(s, 0):,} {title}" for s, title in _SPLITS.items()]
        _box(ax, 0.64, 0.51, f"EmoMM: {len(manifest):,} clips", *parts)
        subsets = manifest["subset"].value_counts()
        ends = [
            (0.84, "align", f"Align: {subsets.get('align', 0):,}", ["all modalities have", "GT's polarity"]),
            (0.51, "conflict", f"Conflict: {subsets.get('conflict', 0):,}", ["at least one", "has not"]),
            (0.18, "missing", f"Missing: {3 * len(manifest):,}", ["each clip three times,", "one modality hidden"]),
        ]  # fmt: skip
        for y, subset, title, lines in ends:
            _box(ax, 0.90, y, title, *lines, colour=SUBSET_COLOURS.get(subset, FAINT), high=0.24)
            _arrow(ax, (0.64, 0.51), (0.90, y))
        titled(fig, "Figure 5. From two corpora to EmoMM", f"{len(manifest):,} clips")
        return fig


def _labels(corpus: str, votes: int | None) -> Sequence[str]:
    if corpus != "cmu_mosi":
        return ["labels: the corpus's"]
    return ["labels: annotations" if votes is None else f"labels: {votes:,} votes"]


def _box(
    ax: Axes,
    x: float,
    y: float,
    title: str,
    *lines: str,
    colour: str = "#FFFFFF",
    high: float = _HIGH,
) -> None:
    ax.add_patch(
        plt.Rectangle(
            (x - _WIDE / 2, y - high / 2), _WIDE, high, fc=colour, ec=GREY, lw=1, zorder=2
        )
    )
    top = y + high / 2 - 0.035
    ax.text(x, top, title, ha="center", va="top", fontweight="bold", fontsize=9, zorder=3)
    below = "\n".join(lines)
    ax.text(x, top - 0.075, below, ha="center", va="top", fontsize=8, color=INK, zorder=3)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    half = _WIDE / 2 + 0.003
    ax.annotate(
        "", (end[0] - half, end[1]), (start[0] + half, start[1]),
        arrowprops={"arrowstyle": "->", "color": GREY},
    )  # fmt: skip
