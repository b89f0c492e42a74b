"""RESULTS.md and the README's findings follow from the committed values."""

from __future__ import annotations

import re
import shutil

import pandas as pd
import pytest

from emomm_study.paths import ROOT
from emomm_study.report import claims, results
from emomm_study.report.results import Found, Outdated, findings, page, short
from emomm_study.report.values import read_values, write_values

MINI = Found.committed("mini")


def changed(tmp_path, notebook: str, name: str, **new: float) -> Found:
    """What is committed for mini, but for one value."""
    root = tmp_path / "values"
    shutil.copytree(ROOT / "notebooks" / "values", root)
    [path] = (root / "mini").glob(f"{notebook}_*.csv")
    table = read_values(path)
    assert (table["name"] == name).sum() == 1
    table.loc[table["name"] == name, list(new)] = list(new.values())
    write_values(table, path)
    return Found.committed("mini", root)


def test_the_committed_page_readme_and_picture_say_what_the_committed_values_do():
    assert not results.outdated()


def test_a_value_that_changes_changes_the_findings_sentence_and_the_page(tmp_path):
    other = changed(tmp_path / "08", "08", "gains/oracle/conflict", value=0.2345)
    assert "the oracle's gate gains 23.4 [" in findings(other)
    other = changed(tmp_path / "07", "07", "cross-fitted gains/oracle/conflict/acc5", value=0.2345)
    assert "23.4 [" in page([other]) and page([other]) != page([MINI])


def test_a_finding_that_its_values_no_longer_bear_is_refused_by_number(tmp_path):
    name = "gains/oracle/conflict"
    other = changed(tmp_path, "08", name, value=-0.1, low=-0.11, high=-0.09)
    with pytest.raises(Outdated, match="finding 3 rests on .* of which the values say 'fails'"):
        findings(other)


def test_every_claim_is_on_the_page_once_with_a_notebook_that_is_there():
    text = page([MINI])
    for row in results.judged(results.read_claims(), MINI.values).itertuples():
        [line] = [line for line in text.splitlines() if line.startswith(f"| {row.claim} |")]
        linked = re.search(r"\((notebooks/\d\d_\w+\.ipynb)\)", line)
        assert f"| {row.verdict} |" in line and linked and (ROOT / linked[1]).is_file()


def test_a_project_without_a_list_of_claims_has_a_page_of_its_numbers(tmp_path, monkeypatch):
    missing = tmp_path / "claims.yaml"
    monkeypatch.setattr(results, "read_claims", lambda: claims.read_claims(missing))
    told, screen = page([MINI]), short(MINI)
    assert "claims" not in told.partition("##")[0] and "## Exact numbers" in told
    assert "numbers compared" in screen and "claims" not in screen


def test_profiles_stand_side_by_side_and_lack_no_column():
    other = Found("paper", {}, MINI.compared.iloc[:0], pd.DataFrame(), pd.DataFrame())
    lines = page([MINI, other]).splitlines()
    heads = [line for line in lines if line.startswith("| claim |")]
    assert all("here, `mini`" in h and "verdict, `paper`" in h for h in heads) and heads
    assert any("not measured" in line for line in lines)


def test_the_short_form_is_a_screen_and_has_a_line_a_claim_that_was_measured():
    lines = short(MINI).splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 130
    assert sum(line.startswith(("holds", "fails", "open")) for line in lines) == len(
        results.read_claims()
    )


def test_the_short_form_of_one_notebook_has_its_claims_alone():
    words = short(MINI.only(["03"]))
    assert "Shapley value" in words and "Table 6" not in words


def test_exact_numbers_are_counted_by_the_table_that_prints_them():
    rows = [("table3/a", True), ("table3/b", False), ("claim/kappa", True), ("table1/x", None)]
    compared = pd.DataFrame(rows, columns=["item", "within"]).astype({"within": "boolean"})
    assert results.exact(compared).to_numpy().tolist() == [
        ["Running text", 1, 1, "none"], ["Table 3", 2, 1, "table3/b"]
    ]  # fmt: skip


def test_a_readme_without_the_place_for_findings_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text("# Nothing\n")
    with pytest.raises(Outdated, match="lacks the place"):
        results.written()
