"""Colours, fonts and titles of figures, and numbers as the paper prints them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache

import matplotlib as mpl
import pylopdf_fonts_zh_cn
from matplotlib import font_manager
from matplotlib.figure import Figure

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
REMARK = "remark"
"""Mark of the text under a figure's title, in front of which publishing puts the profile."""


@cache
def _register_chinese() -> None:
    """Make Noto Sans SC known to matplotlib, for as long as this process lives."""
    path, manager = pylopdf_fonts_zh_cn.sans_path(), font_manager.fontManager
    manager.addfont(path)
    # The package has one weight, which stands in for bold as well.
    entries = [entry for entry in manager.ttflist if entry.fname == str(path)]
    manager.ttflist += [replace(entry, weight=700) for entry in entries]


def context() -> AbstractContextManager[None]:
    """The house style for drawing and saving, independent of the user's matplotlib settings."""
    _register_chinese()
    return mpl.rc_context({**mpl.rcParamsDefault, "backend": mpl.get_backend(), **RC})


def titled(fig: Figure, title: str, below: str) -> None:
    """A figure's title with a remark of one line or two in small type under it.

    Publishing the figure puts its profile in front of the remark (``publish.stamp``).
    """
    # The empty lines make the layout leave room for the remark's.
    fig.suptitle(title + "\n" * (1 + below.count("\n")), fontsize=11, fontweight="bold")
    y = 1 - 0.29 / fig.get_figheight()
    fig.text(0.5, y, below, ha="center", va="top", fontsize=8, gid=REMARK)
