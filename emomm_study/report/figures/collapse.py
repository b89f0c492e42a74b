"""Figures of video contribution collapse and of modality preference: Figure 3, 9 and 10."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from emomm_lib.labels import COALITIONS, MODALITIES, coalition_modalities
from emomm_lib.metrics.psmv import SUBSETS
from emomm_study import paper
from emomm_study.report.figures.parts import (
    MODALITY_COLOURS,
    band,
    dots,
    halo,
    layer_axis,
    line_entry,
    modality_handles,
    no_clips,
    one_row,
    row_axis,
)
from emomm_study.report.frames import need
from emomm_study.report.numbers import bracketed, number
from emomm_study.report.style import (
    COLOURS,
    INK,
    PUBLISHED,
    SUBSET_TITLES,
    context,
    titled,
)

_MODEL = "model"
_SEVERAL = "#8C8C8C"
_READERS = "osdXp*"
_READER_MARKS = {"ls": "", "mfc": "white", "mec": "black", "ms": 4.5, "mew": 0.9}
_GROUP = "#F3F3F3"
"""Behind a bar and the marks that belong to it."""
_SHAPES = {"TA": "^", "TV": "v", "AV": "P", "TAV": "D"}
_HALO = halo(2.4)


def _scaled(row: pd.Series, factor: float = 1.0) -> tuple[float, float, float]:
    return tuple(factor * float(row[name]) for name in ("value", "low", "high"))


def _published() -> pd.Series:
    return paper.claims().set_index("id")["value"]


def _names(column: Iterable[str]) -> list[str]:
    """Reference strategies in order of appearance; each has the marker of its place."""
    names = [name for name in dict.fromkeys(column) if name != _MODEL]
    if len(names) > len(_READERS):
        raise ValueError(f"at most {len(_READERS)} strategies have a marker, got {names}")
    return names


def _paint(colour: str, subset: str) -> dict[str, object]:
    """Full colour for Align, a hatched tint of the same for Conflict."""
    if subset == "align":
        return {"facecolor": colour, "edgecolor": colour}
    tint = 1 - 0.35 * (1 - np.array(to_rgb(colour)))
    return {"facecolor": tuple(tint), "edgecolor": colour, "hatch": "/////"}


def _bar(
    ax: Axes,
    x: float,
    width: float,
    model: tuple[float, float, float],
    paint: dict[str, object],
    readers: Iterable[tuple[float, float, float]] = (),
    published: float | None = None,
) -> list[tuple[float, float, float]]:
    """A bar with interval and published tick, readers to its right; the intervals' x, low, high."""
    readers = list(readers)
    own = width / (1 + 0.38 * len(readers))
    left, step = x - width / 2, (width - own) / max(1, len(readers))
    centres = [left + own / 2, *(left + own + (k + 0.5) * step for k in range(len(readers)))]
    drawn = [(centre, *bar[1:]) for centre, bar in zip(centres, [model, *readers], strict=True)]
    if readers:
        ax.axvspan(left - 0.02, left + width + 0.02, color=_GROUP, lw=0, zorder=0)
    ax.bar(centres[0], model[0], 0.94 * own, linewidth=0.8, **paint)
    ax.vlines(*drawn[0], color=INK, lw=1.3, path_effects=_HALO, zorder=3)
    for marker, centre, (value, low, high) in zip(_READERS, centres[1:], readers, strict=False):
        ax.vlines(centre, low, high, color=INK, lw=0.7, zorder=3)
        ax.plot(centre, value, marker=marker, zorder=4, **_READER_MARKS)
    if published is not None:
        line = {"color": PUBLISHED, "lw": 1.8, "path_effects": _HALO, "zorder": 5}
        ax.hlines(published, left, left + own, **line)
    return drawn


def _limit(
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


def _mark_handles(readers: list[str]) -> list[Artist]:
    return [
        line_entry("published", PUBLISHED, lw=1.8),
        *(
            Line2D([], [], marker=marker, label=name, **_READER_MARKS)
            for marker, name in zip(_READERS, readers, strict=False)
        ),
    ]


def _both_subsets(frame: pd.DataFrame, **keys: Iterable[str]) -> pd.DataFrame:
    """A frame with rows of NaN for a subset that it has nothing of."""
    absent = [subset for subset in SUBSETS if subset not in set(frame["subset"])]
    rows = pd.MultiIndex.from_product([absent, *keys.values()], names=["subset", *keys])
    return pd.concat([frame, rows.to_frame(index=False).assign(n=0)]) if len(rows) else frame


def _accuracy_panel(ax: Axes, accuracy: pd.DataFrame, drops: pd.DataFrame) -> None:
    facts, coalitions = _published(), COALITIONS[1:]
    # Wider places for T, A and V leave room for the numbers above them.
    places = np.cumsum([0, 1.9, 1.9, 1.75, 1, 1, 1])
    top = 0.0
    for place, coalition in zip(places, coalitions, strict=True):
        colour = COLOURS.get(coalition.lower(), _SEVERAL)
        for side, subset in zip((-0.2, 0.2), SUBSETS, strict=True):
            row = one_row(accuracy, "accuracy", subset=subset, coalition=coalition)
            bar = _scaled(row, 100)
            _bar(ax, place + side, 0.4, bar, _paint(colour, subset))
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
        value, low, high = _scaled(one_row(drops, "drops", coalition=modality), 100)
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
    facts = _published()
    known = {("V", s): facts[f"vcc_share_v_{s}"] for s in SUBSETS}
    values, drawn, places = list(known.values()), [], []
    for place, modality in enumerate(MODALITIES):
        for side, subset in zip((-0.24, 0.24), SUBSETS, strict=True):
            keys = {"subset": subset, "modality": modality}
            bars = [
                _scaled(one_row(shares, "shares", source=source, **keys), 100)
                for source in (_MODEL, *readers)
            ]
            paint, tick = _paint(MODALITY_COLOURS[modality], subset), known.get((modality, subset))
            drawn += _bar(ax, place + side, 0.40, bars[0], paint, bars[1:], tick)
            values += [bar[0] for bar in bars]
            places.append(place + side)
    ax.axhline(0, color="black", lw=0.8)
    _limit(ax, values, drawn)
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
    facts = _published()
    published = facts["vcc_share_v_align"] - facts["vcc_share_v_conflict"]
    values, drawn = [published], []
    text = {"transform": ax.get_yaxis_transform(), "fontsize": 7, "va": "center"}
    rows = [(_MODEL, "D", {"mfc": COLOURS["v"], "mec": COLOURS["v"], "ms": 5.5})]
    rows += [(name, mark, _READER_MARKS) for name, mark in zip(readers, _READERS, strict=False)]
    for y, (source, marker, look) in enumerate(rows):
        fall = _scaled(one_row(vcc, "vcc", source=source, quantity="collapse"), 100)
        values.append(fall[0])
        drawn.append((y, *fall[1:]))
        ax.hlines(y, *fall[1:], color=INK, lw=1)
        ax.plot(fall[0], y, **{**look, "marker": marker, "ls": ""})
        ax.text(1.03, y, f"{number(fall[0], 1)} {bracketed(*fall[1:], 1)}", **text)
    ax.axvline(published, color=PUBLISHED, lw=1.8)
    ax.text(1.03, len(rows), number(published, 1), **text)
    ax.axvline(0, color="black", lw=0.8)
    row_axis(ax, [*(source for source, *_ in rows), "published"])
    _limit(ax, values, drawn, "x")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("Align less Conflict (points)")
    ax.set_title("collapse of V's PSMV share")


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
    legend = {"color": _SEVERAL, "ls": "none", "ms": 6, "mew": 0}
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
        value, *ends = _scaled(one_row(correlation, "correlation", quantity=quantity))
        lines.append(f"{name} {number(value, 2)} {bracketed(*ends, 2)}")
    ax.set_xlabel("\n".join(lines), fontsize=7.5)


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
    readers = _names(shares["source"])
    accuracy = _both_subsets(accuracy, coalition=COALITIONS)
    shares = _both_subsets(shares, source=[_MODEL, *readers], modality=MODALITIES)
    with context():
        rows = 2 + len(readers)
        fig = plt.figure(figsize=(9.6, 4.8 + 0.24 * rows), layout="constrained")
        above, below = fig.add_gridspec(2, 1, height_ratios=[3.2, 0.6 + 0.2 * rows])
        left, right = above.subgridspec(1, 2, width_ratios=[1.4, 1.4])
        _accuracy_panel(fig.add_subplot(left), accuracy, drops)
        _share_panel(fig.add_subplot(right), shares, readers)
        _collapse_panel(fig.add_subplot(below), vcc, readers)
        whole = [
            tuple(Patch(**_paint(colour, s)) for colour in MODALITY_COLOURS.values())
            for s in SUBSETS
        ]
        handles = [
            *modality_handles(),
            Patch(facecolor=_SEVERAL, label="several modalities"),
            *whole,
            line_entry("no modality, Align", INK, "--", lw=1),
            line_entry("no modality, Conflict", INK, ":", lw=1),
            *_mark_handles(readers),
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
    ax.set(ylim=(0, 1), title=title)
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
    facts, labels = _published(), []
    for x, modality in enumerate(MODALITIES):
        keys = {"setting": setting, "modality": modality}
        row = one_row(gtar, "gtar", **keys)
        others = [
            _scaled(one_row(reader_gtar, "reader_gtar", reader=reader, **keys))
            for reader in readers
        ]
        paint = _paint(MODALITY_COLOURS[modality], "align")
        tick = facts.get(f"gtar_{modality.lower()}_{setting}")
        _bar(ax, x, 0.84, _scaled(row), paint, others, tick)
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
    readers = _names(reader_gtar["reader"])
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
        handles = [*modality_handles(), *_mark_handles(readers)]
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
    limit = _published()["nmas_v_limit"]
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
