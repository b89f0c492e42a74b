"""Figures of the family of organisms: knockout by layer, steering, redundancy, preference."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emomm_lib.labels import MODALITIES
from emomm_study.report.figures.parts import (
    MODALITY_COLOURS,
    band,
    layer_axis,
    line_entry,
    mark_entry,
    modality_handles,
    row_axis,
    unshown,
)
from emomm_study.report.frames import need
from emomm_study.report.style import FAINT, GREY, INK, SUBSET_COLOURS, context, titled

OPEN = "open"
"""Stands in the panel of an arm of which nothing is measured yet."""
NOTHING = "No arm of the family is measured yet."
PAIRS = ("T over A", "T over V", "A over V")
_MARKERS = "oDs^vP"
_SEEDS = "os^D"
_DOSES = {"repeated": "#332288", "room": "#D55E00"}
"""What is added to a video: moments of its own again, or of another's room; no modality's colours."""
_DOSE_NAMES = {"repeated": "its own moments again", "room": "another's room appended"}
_COLOUR = SUBSET_COLOURS["conflict"]


def _arms(frame: pd.DataFrame, arms: Sequence[str] | None) -> list[str]:
    """Arms in the order asked for, by default that of their rows."""
    return [*dict.fromkeys(frame["arm"] if arms is None else arms)]


def _panels(count: int, height: float, most: int = 4) -> tuple[Figure, list[Axes]]:
    columns = min(most, count)
    lines = -(-count // columns)
    size = (min(9.6, max(4.6, 1.2 + 2.1 * columns)), 1.3 + height * lines)
    fig, axes = plt.subplots(
        lines, columns, figsize=size, layout="constrained", sharey=True, squeeze=False
    )
    for ax in axes.flat[count:]:
        ax.remove()
    return fig, [*axes.flat[:count]]


def _panel(ax: Axes, arm: str, rows: pd.DataFrame) -> bool:
    """Title with seeds and clips; whether there is anything to draw."""
    name = fill(arm, 26)
    if rows.empty:
        ax.set_title(name, fontsize=9)
        ax.text(0.5, 0.5, OPEN, transform=ax.transAxes, ha="center", va="center", color=GREY)
        return False
    seeds, n = rows["seed"].nunique(), int(rows["n"].max())
    of = "1 seed" if seeds == 1 else f"{seeds} seeds"
    ax.set_title(f"{name}\n{of}, n = {n:,}", fontsize=9)
    return True


def _curves(ax: Axes, rows: pd.DataFrame, x: str, colour: str, factor: float = 100) -> None:
    """A thin line with its band a seed, and the mean bold."""
    for _, own in rows.groupby("seed"):
        own = own.sort_values(x)
        band(ax, own[x], own, colour, factor, alpha=0.13)
        ax.plot(own[x], factor * own["value"], color=colour, lw=0.8, alpha=0.6)
    mean = rows.groupby(x)["value"].mean()
    ax.plot(mean.index, factor * mean, color=colour, lw=2.0, marker="o", ms=3.5)


def _legend(fig: Figure, handles: list[Artist], columns: int = 4) -> None:
    fig.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))


def _seed_handles() -> list[Artist]:
    return [line_entry("one seed", INK, lw=0.8, alpha=0.6), line_entry("mean", INK, lw=2)]


def knockout_figure(
    frame: pd.DataFrame,
    first_layer: int,
    arms: Sequence[str] | None = None,
    *,
    title: str = "What the decision query reads from a layer on",
) -> Figure:
    """Share of answers that change when the decision query is cut off from a layer on, by arm.

    Parameters
    ----------
    frame
        ``arm, seed, layer, value, low, high, n``, values 0..1, layers counted from 1: reading of T, A
        and V is cut in this layer and all after it.
    first_layer
        The published l_r at this depth, marked.
    arms
        Panels in order; one without rows says that it is open. By default those of the frame.

    Raises ``ValueError`` for a missing column or two rows of one arm, seed and layer.
    """
    keys = ("arm", "seed", "layer")
    need(frame, "frame", *keys, "value", "low", "high", "n", once=keys, empty=True)
    if frame.empty:
        return unshown(title, "no arm", NOTHING)
    names, last = _arms(frame, arms), int(frame["layer"].max())
    with context():
        fig, axes = _panels(len(names), 2.3)
        for ax, arm in zip(axes, names, strict=True):
            rows = frame[frame["arm"] == arm]
            if _panel(ax, arm, rows):
                _curves(ax, rows, "layer", _COLOUR)
                ax.axvline(first_layer, color=INK, lw=1.1, ls=":", zorder=1)
            layer_axis(ax, last)
            ax.set_xlabel("cut from layer")
        # Once all are drawn: a limit that an open panel sets would be that of all.
        axes[0].set_ylim(0, None)
        for ax in axes:
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel("answers changed (%)")
        _legend(fig, [*_seed_handles(), line_entry("published $l_r$", INK, ":", lw=1.1)])
        titled(fig, title, "conflicts, 95% intervals over clips")
        return fig


def steering_by_arm(
    frame: pd.DataFrame,
    arms: Sequence[str] | None = None,
    *,
    title: str = "Steering with an oracle gate",
) -> Figure:
    """Gain of steering by setting, a panel an arm, a point a seed.

    Parameters
    ----------
    frame
        ``arm, seed, setting, value, low, high, n``: accuracy less the unsteered model's, fractions,
        shown in points. Settings in order of appearance.
    arms
        As for :func:`knockout_figure`.

    Raises ``ValueError`` for a missing column, two rows of one arm, seed and setting, or more than
    four seeds.
    """
    keys = ("arm", "seed", "setting")
    need(frame, "frame", *keys, "value", "low", "high", "n", once=keys, empty=True)
    if frame.empty:
        return unshown(title, "no arm", NOTHING)
    names, settings = _arms(frame, arms), [*dict.fromkeys(frame["setting"])]
    markers = _by_seed(frame)
    with context():
        fig, axes = _panels(len(names), 0.9 + 0.3 * len(settings))
        for ax, arm in zip(axes, names, strict=True):
            rows = frame[frame["arm"] == arm]
            if _panel(ax, arm, rows):
                ax.axvline(0, color="black", lw=0.8, zorder=1)
                _points(ax, rows, settings, markers)
            row_axis(ax, [_typeset(name) for name in settings])
            ax.set_xlabel("gain (points)")
            ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            ax.spines["left"].set_visible(False)
        drawn = [ax.get_xlim() for ax in axes if ax.lines]
        for ax in axes:
            ax.set_xlim(min(low for low, _ in drawn), max(high for _, high in drawn))
        if len(markers) > 1:
            _legend(fig, [mark_entry(f"seed {s}", m, _COLOUR, ms=5) for s, m in markers.items()])
        titled(fig, title, "conflicts, gain in five-class accuracy, 95% intervals over clips")
        return fig


def _typeset(setting: str) -> str:
    """The name of a setting with the paper's signs for its parameters."""
    for word, sign in (("l_r ", "$l_r$ "), ("K ", "$K$ "), ("gamma ", r"$\gamma$ ")):
        setting = setting.replace(word, sign)
    return setting


def _by_seed(frame: pd.DataFrame) -> dict[int, str]:
    seeds = sorted(frame["seed"].unique().tolist())
    if len(seeds) > len(_SEEDS):
        raise ValueError(f"frame: at most {len(_SEEDS)} seeds have a marker, got {seeds}")
    return dict(zip(seeds, _SEEDS, strict=False))


def _points(ax: Axes, rows: pd.DataFrame, names: Sequence[str], markers: dict[int, str]) -> None:
    """Seeds of a row beneath one another, each with its interval."""
    shifts = np.linspace(-0.22, 0.22, len(markers)) if len(markers) > 1 else [0.0]
    for (seed, marker), shift in zip(markers.items(), shifts, strict=True):
        for y, name in enumerate(names):
            own = rows[(rows["seed"] == seed) & (rows["setting"] == name)]
            for row in own.itertuples():
                ax.hlines(y + shift, 100 * row.low, 100 * row.high, color=_COLOUR, lw=1.2)
                ax.plot(100 * row.value, y + shift, marker, color=_COLOUR, ms=4.5, mew=0)


def redundancy_figure(
    frame: pd.DataFrame,
    observer: float | None = None,
    arms: Sequence[str] | None = None,
    *,
    title: str = "Gain of video by dose of redundancy",
) -> Figure:
    """Gain of video by how many moments it has, a panel an arm.

    Parameters
    ----------
    frame
        ``arm, seed, dose, moments, value, low, high, n``: accuracy with video less that without,
        fractions, shown in points. ``dose`` is ``repeated``, the video's own moments again, or
        ``room``, others that show a room alone; ``moments`` how many it has in all.
    observer
        What the ideal observer gains, whatever the dose; drawn level.
    arms
        As for :func:`knockout_figure`.

    Raises ``ValueError`` for a missing column, another dose, or two rows of one arm, seed, dose and
    number.
    """
    keys = ("arm", "seed", "dose", "moments")
    need(frame, "frame", *keys, "value", "low", "high", "n", once=keys, empty=True)
    if unknown := sorted(set(frame["dose"]) - set(_DOSES)):
        raise ValueError(f"frame: dose is one of {tuple(_DOSES)}, got also {unknown}")
    if frame.empty:
        return unshown(title, "no arm", NOTHING)
    names, ticks = _arms(frame, arms), sorted(frame["moments"].unique().tolist())
    with context():
        fig, axes = _panels(len(names), 2.2, most=3)
        for ax, arm in zip(axes, names, strict=True):
            rows = frame[frame["arm"] == arm]
            if _panel(ax, arm, rows):
                ax.axhline(0, color="black", lw=0.8, zorder=1)
                if observer is not None:
                    ax.axhline(100 * observer, color=GREY, lw=1.2, ls="--", zorder=1)
                for dose, colour in _DOSES.items():
                    if (own := rows[rows["dose"] == dose]).size:
                        _curves(ax, own, "moments", colour)
            ax.set_xticks(ticks)
            ax.set_xlim(ticks[0] - 0.5, ticks[-1] + 0.5)
            ax.set_xlabel("moments in the video")
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel("gain of video (points)")
        handles = [line_entry(_DOSE_NAMES[d], c, lw=2) for d, c in _DOSES.items()]
        if observer is not None:
            handles.append(line_entry("ideal observer", GREY, "--", lw=1.2))
        _legend(fig, [*handles, *_seed_handles()], 3)
        titled(fig, title, "conflicts, Perf(TAV) - Perf(TA), 95% intervals over clips")
        return fig


def preference_figure(
    pairs: pd.DataFrame,
    shares: pd.DataFrame,
    gtar: pd.DataFrame,
    arms: Sequence[str] | None = None,
    *,
    title: str = "Whom an arm sides with, and where it looks",
) -> Figure:
    """Preference by pairs (left), and share of nMAS against GTAR (right), a point an arm and seed.

    Parameters
    ----------
    pairs
        ``arm, seed, pair, value, low, high, n`` with ``pair`` of :data:`PAIRS`: how often the first
        wins where two say different things and one is answered.
    shares, gtar
        ``arm, seed, modality, value, low, high, n``, both of Conflict; values 0..1.
    arms
        In order, at most six; those without rows stand in the legend as open.

    Raises ``ValueError`` for a missing column, another pair, two rows of one point, or more than six
    arms.
    """
    need(pairs, "pairs", "arm", "seed", "pair", "value", "low", "high", "n",
         once=("arm", "seed", "pair"), empty=True)  # fmt: skip
    for name, frame in (("shares", shares), ("gtar", gtar)):
        need(frame, name, "arm", "seed", "modality", "value", "low", "high", "n",
             once=("arm", "seed", "modality"), empty=True)  # fmt: skip
    if unknown := sorted(set(pairs["pair"]) - set(PAIRS)):
        raise ValueError(f"pairs: pair is one of {PAIRS}, got also {unknown}")
    names = _arms(pairs, arms)
    if len(names) > len(_MARKERS):
        raise ValueError(f"at most {len(_MARKERS)} arms have a marker, got {names}")
    if pairs.empty:
        return unshown(title, "no arm", NOTHING)
    markers = dict(zip(names, _MARKERS, strict=False))
    with context():
        fig, (left, right) = plt.subplots(
            1, 2, figsize=(9.6, 4.6), layout="constrained", width_ratios=[1.15, 1]
        )
        _pair_panel(left, pairs, markers)
        joined = shares.merge(gtar, on=["arm", "seed", "modality"], suffixes=("_share", "_gtar"))
        _share_panel(right, joined, markers)
        measured = set(pairs["arm"])
        handles: list[Artist] = [
            mark_entry(a if a in measured else f"{a} ({OPEN})", m, INK if a in measured else GREY,
                       ms=5, mew=0)
            for a, m in markers.items()
        ]  # fmt: skip
        _legend(fig, [*handles, *modality_handles()], 4)
        titled(fig, title, "conflicts with T, A and V, 95% intervals over clips")
        return fig


def _pair_panel(ax: Axes, pairs: pd.DataFrame, markers: dict[str, str]) -> None:
    ax.axvline(0.5, color=GREY, lw=1, ls=":")
    points = [(arm, seed) for arm, own in pairs.groupby("arm") for seed in own["seed"].unique()]
    points.sort(key=lambda point: ([*markers].index(point[0]), point[1]))
    shifts = np.linspace(-0.32, 0.32, len(points)) if len(points) > 1 else [0.0]
    for y, pair in enumerate(PAIRS):
        if y:
            ax.axhline(y - 0.5, color=FAINT, lw=0.8, zorder=0)
        for (arm, seed), shift in zip(points, shifts, strict=True):
            own = pairs[(pairs["pair"] == pair) & (pairs["arm"] == arm) & (pairs["seed"] == seed)]
            for row in own.itertuples():
                ax.hlines(y + shift, row.low, row.high, color=INK, lw=1)
                ax.plot(row.value, y + shift, markers[arm], color=INK, ms=4.5, mew=0)
    row_axis(ax, [*PAIRS])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("share of cases in which the first wins")
    n = pairs["n"]
    ax.set_title(f"preference by pairs, n = {int(n.min()):,} to {int(n.max()):,}", fontsize=9)


def _share_panel(ax: Axes, joined: pd.DataFrame, markers: dict[str, str]) -> None:
    for arm, m in product(markers, MODALITIES):
        own = joined[(joined["arm"] == arm) & (joined["modality"] == m)]
        for row in own.itertuples():
            x, y, look = row.value_share, row.value_gtar, {"color": MODALITY_COLOURS[m]}
            ax.hlines(y, row.low_share, row.high_share, lw=1, **look)
            ax.vlines(x, row.low_gtar, row.high_gtar, lw=1, **look)
            ax.plot(x, y, markers[arm], ms=6, mew=0, **look)
    ax.margins(0.08)
    ax.set(xlabel="share of nMAS, layers from $l_r$ on", ylabel="GTAR")
    n = joined["n_gtar"]
    of = f", n = {int(n.min()):,} to {int(n.max()):,}" if len(n) else ""
    ax.set_title(f"GTAR against share of nMAS{of}", fontsize=9)
