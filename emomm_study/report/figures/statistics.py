"""Figures of the benchmark's statistics: Figure 2 (left), 6, 7 and 8."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emomm_lib import agreement_matrix
from emomm_lib.labels import CLASSES, SOURCES
from emomm_study import paper
from emomm_study.report.style import (
    COLOURS,
    CORPUS_NAMES,
    NAMES,
    PUBLISHED,
    SUBSET_COLOURS,
    context,
    fixed,
    titled,
)
from emomm_study.report.tables import label_counts


def figure2(sizes: pd.DataFrame) -> Figure:
    """Figure 2 (left): subset sizes by corpus, as stacked bars with counts and shares.

    ``sizes`` has ``corpus, subset, instances`` as by ``benchmark.subset_sizes``. A black tick
    marks the published border between Align and Conflict where the paper gives one (CH-SIMS v2.0).
    """
    counts = sizes.set_index(["corpus", "subset"])["instances"]
    facts = paper.claims().set_index("id")["value"]
    published = {"ch_sims_v2": facts["quota_ch_sims_equal"] + facts["quota_ch_sims_same_polarity"]}
    bars = [(c, p) for c in paper.CORPORA if c in set(sizes["corpus"]) for p in ("", "missing_")]
    with context():
        fig, ax = plt.subplots(figsize=(7.2, 1.5 + 0.5 * len(bars)), layout="constrained")
        widest = max(counts[c, f"{p}align"] + counts[c, f"{p}conflict"] for c, p in bars)
        for y, (corpus, prefix) in enumerate(bars):
            left, total = 0, sum(counts[corpus, f"{prefix}{s}"] for s in SUBSET_COLOURS)
            for subset, colour in SUBSET_COLOURS.items():
                count = counts[corpus, f"{prefix}{subset}"]
                hatch = "///" if prefix else None
                ax.barh(y, count, left=left, color=colour, hatch=hatch, edgecolor="white", lw=0.8)
                # A label wider than its bar would run into its neighbour's.
                text = f"{count:,} ({count / total:.0%})" if count > 0.12 * widest else f"{count:,}"
                if count > 0.05 * widest:
                    box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
                    ax.text(left + count / 2, y, text, ha="center", va="center", bbox=box)
                left += count
            ax.text(left + 0.01 * widest, y, f"{total:,}", va="center", color="#555555")
            if not prefix and corpus in published:
                ax.plot([published[corpus]] * 2, [y - 0.48, y + 0.48], color=PUBLISHED, lw=1.6)
        ax.set_yticks(
            range(len(bars)),
            [f"{CORPUS_NAMES[c]}\n{'missing' if p else 'full modality'}" for c, p in bars],
        )
        ax.invert_yaxis()
        ax.set_xlim(0, widest * 1.1)
        ax.set_xlabel("instances")
        handles = [
            Patch(facecolor=SUBSET_COLOURS["align"], label="Align"),
            Patch(facecolor=SUBSET_COLOURS["conflict"], label="Conflict"),
            Patch(facecolor="#DDDDDD", edgecolor="white", hatch="///", label="one modality masked"),
            Line2D([], [], color=PUBLISHED, lw=1.6, label="published border"),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=4)
        titled(fig, "Figure 2 (left). EmoMM subsets", "Missing: three instances of each clip")
    return fig


def _distribution(ax: Axes, counts: pd.DataFrame, published: pd.DataFrame) -> None:
    by_source = {
        name: frame.groupby(["source", "label"])["count"].sum()
        for name, frame in (("ours", counts), ("published", published))
    }
    width = 0.8 / len(SOURCES)
    for k, source in enumerate(SOURCES):
        x = np.arange(len(CLASSES)) + (k - (len(SOURCES) - 1) / 2) * width
        heights = [by_source["ours"][source, label] for label in CLASSES]
        marks = [by_source["published"][source, label] for label in CLASSES]
        ax.bar(x, heights, width * 0.94, color=COLOURS[source], label=NAMES[source])
        ax.hlines(marks, x - width / 2, x + width / 2, color=PUBLISHED, lw=1.2)
    ax.set_xticks(range(len(CLASSES)), CLASSES)
    ax.set_ylabel("clips")
    ax.set_title("label distribution")
    handles, names = ax.get_legend_handles_labels()
    handles.append(Line2D([], [], color=PUBLISHED, lw=1.2))
    ax.margins(y=0.2)
    ax.legend(handles, [*names, "published"], ncols=5, loc="upper center", columnspacing=1.0)


def _heatmap(ax: Axes, ours: pd.DataFrame, published: pd.DataFrame, source: str) -> None:
    # The colours stop short of the darkest, so that numbers stay readable; C_ij itself ends at 1.
    image = ax.imshow(ours.to_numpy(), cmap="Purples", vmin=0.5, vmax=1.1, aspect="equal")
    for i, row in enumerate(SOURCES):
        for j, column in enumerate(SOURCES):
            value = ours.loc[row, column]
            colour = "white" if value > 0.88 else "black"
            ax.text(j, i - 0.14, fixed(value, 4), ha="center", va="center", color=colour)
            text = f"({fixed(published.loc[row, column], 4)})"
            ax.text(j, i + 0.2, text, ha="center", va="center", color=colour, fontsize=7)
    ticks = range(len(SOURCES)), [NAMES[s] for s in SOURCES]
    ax.set_xticks(*ticks)
    ax.set_yticks(*ticks)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(f"agreement $C_{{ij}}$ ({source})")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.set_ylim(0.5, 1)


def _statistics(manifest: pd.DataFrame, corpora: tuple[str, ...], item: str) -> Figure:
    title = CORPUS_NAMES[corpora[0]] if len(corpora) == 1 else "EmoMM, both corpora"
    if absent := set(corpora) - set(manifest["corpus"]):
        raise ValueError(
            f"{item}: the manifest has no clips of {sorted(absent)}; build the benchmark with them"
        )
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
    of Table 3, numbers in brackets those of Table 4 (here their mean over the corpora). Raises
    ``ValueError`` when a corpus is absent.
    """
    return _statistics(manifest, paper.CORPORA, "Figure 6")


def figure7(manifest: pd.DataFrame) -> Figure:
    """Figure 7: as :func:`figure6` for CMU-MOSI."""
    return _statistics(manifest, ("cmu_mosi",), "Figure 7")


def figure8(manifest: pd.DataFrame) -> Figure:
    """Figure 8: as :func:`figure6` for CH-SIMS v2.0."""
    return _statistics(manifest, ("ch_sims_v2",), "Figure 8")
