"""The small models' training, at a size where it takes seconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emomm_lib.labels import polarity
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.model import bank as banks
from emomm_study.mini.model.build import MiniConfig
from emomm_study.mini.model.build_vita import VitaMiniConfig
from emomm_study.mini.model.decoder import MIXTURE, Stage
from emomm_study.mini.model.towers import _resampled
from emomm_study.mini.model.train import Recipe, train
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan, training_plan
from emomm_study.mini.surrogate.render import head_poses, render_frames
from emomm_study.paths import cache_dir
from emomm_study.systems.table import load_system

SIZES = {"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn": 32, "vision_hidden": 32,
         "vision_layers": 1, "vision_heads": 2, "vision_ffn": 32, "audio_hidden": 32,
         "audio_layers": 1, "audio_heads": 2, "audio_ffn": 32}  # fmt: skip
TINY = [MiniConfig(**SIZES), VitaMiniConfig(**SIZES, audio_channels=8, side=56)]
STAGES = (Stage(2, {"T": 1.0}), Stage(3, {"T": 0.5, "V": 0.5}, blocked=1.0),
          Stage(3, {"A": 0.5, "TAV": 0.5}, penalty=2.0), Stage(12, MIXTURE))  # fmt: skip
STEPS = Recipe(STAGES, clips=200, vision_steps=2, vision_batch=4, audio_steps=2, audio_batch=4,
               decoder_batch=4)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOMM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=TINY, ids=lambda config: config.name)
def tiny(request):
    return request.param


@pytest.fixture(scope="module")
def trained(cache, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    train(out, STEPS, tiny)
    return out


def weights(folder):
    return load_system(folder).model.state_dict()


def test_training_twice_gives_the_same_weights(trained, tiny, tmp_path):
    # The bank may be shared: it is keyed by what made it. The parts may not.
    kept = list(cache_dir(tiny.name).rglob("*.safetensors"))
    assert len(kept) == 3
    for path in kept:
        path.rename(path.with_suffix(".aside"))
    train(tmp_path, STEPS, tiny)
    one, two = weights(trained), weights(tmp_path)
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_killed_training_goes_on_from_its_last_finished_part(
    trained, tiny, tmp_path, monkeypatch
):
    def never(*_, **__):
        raise AssertionError("a finished part ran again")

    for name in ("train_audio", "train_vision", "train_decoder"):
        monkeypatch.setattr(f"emomm_study.mini.model.train.{name}", never)
    train(tmp_path, STEPS, tiny)
    one, two = weights(trained), weights(tmp_path)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_every_part_of_a_model_is_trained(trained, tiny):
    torch.manual_seed(STEPS.seed)
    random, learned = tiny.build().model.named_parameters(), weights(trained)
    left = {name for name, value in random if torch.equal(value, learned[name])}
    # Qwen2.5-Omni's thinker holds a weight that it never reads.
    assert left <= {"model.audio_tower.audio_bos_eos_token.weight"}


def test_vita_s_features_are_normalized_by_those_of_the_bank(cache):
    mini, bank = TINY[1].build(), banks.build_bank(STEPS.clips, STEPS.seed)
    features, lengths = mini.sounds(bank.waves)
    mini.fit_to(features, lengths)
    real = torch.cat([own[:n] for own, n in zip(features, lengths, strict=True)])
    normalized = mini.ears.encoder.global_cmvn(real)
    torch.testing.assert_close(normalized.mean(0), torch.zeros(80), rtol=0, atol=1e-3)
    torch.testing.assert_close(normalized.std(0), torch.ones(80), rtol=0, atol=1e-3)


def test_a_token_learns_the_part_that_its_own_square_shows():
    parts = np.zeros((8, 8), np.uint8)
    parts[6:, :2] = 2
    assert (_resampled(parts, 8, 8) == parts).all()
    coarse = _resampled(parts, 4, 4)
    assert coarse[3, 0] == 2 and coarse.sum() == 2
    assert _resampled(parts, 5, 5).shape == (5, 5)


def test_training_clips_never_conflict_and_share_no_speaker_with_the_benchmark():
    plan = training_plan(5000, 7)
    for modality in "tav":
        assert (polarity(plan[f"label_{modality}"]) == polarity(plan["label_gt"])).all()
    for corpus in Corpus:
        benchmark = corpus_plan(corpus, SurrogateSettings())
        assert not set(plan["speaker_seed"]) & set(benchmark["speaker_seed"])
        assert not set(plan["clip_seed"]) & set(benchmark["clip_seed"])


def test_training_emphasis_says_nothing_about_agreement():
    plan = training_plan(20_000, 3)
    for modality in "tav":
        agrees = plan[f"label_{modality}"] == plan["label_gt"]
        rates = plan.groupby(agrees)[f"emphatic_{modality}"].mean()
        assert abs(rates[True] - rates[False]) < 0.05


def test_the_part_grid_marks_the_head_where_it_is_drawn():
    clip = training_plan(1, 5).iloc[0].to_dict() | {"emphatic_v": True}
    [pose] = head_poses(clip, [0.5])
    grid = banks.part_grid([pose])
    face = np.kron(grid > 0, np.ones((banks.TOKEN, banks.TOKEN), bool))
    x, y = pose.centre.astype(int)
    assert face[y, x]
    # The skin's colour lives inside the marked region, the room's outside.
    frame = render_frames(clip, [0.5])[0].astype(int)
    skin = frame[y + 5, x - 18]
    near = np.abs(frame - skin).sum(-1) < 40
    assert near[face].mean() > 3 * near[~face].mean()


def test_every_coalition_is_trained():
    assert set(MIXTURE) == {"none", "T", "A", "V", "TA", "TV", "AV", "TAV"}
    assert sum(MIXTURE.values()) == pytest.approx(1)
