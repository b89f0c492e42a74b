"""Figures of the benchmark's statistics: Figure 2 (left), 6, 7 and 8."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from emomm_lib import agreement_matrix
from emomm_lib.labels import CLASSES, SOURCES
from emomm_study import paper
from emomm_study.report.figures.parts import line_entry, unshown
from emomm_study.report.numbers import fixed
from emomm_study.report.style import (
    COLOURS,
    CORPUS_NAMES,
    NAMES,
    PUBLISHED,
    SUBSET_COLOURS,
    context,
    titled,
)
from emomm_study.report.tables import label_counts


def figure2(sizes: pd.DataFrame) -> Figure:
    """Figure 2 (left): subset sizes by corpus, as stacked bars with counts and shares.

    ``sizes`` has ``corpus, subset, instances`` as by ``benchmark.subset_sizes``. A black tick
    marks the published border between Align and Conflict where the paper gives one (CH-SIMS v2.0).
    """
    facts = paper.claims().set_index("id")["value"]
    published = {"ch_sims_v2": facts["quota_ch_sims_equal"] + facts["quota_ch_sims_same_polarity"]}
    masked = sizes["subset"].str.startswith("missing_")
    subset = sizes["subset"].str.removeprefix("missing_")
    counts = sizes.assign(masked=masked, subset=subset)
    counts = counts.pivot(index=["corpus", "masked"], columns="subset", values="instances")
    counts = counts.reindex([c for c in paper.CORPORA if c in counts.index], level="corpus")
    totals, widest = counts.sum(axis=1), counts.sum(axis=1).max()
    with context():
        fig, ax = plt.subplots(figsize=(7.2, 1.5 + 0.5 * len(counts)), layout="constrained")
        counts[[*SUBSET_COLOURS]].plot.barh(
            stacked=True, ax=ax, color=SUBSET_COLOURS, width=0.8, edgecolor="white", lw=0.8,
            legend=False,
        )  # fmt: skip
        for bars, (subset, colour) in zip(ax.containers, SUBSET_COLOURS.items(), strict=True):
            for bar, (_, hatched) in zip(bars, counts.index, strict=True):
                bar.set_hatch("///" if hatched else None)
            words = [_count(*pair, widest) for pair in zip(counts[subset], totals, strict=True)]
            box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
            ax.bar_label(bars, words, label_type="center", bbox=box)
        for y, (key, total) in enumerate(totals.items()):
            ax.text(total + 0.01 * widest, y, f"{total:,}", va="center", color="#555555")
            if key in [(corpus, False) for corpus in published]:
                ax.vlines(published[key[0]], y - 0.48, y + 0.48, color=PUBLISHED, lw=1.6)
        names = [
            f"{CORPUS_NAMES[c]}\n{'missing' if m else 'full modality'}" for c, m in totals.index
        ]
        ax.set_yticks(range(len(names)), names)
        ax.set_ylabel("")
        ax.invert_yaxis()
        ax.set_xlim(0, widest * 1.1)
        ax.set_xlabel("instances")
        handles = [
            Patch(facecolor=SUBSET_COLOURS["align"], label="Align"),
            Patch(facecolor=SUBSET_COLOURS["conflict"], label="Conflict"),
            Patch(facecolor="#DDDDDD", edgecolor="white", hatch="///", label="one modality masked"),
            line_entry("published border", PUBLISHED, lw=1.6),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=4)
        titled(fig, "Figure 2 (left). EmoMM subsets", "Missing: three instances of each clip")
    return fig


def _count(count: int, total: int, widest: int) -> str:
    """What a bar says of itself: a label wider than its bar would run into its neighbour's."""
    if count <= 0.05 * widest:
        return ""
    return f"{count:,} ({count / total:.0%})" if count > 0.12 * widest else f"{count:,}"


def _distribution(ax: Axes, counts: pd.DataFrame, published: pd.DataFrame) -> None:
    sources = [NAMES[source] for source in SOURCES]
    sns.barplot(
        counts.replace({"source": NAMES}), x="label", y="count", hue="source", order=CLASSES,
        hue_order=sources, palette=[COLOURS[source] for source in SOURCES], saturation=1,
        estimator="sum", errorbar=None, gap=0.06, ax=ax,
    )  # fmt: skip
    marks = published.pivot_table("count", "source", "label", aggfunc="sum")
    for bars, source in zip(ax.containers, SOURCES, strict=True):
        left = np.array([bar.get_x() for bar in bars])
        height, width = marks.loc[source, list(CLASSES)], bars[0].get_width()
        ax.hlines(height, left, left + width, color=PUBLISHED, lw=1.2)
    ax.set(title="label distribution", xlabel="", ylabel="clips")
    handles = [*ax.containers, line_entry("published", PUBLISHED, lw=1.2)]
    ax.margins(y=0.2)
    ax.legend(handles, [*sources, "published"], ncols=5, loc="upper center", columnspacing=1.0)


def _heatmap(ax: Axes, ours: pd.DataFrame, published: pd.DataFrame, source: str) -> None:
    beside = published.loc[list(SOURCES), list(SOURCES)]
    words = ours.map(fixed, digits=4) + "\n(" + beside.map(fixed, digits=4) + ")"
    # The colours stop short of the dark ones, so that numbers stay readable; C_ij itself ends at 1.
    sns.heatmap(
        ours.rename(index=NAMES, columns=NAMES), annot=words, fmt="",
        annot_kws={"fontsize": 8, "color": "black"}, cmap="Purples", vmin=0.5, vmax=1.3,
        square=True, cbar_kws={"shrink": 0.8, "pad": 0.03}, ax=ax,
    )  # fmt: skip
    ax.tick_params(length=0, labelrotation=0)
    ax.set(title=f"agreement $C_{{ij}}$ ({source})", xlabel="", ylabel="")
    ax.collections[0].colorbar.ax.set_ylim(0.5, 1)


def _statistics(manifest: pd.DataFrame, corpora: tuple[str, ...], item: str) -> Figure:
    title = CORPUS_NAMES[corpora[0]] if len(corpora) == 1 else "EmoMM, both corpora"
    if absent := [c for c in corpora if c not in set(manifest["corpus"])]:
        names = " and ".join(CORPUS_NAMES[corpus] for corpus in absent)
        return unshown(f"{item}. {title}", "no clips", f"The benchmark has no clips of {names}.")
    clips = manifest[manifest["corpus"].isin(corpora)]
    counts, cells = (t[t["corpus"].isin(corpora)] for t in (paper.table(3), paper.table(4)))
    # Both corpora have the same number of clips, so the pooled C_ij is the mean of the two.
    published = cells.pivot_table(index="source_i", columns="source_j", values="agreement")
    with context():
        fig, axes = plt.subplots(
            1, 2, figsize=(9.6, 4.0), layout="constrained", width_ratios=[1.45, 1]
        )
        _distribution(axes[0], label_counts(clips), counts)
        source = "published" if len(corpora) == 1 else "mean of Table 4's two"
        _heatmap(axes[1], agreement_matrix(clips), published, source)
        titled(fig, f"{item}. {title}", f"{len(clips):,} clips")
    return fig


def figure6(manifest: pd.DataFrame) -> Figure:
    """Figure 6: label distributions and C_ij of both corpora, published values marked.

    ``manifest`` has ``corpus`` and ``label_gt/t/a/v``, one row a clip. Black lines are the counts
    of Table 3, numbers in brackets those of Table 4 (here their mean over the corpora). Where a
    corpus is absent the figure says so instead.
    """
    return _statistics(manifest, paper.CORPORA, "Figure 6")


def figure7(manifest: pd.DataFrame) -> Figure:
    """Figure 7: as :func:`figure6` for CMU-MOSI."""
    return _statistics(manifest, ("cmu_mosi",), "Figure 7")


def figure8(manifest: pd.DataFrame) -> Figure:
    """Figure 8: as :func:`figure6` for CH-SIMS v2.0."""
    return _statistics(manifest, ("ch_sims_v2",), "Figure 8")
