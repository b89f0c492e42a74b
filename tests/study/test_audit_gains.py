from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, strategies as st
from published import add, edit

from emomm_study import paper
from emomm_study.audit import gains

QWEN, VITA = "Qwen2.5-Omni-7B", "VITA-1.5-8B"
FALSE_STATEMENTS = {
    "gains_share_a_backbone",
    "all_metrics_gain",
    "full_is_best",
    "joint_is_product",
}


def observed(*folder):
    return gains.observations(*folder).set_index("id")


def test_every_quoted_number_that_a_table_has_is_its_cells():
    rows = gains.claim_checks()
    assert len(rows) == len(paper.claims())
    in_tables = rows["cells"] != "not in a table"
    assert rows.loc[in_tables, "holds"].all() and in_tables.sum() == 15
    assert rows.loc[~in_tables, ["holds", "recomputed"]].isna().all().all()
    figures = rows.loc[~in_tables, "id"]
    assert figures.str.startswith(("vcc_", "gtar_")).sum() == 9


def test_claims_are_recomputed_as_by_exact_subtraction_of_what_is_printed():
    rows = gains.claim_checks().set_index("id")
    by_hand = {
        "gain_overall_qwen": Fraction("49.96") - Fraction("44.53"),
        "gain_conflict_vita": Fraction("52.96") - Fraction("47.80"),
        "gain_missing_qwen": Fraction("49.30") - Fraction("43.27"),
        "loss_no_intra_bias": Fraction("51.32") - Fraction("50.15"),
        "router_joint_success_test": Fraction("0.7055"),
    }
    for name, value in by_hand.items():
        assert rows.loc[name, "recomputed"] == float(value)


@pytest.mark.parametrize(
    ("number", "where", "column", "claim", "step"),
    [
        (1, {"model": QWEN, "method": "CHASE", "subset": "overall"}, "acc", "gain_overall_qwen", 1),
        (
            1,
            {"model": VITA, "method": "baseline", "subset": "conflict"},
            "acc",
            "gain_conflict_vita",
            -1,
        ),
        (2, {"variant": "no_inter_bias"}, "acc", "loss_no_inter_bias", 1),
        (6, {"split": "valid", "metric": "target_top1"}, "value", "router_target_top1_valid", 0.01),
    ],
)
def test_one_unit_in_a_cell_breaks_the_claim_about_it(copy, number, where, column, claim, step):
    edit(copy, number, where, column, add(step / 100))
    rows = gains.claim_checks(copy).set_index("id")
    assert not rows.loc[claim, "holds"]
    assert abs(rows.loc[claim, "difference"]) == pytest.approx(abs(step) / 100)


def test_a_claim_about_a_cell_that_does_not_exist_is_named(copy):
    path = copy / "claims.csv"
    text = path.read_text(encoding="utf-8").replace("table2/no_router/acc", "table2/no_roter/acc")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"acc_random_steering refers to \['table2/no_roter/acc'\]"
    ):
        gains.claim_checks(copy)


def test_gains_are_positive_where_better_and_disagreements_are_named():
    rows = gains.gain_table().set_index(["comparison", "model", "subset"])
    against = rows.loc[~rows["holds"], "detail"].to_dict()
    assert against == {
        ("CHASE - baseline", QWEN, "align"): "f1 -4.67",
        ("full - no_intra_bias", QWEN, "conflict"): "f1 -0.03, mae -0.004",
        ("no_router - baseline", QWEN, "conflict"): "f1 +1.37",
    }
    row = rows.loc[("CHASE - baseline", QWEN, "overall")]
    assert row[["acc", "f1", "mae"]].tolist() == [5.43, 3.63, 0.058]
    assert row["relative_acc"] == pytest.approx(100 * 5.43 / 44.53)


def test_published_observations_come_out_as_they_are():
    rows = observed()
    assert set(rows.index[~rows["holds"]]) == FALSE_STATEMENTS
    # None of those is the paper's own: its "consistently" need not mean every score.
    assert set(rows.loc[~rows["holds"], "whose"]) == {"reading"}
    assert "12.2%" in rows.loc["gain_in_points", "detail"]
    assert "-12.5 points or -37.5%" in rows.loc["align_share_is_equal", "detail"]
    assert f"{VITA}: Conflict +5.16, Missing +5.54" in rows.loc["gains_share_a_backbone", "detail"]


@pytest.mark.parametrize(
    ("number", "where", "column", "step", "statement"),
    [
        (1, {"model": QWEN, "method": "CHASE", "subset": "align"}, "f1", 4.68, "all_metrics_gain"),
        (2, {"variant": "no_router"}, "acc", 0.85, "random_steering_is_worse"),
        (6, {"split": "test", "metric": "joint_success"}, "value", 0.02, "joint_is_about_70"),
    ],
)
def test_a_statement_changes_when_the_numbers_behind_it_do(
    copy, number, where, column, step, statement
):
    before = observed().loc[statement, "holds"]
    edit(copy, number, where, column, add(step))
    assert observed(copy).loc[statement, "holds"] != before


def test_full_is_best_once_both_of_the_metrics_that_speak_against_it_move_by_what_they_lack(copy):
    edit(copy, 2, {"variant": "no_intra_bias"}, "f1", add(-0.03))
    assert not observed(copy).loc["full_is_best", "holds"]
    edit(copy, 2, {"variant": "no_intra_bias"}, "mae", add(0.004))
    assert observed(copy).loc["full_is_best", "holds"]


def test_joint_success_is_off_the_product_by_many_times_what_rounding_explains():
    rows = gains.routing_product().set_index("split")
    assert not rows["holds"].any()
    assert rows["difference"].round(6).to_dict() == {"valid": 0.005508, "test": 0.007127}
    assert (rows["difference"] > 40 * rows["bound"]).all()
    assert rows["implied_top1"].round(4).to_dict() == {"valid": 0.7777, "test": 0.7869}


@given(recall=st.floats(0, 1), top1=st.floats(0, 1))
def test_an_exact_product_is_never_further_off_than_the_bound(recall, top1):
    r, t, j = (np.round(v, 4) for v in (recall, top1, recall * top1))
    half = 0.5e-4
    assert abs(j - r * t) <= (r + half) * (t + half) - r * t + half + 1e-12


def test_a_joint_rate_that_is_the_product_passes_and_one_unit_beyond_the_bound_fails(copy):
    where = {"split": "valid", "metric": "joint_success"}
    edit(copy, 6, where, "value", lambda _: "0.6963")
    assert gains.routing_product(copy).set_index("split").loc["valid", "holds"]
    edit(copy, 6, where, "value", lambda _: "0.6965")
    assert not gains.routing_product(copy).set_index("split").loc["valid", "holds"]


def test_sizes_of_table_6_are_those_found_by_trying_every_pair_of_counts():
    rows = gains.routing_sizes(most=800).set_index("split")
    for split, (recall, joint) in {"valid": (0.9024, 0.7018), "test": (0.8965, 0.7055)}.items():
        sizes = []
        for n in range(1, 801):
            shares = np.arange(n + 1) / n
            # No share of fewer than 801 lies on a tie of four decimals at these values.
            printed = np.round(shares, 4)
            sizes += [n] if recall in printed and joint in printed else []
        assert list(rows.loc[split, "sizes"]) == sizes
        assert not rows.loc[split, "holds"]
    assert rows["least"].to_dict() == {"valid": 379, "test": 686}


def test_one_unit_in_table_6_changes_the_least_size(copy):
    edit(copy, 6, {"split": "test", "metric": "conflict_recall"}, "value", add(0.0001))
    before, after = (gains.routing_sizes(*f).set_index("split")["least"] for f in ((), (copy,)))
    assert before["test"] != after["test"] and before["valid"] == after["valid"]
