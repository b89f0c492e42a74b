"""Encoded clips and importances that are kept on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emomm_study.evaluate.encodings import EncodingStore
from emomm_study.evaluate.store import PredictionStore
from emomm_study.systems.interface import Encoded


def clip(seed: int, tokens: int = 6) -> Encoded:
    rng = torch.Generator().manual_seed(seed)
    return Encoded(
        video=torch.randn(tokens, 4, generator=rng),
        grid=torch.tensor([2, 4, 6]),
        seconds_per_grid=0.1 + seed,
        audio=torch.randn(tokens + 1, 4, generator=rng),
    )


def test_a_clip_comes_back_bit_for_bit_also_from_a_store_opened_later(tmp_path):
    clips = {(f"c{i}", "v1"): clip(i, 5 + i) for i in range(3)}
    store = EncodingStore(tmp_path / "x")
    store.write(list(clips)[:2], list(clips.values())[:2])
    store.write(list(clips)[2:], list(clips.values())[2:])
    for opened in (store, EncodingStore(tmp_path / "x")):
        for key, expected in clips.items():
            found = opened.read(key, torch.device("cpu"))
            assert torch.equal(found.video, expected.video)
            assert torch.equal(found.audio, expected.audio)
            assert torch.equal(found.grid, expected.grid)
            assert found.seconds_per_grid == expected.seconds_per_grid


def test_a_clip_whose_files_changed_is_not_taken_for_the_old_one(tmp_path):
    store = EncodingStore(tmp_path)
    store.write([("c", "v1")], [clip(0)])
    assert ("c", "v1") in store and ("c", "v2") not in store
    with pytest.raises(KeyError):
        store.read(("c", "v2"), torch.device("cpu"))


def test_a_broken_file_is_named_with_what_to_do(tmp_path):
    store = EncodingStore(tmp_path)
    store.write([("c", "v1")], [clip(0)])
    [file] = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=rf"{file.name}.*delete it"):
        EncodingStore(tmp_path)


def test_a_file_that_was_not_finished_is_not_read(tmp_path):
    (tmp_path / "half.part").write_bytes(b"x")
    assert ("c", "v1") not in EncodingStore(tmp_path)


def test_importance_is_found_by_run_prompt_and_version(tmp_path):
    store = PredictionStore(tmp_path / "p.sqlite")
    store.begin("run", {})
    scores = np.arange(5, dtype=np.float32)
    store.write_importance("run", {("c", "TAV", "v1"): scores})
    found = store.read_importance(
        "run", [("c", "TAV", "v1"), ("c", "TV", "v1"), ("c", "TAV", "v2")]
    )
    assert list(found) == [("c", "TAV", "v1")]
    np.testing.assert_array_equal(found["c", "TAV", "v1"], scores)
    assert store.read_importance("other", [("c", "TAV", "v1")]) == {}
