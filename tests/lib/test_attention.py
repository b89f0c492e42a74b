"""Recording against an eager float64 forward that returns every attention weight."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tiny_models import MAKERS, fingerprint, inputs, make, reference, run

from emomm_lib import OTHER, mark_modalities, record
from emomm_lib.attention import record as trace_module
from emomm_lib.attention.rows import decision_scores

# Imported here: beside a CPU build of torch it needs emomm_study.systems to be imported first.
from transformers import DynamicCache, StaticCache  # isort: skip

T, A, V = 0, 1, 2


@pytest.fixture(scope="module")
def models():
    return {name: make(name) for name in MAKERS}


def assert_equal_to_reference(trace, expected, ids, state_tolerance=1e-6):
    mass, query, pooled, rows = expected
    torch.testing.assert_close(trace.mass.double(), mass, atol=1e-6, rtol=0)
    counts = torch.stack([(ids == m).sum(1) for m in range(3)], 1)
    nmas = mass / counts[:, None, None]
    torch.testing.assert_close(trace.nmas.double(), nmas, atol=1e-6, rtol=0, equal_nan=True)
    largest = max(1.0, query.abs().max().item())
    tolerance = {"atol": state_tolerance * largest, "rtol": 0}
    torch.testing.assert_close(trace.query_state.double(), query, **tolerance)
    torch.testing.assert_close(trace.modality_states.double(), pooled, **tolerance)
    for b, name in itertools.product(range(len(ids)), "TAV"):
        row = rows[b][..., ids[b] == "TAV".index(name)]
        own = trace.rows[b][..., ids[b] == "TAV".index(name)].double()
        torch.testing.assert_close(own, row, atol=1e-6, rtol=0)


CASES = list(itertools.product(MAKERS, ("sdpa", "eager"), (True, False)))


@pytest.mark.parametrize(("name", "base", "padded"), CASES)
@torch.no_grad()
def test_a_float32_trace_equals_the_eager_float64_one(models, name, base, padded):
    model = models[name]
    model.set_attn_implementation(base)
    tokens, mask, ids = inputs(padded=padded)
    expected = reference(model, tokens, mask, ids)
    with record(model, ids, rows=True) as trace:
        run(model, tokens, mask)
    assert_equal_to_reference(trace, expected, ids)


@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_a_float64_trace_equals_the_eager_one_to_double_precision(models, name):
    model = copy.deepcopy(models[name]).double()
    model.set_attn_implementation("sdpa")
    if name == "qwen3-omni":
        model.set_experts_implementation("eager")
    tokens, mask, ids = inputs()
    mass, query, pooled, _ = reference(model, tokens, mask, ids)
    with record(model, ids) as trace:
        run(model, tokens, mask)
    torch.testing.assert_close(trace.mass, mass, atol=1e-12, rtol=0)
    torch.testing.assert_close(trace.query_state, query, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(trace.modality_states, pooled, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("name", "base"), list(itertools.product(MAKERS, ("sdpa", "eager"))))
@pytest.mark.parametrize("cuts", [(29,), (10, 20), (5, 29)])
@torch.no_grad()
def test_a_prompt_computed_in_cached_pieces_gives_the_same_trace(models, name, base, cuts):
    model = models[name]
    model.set_attn_implementation(base)
    tokens, mask, ids = inputs()
    expected = reference(model, tokens, mask, ids)
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    with record(model, ids, rows=True) as trace:
        for start, end in itertools.pairwise((0, *cuts, tokens.shape[1])):
            run(model, tokens[:, start:end], mask[:, :end], past_key_values=cache, use_cache=True)
    assert_equal_to_reference(trace, expected, ids)


@pytest.mark.parametrize("name", ["qwen2.5-omni", "gemma3"])
@torch.no_grad()
def test_a_decode_step_on_a_cache_made_outside_gives_the_same_attention(models, name):
    model = models[name]
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    mass, query, _, _ = reference(model, tokens, mask, ids)
    cache = run(model, tokens[:, :-1], mask[:, :-1], use_cache=True).past_key_values
    with record(model, ids) as trace:
        run(model, tokens[:, -1:], mask, past_key_values=cache, use_cache=True)
    torch.testing.assert_close(trace.mass.double(), mass, atol=1e-6, rtol=0)
    torch.testing.assert_close(trace.query_state.double(), query, atol=1e-5, rtol=0)
    with pytest.raises(RuntimeError, match="made outside"):
        _ = trace.modality_states


@pytest.mark.parametrize("padded", [True, False])
@torch.no_grad()
def test_empty_slots_of_a_static_cache_are_not_attended(models, padded):
    model = models["qwen2.5-omni"]
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs(padded=padded)
    expected = reference(model, tokens, mask, ids)
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
    with record(model, ids, rows=True) as trace:
        run(model, tokens, mask, past_key_values=cache, use_cache=True)
    assert_equal_to_reference(trace, expected, ids)


@torch.no_grad()
def test_generating_records_the_prompts_last_position_and_nothing_after_it(models):
    model = models["qwen2.5-omni"]
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with record(model, ids) as plain:
        model(input_ids=tokens, attention_mask=mask, position_ids=positions)
    embeds = model.get_input_embeddings()(tokens)
    with record(model, ids) as trace:
        out = model.model.language_model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=True
        )
        more = torch.cat([mask, torch.ones(3, 1, dtype=mask.dtype)], 1)
        model.model.language_model(
            inputs_embeds=embeds[:, :1],
            attention_mask=more,
            position_ids=positions[:, -1:] + 1,
            past_key_values=out.past_key_values,
        )
    assert torch.equal(trace.mass, plain.mass)
    with record(models["gemma3"], ids) as trace:
        models["gemma3"].generate(
            input_ids=tokens, attention_mask=mask, max_new_tokens=4, do_sample=False
        )
    assert trace.mass.shape == (3, 3, 4, 3)


@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_mean_attention_is_that_of_the_rows_whole_or_in_cached_pieces(models, name):
    model = models[name]
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    with record(model, ids, rows=True) as whole:
        run(model, tokens, mask)
    expected = whole.rows.double().mean((1, 2))
    torch.testing.assert_close(whole.mean_attention, expected, atol=1e-12, rtol=0)
    with record(model, ids) as pieces:
        cache = run(model, tokens[:, :20], mask[:, :20], use_cache=True).past_key_values
        run(model, tokens[:, 20:], mask, past_key_values=cache, use_cache=True)
    torch.testing.assert_close(pieces.mean_attention, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["qwen2.5-omni", "gemma3"])
@torch.no_grad()
def test_in_bfloat16_the_row_is_the_float64_softmax_of_the_layers_own_queries_and_keys(
    models, name, monkeypatch
):
    model = copy.deepcopy(models[name]).bfloat16()
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    caught = []

    def spy(query, key, visible, scaling):
        caught.append((query[:, :, 0].double(), key.double(), visible, scaling))
        return decision_scores(query, key, visible, scaling)

    monkeypatch.setattr(trace_module, "decision_scores", spy)
    with record(model, ids) as trace:
        run(model, tokens, mask)
    assert trace.mass.dtype == torch.float32
    for layer, (query, key, visible, scaling) in enumerate(caught):
        for b, h in itertools.product(range(3), range(4)):
            scores = key[b, h // 2] @ query[b, h] * scaling
            scores = scores.masked_fill(~visible[b, 0], -torch.inf)
            weights = scores.softmax(0)
            expected = torch.stack([weights[ids[b] == m].sum() for m in range(3)])
            actual = trace.mass[b, layer, h].double()
            torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


@given(
    st.integers(1, 3), st.sampled_from([(4, 4), (4, 2), (6, 1)]), st.integers(1, 20), st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_one_row_equals_the_last_row_of_the_whole_matrix(batch, heads, keys, additive):
    rng = torch.Generator().manual_seed(keys)
    h, groups = heads
    query = torch.randn(batch, h, 5, generator=rng)
    key = torch.randn(batch, groups, keys, 5, generator=rng)
    visible = torch.rand(batch, 1, keys, generator=rng) > 0.4
    visible[..., -1] = True
    mask = torch.zeros(visible.shape).masked_fill(~visible, -1e30) if additive else visible
    row = decision_scores(query[:, :, None], key, mask, 0.3).softmax(-1)[:, :, 0]
    for b, head in itertools.product(range(batch), range(h)):
        dots = [0.3 * float(query[b, head] @ key[b, head // (h // groups), k]) for k in range(keys)]
        weights = [np.exp(d) * bool(v) for d, v in zip(dots, visible[b, 0], strict=True)]
        np.testing.assert_allclose(row[b, head], np.array(weights) / sum(weights), atol=1e-6)


@pytest.mark.parametrize(("name", "base"), list(itertools.product(MAKERS, ("sdpa", "eager"))))
@torch.no_grad()
def test_a_recorded_model_computes_bit_for_bit_what_it_would_otherwise(models, name, base):
    model = models[name]
    model.set_attn_implementation(base)
    for padded in (True, False):
        tokens, mask, ids = inputs(padded=padded)
        plain = run(model, tokens, mask).logits
        with record(model, ids):
            recorded = run(model, tokens, mask).logits
        assert torch.equal(plain, recorded)


@pytest.mark.parametrize("name", MAKERS)
def test_the_model_is_left_as_it_was_also_after_an_exception(models, name):
    model = models[name]
    model.set_attn_implementation("sdpa")
    before = fingerprint(model)
    tokens, mask, ids = inputs()
    with record(model, ids), torch.no_grad():
        run(model, tokens, mask)
        assert fingerprint(model) != before
    assert fingerprint(model) == before
    with pytest.raises(KeyError, match="mine"), record(model, ids):
        raise KeyError("mine")
    assert fingerprint(model) == before


def test_only_the_decoders_attention_is_exchanged(models):
    model = models["qwen2.5-omni"]
    model.set_attn_implementation("sdpa")
    with pytest.raises(ZeroDivisionError), record(model, inputs()[2]):
        assert model.config.text_config._attn_implementation == "emomm_sdpa"
        assert model.config.vision_config._attn_implementation == "sdpa"
        assert model.config.audio_config._attn_implementation == "sdpa"
        raise ZeroDivisionError


@torch.no_grad()
def test_the_decoder_alone_is_recorded_like_the_whole_model(models):
    model = models["qwen2.5-omni"]
    tokens, mask, ids = inputs()
    with record(model, ids) as whole:
        run(model, tokens, mask)
    with record(model.model.language_model, ids) as alone:
        run(model.model.language_model, tokens, mask)
    assert torch.equal(whole.mass, alone.mass)


def test_records_do_not_nest(models):
    model, ids = models["qwen2.5-omni"], inputs()[2]
    with pytest.raises(RuntimeError, match="recorded already"), record(model, ids):
        with record(model.model.language_model, ids):
            pass
    assert not model.config.text_config._attn_implementation.startswith("emomm")


def test_a_model_that_was_never_run_is_an_error(models):
    with pytest.raises(RuntimeError, match=r"not computed in decoder layers \[1, 2, 3\]"):
        with record(models["qwen2.5-omni"], inputs()[2]):
            pass


@torch.no_grad()
def test_a_decoder_layer_that_does_not_fire_is_an_error(models, monkeypatch):
    model = models["qwen2.5-omni"]
    tokens, mask, ids = inputs()
    silent = model.model.language_model.layers[1]
    monkeypatch.setattr(silent, "forward", lambda hidden_states, **_: hidden_states)
    with pytest.raises(RuntimeError, match=r"decoder layers \[2\]"), record(model, ids):
        run(model, tokens, mask)


@torch.no_grad()
def test_a_second_batch_in_one_record_is_refused(models):
    model = models["qwen2.5-omni"]
    tokens, mask, ids = inputs()
    with pytest.raises(RuntimeError, match="computed before"), record(model, ids):
        run(model, tokens, mask)
        run(model, tokens, mask)


@torch.no_grad()
def test_right_padding_and_marked_padding_are_refused(models):
    model = models["qwen2.5-omni"]
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    right = mask.clone()
    right[1, -3:] = 0
    marked = ids.clone()
    marked[1, 0] = V
    for base in ("sdpa", "eager"):
        model.set_attn_implementation(base)
        with pytest.raises(ValueError, match="pad on the left"), record(model, ids):
            run(model, tokens, right)
        with pytest.raises(ValueError, match="pad on the left"), record(model, marked):
            run(model, tokens, mask)


@torch.no_grad()
def test_another_number_of_rows_than_marked_is_refused(models):
    model = models["qwen2.5-omni"]
    tokens, mask, ids = inputs()
    with pytest.raises(RuntimeError, match="2 rows and the model runs 3"), record(model, ids[:2]):
        run(model, tokens, mask)


def test_ids_that_are_no_modality_are_refused(models):
    for bad in (torch.tensor([[3, 0]]), torch.tensor([[0.0]]), torch.tensor([0, 1])):
        with pytest.raises(ValueError, match="modality_ids"), record(models["gemma3"], bad):
            pass


def test_an_attention_implementation_that_is_not_known_is_refused(models):
    model = copy.deepcopy(models["gemma3"])
    model.set_attn_implementation("flex_attention")
    with pytest.raises(NotImplementedError, match="flex_attention"), record(model, inputs()[2]):
        pass


def test_an_architecture_without_one_attention_a_layer_is_refused_by_name(models):
    model = copy.deepcopy(models["qwen2.5-omni"])
    model.model.language_model.layers[1].self_attn.layer_idx = 0
    with pytest.raises(NotImplementedError, match="each of 3 decoder layers"):
        with record(model, inputs()[2]):
            pass


@torch.no_grad()
def test_layers_that_were_exchanged_since_the_last_record_are_found_anew(models):
    model = copy.deepcopy(models["qwen2.5-omni"])
    tokens, mask, ids = inputs()
    traces = []
    for _ in range(2):
        with record(model, ids) as trace:
            run(model, tokens, mask)
        traces.append(trace.mass)
        layers = model.model.language_model.layers
        layers[1] = copy.deepcopy(layers[1])
        layers[1].self_attn.config = model.config.text_config
    assert torch.equal(*traces)


@torch.no_grad()
def test_what_was_not_asked_for_is_not_kept(models):
    model = models["qwen2.5-omni"]
    tokens, mask, ids = inputs()
    with record(model, ids, states=False) as trace:
        run(model, tokens, mask)
    with pytest.raises(RuntimeError, match="states=True"):
        _ = trace.query_state
    with pytest.raises(RuntimeError, match="rows=True"):
        _ = trace.rows


def test_placeholders_and_text_mark_their_modalities():
    tokens = torch.tensor([[9, 7, 7, 1, 8, 2, 3]])
    text = torch.tensor([[0, 0, 0, 0, 0, 1, 1]]).bool()
    marked = mark_modalities(tokens, {"A": 8, "V": 7}, text)
    assert marked.tolist() == [[OTHER, V, V, OTHER, A, T, T]]


@torch.no_grad()
def test_a_trace_keeps_no_more_than_it_shows(models):
    model = models["qwen2.5-omni"]
    tokens, mask, ids = inputs()
    with record(model, ids) as trace:
        run(model, tokens, mask)
    for kept in itertools.chain(*(x.values() for x in (trace._query, trace._sums, trace._mass))):
        assert kept.untyped_storage().nbytes() == kept.nbytes
