"""Equivalence by bootstrap: against two one-sided t-tests, and as often as it may be wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from paired_answers import answers
from scipy.stats import binom, ttest_1samp

from emomm_lib import Bootstrap, equivalence_frame, interval_of, paired_frame
from emomm_lib.metrics.bootstrap import counted, ratio


def mean_of(values):
    """What measures the mean of one sample."""

    def measure(drawn):
        found = interval_of(counted(values[:, None]), ratio, bootstrap=drawn)
        return pd.DataFrame([vars(found)])[["value", "low", "high", "n"]]

    return measure


def fixed(wide, narrow):
    """What gives one interval at 95% and another at 90%."""

    def measure(drawn):
        low, high = wide if drawn.level == 0.95 else narrow
        return pd.DataFrame({"value": [0.0], "low": [low], "high": [high]})

    return measure


@pytest.mark.parametrize(
    ("wide", "narrow", "equivalent", "verdict"),
    [
        ((-0.012, 0.012), (-0.010, 0.010), True, "equivalent"),
        # At 95% beyond the margin, at 90% within: the two one-sided tests ask for 90%.
        ((-0.016, 0.016), (-0.014, 0.014), True, "equivalent"),
        ((-0.020, 0.020), (-0.016, 0.010), False, "undecided"),
        ((0.020, 0.040), (0.022, 0.038), False, "different"),
        ((-0.040, -0.010), (-0.038, -0.012), False, "different"),
        ((0.002, 0.012), (0.003, 0.011), True, "negligible"),
        ((0.0, 0.015), (0.0, 0.015), False, "undecided"),
        ((np.nan, np.nan), (np.nan, np.nan), False, "undecided"),
    ],
)
def test_the_verdict_is_that_of_both_intervals(wide, narrow, equivalent, verdict):
    [found] = equivalence_frame(fixed(wide, narrow)).to_dict("records")
    assert (found["equivalent"], found["verdict"]) == (equivalent, verdict)
    assert (found["low"], found["high"]) == pytest.approx(wide, nan_ok=True)


def test_on_large_normal_samples_it_decides_as_two_one_sided_t_tests():
    rng, margin, compared = np.random.default_rng(0), 0.05, 0
    words = {"equivalent": 0, "different": 0, "negligible": 0, "undecided": 0}
    for mean in np.linspace(-0.12, 0.12, 41):
        values = rng.normal(mean, rng.choice([0.12, 0.35]), 300)
        sides = ((-margin, "greater"), (margin, "less"))
        p = max(ttest_1samp(values, at, alternative=side).pvalue for at, side in sides)
        any_ = ttest_1samp(values, 0).pvalue
        if min(abs(p - 0.05), abs(any_ - 0.05)) < 0.02:
            # Near a threshold a bootstrap of finitely many draws may fall on either side.
            continue
        found = equivalence_frame(mean_of(values), margin, bootstrap=Bootstrap(1500)).iloc[0]
        assert found["equivalent"] == (p < 0.05)
        assert (found["verdict"] in ("different", "negligible")) == (any_ < 0.05)
        words[found["verdict"]] += 1
        compared += 1
    assert compared > 25 and min(words.values()) > 0


def test_a_difference_as_large_as_the_margin_is_called_equivalent_in_one_of_twenty():
    rng, rounds = np.random.default_rng(1), 300
    called = 0
    for i in range(rounds):
        values = rng.normal(0.5, 1.0, 100)
        called += equivalence_frame(mean_of(values), 0.5, bootstrap=Bootstrap(200, i)).iloc[0][
            "equivalent"
        ]
    # A percentile bootstrap of 100 is a little narrow, hence 6 and not 5 in a hundred.
    assert binom.cdf(called, rounds, 0.06) < 0.995 and binom.sf(called - 1, rounds, 0.04) < 0.995


def test_no_difference_is_called_equivalent_when_there_are_clips_enough():
    rng = np.random.default_rng(2)
    few, many = (rng.normal(0, 1, n) for n in (30, 3_000))
    verdicts = [
        equivalence_frame(mean_of(x), 0.1, bootstrap=Bootstrap(500)).iloc[0]["verdict"]
        for x in (few, many)
    ]
    assert verdicts == ["undecided", "equivalent"]


@given(st.integers(0, 10**6), st.floats(0.01, 1), st.floats(1, 4))
@settings(max_examples=40, deadline=None)
def test_what_is_equivalent_within_a_margin_is_so_within_a_wider_one(seed, margin, times):
    values = np.random.default_rng(seed).normal(0.1, 0.5, 60)
    near, far = (
        equivalence_frame(mean_of(values), m, bootstrap=Bootstrap(100)).iloc[0]["equivalent"]
        for m in (margin, margin * times)
    )
    assert far or not near


@given(*[st.floats(-0.03, 0.03)] * 4)
@settings(max_examples=60, deadline=None)
def test_which_of_two_comes_first_changes_no_verdict(a, b, c, d):
    wide, narrow = sorted((a, b)), sorted((c, d))
    turned = [-x for x in wide[::-1]], [-x for x in narrow[::-1]]
    one, other = (
        equivalence_frame(fixed(*pair)).iloc[0]["verdict"] for pair in ((wide, narrow), turned)
    )
    assert one == other


def test_a_paired_frame_keeps_its_columns_and_gets_a_verdict_a_row():
    old, new = answers(0), answers(1)
    measure = lambda b: paired_frame(old, new, metrics=("acc5", "f1"), bootstrap=b)  # noqa: E731
    found = equivalence_frame(measure, bootstrap=Bootstrap(200))
    pd.testing.assert_frame_equal(found.iloc[:, :-2], measure(Bootstrap(200)))
    assert list(found.columns[-2:]) == ["equivalent", "verdict"] and len(found) == 4
    same = equivalence_frame(lambda b: paired_frame(old, old, bootstrap=b))
    assert (same["verdict"] == "equivalent").all()


@pytest.mark.parametrize("wrong", [{"margin": 0}, {"margin": np.nan}, {"alpha": 0.5}, {"alpha": 0}])
def test_no_margin_and_no_level_are_refused(wrong):
    with pytest.raises(ValueError, match="margin is positive and alpha in"):
        equivalence_frame(mean_of(np.ones(3)), **wrong)
