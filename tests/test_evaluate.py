"""Running a model over clips: resumable, failures apart, Table 1's rows from what was stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import grey_frames, tone, write_mp4
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

from emomm_lib.evaluate.results import instances, join, table1_scores, with_media
from emomm_lib.evaluate.runner import MediaSettings, evaluate, run_fingerprint
from emomm_lib.evaluate.store import Prediction, PredictionStore
from emomm_lib.media.audio import AudioSettings
from emomm_lib.media.video import VideoSettings, read_video
from emomm_lib.models.mini.build import MiniConfig, build_model, build_processor
from emomm_lib.models.omni import Media, OmniModel, Query

SMALL = MiniConfig(hidden=32, layers=1, heads=2, kv_heads=1, ffn=32, vision_hidden=32,
                   vision_layers=1, vision_heads=2, vision_ffn=32, audio_hidden=32,
                   audio_layers=1, audio_heads=2, audio_ffn=32, side=56)  # fmt: skip
MEDIA = MediaSettings(VideoSettings(num_frames=2), AudioSettings(max_seconds=2.0))
COALITIONS = ("TAV", "TA", "V")


@pytest.fixture(scope="module")
def model() -> OmniModel:
    torch.manual_seed(1)
    processor = build_processor(SMALL)
    return OmniModel(build_model(processor, SMALL), processor, "random")


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


def run(model, clips, root, store, **options):
    options = {"media": MEDIA, "batch_size": 2, "progress": False} | options
    return evaluate(model, clips, {"ch_sims_v2": root}, COALITIONS, store, **options)


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
    from emomm_lib.media.audio import read_audio

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


@pytest.fixture
def manifest() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (40, 4))
    labels[:15] = labels[:15, :1]
    frame = pd.DataFrame(labels, columns=["label_gt", "label_t", "label_a", "label_v"])
    from emomm_lib.benchmark import subset

    frame = frame.assign(sample_id=[f"c/v/{i:02d}" for i in range(40)], split="test",
                         score_gt=(labels[:, 0] - 2) / 2)  # fmt: skip
    return frame.assign(subset=subset(frame))


def predictions_for(rows: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, len(rows)).astype(object)
    return pd.DataFrame({"sample_id": rows["sample_id"], "coalition": rows["coalition"],
                         "label": labels, "score": (labels.astype(float) - 2) / 2,
                         "failure": None})  # fmt: skip


def test_table_1_equals_scikit_learn_on_each_subset(manifest):
    rows = instances(manifest)
    scored, failed = join(rows, predictions_for(rows))
    assert len(failed) == 0 and len(scored) == 160
    scores = table1_scores(scored, resamples=20).set_index(["subset", "metric"])
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
    scores = table1_scores(scored, resamples=20).set_index(["subset", "metric"])
    assert scores.loc[("overall", "acc5"), "value"] == pytest.approx(expected)


def test_an_instance_that_was_never_run_is_an_error_not_a_miss(manifest):
    rows = instances(manifest)
    with pytest.raises(ValueError, match="1 instances have no prediction"):
        join(rows, predictions_for(rows).iloc[1:])


def test_clips_that_are_not_on_disk_are_passed_over_only_when_asked(clips, tmp_path):
    (tmp_path / "Raw/5.mp4").unlink()
    roots = {"ch_sims_v2": tmp_path}
    assert len(with_media(clips, roots, partial=True)) == len(clips) - 1
    with pytest.raises(FileNotFoundError, match=r"1 of 7 clips .* Raw/5\.mp4"):
        with_media(clips, roots)
    with pytest.raises(FileNotFoundError, match="7 of 7"):
        with_media(clips, {"ch_sims_v2": tmp_path / "elsewhere"}, partial=True)
