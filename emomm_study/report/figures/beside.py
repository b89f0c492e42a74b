"""Bars with the marks of reference strategies beside them, and with what is published."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from emomm_study import paper
from emomm_study.report.figures.parts import halo, line_entry
from emomm_study.report.style import INK, PUBLISHED

MODEL = "model"
"""What the model is called among sources; all others are reference strategies."""
MARKERS = "osdXp*"
"""Of strategies in order."""
HOLLOW = {"ls": "", "mfc": "white", "mec": "black", "ms": 4.5, "mew": 0.9}
"""How a strategy's mark looks."""
_GROUND = "#F3F3F3"
"""Behind a bar and the marks that belong to it."""
_HALO = halo(2.4)


def scaled(row: pd.Series, factor: float = 1.0) -> tuple[float, float, float]:
    """``value, low, high`` of a tidy row, times a factor."""
    return tuple(factor * float(row[name]) for name in ("value", "low", "high"))


def published_claims() -> pd.Series:
    """Numbers of the paper's text by id."""
    return paper.claims().set_index("id")["value"]


def strategies(column: Iterable[str]) -> list[str]:
    """Reference strategies in order of appearance; each has the marker of its place."""
    names = [name for name in dict.fromkeys(column) if name != MODEL]
    if len(names) > len(MARKERS):
        raise ValueError(f"at most {len(MARKERS)} strategies have a marker, got {names}")
    return names


def bar_paint(colour: str, subset: str) -> dict[str, object]:
    """Full colour for Align, a hatched tint of the same for Conflict."""
    if subset == "align":
        return {"facecolor": colour, "edgecolor": colour}
    tint = 1 - 0.35 * (1 - np.array(to_rgb(colour)))
    return {"facecolor": tuple(tint), "edgecolor": colour, "hatch": "/////"}


def draw_bar(
    ax: Axes,
    x: float,
    width: float,
    model: tuple[float, float, float],
    look: dict[str, object],
    readers: Iterable[tuple[float, float, float]] = (),
    published: float | None = None,
) -> list[tuple[float, float, float]]:
    """A bar with interval and published tick, readers to its right; the intervals' x, low, high."""
    readers = list(readers)
    own = width / (1 + 0.38 * len(readers))
    left, step = x - width / 2, (width - own) / max(1, len(readers))
    centres = [left + own / 2, *(left + own + (k + 0.5) * step for k in range(len(readers)))]
    drawn = [(centre, *one[1:]) for centre, one in zip(centres, [model, *readers], strict=True)]
    if readers:
        ax.axvspan(left - 0.02, left + width + 0.02, color=_GROUND, lw=0, zorder=0)
    ax.bar(centres[0], model[0], 0.94 * own, linewidth=0.8, **look)
    ax.vlines(*drawn[0], color=INK, lw=1.3, path_effects=_HALO, zorder=3)
    for marker, centre, (value, low, high) in zip(MARKERS, centres[1:], readers, strict=False):
        ax.vlines(centre, low, high, color=INK, lw=0.7, zorder=3)
        ax.plot(centre, value, marker=marker, zorder=4, **HOLLOW)
    if published is not None:
        line = {"color": PUBLISHED, "lw": 1.8, "path_effects": _HALO, "zorder": 5}
        ax.hlines(published, left, left + own, **line)
    return drawn


def limit_axis(
    ax: Axes,
    values: Iterable[float],
    drawn: list[tuple[float, float, float]],
    axis: Literal["x", "y"] = "y",
) -> None:
    """Limits that hold zero, all values, and of the intervals no more than leaves bars legible.

    ``drawn`` has for every interval where it stands on the other axis, its low and its high end.
    """
    values = [0.0, *(v for v in values if np.isfinite(v))]
    ends = [*values, *(e for _, *pair in drawn for e in pair if np.isfinite(e))]
    slack = 0.6 * ((max(values) - min(values)) or 1.0)
    low = max(min(ends), min(values) - slack)
    high = min(max(ends), max(values) + slack)
    pad = 0.05 * ((high - low) or 1.0)
    low, high = low - pad * (low < 0), high + pad
    ax.set(**{f"{axis}lim": (low, high)})
    for at, lower, upper in drawn:
        for beyond, edge, marker in (
            (lower < low, low, "v<"), (upper > high, high, "^>"),
        ):  # fmt: skip
            if beyond:
                place = (at, edge) if axis == "y" else (edge, at)
                look = {"color": INK, "ms": 4, "mew": 0, "clip_on": False, "zorder": 6}
                ax.plot(*place, marker[axis == "x"], **look)


def mark_handles(readers: list[str]) -> list[Artist]:
    """Entries of a legend: the published tick and each strategy's mark."""
    return [
        line_entry("published", PUBLISHED, lw=1.8),
        *(
            Line2D([], [], marker=marker, label=name, **HOLLOW)
            for marker, name in zip(MARKERS, readers, strict=False)
        ),
    ]
