"""Importance of visual tokens against finite differences of the answer's logit in float64."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from tiny_models import A, T, V, inputs, make

from emomm_lib.chase.saliency import attention_importance, gradient_importance, normalized

OTHER = -1
CASES = [("float64", "sdpa", 1e-6), ("float32", "sdpa", 1e-4), ("float32", "eager", 1e-4)]


class ExactNorm(torch.nn.Module):
    """The model's norm in the precision of its input; transformers' rounds to float32."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x):
        return self.weight * x / (x.square().mean(-1, keepdim=True) + self.epsilon).sqrt()


def exact(model):
    """A copy that computes in float64 throughout, as finite differences need."""
    model = copy.deepcopy(model).double()
    for parent in list(model.get_decoder().modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(parent, name, ExactNorm(child))
    return model


@pytest.fixture(scope="module", params=("qwen2.5-omni", "vita"))
def made(request):
    model = make(request.param)
    return {"float32": model, "float64": exact(model)}


@pytest.fixture
def model(made):
    """Another copy for each test, so that what one test leaves behind fails no other."""
    return copy.deepcopy(made["float32"])


def batch(model, rows: int = 4, length: int = 24, seed: int = 0):
    """Left-padded prompts; the last has no video. Positions differ between the three axes."""
    tokens, mask, ids = inputs(rows, length, seed=seed)
    ids[-1] = torch.where(ids[-1] == V, OTHER, ids[-1])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    if model.config.model_type != "vita-Qwen2":
        positions = positions.repeat(3, 1, 1)
        positions[1] += 2 * (ids == V)
    with torch.no_grad():
        embeds = model.get_input_embeddings()(tokens)
    return embeds, mask, positions, ids


def letters(model) -> torch.Tensor:
    return model.get_output_embeddings().weight[10:15]


def importance(model, given, **more) -> torch.Tensor:
    return gradient_importance(model, *given, letters(model), **more)


@torch.no_grad()
def logits(model, embeds, mask, positions) -> torch.Tensor:
    hidden = model.get_decoder()(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return hidden[:, -1] @ letters(model).T


@pytest.mark.parametrize(("precision", "base", "tolerance"), CASES)
def test_importance_is_how_fast_the_answers_logit_moves_as_a_token_grows(
    made, precision, base, tolerance
):
    model = copy.deepcopy(made[precision])
    model.set_attn_implementation(base)
    # Of these prompts not all are answered alike, by either model.
    score = importance(model, batch(model, seed=1))
    model = made["float64"]
    embeds, mask, positions, ids = batch(model, seed=1)
    assert score.shape == ids.shape and score.dtype == torch.float32 and not score.requires_grad
    best = logits(model, embeds, mask, positions).argmax(1)
    assert len(set(best.tolist())) > 1
    step, differences = 1e-5, torch.zeros(ids.shape).double()
    for k in range(ids.shape[1]):
        sides = []
        for sign in (1, -1):
            moved = embeds.clone()
            moved[:, k] *= 1 + sign * step
            sides.append(logits(model, moved, mask, positions).gather(1, best[:, None])[:, 0])
        differences[:, k] = (sides[0] - sides[1]) / (2 * step)
    expected = torch.where(ids == V, differences.abs(), 0.0)
    scale = float(expected.max())
    torch.testing.assert_close(score.double(), expected, atol=tolerance * scale, rtol=tolerance)
    # Or nothing would follow from other tokens being left out.
    assert float(differences[ids == T].abs().max()) > scale / 10


def test_tokens_that_are_not_visual_and_prompts_without_video_have_no_importance(model):
    given = batch(model)
    ids = given[3]
    score = importance(model, given)
    assert (score[ids != V] == 0).all() and (score[ids == V] > 0).all()
    assert not (ids[-1] == V).any() and (ids[-1] == A).any()


@pytest.mark.parametrize(("precision", "base", "tolerance"), CASES)
def test_a_batch_gives_each_prompt_what_it_gets_alone(made, precision, base, tolerance):
    model = copy.deepcopy(made[precision])
    model.set_attn_implementation(base)
    embeds, mask, positions, ids = given = batch(model)
    whole = importance(model, given)
    for row in range(len(ids)):
        start = int((mask[row] == 0).sum())
        own = slice(row, row + 1), slice(start, None)
        alone = importance(model, (embeds[own], mask[own], positions[..., *own], ids[own]))
        torch.testing.assert_close(whole[own], alone, atol=tolerance * 0.01, rtol=tolerance)


def test_what_padding_holds_does_not_matter(model):
    embeds, mask, positions, ids = given = batch(model)
    assert (mask == 0).any()
    noisy = torch.where(mask[..., None] == 0, embeds + 5, embeds)
    other = importance(model, (noisy, mask, positions, ids))
    torch.testing.assert_close(importance(model, given), other, atol=1e-6, rtol=1e-4)


def test_checkpointing_computes_every_layer_twice_and_gives_the_same_numbers(model):
    given = batch(model)
    attention = model.get_decoder().layers[1].self_attn
    calls = []
    attention.register_forward_pre_hook(lambda *_: calls.append(1))
    plain = importance(model, given)
    assert len(calls) == 1
    saved = importance(model, given, checkpointing=True)
    assert len(calls) == 3
    torch.testing.assert_close(plain, saved, atol=1e-8, rtol=1e-6)


def kept(model, given, **more) -> int:
    """Bytes that a pass keeps for its way back."""
    sizes = []

    def pack(x):
        sizes.append(x.nbytes)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        importance(model, given, **more)
    return sum(sizes)


def test_a_model_whose_weights_can_train_keeps_no_more_than_a_frozen_one(model):
    given = batch(model)
    trainable = kept(model, given)
    assert trainable == kept(model.requires_grad_(False), given) > 0


def test_checkpointing_keeps_less_than_half(model):
    given = batch(model)
    assert kept(model, given, checkpointing=True) < kept(model, given) / 2


def test_checkpointing_wakes_no_dropout(model):
    given = batch(model)
    plain = importance(model, given)
    layers = model.get_decoder().layers
    for layer in layers:
        layer.self_attn.attention_dropout = 0.5
    saved = importance(model, given, checkpointing=True)
    torch.testing.assert_close(plain, saved, atol=1e-8, rtol=1e-6)


def state(model) -> dict:
    """All that a pass might leave behind."""
    found = {f"gradient of {n}": (p.requires_grad, p.grad) for n, p in model.named_parameters()}
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        flag = getattr(module, "gradient_checkpointing", None)
        found[name] = {"training": module.training, "checkpointing": flag, "hooks": hooks}
    return found


def changes(before: dict, after: dict) -> dict:
    return {name: (was, after[name]) for name, was in before.items() if was != after[name]}


def unusual(model, kind: str):
    """A model that is not in the state that one comes in."""
    decoder = model.get_decoder()
    if kind == "partly frozen, partly training":
        decoder.layers[0].requires_grad_(False)
        decoder.layers[1].train()
    elif kind == "checkpointing":
        decoder.activation_checkpointing_enable()
    elif kind == "checkpointing every second layer":
        decoder.activation_checkpointing_enable(every_n_layers=2)
    return model


KINDS = [
    "as it comes",
    "partly frozen, partly training",
    "checkpointing",
    "checkpointing every second layer",
]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_left_as_it_was_and_no_weight_has_a_gradient(model, kind, checkpointing):
    unusual(model, kind)
    before = state(model)
    given = batch(model)
    importance(model, given, checkpointing=checkpointing)
    assert all(p.grad is None for p in model.parameters())
    assert not changes(before, state(model))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_left_as_it_was_also_after_an_exception(model, kind, checkpointing):
    unusual(model, kind)
    before = state(model)
    embeds, *rest = batch(model)
    with pytest.raises(RuntimeError):
        importance(model, (embeds[..., :-1], *rest), checkpointing=checkpointing)
    assert not changes(before, state(model))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_embeddings_made_afterwards_require_no_gradient_in_a_frozen_model(model, checkpointing):
    model.requires_grad_(False)
    importance(model, batch(model), checkpointing=checkpointing)
    assert not model.get_input_embeddings()(torch.tensor([[3, 4]])).requires_grad


def test_gradients_that_a_caller_gathered_are_kept(model):
    weight = model.get_decoder().layers[0].mlp.up_proj.weight
    weight.grad = torch.ones_like(weight)
    importance(model, batch(model))
    assert (weight.grad == 1).all()


def test_no_grad_around_it_does_not_matter_but_inference_mode_is_refused(model):
    given = batch(model)
    plain = importance(model, given)
    with torch.no_grad():
        assert torch.equal(importance(model, given), plain)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="leave torch.inference_mode"):
        importance(model, given)


def test_prompts_that_were_embedded_in_inference_mode_are_accepted(model):
    plain = batch(model)
    with torch.inference_mode():
        given = tuple(x.clone() for x in plain)
    assert torch.equal(importance(model, given), importance(model, plain))


def test_in_bfloat16_importance_is_float32_and_near(made, model):
    score = importance(model.bfloat16(), batch(model))
    assert score.dtype == torch.float32
    expected = importance(made["float64"], batch(made["float64"]))
    torch.testing.assert_close(score, expected, atol=0.1 * float(expected.max()), rtol=0)


def test_embeddings_that_require_gradients_give_importance_that_does_not(model):
    embeds, *rest = batch(model)
    plain = importance(model, (embeds, *rest))
    score = importance(model, (embeds.clone().requires_grad_(), *rest))
    assert not score.requires_grad and torch.equal(score, plain)


scores = arrays(np.float64, (3, 7), elements=st.floats(1e-3, 1e3) | st.just(0.0))


@given(scores)
@settings(max_examples=40, deadline=None)
def test_normalised_importance_is_equation_25_and_sums_to_one_or_is_zero(score):
    result = normalized(torch.from_numpy(score))
    for row, shares in zip(score, result, strict=True):
        total = sum(row)
        for value, share in zip(row, shares, strict=True):
            assert float(share) == pytest.approx(value / total if total else 0, abs=1e-9)
        assert float(shares.sum()) == pytest.approx(1 if total else 0, abs=1e-8)


def test_attention_importance_is_the_mean_over_layers_and_heads_on_visual_tokens():
    rng = np.random.default_rng(0)
    rows, ids = rng.random((3, 4, 2, 9)), rng.integers(-1, 3, (3, 9))
    ids[2] = np.where(ids[2] == V, T, ids[2])
    mean = torch.from_numpy(rows.mean((1, 2)))
    actual = attention_importance(mean, torch.from_numpy(ids)).numpy()
    for b, k in itertools.product(range(3), range(9)):
        total = sum(rows[b, layer, h, k] for layer in range(4) for h in range(2))
        assert actual[b, k] == pytest.approx(total / 8 if ids[b, k] == V else 0, abs=1e-15)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_importance_that_is_no_importance_is_refused_by_its_row(bad):
    ids = torch.tensor([[T, V, V], [T, V, V]])
    mean = torch.full((2, 3), 0.1)
    mean[1, 2] = 100 * bad
    with pytest.raises(ValueError, match="row 1 of the batch .* position 2"):
        attention_importance(mean, ids)
    with pytest.raises(ValueError, match="row 0 of the batch .* position 1"):
        normalized(torch.tensor([[0.2, bad], [0.1, 0.1]]))


def test_a_gradient_that_is_not_finite_is_refused_by_its_row(model):
    embeds, mask, positions, ids = batch(model)
    embeds[1, ids[1] == V] = float("inf")
    with pytest.raises(ValueError, match="row 1 of the batch"):
        importance(model, (embeds, mask, positions, ids))
