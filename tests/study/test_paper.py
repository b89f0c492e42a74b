import hashlib
import re

import numpy as np
import pandas as pd
import pytest
from published import cells, edit

from emomm_lib import labels
from emomm_study import paper
from emomm_study.corpora import scores
from emomm_study.paths import PAPER_DATA

DIGEST = "a1ae0b852bef92e20f17ad5c36990f739b184b4963fffbc30223a1cfd7034776"


def test_the_data_files_are_the_ones_that_were_proof_read():
    digest = hashlib.sha256()
    for path in sorted(PAPER_DATA.iterdir()):
        if path.suffix in {".csv", ".yaml"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n"))
    assert digest.hexdigest() == DIGEST


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
    assert set(paper.CORPORA) == {c.value for c in scores.Corpus}
    for corpus, grid in scores.GRIDS.items():
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
