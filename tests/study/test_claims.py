"""Claims held against values: verdicts by intervals, texts by fields, nothing typed."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from emomm_study.paths import ROOT
from emomm_study.report import claims
from emomm_study.report.claims import Claim, Interval, Values, judged, read_claims
from emomm_study.report.values import read_values

LOW, HIGH = st.floats(-5, 0), st.floats(0, 5)


def table(**rows: tuple) -> pd.DataFrame:
    """Values by name: ``(value, low, high)``, or the value alone."""
    filled = {
        name: row if len(row) == 3 else (row[0], np.nan, np.nan) for name, row in rows.items()
    }
    return pd.DataFrame(
        [(name, *row) for name, row in filled.items()], columns=["name", "value", "low", "high"]
    )


def claim(*holds: str, here: str = "{a}", **fields) -> Claim:
    return Claim("Table 1", "It gains.", "07", here, holds, **fields)


@pytest.mark.parametrize(
    ("value", "verdict"),
    [((2.0, 1.0, 3.0), "holds"), ((-2.0, -3.0, -1.0), "fails"), ((1.0, -1.0, 3.0), "open"),
     ((1.0,), "holds"), ((-1.0,), "fails")],
)  # fmt: skip
def test_an_interval_decides_whether_a_value_is_above_a_number(value, verdict):
    assert judged([claim("a > 0")], {"07": table(a=value)})["verdict"].item() == verdict
    assert judged([claim("a < 0")], {"07": table(a=value)})["verdict"].item() == {
        "holds": "fails", "fails": "holds", "open": "open"
    }[verdict]  # fmt: skip


def test_two_values_are_apart_where_half_widths_as_squares_are_less_than_their_distance():
    values = Values(table(a=(10.0, 7.0, 13.0), b=(4.9, 1.0, 8.9), c=(5.1, 1.1, 9.1)))
    assert values.verdict(["a > b"]) == "holds"
    assert values.verdict(["a > c"]) == "open"
    assert values.verdict(["b > a"]) == "fails"


@given(*[st.tuples(st.floats(-9, 9), LOW, HIGH)] * 2)
def test_of_two_orders_one_fails_where_the_other_holds(a, b):
    first, second = (Interval(v, v + low, v + high) for v, low, high in (a, b))
    one, other = first.less(second), second.less(first)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.low <= one.value <= one.high


def test_a_claim_of_several_comparisons_holds_if_all_do_and_fails_if_one_does():
    values = Values(table(a=(2.0, 1.0, 3.0), b=(0.5, -1.0, 2.0), c=(-2.0, -3.0, -1.0)))
    assert values.verdict(["a > 0", "b > 0"]) == "open"
    assert values.verdict(["a > 0", "b > 0", "c > 0"]) == "fails"
    assert values.verdict(["a > 0", "c < 0"]) == "holds"


def test_a_star_stands_for_the_first_value_and_two_for_the_range_of_all():
    values = Values(pd.DataFrame([("x/1/y", 1.0, 0.5, 1.5), ("x/2/y", 3.0, 2.0, 4.0)],
                                 columns=["name", "value", "low", "high"]))  # fmt: skip
    assert values.fill("{x/*/y} and {x/**/y}", 1, 1) == "1.0 [0.5, 1.5] and 1.0 to 3.0"
    assert values.verdict(["x/** > 1.9"]) == "fails"


def test_a_published_number_is_compared_and_printed_by_its_name():
    own = claim("a > vcc_drop_v", published="V {vcc_drop_v} points", scale=1, digits=1)
    row = judged([own], {"07": table(a=(17.0, 16.5, 17.5))}).iloc[0]
    assert (row["published"], row["here"], row["verdict"]) == (
        "V 16 points", "17.0 [16.5, 17.5]", "holds"
    )  # fmt: skip


@pytest.mark.parametrize("values", [{}, {"07": table(b=(1.0,))}, {"06": table(a=(1.0,))}])
def test_a_claim_without_its_value_is_not_measured(values):
    row = judged([claim("a > 0")], values).iloc[0]
    assert (row["here"], row["verdict"]) == ("", "not measured")


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [({"holds": ["a = 0"]}, "'a > b'; got 'a = 0'"), ({"notebook": "7"}, "two digits"),
     ({"published": "{nothing}"}, "'nothing' is no published number"), ({"colour": 1}, "colour"),
     ({"holds": None}, "NoneType")],
)  # fmt: skip
def test_an_entry_that_is_no_claim_is_named_with_what_is_wrong(entry, wrong, tmp_path):
    path = tmp_path / "claims.yaml"
    whole = {"item": "Table 1", "claim": "It.", "notebook": "07", "here": "{a}", "holds": ["a > 0"]}
    path.write_text(claims.yaml.safe_dump({"claims": [whole, whole | entry]}))
    with pytest.raises(ValueError, match=r"claims\.yaml: claim 2: .*" + re.escape(wrong)):
        read_claims(path)


def test_every_claim_and_finding_of_the_project_has_all_its_values_under_mini():
    committed = {
        path.name[:2]: read_values(path)
        for path in (ROOT / "notebooks" / "values" / "mini").glob("*.csv")
    }
    found = judged(read_claims(), committed)
    assert not found.query("verdict == 'not measured'")["claim"].tolist()


def test_every_notebook_with_claims_ends_with_their_table():
    numbers = {one.notebook for one in read_claims()}
    for path in (ROOT / "notebooks").glob("[0-9]*.py"):
        text = path.read_text(encoding="utf-8")
        assert ("run.claims()" in text) == (path.name[:2] in numbers), path.name


def test_no_text_of_a_claim_types_a_number_that_a_run_finds():
    for one in read_claims():
        typed = re.sub(r"\{[^{}]*\}", "", one.here)
        assert not re.search(r"\d", typed.replace("of 1", "")), one.here


def test_a_table_in_markdown_has_a_line_a_row_and_keeps_bars_inside_cells():
    lines = claims.markdown_table(pd.DataFrame({"a": ["x|y", "z"], "b": [1, 2]})).splitlines()
    assert lines == ["| a | b |", "| --- | --- |", "| x\\|y | 1 |", "| z | 2 |"]
