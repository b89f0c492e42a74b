"""The exported tasks of lmms-eval: what their functions show and score, without lmms-eval."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pandas as pd
import pytest
import yaml
from test_benchmark import make_clips
from tiny_media import grey_frames, tone, write_mp4
from told_replies import submission, told_replies

from emomm_lib.labels import COALITIONS, LETTERS
from emomm_study.command.main import main
from emomm_study.corpora.clips import CorpusTable
from emomm_study.corpora.manifest import BenchmarkSettings, build_manifest
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.results import instances
from emomm_study.exchange.lmms_eval import COLUMNS, GROUP, METRICS, TASKS, documents, export
from emomm_study.exchange.sample_log import NO_REPLY, is_sample_log, read_sample_log
from emomm_study.exchange.submission import SubmissionError, read_submission, score_submission
from emomm_study.media.audio import read_audio
from emomm_study.mini.surrogate.joint import label_table
from emomm_study.systems import replies as reading
from emomm_study.systems.prompts import allowed_scores, messages

NOTE = "Made-up clips."
KEYS = {
    "task", "dataset_path", "dataset_kwargs", "test_split", "output_type", "doc_to_visual",
    "doc_to_text", "doc_to_messages", "doc_to_target", "process_results", "generation_kwargs",
    "num_fewshot", "metric_list", "metadata",
}  # fmt: skip
"""Of lmms-eval's ``TaskConfig``, 0.7.3, those that the tasks set."""
BARE = """
import importlib.util, json, sys
folder, given = sys.argv[1:]
spec = importlib.util.spec_from_file_location("utils", folder + "/utils.py")
utils = importlib.util.module_from_spec(spec)
spec.loader.exec_module(utils)
tasks, out = json.load(open(given, encoding="utf-8")), {}
for name, (metrics, docs, said) in tasks.items():
    rows = [utils.process_results(d, [r]) for d, r in zip(docs, said)]
    out[name] = {
        "value": {m: getattr(utils, f)([r[m] for r in rows if m in r]) for m, f in metrics.items()},
        "rows": rows,
        "target": [utils.doc_to_target(d) for d in docs],
        "text": [utils.doc_to_text(d) for d in docs],
    }
outside = {n.partition(".")[0] for n in sys.modules} - set(sys.stdlib_module_names) - {"__main__"}
assert all(n.startswith("emomm_replies_") for n in outside), outside
json.dump(out, sys.stdout)
"""


class Loader(yaml.SafeLoader):
    """YAML whose functions are their names."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def config(folder: Path, name: str) -> dict:
    return yaml.load((folder / f"{name}.yaml").read_text("utf-8"), Loader)


@pytest.fixture(scope="module")
def manifest() -> pd.DataFrame:
    tables = [
        CorpusTable(Path("r"), make_clips(c, label_table(c).sample(200, random_state=1), 40))
        for c in Corpus
    ]
    return build_manifest(tables, BenchmarkSettings(ch_sims=None, cmu_mosi=None))


@pytest.fixture(scope="module")
def folder(manifest, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("lmms") / "tasks"
    export(manifest, made, note=NOTE)
    return made


@pytest.fixture(scope="module")
def utils(folder) -> ModuleType:
    """As lmms-eval imports it: without a place in ``sys.modules``."""
    spec = importlib.util.spec_from_file_location("utils", folder / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def told(manifest) -> pd.DataFrame:
    return told_replies(manifest[manifest["split"] == "test"])


@pytest.fixture(scope="module")
def scored(folder, told, tmp_path_factory) -> dict:
    """What an interpreter without any package makes of the documents and replies."""
    said = told.set_index(["sample_id", "coalition"])["reply"]
    given = {}
    for task in TASKS:
        docs = pd.read_parquet(folder / "data" / f"{task}.parquet")
        metrics = {
            m["metric"]: m["aggregation"].removeprefix("utils.")
            for m in config(folder, f"{GROUP}_{task}")["metric_list"]
        }
        keys = docs[["sample_id", "coalition"]].itertuples(index=False, name=None)
        given[task] = metrics, docs.to_dict("records"), [said[key] for key in keys]
    path = tmp_path_factory.mktemp("bare") / "given.json"
    path.write_text(json.dumps(given), encoding="utf-8")
    # -S: no site-packages at all.
    command = [sys.executable, "-I", "-S", "-c", BARE, str(folder), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ours(manifest, told, tmp_path_factory):
    path = tmp_path_factory.mktemp("ours") / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, submission(told))), encoding="utf-8")
    return score_submission(read_submission(path), manifest)


def log_lines(scored: dict, task: str, replies: list[str]) -> list[str]:
    """The lines of a sample log of lmms-eval 0.7.3."""
    return [
        json.dumps({"doc_id": i, "target": "A", "filtered_resps": reply, "doc_hash": "0", **row})
        for i, (row, reply) in enumerate(zip(scored[task]["rows"], replies, strict=True))
    ]


@pytest.fixture
def logs(folder, scored, told, tmp_path) -> Path:
    said = told.set_index(["sample_id", "coalition"])["reply"]
    place = tmp_path / "logs" / "told"
    place.mkdir(parents=True)
    for task in TASKS:
        docs = pd.read_parquet(folder / "data" / f"{task}.parquet")
        keys = docs[["sample_id", "coalition"]].itertuples(index=False, name=None)
        lines = log_lines(scored, task, [said[key] or "None" for key in keys])
        path = place / f"20260101_000000_samples_{GROUP}_{task}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place.parent


# Scores


@pytest.mark.parametrize("task", ["align", "conflict", "missing"])
def test_a_bare_interpreter_gives_table_1s_numbers_on_the_same_replies(task, scored, ours):
    table = ours.table1.set_index(["subset", "metric"])["value"]
    for metric in METRICS:
        assert scored[task]["value"][metric] == pytest.approx(table[task, metric], abs=1e-12)


def test_failures_and_unparseable_replies_are_counted_and_not_scored(scored, ours):
    counts = ours.counts.set_index("subset")
    assert counts["failed"].min() > 0 and counts["unparseable"].min() > 0
    for task in ("align", "conflict", "missing"):
        value, of = scored[task]["value"], counts.loc[task]
        assert (value["failed"], value["unparseable"]) == (of["failed"], of["unparseable"])
        lost = of["failed"] + of["unparseable"]
        assert value["answered"] == pytest.approx(1 - lost / of["asked"])
        unscored = [row for row in scored[task]["rows"] if row["failed"] or row["unparseable"]]
        assert len(unscored) == lost
        assert all(row[metric] is None for row in unscored for metric in METRICS)


@pytest.mark.parametrize("coalition", [c for c in COALITIONS if c != "TAV"])
def test_each_coalition_has_its_own_numbers(coalition, manifest, told, scored):
    task = "missing" if len(coalition) == 2 else "single"
    clips = manifest.set_index("sample_id")
    right = []
    for name, shown, text in told.itertuples(index=False):
        found = reading.read(text, allowed_scores(clips.loc[name, "corpus"])) if text else None
        if shown == coalition and found and found.label is not None:
            right.append(found.label == clips.loc[name, "label_gt"])
    assert scored[task]["value"][f"acc5_{coalition}"] == pytest.approx(np.mean(right))


def test_where_nothing_is_answered_there_is_no_number_and_not_nought(utils):
    assert utils.mean([None, None]) is None and utils.macro_f1([None]) is None
    assert utils.mean([]) is None and utils.share_answered([{"label": None}]) == 0


def test_the_reading_of_replies_is_the_projects_own_byte_for_byte(folder):
    assert (folder / "replies.py").read_bytes() == Path(reading.__file__).read_bytes()
    scores = json.loads((folder / "scores.json").read_text())
    assert {k: tuple(map(tuple, v)) for k, v in scores.items()} == {
        corpus.value: allowed_scores(corpus) for corpus in Corpus
    }


# Tasks and documents


def test_the_tasks_set_what_lmms_eval_knows_and_name_functions_that_are_there(folder, utils):
    group = config(folder, GROUP)
    assert group["task"] == [f"{GROUP}_{t}" for t in TASKS if t != "single"]
    for task in TASKS:
        own = config(folder, f"{GROUP}_{task}")
        assert set(own) == KEYS and own["task"] == f"{GROUP}_{task}"
        assert (folder / own["dataset_kwargs"]["data_files"]["test"]).is_file()
        # None would be an empty line, at which a reply is cut.
        assert own["generation_kwargs"]["until"] == []
        named = [own[k] for k in KEYS if k.startswith("doc_to_") or k == "process_results"]
        named += [metric["aggregation"] for metric in own["metric_list"]]
        for name in named:
            assert callable(getattr(utils, name.removeprefix("utils."))), name


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_of_a_document_is_listed_in_its_task(task, folder, scored):
    listed = {metric["metric"] for metric in config(folder, f"{GROUP}_{task}")["metric_list"]}
    assert set().union(*scored[task]["rows"]) == listed


def test_documents_are_the_instances_of_table_1_and_the_four_single_coalitions(manifest, folder):
    test = manifest[manifest["split"] == "test"]
    found = pd.concat(pd.read_parquet(folder / "data" / f"{t}.parquet") for t in TASKS)
    assert list(found) == list(COLUMNS)
    keys = ["sample_id", "coalition", "subset", "label_gt", "score_gt"]
    table1 = found[found["task"] != "single"][keys].sort_values(keys, ignore_index=True)
    expected = instances(test)[keys].sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(table1, expected, check_dtype=False)
    single = found[found["task"] == "single"]
    assert len(single) == 4 * len(test) and set(single["coalition"]) == {"none", "T", "A", "V"}


def test_prompts_are_those_that_every_system_here_is_asked_with(folder, scored):
    for task in TASKS:
        docs = pd.read_parquet(folder / "data" / f"{task}.parquet").to_dict("records")
        for doc, text, letter in zip(
            docs, scored[task]["text"], scored[task]["target"], strict=True
        ):
            system, user = messages(doc["coalition"], doc["corpus"], "words")
            assert doc["system"] == system["content"][0]["text"]
            assert doc["prompt"] == user["content"][-1]["text"]
            assert text == f"{doc['system']}\n\n{doc['prompt']}"
            assert letter == LETTERS[doc["label_gt"]]
            assert ("words" in doc["prompt"]) == ("T" in doc["coalition"])


def test_a_subset_without_clips_is_no_task_and_not_in_the_group(manifest, tmp_path):
    export(manifest, tmp_path, note=NOTE)
    export(manifest[manifest["subset"] == "align"], tmp_path, note=NOTE)
    assert not (tmp_path / "emomm_conflict.yaml").exists()
    assert not (tmp_path / "data" / "conflict.parquet").exists()
    assert config(tmp_path, GROUP)["task"] == ["emomm_align", "emomm_missing"]


def test_equal_manifests_give_equal_files(manifest, folder, tmp_path):
    export(manifest.sample(frac=1, random_state=0), tmp_path / "tasks", note=NOTE)
    one, two = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*")
         if p.is_file() and "__pycache__" not in p.parts}
        for f in (folder, tmp_path / "tasks")
    )  # fmt: skip
    assert one == two


def test_what_cannot_be_exported_is_refused_in_a_sentence(manifest, tmp_path):
    with pytest.raises(ValueError, match="say of which clips"):
        export(manifest, tmp_path, note=" ")
    with pytest.raises(ValueError, match="split is one of"):
        documents(manifest, "tests")
    with pytest.raises(ValueError, match="no clips in the split test"):
        documents(manifest[manifest["split"] == "train"])
    with pytest.raises(ValueError, match="transcript is blank"):
        documents(manifest.assign(text=" "))
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="give an empty folder"):
        export(manifest, tmp_path, note=NOTE)


# Media


@pytest.fixture
def clip(tmp_path, monkeypatch) -> dict:
    """A document whose film has a sound track, as CH-SIMS has them."""
    write_mp4(
        tmp_path / "sims" / "Raw" / "v" / "1.mp4", frames=grey_frames(size=64), sound=tone(1.0)
    )
    monkeypatch.setenv("EMOMM_CH_SIMS", str(tmp_path / "sims"))
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path / "cache"))
    return {
        "sample_id": "ch_sims_v2/v/1", "corpus": "ch_sims_v2", "coalition": "TAV",
        "video_path": "Raw/v/1.mp4", "audio_path": "Raw/v/1.mp4", "system": "S", "prompt": "P",
    }  # fmt: skip


def streams(path) -> list[str]:
    with av.open(str(path)) as media:
        return [stream.type for stream in media.streams]


@pytest.mark.parametrize("coalition", COALITIONS)
def test_a_chat_model_gets_the_parts_of_the_coalition_in_the_papers_order(utils, clip, coalition):
    system, user = utils.doc_to_messages(clip | {"coalition": coalition})
    assert system == {"role": "system", "content": [{"type": "text", "text": "S"}]}
    placeholders = messages(coalition, "ch_sims_v2", "words")[1]["content"]
    assert [p["type"] for p in user["content"]] == [p["type"] for p in placeholders]
    assert user["content"][-1]["text"] == "P"
    for part in user["content"][:-1]:
        assert streams(part["url"]) == [part["type"]]


def test_a_film_is_shown_without_its_sound_and_the_sound_is_the_films(utils, clip, tmp_path):
    silent, sound = utils.silent_film(clip), utils.sound_file(clip)
    original = tmp_path / "sims" / "Raw" / "v" / "1.mp4"
    with av.open(str(original)) as a, av.open(str(silent)) as b:
        for one, two in zip(a.decode(video=0), b.decode(video=0), strict=True):
            assert (one.to_ndarray() == two.to_ndarray()).all() and one.time == two.time
    ours = read_audio(original)
    heard, track = read_audio(sound), utils.samples(original)
    for other in (heard, track):
        shared = slice(2000, min(len(ours), len(other)) - 2000)
        assert np.abs(ours[shared]).max() > 0.4
        assert np.corrcoef(ours[shared], other[shared])[0, 1] > 0.99
    made = silent.stat().st_mtime_ns
    assert utils.silent_film(clip) == silent and silent.stat().st_mtime_ns == made
    assert not [p for p in silent.parent.iterdir() if p.name.startswith(".")]


def test_files_that_need_no_change_are_passed_on_where_they_are(utils, clip, tmp_path):
    mute = write_mp4(tmp_path / "sims" / "mute.mp4", frames=grey_frames(size=64))
    wav = tmp_path / "sims" / "a.wav"
    wav.write_bytes(utils.sound_file(clip).read_bytes())
    own = clip | {"video_path": "mute.mp4", "audio_path": "a.wav"}
    assert utils.silent_film(own) == mute and utils.sound_file(own) == wav
    with pytest.raises(utils.MediaError, match=r"mute\.mp4: it has no sound track"):
        utils.samples(mute)


def test_a_simple_model_is_not_given_two_media_of_which_it_would_drop_one(utils, clip, monkeypatch):
    with pytest.raises(utils.MediaError, match="drop one; take a chat model"):
        utils.doc_to_visual(clip)
    [film] = utils.doc_to_visual(clip | {"coalition": "TV"})
    assert streams(film) == ["video"]
    [sound] = utils.doc_to_visual(clip | {"coalition": "TA"})
    assert sound["sampling_rate"] == 16_000 and sound["array"].dtype == np.float32
    assert utils.doc_to_visual(clip | {"coalition": "T"}) == []
    monkeypatch.setenv(utils.BOTH, "1")
    both = utils.doc_to_visual(clip)
    assert both[0] == film and (both[1]["array"] == sound["array"]).all()


@pytest.mark.parametrize(
    "relative", ["../x.mp4", "Raw/../../x.mp4", "/etc/passwd", "C:/x.mp4", "Raw\\1.mp4", ""]
)
def test_a_path_that_leads_out_of_the_corpus_is_refused(utils, clip, relative):
    with pytest.raises(utils.MediaError, match="must be relative, with forward slashes"):
        utils.media_path(clip | {"video_path": relative}, "video_path")


def test_an_absent_variable_file_or_picture_is_named(utils, clip, monkeypatch, tmp_path):
    with pytest.raises(utils.MediaError, match="2.mp4 does not exist; check EMOMM_CH_SIMS="):
        utils.silent_film(clip | {"video_path": "Raw/v/2.mp4"})
    (tmp_path / "sims" / "bad.mp4").write_bytes(b"no film")
    with pytest.raises(utils.MediaError, match=r"bad\.mp4: it cannot be opened"):
        utils.silent_film(clip | {"video_path": "bad.mp4"})
    with pytest.raises(utils.MediaError, match=r"bad\.mp4: its sound cannot be taken out"):
        utils.sound_file(clip | {"audio_path": "bad.mp4"})
    monkeypatch.delenv("EMOMM_CH_SIMS")
    with pytest.raises(utils.MediaError, match="EMOMM_CH_SIMS is not set; set it to the folder"):
        utils.doc_to_messages(clip)


# Sample logs


def test_a_folder_of_sample_logs_scores_as_the_replies_handed_in(logs, manifest, ours):
    assert is_sample_log(logs)
    found = score_submission(read_sample_log(logs), manifest)
    pd.testing.assert_frame_equal(found.table1, ours.table1)
    pd.testing.assert_frame_equal(found.counts, ours.counts)
    pd.testing.assert_frame_equal(found.psmv, ours.psmv)
    failed = found.lost[found.lost["outcome"] == "failed"]
    assert len(failed) and set(failed["failure"]) == {NO_REPLY}


def test_the_command_knows_a_log_by_itself(logs, manifest, tmp_path, capsys):
    benchmark = tmp_path / "manifest.parquet"
    manifest.to_parquet(benchmark)
    line = ["score", "--benchmark", str(benchmark)]
    assert main([*line, str(logs)]) == 0
    assert "Table 1, with 95% intervals" in capsys.readouterr().out
    [one] = logs.rglob("*_align.jsonl")
    assert is_sample_log(one) and main([*line, str(one)]) == 2
    assert "instances have no answer" in capsys.readouterr().err


def test_logs_that_are_not_one_runs_are_refused_in_a_sentence(logs, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SubmissionError, match=r"holds no .*--log_samples"):
        read_sample_log(tmp_path / "empty")
    [one] = logs.rglob("*_align.jsonl")
    again = one.with_name(one.name.replace("20260101", "20260102"))
    again.write_bytes(one.read_bytes())
    with pytest.raises(SubmissionError, match=r"two logs of emomm_align, told.*give one run's"):
        read_sample_log(logs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answered": None}, "without --predict_only"),
        ({"filtered_resps": ["A", "B"]}, "several replies"),
        ({"answered": {"sample_id": "a", "coalition": "VT"}}, "'VT' is not one of"),
        ({"answered": {"coalition": "TV"}}, "'sample_id' is a required property"),
    ],
)
def test_a_sample_that_is_none_of_ours_is_named_by_its_line(logs, change, said):
    [one] = logs.rglob("*_align.jsonl")
    first, second, *rest = one.read_text("utf-8").splitlines()
    spoilt = json.dumps(json.loads(second) | change)
    one.write_text("\n".join([first, spoilt, *rest]), encoding="utf-8")
    with pytest.raises(SubmissionError) as raised:
        read_sample_log(one)
    assert said in str(raised.value) and "ine 2" in str(raised.value)


def test_a_submission_is_not_taken_for_a_log(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"sample_id": "a", "coalition": "TAV", "letter": "A"}\n')
    assert not is_sample_log(path) and not is_sample_log(tmp_path / "none.jsonl")
    assert not is_sample_log(tmp_path / "a.csv")
