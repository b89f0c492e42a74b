"""Figure 3, left and middle: video contribution collapse."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from emomm_lib.labels import COALITIONS, MODALITIES
from emomm_lib.metrics.psmv import SUBSETS
from emomm_study.report.figures.beside import (
    HOLLOW,
    MARKERS,
    MODEL,
    bar_paint,
    draw_bar,
    limit_axis,
    mark_handles,
    published_claims,
    scaled,
    strategies,
)
from emomm_study.report.figures.parts import (
    MODALITY_COLOURS,
    line_entry,
    modality_handles,
    one_row,
    row_axis,
)
from emomm_study.report.frames import need
from emomm_study.report.numbers import bracketed, number
from emomm_study.report.style import COLOURS, INK, PUBLISHED, SUBSET_TITLES, context, titled

_SEVERAL = "#8C8C8C"


def _both_subsets(frame: pd.DataFrame, **keys: Iterable[str]) -> pd.DataFrame:
    """A frame with rows of NaN for a subset that it has nothing of."""
    absent = [subset for subset in SUBSETS if subset not in set(frame["subset"])]
    rows = pd.MultiIndex.from_product([absent, *keys.values()], names=["subset", *keys])
    return pd.concat([frame, rows.to_frame(index=False).assign(n=0)]) if len(rows) else frame


def _accuracy_panel(ax: Axes, accuracy: pd.DataFrame, drops: pd.DataFrame) -> None:
    facts, coalitions = published_claims(), COALITIONS[1:]
    # Wider places for T, A and V leave room for the numbers above them.
    places = np.cumsum([0, 1.9, 1.9, 1.75, 1, 1, 1])
    top = 0.0
    for place, coalition in zip(places, coalitions, strict=True):
        colour = COLOURS.get(coalition.lower(), _SEVERAL)
        for side, subset in zip((-0.2, 0.2), SUBSETS, strict=True):
            row = one_row(accuracy, "accuracy", subset=subset, coalition=coalition)
            bar = scaled(row, 100)
            draw_bar(ax, place + side, 0.4, bar, bar_paint(colour, subset))
            top = np.nanmax([top, bar[0], bar[2]])
    for subset, style in zip(SUBSETS, ("--", ":"), strict=True):
        chance = one_row(accuracy, "accuracy", subset=subset, coalition="none")
        ax.axhline(100 * chance["value"], ls=style, lw=1, color=INK, zorder=0.5)
        top = np.nanmax([top, 100 * chance["value"]])
    height = top / 0.8 or 1.0
    ax.set_ylim(0, height)
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top)
    ax.set_yticks(ticks[(ticks >= 0) & (ticks <= min(100, height))])
    lines = [("drop, Align to Conflict (points)", 0.965), ("95% interval", 0.915)]
    lines.append(("published drop", 0.865))
    text = {"transform": ax.get_xaxis_transform(), "fontsize": 6.5, "va": "center"}
    for place, modality in zip(places, MODALITIES, strict=False):
        value, low, high = scaled(one_row(drops, "drops", coalition=modality), 100)
        known = facts[f"vcc_drop_{modality.lower()}"]
        for words, weight, (_, y) in zip(
            (number(value, 1), bracketed(low, high, 1), number(known, 1)),
            ("bold", "normal", "normal"),
            lines,
            strict=True,
        ):
            ax.text(place, y, words, ha="center", fontweight=weight, **text)
    for words, y in lines:
        ax.text(places[3] - 0.6, y, words, ha="left", color="#555555", **text)
    ax.set_xticks(places, coalitions)
    ax.set_xlim(places[0] - 1, places[-1] + 0.5)
    ax.set_ylabel("five-class accuracy (%)")
    ax.set_title("accuracy by coalition")


def _share_panel(ax: Axes, shares: pd.DataFrame, readers: list[str]) -> None:
    facts = published_claims()
    known = {("V", s): facts[f"vcc_share_v_{s}"] for s in SUBSETS}
    values, drawn, places = list(known.values()), [], []
    for place, modality in enumerate(MODALITIES):
        for side, subset in zip((-0.24, 0.24), SUBSETS, strict=True):
            keys = {"subset": subset, "modality": modality}
            bars = [
                scaled(one_row(shares, "shares", source=source, **keys), 100)
                for source in (MODEL, *readers)
            ]
            paint = bar_paint(MODALITY_COLOURS[modality], subset)
            tick = known.get((modality, subset))
            drawn += draw_bar(ax, place + side, 0.40, bars[0], paint, bars[1:], tick)
            values += [bar[0] for bar in bars]
            places.append(place + side)
    ax.axhline(0, color="black", lw=0.8)
    limit_axis(ax, values, drawn)
    ax.set_xticks(places, [SUBSET_TITLES[s] for _ in MODALITIES for s in SUBSETS], fontsize=7)
    names = ax.secondary_xaxis(-0.07)
    names.set_xticks(range(len(MODALITIES)), MODALITIES)
    for axis in (names, ax):
        axis.tick_params(axis="x", length=0)
    names.spines["bottom"].set_visible(False)
    ax.set_xlim(-0.5, len(MODALITIES) - 0.5)
    ax.set_ylabel("PSMV share (%)")
    ax.set_title("PSMV share")


def _collapse_panel(ax: Axes, vcc: pd.DataFrame, readers: list[str]) -> None:
    """The fall of video's share of the model, of each strategy and of the paper, a row each."""
    facts = published_claims()
    published = facts["vcc_share_v_align"] - facts["vcc_share_v_conflict"]
    values, drawn = [published], []
    text = {"transform": ax.get_yaxis_transform(), "fontsize": 7, "va": "center"}
    rows = [(MODEL, "D", {"mfc": COLOURS["v"], "mec": COLOURS["v"], "ms": 5.5})]
    rows += [(name, mark, HOLLOW) for name, mark in zip(readers, MARKERS, strict=False)]
    for y, (source, marker, look) in enumerate(rows):
        fall = scaled(one_row(vcc, "vcc", source=source, quantity="collapse"), 100)
        values.append(fall[0])
        drawn.append((y, *fall[1:]))
        ax.hlines(y, *fall[1:], color=INK, lw=1)
        ax.plot(fall[0], y, **{**look, "marker": marker, "ls": ""})
        ax.text(1.03, y, f"{number(fall[0], 1)} {bracketed(*fall[1:], 1)}", **text)
    ax.axvline(published, color=PUBLISHED, lw=1.8)
    ax.text(1.03, len(rows), number(published, 1), **text)
    ax.axvline(0, color="black", lw=0.8)
    row_axis(ax, [*(source for source, *_ in rows), "published"])
    limit_axis(ax, values, drawn, "x")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("Align less Conflict (points)")
    ax.set_title("collapse of V's PSMV share")


def figure3(
    accuracy: pd.DataFrame, drops: pd.DataFrame, vcc: pd.DataFrame, shares: pd.DataFrame
) -> Figure:
    """Figure 3, left and middle: accuracy by coalition, and PSMV shares (Sec. 4.2).

    All quantities are fractions; the figure shows them in percent. An interval that would dwarf the
    bars is cut at the axis with an arrow.

    Parameters
    ----------
    accuracy
        ``subset, coalition, value, low, high, n`` for Align and Conflict, all eight coalitions;
        the empty one is drawn as a line.
    drops
        ``coalition, value, low, high``: accuracy on Align minus that on Conflict for T, A, V
        (published 0.104, 0.098, 0.160).
    vcc
        ``source, quantity, value, low, high``; of it the rows ``collapse`` (published 0.125).
    shares
        PSMV shares ``source, subset, modality, value, low, high``; ``source`` is ``model`` or the
        name of a reference strategy.

    A subset without any row is one without a clip, whose bars are missing. Raises ``ValueError``
    that names the frame and the missing column or row.
    """
    need(shares, "shares", "source")
    need(accuracy, "accuracy", "n")
    readers = strategies(shares["source"])
    accuracy = _both_subsets(accuracy, coalition=COALITIONS)
    shares = _both_subsets(shares, source=[MODEL, *readers], modality=MODALITIES)
    with context():
        rows = 2 + len(readers)
        fig = plt.figure(figsize=(9.6, 4.8 + 0.24 * rows), layout="constrained")
        above, below = fig.add_gridspec(2, 1, height_ratios=[3.2, 0.6 + 0.2 * rows])
        left, right = above.subgridspec(1, 2, width_ratios=[1.4, 1.4])
        _accuracy_panel(fig.add_subplot(left), accuracy, drops)
        _share_panel(fig.add_subplot(right), shares, readers)
        _collapse_panel(fig.add_subplot(below), vcc, readers)
        whole = [
            tuple(Patch(**bar_paint(colour, s)) for colour in MODALITY_COLOURS.values())
            for s in SUBSETS
        ]
        handles = [
            *modality_handles(),
            Patch(facecolor=_SEVERAL, label="several modalities"),
            *whole,
            line_entry("no modality, Align", INK, "--", lw=1),
            line_entry("no modality, Conflict", INK, ":", lw=1),
            *mark_handles(readers),
        ]
        names = [h.get_label() if isinstance(h, Artist) else "" for h in handles]
        names[4:6] = [SUBSET_TITLES[s] for s in SUBSETS]
        fig.legend(
            handles, names, loc="outside lower center", ncols=5,
            handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        )  # fmt: skip
        clips = [one_row(accuracy, "accuracy", subset=s, coalition="TAV")["n"] for s in SUBSETS]
        remark = (
            f"n = {int(clips[0]):,} Align and {int(clips[1]):,} Conflict clips, 95% intervals; "
            "hollow marks: reference strategies on the same clips"
        )
        title = "Figure 3 (left, middle). Video contribution collapse"
        titled(fig, title, remark)
        return fig
