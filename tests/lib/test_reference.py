from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

import emomm_lib as m
from emomm_lib.labels import COALITIONS, coalition_modalities
from emomm_study.evaluate.collapse import vcc
from emomm_study.evaluate.results import pooled_outcomes

LABELS = ["label_gt", "label_t", "label_a", "label_v"]
pytestmark = pytest.mark.filterwarnings("error")


def clips(labels):
    frame = pd.DataFrame(labels, columns=LABELS).assign(corpus="x", subset="conflict")
    frame.insert(0, "sample_id", [f"c{i}" for i in range(len(frame))])
    return frame


def answers(reader, evidence):
    """Every answer with its probability, by enumeration."""
    if not evidence:
        return {c: Fraction(1, 5) for c in range(5)}
    if reader == "random":
        return {c: Fraction(evidence.count(c), len(evidence)) for c in range(5)}
    mean = Fraction(sum(evidence), len(evidence))
    nearest = [c for c in range(5) if abs(c - mean) == min(abs(k - mean) for k in range(5))]
    return {c: Fraction(1, len(nearest)) for c in nearest}


def sign(label):
    return (label > 2) - (label < 2)


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 4), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_readers_are_right_as_often_as_enumerating_their_answers_says(labels):
    for reader in m.READERS:
        found = m.reader_outcomes(clips(labels), reader)
        assert len(found) == 8 * len(labels)
        for row, (clip, coalition) in zip(
            found.itertuples(), [(x, c) for x in labels for c in COALITIONS], strict=True
        ):
            gt, seen = clip[0], dict(zip("TAV", clip[1:], strict=True))
            odds = answers(reader, [seen[k] for k in coalition_modalities(coalition)])
            assert row.coalition == coalition
            assert row.right == pytest.approx(float(odds.get(gt, 0)), abs=1e-15)
            polar = sum(p for c, p in odds.items() if sign(c) == sign(gt))
            assert row.right_polarity == pytest.approx(float(polar), abs=1e-15)


def test_the_random_reader_agrees_with_a_simulation():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (3, 4))
    found = m.reader_outcomes(clips(labels), "random")
    whole = found[found["coalition"] == "TAV"]["right"].to_numpy()
    drawn = labels[:, 1:][np.arange(3)[:, None], rng.integers(0, 3, (3, 20000))]
    assert whole == pytest.approx((drawn == labels[:, :1]).mean(axis=1), abs=0.02)


def test_worked_examples_of_both_readers():
    frame = clips([(4, 4, 4, 1), (0, 0, 1, 2), (2, 1, 4, 0)])
    for reader, expected in (("random", [2 / 3, 1 / 3, 0]), ("average", [0, 0, 1])):
        found = m.reader_outcomes(frame, reader)
        assert found[found["coalition"] == "TAV"]["right"].tolist() == pytest.approx(expected)
    average = m.reader_outcomes(frame, "average").set_index(["sample_id", "coalition"])
    assert average.loc[("c0", "TAV"), "right_polarity"] == 1  # mean 3 is WP, positive like P
    assert average.loc[("c1", "TA"), "right"] == 0.5  # tie of 0 and 1
    assert average.loc[("c2", "TA"), "right"] == 0.5  # tie of 2 and 3
    assert average.loc[("c2", "TV"), "right"] == 0  # tie of 0 and 1


def test_without_a_modality_both_guess_uniformly():
    frame = clips([(0, 0, 0, 0), (2, 2, 2, 2)])
    for reader in m.READERS:
        found = m.reader_outcomes(frame, reader)
        none = found[found["coalition"] == "none"]
        assert none["right"].tolist() == [0.2, 0.2]
        assert none["right_polarity"].tolist() == pytest.approx([0.4, 0.2])
        assert (found[found["coalition"] != "none"][["right", "right_polarity"]] == 1).all(
            axis=None
        )


def test_other_evidence_is_read_instead_of_the_labels_which_stay_in_the_outcomes():
    frame = clips([(4, 4, 4, 4), (4, 4, 4, 4)]).assign(said_t=[0, 4], said_a=4, said_v=[4, np.nan])
    found = m.reader_outcomes(frame, "random", "said")
    assert set(found["sample_id"]) == {"c0"}
    assert found.set_index("coalition").loc[["T", "TA", "TAV"], "right"].tolist() == pytest.approx(
        [0, 0.5, 2 / 3]
    )
    assert (found["label_t"] == 4).all()


def test_outcomes_of_readers_feed_psmv_and_a_reader_of_conflicts_collapses():
    rng = np.random.default_rng(0)
    aligned = np.repeat(rng.integers(0, 5, (60, 1)), 4, axis=1)
    conflict = np.repeat(rng.integers(0, 5, (60, 1)), 4, axis=1)
    conflict[:, 3] = (conflict[:, 0] + 2) % 5
    frame = clips(np.vstack([aligned, conflict])).assign(subset=["align"] * 60 + ["conflict"] * 60)
    found = vcc(m.reader_outcomes(frame, "random"), bootstrap=m.Bootstrap(200)).set_index(
        "quantity"
    )
    assert found.loc["share_align", "value"] == pytest.approx(1 / 3)
    assert found.loc["collapse", "low"] > 0.3


def test_row_labels_of_the_clips_play_no_part():
    frame = clips([(4, 4, 4, 1), (0, 0, 1, 2), (2, 1, 4, 0)])
    odd = frame.set_axis([7, 7, 0])
    pd.testing.assert_frame_equal(
        m.reader_outcomes(odd, "average"), m.reader_outcomes(frame, "average")
    )


@pytest.mark.parametrize(
    ("change", "reader", "evidence", "message"),
    [
        (lambda f: f, "best", "label", "unknown reader 'best'"),
        (lambda f: f, "random", "said", "evidence 'said'"),
        (lambda f: f.drop(columns="corpus"), "random", "label", "corpus"),
        (lambda f: pd.concat([f, f]), "random", "label", "'c0' twice"),
        (lambda f: f.assign(label_v=7), "random", "label", "label_v of the clips"),
        (lambda f: f.assign(label_gt=np.nan), "random", "label", "label_gt of the clips"),
        (lambda f: f.assign(label_a=np.nan), "random", "label", "no clip has a value"),
    ],
)
def test_bad_clips_are_refused_with_what_is_wrong(change, reader, evidence, message):
    with pytest.raises(ValueError, match=message):
        m.reader_outcomes(change(clips([(0, 1, 2, 3)])), reader, evidence)


def test_a_pooling_reader_answers_the_class_of_the_highest_mean_probability():
    rng = np.random.default_rng(5)
    rows = [
        {"sample_id": f"c{i}", "corpus": "x", "subset": "align", "coalition": c,
         "label_pred": i % 5,
         **{f"label_{s}": int(rng.integers(0, 5)) for s in ("gt", "t", "a", "v")},
         **{f"logit_{k}": float(rng.normal()) for k in "abcde"}}
        for i in range(12) for c in ("none", "T", "A", "V", "TAV")
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    first = frame.groupby("sample_id")[["label_gt", "label_t", "label_a", "label_v"]]
    frame[["label_gt", "label_t", "label_a", "label_v"]] = first.transform("first")
    found = pooled_outcomes(frame).set_index(["sample_id", "coalition"])
    assert len(found) == 12 * 8
    rows = frame.set_index(["sample_id", "coalition"])
    for (sample, coalition), row in found.iterrows():
        if coalition == "none":
            answer = rows.loc[(sample, "none"), "label_pred"]
        else:
            totals = np.zeros(5)
            for modality in coalition:
                weights = [np.exp(rows.loc[(sample, modality), f"logit_{k}"]) for k in "abcde"]
                totals += np.array(weights) / sum(weights)
            answer = int(totals.argmax())
        assert row["right"] == (answer == row["label_gt"])
        assert row["right_polarity"] == (np.sign(answer - 2) == np.sign(row["label_gt"] - 2))
    with pytest.raises(ValueError, match="under T, A, V and none"):
        pooled_outcomes(frame[frame["coalition"] != "A"])
