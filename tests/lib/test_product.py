"""The product of single-modality posteriors: against fractions, and where it is Bayes' own answer."""

from fractions import Fraction
from math import prod

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

import emomm_lib as m
from emomm_lib.labels import COALITIONS, coalition_modalities

pytestmark = pytest.mark.filterwarnings("error")
LABELS = ["label_gt", "label_t", "label_a", "label_v"]
LOGITS = [f"logit_{k}" for k in "abcde"]
WEIGHTS = st.lists(st.integers(1, 4), min_size=5, max_size=5)


def clips(truth, labels=None):
    own = np.column_stack([truth, labels if labels is not None else np.tile(truth, (3, 1)).T])
    frame = pd.DataFrame(own, columns=LABELS).assign(corpus="x", subset="conflict")
    frame.insert(0, "sample_id", [f"c{i:04d}" for i in range(len(frame))])
    return frame


def single(log_weights):
    """Predictions under T, A, V from ``(N, 3, 5)``, which a softmax takes as they are."""
    rows = [
        (f"c{i:04d}", modality, *row)
        for i, own in enumerate(log_weights)
        for modality, row in zip("TAV", own, strict=True)
    ]
    return pd.DataFrame(rows, columns=["sample_id", "coalition", *LOGITS])


def sign(label):
    return (label > 2) - (label < 2)


@given(WEIGHTS, st.lists(st.tuples(st.integers(0, 4), WEIGHTS, WEIGHTS, WEIGHTS), min_size=1,
                         max_size=4), st.integers(-50, 50))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_answers_are_those_of_naive_bayes_in_fractions_ties_split_evenly(prior, asked, shift):
    p = [Fraction(w, sum(prior)) for w in prior]
    logits = np.log(np.array([own for _, *own in asked], float)) + shift
    found = m.product_outcomes(clips([gt for gt, *_ in asked]), single(logits), [*map(float, p)])
    assert len(found) == 8 * len(asked)
    expected = [(own, c) for own in asked for c in COALITIONS]
    for row, ((gt, *weights), coalition) in zip(found.itertuples(), expected, strict=True):
        seen = [weights["TAV".index(k)] for k in coalition_modalities(coalition)]
        joint = [
            prod((Fraction(w[c], sum(w)) for w in seen), start=Fraction(1))
            / p[c] ** (len(seen) - 1)
            for c in range(5)
        ]
        best = [c for c in range(5) if joint[c] == max(joint)]
        assert row.coalition == coalition
        assert row.right == pytest.approx((gt in best) / len(best))
        polar = sum(sign(c) == sign(gt) for c in best) / len(best)
        assert row.right_polarity == pytest.approx(polar)


def world(n, seed):
    """Classes drawn from a prior, cues independent given the class, and their posteriors."""
    rng = np.random.default_rng(seed)
    prior = np.array([0.1, 0.3, 0.15, 0.2, 0.25])
    truth = rng.choice(5, n, p=prior)
    cues, posteriors = [], []
    for symbols in (6, 4, 9):
        likelihood = rng.dirichlet(np.full(symbols, 0.7), 5)
        cue = np.array([rng.choice(symbols, p=likelihood[c]) for c in truth])
        joint = prior[:, None] * likelihood
        posteriors.append((joint / joint.sum(0)).T[cue])
        cues.append((likelihood, cue))
    whole = prior * np.prod([lk[:, cue].T for lk, cue in cues], axis=0)
    return prior, truth, np.stack(posteriors, 1), whole / whole.sum(1, keepdims=True)


def test_where_cues_are_independent_nothing_is_right_more_often():
    n = 8000
    prior, truth, posterior, whole = world(n, 3)
    labels = posterior.argmax(-1)
    frame = clips(truth, labels)
    with np.errstate(divide="ignore"):
        logits = np.log(posterior)
    found = m.product_outcomes(frame, single(logits), prior)
    own = found[found["coalition"] == "TAV"]["right"].to_numpy()
    # It is right as often as the posterior of all cues together says.
    error = np.sqrt((whole.max(1) * (1 - whole.max(1))).mean() / n)
    assert own.mean() == pytest.approx(whole.max(1).mean(), abs=4 * error)
    others = {name: m.reader_outcomes(frame, name) for name in m.READERS}
    rivals = {
        name: f[f["coalition"] == "TAV"]["right"].to_numpy() for name, f in others.items()
    } | {
        "mean": (posterior.mean(1).argmax(1) == truth).astype(float),
        "surest": (
            posterior.reshape(n, -1).argmax(1) % 5 == truth
        ).astype(float),
        "best": max((labels[:, k] == truth for k in range(3)), key=np.mean).astype(float),
    }  # fmt: skip
    for name, right in rivals.items():
        gap = own - right
        assert gap.mean() > -2 * gap.std() / np.sqrt(n), name
    assert own.mean() - rivals["mean"].mean() > 0.01


def test_a_wrong_prior_costs_accuracy():
    prior, truth, posterior, _ = world(8000, 3)
    with np.errstate(divide="ignore"):
        told = single(np.log(posterior))
    right = [
        m.product_outcomes(clips(truth), told, p).query("coalition == 'TAV'")["right"].mean()
        for p in (prior, None, prior[::-1] ** 2 / (prior**2).sum())
    ]
    assert right[0] > right[1] > right[2]


def test_two_weak_cues_outvote_a_third_that_is_surer_than_either():
    weak, sure = np.log([1, 1, 1, 1, 3]), np.log([5, 1, 1, 1, 1])
    frame = clips([4])
    found = m.product_outcomes(frame, single([[weak, weak, sure]])).set_index("coalition")
    assert found.loc[["TAV", "TV", "TA", "V"], "right"].tolist() == [1, 0, 1, 0]


def test_without_a_modality_it_answers_the_prior():
    frame, told = clips([0, 4]), single(np.zeros((2, 3, 5)))
    none = m.product_outcomes(frame, told).query("coalition == 'none'")
    assert none["right"].tolist() == pytest.approx([0.2, 0.2])
    skewed = m.product_outcomes(frame, told, [0.4, 0.1, 0.05, 0.05, 0.4])
    assert skewed[skewed["coalition"] == "none"]["right"].tolist() == [0.5, 0.5]


def test_a_class_that_one_modality_excludes_is_never_answered():
    excluded = np.array([-np.inf, 0, 0, 0, 0])
    found = m.product_outcomes(clips([0]), single([[excluded, [9, 0, 0, 0, 0], [9, 0, 0, 0, 0]]]))
    assert found.set_index("coalition").loc[["TA", "AV", "TAV"], "right"].tolist() == [0, 1, 0]


def test_a_clip_without_letter_logits_under_some_modality_is_left_out():
    told = single(np.zeros((2, 3, 5)))
    told.loc[1, "logit_c"] = None
    found = m.product_outcomes(clips([0, 1]).set_axis([5, 5]), told.sample(frac=1))
    assert set(found["sample_id"]) == {"c0001"} and len(found) == 8
    columns = m.reader_outcomes(clips([0]), "random").columns
    assert found.columns.equals(columns)


@pytest.mark.parametrize("prior", [[0.2] * 4, [0.3] * 5, [0, 0.25, 0.25, 0.25, 0.25]])
def test_what_is_no_prior_is_refused(prior):
    with pytest.raises(ValueError, match="5 positive parts of sum 1"):
        m.product_outcomes(clips([0]), single(np.zeros((1, 3, 5))), prior)


def test_clips_twice_answers_twice_and_no_answer_are_refused():
    frame, told = clips([0, 1]), single(np.zeros((2, 3, 5)))
    with pytest.raises(ValueError, match="'c0000' twice"):
        m.product_outcomes(pd.concat([frame, frame]), told)
    with pytest.raises(ValueError, match="duplicate"):
        m.product_outcomes(frame, pd.concat([told, told]))
    with pytest.raises(ValueError, match="under T, A and V alone with letter logits"):
        m.product_outcomes(frame, told[told["coalition"] != "A"])
    with pytest.raises(ValueError, match="label_gt of the clips"):
        m.product_outcomes(frame.assign(label_gt=9), told)
