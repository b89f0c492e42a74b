"""The explorer's picture of one state as a matplotlib figure, for pages without widgets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emomm_lib.labels import CLASSES, MODALITIES
from emomm_study.report.explorer.picture import AFTER, BEFORE, tinted
from emomm_study.report.explorer.shown import Shown
from emomm_study.report.figures.parts import MODALITY_COLOURS, layer_axis
from emomm_study.report.style import INK, context, titled


def explorer_figure(shown: Shown) -> Figure:
    """Answer, attention budget, gate, steered heads and frames of one state, before and after."""
    with context():
        fig = plt.figure(figsize=(9.6, 6.2), layout="constrained")
        upper, lower = fig.subfigures(2, 1, height_ratios=(1, 1.05))
        answer, budget, gate = upper.subplots(1, 3)
        left, right = lower.subfigures(1, 2, width_ratios=(1, 2))
        _draw_answer(answer, shown)
        _draw_budget(budget, shown)
        _draw_gate(gate, shown)
        _draw_heads(left.subplots(), shown)
        _draw_frames(right, shown)
        _legend(fig)
        titled(fig, "Steering explorer", shown.title)
    return fig


def _legend(fig: Figure) -> None:
    handles = [
        Patch(color=BEFORE, label="before"),
        Patch(color=AFTER, label="after"),
        Line2D([], [], color=INK, ls="--", lw=1.2, label="before"),
        Line2D([], [], color=INK, marker="o", ms=3, label="after, $p$"),
        *(Line2D([], [], color=colour, marker="o", ms=3, label=m)
          for m, colour in MODALITY_COLOURS.items()),
        Line2D([], [], color=INK, lw=1, ls=":", label=r"$\tau$"),
    ]  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _draw_answer(ax: Axes, shown: Shown) -> None:
    names = [f"{n}\nGT" if k == shown.truth else n for k, n in enumerate(CLASSES)]
    letters = {"before": shown.before.letters, "after": shown.after.letters}
    pd.DataFrame(letters, index=names).plot.bar(
        ax=ax, width=0.78, color=[BEFORE, AFTER], rot=0, legend=False
    )
    ax.get_xticklabels()[shown.truth].set_fontweight("bold")
    ax.set(ylim=(0, 1), title="Answer", ylabel="probability")


def _draw_budget(ax: Axes, shown: Shown) -> None:
    layers = np.arange(1, len(shown.after.conflict) + 1)
    layer_axis(ax, len(layers))
    for k in np.flatnonzero(shown.present):
        colour = MODALITY_COLOURS[MODALITIES[k]]
        ax.plot(layers, shown.before.share[:, k], color=colour, ls="--", lw=1.2)
        ax.plot(layers, shown.after.share[:, k], color=colour, marker="o", ms=3)
    ax.set(ylim=(0, 1), title="Attention budget (nMAS share)")


def _draw_gate(ax: Axes, shown: Shown) -> None:
    layers = np.arange(1, len(shown.after.conflict) + 1)
    layer_axis(ax, len(layers))
    for k in np.flatnonzero(shown.present):
        m = MODALITIES[k]
        ax.plot(layers, shown.after.gate[:, k], color=MODALITY_COLOURS[m], marker="o", ms=3)
    ax.plot(layers, shown.after.conflict, color=INK, marker="o", ms=3)
    ax.axhline(shown.state.config.tau, color=INK, lw=1, ls=":")
    ax.set(ylim=(0, 1.02), title="Gate: $p$, $g$ and threshold $\\tau$")


def _draw_heads(ax: Axes, shown: Shown) -> None:
    heads = shown.after.heads
    numbers = [range(1, count + 1) for count in heads.shape]
    sns.heatmap(
        pd.DataFrame(heads.T, numbers[1], numbers[0]), cmap=["#E6E8EC", AFTER], vmin=0, vmax=1,
        linewidths=1, linecolor="white", cbar=False, ax=ax,
    )  # fmt: skip
    ax.tick_params(length=0, labelrotation=0)
    title = f"Steered heads ({heads.sum()} of {heads.size})"
    ax.set(title=title, xlabel="layer", ylabel="head")


def _draw_frames(fig: Figure, shown: Shown) -> None:
    first = shown.state.config.first_layer
    fig.suptitle(f"Attention on the frames, layers from {first} on", fontsize=10)
    if shown.opened.tiles is None:
        fig.text(0.5, 0.5, f"no video in {shown.state.coalition}", ha="center")
        return
    heats, tiles = shown.heat(), shown.opened.tiles
    top, count = max(h.max() for h in heats), min(len(tiles), 4)
    axes = fig.subplots(1, 2 * count, squeeze=False)[0]
    for group, (heat, name) in enumerate(zip(heats, ("before", "after"), strict=True)):
        for i, t in enumerate(np.linspace(0, len(tiles) - 1, count).astype(int)):
            ax = axes[group * count + i]
            ax.set_axis_off()
            ax.imshow(tiles[t])
            high, wide = tiles.shape[1:3]
            ax.imshow(tinted(heat[t], top), extent=(-0.5, wide - 0.5, high - 0.5, -0.5),
                      interpolation="nearest")  # fmt: skip
        axes[group * count].set_title(f"{name}: {heat.sum():.3f} on video", fontsize=8, loc="left")
