"""Answers handed in: what is read, what is refused and in which words, and what they score."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from test_benchmark import make_clips

from emomm_lib import score_frame
from emomm_lib.labels import COALITIONS, LETTERS
from emomm_study.corpora.clips import CorpusTable
from emomm_study.corpora.manifest import BenchmarkSettings, build_manifest
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.evaluate.results import instances
from emomm_study.exchange.submission import (
    COLUMNS,
    TABLE1,
    SubmissionError,
    defects,
    read_submission,
    schema,
    score_submission,
    write_submission,
)
from emomm_study.mini.surrogate.joint import label_table
from emomm_study.systems.prompts import reply


@pytest.fixture(scope="module")
def manifest() -> pd.DataFrame:
    tables = [
        CorpusTable(Path("r"), make_clips(c, label_table(c).sample(400, random_state=1), 40))
        for c in Corpus
    ]
    return build_manifest(tables, BenchmarkSettings(ch_sims=None, cmu_mosi=None))


def answers(manifest, split="test", coalitions=TABLE1, seed=0):
    """A letter, right six times of ten, and a score that goes with it, for every instance."""
    clips = manifest[manifest["split"] == split]
    rows = clips.merge(pd.DataFrame({"coalition": list(coalitions)}), how="cross")
    rng = np.random.default_rng(seed)
    label = np.where(rng.random(len(rows)) < 0.6, rows["label_gt"], rng.integers(0, 5, len(rows)))
    score = [GRIDS[Corpus(c)].scores(int(k))[0] for c, k in zip(rows["corpus"], label, strict=True)]
    letter = [LETTERS[k] for k in label]
    return rows[["sample_id", "coalition"]].assign(letter=letter, score=score)


def handed_in(frame, path):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        lines = [json.dumps({k: v for k, v in r.items() if not pd.isna(v)})
                 for r in frame.to_dict("records")]  # fmt: skip
        path.write_text("\n".join(lines), encoding="utf-8")
    return read_submission(path)


@pytest.mark.parametrize("name", ["answers.csv", "answers.jsonl"])
def test_table_1_of_a_submission_is_what_its_letters_and_scores_say(manifest, tmp_path, name):
    given = answers(manifest)
    found = score_submission(handed_in(given, tmp_path / name), manifest)
    rows = instances(manifest[manifest["split"] == "test"])
    both = rows.merge(given, on=["sample_id", "coalition"])
    both["label_pred"] = both["letter"].map(LETTERS.index)
    for subset, part in (
        ("overall", both),
        ("align", both[both["subset"] == "align"]),
        ("missing", both[both["subset"].str.startswith("missing")]),
    ):
        own = found.table1[found.table1["subset"] == subset].set_index("metric")
        assert own.loc["acc5", "value"] == pytest.approx(
            (both.label_pred == both.label_gt)[part.index].mean()
        )
        mae = (part["score"] - part["score_gt"]).abs().mean()
        assert own.loc["mae", "value"] == pytest.approx(mae)
        assert own.loc["acc5", "n"] == len(part)
        assert (own["low"] <= own["value"]).all() and (own["value"] <= own["high"]).all()
    assert found.lost.empty and found.psmv is None and found.gtar is None


def test_with_all_eight_coalitions_psmv_and_gtar_come_too(manifest, tmp_path):
    found = score_submission(
        handed_in(answers(manifest, coalitions=COALITIONS), tmp_path / "a.csv"), manifest
    )
    assert set(found.psmv["subset"]) == {"align", "conflict"}
    assert set(found.gtar["setting"]) == {"conflict", "missing_conflict"}


def test_failures_are_neither_right_nor_wrong_and_are_listed(manifest, tmp_path):
    given = answers(manifest)
    failed = given.index[::7]
    spoiled = given.assign(failure=None)
    spoiled.loc[failed, ["letter", "score"]] = None
    spoiled.loc[failed, "failure"] = "the service timed out"
    found = score_submission(handed_in(spoiled, tmp_path / "a.csv"), manifest)
    assert len(found.lost) == len(failed) and (found.lost["outcome"] == "failed").all()
    counts = found.counts.set_index("subset")
    assert counts.loc["overall", "failed"] == len(failed)
    overall = found.table1[found.table1["subset"] == "overall"].set_index("metric")
    assert overall.loc["acc5", "n"] == len(given) - len(failed)
    truth = manifest.set_index("sample_id")["label_gt"]
    rest = given.drop(failed)
    right = rest["letter"].map(LETTERS.index) == rest["sample_id"].map(truth)
    assert overall.loc["acc5", "value"] == pytest.approx(right.mean())


def test_replies_are_read_as_any_systems_are_and_what_cannot_be_read_is_lost(manifest, tmp_path):
    given = answers(manifest)
    texts = [
        reply(LETTERS.index(k), s) for k, s in zip(given["letter"], given["score"], strict=True)
    ]
    texts[0] = "I would rather not say."
    replies = given[["sample_id", "coalition"]].assign(reply=texts)
    found = score_submission(handed_in(replies, tmp_path / "a.jsonl"), manifest)
    assert found.lost["outcome"].tolist() == ["unparseable"]
    same = score_submission(handed_in(given.drop(index=0).pipe(
        lambda f: pd.concat([f, given.iloc[:1].assign(letter=None, score=None, failure="none")])),
        tmp_path / "b.jsonl"), manifest)  # fmt: skip
    pd.testing.assert_frame_equal(found.table1, same.table1)


def test_a_score_alone_is_the_class_of_the_nearest_one_that_the_corpus_allows(manifest, tmp_path):
    """0.6 is a weak positive in CH-SIMS and a positive in CMU-MOSI."""
    given = answers(manifest)[["sample_id", "coalition"]].assign(score=0.57)
    found = score_submission(handed_in(given, tmp_path / "a.csv"), manifest)
    rows = instances(manifest[manifest["split"] == "test"])
    label = rows["corpus"].map({Corpus.CH_SIMS.value: 3, Corpus.CMU_MOSI.value: 4})
    overall = found.table1.set_index(["subset", "metric"])
    expected = (label == rows["label_gt"]).mean()
    assert overall.loc[("overall", "acc5"), "value"] == pytest.approx(expected)


DEFECTS = {
    "unknown id": (lambda f: f.assign(sample_id=["nobody", *f["sample_id"][1:]]),
                   "1 answers are of a clip that the benchmark does not have: line 2 (nobody TAV)."),
    "double": (lambda f: pd.concat([f, f.iloc[[3]]]),
               "1 answers are of an instance that was answered before: line "),
    "gap": (lambda f: f.iloc[1:], "1 of {n} instances have no answer, first "),
    "half a coalition": (lambda f: pd.concat([f, f.iloc[[0]].assign(coalition="T")]),
                         "instances have no answer, first "),
}  # fmt: skip


@pytest.mark.parametrize("kind", DEFECTS)
def test_each_kind_of_defect_gets_one_sentence_that_says_where(manifest, tmp_path, kind):
    spoil, said = DEFECTS[kind]
    frame = handed_in(spoil(answers(manifest)), tmp_path / "a.csv")
    found = defects(frame, manifest)
    n = 4 * (manifest["split"] == "test").sum()
    assert any(said.format(n=n) in sentence for sentence in found)
    assert len(found) == (2 if kind == "unknown id" else 1)
    with pytest.raises(SubmissionError) as raised:
        score_submission(frame, manifest)
    assert all(sentence in str(raised.value) for sentence in found)


def test_answers_to_clips_that_were_not_asked_are_refused(manifest, tmp_path):
    both = pd.concat([answers(manifest), answers(manifest, "valid").iloc[:2]])
    [sentence] = defects(handed_in(both, tmp_path / "a.csv"), manifest)
    assert sentence.startswith("2 answers are of a clip that is not in the split test")
    assert not defects(handed_in(answers(manifest, "valid"), tmp_path / "b.csv"), manifest, "valid")
    with pytest.raises(ValueError, match="split is one of"):
        defects(handed_in(both, tmp_path / "c.csv"), manifest, "tests")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"coalition": "TAV", "letter": "A"}, "'sample_id' is a required property"),
        ({"sample_id": "a", "coalition": "VT", "letter": "A"}, "coalition: 'VT' is not one of"),
        ({"sample_id": "a", "coalition": "TAV", "letter": "a"}, "letter: 'a' is not one of"),
        ({"sample_id": "a", "coalition": "TAV", "score": 1.2}, "score: 1.2 is greater than"),
        ({"sample_id": "a", "coalition": "TAV", "score": "high"}, "score: 'high' is not of type"),
        ({"sample_id": "a", "coalition": "TAV"}, "there is no answer; give one of letter, score"),
        ({"sample_id": "a", "coalition": "TAV", "letter": "A", "logit_a": 1.0}, "all five logits"),
        ({"sample_id": "a", "coalition": "TAV", "letter": "A", "mood": 1}, "'mood' was unexpected"),
        (["a", "TAV", "A"], "is not of type 'object'"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_of_the_schema_is_named_by_its_line(tmp_path, row, said):
    path = tmp_path / "answers.jsonl"
    good = {"sample_id": "a", "coalition": "TAV", "letter": "A"}
    path.write_text("\n".join(map(json.dumps, [good, row])), encoding="utf-8")
    with pytest.raises(SubmissionError) as raised:
        read_submission(path)
    [sentence] = raised.value.found
    assert sentence.startswith("Line 2: ") and said in sentence


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "", "It holds no answer."),
        ("a.csv", "sample_id,coalition,letter\n", "It holds no answer."),
        ("a.csv", "sample_id,coalition,letter\na,TAV,A,B\n", "cells without a column"),
        ("a.csv", "sample_id,coalition,score\na,TAV,nan\n", "score: 'nan' is not of type"),
        ("a.csv", 'sample_id,coalition,letter\na,TAV,"A\n', "cannot be read"),
        ("a.jsonl", '{"sample_id": "a"\n', "cannot be read"),
        ("a.jsonl", '{"sample_id": "a", "coalition": "TAV", "score": NaN}\n', "NaN is no JSON"),
        ("a.xlsx", "x", "The name ends in .csv or .jsonl"),
        ("a.csv", b"sample_id,coalition,letter\n\xff,TAV,A\n", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SubmissionError) as raised:
        read_submission(path)
    assert said in str(raised.value) and name in str(raised.value)
    assert not [line for line in str(raised.value).splitlines() if "Traceback" in line]


def test_a_file_with_a_thousand_defects_does_not_say_a_thousand_sentences(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sample_id,coalition,letter\n" + "a,TAV,Z\n" * 1000)
    with pytest.raises(SubmissionError) as raised:
        read_submission(path)
    assert len(raised.value.found) == 21 and raised.value.found[-1] == "And 980 more."


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_what_an_experiment_writes_is_read_back_and_scores_the_same(manifest, data):
    given_ = answers(manifest, seed=data.draw(st.integers(0, 99)))
    n = len(given_)
    free = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    label = given_["letter"].map(LETTERS.index).astype("Int64")
    texts = [reply(int(k), s) if f else None
             for k, s, f in zip(label, given_["score"], free, strict=True)]  # fmt: skip
    predictions = given_.assign(
        label=label, reply=texts, failure=None, **{f"logit_{k}": np.nan for k in "abcde"}
    )
    predictions.loc[predictions.index[:3], ["label", "score", "reply", "failure"]] = (
        pd.NA, np.nan, None, "no picture")  # fmt: skip
    predictions.loc[predictions.index[3], ["label", "score", "reply"]] = (pd.NA, np.nan, "")
    tables = []
    for suffix in (".csv", ".jsonl"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "answers" + suffix)
            write_submission(path, predictions)
            found = score_submission(read_submission(path), manifest)
        assert len(found.lost) == 4
        assert (found.lost["outcome"] == "unparseable").sum() == 1
        tables.append(found.table1)
    pd.testing.assert_frame_equal(*tables)
    known = predictions.iloc[4:].merge(instances(manifest), on=["sample_id", "coalition"])
    known = known.rename(columns={"label": "label_pred", "score": "score_pred"})
    known["label_pred"] = known["label_pred"].astype("int64")
    mine = score_frame(known.assign(every="x"), ["every"], ("acc5",)).iloc[0]["value"]
    overall = tables[0].set_index(["subset", "metric"])
    assert overall.loc[("overall", "acc5"), "value"] == pytest.approx(mine)


def test_the_schema_names_the_columns_of_a_submission_and_no_other():
    assert set(schema()["properties"]) == set(COLUMNS)
    assert schema()["properties"]["coalition"]["enum"] == list(COALITIONS)
