import shutil
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from published import add, edit
from scipy.optimize import linprog, minimize
from sklearn.metrics import f1_score

from emomm_study import paper
from emomm_study.audit import mix
from emomm_study.audit.consistency import MIX
from emomm_study.paths import PAPER_DATA

SYSTEMS = ["model", "method"]


def write(folder, scores):
    """Put ``{metric: (8, 4) values}``, Overall first and then mix.PARTS, into Table 1."""
    path = folder / "table1.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    places = frame[SYSTEMS].drop_duplicates().apply(tuple, axis=1).tolist()
    columns = ("overall", *mix.PARTS)
    rows = [places.index(key) for key in frame[SYSTEMS].itertuples(index=False, name=None)]
    parts = [columns.index(subset) for subset in frame["subset"]]
    for metric, values in scores.items():
        frame[metric] = [f"{value:.{mix.DIGITS[metric]}f}" for value in values[rows, parts]]
    frame.to_csv(path, index=False, lineterminator="\n")


def table_values(metric):
    frame = paper.table(1).pivot(index=SYSTEMS, columns="subset", values=metric)
    return frame[list(mix.PARTS)].to_numpy(), frame["overall"].to_numpy()


@pytest.mark.parametrize("metric", ["acc", "mae", "f1"])
def test_least_squares_weights_are_those_of_lstsq_with_the_last_weight_eliminated(metric):
    parts, overall = table_values(metric)
    free, *_ = np.linalg.lstsq(parts[:, :2] - parts[:, 2:], overall - parts[:, 2], rcond=None)
    found = mix.best_weights((metric,)).weights
    assert [found.missing, found.conflict] == pytest.approx(free, abs=1e-9)
    assert found.missing + found.conflict + found.align == pytest.approx(1)


@pytest.mark.parametrize("metrics", [("acc",), ("mae",), ("acc", "mae"), ("f1",)])
def test_no_weights_nearby_have_a_smaller_largest_residual(metrics):
    fit = mix.best_weights(metrics, "largest")
    scaled = [np.column_stack(table_values(m)) / float(mix.rounding_bound(m)) for m in metrics]
    values = np.concatenate(scaled)

    def worst(free):
        weights = np.array([*free, 1 - sum(free)])
        return np.abs(values[:, :3] @ weights - values[:, 3]).max()

    start = [fit.weights.missing, fit.weights.conflict]
    assert worst(start) == pytest.approx(fit.worst, abs=1e-6)
    searched = minimize(worst, [0.7, 0.2], method="Nelder-Mead", options={"fatol": 1e-10})
    assert searched.fun >= fit.worst - 1e-6


def test_a_mix_with_a_negative_best_weight_stops_at_zero(copy):
    rng = np.random.default_rng(0)
    parts = rng.uniform(20, 60, (8, 3))
    overall = parts @ [0.6, 0.6, -0.2]
    write(copy, {"acc": np.column_stack([overall, parts]).round(2)})
    found = mix.best_weights(("acc",), "squares", copy).weights
    assert found.align == 0 and found.missing + found.conflict == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), sizes=st.tuples(*[st.integers(50, 3000)] * 3))
def test_the_true_mix_of_any_counts_is_among_the_compatible_ones(tmp_path_factory, seed, sizes):
    rng = np.random.default_rng(seed)
    sizes = np.array(sizes)
    right = rng.integers(0, sizes + 1, (8, 3))
    steps = rng.integers(0, 4 * sizes + 1, (8, 3))
    acc = np.column_stack([100 * right.sum(1) / sizes.sum(), 100 * right / sizes])
    mae = np.column_stack([0.2 * steps.sum(1) / sizes.sum(), 0.2 * steps / sizes])
    folder = shutil.copytree(PAPER_DATA, tmp_path_factory.mktemp("m") / "paper")
    write(folder, {"acc": acc, "mae": mae})
    corners = mix.compatible(("acc", "mae"), folder)
    truth = sizes / sizes.sum()
    # A point of a convex polygon is a mix of its corners.
    share = linprog(
        np.zeros(len(corners)),
        A_eq=np.vstack([corners[["missing", "conflict"]].to_numpy().T, np.ones(len(corners))]),
        b_eq=[truth[0], truth[1], 1],
    )
    assert share.status == 0
    assert mix.best_weights(("acc", "mae"), "largest", folder).worst <= 1 + 1e-6


@pytest.mark.parametrize("metrics", [("acc",), ("mae",), ("acc", "mae")])
@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-2, 1)])
def test_corners_reach_as_far_as_a_linear_program(metrics, direction):
    corners = mix.compatible(metrics)[["missing", "conflict"]].to_numpy()
    rows, bounds = [[1, 1]], [1]
    for metric in metrics:
        parts, overall = table_values(metric)
        slope, rest = parts[:, :2] - parts[:, 2:], overall - parts[:, 2]
        bound = float(mix.rounding_bound(metric))
        rows += [*slope, *-slope]
        bounds += [*(bound + rest), *(bound - rest)]
    best = linprog(-np.array(direction), A_ub=rows, b_ub=bounds, bounds=[(0, 1)] * 2)
    assert (corners @ direction).max() == pytest.approx(-best.fun, abs=1e-8)


def test_published_accuracies_leave_a_sliver_of_weights_that_excludes_three_to_one():
    table = mix.implications().set_index("quantity")
    ratio = table.loc["Missing instances a full-modality clip"]
    assert [ratio["low"], ratio["high"]] == pytest.approx([3.0323, 3.0428], abs=1e-4)
    assert not ratio["holds"]
    share = table.loc["share of conflicts among full-modality clips"]
    assert [share["low"], share["high"]] == pytest.approx([0.6562, 0.6582], abs=1e-4)
    conflicts = table.loc["CMU-MOSI's conflicts"]
    assert 1624 < conflicts["low"] < 1630 < conflicts["high"] < 1633
    assert table["holds"].isna().sum() == len(table) - 1
    fixed = mix.best_weights(("acc",), "largest", missing=0.75)
    assert fixed.weights.missing == 0.75 and fixed.worst == pytest.approx(1.3219, abs=1e-3)
    alone = mix.implications(("mae",)).set_index("quantity")
    assert alone.loc["Missing instances a full-modality clip", "holds"]


def test_ranges_of_ratios_are_not_exceeded_inside_the_polygon():
    table = mix.implications().set_index("quantity")
    corners = mix.compatible()[list(mix.PARTS)].to_numpy()
    points = np.random.default_rng(0).dirichlet(np.ones(len(corners)), 2000) @ corners
    inside = [mix.Weights(*point) for point in points]
    for name, values in {
        "Missing instances a full-modality clip": [w.missing_ratio for w in inside],
        "share of conflicts among full-modality clips": [w.conflict_share for w in inside],
    }.items():
        assert table.loc[name, "low"] <= min(values) <= max(values) <= table.loc[name, "high"]


@pytest.mark.parametrize(
    ("model", "method", "subset", "by"),
    [
        ("Video-SALMONN 2-7B", "baseline", "overall", 0.01),
        ("Video-LLaMA2.1-7B-AV", "baseline", "missing", -0.01),
        ("Qwen2.5-Omni-7B", "baseline", "overall", -0.01),
        ("Video-SALMONN 2-7B", "baseline", "conflict", 0.01),
        ("Qwen2.5-Omni-7B", "baseline", "align", 0.01),
    ],
)
def test_one_unit_in_one_accuracy_moves_or_empties_the_polygon(copy, model, method, subset, by):
    before = mix.compatible()
    edit(copy, 1, {"model": model, "method": method, "subset": subset}, "acc", add(by))
    after = mix.compatible(folder=copy)
    assert len(after) != len(before) or not np.allclose(after, before, atol=1e-6)


def test_weights_that_no_longer_exist_are_an_error_that_says_by_how_much(copy):
    edit(copy, 1, {"model": "Gemini 3 Pro", "subset": "overall"}, "acc", add(0.03))
    assert mix.compatible(folder=copy).empty
    with pytest.raises(ValueError, match="misses by 2.06 times what rounding explains"):
        mix.implications(folder=copy)


def test_f1_has_no_exact_mix_and_its_best_one_misses_by_more_than_rounding():
    assert mix.compatible(("f1",)).empty
    fit = mix.best_weights(("f1",), "largest")
    assert fit.worst == pytest.approx(1.567, abs=1e-3)
    rows = mix.residuals(fit.weights, ("f1",))
    assert rows["residual"].abs().max() == pytest.approx(0.01567, abs=1e-5)
    assert not rows["holds"].all()


def test_macro_f1_of_two_pooled_subsets_is_not_their_mean():
    truth, answer = [0] * 10 + [4] * 10, [0] * 20
    pooled, mean = mix.f1_counterexample()
    assert pooled == pytest.approx(f1_score(truth, answer, average="macro", zero_division=0))
    halves = [
        f1_score(truth[part], answer[part], average="macro", zero_division=0)
        for part in (slice(10), slice(10, 20))
    ]
    assert mean == np.mean(halves) == 0.5 and pooled == pytest.approx(1 / 3)


def test_pooled_f1_of_generic_systems_is_further_from_a_mix_than_the_published_column():
    misfits = mix.pooled_f1_misfits(400)
    assert misfits.shape == (400,) and (misfits == mix.pooled_f1_misfits(400)).all()
    parts, overall = table_values("f1")
    weights = mix.best_weights(("f1",)).weights
    published = np.abs(parts @ [weights.missing, weights.conflict, weights.align] - overall).max()
    assert (misfits > published).mean() > 0.99


def test_residuals_are_printed_less_mixed_and_are_judged_by_one_printed_unit():
    rows = mix.residuals(mix.Weights(missing=0.752, conflict=0.163, align=0.085))
    assert len(rows) == 24
    row = rows.query("model == 'Qwen2.5-Omni-7B' and method == 'CHASE' and metric == 'acc'").iloc[0]
    by_hand = Fraction("49.96") - (
        Fraction("0.752") * Fraction("49.30")
        + Fraction("0.163") * Fraction("51.32")
        + Fraction("0.085") * Fraction("53.23")
    )
    assert row["residual"] == pytest.approx(float(by_hand), abs=1e-9) and row["holds"]
    # Three digits take the weights just outside the exact polygon, the four of MIX stay inside.
    assert (~rows["holds"] & (rows["metric"] == "acc")).sum() == 1
    assert mix.residuals(MIX, ("acc", "mae"))["holds"].all()


def test_a_true_mix_stays_within_rounding_and_rarely_comes_as_near_to_it_as_table_1():
    misfits = mix.rounded_mix_misfits(300)
    bound = float(mix.rounding_bound("acc"))
    assert (misfits <= bound + 1e-9).all() and (misfits > 0).all()
    observed = mix.best_weights(("acc",), "largest").worst * bound
    assert (misfits >= observed).mean() < 0.01
    assert (
        mix.rounded_mix_misfits(3, seed=1).tolist() == mix.rounded_mix_misfits(3, seed=1).tolist()
    )


def test_an_unknown_metric_or_norm_is_refused():
    with pytest.raises(ValueError, match="metrics are some of"):
        mix.best_weights(("accuracy",))
    with pytest.raises(ValueError, match="norm is"):
        mix.best_weights(("acc",), "median")
