"""Figures of what the published label tables leave open: kinds of clips, and gains without preference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from emomm_lib.metrics.psmv import SUBSETS
from emomm_study import paper
from emomm_study.audit.joint import KINDS, published_quotas
from emomm_study.corpora.scores import Corpus
from emomm_study.report.figures.parts import line_entry, row_axis
from emomm_study.report.frames import need
from emomm_study.report.shares import STRATEGIES
from emomm_study.report.style import (
    COLOURS,
    CORPUS_NAMES,
    INK,
    PUBLISHED,
    SUBSET_TITLES,
    context,
    titled,
)

_WIDE, _NARROW = "#D5DAE3", "#8C98AD"
_DRAWN = {"random": ("-", "D"), "average": ("--", "o")}
_MARK = {"ls": "", "mfc": "white", "mec": INK, "ms": 5.5}


def _published() -> dict[str, float]:
    """The paper's share of V by subset, a fraction (Sec. 4.2)."""
    facts = paper.claims().set_index("id")["value"] / 100
    return {subset: facts[f"vcc_share_v_{subset}"] for subset in SUBSETS}


def _together(committed: pd.DataFrame) -> pd.Series:
    """Values of both corpora together, by reader, subset, modality and quantity."""
    both = committed[committed["corpus"] == "both"]
    return both.set_index(["reader", "subset", "modality", "quantity"])["value"]


def kinds_figure(ranges: pd.DataFrame, committed: Mapping[Corpus, NDArray[np.integer]]) -> Figure:
    """How many clips of each kind the published numbers allow, for each corpus.

    Parameters
    ----------
    ranges
        ``corpus, constraints, kind, low, high, exact`` as by ``audit.joint.kind_ranges``.
    committed
        Clips per cell, (5, 5, 5, 5), of the labels that the surrogates have, by corpus.

    Raises ``ValueError`` that names missing columns.
    """
    need(ranges, "ranges", "corpus", "constraints", "kind", "low", "high", "exact")
    kinds, quotas = list(KINDS), published_quotas()
    printed = {"conflict": quotas.conflict, "equal": quotas.equal}
    printed["same polarity"] = quotas.same_polarity
    with context():
        fig, axes = plt.subplots(1, 2, figsize=(9.6, 4.0), layout="constrained", sharey=True)
        for ax, corpus in zip(axes, Corpus, strict=True):
            _allowed(ax, ranges[ranges["corpus"] == corpus.value], "tables", _WIDE, 0.62)
            _allowed(
                ax, ranges[ranges["corpus"] == corpus.value], "tables and quotas", _NARROW, 0.3
            )
            for kind, cells in KINDS.items():
                number = np.ravel(committed[corpus]) @ cells
                ax.plot(number, kinds.index(kind), marker="D", zorder=4, **_MARK)
            if corpus is Corpus.CH_SIMS:
                for kind, number in printed.items():
                    middle = kinds.index(kind)
                    ax.vlines(number, middle - 0.36, middle + 0.36, color=PUBLISHED, lw=2, zorder=3)
            ax.set_title(CORPUS_NAMES[corpus.value])
            ax.set_xlim(-20, 2420)
            ax.set_xticks(range(0, 2001, 500))
            ax.set_xlabel("clips, of 2,000")
        row_axis(axes[0], kinds)
        handles = [
            Patch(color=_WIDE, label="allowed by Tables 3 and 4"),
            Patch(color=_NARROW, label="and by CH-SIMS's quotas (in brackets)"),
            line_entry("published quota", PUBLISHED, lw=2),
            Line2D([], [], marker="D", label="surrogates", **_MARK),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=4)
        reached = "and reached" if ranges["exact"].all() else "and, but for some, reached"
        below = f"ends proved {reached} by integers; about the published tables, not a model"
        titled(fig, "What the published label tables leave open", below)
        return fig


def _allowed(ax: Axes, ranges: pd.DataFrame, which: str, colour: str, height: float) -> None:
    """Ranges of one corpus under some constraints, with their ends in figures."""
    for row in ranges[ranges["constraints"] == which].itertuples():
        place = list(KINDS).index(row.kind)
        # A single number is a bar, too.
        width, middle = max(row.high - row.low, 12), (row.low + row.high) / 2
        ax.barh(place, width, height, left=middle - width / 2, color=colour)
        words = f"{row.low:,} to {row.high:,}"
        if which == "tables":
            ax.text(max(row.high, 0) + 25, place, words, va="center", fontsize=7)
        elif row.low < row.high:
            # Beneath what the tables allow, which is wider and says so at its end.
            outer = ranges[(ranges["kind"] == row.kind) & (ranges["constraints"] == "tables")]
            at = outer["high"].max() + 25
            ax.text(at, place + 0.28, f"({words})", va="center", fontsize=7)


def outlines_figure(outlines: pd.DataFrame, committed: pd.DataFrame) -> Figure:
    """V's PSMV against the total gain: all that labels allow without a preference.

    Parameters
    ----------
    outlines
        ``reader, subset, gain, psmv``: corners in order as by ``audit.collapse.outline``, of V and
        of both corpora together.
    committed
        ``corpus, reader, subset, modality, quantity, value`` as by ``audit.collapse.shares_of``.

    The published share is the slope of a line. Raises ``ValueError`` for missing columns.
    """
    need(outlines, "outlines", "reader", "subset", "gain", "psmv")
    points, published = _together(committed), _published()
    with context():
        fig, axes = plt.subplots(
            1, 2, figsize=(9.6, 4.3), layout="constrained", sharex=True, sharey=True
        )
        for ax, subset in zip(axes, SUBSETS, strict=True):
            for reader, (style, marker) in _DRAWN.items():
                chosen = outlines["reader"].eq(reader) & outlines["subset"].eq(subset)
                corners = 100 * outlines.loc[chosen, ["gain", "psmv"]].to_numpy()
                ax.fill(*corners.T, facecolor=COLOURS["v"], alpha=0.16, lw=0)
                ax.plot(*np.vstack([corners, corners[:1]]).T, ls=style, color=COLOURS["v"], lw=1.2)
                gain, psmv = (
                    100 * points[reader, subset, "TAV", "gain"],
                    100 * points[reader, subset, "V", "psmv"],
                )
                ax.plot(gain, psmv, marker=marker, zorder=5, **_MARK)
            for other in SUBSETS:
                ends, own = np.array([0, 100]), other == subset
                line = {"lw": 1.6, "ls": "-"} if own else {"lw": 0.7, "ls": ":"}
                ax.plot(ends, ends * published[other], color=PUBLISHED, **line)
            x, share = 9, published[subset]
            ax.text(x, x * share + 2, f"{100 * share:.1f}%", ha="right", fontsize=8)
            ax.axhline(0, color="black", lw=0.6)
            ax.axvline(0, color="black", lw=0.6)
            ax.set_title(SUBSET_TITLES[subset])
            ax.set_xlabel("total gain V(TAV) \N{MINUS SIGN} V(none) (points)")
        axes[0].set_xlim(-25, 85)
        axes[0].set_ylim(-42, 52)
        axes[0].set_ylabel("PSMV of V (points)")
        look = {**_MARK, "color": COLOURS["v"]}
        handles = [
            *(
                Line2D([], [], marker=marker, label=STRATEGIES[reader], **{**look, "ls": style})
                for reader, (style, marker) in _DRAWN.items()
            ),
            line_entry("published share (slope)", PUBLISHED, lw=1.6),
            line_entry("that of the other subset", PUBLISHED, ":", lw=0.7),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=4)
        below = (
            "area: all label tables that fit the published numbers; marks: the surrogates' table"
        )
        titled(fig, "V's PSMV and the total gain of strategies without preference", below)
        return fig
