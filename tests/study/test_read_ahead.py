"""Clips are read, and made ready for the encoders, while the model computes; nothing else changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from crash import MEDIA, small_model
from tiny_media import grey_frames, tone, write_mp4

from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.video import Frames
from emomm_study.paths import ROOT
from emomm_study.systems.interface import Encoded, Media, made_ready
from emomm_study.systems.table import load_system

MODELS = [f"{ROOT}/data/omni-mini", f"{ROOT}/data/vita-mini"]
COALITIONS = ("TAV", "A", "V")
BATCH, CLIPS = 2, 9


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> tuple[pd.DataFrame, Path]:
    folder, rows = tmp_path_factory.mktemp("clips"), []
    for i in range(CLIPS):
        sound = tone(0.4 + 0.1 * i, hertz=200 + 60 * i)
        write_mp4(folder / f"{i}.mp4", frames=grey_frames(4, 56), sound=sound)
        rows.append({"sample_id": f"c{i}", "corpus": "ch_sims_v2", "text": f"w {i}",
                     "video_path": f"{i}.mp4", "audio_path": f"{i}.mp4"})  # fmt: skip
    return pd.DataFrame(rows), folder


def answers(model, clips, store: Path) -> pd.DataFrame:
    table, folder = clips
    roots = {"ch_sims_v2": folder}
    own = PredictionStore(store)
    bench = Experiment(model, table, roots, own, MEDIA, BATCH, processes=1, progress=False)
    return bench.predictions(table, COALITIONS)


def media(seed: int, *, film: bool = True, seconds: float | None = 0.7) -> Media:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (4, 56, 56, 3), dtype=np.uint8) if film else None
    sound = None
    if seconds is not None:
        sound = rng.normal(size=int(16_000 * seconds)).astype(np.float32) / 10
    return Media(frames if frames is None else Frames(frames, fps=2.0), sound)


BATCHES = {
    "whole clips": [media(0), media(1, seconds=1.3), media(2)],
    "some without film or sound": [media(0), media(1, film=False), media(2, seconds=None)],
    "one beyond the extractor's window": [media(0), media(1, seconds=4.0), media(2, seconds=3.0)],
}


def ready(model, batch: Sequence[Media]) -> list[Media]:
    made = model.features(batch)
    return [replace(clip, ready=(made, i)) for i, clip in enumerate(batch)]


def assert_same(one: Sequence[Encoded], other: Sequence[Encoded]) -> None:
    for a, b in zip(one, other, strict=True):
        for name in ("video", "grid", "audio", "kept"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None) and (x is None or torch.equal(x, y)), name
        assert a.seconds_per_grid == b.seconds_per_grid


@pytest.mark.parametrize("name", MODELS, ids=["omni", "vita"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_what_was_made_ready_is_encoded_as_what_was_not_bit_for_bit(name, batch, monkeypatch):
    model = load_system(name, dtype="float32")
    expected, given = model.encode(batch), ready(model, batch)
    monkeypatch.setattr(model, "features", None)
    assert_same(model.encode(given), expected)


def test_another_batch_than_was_made_ready_is_made_anew():
    model, batch = load_system(MODELS[0], dtype="float32"), BATCHES["whole clips"]
    given, others = ready(model, batch), ready(model, batch)
    assert made_ready(given) is given[0].ready[0]
    mixed = [given[0], others[1], given[2]]
    for part in (
        [],
        given[:2],
        given[1:],
        given[::-1],
        [*given, given[0]],
        mixed,
        [*given, batch[0]],
    ):
        assert made_ready(part) is None
    assert_same(model.encode(given[1:]), model.encode(batch[1:]))


class Watched:
    """A model that notes who makes what ready, and what is there when it encodes."""

    def __init__(self, model) -> None:
        self._model, self.log, self.threads = model, [], {"features": set(), "encode": set()}

    def __getattr__(self, name):
        return getattr(self._model, name)

    def features(self, clips):
        self.threads["features"].add(threading.get_ident())
        self.log.append("features")
        return self._model.features(clips)

    def encode(self, clips):
        self.threads["encode"].add(threading.get_ident())
        self.log.append("encode" if made_ready(clips) else "encode all")
        # What computes takes longer than what is made ready.
        time.sleep(0.1)
        return self._model.encode(clips)


def test_another_thread_makes_the_next_batch_ready_and_no_more_than_that(clips, tmp_path):
    watched = Watched(small_model())
    answers(watched, clips, tmp_path / "p.sqlite")
    batches = -(-CLIPS // BATCH)
    assert watched.log.count("encode") == watched.log.count("features") == batches
    assert watched.threads["encode"] == {threading.get_ident()}
    assert threading.get_ident() not in watched.threads["features"]
    before = [watched.log[:i].count("features") for i, x in enumerate(watched.log) if x == "encode"]
    assert all(made - done in (1, 2) for done, made in enumerate(before))
    assert any(made - done == 2 for done, made in enumerate(before))


def test_answers_are_those_of_a_model_that_makes_nothing_ready(clips, tmp_path):
    class Plain(Watched):
        features = None

    model = small_model()
    table = answers(model, clips, tmp_path / "1.sqlite")
    plain = Plain(model)
    pd.testing.assert_frame_equal(answers(plain, clips, tmp_path / "2.sqlite"), table)
    assert set(plain.log) == {"encode all"} and table["failure"].isna().all()


def test_a_clip_that_cannot_be_made_ready_costs_itself_alone(clips, tmp_path):
    model = small_model()
    expected = answers(model, clips, tmp_path / "1.sqlite")
    [bad] = [i for i in range(CLIPS) if clips[0]["sample_id"][i] == "c3"]
    length = round(16_000 * (0.4 + 0.1 * bad))

    class Refusing(Watched):
        def features(self, clips):
            if any(c.sound is not None and abs(len(c.sound) - length) < 400 for c in clips):
                raise ValueError("no features of this one")
            return super().features(clips)

        def encode(self, clips):
            if made_ready(clips) is None:
                self.features(clips)
            return super().encode(clips)

    found = answers(Refusing(model), clips, tmp_path / "2.sqlite")
    lost = found["failure"].notna()
    assert set(found["sample_id"][lost]) == {"c3"}
    assert found["failure"][lost].str.contains("no features of this one").all()
    assert set(found["coalition"][lost]) == {"TAV", "A"}
    fine = ~found["sample_id"].isin(["c3"])
    numbers = ["label", "score", *(f"logit_{letter}" for letter in "abcde")]
    one, other = (table.loc[fine, numbers].to_numpy(float) for table in (found, expected))
    np.testing.assert_allclose(one, other, atol=1e-4)
