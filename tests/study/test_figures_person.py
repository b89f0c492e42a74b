"""Figures of person masking show the numbers and pictures they are given, legibly."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from skimage import data
from tiny_media import write_mp4

from emomm_study.media.models import fetch_models
from emomm_study.media.region_store import RegionStore
from emomm_study.media.regions import suppress
from emomm_study.media.video import VideoSettings
from emomm_study.report.figures import person as figures
from emomm_study.report.manifest import Provenance
from emomm_study.report.publish import caption, write_figure
from emomm_study.report.style import COLOURS

VIEWS = ["original", "person only: pixels", "person only: tokens"]
METRICS = ["acc5", "acc2", "f1"]


@pytest.fixture(autouse=True)
def closing():
    yield
    plt.close("all")


def gains_frame(views=VIEWS):
    rng = np.random.default_rng(0)
    rows = [
        (view, quantity, metric, value, value - 0.02, value + 0.03, 526)
        for quantity, names in (("gain", views), ("change", views[1:]))
        for view in names
        for metric, value in zip(METRICS, rng.normal(0, 0.03, 3), strict=True)
    ]
    columns = ["view", "quantity", "metric", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def budget_frame(views=VIEWS):
    tokens = {"T": 9.6, "A": 58.2}
    rows = [
        (view, coalition, m, quantity, value, value - 1, value + 1, 526)
        for k, view in enumerate(views)
        for coalition in ("TAV", "TV")
        for m, value in {**tokens, "V": 128.0 - 30 * k}.items()
        for quantity in ("tokens", "mass")
    ]
    columns = ["view", "coalition", "modality", "quantity", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def layer_frame(views=VIEWS, layers=8):
    rows = [
        (view, coalition, layer, m, quantity, 0.1 + 0.04 * k + 0.01 * layer, 0.1, 0.3)
        for k, view in enumerate(views)
        for coalition in ("TAV", "TV")
        for layer in range(1, layers + 1)
        for m in "TAV"
        for quantity in ("share", "nmas")
    ]
    columns = ["view", "coalition", "layer", "modality", "quantity", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0)


def bars(ax):
    """From left to right."""
    return sorted((p for p in ax.patches if isinstance(p, Rectangle)), key=Rectangle.get_x)


def test_every_gain_is_a_bar_in_points_with_its_interval_and_number():
    gains = gains_frame()
    fig = figures.figure11(gains.sample(frac=1, random_state=1).sort_values("view"))
    for ax, quantity, views in zip(fig.axes, ("gain", "change"), (VIEWS, VIEWS[1:]), strict=True):
        rows = gains[gains["quantity"] == quantity].set_index(["metric", "view"])
        order = [(m, v) for m in METRICS for v in views]
        expected = 100 * rows.loc[order, "value"].to_numpy()
        assert [bar.get_height() for bar in bars(ax)] == pytest.approx(expected)
        spans = [100 * rows.loc[key, ["low", "high"]].to_numpy(float) for key in order]
        segments = [segment for lines in ax.collections for segment in lines.get_segments()]
        drawn = [segment[:, 1] for segment in sorted(segments, key=lambda s: s[0, 0])]
        np.testing.assert_allclose(drawn, spans)
        texts = sorted(ax.texts, key=lambda text: text.xy[0])
        numbers = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in texts]
        assert list(map(float, numbers)) == pytest.approx(expected, abs=0.051)
        assert 0 in [line.get_ydata()[0] for line in ax.lines]
    assert "526" in "".join(t.get_text() for t in fig.texts)


def test_the_figure_says_that_the_paper_has_signs_and_no_numbers():
    fig = figures.figure11(gains_frame())
    assert "\N{MINUS SIGN} original, + person only; no numbers" in fig.axes[0].get_xlabel()


@pytest.mark.parametrize("count", [2, 3])
def test_figures_are_legible_with_two_views_and_with_three(count):
    views = VIEWS[:count]
    assert_legible(figures.figure11(gains_frame(views)))
    for layers in (8, 28):
        by_layer = layer_frame(views, layers)
        assert_legible(figures.token_figure(budget_frame(views), by_layer))


def test_tokens_and_shares_are_those_of_all_three_modalities_together():
    budget, by_layer = budget_frame(), layer_frame()
    changed = budget["coalition"] == "TV"
    budget.loc[changed, "value"] = 1e6
    fig = figures.token_figure(budget, by_layer)
    heights = [bar.get_height() for bar in bars(fig.axes[0])]
    assert heights == [9.6, 58.2, 128, 9.6, 58.2, 98, 9.6, 58.2, 68]
    colours = [mpl.colors.to_hex(bar.get_facecolor()).upper() for bar in bars(fig.axes[0])]
    assert colours == [COLOURS[m] for m in "tav"] * 3
    shares = [line for line in fig.axes[1].lines if len(line.get_xdata()) == 8]
    for k, line in enumerate(shares):
        expected = [0.1 + 0.04 * k + 0.01 * layer for layer in range(1, 9)]
        assert [*line.get_ydata()] == pytest.approx(expected)
    assert len(shares) == 3


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r"gains: columns \['high'\]"):
        figures.figure11(gains_frame().drop(columns="high"))
    gains = gains_frame()
    lacking = gains[(gains["metric"] != "f1") | (gains["view"] != VIEWS[1])]
    with pytest.raises(ValueError, match="pixels.*f1.*got 0"):
        figures.figure11(lacking)
    with pytest.raises(ValueError, match="at most 5 views"):
        figures.figure11(gains_frame([*VIEWS, "a", "b", "c"]))
    only_two = layer_frame(VIEWS[:2])
    with pytest.raises(ValueError, match="no share of V in TAV for 'person only: tokens'"):
        figures.token_figure(budget_frame(), only_two)
    with pytest.raises(ValueError, match="no frames"):
        figures.overlay_sheet([], 0.5)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Two portraits in each corpus's folder, found and read back."""
    fetch_models()
    root = tmp_path_factory.mktemp("corpora")
    rows = []
    for i, corpus in enumerate(["cmu_mosi", "ch_sims_v2", "cmu_mosi", "ch_sims_v2"]):
        picture = np.roll(data.astronaut(), 40 * i, axis=1)[::2, ::2]
        path = root / corpus / f"{i}.mp4"
        write_mp4(path, frames=np.stack([picture] * 4))
        rows.append({"sample_id": f"c{i}", "corpus": corpus, "video_path": path.name})
    clips = pd.DataFrame(rows)
    roots = {corpus: root / corpus for corpus in clips["corpus"]}
    store = RegionStore(root, VideoSettings(num_frames=4))
    paths = [roots[row["corpus"]] / row["video_path"] for row in rows]
    store.find(paths, processes=1, progress=False)
    return figures.person_frames(clips, roots, store, lambda _: (2, 8, 8), each=2)


def test_a_frame_has_its_own_region_and_the_cover_of_its_tokens(frames):
    assert [f.corpus for f in frames] == ["cmu_mosi"] * 2 + ["ch_sims_v2"] * 2
    for shown in frames:
        assert shown.found == "person+face" and shown.cover.shape == (8, 8)
        assert shown.region.shape == shown.frame.shape[:2] == (256, 256)
        # The four frames are alike, so that a step's region is the frame's.
        cells = shown.region.reshape(8, 32, 8, 32).mean(axis=(1, 3))
        np.testing.assert_allclose(shown.cover, cells, atol=0.02)


def test_the_sheet_shows_what_the_model_sees(frames):
    fig = figures.overlay_sheet(frames, 0.5)
    grid = np.array(fig.axes).reshape(3, len(frames))
    for column, shown in zip(grid.T, frames, strict=True):
        whole, masked, pruned = (ax.images[0].get_array() for ax in column)
        assert np.array_equal(whole, shown.frame) and np.array_equal(pruned, shown.frame)
        assert np.array_equal(masked, suppress(shown.frame[None], shown.region[None])[0])
        white = column[2].images[1].get_array()
        assert np.array_equal(white[..., 3], shown.cover < 0.5)
        assert f"{(shown.cover >= 0.5).sum()} of 64" in column[2].get_xlabel()
    assert_legible(fig)


def test_the_outline_stays_inside_the_frame_also_where_the_person_does_not(frames):
    fig = figures.overlay_sheet(frames, 0.5)
    assert fig.axes[0].get_xlim() == (-0.5, 255.5) and fig.axes[0].get_ylim() == (255.5, -0.5)


def test_published_figures_name_their_profile(tmp_path, frames):
    made = {
        "Person regions": figures.overlay_sheet(frames, 0.5),
        "Figure 11": figures.figure11(gains_frame()),
        "Person tokens": figures.token_figure(budget_frame(), layer_frame()),
    }
    for item, fig in made.items():
        source = Provenance(item, "05_person_masking", "0" * 16, caption(item, "mini", "Drawn"))
        written = write_figure(fig, "x", "mini", source, root=tmp_path)
        assert all(path.stat().st_size for path in written.paths)
        assert any("profile: mini" in t.get_text() for t in fig.texts)
