"""Figures are drawn once, and anew whenever anything in them is another."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from emomm_study.paths import ROOT
from emomm_study.report import drawing
from emomm_study.report.drawing import DARK, SHOWN, digest, drawn
from emomm_study.report.style import context, titled

KINDS = ("png", "svg")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def figure(last: float = 3.0, unit: str = "%", width: float = 1.5, title: str = "T") -> Figure:
    with context():
        fig, axes = plt.subplots(1, 2, layout="constrained")
        for ax in axes:
            ax.plot([1.0, 2.0, last], linewidth=width)
            ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}{unit}"))
        axes[1].imshow(np.arange(6.0).reshape(2, 3))
        titled(fig, title, "a remark")
    return fig


@pytest.fixture
def counted(monkeypatch):
    """Formats in which anything is saved, in order."""
    saved, plain = [], drawing._saved
    monkeypatch.setattr(drawing, "_saved", lambda fig, k: saved.append(k) or plain(fig, k))
    return saved


def test_a_figure_that_is_as_before_is_not_drawn_and_gives_the_same_bytes(tmp_path, counted):
    kept = tmp_path / "a" / "f.zip"
    first = drawn(figure(), KINDS, kept)
    assert counted == ["png", "svg", SHOWN] and list(first) == [*counted, DARK]
    assert drawn(figure(), KINDS, kept) == first and len(counted) == 3
    assert drawn(figure(), KINDS) == first and len(counted) == 6


CHANGES = {
    "a number's last bit": lambda: figure(last=np.nextafter(3.0, 4.0)),
    "what a formatter of ticks holds": lambda: figure(unit=" points"),
    "a line's width": lambda: figure(width=1.6),
    "a text": lambda: figure(title="U"),
}


def other_formatter() -> Figure:
    fig, unit = figure(), "%"
    for ax in fig.axes:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.1f}{unit}"))
    return fig


def resized() -> Figure:
    fig = figure()
    fig.set_size_inches(5, 5)
    return fig


@pytest.mark.parametrize(
    "changed",
    [*CHANGES.values(), other_formatter, resized],
    ids=[*CHANGES, "what a formatter does", "the size"],
)
def test_whatever_is_another_in_a_figure_it_is_drawn_anew(changed, tmp_path, counted):
    kept = tmp_path / "f.zip"
    drawn(figure(), KINDS, kept)
    drawn(changed(), KINDS, kept)
    assert len(counted) == 6


def test_other_formats_another_style_and_other_source_ask_for_another_drawing(monkeypatch):
    with context():
        before = digest(figure(), KINDS)
        assert digest(figure(), ("png",)) != before == digest(figure(), KINDS)
        with mpl.rc_context({"savefig.pad_inches": 0.3}):
            assert digest(figure(), KINDS) != before
        monkeypatch.setattr(drawing, "source_digest", lambda folders: "other")
        assert digest(figure(), KINDS) != before


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-40], lambda b: b"", lambda b: b[:100] + b"x" + b[101:]]
)
def test_a_damaged_file_is_drawn_over(tmp_path, counted, damage):
    kept = tmp_path / "f.zip"
    first = drawn(figure(), KINDS, kept)
    kept.write_bytes(damage(kept.read_bytes()))
    assert drawn(figure(), KINDS, kept) == first and len(counted) == 6
    assert drawn(figure(), KINDS, kept) == first and len(counted) == 6


def test_what_cannot_be_digested_is_drawn_every_time(tmp_path, counted):
    def odd() -> Figure:
        fig = figure()
        fig.axes[0].lock = threading.Lock()
        return fig

    assert digest(odd(), KINDS) is None
    for _ in range(2):
        drawn(odd(), KINDS, tmp_path / "f.zip")
    assert len(counted) == 6 and not list(tmp_path.iterdir())


PROGRAM = """
    from tests.study.test_drawing import KINDS, figure
    from emomm_study.report.drawing import digest
    from emomm_study.report.style import context
    with context():
        print(digest(figure(), KINDS))
"""


def test_two_processes_know_equal_figures_by_one_digest():
    found = set()
    for seed in ("1", "2"):
        env = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "MPLBACKEND": "Agg"}
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1 and len(found.pop().strip()) == 64


def test_what_a_notebook_shows_is_cut_to_what_is_drawn_at_the_screens_resolution(tmp_path):
    fig = figure()
    fig.set_size_inches(6, 4)
    shown = drawn(fig, KINDS)[SHOWN]
    (tmp_path / "shown.png").write_bytes(shown)
    height, width, _ = plt.imread(tmp_path / "shown.png").shape
    assert 0.7 * 600 < width <= 640 and 0.7 * 400 < height <= 440
