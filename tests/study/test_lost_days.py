"""Seven ways in which users of such models lose days; what is impossible here is shown to be."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
import yaml
from tiny_media import grey_frames, tone, write_mp4

from emomm_lib.labels import COALITIONS
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.store import PredictionStore
from emomm_study.failures import RunStopped
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import Frames, VideoSettings, read_video
from emomm_study.mini.model import build
from emomm_study.paths import ROOT
from emomm_study.systems.interface import Media, Query
from emomm_study.systems.omni import OmniModel
from emomm_study.systems.prompts import SYSTEM_PROMPT
from tests.backbones import KINDS, SIDE, SMALL, clip, make_omni

MEDIA = MediaSettings(VideoSettings(num_frames=4), AudioSettings(max_seconds=2.0))
PAPER = yaml.safe_load((ROOT / "notebooks" / "profiles" / "paper.yaml").read_text(encoding="utf-8"))
QWEN = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant."
    "<|im_end|>\n{% endif %}"
)
"""As Qwen's published templates begin: a system text of their own where there is none."""


@pytest.fixture(scope="module")
def omni():
    return make_omni()


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return KINDS[request.param].make()


def shown(model, query) -> str:
    """The prompt as the model is given it, media in place."""
    ids = model.prepare([query]).input_ids[0].tolist()
    return model.tokenizer.decode(ids)


# 1. Another system text: the checkpoint's own, or the paper's twice


@pytest.mark.parametrize("coalition", COALITIONS)
def test_every_prompt_has_one_system_turn_and_it_is_appendix_es(model, coalition):
    [encoded] = model.encode([clip(0)])
    text = shown(model, Query(encoded, coalition, Corpus.CH_SIMS, "word"))
    turns = text.split("<|im_start|>")
    assert [turn.partition("\n")[0] for turn in turns[1:]] == ["system", "user", "assistant"]
    assert turns[1].removeprefix("system\n").removesuffix("<|im_end|>\n") == SYSTEM_PROMPT


def test_a_templates_own_system_text_stays_out_and_one_that_drops_ours_is_refused(omni):
    [encoded] = omni.encode([clip(0)])
    query = Query(encoded, "TAV", Corpus.CH_SIMS, "word")
    other = copy.copy(omni)
    other.processor = copy.copy(omni.processor)
    template = omni.processor.chat_template
    other.processor.chat_template = QWEN + template
    assert shown(other, query) == shown(omni, query)
    loop = "{% for message in messages %}"
    for changed in (
        template.replace(loop, "{% for message in messages[1:] %}"),
        template.replace(loop, "{% for message in [messages[0]] + messages %}"),
    ):
        other.processor.chat_template = changed
        with pytest.raises(ValueError, match="the system text of Appendix E [02] times"):
            other.prepare([query])


# 2. Pixels without a bound


@pytest.mark.parametrize("size", [(2160, 3840), (4320, 7680), (3840, 1080), (100, 4000), (16, 16)])
def test_no_film_takes_more_tokens_than_the_profile_allows(size):
    """The paper profile's bounds, at the published patches of 14 pixels merged two by two."""
    least, most = PAPER["frame_pixels"]
    processor = build.build_processor(SMALL).video_processor
    frames = np.zeros((PAPER["num_frames"], *size, 3), np.uint8)
    grid = processor(
        [frames],
        size={"shortest_edge": least, "longest_edge": most},
        do_sample_frames=False,
        return_tensors="pt",
    )["video_grid_thw"][0]
    tokens = int(grid.prod()) // processor.merge_size**2
    assert tokens <= PAPER["num_frames"] / processor.temporal_patch_size * most / 28**2
    assert tokens <= 3072


# 3. Sound heard twice: once from the film, once from the sound file


def counts_of(model, folder, clips, coalitions) -> pd.DataFrame:
    store = PredictionStore(folder / "p.sqlite")
    bench = Experiment(model, clips, {"ch_sims_v2": folder}, store, MEDIA, 8, progress=False)
    assert bench.predictions(clips, coalitions, traces=True)["failure"].isna().all()
    found = bench.traces()
    table = found.index.assign(**dict(zip("TAV", np.asarray(found.counts).T, strict=True)))
    return table.set_index(["sample_id", "coalition"])


def test_a_films_own_sound_is_heard_once_and_only_where_sound_is_asked_for(omni, tmp_path):
    frames, sound = grey_frames(8, SIDE), tone(1.0)
    write_mp4(tmp_path / "silent.mp4", frames=frames)
    write_mp4(tmp_path / "speaking.mp4", frames=frames, sound=tone(2.0, hertz=300))
    sf.write(tmp_path / "own.wav", sound, 16_000)
    pairs = [("silent", "own.wav"), ("speaking", "own.wav"), ("alone", "speaking.mp4")]
    clips = pd.DataFrame(
        {"sample_id": name, "corpus": "ch_sims_v2", "text": "word", "audio_path": audio,
         "video_path": f"{'speaking' if name == 'alone' else name}.mp4"} for name, audio in pairs
    )  # fmt: skip
    found = counts_of(omni, tmp_path, clips, ["TAV", "V", "A"])
    for coalition in ("TAV", "A"):
        heard = found.xs(coalition, level="coalition")["A"]
        assert heard["speaking"] == heard["silent"] == 25 < heard["alone"] <= 51
    assert (found.xs("V", level="coalition")["A"] == 0).all()
    assert found.xs("V", level="coalition")["V"].nunique() == 1


# 4. Frames at other times than the model is told


@pytest.mark.parametrize(("count", "rate"), [(16, 8), (64, 8), (60, 30), (9, 3)])
def test_a_model_that_counts_time_is_told_the_films_own(omni, tmp_path, count, rate):
    write_mp4(tmp_path / "film.mp4", frames=grey_frames(count, SIDE), fps=rate)
    frames = read_video(tmp_path / "film.mp4", MEDIA.video)
    [encoded] = omni.encode([Media(frames, None)])
    prompt = omni.prepare([Query(encoded, "V", Corpus.CH_SIMS, "")])
    seen = prompt.input_ids[0] == omni.processor.tokenizer.convert_tokens_to_ids(
        omni.processor.video_token
    )
    steps = prompt.position_ids[0, 0, seen].unique()
    # Four frames in two steps, each of half the film; the model counts 25 positions a second.
    a_second = omni.model.config.position_id_per_seconds
    assert int(steps[1] - steps[0]) == int(count / rate / 2 * a_second)


# 5. float16 that overflows


def test_numbers_beyond_float16_are_failures_and_no_answers(tmp_path):
    model = make_omni()
    model.model.half()
    with torch.no_grad():
        model.decoder.norm.weight.fill_(60_000)
    sf.write(tmp_path / "a.wav", tone(0.5), 16_000)
    write_mp4(tmp_path / "a.mp4", frames=grey_frames(4, SIDE))
    clips = pd.DataFrame(
        {"sample_id": f"{i}", "corpus": "ch_sims_v2", "text": f"w {i}", "audio_path": "a.wav",
         "video_path": "a.mp4"} for i in range(3)
    )  # fmt: skip
    store = PredictionStore(tmp_path / "p.sqlite")
    bench = Experiment(model, clips, {"ch_sims_v2": tmp_path}, store, MEDIA, 8, progress=False)
    found = bench.predictions(clips, ["T"])
    assert found["failure"].str.contains("not finite").all()
    assert found[["label", "score"]].isna().all(axis=None)
    many = pd.concat([clips.assign(sample_id=f"{k}-" + clips["sample_id"]) for k in range(9)])
    with pytest.raises(RunStopped, match="not finite"):
        bench.predictions(many, ["T"])


# 6. Settings that a checkpoint's processor was left with


LEFT_OVER = {
    "size": {"shortest_edge": 56 * 56, "longest_edge": 12_845_056},
    "do_sample_frames": True,
    "fps": 0.5,
    "num_frames": 2,
    "min_frames": 2,
    "max_frames": 2,
}


def test_nothing_that_a_video_processor_was_left_with_changes_what_is_seen(omni):
    processor = copy.deepcopy(omni.processor)
    for name, value in LEFT_OVER.items():
        setattr(processor.video_processor, name, value)
    bound = (SIDE * SIDE, 4 * SIDE * SIDE)
    models = [OmniModel(omni.model, p, "x", bound) for p in (omni.processor, processor)]
    frames = np.random.default_rng(0).integers(0, 256, (6, 90, 130, 3), dtype=np.uint8)
    one, other = (m.encode([Media(Frames(frames, 2.0), None)])[0] for m in models)
    assert torch.equal(one.video, other.video) and one.grid.tolist() == other.grid.tolist()
    assert models[0].settings() == models[1].settings()


def test_no_window_that_a_sound_processor_was_left_with_cuts_a_sound(omni):
    processor = copy.deepcopy(omni.processor)
    extractor = processor.feature_extractor
    extractor.chunk_length, extractor.n_samples, extractor.nb_max_frames = 1, 16_000, 100
    sound = tone(2.0)
    for own in (omni.processor, processor):
        [encoded] = OmniModel(omni.model, own, "x").encode([Media(None, sound)])
        assert len(encoded.audio) == 50


# 7. Another tokenizer than the model's


def test_a_tokenizer_that_cuts_a_letter_in_pieces_is_refused(omni):
    processor = copy.deepcopy(omni.processor)
    described = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    described["normalizer"] = {"type": "Replace", "pattern": {"String": "A"}, "content": "aa"}
    processor.tokenizer._tokenizer = type(processor.tokenizer._tokenizer).from_str(
        json.dumps(described)
    )
    with pytest.raises(ValueError, match="one token for each of"):
        OmniModel(omni.model, processor, "x")


def test_a_tokenizer_whose_places_for_media_have_other_numbers_is_refused(omni):
    processor = copy.deepcopy(omni.processor)
    processor.tokenizer.video_token = processor.video_token = "<|IMAGE|>"
    with pytest.raises(ValueError, match=r"another than the model.*<\|IMAGE\|> is 3, not 5"):
        OmniModel(omni.model, processor, "x")
