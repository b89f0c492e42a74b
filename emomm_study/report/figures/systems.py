"""Accuracy by subset over systems, as they were asked here and as the paper prints them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emomm_study.report.figures.parts import mark_entry, row_axis
from emomm_study.report.frames import need
from emomm_study.report.style import FAINT, INK, PUBLISHED, SUBSET_TITLES, context, titled

LOOKS = {"constrained": ("o", INK), "free": ("s", "#B5651D")}
"""Marker and colour by decoding."""
_WORDS = {"constrained": "letters", "free": "free text"}
_CHANCE = 20.0


def accuracy_by_system(
    scores: pd.DataFrame, published: pd.DataFrame | None = None, *, title: str = "Systems"
) -> Figure:
    """Five-class accuracy of each system in each subset with its interval, a panel a subset.

    Parameters
    ----------
    scores
        ``system, decoding, subset`` and ``value, low, high`` of Acc-5 as fractions, ``asked`` and
        how many were lost; by :func:`emomm_study.evaluate.asked.side_by_side`. A system without a
        value has no mark.
    published
        ``system, subset, value`` in percent; systems that only it has come first.

    Raises ``ValueError`` for a missing column, or two rows of one system, decoding and subset.
    """
    keys = ("system", "decoding", "subset")
    need(scores, "scores", *keys, "value", "low", "high", once=keys, empty=True)
    printed = (
        pd.DataFrame(columns=["system", "subset", "value"]) if published is None else published
    )
    need(printed, "published", "system", "subset", "value", once=("system", "subset"), empty=True)
    names = [*dict.fromkeys([*printed["system"], *scores["system"]])]
    place = {name: i for i, name in enumerate(names)}
    subsets = [s for s in SUBSET_TITLES if s in {*scores["subset"], *printed["subset"]}]
    decodings = [d for d in LOOKS if d in set(scores["decoding"])]
    with context():
        size = (2.4 + 2.0 * len(subsets), 1.6 + 0.3 * len(names))
        fig, axes = plt.subplots(
            1,
            len(subsets),
            figsize=size,
            layout="constrained",
            sharex=True,
            sharey=True,
            squeeze=False,
        )
        for ax, subset in zip(axes[0], subsets, strict=True):
            ax.axvline(_CHANCE, color=FAINT, lw=1, zorder=0)
            row = printed[printed["subset"] == subset]
            ax.plot(row["value"], row["system"].map(place), "D", color=PUBLISHED, ms=4, mfc="white")
            for shift, decoding in zip(
                np.linspace(-0.14, 0.14, len(decodings)), decodings, strict=True
            ):
                own = scores[(scores["subset"] == subset) & (scores["decoding"] == decoding)]
                own = own.dropna(subset="value")
                value, low, high = (
                    100 * own[name].astype(float) for name in ("value", "low", "high")
                )
                marker, colour = LOOKS[decoding]
                ax.errorbar(value, own["system"].map(place) + shift, xerr=[value - low, high - value],
                            fmt=marker, color=colour, ms=4, lw=1.2)  # fmt: skip
            many = scores.loc[scores["subset"] == subset, "asked"].max()
            ax.set_title(SUBSET_TITLES[subset] + (f", n = {int(many):,}" if pd.notna(many) else ""))
            ax.set_xlabel("Acc-5 (%)")
            ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            ax.spines["left"].set_visible(False)
            ax.tick_params(axis="y", length=0)
        row_axis(axes[0, 0], names)
        handles = [mark_entry(f"here, {_WORDS[d]}", *LOOKS[d]) for d in decodings]
        if len(printed):
            handles.insert(0, mark_entry("published", "D", PUBLISHED, mfc="white"))
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        titled(fig, title, "95% intervals; the grey line is a guess among five")
        return fig
