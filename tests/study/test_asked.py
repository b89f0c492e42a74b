"""Systems side by side: what is counted as lost, and what the figure shows of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from emomm_study.evaluate import asked as module
from emomm_study.evaluate.asked import asked, lost_by_subset, side_by_side
from emomm_study.evaluate.results import instances
from emomm_study.report.figures.systems import accuracy_by_system
from emomm_study.report.tables import systems_table
from emomm_study.systems.interface import NotOffered


def clips(count: int = 6) -> pd.DataFrame:
    """Half of them conflicts; texts of other lengths."""
    rows = []
    for i in range(count):
        labels = (i % 5, i % 5, i % 5) if i % 2 else (i % 5, (i + 2) % 5, (i + 4) % 5)
        rows.append({
            "sample_id": f"c{i}", "corpus": "ch_sims_v2", "text": "word" * (i + 1), "score_gt": 0.0,
            "label_gt": i % 5, **dict(zip(("label_t", "label_a", "label_v"), labels, strict=True)),
            "subset": "align" if i % 2 else "conflict", "split": "test",
        })  # fmt: skip
    return pd.DataFrame(rows)


class Bench:
    """Stands for an experiment: every system answers by its own table."""

    def __init__(self, model=None, name="", keep_encodings=True, executor=None):
        self.model = model

    def predictions(self, rows, coalitions, *, decoding):
        return self.model(rows, decoding)


@pytest.fixture(autouse=True)
def replaced(monkeypatch):
    monkeypatch.setattr(module, "replace", lambda bench, **given: Bench(**given))


def answers(rows: pd.DataFrame, **changes) -> pd.DataFrame:
    """Everything right, but for some instances by (sample_id, coalition)."""
    found = instances(rows)[["sample_id", "coalition", "label_gt"]]
    found = found.rename(columns={"label_gt": "label"}).assign(score=0.0, failure=None, reply=None)
    for letter in "abcde":
        found[f"logit_{letter}"] = np.nan
    return found.astype({"label": "Int64"})


def lossy(rows, decoding):
    found = answers(rows)
    if decoding == "free":
        found.loc[found["coalition"] == "TA", "label"] = pd.NA
        found.loc[
            (found["coalition"] == "AV") & (found["sample_id"] == "c0"), ["label", "failure"]
        ] = [pd.NA, "x"]
    return found


def letters_only(rows, decoding):
    if decoding == "free":
        raise NotOffered("no replies")
    return answers(rows)


def nothing_works(rows, decoding):
    return answers(rows).assign(label=pd.NA, failure="broken")


def test_what_is_lost_is_counted_by_subset_and_what_is_left_is_scored():
    table = asked(Bench(), lossy, "lossy", clips())
    free = table[(table["decoding"] == "free") & (table["metric"] == "acc5")].set_index("subset")
    assert free["asked"].to_dict() == {"overall": 24, "align": 3, "conflict": 3, "missing": 18}
    assert free["unparseable"].to_dict() == {"overall": 6, "align": 0, "conflict": 0, "missing": 6}
    assert free["failed"].to_dict() == {"overall": 1, "align": 0, "conflict": 0, "missing": 1}
    assert free.loc["missing", "n"] == 11 and (free["value"] == 1).all()
    letters = table[table["decoding"] == "constrained"]
    assert (letters[["failed", "unparseable"]] == 0).all(axis=None)


def test_a_decoding_that_is_not_offered_is_left_out_and_nothing_scored_has_no_value():
    both = side_by_side(Bench(), {"letters": letters_only, "broken": nothing_works}, clips())
    assert set(both.loc[both["system"] == "letters", "decoding"]) == {"constrained"}
    broken = both[both["system"] == "broken"]
    assert broken["value"].isna().all() and (broken["failed"] == broken["asked"]).all()
    assert set(broken["subset"]) == {"overall", "align", "conflict", "missing"}
    with pytest.raises(NotOffered, match="neither letters nor replies"):
        asked(Bench(), lambda *_, **__: letters_only(None, "free"), "none", clips())


def test_the_table_has_a_row_a_system_and_decoding_with_what_was_lost():
    both = side_by_side(Bench(), {"lossy": lossy, "broken": nothing_works}, clips())
    table = systems_table(both)
    assert table.index.tolist() == [("lossy", "letters"), ("lossy", "free text"),
                                    ("broken", "letters"), ("broken", "free text")]  # fmt: skip
    row = table.loc[("lossy", "free text")]
    assert (row["asked"], row["failed"], row["unparseable"]) == (24, 1, 6)
    assert (
        row["Missing"] == "100.0 [100.0, 100.0]"
        and table.loc[("broken", "letters"), "Align"] == "-"
    )


def test_the_figure_shows_each_system_once_and_the_published_beside():
    both = side_by_side(Bench(), {"lossy": lossy, "broken": nothing_works}, clips())
    printed = pd.DataFrame({"system": ["other", "lossy"], "subset": "align", "value": [40.0, 50.0]})
    acc = both[both["metric"].isna() | both["metric"].eq("acc5")]
    fig = accuracy_by_system(acc, printed)
    axes = fig.axes
    titles = [ax.get_title().split(", n = ") for ax in axes]
    assert [name for name, _ in titles] == ["Overall", "Align", "Conflict", "Missing"]
    whole, *parts = (int(many) for _, many in titles)
    assert whole == sum(parts) == acc.loc[acc["subset"] == "overall", "asked"].max()
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["other", "lossy", "broken"]
    assert axes[1].lines[1].get_xdata().tolist() == [40.0, 50.0]
    with pytest.raises(ValueError, match="columns .* are missing"):
        accuracy_by_system(acc.drop(columns="low"))


def test_counts_of_nothing_lost_are_zero():
    rows = clips(4)
    lost = instances(rows).iloc[:0].assign(outcome="")
    table = lost_by_subset(rows, lost)
    assert table[["failed", "unparseable"]].to_numpy().sum() == 0 and table["asked"].max() == 16
