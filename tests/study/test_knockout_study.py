"""Knockout and mediation over clips: against one whole float64 matrix a clip, changed by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from crash import SMALL
from tiny_media import tone, write_mp4
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from emomm_lib import (
    Bootstrap,
    ConstantGate,
    LayerView,
    Steerer,
    SteeringConfig,
    attention_importance,
    prefill,
)
from emomm_lib.labels import MODALITIES
from emomm_study.corpora.scores import Corpus
from emomm_study.evaluate import streamed as streamed_module
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.files import MediaSettings
from emomm_study.evaluate.knockout import Cut, cut_logits, cuts, knockouts
from emomm_study.evaluate.mediation import RESTORED, added_scores, mediated, mediation
from emomm_study.evaluate.methods import Always, Batch, Method, Oracle
from emomm_study.evaluate.store import PredictionStore
from emomm_study.evaluate.untrained_gates import untrained_gains
from emomm_study.failures import Broken
from emomm_study.media.audio import AudioSettings, read_audio
from emomm_study.media.video import VideoSettings, read_video
from emomm_study.mini.model.build import build_model, build_processor
from emomm_study.systems.interface import Media, NotOffered, Query
from emomm_study.systems.omni import OmniModel
from tests.backbones import make_vita

LAYERS, FIRST = 4, 2
SIZES = replace(SMALL, layers=LAYERS, heads=4, kv_heads=2)
MEDIA = MediaSettings(VideoSettings(num_frames=4), AudioSettings(max_seconds=2.0))
STRONG = SteeringConfig(first_layer=FIRST, tau=0.5, eta=1.0, gamma=6.0, beta=3.0, top_k=2,
                        psi_hat=0.9, percentile=50.0, preference="share")  # fmt: skip
FEW = Bootstrap(50)
DAMAGED = "c3"


@pytest.fixture(scope="module", params=["omni"])
def model(request):
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
    for i in range(8):
        frames = np.random.default_rng(i).integers(0, 256, (4, 56, 56, 3), dtype=np.uint8)
        write_mp4(folder / f"{i}.mp4", frames=frames, sound=tone(0.4 + 0.1 * i, hertz=200 + 60 * i))
        rows.append({"sample_id": f"c{i}", "corpus": ("ch_sims_v2", "cmu_mosi")[i // 4],
                     "text": f"word {i} " * (i + 1), "video_path": f"{i}.mp4",
                     "audio_path": f"{i}.mp4", "label_gt": i % 5, "label_t": i % 5,
                     "label_a": (i + 1) % 5, "label_v": (i + 2) % 5,
                     "subset": "conflict" if i else "align"})  # fmt: skip
    (folder / "3.mp4").write_bytes(b"damaged")
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def undecided(model, clips, folder):
    """The same with letters that say nothing of what all prompts share: little turns an answer."""
    queries = [query_of(model, folder, clips.iloc[i]) for i in (0, 1, 2, 4, 5, 6, 7)]
    with torch.no_grad():
        hidden = torch.cat([part.hidden for part in model.compute(queries)]).mean(0)
        weight, along = model.model.lm_head.weight, hidden / hidden.norm()
        weight -= weight @ along[:, None] * along
    return model


@pytest.fixture
def bench(undecided, clips, folder, tmp_path, monkeypatch) -> Experiment:
    """With tables of its own: nothing is remembered of another test."""
    monkeypatch.setenv("EMOMM_CACHE", str(tmp_path / "cache"))
    roots = dict.fromkeys(("ch_sims_v2", "cmu_mosi"), folder)
    return Experiment(undecided, clips, roots, PredictionStore(tmp_path / "p.sqlite"), MEDIA, 3,
                      processes=1, progress=False)  # fmt: skip


def query_of(model, folder, clip) -> Query:
    path = folder / clip["video_path"]
    media = Media(read_video(path, MEDIA.video), read_audio(path, MEDIA.audio))
    with torch.inference_mode():
        [encoded] = model.encode([media])
    return Query(encoded, "TAV", Corpus(clip["corpus"]), clip["text"])


@torch.no_grad()
def by_hand(model, prompt, change):
    """Logits of A..E ``(5,)`` and last rows ``(L, H, S)`` of one prompt, in a float64 decoder.

    ``change(layer, scores, weights)`` takes ``(H, Q, Q)`` of a layer, counted from 1, and gives the
    weights that are used.
    """
    decoder, rows = copy.deepcopy(model.decoder).double(), []

    def attend(module, query, key, value, mask, scaling=None, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        scores = (query @ key.transpose(2, 3))[0] * (scaling or query.shape[3] ** -0.5)
        scores = scores.masked_fill(mask[0] < 0, -1e300)
        weights = change(module.layer_idx + 1, scores, scores.softmax(-1))
        rows.append(weights[:, -1])
        return (weights[None] @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("by_hand", attend)
    AttentionMaskInterface.register("by_hand", eager_mask)
    decoder.config._attn_implementation = "by_hand"
    out = decoder(
        inputs_embeds=prompt.inputs_embeds.double(), attention_mask=prompt.attention_mask,
        position_ids=prompt.position_ids, use_cache=False,
    )  # fmt: skip
    hidden = out.last_hidden_state[0, -1]
    return model.letter_weights.double() @ hidden, torch.stack(rows)


def without(ids, cut):
    """A change in which some queries see nothing of some modalities."""
    gone = torch.zeros_like(ids, dtype=torch.bool)
    for m in cut.modalities:
        gone |= ids == MODALITIES.index(m)
    asking = ids == -1
    asking[-1] = False
    if cut.queries == "decision":
        asking = torch.arange(len(ids)) == len(ids) - 1
    blind = asking[:, None] & gone[None]

    def change(layer, scores, weights):
        if layer < (cut.first_layer or 1):
            return weights
        return scores.masked_fill(blind, -1e300).softmax(-1)

    return change


@pytest.mark.parametrize("model", ["omni", "vita"], indirect=True)
def test_a_cut_answer_is_that_of_a_matrix_in_which_those_queries_see_nothing_of_it(
    model, clips, folder
):
    asked = cuts(model.layers)
    queries = [query_of(model, folder, clips.iloc[i]) for i in (0, 2, 5)]
    moved = np.zeros(len(asked))
    for part in model.compute(queries, states=True):
        own = [queries[row] for row in part.rows]
        found = cut_logits(model, own, part.shortened(), asked)
        for i, query in enumerate(own):
            prompt = model.prepare([query])
            plain = by_hand(model, prompt, lambda layer, scores, weights: weights)[0]
            for column, cut in enumerate(asked):
                change = without(prompt.modality_ids[0], cut)
                expected = by_hand(model, prompt, change)[0]
                torch.testing.assert_close(
                    found[i, column].double(), expected, atol=1e-3, rtol=1e-3
                )
                moved[column] = max(moved[column], float((expected - plain).abs().max()))
    # Or cuts that cut nothing would pass.
    assert (moved > 1e-2).all()


def test_a_knockouts_frame_counts_clips_whose_answer_another_takes_the_place_of(
    bench, model, clips, folder
):
    found = knockouts(bench, clips, bootstrap=FEW)
    keys = ["subset", "cut", "first_layer"]
    assert not found.duplicated([*keys, "quantity"]).any()
    said, truth = {}, {}
    for _, clip in clips[clips["subset"] == "conflict"].iterrows():
        if clip["sample_id"] == DAMAGED:
            continue
        prompt = model.prepare([query_of(model, folder, clip)])
        ids = prompt.modality_ids[0]
        ways = [by_hand(model, prompt, lambda layer, scores, weights: weights)[0]]
        ways += [by_hand(model, prompt, without(ids, cut))[0] for cut in cuts(LAYERS)]
        said[clip["sample_id"]] = [int(logits.argmax()) for logits in ways]
        truth[clip["sample_id"]] = clip["label_gt"]
    own = found[found["subset"] == "conflict"]
    assert (own["n"] == 6).all() and (own["lost"] == 1).all()
    for i, cut in enumerate(cuts(LAYERS), 1):
        at = own[own["cut"] == cut.name]
        at = at[at["first_layer"].isna()] if cut.first_layer is None else at[
            at["first_layer"] == cut.first_layer]  # fmt: skip
        at = at.set_index("quantity")
        changed = np.mean([s[i] != s[0] for s in said.values()])
        gained = np.mean([(s[i] == truth[k]) - float(s[0] == truth[k]) for k, s in said.items()])
        assert at.loc["changed", "value"] == pytest.approx(changed)
        assert at.loc["accuracy", "value"] == pytest.approx(gained)
        assert (at["low"] <= at["value"]).all() and (at["value"] <= at["high"]).all()
    assert own["value"].abs().max() > 0
    align = found[found["subset"] == "align"]
    assert (align["n"] == 1).all() and (align["lost"] == 0).all()


def prefilled(model, prompt, dtype=torch.float32):
    """A prompt ready to be replayed, by a copy of the decoder in another precision."""
    own = model.model if dtype == torch.float32 else copy.deepcopy(model.model).to(dtype)
    inputs = {"inputs_embeds": prompt.inputs_embeds.to(dtype),
              "attention_mask": prompt.attention_mask,
              "position_ids": prompt.position_ids}  # fmt: skip
    return prefill(own, inputs, prompt.modality_ids)


def view(row, ids, layer, width):
    """What a steerer sees of one last row ``(H, S)``; gates by decree ask for no states."""
    one_hot = torch.nn.functional.one_hot(ids + 1, 4)[:, 1:].double()
    counts = one_hot.sum(0)[None].long()
    states = torch.zeros(1, 3, width)
    mass = (row[:, : len(ids)] @ one_hot)[None, None]
    return LayerView(layer, mass, counts, torch.zeros(1, 1, width), states, states)


def steered_by_hand(model, prompt, gate, config, importance, restored="", wanted=None):
    """One prompt steered, its rows then given the wanted mass ``(L, H, 3)`` of some modalities."""
    ids = prompt.modality_ids[0]
    steerer = Steerer(model.model, [(gate, config)], prompt.modality_ids, importance)

    def change(layer, scores, weights):
        if layer < config.first_layer:
            return weights
        row, last = scores[:, -1].clone(), weights[:, -1].clone()
        bias = steerer(view(last, ids, layer, model.decoder.config.hidden_size))
        marked = bias.significant[0, 0].double()
        boost = bias.boost((last @ marked)[None, None].to(bias.modality))[0, 0].double()
        for h in range(len(row)):
            if not bias.heads[0, 0, h]:
                continue
            for m in range(3):
                row[h, ids == m] += float(bias.modality[0, 0, h, m])
            row[h] += boost[h] * marked
            last[h] = row[h].softmax(-1)
        own = [m for m in range(3) if MODALITIES[m] in restored]
        for h in range(len(row)):
            given = sum(float(wanted[layer - 1, h, m]) for m in own)
            rest = torch.ones_like(last[h], dtype=torch.bool)
            for m in own:
                rest &= ids != m
            left = last[h][rest].sum()
            for m in own:
                part = last[h][ids == m]
                last[h, ids == m] = part / part.sum() * float(wanted[layer - 1, h, m])
            last[h, rest] = last[h][rest] / left * (1 - given)
        changed = weights.clone()
        changed[:, -1] = last
        return changed

    logits, rows = by_hand(model, prompt, change)
    one_hot = torch.nn.functional.one_hot(ids + 1, 4)[:, 1:].double()
    return logits, rows @ one_hot


@pytest.mark.parametrize("model", ["omni", "vita"], indirect=True)
def test_a_mediated_answer_is_that_of_steered_rows_that_were_given_the_others_mass(
    model, clips, folder
):
    config = replace(STRONG, first_layer=min(FIRST, model.layers))
    moved = 0.0
    for i in (1, 6):
        prompt = model.prepare([query_of(model, folder, clips.iloc[i])])
        prompts = prefilled(model, prompt, torch.float64)
        gate = ConstantGate(torch.tensor([1.0]), torch.tensor([[0.1, 0.2, 0.7]]))
        found = mediated(prompts, gate, config)
        logits = found.hidden[0] @ model.letter_weights.double().T
        seen = attention_importance(prompts.trace.mean_attention, prompts.modality_ids)
        idle = replace(config, tau=1.0)
        pair = {"steered": config, "unsteered": idle}
        expected = {name: steered_by_hand(model, prompt, gate, own, seen)
                    for name, own in pair.items()}  # fmt: skip
        other = {"steered": expected["unsteered"][1], "unsteered": expected["steered"][1]}
        column = 0
        for restored in ("", *RESTORED):
            for name, own in pair.items():
                wanted, mass = steered_by_hand(
                    model, prompt, gate, own, seen, restored, other[name]
                )
                torch.testing.assert_close(logits[column], wanted, atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(found.mass[0, column], mass, atol=1e-6, rtol=0)
                if restored:
                    moved = max(moved, float((wanted - expected[name][0]).abs().max()))
                column += 1
    assert moved > 1e-2


def test_steering_that_moves_masses_alone_is_carried_by_all_three_together(model, clips, folder):
    prompt = model.prepare([query_of(model, folder, clips.iloc[2])])
    prompts = prefilled(model, prompt)
    gate = ConstantGate(torch.tensor([1.0]), torch.tensor([[0.1, 0.2, 0.7]]))
    hidden = mediated(prompts, gate, replace(STRONG, beta=0.0)).hidden[0]
    steered, plain, *_, undone, made = hidden
    assert (steered - plain).abs().max() > 1e-2
    torch.testing.assert_close(undone, plain, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(made, steered, atol=1e-3, rtol=1e-3)


def test_by_hand_a_tenth_becomes_a_half_and_what_is_absent_or_not_asked_for_stays():
    found = torch.tensor([[[[0.1, 0.3, 0.0]]]])
    wanted = torch.tensor([[[[0.5, 0.2, 0.3]]]])
    alone = added_scores(found, wanted, torch.tensor([[True, False, False]]))
    assert alone[0, 0, 0].tolist() == pytest.approx([np.log(9), 0, 0])
    both = added_scores(found, wanted, torch.tensor([[True, True, True]]))
    weights = torch.tensor([0.1, 0.3, 0.6]) * torch.cat([both[0, 0, 0, :2], torch.zeros(1)]).exp()
    # Nobody can give V what it has no key for: the others keep what was wanted among themselves.
    assert weights[0] / weights[1] == pytest.approx(2.5, rel=1e-5) and both[0, 0, 0, 2] == 0
    none = added_scores(found, wanted, torch.zeros(1, 3, dtype=torch.bool))
    assert not none.any()


def test_a_mediation_compares_the_answers_that_steering_changes(bench, model, clips, folder):
    found = mediation(bench, clips, STRONG, bootstrap=FEW)
    assert set(found["restored"]) == {"none", *RESTORED}
    said, truth = [], []
    for _, clip in clips[clips["subset"] == "conflict"].iterrows():
        if clip["sample_id"] == DAMAGED:
            continue
        prompt = model.prepare([query_of(model, folder, clip)])
        prompts = prefilled(model, prompt)
        rows = clip.to_frame().T.assign(coalition="TAV")
        gate = Oracle().gate(Batch(rows, torch.ones(1, 3, dtype=torch.bool)))
        logits = model.letter_logits(mediated(prompts, gate, STRONG).hidden)[0]
        said.append(logits.argmax(-1).tolist())
        truth.append(clip["label_gt"])
    said, truth = np.array(said), np.array(truth)
    own = found[found["subset"] == "conflict"]
    own = own.set_index(["answer", "restored", "quantity"]).sort_index()
    moved = said[:, 0] != said[:, 1]
    assert moved.any()
    column = 0
    for restored in ("none", *RESTORED):
        for answer in ("steered", "unsteered"):
            at = own.loc[answer, restored]
            way = said[:, column]
            assert at.loc["changed", "value"] == pytest.approx((way != said[:, 1]).mean())
            gain = (way == truth).mean() - (said[:, 1] == truth).mean()
            assert at.loc["gain", "value"] == pytest.approx(gain)
            like = (way == said[:, 0])[moved].mean(), (way == said[:, 1])[moved].mean()
            for quantity, value in zip(("like steered", "like unsteered"), like, strict=True):
                assert at.loc[quantity, "value"] == pytest.approx(value)
                assert at.loc[quantity, "n"] == moved.sum()
            assert (at["lost"] == 1).all() and at.loc["gain", "n"] == 6
            column += 1


def test_where_an_oracle_sees_no_conflict_nothing_is_compared_and_nothing_breaks(bench, clips):
    alike = clips.head(3).assign(label_t=1, label_a=1, label_v=1, label_gt=1)
    found = (
        mediation(bench, alike, STRONG, bootstrap=FEW)
        .set_index(["subset", "quantity"])
        .sort_index()
    )
    compared = found.loc[[(s, q) for s in ("align", "conflict")
                          for q in ("like steered", "like unsteered")]]  # fmt: skip
    assert (compared["n"] == 0).all() and compared["value"].isna().all()
    assert (found.xs("gain", level="quantity")["value"] == 0).all()


def test_a_second_call_asks_nothing_and_other_labels_concern_the_oracle_alone(
    bench, clips, monkeypatch
):
    first = knockouts(bench, clips, bootstrap=FEW), mediation(bench, clips, bootstrap=FEW)

    def never(*_, **__):
        raise AssertionError("all of it was known")

    monkeypatch.setattr(streamed_module, "readable", never)
    pd.testing.assert_frame_equal(knockouts(bench, clips, bootstrap=FEW), first[0])
    pd.testing.assert_frame_equal(mediation(bench, clips, bootstrap=FEW), first[1])
    others = clips.assign(label_gt=(clips["label_gt"] + 1) % 5)
    knockouts(bench, others, bootstrap=FEW)
    with pytest.raises(AssertionError, match="known"):
        mediation(bench, others, bootstrap=FEW)
    with pytest.raises(AssertionError, match="known"):
        mediation(bench, clips, STRONG, bootstrap=FEW)


def test_two_processes_find_what_one_does(bench, clips):
    one = knockouts(bench, clips, bootstrap=FEW)
    other = replace(bench, processes=2, batch_size=2)
    # Remembered by what is asked, not by how: a clip less is another table.
    apart = clips[clips["sample_id"] != DAMAGED]
    two = knockouts(other, apart, bootstrap=FEW)
    pd.testing.assert_frame_equal(two.drop(columns="lost"), one.drop(columns="lost"))
    assert (two["lost"] == 0).all()


def test_without_a_clip_that_can_be_asked_there_is_no_frame(bench, clips):
    with pytest.raises(ValueError, match="none of 1 clips could be asked under TAV"):
        knockouts(bench, clips[clips["sample_id"] == DAMAGED])
    with pytest.raises(ValueError, match="scope 'all'"):
        mediation(replace(bench, batch_size=1), clips.head(1), replace(STRONG, scope="all"))
    answering = replace(bench, model=type("Answering", (), {})())
    with pytest.raises(NotOffered, match="cutting what it reads needs its decoder"):
        knockouts(answering, clips)


def test_a_program_that_fails_at_every_clip_is_not_taken_for_damaged_clips(
    bench, clips, folder, monkeypatch
):
    many = pd.concat([clips.head(1).assign(sample_id=f"m{i}") for i in range(25)])

    def broken(self, queries, **_):
        raise TypeError("a wrong argument")

    monkeypatch.setattr(OmniModel, "compute", broken)
    with pytest.raises(Broken, match="the first 20 clips all failed"):
        knockouts(bench, many.reset_index(drop=True))


def test_cuts_are_by_layer_and_by_modality_and_the_instructions():
    found = cuts(3)
    assert [c.first_layer for c in found if c.name == "decision, TAV"] == [1, 2, 3]
    assert {c.name for c in found if c.first_layer is None} == {
        "decision, T", "decision, A", "decision, V", "instruction, TAV"
    }  # fmt: skip
    assert Cut("instruction", "TAV") in found


def test_the_gain_of_an_untrained_gate_is_what_another_answer_to_each_clip_makes_of_accuracy(
    bench, clips
):
    whole = clips[clips["sample_id"] != DAMAGED].assign(score_gt=0.0, split="test")
    gates = {"oracle": Oracle(), "video": Always(1.0, (0.0, 0.0, 1.0))}
    settings = {"strong": STRONG, "idle": replace(STRONG, gamma=0.0, beta=0.0)}
    found = untrained_gains(bench, whole, settings, gates, bootstrap=FEW)
    assert len(found) == 2 * 2 * 2
    by_hand_ = found.set_index(["setting", "gate", "subset"])["value"]
    truth = whole.set_index("sample_id")["label_gt"]
    plain = bench.predictions(whole, ["TAV"]).set_index("sample_id")["label"]
    moved = 0
    for name, source in gates.items():
        own = Method("by itself", source, STRONG, "attention")
        said = bench.steered(whole, ["TAV"], [own]).set_index("sample_id")["label"]
        for subset, part in whole.groupby("subset"):
            ids = part["sample_id"]
            gain = (said[ids] == truth[ids]).mean() - (plain[ids] == truth[ids]).mean()
            assert by_hand_["strong", name, subset] == pytest.approx(gain)
            assert by_hand_["idle", name, subset] == 0
        moved += int((said != plain[said.index]).sum())
    assert moved
