"""Colours, captions and byte-stable saving of figures."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pylopdf_fonts_zh_cn
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from emomm_study.paths import FIGURES
from emomm_study.report.manifest import Provenance, captioned, folder, record

COLOURS = {"gt": "#4D4D4D", "t": "#0072B2", "a": "#E69F00", "v": "#009E73"}
"""One colour a source everywhere (Okabe-Ito): ground truth dark grey, T blue, A orange, V green."""
NAMES = {"gt": "GT", "t": "T", "a": "A", "v": "V"}
SUBSET_COLOURS = {"align": "#BFC7D5", "conflict": "#CC79A7"}
"""Away from the modalities' colours, and apart in lightness as well as hue."""
CORPUS_NAMES = {"cmu_mosi": "CMU-MOSI", "ch_sims_v2": "CH-SIMS v2.0"}
SUBSET_TITLES = {
    "overall": "Overall",
    "align": "Align",
    "conflict": "Conflict",
    "missing": "Missing",
}
PUBLISHED = "#000000"
INK, GREY, FAINT = "#333333", "#7A7A7A", "#D0D0D0"
"""Lines and words that belong to no source, from strong to weak."""

RC = {
    "figure.dpi": 100,
    # The second has the characters that the first lacks: CH-SIMS's transcripts.
    "font.family": ["DejaVu Sans", "Noto Sans SC"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "emomm",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
font_manager.fontManager.addfont(pylopdf_fonts_zh_cn.sans_path())
# The package has one weight, which stands in for bold as well.
font_manager.fontManager.ttflist += [
    replace(entry, weight=700)
    for entry in font_manager.fontManager.ttflist
    if entry.fname == str(pylopdf_fonts_zh_cn.sans_path())
]
_METADATA = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


def context() -> AbstractContextManager[None]:
    """The house style for drawing and saving, independent of the user's matplotlib settings."""
    return mpl.rc_context({**mpl.rcParamsDefault, "backend": mpl.get_backend(), **RC})


def caption(item: str, profile: str, text: str, note: str = "") -> str:
    """Caption that names the profile: ``caption("Figure 7", "mini", "CMU-MOSI statistics")``.

    ``note`` says what the profile's data are. Raises ``ValueError`` for an empty profile.
    """
    if not profile:
        raise ValueError(f"{item}: a caption names its profile")
    return " ".join(filter(None, [f"{item}: {text}.", f"Profile {profile}.", note]))


def fixed(value: float, digits: int) -> str:
    """A number with fixed digits, a decimal tie going to the even digit, as in the paper's Table 4.

    ``fixed(0.79975, 4) == "0.7998"``, where plain formatting sees the binary number just below the
    tie and gives 0.7997.
    """
    return f"{np.round(value, digits):.{digits}f}"


def titled(fig: Figure, title: str, profile: str, below: str) -> None:
    """A figure's title with, in small type under it, its profile and a remark."""
    # The empty second line makes the layout leave room for the profile's.
    fig.suptitle(f"{title}\n", fontsize=11, fontweight="bold")
    y = 1 - 0.29 / fig.get_figheight()
    fig.text(0.5, y, f"profile: {profile}  |  {below}", ha="center", va="top", fontsize=8)


def _settle(fig: Figure) -> None:
    """Do a figure's layout once and for all.

    Constrained layout leaves the last bits of a position to chance, and an SVG's clip paths are
    named after all bits.
    """
    for _ in range(2):
        # Room for tick labels depends on the ticks, and those on the room.
        fig.draw_without_rendering()
    bounds = [ax.get_position().bounds for ax in fig.axes]
    fig.set_layout_engine("none")
    for ax, place in zip(fig.axes, bounds, strict=True):
        ax.set_position(np.round(place, 6))


def save(
    fig: Figure, name: str, profile: str, provenance: Provenance, *, root: Path = FIGURES
) -> tuple[Path, ...]:
    """Write a figure as PNG, SVG and PDF under ``figures/<profile>`` and record where it is from.

    The same figure gives the same bytes; text stays text in SVG and PDF. The figure is closed, so
    that a notebook that ends a cell with it shows it once. Returns the three paths.
    """
    base, provenance = folder(profile, root), captioned(provenance, profile)
    paths = tuple(base / f"{name}.{suffix}" for suffix in _METADATA)
    with context():
        _settle(fig)
        for path, metadata in zip(paths, _METADATA.values(), strict=True):
            fig.savefig(path, dpi=200, metadata=metadata)
    plt.close(fig)
    record(paths, provenance, profile, root)
    return paths
