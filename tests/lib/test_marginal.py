"""Marginal gain of video: against scikit-learn, clips redrawn one by one, and cases by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import accuracy_score, f1_score
from video_answers import answers, drawn

from emomm_lib import Bootstrap
from emomm_lib.metrics.paired import marginal_gain

SCORES = {
    "acc5": accuracy_score,
    "acc2": lambda t, p: np.mean([(a >= 2) == (b >= 2) for a, b in zip(t, p, strict=True)]),
    "f1": lambda t, p: f1_score(t, p, average="macro", zero_division=0),
}
LABEL = st.integers(0, 4)


def test_one_more_right_answer_of_four_is_a_gain_of_a_quarter():
    truth = [0, 1, 3, 4]
    gain = marginal_gain(
        answers(truth, [0, 1, 3, 0]), answers(truth, [0, 1, 2, 2]), bootstrap=Bootstrap(20)
    )
    # Five classes: three right against two. Two classes: the last went from right to wrong.
    by_metric = gain.set_index("metric")["value"]
    assert by_metric["acc5"] == pytest.approx(0.25) and by_metric["acc2"] == pytest.approx(-0.25)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(LABEL, LABEL, LABEL), min_size=1, max_size=40))
def test_gains_are_differences_of_scikit_learns_scores(rows):
    truth, one, other = (list(column) for column in zip(*rows, strict=True))
    gain = marginal_gain(answers(truth, one), answers(truth, other), bootstrap=Bootstrap(5))
    expected = {m: score(truth, one) - score(truth, other) for m, score in SCORES.items()}
    assert gain.set_index("metric")["value"].to_dict() == pytest.approx(expected)
    assert (gain["n"] == len(rows)).all()


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)))
def test_the_order_of_rows_changes_nothing(order):
    one, other = drawn(1, 0.7, 12), drawn(2, 0.4, 12)
    pd.testing.assert_frame_equal(
        marginal_gain(one.iloc[order], other, bootstrap=Bootstrap(50)),
        marginal_gain(one, other, bootstrap=Bootstrap(50)),
    )


def test_the_interval_is_that_of_clips_redrawn_in_pairs():
    one, other = drawn(1, 0.6), drawn(2, 0.5)
    rng = np.random.default_rng(0)
    draws = {m: [] for m in SCORES}
    for _ in range(250):
        at = rng.integers(len(one), size=len(one))
        truth = one["label_gt"].to_numpy()[at]
        for metric, score in SCORES.items():
            pair = [score(truth, f["label_pred"].to_numpy()[at]) for f in (one, other)]
            draws[metric].append(pair[0] - pair[1])
    gain = marginal_gain(one, other, bootstrap=Bootstrap(2000)).set_index("metric")
    for metric, values in draws.items():
        ends = np.quantile(values, [0.025, 0.975])
        assert gain.loc[metric, ["low", "high"]].tolist() == pytest.approx(ends, abs=0.05)


def test_equal_answers_gain_nothing_for_certain():
    same = drawn(1, 0.5)
    assert (marginal_gain(same, same)[["value", "low", "high"]] == 0).all(axis=None)


def test_whole_speakers_are_redrawn_when_asked():
    # All clips of a speaker share a fate, so that only speakers vary.
    truth = np.zeros(40, int)
    after = answers(truth, np.repeat([0, 0, 1, 1], 10), speaker_id=np.repeat([*"abcd"], 10))
    before = answers(truth, np.ones(40, int))
    width = {}
    for cluster in ("sample_id", "speaker_id"):
        row = marginal_gain(after, before, ["acc5"], cluster=cluster).iloc[0]
        width[cluster] = row["high"] - row["low"]
    assert width["speaker_id"] > 2 * width["sample_id"]


def test_other_clips_other_truth_and_doubles_are_refused():
    one, other = drawn(1, 0.5), drawn(2, 0.5)
    with pytest.raises(ValueError, match="not about the same clips: 1 .*c059"):
        marginal_gain(one, other.iloc[:-1])
    with pytest.raises(ValueError, match="label_gt of .*c000"):
        marginal_gain(one, other.assign(label_gt=(other["label_gt"] + 1) % 5))
    with pytest.raises(ValueError, match="with_video has clip c000 twice"):
        marginal_gain(pd.concat([one, one.iloc[:1]]), other)
    with pytest.raises(ValueError, match="without_video lacks the columns .*label_pred"):
        marginal_gain(one, other.drop(columns="label_pred"))
    with pytest.raises(ValueError, match="unknown metrics"):
        marginal_gain(one, other, ["accuracy"])
