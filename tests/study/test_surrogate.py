"""Surrogate corpora: what is drawn, what is rendered, and what the real loaders read back."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from emomm_lib.labels import SOURCES
from emomm_study.annotation.export import export_annotations
from emomm_study.corpora.ch_sims import load_ch_sims
from emomm_study.corpora.checks import CorpusError
from emomm_study.corpora.cmu_mosi import load_cmu_mosi, unannotated_cmu_mosi
from emomm_study.corpora.scores import GRIDS, Corpus, score_to_label
from emomm_study.media.audio import read_audio
from emomm_study.media.models import fetch_models
from emomm_study.media.person import FaceDetector
from emomm_study.media.video import VideoSettings, read_frames
from emomm_study.mini.annotators import simulated_campaign
from emomm_study.mini.surrogate import cue, render
from emomm_study.mini.surrogate.joint import label_table
from emomm_study.mini.surrogate.lexicon import LEXICONS
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan
from emomm_study.mini.surrogate.speaker import Film

LABELS = [f"label_{s}" for s in SOURCES]
SCORES = {corpus: ["score_gt"] for corpus in Corpus}
SCORES[Corpus.CH_SIMS] = [f"score_{s}" for s in SOURCES]
LOADERS = {Corpus.CH_SIMS: load_ch_sims, Corpus.CMU_MOSI: load_cmu_mosi}


@pytest.fixture(scope="module")
def plans():
    return {corpus: corpus_plan(corpus, SurrogateSettings()) for corpus in Corpus}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Both corpora with all their label files, annotated, and 12 rendered clips each."""
    folder = tmp_path_factory.mktemp("surrogate")
    made = {corpus: folder / corpus for corpus in Corpus}
    plans = {c: render.render_corpus(r, c, limit=12, progress=False) for c, r in made.items()}
    campaign = simulated_campaign(folder / "campaign.sqlite", plans[Corpus.CMU_MOSI])
    export_annotations(campaign.votes(), made[Corpus.CMU_MOSI] / "annotations.csv")
    return made


@pytest.mark.parametrize("corpus", list(Corpus))
def test_the_loaders_read_back_every_label_that_was_planned(corpus, roots, plans):
    clips = LOADERS[corpus](roots[corpus], check_media=False).clips
    both = clips.merge(plans[corpus], on="sample_id", suffixes=("", "_planned"))
    assert len(both) == len(clips) == 2000
    for name in [*LABELS, *SCORES[corpus], "text", "language"]:
        assert (both[name] == both[f"{name}_planned"]).all(), name


@pytest.mark.parametrize("corpus", list(Corpus))
def test_the_labels_on_disk_are_the_joint_distribution_s(corpus, roots):
    clips = LOADERS[corpus](roots[corpus], check_media=False).clips
    ours = np.sort(clips[LABELS].to_numpy() @ [125, 25, 5, 1])
    expected = np.sort(label_table(corpus)[LABELS].to_numpy() @ [125, 25, 5, 1])
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("corpus", list(Corpus))
def test_rendered_clips_pass_the_loaders_media_check(corpus, roots):
    table = LOADERS[corpus](roots[corpus])
    assert len(table.clips) == 12
    assert set(table.report["problem"]) == {"missing clip file"} or len(table.report) >= 1988


def test_scores_belong_to_their_labels(plans):
    for corpus, plan in plans.items():
        for name in SCORES[corpus]:
            expected = score_to_label(plan[name], corpus)
            np.testing.assert_array_equal(plan[name.replace("score", "label")], expected)
            assert set(plan[name]) <= {s for label in range(5) for s in GRIDS[corpus].scores(label)}


def test_a_planned_cmu_mosi_has_no_scores_but_the_ground_truth_s(plans):
    assert [c for c in plans[Corpus.CMU_MOSI] if c.startswith("score")] == ["score_gt"]


def test_agreeing_modalities_are_emphatic_at_the_cue_s_rate(plans):
    for plan in plans.values():
        agrees = plan[["label_t", "label_a", "label_v"]].eq(plan["label_gt"], axis=0).to_numpy()
        emphatic = plan[["emphatic_t", "emphatic_a", "emphatic_v"]].to_numpy()
        assert abs(emphatic[agrees].mean() - 0.85) < 0.02
        assert abs(emphatic[~agrees].mean() - 0.15) < 0.02


def test_the_null_cue_keeps_labels_and_rates_and_makes_emphasis_uninformative(plans):
    for corpus, plan in plans.items():
        null = corpus_plan(corpus, SurrogateSettings(cue=cue.NULL_CUE))
        same = [*LABELS, *SCORES[corpus], "video_id", "clip_id", "speaker_seed"]
        assert null[same].equals(plan[same])
        agrees = plan[["label_t", "label_a", "label_v"]].eq(plan["label_gt"], axis=0).to_numpy()
        for k, modality in enumerate("tav"):
            emphatic = null[f"emphatic_{modality}"]
            own = agrees[:, k]
            assert abs(emphatic[own].mean() - emphatic[~own].mean()) < 0.07
            assert abs(emphatic.mean() - plan[f"emphatic_{modality}"].mean()) < 0.04
            wrong = [
                (p[f"shown_{modality}"] != p[f"label_{modality}"]).mean() for p in (plan, null)
            ]
            assert abs(wrong[0] - wrong[1]) < 0.03


@given(
    labels=st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=30),
    emphatic=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_a_confused_modality_shows_a_neighbouring_class_inside_the_scale(labels, emphatic, seed):
    labels = np.array(labels)
    always = cue.Confusion(1.0, 1.0)
    rng = np.random.default_rng(seed)
    flags = np.full(labels.shape, emphatic)
    shown = cue.draw_shown(labels, flags, cue.Expressiveness(always, always, always), rng)
    assert (np.abs(shown - labels) == 1).all()
    assert ((shown >= 0) & (shown <= 4)).all()


def test_dozens_of_speakers_have_clips_in_each_corpus(plans):
    for plan in plans.values():
        assert plan["speaker_seed"].nunique() >= 90
        assert plan.groupby("speaker_seed").size().min() >= 2


def test_no_two_classes_share_a_cue_word():
    for lexicon in LEXICONS.values():
        words = [word for cues in lexicon.cues for word in cues]
        assert len(words) == len(set(words))


def test_the_files_of_a_rendered_cmu_mosi_leave_annotations_to_annotators(tmp_path, plans):
    render._TABLES[Corpus.CMU_MOSI](tmp_path, plans[Corpus.CMU_MOSI])
    with pytest.raises(CorpusError, match="unimodal labels do not come with the dataset"):
        load_cmu_mosi(tmp_path, check_media=False)
    before = unannotated_cmu_mosi(tmp_path, check_media=False)
    assert len(before.clips) == 2000 and not set(LABELS[1:]) & set(before.clips)


def test_the_same_seed_gives_the_same_decoded_content(roots, tmp_path, plans):
    for corpus in Corpus:
        root = tmp_path / corpus
        render.render_corpus(root, corpus, limit=2, processes=1, progress=False)
        made = [p for p in root.rglob("*") if p.suffix in {".mp4", ".wav"}]
        assert len(made) == (4 if corpus is Corpus.CMU_MOSI else 2)
        for path in made:
            twin = roots[corpus] / path.relative_to(root)
            np.testing.assert_array_equal(read_audio(path), read_audio(twin))
            if path.suffix == ".mp4":
                sampling = VideoSettings(num_frames=3)
                np.testing.assert_array_equal(
                    read_frames(path, sampling), read_frames(twin, sampling)
                )


def test_a_killed_rendering_keeps_finished_clips_and_leaves_no_half_ones(tmp_path, monkeypatch):
    corpus = Corpus.CH_SIMS
    monkeypatch.setattr(
        render, "_TABLES", {corpus: lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)}
    )
    with pytest.raises(KeyboardInterrupt):
        render.render_corpus(tmp_path, corpus, limit=3, progress=False)
    monkeypatch.undo()
    first = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.mp4")}
    assert len(first) == 3
    render.render_corpus(tmp_path, corpus, limit=4, progress=False)
    assert {p: p.stat().st_mtime_ns for p in first} == first
    assert len(list(tmp_path.rglob("*.mp4"))) == 4
    assert not [p for p in tmp_path.rglob(".*") if p.is_file()]


def test_fewer_clips_than_before_are_those_that_a_fresh_folder_has(tmp_path):
    corpus = Corpus.CMU_MOSI
    for folder, limits in (("fresh", [2]), ("more", [4, 2])):
        for limit in limits:
            render.render_corpus(tmp_path / folder, corpus, limit=limit, progress=False)
    fresh, more = (
        {
            p.relative_to(tmp_path / name)
            for p in (tmp_path / name).rglob("*")
            if p.suffix in {".mp4", ".wav"}
        }
        for name in ("fresh", "more")
    )
    assert len(fresh) == 4 and more == fresh


def test_other_settings_make_the_folder_anew_and_a_foreign_folder_is_refused(tmp_path):
    corpus = Corpus.CH_SIMS
    render.render_corpus(tmp_path / "a", corpus, limit=1, progress=False)
    before = json.loads((tmp_path / "a" / "surrogate.json").read_text())["fingerprint"]
    other = SurrogateSettings(seed=5)
    render.render_corpus(tmp_path / "a", corpus, other, limit=1, progress=False)
    assert json.loads((tmp_path / "a" / "surrogate.json").read_text())["fingerprint"] != before
    assert len(list((tmp_path / "a").rglob("*.mp4"))) == 1
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("a real corpus")
    with pytest.raises(ValueError, match="not rendered by this project"):
        render.render_corpus(tmp_path / "b", corpus, limit=1)
    assert (tmp_path / "b" / "mine.txt").exists()


def test_a_larger_film_shows_the_same_scene_in_finer_pixels(plans):
    times = [0.0, 0.7, 1.6]
    for clip in plans[Corpus.CH_SIMS].sample(4, random_state=2).to_dict("records"):
        usual, large = (render.render_frames(clip, times, size=size) for size in (224, 448))
        assert large.shape == (3, 448, 448, 3)
        for small, frame in zip(usual, large, strict=True):
            shrunk = cv2.resize(frame, (224, 224), interpolation=cv2.INTER_AREA)
            apart = np.abs(shrunk.astype(int) - small)
            assert apart.mean() < 3 and (apart.max(-1) > 40).mean() < 0.02
            # Pixels of their own, not the small frame's four times.
            assert not np.array_equal(frame[::2], frame[1::2])


def test_a_longer_film_adds_silence_in_which_lips_are_still(plans):
    film = Film(seconds=3.5)
    clip = plans[Corpus.CMU_MOSI].iloc[3].to_dict() | {"clip_seed": 5}
    said = render.render_audio(clip)
    whole = render._room_after(said, clip, film)
    assert len(whole) == 3.5 * 16_000 and np.array_equal(whole[: len(said)], said)
    # The first 60 ms are padding: noise alone.
    assert np.std(whole[len(said) :]) == pytest.approx(np.std(said[:960]), rel=0.2)
    assert np.array_equal(render._room_after(said, clip, Film(seconds=0.5)), said)
    spoken = len(said) / 16_000
    times = np.arange(35) / 10
    talking = render.render_frames(clip, times)
    stopped = render.render_frames(clip, times, spoken=spoken)
    differs = (talking != stopped).any((1, 2, 3))
    assert not differs[times < spoken].any() and differs[times >= spoken].any()


def test_clips_of_another_film_are_written_anew_and_as_asked(tmp_path):
    root, film = tmp_path / "a", Film(size=112, seconds=3.0)
    corpus = Corpus.CH_SIMS
    render.render_corpus(root, corpus, limit=1, progress=False)
    settings_ = SurrogateSettings(film=film)
    render.render_corpus(root, corpus, settings_, limit=1, processes=1, progress=False)
    [path] = root.rglob("*.mp4")
    assert read_frames(path, VideoSettings(num_frames=2)).shape == (2, 112, 112, 3)
    assert len(read_audio(path)) == pytest.approx(3.0 * 16_000, abs=2048)


@pytest.mark.parametrize(
    ("film", "problem"),
    [
        ({"size": 225}, "render_size: 225; expected .* an even number"),
        ({"size": 10}, "render_size: 10; expected .* from 56 on"),
        ({"seconds": -1}, "render_seconds: -1; expected the least length"),
    ],
)
def test_a_film_that_cannot_be_is_refused_by_the_parameters_name(film, problem):
    with pytest.raises(ValueError, match=problem):
        Film(**film)


def test_the_face_detector_finds_the_speaker_in_98_percent_of_frames(plans):
    fetch_models()
    clips = plans[Corpus.CMU_MOSI].sample(40, random_state=1).to_dict("records")
    frames = np.concatenate([render.render_frames(c, [0.1, 0.9, 1.7]) for c in clips])
    with FaceDetector() as detector:
        found = [len(faces.scores) > 0 for faces in detector.detect(frames)]
    assert np.mean(found) >= 0.98


def test_emphatic_speech_stands_further_above_the_room_s_noise(plans):
    plan = plans[Corpus.CMU_MOSI]
    floors = {}
    for emphatic in (True, False):
        clips = plan[plan["emphatic_a"] == emphatic].head(15).to_dict("records")
        waves = [render.render_audio(c) for c in clips]
        assert all(np.abs(w).max() <= 0.99 for w in waves)
        # The first 60 ms are padding: noise alone.
        floors[emphatic] = np.median([np.std(w[:960]) / np.std(w) for w in waves])
    assert floors[True] < 0.5 * floors[False]
