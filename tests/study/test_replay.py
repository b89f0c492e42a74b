"""What the live explorer shows is of this model and these clips, and what the explorer itself gives."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest

from book import replay
from emomm_study.report.explorer import BY_HAND, Explored, ExplorerState

ALMOST = 2
"""Of 255: half a step by rounding, and the last bits of another make of processor."""
EVERY = [*itertools.product(*replay.GRID.values())]
PLACES = [0, 500, 1111, 1700, 2345, 3000, len(EVERY) - 1]


@pytest.fixture(scope="module")
def kept() -> dict:
    return json.loads(replay.FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """All twelve clips, two of them rendered."""
    chosen = replay.chosen()
    few = chosen[chosen["kind"] == "video alone is right"]
    return replay.opened(few, tmp_path_factory.mktemp("clips"))


def test_the_kept_numbers_are_of_the_shipped_model_the_rules_clips_and_the_grid(bench, kept):
    class Whole:
        model, fingerprint, clips = bench.model, bench.fingerprint, replay.chosen()

    assert not replay.stale(Whole, kept), "python book/replay.py"
    assert [clip["name"] for clip in kept["clips"]] == [*replay.chosen()["sample_id"]]
    assert len(kept["clips"]) == 12 and replay.FILE.stat().st_size < 1_000_000


def test_another_model_or_another_grid_makes_the_kept_numbers_stale(bench, kept):
    class Whole:
        model, fingerprint, clips = bench.model, bench.fingerprint, replay.chosen()

    for name, value in (("model", "another"), ("grid", {**kept["made_of"]["grid"], "eta": [0.5]})):
        other = copy.deepcopy(kept)
        other["made_of"][name] = value
        assert replay.stale(Whole, other) == [name]


def test_the_clips_are_of_the_kinds_that_they_are_said_to_be(kept):
    for clip in kept["clips"]:
        truth, *own = clip["labels"]
        right = [m for m, label in zip("TAV", own, strict=True) if label == truth]
        name = {"text": "T", "audio": "A", "video": "V"}
        if clip["kind"] == "all agree":
            assert right == ["T", "A", "V"]
        elif clip["kind"].endswith("alone is right"):
            assert right == [name[clip["kind"].split()[0]]]
        else:
            assert {*"TAV"} - {*right} == {name[clip["kind"].split()[0]]}


def test_kept_numbers_are_what_the_explorer_gives_in_the_same_state(bench, kept):
    explored = Explored(bench, bench.clips, {})
    columns = [*replay.settings(bench.model.layers, bench.model.heads)]
    for clip in kept["clips"]:
        if clip["name"] not in explored.clips.index:
            continue
        table = replay.unsqueezed(clip["states"], len(EVERY)).astype(int)
        assert table.shape == (len(EVERY), 6 + 2 * bench.model.layers)
        for place in PLACES:
            trust = EVERY[place][-1]
            state = ExplorerState(
                sample_id=clip["name"], coalition="TAV", gate=BY_HAND, conflict=1.0, trust=trust,
                config=columns[place][1],
            )  # fmt: skip
            shown = explored.show(state)
            row = table[place]
            assert np.abs(row[:5] - 255 * shown.after.letters).max() < ALMOST
            assert np.abs(row[6:] - 255 * shown.after.share[:, :2].ravel()).max() < ALMOST
            assert shown.after.letters[row[5]] > shown.after.letters.max() - 0.01
            assert np.abs(np.array(clip["before"][:5]) - 255 * shown.before.letters).max() < ALMOST


def test_no_strength_or_no_step_is_the_unsteered_model_in_every_clip(kept):
    none = np.array([gamma == 0 or eta == 0 for _, _, gamma, eta, _ in EVERY])
    for clip in kept["clips"]:
        table = replay.unsqueezed(clip["states"], len(EVERY)).astype(int)
        assert np.abs(table[none] - np.array(clip["before"])).max() <= 1
        assert (table[none, 5] == clip["before"][5]).all()
        assert len(np.unique(table[~none], axis=0)) > 100


def test_squeezing_and_unsqueezing_gives_the_same_bytes():
    table = np.random.default_rng(0).integers(0, 256, (40, 7), dtype=np.uint8)
    assert (replay.unsqueezed(replay.squeezed(table), 40) == table).all()
