"""Benchmarks of others: what is read of their folders, what is refused, and what never runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from imported_folders import films, mer_unibench, missrag, npz_of_pickles, sounds

from emomm_lib.labels import (
    IEMOCAP4,
    LABEL_SETS,
    MELD7,
    MER6,
    SENTIMENT2,
    SENTIMENT3,
    SENTIMENT5,
    LabelSet,
)
from emomm_study.corpora.checks import CorpusError
from emomm_study.corpora.imported.benchmark import (
    is_imported,
    read_imported,
    write_imported,
)
from emomm_study.corpora.imported.listed import label_set, load_listed
from emomm_study.corpora.imported.mer_unibench import DATASETS, load_mer_unibench
from emomm_study.corpora.imported.missrag import load_missrag
from emomm_study.corpora.imported.unpickle import read_pickled
from emomm_study.corpora.manifest import subset
from emomm_study.corpora.scores import score_to_label

EVERY = lambda name: True  # noqa: E731


def problems(benchmark) -> dict[str, str]:
    """What was said of each clip that was left out, by its name."""
    report = benchmark.report
    names = report["sample_id"].str.rsplit("/", n=1).str[-1]
    return {name: f"{p}; {e}" for name, p, e in zip(names, report["problem"], report["expected"], strict=True)}  # fmt: skip


# Pickles


class Runs:
    """Unpickled by the ordinary way, it runs a function."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "more", "name"),
    [
        (os.mkdir, (), rf"{os.mkdir.__module__}\.mkdir"),
        (exec, (), r"(builtins|__builtin__)\.exec"),
        (os.system, (), rf"{os.system.__module__}\.system"),
        (np.save, (np.zeros(1),), r"numpy\.save"),
    ],
    ids=["mkdir", "exec", "system", "numpy.save"],
)
def test_a_malicious_pickle_is_refused_by_name_and_nothing_of_it_is_run(
    tmp_path, monkeypatch, protocol, function, more, name
):
    monkeypatch.chdir(tmp_path)
    told = {exec: "import os; os.mkdir('ran')", os.system: "mkdir ran"}.get(function, "ran")
    held = {"a": Runs(function, told, *more)}
    # Older protocols write an array's bytes by a function of their own.
    evil = pickle.dumps(held if protocol < 3 else np.array(held, dtype=object), protocol)
    path = npz_of_pickles(tmp_path / "label.npz", {"test_corpus": evil})
    with pytest.raises(CorpusError, match=name) as refusal:
        read_pickled(path, EVERY)
    assert "label.npz, entry test_corpus" in str(refusal.value)
    assert "before anything of it was run" in str(refusal.value)
    assert [own.name for own in tmp_path.iterdir()] == ["label.npz"]
    # The file does run something where it is opened as numpy would.
    if function in (os.mkdir, exec) and protocol >= 3:
        np.load(path, allow_pickle=True)["test_corpus"]
        assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize(
    "stream",
    [
        b"cnumpy\nndarray.tofile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"cnumpy._core.multiarray\n__dict__\n.",
        b"cnumpy\nload\n(Vx\ntR.",
        b"(Vx\niposix\nsystem\n.",
        b"Ppid\n.",
        b"\x82\x01.",
    ],
)
def test_no_way_of_asking_for_a_name_gets_another_than_the_four(tmp_path, stream):
    path = npz_of_pickles(tmp_path / "label.npz", {"test_corpus": stream})
    with pytest.raises(
        CorpusError, match="label.npz, entry test_corpus: (its pickle asks|a damaged)"
    ):
        read_pickled(path, EVERY)


@given(st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_whatever_a_stream_holds_it_is_read_or_refused_in_a_sentence(tmp_path, stream):
    path = npz_of_pickles(tmp_path / "label.npz", {"test_corpus": stream})
    try:
        read_pickled(path, EVERY)
    except CorpusError as error:
        assert "label.npz, entry test_corpus" in str(error)


@pytest.mark.parametrize("old", [False, True], ids=["numpy 2", "numpy 1"])
def test_a_label_file_of_either_numpy_is_read_as_numpy_reads_it(tmp_path, old):
    entry = {"a": {"emo": np.int64(3), "val": np.float64(-10)}, "b": {"emo": 1, "val": -0.4}}
    folder = mer_unibench(tmp_path, "meld", {"test_corpus": entry}, old=old)
    found = read_pickled(folder / "label.npz", EVERY)["test_corpus"]
    by_numpy = np.load(folder / "label.npz", allow_pickle=True)["test_corpus"].item()
    assert found == by_numpy == entry and type(found["a"]["emo"]) is np.int64


def test_entries_that_are_not_wanted_are_never_opened(tmp_path):
    evil = pickle.dumps(Runs(os.mkdir, str(tmp_path / "ran")))
    good = pickle.dumps(np.array({"a": 1}, dtype=object))
    path = npz_of_pickles(tmp_path / "label.npz", {"other": evil, "test_corpus": good})
    assert read_pickled(path, lambda name: name == "test_corpus") == {"test_corpus": {"a": 1}}


def test_a_file_that_is_no_label_file_is_said_to_be_none(tmp_path, monkeypatch):
    path = tmp_path / "label.npz"
    with pytest.raises(CorpusError, match="no such file"):
        read_pickled(path, EVERY)
    path.write_bytes(b"not a zip")
    with pytest.raises(CorpusError, match="not a readable npz file"):
        read_pickled(path, EVERY)
    np.savez(path, test_corpus=np.arange(3))
    with pytest.raises(CorpusError, match=r"an array of shape \(3,\).*expected one pickled"):
        read_pickled(path, EVERY)
    np.savez(path, test_corpus=np.array({"a": "b" * 5000}, dtype=object))
    monkeypatch.setattr("emomm_study.corpora.imported.unpickle.LARGEST", 4000)
    with pytest.raises(CorpusError, match="unpacks to"):
        read_pickled(path, EVERY)


# MER-UniBench


def emotions(count, first=0, subset="test"):
    return {f"{subset}_dia{i}_utt0": {"emo": (first + i) % 7, "val": -10} for i in range(count)}


def test_a_set_of_emotions_has_its_makers_splits_classes_and_files(tmp_path):
    entries = {"train_corpus": emotions(2, subset="train"), "val_corpus": emotions(1, subset="val"),
               "test_corpus": emotions(7)}  # fmt: skip
    folder = mer_unibench(tmp_path, "meld", entries)
    for root in (tmp_path, folder):
        found = load_mer_unibench(root, "meld")
        assert found.labels == MELD7 and found.excluded == found.dropped == 0
        assert found.clips["split"].value_counts().to_dict() == {"test": 7, "train": 2, "valid": 1}
        row = found.clips.set_index("sample_id").loc["mer-unibench-meld/test_dia3_utt0"]
        assert row["label_gt"] == 3 and row["text"] == "remark 6"
        assert row["video_path"] == "subvideo/test_dia3_utt0.mp4"
        assert row["audio_path"] == "subaudio/test_dia3_utt0.wav"
        assert found.modalities == "TAV" and not found.unimodal


def test_sentiment_is_the_sign_and_zeros_are_dropped_as_the_makers_metric_does(tmp_path):
    values = [-1.0, -0.2, 0.0, 0.4, 1.0, "0.6", 0, np.float32(-0.8)]
    entry = {f"v_{i}": {"emo": 0, "val": value} for i, value in enumerate(values)}
    mer_unibench(tmp_path, "ch-sims-v2", {"test_corpus": entry})
    found = load_mer_unibench(tmp_path, "ch-sims-v2")
    assert found.labels == SENTIMENT2 and (found.dropped, found.excluded) == (2, 0)
    # What their code compares: val > 0 where val is not 0.
    expected = {f"v_{i}": int(float(v) > 0) for i, v in enumerate(values) if float(v) != 0}
    got = found.clips.set_index(found.clips["sample_id"].str.split("/").str[-1])["label_gt"]
    assert got.to_dict() == expected


def test_names_and_numbers_of_emotions_mean_the_same_class(tmp_path):
    names = ["neutral", "angry", "happy", "sad", "worried", "surprise"]
    entry = {
        f"sample_{i:08d}": {"emo": emo, "val": -10} for i, emo in enumerate([*names, *range(6)])
    }
    mer_unibench(tmp_path, "mer2023", {"test3_corpus": entry}, ending=".avi", with_sounds=False)
    found = load_mer_unibench(tmp_path, "mer2023", check_media=False)
    assert found.labels == MER6 and found.clips["subset"].eq("test3").all()
    assert found.clips["label_gt"].tolist() == [*range(6), *range(6)]
    assert (found.clips["audio_path"] == found.clips["video_path"]).all()
    assert found.clips["video_path"].str.endswith(".avi").all()


def test_what_is_not_divided_is_asked_as_a_whole(tmp_path):
    entry = {f"Ses0{i}F_impro01_F000": {"emo": i % 4, "val": -10} for i in range(1, 5)}
    mer_unibench(tmp_path, "iemocap", {"whole_corpus": entry})
    found = load_mer_unibench(tmp_path, "iemocap")
    assert found.labels == IEMOCAP4 and found.clips["split"].eq("test").all()
    assert found.clips["label_gt"].tolist() == [1, 2, 3, 0]


def test_each_kind_of_bad_entry_is_left_out_with_a_reason(tmp_path):
    good = {"emo": 1, "val": -10}
    entry = {"fine": good, "seven": {"emo": 7, "val": -10}, "below": {"emo": -1}, "half": {"emo": 1.5},
             "yes": {"emo": True}, "word": {"emo": "rage"}, "none": {"val": 0.2}, "list": [1, 2],
             "../up": good, "sp ace": good, "mute": good, "twice": good, "filmless": good,
             3: good, "two": good, "cut": good}  # fmt: skip
    texts = {str(name): "well" for name in entry if name != "mute"}
    folder = mer_unibench(
        tmp_path, "meld", {"test_corpus": {k: v for k, v in entry.items() if k != "../up"},
                           "train_corpus": {"twice": good}}, texts=texts,
    )  # fmt: skip
    np.savez(folder / "label.npz", test_corpus=entry, train_corpus={"twice": good})
    (folder / "subvideo" / "filmless.mp4").unlink()
    films(folder / "subvideo", ["two"], ".mkv")
    (folder / "subvideo" / "cut.mp4").unlink()
    (folder / "subvideo" / "cut.mp4").write_bytes(b"no film")
    found = load_mer_unibench(folder, "meld")
    assert found.clips["sample_id"].tolist() == ["mer-unibench-meld/fine"]
    assert found.excluded == len(entry)
    said = "\n".join(found.report["problem"] + "; " + found.report["expected"])
    for words in ("emo is 7", "emo is -1", "emo is 1.5", "emo is True", "emo is 'rage'", "no emo in",
                  "no emo in [1, 2]", "name is '../up'", "name is 'sp ace'", "no english transcript of mute",
                  "and of another entry", "no film of filmless", "a name that is no text", "two films (",
                  "cut.mp4: unreadable"):  # fmt: skip
        assert words in said
    assert set(found.report["file"]) == {"label.npz"}


def test_sentiments_that_are_none_are_left_out_with_a_reason(tmp_path):
    bad = [-10, float("nan"), "x", None, True, 4.0, {"a": 1}]
    entry = {f"v_{i}": {"emo": 0, "val": value} for i, value in enumerate([0.4, *bad])}
    mer_unibench(tmp_path, "cmu-mosi", {"test_corpus": entry})
    found = load_mer_unibench(tmp_path, "cmu-mosi")
    assert len(found.clips) == 1 and found.excluded == len(bad) and found.dropped == 0
    assert found.report["expected"].eq("a sentiment in [-3, 3]").all()


def test_what_cannot_be_read_as_a_set_is_said_in_a_sentence(tmp_path):
    with pytest.raises(CorpusError, match="open vocabulary.*not scored here"):
        load_mer_unibench(tmp_path, "ov-merd+")
    with pytest.raises(CorpusError, match="no set 'mosi' here; there are cmu-mosi"):
        load_mer_unibench(tmp_path, "mosi")
    with pytest.raises(CorpusError, match="meld-process/transcription"):
        load_mer_unibench(tmp_path, "meld")
    folder = mer_unibench(tmp_path, "meld", {"test_corpus": emotions(1)})
    np.savez(folder / "label.npz", some_corpus=np.array({}, dtype=object))
    with pytest.raises(CorpusError, match="no entry of it is one of train_corpus"):
        load_mer_unibench(folder, "meld")
    np.savez(folder / "label.npz", test_corpus=np.array("x", dtype=object))
    with pytest.raises(CorpusError, match="a str; expected a dictionary"):
        load_mer_unibench(folder, "meld")
    np.savez(folder / "label.npz", test_corpus=np.array({}, dtype=object))
    with pytest.raises(CorpusError, match="hold no clip"):
        load_mer_unibench(folder, "meld")
    np.savez(folder / "label.npz", test_corpus=emotions(1))
    (folder / DATASETS["meld"].transcription).unlink()
    with pytest.raises(CorpusError, match="transcription-engchi-polish.csv: no such file"):
        load_mer_unibench(folder, "meld")


# MissRAG

ROWS = [
    ("abc", "1", "good", 2.4, "Positive", "test"),
    ("abc", "2", "meh", 0.0, "Neutral", "test"),
    ("x-_9", "10", "bad", -1.2, "Negative", "test"),
    ("x-_9", "11", "bad", -0.4, "Negative", "train"),
]


def test_missrag_is_mmsas_layout_of_one_mode_with_sound_apart(tmp_path):
    found = load_missrag(missrag(tmp_path, ROWS))
    assert found.labels == SENTIMENT3 and found.clips["label_gt"].tolist() == [2, 1, 0]
    assert found.clips["split"].eq("test").all() and found.excluded == 0
    assert found.clips["audio_path"][0] == "Raw_audio/abc/1.wav"
    both = load_missrag(tmp_path, mode="all", labels=SENTIMENT2)
    assert both.clips["label_gt"].tolist() == [1, 0, 0] and both.dropped == 1
    five = load_missrag(tmp_path, labels=SENTIMENT5)
    assert five.with_scores and not found.with_scores
    assert (score_to_label(five.clips["score_gt"], "cmu_mosi") == five.clips["label_gt"]).all()
    assert five.clips["score_gt"].tolist() == [0.8, 0.0, -0.4]


def test_where_there_is_no_sound_apart_it_is_the_films(tmp_path):
    found = load_missrag(missrag(tmp_path, ROWS, apart=False))
    assert (found.clips["audio_path"] == found.clips["video_path"]).all()


def test_each_kind_of_bad_row_of_missrag_is_left_out_with_a_reason(tmp_path):
    bad = [
        ("b", "1", "x", 1.0, "Negative", "test"), ("b", "2", "x", 9.0, "", "test"),
        ("b", "3", "x", "good", "", "test"), ("b", "4", "", 1.0, "", "test"),
        ("b", "5", "x", 1.0, "", "dev"), ("..", "6", "x", 1.0, "", "test"),
        ("b", "7", "x", 1.0, "", "test"), ("b", "7", "y", 1.0, "", "test"),
        ("b", "8", "x", 1.0, "", "test"),
    ]  # fmt: skip
    root = tmp_path / "mosi"
    missrag(root, [*ROWS[:3], *[row for row in bad if row[0] != ".." and row[2] != "y"]])
    columns = ["video_id", "clip_id", "text", "label", "annotation", "mode"]
    pd.DataFrame([*ROWS, *bad], columns=columns).to_csv(root / "labels.csv", index=False)
    (root / "Raw_audio" / "b" / "8.wav").unlink()
    found = load_missrag(root)
    assert len(found.clips) == 3 and found.excluded == len(bad)
    said = "\n".join(found.report["problem"])
    for words in ("annotation is 'Negative' of a label of 1.0", "label is 9.0, out of range",
                  "label is 'good', not a number", "text is empty", "mode is 'dev'", "video_id is '..'",
                  "duplicate id, different content", "Raw_audio/b/8.wav: missing file"):  # fmt: skip
        assert words in said
    assert found.report.set_index("problem").loc["label is 9.0, out of range", "row"] == 7


def test_what_is_no_missrag_folder_is_said_in_a_sentence(tmp_path):
    with pytest.raises(CorpusError, match="no label file. Expected"):
        load_missrag(tmp_path)
    missrag(tmp_path, ROWS)
    with pytest.raises(CorpusError, match="no row has the mode valid"):
        load_missrag(tmp_path, mode="valid")
    with pytest.raises(CorpusError, match="mode is one of"):
        load_missrag(tmp_path, mode="dev")
    with pytest.raises(CorpusError, match="labels are sentiment"):
        load_missrag(tmp_path, labels=MELD7)


# A CSV


def listed(root: Path, rows: list[dict], **more) -> Path:
    films(root / "films", sorted({Path(row["video"]).stem for row in rows if row["video"]}))
    path = root / "ca-mer.csv"
    pd.DataFrame(rows).assign(**more).to_csv(path, index=False)
    return path


def test_a_csv_gives_names_subsets_labels_and_files(tmp_path):
    rows = [{"name": f"c{i}", "subset": ["audio-aligned", "consistent"][i % 2], "label": label,
             "video": f"films/c{i}.mp4", "other": "x"}
            for i, label in enumerate(["angry", "Anger", "3", "担心", "SURPRISE"])]  # fmt: skip
    path = listed(tmp_path, rows)
    found = load_listed(path, tmp_path, MER6)
    assert found.clips["label_gt"].tolist() == [1, 1, 3, 4, 5] and found.name == "ca-mer"
    assert found.clips["sample_id"][0] == "ca-mer/c0" and found.clips["split"].eq("test").all()
    assert found.modalities == "AV" and not found.unimodal
    more = {f"label_{m}": "sad" for m in "TAV"} | {"text": "well", "split": "valid"}
    whole = load_listed(listed(tmp_path / "b", rows, **more), tmp_path / "b", MER6, name="mine")
    assert whole.modalities == "TAV" and whole.unimodal and whole.clips["label_a"].eq(3).all()
    assert whole.clips["split"].eq("valid").all() and whole.clips["corpus"].eq("mine").all()


def test_each_kind_of_bad_row_of_a_csv_is_left_out_with_a_reason(tmp_path):
    good = {"name": "ok", "subset": "s", "label": "sad", "video": "films/ok.mp4", "split": "test",
            "text": "well", "audio": "films/ok.mp4", "label_T": "sad"}  # fmt: skip
    changes = [
        {"name": "a/b"}, {"name": ""}, {"name": "b", "subset": ""}, {"name": "c", "label": "rage"},
        {"name": "d", "label": "6"}, {"name": "e", "label": ""}, {"name": "f", "split": "dev"},
        {"name": "g", "text": " "}, {"name": "h", "video": "../secret.mp4"},
        {"name": "i", "video": "/etc/passwd"}, {"name": "j", "audio": "C:\\x.wav"},
        {"name": "k", "video": "films/none.mp4"}, {"name": "l", "label_T": "x"}, {"name": "l2", "label": "²"},
    ]  # fmt: skip
    rows = [good, *({**good, **change} for change in changes)]
    path = listed(tmp_path, rows[:1])
    pd.DataFrame(rows).to_csv(path, index=False)
    found = load_listed(path, tmp_path, MER6)
    assert found.clips["sample_id"].tolist() == ["ca-mer/ok"] and found.excluded == len(changes)
    assert set(found.report["row"]) == set(range(3, 3 + len(changes)))
    said = "\n".join(found.report["problem"])
    for words in ("name is 'a/b'", "name is ''", "subset is blank", "label is 'rage'", "label is '6'",
                  "label is ''", "split is 'dev'", "text is empty", "video is '../secret.mp4'",
                  "video is '/etc/passwd'", "audio is 'C:\\\\x.wav'", "films/none.mp4: missing file",
                  "label_T is 'x'"):  # fmt: skip
        assert words in said


def test_a_csv_that_lacks_something_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("name,label\na,sad\n")
    with pytest.raises(CorpusError, match="missing columns subset, video"):
        load_listed(path, tmp_path, MER6)
    path.write_text("name,subset,label,video\na,s,rage,f.mp4\n")
    with pytest.raises(
        CorpusError, match=r"no usable clip(.|\n)*line 2: label is 'rage'; expected one of neutral"
    ):
        load_listed(path, tmp_path, MER6)
    with pytest.raises(CorpusError, match="cannot be a benchmark's name"):
        load_listed(path, tmp_path, MER6, name="a b")
    path.write_bytes(b"name,subset,label,video\na,s,sad,f.mp4\n" + b"b,\xb5,sad,f.mp4\n")
    found = load_listed(path, tmp_path, MER6, check_media=False)
    assert "no UTF-8" in "\n".join(found.report["problem"])


def test_a_set_of_labels_is_named_or_spelled_out():
    assert label_set("meld7", LABEL_SETS) is MELD7
    assert label_set("calm, tense", LABEL_SETS) == LabelSet("listed", ("calm", "tense"))
    with pytest.raises(ValueError, match="'meld' is no set of labels"):
        label_set("meld", LABEL_SETS)
    with pytest.raises(ValueError, match="two classes are named calm"):
        label_set("calm,Calm", LABEL_SETS)


def test_the_split_into_align_and_conflict_is_by_a_polarity_and_refused_without_one():
    rows = pd.DataFrame(
        [[0, 0, 0, 0], [1, 1, 0, 1]], columns=["label_gt", "label_t", "label_a", "label_v"]
    )
    assert subset(rows, SENTIMENT2).tolist() == ["align", "conflict"]
    with pytest.raises(ValueError, match="into align and conflict needs classes with a polarity"):
        subset(rows, MELD7)


# On disk


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_a_benchmark_is_read_back_as_it_was_written(tmp_path, labels):
    rows = [{"name": f"c{i}", "subset": "s", "label": str(i % len(labels)), "video": f"films/c{i}.mp4"}
            for i in range(6)]  # fmt: skip
    found = load_listed(listed(tmp_path, rows), tmp_path, labels)
    path = write_imported(found, tmp_path / "out" / "manifest.parquet")
    again = read_imported(path)
    pd.testing.assert_frame_equal(again.clips, found.clips)
    assert (again.name, again.labels) == (found.name, labels) and is_imported(path)
    first = path.read_bytes()
    assert write_imported(again, path).read_bytes() == first


def test_a_table_that_breaks_its_schema_is_refused_row_by_row(tmp_path):
    rows = [
        {"name": f"c{i}", "subset": "s", "label": "0", "video": f"films/c{i}.mp4"} for i in range(3)
    ]
    found = load_listed(listed(tmp_path, rows), tmp_path, MER6)
    for column, value, words in [
        ("label_gt", 6, "label_gt is 6, expected a class 0 to 5 of mer6"),
        ("video_path", "../x.mp4", "a relative path inside the benchmark's folder"),
        ("split", "dev", "split is 'dev'"),
    ]:
        clips = found.clips.copy()
        clips.loc[1, column] = value
        with pytest.raises(ValueError, match="ca-mer/c1") as error:
            write_imported(type(found)(found.name, found.labels, clips), tmp_path / "m.parquet")
        assert words in str(error.value)
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match="no imported benchmark"):
        read_imported(tmp_path / "x.parquet")


def test_sounds_of_two_kinds_stand_beside_their_films(tmp_path):
    rows = [
        {"name": "a", "subset": "s", "label": "0", "video": "films/a.mp4", "audio": "sound/a.wav"}
    ]
    path = listed(tmp_path, rows)
    sounds(tmp_path / "sound", ["a"])
    assert load_listed(path, tmp_path, MER6).clips["audio_path"][0] == "sound/a.wav"
