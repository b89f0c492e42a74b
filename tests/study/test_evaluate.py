"""Running a model over clips: resumable, failures apart, Table 1's rows from what was stored."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from crash import (
    BATCH,
    COALITIONS as CRASH_COALITIONS,
    COMPUTED,
    MEDIA,
    STARTED,
    run as run_to_be_killed,
    small_model,
)
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error
from tiny_media import grey_frames, tone, write_mp4

from emomm_lib import Bootstrap
from emomm_study.corpora.part import part_of
from emomm_study.evaluate import experiment
from emomm_study.evaluate.experiment import Experiment, ExperimentSettings
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.plan import make_plan
from emomm_study.evaluate.results import (
    baselines,
    declined,
    instances,
    join,
    outcomes,
    table1_scores,
    with_media,
)
from emomm_study.evaluate.store import Prediction, PredictionStore
from emomm_study.evaluate.unsteered import run_fingerprint
from emomm_study.media.audio import AudioSettings, read_audio
from emomm_study.media.video import VideoSettings, read_video
from emomm_study.systems.interface import Media, Query
from emomm_study.systems.omni import OmniModel

COALITIONS = ("TAV", "TA", "V")


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return small_model()


@pytest.fixture
def clips(tmp_path: Path) -> pd.DataFrame:
    rows = []
    for i in range(7):
        path = f"Raw/{i}.mp4"
        sound = tone(0.4 + 0.1 * i, hertz=200 + 60 * i)
        write_mp4(tmp_path / path, frames=grey_frames(4, 56), sound=sound)
        rows.append({"sample_id": f"ch_sims_v2/v/{i}", "corpus": "ch_sims_v2", "text": f"w {i}",
                     "video_path": path, "audio_path": path})  # fmt: skip
    return pd.DataFrame(rows)


def run(model, clips, root, store, **asked):
    roots = {"ch_sims_v2": root}
    bench = Experiment(model, clips, roots, store, MEDIA, 2, processes=1, progress=False)
    return bench.predictions(clips, COALITIONS, **asked)


class Counting:
    """A model that counts the clips it encodes and can die after some."""

    def __init__(self, model: OmniModel, lives: int = 10**9) -> None:
        self._model, self.encoded, self.lives = model, 0, lives

    def __getattr__(self, name):
        return getattr(self._model, name)

    def encode(self, media):
        if self.encoded >= self.lives:
            raise KeyboardInterrupt
        self.encoded += len(media)
        return self._model.encode(media)


def test_stored_answers_are_those_of_asking_clip_by_clip(model, clips, tmp_path):
    table = run(model, clips, tmp_path, PredictionStore(tmp_path / "p.sqlite"))
    assert len(table) == len(clips) * len(COALITIONS) and table["failure"].isna().all()
    logits = table.set_index(["sample_id", "coalition"])[[f"logit_{c}" for c in "abcde"]]
    for clip in clips.itertuples():
        path = tmp_path / clip.video_path
        [encoded] = model.encode(
            [Media(read_video(path, MEDIA.video), read_audio(path, MEDIA.audio))]
        )
        for coalition in COALITIONS:
            alone = model.answer([Query(encoded, coalition, "ch_sims_v2", clip.text)])
            np.testing.assert_allclose(
                logits.loc[(clip.sample_id, coalition)], alone.letter_logits[0], atol=1e-4
            )


@pytest.mark.parametrize("part_first", [True, False])
def test_answers_of_a_part_are_the_wholes_and_are_asked_once(model, clips, tmp_path, part_first):
    clips = clips.assign(split="test", stratum="equal", label_gt=range(1, 8))
    clips["label_gt"] %= 5
    part, store = part_of(clips, 3), PredictionStore(tmp_path / "p.sqlite")
    counting = Counting(model)
    for asked in (part, clips) if part_first else (clips, part):
        found = run(counting, asked, tmp_path, store)
        assert set(found["sample_id"]) == set(asked["sample_id"])
    assert counting.encoded == len(clips)


def test_an_experiment_has_the_part_that_was_asked_for_of_what_is_on_disk(
    clips, tmp_path, monkeypatch
):
    clips = clips.assign(split="test", stratum="equal", label_gt=0, speaker_id="s")
    (tmp_path / "Raw/5.mp4").unlink()
    monkeypatch.setattr(experiment, "read_manifest", lambda path: clips)
    monkeypatch.setattr(experiment, "load_system", lambda *given, **options: None)
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path / "cache"))
    roots = {"ch_sims_root": str(tmp_path), "cmu_mosi_root": None}
    settings = ExperimentSettings(**PARAMETERS | roots, model="m", clips=4)
    opened = experiment.open_experiment(settings)
    there = clips[clips["video_path"] != "Raw/5.mp4"]
    pd.testing.assert_frame_equal(opened.clips, part_of(there, 4))
    assert opened.part.startswith("A part of 4 of 6 clips, from 1 of 1 groups.")
    assert experiment.open_experiment(replace(settings, clips=None)).part == ""
    with pytest.raises(ValueError, match="clips = 0: expected"):
        experiment.open_experiment(replace(settings, clips=0))
    other = replace(settings, ch_sims_root=None, cmu_mosi_root=str(tmp_path))
    with pytest.raises(ValueError, match="clips of ch_sims_v2, of which no root.*notebook 01"):
        experiment.open_experiment(other)


def test_a_second_run_computes_nothing(model, clips, tmp_path):
    store = PredictionStore(tmp_path / "p.sqlite")
    first = run(model, clips, tmp_path, store)
    counting = Counting(model)
    again = run(counting, clips, tmp_path, store)
    assert counting.encoded == 0
    pd.testing.assert_frame_equal(first, again)


def test_a_killed_run_loses_no_finished_batch_and_repeats_none(model, clips, tmp_path):
    store = PredictionStore(tmp_path / "p.sqlite")
    dying = Counting(model, lives=4)
    with pytest.raises(KeyboardInterrupt):
        run(dying, clips, tmp_path, store)
    assert len(store.known(run_fingerprint(model, MEDIA)[0])) == 4 * len(COALITIONS)
    resumed = Counting(model)
    table = run(resumed, clips, tmp_path, store)
    assert dying.encoded + resumed.encoded == len(clips)
    whole = run(model, clips, tmp_path, PredictionStore(tmp_path / "other.sqlite"))
    assert (table[["sample_id", "coalition", "label", "score"]].equals(
        whole[["sample_id", "coalition", "label", "score"]]))  # fmt: skip


def test_a_corrupt_clip_is_one_failed_item_not_a_failed_run(model, clips, tmp_path):
    (tmp_path / "Raw/3.mp4").write_bytes(b"damaged")
    table = run(model, clips, tmp_path, PredictionStore(tmp_path / "p.sqlite"))
    failed = table[table["failure"].notna()]
    assert set(failed["coalition"]) == set(COALITIONS)
    assert set(failed["sample_id"]) == {"ch_sims_v2/v/3"} and len(failed) == len(COALITIONS)
    assert failed["label"].isna().all() and failed["failure"].str.contains("3.mp4").all()
    assert table["label"].notna().sum() == (len(clips) - 1) * len(COALITIONS)


def test_a_clip_without_sound_fails_only_where_sound_is_asked_for(model, clips, tmp_path):
    write_mp4(tmp_path / "Raw/3.mp4", frames=grey_frames(4, 56))
    table = run(model, clips, tmp_path, PredictionStore(tmp_path / "p.sqlite"))
    failed = table[table["failure"].notna()]
    assert failed["sample_id"].unique().tolist() == ["ch_sims_v2/v/3"]
    assert sorted(failed["coalition"]) == ["TA", "TAV"]


def test_a_clip_that_turns_corrupt_in_the_middle_of_a_run_is_one_failed_item(
    model, clips, tmp_path
):
    class Vandal(Counting):
        """Damages the clip that comes last, once the run is under way."""

        def encode(self, media):
            (tmp_path / "Raw/0.mp4").write_bytes(b"damaged")
            return super().encode(media)

    # The longest clips come first, and files are read two batches ahead: clip 0 is not read yet.
    rest = clips[clips["video_path"] != "Raw/0.mp4"]
    copies = [rest.assign(sample_id=rest["sample_id"] + x) for x in "abc"]
    store = PredictionStore(tmp_path / "p.sqlite")
    table = run(Vandal(model), pd.concat([clips, *copies]), tmp_path, store)
    failed = table[table["failure"].notna()]
    assert set(failed["sample_id"]) == {"ch_sims_v2/v/0"} and len(failed) == len(COALITIONS)
    assert table["label"].notna().sum() == 24 * len(COALITIONS)


def test_two_processes_killed_at_twenty_random_moments_give_what_an_undisturbed_run_gives(
    tmp_path,
):
    rows = []
    for i in range(40):
        sound = tone(0.3 + 0.02 * i, hertz=200 + 20 * i)
        write_mp4(tmp_path / f"Raw/{i}.mp4", frames=grey_frames(4, 56), sound=sound)
        rows.append({"sample_id": f"ch_sims_v2/v/{i}", "corpus": "ch_sims_v2", "text": f"w {i}",
                     "video_path": f"Raw/{i}.mp4", "audio_path": f"Raw/{i}.mp4"})  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "clips.csv", index=False)
    context = multiprocessing.get_context("forkserver")
    # Imported once: a life then costs no start-up.
    context.set_forkserver_preload(
        ["emomm_study.evaluate.experiment", "emomm_study.mini.model.build"]
    )

    def start(name: str):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / STARTED).unlink(missing_ok=True)
        files = (tmp_path / name / "p.sqlite", tmp_path / name / COMPUTED)
        process = context.Process(target=run_to_be_killed, args=(tmp_path, *files))
        process.start()
        while not (tmp_path / name / STARTED).exists():
            assert process.is_alive() or process.exitcode == 0
            time.sleep(0.002)
        return process

    calm = start("calm")
    began = time.monotonic()
    calm.join()
    assert calm.exitcode == 0
    # Twenty lives of this length on average get through most of the run.
    span = (time.monotonic() - began) / 12
    rng, killed = np.random.default_rng(0), 0
    while killed < 20:
        process = start("killed")
        time.sleep(rng.uniform(0, span))
        alive = process.is_alive()
        process.kill()
        process.join()
        assert alive, f"the run ended after {killed} kills"
        killed += 1
    last = start("killed")
    last.join()
    assert last.exitcode == 0

    fingerprint = run_fingerprint(small_model(), MEDIA)[0]
    stores = [PredictionStore(tmp_path / name / "p.sqlite") for name in ("calm", "killed")]
    tables = [store.read(fingerprint) for store in stores]
    pd.testing.assert_frame_equal(*tables, rtol=1e-5)
    for column in ("label", "score"):
        assert tables[0][column].equals(tables[1][column])
    assert len(tables[0]) == 40 * len(CRASH_COALITIONS) and tables[0]["failure"].isna().all()
    traces = [store.read_traces(fingerprint) for store in stores]
    np.testing.assert_allclose(traces[0].mass, traces[1].mass, atol=1e-6)
    labels = np.random.default_rng(1).integers(0, 5, (40, 4))
    manifest = pd.DataFrame(labels, columns=["label_gt", "label_t", "label_a", "label_v"])
    manifest = manifest.assign(sample_id=[row["sample_id"] for row in rows],
                               score_gt=(labels[:, 0] - 2) / 2, subset="align")  # fmt: skip
    scores = [table1_scores(outcomes(manifest, t, CRASH_COALITIONS)[0]) for t in tables]
    pd.testing.assert_frame_equal(*scores)
    log = (tmp_path / "killed" / COMPUTED).read_text().split("\n")[:-1]
    computed = sum(int(line.split()[1]) for line in log)
    # Two processes, each with a batch at work and one that was not fetched yet.
    assert 40 <= computed <= 40 + killed * 2 * 2 * BATCH


def test_a_corrected_transcript_is_computed_anew(model, clips, tmp_path):
    store = PredictionStore(tmp_path / "p.sqlite")
    run(model, clips, tmp_path, store)
    clips.loc[4, "text"] = "corrected"
    counting = Counting(model)
    run(counting, clips, tmp_path, store)
    assert counting.encoded == 1


def test_a_file_that_changed_since_is_computed_anew(model, clips, tmp_path):
    store = PredictionStore(tmp_path / "p.sqlite")
    run(model, clips, tmp_path, store)
    write_mp4(tmp_path / "Raw/2.mp4", frames=grey_frames(6, 56)[::-1], sound=tone(0.9))
    counting = Counting(model)
    run(counting, clips, tmp_path, store)
    assert counting.encoded == 1


def test_the_fingerprint_follows_everything_that_can_change_a_prediction(model):
    base, _ = run_fingerprint(model, MEDIA)
    other = MediaSettings(VideoSettings(num_frames=4), MEDIA.audio)
    assert run_fingerprint(model, other)[0] != base
    assert run_fingerprint(model, MediaSettings(MEDIA.video, AudioSettings()))[0] != base
    renamed = OmniModel(model.model, model.processor, "other weights")
    assert run_fingerprint(renamed, MEDIA)[0] != base


def test_a_path_out_of_the_corpus_root_is_refused(model, clips, tmp_path):
    clips.loc[0, "video_path"] = "../secret.mp4"
    with pytest.raises(ValueError, match=r"\.\./secret\.mp4"):
        run(model, clips, tmp_path, PredictionStore(tmp_path / "p.sqlite"))


def test_readers_see_finished_batches_while_a_write_is_open(tmp_path):
    store = PredictionStore(tmp_path / "p.sqlite")
    store.begin("f", {})
    done = Prediction("s", "T", "m", 1, -0.4, *[0.0] * 5)
    store.write("f", [done])
    writer = store._connect()
    writer.execute("BEGIN IMMEDIATE")
    assert len(PredictionStore(tmp_path / "p.sqlite").read("f")) == 1
    writer.close()


def test_a_resumed_plan_keeps_the_batches_of_an_undisturbed_one(clips, tmp_path):
    roots = {"ch_sims_v2": tmp_path}
    whole = make_plan(clips, roots, COALITIONS, set(), 3)
    assert [len(b) for b in whole.batches] == [3, 3, 1]
    sizes = [item.audio.stat().st_size for batch in whole.batches for item in batch]
    assert sizes == sorted(sizes, reverse=True)
    done = {(i.sample_id, c, i.version) for i in whole.batches[1] for c in COALITIONS}
    resumed = make_plan(clips, roots, COALITIONS, done, 3)
    assert resumed.batches == (whole.batches[0], whole.batches[2])
    assert resumed.known == 9 and resumed.remaining == whole.remaining - 9
    shuffled = make_plan(clips.sample(frac=1, random_state=0), roots, COALITIONS, set(), 3)
    assert shuffled == whole


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: (c.assign(sample_id="same"), COALITIONS, 2), "sample_id repeats"),
        (lambda c: (c.assign(corpus="cmu_mosi"), COALITIONS, 2), "no root folder .*cmu_mosi"),
        (lambda c: (c, ("VT",), 2), "unknown coalition"),
        (lambda c: (c, COALITIONS, 0), "batch_size"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(clips, tmp_path, change, match):
    frame, coalitions, size = change(clips)
    with pytest.raises(ValueError, match=match):
        make_plan(frame, {"ch_sims_v2": tmp_path}, coalitions, set(), size)


def test_traces_are_those_of_recording_each_prompt_and_change_no_answer(model, clips, tmp_path):
    store = PredictionStore(tmp_path / "p.sqlite")
    traced = run(model, clips, tmp_path, store, traces=True)
    plain = run(model, clips, tmp_path, PredictionStore(tmp_path / "other.sqlite"))
    pd.testing.assert_frame_equal(traced, plain)
    table = store.read_traces(run_fingerprint(model, MEDIA)[0])
    assert table.mass.shape == (len(clips) * len(COALITIONS), 1, 2, 3)
    row = table.index.query("sample_id == 'ch_sims_v2/v/4' and coalition == 'TAV'").index[0]
    path = tmp_path / "Raw/4.mp4"
    [encoded] = model.encode([Media(read_video(path, MEDIA.video), read_audio(path, MEDIA.audio))])
    answer = model.answer([Query(encoded, "TAV", "ch_sims_v2", "w 4")], trace=True)
    np.testing.assert_allclose(table.mass[row], answer.mass[0], atol=1e-6)
    assert table.counts[row].tolist() == answer.counts[0].tolist()


def test_answers_without_a_trace_are_asked_again_only_when_traces_are_wanted(
    model, clips, tmp_path
):
    (tmp_path / "Raw/3.mp4").write_bytes(b"damaged")
    store = PredictionStore(tmp_path / "p.sqlite")
    run(model, clips, tmp_path, store)
    for traces, expected in ((False, 0), (True, 6), (True, 0)):
        counting = Counting(model)
        run(counting, clips, tmp_path, store, traces=traces)
        assert counting.encoded == expected


class Talking(Counting):
    """Returns text only, as a closed model does."""

    def answer(self, queries, **options):
        raise AssertionError("a model that only returns text has no logits")

    def reply(self, queries):
        texts = ("E\nScore: 1.0", "I cannot tell.", "B", "A\nScore: 0.4")
        return [texts[int(q.transcript.split()[1]) % 4] for q in queries]


def test_free_replies_are_parsed_and_an_unparseable_one_is_neither_right_nor_wrong(
    model, clips, tmp_path
):
    store = PredictionStore(tmp_path / "p.sqlite")
    table = run(Talking(model), clips, tmp_path, store, decoding="free")
    by_clip = table[table["coalition"] == "V"].set_index("sample_id")
    assert by_clip.loc["ch_sims_v2/v/0", ["label", "score"]].tolist() == [4, 1.0]
    assert pd.isna(by_clip.loc["ch_sims_v2/v/1", "label"])
    assert by_clip.loc["ch_sims_v2/v/1", "reply"] == "I cannot tell."
    assert by_clip.loc["ch_sims_v2/v/2", "label"] == 1
    assert pd.isna(by_clip.loc["ch_sims_v2/v/3", "score"])
    labels = dict.fromkeys(("label_gt", "label_t", "label_a", "label_v"), 4)
    manifest = clips.assign(**labels, score_gt=1.0, subset="align")
    scored, lost = outcomes(manifest, table, ("V",))
    assert lost["outcome"].tolist() == ["unparseable"] * 2 and len(scored) == 5
    scores = table1_scores(scored, bootstrap=Bootstrap(20)).set_index(["subset", "metric"])
    assert scores.loc[("align", "acc5"), ["value", "n"]].tolist() == [2 / 5, 5]
    assert scores.loc[("align", "mae"), ["value", "n"]].tolist() == [0.0, 2]
    assert Talking(model).encoded == 0
    counting = Talking(model)
    run(counting, clips, tmp_path, store, decoding="free")
    assert counting.encoded == 0


def test_how_replies_are_read_is_part_of_the_fingerprint(model):
    assert run_fingerprint(model, MEDIA, "free")[0] != run_fingerprint(model, MEDIA)[0]


def test_a_store_of_an_earlier_version_keeps_its_rows(tmp_path):
    path = tmp_path / "p.sqlite"
    old = PredictionStore(path)
    old.begin("f", {})
    old.write("f", [Prediction("s", "T", "m", 1, -0.4, *[0.0] * 5)])
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE predictions DROP COLUMN reply")
    assert PredictionStore(path).read("f")["label"].tolist() == [1]


def test_an_export_holds_every_answer(model, clips, tmp_path):
    store = PredictionStore(tmp_path / "p.sqlite")
    table = run(model, clips, tmp_path, store)
    exported = pd.read_parquet(store.export(run_fingerprint(model, MEDIA)[0], tmp_path / "x.pq"))
    assert len(exported) == len(table) and exported["label"].tolist() == table["label"].tolist()


def test_reading_traces_of_a_run_without_any_says_how_to_get_them(tmp_path):
    with pytest.raises(ValueError, match="traces=True"):
        PredictionStore(tmp_path / "p.sqlite").read_traces("nothing")


@pytest.fixture
def manifest() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (40, 4))
    labels[:15] = labels[:15, :1]
    frame = pd.DataFrame(labels, columns=["label_gt", "label_t", "label_a", "label_v"])
    from emomm_study.corpora.manifest import subset

    frame = frame.assign(sample_id=[f"c/v/{i:02d}" for i in range(40)], split="test",
                         score_gt=(labels[:, 0] - 2) / 2)  # fmt: skip
    return frame.assign(subset=subset(frame))


def predictions_for(rows: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, len(rows)).astype(object)
    return pd.DataFrame({"sample_id": rows["sample_id"], "coalition": rows["coalition"],
                         "label": labels, "score": (labels.astype(float) - 2) / 2,
                         "failure": None, "reply": None,
                         **dict(zip([f"logit_{c}" for c in "abcde"],
                                    rng.normal(size=(5, len(rows))), strict=True))})  # fmt: skip


def test_table_1_equals_scikit_learn_on_each_subset(manifest):
    rows = instances(manifest)
    scored, failed = join(rows, predictions_for(rows))
    assert len(failed) == 0 and len(scored) == 160
    scores = table1_scores(scored, bootstrap=Bootstrap(20)).set_index(["subset", "metric"])
    for name in ("overall", "align", "conflict", "missing"):
        part = scored if name == "overall" else scored[scored["subset"].str.startswith(name)]
        truth, guess = part["label_gt"], part["label_pred"]
        assert scores.loc[(name, "acc5"), "value"] == pytest.approx(accuracy_score(truth, guess))
        f1 = f1_score(truth, guess, average="macro")
        assert scores.loc[(name, "f1"), "value"] == pytest.approx(f1)
        error = mean_absolute_error(part["score_gt"], part["score_pred"])
        assert scores.loc[(name, "mae"), "value"] == pytest.approx(error)


def test_failed_instances_are_scored_neither_right_nor_wrong(manifest):
    rows = instances(manifest)
    predictions = predictions_for(rows)
    predictions.loc[:9, ["label", "score"]] = None
    predictions.loc[:9, "failure"] = "damaged"
    scored, failed = join(rows, predictions)
    assert len(failed) == 10 and len(scored) == 150
    kept = predictions[predictions["failure"].isna()].merge(rows, on=["sample_id", "coalition"])
    expected = accuracy_score(kept["label_gt"].astype(int), kept["label"].astype(int))
    scores = table1_scores(scored, bootstrap=Bootstrap(20)).set_index(["subset", "metric"])
    assert scores.loc[("overall", "acc5"), "value"] == pytest.approx(expected)


def test_an_instance_that_was_never_run_is_an_error_not_a_miss(manifest):
    rows = instances(manifest)
    with pytest.raises(ValueError, match="1 instances have no prediction"):
        join(rows, predictions_for(rows).iloc[1:])


def test_the_reader_of_own_answers_follows_what_was_said_to_each_modality_alone(manifest):
    rows = manifest.assign(corpus="ch_sims_v2").merge(
        pd.DataFrame({"coalition": ["none", "T", "A", "V", "TA", "TV", "AV", "TAV"]}), how="cross"
    )
    answered, _ = outcomes(manifest.assign(corpus="ch_sims_v2"), predictions_for(rows))
    said = answered.set_index(["sample_id", "coalition"])["label_pred"]
    own = baselines(answered)["random own answer"].set_index(["sample_id", "coalition"])
    for (sample, coalition), row in own.iterrows():
        if coalition != "none":
            expected = np.mean([said[sample, m] == row["label_gt"] for m in coalition])
            assert row["right"] == pytest.approx(expected)
    empty = own.xs("none", level="coalition")
    expected = [said[sample, "none"] == gt for sample, gt in empty["label_gt"].items()]
    assert empty["right"].tolist() == [float(e) for e in expected]
    perfect = baselines(answered)["mean label"].query("coalition == 'T'")
    assert (perfect["right"] == (perfect["label_t"] == perfect["label_gt"])).all()


def test_clips_that_are_not_on_disk_are_passed_over_only_when_asked(clips, tmp_path):
    (tmp_path / "Raw/5.mp4").unlink()
    roots = {"ch_sims_v2": tmp_path}
    assert len(with_media(clips, roots, partial=True)) == len(clips) - 1
    with pytest.raises(FileNotFoundError, match=r"1 of 7 clips .* Raw/5\.mp4"):
        with_media(clips, roots)
    with pytest.raises(FileNotFoundError, match="7 of 7"):
        with_media(clips, {"ch_sims_v2": tmp_path / "elsewhere"}, partial=True)


PARAMETERS = {
    "profile": "mini", "ch_sims_root": "a", "cmu_mosi_root": "b", "dtype": "float32",
    "device": "cpu", "batch_size": 4, "num_frames": 2, "frame_pixels": None,
    "max_audio_seconds": 1.5, "render_clips": 3,
}  # fmt: skip


def test_settings_are_picked_from_a_notebooks_names_and_others_are_passed_over():
    names = PARAMETERS | {
        "null_clips": 250,
        "keep_encodings": True,
        "pd": pd,
        "backbones": ["c", "d"],
    }
    each = ExperimentSettings.of(names)
    assert each == [
        ExperimentSettings(**PARAMETERS, model=model, keep_encodings=True) for model in "cd"
    ]
    assert ExperimentSettings.of(PARAMETERS | {"backbones": ["c"]})[0].keep_encodings is False


@pytest.mark.parametrize("backbones", ["data/omni-mini", [], None, 3])
def test_backbones_that_are_no_list_of_names_are_refused(backbones):
    with pytest.raises(ValueError, match="backbones is a list of models"):
        ExperimentSettings.of(PARAMETERS | {"backbones": backbones})


def test_settings_name_all_that_is_missing():
    few = {k: v for k, v in PARAMETERS.items() if k != "num_frames"}
    with pytest.raises(ValueError, match="needs the parameters backbones, num_frames; set them"):
        ExperimentSettings.of(few)


def test_the_share_of_answers_that_a_system_would_rather_not_give():
    said = ['{"declined": true}', '{"declined": false, "x": 1}', None, '{"other": 2}']
    assert declined(pd.DataFrame({"details": said})) == 0.5
    assert declined(pd.DataFrame({"details": said[2:]})) is None
