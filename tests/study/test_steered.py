"""Steering methods on little clips: each stored answer is that of steering its prompt alone."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import shutil
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from crash import SMALL
from hypothesis import given, settings, strategies as st
from scipy.stats import beta as beta_distribution, kstest
from tiny_media import tone, write_mp4

from emomm_lib import record
from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.gates import ConstantGate
from emomm_lib.chase.router import Router
from emomm_lib.chase.saliency import gradient_importance
from emomm_lib.chase.steer import steer
from emomm_lib.chase.training import RouterStates, TrainingSettings
from emomm_study.corpora.scores import GRIDS, Corpus
from emomm_study.evaluate import files as files_module, steered as steered_module
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.fusion import fit_probe, late_fusion, probe_answers, probe_inputs
from emomm_study.evaluate.gates import Combined
from emomm_study.evaluate.methods import (
    Always,
    Batch,
    Chance,
    CrossFitted,
    Method,
    Oracle,
    Parts,
    Routed,
)
from emomm_study.evaluate.protocol import (
    EMBEDDED,
    PUBLISHED,
    Study,
    cross_fit as crossing,
    fit as routers,
)
from emomm_study.evaluate.protocol.cross_fit import cross_fit, speaker_folds
from emomm_study.evaluate.protocol.fit import fit_router
from emomm_study.evaluate.protocol.tune import (
    HELD,
    NEGLIGIBLE,
    Candidate,
    choose,
    fractions,
    search,
    simplest_tied,
    subset_hits,
    subset_means,
)
from emomm_study.evaluate.results import join
from emomm_study.evaluate.states import StateStore
from emomm_study.evaluate.steered import steering_fingerprint
from emomm_study.evaluate.store import PredictionStore
from emomm_study.evaluate.unsteered import run_fingerprint
from emomm_study.media.audio import AudioSettings, read_audio
from emomm_study.media.video import MediaError, VideoSettings, read_video
from emomm_study.mini.model.build import build_model, build_processor
from emomm_study.systems.backbone import Backbone
from emomm_study.systems.interface import Media, Query
from emomm_study.systems.omni import OmniModel
from emomm_study.systems.prompts import prompt_version, reply
from emomm_study.systems.replies import REPLY_VERSION
from tests.backbones import make_vita

LAYERS, HEADS = 3, 4
SIZES = replace(SMALL, layers=LAYERS, heads=HEADS, kv_heads=2)
MEDIA = MediaSettings(VideoSettings(num_frames=4), AudioSettings(max_seconds=2.0))
COALITIONS = ("TAV", "TA", "AV", "V", "none")
LOGITS = [f"logit_{letter}" for letter in "abcde"]
KEYS = ["sample_id", "coalition"]
FOLD = {"c0": 0, "c1": 1, "c2": 1, "c3": 0}
ONE, TWO = 3, 8
"""Seeds of routers whose p lies on both sides of tau."""


def config(**changes):
    given_ = {"first_layer": 2, "tau": 0.48, "eta": 0.8, "gamma": 2.0, "beta": 0.9, "top_k": 2,
              "psi_hat": 0.6, "percentile": 55.0, "epsilon_a": 1e-4,
              "epsilon_b": 1e-3}  # fmt: skip
    return SteeringConfig(**given_ | changes)


def router(seed, **changes):
    """A router whose p and g differ between prompts and layers."""
    torch.manual_seed(seed)
    shape = {"state_size": 32, "layers": LAYERS, "fingerprint": "random", "first_layer": 2,
             "hidden": 6} | changes  # fmt: skip
    made = Router(**shape)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.fixture(scope="module", params=["omni"])
def model(request) -> Backbone:
    if request.param == "vita":
        return make_vita()
    torch.manual_seed(1)
    processor = build_processor(SIZES)
    made = build_model(processor, SIZES)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return OmniModel(made, processor, "random")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clips(folder) -> pd.DataFrame:
    rows = []
    labels = [(2, 2, 2, 2), (4, 4, 1, 4), (0, 3, 0, 1), (1, 2, 3, 4)]
    for i, (gt, *own) in enumerate(labels):
        rng = np.random.default_rng(i)
        frames = rng.integers(0, 256, (4, 56, 56, 3), dtype=np.uint8)
        sound = tone(0.4 + 0.2 * i, hertz=200 + 60 * i)
        write_mp4(folder / f"{i}.mp4", frames=frames, sound=sound)
        rows.append({"sample_id": f"c{i}", "corpus": "ch_sims_v2", "text": f"word {i} " * (i + 1),
                     "video_path": f"{i}.mp4", "audio_path": f"{i}.mp4", "label_gt": gt,
                     **dict(zip(("label_t", "label_a", "label_v"), own, strict=True)),
                     "score_gt": 0.0, "split": "test",
                     "subset": "align" if i == 0 else "conflict"})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def own_folder(folder, clips, tmp_path) -> Path:
    """A copy of the clips that a test may damage; files keep their times."""
    return shutil.copytree(folder, tmp_path / "clips")


def all_methods():
    one, two = router(ONE), router(TWO)
    return [
        Method("fixed", Always(0.9, (0.1, 0.3, 0.6)), config(beta=0.0)),
        Method("routed", Routed(one), config(), scored=True),
        Method("by attention", Routed(one), config(preference="share"), "attention"),
        Method("oracle everywhere", Oracle(), config(scope="all"), scored=True),
        Method("everywhere by attention", Routed(two), config(scope="all"), "attention"),
        Method("chance everywhere", Chance(3), config(scope="all", beta=0.0)),
        Method("parts", Parts(Oracle(), Routed(one)), config(rule="gate", beta=0.0)),
        Method("crossed", CrossFitted((one, two), FOLD), config(tau=0.0, beta=0.0)),
        Method("warmer", Always(1.0, (1.0, 1.0, 1.0)),
               config(gamma=0.0, beta=0.0, temperature=0.3, heads=((2, 1), (3, 4)))),
    ]  # fmt: skip


METHODS = all_methods()
FEW = [METHODS[0], METHODS[1], METHODS[5]]


def bench(model, clips, root, store, **options):
    options = {"processes": 1, "progress": False} | options
    return Experiment(model, clips, {"ch_sims_v2": root}, store, MEDIA, 2, **options)


def run(model, clips, root, store, methods=METHODS, **options):
    return bench(model, clips, root, store, **options).steered(clips, COALITIONS, methods)


def fingerprint(model, method):
    return steering_fingerprint(model, MEDIA, method)[0]


@pytest.fixture(scope="module")
def done(model, clips, folder, tmp_path_factory):
    """All methods on all clips: what was returned, and the store."""
    store = PredictionStore(tmp_path_factory.mktemp("store") / "p.sqlite")
    return run(model, clips, folder, store), store


class Counting:
    """A model that counts the clips it encodes and the prompts it computes, and can die."""

    def __init__(self, model, clips=10**9, parts=10**9):
        self._model, self.clips, self.parts = model, clips, parts
        self.encoded, self.computed = 0, []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def encode(self, media):
        if self.encoded >= self.clips:
            raise KeyboardInterrupt
        self.encoded += len(media)
        return self._model.encode(media)

    def compute(self, queries, **options):
        for part in self._model.compute(queries, **options):
            if len(self.computed) >= self.parts:
                raise KeyboardInterrupt
            self.computed.append([queries[row].coalition for row in part.rows])
            yield part

    def answer(self, queries, **options):
        return OmniModel.answer(self, queries, **options)


def prompt_of(model, root, clip, coalition):
    path = root / clip.video_path
    with torch.no_grad():
        [encoded] = model.encode(
            [Media(read_video(path, MEDIA.video), read_audio(path, MEDIA.audio))]
        )
        query = Query(encoded, coalition, Corpus(clip.corpus), clip.text)
        return query, model.prepare([query])


def decode(model, prompt):
    return model.model.get_decoder()(
        inputs_embeds=prompt.inputs_embeds,
        attention_mask=prompt.attention_mask,
        position_ids=prompt.position_ids,
        use_cache=True,
    )


def gate_of(source, clip, coalition):
    """What a source has to say of one prompt."""
    held = [m in coalition for m in "TAV"]
    if isinstance(source, Routed):
        return source.router
    if isinstance(source, CrossFitted):
        return source.routers[FOLD[clip.sample_id]]
    if isinstance(source, Parts):
        parts = source.conflict, source.trust
        return Combined(*(gate_of(part, clip, coalition) for part in parts))
    if isinstance(source, Oracle):
        right = [label == clip.label_gt for label in (clip.label_t, clip.label_a, clip.label_v)]
        weight = [(r + 0.01) * h for r, h in zip(right, held, strict=True)]
        conflict = any(h and not r for r, h in zip(right, held, strict=True))
        trust = [w / sum(weight) for w in weight] if any(held) else [0.0] * 3
        return ConstantGate(torch.tensor([float(conflict)]), torch.tensor([trust]))
    if isinstance(source, Always):
        return ConstantGate(torch.tensor([source.conflict]), torch.tensor([source.gate_of_tav]))
    row = pd.DataFrame({"sample_id": [clip.sample_id], "coalition": [coalition]})
    return source.gate(Batch(row, torch.tensor([held])))


@torch.no_grad()
def best_score(model, query, prompt, cache, label):
    """The most probable allowed score, a whole reply at a time."""
    found = {}
    for score in GRIDS[query.corpus].scores(label):
        ids = torch.tensor([model.processor.tokenizer(reply(label, score))["input_ids"]])
        positions = prompt.position_ids.max() + 1 + torch.arange(ids.shape[1])
        hidden = model.model.get_decoder()(
            inputs_embeds=model.model.get_input_embeddings()(ids),
            position_ids=positions.expand(*prompt.position_ids.shape[:-1], -1),
            past_key_values=copy.deepcopy(cache),
        ).last_hidden_state
        log_p = model.model.lm_head(hidden[0]).log_softmax(-1)
        found[score] = sum(float(log_p[i, ids[0, i + 1]]) for i in range(ids.shape[1] - 1))
    return max(found, key=found.get)


@pytest.mark.parametrize("model", ["omni", "vita"], indirect=True)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_stored_answer_is_that_of_steering_its_prompt_alone(model, clips, folder, done, method):
    table, store = done
    own = table[table["method"] == method.name].set_index(KEYS)
    assert len(own) == len(clips) * len(COALITIONS)
    moved = 0.0
    if method.scored:
        print_ = fingerprint(model, method)
        traces, routes = store.read_traces(print_), store.read_routes(print_)
    for clip, coalition in itertools.product(clips.itertuples(), COALITIONS):
        query, prompt = prompt_of(model, folder, clip, coalition)
        importance = None
        if method.config.beta > 0 and method.importance == "gradient":
            importance = gradient_importance(
                model.model,
                prompt.inputs_embeds,
                prompt.attention_mask,
                prompt.position_ids,
                prompt.modality_ids,
                model.letter_weights,
            )
        with torch.no_grad():
            with record(model.model, prompt.modality_ids, rows=True) as seen:
                unsteered = decode(model, prompt).last_hidden_state[:, -1]
            if method.config.beta > 0 and method.importance == "attention":
                importance = seen.rows.mean((1, 2)) * (prompt.modality_ids == 2)
            gate = gate_of(method.source, clip, coalition)
            with steer(
                model.model, gate, method.config, prompt.modality_ids, importance=importance
            ) as steered:
                out = decode(model, prompt)
            expected, before = (
                model.model.lm_head(h)[0, model.letter_ids]
                for h in (out.last_hidden_state[:, -1], unsteered)
            )
        row = own.loc[(clip.sample_id, coalition)]
        np.testing.assert_allclose(row[LOGITS].astype(float), expected, atol=1e-4)
        assert row["label"] == int(expected.argmax())
        moved = max(moved, float((expected - before).abs().max()))
        if coalition == "none":
            torch.testing.assert_close(expected, before, atol=1e-5, rtol=0)
        if not method.scored:
            assert pd.isna(row["score"])
            continue
        cache = out.past_key_values
        assert row["score"] == best_score(model, query, prompt, cache, int(row["label"]))
        at = traces.index.query("sample_id == @clip.sample_id and coalition == @coalition").index
        np.testing.assert_allclose(traces.mass[at[0]], steered.trace.mass[0], atol=1e-5)
        assert traces.counts[at[0]].tolist() == steered.trace.counts[0].tolist()
        index, conflict, trust = routes
        at = index.query("sample_id == @clip.sample_id and coalition == @coalition").index[0]
        np.testing.assert_allclose(conflict[at], steered.decisions.conflict[0, 0], atol=1e-5)
        np.testing.assert_allclose(trust[at], steered.decisions.gate[0, 0], atol=1e-5)
    # An intervention that does nothing would pass all of the above.
    assert moved > 5e-3


def test_only_scored_methods_keep_attention_and_routes(model, done):
    store = done[1]
    for method in METHODS:
        if not method.scored:
            for read in (store.read_traces, store.read_routes):
                with pytest.raises(ValueError, match="holds no"):
                    read(fingerprint(model, method))


def test_a_second_call_computes_nothing_and_returns_the_same(
    model, clips, folder, done, monkeypatch
):
    def never(*_, **__):
        raise AssertionError("all of it was known")

    for name in ("compute", "encode", "prepare"):
        monkeypatch.setattr(OmniModel, name, never)
    pd.testing.assert_frame_equal(run(model, clips, folder, done[1]), done[0])


def test_a_new_method_computes_itself_and_leaves_the_others_as_they_were(
    model, clips, folder, tmp_path
):
    store = PredictionStore(tmp_path / "p.sqlite")
    first = run(model, clips, folder, store, FEW[:2])
    new = Method("new", Always(0.9, (0.0, 0.0, 1.0)), config(beta=0.0))
    both = run(model, clips, folder, store, [*FEW[:2], new])
    rows = both[both["method"] != "new"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, first)
    assert both["method"].value_counts()["new"] == len(clips) * len(COALITIONS)


def test_importance_is_the_same_however_many_prompts_share_a_backward_pass(
    model, clips, folder, tmp_path, monkeypatch, done
):
    monkeypatch.setattr(steered_module, "GRADIENT_TOKENS", 1)
    table = run(model, clips, folder, PredictionStore(tmp_path / "p.sqlite"), FEW)
    whole = done[0][done[0]["method"].isin([m.name for m in FEW])]
    np.testing.assert_allclose(
        table[LOGITS].to_numpy(float), whole[LOGITS].to_numpy(float), atol=1e-4
    )


def test_importance_found_once_serves_every_later_method(
    model, clips, folder, tmp_path, monkeypatch
):
    first, later = (replace(METHODS[i], scored=False) for i in (1, 3))
    store = PredictionStore(tmp_path / "p.sqlite")
    run(model, clips, folder, store, [first])
    fresh = run(model, clips, folder, PredictionStore(tmp_path / "q.sqlite"), [later])

    def never(*_, **__):
        raise AssertionError("gradients were taken already")

    monkeypatch.setattr(steered_module, "gradient_importance", never)
    again = run(model, clips, folder, store, [later])
    np.testing.assert_allclose(
        again[LOGITS].to_numpy(float), fresh[LOGITS].to_numpy(float), atol=1e-5
    )
    assert again["failure"].isna().all()
    anew = run(model, clips, folder, PredictionStore(tmp_path / "r.sqlite"), [later])
    assert anew.loc[anew["coalition"] == "TAV", "failure"].str.contains("taken already").all()


def test_clips_that_were_encoded_before_are_answered_alike_and_not_encoded_again(
    model, clips, folder, tmp_path
):
    counting, tables = Counting(model), []
    for _ in range(2):
        store = PredictionStore(tmp_path / "p.sqlite")
        tables.append(run(counting, clips, folder, store, FEW, keep_encodings=True))
        for file in tmp_path.glob("p.sqlite*"):
            file.unlink()
    assert counting.encoded == len(clips)
    np.testing.assert_allclose(*(x[LOGITS].to_numpy(float) for x in tables), atol=1e-6)


@pytest.mark.parametrize("lives", [{"clips": 2}, {"parts": 2}, {"parts": 7}])
def test_a_killed_run_loses_nothing_finished_and_repeats_none_of_it(
    model, clips, folder, tmp_path, done, lives
):
    store = PredictionStore(tmp_path / "p.sqlite")
    dying = Counting(model, **lives)
    with pytest.raises(KeyboardInterrupt):
        run(dying, clips, folder, store, FEW)
    finished = sum(dying.computed, [])
    assert 0 < len(finished) < len(clips) * len(COALITIONS)
    kept = [store.known(fingerprint(model, method)) for method in FEW]
    assert kept[0] == kept[1] == kept[2]
    assert Counter(key[1] for key in kept[0]) == Counter(finished)
    resumed = Counting(model)
    table = run(resumed, clips, folder, store, FEW)
    prompts = Counter(finished) + Counter(sum(resumed.computed, []))
    assert prompts == dict.fromkeys(COALITIONS, len(clips))
    whole = done[0][done[0]["method"].isin([m.name for m in FEW])].reset_index(drop=True)
    np.testing.assert_allclose(
        table[LOGITS].to_numpy(float), whole[LOGITS].to_numpy(float), atol=1e-4
    )
    columns = [*KEYS, "label", "score", "method"]
    pd.testing.assert_frame_equal(table[columns], whole[columns])


def test_a_method_is_asked_about_its_own_clips_only(model, clips, folder, tmp_path, done):
    store = PredictionStore(tmp_path / "p.sqlite")
    narrow = replace(FEW[1], clips=frozenset({"c1"}))
    other = replace(FEW[0], clips=frozenset({"c1", "c3"}))
    counting = Counting(model)
    table = run(counting, clips, folder, store, [narrow, other])
    # c0 and c2 are nobody's.
    assert counting.encoded == 2
    for method in (narrow, other):
        own = table[table["method"] == method.name]
        stored = store.read(fingerprint(model, method))
        assert set(own["sample_id"]) == set(stored["sample_id"]) == set(method.clips)
        assert len(own) == len(stored) == len(method.clips) * len(COALITIONS)
        whole = done[0][done[0]["method"] == method.name]
        alike = own.merge(whole, on=KEYS, validate="one_to_one")
        for name in LOGITS:
            np.testing.assert_allclose(alike[f"{name}_x"], alike[f"{name}_y"], atol=1e-4)
    assert set(store.read_routes(fingerprint(model, narrow))[0]["sample_id"]) == {"c1"}
    again = Counting(model)
    run(again, clips, folder, store, [narrow, other])
    assert again.encoded == 0
    # Asked about all now, it computes only what is new to it.
    run(again, clips, folder, store, [replace(narrow, clips=None)])
    assert again.encoded == 3


def test_methods_of_equal_settings_share_answers_without_losing_any(model, clips, folder, tmp_path):
    store = PredictionStore(tmp_path / "p.sqlite")
    parts = [replace(FEW[0], name=name, clips={name}) for name in ("c0", "c1", "c2", "c3")]
    table = run(model, clips, folder, store, parts)
    assert Counter(table["method"]) == dict.fromkeys(clips["sample_id"], len(COALITIONS))
    # Nor do methods of one name that are asked for several purposes.
    parts = [replace(FEW[0], protocol="test", variant=1), replace(FEW[0], protocol="crossed")]
    table = run(Counting(model, clips=0), clips, folder, store, parts)
    keys = table[["method", "protocol", "variant"]].drop_duplicates()
    assert keys.to_numpy().tolist() == [["fixed", "test", 1], ["fixed", "crossed", 0]]
    assert len(table) == 2 * len(clips) * len(COALITIONS)


def test_two_methods_of_one_name_are_refused_before_anything_is_computed(
    model, clips, folder, tmp_path
):
    counting = Counting(model)
    store = PredictionStore(tmp_path / "p.sqlite")
    with pytest.raises(ValueError, match=r"several methods are named \['fixed'\]"):
        run(counting, clips, folder, store, [*FEW, replace(FEW[1], name="fixed")])
    assert counting.encoded == 0


def test_a_clip_that_cannot_be_read_fails_for_every_method_and_is_not_scored(
    model, clips, own_folder, tmp_path
):
    (own_folder / "2.mp4").write_bytes(b"damaged")
    store = PredictionStore(tmp_path / "p.sqlite")
    table = run(model, clips, own_folder, store, FEW)
    failed = table[table["failure"].notna()]
    # Nothing of the file is needed where neither video nor sound is shown.
    expected = {(m.name, "c2", c) for m in FEW for c in COALITIONS if c != "none"}
    assert set(failed[["method", *KEYS]].itertuples(index=False, name=None)) == expected
    assert len(failed) == len(expected) and failed["failure"].str.contains("2.mp4").all()
    assert failed[["label", *LOGITS]].isna().all(axis=None)
    rows = clips.merge(pd.DataFrame({"coalition": COALITIONS}), how="cross")
    for name, own in table.groupby("method"):
        scored, lost = join(rows, own)
        assert len(lost) == len(COALITIONS) - 1 and set(lost["sample_id"]) == {"c2"}, name
        assert len(scored) == (len(clips) - 1) * len(COALITIONS) + 1
    again = Counting(model)
    pd.testing.assert_frame_equal(run(again, clips, own_folder, store, FEW), table)
    assert again.encoded == 0


def test_a_clip_without_sound_fails_only_where_sound_is_asked_for(
    model, clips, own_folder, tmp_path
):
    frames = np.random.default_rng(2).integers(0, 256, (4, 56, 56, 3), dtype=np.uint8)
    write_mp4(own_folder / "2.mp4", frames=frames)
    table = run(model, clips, own_folder, PredictionStore(tmp_path / "p.sqlite"), FEW)
    failed = table[table["failure"].notna()]
    expected = {(m.name, "c2", c) for m in FEW for c in ("TAV", "TA", "AV")}
    assert set(failed[["method", *KEYS]].itertuples(index=False, name=None)) == expected


def test_a_file_that_cannot_be_read_for_a_while_costs_no_answer_that_is_known(
    model, clips, folder, tmp_path, monkeypatch
):
    store = PredictionStore(tmp_path / "p.sqlite")
    first = run(model, clips, folder, store, FEW[:1])

    def busy(*_):
        raise MediaError("the disk does not answer")

    monkeypatch.setattr(files_module, "read_video", busy)
    both = run(model, clips, folder, store, FEW[:2])
    known = both[both["method"] == FEW[0].name].reset_index(drop=True)
    assert known[KEYS].equals(first[KEYS])
    np.testing.assert_array_equal(known[LOGITS].to_numpy(float), first[LOGITS].to_numpy(float))


def test_methods_that_differ_in_anything_are_told_apart(model):
    changes = {"first_layer": 1, "tau": 0.1, "eta": 0.1, "gamma": 0.1, "beta": 0.1, "top_k": 1,
               "psi_hat": 0.1, "percentile": 10.0, "preference": "share", "scope": "all",
               "epsilon_a": 0.1, "epsilon_b": 0.1, "rule": "gate", "heads": ((2, 1),),
               "sharpness": 2.0, "temperature": 2.0}  # fmt: skip
    assert set(changes) == {f.name for f in fields(SteeringConfig)}
    one, two = router(1), router(2)
    nudged = copy.deepcopy(one)
    with torch.no_grad():
        nudged.gate_head[2].bias[1] += 1e-6
    shifted = copy.deepcopy(one)
    shifted.mean[5] += 1e-6
    tables = [{"c0": 0, "c1": 1}, {"c0": 1, "c1": 0}, {"c0": 0}]
    sources = [
        *map(Routed, (one, two, nudged, shifted)),
        Routed(router(1, preference_kind="share")),
        Routed(router(1, first_layer=1)),
        Routed(router(1, fingerprint="another model")),
        Routed(router(1, hidden=7)),
        Routed(router(1, inputs="embedded")),
        *(CrossFitted((one, two), fold) for fold in tables),
        CrossFitted((two, one), tables[0]),
        Oracle(), Oracle("polarity"), Oracle(epsilon=0.1),
        Chance(), Chance(1),
        Always(0.5, (1.0, 0.0, 0.0)), Always(0.6, (1.0, 0.0, 0.0)), Always(0.5, (0.0, 1.0, 0.0)),
        Parts(Oracle(), Routed(one)), Parts(Routed(one), Oracle()), Parts(Oracle(), Routed(two)),
    ]  # fmt: skip
    base = Method("m", Routed(one), config())
    variants = [
        *(replace(base, config=config(**{name: value})) for name, value in changes.items()),
        *(replace(base, source=source) for source in sources),
        replace(base, importance="attention"),
        replace(base, scored=True),
    ]
    prints = [fingerprint(model, method) for method in variants]
    repeated = [i for i, p in enumerate(prints) if prints.count(p) > 1]
    assert not repeated, [variants[i] for i in repeated]
    other_media = replace(MEDIA, video=VideoSettings(num_frames=2))
    assert steering_fingerprint(model, other_media, base)[0] != fingerprint(model, base)
    other_model = OmniModel(model.model, model.processor, "other")
    assert fingerprint(other_model, base) != fingerprint(model, base)


def test_a_name_the_clips_and_unused_importance_tell_no_methods_apart(model):
    base = Method("m", Routed(router(1)), config())
    same = [replace(base, name="n"), replace(base, protocol="test", variant=3),
            replace(base, clips={"c1"}), replace(base, source=Routed(router(1)))]  # fmt: skip
    assert {fingerprint(model, m) for m in same} == {fingerprint(model, base)}
    still = replace(base, config=config(beta=0.0))
    assert fingerprint(model, still) == fingerprint(model, replace(still, importance="attention"))


@pytest.mark.parametrize("decoding", ["constrained", "free"])
def test_the_fingerprint_of_an_unsteered_run_is_what_it_was_before_there_was_steering(
    model, decoding
):
    settings_ = {**model.settings(), "prompt": prompt_version(), "media": MEDIA.settings(),
                 "decoding": decoding}  # fmt: skip
    if decoding == "free":
        # What is read in a reply has changed since.
        settings_["reply"] = REPLY_VERSION
    digest = hashlib.sha256(json.dumps(settings_, sort_keys=True).encode()).hexdigest()[:16]
    assert run_fingerprint(model, MEDIA, decoding) == (digest, settings_)
    assert run_fingerprint(model, MEDIA, decoding, steering={})[0] != digest


def chance_of(seed, names, coalition="TAV"):
    rows = pd.DataFrame({"sample_id": names, "coalition": coalition})
    return Chance(seed).gate(Batch(rows, torch.ones(len(rows), 3, dtype=torch.bool)))


def test_chance_says_the_same_of_a_prompt_in_whatever_batch_it_is():
    names = [f"c{i}" for i in range(6)]
    together, turned = chance_of(4, names), chance_of(4, names[::-1])
    assert torch.equal(together.conflict, turned.conflict.flip(0))
    assert torch.equal(together.gate, turned.gate.flip(0))
    for i, name in enumerate(names):
        alone = chance_of(4, [name])
        assert torch.equal(alone.conflict[0], together.conflict[i])
        assert torch.equal(alone.gate[0], together.gate[i])
    others = [chance_of(5, ["c0"]), chance_of(4, ["c0"], "TA"), chance_of(4, ["c1"])]
    drawn = [float(x.conflict[0]) for x in (*others, chance_of(4, ["c0"]))]
    assert len(set(drawn)) == 4


def test_chance_is_uniform_over_probabilities_and_over_distributions():
    drawn = chance_of(0, [str(i) for i in range(2000)])
    assert kstest(drawn.conflict, "uniform").pvalue > 0.01
    torch.testing.assert_close(drawn.gate.sum(1), torch.ones(2000, dtype=torch.float64))
    for m in range(3):
        # A weight of a uniform distribution over three is Beta(1, 2).
        assert kstest(drawn.gate[:, m], beta_distribution(1, 2).cdf).pvalue > 0.01


def test_cross_fitted_routers_differ_in_what_they_say_of_a_clip(model, clips, folder, done):
    # Otherwise asking each clip's own would not show in the answers above.
    one, two = (
        Method(f"router {i}", Routed(router(i)), config(tau=0.0, beta=0.0)) for i in (ONE, TWO)
    )
    store = done[1]
    table = run(model, clips, folder, store, [one, two])
    crossed = done[0][done[0]["method"] == "crossed"].set_index(KEYS)[LOGITS].astype(float)
    answers = [
        table[table["method"] == m.name].set_index(KEYS)[LOGITS].astype(float) for m in (one, two)
    ]
    for name, own in FOLD.items():
        apart = [(crossed.loc[(name, "TAV")] - a.loc[(name, "TAV")]).abs().max() for a in answers]
        assert apart[own] < 1e-4 < 1e-3 < apart[1 - own]


# States


def some_states(keys, seed=0):
    rng = torch.Generator().manual_seed(seed)
    n = len(keys)
    return [torch.randn(n, LAYERS, 32, generator=rng),
            torch.randn(n, LAYERS, 3, 32, generator=rng),
            torch.rand(n, LAYERS, HEADS, 3, generator=rng),
            torch.randint(1, 9, (n, 3), generator=rng)]  # fmt: skip


def parts_of(states):
    return [states.query_state[:], states.modality_states[:], states.mass[:], states.counts]


def assert_states(found, keys, parts):
    """Found has exactly these rows, sorted by sample and coalition."""
    order = sorted(range(len(keys)), key=lambda i: keys[i][:2])
    expected = [list(keys[i][:2]) for i in order]
    assert found.index.to_numpy().tolist() == expected
    for mine, given_ in zip(parts_of(found), parts, strict=True):
        assert torch.equal(mine, given_[order])


def test_states_come_back_as_they_were_written_over_several_files(tmp_path):
    store = StateStore(tmp_path / "s")
    assert store.known() == set()
    keys = [("b", "TAV", "1"), ("a", "TV", "1"), ("c", "TA", "1"), ("a", "TAV", "1")]
    parts = some_states(keys)
    # Not contiguous, as slices of a batch are.
    store.write(keys[:3], [x[:3].transpose(0, 1).contiguous().transpose(0, 1) for x in parts])
    store.write(keys[3:], [x[3:] for x in parts])
    assert store.known() == StateStore(tmp_path / "s").known() == set(keys)
    assert_states(store.read(["a", "b", "c", "unknown"]), keys, parts)
    some = store.read(["a", "b"], ("TAV",))
    assert_states(some, [keys[0], keys[3]], [x[[0, 3]] for x in parts])
    assert some.mass.dtype == torch.float32 and some.counts.dtype == torch.int64


def test_the_latest_version_of_a_prompts_states_wins(tmp_path):
    store = StateStore(tmp_path)
    old, new = [("a", "TA", "1"), ("a", "TV", "1")], [("a", "TA", "2")]
    before, after = some_states(old, 1), some_states(new, 2)
    # Names of files are digests, so that time alone can tell; the order of names must not.
    for first, second in ((old, new), (new, old)):
        written = {}
        for stamp, keys in enumerate((first, second)):
            there = set(tmp_path.iterdir())
            store.write(keys, before if keys is old else after)
            [written[stamp]] = set(tmp_path.iterdir()) - there
            os.utime(written[stamp], (1000 + stamp, 1000 + stamp))
        latest = after if second is new else [x[:1] for x in before]
        expected = [torch.cat([y, x[1:]]) for x, y in zip(before, latest, strict=True)]
        assert_states(store.read(["a"]), old, expected)
        assert store.known() == {*old, *new}
        for path in written.values():
            path.unlink()


def test_writing_the_same_prompts_again_replaces_them(tmp_path):
    store = StateStore(tmp_path)
    keys = [("a", "TA", "1"), ("b", "TA", "1")]
    store.write(keys, some_states(keys, 1))
    store.write(keys, some_states(keys, 2))
    assert len(list(tmp_path.iterdir())) == 1
    assert_states(store.read(["a", "b"]), keys, some_states(keys, 2))


@pytest.mark.parametrize("length", [0, 7, 200, -1])
def test_a_truncated_file_of_states_is_named(tmp_path, length):
    store = StateStore(tmp_path)
    keys = [("a", "TA", "1")]
    store.write(keys, some_states(keys))
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:length])
    for read in (store.known, lambda: store.read(["a"])):
        with pytest.raises(ValueError, match=f"{file.name} is not a file of recorded states"):
            read()


def test_a_file_that_is_still_being_written_is_not_read(tmp_path):
    store = StateStore(tmp_path)
    (tmp_path / "0123.part").write_bytes(b"half")
    assert store.known() == set()


def test_states_of_nobody_and_rows_without_a_key_are_refused(tmp_path):
    store = StateStore(tmp_path)
    with pytest.raises(ValueError, match="holds no states of these 1 clips"):
        store.read(["a"])
    keys = [("a", "TA", "1")]
    with pytest.raises(ValueError, match="states of 1 prompts have rows"):
        store.write(keys, some_states(keys * 2))
    assert store.known() == set()


def test_recorded_states_are_those_of_each_prompt_recorded_whole(model, clips, folder, tmp_path):
    coalitions = ("TAV", "TA", "TV", "AV", "A", "V", "none")
    own, other = (
        bench(model, clips, folder, PredictionStore(tmp_path / f"{name}.sqlite")) for name in "pq"
    )
    table = own.predictions(clips, coalitions, states=True)
    # Nothing that is recorded changes an answer.
    pd.testing.assert_frame_equal(table, other.predictions(clips, coalitions))
    assert {key[1] for key in own.state_store.known()} == {"TAV", "TA", "TV", "AV"}
    found = own.state_store.read(clips["sample_id"])
    assert len(found.index) == 4 * len(clips)
    by_id = clips.set_index("sample_id", drop=False)
    for i, (name, coalition) in enumerate(found.index.itertuples(index=False)):
        _, prompt = prompt_of(model, folder, by_id.loc[name], coalition)
        with torch.no_grad(), record(model.model, prompt.modality_ids) as trace:
            decode(model, prompt)
        for mine, whole in (
            (found.query_state, trace.query_state),
            (found.modality_states, trace.modality_states),
            (found.mass, trace.mass),
        ):
            torch.testing.assert_close(mine[i], whole[0], atol=1e-5, rtol=1e-5)
        assert found.counts[i].tolist() == trace.counts[0].tolist()


def test_only_prompts_without_states_are_asked_again_for_them(model, clips, own_folder, tmp_path):
    (own_folder / "3.mp4").write_bytes(b"damaged")
    store = PredictionStore(tmp_path / "p.sqlite")
    coalitions = ("TAV", "TA", "V", "none")
    plain = bench(model, clips, own_folder, store)
    first = plain.predictions(clips, coalitions)

    def asked():
        counting = Counting(model)
        own = bench(counting, clips, own_folder, store)
        again = own.predictions(clips, coalitions, states=True)
        assert again[[*KEYS, "label", "score"]].equals(first[[*KEYS, "label", "score"]])
        return Counter(sum(counting.computed, [])), counting.encoded

    # Three clips can be read; what failed once would fail again.
    assert asked() == ({"TAV": 3, "TA": 3}, 3)
    assert asked() == ({}, 0)
    files = sorted(plain.state_store.folder.iterdir(), key=lambda f: f.stat().st_size)
    lost = json.loads(_header(files[0])["keys"])
    files[0].unlink()
    prompts, _ = asked()
    assert prompts == Counter(key[1] for key in lost)
    assert asked() == ({}, 0)


def _header(file):
    raw = file.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]


# Choosing configurations

SPACE = {"tau": (0.1, 0.2, 0.3), "eta": (0.5, 1.0), "top_k": (1, 2, 3, 4)}


def test_a_search_begins_with_its_base_and_draws_from_the_grid_without_repetition_by_its_seed():
    base = config()
    grid = [replace(base, **dict(zip(SPACE, v, strict=True)))
            for v in itertools.product(*SPACE.values())]  # fmt: skip
    drawn = search(base, SPACE, 10, seed=1)
    assert drawn[0] == base and len(set(drawn)) == 10 and set(drawn[1:]) <= set(grid)
    assert search(base, SPACE, 10, seed=1) == drawn
    assert any(search(base, SPACE, 10, seed=s) != drawn for s in (2, 3))
    for budget in (25, 1000):
        assert search(base, SPACE, budget, seed=1) == [base, *grid]
    inside = grid[5]
    whole = search(inside, SPACE, 1000, seed=1)
    assert whole[0] == inside and sorted(map(str, whole)) == sorted(map(str, grid))
    # Each is as likely as any other: 200 draws of 9 of 24, 75 expected of each.
    counts = Counter(c for s in range(200) for c in search(base, SPACE, 10, seed=s)[1:])
    assert set(counts) == set(grid) and min(counts.values()) > 45 and max(counts.values()) < 110


@given(st.integers(1, 40), st.lists(st.floats(0, 1), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_fractions_are_distinct_counts_of_at_least_one_and_no_more_than_all(total, parts):
    found = fractions(total, *parts)
    assert found == sorted(set(found)) and found[0] >= 1 and found[-1] <= total
    for part in parts:
        nearest = [n for n in range(1, total + 1) if abs(n - part * total) <= 0.5 + 1e-9]
        assert not nearest or set(nearest) & set(found)
    if 1 in parts:
        assert found[-1] == total


def test_fractions_by_hand():
    assert fractions(28, 1 / 8, 1 / 4, 13 / 28, 1) == [4, 7, 13, 28]
    assert fractions(3, 0.01, 0.2, 1 / 3) == [1]


def tried(name: str, *changes: dict) -> Candidate:
    return Candidate(name, Chance(), [config(**c) for c in changes])


def test_the_simplest_changes_fewest_parameters_then_goes_the_fewest_steps():
    low = {"tau": 0.5, "eta": 0.6}
    changes = {}, {"tau": 0.9, "eta": 1.0}, {"tau": 0.9}, {"tau": 0.7}, {"eta": 1.0}, {"tau": 0.3}
    candidate = tried("x", *(low | change for change in changes))
    # tau was tried at 0.3, 0.5, 0.7, 0.9 and eta at 0.6, 1.0: 0.7, 1.0 and 0.3 are one step away.
    assert candidate.simplest_first() == [0, 3, 4, 5, 2, 1]
    mixed = tried(
        "y", {"preference": "softmax", "top_k": 4}, {"preference": "share", "top_k": 8},
        {"preference": "softmax", "top_k": 8},
    )  # fmt: skip
    assert mixed.simplest_first() == [0, 2, 1]


def hits_of(truth: dict[str, np.ndarray], subsets: np.ndarray) -> pd.DataFrame:
    """Made-up hits: ``truth`` (clips,) by method, each clip of one subset."""
    frames = []
    for name, own in truth.items():
        frame = pd.DataFrame({"method": name, "sample_id": [f"c{i:03}" for i in range(len(own))],
                              "subset": subsets, "asked": 1, "right": (own > 0.5).astype(int),
                              "truth": own})  # fmt: skip
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def tried_hits(truth: dict[str | int, np.ndarray], subsets: np.ndarray) -> pd.DataFrame:
    """Made-up hits of the configurations of a candidate ``x``, by number, and of the baseline."""
    hits = hits_of(truth, subsets)
    tried_ = hits["method"] != "baseline"
    return hits.assign(method=hits["method"].where(~tried_, "x"),
                       variant=hits["method"].where(tried_, 0).astype(int))  # fmt: skip


def chosen_by_loops(truth, subsets, order, baseline, times=1.0) -> int:
    """The rule, written once more with loops over clips."""

    def mean(own, names):
        return np.mean([np.mean([x for x, s in zip(own, subsets, strict=True) if s == n])
                        for n in names])  # fmt: skip

    def error(one, other, names):
        moves = []
        for a, b, subset in zip(one, other, subsets, strict=True):
            if subset not in names:
                continue
            n = sum(s == subset for s in subsets)
            apart = (a - mean(one, [subset])) - (b - mean(other, [subset]))
            moves.append(apart / n / len(names))
        n = len(moves)
        return np.sqrt(n / (n - 1) * sum(m * m for m in moves))

    both, rows = ["conflict", "missing"], list(truth.values())[:-1]
    safe = [
        i for i, own in enumerate(rows)
        if mean(baseline, ["align"]) - mean(own, ["align"])
        <= max(times * error(baseline, own, ["align"]), NEGLIGIBLE)
    ] or list(range(len(rows)))  # fmt: skip
    best = max(mean(rows[i], both) for i in safe)
    leaders = [rows[i] for i in safe if best - mean(rows[i], both) <= times * NEGLIGIBLE]
    for i in order:
        for own in leaders:
            gap = mean(own, both) - mean(rows[i], both)
            if i in safe and gap <= max(times * error(own, rows[i], both), NEGLIGIBLE):
                return i
    raise AssertionError


@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.0, 0.4))
@settings(max_examples=60, deadline=None)
def test_the_choice_is_the_simplest_within_one_standard_error_of_the_best(seed, count, apart):
    rng = np.random.default_rng(seed)
    subsets = rng.permutation(np.repeat(["align", "conflict", "missing"], 14))
    common = rng.random(42)
    truth = {str(i): np.clip(common + apart * rng.normal(size=42) / 3, 0, 1) for i in range(count)}
    truth["baseline"] = common
    order = list(rng.permutation(count))
    place, tied, *_ = simplest_tied(
        hits_of(truth, subsets), [str(i) for i in range(count)], order, "baseline"
    )
    assert place == chosen_by_loops(truth, subsets, order, common)
    assert 1 <= tied <= count


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_last_bits_do_not_move_a_choice_that_is_not_said_to_be_on_the_edge(seed, bits):
    rng, noise = np.random.default_rng(seed), np.random.default_rng(bits)
    subsets = np.repeat(["align", "conflict", "missing"], 20)
    truth = {str(i): rng.random(60) for i in range(5)} | {"baseline": rng.random(60)}
    names, order = [str(i) for i in range(5)], [3, 0, 4, 1, 2]
    place, _, edge, _ = simplest_tied(hits_of(truth, subsets), names, order, "baseline")
    moved = {n: own + 1e-4 * noise.normal(size=60) for n, own in truth.items()}
    again, *_ = simplest_tied(hits_of(moved, subsets), names, order, "baseline")
    assert again == place or edge


@pytest.mark.parametrize("bit", [1e-9, -1e-9])
def test_which_of_two_equal_leaders_is_ahead_by_a_last_bit_does_not_matter(bit):
    """One of them lies within a standard error of the default, the other does not."""
    subsets, rng = np.repeat(["conflict"], 100), np.random.default_rng(0)
    noise = rng.normal(size=100)
    noise = (noise - noise.mean()) / noise.std()
    default = np.full(100, 0.5)
    rows = {
        "0": default,
        "1": default + 0.02 + bit + 0.3 * noise,
        "2": default + 0.02 + 0.1 * noise,
    }
    place, tied, *_ = simplest_tied(hits_of(rows, subsets), ["0", "1", "2"], [0, 1, 2])
    assert (place, tied) == (0, 3)


@given(st.integers(0, 10**6), st.integers(0, 4), st.floats(0.0, 0.4))
@settings(max_examples=60, deadline=None)
def test_an_earlier_choice_is_held_to_within_one_and_a_half_standard_errors_of_the_best(
    seed, earlier, apart
):
    rng = np.random.default_rng(seed)
    subsets, common = np.repeat(["align", "conflict", "missing"], 14), rng.random(42)
    truth = {str(i): np.clip(common + apart * rng.normal(size=42), 0, 1) for i in range(5)}
    hits = hits_of(truth | {"baseline": common}, subsets)
    names, order = [str(i) for i in range(5)], [3, 0, 4, 1, 2]
    alone, tied, edge, kept = simplest_tied(hits, names, order, "baseline")
    assert not kept
    # Among those that are good enough, an order that begins with one finds it.
    first = [earlier, *(i for i in order if i != earlier)]
    near = chosen_by_loops(truth | {"baseline": common}, subsets, first, common, HELD) == earlier
    expected = (
        (earlier, tied, edge, True) if near and earlier != alone else (alone, tied, edge, False)
    )
    assert simplest_tied(hits, names, order, "baseline", earlier) == expected


def test_an_earlier_choice_that_is_no_candidate_or_much_worse_is_not_held_to():
    subsets, rng = np.repeat(["align", "conflict", "missing"], 20), np.random.default_rng(0)
    rows = {0: rng.random(60) / 3, 1: 0.3 + rng.random(60) / 2, 2: 0.3 + rng.random(60) / 2}
    hits = tried_hits(rows | {"baseline": rng.random(60) / 3}, subsets)
    candidate = tried("x", {"tau": 0.7}, {"tau": 0.1}, {"tau": 0.2})
    [alone] = choose([candidate], hits).values()
    other = candidate.configs[3 - candidate.configs.index(alone.config)]
    [held] = choose([candidate], hits, {"x": other, "y": candidate.configs[0]}).values()
    assert held.config == other and held.kept and not alone.kept
    assert held.gain != alone.gain
    for earlier in (candidate.configs[0], config(tau=0.3)):
        assert choose([candidate], hits, {"x": earlier}) == {"x": alone}


def test_of_one_clip_nothing_is_told_apart():
    rows = {"0": np.array([0.2]), "1": np.array([0.9])}
    hits = hits_of(rows, np.array(["conflict"]))
    assert simplest_tied(hits, ["0", "1"], [0, 1])[:2] == (0, 2)


def test_validation_clips_without_conflict_or_missing_are_refused_in_words():
    hits = hits_of({"0": np.array([0.2, 0.4])}, np.repeat(["align"], 2))
    with pytest.raises(ValueError, match="nothing to choose by.*align"):
        simplest_tied(hits, ["0"], [0])


def test_where_nothing_can_be_told_apart_the_default_is_taken_and_all_are_tied():
    subsets = np.repeat(["align", "conflict", "missing"], 10)
    same = np.linspace(0, 1, 30)
    candidate = tried("x", {"tau": 0.7}, {"tau": 0.1}, {"tau": 0.2})
    rows = {i: same + 1e-5 * i for i in range(3)} | {"baseline": same}
    [choice] = choose([candidate], tried_hits(rows, subsets)).values()
    assert choice.config == candidate.configs[0] and choice.tied == 3 and not choice.edge


def test_a_configuration_that_lowers_align_is_not_chosen_however_much_it_gains():
    subsets = np.repeat(["align", "conflict", "missing"], 10)
    base = np.full(30, 0.5) + np.linspace(-0.01, 0.01, 30)
    lowers = base + np.where(subsets == "align", -0.3, 0.4)
    candidate = tried("x", {"tau": 0.7}, {"tau": 0.1})
    rows = {0: base, 1: lowers, "baseline": base}
    [choice] = choose([candidate], tried_hits(rows, subsets)).values()
    assert choice.config == candidate.configs[0]
    # Where all lower it, the best of them is taken.
    rows = {0: base - np.where(subsets == "align", 0.4, 0.0), 1: lowers, "baseline": base}
    [choice] = choose([candidate], tried_hits(rows, subsets)).values()
    assert choice.config == candidate.configs[1]


def test_choices_work_where_a_subset_is_absent():
    subsets = np.repeat(["conflict"], 12)
    rng = np.random.default_rng(0)
    rows = {0: rng.random(12) / 2, 1: 0.5 + rng.random(12) / 2, "baseline": rng.random(12)}
    candidate = replace(tried("x", {"tau": 0.7}, {"tau": 0.1}), source=PUBLISHED, group="g")
    [choice] = choose([candidate], tried_hits(rows, subsets)).values()
    assert choice.config.tau == 0.1 and choice.tried == 2
    assert (choice.router, choice.group) == (PUBLISHED, "g")
    # What it gains is its accuracy less the unsteered model's.
    assert choice.gain == {"conflict": np.mean(rows[1] > 0.5) - np.mean(rows["baseline"] > 0.5)}


def test_a_candidates_methods_are_its_configurations_in_order():
    candidate = Candidate("x", Chance(), [config(tau=0.1), config(tau=0.2)])
    assert [(*m.key, m.config.tau, m.importance) for m in candidate.methods()] == [
        ("x", "validation", 0, 0.1, "gradient"), ("x", "validation", 1, 0.2, "gradient")
    ]  # fmt: skip
    assert all(m.source is candidate.source and not m.scored for m in candidate.methods())


def test_hits_by_subset_count_masked_prompts_as_missing_and_failures_not_at_all(clips):
    rng, rows = np.random.default_rng(0), []
    for method, name, coalition in itertools.product(
        ("m", "n"), clips["sample_id"], ("TAV", "TA", "TV", "AV", "V")
    ):
        failed = (method, name, coalition) == ("m", "c1", "TA")
        logits = rng.normal(size=5)
        label = None if failed else int(logits.argmax())
        given = dict.fromkeys(LOGITS) if failed else dict(zip(LOGITS, logits, strict=True))
        rows.append({"sample_id": name, "coalition": coalition, "method": method, "label": label,
                     "score": None, **given, "reply": None,
                     "failure": "damaged" if failed else None})  # fmt: skip
    found = subset_hits(clips, pd.DataFrame(rows))
    accuracy, chance = subset_means(found), subset_means(found, "truth")
    assert accuracy.index.tolist() == ["m", "n"]
    labels = clips.set_index("sample_id")
    for method in ("m", "n"):
        hits = {"align": [], "conflict": [], "missing": []}
        for row in rows:
            if row["method"] == method and row["label"] is not None and row["coalition"] != "V":
                clip = labels.loc[row["sample_id"]]
                subset = clip["subset"] if row["coalition"] == "TAV" else "missing"
                weights = np.exp([row[name] for name in LOGITS])
                hits[subset].append((row["label"] == clip["label_gt"],
                                     weights[clip["label_gt"]] / weights.sum()))  # fmt: skip
        for subset, own in hits.items():
            if own:
                right, truth = np.mean(own, axis=0)
                assert accuracy.loc[method, subset] == pytest.approx(right)
                assert chance.loc[method, subset] == pytest.approx(truth)


def test_answers_without_letter_logits_cannot_be_chosen_by(clips):
    rows = [{"sample_id": n, "coalition": c, "method": "m", "label": 1, "score": None,
             **dict.fromkeys(LOGITS), "reply": "B", "failure": None}
            for n in clips["sample_id"] for c in ("TAV", "TA", "TV", "AV")]  # fmt: skip
    with pytest.raises(ValueError, match="m: answers without letter logits"):
        subset_hits(clips, pd.DataFrame(rows))


# Without steering


@pytest.fixture(scope="module")
def single():
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([[f"c{i}" for i in range(6)], ["T", "A", "V", "TAV"]])
    frame = pd.DataFrame(rng.normal(size=(24, 5)), columns=LOGITS)
    for level, name in enumerate(KEYS):
        frame[name] = index.get_level_values(level)
    return frame.sample(frac=1, random_state=0)


def prompts_of(seed=0):
    """Keys in a mixed order and a gate that is zero for what a prompt lacks."""
    rng = np.random.default_rng(seed)
    pairs = [(f"c{i}", c) for i in range(6) for c in ("TAV", "TA", "AV")]
    keys = pd.DataFrame([pairs[i] for i in rng.permutation(len(pairs))], columns=KEYS)
    held = np.array([[m in c for m in "TAV"] for c in keys["coalition"]])
    gate = rng.dirichlet(np.ones(3), len(keys)) * held
    return keys, gate / gate.sum(1, keepdims=True)


@pytest.mark.parametrize("pooling", ["linear", "log"])
@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_late_fusion_is_what_a_loop_over_prompts_and_modalities_mixes(single, pooling, sharpness):
    keys, gate = prompts_of()
    # An index of its own must not matter.
    keys.index = range(100, 100 + len(keys))
    found = late_fusion(single, keys, gate, pooling=pooling, sharpness=sharpness)
    logits = {(r.sample_id, r.coalition): [getattr(r, c) for c in LOGITS]
              for r in single.itertuples()}  # fmt: skip
    for i, (name, coalition) in enumerate(keys.itertuples(index=False)):
        power = [g**sharpness for g in gate[i]]
        mixed = np.full(5, 0.0 if pooling == "linear" else 1.0)
        for m, weight in zip("TAV", power, strict=True):
            if m in coalition:
                p = np.exp(logits[name, m]) / np.exp(logits[name, m]).sum()
                share = weight / sum(power)
                mixed = mixed + share * p if pooling == "linear" else mixed * p**share
        expected = np.log(mixed / mixed.sum())
        np.testing.assert_allclose(found.loc[i, LOGITS].astype(float), expected, atol=1e-9)
        assert found.loc[i, KEYS].tolist() == [name, coalition]
        assert found.loc[i, "label"] == expected.argmax()
    assert found[["score", "failure", "reply"]].isna().all(axis=None)


@pytest.mark.parametrize("pooling", ["linear", "log"])
@pytest.mark.parametrize("modality", range(3))
def test_a_gate_of_one_modality_gives_that_modalitys_own_answer(single, pooling, modality):
    names = [f"c{i}" for i in range(6)]
    keys = pd.DataFrame({"sample_id": names, "coalition": "TAV"})
    found = late_fusion(single, keys, np.eye(3)[[modality] * 6], pooling=pooling)
    own = single[single["coalition"] == "TAV"[modality]].set_index("sample_id").loc[names, LOGITS]
    odds = found[LOGITS].to_numpy(float) - own.to_numpy()
    np.testing.assert_allclose(odds - odds[:, :1], 0, atol=1e-9)
    assert found["label"].tolist() == own.to_numpy().argmax(1).tolist()


def test_a_modality_that_was_not_asked_is_refused_where_the_gate_weighs_it(single):
    keys = pd.DataFrame({"sample_id": ["c1", "c2"], "coalition": "TAV"})
    gate = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    lacking = (single["sample_id"] == "c1") & (single["coalition"] == "V")
    late_fusion(single[~lacking], keys, gate)
    failed = single.copy()
    failed.loc[lacking, LOGITS] = np.nan
    late_fusion(failed, keys, gate)
    for frame in (single[~lacking], failed):
        with pytest.raises(ValueError, match="no answer for a modality that the gate weighs"):
            late_fusion(frame, keys, gate[::-1])
    with pytest.raises(ValueError, match="pooling is 'linear' or 'log'; got 'mean'"):
        late_fusion(single, keys, gate, pooling="mean")


def test_a_probe_never_answers_a_class_that_it_has_not_seen():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.choice([0, 2, 3], 60)
    x[:, 0] += 3 * y
    probe = fit_probe(x, y, strength=0.5)
    keys = pd.DataFrame({"sample_id": range(20), "coalition": "TA"}, index=range(7, 27))
    unseen = rng.normal(size=(20, 4)) * 9
    found = probe_answers(probe, unseen, keys)
    assert (found[["logit_b", "logit_e"]] == -np.inf).all(axis=None)
    own = found[["logit_a", "logit_c", "logit_d"]].to_numpy(float)
    np.testing.assert_allclose(own, probe.predict_log_proba(unseen))
    np.testing.assert_allclose(np.exp(own).sum(1), 1)
    assert found["label"].tolist() == probe.predict(unseen).tolist()
    assert found["sample_id"].tolist() == list(range(20))


def random_states(clips, seed=0):
    keys = [(name, c, "") for name in clips["sample_id"] for c in ("TA", "TAV")]
    index = pd.DataFrame([k[:2] for k in keys], columns=KEYS)
    return RouterStates(index, *some_states(keys, seed))


def test_a_probe_sees_every_layer_from_the_first_of_the_router_or_the_embedded_means(clips):
    states = random_states(clips)
    layered, embedded = (probe_inputs(states, kind, 2) for kind in ("layer", "embedded"))
    for i in range(len(states.index)):
        own = [states.query_state[i, 1], *(states.modality_states[i, 1, m] for m in range(3))]
        np.testing.assert_array_equal(layered[i], torch.cat(own))
        first = [states.modality_states[i, 0, m] for m in range(3)]
        np.testing.assert_array_equal(embedded[i], torch.cat(first))


# Routers

TRAINING = TrainingSettings(first_layer=2, epochs=2, batch_size=3, hidden=4, learning_rate=1e-2)


@pytest.fixture
def trained(monkeypatch):
    """How often a router was trained."""
    calls = []
    train = routers.train_router

    def counted(*args, **options):
        calls.append(args)
        return train(*args, **options)

    monkeypatch.setattr(routers, "train_router", counted)
    return calls


def test_a_router_is_trained_once_and_loaded_bit_for_bit(model, clips, tmp_path, trained):
    states = random_states(clips)

    def fit():
        return fit_router(model, states, clips[:3], TRAINING, tmp_path, valid=clips[::3],
                          progress=False)  # fmt: skip

    (made, history), (loaded, remembered) = fit(), fit()
    assert len(trained) == 1
    assert not loaded.training
    for name, value in made.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    pd.testing.assert_frame_equal(history, remembered)
    assert set(trained[0][0].index["sample_id"]) == {"c0", "c1", "c2"}


def test_a_router_whose_training_was_cut_short_is_trained_again(model, clips, tmp_path, trained):
    states = random_states(clips)
    first, _ = fit_router(model, states, clips, TRAINING, tmp_path, progress=False)
    [history] = tmp_path.glob("*/history.csv")
    history.unlink()
    again, _ = fit_router(model, states, clips, TRAINING, tmp_path, progress=False)
    assert len(trained) == 2
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in first.state_dict().items())


@pytest.mark.parametrize("change", ["settings", "labels", "clips", "valid", "model", "states"])
def test_a_router_is_trained_anew_when_what_it_depends_on_changes(
    model, clips, tmp_path, trained, change
):
    given_ = {"model": model, "states": random_states(clips), "train": clips[:3],
              "settings": TRAINING, "valid": None}  # fmt: skip
    other = {
        "settings": replace(TRAINING, seed=1),
        "labels": clips[:3].assign(label_t=[0, 0, 0]),
        "clips": clips[1:],
        "valid": clips[::3],
        "model": OmniModel(model.model, model.processor, "other"),
        "states": random_states(clips, seed=1),
    }[change]
    name = {"labels": "train", "clips": "train"}.get(change, change)
    found = [
        fit_router(**options, folder=tmp_path, progress=False)[0]
        for options in (given_, given_ | {name: other})
    ]
    assert len(trained) == 2
    if change not in ("valid", "model"):
        one, two = (r.state_dict() for r in found)
        assert any(not torch.equal(value, two[key]) for key, value in one.items())


@given(st.integers(0, 1000), st.integers(5, 14), st.integers(2, 5))
@settings(max_examples=25, deadline=None)
@pytest.mark.filterwarnings("ignore:The least populated class")
def test_folds_never_split_a_speaker_and_none_is_empty(seed, speakers, folds):
    rng = np.random.default_rng(seed)
    count = 60
    clips = pd.DataFrame({
        "sample_id": rng.permutation([f"c{i:02d}" for i in range(count)]),
        "speaker_id": [f"s{k}" for k in (*range(speakers), *rng.integers(
            speakers, size=count - speakers))],
        "label_gt": rng.integers(0, 5, count),
        "subset": rng.choice(["align", "conflict"], count),
    })  # fmt: skip
    fold = speaker_folds(clips, folds, seed)
    assert sorted(fold.index) == sorted(clips["sample_id"])
    own = clips["sample_id"].map(fold)
    assert (own.groupby(clips["speaker_id"]).nunique() == 1).all()
    assert set(fold) == set(range(folds))
    shuffled = clips.sample(frac=1, random_state=seed)
    pd.testing.assert_series_equal(speaker_folds(shuffled, folds, seed), fold)


def test_more_folds_than_speakers_are_refused(clips):
    with pytest.raises(ValueError, match="2 speakers cannot be cut into 3 folds"):
        speaker_folds(clips.assign(speaker_id=["a", "b", "b", "a"]), 3)


@pytest.fixture
def seen(monkeypatch):
    """Clips that each router was trained on; routers are numbers."""
    calls: list[set[str]] = []

    def fit(model, states, train, *_, **__):
        calls.append(set(train["sample_id"]))
        return len(calls) - 1, None

    monkeypatch.setattr(crossing, "fit_router", fit)
    return calls


def test_a_cross_fitted_router_is_trained_on_all_folds_but_its_own(model, clips, seen):
    fold = pd.Series([2, 0, 1, 0], index=clips["sample_id"])
    found = cross_fit(model, None, clips, fold, TRAINING, "unused")
    assert [seen[number] for number in found] == [{"c0", "c2"}, {"c0", "c1", "c3"},
                                                  {"c1", "c2", "c3"}]  # fmt: skip


def test_in_a_study_no_router_is_asked_about_a_speaker_that_it_saw(model, seen):
    count = 90
    rng = np.random.default_rng(0)
    clips = pd.DataFrame({
        "sample_id": [f"c{i:02d}" for i in range(count)],
        "speaker_id": [f"s{i % 18}" for i in range(count)],
        "label_gt": rng.integers(0, 2, count),
        "subset": rng.choice(["align", "conflict"], count),
        "split": ["valid" if i % 18 < 3 else "train" if i % 18 < 14 else "test"
                  for i in range(count)],
    })  # fmt: skip
    study = Study(SimpleNamespace(clips=clips, model=model), None)
    source = study.crossed(PUBLISHED)
    speaker = clips.set_index("sample_id")["speaker_id"]
    assert set(source.fold) == set(clips.loc[clips["split"] != "valid", "sample_id"])
    for name, number in source.fold.items():
        trained_on = seen[source.routers[number]]
        assert speaker[name] not in set(speaker[list(trained_on)])


def test_a_kind_of_router_is_trained_once_for_all_methods_that_name_it(model, monkeypatch):
    made = []
    monkeypatch.setattr(Study, "router", lambda self, kind: (made.append(kind) or kind, None))
    monkeypatch.setattr(Study, "crossed", lambda self, kind: (made.append(kind), Oracle())[1])
    methods = [
        Method("one", PUBLISHED, config()),
        Method("two", PUBLISHED, config(tau=0.1)),
        Method("parts", Parts(Oracle(), EMBEDDED), config()),
        Method("none", Chance(), config()),
    ]
    study = Study(SimpleNamespace(model=model), None)
    found = study.trained(methods)
    assert made == [PUBLISHED, EMBEDDED]
    # One object, so that it is asked once of a batch.
    assert found[0].source is found[1].source and found[0].source.router == PUBLISHED
    assert found[2].source.conflict is methods[2].source.conflict
    assert found[2].source.trust.router == EMBEDDED and found[3].source is methods[3].source
    assert [m.key for m in found] == [m.key for m in methods]
    study.trained(methods, crossed=True)
    assert made == [PUBLISHED, EMBEDDED] * 2
    with pytest.raises(TypeError, match="one: no router yet, only the kind 'published'"):
        steering_fingerprint(model, MEDIA, methods[0])
