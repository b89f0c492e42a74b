"""Sets of labels, and the metrics that they allow or refuse."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import accuracy_score, f1_score

from emomm_lib import (
    Bootstrap,
    agreement,
    gtar_frame,
    metrics_of,
    pair_frame,
    psmv_frame,
    reader_outcomes,
    score_frame,
    target_conflict,
)
from emomm_lib.labels import (
    CLASS_NAMES,
    COALITIONS,
    IEMOCAP4,
    LABEL_SETS,
    MELD7,
    MER6,
    SENTIMENT2,
    SENTIMENT3,
    SENTIMENT5,
    LabelSet,
    class_labels,
    coalition_modalities,
    is_class,
    polarity,
    side,
)
from emomm_lib.metrics.scores import METRICS

FEW = Bootstrap(resamples=20, seed=0)
LABELS = ["label_gt", "label_t", "label_a", "label_v"]


def clips_of(labels: LabelSet, n: int = 40, seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).integers(0, len(labels), (n, 4))
    frame = pd.DataFrame(values, columns=LABELS)
    names = [f"c{i}" for i in range(n)]
    return frame.assign(sample_id=names, corpus="x", subset=np.where(np.arange(n) % 2, "a", "b"))


def answers_of(clips: pd.DataFrame, labels: LabelSet, seed: int = 1) -> pd.DataFrame:
    rows = clips.merge(pd.DataFrame({"coalition": list(COALITIONS)}), how="cross")
    said = np.random.default_rng(seed).integers(0, len(labels), len(rows))
    right = (said == rows["label_gt"]).astype(float)
    same = (side(said, labels) == side(rows["label_gt"], labels)).astype(float)
    return rows.assign(label_pred=said, right=right, right_polarity=same)


# Sets


def test_the_papers_five_classes_are_the_default_of_all():
    assert SENTIMENT5.classes == CLASS_NAMES and len(SENTIMENT5) == 5
    for value in ([0, 1, 2, 3, 4], np.array([4, 0], np.uint8)):
        assert polarity(value).tolist() == polarity(value, SENTIMENT5).tolist()
        assert side(value).tolist() == polarity(value).tolist()


def test_the_sets_have_their_makers_numbers():
    order = ("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise")
    assert MELD7.classes == order and not MELD7.ordered
    assert IEMOCAP4.classes == ("happy", "sad", "neutral", "anger")
    assert MER6.classes == ("neutral", "angry", "happy", "sad", "worried", "surprise")
    assert SENTIMENT2.polarity == (-1, 1) and SENTIMENT3.polarity == (-1, 0, 1)
    assert all(name == labels.name for name, labels in LABEL_SETS.items())


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_a_class_is_found_by_each_of_its_names_in_any_case(labels):
    for number, names in enumerate(labels.spoken):
        for name in names:
            assert labels.index(name.upper()) == labels.index(f" {name} ") == number
    with pytest.raises(ValueError, match=f"{labels.name} has no class 'rage'"):
        labels.index("rage")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": ""}, "has a name of letters"),
        ({"name": "a b"}, "has a name of letters"),
        ({"classes": ("one",)}, "two classes at least"),
        ({"classes": ("one", "")}, "needs a plain name"),
        ({"classes": ("one", " two")}, "needs a plain name"),
        ({"classes": ("one", "One")}, "two classes are named one"),
        ({"aliases": (("x",),)}, "one tuple a class"),
        ({"aliases": (("x",), ("X",))}, "two classes are named x"),
        ({"aliases": (("two",), ())}, "two classes are named two"),
        ({"polarity": (-1, 1)}, "only classes in an order"),
        ({"polarity": (-1,), "ordered": True}, "never falls"),
        ({"polarity": (1, -1), "ordered": True}, "never falls"),
        ({"polarity": (-2, 1), "ordered": True}, "never falls"),
    ],
)
def test_a_set_that_is_none_is_refused_in_a_sentence(given, said):
    with pytest.raises(ValueError, match=said):
        LabelSet(**{"name": "x", "classes": ("one", "two")} | given)


def test_a_class_may_have_its_own_name_as_an_alias_in_other_case():
    assert LabelSet("x", ("Joy", "Fear"), aliases=(("joy",), ())).index("JOY") == 0


@given(st.integers(2, 9), st.lists(st.integers(-3, 12), max_size=20))
def test_classes_are_the_whole_numbers_below_the_sets_size(k, values):
    labels = LabelSet("x", tuple(f"class{i}" for i in range(k)))
    assert is_class(values, labels).tolist() == [0 <= v < k for v in values]
    if all(0 <= v < k for v in values):
        assert class_labels(values, labels=labels).tolist() == values
    else:
        with pytest.raises(ValueError, match=f"whole numbers 0 to {k - 1}"):
            class_labels(values, labels=labels)


# Metrics that need no order


@given(
    st.sampled_from([*LABEL_SETS.values()]).flatmap(
        lambda labels: st.tuples(
            st.just(labels),
            st.lists(st.tuples(*[st.integers(0, len(labels) - 1)] * 2), min_size=1, max_size=30),
        )
    )
)
@settings(max_examples=200)
def test_accuracy_and_f1_are_those_of_scikit_learn_in_every_set(drawn):
    labels, pairs = drawn
    truth, said = np.array(pairs).T
    own = metrics_of(labels)
    assert own["acc"](truth, said) == pytest.approx(accuracy_score(truth, said))
    theirs = {
        "f1": f1_score(truth, said, average="macro", zero_division=0),
        "weighted_f1": f1_score(truth, said, average="weighted", zero_division=0),
    }
    for name, value in theirs.items():
        assert own[name](truth, said) == pytest.approx(value)


def test_the_two_class_task_is_mer_unibenchs_metric():
    rng = np.random.default_rng(0)
    truth, said = rng.uniform(-1, 1, 500).round(1), rng.uniform(-1, 1, 500)
    kept = truth != 0
    ours = [(values[kept] > 0).astype(int) for values in (truth, said)]
    own = metrics_of(SENTIMENT2)
    assert own["acc"](*ours) == own["acc2"](*ours) == accuracy_score(*ours)
    assert own["weighted_f1"](*ours) == pytest.approx(f1_score(*ours, average="weighted"))


def test_a_table_of_scores_has_the_metrics_that_are_asked_for_by_group():
    clips = clips_of(MELD7, 60)
    frame = clips.assign(label_pred=clips["label_t"])
    found = score_frame(frame, ["subset"], ["acc", "weighted_f1"], bootstrap=FEW, labels=MELD7)
    for subset, part in frame.groupby("subset"):
        own = found[found["subset"] == subset].set_index("metric")["value"]
        assert own["acc"] == pytest.approx((part["label_gt"] == part["label_pred"]).mean())
        weighted = f1_score(part["label_gt"], part["label_pred"], average="weighted")
        assert own["weighted_f1"] == pytest.approx(weighted)


def test_of_the_five_classes_scores_are_what_they_were_without_naming_them():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.integers(0, 5, (50, 2)), columns=["label_gt", "label_pred"])
    frame = frame.assign(score_gt=rng.uniform(-1, 1, 50), score_pred=rng.uniform(-1, 1, 50))
    plain = score_frame(frame, bootstrap=FEW)
    assert plain["metric"].tolist() == ["acc5", "acc2", "acc2_signed", "f1", "mae"] == [*METRICS]
    pd.testing.assert_frame_equal(plain, score_frame(frame, bootstrap=FEW, labels=SENTIMENT5))
    both = score_frame(frame, metrics=["acc5", "acc"], bootstrap=FEW)
    assert both["value"].nunique() == 1


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_psmv_is_of_right_answers_whatever_they_name(labels):
    answers = answers_of(clips_of(labels), labels)
    found = psmv_frame(answers, bootstrap=FEW)
    wide = answers.pivot_table(index="subset", columns="coalition", values="right")
    for subset, part in found[found["quantity"] == "psmv"].groupby("subset"):
        gain = wide.loc[subset, "TAV"] - wide.loc[subset, "none"]
        assert part["value"].sum() == pytest.approx(gain)


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_gtar_is_that_of_a_loop_by_polarity_or_where_there_is_none_by_class(labels):
    answers = answers_of(clips_of(labels, 80), labels)
    same = (lambda x: labels.polarity[x]) if labels.polarity else (lambda x: x)
    hits: dict[tuple[str, str], list[int]] = {}
    flags = []
    for row in answers.to_dict("records"):
        there = coalition_modalities(row["coalition"])
        apart = [m for m in there if same(row[f"label_{m.lower()}"]) != same(row["label_gt"])]
        flags.append(len(apart) == 1)
        if len(there) < 2 or len(apart) != 1:
            continue
        setting = "conflict" if len(there) == 3 else "missing_conflict"
        for m in set(there) - set(apart):
            right = same(row["label_pred"]) == same(row["label_gt"])
            hits.setdefault((setting, m), []).append(int(right))
    assert target_conflict(answers, labels).tolist() == flags
    found = gtar_frame(answers, bootstrap=FEW, labels=labels).set_index(["setting", "modality"])
    for key, own in hits.items():
        assert found.loc[key, "value"] == pytest.approx(np.mean(own))
        assert found.loc[key, "n"] == len(own)


def test_pairs_and_the_random_reader_take_any_set():
    clips = clips_of(MELD7, 50)
    answers = answers_of(clips, MELD7)
    found = pair_frame(answers, "label", by=(), bootstrap=FEW, labels=MELD7)
    part = answers[answers["coalition"] == "TV"]
    own = part[part["label_t"] != part["label_v"]]
    won, lost = ((own["label_pred"] == own[f"label_{m}"]).sum() for m in "tv")
    row = found[found["coalition"] == "TV"].iloc[0]
    assert row["n"] == won + lost and row["value"] == pytest.approx(won / (won + lost))
    reader = reader_outcomes(clips, "random", labels=MELD7)
    none = reader[reader["coalition"] == "none"]
    assert np.allclose(none[["right", "right_polarity"]], 1 / 7)
    alone = reader[reader["coalition"] == "T"].set_index("sample_id")["right"]
    truth = clips.set_index("sample_id")
    assert (alone == (truth["label_t"] == truth["label_gt"])).all()


# Refusals


def test_what_needs_an_order_or_a_polarity_is_refused_of_emotions_in_a_sentence():
    clips = clips_of(MELD7)
    answers = answers_of(clips, MELD7).assign(score_gt=0.0, score_pred=0.0)
    for metric in ("mae", "acc2", "acc2_signed"):
        with pytest.raises(ValueError, match=f"{metric} needs classes .* those of meld7 have none"):
            score_frame(answers, metrics=[metric], labels=MELD7)
    with pytest.raises(ValueError, match="acc5 is of the five classes of sentiment5"):
        score_frame(answers, metrics=["acc5"], labels=MELD7)
    with pytest.raises(ValueError, match="mae is of the scores of sentiment5, and sentiment2 has"):
        score_frame(answers, metrics=["mae"], labels=SENTIMENT2)
    with pytest.raises(ValueError, match="unknown metrics"):
        score_frame(answers, metrics=["accuracy"], labels=MELD7)
    with pytest.raises(ValueError, match="agreement needs classes in an order"):
        agreement([0, 1], [1, 2], MELD7)
    with pytest.raises(ValueError, match="a polarity needs classes with a polarity"):
        polarity([0, 1], MELD7)
    with pytest.raises(ValueError, match="the reader 'average' needs classes in an order"):
        reader_outcomes(clips, "average", labels=MELD7)


def test_a_class_beyond_the_set_is_refused_wherever_it_stands():
    clips = clips_of(MELD7)
    answers = answers_of(clips, MELD7)
    with pytest.raises(ValueError, match="must be a label 0 to 3"):
        gtar_frame(answers, labels=IEMOCAP4)
    with pytest.raises(ValueError, match="must be a label 0 to 3"):
        pair_frame(answers, "label", labels=IEMOCAP4)
    with pytest.raises(ValueError, match="whole numbers 0 to 3"):
        score_frame(answers, metrics=["acc"], labels=IEMOCAP4)


def test_agreement_is_of_the_steps_that_a_set_has():
    assert agreement([0, 1], [1, 1], SENTIMENT2) == 0.5
    assert agreement([0, 2], [1, 2], SENTIMENT3) == 0.75
    assert agreement([0, 4], [0, 3]) == 0.875
