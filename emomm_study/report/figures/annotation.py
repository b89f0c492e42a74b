"""Figures of the annotation protocol: votes, agreement, and each annotator's votes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emomm_lib.labels import CLASSES, MODALITIES
from emomm_study.annotation.agreement import COUNTS, MEAN, POOLED
from emomm_study.audit.kappa import PATTERNS, pattern_labels, pattern_scores
from emomm_study.corpora.scores import Corpus
from emomm_study.report.frames import need
from emomm_study.report.style import COLOURS, PUBLISHED, context, fixed, titled

_NAMES = {"T": "text", "A": "audio", "V": "video"}
_ROWS = {**_NAMES, MEAN: "mean of the three", POOLED: "all votes, one kappa"}
_DARK, _RANGE, _MARKERS = "#333333", "#D9D9D9", {"T": "o", "A": "s", "V": "^"}
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
    with context():
        fig, axes = plt.subplots(
            1, len(MODALITIES), figsize=(9.6, 5.6), layout="constrained", sharey=True
        )
        for ax, modality in zip(axes, MODALITIES, strict=True):
            counts = [int(items.get((modality, *pattern), 0)) for pattern in shown.tolist()]
            for y, (pattern, count) in enumerate(zip(shown, counts, strict=True)):
                split = pattern[0] > 0 and pattern[2] > 0
                ax.barh(
                    y, count, color=COLOURS[modality.lower()], height=0.8,
                    hatch="////" if split else None, edgecolor="white", lw=0,
                )  # fmt: skip
                if count:
                    text = f" {count:,}"
                    ax.text(count, y, text, va="center", fontsize=7.5, color=_DARK)
            for border in borders:
                ax.axhline(border, color="#BBBBBB", lw=0.7)
            ax.set(title=_NAMES[modality], xlabel="items", ylim=(-0.6, len(shown) - 0.4))
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
        handles = [Patch(facecolor="#AAAAAA", edgecolor="white", hatch="////", label="split votes")]
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
        ``modality`` (T, A, V, all, mean), ``kappa, low, high``, as by ``agreement.fleiss``.
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
    rows = [m for m in _ROWS if m in found.index]
    with context():
        fig, ax = plt.subplots(figsize=(8.0, 3.6), layout="constrained")
        for y, modality in enumerate(rows):
            if modality in allowed.index:
                low, high = allowed.loc[modality, ["low", "high"]]
                ax.barh(y, high - low, left=low, height=0.62, color=_RANGE)
            kappa, low, high = found.loc[modality, ["kappa", "low", "high"]]
            colour = COLOURS.get(modality.lower(), _DARK)
            ax.plot([low, high], [y, y], color=colour, lw=2.4, solid_capstyle="butt")
            ax.plot(kappa, y, "o", color=colour, ms=7, mec="white")
            ax.text(
                1.01, y, f"{fixed(kappa, 3)} [{fixed(low, 3)}, {fixed(high, 3)}]", va="center",
                transform=ax.get_yaxis_transform(), fontsize=8,
            )  # fmt: skip
        ax.axvline(published, color=PUBLISHED, lw=1.4)
        ends = [published, *found["low"], *found["high"], *allowed["low"], *allowed["high"]]
        ax.set_xlim(min(ends) - 0.03, max(ends) + 0.03)
        ax.set_yticks(range(len(rows)), [_ROWS[m] for m in rows])
        ax.invert_yaxis()
        ax.set_xlabel("Fleiss' kappa")
        handles = [
            Patch(color=_RANGE, label="what Table 3's class counts allow"),
            Line2D(
                [], [], color=_DARK, lw=2.4, marker="o", mec="white", label="votes, 95% interval"
            ),
            Line2D([], [], color=PUBLISHED, lw=1.4, label=f"published, {published:.2f}"),
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
        ``annotator, modality, negative, neutral, positive, leaning, off_majority``, as by
        ``agreement.annotator_report``.
    who
        Who voted, for the line under the title.

    Raises ``ValueError`` for missing columns and no rows.
    """
    need(pairs, "pairs", "modality", "first", "second", "kappa")
    need(report, "report", "annotator", "modality", *COUNTS, "leaning", "off_majority")
    annotators = list(dict.fromkeys(report["annotator"]))
    with context():
        fig, axes = plt.subplots(2, 3, figsize=(9.6, 6.0), layout="constrained")
        for ax, modality in zip(axes[0], MODALITIES, strict=True):
            image = _pairs(ax, pairs[pairs["modality"] == modality], annotators)
            ax.set_title(f"Cohen's kappa, {_NAMES[modality]}")
        fig.colorbar(image, ax=axes[0], shrink=0.8, pad=0.02).outline.set_visible(False)
        _by_annotator(axes[1, 0], report, "leaning", annotators)
        axes[1, 0].axhline(0, color=_DARK, lw=0.8)
        axes[1, 0].set(title="leaning", ylabel="own vote minus the others' mean")
        _by_annotator(axes[1, 1], report, "off_majority", annotators)
        axes[1, 1].set(title="off the others' majority", ylabel="share of votes")
        axes[1, 1].set_ylim(bottom=0)
        _shares(axes[1, 2], report[report["modality"] == POOLED], annotators)
        handles = [
            Line2D([], [], color=COLOURS[m.lower()], marker=_MARKERS[m], ls="", label=_NAMES[m])
            for m in MODALITIES
        ] + [Patch(fc=colour, ec=_DARK, lw=0.6, label=name) for name, colour in _VOTES.items()]
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        titled(fig, "One annotator beside the others", who)
    return fig


def _pairs(ax: Axes, pairs: pd.DataFrame, annotators: list[str]) -> AxesImage:
    """A symmetric map of one modality's pairwise kappas, with the numbers in its lower half."""
    kappa = pairs.pivot(index="second", columns="first", values="kappa")
    kappa = kappa.reindex(index=annotators, columns=annotators)
    image = ax.imshow(kappa.to_numpy(dtype=float), cmap="Purples", vmin=0, vmax=1)
    for i, j in np.argwhere(kappa.notna().to_numpy()):
        value = kappa.iloc[i, j]
        colour = "white" if value > 0.6 else "black"
        if len(annotators) <= 8:
            ax.text(j, i, fixed(value, 2), ha="center", va="center", color=colour, fontsize=8)
    ax.set_xticks(range(len(annotators) - 1), annotators[:-1])
    ax.set_yticks(range(1, len(annotators)), annotators[1:])
    ax.set(xlim=(-0.5, len(annotators) - 1.5), ylim=(len(annotators) - 0.5, 0.5))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def _by_annotator(ax: Axes, report: pd.DataFrame, column: str, annotators: list[str]) -> None:
    """A dot a modality and annotator, side by side."""
    for k, modality in enumerate(MODALITIES):
        own = report[report["modality"] == modality].set_index("annotator").reindex(annotators)
        ax.plot(
            np.arange(len(annotators)) + 0.18 * (k - 1), own[column], _MARKERS[modality],
            color=COLOURS[modality.lower()], ms=6,
        )  # fmt: skip
    ax.set_xticks(range(len(annotators)), annotators)
    ax.margins(y=0.2)


def _shares(ax: Axes, report: pd.DataFrame, annotators: list[str]) -> None:
    """Each annotator's shares of the three votes, stacked."""
    own, bottom = report.set_index("annotator").reindex(annotators), np.zeros(len(annotators))
    for name, colour in _VOTES.items():
        ax.bar(
            range(len(annotators)), own[name], 0.7, bottom=bottom, color=colour, ec=_DARK, lw=0.6
        )
        bottom = bottom + own[name].to_numpy()
    ax.set_xticks(range(len(annotators)), annotators)
    ax.set(title="shares of votes", ylim=(0, 1))
