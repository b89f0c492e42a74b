"""Figures 12 and 13: what lies over which frame, on which scale, and which tokens are marked."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from legible import profiled
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from emomm_study.report import style
from emomm_study.report.figures import cases as figures
from emomm_study.report.manifest import Provenance
from emomm_study.report.publish import caption, write_figure

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 255, (4, 32, 48, 3), dtype=np.uint8)
MAPS = {"baseline": RNG.random((2, 3, 4)), "CHASE": 0.5 * RNG.random((2, 3, 4))}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def overlays(fig):
    """Heat maps in drawing order, with their scales."""
    found = [image for ax in fig.axes for image in ax.images if image.get_cmap() is figures.HEAT]
    return [np.asarray(i.get_array()) for i in found], [i.norm for i in found]


def words(fig):
    fig.draw_without_rendering()
    return [t.get_text() for t in fig.findobj(mpl.text.Text) if t.get_visible()]


def draw12(maps=MAPS):
    return figures.figure12(FRAMES, maps, (4, 5), "a clip")


def draw13(importance, percentile=50.0, frames=FRAMES):
    return figures.figure13(frames, importance, percentile, "a clip")


@given(st.integers(1, 500), st.floats(1e-6, 1e6))
def test_even_attention_is_spread_over_all_tokens_whatever_its_size(count, size):
    assert figures.spread(np.full(count, size)) == pytest.approx(count)


@given(arrays(float, 12, elements=st.floats(0, 1)).filter(lambda x: x.sum() > 1e-3))
def test_spread_lies_between_one_and_the_tokens_that_have_any(values):
    found = figures.spread(values)
    assert 1 - 1e-9 <= found <= np.count_nonzero(values) + 1e-9


@pytest.mark.parametrize("values", [[0, 0], [1, -1], []])
def test_no_attention_at_all_has_no_spread(values):
    with pytest.raises(ValueError, match="somewhere positive"):
        figures.spread(np.array(values))


def test_every_token_is_drawn_once_over_a_frame_of_its_own_time_and_all_share_one_scale():
    fig = draw12()
    maps, scales = overlays(fig)
    expected = [m[t] for m in MAPS.values() for t in (0, 1)]
    below = [np.asarray(ax.images[0].get_array()) for ax in fig.axes[:2]]
    assert not np.array_equal(*below)
    for found, known in zip(maps, expected, strict=True):
        np.testing.assert_array_equal(found, known)
    top = max(m.max() for m in MAPS.values())
    assert {(s.vmin, s.vmax) for s in scales} == {(0, top)}


def test_each_row_tells_how_much_attention_video_has_and_over_how_many_tokens():
    even = {"baseline": np.full((2, 3, 4), 0.01)}
    assert "baseline\non video 0.240\nspread over 24 of 24 tokens" in words(draw12(even))


def test_both_figures_tell_which_frames_share_a_token_and_how_tokens_are_counted():
    for fig in (draw12(), draw13(MAPS["baseline"])):
        said = words(fig)
        assert said.count("frames 1 and 2 of 4") == said.count("frames 3 and 4 of 4") == 1
        assert any("2 × 3 × 4 = 24 tokens, each of 2 frames, the first" in word for word in said)
    one = words(draw12({"baseline": np.full((4, 3, 4), 0.01)}))
    assert "frame 4 of 4" in one and any(w.endswith("4 × 3 × 4 = 48 tokens") for w in one)


def test_both_figures_name_item_profile_and_clip():
    for number, fig in ((12, draw12()), (13, draw13(MAPS["baseline"]))):
        text = " ".join(words(profiled(fig)))
        assert f"Figure {number}" in text and "profile: mini  |  a clip\n" in text


@settings(max_examples=10, deadline=None)
@given(
    st.permutations(range(1, 25)).map(lambda x: np.array(x, float).reshape(2, 3, 4)),
    st.sampled_from([50.0, 70.0, 80.0, 90.0]),
)
def test_significant_tokens_are_those_from_the_percentile_on(importance, percentile):
    fig = draw13(importance, percentile)
    inside = importance >= np.percentile(importance, percentile)
    bars = fig.axes[0].patches
    heights = [bar.get_height() for bar in bars]
    np.testing.assert_allclose(heights, np.sort(importance.ravel())[::-1] / importance.sum())
    green = [bar.get_facecolor() == to_rgba(style.COLOURS["v"]) for bar in bars]
    assert green == [True] * inside.sum() + [False] * (~inside).sum()
    for index, ax in enumerate(fig.axes[1:3]):
        marked = {
            (round(p.get_y() / 32 * 3), round(p.get_x() / 48 * 4))
            for p in ax.patches
            if isinstance(p, Rectangle)
        }
        assert marked == set(map(tuple, np.argwhere(inside[index]).tolist()))
    plt.close(fig)


def test_importance_is_drawn_normalised():
    maps, scales = overlays(draw13(7 * MAPS["baseline"]))
    np.testing.assert_allclose(maps[0], MAPS["baseline"][0] / MAPS["baseline"].sum())
    assert scales[0].vmax == pytest.approx(MAPS["baseline"].max() / MAPS["baseline"].sum())


def test_the_legend_tells_how_much_importance_the_significant_tokens_have():
    importance = np.zeros((2, 1, 2))
    importance.flat = [6.0, 2.0, 1.0, 1.0]
    fig = draw13(importance, 75.0)
    assert any("1 of 4 tokens, 60% of the importance" in word for word in words(fig))


def test_shapes_that_do_not_fit_and_importance_of_nothing_are_refused():
    with pytest.raises(ValueError, match=r"CHASE: expected \(t, h, w\) with at most 4 times"):
        draw12({"CHASE": np.ones((5, 2, 2))})
    with pytest.raises(ValueError, match="frames are"):
        figures.figure12(FRAMES[0], MAPS, (1,), "a clip")
    with pytest.raises(ValueError, match="zero everywhere"):
        draw13(np.zeros((2, 2, 2)))


def test_both_figures_are_saved_with_the_same_bytes_twice(tmp_path):
    for name, draw in (("f12", draw12), ("f13", lambda: draw13(MAPS["CHASE"]))):
        source = Provenance(name, "09_case_studies", "f00d", caption(name, "mini", "Drawn"))
        one, two = (
            [
                p.read_bytes()
                for p in write_figure(draw(), name, "mini", source, root=tmp_path / r).paths
            ]
            for r in "ab"
        )
        assert one == two
