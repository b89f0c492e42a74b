import hashlib
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from emomm_lib import labels, paper
from emomm_lib.paths import PAPER_DATA

AS_PRINTED = {"CHASE shares of layer 28 sum to 1"}
"""The one check that the paper's own numbers fail (Table 7: 0.7758 + 0.1751 + 0.0495 = 1.0004)."""

DIGEST = "a1ae0b852bef92e20f17ad5c36990f739b184b4963fffbc30223a1cfd7034776"


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(PAPER_DATA, tmp_path / "paper")


def failed(folder=PAPER_DATA):
    checks = paper.audit(folder)
    return set(checks.loc[~checks["holds"], "check"])


def edit(folder, number, where, column, change):
    """Change the cells of a table that match ``where``; text stays as printed elsewhere."""
    path = folder / f"table{number}.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = np.logical_and.reduce([frame[key] == value for key, value in where.items()])
    assert rows.sum() == 1
    frame.loc[rows, column] = change(frame.loc[rows, column].item())
    frame.to_csv(path, index=False, lineterminator="\n")


def add(step):
    return lambda text: f"{float(text) + step:.{len(text.partition('.')[2])}f}"


def cells(number):
    frame = pd.read_csv(PAPER_DATA / f"table{number}.csv", dtype=str, keep_default_na=False)
    keys = {3: ["corpus", "source", "label"], 4: ["corpus", "source_i", "source_j"]}[number]
    return frame[keys].to_dict("records")


def test_the_published_numbers_are_consistent_but_for_one_printed_sum():
    assert failed() == AS_PRINTED


def test_the_data_files_are_the_ones_that_were_proof_read():
    digest = hashlib.sha256()
    for path in sorted(PAPER_DATA.iterdir()):
        if path.suffix in {".csv", ".yaml"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n"))
    assert digest.hexdigest() == DIGEST


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


def test_a_broken_file_is_reported_with_every_bad_line(copy):
    first, third = cells(3)[0], cells(3)[2]
    edit(copy, 3, first, "count", lambda _: "-4")
    edit(copy, 3, third, "source", lambda _: "x")
    with pytest.raises(ValueError, match=r"table3\.csv") as error:
        paper.table(3, copy)
    message = str(error.value)
    assert "line 2, column count: got -4" in message
    assert "line 4, column source: got 'x'" in message


def test_a_missing_line_a_missing_file_and_a_missing_field_are_errors(copy):
    path = copy / "table4.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="must have 32 rows"):
        paper.table(4, copy)
    (copy / "claims.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"claims\.csv"):
        paper.claims(copy)
    (copy / "hyperparameters.yaml").write_text("heads: {value: 4, symbol: K}")
    with pytest.raises(ValueError, match=r"entry 'heads'.*reference"):
        paper.hyperparameters(copy)
    with pytest.raises(ValueError, match="tables 1 to 8"):
        paper.table(9)


def test_constants_and_score_policy_are_those_of_the_labels_module():
    assert paper.CLASSES == labels.CLASSES
    assert paper.SOURCES == labels.SOURCES
    assert set(paper.CORPORA) == {c.value for c in labels.Corpus}
    for corpus, grid in labels.GRIDS.items():
        policy = paper.hyperparameters()[f"score_policy_{corpus.value}"].value
        for label, letter in enumerate(labels.LETTERS):
            assert tuple(policy[letter]) == grid.scores(label)


def test_hyperparameters_are_the_published_ones():
    value = {name: h.value for name, h in paper.hyperparameters().items()}
    steering = ["first_layer", "threshold", "max_steering", "heads", "inter_strength"]
    assert [value[name] for name in steering] == [13, 0.7, 0.6, 4, 1.4]
    assert [value[name] for name in ("learning_rate", "weight_decay")] == [1e-4, 0.01]
    assert value["target_visual_mass"] is None
    assert all(h.reference for h in paper.hyperparameters().values())


def test_every_number_has_a_unique_item_and_says_which_model_it_is_about():
    found = pd.concat([paper.items(n) for n in range(1, 9)] + [paper.claim_items()])
    assert found["item"].is_unique
    about_models = found["item"].str.match(r"table[126]/|claim/(gain|acc|loss|vcc|gtar|nmas)_")
    assert (found.loc[about_models, "model"] != "").all()
    about_labels = found["item"].str.match(
        r"table[345]/|table[78]/label/|claim/(kappa|quota|split)"
    )
    assert (found.loc[about_labels, "model"] == "").all()
    numbers = [96, 15, 40, 32, 24, 6, 36, 35]
    assert [len(paper.items(n)) for n in range(1, 9)] == numbers


def test_compare_keeps_the_order_and_marks_what_is_inside_the_tolerance():
    published = {"a": 0.7998, "b": 0.7265, "c": 1.0}
    reproduced = pd.DataFrame(
        {
            "item": ["c", "b", "a", "extra"],
            "reproduced": [np.nan, 0.7266, 0.79975, 5],
            "low": [np.nan, 0.70, 0.78, 4],
            "high": [np.nan, 0.75, 0.81, 6],
        }
    )
    result = paper.compare(published, reproduced, 0.5e-4, profile="mini")
    assert tuple(result.columns) == paper.COMPARISON
    assert result["item"].tolist() == ["a", "b", "c", "extra"]
    assert result["within"].tolist() == [True, False, pd.NA, pd.NA]
    assert result["note"].tolist() == ["", "", "not reproduced", "no published value"]
    assert result.loc[0, ["low", "high"]].tolist() == [0.78, 0.81]
    assert (result["profile"] == "mini").all()


def test_a_wide_interval_does_not_widen_the_tolerance():
    reproduced = pd.DataFrame({"item": ["a"], "reproduced": [2.0], "low": [0.0], "high": [4.0]})
    result = paper.compare({"a": 1.0}, reproduced, 0.5, profile="mini")
    assert not result.loc[0, "within"]


def test_the_tolerance_is_inclusive_in_decimal_numbers():
    result = paper.compare({"a": 0.3, "b": 0.3}, {"a": 0.4, "b": 0.4000001}, 0.1, profile="x")
    assert result["within"].tolist() == [True, False]
    each = paper.compare({"a": 1, "b": 1}, {"a": 2, "b": 2}, {"a": 0, "b": 1}, profile="x")
    assert each["within"].tolist() == [False, True]
    with pytest.raises(ValueError, match="'b' lacks a tolerance"):
        paper.compare({"a": 1, "b": 1}, {"a": 2}, {"a": 0}, profile="x")


@pytest.mark.parametrize("model", ["Omni-mini", "Qwen2.5-Omni-3B", None])
def test_a_result_of_another_model_is_never_inside_the_tolerance(model):
    published = paper.items(1)
    reproduced = published.rename(columns={"published": "reproduced"}).assign(model=model)
    if model is None:
        reproduced = reproduced.drop(columns="model")
    result = paper.compare(published, reproduced, 100, profile="mini")
    assert result["within"].isna().all()
    assert result["note"].str.startswith("not comparable: published for ").all()


def test_the_same_model_is_compared_whatever_its_hub_prefix():
    published = paper.items(2)
    reproduced = published.rename(columns={"published": "reproduced"})
    reproduced["model"] = "Qwen/Qwen2.5-Omni-7B"
    assert paper.compare(published, reproduced, 0, profile="paper")["within"].all()


def test_a_number_of_an_unnamed_model_needs_a_stated_assumption():
    published = paper.claim_items()
    published = published[published["item"] == "claim/gtar_t_conflict"]
    ours = pd.DataFrame(
        {"item": published["item"], "reproduced": 0.857, "model": "Qwen/Qwen2.5-Omni-7B"}
    )
    assert paper.compare(published, ours, 0.01, profile="paper")["within"].isna().all()
    assume = {"unnamed MLLM": "Qwen2.5-Omni-7B"}
    assumed = paper.compare(published, ours, 0.01, profile="paper", assume=assume).iloc[0]
    assert assumed["within"] and re.search("assumes .* unnamed MLLM", assumed["note"])
    with pytest.raises(ValueError, match="assume takes names out of"):
        paper.compare(published, ours, 1, profile="x", assume={"Qwen2.5-Omni-7B": "Omni-mini"})


def test_a_stated_reason_stands_in_for_a_verdict():
    result = paper.compare(
        {"claim/kappa": 0.54},
        {"claim/kappa": 0.54},
        0.1,
        profile="mini",
        not_comparable={"claim/kappa": "no human annotators under this profile"},
    )
    assert result["within"].isna().all()
    assert result["note"].item() == "no human annotators under this profile"


def test_repeated_items_and_missing_columns_are_refused():
    twice = pd.DataFrame({"item": ["a", "a"], "reproduced": [1, 2]})
    with pytest.raises(ValueError, match=r"occur twice: \['a'\]"):
        paper.compare({"a": 1}, twice, 0, profile="x")
    with pytest.raises(ValueError, match="lack the columns"):
        paper.compare({"a": 1}, twice[["item"]], 0, profile="x")
