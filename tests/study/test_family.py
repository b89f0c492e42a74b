"""The family's arms, clips, measures and verdicts, on small made-up material."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from emomm_lib.labels import COALITIONS
from emomm_study.corpora.manifest import subset
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.model.build import MiniConfig
from emomm_study.mini.model.decoder import EncodedBank, Stage, longer, train_decoder
from emomm_study.mini.model.train import tower_weights
from emomm_study.mini.organism import family, verdicts
from emomm_study.mini.organism.arms import ARMS, DOSES, SEEDS, TEXT_STEPS
from emomm_study.mini.organism.bank import beside_room, load_encoded, save_encoded
from emomm_study.mini.organism.measure import COLUMNS, material, measured, observed, planned
from emomm_study.systems.interface import Encoded

HIDDEN = 32
SMALL = MiniConfig(hidden=HIDDEN, layers=4, heads=4, kv_heads=2, ffn=48, vision_hidden=32,
                   vision_layers=1, vision_heads=2, vision_ffn=32, audio_hidden=32,
                   audio_layers=1, audio_heads=2, audio_ffn=32, side=56)  # fmt: skip


class Shown:
    """What a bank of 40 entries, four of each kind of face, shows."""

    shown = np.array([[k % 5, k % 5] for k in range(40)])
    emphatic = np.array([[k // 5 % 2 == 1] * 2 for k in range(40)])
    language = np.array([["zh", "en"][k // 10 % 2] for k in range(40)])


def bank():
    from emomm_study.mini.model.decoder import by_shown

    torch.manual_seed(0)
    clips = [
        Encoded(
            torch.randn(8, HIDDEN).half(),
            torch.tensor([2, 2, 2]),
            1.0,
            torch.randn(3 + k % 4, HIDDEN).half(),
        )  # fmt: skip
        for k in range(40)
    ]
    return EncodedBank(clips, *by_shown(Shown))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return SMALL.build()


@pytest.fixture(scope="module")
def tests():
    parts = np.zeros((40, 2, 2, 2), np.uint8)
    parts[:, :, 0, 0] = 2
    return material(bank(), parts, planned(conflict=40, align=20, held_out=20))


def test_arms_of_one_reading_differ_in_text_alone_and_in_no_step_with_sound_or_sight():
    for reading in ("early", "late"):
        first, without = (ARMS[name] for name in (f"{reading}, text first", reading))
        assert first.stages[0] == Stage(TEXT_STEPS, {"T": 1.0})
        assert [s for s in first.stages if set(s.mixture) != {"T"}] == without.stages
    assert {ARMS[name].moments for name in DOSES} == {(4,), (1, 2, 4)}


def test_the_material_is_of_both_corpora_and_its_subsets_are_those_of_its_labels(tests):
    counts = tests.plan.groupby("subset").size().to_dict()
    assert counts == {"align": 20, "conflict": 40, "held out": 20}
    known = tests.plan[tests.plan["subset"] != "held out"]
    assert (subset(known) == known["subset"]).all()
    assert known.groupby("corpus").size().to_dict() == {c.value: 30 for c in Corpus}
    assert (subset(tests.plan[tests.plan["subset"] == "held out"]) == "align").all()


def test_every_clip_has_a_face_and_a_voice_that_show_what_is_planned(tests):
    own = bank()
    for asked, clip in zip(tests.plan.to_dict("records"), tests.clips, strict=True):
        face = next(i for i, c in enumerate(own.clips) if torch.equal(c.video, clip.video))
        voice = next(i for i, c in enumerate(own.clips) if torch.equal(c.audio, clip.audio))
        assert Shown.shown[face, 1] == asked["shown_v"]
        assert Shown.emphatic[face, 1] == asked["emphatic_v"]
        assert Shown.shown[voice, 0] == asked["shown_a"]
        assert Shown.language[voice] == asked["language"]


def test_a_longer_video_repeats_its_own_moments_and_a_room_adds_none_of_a_face(tests):
    clip, other = tests.clips[0], tests.clips[1]
    four = longer(clip, 4)
    assert four.grid.tolist() == [4, 2, 2]
    assert torch.equal(four.video, torch.cat([clip.video, clip.video]))
    assert torch.equal(longer(clip, 1).video, clip.video[:4])
    assert torch.equal(longer(clip, 2).video, clip.video)
    beside = beside_room(clip, other, tests.parts[1], 2)
    assert beside.grid.tolist() == [4, 2, 2] and torch.equal(beside.video[:8], clip.video)
    rooms = other.video[tests.parts[1].ravel() == 0]
    assert all((rooms == token).all(1).any() for token in beside.video[8:])


def test_an_encoded_bank_is_read_back_as_it_was_written(tmp_path):
    own = bank()
    save_encoded(tmp_path / "bank.safetensors", own)
    back = load_encoded(tmp_path / "bank.safetensors", Shown)
    for a, b in zip(own.clips, back.clips, strict=True):
        assert torch.equal(a.video, b.video) and torch.equal(a.audio, b.audio)
        assert torch.equal(a.grid, b.grid) and a.seconds_per_grid == b.seconds_per_grid
    assert own.by_face.keys() == back.by_face.keys()


def test_every_measure_of_a_model_is_finite_and_names_what_it_is_of(small, tests):
    found = measured(small.backbone(), tests)
    assert list(found.columns) == COLUMNS
    assert not found.duplicated(["measure", "subset", "what"]).any()
    assert set(verdicts.predictions()["measure"]) <= set(found["measure"])
    for one in verdicts.predictions().to_dict("records"):
        own = found[(found["measure"] == one["measure"]) & (found["subset"] == one["subset"])]
        assert one["what"] in set(own["what"]) | {"sign"}, one["id"]
    shares = found[(found["measure"] == "nMAS share") & (found["subset"] == "conflict")]
    assert shares["value"].sum() == pytest.approx(1)
    accuracy = found[(found["measure"] == "accuracy") & (found["subset"] == "conflict")]
    assert set(accuracy["what"]) == set(COALITIONS) and (accuracy["n"] == 40).all()
    gain = found.set_index(["measure", "subset", "what"])["value"]
    assert gain["gain of video", "conflict", "TAV - TA"] == pytest.approx(
        gain["accuracy", "conflict", "TAV"] - gain["accuracy", "conflict", "TA"]
    )
    # Two moments are the video as it is.
    assert gain["gain of video by redundancy", "conflict", "2 moments"] == pytest.approx(
        gain["gain of video", "conflict", "TAV - TA"]
    )


def test_the_observer_has_the_measures_that_need_no_model(tests):
    found = observed(tests.plan)
    assert {"accuracy", "PSMV share", "GTAR", "gain of video"} <= set(found["measure"])


def test_what_is_committed_of_the_ideal_observer_is_what_it_says_today():
    found = family.known()
    own = found[found["arm"] == family.OBSERVER].drop(columns=["arm", "seed"])
    expected = observed(planned()).round(5)
    pd.testing.assert_frame_equal(
        own.reset_index(drop=True), expected, check_dtype=False, atol=2e-5, rtol=0
    )


def test_the_committed_towers_are_those_of_the_family_and_others_are_refused(tmp_path):
    first, second = family.with_towers(1), family.with_towers(2)
    for key, weight in tower_weights(first).items():
        assert torch.equal(weight, tower_weights(second)[key])
    assert not torch.equal(first.model.lm_head.weight, second.model.lm_head.weight)
    spoilt = load_file(family.TOWERS)
    spoilt.pop(next(iter(spoilt)))
    save_file(spoilt, tmp_path / "towers.safetensors")
    with pytest.raises(ValueError, match="not the towers of this model"):
        family.with_towers(1, tmp_path / "towers.safetensors")


def test_a_trained_decoder_leaves_the_towers_alone_and_learns(small):
    torch.manual_seed(1)
    mini = SMALL.build()
    towers = {k: v.clone() for k, v in tower_weights(mini).items()}
    said = []
    stages = [Stage(3, {"T": 1.0}), Stage(3, {"TAV": 0.5, "AV": 0.5}, blocked=1.0),
              Stage(3, {"TAV": 1.0}, penalty=2.0)]  # fmt: skip
    before = mini.model.lm_head.weight.detach().clone()
    train_decoder(mini, bank(), stages, batch=4, rate=1e-3, seed=0, log=said.append, moments=(1, 4))
    assert all(torch.equal(v, towers[k]) for k, v in tower_weights(mini).items())
    assert not torch.equal(mini.model.lm_head.weight, before)
    assert said and "decoder 9/9" in said[-1]


@pytest.mark.parametrize(("name", "seed"), family.SHIPPED)
def test_a_shipped_model_is_an_arm_of_the_family_and_has_its_towers(name, seed):
    shipped = family.trained_arm(name, seed, lambda: pytest.fail("trained again"))
    own = shipped.model.state_dict()
    for key, weight in load_file(family.TOWERS).items():
        assert torch.equal(own[key], weight), key
    recipe = json.loads((family.SHIPPED[name, seed] / "recipe.json").read_text("utf-8"))["recipe"]
    assert recipe == json.loads(json.dumps(asdict(ARMS[name].recipe(seed))))


def test_the_csv_grows_by_an_arm_and_is_read_back_with_what_it_knows(tmp_path):
    path = tmp_path / "family.csv"
    assert family.known(path).empty
    frame = pd.DataFrame([("accuracy", "align", "none", 0.2, 0.1, 0.3, 10)], columns=COLUMNS)
    family.add(frame, "late", 1, path)
    family.add(frame, "early", 2, path)
    found = family.known(path)
    assert found["arm"].tolist() == ["late", "early"] and found["seed"].tolist() == [1, 2]
    assert found["what"].tolist() == ["none", "none"]


def made(measure, what, values, arm="late", subset="conflict", spread=0.01):
    return pd.DataFrame(
        [(arm, seed, measure, subset, what, v, v - spread, v + spread, 100)
         for seed, v in zip(SEEDS, values, strict=False)],
        columns=["arm", "seed", *COLUMNS],
    )  # fmt: skip


def verdict(id_, frame, arm="late"):
    found = verdicts.verdicts(frame)
    [own] = found[(found["id"] == id_) & (found["arm"] == arm)]["verdict"]
    return own


@pytest.mark.parametrize(
    ("values", "expected"),
    [((0.01, 0.02, 0.015), "holds"), ((0.01, 0.02, 0.2), "fails"), ((0.01, 0.02), "open"),
     ((), "open")],
)  # fmt: skip
def test_a_mean_is_judged_when_all_seeds_are_there(values, expected):
    frame = made("gain of steering", "published, oracle gate", values)
    assert verdict("2a", frame) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [((0.6, 0.4, 0.7), "holds"), ((0.6, 0.4, 0.4), "fails"), ((0.6, 0.7), "holds"),
     ((0.6, 0.4), "open"), ((0.4, 0.4), "fails")],
)  # fmt: skip
def test_two_of_three_seeds_are_enough_where_two_were_asked_for(values, expected):
    frame = made("pair preference", "T over A, TAV", values, "late, text first")
    assert verdict("3a", frame, "late, text first") == expected


def test_the_lowest_of_three_is_told_from_the_others():
    frames = [made("nMAS share", m, [v] * 3, "early, text first")
              for m, v in (("T", 0.5), ("A", 0.3), ("V", 0.2))]  # fmt: skip
    assert verdict("6", pd.concat(frames), "early, text first") == "holds"
    frames[2]["value"] = 0.4
    assert verdict("6", pd.concat(frames), "early, text first") == "fails"


def test_a_sign_flips_only_where_intervals_lie_on_both_sides_of_zero():
    measures = [made("gain of video by redundancy", f"{n} moments", [v] * 3)
                for n, v in ((2, 0.05), (4, 0.0), (8, -0.005))]  # fmt: skip
    assert verdict("5a", pd.concat(measures)) == "holds"
    measures.append(made("gain of video by redundancy", "16 moments", [-0.05] * 3))
    assert verdict("5a", pd.concat(measures)) == "fails"


def test_psmv_is_held_against_the_ideal_observers_interval():
    observer = made("PSMV share", "V", [0.1], verdicts.OBSERVER, spread=0.2)
    for value, expected in ((-0.05, "holds"), (-0.2, "fails")):
        own = made("PSMV share", "V", [value] * 3)
        assert verdict("4", pd.concat([observer, own])) == expected
