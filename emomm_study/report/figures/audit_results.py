"""Figures of the audit of Tables 1, 2 and 6: mixes, attainable sizes, sampling error, routing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon
from matplotlib.ticker import MaxNLocator, MultipleLocator

from emomm_study.audit.attainable import Windows
from emomm_study.audit.sampling import DEPENDS, EXCEEDS, WITHIN
from emomm_study.paper import claims
from emomm_study.report.figures.parts import line_entry, mark_entry, row_axis
from emomm_study.report.frames import need
from emomm_study.report.style import GREY, INK, SUBSET_TITLES, context, titled

_METRICS = {
    "acc": ("accuracy", "#332288"),
    "mae": ("MAE", "#5FBFD3"),
    "f1": ("F1, which need not mix", "#D55E00"),
}
_VARIANTS = {
    "no_router": "w/o router",
    "no_inter_bias": "w/o inter-modality bias",
    "no_intra_bias": "w/o intra-modality bias",
}
_VERDICT_COLOURS = {EXCEEDS: "#332288", DEPENDS: "#D55E00", WITHIN: GREY}
_BAND, _WINDOW = "#E4E4E4", "#D6DBE4"


def _systems(frame: pd.DataFrame) -> list[str]:
    """Names of rows of Tables 1 and 2: the system, or Table 2's variant."""
    plus = {"baseline": "", "CHASE": " + CHASE"}
    return [
        f"{row.model}{plus[row.method]}" if row.method in plus else _VARIANTS[row.method]
        for row in frame.itertuples()
    ]


def _area(ax: Axes, corners: pd.DataFrame, metric: str) -> None:
    if len(corners):
        points = corners[["missing", "conflict"]].to_numpy(float)
        colour = _METRICS[metric][1]
        ax.add_patch(Polygon(points, fc=colour, ec=colour, alpha=0.45, lw=1))
        ax.update_datalim(points)


def mix_figure(residuals: pd.DataFrame, polygons: dict[str, pd.DataFrame]) -> Figure:
    """Residuals of the best mix against rounding, and the weights that rounding cannot exclude.

    Parameters
    ----------
    residuals
        As by :func:`emomm_study.audit.mix.residuals`.
    polygons
        Corners by metric, ``acc`` and ``mae``, as by :func:`emomm_study.audit.mix.compatible`; a
        polygon without corners is not drawn.

    The weight of Missing by Appendix A.3, three instances beside each full-modality clip, is
    marked. Raises ``ValueError`` for a missing column or no rows.
    """
    need(residuals, "residuals", "model", "method", "metric", "residual", "bound")
    instances = claims().set_index("id").at["missing_per_clip", "value"]
    three = instances / (instances + 1)
    with context():
        fig, (left, right, close) = plt.subplots(
            1, 3, figsize=(10.4, 3.7), layout="constrained", width_ratios=(1.25, 1, 1)
        )
        left.axvspan(-1, 1, color=_BAND, lw=0)
        left.axvline(0, color=GREY, lw=0.8)
        shown = residuals.assign(
            system=_systems(residuals), units=residuals["residual"] / residuals["bound"]
        )
        sns.pointplot(
            shown, x="units", y="system", hue="metric", hue_order=_METRICS, dodge=0.4,
            palette=[colour for _, colour in _METRICS.values()], markersize=4.5,
            linestyle="none", errorbar=None, legend=False, ax=left,
        )  # fmt: skip
        row_axis(left, [*dict.fromkeys(shown["system"])])
        left.set_ylabel("")
        left.set_title("Overall less the best mix", fontsize=9)
        left.set_xlabel("residual / what rounding explains")
        for ax in (right, close):
            for metric in ("mae", "acc"):
                _area(ax, polygons[metric], metric)
            ax.axvline(three, color=INK, lw=1, ls="--")
            ax.set_xlabel("weight of Missing")
            ax.set_ylabel("weight of Conflict")
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.yaxis.set_major_locator(MaxNLocator(5))
        right.autoscale_view()
        right.margins(0.1)
        right.set_title("weights left by rounding", fontsize=9)
        if len(acc := polygons["acc"]):
            low, high = min(three, acc["missing"].min()), max(three, acc["missing"].max())
            pad = 0.25 * (high - low)
            close.set_xlim(low - pad, high + pad)
            span = max(np.ptp(acc["conflict"]), 1e-4)
            close.set_ylim(acc["conflict"].min() - span, acc["conflict"].max() + span)
        close.set_title("the same, enlarged", fontsize=9)
        handles = [
            *(mark_entry(name, "o", colour) for name, colour in _METRICS.values()),
            line_entry("three Missing instances a clip", INK, "--", lw=1),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=4)
        titled(fig, "One mix of subsets behind Overall", "published Table 1, eight rows")
        return fig


def sizes_figure(rows: pd.DataFrame, window: Windows) -> Figure:
    """Sizes near the implied one that print each accuracy of Align and of Conflict.

    ``rows`` is as by :func:`emomm_study.audit.attainable.row_sizes`; ``window`` marks the runs in
    which all rows of its subset find a size. Raises ``ValueError`` for a missing column or no rows.
    """
    need(rows, "rows", "model", "method", "subset", "implied", "sizes", "below", "above")
    with context():
        fig, axes = plt.subplots(1, 2, figsize=(10.4, 4.1), layout="constrained")
        for ax, subset in zip(axes, ("align", "conflict"), strict=True):
            part = rows[rows["subset"] == subset].reset_index(drop=True)
            for start in window.starts if subset == window.subset else ():
                # Overlapping runs have one opaque colour, and so make one band.
                ax.axvspan(start - 0.5, start + window.width - 0.5, color=_WINDOW, lw=0, zorder=-1)
            implied = part["implied"].iloc[0]
            ax.axvline(implied, color=INK, lw=1, ls="--")
            for place, row in enumerate(part.itertuples()):
                ax.axhline(place, color=_BAND, lw=0.8, zorder=0)
                ax.plot(row.sizes, [place] * len(row.sizes), "|", ms=11, mew=2, color="#332288")
                if not row.sizes:
                    words = f"none from {row.below + 1:.0f} to {row.above - 1:.0f}"
                    box = {"fc": "white", "ec": "none", "pad": 1}
                    text = {"va": "center", "fontsize": 8, "color": "#D55E00", "bbox": box}
                    ax.text(implied * 1.01, place, words, **text)
            row_axis(ax, _systems(part))
            ax.set_xlim(implied * 0.89, implied * 1.11)
            ax.xaxis.set_major_locator(MultipleLocator(10 if implied < 400 else 20))
            ax.set_title(f"EmoMM-{SUBSET_TITLES[subset]}", fontsize=9)
            ax.set_xlabel("number of clips n")
        handles = [
            mark_entry("some k/n prints the accuracy", "|", "#332288", ms=9, mew=2),
            line_entry("implied by the mix and the split", INK, "--", lw=1),
        ]
        if window.starts:
            name = f"runs of {window.width} in each of which every row finds one"
            handles.append(Patch(color=_WINDOW, lw=0, label=name))
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        below = "accuracies of published Tables 1 and 2 as shares of n clips"
        titled(fig, "Which numbers of clips can print an accuracy", below)
        return fig


def _difference(ax: Axes, place: float, row: tuple, hollow: bool) -> None:
    colour = _VERDICT_COLOURS[row.verdict]
    ax.hlines(place, row.low_worst, row.high_worst, color=colour, lw=0.9)
    ax.hlines(place, row.low_best, row.high_best, color=colour, lw=3.2)
    face = "white" if hollow else colour
    ax.plot(row.difference, place, "o", ms=5.5, mfc=face, mec=colour, mew=1.2)


def differences_figure(bounds: pd.DataFrame) -> Figure:
    """Forest of differences of accuracy with the narrowest and the widest 95% intervals.

    ``bounds`` is as by :func:`emomm_study.audit.sampling.difference_bounds`, or rows of it; every
    kind has a panel. Raises ``ValueError`` for a missing column, another verdict, or no rows.
    """
    ends = ("low_best", "high_best", "low_worst", "high_worst")
    need(
        bounds,
        "bounds",
        "kind",
        "comparison",
        "subset",
        "counted",
        "n",
        "difference",
        *ends,
        "verdict",
    )
    if unknown := set(bounds["verdict"]) - set(_VERDICT_COLOURS):
        raise ValueError(f"bounds: verdicts are {tuple(_VERDICT_COLOURS)}; got {sorted(unknown)}")
    kinds = [*dict.fromkeys(bounds["kind"])]
    groups = {
        kind: bounds[bounds["kind"] == kind].groupby(["comparison", "subset"], sort=False)
        for kind in kinds
    }
    heights = [groups[kind].ngroups + 0.6 for kind in kinds]
    with context():
        fig, axes = plt.subplots(
            len(kinds),
            1,
            figsize=(8.6, 1.7 + 0.3 * sum(heights)),
            layout="constrained",
            height_ratios=heights,
            sharex=True,
            squeeze=False,
        )
        for ax, kind in zip(axes[:, 0], kinds, strict=True):
            names = []
            for place, ((comparison, subset), rows) in enumerate(groups[kind]):
                for row in rows.itertuples():
                    clips = row.counted == "clips"
                    shift = 0.0 if len(rows) == 1 else (0.17 if clips else -0.17)
                    _difference(ax, place + shift, row, clips)
                for code, name in _VARIANTS.items():
                    comparison = comparison.replace(code, name)
                name = comparison.replace(" - ", " \N{MINUS SIGN} ")
                names.append(f"{name}, {SUBSET_TITLES[subset]}, n = {rows['n'].max():,.0f}")
            row_axis(ax, names)
            ax.axvline(0, color=GREY, lw=0.9, zorder=0)
            ax.grid(axis="x", color=_BAND, lw=0.6)
            ax.set_axisbelow(True)
        axes[-1, 0].set_xlabel("difference of accuracy, points")
        handles = [
            *(
                line_entry(verdict, colour, lw=3, marker="o", ms=5)
                for verdict, colour in _VERDICT_COLOURS.items()
                if verdict in set(bounds["verdict"])
            ),
            mark_entry("a clip counts once", "o", INK, mfc="white"),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=2)
        below = "95% intervals: thick at the most favourable pairing, thin at the least"
        titled(fig, "Differences of accuracy and the size of the test set", below)
        return fig


def routing_figure(product: pd.DataFrame) -> Figure:
    """Table 6: recall times top-1 beside the printed joint success, by split.

    ``product`` is as by :func:`emomm_study.audit.gains.routing_product`. Raises ``ValueError`` for a
    missing column or no rows.
    """
    need(product, "product", "split", "joint", "product", "difference", "bound")
    with context():
        fig, ax = plt.subplots(figsize=(5.6, 2.5), layout="constrained")
        for place, row in enumerate(product.itertuples()):
            ax.plot([row.product, row.joint], [place] * 2, color=GREY, lw=1, zorder=1)
            ax.errorbar(row.product, place, xerr=row.bound, fmt="o", color="#332288", capsize=4)
            ax.plot([row.joint], [place], "D", color="#D55E00")
            middle = (row.product + row.joint) / 2
            text = f"{row.difference:+.4f}, {abs(row.difference) / row.bound:.0f} times rounding"
            ax.annotate(
                text, (middle, place), (0, 7), textcoords="offset points", ha="center", fontsize=8
            )
        names = {"valid": "validation", "test": "test"}
        row_axis(ax, [names[split] for split in product["split"]])
        ax.margins(x=0.25)
        ax.set_xlabel("share of true conflicts")
        handles = [
            mark_entry("recall \N{MULTIPLICATION SIGN} top-1", "o", "#332288"),
            mark_entry("joint success as printed", "D", "#D55E00"),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=2)
        titled(fig, "Table 6: a product, and what is printed", "published values")
        return fig
