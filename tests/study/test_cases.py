"""Cases: the rule that names them, and that a case shows the answers it was chosen for."""

from __future__ import annotations

import statistics
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from emomm_lib.labels import CLASSES
from emomm_study import paper
from emomm_study.evaluate import cases
from emomm_study.evaluate.cases import RULES, Case, NoCase

CONFLICT, NO_AUDIO, HARMED = RULES[0], RULES[1], RULES[-1]
LABELS = st.integers(0, 4)
ROWS = st.lists(st.tuples(*[LABELS] * 6, st.floats(-1, 1)), min_size=1, max_size=12)


def sign(label):
    return (label > 2) - (label < 2)


def pairs_of(rows, coalition="TAV"):
    columns = ["label_gt", "label_t", "label_a", "label_v", "label_baseline", "label_steered"]
    frame = pd.DataFrame(rows, columns=[*columns, "change"])
    names = [f"clip/{i:02d}" for i in range(len(frame))]
    return frame.assign(sample_id=names, coalition=coalition)


def scored(labels, logits, coalition="TAV"):
    """Instances with an answer each; labels are rows of GT, T, A, V."""
    frame = pd.DataFrame(labels, columns=["label_gt", "label_t", "label_a", "label_v"])
    frame["sample_id"] = [f"clip/{i:02d}" for i in range(len(frame))]
    logits = np.array(logits, dtype=float)
    frame[[f"logit_{x}" for x in "abcde"]] = logits
    answers = logits.argmax(1)
    return frame.assign(
        coalition=coalition, label_pred=answers, score_pred=(answers - 2) / 2, method="any"
    )


def peak(label, height=3.0):
    return [height * (i == label) for i in range(5)]


def test_the_layers_of_the_papers_cards_are_those_shown_at_the_papers_depth():
    published = paper.table(7)["layer"].dropna().unique()
    assert cases.shown_layers(28) == tuple(published) == (13, 17, 21, 26, 28)
    assert cases.shown_layers(8) == (4, 5, 6, 7, 8)


@given(st.integers(1, 200))
def test_shown_layers_rise_to_the_last_and_none_comes_twice(depth):
    layers = cases.shown_layers(depth)
    assert list(layers) == sorted(set(layers))
    assert layers[0] >= 1 and layers[-1] == depth and len(layers) <= 5


def test_a_decoder_without_layers_is_refused():
    with pytest.raises(ValueError, match="at least one layer"):
        cases.shown_layers(0)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(RULES))
def test_a_rule_takes_conflicts_whose_answer_turns_between_right_class_and_wrong_polarity(
    rows, rule
):
    pairs = pairs_of(rows, rule.coalition)
    expected = []
    for truth, *labels, before, after, _ in rows:
        seen = [y for m, y in zip("TAV", labels, strict=True) if m in rule.coalition]
        conflict = any(sign(y) != sign(truth) for y in seen)
        good, bad = (before, after) if rule.harmed else (after, before)
        expected.append(conflict and good == truth and sign(bad) != sign(truth))
    assert rule.matches(pairs).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_the_chosen_instance_is_the_first_by_name_of_those_near_the_median_change(rows):
    pairs = pairs_of(rows)
    fitting = pairs[CONFLICT.matches(pairs)]
    chosen = cases.choose_case(pairs, CONFLICT)
    if fitting.empty:
        assert chosen is None
        return
    middle = statistics.median_low(fitting["change"])
    near = [r.sample_id for r in fitting.itertuples() if abs(r.change - middle) <= cases.AROUND]
    assert chosen["sample_id"] == min(near)
    again = cases.choose_case(pairs.sample(frac=1, random_state=1), CONFLICT)
    assert again["sample_id"] == chosen["sample_id"]


def test_a_case_on_the_edge_of_its_window_is_said_to_be():
    def counted(*changes):
        pairs = pairs_of([(4, 0, 0, 4, 0, 4, change) for change in changes])
        [row] = cases.rule_counts(pairs, [CONFLICT]).itertuples()
        return row

    edge = 0.3 - 1.001 * cases.AROUND
    assert counted(edge, 0.3, 0.31, 0.6).edge == "yes"
    # Without the last one the median is another, and so is the instance near it.
    assert counted(0.2, 0.5, 0.9).edge == "yes"
    row = counted(0.3, 0.31, 0.32)
    assert row.edge == ""
    assert (row.fitting, row.among, row.value, row.n) == (3, 3, 1.0, 3) and 0 < row.low < 1


def test_a_rule_never_takes_an_instance_of_another_coalition():
    pairs = pairs_of([(4, 0, 0, 4, 0, 4, 0.5)], "TA")
    assert not any(rule.matches(pairs).any() for rule in RULES if rule.coalition != "TA")


def test_a_conflict_of_a_masked_modality_is_none():
    # Only audio conflicts, and the rule's instances do not show it.
    pairs = pairs_of([(4, 4, 0, 4, 0, 4, 0.5)], "TV")
    assert not NO_AUDIO.matches(pairs).any()


def test_every_rule_has_a_sentence_of_its_own_that_names_the_method():
    sentences = {rule.sentence("CHASE, tuned") for rule in RULES}
    assert len(sentences) == len({rule.name for rule in RULES}) == len(RULES)
    assert all("“CHASE, tuned”" in s and "median" in s for s in sentences)
    assert HARMED.sentence("X").index("right class") < HARMED.sentence("X").index("wrong polarity")


def test_paired_probabilities_are_the_softmax_at_the_ground_truths_letter():
    labels = [(3, 0, 3, 3), (0, 0, 0, 4)]
    before, after = [peak(0), peak(1)], [peak(3, 1.0), [1, 2, 3, 4, 5]]
    pairs = cases.answer_pairs(scored(labels, before), scored(labels, after)[::-1])
    e = np.e
    expected = [e / (e + 4), e / sum(e**k for k in range(1, 6))]
    np.testing.assert_allclose(pairs["p_steered"], expected)
    np.testing.assert_allclose(pairs["p_baseline"], 1 / (e**3 + 4))
    np.testing.assert_allclose(pairs["change"], pairs["p_steered"] - pairs["p_baseline"])


def test_an_answer_without_logits_is_named():
    frame = scored([(3, 0, 3, 3)], [peak(0)])
    with pytest.raises(ValueError, match="steered: the answer to clip/00 TAV has no letter logits"):
        cases.answer_pairs(frame, frame.assign(logit_c=np.nan))


def look(label, layers=8, routed=True):
    """A look whose budget says which answer it belongs to."""
    share = np.full((layers, 3), [0.5, 0.3, 0.2]) + 0.01 * label * np.array([1, 0, -1])
    letters = np.full(5, 0.1)
    letters[label] = 0.6
    rest = (np.full(layers, 0.9), np.full((layers, 3), 1 / 3)) if routed else (None, None)
    return SimpleNamespace(
        letters=letters, label=label, share=share, rows=np.ones((layers, 2, 6)),
        conflict=rest[0], gate=rest[1],
    )  # fmt: skip


class Seen:
    """An inspection that answers N unsteered, and then Neu and P for two columns."""

    grid = (1, 2, 2)
    unsteered = look(0, routed=False)
    importance = torch.arange(6.0)[None]

    def steered(self, columns):
        return [look({"plain": 2, "tuned": 4}[config.name]) for _, config in columns]

    def on_video(self, values):
        return values[..., 2:].reshape(*values.shape[:-1], *self.grid)


def study_of(labels, answers):
    """A study whose stored answers are given by method: (label of each clip)."""
    asked = {name: scored(labels, [peak(y) for y in own]) for name, own in answers.items()}
    bench = SimpleNamespace(
        clips=asked["baseline"].drop(columns="coalition"), inspect=lambda clip, c: Seen()
    )
    return SimpleNamespace(
        split=lambda name: name, answers=asked, router=lambda kind: (object(), None), bench=bench
    )


CONFIGS = {
    "CHASE": SimpleNamespace(name="plain", tau=0.7),
    "CHASE, tuned": SimpleNamespace(name="tuned", tau=0.7),
}


@pytest.fixture(autouse=True)
def stored(monkeypatch):
    """Answers of the study above in place of those that a protocol would ask for."""

    def on_test(study, methods):
        assert {method.source for method in methods} == {cases.PUBLISHED}
        return {method.name: study.answers[method.name] for method in methods}

    monkeypatch.setattr(cases, "on_test", on_test)
    monkeypatch.setattr(cases, "baseline", lambda study, clips: study.answers["baseline"])


STUDY = study_of(
    [(4, 0, 0, 4), (4, 4, 4, 4)],
    {"baseline": [0, 4], "CHASE": [0, 4], "CHASE, tuned": [4, 4]},
)


def test_a_case_has_each_methods_stored_answer_beside_its_own_look():
    [case] = cases.find_cases(STUDY, CONFIGS, "CHASE, tuned", [CONFLICT])
    assert isinstance(case, Case) and case.clip["sample_id"] == "clip/00"
    assert (case.fitting, case.among, case.tau) == (1, 1, 0.7)
    stored = {name: (a.label, a.score) for name, a in case.answers.items()}
    assert stored == {"baseline": (0, -1.0), "CHASE": (0, -1.0), "CHASE, tuned": (4, 1.0)}
    assert {n: a.look.label for n, a in case.answers.items()} == {
        "baseline": 0, "CHASE": 2, "CHASE, tuned": 4,
    }  # fmt: skip
    assert case.is_right(case.steered) and not case.is_right(case.baseline)
    np.testing.assert_allclose(case.budget_change(case.steered), [0.04, 0, -0.04])
    assert case.importance.tolist() == [[[2, 3], [4, 5]]]
    assert case.steered.mean_on_video(case.layers).shape == (1, 2, 2)


def test_a_rule_without_an_instance_leaves_a_sentence_and_not_an_error():
    found = cases.find_cases(STUDY, CONFIGS, "CHASE", [CONFLICT, HARMED])
    assert all(isinstance(case, NoCase) and case.among == 1 for case in found)
    assert "none of 1 instances satisfies the rule" in found[0].sentence


def test_counts_tell_how_many_a_rule_could_choose_from():
    counts = cases.rule_counts(cases.case_pairs(STUDY, CONFIGS)["CHASE, tuned"], [CONFLICT, HARMED])
    assert counts[["fitting", "among"]].to_numpy().tolist() == [[1, 1], [0, 1]]


def test_a_method_with_another_router_is_no_case_of_the_papers():
    with pytest.raises(ValueError, match="cases are shown of one of"):
        cases.find_cases(STUDY, CONFIGS, "+ other")


def published_case(number):
    """Clip and coalition of the published case, without its answers."""
    rows = paper.table(number)
    rows = rows[rows["item"] == "label"].set_index("source")
    clip = pd.Series({f"label_{s}": CLASSES.index(rows.at[s, "label"]) for s in rows.index})
    rule = {7: CONFLICT, 8: NO_AUDIO}[number]
    return Case(rule, "CHASE", clip, 1, 1, {}, 0.7, None)


def test_agreement_tells_class_from_polarity_in_the_published_cases():
    assert published_case(7).agreement() == {"T": "conflict", "A": "polarity", "V": "class"}
    assert published_case(8).agreement() == {"T": "conflict", "V": "class"}


def test_a_prompt_without_video_has_no_map():
    answer = cases.Answer(0, 0.0, 0.5, look(0), None)
    with pytest.raises(ValueError, match="without video"):
        answer.mean_on_video([1])
