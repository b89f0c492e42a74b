"""Modalities kept apart in the first layers, and what is weighed of looks across, by whole matrices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tiny_models import inputs, make, run

from emomm_lib import OTHER
from emomm_study.mini.model.apart import DEEPEST, SHALLOW, Apart

QWEN = "qwen2.5-omni"
V = 2


@pytest.fixture(scope="module")
def model():
    return make(QWEN)


def longer(tokens, mask):
    """The prompt and three tokens of a reply."""
    more = torch.tensor([[5, 6, 7]]).expand(len(tokens), -1)
    return torch.cat([tokens, more], 1), torch.cat([mask, torch.ones_like(more)], 1)


def matrices(model, tokens, mask):
    model.set_attn_implementation("eager")
    out = run(model, tokens, mask, output_attentions=True)
    return [a.double() for a in out.attentions]


@pytest.mark.parametrize("base", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [True, False])
@torch.no_grad()
def test_what_a_modality_shows_reaches_nothing_else_before_the_layers_that_look(
    model, base, padded
):
    model.set_attn_implementation(base)
    tokens, mask, ids = inputs(padded=padded)
    others = torch.where(ids == V, (tokens + 7) % 90 + 3, tokens)
    tokens, whole = longer(tokens, mask)
    others, _ = longer(others, mask)
    apart = Apart(2, weighed=False)
    states = []
    for shown in (tokens, others):
        with apart.watching(model, ids):
            states.append(run(model, shown, whole, output_hidden_states=True).hidden_states)
    elsewhere = whole.bool()
    elsewhere[:, : ids.shape[1]] &= ids != V
    for layer in (1, 2):
        same = [s[layer][elsewhere] for s in states]
        torch.testing.assert_close(same[0], same[1], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(states[0][3][elsewhere], states[1][3][elsewhere], atol=1e-3)


@pytest.mark.parametrize("base", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [True, False])
@torch.no_grad()
def test_what_is_taken_is_the_sum_over_heads_of_mean_looks_by_kind_of_query(model, base, padded):
    prompt, first, ids = inputs(padded=padded)
    tokens, mask = longer(prompt, first)
    width = ids.shape[1]
    marks = np.full(tokens.shape, OTHER)
    marks[:, :width] = ids.numpy()
    expected = 0.0
    for attention in matrices(model, tokens, mask)[:SHALLOW]:
        kinds = {"last": [], "instruction": [], "modality": []}
        for b, q in itertools.product(range(len(tokens)), range(tokens.shape[1])):
            across = [k for k in range(q) if mask[b, k] and marks[b, k] not in (OTHER, marks[b, q])]
            if not mask[b, q] or not across:
                continue
            kind = (
                "last" if q >= width - 1 else "instruction" if marks[b, q] == OTHER else "modality"
            )
            kinds[kind].append(float(attention[b, :, q, across].sum()))
        expected += sum(np.mean(looks) for looks in kinds.values())
    model.set_attn_implementation(base)
    apart = Apart(0, weighed=True)
    with apart.watching(model, ids):
        out = run(model, tokens, mask).logits
    assert float(apart.taken()) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(out, run(model, tokens, mask).logits)


def test_its_gradient_moves_attention_away_from_what_is_across(model):
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs(padded=False)
    chosen = [
        p for n, p in model.get_decoder().named_parameters() if "q_proj" in n or "k_proj" in n
    ]
    before = [p.detach().clone() for p in chosen]
    taken = []
    for _ in range(2):
        apart = Apart(0, weighed=True)
        with apart.watching(model, ids):
            run(model, tokens, mask)
        taken.append(float(apart.taken()))
        gradients = torch.autograd.grad(apart.taken(), chosen)
        with torch.no_grad():
            for p, gradient in zip(chosen, gradients, strict=True):
                p -= 1e-3 * gradient
    assert taken[1] < taken[0] - 1e-4
    with torch.no_grad():
        for p, old in zip(chosen, before, strict=True):
            p.copy_(old)


def test_so_many_steps_are_blocked_as_is_asked_in_as_many_layers_as_any():
    rng = np.random.default_rng(0)
    drawn = [Apart.drawn(0.75, False, rng) for _ in range(4000)]
    layers = np.array([apart.layers for apart in drawn])
    assert abs((layers > 0).mean() - 0.75) < 0.03
    counts = np.bincount(layers[layers > 0], minlength=DEEPEST + 1)[1:]
    assert len(counts) == DEEPEST and counts.min() > 0.8 * counts.mean()
    assert Apart.drawn(0.0, False, rng) is None and Apart.drawn(0.0, True, rng).layers == 0


def test_asking_what_was_taken_where_nothing_was_weighed_is_an_error(model):
    with pytest.raises(RuntimeError, match="nothing was weighed"):
        Apart(2, weighed=False).taken()
