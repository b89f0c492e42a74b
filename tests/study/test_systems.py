"""Which class opens a checkpoint, and what is refused of a system that only answers."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch

from emomm_lib import SteeringConfig
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.headers import Check
from emomm_study.evaluate.methods import Always, Method
from emomm_study.evaluate.store import PredictionStore
from emomm_study.failures import RunStopped
from emomm_study.paths import ROOT
from emomm_study.systems.interface import (
    STEERED_BY,
    Answers,
    Encoded,
    NotOffered,
    Unanswered,
    offered,
)
from emomm_study.systems.named import Named
from emomm_study.systems.omni import OmniModel
from emomm_study.systems.table import KINDS, load_system
from tests.crash import COALITIONS, MEDIA, small_model
from tests.tiny_media import grey_frames, tone, write_mp4


class Echo:
    """A system that only answers: the letter by how long the transcript is."""

    fingerprint, device = "echo-1", torch.device("cpu")

    def settings(self):
        return {"model": self.fingerprint}

    def encode(self, clips):
        return [
            Encoded(
                None if clip.frames is None else torch.zeros(1, 1),
                None if clip.frames is None else torch.ones(3),
                None if clip.frames is None else 1.0,
                None if clip.sound is None else torch.zeros(1, 1),
            )
            for clip in clips
        ]

    def answer(self, queries, *, trace=False, states=False):
        logits = np.eye(5, dtype=np.float32)[[len(q.transcript) % 5 for q in queries]]
        said = [{"heard": "A" in q.coalition} for q in queries]
        return Answers(logits, logits.argmax(-1), np.zeros(len(queries)), details=said)

    def reply(self, queries):
        return ["E\nScore: 1.0"] * len(queries)


@pytest.fixture
def bench(tmp_path):
    """Two little clips, asked of a system that only answers."""
    rows = []
    for i in range(2):
        video = write_mp4(tmp_path / f"{i}.mp4", frames=grey_frames())
        sf.write(tmp_path / f"{i}.wav", tone(), 16_000)
        rows.append({"sample_id": str(i), "corpus": "ch_sims_v2", "text": "word" * (i + 1),
                     "video_path": video.name, "audio_path": f"{i}.wav"})  # fmt: skip
    store = PredictionStore(tmp_path / "answers.sqlite")
    return Experiment(Echo(), pd.DataFrame(rows), {"ch_sims_v2": tmp_path}, store, MEDIA, 2,
                      processes=1, progress=False)  # fmt: skip


def test_a_system_that_only_answers_is_asked_scored_and_kept_like_any_other(bench):
    answers = bench.predictions(bench.clips, COALITIONS)
    assert answers["failure"].isna().all()
    assert answers.groupby("sample_id")["label"].first().tolist() == [4, 3]
    said = answers.set_index("coalition")["details"].map(json.loads)
    assert all(own["heard"] == ("A" in name) for name, own in said.items())
    free = bench.predictions(bench.clips, ["T"], decoding="free")
    assert free["label"].tolist() == [4, 4] and free["score"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("asked", ["traces", "states", "steered", "inspect", "frames"])
def test_what_needs_a_decoder_is_refused_by_name_of_a_system_that_only_answers(bench, asked):
    method = Method("even", Always(1.0, (1.0, 1.0, 1.0)), SteeringConfig(first_layer=1, beta=0.0))
    ways = {
        "traces": lambda: bench.predictions(bench.clips, ["T"], traces=True),
        "states": lambda: bench.states(bench.clips),
        "steered": lambda: bench.steered(bench.clips, ["TAV"], [method]),
        "inspect": lambda: bench.inspect(bench.clips.iloc[0], "TAV"),
        "frames": lambda: bench.frames(bench.clips.iloc[0]),
    }
    with pytest.raises(NotOffered, match=r"Echo only answers, and .* needs its decoder"):
        ways[asked]()
    assert bench.store.read(bench.fingerprint).empty


class Dear(Echo):
    """Answers one by one; of ``failing`` transcripts it does not answer."""

    one_by_one = True

    def __init__(self, failing, again):
        self.failing, self.again, self.asked = failing, again, []

    def answer(self, queries, *, trace=False, states=False):
        [query] = queries
        self.asked.append(query.transcript)
        if query.transcript in self.failing:
            raise Unanswered("no answer today", self.again, {"paid": 3})
        if query.transcript == "end":
            raise MemoryError
        found = super().answer(queries)
        return replace(found, letter_logits=None, score=None)


def test_answers_that_come_one_by_one_are_each_kept_before_the_next(bench):
    model = Dear((), None)
    texts = ["a", "end", "bb"]
    clips = pd.concat([bench.clips.iloc[:1]] * 3).assign(sample_id=list("012"), text=texts)
    bench = replace(bench, model=model, clips=clips, batch_size=3, processes=4)
    with pytest.raises(RunStopped, match="1 of 3 answers are kept"):
        bench.predictions(clips, ["T"])
    bench.predictions(clips[clips["text"] != "end"], ["T"])
    kept = bench.store.read(bench.fingerprint)
    assert model.asked == ["a", "end", "bb"] and kept["label"].tolist() == [1, 2]
    assert kept[["score", "logit_a"]].isna().all(axis=None) and kept["failure"].isna().all()


@pytest.mark.parametrize(
    ("again", "asked"), [(None, [2, 0, 0, 0]), ("once", [2, 1, 0, 0]), ("always", [2, 1, 1, 1])]
)
def test_a_failure_is_asked_again_as_it_says_and_the_latest_outcome_counts(bench, again, asked):
    model = Dear(("word",), again)
    bench, counts = replace(bench, model=model), []
    for _ in asked:
        model.asked.clear()
        table = bench.predictions(bench.clips, ["T"])
        counts.append(len(model.asked))
        assert table["failure"].fillna("").tolist() == ["no answer today", ""]
        assert json.loads(table["details"][0]) == {"paid": 3}
    assert counts == asked
    if again == "always":
        model.failing = ()
        table = bench.predictions(bench.clips, ["T"])
        assert table["failure"].isna().all() and table["label"].notna().all()
        model.asked.clear()
        bench.predictions(bench.clips, ["T"])
        assert not model.asked


def test_a_check_says_what_would_be_asked_and_asks_nothing(bench):
    model = Dear((), None)
    bench = replace(bench, model=model)
    assert bench.check(bench.clips, COALITIONS) == Check(0, 2 * len(COALITIONS))
    bench.predictions(bench.clips, COALITIONS)
    asked = len(model.asked)
    assert bench.check(bench.clips, COALITIONS) == Check(2 * len(COALITIONS), 0)
    assert len(model.asked) == asked


def test_a_backbone_offers_all_that_steering_asks_for():
    assert offered(small_model(), "steering").layers == 1
    whole = SimpleNamespace(**dict.fromkeys(STEERED_BY))
    assert offered(whole, "steering") is whole
    for name in STEERED_BY:
        lacking = SimpleNamespace(**dict.fromkeys(set(STEERED_BY) - {name}))
        with pytest.raises(NotOffered, match=rf"it has no {name}\)"):
            offered(lacking, "steering")


def test_the_class_that_opens_a_checkpoint_is_chosen_by_its_own_configuration():
    assert type(load_system(ROOT / "data" / "omni-mini")) is OmniModel
    for path in KINDS.values():
        module, _, name = path.partition(":")
        assert hasattr(importlib.import_module(module), name), path


@pytest.mark.parametrize(
    ("config", "said"),
    [(None, "has no config.json"), ({}, "names no model_type"),
     ({"model_type": "llama"}, "is a 'llama' model; known are qwen2_5_omni.*vita-Qwen2")],
)  # fmt: skip
def test_a_checkpoint_of_no_known_kind_is_refused_by_name(tmp_path, config, said):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=said):
        load_system(tmp_path)


def test_options_stand_behind_the_name_of_a_system():
    assert Named.of("a/b") == Named("a/b", {})
    named = Named.of("VITA-MLLM/VITA-1.5?audio=chunk:4:2&x=1")
    assert named == Named("VITA-MLLM/VITA-1.5", {"audio": "chunk:4:2", "x": "1"})
    assert named.name == "VITA-1.5"
    with pytest.raises(ValueError, match="expected options as name=value"):
        Named.of("a/b?audio")
