from itertools import product

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg

from emomm_lib.labels import COALITIONS, MODALITIES
from emomm_study.report import style
from emomm_study.report.figures import collapse, preference as figures
from emomm_study.report.manifest import Provenance
from emomm_study.report.publish import caption, write_figure

ACCURACY = {"T": 0.83, "A": 0.68, "V": 0.62, "TA": 0.84, "TV": 0.845, "AV": 0.74, "TAV": 0.85}
ACCURACY["none"] = 0.21
SHARES = {
    "model": [0.36, 0.29, 0.35, 0.52, 0.284, 0.196],
    "random": [0.34, 0.33, 0.33, 0.58, 0.5, -0.08],
    "average": [0.333, 0.332, 0.335, 0.62, 0.6, -0.22],
}
DROPS = {"T": 0.1234, "A": 0.081, "V": 0.2049}
WHOLE = ("align", "conflict")


def estimates(frame, width=0.02):
    value = frame["value"]
    return frame.assign(low=value - width, high=value + width, n=1234)


def accuracy_frame():
    rows = [
        (
            subset,
            c,
            ACCURACY[c] - (DROPS.get(c, 0.1) if subset == "conflict" and c != "none" else 0),
        )
        for subset, c in product(WHOLE, COALITIONS)
    ]
    return estimates(pd.DataFrame(rows, columns=["subset", "coalition", "value"]))


def share_frame(shares, width=0.04):
    rows = [
        (source, subset, modality, value)
        for source, values in shares.items()
        for (subset, modality), value in zip(product(WHOLE, MODALITIES), values, strict=True)
    ]
    return estimates(pd.DataFrame(rows, columns=["source", "subset", "modality", "value"]), width)


def vcc_frame(shares, width=0.05):
    rows = [(s, "collapse", values[2] - values[5]) for s, values in shares.items()]
    rows += [(s, "excess", -0.2) for s in shares if s != "model"]
    return estimates(pd.DataFrame(rows, columns=["source", "quantity", "value"]), width)


def points_frame():
    rows = [(c, m) for c in COALITIONS if len(c) > 1 and c != "none" for m in c]
    points = pd.DataFrame(rows, columns=["coalition", "modality"])
    order = points["modality"].map({"T": 2, "A": 1, "V": 0})
    share = (0.1 + 0.25 * order) * points["coalition"].map(len).map({2: 1.2, 3: 0.9})
    gtar = 0.5 + 0.17 * order + 0.01 * np.arange(9)
    ends = {"gtar_low": gtar - 0.04, "gtar_high": gtar + 0.03}
    ends |= {"share_low": share - 0.02, "share_high": share + 0.01}
    return points.assign(gtar=gtar, share=share, **ends, n=200 + np.arange(9))


def correlation_frame(between=0.91, within=0.14):
    rows = [("between", between, 0.8, 0.97), ("adjusted", 0.5, 0.4, 0.6)]
    rows += [("within", within, -0.02, 0.29)]
    return pd.DataFrame(rows, columns=["quantity", "value", "low", "high"]).assign(n=9)


def figure3(values=SHARES, width=0.04, **frames):
    given = {
        "accuracy": accuracy_frame(),
        "drops": estimates(pd.DataFrame({"coalition": DROPS.keys(), "value": DROPS.values()})),
        "vcc": vcc_frame(values, width),
        "shares": share_frame(values, width),
    }
    return collapse.figure3(**(given | frames))


def right(points=None, **correlation):
    points = points_frame() if points is None else points
    return figures.figure3_right(points, correlation_frame(**correlation))


def gtar_frame(**readers):
    model = {"missing_conflict": [0.83, 0.46, 0.43], "conflict": [0.96, 0.83, 0.73]}
    frames = []
    for name, shift in {"model": 0, **readers}.items():
        rows = [
            (s, m, v + shift) for s, vs in model.items() for m, v in zip("TAV", vs, strict=True)
        ]
        frame = estimates(pd.DataFrame(rows, columns=["setting", "modality", "value"]))
        frames.append(frame.assign(reader=name) if name != "model" else frame)
    empty = pd.DataFrame(columns=[*frames[0].columns, "reader"])
    return frames[0], pd.concat(frames[1:]) if readers else empty


def layer_frame(layers=8):
    rows = []
    for coalition in ("TA", "TV", "AV", "TAV"):
        for layer in range(1, layers + 1):
            weight = {"T": 1 + 2 * layer / layers, "A": 1.5, "V": 0.4}
            total = sum(weight[m] for m in coalition)
            rows += [(coalition, layer, m, "share", weight[m] / total) for m in coalition]
            rows += [(coalition, layer, m, "nmas", weight[m] / 1000) for m in coalition]
    columns = ["coalition", "layer", "modality", "quantity", "value"]
    return estimates(pd.DataFrame(rows, columns=columns), 0.03)


def figure9(layers=8, **readers):
    return figures.figure9(*gtar_frame(**readers), layer_frame(layers))


@pytest.fixture(scope="module")
def plain():
    return figure3()


@pytest.fixture(autouse=True)
def closing():
    yield
    plt.close("all")


def heights(ax):
    return [patch.get_height() for container in ax.containers for patch in container]


def ticks(ax):
    """Heights of horizontal, black segments: the published marks."""
    segments = [
        segment
        for lines in ax.collections
        if isinstance(lines, mpl.collections.LineCollection)
        and mpl.colors.to_hex(lines.get_colors()[0]) == style.PUBLISHED
        for segment in lines.get_segments()
    ]
    assert all(one[1] == two[1] for one, two in segments)
    return [(segment[:, 0].mean(), segment[0, 1]) for segment in segments]


def hollow(ax):
    lines = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    return sorted(float(line.get_ydata()[0]) for line in lines)


def test_bars_of_figure_3_are_the_accuracies_and_shares_given_in_percent(plain):
    accuracy = accuracy_frame().set_index(["coalition", "subset"])["value"]
    expected = [100 * accuracy[c, s] for c in COALITIONS[1:] for s in WHOLE]
    assert heights(plain.axes[0]) == pytest.approx(expected)
    shares = dict(zip(product(WHOLE, MODALITIES), SHARES["model"], strict=True))
    expected = [100 * shares[s, m] for m in MODALITIES for s in WHOLE]
    assert heights(plain.axes[1]) == pytest.approx(expected)


def test_a_bar_has_its_modalitys_colour_and_conflict_alone_is_hatched(plain):
    for ax, count in ((plain.axes[0], 14), (plain.axes[1], 6)):
        bars = [patch for container in ax.containers for patch in container]
        assert len(bars) == count
        for k, bar in enumerate(bars[:6]):
            colour = style.COLOURS["tav"[k // 2]]
            assert mpl.colors.to_hex(bar.get_edgecolor()).upper() == colour
            assert bool(bar.get_hatch()) == bool(k % 2)


def test_figure_3_prints_each_drop_beside_the_published_one(plain):
    words = [t.get_text() for t in plain.axes[0].texts]
    assert words[:9] == [
        *("12.3", "[10.3, 14.3]", "10.4"),
        *("8.1", "[6.1, 10.1]", "9.8"),
        *("20.5", "[18.5, 22.5]", "16.0"),
    ]


def test_published_shares_of_video_are_marked_on_their_bars(plain):
    ax = plain.axes[1]
    bars = [patch for container in ax.containers for patch in container][4:]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in bars]
    assert ticks(ax) == [(pytest.approx(centres[0]), 33.3), (pytest.approx(centres[1]), 20.8)]


def test_readers_of_figure_3_are_hollow_marks_in_the_same_axes(plain):
    expected = sorted(100 * v for name in ("random", "average") for v in SHARES[name])
    assert hollow(plain.axes[1]) == pytest.approx(expected)


def test_the_collapse_of_video_stands_beside_that_of_each_strategy_and_the_published_one(plain):
    ax = plain.axes[2]
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    said = {round(t.get_position()[1]): t.get_text() for t in ax.texts}
    assert {names[y]: words for y, words in said.items()} == {
        "model": "15.4 [11.4, 19.4]", "random": "41.0 [37.0, 45.0]",
        "average": "55.5 [51.5, 59.5]", "published": "12.5",
    }  # fmt: skip
    at = {
        line.get_ydata()[0]: line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1
    }
    assert at == pytest.approx({0: 15.4, 1: 41.0, 2: 55.5})
    uprights = [line.get_xdata()[0] for line in ax.lines if line.get_color() == style.PUBLISHED]
    assert uprights == [pytest.approx(12.5)]


def test_a_bar_and_the_marks_that_belong_to_it_stand_on_one_ground_and_no_other(plain):
    ax = plain.axes[1]
    bars = [patch for container in ax.containers for patch in container]
    grounds = sorted(
        (p.get_x(), p.get_x() + p.get_width())
        for p in ax.patches
        if p not in bars and mpl.colors.to_hex(p.get_facecolor()) == "#f3f3f3"
    )
    assert len(grounds) == len(bars) == 6
    assert all(one[1] < two[0] for one, two in zip(grounds, grounds[1:], strict=False))
    marks = [line.get_xdata()[0] for line in ax.lines if line.get_markerfacecolor() == "white"]
    for bar, (left, right) in zip(sorted(bars, key=lambda b: b.get_x()), grounds, strict=True):
        assert left < bar.get_x() and bar.get_x() + bar.get_width() < right
        assert sum(left < x < right for x in marks) == 2


def test_no_two_entries_of_figure_3s_legend_look_alike(plain):
    canvas = FigureCanvasAgg(plain)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())
    swatches = set()
    for text in plain.legends[0].get_texts():
        box = text.get_window_extent()
        # A handle is as high as its text and ends a little before it.
        rows = slice(round(len(drawn) - box.y1), round(len(drawn) - box.y0))
        swatches.add(drawn[rows, round(box.x0 - 28) : round(box.x0 - 4)].tobytes())
    assert len(swatches) == len(plain.legends[0].get_texts()) == 11


def test_figure_3_plots_every_point_with_its_modality_and_coalition():
    points, [ax] = points_frame(), right().axes
    drawn = next(c for c in ax.collections if isinstance(c, mpl.collections.PathCollection))
    at = [tuple(offset) for offset in drawn.get_offsets().tolist()]
    colours = [mpl.colors.to_hex(colour).upper() for colour in drawn.get_facecolors()]
    shapes = [path.vertices.tobytes() for path in drawn.get_paths()]
    marks = dict(zip(at, zip(colours, shapes, strict=True), strict=True))
    assert len(marks) == len(points) == 9
    for point in points.itertuples():
        colour, shape = marks[point.share, point.gtar]
        assert colour == style.COLOURS[point.modality.lower()]
        same = points.loc[points["coalition"] == point.coalition]
        assert {marks[p.share, p.gtar][1] for p in same.itertuples()} == {shape}
    assert len(set(shapes)) == 4
    spans = {
        tuple(segment.ravel().tolist())
        for lines in ax.collections
        if isinstance(lines, mpl.collections.LineCollection)
        for segment in lines.get_segments()
    }
    assert spans == {
        span
        for p in points.itertuples()
        for span in (
            (p.share_low, p.gtar, p.share_high, p.gtar), (p.share, p.gtar_low, p.share, p.gtar_high),
        )
    }  # fmt: skip
    label = ax.get_xlabel()
    assert "over the points 0.91 [0.80, 0.97]" in label
    assert "less each coalition's mean 0.50 [0.40, 0.60]" in label
    assert "within points 0.14 [\N{MINUS SIGN}0.02, 0.29]" in label


UGLY = {**SHARES, "model": [2.4, -0.9, -0.5, -1.4, 0.1, 2.3], "own answers": [0.3] * 6}


def test_an_interval_that_would_dwarf_the_bars_is_cut_and_marked(plain):
    low, high = plain.axes[1].get_ylim()
    assert -32 < low < -22 and 62 < high < 75
    ax = figure3(UGLY, 40.0).axes[1]
    low, high = ax.get_ylim()
    assert low < -140 and high > 240 and high - low < 1000
    edges = [line.get_ydata()[0] for line in ax.lines if line.get_marker() in ("v", "^")]
    assert len(edges) == 2 * 6 * len(UGLY)
    assert np.unique(edges) == pytest.approx([low, high])


def test_shares_that_are_not_defined_leave_a_figure_with_the_published_marks():
    with np.errstate(all="raise"):
        _, ax, below = figure3({"model": [np.nan] * 6}).axes[:3]
    assert "n/a [n/a, n/a]" in [text.get_text() for text in below.texts]
    assert [y for _, y in ticks(ax)] == [33.3, 20.8]


def test_figure_9_shows_gtar_with_its_published_marks_and_readers():
    fig = figure9(random=-0.1, average=-0.2)
    gtar, readers = gtar_frame(random=-0.1, average=-0.2)
    marks = {"missing_conflict": [0.806, 0.578], "conflict": [0.857, 0.706]}
    for ax, (setting, published) in zip(fig.axes, marks.items(), strict=False):
        ours = gtar[gtar["setting"] == setting]
        assert heights(ax) == pytest.approx(ours["value"].tolist())
        bars = [patch for container in ax.containers for patch in container]
        centres = [bars[k].get_x() + bars[k].get_width() / 2 for k in (0, 2)]
        assert [y for _, y in ticks(ax)] == published
        assert [x for x, _ in ticks(ax)] == pytest.approx(centres)
        theirs = readers.loc[readers["setting"] == setting, "value"]
        assert hollow(ax) == pytest.approx(sorted(theirs))
        spans = [
            tuple(segment[:, 1])
            for lines in ax.collections
            for segment in lines.get_segments()
            if segment[0, 0] == segment[1, 0]
        ]
        for row in pd.concat([ours, readers[readers["setting"] == setting]]).itertuples():
            assert (row.low, row.high) in spans


def layer_lines(ax):
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    return {line.get_label(): line for line in lines}


@pytest.mark.parametrize("layers", [3, 28])
def test_layer_panels_show_shares_of_all_layers_over_integer_ticks(layers):
    frame = layer_frame(layers).sample(frac=1, random_state=0)
    shares = frame[frame["quantity"] == "share"].set_index(["coalition", "modality"])
    panels = dict(zip(("TA", "TV", "AV"), figures.figure10(frame).axes, strict=True))
    panels["TAV"] = figures.figure9(*gtar_frame(), frame).axes[2]
    for coalition, ax in panels.items():
        assert list(layer_lines(ax)) == list(coalition)
        for modality, line in layer_lines(ax).items():
            assert line.get_color() == style.COLOURS[modality.lower()]
            expected = shares.loc[(coalition, modality)].sort_values("layer")
            assert line.get_xdata().tolist() == expected["layer"].tolist()
            assert line.get_ydata().tolist() == expected["value"].tolist()
        positions = ax.get_xticks()
        assert len(positions) <= 10 and set(positions) <= set(range(1, layers + 1))
        assert len(ax.collections) == len(coalition)


def test_layer_panels_tell_how_many_clips_they_are_of():
    fig = figures.figure10(layer_frame().assign(n=lambda f: f["coalition"].map(len) * 100))
    titles = [ax.get_title() for ax in fig.axes]
    assert titles == [f"{a} and {b} present, n = 200" for a, b in ("TA", "TV", "AV")]


def test_the_published_limit_of_video_is_drawn_only_where_video_is_present():
    fig = figures.figure10(layer_frame())
    limits = [
        [y for line in ax.lines if line.get_ls() == ":" for y in line.get_ydata()]
        for ax in fig.axes
    ]
    assert limits == [[], [0.2, 0.2], [0.2, 0.2]]
    assert "published: V < 0.2" in [t.get_text() for t in fig.legends[0].get_texts()]


NEGATIVE = pd.DataFrame({"coalition": list("TAV"), "value": [-0.012, 0.3, -0.021]})
FIGURES = {
    "figure3": figure3,
    "figure3 without readers": lambda: figure3({"model": SHARES["model"]}),
    "figure3 of ugly numbers": lambda: figure3(UGLY, 40.0, drops=estimates(NEGATIVE, 0.2)),
    "figure3 right": right,
    "figure9": lambda: figure9(random=-0.1, average=-0.2),
    "figure9 of 28 layers": lambda: figure9(28, random=-0.1, average=-0.2, own=0.03),
    "figure9 with long names": lambda: figure9(
        **{
            "random label": 0,
            "mean label": 0.1,
            "random own answer": -0.1,
            "mean own probability": -0.2,
        }
    ),
    "figure10": lambda: figures.figure10(layer_frame()),
    "figure10 of 28 layers": lambda: figures.figure10(layer_frame(28)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_name_their_profile_and_no_text_overlaps_another_or_leaves_the_page(name):
    fig = FIGURES[name]()
    assert fig.get_figwidth() <= 9.6
    assert_legible(fig)
    assert any("profile: mini" in text.get_text() for text in fig.texts)


@pytest.mark.parametrize("name", ["figure3", "figure9"])
def test_the_same_frames_give_the_same_bytes(name, tmp_path):
    source = Provenance(name, "03_vcc", "f00d", caption(name, "mini", "Drawn"))
    here, there = (
        write_figure(FIGURES[name](), name, "mini", source, root=tmp_path / where).paths
        for where in ("here", "there")
    )
    assert [p.read_bytes() for p in here] == [p.read_bytes() for p in there]


def test_a_frame_that_lacks_something_is_named():
    accuracy, shares = accuracy_frame(), share_frame(SHARES)
    with pytest.raises(ValueError, match=r"accuracy: expected one row with .*'none'.*got 0"):
        figure3(accuracy=accuracy[accuracy["coalition"] != "none"])
    with pytest.raises(ValueError, match=r"shares: expected one row .* got 2"):
        figure3(shares=pd.concat([shares, shares]))
    with pytest.raises(ValueError, match=r"shares: columns \['low'\] are missing"):
        figure3(shares=shares.drop(columns="low"))
    with pytest.raises(ValueError, match=r"vcc: expected one row .*average"):
        figure3(vcc=vcc_frame({"model": SHARES["model"], "random": SHARES["random"]}))
    with pytest.raises(ValueError, match=r"points: columns \['gtar'\] are missing"):
        right(points_frame().drop(columns="gtar"))
    with pytest.raises(ValueError, match=r"points: coalitions are .* also \['T'\]"):
        right(points_frame().replace({"coalition": {"TA": "T"}}))
    with pytest.raises(ValueError, match="at most 6 strategies"):
        figure3({str(k): SHARES["random"] for k in range(7)})
    layers = layer_frame()
    with pytest.raises(ValueError, match="no share of V in AV"):
        figures.figure10(layers[(layers["coalition"] != "AV") | (layers["modality"] != "V")])


def test_a_panel_without_a_clip_says_so():
    layers = layer_frame()
    fig = figures.figure10(layers[layers["coalition"] != "AV"])
    said = [[text.get_text() for text in ax.texts] for ax in fig.axes]
    assert said == [[], [], ["no clips"]]


def test_figure_3_without_an_aligned_clip_has_the_bars_of_conflict_alone():
    conflict, shares = (
        f[f["subset"] == "conflict"] for f in (accuracy_frame(), share_frame(SHARES))
    )
    drops = pd.DataFrame({"coalition": list("TAV"), "value": np.nan, "low": np.nan, "high": np.nan})
    fig = collapse.figure3(conflict, drops, vcc_frame(SHARES).assign(value=np.nan), shares)
    heights = [bar.get_height() for bar in fig.axes[0].patches]
    assert np.isfinite(heights).sum() == 7 and len(heights) == 14
    assert any("0 Align and 1,234 Conflict clips" in text.get_text() for text in fig.texts)
