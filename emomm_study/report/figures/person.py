"""Figures of person masking (Appendix C.2): what is masked, Figure 11, tokens and attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from emomm_lib.labels import MODALITIES
from emomm_study.media.region_store import RegionStore
from emomm_study.media.regions import suppress, token_cover
from emomm_study.media.video import read_frames
from emomm_study.paths import resolve_media
from emomm_study.report.figures.parts import (
    MODALITY_COLOURS,
    band,
    dots,
    halo,
    layer_axis,
    line_entry,
    modality_handles,
    one_row,
)
from emomm_study.report.frames import need
from emomm_study.report.numbers import number
from emomm_study.report.style import COLOURS, CORPUS_NAMES, INK, context, titled

_GREY = "#9A9A9A"
_METRICS = {"acc5": "ACC-5", "acc2": "ACC-2", "f1": "F1"}
_PAINTS = (
    {"facecolor": _GREY, "edgecolor": _GREY},
    {"facecolor": COLOURS["v"], "edgecolor": COLOURS["v"]},
    {"facecolor": "#BFE6D6", "edgecolor": COLOURS["v"], "hatch": "/////"},
    {"facecolor": "white", "edgecolor": COLOURS["v"]},
    {"facecolor": "white", "edgecolor": _GREY, "hatch": "....."},
)
"""Views in order; the first is the unchanged video."""
_LINES = (("-", "o"), ("-", "s"), ("--", "^"), (":", "D"), ("-.", "v"))


def _views(frame: pd.DataFrame, what: str) -> list[str]:
    """Views in order of appearance; each has the paint of its place."""
    views = [*dict.fromkeys(frame["view"])]
    if len(views) > len(_PAINTS):
        raise ValueError(f"{what}: at most {len(_PAINTS)} views have a colour, got {views}")
    return views


@dataclass(frozen=True, eq=False)
class PersonFrame:
    """One sampled frame and where its person is.

    Attributes
    ----------
    corpus, found
        Of the clip, and what the region comes from (``media.person.KINDS``).
    frame, region
        ``(H, W, 3)`` uint8 RGB and ``(H, W)`` bool.
    cover
        ``(h, w)``, the share of each of its tokens that lies in the region.
    """

    corpus: str
    found: str
    frame: np.ndarray
    region: np.ndarray
    cover: np.ndarray


def person_frames(
    clips: pd.DataFrame,
    roots: Mapping[str, Path],
    store: RegionStore,
    grid: Callable[[pd.Series], tuple[int, int, int]],
    *,
    seen: Callable[[int, int], tuple[int, int, int, int]] | None = None,
    each: int = 3,
    seed: int = 0,
) -> list[PersonFrame]:
    """The middle frames of ``each`` random clips of every corpus, whose regions the store has.

    ``clips`` has the manifest's ``sample_id, corpus, video_path``; ``grid`` gives the (t, h, w) of
    a clip's video tokens, which depends on its shape, and ``seen`` the part of a frame of some
    height and width that they show (top, left, height, width), all of it by default. Raises as
    :meth:`RegionStore.read`.
    """
    frames = []
    for corpus in (c for c in CORPUS_NAMES if (clips["corpus"] == c).any()):
        own = clips[clips["corpus"] == corpus].sort_values("sample_id")
        for _, clip in own.sample(min(each, len(own)), random_state=seed).iterrows():
            video = resolve_media(roots[corpus], clip["video_path"])
            regions, pictures = store.read(video), read_frames(video, store.video)
            shape = pictures.shape[1:3]
            top, left, height, width = seen(*shape) if seen else (0, 0, *shape)
            part = np.s_[:, top : top + height, left : left + width]
            pictures, mask = pictures[part], regions.mask[part]
            middle = len(pictures) // 2
            cover = token_cover(mask, grid(clip))
            step = middle // -(-len(pictures) // len(cover))
            frames.append(
                PersonFrame(
                    corpus,
                    str(regions.found[middle]),
                    pictures[middle],
                    mask[middle],
                    cover[step],
                )
            )
    return frames


def _show(ax: Axes, picture: np.ndarray) -> None:
    ax.imshow(picture)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _show_tokens(ax: Axes, shown: PersonFrame, least_cover: float) -> None:
    """The frame, white where a token is dropped, with the tokens' borders."""
    height, width = shown.region.shape
    _show(ax, shown.frame)
    dropped = np.ones((*shown.cover.shape, 4))
    dropped[..., 3] = shown.cover < least_cover
    ax.imshow(dropped, extent=(0, width, height, 0), interpolation="nearest")
    for axis, cells, length in ((ax.axvline, shown.cover.shape[1], width),
                                (ax.axhline, shown.cover.shape[0], height)):  # fmt: skip
        for border in np.linspace(0, length, cells + 1):
            axis(border, color=_GREY, lw=0.4)
    ax.set(xlim=(0, width), ylim=(height, 0))


def overlay_sheet(frames: Sequence[PersonFrame], least_cover: float) -> Figure:
    """What person masking leaves of some frames: region, pixels, tokens, from top to bottom.

    ``least_cover`` is the share of a token's area that keeps it. A token shows the region of all
    frames that it stands for, which can be more than the one drawn. Raises ``ValueError`` without
    frames.
    """
    if not frames:
        raise ValueError("no frames, so there is nothing to draw; pass clips with a region")
    with context():
        width = 1.6 * len(frames) + 0.3
        shape = np.mean([f.region.shape[0] / f.region.shape[1] for f in frames])
        fig, axes = plt.subplots(
            3, len(frames), figsize=(width, 4.8 * shape + 1.2), layout="constrained", squeeze=False
        )
        for column, shown in zip(axes.T, frames, strict=True):
            _show(column[0], shown.frame)
            if not shown.region.all():
                edge = np.pad(shown.region, 1)
                places = (np.arange(-1, n + 1) for n in shown.region.shape[::-1])
                line = column[0].contour(*places, edge, [0.5], colors=COLOURS["v"], linewidths=1.6)
                line.set_path_effects(halo(3))
                column[0].set(xlim=(-0.5, edge.shape[1] - 2.5), ylim=(edge.shape[0] - 2.5, -0.5))
            column[0].set_title(f"{CORPUS_NAMES[shown.corpus]}\n{shown.found}", fontsize=8)
            _show(column[1], suppress(shown.frame[None], shown.region[None])[0])
            _show_tokens(column[2], shown, least_cover)
            inside, kept = shown.region.mean(), (shown.cover >= least_cover).sum()
            column[1].set_xlabel(f"{inside:.0%} of the frame", fontsize=7.5)
            column[2].set_xlabel(f"{kept} of {shown.cover.size} tokens", fontsize=7.5)
        for ax, name in zip(axes[:, 0], ("region", "person only:\npixels", "person only:\ntokens"),
                            strict=True):  # fmt: skip
            ax.set_ylabel(name, fontsize=9)
        below = f"tokens with at least {least_cover:.0%} of their area inside stay"
        titled(fig, "The person's region in sampled frames", below)
    return fig


@dataclass(frozen=True)
class _Grouping:
    """Bars in groups: the column and the order of the groups, and of the bars in each."""

    x: str
    order: Sequence[str]
    hue: str
    paints: Mapping[str, dict]


def _bars(
    ax: Axes, rows: pd.DataFrame, by: _Grouping, write: Callable[[float], str], fontsize: float
) -> None:
    """Bars of ``value`` with their intervals, and numbers beyond these, away from zero."""
    sns.barplot(
        rows, x=by.x, order=by.order, y="value", hue=by.hue, hue_order=by.paints, errorbar=None,
        gap=0.08, legend=False, ax=ax,
    )  # fmt: skip
    for bars, (name, paint) in zip(ax.containers, by.paints.items(), strict=True):
        own = rows[rows[by.hue] == name].set_index(by.x).loc[list(by.order)]
        for bar, row in zip(bars, own.itertuples(), strict=True):
            x = bar.get_x() + bar.get_width() / 2
            bar.set(linewidth=0.9, **paint)
            ax.vlines(x, row.low, row.high, color=INK, lw=1.2, zorder=3)
            ends = [end for end in (row.value, row.low, row.high) if np.isfinite(end)]
            up = row.value >= 0
            ax.annotate(
                write(row.value), (x, max(ends) if up else min(ends)), (0, 3 if up else -3),
                textcoords="offset points", ha="center", va="bottom" if up else "top",
                fontsize=fontsize,
            )  # fmt: skip
    ax.set(xlabel="", ylabel="")


def _gain_panel(ax: Axes, rows: pd.DataFrame, paints: Mapping[str, dict], what: str) -> None:
    for view, metric in product(paints, _METRICS):
        one_row(rows, what, view=view, metric=metric)
    shown = rows.assign(**100 * rows[["value", "low", "high"]])
    by = _Grouping("metric", [*_METRICS], "view", paints)
    _bars(ax, shown, by, lambda value: number(value, 1, sign=True), 7)
    ax.axhline(0, color="black", lw=0.9)
    ax.margins(y=0.16)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.set_xticks(range(len(_METRICS)), [*_METRICS.values()])
    ax.set_xlim(-0.55, len(_METRICS) - 0.45)


def figure11(gains: pd.DataFrame) -> Figure:
    """Figure 11: marginal gain of video by view (Eq. 18), and its change against the original.

    ``gains`` has ``view, quantity, metric, value, low, high, n`` as by
    ``evaluate.paired.compare_views``, in fractions; the figure shows points. The first view is the
    original. The signs in the panels' feet are the published ones: the paper prints no numbers.
    Raises ``ValueError`` that names the missing column or row.
    """
    need(gains, "gains", "view", "quantity", "metric", "value", "low", "high", "n")
    views = _views(gains, "gains")
    paints = dict(zip(views, _PAINTS, strict=False))
    with context():
        fig, axes = plt.subplots(
            1, 2, figsize=(6.4 + 1.2 * len(views), 4.2), layout="constrained", sharey=True,
            width_ratios=[len(views), max(1, len(views) - 1)],
        )  # fmt: skip
        parts = (("gain", views, r"gain of video, $\Delta V$"),
                 ("change", views[1:], f"change against: {views[0]}"))  # fmt: skip
        for ax, (quantity, shown, title) in zip(axes, parts, strict=True):
            rows = gains[gains["quantity"] == quantity]
            _gain_panel(ax, rows, {v: paints[v] for v in shown}, f"gains ({quantity})")
            ax.set_title(title)
        axes[0].set_ylabel("points")
        axes[0].set_xlabel(
            "published: \N{MINUS SIGN} original, + person only; no numbers", fontsize=8
        )
        axes[1].set_xlabel("published: up for person only; no numbers", fontsize=8)
        handles = [Patch(label=view, **paint) for view, paint in paints.items()]
        handles.append(line_entry("95% interval, paired", INK, lw=1.2))
        fig.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
        clips = int(gains["n"].iloc[0])
        titled(fig, "Figure 11. Marginal gain of video", f"{clips:,} conflict clips")
    return fig


def _token_panel(ax: Axes, tokens: pd.DataFrame, views: Sequence[str]) -> None:
    for view, modality in product(views, MODALITIES):
        one_row(tokens, "budget", view=view, modality=modality)
    paints = {m: {"facecolor": c, "edgecolor": c} for m, c in MODALITY_COLOURS.items()}
    by = _Grouping("view", views, "modality", paints)
    _bars(ax, tokens, by, lambda value: number(value, 0), 8)
    ax.set_xticks(range(len(views)), [fill(view, 12) for view in views], fontsize=8)
    ax.margins(y=0.1)
    ax.set_ylabel("tokens a clip")
    ax.set_title("tokens")


def _share_panel(ax: Axes, by_layer: pd.DataFrame, views: Sequence[str]) -> list[Artist]:
    handles = []
    for view, paint, (dash, marker) in zip(views, _PAINTS, _LINES, strict=False):
        line = by_layer[by_layer["view"] == view].sort_values("layer")
        if line.empty:
            raise ValueError(f"by_layer: no share of V in TAV for {view!r}; trace that view, too")
        colour = paint["edgecolor"]
        band(ax, line["layer"], line, colour)
        style = {"color": colour, "ls": dash, "lw": 1.6, "ms": 4, "mfc": paint["facecolor"]}
        style["marker"] = marker if dots(line) else None
        ax.plot(line["layer"], line["value"], **style)
        handles.append(Line2D([], [], label=view, **style))
    ax.axhline(1 / 3, color=INK, ls=":", lw=1)
    handles.append(line_entry("equal shares", INK, ":", lw=1))
    layer_axis(ax, int(by_layer["layer"].max()))
    ax.set_ylim(0, None)
    ax.set_ylabel("video's nMAS share")
    ax.set_title("attention a token on video")
    return handles


def token_figure(budget: pd.DataFrame, by_layer: pd.DataFrame) -> Figure:
    """Video's tokens beside text's and audio's, and video's share of nMAS, before and after.

    Parameters
    ----------
    budget
        ``view, coalition, modality, quantity, value, low, high, n``: ``metrics.attention_by_modality``
        of every view; drawn are the ``tokens`` of TAV.
    by_layer
        ``view, coalition, layer, modality, quantity, value, low, high``:
        ``metrics.nmas_by_layer`` of every view; drawn are V's ``share`` in TAV.

    Raises ``ValueError`` that names the frame and the missing column or view.
    """
    columns = ("view", "coalition", "modality", "quantity", "value", "low", "high")
    need(budget, "budget", *columns, "n")
    need(by_layer, "by_layer", *columns, "layer")
    views = _views(budget, "budget")
    tokens = budget[(budget["coalition"] == "TAV") & (budget["quantity"] == "tokens")]
    whole = (by_layer["coalition"] == "TAV") & (by_layer["modality"] == "V")
    with context():
        fig, axes = plt.subplots(
            1, 2, figsize=(10.4, 4.4), layout="constrained", width_ratios=[1.2, 1]
        )
        _token_panel(axes[0], tokens, views)
        handles = modality_handles() + _share_panel(
            axes[1], by_layer[whole & (by_layer["quantity"] == "share")], views
        )
        fig.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // 2))
        clips = int(tokens["n"].max())
        below = f"{clips:,} conflict clips, 95% intervals over clips"
        titled(fig, "Video tokens and attention, before and after masking", below)
    return fig
