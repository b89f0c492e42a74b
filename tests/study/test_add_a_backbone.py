"""What docs/add_a_backbone.md writes: a third kind, made by its own code and steered.

``tests/study/test_backbones.py`` holds its answers against transformers' own, with the other kinds'.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from emomm_lib import gradient_importance, replay, steer
from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.gates import ConstantGate
from emomm_lib.labels import COALITIONS
from emomm_study.corpora.scores import Corpus
from emomm_study.media.video import Frames
from emomm_study.paths import ROOT
from emomm_study.systems.interface import Media, Query, offered
from emomm_study.systems.table import load_system
from tests import qwen3_omni
from tests.backbones import HEADS, KINDS, LAYERS, SIDE, clip, plain_omni
from tests.documented import ADD_A_BACKBONE, blocks, patched

# Imported here: beside a CPU build of torch they need emomm_study.systems to be imported first.
from transformers import (  # isort: skip
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
)
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (  # isort: skip
    _get_feat_extract_output_lengths as tokens_of_sound,
)

TEXT = "To me the trip was absolutely awful"
STRONG = SteeringConfig(first_layer=1, tau=0.0, beta=0.5)


@pytest.fixture(scope="module")
def model():
    return KINDS["qwen3-omni"].make()


def asked(model, *coalitions, seed=3):
    [encoded] = model.encode([clip(seed)])
    return [Query(encoded, name, Corpus.CMU_MOSI, TEXT) for name in coalitions]


def always(prompts):
    """Every prompt in conflict, and the video trusted."""
    return ConstantGate(torch.tensor([0.9] * prompts), torch.tensor([[0.1, 0.2, 0.7]] * prompts))


def decode(model, prompt):
    return model.decoder(
        inputs_embeds=prompt.inputs_embeds,
        attention_mask=prompt.attention_mask,
        position_ids=prompt.position_ids,
    ).last_hidden_state[:, -1]


def test_the_pages_change_fits_the_table_and_names_the_classes_that_the_page_writes(tmp_path):
    source = "emomm_study/systems/table.py"
    (tmp_path / source).parent.mkdir(parents=True)
    (tmp_path / source).write_text((ROOT / source).read_text(encoding="utf-8"), encoding="utf-8")
    [diff] = blocks(ADD_A_BACKBONE, "diff")
    patched(tmp_path, diff)
    scope: dict = {"__name__": "table"}
    exec((tmp_path / source).read_text(encoding="utf-8"), scope)
    added = qwen3_omni.kinds()
    assert set(added) == {"qwen3_omni_moe", "qwen3_omni_moe_thinker"}
    assert added.items() <= scope["KINDS"].items()
    page = qwen3_omni.adapter()
    for place in added.values():
        module, _, name = place.partition(":")
        assert getattr(importlib.import_module(module), name) is page


def test_it_offers_all_that_steering_asks_for(model):
    assert offered(model, "steering") is model
    assert (model.layers, model.heads) == (LAYERS, HEADS)


def test_a_checkpoint_of_the_whole_model_is_opened_as_its_thinker(model, tmp_path):
    config = Qwen3OmniMoeConfig(
        thinker_config=model.model.config.to_dict(), enable_audio_output=False
    )
    whole = Qwen3OmniMoeForConditionalGeneration(config)
    whole.thinker.load_state_dict(model.model.state_dict())
    whole.save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    again = load_system(tmp_path, pixels=(1024, 4096))
    assert type(again) is type(model)
    assert again.settings()["frame_size"] == {"shortest_edge": 1024, "longest_edge": 4096}
    for name, value in model.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=0, atol=0)


def test_without_what_the_first_layers_add_it_would_answer_otherwise(model):
    queries = asked(model, "V", "TAV")
    whole = model.answer(queries).letter_logits
    placed = model.prepare(queries)
    width = model.decoder.config.hidden_size
    assert placed.inputs_embeds.shape[-1] == 3 * width
    added = placed.inputs_embeds[..., width:]
    assert (added[placed.modality_ids == 2] != 0).any(-1).all()
    assert (added[placed.modality_ids != 2] == 0).all()
    with torch.inference_mode():
        hidden = model.decoder(
            inputs_embeds=placed.inputs_embeds[..., :width],
            attention_mask=placed.attention_mask,
            position_ids=placed.position_ids,
        ).last_hidden_state[:, -1]
    assert np.abs(model.letter_logits(hidden).numpy() - whole).max(1).min() > 1e-3


def test_the_features_length_that_positions_are_asked_by_gives_the_sounds_tokens():
    tokens = torch.arange(1, 500)
    assert tokens_of_sound(100 * (tokens // 13) + 8 * (tokens % 13)).equal(tokens)


def test_steps_of_a_video_that_are_no_whole_numbers_lie_where_the_model_puts_them(model):
    slow = Media(Frames(clip(4).frames.frames, fps=1.7), clip(4).sound)
    [encoded] = model.encode([slow])
    query = Query(encoded, "TAV", Corpus.CMU_MOSI, TEXT)
    expected, _ = plain_omni(model, slow, "TAV", Corpus.CMU_MOSI, TEXT)
    found = model.answer([query]).letter_logits[0]
    np.testing.assert_allclose(found, expected[-1, model.letter_ids], atol=1e-5)
    positions = model.prepare([query]).position_ids
    assert (positions != positions.round()).any()


def test_a_clip_is_encoded_the_same_whoever_is_beside_it(model):
    together = model.encode([clip(seed) for seed in range(4)])
    for seed, found in enumerate(together):
        [alone] = model.encode([clip(seed)])
        assert torch.equal(found.video, alone.video) and torch.equal(found.audio, alone.audio)


def test_of_a_region_only_its_tokens_are_kept_with_all_that_they_bring(model):
    media, region = clip(5), np.zeros((4, SIDE, SIDE), bool)
    region[:, :, : SIDE // 2] = True
    [whole] = model.encode([media])
    [masked] = model.encode([Media(media.frames, media.sound, region)])
    assert masked.kept.tolist() == [True, False] * 4
    assert torch.equal(masked.video, whole.video[masked.kept])
    queries = [Query(e, k, Corpus.CMU_MOSI, TEXT) for e in (masked, whole) for k in ("V", "TAV")]
    together = model.answer(queries, trace=True)
    assert together.counts[:, 2].tolist() == [4, 4, 8, 8]
    for row, query in enumerate(queries):
        alone = model.answer([query]).letter_logits[0]
        np.testing.assert_allclose(together.letter_logits[row], alone, atol=1e-5)


def test_replaying_a_prefill_equals_steering_the_whole_prompt(model):
    queries = asked(model, *COALITIONS)
    moved = 0.0
    for part in model.compute(queries, trace=True, states=True, rows=True):
        replayed, _ = replay(part.shortened(), [(always(len(part.rows)), STRONG)])
        for row, query in enumerate(part.rows):
            prompt = model.prepare([queries[query]])
            with torch.inference_mode():
                with steer(model.model, always(1), STRONG, prompt.modality_ids):
                    steered = decode(model, prompt)
            torch.testing.assert_close(replayed.hidden[row, 0], steered[0], atol=1e-4, rtol=0)
            moved = max(moved, float((steered[0] - part.hidden[row]).abs().max()))
    assert moved > 1e-3


def test_steering_of_no_strength_changes_not_one_bit(model):
    prompt = model.prepare(asked(model, "TAV", "V"))
    none = SteeringConfig(first_layer=1, tau=0.0, beta=0.0, gamma=0.0)
    with torch.inference_mode():
        plain = decode(model, prompt)
        with steer(model.model, always(2), none, prompt.modality_ids):
            assert torch.equal(decode(model, prompt), plain)


def test_the_importance_of_a_video_token_counts_all_that_it_brings(model):
    prompt = model.prepare(asked(model, "TAV"))
    given = prompt.attention_mask, prompt.position_ids, prompt.modality_ids, model.letter_weights
    found = gradient_importance(model.model, prompt.inputs_embeds, *given)
    assert (found[prompt.modality_ids != 2] == 0).all()
    # By differences: the logit's rise as a token, with what it brings, grows by a thousandth.
    with torch.inference_mode():
        logits = model.letter_logits(decode(model, prompt))[0]
        letter = int(logits.argmax())
        for place in (prompt.modality_ids[0] == 2).nonzero()[:3, 0].tolist():
            ends = []
            for factor in (0.999, 1.001):
                embeds = prompt.inputs_embeds.clone()
                embeds[0, place] *= factor
                hidden = model.decoder(
                    inputs_embeds=embeds,
                    attention_mask=prompt.attention_mask,
                    position_ids=prompt.position_ids,
                ).last_hidden_state[:, -1]
                ends.append(float(model.letter_logits(hidden)[0, letter]))
            assert float(found[0, place]) == pytest.approx(
                abs(ends[1] - ends[0]) / 0.002, rel=0.05, abs=2e-4
            )
