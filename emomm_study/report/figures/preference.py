"""Modality preference: Figure 3 (right), 9 and 10."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emomm_lib.labels import MODALITIES, coalition_modalities
from emomm_study.report.figures.beside import (
    bar_paint,
    draw_bar,
    mark_handles,
    published_claims,
    scaled,
    strategies,
)
from emomm_study.report.figures.parts import (
    MODALITY_COLOURS,
    band,
    dots,
    layer_axis,
    line_entry,
    modality_handles,
    no_clips,
    one_row,
)
from emomm_study.report.frames import need
from emomm_study.report.numbers import bracketed, number
from emomm_study.report.style import PUBLISHED, context, titled

_SHAPES = {"TA": "^", "TV": "v", "AV": "P", "TAV": "D"}
_GREY = "#8C8C8C"


def _correlation_panel(ax: Axes, points: pd.DataFrame, correlation: pd.DataFrame) -> None:
    ends = [f"{of}_{end}" for of in ("gtar", "share") for end in ("low", "high")]
    need(points, "points", "coalition", "modality", "gtar", "share", *ends, "n")
    if unknown := set(points["coalition"]) - set(_SHAPES):
        raise ValueError(f"points: coalitions are {tuple(_SHAPES)}, got also {sorted(unknown)}")
    for point in points.itertuples():
        colour = MODALITY_COLOURS[point.modality]
        ax.hlines(point.gtar, point.share_low, point.share_high, color=colour, lw=1.1)
        ax.vlines(point.share, point.gtar_low, point.gtar_high, color=colour, lw=1.1)
    sns.scatterplot(
        points, x="share", y="gtar", hue="modality", palette=MODALITY_COLOURS, style="coalition",
        markers=_SHAPES, s=64, linewidth=0.7, legend=False, ax=ax, zorder=3,
    )  # fmt: skip
    ax.margins(0.1)
    low, high = ax.get_ylim()
    ax.set_yticks([t for t in ax.get_yticks() if low <= t <= min(high, 1)])
    ax.set_ylim(low, high + 0.22 * (high - low))
    legend = {"color": _GREY, "ls": "none", "ms": 6, "mew": 0}
    handles = [Line2D([], [], marker=s, label=c, **legend) for c, s in _SHAPES.items()]
    ax.legend(handles=handles, ncols=4, loc="upper center", columnspacing=0.9, handletextpad=0.1)
    ax.set_ylabel("GTAR")
    ax.set_title("GTAR against nMAS share")
    lines = ["nMAS share", "", "Pearson r"]
    names = {
        "between": "over the points",
        "adjusted": "less each coalition's mean",
        "within": "clip by clip, within points",
    }
    for quantity, name in names.items():
        value, *ends = scaled(one_row(correlation, "correlation", quantity=quantity))
        lines.append(f"{name} {number(value, 2)} {bracketed(*ends, 2)}")
    ax.set_xlabel("\n".join(lines), fontsize=7.5)


def figure3_right(points: pd.DataFrame, correlation: pd.DataFrame) -> Figure:
    """Figure 3, right: GTAR against nMAS share, a point for each modality of each coalition.

    Parameters
    ----------
    points
        ``coalition, modality, gtar, share, n`` and the ends ``gtar_low, gtar_high, share_low,
        share_high`` as by ``evaluate.adoption.preference_points``.
    correlation
        ``quantity, value, low, high`` with ``between`` (over the points), ``adjusted`` (less each
        coalition's mean) and ``within`` (over clips within each point).

    Raises ``ValueError`` that names the frame and the missing column or row.
    """
    with context():
        fig, ax = plt.subplots(figsize=(5.4, 4.4), layout="constrained")
        _correlation_panel(ax, points, correlation)
        fig.legend(handles=modality_handles(), loc="outside lower center", ncols=3)
        few, many = int(points["n"].min()), int(points["n"].max())
        below = f"n = {few:,} to {many:,} cases a point, 95% intervals over clips"
        titled(fig, "Figure 3 (right). Attention and adoption", below)
        return fig


def _layers(ax: Axes, by_layer: pd.DataFrame, coalition: str, title: str) -> None:
    columns = ("coalition", "layer", "modality", "quantity", "value", "low", "high", "n")
    need(by_layer, "by_layer", *columns, empty=True)
    ax.set(ylim=(0, 1.03), title=title)
    if not by_layer["coalition"].eq(coalition).any():
        no_clips(ax)
        return
    chosen = by_layer["coalition"].eq(coalition) & by_layer["quantity"].eq("share")
    last = 1
    for modality in coalition_modalities(coalition):
        line = by_layer[chosen & by_layer["modality"].eq(modality)].sort_values("layer")
        if line.empty:
            raise ValueError(
                f"by_layer: no share of {modality} in {coalition}; trace that coalition, too"
            )
        colour, layer = MODALITY_COLOURS[modality], line["layer"]
        band(ax, layer, line, colour, alpha=0.25)
        ax.plot(
            layer, line["value"], color=colour, lw=1.6, marker=dots(line), ms=3.5, label=modality
        )
        last = max(last, int(layer.iloc[-1]))
    layer_axis(ax, last)
    ax.set_title(f"{title}, n = {int(by_layer.loc[chosen, 'n'].max()):,}")


def _gtar_panel(
    ax: Axes, gtar: pd.DataFrame, reader_gtar: pd.DataFrame, readers: list[str], setting: str
) -> None:
    facts, labels = published_claims(), []
    for x, modality in enumerate(MODALITIES):
        keys = {"setting": setting, "modality": modality}
        row = one_row(gtar, "gtar", **keys)
        others = [
            scaled(one_row(reader_gtar, "reader_gtar", reader=reader, **keys)) for reader in readers
        ]
        paint = bar_paint(MODALITY_COLOURS[modality], "align")
        tick = facts.get(f"gtar_{modality.lower()}_{setting}")
        draw_bar(ax, x, 0.84, scaled(row), paint, others, tick)
        labels.append(f"{modality}\n{number(row['value'], 3)}\nn={int(row['n']):,}")
    ax.set_xticks(range(len(MODALITIES)), labels)
    ax.set_ylim(0, 1.02)


def figure9(gtar: pd.DataFrame, reader_gtar: pd.DataFrame, by_layer: pd.DataFrame) -> Figure:
    """Figure 9: (a) GTAR on Missing-Conflict and on Conflict, (b) nMAS share by layer.

    Parameters
    ----------
    gtar
        ``setting, modality, value, low, high, n`` with settings ``missing_conflict`` (published
        T 0.806, V 0.578) and ``conflict`` (T 0.857, V 0.706).
    reader_gtar
        The same with a column ``reader``: reference strategies; may have no rows.
    by_layer
        ``coalition, layer, modality, quantity, value, low, high, n`` of conflict clips; of it the
        rows ``TAV, share``.

    Raises ``ValueError`` that names the frame and the missing column or row.
    """
    settings = {"missing_conflict": "Missing-Conflict", "conflict": "Conflict"}
    need(gtar, "gtar", "n")
    need(reader_gtar, "reader_gtar", "reader", empty=True)
    readers = strategies(reader_gtar["reader"])
    with context():
        fig, axes = plt.subplots(
            1, 3, figsize=(9.6, 4.1), layout="constrained", width_ratios=[1, 1, 1.35]
        )
        for ax, (setting, name) in zip(axes, settings.items(), strict=False):
            _gtar_panel(ax, gtar, reader_gtar, readers, setting)
            ax.set_title(f"(a) {name}")
        axes[0].set_ylabel("GTAR")
        _layers(axes[2], by_layer, "TAV", "(b) one of three wrong")
        axes[2].set_ylabel("nMAS share")
        handles = [*modality_handles(), *mark_handles(readers)]
        fig.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
        title = "Figure 9. Modality preference and attention under conflict"
        below = "95% intervals over clips; hollow marks: reference strategies on the same cases"
        titled(fig, title, below)
        return fig


def figure10(by_layer: pd.DataFrame) -> Figure:
    """Figure 10: nMAS share by layer on Missing-Conflict, a panel for each pair of modalities.

    ``by_layer`` has ``coalition, layer, modality, quantity, value, low, high, n``; of it the rows
    ``share`` of TA, TV and AV, layers counted from 1, values 0..1. A dotted line marks the
    published limit of video, 0.2 in almost all layers. Raises ``ValueError`` that names the missing
    column, or the coalition and modality without rows.
    """
    limit = published_claims()["nmas_v_limit"]
    with context():
        fig, axes = plt.subplots(1, 3, figsize=(9.6, 3.5), layout="constrained", sharey=True)
        for ax, coalition in zip(axes, ("TA", "TV", "AV"), strict=True):
            first, second = coalition
            _layers(ax, by_layer, coalition, f"{first} and {second} present")
            if "V" in coalition:
                ax.axhline(limit, color=PUBLISHED, ls=":", lw=1.4)
        axes[0].set_ylabel("nMAS share")
        published = line_entry(f"published: V < {limit:g}", PUBLISHED, ":", lw=1.4)
        handles = [*modality_handles(), published]
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        title = "Figure 10. Attention with one modality missing"
        titled(fig, title, "Missing-Conflict, 95% intervals over clips")
        return fig
