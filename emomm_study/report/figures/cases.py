"""Figures 12 and 13: where the decision query looks in the frames, and which tokens matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from scipy.special import xlogy

from emomm_lib.chase.equations import significant_tokens
from emomm_lib.chase.saliency import normalized
from emomm_study.report.cards import Card, shown_frames
from emomm_study.report.figures.parts import unshown
from emomm_study.report.numbers import fixed
from emomm_study.report.style import COLOURS, context, titled

HEAT = LinearSegmentedColormap.from_list(
    "heat", [(0.87, 0.18, 0.15, 0.0), (0.87, 0.18, 0.15, 0.75), (0.45, 0.0, 0.05, 0.95)]
)
"""From transparent over red to dark red: where nothing is, the frame stays visible."""
_TITLES = {
    12: "Figure 12. Attention on the video's frames",
    13: "Figure 13. Importance of the video's tokens",
}


def spread(values: np.ndarray) -> float:
    """Over how many tokens attention is spread: exp of its entropy, 1 to the number of tokens.

    ``spread([1, 1, 0, 0]) == 2``. Raises ``ValueError`` for values that are negative or all zero.
    """
    values = np.asarray(values, dtype=float).ravel()
    if (values < 0).any() or not values.sum() > 0:
        raise ValueError("attention is nowhere negative and somewhere positive")
    p = values / values.sum()
    return float(np.exp(-xlogy(p, p).sum()))


def _check(frames: np.ndarray, values: np.ndarray, what: str) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames are (N, H, W, 3); got {frames.shape}")
    if values.ndim != 3 or not 1 <= values.shape[0] <= len(frames):
        raise ValueError(
            f"{what}: expected (t, h, w) with at most {len(frames)} times for {len(frames)} frames;"
            f" got {values.shape}"
        )


def _overlay(ax: Axes, frame: np.ndarray, values: np.ndarray, scale: Normalize) -> None:
    """Tokens' values over a frame in light grey, so that only they have colour."""
    grey = 90 + 0.6 * (frame.astype(float) @ (0.299, 0.587, 0.114))
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255)
    height, width = grey.shape
    ax.imshow(
        values, cmap=HEAT, norm=scale, extent=(0, width, height, 0), interpolation="nearest",
    )  # fmt: skip
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


NO_VIDEO = "No case shows video: no rule with V found an instance on the test split."


def attention_figure(card: Card | None) -> Figure:
    """:func:`figure12` of a card that shows video, all its methods; without one, that there is none."""
    if card is None:
        return unshown(_TITLES[12], "no case", NO_VIDEO)
    layers = card.case.layers
    maps = {name: answer.mean_on_video(layers) for name, answer in card.case.answers.items()}
    return figure12(card.frames, maps, layers, card.heading)


def importance_figure(card: Card | None, percentile: float) -> Figure:
    """:func:`figure13` of a card that shows video; without one, that there is none."""
    if card is None:
        return unshown(_TITLES[13], "no case", NO_VIDEO)
    return figure13(card.frames, card.case.importance, percentile, card.heading)


def figure12(
    frames: np.ndarray, attention: Mapping[str, np.ndarray], layers: Sequence[int], clip: str
) -> Figure:
    """Figure 12: the decision query's attention over the frames, a row for each method.

    Parameters
    ----------
    frames
        ``(N, H, W, 3)`` uint8, as the model was given them.
    attention
        By method, ``(t, h, w)`` attention on the video's tokens; a token covers N / t frames, of
        which the first is shown.
    layers
        Over which it is a mean, for the label.
    clip
        What is seen, for the line under the title.

    All maps share one colour scale from zero. Raises ``ValueError`` for shapes that do not fit.
    """
    for name, values in attention.items():
        _check(frames, values, name)
    grid = next(iter(attention.values())).shape
    times = shown_frames(grid[0])
    scale = Normalize(0, max(float(values.max()) for values in attention.values()))
    with context():
        fig, axes = plt.subplots(
            len(attention), len(times), squeeze=False, layout="constrained",
            figsize=(max(5.6, 2.0 * len(times) + 1.6), 2.0 * len(attention) + 0.9),
        )  # fmt: skip
        for row, (name, values) in zip(axes, attention.items(), strict=True):
            for ax, time in zip(row, times, strict=True):
                _overlay(ax, frames[time * len(frames) // grid[0]], values[time], scale)
            row[0].set_ylabel(
                f"{name}\non video {fixed(values.sum(), 3)}\n"
                f"spread over {spread(values):.0f} of {values.size} tokens",
                fontsize=8.5,
            )
        for ax, time in zip(axes[0], times, strict=True):
            ax.set_title(_covered(time, grid[0], len(frames)), fontsize=8.5)
        shown = ", ".join(map(str, layers))
        fig.colorbar(
            ScalarMappable(scale, HEAT), ax=axes, shrink=0.8, pad=0.02,
            label=f"attention on a token,\nmean over heads and layers {shown}",
        )  # fmt: skip
        titled(fig, _TITLES[12], f"{clip}\n{_tokens(grid, len(frames))}")
        return fig


def _covered(time: int, times: int, frames: int) -> str:
    """Which frames the tokens of a time are of."""
    first, last = time * frames // times + 1, (time + 1) * frames // times
    if first == last:
        return f"frame {first} of {frames}"
    return f"frames {first} {'and' if last == first + 1 else 'to'} {last} of {frames}"


def _tokens(grid: tuple[int, ...], frames: int) -> str:
    """How a video is cut into tokens: ``2 times 8 x 8 = 128 tokens, each of 2 frames``."""
    times, height, width = grid
    size = f"{times} \N{MULTIPLICATION SIGN} {height} \N{MULTIPLICATION SIGN} {width}"
    each = frames // times
    span = f", each of {each} frames, the first of which is shown" if each > 1 else ""
    return f"{size} = {times * height * width} tokens{span}"


def figure13(frames: np.ndarray, importance: np.ndarray, percentile: float, clip: str) -> Figure:
    """Figure 13: importance of the video's tokens, sorted and over the frames.

    Parameters
    ----------
    frames
        As in :func:`figure12`.
    importance
        ``(t, h, w)`` I_k (Eq. 24); drawn normalised over the video's tokens (Eq. 25).
    percentile
        P, from which a token is in S_v.

    Raises ``ValueError`` for shapes that do not fit and for importance that is zero everywhere.
    """
    _check(frames, importance, "importance")
    if not importance.max() > 0:
        raise ValueError("importance is zero everywhere: the answer does not depend on the video")
    flat = torch.from_numpy(importance.reshape(1, -1).astype(float))
    score = normalized(flat)
    visual = torch.ones_like(score, dtype=torch.bool)
    chosen = significant_tokens(score, visual, torch.tensor([percentile]))[0, 0].numpy()
    score = score[0].numpy()
    maps, inside = score.reshape(importance.shape), chosen.reshape(importance.shape)
    threshold = np.quantile(score, percentile / 100)
    times = shown_frames(len(importance))
    with context():
        fig = plt.figure(figsize=(9.6, 5.4), layout="constrained")
        rows = fig.add_gridspec(2, 1, height_ratios=[1, 1.25])
        ax = fig.add_subplot(rows[0])
        order = np.argsort(-score, kind="stable")
        colours = np.where(chosen[order], COLOURS["v"], "#B8B8B8")
        ax.bar(np.arange(1, len(score) + 1), score[order], width=1.0, color=colours)
        ax.axhline(threshold, color="black", ls="--", lw=1)
        ax.annotate(
            rf"$\tau_P$, P = {percentile:g}", (len(score), threshold), (0, 3), ha="right",
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
        # A few tokens have nearly all of it: on a linear axis the threshold lies on the ground.
        ax.set_yscale("log")
        ax.set(xlim=(0.5, len(score) + 0.5), xlabel="video tokens, sorted")
        ax.set_ylim(max(score[score > 0].min(), 1e-5 * score.max()) / 1.5, 2 * score.max())
        ax.set_ylabel(r"importance $\hat{I}_k$ (log)")
        share = fixed(100 * score[chosen].sum(), 0)
        name = rf"$S_v$: {chosen.sum()} of {len(score)} tokens, {share}% of the importance"
        handles = [Patch(color=COLOURS["v"], label=name), Patch(color="#B8B8B8", label="others")]
        ax.legend(handles=handles, loc="upper right")
        places = rows[1].subgridspec(1, len(times))
        axes = [fig.add_subplot(place) for place in places]
        scale = Normalize(0, float(maps.max()))
        for ax, time in zip(axes, times, strict=True):
            _overlay(ax, frames[time * len(frames) // len(maps)], maps[time], scale)
            _outline(ax, frames.shape[1:3], inside[time])
            ax.set_title(_covered(time, len(maps), len(frames)), fontsize=8.5)
        fig.colorbar(
            ScalarMappable(scale, HEAT), ax=axes, shrink=0.9, pad=0.02,
            label=r"importance $\hat{I}_k$",
        )  # fmt: skip
        titled(fig, _TITLES[13], f"{clip}\n{_tokens(importance.shape, len(frames))}")
        return fig


def _outline(ax: Axes, size: tuple[int, int], inside: np.ndarray) -> None:
    """A frame around each token of a set."""
    height, width = size[0] / inside.shape[0], size[1] / inside.shape[1]
    for row, column in np.argwhere(inside):
        ax.add_patch(
            Rectangle(
                (column * width, row * height), width, height, fill=False, ec=COLOURS["v"], lw=1.0
            )
        )
