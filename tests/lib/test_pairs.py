"""Pair preference: against loops over rows, scipy's bootstrap, and readers whose taste is known."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import bootstrap

import emomm_lib as m
from emomm_lib.labels import COALITIONS

pytestmark = pytest.mark.filterwarnings("error")
COLUMNS = ["sample_id", "subset", "coalition", "label_pred", "answer_t", "answer_a", "answer_v"]
FEW = {"bootstrap": m.Bootstrap(20)}
PAIR = ["coalition", "first", "second"]


def made(n=80, seed=0, classes=5):
    """Clips whose answers are drawn from few classes, so that they often equal some evidence."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        own = rng.integers(0, classes, 3)
        rows += [
            (f"c{i:03d}", ("align", "conflict")[i % 2], c, rng.integers(0, classes), *own)
            for c in COALITIONS
        ]
    return pd.DataFrame(rows, columns=COLUMNS).sample(frac=1, random_state=seed, ignore_index=True)


def by_loops(frame, subset, coalition, first, second):
    """How often the first won, the second did, and neither."""
    won = [0, 0, 0]
    for row in frame.to_dict("records"):
        if (row["subset"], row["coalition"]) != (subset, coalition):
            continue
        one, two = row[f"answer_{first.lower()}"], row[f"answer_{second.lower()}"]
        if one != two:
            won[0 if row["label_pred"] == one else 1 if row["label_pred"] == two else 2] += 1
    return won


def test_four_rows_by_hand():
    rows = [
        ("a", "conflict", "TA", 4, 4, 0, 2),  # follows T
        ("b", "conflict", "TA", 0, 4, 0, 2),  # follows A
        ("c", "conflict", "TA", 3, 3, 1, 2),  # follows T
        ("d", "conflict", "TA", 2, 4, 0, 2),  # follows neither
        ("e", "conflict", "TA", 4, 4, 4, 2),  # they do not disagree
    ]
    [found] = m.pair_frame(pd.DataFrame(rows, columns=COLUMNS)).to_dict("records")
    assert (found["first"], found["second"], found["n"]) == ("T", "A", 3)
    assert found["value"] == pytest.approx(2 / 3) and found["neither"] == pytest.approx(1 / 4)


@given(st.integers(0, 10**6), st.integers(1, 25), st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_every_pair_is_what_counting_row_by_row_gives(seed, n, classes):
    frame = made(n, seed, classes)
    found = m.pair_frame(frame, **FEW)
    assert len(found) == frame["subset"].nunique() * 6
    for row in found.itertuples():
        one, two, rest = by_loops(frame, row.subset, row.coalition, row.first, row.second)
        assert row.n == one + two
        value = one / (one + two) if one + two else np.nan
        neither = rest / (one + two + rest) if one + two + rest else np.nan
        assert (row.value, row.neither) == pytest.approx((value, neither), nan_ok=True)
        assert np.isnan(row.low) == np.isnan(row.value)


def test_pairs_come_in_the_usual_order_and_tav_has_all_three():
    found = m.pair_frame(made(), by=(), **FEW)
    pairs = [(r.coalition, r.first + r.second) for r in found.itertuples()]
    assert pairs == [("TA", "TA"), ("TV", "TV"), ("AV", "AV"),
                     ("TAV", "TA"), ("TAV", "TV"), ("TAV", "AV")]  # fmt: skip


@pytest.mark.parametrize("taste", ["TAV", "AVT", "VTA"])
def test_who_always_follows_the_first_of_an_order_is_seen_to(taste):
    frame = made()
    follows = [next((x for x in taste if x in c), "T") for c in frame["coalition"]]
    said = [
        r[f"answer_{x.lower()}"] for r, x in zip(frame.to_dict("records"), follows, strict=True)
    ]
    for row in m.pair_frame(frame.assign(label_pred=said), **FEW).itertuples():
        pair = [row.first, row.second]
        favourite = min(row.coalition, key=taste.index)
        if favourite in pair:
            assert row.value == float(favourite == row.first) and row.neither == 0


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_what_one_of_two_wins_the_other_loses(seed):
    frame = made(30, seed, 3)
    turned = frame.rename(columns={"answer_t": "answer_a", "answer_a": "answer_t"})
    own, other = (
        m.pair_frame(f, **FEW).query("coalition == 'TA'").set_index("subset")
        for f in (frame, turned)
    )
    np.testing.assert_allclose(own["value"], 1 - other["value"])
    assert own[["n", "neither"]].equals(other[["n", "neither"]])


def test_an_answer_drawn_from_either_is_no_preference():
    frame = made(2000)
    rng = np.random.default_rng(1)
    said = [r[f"answer_{rng.choice([*r['coalition']]).lower()}"] if r["coalition"] != "none" else 0
            for r in frame.to_dict("records")]  # fmt: skip
    found = m.pair_frame(frame.assign(label_pred=said), by=())
    two = found[found["coalition"] != "TAV"]
    assert ((two["low"] < 0.5) & (two["high"] > 0.5)).all() and (two["neither"] == 0).all()


def test_a_majority_wins_in_tav_without_any_preference():
    # What the docstring warns of: the third sides with the first, and a vote follows the two.
    labels = [(0, 1, 0, 0), (4, 3, 4, 4), (2, 1, 2, 2)]
    rows = [(f"c{i}", "conflict", "TAV", said, t, a, v) for i, (t, a, v, said) in enumerate(labels)]
    found = m.pair_frame(pd.DataFrame(rows, columns=COLUMNS)).set_index(["first", "second"])
    assert found.loc[("T", "A"), "value"] == 1 and found.loc[("A", "V"), "value"] == 0
    assert found.loc[("T", "V"), "n"] == 0 and np.isnan(found.loc[("T", "V"), "value"])


def test_labels_are_evidence_as_well():
    frame = made().rename(columns=lambda c: c.replace("answer_", "label_"))
    found = m.pair_frame(frame, "label", **FEW)
    pd.testing.assert_frame_equal(found, m.pair_frame(made(), **FEW))
    with pytest.raises(ValueError, match="evidence 'answer'"):
        m.pair_frame(frame)


def test_a_clip_without_an_answer_to_some_modality_is_left_out():
    frame = made(20)
    gone = frame["sample_id"] == "c003"
    lacking = frame.assign(answer_v=frame["answer_v"].where(~gone))
    pd.testing.assert_frame_equal(m.pair_frame(lacking, **FEW), m.pair_frame(frame[~gone], **FEW))


def test_intervals_agree_with_scipys_bootstrap_of_clips():
    frame = made(300, classes=3)
    own = frame[frame["coalition"] == "AV"].sort_values("sample_id")
    one, two, said = (own[c].to_numpy() for c in ("answer_a", "answer_v", "label_pred"))
    first = ((one != two) & (said == one)).astype(float)
    decided = first + ((one != two) & (said == two))
    theirs = bootstrap(
        (first, decided),
        lambda x, y, axis=-1: x.sum(axis) / y.sum(axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = m.pair_frame(frame, by=(), bootstrap=m.Bootstrap(8000)).set_index(PAIR)
    ours, width = found.loc[("AV", "A", "V")], theirs.high - theirs.low
    assert ours["low"] == pytest.approx(theirs.low, abs=0.1 * width)
    assert ours["high"] == pytest.approx(theirs.high, abs=0.1 * width)


def test_results_do_not_hang_on_the_order_of_the_rows():
    frame = made()
    pd.testing.assert_frame_equal(m.pair_frame(frame), m.pair_frame(frame.sample(frac=1)))


def test_systems_named_in_by_are_kept_apart():
    both = pd.concat([made(seed=1).assign(system="a"), made(seed=2).assign(system="b")])
    found = m.pair_frame(both, by=("system", "subset"), **FEW)
    second = found[found["system"] == "b"].drop(columns="system").reset_index(drop=True)
    pd.testing.assert_frame_equal(second, m.pair_frame(made(seed=2), **FEW))
    with pytest.raises(ValueError, match="coalition twice"):
        m.pair_frame(both)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="answer_a"), r"lack the columns \['answer_a'\] of evidence"),
        (lambda f: f.drop(columns="label_pred"), "label_pred"),
        (lambda f: f.assign(answer_t=7), "answer_t of the outcomes must be a label 0 to 4"),
        (lambda f: f.assign(label_pred=np.nan), "label_pred of the outcomes must be a label"),
        (lambda f: f.assign(answer_t=np.nan), "no clip has a value"),
        (lambda f: f[f["coalition"] == "T"], "no clip has a value"),
        (lambda f: f.assign(coalition="VT"), "unknown|have coalitions"),
    ],
)
def test_bad_outcomes_are_refused_with_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        m.pair_frame(change(made(5)))


def test_every_subset_of_modalities_with_two_members_is_counted_and_no_other():
    found = m.pair_frame(made(), by=(), **FEW)
    pairs = {(r.first, r.second) for r in found.itertuples()}
    assert pairs == set(itertools.combinations("TAV", 2))
