from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from published import add, edit

from emomm_study import paper
from emomm_study.audit import attainable
from emomm_study.audit.attainable import GRID, PERCENT, SHARE, attainable_sizes


def prints(k, n, step, digits):
    """What k steps over n can print as, by decimal arithmetic: a tie either way."""
    exact = Decimal(int(k) * step.numerator) / Decimal(int(n) * step.denominator)
    unit = Decimal(1).scaleb(-digits)
    return {exact.quantize(unit, rounding) for rounding in (ROUND_HALF_UP, ROUND_HALF_DOWN)}


def by_trying(value, digits, step, sizes, most):
    target = Decimal(f"{value:.{digits}f}")
    return [
        n for n in sizes if any(target in prints(k, n, step, digits) for k in range(most * n + 1))
    ]


@pytest.mark.parametrize(
    ("value", "digits", "step", "most"),
    [
        (52.09, 2, PERCENT, 1),
        (50.15, 2, PERCENT, 1),
        (0.0, 2, PERCENT, 1),
        (100.0, 2, PERCENT, 1),
        (0.27, 3, GRID, 10),
        (0.125, 3, GRID, 10),
        (0.7018, 4, SHARE, 1),
    ],
)
def test_attainable_sizes_are_those_found_by_trying_every_count(value, digits, step, most):
    sizes = range(1, 121)
    found = attainable_sizes(value, digits, step, sizes)
    assert found.tolist() == by_trying(value, digits, step, sizes, most)


@given(n=st.integers(1, 5000), data=st.data())
def test_what_some_count_of_n_prints_is_attainable_at_n(n, data):
    k = data.draw(st.integers(0, n))
    for value in prints(k, n, PERCENT, 2):
        assert attainable_sizes(float(value), 2, PERCENT, [n]).tolist() == [n]
        low, high = attainable.count_range(float(value), 2, PERCENT, n)
        assert low <= k <= high


def test_a_run_that_prints_nothing_follows_from_the_distance_to_one_half():
    # A share other than 1/2 is at least 1/(2n) away from it (n odd) or 1/n (n even), and 50.15 is
    # between 0.00145 and 0.00155 away.
    odd, even = Fraction(1, 2) / Fraction("0.00145"), 1 / Fraction("0.00155")
    first, last = attainable.unprintable(50.15, 526)
    assert (first, last) == (344, 645)
    assert first - 1 <= odd < first + 1 and last < even <= last + 1
    assert attainable.unprintable(49.96, 3200) == (2857, 3334)
    assert attainable.unprintable(46.47, 510) == (511, 510)


def test_larger_sizes_than_a_unit_has_print_every_value_and_small_ones_few():
    values = [20.01, 33.33, 49.96, 50.15]
    assert all(len(attainable_sizes(v, 2, PERCENT, range(10_001, 10_100))) == 99 for v in values)
    assert not any(len(attainable_sizes(v, 2, PERCENT, range(2, 3))) for v in values)


def test_values_and_sizes_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="more than 2 decimals"):
        attainable_sizes(52.095, 2, PERCENT, [10])
    with pytest.raises(ValueError, match="integers from 1"):
        attainable_sizes(52.09, 2, PERCENT, [0])


def test_every_align_accuracy_finds_a_size_within_six_and_no_size_prints_them_all():
    rows = attainable.row_sizes().query("number == 1 and subset == 'align'")
    sizes = [set(s) & set(range(259, 265)) for s in rows["sizes"]]
    assert sizes == [{259}, {261}, {263}, {263}, {263}, {262}, {262}, {259, 264}]
    wide = range(1, 5000)
    sets = [set(attainable_sizes(a, 2, PERCENT, wide).tolist()) for a in rows["acc"]]
    assert not set.intersection(*sets)


def test_mae_excludes_no_size_that_is_near_an_implied_one():
    rows = attainable.row_sizes()
    assert (rows["mae_excludes"] == 0).all()
    # Steps of 0.2/n are coarser than 0.001 below 200 clips only.
    coarse = [len(attainable_sizes(0.27, 3, GRID, [n])) for n in range(101, 200)]
    assert 0 in coarse and all(len(attainable_sizes(0.27, 3, GRID, [n])) for n in range(200, 400))


def test_only_the_variant_without_intra_bias_has_no_size_near():
    rows = attainable.row_sizes()
    assert rows.loc[~rows["holds"], "method"].tolist() == ["no_intra_bias"]
    row = rows[~rows["holds"]].iloc[0]
    assert (row["below"], row["above"]) == (343, 646) and row["sizes"] == ()
    overall = rows.query("subset == 'overall' and method == 'CHASE' and model.str.startswith('Q')")
    assert overall[["below", "above"]].to_numpy().tolist() == [[2856, 3335]]


def test_rarity_is_the_share_of_printed_values_with_a_wider_gap():
    rows = attainable.row_sizes()
    row = rows.query("subset == 'align' and model.str.startswith('MiniCPM')").iloc[0]
    centre, gap = row["implied"], row["implied"] - row["below"]
    nearer = [n for n in range(1, 600) if abs(n - centre) < gap]
    values = np.arange(2155, 5986)
    none = [not len(attainable_sizes(v / 100, 2, PERCENT, nearer)) for v in values]
    assert row["rarity"] == pytest.approx(np.mean(none))


@pytest.mark.parametrize(
    ("subset", "width", "sizes"),
    [("align", 6, range(200, 340)), ("conflict", 9, range(480, 560)), ("align", 1, range(60, 90))],
)
def test_windows_and_their_base_rate_are_those_found_by_trying_every_value(subset, width, sizes):
    found = attainable.windows(subset, width, sizes=sizes)
    printed = paper.table(1).query("subset == @subset")["acc"]
    fits = np.array([np.isin(sizes, attainable_sizes(a, 2, PERCENT, sizes)) for a in printed])
    last = len(sizes) - width
    runs = [i for i in range(last + 1) if fits[:, i : i + width].any(1).all()]
    assert list(found.starts) == [sizes.start + i for i in runs]
    assert found.tried == last + 1
    values = np.arange(round(100 * printed.min()), round(100 * printed.max()) + 1)[::7] / 100
    every = np.array([np.isin(sizes, attainable_sizes(v, 2, PERCENT, sizes)) for v in values])
    expected = sum(every[:, i : i + width].any(1).mean() ** 8 for i in range(last + 1))
    assert found.expected == pytest.approx(expected, rel=0.4, abs=1e-9)


def test_the_window_of_align_is_the_only_one_of_its_width_and_none_was_to_be_expected():
    found = attainable.windows("align", 6)
    assert found.starts == (258, 259)
    assert found.near < 1e-4 and found.near < found.expected < 1
    assert not attainable.windows("align", 4).starts
    assert not attainable.windows("conflict", 6).starts
    with pytest.raises(ValueError, match="no subset 'Align'"):
        attainable.windows("Align", 6)


def test_sizes_shared_without_and_with_chase_are_intersections():
    rows = attainable.shared_sizes().set_index(["model", "subset"])
    assert rows["shared"].to_dict() == {
        ("Qwen2.5-Omni-7B", "align"): (263,),
        ("Qwen2.5-Omni-7B", "conflict"): (),
        ("VITA-1.5-8B", "align"): (262,),
        ("VITA-1.5-8B", "conflict"): (523,),
    }
    assert not rows.loc[("Qwen2.5-Omni-7B", "conflict"), "holds"]


def printed_table(folder, sizes, rng):
    """Table 1 as if each row had been scored on its ``sizes`` (align, conflict, missing)."""
    path = folder / "table1.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    names = ("align", "conflict", "missing")
    for key, rows in frame.groupby(["model", "method"]):
        n = np.array(sizes[key])
        right, steps = rng.binomial(n, 0.45), rng.binomial(10 * n, 0.15)
        acc = dict(zip(names, 100 * right / n, strict=True), overall=100 * right.sum() / n.sum())
        mae = dict(zip(names, 0.2 * steps / n, strict=True), overall=0.2 * steps.sum() / n.sum())
        for i, subset in rows["subset"].items():
            frame.loc[i, ["acc", "mae"]] = [f"{acc[subset]:.2f}", f"{mae[subset]:.3f}"]
    frame.to_csv(path, index=False, lineterminator="\n")


@pytest.mark.parametrize("seed", range(3))
def test_the_sizes_that_made_a_table_are_among_its_joint_sizes(copy, seed):
    rng = np.random.default_rng(seed)
    keys = paper.table(1)[["model", "method"]].drop_duplicates().itertuples(index=False, name=None)
    sizes = {key: tuple(rng.integers((270, 522, 2380), (279, 531, 2421))) for key in keys}
    printed_table(copy, sizes, rng)
    for row in attainable.joint_sizes(copy, reach=0.1).itertuples():
        align, conflict, missing = sizes[row.model, row.method]
        assert row.holds and align in row.align and conflict in row.conflict
        assert row.total_low <= align + conflict + missing <= row.total_high
        assert row.ratio_low <= missing / (align + conflict) <= row.ratio_high


def test_joint_sizes_of_a_published_row_are_those_of_a_search_over_all_counts():
    row = paper.table(1).query("model.str.startswith('Qwen') and method == 'CHASE'")
    row = row.set_index("subset")
    reach, found = 0.1, []
    implied = attainable.implied_sizes()
    box = {
        s: [n for n in range(1, 5000) if (1 - reach) * implied[s] <= n <= (1 + reach) * implied[s]]
        for s in attainable.PARTS
    }
    # Only sizes that print the subset's own accuracy, each with every count that does.
    options = {s: [] for s in box}
    for s in box:
        value = row.loc[s, "acc"]
        for n in box[s]:
            around = range(int(n * value / 100) - 1, int(n * value / 100) + 3)
            right = [k for k in around if Decimal(f"{value:.2f}") in prints(k, n, PERCENT, 2)]
            options[s] += [(n, k) for k in right]
    for (a, i), (c, j) in product(options["align"], options["conflict"]):
        for m, k in options["missing"]:
            total, mae = a + c + m, 0.0
            if abs(100 * (i + j + k) / total - row.loc["overall", "acc"]) > 0.005 + 1e-9:
                continue
            for n, s in ((a, "align"), (c, "conflict"), (m, "missing")):
                mae += n * row.loc[s, "mae"] / total
            if abs(mae - row.loc["overall", "mae"]) <= 0.001 + 1e-9:
                found.append((a, c, m))
    table = attainable.joint_sizes(reach=reach)
    ours = table.query("model.str.startswith('Qwen') and method == 'CHASE'").iloc[0]
    assert ours["solutions"] == len(set(found)) == 15
    assert (ours["total_low"], ours["total_high"]) == (3335, 3349)
    assert ours["total_low"] == min(map(sum, found))


def test_a_row_without_solutions_says_which_accuracy_nothing_in_reach_prints():
    rows = attainable.joint_sizes(reach=0.04).set_index(["model", "method"])
    row = rows.loc[("Qwen2.5-Omni-7B", "CHASE")]
    assert not row["holds"] and row["solutions"] == 0
    assert "no size in reach prints" in row["detail"]
    assert "overall 49.96 (3072-3328)" in row["detail"]


@pytest.mark.parametrize(
    ("model", "method", "by"),
    [
        ("Qwen2.5-Omni-7B", "CHASE", 0.01),
        ("VITA-1.5-8B", "baseline", -0.01),
        ("Video-SALMONN 2-7B", "baseline", 0.01),
        ("Gemini 3 Pro", "baseline", 0.01),
    ],
)
def test_one_unit_in_an_align_accuracy_changes_the_sizes_that_print_it(copy, model, method, by):
    edit(copy, 1, {"model": model, "method": method, "subset": "align"}, "acc", add(by))
    where = "model == @model and method == @method and subset == 'align'"
    before, after = attainable.row_sizes(), attainable.row_sizes(copy)
    assert before.query(where)["sizes"].item() != after.query(where)["sizes"].item()
    assert attainable.windows("align", 6, copy).starts != (258, 259)


def test_one_unit_in_table_2_makes_its_accuracy_a_share_of_some_size(copy):
    edit(copy, 2, {"variant": "no_intra_bias"}, "acc", add(0.03))
    assert attainable.row_sizes(copy)["holds"].all()
    edit(copy, 2, {"variant": "no_intra_bias"}, "acc", add(-0.04))
    assert not attainable.row_sizes(copy)["holds"].all()
