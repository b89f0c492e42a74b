"""Internal consistency of the published numbers; a changed cell is noticed."""

import pytest
from published import add, cells, edit

from emomm_study.audit.consistency import consistency
from emomm_study.paths import PAPER_DATA

AS_PRINTED = {"CHASE shares of layer 28 sum to 1"}
"""The one check that the paper's own numbers fail (Table 7: 0.7758 + 0.1751 + 0.0495 = 1.0004)."""


def failed(folder=PAPER_DATA):
    checks = consistency(folder)
    return set(checks.loc[~checks["holds"], "check"])


def test_the_published_numbers_are_consistent_but_for_one_printed_sum():
    assert failed() == AS_PRINTED


@pytest.mark.parametrize("where", cells(3)[::3], ids=lambda w: "-".join(w.values()))
def test_one_clip_more_in_table_3_is_noticed(copy, where):
    edit(copy, 3, where, "count", lambda text: str(int(text) + 1))
    assert f"classes of {where['corpus']} {where['source']} sum to 2000" in failed(copy)


def test_a_clip_moved_between_neighbouring_classes_of_table_3_is_noticed(copy):
    where = {"corpus": "cmu_mosi", "source": "a"}
    edit(copy, 3, {**where, "label": "N"}, "count", lambda text: str(int(text) + 1))
    edit(copy, 3, {**where, "label": "WN"}, "count", lambda text: str(int(text) - 1))
    assert {c for c in failed(copy) if "parity" in c and "-a " in c} != set()


@pytest.mark.parametrize("where", cells(4)[::5], ids=lambda w: "-".join(w.values()))
def test_one_unit_in_one_cell_of_table_4_is_noticed(copy, where):
    edit(copy, 4, where, "agreement", add(-0.0001))
    assert failed(copy) - AS_PRINTED


@pytest.mark.parametrize("step", [-0.0001, 0.0001])
@pytest.mark.parametrize("pair", [("gt", "t"), ("t", "a"), ("a", "v")])
def test_one_unit_in_both_mirrored_cells_of_table_4_is_noticed(copy, pair, step):
    for i, j in (pair, pair[::-1]):
        where = {"corpus": "ch_sims_v2", "source_i": i, "source_j": j}
        edit(copy, 4, where, "agreement", add(step))
    wrong = failed(copy) - AS_PRINTED
    assert wrong and all("ch_sims_v2" in check and "symmetric" not in check for check in wrong)


@pytest.mark.parametrize(
    ("model", "method", "subset"),
    [
        ("Qwen2.5-Omni-7B", "CHASE", "overall"),
        ("Qwen2.5-Omni-7B", "baseline", "align"),
        ("Qwen2.5-Omni-7B", "CHASE", "missing"),
        ("VITA-1.5-8B", "baseline", "conflict"),
    ],
)
def test_one_unit_in_an_accuracy_that_a_quoted_gain_uses_is_noticed(copy, model, method, subset):
    edit(copy, 1, {"model": model, "method": method, "subset": subset}, "acc", add(0.01))
    assert any(check.startswith("claim gain_") for check in failed(copy))


def test_overall_accuracy_off_the_mix_is_noticed(copy):
    edit(copy, 1, {"model": "Gemini 3 Pro", "subset": "overall"}, "acc", add(0.03))
    assert failed(copy) - AS_PRINTED == {
        "Overall acc of Gemini 3 Pro baseline is the mix of its subsets"
    }


@pytest.mark.parametrize("variant", ["full", "no_router", "no_inter_bias", "no_intra_bias"])
def test_one_unit_in_an_accuracy_of_table_2_is_noticed(copy, variant):
    edit(copy, 2, {"variant": variant}, "acc", add(0.01))
    assert failed(copy) - AS_PRINTED


def test_one_unit_in_a_cell_of_table_6_is_noticed(copy):
    edit(copy, 6, {"split": "test", "metric": "joint_success"}, "value", add(0.0001))
    assert "claim router_joint_success_test equals its table cells" in failed(copy)


def test_a_share_off_by_two_units_and_a_score_of_another_class_are_noticed(copy):
    where = {"item": "attention", "method": "baseline", "layer": "13", "source": "v"}
    edit(copy, 8, where, "value", add(0.0002))
    edit(copy, 7, {"item": "prediction", "method": "baseline"}, "value", lambda _: "-0.4")
    assert failed(copy) - AS_PRINTED == {
        "baseline shares of layer 13 sum to 1",
        "score of prediction baseline belongs to its class",
    }
