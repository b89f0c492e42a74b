"""What a run found, in one picture for the README."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emomm_study import paper
from emomm_study.report.numbers import bracketed, number
from emomm_study.report.style import COLOURS, GREY, INK, PUBLISHED, SUBSET_COLOURS, context

_SHARES = {
    "published": (None, None),
    "Omni-mini": ("vcc/model/share_align", "vcc/model/share_conflict"),
    "ideal observer": ("vcc/ideal observer/share_align", "vcc/ideal observer/share_conflict"),
}
_GAINS = {
    "CHASE, as published": "gains/CHASE/conflict",
    "the same with an oracle's gate": "gains/oracle, as published/conflict",
    "stronger: gate on unmixed states": "gains/+ embedded gate/conflict",
    "of which clip-specific": "permuted/+ embedded gate/conflict/clip",
    "late fusion, the same gate": "gains/late fusion/conflict",
    "stronger: an oracle's gate": "gains/oracle/conflict",
}


def glance(values: Mapping[str, pd.DataFrame]) -> Figure:
    """Video's share of a right answer, model beside ideal observer; gains of steering on Conflict.

    ``values`` by notebook, as of :func:`emomm_study.report.values.read_values`: of 03 and 08. Raises
    ``KeyError`` for a value that is not among them.
    """
    with context():
        # Both panels read at a glance, without a legend.
        fig, (left, right) = plt.subplots(
            1, 2, figsize=(8.2, 2.5), layout="constrained", width_ratios=(1, 1.15)
        )
        _shares(left, values["03"].set_index("name"))
        _gains(right, values["08"].set_index("name"))
        return fig


def _shares(ax: Axes, values: pd.DataFrame) -> None:
    said = paper.claims().set_index("id")["value"]
    for y, (align, conflict) in enumerate(_SHARES.values()):
        if align is None:
            ends = [said["vcc_share_v_align"], said["vcc_share_v_conflict"]]
        else:
            rows = 100 * values.loc[[align, conflict], ["value", "low", "high"]]
            ends = rows["value"].tolist()
            ax.plot(
                rows.loc[conflict, ["low", "high"]], [y, y], color=COLOURS["v"], lw=1, alpha=0.6
            )
        colour = PUBLISHED if align is None else COLOURS["v"]
        ax.annotate(
            "", (ends[1], y), (ends[0], y), arrowprops={"arrowstyle": "->", "color": colour}
        )
        ax.plot(ends[0], y, "|", color=colour, ms=9)
        ax.text(ends[0] + 1, y, f"{ends[0]:.0f}% to {ends[1]:.0f}%", va="center", color=INK)
    ax.set_yticks(range(len(_SHARES)), _SHARES)
    ax.set(
        xlim=(-8, 58),
        ylim=(len(_SHARES) - 0.5, -0.5),
        xlabel="video's share of a right answer (%); pale: interval",
    )
    ax.set_title("Video's share, from Align to Conflict", loc="left")
    ax.tick_params(left=False)


def _gains(ax: Axes, values: pd.DataFrame) -> None:
    rows = 100 * values.loc[list(_GAINS.values()), ["value", "low", "high"]]
    for y, (value, low, high) in enumerate(rows.itertuples(index=False)):
        ax.plot([low, high], [y, y], color=SUBSET_COLOURS["conflict"], lw=2)
        ax.plot(value, y, "o", color=SUBSET_COLOURS["conflict"])
        ax.text(
            25.5,
            y,
            f"{number(value, 1)} {bracketed(low, high, 1)}",
            va="center",
            fontsize=8,
            color=INK,
        )
    ax.axvline(0, color=GREY, lw=0.8)
    ax.set_yticks(range(len(_GAINS)), _GAINS)
    ax.set(xlim=(-3, 40), ylim=(len(_GAINS) - 0.5, -0.5), xticks=(0, 10, 20))
    ax.set_xlabel("gain in accuracy on Conflict (points)")
    ax.set_title("Gain by gate and strength", loc="left")
    ax.tick_params(left=False)
