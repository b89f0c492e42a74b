import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pytest
from legible import assert_legible
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from published import add, edit

from emomm_study.audit import attainable, gains, mix, sampling
from emomm_study.paths import PAPER_DATA
from emomm_study.report.figures import audit_results as figures


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def mixed(folder=PAPER_DATA):
    weights = mix.best_weights(("acc", "mae"), "largest", folder).weights
    polygons = {metric: mix.compatible((metric,), folder) for metric in ("acc", "mae")}
    return figures.mix_figure(mix.residuals(weights, folder=folder), polygons)


def test_every_figure_is_legible_and_names_its_profile():
    drawn = [
        mixed(),
        figures.sizes_figure(attainable.row_sizes(), attainable.windows("align", 6)),
        figures.differences_figure(sampling.difference_bounds()),
        figures.routing_figure(gains.routing_product()),
    ]
    for fig, least in zip(drawn, (25, 25, 25, 10), strict=True):
        assert_legible(fig, least)
        assert any("profile: mini" in text.get_text() for text in fig.texts)


def test_marks_of_the_mix_are_residuals_in_units_of_rounding():
    ax = mixed().axes[0]
    weights = mix.best_weights(("acc", "mae"), "largest").weights
    rows = mix.residuals(weights, ("acc",))
    marks = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 8]
    assert np.allclose(marks[0], rows["residual"] / 0.01)
    assert (np.abs(marks[0]) < 1).all() and (np.abs(marks[2]) > 1).any()


def test_a_mix_without_compatible_weights_is_drawn_without_their_area(copy):
    edit(copy, 1, {"model": "Gemini 3 Pro", "subset": "overall"}, "acc", add(0.05))
    fig = mixed(copy)
    assert [len(ax.patches) for ax in fig.axes[1:]] == [1, 1]
    assert [len(ax.patches) for ax in mixed().axes[1:]] == [2, 2]


def test_ticks_stand_at_attainable_sizes_and_a_row_without_any_says_so():
    rows = attainable.row_sizes()
    fig = figures.sizes_figure(rows, attainable.windows("align", 6))
    for ax, subset in zip(fig.axes, ("align", "conflict"), strict=True):
        marks = [line.get_xdata() for line in ax.lines if line.get_marker() == "|"]
        wanted = rows.loc[rows["subset"] == subset, "sizes"]
        assert [tuple(mark) for mark in marks] == wanted.tolist()
    assert [text.get_text() for text in fig.axes[1].texts] == ["none from 344 to 645"]


def test_thin_lines_of_a_difference_hold_the_thick_ones_and_its_colour_is_the_verdict():
    bounds = sampling.difference_bounds().query("kind == 'ablation'")
    ax = figures.differences_figure(bounds).axes[0]
    lines = [lines for lines in ax.collections if isinstance(lines, LineCollection)]
    ends = [lines.get_segments()[0][:, 0] for lines in lines]
    colours = [to_hex(lines.get_color()[0]) for lines in lines]
    assert [lines.get_linewidth()[0] for lines in lines] == [0.9, 3.2] * len(bounds)
    for thin, thick in zip(ends[::2], ends[1::2], strict=True):
        assert thin[0] < thick[0] < thick[1] < thin[1]
    assert colours[::2] == colours[1::2]
    assert len({*colours}) == bounds["verdict"].nunique() == 2


def test_a_missing_column_and_an_unknown_verdict_are_errors():
    with pytest.raises(ValueError, match=r"product: columns \['bound'\] are missing"):
        figures.routing_figure(gains.routing_product().drop(columns="bound"))
    with pytest.raises(ValueError, match="verdicts are"):
        figures.differences_figure(sampling.difference_bounds().assign(verdict="yes"))
    with pytest.raises(ValueError, match="no rows"):
        figures.sizes_figure(attainable.row_sizes().iloc[:0], attainable.windows("align", 6))
