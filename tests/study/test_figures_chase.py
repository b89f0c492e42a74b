from itertools import product

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from matplotlib import pyplot as plt

from emomm_study.evaluate.routing import reliability
from emomm_study.report import style
from emomm_study.report.figures import chase as figures
from emomm_study.report.manifest import Provenance
from emomm_study.report.publish import caption, write_figure

SUBSETS = ("align", "conflict", "missing")
COALITIONS = ("TAV", "TA", "TV", "AV")
ROUTERS = ("published (Eq. 6-10)", "standardised inputs", "embedded means only")
METHODS = {
    "paper's method": ["published settings", "share preference", "chosen on validation"],
    "extensions": ["every head, gate rule", "early router"],
    "bounds and controls": ["oracle", "random steering", "fixed boost of video"],
}
BASE = {"tau": 0.7, "eta": 0.6, "gamma": 1.4, "beta": 0.5, "K": 4, "psi_hat": 0.3, "P": 80}
BASE["l_r"] = 4


def estimates(rows, columns, width=0.02):
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(low=frame["value"] - width, high=frame["value"] + 2 * width, n=1234)


def shuffled(frame, **orders):
    """Rows in any order; the order of names is that of their categories."""
    categories = {name: pd.Categorical(frame[name], [*order]) for name, order in orders.items()}
    return frame.assign(**categories).sample(frac=1, random_state=0)


def history_frame(routers=ROUTERS, seeds=3, epochs=5):
    rows = [
        (
            router,
            seed,
            epoch,
            (9 - 3 * k) / epoch + seed**2 / 10,
            (10 - 3 * k) / epoch + seed**2 / 9,
        )
        for (k, router), seed, epoch in product(
            enumerate(routers), range(seeds), range(1, epochs + 1)
        )
    ]
    frame = pd.DataFrame(rows, columns=["router", "seed", "epoch", "loss", "valid_loss"])
    shape = 1 - 0.4 / frame["epoch"] - 0.01 * frame["seed"] ** 2
    return frame.assign(conflict_auc=shape, gate_top1=shape - 0.1, layers=1)


def training_curves(history):
    return figures.training_curves(history, 748, 0.45)


def reliability_frame(**sizes):
    rng = np.random.default_rng(0)
    frames = []
    for split, size in (sizes or {"valid": 300, "test": 700}).items():
        p = rng.beta(0.6, 0.4, size)
        frames.append(reliability(p, rng.random(size) < p**1.5).assign(split=split))
    return pd.concat(frames, ignore_index=True)


def layer_frame(routers=ROUTERS[:2], layers=8, coalitions=COALITIONS):
    rows = [
        (router, c, layer, 0.5 + 0.3 * layer / layers - 0.1 * k - 0.02 * i)
        for (k, router), (i, c), layer in product(
            enumerate(routers), enumerate(coalitions), range(layers // 2, layers + 1)
        )
    ]
    frame = estimates(rows, ["router", "coalition", "layer", "value"])
    return frame.assign(chance=frame["coalition"].map({"TAV": 0.55}).fillna(0.45))


def level_frame(layers=(np.nan,)):
    rows = [(ROUTERS[2], c, layer, 0.7) for c, layer in product(COALITIONS, layers)]
    return pd.concat([layer_frame(), estimates(rows, ["router", "coalition", "layer", "value"])])


def gains_frame(methods=METHODS, subsets=SUBSETS):
    pairs = [(group, method) for group, names in methods.items() for method in names]
    rows = [
        (method, group, subset, (k - 2) * (1 + i) / 100)
        for (k, (group, method)), (i, subset) in product(enumerate(pairs), enumerate(subsets))
    ]
    return estimates(rows, ["method", "group", "subset", "value"])


def sweep_frame(parameters=BASE, subsets=SUBSETS):
    rows = [
        (p, BASE[p] * factor, s, (factor - 0.6) * (1 + i) / (50 + BASE[p]), factor == 1)
        for p, factor, (i, s) in product(parameters, (0.5, 0.75, 1, 1.25), enumerate(subsets))
    ]
    return estimates(rows, ["parameter", "setting", "subset", "value", "base"])


@pytest.fixture(autouse=True)
def closing():
    yield
    plt.close("all")


def labels(fig):
    return [text.get_text() for text in fig.legends[0].get_texts()]


def colour(line):
    return mpl.colors.to_hex(line.get_color()).upper()


def curves(ax, ls):
    """Lines of a style as (width, colour, x, y), those that span an axis left out."""
    return [
        (line.get_lw(), colour(line), [*line.get_xdata()], [*line.get_ydata()])
        for line in ax.lines
        if line.get_ls() == ls and line.get_transform().contains_branch(ax.transData)
    ]


def levels(ax, ls):
    """Heights of the lines of a style that span the axes."""
    return [
        line.get_ydata()[0]
        for line in ax.lines
        if line.get_ls() == ls and line.get_transform() == ax.get_yaxis_transform("grid")
    ]


def uprights(ax, ls):
    return [
        line.get_xdata()[0]
        for line in ax.lines
        if line.get_ls() == ls and line.get_transform() == ax.get_xaxis_transform("grid")
    ]


def band(collection):
    """x, low, high of a filled band."""
    corners = collection.get_paths()[0].vertices
    x = np.unique(corners[:, 0])
    return x, *(np.array([f(corners[corners[:, 0] == v, 1]) for v in x]) for f in (np.min, np.max))


def test_every_seed_has_a_thin_line_and_the_bold_one_is_their_mean():
    history = shuffled(history_frame(), router=ROUTERS)
    fig = training_curves(history)
    assert [ax.get_title() for ax in fig.axes] == [*ROUTERS, "AUC of $p$", "gate top-1"]
    assert [ax.get_ylabel() for ax in fig.axes] == ["loss a layer (Eq. 10, log)", "", "", "", ""]
    for k, router in enumerate(ROUTERS):
        own = history[history["router"] == router].sort_values(["seed", "epoch"])
        drawn = {
            ("loss", "--"): curves(fig.axes[k], "--"),
            ("valid_loss", "-"): curves(fig.axes[k], "-"),
        }
        for ax, name in zip(fig.axes[3:], ("conflict_auc", "gate_top1"), strict=True):
            lines = [line for line in curves(ax, "-") if line[1] == figures.ROUTER_COLOURS[k]]
            drawn[name, "-"] = lines
        for (name, _), lines in drawn.items():
            *seeds, (bold, shade, x, mean) = lines
            assert shade == figures.ROUTER_COLOURS[k] and x == [1, 2, 3, 4, 5]
            assert [line[3] for line in seeds] == [
                own.loc[own["seed"] == seed, name].tolist() for seed in range(3)
            ]
            assert all(width < bold for width, *_ in seeds)
            by_hand = [np.mean([line[3][e] for line in seeds]) for e in range(5)]
            assert mean == pytest.approx(by_hand)


def test_losses_are_drawn_as_means_over_the_layers_that_they_are_sums_of_and_on_one_scale():
    history = history_frame(seeds=1)
    layers = history["router"].map(dict(zip(ROUTERS, (5, 4, 1), strict=True)))
    fig = training_curves(history.assign(layers=layers))
    for ax, router, many in zip(fig.axes, ROUTERS, (5, 4, 1), strict=False):
        own = history[history["router"] == router]
        assert curves(ax, "-")[-1][3] == pytest.approx((own["valid_loss"] / many).tolist())
        assert curves(ax, "--")[-1][3] == pytest.approx((own["loss"] / many).tolist())
    assert len({ax.get_ylim() for ax in fig.axes[:3]}) == 1
    assert len({ax.get_ylim() for ax in fig.axes[3:]}) == 1
    assert any("n = 748 validation prompts" in text.get_text() for text in fig.texts)


def test_chance_of_auc_and_of_top1_are_drawn_and_epochs_are_integers():
    fig = training_curves(history_frame(epochs=3))
    assert levels(fig.axes[3], ":") == [0.5] and levels(fig.axes[4], ":") == [0.45]
    fig.canvas.draw()
    for ax in fig.axes:
        assert all(float(tick).is_integer() for tick in ax.get_xticks())


def test_one_router_has_three_panels_and_routers_have_no_modalitys_colour():
    fig = training_curves(history_frame(ROUTERS[:1], seeds=1))
    assert len(fig.axes) == 3
    assert not set(figures.ROUTER_COLOURS) & set(style.COLOURS.values())
    assert any("seeds a router: 1" in text.get_text() for text in fig.texts)


def test_a_routers_colour_is_that_of_its_category_also_where_others_are_absent():
    some = history_frame(ROUTERS[1:2])
    some["router"] = pd.Categorical(some["router"], ROUTERS)
    lines = curves(training_curves(some).axes[0], "-")
    assert {line[1] for line in lines} == {figures.ROUTER_COLOURS[1]}


def test_a_reliability_point_lies_at_predicted_and_observed_with_an_area_that_grows_with_n():
    table = shuffled(reliability_frame())
    fig = figures.reliability_diagram(table)
    titles = [ax.get_title() for ax in fig.axes[:2]]
    assert titles == ["validation, 300 prompts", "test, 700 prompts"]
    points = []
    for ax, split in zip(fig.axes[:2], ("valid", "test"), strict=True):
        rows = table[table["split"] == split].sort_values("low")
        marks = ax.collections[0]
        assert np.allclose(marks.get_offsets(), rows[["predicted", "observed"]])
        points += zip(rows["n"], marks.get_sizes(), strict=True)
        diagonal = [line for line in curves(ax, ":") if line[2:] == ([0, 1], [0, 1])]
        assert len(diagonal) == 1
        error = (rows["n"] * abs(rows["predicted"] - rows["observed"])).sum() / rows["n"].sum()
        assert [text.get_text() for text in ax.texts] == [f"ECE {error:.3f}"]
    points.sort()
    assert np.all(np.diff([area for _, area in points]) >= 0)
    assert points[-1][1] > 3 * points[0][1]


def test_the_strip_beneath_counts_the_prompts_of_each_bin_and_shares_the_diagrams_x():
    table = reliability_frame()
    fig = figures.reliability_diagram(table)
    for above, strip, split in zip(fig.axes[:2], fig.axes[2:], ("valid", "test"), strict=True):
        rows = table[table["split"] == split]
        bars = [(b.get_x(), b.get_x() + b.get_width(), b.get_height()) for b in strip.patches]
        assert np.allclose(bars, rows[["low", "high", "n"]])
        assert above.get_xlim() == strip.get_xlim()
        assert above.get_position().y0 > strip.get_position().y1


def test_gates_are_drawn_by_coalition_and_layer_within_their_intervals():
    frame = shuffled(layer_frame(), router=ROUTERS[:2])
    fig = figures.gate_by_layer(frame)
    assert [ax.get_title() for ax in fig.axes] == [f"{c}, n = 1,234" for c in COALITIONS]
    for ax, coalition in zip(fig.axes, COALITIONS, strict=True):
        lines = curves(ax, "-")
        assert len(lines) == len(ax.collections) == 2
        for k, (_, shade, x, y) in enumerate(lines):
            rows = frame[(frame["router"] == ROUTERS[k]) & (frame["coalition"] == coalition)]
            rows = rows.sort_values("layer")
            assert shade == figures.ROUTER_COLOURS[k]
            assert x == rows["layer"].tolist() and y == rows["value"].tolist()
            assert np.allclose(band(ax.collections[k]), rows[["layer", "low", "high"]].T)
        assert levels(ax, ":") == [0.55 if coalition == "TAV" else 0.45]
        assert ax.get_ylim() == (0, 1) and ax.get_xlim() == (0.5, 8.5)


@pytest.mark.parametrize("layers", [[np.nan], [pd.NA], range(4, 9)], ids=["nan", "NA", "repeated"])
def test_a_router_with_one_gate_for_all_layers_is_a_level_line_through_the_panel(layers):
    frame = level_frame(layers).sort_values("layer")
    frame["router"] = pd.Categorical(frame["router"], ROUTERS)
    fig = figures.gate_by_layer(frame)
    for ax in fig.axes:
        [(_, shade, x, y)] = curves(ax, "--")
        assert shade == figures.ROUTER_COLOURS[2]
        assert x == [0.5, 8.5] and y == [0.7, 0.7]
        assert np.allclose(band(ax.collections[2]), [[0.5, 8.5], [0.68] * 2, [0.74] * 2])
        assert len(curves(ax, "-")) == 2
    assert labels(fig) == [*ROUTERS, "chance"]


def test_a_router_that_is_steered_from_the_last_layer_on_is_a_point_and_no_level_line():
    frame = layer_frame()
    frame = frame[(frame["router"] == ROUTERS[0]) | (frame["layer"] == 8)]
    for ax in figures.gate_by_layer(frame).axes:
        assert curves(ax, "--") == []
        last = [line for line in ax.lines if [*line.get_xdata()] == [8]]
        assert len(last) == 1 and last[0].get_marker() == "o"


def test_without_chance_none_is_drawn_or_named():
    fig = figures.gate_by_layer(layer_frame().drop(columns="chance"))
    assert labels(fig) == [*ROUTERS[:2]]
    assert all(levels(ax, ":") == [] for ax in fig.axes)


def forest(ax):
    """Marks by height and intervals by height, in points."""
    points = [line for line in ax.lines if line.get_marker() in "oDs^v"]
    marks = {line.get_ydata()[0]: line.get_xdata()[0] for line in points}
    spans = {
        segment[0, 1]: tuple(segment[:, 0])
        for lines in ax.collections
        for segment in lines.get_segments()
    }
    return marks, spans


def test_a_gain_stands_in_points_in_the_row_of_its_method_beneath_its_group():
    gains = shuffled(gains_frame(), group=METHODS, method=sum(METHODS.values(), []))
    fig = figures.gains_forest(gains.assign(share="1/2"))
    subsets = ("Align", "Conflict", "Missing")
    assert [ax.get_title() for ax in fig.axes] == [f"{name}, n = 1,234" for name in subsets]
    assert len({ax.get_xlim() for ax in fig.axes}) == 1
    rows = [name for group, names in METHODS.items() for name in (group, *names)]
    ticks = fig.axes[0].get_yticklabels()
    assert [tick.get_text() for tick in ticks] == rows
    bold = [tick.get_text() for tick in ticks if tick.get_fontweight() == "bold"]
    assert bold == [*METHODS]
    top, bottom = reversed(fig.axes[0].get_ylim())
    assert top < 0 < len(rows) - 1 < bottom
    for ax, subset in zip(fig.axes, SUBSETS, strict=True):
        marks, spans = forest(ax)
        own = gains[gains["subset"] == subset].set_index("method")
        heights = {rows[int(y)]: y for y in marks}
        assert set(heights) == set(own.index)
        for method, row in own.iterrows():
            assert marks[heights[method]] == pytest.approx(100 * row["value"])
            span = (100 * row["low"], 100 * row["high"])
            assert spans[heights[method]] == pytest.approx(span)
        assert uprights(ax, "-") == [0]
        assert levels(ax, "-") == [3.5, 6.5]


def test_numbers_stand_beside_their_intervals_in_points_with_the_sign_of_the_gain():
    rows = [("a", 0.0234, 0.004, 0.041), ("b", -0.0051, -0.012, 0.0), ("c", -0.0004, -0.01, 0.02)]
    rows.append(("d", np.nan, np.nan, np.nan))
    gains = pd.DataFrame(rows, columns=["method", "value", "low", "high"])
    fig = figures.gains_forest(gains.assign(group="g", subset="conflict", n=9))
    words = [
        (t.get_position()[1], t.get_text().replace("\N{MINUS SIGN}", "-"))
        for t in fig.axes[0].texts
    ]
    assert words == [
        (1, "+2.3 [0.4, 4.1]"),
        (2, "-0.5 [-1.2, 0.0]"),
        (3, "0.0 [-1.0, 2.0]"),
        (4, "n/a [n/a, n/a]"),
    ]
    fig.canvas.draw()
    right = fig.axes[0].get_window_extent().x1
    assert all(text.get_window_extent().x0 > right for text in fig.axes[0].texts)


def test_the_reference_is_a_line_at_its_methods_gain_in_every_panel():
    gains = gains_frame()
    fig = figures.gains_forest(gains, "early router")
    values = gains[gains["method"] == "early router"].set_index("subset")["value"]
    for ax, subset in zip(fig.axes, SUBSETS, strict=True):
        assert uprights(ax, "--") == [pytest.approx(100 * values[subset])]
    assert labels(fig) == ["early router"]
    assert figures.gains_forest(gains).legends == []


def test_a_forest_grows_with_its_methods_and_a_group_has_its_marker():
    many = {group: [f"{group} {k}" for k in range(5)] for group in METHODS}
    small, large = (figures.gains_forest(gains_frame(m)) for m in (METHODS, many))
    rows = [len(fig.axes[0].get_yticks()) for fig in (small, large)]
    assert rows == [11, 18]
    assert large.get_figheight() - small.get_figheight() > 7 * 0.15
    shapes = {line.get_marker() for line in large.axes[0].lines} & set("oDs^v")
    assert shapes == set("oDs")


def test_a_forest_without_a_subset_has_no_panel_for_it_and_takes_its_title():
    gains = gains_frame(subsets=("missing", "conflict"))
    fig = figures.gains_forest(gains, title="Null control")
    assert [ax.get_title().partition(",")[0] for ax in fig.axes] == ["Conflict", "Missing"]
    assert fig._suptitle.get_text().strip() == "Null control"


def test_a_sweep_shows_gains_of_each_subset_over_the_settings_of_its_parameter():
    frame = shuffled(sweep_frame())
    fig = figures.sweep_figure(frame)
    symbols = [r"\tau", r"\eta", r"\gamma", r"\beta", "K", r"\hat{\psi}", "P", "l_r"]
    assert [ax.get_xlabel().split(" ")[0] for ax in fig.axes] == [f"${s}$" for s in symbols]
    assert len({ax.get_ylim() for ax in fig.axes}) == 1
    assert len({round(ax.get_position().y0, 3) for ax in fig.axes}) == 2
    for ax, (parameter, base) in zip(fig.axes, BASE.items(), strict=True):
        assert uprights(ax, ":") == [base] and levels(ax, "-") == [0]
        assert ax.get_xlabel().endswith(f"(base {base:g})")
        lines = [line for ls in ("--", "-", "-.") for line in curves(ax, ls)]
        assert len(lines) == len(ax.collections) == 3
        for k, (subset, (_, _, x, y)) in enumerate(zip(SUBSETS, lines, strict=True)):
            rows = frame[(frame["parameter"] == parameter) & (frame["subset"] == subset)]
            rows = rows.sort_values("setting")
            assert x == rows["setting"].tolist()
            assert y == pytest.approx(100 * rows["value"])
            expected = rows[["setting", "low", "high"]].T.to_numpy() * [[1], [100], [100]]
            assert np.allclose(band(ax.collections[k]), expected)
    each = [
        f"{name}, n = 1,234; one answer is 0.08 points" for name in ("Align", "Conflict", "Missing")
    ]
    assert labels(fig) == [*each, "base setting"]


def test_a_sweep_of_some_parameters_leaves_no_empty_panel():
    fig = figures.sweep_figure(sweep_frame(["K", "tau", "P", "l_r", "beta"], ["conflict"]))
    assert len(fig.axes) == 5
    assert [ax.get_xlabel()[1:-1].split("$")[0] for ax in fig.axes] == [
        r"\tau",
        r"\beta",
        "K",
        "P",
        "l_r",
    ]
    assert labels(fig) == ["Conflict, n = 1,234; one answer is 0.08 points", "base setting"]


def test_ticks_of_heads_and_layers_are_integers():
    frame = sweep_frame(["K", "l_r"])
    frame["setting"] = frame["setting"].map({2: 1, 3: 2, 4: 3, 5: 4})
    fig = figures.sweep_figure(frame[frame["setting"] < 4])
    fig.canvas.draw()
    for ax in fig.axes:
        assert all(float(tick).is_integer() for tick in ax.get_xticks())


LONG = {
    "paper's method": ["CHASE with the published settings and softmax preference"],
    "bounds and controls": ["random steering, p and g drawn anew for every prompt"],
}
LONG_ROUTERS = [f"router number {k} with inputs standardised" for k in range(3)]
FOURTEEN = {
    "paper's method": [f"variant {k} of the paper's method" for k in range(6)],
    "extensions": [f"extension {k} by other heads" for k in range(4)],
    "bounds and controls": [f"control {k}" for k in range(4)],
}
FIGURES = {
    "curves": lambda: training_curves(history_frame()),
    "curves of one router": lambda: training_curves(history_frame(ROUTERS[:1])),
    "curves with long names": lambda: training_curves(history_frame(LONG_ROUTERS)),
    "curves of many epochs": lambda: training_curves(history_frame(epochs=120)),
    "reliability": lambda: figures.reliability_diagram(reliability_frame()),
    "reliability of one split": lambda: figures.reliability_diagram(reliability_frame(test=43210)),
    "gate": lambda: figures.gate_by_layer(level_frame()),
    "gate of 28 layers": lambda: figures.gate_by_layer(layer_frame(layers=28)),
    "gate with long names": lambda: figures.gate_by_layer(layer_frame(LONG_ROUTERS)),
    "gate of one coalition": lambda: figures.gate_by_layer(layer_frame(coalitions=["TAV"])),
    "gains": lambda: figures.gains_forest(gains_frame(), "early router"),
    "gains of 14 methods": lambda: figures.gains_forest(gains_frame(FOURTEEN)),
    "gains with long names": lambda: figures.gains_forest(gains_frame(LONG)),
    "gains of one subset": lambda: figures.gains_forest(
        gains_frame(subsets=["conflict"]), title="Null control"
    ),
    "large gains": lambda: figures.gains_forest(
        gains_frame().assign(low=-0.6543, value=-0.4321, high=-0.1234)
    ),
    "sweep": lambda: figures.sweep_figure(sweep_frame()),
    "sweep of five": lambda: figures.sweep_figure(sweep_frame([*BASE][:5])),
    "sweep of one": lambda: figures.sweep_figure(sweep_frame(["eta"])),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_name_their_profile_and_no_text_overlaps_another_or_leaves_the_page(name):
    fig = FIGURES[name]()
    assert fig.get_figwidth() <= 9.6
    assert_legible(fig)
    assert any("profile: mini" in text.get_text() for text in fig.texts)


@pytest.mark.parametrize(
    "name",
    ["curves of one router", "reliability of one split", "gains of one subset", "sweep of one"],
)
def test_the_same_frames_give_the_same_bytes_and_text_that_can_be_selected(name, tmp_path):
    source = Provenance(name, "06_chase", "f00d", caption(name, "mini", "Drawn"))
    here, there = (
        write_figure(FIGURES[name](), "figure", "mini", source, root=tmp_path / where).paths
        for where in ("here", "there")
    )
    assert [p.read_bytes() for p in here] == [p.read_bytes() for p in there]
    assert ">profile: mini" in here[1].read_text()


def test_a_subset_keeps_the_colour_that_conflict_has_elsewhere_and_each_has_its_own():
    fig = figures.gains_forest(gains_frame())
    shades = [
        {colour(line) for line in ax.lines if line.get_marker() in "oDs^v"} for ax in fig.axes
    ]
    assert [len(shade) for shade in shades] == [1, 1, 1]
    assert shades[1] == {style.SUBSET_COLOURS["conflict"]}
    assert len(set.union(*shades)) == 3
    assert not set.union(*shades) & {*style.COLOURS.values(), *figures.ROUTER_COLOURS}


def test_a_frame_that_lacks_something_is_named():
    history, gains, layers = history_frame(), gains_frame(), layer_frame()
    with pytest.raises(ValueError, match=r"history: columns \['conflict_auc'\] are missing"):
        training_curves(history.drop(columns="conflict_auc"))
    with pytest.raises(ValueError, match=r"history: expected one row for each router, seed, epoch"):
        training_curves(pd.concat([history, history]))
    with pytest.raises(ValueError, match="history: no rows"):
        training_curves(history[:0])
    with pytest.raises(ValueError, match="at most 4 routers have a colour"):
        training_curves(history_frame([*"abcde"]))
    with pytest.raises(ValueError, match=r"split is one of .* got also \['train'\]"):
        figures.reliability_diagram(reliability_frame(train=50))
    with pytest.raises(ValueError, match=r"coalition is one of .* got also \['T'\]"):
        figures.gate_by_layer(layers.replace({"coalition": {"TA": "T"}}))
    with pytest.raises(ValueError, match="frame: TAV has several chances"):
        figures.gate_by_layer(layers.assign(chance=np.arange(len(layers)) / 100))
    with pytest.raises(ValueError, match=r"subset is one of .* got also \['overall'\]"):
        figures.gains_forest(gains.replace({"subset": {"align": "overall"}}))
    with pytest.raises(ValueError, match="'nobody' is 0 of the methods"):
        figures.gains_forest(gains, "nobody")
    with pytest.raises(ValueError, match="at most 5 groups"):
        figures.gains_forest(gains_frame({g: [g] for g in "abcdef"}))
    with pytest.raises(ValueError, match=r"parameter is one of .* got also \['kappa'\]"):
        figures.sweep_figure(sweep_frame().replace({"parameter": {"K": "kappa"}}))
    with pytest.raises(ValueError, match=r"K has base settings \[\]"):
        figures.sweep_figure(sweep_frame(["K"]).assign(base=False))
    with pytest.raises(ValueError, match=r"K has base settings \[2.0, 3.0, 4.0, 5.0\]"):
        figures.sweep_figure(sweep_frame(["K"]).assign(base=True))
