import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from published import add, edit
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar

from emomm_lib.metrics.paired import exact_mcnemar
from emomm_study.audit import sampling

QWEN, VITA = "Qwen2.5-Omni-7B", "VITA-1.5-8B"


def outcomes(p, q, n, both):
    """Right or wrong of two systems that get p and q of n right, ``both`` of them together."""
    first = np.arange(n) < p
    second = np.zeros(n, bool)
    second[:both] = True
    second[p : p + q - both] = True
    assert second.sum() == q and (first & second).sum() == both
    return first, second


@given(n=st.integers(1, 3000), data=st.data())
def test_intervals_are_those_of_scipys_binomial_test(n, data):
    k = data.draw(st.integers(0, n))
    for ours, method in ((sampling.wilson, "wilson"), (sampling.clopper_pearson, "exact")):
        other = binomtest(k, n).proportion_ci(method=method)
        assert ours(k / n, n) == pytest.approx((other.low, other.high), abs=1e-6)


def test_sizes_add_up_and_a_clip_counts_once_or_three_or_four_times():
    n = sampling.subset_sizes().set_index(["subset", "counted"])["n"]
    clips = n["align", "instances"] + n["conflict", "instances"]
    assert clips == n["missing", "clips"] == n["overall", "clips"] == 800
    assert n["missing", "instances"] == 3 * clips and n["overall", "instances"] == 4 * clips
    assert len(n) == 6


def test_intervals_of_table_1_hold_the_printed_value_and_are_wider_by_clips():
    rows = sampling.accuracy_intervals()
    assert len(rows) == 48
    for low, high in (("low", "high"), ("exact_low", "exact_high")):
        assert (rows[low] < rows["acc"]).all() and (rows["acc"] < rows[high]).all()
    assert (rows["exact_low"] <= rows["low"]).all() and (rows["high"] <= rows["exact_high"]).all()
    width = (
        (rows["high"] - rows["low"])
        .groupby([rows[c] for c in ("model", "method", "subset", "counted")])
        .first()
    )
    missing = width.xs("missing", level="subset").unstack()
    assert np.allclose(missing["clips"] / missing["instances"], np.sqrt(3), rtol=0.01)
    row = rows.query("model == @QWEN and method == 'CHASE' and subset == 'conflict'").iloc[0]
    k, n = round(0.5132 * row["n"]), row["n"]
    ci = binomtest(k, n).proportion_ci(method="wilson")
    assert [row["low"], row["high"]] == pytest.approx([100 * ci.low, 100 * ci.high], abs=0.1)


@pytest.mark.parametrize(("p", "q", "n"), [(10, 14, 40), (20, 33, 60), (5, 5, 12), (30, 27, 40)])
def test_no_pairing_of_two_accuracies_leaves_the_bounds_on_discordance_and_p(p, q, n):
    bounds = sampling.pairing(p / n, q / n, n)
    found = []
    for both in range(max(0, p + q - n), min(p, q) + 1):
        first, second = outcomes(p, q, n, both)
        changed = int((first != second).sum())
        gained, lost, value = exact_mcnemar(first, second)
        assert gained - lost == q - p
        table = [[both, p - both], [q - both, n - p - q + both]]
        assert value == pytest.approx(mcnemar(table, exact=True).pvalue)
        assert value == pytest.approx(sampling.mcnemar_p(changed, q - p))
        found.append((changed / n, value))
    shares, values = zip(*sorted(found), strict=True)
    assert bounds.discordance == pytest.approx((shares[0], shares[-1]))
    assert bounds.p_best == pytest.approx(min(values)) == pytest.approx(values[0])
    assert bounds.p_worst == pytest.approx(max(values)) == pytest.approx(values[-1])
    significant = [share for share, value in found if value <= 0.05]
    if significant:
        assert bounds.critical == pytest.approx(max(significant))
    else:
        assert np.isnan(bounds.critical)


@pytest.mark.parametrize("discordance", ["least", "most"])
@pytest.mark.parametrize(("p", "q", "n"), [(244, 270, 526), (1038, 1183, 2400), (143, 146, 274)])
def test_intervals_of_a_difference_are_those_of_a_table_with_half_an_instance_more(
    p, q, n, discordance
):
    bounds = sampling.pairing(p / n, q / n, n)
    both = min(p, q) if discordance == "least" else max(0, p + q - n)
    cells = np.array([both, p - both, q - both, n - p - q + both]) + 0.5
    share = cells / cells.sum()
    difference = share[2] - share[1]
    variance = (share[1] + share[2] - difference**2) / cells.sum()
    half = sampling.Z * np.sqrt(variance)
    ours = bounds.best if discordance == "least" else bounds.worst
    assert ours == pytest.approx((difference - half, difference + half))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(5, 400), data=st.data())
def test_the_three_verdicts_follow_from_all_pairings(n, data):
    p, q = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    bounds = sampling.pairing(p / n, q / n, n)
    net = abs(q - p)
    changes = range(net, min(p + q, 2 * n - p - q) + 1, 2)
    below = [sampling.mcnemar_p(m, net) <= sampling.ALPHA for m in changes]
    expected = sampling.DEPENDS
    if all(below):
        expected = sampling.EXCEEDS
    elif not any(below):
        expected = sampling.WITHIN
    assert bounds.verdict == expected
    # Once lost, significance does not come back with more discordance.
    assert below == sorted(below, reverse=True)
    assert bounds.worst[0] <= bounds.best[0] + 1e-12 and bounds.best[1] <= bounds.worst[1] + 1e-12


def test_counts_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no counts gain 3 net out of 6"):
        sampling.mcnemar_p(6, 3)
    with pytest.raises(ValueError, match="no counts"):
        sampling.mcnemar_p(2, 4)


def verdicts(*folder):
    rows = sampling.difference_bounds(*folder)
    return rows.set_index(["comparison", "subset", "counted"])["verdict"]


def test_published_gains_on_align_are_within_sampling_error_and_those_on_missing_are_not():
    found = verdicts()
    for model in (QWEN, VITA):
        name = f"{model}: CHASE - baseline"
        assert found[name, "align", "instances"] == sampling.WITHIN
        assert found[name, "conflict", "instances"] == sampling.DEPENDS
        for subset in ("missing", "overall"):
            assert found[name, subset, "instances"] == sampling.EXCEEDS
            assert found[name, subset, "clips"] == sampling.DEPENDS
    assert found["full - no_intra_bias", "conflict", "instances"] == sampling.DEPENDS
    assert found["no_router - baseline", "conflict", "instances"] == sampling.WITHIN
    assert set(found) <= set(sampling.VERDICTS)


def test_differences_are_in_points_of_what_is_printed_and_critical_ones_between_the_bounds():
    rows = sampling.difference_bounds()
    row = rows.set_index(["comparison", "subset", "counted"]).loc[
        ("full - no_inter_bias", "conflict", "instances")
    ]
    assert row["difference"] == pytest.approx(51.32 - 48.10)
    assert row["least"] == pytest.approx(3.22) and row["most"] == pytest.approx(99.42)
    # 17 clips net of 526: McNemar's p passes 0.05 between 67 and 69 discordant ones.
    assert row["critical"] == pytest.approx(100 * 67 / 526)
    assert binomtest(42, 67).pvalue <= 0.05 < binomtest(43, 69).pvalue
    assert rows["kind"].value_counts().to_dict() == {"CHASE": 12, "ablation": 4, "systems": 12}


@pytest.mark.parametrize(
    ("where", "step", "key"),
    [
        ({"variant": "no_intra_bias"}, 0.15, ("full - no_intra_bias", "conflict", "instances")),
        ({"variant": "no_router"}, -0.4, ("no_router - baseline", "conflict", "instances")),
    ],
)
def test_a_clip_or_two_changes_a_verdict_that_hangs_on_a_handful(copy, where, step, key):
    edit(copy, 2, where, "acc", add(step))
    assert verdicts(copy)[key] != verdicts()[key]


@pytest.mark.parametrize("subset", ["align", "overall"])
def test_one_unit_in_table_1_moves_the_difference_by_one_unit(copy, subset):
    where = {"model": VITA, "method": "CHASE", "subset": subset}
    edit(copy, 1, where, "acc", add(0.01))
    key = (f"{VITA}: CHASE - baseline", subset, "instances")
    before, after = (
        sampling.difference_bounds(*f).set_index(["comparison", "subset", "counted"]).loc[key]
        for f in ((), (copy,))
    )
    assert after["difference"] - before["difference"] == pytest.approx(0.01)
    assert after["low_best"] != before["low_best"]
