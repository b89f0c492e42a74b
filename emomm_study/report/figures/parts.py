"""Parts that several figures share: rows of frames, axes, bands and legends."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import AbstractPathEffect, withStroke

from emomm_lib.labels import MODALITIES
from emomm_study.report.frames import need
from emomm_study.report.style import COLOURS, GREY, context, titled

MODALITY_COLOURS = {m: COLOURS[m.lower()] for m in MODALITIES}

KAPPAS = {
    "T": "text",
    "A": "audio",
    "V": "video",
    "mean": "mean of the three",
    "all": "all votes, one kappa",
}
"""Fleiss' kappas as rows of a figure, in order."""


def one_row(frame: pd.DataFrame, what: str, **keys: str) -> pd.Series:
    """The only row of a tidy result (``value, low, high``) with these keys.

    Raises ``ValueError`` that names the frame (``what``) and the keys where there is another
    number of such rows, or a column is missing.
    """
    need(frame, what, *keys, "value", "low", "high")
    rows = frame[np.logical_and.reduce([frame[key] == value for key, value in keys.items()])]
    if len(rows) != 1:
        raise ValueError(
            f"{what}: expected one row with {keys}, got {len(rows)}; "
            "make the frame with emomm_lib.metrics, on clips that have it"
        )
    return rows.iloc[0]


def halo(width: float) -> list[AbstractPathEffect]:
    """White around a line, so that it stays visible on what is dark."""
    return [withStroke(linewidth=width, foreground="white")]


def modality_handles() -> list[Patch]:
    """Entries of a legend: T, A, V in their colours."""
    return [Patch(facecolor=colour, label=m) for m, colour in MODALITY_COLOURS.items()]


def line_entry(label: str, colour: str, ls: str = "-", **look: object) -> Line2D:
    """An entry of a legend for a line."""
    return Line2D([], [], color=colour, ls=ls, label=label, **look)


def mark_entry(label: str, marker: str, colour: str, **look: object) -> Line2D:
    """An entry of a legend for marks without a line."""
    return line_entry(label, colour, "", marker=marker, **look)


def layer_axis(ax: Axes, last: int) -> None:
    """An x axis of layers from 1 to ``last``, with at most nine ticks."""
    step = -(-last // 8)
    ax.set_xticks(sorted({1, *range(step, last + 1, step)}))
    ax.set(xlim=(0.5, last + 0.5), xlabel="layer")


def row_axis(ax: Axes, names: list[str]) -> None:
    """A y axis of named rows, the first on top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def unshown(title: str, remark: str, sentence: str) -> Figure:
    """Stands where a figure would: a sentence that says why there is none."""
    with context():
        fig = plt.figure(figsize=(9.6, 1.6))
        titled(fig, title, remark)
        fig.text(0.03, 0.5, fill(sentence, 120), va="top")
        return fig


def no_clips(ax: Axes) -> None:
    """Say in an empty panel why it is one."""
    ax.text(0.5, 0.5, "no clips", transform=ax.transAxes, ha="center", va="center", color=GREY)


def dots(rows: pd.DataFrame) -> str | None:
    """A marker where a curve has so few points that dots can be told apart."""
    return "o" if len(rows) <= 12 else None


def band(
    ax: Axes, x: pd.Series, rows: pd.DataFrame, colour: str, factor: float = 1, alpha: float = 0.2
) -> None:
    """The interval ``low`` to ``high`` around a curve, times a factor."""
    low, high = (factor * rows[end].to_numpy(float) for end in ("low", "high"))
    ax.fill_between(x, low, high, color=colour, alpha=alpha, lw=0)
