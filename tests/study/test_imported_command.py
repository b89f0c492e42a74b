"""Benchmarks of others from folder to score on the command line, with a system that knows nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from imported_folders import films, mer_unibench, missrag
from sklearn.metrics import accuracy_score, f1_score

from emomm_lib import Bootstrap
from emomm_lib.labels import COALITIONS, LABEL_SETS, MELD7, MER6
from emomm_study.command.main import main
from emomm_study.corpora.imported.benchmark import read_imported
from emomm_study.corpora.imported.listed import load_listed
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.store import PredictionStore
from emomm_study.exchange.imported import score_imported
from emomm_study.exchange.submission import SubmissionError, read_submission, schema
from emomm_study.systems.interface import Encoded
from emomm_study.systems.prompts import instruction

ECHO = ["--system", "driver:echo"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path / "cache"))


def check_scores(asked: dict, answers: Path, manifest: Path) -> None:
    """What was scored is what scikit-learn makes of the letters in the file of answers."""
    benchmark = read_imported(manifest)
    given = read_submission(answers, benchmark.labels)
    both = given.merge(benchmark.clips, on="sample_id", suffixes=("", "_clip"))
    spoken = both["reply"].where(both["reply"].notna(), both["letter"])
    both = both.assign(said=[ord(text[0]) - ord("A") for text in spoken])
    for row in asked["scores"]:
        part = both[both["coalition"] == row["coalition"]]
        if row["subset"] != "overall":
            part = part[part["subset"] == row["subset"]]
        truth, said = part["label_gt"], part["said"]
        expected = {
            "acc": accuracy_score(truth, said),
            "f1": f1_score(truth, said, average="macro", zero_division=0),
            "weighted_f1": f1_score(truth, said, average="weighted", zero_division=0),
        }
        if row["metric"] in expected:
            assert row["value"] == pytest.approx(expected[row["metric"]]) and row["n"] == len(part)


def test_a_set_of_mer_unibench_goes_from_its_folder_to_its_scores(found, refused, tmp_path):
    entries = {
        "test1_corpus": {f"sample_{i:08d}": {"emo": i % 6, "val": -10} for i in range(9)},
        "test2_corpus": {f"sample_1{i:07d}": {"emo": "sad", "val": 0.5} for i in range(3)},
    }
    folder = mer_unibench(tmp_path / "data", "mer2023", entries)
    out = tmp_path / "mer2023"
    line = ["import", "mer-unibench", str(tmp_path / "data"), "--dataset", "mer2023"]
    brought = found(*line, "--out", str(out))
    assert brought["clips"] == 12 and brought["labels"] == "mer6"
    assert brought["root"] == str(folder) and brought["classes"]["sad"] == 4
    assert {path.name for path in out.iterdir()} == {"manifest.parquet", "excluded.csv"}
    manifest, answers = out / "manifest.parquet", tmp_path / "answers.csv"
    ask = ["evaluate", "--benchmark", str(manifest), "--root", str(folder), *ECHO]
    asked = found(*ask, "--out", str(answers), "--coalitions", "TAV,V")
    assert asked["decoding"] == "free" and asked["lost"] == [] and asked["labels"] == "mer6"
    assert {row["subset"] for row in asked["scores"]} == {"overall", "test1", "test2"}
    assert {row["metric"] for row in asked["scores"]} == {"acc", "f1", "weighted_f1"}
    check_scores(asked, answers, manifest)
    tables = tmp_path / "tables"
    again = found("score", str(answers), "--benchmark", str(manifest), "--out", str(tables))
    assert again["scores"] == asked["scores"] and again["psmv"] is None
    assert {path.name for path in tables.iterdir()} == {"scores.csv", "counts.csv", "lost.csv"}
    export = ["export", "huggingface", "--benchmark", str(manifest), "--out", str(tmp_path / "hf")]
    assert "theirs to pass on" in refused(*export, "--note", "x", "--terms", "MIT")
    part = found(*ask, "--out", str(answers), "--coalitions", "TAV", "--clips", "5")
    assert part["clips"] == 5
    assert "no clip of the split train; it has test" in refused(
        *ask, "--out", str(answers), "--split", "train"
    )
    assert "needs the folder of its films" in refused(*ask[:3], *ECHO, "--out", str(answers))
    assert "is of an imported benchmark" in refused(
        "evaluate", "--benchmark", str(answers), "--root", "x", *ECHO, "--out", str(answers)
    )


def test_missrag_goes_through_by_its_own_classes_and_by_emomms(found, tmp_path, capsys):
    values = [2.4, 0.0, -1.2, -0.4, 0.4, 3.0]
    rows = [(f"v{i}", "1", f"remark {i}", value, "", "test") for i, value in enumerate(values)]
    root = missrag(tmp_path / "mosi", rows)
    out = tmp_path / "out"
    line = ["import", "missrag", str(root), "--out", str(out)]
    manifest, answers = out / "manifest.parquet", tmp_path / "answers.jsonl"
    ask = [
        "evaluate",
        "--benchmark",
        str(manifest),
        "--root",
        str(root),
        *ECHO,
        "--out",
        str(answers),
    ]
    assert found(*line)["labels"] == "sentiment3"
    every = ",".join(COALITIONS)
    asked = found(*ask, "--coalitions", every)
    assert {row["metric"] for row in asked["scores"]} >= {"acc", "acc2", "weighted_f1"}
    assert {row["modality"] for row in asked["psmv"]} == {*"TAV"} and asked["gtar"] is None
    check_scores(asked, answers, manifest)
    two = found(*line, "--labels", "sentiment2")
    assert two["dropped"] == 1 and two["clips"] == 5
    check_scores(found(*ask, "--coalitions", "TA"), answers, manifest)
    assert found(*line, "--labels", "sentiment5")["labels"] == "sentiment5"
    five = found(*ask)
    assert five["decoding"] == "constrained"
    assert {row["metric"] for row in five["scores"]} >= {"acc", "acc2", "mae"}
    assert pd.read_json(answers, lines=True)["letter"].isin([*"ABCDE"]).all()
    free = found(*ask, "--free", "--coalitions", "TV")
    assert free["decoding"] == "free" and free["lost"] == []
    capsys.readouterr()
    assert main(["score", str(answers), "--benchmark", str(manifest)]) == 0
    assert "MissRAG, CMU-MOSI by sentiment5, with 95% intervals" in capsys.readouterr().out


def test_a_csv_without_transcripts_is_asked_for_what_it_has(found, refused, tmp_path):
    rows = [{"name": f"c{i}", "subset": ["audio", "video"][i % 2], "label": i % 6,
             "video": f"films/c{i}.mp4"} for i in range(6)]  # fmt: skip
    films(tmp_path / "films", [f"c{i}" for i in range(6)])
    path, out = tmp_path / "ca-mer.csv", tmp_path / "out"
    pd.DataFrame(rows).to_csv(path, index=False)
    line = ["import", "csv", str(path), "--root", str(tmp_path), "--out", str(out), "--labels"]
    brought = found(*line, "mer6")
    assert brought["modalities"] == "AV" and brought["benchmark"] == "ca-mer"
    manifest, answers = out / "manifest.parquet", tmp_path / "a.csv"
    ask = ["evaluate", "--benchmark", str(manifest), "--root", str(tmp_path), *ECHO,
           "--out", str(answers)]  # fmt: skip
    assert "has no transcripts, so TAV, TA, TV cannot be asked" in refused(*ask)
    check_scores(found(*ask, "--coalitions", "AV,A,V"), answers, manifest)
    assert "is no set of labels" in refused(*line, "rage")
    assert "ninth letter" in refused(*line, "a1,b1,c1,d1,e1,f1,g1,h1,i1")
    own = found(*line, "calm,b,c,d,e,f", "--name", "mine")
    assert own["benchmark"] == "mine" and own["labels"] == "listed"


def test_a_malicious_label_file_ends_the_command_with_a_sentence(refused, tmp_path):
    folder = mer_unibench(tmp_path, "meld", {"test_corpus": {"a": {"emo": 1, "val": -10}}})

    class Evil:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "ran",)

    np.savez(folder / "label.npz", test_corpus=np.array({"a": Evil()}, dtype=object))
    line = ["import", "mer-unibench", str(tmp_path), "--dataset", "meld"]
    said = refused(*line, "--out", str(tmp_path / "out"))
    assert "label.npz, entry test_corpus" in said and "pathlib" in said
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()
    line[-1] = "ov-merd"
    assert "open vocabulary" in refused(*line, "--out", str(tmp_path / "out"))


# Scores


@pytest.fixture
def benchmark(tmp_path):
    """Twelve clips with labels of their modalities."""
    labels = np.random.default_rng(0).integers(0, 7, (12, 4))
    names = ["label", "label_T", "label_A", "label_V"]
    frame = pd.DataFrame(labels, columns=names).astype(str)
    frame = frame.assign(name=[f"c{i}" for i in range(12)], subset="s", text="well")
    frame = frame.assign(video="f.mp4", split=["test"] * 10 + ["valid"] * 2)
    frame.to_csv(tmp_path / "b.csv", index=False)
    return load_listed(tmp_path / "b.csv", tmp_path, MELD7, check_media=False)


def handed_in(benchmark, path: Path, coalitions=("TAV",), seed=0, **changes):
    clips = benchmark.clips[benchmark.clips["split"] == "test"]
    rows = clips[["sample_id"]].merge(pd.DataFrame({"coalition": list(coalitions)}), how="cross")
    letters = np.random.default_rng(seed).choice([*"ABCDEFG"], len(rows))
    rows.assign(**({"letter": letters} | changes)).to_csv(path, index=False)
    return path


def test_a_random_system_has_psmv_and_gtar_where_modalities_are_labelled(benchmark, tmp_path):
    path = handed_in(benchmark, tmp_path / "a.csv", COALITIONS)
    scores = score_imported(read_submission(path, MELD7), benchmark, bootstrap=Bootstrap(20))
    assert benchmark.unimodal and scores.gtar is not None and scores.psmv is not None
    given = pd.read_csv(path, keep_default_na=False).merge(benchmark.clips, on="sample_id")
    right = given["letter"].map("ABCDEFG".index) == given["label_gt"]
    means = right.groupby(given["coalition"]).mean()
    own = scores.psmv[scores.psmv["quantity"] == "psmv"]["value"].sum()
    assert own == pytest.approx(means["TAV"] - means["none"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"letter": "H"}, "'H' is not one of ['A', 'B', 'C', 'D', 'E', 'F', 'G']"),
        ({"score": 0.4}, "'score' was unexpected"),
        ({"letter": ""}, "there is no answer; give one of letter"),
        ({"coalition": "VT"}, "'VT' is not one of"),
    ],
)
def test_a_row_that_is_none_of_its_labels_is_refused_in_a_sentence(
    benchmark, tmp_path, changes, said
):
    path = handed_in(benchmark, tmp_path / "a.csv", **changes)
    with pytest.raises(SubmissionError) as error:
        read_submission(path, MELD7)
    assert said in str(error.value) and "Line 2" in str(error.value)


def test_gaps_doubles_and_strangers_are_refused(benchmark, tmp_path):
    path = handed_in(benchmark, tmp_path / "a.csv", ("TAV", "T"))
    whole = read_submission(path, MELD7)
    cases = {
        "1 of 20 instances have no answer, first": whole.drop(index=3),
        "of an instance that was answered before": pd.concat([whole, whole.head(1)]),
        "of a clip that the benchmark does not have": whole.replace({"b/c0": "b/x"}),
        "is not in the split test": whole.replace({"b/c0": "b/c11"}),
    }
    for said, frame in cases.items():
        with pytest.raises(SubmissionError, match=said):
            score_imported(frame.reset_index(drop=True), benchmark)
    failed = whole.assign(letter=np.nan, failure="no sound")
    with pytest.raises(SubmissionError, match="No instance has an answer that can be scored"):
        score_imported(failed, benchmark)


def test_failures_and_what_cannot_be_read_are_listed_and_not_scored(benchmark, tmp_path):
    path = handed_in(benchmark, tmp_path / "a.csv")
    frame = read_submission(path, MELD7).astype(object)
    frame.loc[0, ["letter", "failure"]] = [np.nan, "no sound"]
    frame.loc[1, ["letter", "reply"]] = [np.nan, "hard to say"]
    frame.loc[2, ["letter", "reply"]] = [np.nan, "joy"]
    scores = score_imported(frame, benchmark, bootstrap=Bootstrap(20))
    assert scores.counts.to_dict("records") == [
        {"coalition": "TAV", "asked": 10, "failed": 1, "unparseable": 1}
    ]
    assert scores.scores["n"].eq(8).all() and set(scores.lost["outcome"]) == {
        "failed",
        "unparseable",
    }


def test_the_schema_of_other_labels_has_their_letters_and_no_scores():
    own = schema(MER6)["properties"]
    assert own["letter"]["enum"] == [*"ABCDEF"] and "score" not in own and "logit_a" not in own
    assert (
        schema()["properties"]["letter"]["enum"] == [*"ABCDE"] and "score" in schema()["properties"]
    )


# A system


class Recites:
    """A system that writes what it is told to, whatever it is asked; keeps the prompts' labels."""

    fingerprint, one_by_one = "recites", False

    def __init__(self, said: str) -> None:
        import torch

        self.said, self.asked, self.device = said, [], torch.device("cpu")

    def settings(self):
        return {"model": self.fingerprint, "said": self.said}

    def encode(self, clips):
        return [Encoded(None, None, None, None) for _ in clips]

    def answer(self, queries, *, trace=False, states=False):
        raise AssertionError("other labels are never asked for by letter logits")

    def reply(self, queries):
        self.asked += [query.corpus for query in queries]
        return [self.said] * len(queries)


def test_a_system_is_asked_for_the_benchmarks_labels_and_its_answers_are_kept_apart(
    benchmark, tmp_path
):
    films(tmp_path, ["f"])
    store, roots = PredictionStore(tmp_path / "p.sqlite"), {"b": tmp_path}
    system = Recites("sadness")
    bench = Experiment(system, benchmark.clips, roots, store, processes=1, progress=False)
    found = bench.predictions(benchmark.clips, ["T"], decoding="free", labels=MELD7)
    assert found["label"].eq(2).all() and set(system.asked) == {MELD7}
    assert "sadness" in instruction("T", system.asked[0])
    bench.predictions(benchmark.clips, ["T"], decoding="free", labels=MELD7)
    assert len(system.asked) == len(benchmark.clips)
    other = bench.predictions(benchmark.clips, ["T"], decoding="free", labels=LABEL_SETS["mer6"])
    assert len(system.asked) == 2 * len(benchmark.clips) and other["label"].eq(3).all()
    with pytest.raises(ValueError, match="meld7 is asked for in free text alone"):
        bench.predictions(benchmark.clips, ["T"], labels=MELD7)
