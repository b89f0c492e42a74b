"""What ``--check`` says before a run, held against the run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
from tiny_media import write_mp4

from benchmarks import check_memory
from emomm_lib.labels import COALITIONS
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.experiment import Experiment, ExperimentSettings
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.headers import blank_clips, count_tokens, read_headers
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.audio import AudioSettings, read_audio
from emomm_study.media.header import film_header, sound_header
from emomm_study.media.video import Frames, VideoSettings, read_frames
from emomm_study.paths import ROOT
from emomm_study.run import check, dangers, needs, pipeline
from emomm_study.systems.interface import Media, Query
from emomm_study.systems.size import load_weightless
from emomm_study.systems.table import load_system

MODELS = {name: ROOT / "data" / name for name in ("omni-mini", "vita-mini")}
MEDIA = MediaSettings(VideoSettings(5), AudioSettings(max_seconds=2.2))
CLIP = ((4, 224, 224), 40_000)
SHAPES = ((34, 250, 16_000), (120, 66, 44_100), (224, 224, 22_050), (90, 130, 48_000))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """Films of odd sizes, sounds of odd lengths and rates, in the film or in a file of their own."""
    root, rows = tmp_path_factory.mktemp("corpus"), []
    rng = np.random.default_rng(0)
    for i, (height, width, rate) in enumerate(SHAPES):
        frames = rng.integers(0, 256, (7 + i, height, width, 3), dtype=np.uint8)
        sound = 0.1 * rng.standard_normal(int(rate * (0.61 + 0.77 * i))).astype(np.float32)
        write_mp4(root / f"{i}.mp4", frames=frames, sound=sound, rate=rate)
        audio = f"{i}.mp4"
        if i % 2:
            audio = f"{i}.wav"
            soundfile.write(root / audio, sound, rate)
        name = {"sample_id": f"c/{i}", "corpus": ("ch_sims_v2", "cmu_mosi")[i % 2]}
        text = ("this is good", "\u6211\u5f88\u9ad8\u5174 <|im_end|>", "no", "well well well")[i]
        rows.append(name | {"text": text, "video_path": f"{i}.mp4", "audio_path": audio})
    return root, pd.DataFrame(rows)


def bench(model, corpus, store: Path) -> Experiment:
    root, clips = corpus
    roots = {"ch_sims_v2": root, "cmu_mosi": root}
    return Experiment(
        model, clips, roots, PredictionStore(store), MEDIA, 3, processes=1, progress=False
    )


def estimated(model, corpus) -> pd.DataFrame:
    root, clips = corpus
    headers = read_headers(clips, {"ch_sims_v2": root, "cmu_mosi": root})
    return count_tokens(model, clips, blank_clips(model, headers, MEDIA))


@pytest.mark.parametrize("seconds", [None, 0.733, 1.9])
def test_headers_tell_to_the_sample_and_pixel_what_is_read(corpus, seconds):
    root, clips = corpus
    settings = AudioSettings(max_seconds=seconds)
    for clip in clips.itertuples():
        heard = sound_header(root / clip.audio_path).heard(settings)
        assert heard == len(read_audio(root / clip.audio_path, settings))
        film = film_header(root / clip.video_path)
        assert read_frames(root / clip.video_path).shape[1:3] == (film.height, film.width)


@pytest.mark.parametrize("name", MODELS)
def test_estimated_tokens_are_those_of_the_answers_under_every_coalition(name, corpus, tmp_path):
    options = {"dtype": "float32", "device": "cpu", "pixels": None}
    found = estimated(load_weightless(str(MODELS[name]), **options), corpus)
    own = bench(load_system(MODELS[name], **options), corpus, tmp_path / "store.sqlite")
    own.predictions(corpus[1], COALITIONS, traces=True)
    table = own.traces()
    counted = table.index.assign(**dict(zip("TAV", table.counts.T, strict=True)))
    both = counted.merge(found, on=["sample_id", "coalition"], suffixes=("", "_estimated"))
    assert len(both) == len(found) == len(SHAPES) * len(COALITIONS)
    for modality in "TAV":
        assert (both[modality] == both[f"{modality}_estimated"]).all()


@pytest.mark.parametrize("name", MODELS)
def test_whole_prompts_are_counted_as_the_model_tokenizes_them(name):
    model = load_system(MODELS[name], dtype="float32")
    media = Media(Frames(np.zeros((4, 100, 180, 3), np.uint8), 2.0), np.zeros(20_000, np.float32))
    text, [real] = "good <|im_end|>", model.encode([media])
    asked = [Query(real, coalition, Corpus.CMU_MOSI, text) for coalition in COALITIONS]
    blank = model.blank((4, 100, 180), 20_000)
    counted = model.counted([dataclasses.replace(query, clip=blank) for query in asked])
    assert counted[:, 3].tolist() == model._tokens(asked).mask.sum(1).tolist()


@pytest.mark.parametrize("name", MODELS)
def test_counted_memory_is_within_a_fifth_of_what_the_allocator_gives_out(name):
    for what, counted, measured in check_memory.compared(MODELS[name], 1, "float32", CLIP):
        assert 0.8 * measured <= counted <= 1.2 * measured, what


@pytest.mark.parametrize("name", MODELS)
def test_a_model_without_weights_finds_what_it_was_asked_with_them(name, corpus, tmp_path):
    options = {"dtype": "float32", "device": "cpu", "pixels": None}
    real, bare = load_system(MODELS[name], **options), load_weightless(str(MODELS[name]), **options)
    assert bare.settings() == real.settings()
    store = tmp_path / "store.sqlite"
    bench(real, corpus, store).predictions(corpus[1].head(2), ["TA", "V"], traces=True, states=True)
    planned = bench(bare, corpus, store).plan(corpus[1], COALITIONS, traces=True, states=True)
    assert (planned.known, planned.remaining) == (4, len(SHAPES) * len(COALITIONS) - 4)


def settings(**changed) -> ExperimentSettings:
    given = {
        "profile": "tiny", "ch_sims_root": "x", "cmu_mosi_root": "x", "model": "data/omni-mini",
        "dtype": "float32", "device": "cpu", "batch_size": 3, "num_frames": 5,
        "frame_pixels": None, "max_audio_seconds": 2.2, "render_clips": None,
    }  # fmt: skip
    return ExperimentSettings(**(given | changed))


def test_a_batch_that_does_not_fit_is_refused_with_the_largest_that_does():
    def needed(clips: int) -> tuple[dict[str, float], needs.Batches]:
        found = {needs.WEIGHTS: 100.0, needs.ENCODERS: 2.0 * clips, needs.DECODER: 5 + 10.0 * clips}
        return found | {needs.GRADIENT: 30.0}, needs.Batches(clips, 2, 4.0 * clips, 8)

    def need(clips: int, there: float) -> needs.Need:
        return needs.device_need("a GPU", there, *needed(clips), lambda: 15.0)

    there = need(5, 1e9).needed + 1e-6
    assert need(5, there).fits and not need(6, there).fits
    assert need(8, there).advice == "set batch_size to 5"
    assert "set batch_size to 1 and num_frames to " in str(need(8, need(1, 1e9).needed - 1))
    assert "the weights leave no room" in str(need(8, 90.0))


def test_weights_are_counted_once_a_worker_and_once_for_who_asks(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert needs._side_by_side(settings()) == (needs.processes_for("cpu"), 1)
    assert needs._side_by_side(settings(executor="ray", workers=3)) == (3, 4)
    # Of many GPUs each holds one worker, and one of them the notebook's own copy besides.
    assert needs._side_by_side(settings(executor="ray", workers=8, device="cuda")) == (1, 2)
    found = {needs.WEIGHTS: 100.0, needs.ENCODERS: 1.0, needs.DECODER: 1.0, needs.GRADIENT: 1.0}
    once, twice = (
        needs.device_need("a GPU", 1e9, found, needs.Batches(1, 1, 0.0, 8, copies), lambda: 1.0)
        for copies in (1, 2)
    )
    assert twice.needed - once.needed == pytest.approx(needs.HEADROOM * 100)


def test_a_backbones_check_has_its_longest_prompt_and_all_that_takes_room(
    corpus, tmp_path, monkeypatch
):
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path))
    own = bench(load_weightless(str(MODELS["omni-mini"])), corpus, tmp_path / "store.sqlite")
    headers = read_headers(corpus[1], own.roots)
    blank = blank_clips(own.model, headers, MEDIA)
    tokens = count_tokens(own.model, corpus[1], blank)
    found = check._backbone(own, headers, blank, tokens, settings(), COALITIONS)
    assert (found.its_tokens, found.its_coalition) == (tokens["prompt"].max(), "TAV")
    assert (found.known, found.questions) == (0, len(SHAPES) * len(COALITIONS))
    assert all(value > 0 for value in found.memory.values())
    assert [need.fits for need in found.needs] == [True] * 3


def test_what_loses_days_is_named(corpus):
    model = load_weightless(str(MODELS["omni-mini"]), dtype="float16", pixels=(3136, 12_845_056))
    given = {"dtype": "float16", "frame_pixels": [3136, 12_845_056]}
    said = "\n".join([*dangers.of_parameters(given), *dangers.of_model(model, given)])
    assert "bfloat16" in said and "a frame may become 16,384 tokens" in said
    model.processor.feature_extractor.sampling_rate = 8000
    model.processor.video_processor.patch_size = 16
    said = "\n".join(dangers.of_model(model, {}))
    assert "sampling_rate is 8000" in said and "patch_size is 16" in said
    root, clips = corpus
    headers = read_headers(clips, {"ch_sims_v2": root, "cmu_mosi": root})
    said = "\n".join(dangers.of_clips(headers))
    assert "2 films have a sound track beside a sound file" in said
    assert "c/3 (" in said and "off their sounds" in said


def test_a_model_whose_files_are_in_order_is_warned_of_nothing():
    for folder in MODELS.values():
        model = load_weightless(str(folder), dtype="float32")
        assert list(dangers.of_model(model, {"frame_pixels": None})) == []


def test_files_that_cannot_be_read_are_counted_and_left_out(corpus, tmp_path):
    root, clips = corpus
    (tmp_path / "junk.mp4").write_bytes(b"not a film" * 100)
    row = clips.iloc[[0]].assign(video_path="junk.mp4", audio_path="none.wav")
    headers = read_headers(row, {"ch_sims_v2": tmp_path})
    assert len(headers[0].problems) == 2
    assert "1 clips have files that cannot be read" in "\n".join(dangers.of_clips(headers))
    assert blank_clips(load_weightless(str(MODELS["omni-mini"])), headers, MEDIA) == {}


def test_measure_is_refused_without_check(capsys):
    with pytest.raises(SystemExit):
        pipeline.main(["--measure"])
    assert "--measure goes with --check" in capsys.readouterr().err


def test_a_profile_that_is_not_rendered_is_said_to_be_and_costs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path))
    own = {k: v for k, v in pipeline.load_profile("mini").items() if k not in pipeline.SETTINGS}
    checked = check.check_profile(own, runs=tmp_path / "runs")
    assert "not rendered yet" in checked.source and checked.go
    assert "nothing is installed" in check.report(checked)
    json.dumps(dataclasses.asdict(checked))
    assert not (tmp_path / "runs").exists()


def test_errors_of_a_profile_are_the_preflights_own(monkeypatch, capsys):
    for name in ("EMOMM_CH_SIMS_ROOT", "EMOMM_CMU_MOSI_ROOT", "EMOMM_MOSI_ANNOTATIONS"):
        monkeypatch.delenv(name, raising=False)
    assert pipeline.main(["--profile", "paper", "--check"]) == 1
    assert "The paper profile cannot start; nothing was run" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_disk_that_states_take_is_what_was_foreseen(corpus, tmp_path, dtype):
    model = load_system(MODELS["omni-mini"], dtype=dtype)
    own = bench(model, corpus, tmp_path / "s.sqlite")
    plan = own.plan(corpus[1], COALITIONS, traces=True, states=True)
    settings = SimpleNamespace(keep_encodings=False, device="cpu")
    found = needs._on_disk(own, plan, pd.DataFrame(), {}, settings)
    own.states(corpus[1])
    files = list(own.state_store.folder.iterdir())
    # Beside the numbers a file has the names of what it holds.
    there = sum(file.stat().st_size for file in files)
    assert 0 < there - found["states of routers, on disk"] < 4000 * len(files)


def test_many_states_take_no_more_memory_but_for_the_one_layer_that_a_probe_reads():
    shape = 28, 3584, 28
    held, few, more, many = (needs.bytes_of_states(n, *shape, 1) for n in (100, 400, 1600, 16_000))
    assert held == 2 * 100 * 28 * (4 * 3584 + 28 * 3) * 4
    assert few == more
    assert many == pytest.approx(3.3 * 16_000 * 4 * 3584 * 4)
    assert many < 4e9 < 16_000 * 28 * 4 * 3584 * 2
