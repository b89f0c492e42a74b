"""Figures of the annotation protocol: votes, agreement, and each annotator's votes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from emomm_lib.labels import CLASSES, MODALITIES
from emomm_study.annotation.agreement import COUNTS, POOLED
from emomm_study.audit.kappa import PATTERNS, pattern_labels, pattern_scores
from emomm_study.corpora.scores import Corpus
from emomm_study.report.figures.parts import KAPPAS, MODALITY_COLOURS, line_entry, mark_entry
from emomm_study.report.frames import need
from emomm_study.report.numbers import bracketed, number
from emomm_study.report.style import COLOURS, INK, PUBLISHED, context, titled

_SPLIT = "#E9E2F2"
_RANGE, _MARKERS = "#D9D9D9", {"T": "o", "A": "s", "V": "^"}
_VOTES = {"negative": "#444444", "neutral": "#B5B5B5", "positive": "#F2F2F2"}
"""No colours: those are the modalities'."""


def vote_patterns(
    patterns: pd.DataFrame, who: str, corpus: Corpus | str = Corpus.CMU_MOSI
) -> Figure:
    """Items by vote pattern and modality, grouped by the class of the mean.

    Parameters
    ----------
    patterns
        ``modality, negative, neutral, positive, items``, as by ``agreement.patterns``.
    who
        Who voted, for the line under the title.
    corpus
        Whose mapping takes means to classes.

    Raises ``ValueError`` for missing columns and no rows.
    """
    need(patterns, "patterns", "modality", *COUNTS, "items")
    items = patterns.set_index(["modality", *COUNTS])["items"]
    order = np.lexsort((PATTERNS[:, 1], pattern_scores()))
    shown, labels = PATTERNS[order], pattern_labels(corpus)[order]
    borders = np.flatnonzero(np.diff(labels)) + 0.5
    split = (shown[:, 0] > 0) & (shown[:, 2] > 0)
    with context():
        fig, axes = plt.subplots(
            1, len(MODALITIES), figsize=(9.6, 5.6), layout="constrained", sharey=True
        )
        for ax, modality in zip(axes, MODALITIES, strict=True):
            counts = [int(items.get((modality, *pattern), 0)) for pattern in shown.tolist()]
            for y in np.flatnonzero(split):
                # Behind the bar: a hatch in it would not be seen where the bar is short.
                ax.axhspan(y - 0.5, y + 0.5, color=_SPLIT, lw=0, zorder=0)
            colour = COLOURS[modality.lower()]
            bars = ax.barh(range(len(shown)), counts, color=colour, height=0.8)
            words = [f"{count:,}" if count else "" for count in counts]
            ax.bar_label(bars, words, padding=2, fontsize=7.5, color=INK)
            for border in borders:
                ax.axhline(border, color="#BBBBBB", lw=0.7)
            title = f"{KAPPAS[modality]}, n = {sum(counts):,} items"
            ax.set(title=title, xlabel="items", ylim=(-0.6, len(shown) - 0.4))
            ax.margins(x=0.18)
        means = shown @ (-1, 0, 1) / shown.sum(axis=1)
        names = [
            f"{a}·{b}·{c}  " + (f"{mean:+.1f}".replace("-", "−") if mean else " 0.0")
            for (a, b, c), mean in zip(shown, means, strict=True)
        ]
        mono = {"fontsize": 7.5, "fontfamily": "DejaVu Sans Mono"}
        axes[0].set_yticks(range(len(shown)), names, **mono)
        axes[0].annotate(
            "−·0·+  mean", (0, 1), (-6, 2), textcoords="offset points",
            xycoords="axes fraction", ha="right", **mono,
        )  # fmt: skip
        for label, name in enumerate(CLASSES):
            middle = np.flatnonzero(labels == label).mean()
            axes[-1].text(
                1.02, middle, name, transform=axes[-1].get_yaxis_transform(), va="center",
                fontweight="bold",
            )  # fmt: skip
        handles = [Patch(color=_SPLIT, label="split votes: −1 and +1 for one item")]
        fig.legend(handles=handles, loc="outside lower right")
        fig.get_layout_engine().set(w_pad=0.08)
        titled(fig, "Votes on each item", who)
    return fig


def agreement_figure(
    kappas: pd.DataFrame, ranges: pd.DataFrame, published: float, who: str
) -> Figure:
    """Fleiss' kappas with their intervals, over what Table 3 allows and the published value.

    Parameters
    ----------
    kappas
        ``modality`` (T, A, V, all, mean), ``kappa, low, high, items``, as by ``agreement.fleiss``.
    ranges
        ``modality, low, high`` of one mapping, as by ``audit.kappa.kappa_ranges``.
    published
        The paper's kappa.
    who
        Who voted, for the line under the title.

    Raises ``ValueError`` for missing columns, no rows, and two rows of one modality.
    """
    for name, frame in (("kappas", kappas), ("ranges", ranges)):
        need(frame, name, "modality", "low", "high")
        if frame["modality"].duplicated().any():
            raise ValueError(f"{name}: a modality has one row; choose one mapping")
    found, allowed = (f.set_index("modality") for f in (kappas, ranges))
    rows = [m for m in KAPPAS if m in found.index]
    with context():
        fig, ax = plt.subplots(figsize=(8.0, 3.6), layout="constrained")
        reach = allowed[allowed.index.isin(rows)]
        at = [rows.index(modality) for modality in reach.index]
        ax.barh(at, reach["high"] - reach["low"], 0.62, reach["low"], color=_RANGE)
        for y, modality in enumerate(rows):
            kappa, low, high = found.loc[modality, ["kappa", "low", "high"]]
            colour = COLOURS.get(modality.lower(), INK)
            ax.hlines(y, low, high, color=colour, lw=2.4)
            ax.plot(kappa, y, "o", color=colour, ms=7, mec="white")
            words = f"{number(kappa, 3)} {bracketed(low, high, 3)}"
            ax.text(1.01, y, words, va="center", transform=ax.get_yaxis_transform(), fontsize=8)
        ax.axvline(published, color=PUBLISHED, lw=1.4)
        ends = [published, *found["low"], *found["high"], *allowed["low"], *allowed["high"]]
        ax.set_xlim(min(ends) - 0.03, max(ends) + 0.03)
        ax.set_yticks(
            range(len(rows)), [f"{KAPPAS[m]}, n = {found.at[m, 'items']:,.0f}" for m in rows]
        )
        ax.invert_yaxis()
        ax.set_xlabel("Fleiss' kappa")
        handles = [
            Patch(color=_RANGE, label="what Table 3's class counts allow"),
            line_entry("votes, 95% interval", INK, lw=2.4, marker="o", mec="white"),
            line_entry(f"published, {published:.2f}", PUBLISHED, lw=1.4),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=3)
        titled(fig, "Agreement of the annotators", who)
    return fig


def annotators_figure(pairs: pd.DataFrame, report: pd.DataFrame, who: str) -> Figure:
    """Agreement of any two annotators, and each one's votes beside the others'.

    Parameters
    ----------
    pairs
        ``modality, first, second, kappa``, as by ``agreement.pairwise``.
    report
        ``annotator, modality, answers, negative, neutral, positive, leaning, off_majority``, as by
        ``agreement.annotator_report``.
    who
        Who voted, for the line under the title.

    Raises ``ValueError`` for missing columns and no rows.
    """
    need(pairs, "pairs", "modality", "first", "second", "kappa")
    need(report, "report", "annotator", "modality", "answers", *COUNTS, "leaning", "off_majority")
    annotators = list(dict.fromkeys(report["annotator"]))
    with context():
        fig, axes = plt.subplots(2, 3, figsize=(9.6, 6.0), layout="constrained")
        for ax, modality in zip(axes[0], MODALITIES, strict=True):
            _pairs(ax, pairs[pairs["modality"] == modality], annotators)
            ax.set_title(f"Cohen's kappa, {KAPPAS[modality]}")
        bar = fig.colorbar(ax.collections[0], ax=axes[0], shrink=0.8, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.set_ylim(0, 1)
        _by_annotator(axes[1, 0], report, "leaning", annotators)
        axes[1, 0].axhline(0, color=INK, lw=0.8)
        axes[1, 0].set(title="leaning", ylabel="own vote minus the others' mean")
        _by_annotator(axes[1, 1], report, "off_majority", annotators)
        axes[1, 1].set(title="off the others' majority", ylabel="share of votes")
        axes[1, 1].set_ylim(bottom=0)
        _shares(axes[1, 2], report[report["modality"] == POOLED], annotators)
        handles = [
            mark_entry(KAPPAS[m], _MARKERS[m], colour) for m, colour in MODALITY_COLOURS.items()
        ] + [Patch(fc=colour, ec=INK, lw=0.6, label=name) for name, colour in _VOTES.items()]
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        each = report.loc[report["modality"] == POOLED, "answers"].max()
        titled(fig, "One annotator beside the others", f"{who}; n = {each:,} votes each")
    return fig


def _pairs(ax: Axes, pairs: pd.DataFrame, annotators: list[str]) -> None:
    """One modality's pairwise kappas, a row and a column an annotator."""
    kappa = pairs.pivot(index="second", columns="first", values="kappa").astype(float)
    # The colours stop short of the dark ones, so that numbers stay readable; kappa ends at 1.
    sns.heatmap(
        kappa.reindex(index=annotators[1:], columns=annotators[:-1]), cmap="Purples", vmin=0,
        vmax=1.6, square=True, annot=len(annotators) <= 8, fmt=".2f",
        annot_kws={"fontsize": 8, "color": "black"}, cbar=False, ax=ax,
    )  # fmt: skip
    ax.tick_params(length=0, labelrotation=0)
    ax.set(xlabel="", ylabel="")


def _by_annotator(ax: Axes, report: pd.DataFrame, column: str, annotators: list[str]) -> None:
    """A mark a modality and annotator, side by side."""
    sns.pointplot(
        report, x="annotator", order=annotators, y=column, hue="modality", hue_order=MODALITIES,
        palette=MODALITY_COLOURS, markers=[*_MARKERS.values()], markersize=6, linestyle="none",
        dodge=0.36, errorbar=None, legend=False, ax=ax,
    )  # fmt: skip
    ax.set(xlabel="")
    ax.margins(y=0.2)


def _shares(ax: Axes, report: pd.DataFrame, annotators: list[str]) -> None:
    """Each annotator's shares of the three votes, stacked."""
    own = report.set_index("annotator").loc[annotators, [*_VOTES]]
    own.plot.bar(
        stacked=True, ax=ax, width=0.7, color=_VOTES, edgecolor=INK, lw=0.6, rot=0, legend=False
    )
    ax.set(title="shares of votes", ylim=(0, 1), xlabel="")
