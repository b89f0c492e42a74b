from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import bootstrap

import emomm_lib as m
from emomm_lib.labels import COALITIONS, MODALITIES, coalition_name
from emomm_lib.metrics.psmv import WEIGHTS
from emomm_study.evaluate.collapse import accuracy_drops, vcc

ACCURACIES = st.lists(st.floats(0, 1), min_size=8, max_size=8).map(np.array)
pytestmark = pytest.mark.filterwarnings("error")


def made(n=60, seed=0, rates=(0.2, 0.6, 0.5, 0.5, 0.7, 0.7, 0.6, 0.8)):
    """Clips of both subsets, scored under all coalitions."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        [
            (f"{subset}{i:03d}", "x", subset, c, float(rng.random() < rate - drop))
            for subset, size, drop in (("align", n, 0), ("conflict", 2 * n, 0.1))
            for i in range(size)
            for c, rate in zip(COALITIONS, rates, strict=True)
        ],
        columns=["sample_id", "corpus", "subset", "coalition", "right"],
    )
    return frame.sample(frac=1, random_state=seed, ignore_index=True)


def shapley(values):
    """Mean marginal contribution over the six orders in which T, A, V can join."""
    accuracy = dict(zip(COALITIONS, values, strict=True))
    gains = dict.fromkeys(MODALITIES, 0.0)
    for order in permutations(MODALITIES):
        for i, joining in enumerate(order):
            before, after = coalition_name(order[:i]), coalition_name(order[: i + 1])
            gains[joining] += (accuracy[after] - accuracy[before]) / 6
    return list(gains.values())


@given(ACCURACIES)
@settings(max_examples=50, deadline=None)
def test_psmv_is_the_mean_gain_over_all_orders_of_joining(values):
    assert m.psmv(values) == pytest.approx(shapley(values), abs=1e-12)


@given(ACCURACIES)
@settings(max_examples=50, deadline=None)
def test_psmv_adds_up_to_the_gain_of_all_modalities_over_none(values):
    assert m.psmv(values).sum() == pytest.approx(values[-1] - values[0], abs=1e-12)
    if abs(values[-1] - values[0]) > 1e-3:
        assert m.psmv_shares(values).sum() == pytest.approx(1, abs=1e-9)


@given(ACCURACIES, st.floats(-0.5, 0.5))
@settings(max_examples=50, deadline=None)
def test_interchangeable_modalities_get_the_same_and_an_idle_one_what_it_adds_alone(values, extra):
    v = dict(zip(COALITIONS, values, strict=True))
    v["A"], v["AV"] = v["T"], v["TV"]
    t, a, _ = m.psmv([v[c] for c in COALITIONS])
    assert t == pytest.approx(a, abs=1e-12)
    for with_v, without in (("V", "none"), ("TV", "T"), ("AV", "A"), ("TAV", "TA")):
        v[with_v] = v[without] + extra
    assert m.psmv([v[c] for c in COALITIONS])[2] == pytest.approx(extra, abs=1e-12)


def test_the_weights_of_video_are_those_of_equation_16():
    expected = {"V": 1 / 3, "none": -1 / 3, "TV": 1 / 6, "T": -1 / 6}
    expected |= {"AV": 1 / 6, "A": -1 / 6, "TAV": 1 / 3, "TA": -1 / 3}
    assert WEIGHTS[:, 2] == pytest.approx([expected[c] for c in COALITIONS])


def test_psmv_works_on_any_leading_dimensions_and_a_share_of_nothing_is_nan():
    values = np.random.default_rng(0).random((4, 5, 8))
    assert m.psmv(values).shape == m.psmv_shares(values).shape == (4, 5, 3)
    assert m.psmv(values)[3, 1] == pytest.approx(shapley(values[3, 1]))
    with pytest.warns(RuntimeWarning, match=r"V\(TAV\) equals V\(none\) up to rounding"):
        assert np.isnan(m.psmv_shares(np.full(8, 0.2))).all()


@given(ACCURACIES, st.integers(1, 5000), st.integers(-3, 3), st.sampled_from([1e-6, 1.0, 1e6]))
@settings(max_examples=60, deadline=None)
def test_a_gain_of_rounding_has_no_shares_at_any_scale(values, clips, ulps, scale):
    # V(none) summed clip by clip in thirds, V(TAV) as one product: equal up to rounding.
    values = values.copy()
    values[0] = sum([1 / 3] * clips) / clips
    values[-1] = 1 / 3 + ulps * np.finfo(float).eps
    with pytest.warns(RuntimeWarning, match="up to rounding"):
        assert np.isnan(m.psmv_shares(scale * values)).all()


@pytest.mark.parametrize("gain", [1e-6, 1e-4, -1e-3])
def test_the_gain_of_one_clip_in_a_million_still_has_shares(gain):
    values = np.array([0.5, 0.6, 0.5, 0.4, 0.5, 0.6, 0.5, 0.5 + gain])
    assert m.psmv_shares(values).sum() == pytest.approx(1, rel=1e-6)


def thirds(frame):
    """Without a modality a third, with all three the same third by another sum."""
    right = frame["right"].where(frame["coalition"] != "none", 1 / 3)
    whole = frame["coalition"] == "TAV"
    # In each subset as many 1/3 + 1/4 as 1/3 - 1/4.
    swing = frame[whole].groupby("subset").cumcount() % 2 * 0.5 - 0.25
    right[whole] = 1 / 3 + swing
    return frame.assign(right=right)


def test_a_collapse_of_shares_of_nothing_is_nan_with_its_interval_and_says_why():
    frame = thirds(made())
    with pytest.warns(RuntimeWarning, match="PSMV's share of subset .*up to rounding"):
        shares = m.psmv_frame(frame, bootstrap=m.Bootstrap(200)).query("quantity == 'share'")
    assert shares[["value", "low", "high"]].isna().all(axis=None)
    with pytest.warns(RuntimeWarning, match="share_.* of model is undefined"):
        found = vcc(frame, {"sure": made(seed=3)}, bootstrap=m.Bootstrap(200))
    found = found.set_index(["source", "quantity"])
    undefined = [("model", q) for q in ("share_align", "share_conflict", "collapse")]
    undefined += [("sure", "excess")]
    assert found.loc[undefined, ["value", "low", "high"]].isna().all(axis=None)
    assert found.drop(undefined)[["value", "low", "high"]].notna().all(axis=None)
    with pytest.raises(ValueError, match="end in 8 accuracies"):
        m.psmv(np.zeros((8, 7)))


def test_coalition_accuracies_are_the_means_of_each_subset_with_scipys_intervals():
    frame = made()
    found = m.coalition_accuracy(frame, bootstrap=m.Bootstrap(6000)).set_index(
        ["subset", "coalition"]
    )
    assert list(found.loc["align"].index) == list(COALITIONS)
    for key, part in frame.groupby(["subset", "coalition"]):
        assert found.loc[key, "value"] == pytest.approx(part["right"].mean())
        assert found.loc[key, "n"] == len(part)
    data = frame[(frame["subset"] == "align") & (frame["coalition"] == "TA")]["right"]
    theirs = bootstrap((data,), np.mean, method="percentile", rng=np.random.default_rng(1))
    low, high = theirs.confidence_interval
    assert found.loc[("align", "TA"), "low"] == pytest.approx(low, abs=0.02)
    assert found.loc[("align", "TA"), "high"] == pytest.approx(high, abs=0.02)


def test_psmv_frame_holds_psmv_and_shares_with_the_intervals_of_resampled_clips():
    frame = made()
    found = m.psmv_frame(frame, bootstrap=m.Bootstrap(4000)).set_index(
        ["subset", "quantity", "modality"]
    )
    align = frame[frame["subset"] == "align"]
    table = align.pivot(index="sample_id", columns="coalition", values="right")[list(COALITIONS)]
    values = np.array(shapley(table.mean()))
    assert found.loc[("align", "psmv")]["value"].to_numpy() == pytest.approx(values)
    assert found.loc[("align", "share")]["value"].to_numpy() == pytest.approx(values / values.sum())
    rng = np.random.default_rng(5)
    brute = np.array(
        [m.psmv_shares(table.to_numpy()[rng.integers(0, 60, 60)].mean(0)) for _ in range(4000)]
    )
    expected = np.nanquantile(brute, [0.025, 0.975], axis=0)
    assert (
        pytest.approx(expected, abs=0.04)
        == found.loc[("align", "share")][["low", "high"]].to_numpy().T
    )


def test_a_clip_that_lacks_a_coalition_is_left_out_of_all_of_them():
    frame = made()
    failed = (frame["sample_id"] == "align007") & (frame["coalition"] == "TV")
    without = frame[frame["sample_id"] != "align007"]
    for function in (m.coalition_accuracy, m.psmv_frame, accuracy_drops, vcc):
        one, two = function(frame[~failed]), function(without)
        pd.testing.assert_frame_equal(one, two)
    assert set(m.coalition_accuracy(frame[~failed])["n"]) == {59, 120}


def test_drops_are_differences_of_accuracies_with_wider_intervals_than_either():
    frame = made()
    drops = accuracy_drops(frame).set_index("coalition")
    accuracy = m.coalition_accuracy(frame).set_index(["subset", "coalition"])
    for c in COALITIONS:
        align, conflict = accuracy.loc[("align", c)], accuracy.loc[("conflict", c)]
        assert drops.loc[c, "value"] == pytest.approx(align["value"] - conflict["value"])
        width = np.hypot(align["high"] - align["low"], conflict["high"] - conflict["low"])
        assert drops.loc[c, "high"] - drops.loc[c, "low"] == pytest.approx(width, rel=0.15)
    assert set(drops["n"]) == {180}


def test_collapse_is_the_difference_of_the_shares_and_excess_that_of_the_collapses():
    frame, reader = made(seed=1), made(seed=2)
    found = vcc(frame, {"other": reader}).set_index(["source", "quantity"])
    shares = {
        (name, subset): value
        for name, outcomes in (("model", frame), ("other", reader))
        for subset, modality, quantity, value in m.psmv_frame(outcomes)[
            ["subset", "modality", "quantity", "value"]
        ].to_numpy()
        if (modality, quantity) == ("V", "share")
    }
    for name in ("model", "other"):
        align, conflict = shares[name, "align"], shares[name, "conflict"]
        assert found.loc[(name, "share_align"), "value"] == pytest.approx(align)
        assert found.loc[(name, "share_conflict"), "value"] == pytest.approx(conflict)
        assert found.loc[(name, "collapse"), "value"] == pytest.approx(align - conflict)
    model, other = (found.loc[(n, "collapse"), "value"] for n in ("model", "other"))
    assert found.loc[("other", "excess"), "value"] == pytest.approx(model - other)
    assert ("model", "excess") not in found.index
    assert list(found["n"]) == [60, 120, 180, 60, 120, 180, 180]


def test_a_model_has_no_excess_over_itself_since_both_see_the_same_resamples():
    frame = made()
    found = vcc(frame, {"itself": frame}).set_index(["source", "quantity"])
    excess = found.loc[("itself", "excess")]
    assert (excess["value"], excess["low"], excess["high"]) == (0, 0, 0)
    collapse = found.xs("collapse", level="quantity")
    assert collapse.loc["model", "low"] == collapse.loc["itself", "low"] < 0


def test_only_clips_common_to_the_model_and_its_readers_count():
    frame = made()
    few = frame[~frame["sample_id"].isin(["align000", "conflict001"])]
    found = vcc(frame, {"few": few})
    assert set(found["n"]) == {59, 119, 178}
    alone = vcc(few)
    assert found["value"][:3].to_numpy() == pytest.approx(alone["value"].to_numpy())


def test_results_depend_on_the_seed_and_not_on_the_order_of_the_rows():
    frame = made()
    shuffled = frame.sample(frac=1, random_state=9)
    for function in (m.coalition_accuracy, m.psmv_frame, accuracy_drops, vcc):
        pd.testing.assert_frame_equal(function(frame), function(shuffled))
        assert not function(frame)["low"].equals(
            function(frame, bootstrap=m.Bootstrap(seed=1))["low"]
        )


def test_groups_may_be_named_by_several_columns_or_none():
    frame = pd.concat([made(seed=1).assign(run="a"), made(seed=2).assign(run="b")])
    by_run = m.psmv_frame(frame, ("run", "subset"), bootstrap=m.Bootstrap(100))
    one = m.psmv_frame(made(seed=2), bootstrap=m.Bootstrap(100))
    second = by_run[by_run["run"] == "b"].drop(columns="run").reset_index(drop=True)
    pd.testing.assert_frame_equal(second, one)
    assert len(m.psmv_frame(made(), (), bootstrap=m.Bootstrap(100))) == 6
    with pytest.raises(ValueError, match="coalition twice"):
        m.psmv_frame(frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="right"), r"lack the columns \['right'\]"),
        (lambda f: f[f["coalition"] != "none"], "no clip of .*align .*all eight coalitions"),
        (lambda f: f.assign(right=f["right"].where(f["sample_id"] != "align003")), "neither right"),
        (lambda f: f.assign(right=2.0), r"must lie in \[0, 1\]"),
        (lambda f: f.assign(coalition=f["coalition"].replace("none", None)), "keep_default_na"),
        (lambda f: f.assign(coalition="TVA"), "have coalitions"),
        (lambda f: f.iloc[:0], "no rows"),
        (lambda f: pd.concat([f, f]), "coalition twice"),
    ],
)
def test_bad_outcomes_are_refused_with_what_is_wrong(change, message):
    for function in (m.coalition_accuracy, m.psmv_frame, accuracy_drops, vcc):
        with pytest.raises(ValueError, match=message):
            function(change(made(4)))


def test_without_a_clip_of_conflict_there_is_no_drop_and_the_share_on_align_stands():
    frame = made(4)
    align = frame[frame["subset"] == "align"]
    drops = accuracy_drops(align)
    assert drops[["value", "low", "high"]].isna().all(axis=None)
    found, both = (vcc(f, {"r": f}).set_index(["source", "quantity"]) for f in (align, frame))
    one = found.loc[("model", "share_align"), ["value", "n"]]
    assert one.equals(both.loc[("model", "share_align"), ["value", "n"]])
    assert found["value"].isna().sum() == 5 and found.loc[("r", "share_conflict"), "n"] == 0


def test_drops_and_collapse_know_no_other_subset_than_align_and_conflict():
    frame = made(4)
    for function in (accuracy_drops, vcc):
        with pytest.raises(ValueError, match=r"got \['align', 'missing'\]"):
            function(frame.replace({"subset": {"conflict": "missing"}}))
    with pytest.raises(ValueError, match="called 'model'"):
        vcc(frame, {"model": frame})
    with pytest.raises(ValueError, match="reader 'bad'"):
        vcc(frame, {"bad": frame[frame["coalition"] != "T"]})
    with pytest.raises(ValueError, match="modality must be"):
        vcc(frame, modality="X")
    with pytest.raises(ValueError, match="no align clip is common"):
        vcc(frame, {"elsewhere": frame.assign(sample_id="z" + frame["sample_id"])})
