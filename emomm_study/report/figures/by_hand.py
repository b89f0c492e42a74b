"""Figure 4: CHASE by hand, one head's attention from the unsteered model to the steered one."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emomm_lib.labels import MODALITIES
from emomm_study.evaluate.worked import Worked
from emomm_study.report.numbers import number
from emomm_study.report.style import COLOURS, GREY, INK, context, titled

_WIDTH = 0.62


def figure4(worked: Worked, clip: str) -> Figure:
    """A panel a step, from attention on T, A, V to what it becomes; numbers on the bars.

    ``clip`` says in the subtitle which one it is.
    """
    c, w = worked.config, worked
    steps = [
        ("attention", "Σ a", w.mass, 3), ("a token (Eq. 5)", "nMAS", w.nmas, 4),
        ("preference (Eq. 6)", "π", w.pi, 3), ("trust (Eq. 8)", "g", w.gate, 3),
        ("target (Eq. 12)", "π̂", w.target, 3), ("bias (Eq. 13)", "b", w.bias, 3),
        ("attention (Eq. 15)", "Σ ã", w.steered, 3),
    ]  # fmt: skip
    with context():
        fig, axes = plt.subplots(1, len(steps), figsize=(11, 2.7), layout="constrained")
        for ax, (title, symbol, values, digits) in zip(axes, steps, strict=True):
            _bars(ax, values, digits, above=w.mass if ax is axes[6] else values)
            ax.set_title(f"{title}\n{symbol}", fontsize=9)
        # What is compared has one scale: attention before and after, and the three distributions.
        for group in ((axes[0], axes[6]), (axes[2], axes[3], axes[4])):
            top = max(ax.get_ylim()[1] for ax in group)
            for ax in group:
                ax.set_ylim(0, top)
        axes[6].plot(range(3), w.mass, "_", color=INK, ms=16, mew=1.2)
        axes[6].set_xlabel("line: before", fontsize=8)
        axes[3].set_xlabel(f"p = {number(w.conflict, 2)}", fontsize=8)
        axes[4].set_xlabel(f"η p = {number(c.eta * w.conflict, 2)}", fontsize=8)
        axes[5].set_xlabel(f"× γ = {c.gamma:g}", fontsize=8)
        titled(
            fig, "Figure 4. CHASE by hand",
            f"{clip}; layer {w.layer}, head {w.head} of {len(w.chosen)}, the farthest from g by JSD (Eq. 11)",
        )  # fmt: skip
        return fig


def _bars(ax: Axes, values: NDArray[np.float64], digits: int, above: NDArray[np.float64]) -> None:
    """Bars with their numbers over them, and over what else stands there."""
    known = np.nan_to_num(values)
    colours = [COLOURS[m.lower()] for m in MODALITIES]
    ax.bar(range(3), known, _WIDTH, color=colours)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.margins(y=0.22)
    if known.min() >= 0:
        ax.set_ylim(0, ax.get_ylim()[1])
    for x, value in enumerate(values):
        if np.isnan(value):
            ax.text(x, 0, "absent", ha="center", va="bottom", fontsize=7, color=GREY)
        else:
            place = "bottom" if value >= 0 else "top"
            y = max(value, above[x]) if value >= 0 else value
            ax.text(x, y, number(value, digits), ha="center", va=place, fontsize=7.5)
    ax.set_xticks(range(3), MODALITIES)
    ax.set_yticks([])
    ax.spines[["left", "bottom"]].set_visible(False)
