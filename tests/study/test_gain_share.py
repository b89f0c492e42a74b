"""Shares of a reference's gain: ratios by hand, and gains of nothing."""

from __future__ import annotations

import numpy as np
import pytest
from paired_answers import answers
from sklearn.metrics import accuracy_score

from emomm_lib import Bootstrap
from emomm_lib.metrics.paired import exact_mcnemar
from emomm_study.evaluate.paired import gain_share

FEW = {"bootstrap": Bootstrap(200, 3)}


def test_a_share_of_a_gain_is_the_ratio_of_both_gains_in_accuracy(baseline, steered):
    reference = answers(2, accuracy=0.9)
    # In other orders: rows belong together by clip and coalition alone.
    orders = (steered.sample(frac=1, random_state=1), reference.sample(frac=1, random_state=2))
    found = gain_share(baseline, *orders, **FEW).set_index("subset")
    for group in ("align", "conflict"):
        old, new, best = (
            accuracy_score(x["label_gt"], x["label_pred"])
            for x in (f[f["subset"] == group] for f in (baseline, steered, reference))
        )
        row = found.loc[group]
        assert row["value"] == pytest.approx((new - old) / (best - old))
        assert row["low"] < row["value"] < row["high"] and row["n"] == 45


def test_the_reference_reaches_all_of_its_gain_and_the_baseline_none(baseline, steered):
    for method, share in ((steered, 1.0), (baseline, 0.0)):
        found = gain_share(baseline, method, steered, **FEW)
        assert found[["value", "low", "high"]].eq(share).all(axis=None)


def test_no_share_is_given_of_a_gain_that_is_none(baseline, steered):
    with pytest.warns(RuntimeWarning, match="gain on .* is undefined, NaN: the reference gains"):
        found = gain_share(baseline, steered, baseline, **FEW)
    assert found[["value", "low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize("lost", [4, 6])
def test_a_reference_that_gains_nothing_in_all_gives_no_interval_though_resamples_gain(
    baseline, lost
):
    def right_in(rows):
        truth = baseline["label_gt"]
        return baseline.assign(label_pred=truth.where(rows, (truth + 1) % 5))

    # As many instances of each subset gained as lost, or fewer: many resamples gain all the same.
    place = baseline.groupby("subset").cumcount()
    before = right_in(place < 20)
    reference = right_in((place >= lost) & (place < 24))
    with pytest.warns(RuntimeWarning, match="gains nothing there"):
        found = gain_share(before, baseline, reference, **FEW)
    assert found[["value", "low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize("bad", [7, np.nan, 2.5, "4"])
def test_a_share_of_a_gain_refuses_what_is_no_label(baseline, steered, bad):
    spoilt = steered.assign(label_pred=steered["label_pred"].astype(object))
    spoilt.loc[3, "label_pred"] = bad
    with pytest.raises(ValueError, match=f"label_pred_new are whole numbers 0 to 4; got .?{bad}"):
        gain_share(baseline, spoilt, steered, **FEW)
    with pytest.raises(ValueError, match="1 instances are neither right nor wrong"):
        exact_mcnemar([True, None], [True, False])


@pytest.fixture(scope="module")
def baseline():
    return answers(0, accuracy=0.4)


@pytest.fixture(scope="module")
def steered():
    return answers(1, accuracy=0.6)
