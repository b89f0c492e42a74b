"""Figure 2 (right): an instance of each subset, with what is seen, heard and said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, SubplotSpec

from emomm_lib.labels import CLASSES, MODALITIES, polarity
from emomm_study.media.audio import AudioSettings, read_audio
from emomm_study.media.video import VideoSettings, read_frames
from emomm_study.paths import resolve_media
from emomm_study.report.frames import need
from emomm_study.report.style import COLOURS, GREY, context, titled

SHOWN = {"align": "TAV", "conflict": "TAV", "missing": "TV"}
"""Coalition of each column."""
_TITLES = {"align": "Align", "conflict": "Conflict", "missing": "Missing: audio hidden"}
_FRAMES = 2


def instances(clips: pd.DataFrame, *, seed: int = 0) -> dict[str, pd.Series]:
    """A clip by subset, drawn at random: for Missing any, since each lacks a modality in turn.

    ``clips`` has the manifest's ``subset`` and ``language``; a remark in English is taken where there
    is one. Of a subset without a clip there is no entry. Raises ``ValueError`` without clips.
    """
    need(clips, "clips", "sample_id", "subset", "language")
    found = {}
    for place, subset in enumerate(SHOWN):
        own = clips if subset == "missing" else clips[clips["subset"] == subset]
        own = own[~own["sample_id"].isin([clip["sample_id"] for clip in found.values()])]
        if (english := own["language"] == "en").any():
            own = own[english]
        if len(own):
            found[subset] = (
                own.sort_values("sample_id").sample(1, random_state=seed + place).iloc[0]
            )
    return found


def figure2_right(chosen: Mapping[str, pd.Series], roots: Mapping[str, Path]) -> Figure:
    """Figure 2 (right): a column an instance, with transcript, frames, sound and its labels.

    ``chosen`` has clips of a manifest by subset, as by :func:`instances`; ``roots`` the folder of
    each corpus. What is hidden in an instance is said to be. Raises ``MediaError`` for files that
    cannot be read.
    """
    with context():
        fig = plt.figure(figsize=(9.6, 4.4), layout="constrained")
        grid = fig.add_gridspec(4, len(chosen), height_ratios=[0.7, 1.7, 0.8, 0.5])
        for column, (subset, clip) in enumerate(chosen.items()):
            _column(fig, grid, column, clip, subset, roots[clip["corpus"]])
        titled(
            fig, "Figure 2 (right). An instance of each subset",
            "GT, T, A, V: labels; * another polarity than GT's",
        )  # fmt: skip
        return fig


def _column(
    fig: Figure, grid: GridSpec, column: int, clip: pd.Series, subset: str, root: Path
) -> None:
    coalition = SHOWN[subset]
    said, below, sound, labels = (grid[row, column] for row in range(4))
    ax = _plain(fig, said)
    ax.set_title(_TITLES[subset], fontweight="bold")
    words = f"“{clip['text']}”" if "T" in coalition else "no transcript"
    ax.text(0.5, 0.5, fill(words, 38), ha="center", va="center", fontsize=9, parse_math=False)
    frames = read_frames(resolve_media(root, clip["video_path"]), VideoSettings(num_frames=_FRAMES))
    for place, frame in zip(below.subgridspec(1, _FRAMES), frames, strict=True):
        _plain(fig, place).imshow(frame)
    heard = _plain(fig, sound)
    if "A" in coalition:
        settings = AudioSettings()
        samples = read_audio(resolve_media(root, clip["audio_path"]), settings)
        _wave(heard, samples, len(samples) / settings.sampling_rate)
    else:
        heard.text(0.5, 0.5, "no sound", ha="center", va="center", color=GREY)
    _labels(_plain(fig, labels), clip, coalition)


def _plain(fig: Figure, place: SubplotSpec) -> Axes:
    ax = fig.add_subplot(place)
    ax.set(xticks=[], yticks=[])
    ax.set_axis_off()
    return ax


def _wave(ax: Axes, samples: np.ndarray, seconds: float) -> None:
    spans = np.array_split(samples, min(300, len(samples)))
    at = np.linspace(0, seconds, len(spans))
    low, high = (np.array([f(span) for span in spans]) for f in (np.min, np.max))
    ax.fill_between(at, low, high, color=COLOURS["a"], lw=0.3)
    ax.set_xlim(0, seconds)


def _labels(ax: Axes, clip: pd.Series, coalition: str) -> None:
    """GT's label and those of the modalities, each in its colour."""
    truth = clip["label_gt"]
    entries = [("GT", CLASSES[truth], COLOURS["gt"])]
    for m in MODALITIES:
        own = clip[f"label_{m.lower()}"]
        mark = "*" if polarity(own) != polarity(truth) else ""
        shown = f"{CLASSES[own]}{mark}" if m in coalition else "hidden"
        entries.append((m, shown, COLOURS[m.lower()]))
    for k, (name, shown, colour) in enumerate(entries):
        look = {"ha": "center", "va": "center", "fontsize": 8.5, "fontweight": "bold"}
        ax.text((k + 0.5) / 4, 0.5, f"{name} {shown}", color=colour, **look)
