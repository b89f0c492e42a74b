"""Figures of CHASE: its router, what steering gains over the unsteered model, and sweeps."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from emomm_study.evaluate.routing import expected_calibration_error
from emomm_study.report.figures.parts import band, dots, layer_axis, line_entry, row_axis, unshown
from emomm_study.report.frames import need
from emomm_study.report.numbers import bracketed, fixed, points
from emomm_study.report.style import (
    FAINT,
    GREY,
    INK,
    SUBSET_COLOURS,
    SUBSET_TITLES,
    context,
    titled,
)

ROUTER_COLOURS = ("#332288", "#D55E00", "#5FBFD3", "#7A7A7A")
"""Routers in order; apart in lightness, and none is a modality's colour."""
# Lines and small marks need more contrast with white than style.SUBSET_COLOURS gives Align.
_COLOURS = {"align": "#525E73", "conflict": SUBSET_COLOURS["conflict"], "missing": "#3B1F5C"}
_LINES = {"align": ("--", "s"), "conflict": ("-", "o"), "missing": ("-.", "^")}
_COALITIONS = ("TAV", "TA", "TV", "AV")
_SPLITS = {"valid": "validation", "test": "test"}
_GROUP_MARKERS = "oDs^v"
NOTHING_TO_TRUST = (
    "No prompt of these clips has a modality that is right and one that is wrong, so that there is "
    "nobody to trust."
)
_TYPESET = {
    "tau": r"$\tau$",
    "eta": r"$\eta$",
    "gamma": r"$\gamma$",
    "beta": r"$\beta$",
    "K": r"$K$",
    "psi_hat": r"$\hat{\psi}$",
    "P": r"$P$",
    "l_r": r"$l_r$",
    "sharpness": "sharpness",
}


def _known(column: pd.Series, what: str, allowed: dict | tuple) -> list[str]:
    """Values of a column in the order of those allowed."""
    present = set(column)
    if unknown := sorted(present - set(allowed), key=str):
        raise ValueError(f"{what}: {column.name} is one of {tuple(allowed)}, got also {unknown}")
    return [name for name in allowed if name in present]


def _order(column: pd.Series) -> list[str]:
    """Categories that occur, or values in order of appearance."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return [*column.cat.categories[column.cat.categories.isin(column)]]
    return [*dict.fromkeys(column)]


def _router_colours(column: pd.Series) -> dict[str, str]:
    """Colours by router; of categories also those that do not occur have their own."""
    categories = isinstance(column.dtype, pd.CategoricalDtype)
    places = [*column.cat.categories] if categories else _order(column)
    if len(places) > len(ROUTER_COLOURS):
        raise ValueError(f"at most {len(ROUTER_COLOURS)} routers have a colour, got {places}")
    colours = dict(zip(places, ROUTER_COLOURS, strict=False))
    return {router: colours[router] for router in _order(column)}


def _legend(fig: Figure, handles: list[Artist]) -> None:
    """A legend beneath, on one line where that is wide enough for all names."""
    widths = [0.5 + 0.065 * len(handle.get_label()) for handle in handles]
    columns = len(handles)
    if sum(widths) > fig.get_figwidth():
        columns = max(1, int(fig.get_figwidth() / max(widths)))
    fig.legend(handles=handles, loc="outside lower center", ncols=columns)


def _panels(
    columns: int, size: tuple[float, float], lines: int = 1, *, sharex: bool = False
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure of ``(lines, columns)`` panels with one y axis, and with one x axis where asked."""
    return plt.subplots(
        lines,
        columns,
        figsize=size,
        layout="constrained",
        sharex=sharex,
        sharey=True,
        squeeze=False,
    )


def _seeds(ax: Axes, rows: pd.DataFrame, quantity: str, colour: str, ls: str = "-") -> None:
    """A thin line a seed, and their mean bold."""
    look = {"x": "epoch", "y": quantity, "color": colour, "ls": ls, "errorbar": None, "ax": ax}
    sns.lineplot(rows, **look, units="seed", estimator=None, alpha=0.4, lw=0.8)
    sns.lineplot(rows, **look, lw=2.0 if ls == "-" else 1.4)
    ax.set(xlabel="epoch", ylabel="")


def training_curves(history: pd.DataFrame, prompts: int, chance: float) -> Figure:
    """Loss of each router by epoch, and on validation clips AUC of p and top-1 of the gate.

    Parameters
    ----------
    history
        ``router, seed, epoch, loss, valid_loss, layers, conflict_auc, gate_top1``, the last two in
        0..1; histories of :func:`emomm_lib.chase.training.train_router`. Eq. 10 sums a loss over
        the layers that a router is trained on, ``layers`` of them; drawn is the mean of these, on
        one logarithmic scale. Routers in order of appearance or of their categories, which also
        give them their colours.
    prompts
        Validation prompts.
    chance
        Top-1 of a modality drawn at random, in 0..1 (``evaluate.routing.trust_by_chance``).

    Raises ``ValueError`` for a missing column, two rows of one epoch, or more than four routers.
    """
    keys = ("router", "seed", "epoch")
    chances = {"conflict_auc": 0.5, "gate_top1": chance}
    quantities = {"conflict_auc": "AUC of $p$", "gate_top1": "gate top-1"}
    need(history, "history", *keys, "loss", "valid_loss", "layers", *quantities, once=keys)
    colours = _router_colours(history["router"])
    losses = ["loss", "valid_loss"]
    history = history.assign(**history[losses].div(history["layers"], axis=0))
    seeds = history.groupby("router", observed=True)["seed"].nunique()
    with context():
        count = len(colours) + len(quantities)
        fig, axes = plt.subplots(
            1, count, figsize=(min(9.6, 2.5 * count), 3.3), layout="constrained"
        )
        for ax, (router, colour) in zip(axes, colours.items(), strict=False):
            rows = history[history["router"] == router]
            _seeds(ax, rows, "loss", colour, "--")
            _seeds(ax, rows, "valid_loss", colour)
            ax.set_title(fill(str(router), 24), fontsize=9)
            for other, name in zip(axes[len(colours) :], quantities, strict=True):
                _seeds(other, rows, name, colour)
        axes[0].set_ylabel("loss a layer (Eq. 10, log)")
        least, most = history[losses].min().min(), history[losses].max().max()
        decades = np.log10(most / least)
        ticks = (1, 2, 3, 5) if decades < 1 else (1, 3) if decades < 2 else (1,)
        for ax in axes[: len(colours)]:
            ax.set(yscale="log", ylim=(least / 1.08, most * 1.08))
            ax.yaxis.set_major_locator(LogLocator(subs=ticks))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_locator(NullLocator())
        ends = [*history[[*quantities]].to_numpy().ravel(), 0.5, chance]
        pad = 0.05 * (np.nanmax(ends) - np.nanmin(ends))
        for ax, (name, title) in zip(axes[len(colours) :], quantities.items(), strict=True):
            ax.axhline(chances[name], color=GREY, lw=1, ls=":")
            ax.set_ylim(np.nanmin(ends) - pad, np.nanmax(ends) + pad)
            ax.set_title(title, fontsize=9)
        for ax in axes:
            ax.set_xlabel("epoch")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        handles = [
            *(line_entry(router, colour, lw=2) for router, colour in colours.items()),
            line_entry("training", INK, "--", lw=1.4),
            line_entry("validation", INK, lw=2),
            line_entry("one seed", INK, lw=0.8, alpha=0.6),
            line_entry("chance", GREY, ":", lw=1),
        ]
        _legend(fig, handles)
        few, many = seeds.min(), seeds.max()
        number = f"{many}" if few == many else f"{few} to {many}"
        below = f"seeds a router: {number}; n = {prompts:,} validation prompts"
        titled(fig, "Training of the router", below)
        return fig


def reliability_diagram(table: pd.DataFrame) -> Figure:
    """Observed share of conflicts against predicted p, and beneath the prompts in each bin.

    ``table`` has ``split`` (``valid, test``) and ``low, high, predicted, observed, n`` as by
    :func:`emomm_study.evaluate.routing.reliability`, all but n in 0..1. Raises ``ValueError`` for a
    missing column, another split, or two rows of one bin.
    """
    columns = ("low", "high", "predicted", "observed", "n")
    need(table, "table", "split", *columns, once=("split", "low"))
    splits = _known(table["split"], "table", _SPLITS)
    colour = ROUTER_COLOURS[0]
    with context():
        size = (1.2 + 3.3 * len(splits), 4.6)
        shape = {"height_ratios": [4, 1], "sharex": True, "squeeze": False}
        fig, axes = plt.subplots(2, len(splits), figsize=size, layout="constrained", **shape)
        for (ax, strip), split in zip(axes.T, splits, strict=True):
            rows = table[table["split"] == split].sort_values("low")
            ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
            ax.plot(rows["predicted"], rows["observed"], color=colour, lw=1, alpha=0.5)
            areas = np.maximum(260 * rows["n"] / table["n"].max(), 8)
            ax.scatter(
                rows["predicted"], rows["observed"], areas, color=colour, alpha=0.85, lw=0, zorder=3
            )
            width = rows["high"] - rows["low"]
            bars = {"color": colour, "edgecolor": "white", "lw": 0.8, "align": "edge"}
            strip.bar(rows["low"], rows["n"], width, **bars)
            ax.set_xlim(-0.03, 1.03)
            ax.set_ylim(-0.03, 1.03)
            ax.set_title(f"{_SPLITS[split]}, {int(rows['n'].sum()):,} prompts")
            error = f"ECE {fixed(expected_calibration_error(rows), 3)}"
            ax.text(0.97, 0.04, error, transform=ax.transAxes, ha="right", fontsize=8)
            strip.set_xlabel("predicted probability $p$")
            strip.yaxis.set_major_locator(MaxNLocator(2, integer=True))
            strip.yaxis.set_major_formatter("{x:,.0f}")
        axes[0, 0].set_ylabel("observed share of conflicts")
        axes[1, 0].set_ylabel("prompts")
        handles = [
            line_entry("bin of p, area by prompts", colour, marker="o", lw=1),
            line_entry("predicted = observed", GREY, ":", lw=1),
        ]
        _legend(fig, handles)
        titled(fig, "Reliability of the conflict probability", "bins of equal width")
        return fig


def _is_level(rows: pd.DataFrame) -> bool:
    """Whether a router says the same in every layer of a panel, which is drawn dashed."""
    return (len(rows) > 1 and rows["value"].nunique() == 1) or bool(rows["layer"].isna().any())


def _gate_line(ax: Axes, rows: pd.DataFrame, colour: str, last: int) -> None:
    rows = rows.sort_values("layer")
    if _is_level(rows):
        edges = np.array([0.5, last + 0.5])
        band(ax, edges, rows.iloc[[0, 0]], colour)
        ax.plot(edges, rows["value"].iloc[[0, 0]], color=colour, lw=1.8, ls="--")
        return
    band(ax, rows["layer"], rows, colour)
    ax.plot(rows["layer"], rows["value"], color=colour, lw=1.8, marker=dots(rows), ms=3.5)


def gate_by_layer(frame: pd.DataFrame) -> Figure:
    """Share of conflicts in which the gate's first modality is right, by layer and coalition.

    Parameters
    ----------
    frame
        ``router, coalition, layer, value, low, high, n``, values 0..1, layers counted from 1. A router
        with one gate for all layers has equal values, or one row with no layer (NaN or NA), and is
        drawn level and dashed. An optional ``chance`` (one a coalition, or NaN) is drawn dotted.
        A frame without rows becomes a sentence.

    Raises ``ValueError`` for a missing column, two rows of one layer, an unknown coalition, more
    than four routers, or two chances of one coalition.
    """
    keys = ("router", "coalition", "layer")
    need(frame, "frame", *keys, "value", "low", "high", "n", once=keys, empty=True)
    if frame.empty:
        return unshown("Gate by layer", "no clips", NOTHING_TO_TRUST)
    coalitions = _known(frame["coalition"], "frame", _COALITIONS)
    colours = _router_colours(frame["router"])
    # Integers beside pd.NA are a column of objects, which cannot be drawn.
    layers = frame["layer"].astype("Float64").to_numpy(float, na_value=np.nan)
    frame = frame.assign(layer=layers)
    finite = frame["layer"].dropna()
    last = int(finite.max()) if len(finite) else 1
    with context():
        fig, axes = _panels(len(coalitions), (min(9.6, 1.6 + 2.4 * len(coalitions)), 3.2))
        chances = False
        for ax, coalition in zip(axes[0], coalitions, strict=True):
            panel = frame[frame["coalition"] == coalition]
            if "chance" in panel:
                chance = panel["chance"].dropna().unique()
                if len(chance) > 1:
                    raise ValueError(f"frame: {coalition} has several chances {chance.tolist()}")
                chances |= bool(len(chance))
                for level in chance:
                    ax.axhline(level, color=GREY, lw=1, ls=":")
            for router, colour in colours.items():
                rows = panel[panel["router"] == router]
                if len(rows):
                    _gate_line(ax, rows, colour, last)
            layer_axis(ax, last)
            ax.set(ylim=(0, 1), title=f"{coalition}, n = {int(panel['n'].max()):,}")
        axes[0, 0].set_ylabel("gate's first modality is right")
        handles = []
        for router, colour in colours.items():
            panels = frame[frame["router"] == router].groupby("coalition")
            style = "--" if all(_is_level(rows) for _, rows in panels) else "-"
            handles.append(line_entry(router, colour, style, lw=2))
        if chances:
            handles.append(line_entry("chance", GREY, ":", lw=1))
        _legend(fig, handles)
        titled(fig, "Gate by layer", "conflicts, 95% intervals over clips")
        return fig


def _forest(ax: Axes, rows: pd.DataFrame, places: dict, colour: str, markers: dict) -> None:
    text = {"transform": ax.get_yaxis_transform(), "fontsize": 6.5, "va": "center"}
    for row in rows.itertuples(index=False):
        y = places[row.group, row.method]
        ax.hlines(y, 100 * row.low, 100 * row.high, color=colour, lw=1.2)
        ax.plot(100 * row.value, y, markers[row.group], color=colour, ms=4.5, mew=0)
        value = points(row.value, sign=True)
        ax.text(1.02, y, f"{value} {bracketed(100 * row.low, 100 * row.high, 1)}", **text)


def _places(gains: pd.DataFrame) -> tuple[dict[tuple[str, str], int], dict[int, str]]:
    """Rows of a forest by (group, method), and the name of every row, the groups' among them."""
    groups, places, ticks = _order(gains["group"]), {}, {}
    if len(groups) > len(_GROUP_MARKERS):
        raise ValueError(f"gains: at most {len(_GROUP_MARKERS)} groups have a marker, got {groups}")
    for group in groups:
        ticks[len(ticks)] = group
        for method in _order(gains.loc[gains["group"] == group, "method"]):
            places[group, method] = len(ticks)
            ticks[len(ticks)] = method
    return places, ticks


def gains_forest(
    gains: pd.DataFrame,
    reference: str | None = None,
    *,
    title: str = "Gains over the unsteered model",
) -> Figure:
    """Gain of each method with its interval, a panel a subset, methods under their groups.

    Parameters
    ----------
    gains
        ``method, group, subset`` (``align, conflict, missing``) and ``value, low, high, n``: accuracy
        less the unsteered model's, as fractions; shown in points. Groups and methods are in order
        of appearance or of their categories. Further columns are ignored.
    reference
        A method whose gain is drawn through each panel as a dashed line.

    Raises ``ValueError`` for a missing column, another subset, two rows of one method, group and
    subset, or a reference that is not exactly one of the methods.
    """
    keys = ("group", "method", "subset")
    need(gains, "gains", *keys, "value", "low", "high", "n", once=keys)
    subsets = _known(gains["subset"], "gains", _LINES)
    places, ticks = _places(gains)
    markers = dict(zip(_order(gains["group"]), _GROUP_MARKERS, strict=False))
    headers = [y for y in ticks if y not in places.values()]
    methods = [method for _, method in places]
    if reference is not None and methods.count(reference) != 1:
        raise ValueError(
            f"gains: the reference {reference!r} is {methods.count(reference)} of the methods "
            f"{methods}; name one"
        )
    with context():
        size = (2.7 + 2.3 * len(subsets), 1.5 + 0.225 * len(ticks))
        fig, axes = _panels(len(subsets), size, sharex=True)
        for ax, subset in zip(axes[0], subsets, strict=True):
            rows = gains[gains["subset"] == subset]
            ax.axvline(0, color="black", lw=0.8, zorder=1)
            for y in headers[1:]:
                ax.axhline(y - 0.5, color=FAINT, lw=0.8, zorder=0)
            for value in rows.loc[rows["method"] == reference, "value"]:
                ax.axvline(100 * value, color=GREY, lw=1, ls="--", zorder=0.5)
            _forest(ax, rows, places, _COLOURS[subset], markers)
            ax.set_title(f"{SUBSET_TITLES[subset]}, n = {int(rows['n'].max()):,}")
            ax.set_xlabel("gain in Acc-5 (points)")
            ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            ax.spines["left"].set_visible(False)
            ax.tick_params(axis="y", length=0)
        first = axes[0, 0]
        row_axis(first, [*ticks.values()])
        for y in headers:
            first.get_yticklabels()[y].set_fontweight("bold")
        if reference is not None:
            _legend(fig, [line_entry(reference, GREY, "--", lw=1)])
        titled(fig, title, "95% intervals; all panels on one scale")
        return fig


def _base(panel: pd.DataFrame, parameter: str) -> float:
    """The setting that is kept where another parameter varies."""
    base = panel.loc[panel["base"].astype(bool), "setting"].unique()
    if len(base) != 1:
        raise ValueError(
            f"frame: {parameter} has base settings {base.tolist()}, expected one of "
            f"{sorted(panel['setting'].unique().tolist())}"
        )
    return base[0]


def sweep_figure(frame: pd.DataFrame, *, title: str = "One setting at a time") -> Figure:
    """Gain by subset while one setting varies and all others keep the base's, a panel a setting.

    Parameters
    ----------
    frame
        ``parameter`` (``tau, eta, gamma, beta, K, psi_hat, P, l_r, sharpness``), ``setting`` (a
        number), ``subset`` (``align, conflict, missing``), ``value, low, high, n`` (gain over the
        unsteered model on n instances, a fraction; shown in points) and ``base`` (bool: the setting that is kept
        elsewhere).

    Raises ``ValueError`` for a missing column, another parameter or subset, two rows of one
    parameter, setting and subset, or a parameter without exactly one base setting.
    """
    keys = ("parameter", "setting", "subset")
    need(frame, "frame", *keys, "value", "low", "high", "n", "base", once=keys)
    parameters = _known(frame["parameter"], "frame", _TYPESET)
    subsets = _known(frame["subset"], "frame", _LINES)
    lines, columns = -(-len(parameters) // 4), min(4, len(parameters))
    with context():
        fig, axes = _panels(columns, (max(5.0, 1.2 + 2.1 * columns), 1.4 + 2.0 * lines), lines)
        for ax in axes.flat[len(parameters) :]:
            ax.remove()
        for ax, parameter in zip(axes.flat, parameters, strict=False):
            panel = frame[frame["parameter"] == parameter]
            base = _base(panel, parameter)
            ax.axhline(0, color="black", lw=0.8, zorder=1)
            ax.axvline(base, color=INK, lw=1.1, ls=":", zorder=1)
            for subset in subsets:
                rows = panel[panel["subset"] == subset].sort_values("setting")
                colour, (ls, marker) = _COLOURS[subset], _LINES[subset]
                band(ax, rows["setting"], rows, colour, 100)
                ax.plot(
                    rows["setting"], 100 * rows["value"], color=colour, ls=ls, marker=marker, ms=3.5
                )
            whole = bool((panel["setting"] % 1 == 0).all())
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=whole, steps=[1, 2, 5, 10]))
            ax.set_xlabel(f"{_TYPESET[parameter]} (base {base:g})")
            ax.margins(x=0.07)
        for ax in axes[:, 0]:
            ax.set_ylabel("gain (points)")
        sizes = frame.groupby("subset")["n"].max()
        handles = [
            line_entry(
                f"{SUBSET_TITLES[s]}, n = {int(sizes[s]):,}; one answer is {100 / sizes[s]:.2f} points",
                _COLOURS[s], _LINES[s][0], marker=_LINES[s][1],
            )
            for s in subsets
        ]  # fmt: skip
        handles.append(line_entry("base setting", INK, ":", lw=1.1))
        _legend(fig, handles)
        titled(fig, title, "gain over the unsteered model, 95% intervals")
        return fig
