"""Differences of two ways of answering: against exact sums, scikit-learn, and clips redrawn."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from paired_answers import answers
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

from emomm_lib import Bootstrap
from emomm_lib.metrics.paired import exact_mcnemar, paired_frame
from emomm_study.evaluate.paired import gain_share

FEW = {"bootstrap": Bootstrap(200, 3)}


@pytest.fixture(scope="module")
def baseline():
    return answers(0, accuracy=0.4)


@pytest.fixture(scope="module")
def steered():
    return answers(1, accuracy=0.6)


def test_mcnemar_of_a_table_counted_by_hand():
    before = [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    after = [1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 0]
    # 6 of 7 that changed became right: 2 (C(7, 0) + C(7, 1)) / 2^7.
    assert exact_mcnemar(before, after) == (6, 1, pytest.approx(16 / 128))
    assert exact_mcnemar(before, before) == (0, 0, 1.0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
@settings(max_examples=40, deadline=None)
def test_mcnemar_is_the_exact_binomial_sum_and_scipys(pairs):
    before, after = (np.array([p[i] for p in pairs], bool) for i in (0, 1))
    became_right = sum(b and not a for a, b in pairs)
    became_wrong = sum(a and not b for a, b in pairs)
    n, least = became_right + became_wrong, min(became_right, became_wrong)
    # Half the changed either way: nothing is as extreme as the middle itself.
    tails = 2 * sum(math.comb(n, i) for i in range(least + 1))
    exact = min(Fraction(1), Fraction(tails, 2**n))
    gained, lost, p = exact_mcnemar(before, after)
    assert (gained, lost) == (became_right, became_wrong)
    assert p == pytest.approx(float(exact), rel=1e-12)
    if n:
        assert p == pytest.approx(binomtest(became_wrong, n).pvalue, rel=1e-12)


@pytest.mark.parametrize("other", [[True], [[True, False]], []])
def test_mcnemar_refuses_vectors_of_other_lengths(other):
    with pytest.raises(ValueError, match="two vectors of one length"):
        exact_mcnemar([True, False], other)


def test_differences_are_those_of_scikit_learn_in_each_group(baseline, steered):
    # Rows in another order are the same instances.
    shuffled = steered.sample(frac=1, random_state=0)
    found = paired_frame(baseline, shuffled, **FEW).set_index(["subset", "metric"])
    assert len(found) == 6
    for group in ("align", "conflict"):
        old, new = (x[x["subset"] == group] for x in (baseline, steered))
        truth, score = old["label_gt"], old["score_gt"]
        expected = {
            "acc5": accuracy_score(truth, new["label_pred"])
            - accuracy_score(truth, old["label_pred"]),
            "f1": f1_score(truth, new["label_pred"], average="macro")
            - f1_score(truth, old["label_pred"], average="macro"),
            "mae": mean_absolute_error(score, new["score_pred"])
            - mean_absolute_error(score, old["score_pred"]),
        }
        for name, value in expected.items():
            row = found.loc[(group, name)]
            assert row["value"] == pytest.approx(value, abs=1e-12)
            assert row["low"] < row["value"] < row["high"]
            assert row["n"] == 45


def test_only_accuracy_has_counts_of_what_changed_and_they_are_those_of_the_rows(baseline, steered):
    found = paired_frame(baseline, steered, **FEW).set_index(["subset", "metric"])
    for group in ("align", "conflict"):
        gained = lost = 0
        for old, new in zip(baseline.itertuples(), steered.itertuples(), strict=True):
            if old.subset == group:
                was, is_ = old.label_pred == old.label_gt, new.label_pred == new.label_gt
                gained, lost = gained + (is_ and not was), lost + (was and not is_)
        row = found.loc[(group, "acc5")]
        assert (row["gained"], row["lost"]) == (gained, lost)
        assert row["p"] == pytest.approx(binomtest(gained, gained + lost).pvalue)
        assert row["value"] == pytest.approx((gained - lost) / 45)
    others = found.drop("acc5", level="metric")[["gained", "lost", "p"]]
    assert others.isna().all(axis=None)


def test_asking_every_clip_in_more_coalitions_alike_narrows_no_interval(baseline, steered):
    # Whole clips are redrawn, so copies of a clip's instances say nothing new.
    def copied(frame):
        again = [frame.assign(coalition=frame["coalition"] + x) for x in ("", "'", "''")]
        return pd.concat(again, ignore_index=True)

    once = paired_frame(baseline, steered, **FEW)
    thrice = paired_frame(copied(baseline), copied(steered), **FEW)
    exact = ["value", "low", "high"]
    pd.testing.assert_frame_equal(once[exact], thrice[exact])
    assert thrice["n"].tolist() == (3 * once["n"]).tolist()
    # Instances redrawn one by one would give a narrower interval.
    alone = [x.assign(sample_id=x["sample_id"] + x["coalition"]) for x in map(copied,
             (baseline, steered))]  # fmt: skip
    narrow = paired_frame(*alone, **FEW)
    assert (narrow["high"] - narrow["low"] < 0.8 * (once["high"] - once["low"])).all()


def test_an_interval_holds_the_middle_of_the_exact_distribution_over_redrawn_clips(
    baseline, steered
):
    found = paired_frame(baseline, steered, metrics=("acc5",), bootstrap=Bootstrap(20_000))
    for row in found.itertuples():
        change: dict[str, int] = {}
        for old, new in zip(baseline.itertuples(), steered.itertuples(), strict=True):
            if old.subset == row.subset:
                step = (new.label_pred == new.label_gt) - (old.label_pred == old.label_gt)
                change[old.sample_id] = change.get(old.sample_id, 0) + int(step)
        # Of the sum over as many clips as there are, drawn with replacement.
        total = {0: Fraction(1)}
        for _ in change:
            further: dict[int, Fraction] = {}
            for so_far, p in total.items():
                for step in change.values():
                    further[so_far + step] = further.get(so_far + step, 0) + p / len(change)
            total = further
        for bound, tail in ((row.low, 0.025), (row.high, 0.975)):
            place = round(bound * 45)
            assert bound == pytest.approx(place / 45)
            below = float(sum(p for value, p in total.items() if value < place))
            upto = float(sum(p for value, p in total.items() if value <= place))
            assert below - 0.005 < tail < upto + 0.005


def test_instances_without_a_score_in_either_frame_count_for_classes_only(baseline, steered):
    old, new = baseline.copy(), steered.copy()
    old.loc[[0, 1], "score_pred"] = np.nan
    new.loc[[1, 6], "score_pred"] = np.nan
    found = paired_frame(old, new, **FEW).set_index(["subset", "metric"])
    known = baseline.index.difference([0, 1, 6])
    known = known[baseline.loc[known, "subset"] == "align"]
    expected = mean_absolute_error(baseline["score_gt"][known], steered["score_pred"][known])
    expected -= mean_absolute_error(baseline["score_gt"][known], baseline["score_pred"][known])
    assert found.loc[("align", "mae"), "value"] == pytest.approx(expected)
    assert found.loc["align", "n"].to_dict() == {"acc5": 45, "f1": 45, "mae": 42}
    unscored = paired_frame(old.assign(score_pred=np.nan), new, **FEW)
    assert set(unscored["metric"]) == {"acc5", "f1"}


@pytest.mark.parametrize("which", ["fewer", "more", "other"])
def test_frames_on_other_instances_are_refused_with_their_counts(baseline, steered, which):
    other, counts = {
        "fewer": (steered.iloc[1:], "90 and 89, 89 in common"),
        "more": (pd.concat([steered, answers(2, 31).iloc[-1:]]), "90 and 91, 90 in common"),
        "other": (steered.assign(coalition=["TV", *steered["coalition"][1:]]),
                  "90 and 90, 89 in common"),
    }[which]  # fmt: skip
    with pytest.raises(ValueError, match=counts):
        paired_frame(baseline, other, **FEW)
    with pytest.raises(ValueError, match=counts):
        gain_share(baseline, steered, other, **FEW)
