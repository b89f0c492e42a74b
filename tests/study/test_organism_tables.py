"""What is taken out of the family's CSV for figures and tables, whatever arms it has."""

from __future__ import annotations

import pandas as pd
import pytest

from emomm_study.mini.organism.arms import ARMS, DOSES
from emomm_study.mini.organism.family import known
from emomm_study.mini.organism.verdicts import OBSERVER, verdicts
from emomm_study.report import organism

COLUMNS = ["arm", "seed", "measure", "subset", "what", "value", "low", "high", "n"]
FOUR = [name for name in ARMS if name not in DOSES]


def family(*rows):
    return pd.DataFrame(
        [(arm, seed, measure, "conflict", what, v, v - 0.01, v + 0.02, 100)
         for arm, seed, measure, what, v in rows], columns=COLUMNS,
    )  # fmt: skip


def test_a_layer_is_read_from_the_name_and_other_cuts_are_left_out():
    cut = "answers changed by a knockout"
    found = organism.cut_by_layer(family(
        ("late", 1, cut, "decision, TAV from 4", 0.4), ("late", 1, cut, "decision, TAV from 12", 0.1),
        ("late", 1, cut, "decision, T from 1", 0.3), ("late", 1, cut, "instruction, all layers", 0.2),
    ))  # fmt: skip
    assert found["layer"].tolist() == [4, 12] and found["value"].tolist() == [0.4, 0.1]


def test_a_setting_may_have_commas_and_its_gate_is_the_last_word():
    gain = "gain of steering"
    found = organism.steered_by(family(
        ("late", 1, gain, "published, oracle gate", 0.01),
        ("late", 1, gain, "l_r 1, K 8, gamma 4, even gate", 0.0),
    ))  # fmt: skip
    assert found[["setting", "gate"]].to_numpy().tolist() == [
        ["published", "oracle"], ["l_r 1, K 8, gamma 4", "even"]
    ]  # fmt: skip


def test_a_room_of_n_moments_makes_a_video_of_two_more_and_none_is_the_video_as_it_is():
    by = "gain of video by redundancy"
    found = organism.by_dose(family(
        ("late", 1, by, "1 moments", 0.03), ("late", 1, by, "2 moments", 0.05),
        ("late", 1, by, "2 moments, 4 of a room", -0.06),
    ))  # fmt: skip
    rows = found[["dose", "moments", "value"]].to_numpy().tolist()
    assert sorted(rows) == [["repeated", 1, 0.03], ["repeated", 2, 0.05], ["room", 2, 0.05],
                            ["room", 6, -0.06]]  # fmt: skip


def test_pairs_are_those_of_one_coalition():
    pair = "pair preference"
    frame = family(("late", 1, pair, "T over A, TAV", 0.4), ("late", 1, pair, "T over A, TA", 0.5))
    assert organism.by_pair(frame)["value"].tolist() == [0.4]
    assert organism.by_pair(frame, "TA")["value"].tolist() == [0.5]


def test_arms_stand_in_the_order_asked_for_and_those_without_a_seed_are_open():
    frame = family(("b", 2, "m", "x", 0.2), ("b", 1, "m", "x", 0.1), ("a", 1, "m", "y", 0.3))
    table = organism.by_arm(organism.of_measure(frame, "m"), ["c", "b", "a"])
    assert [*table.index] == [("c", "open"), ("b", "1"), ("b", "2"), ("a", "1")]
    assert table.loc[("b", "2"), "x"] == "20.0 [19.0, 22.0]"
    assert table.loc[("c", "open")].tolist() == ["", ""] and table.loc[("a", "1"), "x"] == ""
    nobody = organism.by_arm(organism.of_measure(frame, "other"), ["c", "b"])
    assert [*nobody.index] == [("c", "open"), ("b", "open")]


@pytest.mark.parametrize("arms", [[], [OBSERVER], [OBSERVER, "early, text first"]])
def test_whatever_the_committed_file_lacks_no_table_breaks(arms):
    own = known()
    own = own[own["arm"].isin(arms)]
    for frame in (organism.cut_by_layer(own), organism.steered_by(own), organism.by_dose(own),
                  organism.by_pair(own)):  # fmt: skip
        assert {"arm", "seed", "value", "low", "high", "n"} <= set(frame.columns)
    for measure in ("accuracy", "gain of video", "PSMV share"):
        organism.by_arm(organism.of_measure(own, measure), [OBSERVER, *FOUR])
    table = organism.verdict_table(verdicts(own))
    assert set(table["verdict"]) <= {"holds", "fails", "open"}
    if "early, text first" not in arms:
        assert (table["verdict"] == "open").all() and (table["outcome"] == "").all()
