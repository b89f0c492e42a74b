"""Figures of what the published label tables leave open: kinds of clips, and readers' shares."""

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

from emomm_lib.labels import MODALITIES
from emomm_lib.metrics.psmv import SUBSETS
from emomm_study import paper
from emomm_study.audit.joint import KINDS, published_quotas
from emomm_study.corpora.scores import Corpus
from emomm_study.report.figures.parts import MODALITY_COLOURS, line_entry, mark_entry, row_axis
from emomm_study.report.frames import need
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
_PARTS = {
    "tables": "Tables 3 and 4",
    "quotas": "CH-SIMS's quotas",
    "mix": "CMU-MOSI's conflicts",
}
_READERS = {"random": "follows one at random", "average": "follows the average"}
_DRAWN = {"random": ("-", "D"), "average": ("--", "o")}
_MARK = {"ls": "", "mfc": "white", "mec": INK, "ms": 5.5}
_WINDOW = (-100.0, 150.0)
"""Shares in percent that the figure shows; what lies beyond is an arrow."""


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
            Patch(color=_NARROW, label="and by CH-SIMS's quotas"),
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
            ax.text(middle, place + 0.17, words, ha="center", va="top", fontsize=7)


def shares_figure(ranges: pd.DataFrame, committed: pd.DataFrame) -> Figure:
    """PSMV shares that readers without preference can have, on Align and on Conflict.

    Parameters
    ----------
    ranges
        ``corpus, constraints, reader, subset, modality, quantity, low, high`` as by
        ``audit.collapse.share_ranges``. Of it the shares are drawn of both corpora together, under
        the last, narrowest constraints.
    committed
        ``corpus, reader, subset, modality, quantity, value`` as by ``audit.collapse.shares_of``.

    Shares in percent. A bar that leaves the window ends in an arrow. Raises ``ValueError`` for
    missing columns or where both corpora together are missing.
    """
    need(ranges, "ranges", "corpus", "constraints", "reader", "subset", "modality", "low", "high")
    need(committed, "committed", "corpus", "reader", "subset", "modality", "value")
    shares = ranges[ranges["quantity"].eq("share") & ranges["corpus"].eq("both")]
    if shares.empty:
        raise ValueError("ranges: no shares of both corpora together; give all of collapse.allowed")
    constraints = shares["constraints"].iloc[-1]
    shares = shares[shares["constraints"] == constraints]
    points, published = _together(committed), _published()
    with context():
        fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained", sharey=True)
        for ax, reader in zip(axes, _READERS, strict=True):
            for place, subset in enumerate(SUBSETS):
                for k, modality in enumerate(MODALITIES):
                    keys = {"reader": reader, "subset": subset, "modality": modality}
                    row = shares[np.logical_and.reduce([shares[c] == v for c, v in keys.items()])]
                    ends = 100 * row[["low", "high"]].squeeze()
                    _share(ax, 4 * place + k, ends, MODALITY_COLOURS[modality])
                    value = 100 * points[reader, subset, modality, "share"]
                    ax.plot(4 * place + k, value, zorder=4, **_MARK, marker="D")
                line = 4 * place + 2
                ax.hlines(100 * published[subset], line - 0.45, line + 0.45, color=PUBLISHED, lw=2)
            ax.axhline(0, color="black", lw=0.8)
            ax.set_title(f"reader {_READERS[reader]}")
            names = [
                f"{m}\n{SUBSET_TITLES[s]}" if m == "A" else m for s in SUBSETS for m in MODALITIES
            ]
            ax.set_xticks([4 * p + k for p in range(2) for k in range(3)], names)
            ax.set_ylim(_WINDOW)
        axes[0].set_ylabel("PSMV share (%)")
        handles = [
            *(
                Patch(color=colour, alpha=0.35, label=f"{m}: allowed")
                for m, colour in MODALITY_COLOURS.items()
            ),
            Line2D([], [], marker="D", label="surrogates", **_MARK),
            line_entry("published, of a model", PUBLISHED, lw=2),
            mark_entry("beyond the axis", "^", INK, ms=6),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=6)
        least = ranges.attrs.get("least", 0)
        asked = f"; gains of {100 * least:g} points or more" if least else ""
        below = f"both corpora; {_listed(constraints)}{asked}"
        titled(fig, "Shares that labels alone allow without any preference", below)
        return fig


def _share(ax: Axes, x: float, ends: pd.Series, colour: str) -> None:
    """A bar from end to end, with an arrow where it leaves the window."""
    (low, high), edges = ends, np.clip(ends, *_WINDOW)
    ax.bar(x, np.ptp(edges), 0.7, edges.iloc[0], color=colour, alpha=0.35)
    for beyond, edge, marker in zip(
        (low < _WINDOW[0], high > _WINDOW[1]), _WINDOW, "v^", strict=True
    ):
        if beyond:
            ax.plot(x, edge, marker, color=colour, ms=7, clip_on=False, zorder=5)


def _listed(constraints: str) -> str:
    """The constraints in words: each set includes those before it."""
    names = list(_PARTS)
    return ", ".join(_PARTS[name] for name in names[: names.index(constraints) + 1])


def outlines_figure(outlines: pd.DataFrame, committed: pd.DataFrame) -> Figure:
    """V's PSMV against the total gain: all that the labels of readers without preference allow.

    Parameters
    ----------
    outlines
        ``reader, subset, gain, psmv``: corners in order as by ``audit.collapse.outline``, of V and
        of both corpora together.
    committed
        As for :func:`shares_figure`.

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
                Line2D([], [], marker=marker, label=_READERS[reader], **{**look, "ls": style})
                for reader, (style, marker) in _DRAWN.items()
            ),
            line_entry("published share (slope)", PUBLISHED, lw=1.6),
            line_entry("that of the other subset", PUBLISHED, ":", lw=0.7),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=4)
        below = (
            "area: all label tables that fit the published numbers; marks: the surrogates' table"
        )
        titled(fig, "V's PSMV and the total gain of readers without preference", below)
        return fig
