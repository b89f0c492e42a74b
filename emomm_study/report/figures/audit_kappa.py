"""Figures of the paper audit: attainable kappas, and what Eq. 6's softmax makes of nMAS."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from emomm_lib.labels import MODALITIES
from emomm_study.audit.kappa import BANDS
from emomm_study.report.figures.parts import (
    KAPPAS,
    MODALITY_COLOURS,
    line_entry,
    modality_handles,
    row_axis,
)
from emomm_study.report.frames import need
from emomm_study.report.style import (
    COLOURS,
    CORPUS_NAMES,
    FAINT,
    GREY,
    INK,
    PUBLISHED,
    context,
    titled,
)

_READINGS = {
    "bound": ("largest possible", INK, "-"),
    "mass": ("printed shares as mass", "#332288", "--"),
    "nmas": ("printed shares as nMAS", "#D55E00", "-."),
}
_METHODS = {"baseline": (1.08, None), "CHASE": (-0.08, "////")}
"""On which side of a layer's middle a method's bars stand, and how they are hatched."""


def attainable_kappa(ranges: pd.DataFrame, published: float) -> Figure:
    """The attainable range of each kappa as a bar, with the published value across.

    Parameters
    ----------
    ranges
        ``modality`` (T, A, V, mean, all), ``mapping`` (names of corpora), ``low, high``, as by
        :func:`emomm_study.audit.kappa.kappa_ranges`.
    published
        The paper's kappa.

    Raises ``ValueError`` for a missing column, an unknown modality or mapping, or two rows of one
    modality and mapping.
    """
    keys = ("modality", "mapping")
    need(ranges, "ranges", *keys, "low", "high", once=keys)
    for column, allowed in (("modality", KAPPAS), ("mapping", CORPUS_NAMES)):
        if unknown := sorted(set(ranges[column]) - set(allowed)):
            raise ValueError(f"ranges: {column} is one of {[*allowed]}, got also {unknown}")
    modalities = [m for m in KAPPAS if m in set(ranges["modality"])]
    mappings = [m for m in CORPUS_NAMES if m in set(ranges["mapping"])]
    with context():
        fig, ax = plt.subplots(figsize=(7.2, 1.7 + 0.62 * len(modalities)), layout="constrained")
        left = min(-0.2, ranges["low"].min() - 0.05)
        _bands(ax, left)
        height = 0.36
        for row in ranges.itertuples(index=False):
            y = modalities.index(row.modality) + height * (mappings.index(row.mapping) - 0.5)
            colour = COLOURS.get(row.modality.lower(), GREY)
            alpha = 1.0 if row.mapping == mappings[0] else 0.4
            ax.barh(y, row.high - row.low, height * 0.86, row.low, color=colour, alpha=alpha, lw=0)
            # Inside the bar, since the published value's line may pass beside its end.
            colour = "white" if alpha == 1 and row.modality != "A" else "black"
            text = f"{row.high:.2f}"
            ax.text(row.high - 0.008, y, text, ha="right", va="center", fontsize=7.5, color=colour)
        ax.axvline(published, color=PUBLISHED, lw=1.4)
        row_axis(ax, [KAPPAS[m] for m in modalities])
        ax.set_xlim(left, 1)
        ax.set_xlabel("Fleiss' kappa")
        ax.spines["left"].set_visible(False)
        handles = [
            line_entry(f"published, {published:.2f}", PUBLISHED, lw=1.4),
            *(
                Patch(color=GREY, alpha=alpha, lw=0, label=f"mapping of {CORPUS_NAMES[m]}")
                for m, alpha in zip(mappings, (1.0, 0.4), strict=False)
            ),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=3)
        below = "five votes a clip, 2,000 clips of CMU-MOSI; from the published counts alone"
        titled(fig, "Kappas that Table 3 allows", below)
        return fig


def _bands(ax: Axes, left: float) -> None:
    """Landis and Koch's words for kappas, from ``left`` on, over shades of grey."""
    for k, (name, (low, high)) in enumerate(BANDS.items()):
        low = max(low, left)
        ax.axvspan(low, high, color=INK, alpha=0.03 + 0.035 * (k % 2), lw=0)
        ax.text(
            (low + high) / 2, 1.015, name.replace(" ", "\n"), transform=ax.get_xaxis_transform(),
            ha="center", va="bottom", fontsize=7.5, color=INK,
        )  # fmt: skip


def _distances(ax: Axes, rows: pd.DataFrame, printed: float) -> None:
    for reading, (_, colour, ls) in _READINGS.items():
        line = rows[rows["reading"] == reading].sort_values("length")
        ax.plot(line["length"], line["distance"], color=colour, ls=ls, lw=1.8)
    ax.axhline(printed, color=GREY, lw=1.4, ls=":")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(rows["length"].min(), rows["length"].max())
    ax.set_ylim(2e-4, 1)
    ax.xaxis.set_major_locator(LogLocator(10))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.set_xlabel("tokens of T, A and V together")
    ax.grid(color=FAINT, lw=0.5)


def _stacks(ax: Axes, rows: pd.DataFrame, value: str) -> None:
    for method, (place, hatch) in _METHODS.items():
        own = rows[rows["method"] == method].pivot(index="layer", columns="modality", values=value)
        own[[*MODALITIES]].plot.bar(
            stacked=True, ax=ax, width=0.36, position=place, color=MODALITY_COLOURS, rot=0,
            edgecolor="white", lw=0.4, hatch=hatch, legend=False,
        )  # fmt: skip
    ax.set(ylim=(0, 1.0005), xlim=(-0.6, len(own) - 0.4))
    ax.tick_params(axis="x", length=0)


def literal_preference(distances: pd.DataFrame, budgets: pd.DataFrame) -> Figure:
    """Eq. 6's distance from uniform by length, and Table 7's budgets beside their softmax.

    Parameters
    ----------
    distances
        ``table, reading`` (``bound, mass, nmas``), ``length, distance``, as by
        :func:`emomm_study.audit.preference.distance_by_length`; a panel for Table 7.
    budgets
        ``table, method, layer, reading, modality, printed, preference``, as by
        :func:`emomm_study.audit.preference.literal_budgets`; Table 7's rows read as nMAS are drawn.

    Raises ``ValueError`` for a missing column, repeated rows, or no row of Table 7.
    """
    keys = ("table", "reading", "length")
    need(distances, "distances", *keys, "distance", once=keys)
    keys = ("table", "method", "layer", "reading", "modality")
    need(budgets, "budgets", *keys, "printed", "preference", once=keys)
    shown = budgets[(budgets["table"] == 7) & (budgets["reading"] == "nmas")]
    curves = distances[distances["table"] == 7]
    if shown.empty or curves.empty:
        raise ValueError("distances and budgets need rows of Table 7, budgets also read as nmas")
    before = shown[shown["method"] == "baseline"]
    gaps = (before["printed"] - 1 / len(MODALITIES)).abs().groupby(before["layer"]).sum() / 2
    with context():
        fig, axes = plt.subplots(
            1, 3, figsize=(9.6, 3.9), layout="constrained", width_ratios=[1.25, 1, 1]
        )
        _distances(axes[0], curves, gaps.max())
        axes[0].set_ylabel("distance from uniform (total variation)")
        axes[0].set_title("Eq. 6 on longer inputs")
        for ax, value, title in zip(
            axes[1:],
            ("printed", "preference"),
            ("Table 7 as printed", "softmax of the nMAS behind it"),
            strict=True,
        ):
            _stacks(ax, shown, value)
            ax.set_title(title)
        axes[1].set_ylabel("share")
        lines = [
            *(line_entry(name, colour, ls, lw=1.8) for name, colour, ls in _READINGS.values()),
            line_entry("the printed shares themselves", GREY, ":", lw=1.4),
        ]
        bars = [
            *modality_handles(),
            Patch(facecolor=GREY, edgecolor="white", label="baseline"),
            Patch(facecolor=GREY, edgecolor="white", hatch="////", label="CHASE"),
        ]
        fig.legend(handles=[*lines, *bars], loc="outside lower center", ncols=5)
        below = "from Tables 7-8 and assumed numbers of tokens alone"
        titled(fig, "The preference of Eq. 6 as printed", below)
        return fig
