"""Recorded and permuted gates: steering by them is steering by the router, or by another clip's."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from crash import SMALL
from hypothesis import given, settings, strategies as st
from paired_answers import answers
from tiny_media import tone, write_mp4

from emomm_lib import Bootstrap, Router, SteeringConfig, routed
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.gates import GateByLayer, GateByRow
from emomm_study.evaluate.methods import Batch, CrossFitted, Method, Routed
from emomm_study.evaluate.partners import partners
from emomm_study.evaluate.permuted import (
    Permuted,
    Recorded,
    parts_of_gain,
    permuted_null,
    strata,
)
from emomm_study.evaluate.protocol import Study
from emomm_study.evaluate.store import PredictionStore
from emomm_study.media.audio import AudioSettings
from emomm_study.media.video import VideoSettings
from emomm_study.mini.model.build import build_model, build_processor
from emomm_study.systems.omni import OmniModel

LAYERS, FIRST = 4, 2
SIZES = replace(SMALL, layers=LAYERS, heads=4, kv_heads=2)
MEDIA = MediaSettings(VideoSettings(num_frames=4), AudioSettings(max_seconds=2.0))
LOGITS = [f"logit_{letter}" for letter in "abcde"]
KEYS = ["sample_id", "coalition"]
COALITIONS = ("TAV", "AV")
FOLD = {f"c{i}": i % 2 for i in range(6)}
ALONE = {name: name for name in FOLD}


def config(**changes):
    own = {"first_layer": FIRST, "tau": 0.0, "eta": 1.0, "gamma": 40.0, "beta": 0.0,
           "top_k": 4, "preference": "share"}  # fmt: skip
    return SteeringConfig(**own | changes)


def router(seed, **changes):
    """A router whose p and g differ between prompts and layers."""
    torch.manual_seed(seed)
    shape = {"state_size": 32, "layers": LAYERS, "fingerprint": "random", "first_layer": FIRST,
             "hidden": 6} | changes  # fmt: skip
    made = Router(**shape)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Experiment:
    """Six clips that differ in all they hold, with a model of four layers."""
    folder: Path = tmp_path_factory.mktemp("clips")
    rows = []
    for i in range(6):
        frames = np.random.default_rng(i).integers(0, 256, (4, 56, 56, 3), dtype=np.uint8)
        write_mp4(folder / f"{i}.mp4", frames=frames, sound=tone(0.4 + 0.1 * i, hertz=200 + 60 * i))
        rows.append({"sample_id": f"c{i}", "corpus": ("ch_sims_v2", "cmu_mosi")[i // 4],
                     "text": f"word {i} " * (i + 1), "video_path": f"{i}.mp4",
                     "audio_path": f"{i}.mp4", "label_gt": i % 5, "label_t": i % 5,
                     "label_a": (i + 1) % 5, "label_v": 2, "score_gt": 0.0, "split": "test",
                     "subset": "conflict" if i else "align"})  # fmt: skip
    torch.manual_seed(1)
    processor = build_processor(SIZES)
    made = build_model(processor, SIZES)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model = OmniModel(made, processor, "random")
    store = PredictionStore(tmp_path_factory.mktemp("store") / "p.sqlite")
    roots = dict.fromkeys(("ch_sims_v2", "cmu_mosi"), folder)
    return Experiment(model, pd.DataFrame(rows), roots, store, MEDIA, 4, processes=1,
                      progress=False)  # fmt: skip


@pytest.fixture(scope="module")
def states(bench):
    return bench.states(bench.clips)


def asked(bench, *methods, coalitions=COALITIONS):
    table = bench.steered(bench.clips, coalitions, methods)
    assert table["failure"].isna().all()
    return [table[table["method"] == m.name].set_index(KEYS)[LOGITS].astype(float) for m in methods]


# Who takes whose


@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), st.integers(0, 3), max_size=30),
       st.integers(0, 5))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_each_takes_anothers_of_its_group_and_none_is_taken_twice(group, seed):
    found = partners(group, seed)
    assert set(found) == set(found.values()) == set(group)
    sizes = Counter(group.values())
    for name, other in found.items():
        assert group[other] == group[name]
        assert (other == name) == (sizes[group[name]] == 1)


@given(st.sets(st.text("abc", min_size=1, max_size=4), min_size=4), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_a_groups_partners_do_not_hang_on_order_or_on_other_groups(names, seed):
    own = dict.fromkeys(sorted(names), "x")
    mixed = dict.fromkeys(sorted(names, reverse=True), "x") | {"D": "y", "E": "y"}
    found = partners(mixed, seed)
    assert {name: found[name] for name in own} == partners(own, seed)


def test_another_seed_draws_others_and_each_partner_is_as_likely():
    names = dict.fromkeys("abcd", 0)
    drawn = [partners(names, seed) for seed in range(600)]
    counts = Counter((name, other) for one in drawn for name, other in one.items())
    assert len(counts) == 12 and min(counts.values()) > 150 and max(counts.values()) < 250


# Recorded


def test_in_the_one_layer_that_is_steered_a_recorded_gate_steers_as_its_router(bench, states):
    own = config(first_layer=LAYERS)
    online, recorded, plain = asked(
        bench,
        Method("online", Routed(router(3)), own),
        Method("recorded", Recorded.of(Routed(router(3)), states), own),
        Method("not steered", Routed(router(3)), replace(own, tau=1.0)),
    )
    np.testing.assert_allclose(recorded, online, atol=1e-4)
    # Or a gate that does nothing would pass.
    assert (online - plain).abs().to_numpy().max() > 1e-2


def test_a_router_of_embedded_means_is_replayed_in_all_layers(bench, states):
    own = router(4, inputs="embedded", first_layer=1)
    online, recorded = asked(
        bench,
        Method("online", Routed(own), config(first_layer=1)),
        Method("recorded", Recorded.of(Routed(own), states), config(first_layer=1)),
    )
    np.testing.assert_allclose(recorded, online, atol=1e-4)


def test_a_router_of_layers_departs_from_its_recording_only_after_the_first_steered_layer(
    bench, states
):
    methods = [
        Method("online", Routed(router(3)), config(), scored=True),
        Method("recorded", Recorded.of(Routed(router(3)), states), config(), scored=True),
    ]
    asked(bench, *methods)
    (index, online, _), (other, recorded, _) = (bench.routes(m) for m in methods)
    assert index.equals(other)
    apart = np.abs(online - recorded).max(0)
    assert np.isnan(apart[: FIRST - 1]).all()
    assert apart[FIRST - 1] < 1e-5 and (apart[FIRST:] > 1e-4).all()


def test_of_cross_fitted_routers_a_clips_own_is_recorded(states):
    one, two = router(3), router(8)
    said = Recorded.of(CrossFitted((one, two), FOLD), states)
    for number, own in enumerate((one, two)):
        conflict, gate = routed(own, states)
        rows = [i for i, name in enumerate(states.index["sample_id"]) if FOLD[name] == number]
        torch.testing.assert_close(said.conflict[rows, FIRST - 1 :], conflict[rows])
        torch.testing.assert_close(said.trust[rows, FIRST - 1 :], gate[rows])
    # A router is as it was.
    assert one.first_layer == FIRST
    with pytest.raises(KeyError, match="c0"):
        Recorded.of(CrossFitted((one,), {}), states)


def batch(*keys):
    rows = pd.DataFrame(keys, columns=KEYS)
    return Batch(rows, torch.ones(len(rows), 3, dtype=torch.bool))


def test_a_prompt_that_was_not_recorded_is_named(states):
    said = Recorded.of(Routed(router(3)), states)
    with pytest.raises(LookupError, match=r"c1 V \(1 such prompts\)"):
        said.gate(batch(("c0", "TAV"), ("c1", "V")))


# Permuted


def test_where_each_clip_is_alone_a_permuted_gate_is_its_own(bench, states):
    said = Recorded.of(Routed(router(3)), states)
    same = Permuted(said, ALONE)
    assert same.kept == set(ALONE) and same.settings() == said.settings()
    keys = [("c2", "TAV"), ("c0", "AV")]
    for own, other in zip(vars(said.gate(batch(*keys))).values(),
                          vars(same.gate(batch(*keys))).values(), strict=True):  # fmt: skip
        assert torch.equal(own, other)
    online, permuted = asked(
        bench,
        Method("online", Routed(router(3)), config(first_layer=LAYERS)),
        Method("permuted", same, config(first_layer=LAYERS)),
    )
    np.testing.assert_allclose(permuted, online, atol=1e-4)


def test_each_clip_is_steered_by_the_gate_of_another_of_its_stratum(bench, states):
    said = Recorded.of(Routed(router(5)), states)
    stratum = {"c0": "x", "c1": "x", "c2": "x", "c3": "y", "c4": "y", "c5": "z"}
    permuted = Permuted(said, stratum, seed=2)
    assert permuted.kept == {"c5"} and permuted.settings() != said.settings()
    assert Permuted(said, stratum, seed=2).settings() == permuted.settings()
    whose = partners(stratum, 2)
    for name, coalition in said.index.itertuples(index=False):
        found = permuted.gate(batch((name, coalition)))
        expected = said.gate(batch((whose[name], coalition)))
        assert torch.equal(found.conflict, expected.conflict)
        assert torch.equal(found.gate, expected.gate)
    # Steering by it is steering by the other's numbers, said by decree.
    [own] = asked(bench, Method("permuted", permuted, config(first_layer=LAYERS)))
    by_hand = said.conflict.clone(), said.trust.clone()
    for name, coalition in said.place:
        at, other = said.place[name, coalition], said.place[whose[name], coalition]
        by_hand[0][at], by_hand[1][at] = said.conflict[other], said.trust[other]
    decreed = Recorded(said.index, *by_hand)
    [again] = asked(bench, Method("decreed", decreed, config(first_layer=LAYERS, gamma=40.001)))
    np.testing.assert_allclose(own, again, atol=1e-4)
    [unmoved] = asked(bench, Method("own", said, config(first_layer=LAYERS)))
    assert (own - unmoved).loc["c5"].abs().to_numpy().max() < 1e-6
    assert (own - unmoved).drop("c5").abs().to_numpy().max() > 1e-2


def test_a_stratum_is_a_corpus_and_what_the_model_says_to_each_modality_alone():
    clips = pd.DataFrame({"sample_id": list("abcd"), "corpus": ["x", "x", "y", "x"]})
    rows = [(name, m, label) for name, own in zip("abc", ["014", "014", "230"], strict=True)
            for m, label in zip("TAV", own, strict=True)]  # fmt: skip
    rows += [("d", "T", 1), ("d", "A", 1), ("d", "V", None), ("a", "TAV", 3)]
    single = pd.DataFrame(rows, columns=[*KEYS, "label"]).sample(frac=1, random_state=0)
    single["label"] = single["label"].astype(float)
    # What failed under V is alike to nobody.
    assert strata(clips, single) == {"a": "x 014", "b": "x 014", "c": "y 230", "d": "d"}


# Gates by layer


def view(layer, prompts=2, columns=3):
    return SimpleNamespace(
        layer=layer, mass=torch.zeros(prompts, columns, 1, 3),
        query_state=torch.zeros(prompts, columns, 5),
    )  # fmt: skip


def test_a_gate_by_layer_says_in_each_layer_what_it_was_given_for_it():
    conflict, gate = torch.rand(2, LAYERS), torch.rand(2, LAYERS, 3)
    made = GateByLayer(conflict, gate)
    for layer in range(1, LAYERS + 1):
        p, g = made.route(view(layer))
        assert p.shape == (2, 3) and g.shape == (2, 3, 3)
        for column in range(3):
            assert torch.equal(p[:, column], conflict[:, layer - 1])
            assert torch.equal(g[:, column], gate[:, layer - 1])
    second = made.take(torch.tensor([1]))
    assert torch.equal(second.route(view(2, 1))[0][0, 0], conflict[1, 1])
    mixed = GateByRow((made, made), torch.tensor([1, 0]))
    assert [own.conflict.shape for own, _ in mixed._own] == [(1, LAYERS)] * 2


def test_a_gate_by_layer_refuses_other_shapes_batches_and_decoders(bench):
    with pytest.raises(ValueError, match=r"p is \(B, L\) and g \(B, L, 3\)"):
        GateByLayer(torch.zeros(2, 4), torch.zeros(2, 3, 3))
    short = GateByLayer(torch.zeros(2, 3), torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match="the batch has 4 prompts, this gate was recorded of 2"):
        short.route(view(1, 4))
    with pytest.raises(ValueError, match="recorded in 3 layers, the decoder has 4"):
        short.check(bench.model.model)


# What a gain is made of


def test_parts_of_a_gain_are_what_loops_over_clips_give_and_add_up_to_it():
    frames = [answers(seed, accuracy=a) for seed, a in enumerate((0.3, 0.6, 0.55, 0.4, 0.45))]
    frames[3] = frames[3].iloc[2:]
    found = parts_of_gain(*frames[:3], frames[3:], bootstrap=Bootstrap(100))
    common = frames[3].set_index(KEYS).index
    plain, online, own, *others = (f.set_index(KEYS).loc[common] for f in frames)
    for group in ("align", "conflict"):
        sums, n = Counter(), 0
        for key in common:
            if own.loc[key, "subset"] != group:
                continue
            hit = [int(f.loc[key, "label_pred"] == f.loc[key, "label_gt"])
                   for f in (plain, online, own, *others)]  # fmt: skip
            other = (hit[3] + hit[4]) / 2
            sums.update(stratum=other - hit[0], clip=hit[2] - other, online=hit[1] - hit[2],
                        all=hit[1] - hit[0])  # fmt: skip
            n += 1
        rows = found[found["subset"] == group].set_index("part")
        for part, total in sums.items():
            assert rows.loc[part, "value"] == pytest.approx(total / n)
            assert rows.loc[part, "low"] < rows.loc[part, "high"] and rows.loc[part, "n"] == n
        three = rows.loc[["stratum", "clip", "online"], "value"].sum()
        assert three == pytest.approx(rows.loc["all", "value"])


def test_gates_that_answer_alike_have_no_part_of_their_own():
    same = answers(1, accuracy=0.6)
    found = parts_of_gain(answers(0), same, same, [same], bootstrap=Bootstrap(50))
    parts = found.set_index("part")
    assert (parts.loc[["clip", "online"], ["value", "low", "high"]] == 0).all(axis=None)
    assert (parts.loc[["clip", "online"], "verdict"] == "equivalent").all()
    with pytest.raises(ValueError, match="no instance was answered in every way"):
        parts_of_gain(answers(0), same, same, [same.assign(sample_id="x" + same["sample_id"])])


class CrossFittedAlready(Study):
    """Routers that need no training."""

    def crossed(self, kind):
        return CrossFitted((router(3), router(8)), FOLD)


def test_the_null_of_a_study_is_made_of_its_own_answers(bench, states):
    study = CrossFittedAlready(bench, states)
    few = Bootstrap(50)
    method = Method("CHASE", "published", config(), "gradient")
    found = permuted_null(study, [method], 2, bootstrap=few)
    assert set(found["part"]) == {"stratum", "clip", "online", "all"}
    assert set(found["method"]) == {"CHASE"} and set(found["subset"]) == {"align", "conflict"}
    alike = strata(bench.clips, bench.predictions(bench.clips, ("T", "A", "V")))
    rows = states.index["coalition"] == "TAV"
    said = Recorded.of(study.crossed(""), states.take(np.flatnonzero(rows)))
    ways = [study.crossed(""), said, *(Permuted(said, alike, seed) for seed in (0, 1))]
    right = {}
    for i, source in enumerate(ways):
        own = Method(f"{i}", source, config(), "attention")
        table = bench.steered(bench.clips, ("TAV",), [own]).merge(bench.clips, on="sample_id")
        right[i] = (table["label"] == table["label_gt"])[table["subset"] == "conflict"].mean()
    with pytest.raises(ValueError, match="at least one permutation"):
        permuted_null(study, [method], 0)
    conflict = found[found["subset"] == "conflict"].set_index("part")
    assert conflict.loc["clip", "value"] == pytest.approx(right[1] - (right[2] + right[3]) / 2)
    assert conflict.loc["online", "value"] == pytest.approx(right[0] - right[1])
    alone = [name for name, own in Counter(alike.values()).items() if own == 1]
    names = [n for n, own in alike.items() if own in alone and n != "c0"]
    assert set(conflict["kept"]) == {len(names)}
