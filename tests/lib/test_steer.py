"""Steering a decoder against CHASE as printed, on whole float64 matrices of attention."""

from __future__ import annotations

import copy
import gc
import itertools
import math
import weakref
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import MAKERS, fingerprint, inputs, make, run, whole_matrix

from emomm_lib import (
    OTHER,
    Steerer,
    attention_importance,
    prefill,
    record,
    replay,
    replay_decision,
    steer,
)
from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.gates import ConstantGate
from emomm_lib.chase.router import Router
from emomm_study.evaluate.gates import GateByRow

# Imported here: beside a CPU build of torch they need emomm_study.systems to be imported first.
from transformers.masking_utils import eager_mask  # isort: skip
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # isort: skip
from transformers import AttentionInterface, AttentionMaskInterface, StaticCache  # isort: skip

T, A, V = 0, 1, 2
QWEN = "qwen2.5-omni"
BACKBONES = (QWEN, "vita")
"""The two that the paper steers: all cases are tried on both."""
SETTINGS = {"first_layer": 2, "tau": 0.57, "eta": 0.8, "gamma": 1.7, "beta": 0.9, "top_k": 2,
            "psi_hat": 0.6, "percentile": 55.0, "epsilon_a": 1e-4, "epsilon_b": 1e-3}  # fmt: skip
SCOPES = ("decision", "all")


def config(**changes):
    return SteeringConfig(**SETTINGS | changes)


@pytest.fixture(scope="module")
def models():
    return {name: make(name) for name in MAKERS}


@pytest.fixture(scope="module")
def exact(models):
    AttentionMaskInterface.register("printed", eager_mask)
    AttentionInterface.register("printed", whole_matrix)
    made = {name: copy.deepcopy(model).double() for name, model in models.items()}
    for model in made.values():
        model.get_decoder().config._attn_implementation = "printed"
    made["qwen3-omni"].set_experts_implementation("eager")
    return made


def router(seed=1, dtype=torch.float32, **more):
    """A router whose p and g differ between prompts and layers."""
    torch.manual_seed(seed)
    made = Router(state_size=32, layers=3, fingerprint="", first_layer=2, hidden=6, **more)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made.mean.normal_()
    made.scale.uniform_(0.5, 2)
    return made.to(dtype).eval()


def decree(conflict=(0.9, 0.8, 0.7), gate=((0.1, 0.2, 0.7), (0.6, 0.3, 0.1), (0.3, 0.3, 0.4))):
    return ConstantGate(torch.tensor(conflict), torch.tensor(gate))


def importance_of(ids, seed=0):
    scores = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(ids == V, scores, 0.0)


def perceptron(state, head, x):
    inner = state[f"{head}.0.weight"] @ x + state[f"{head}.0.bias"]
    return state[f"{head}.2.weight"] @ np.maximum(inner, 0) + state[f"{head}.2.bias"]


def softmax(values):
    total = sum(math.exp(value) for value in values.values())
    return {m: math.exp(value) / total for m, value in values.items()}


def routed(gate, b, rows, ids, query_state, means, embedded, there):
    """p and {m: g_m}: Sec. 5.1 from a router's weights alone."""
    if isinstance(gate, GateByRow):
        inner = gate.gates[int(gate.index[b])]
        return routed(inner, b, rows, ids, query_state, means, embedded, there)
    if isinstance(gate, ConstantGate):
        known = {m: float(gate.gate[b, m]) for m in there}
        total = sum(known.values())
        even = {m: 1 / len(there) for m in there}
        return float(gate.conflict[b]), ({m: known[m] / total for m in there} if total else even)
    state = {name: value.double().numpy() for name, value in gate.state_dict().items()}
    pi = [preferences(row, ids, there, gate.preference_kind) for row in rows]
    layer_pi = [sum(head.get(m, 0.0) for head in pi) / len(pi) for m in range(3)]
    x = [*embedded] if gate.inputs == "embedded" else [query_state, *means, layer_pi]
    x = (np.concatenate(x) - state["mean"]) / state["scale"]
    logits = perceptron(state, "gate_head", x)
    p = 1 / (1 + math.exp(-perceptron(state, "conflict_head", x)[0]))
    return p, softmax({m: logits[m] for m in there})


def ratio(wanted, found, epsilon):
    return math.log((wanted + epsilon) / (found + epsilon))


def divergence(p, q):
    """Eq. 21 by Eq. 19."""

    def kl(first, second):
        return sum(x * math.log(x / (second[m] + 1e-8)) for m, x in first.items() if x > 0)

    middle = {m: (p[m] + q[m]) / 2 for m in p}
    return (kl(p, middle) + kl(q, middle)) / 2


def preferences(row, ids, there, kind):
    """Eq. 6 for one head, from its row of attention."""
    nmas = {m: row[ids == m].mean() for m in there}
    if kind == "softmax":
        return softmax(nmas)
    # A sliding window may hide every token of every modality: then there is no preference.
    return {m: value / (sum(nmas.values()) or 1.0) for m, value in nmas.items()}


def steered_scores(scores, b, layer, at, states, embedded, ids, gate, asked, importance):
    """Algorithm 1, lines 15-25, for one prompt: scores ``(H, Q, K)``, and p, g and the heads.

    ``states`` and ``embedded`` are ``(S, D)``, entering this layer and the first.
    """
    there = [m for m in range(3) if (ids == m).any()]
    nothing = np.nan, [np.nan] * 3, []
    if not there or layer < asked.first_layer:
        return scores, nothing
    with np.errstate(under="ignore"):
        attention = np.exp(scores - scores.max(-1, keepdims=True))
    attention /= attention.sum(-1, keepdims=True)
    pi = [preferences(rows[at], ids, there, asked.preference) for rows in attention]
    means, first_means = (
        [x[ids == m].mean(0) if m in there else np.zeros(x.shape[1]) for m in range(3)]
        for x in (states, embedded)
    )
    p, g = routed(gate, b, attention[:, at], ids, states[at], means, first_means, there)
    g = {m: value**asked.sharpness for m, value in g.items()}
    g = {m: value / sum(g.values()) for m, value in g.items()}
    heads = []
    if p > asked.tau:
        distance = [divergence(head, g) for head in pi]
        heads = sorted(range(len(pi)), key=lambda h: (-distance[h], h))[: asked.top_k]
        if asked.heads is not None:
            heads = [h - 1 for at_layer, h in asked.heads if at_layer == layer]
    significant = np.zeros(len(ids), dtype=bool)
    if V in there and importance is not None:
        threshold = np.percentile(importance[ids == V], asked.percentile)
        significant = (ids == V) & (importance >= threshold)
    changed = scores.copy()
    for h in heads:
        target = {m: (1 - asked.eta * p) * pi[h][m] + asked.eta * p * g[m] for m in there}
        top = max(g, key=g.get)
        bias = {
            "preference": {m: ratio(target[m], pi[h][m], asked.epsilon_a) for m in there},
            "gate": {m: ratio(g[m], g[top], asked.epsilon_a) for m in there},
            "first": {m: 0.0 if m == top else -1.0 for m in there},
        }[asked.rule]
        for q in [at] if asked.scope == "decision" else range(scores.shape[1]):
            new = scores[h, q] / asked.temperature
            for m in there:
                new[ids == m] += asked.gamma * bias[m]
            psi = attention[h, q][significant].sum()
            if psi < asked.psi_hat:
                new[significant] += asked.beta * ratio(asked.psi_hat, psi, asked.epsilon_b)
            changed[h, q] = new
    return changed, (p, [g.get(m, 0.0) for m in range(3)], heads)


@contextmanager
def entering_layers(model):
    """The hidden states (B, S, D) that each decoder layer is given, by its index."""
    caught = {}

    def catch(index, layer, args, kwargs):
        caught[index] = args[0] if args else kwargs["hidden_states"]

    layers = enumerate(model.get_decoder().layers)
    hooks = [x.register_forward_pre_hook(partial(catch, i), with_kwargs=True) for i, x in layers]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def attention_outputs(model):
    """What each layer's heads bring, (B, Q, H, d), in order of the layers."""
    caught = []
    hooks = [
        module.register_forward_pre_hook(lambda _, x: caught.append(x[0].unflatten(-1, (4, -1))))
        for name, module in model.get_decoder().named_modules()
        if name.endswith("self_attn.o_proj")
    ]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def printed(model, tokens, mask, ids, gate, asked, importance=None):
    """What a steered float64 model computes; tokens may go on after the prompt that ids marks.

    Logits and last hidden states, and of the decision query its rows and masses, p, g, heads.
    """
    (batch, width), layers, heads = ids.shape, 3, 4
    marked = np.full(tokens.shape, OTHER)
    marked[:, :width] = ids.numpy()
    weights = None
    if importance is not None:
        weights = np.zeros(tokens.shape)
        weights[:, :width] = importance.double().numpy()
    found = SimpleNamespace(
        mass=torch.zeros(batch, layers, heads, 3).double(),
        rows=torch.zeros(batch, layers, heads, width).double(),
        conflict=torch.full((batch, layers), torch.nan).double(),
        gate=torch.full((batch, layers, 3), torch.nan).double(),
        heads=torch.zeros(batch, layers, heads).bool(),
    )

    def attend(module, query, key, value, mask, scaling=None, **_):
        layer = module.layer_idx
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scaling
        scores = scores.masked_fill(mask < 0, -1e300).numpy()
        for b in range(batch):
            states, embedded = (entering[i][b].numpy() for i in (layer, 0))
            scores[b], (p, g, chosen) = steered_scores(
                scores[b], b, layer + 1, width - 1, states, embedded, marked[b], gate, asked,
                None if weights is None else weights[b],
            )  # fmt: skip
            found.conflict[b, layer], found.gate[b, layer] = p, torch.tensor(g, dtype=torch.double)
            found.heads[b, layer, chosen] = True
        attention = torch.from_numpy(scores).softmax(-1)
        found.rows[:, layer] = attention[:, :, width - 1, :width]
        for m in range(3):
            found.mass[:, layer, :, m] = (found.rows[:, layer] * (ids == m)[:, None]).sum(-1)
        return torch.einsum("bhqk,bhkd->bqhd", attention, value), attention

    AttentionInterface.register("printed", attend)
    with entering_layers(model) as entering:
        out = run(model, tokens, mask, use_cache=False, output_hidden_states=True)
    found.logits, found.hidden = out.logits, out.hidden_states[-1]
    assert found.logits.dtype == torch.float64
    return found


def assert_as_printed(steered, out, expected, mask, tolerance):
    """A forward pass against :func:`printed`, at every position that is not padding."""
    close = {"atol": tolerance, "rtol": tolerance, "equal_nan": True}
    decisions = steered.decisions
    assert torch.equal(decisions.heads[:, 0], expected.heads)
    torch.testing.assert_close(decisions.conflict[:, 0], expected.conflict, **close)
    torch.testing.assert_close(decisions.gate[:, 0], expected.gate, **close)
    torch.testing.assert_close(steered.trace.mass.double(), expected.mass, **close)
    torch.testing.assert_close(steered.trace.rows.double(), expected.rows, **close)
    real = mask.bool()
    torch.testing.assert_close(out.logits[real].double(), expected.logits[real], **close)
    hidden = out.hidden_states[-1][real].double()
    torch.testing.assert_close(hidden, expected.hidden[real], **close)


def check(model, exact, base, padded, asked, gate, tolerance=1e-5):
    model.set_attn_implementation(base)
    tokens, mask, ids = inputs(padded=padded)
    importance = importance_of(ids) if asked.beta else None
    expected = printed(exact, tokens, mask, ids, gate, asked, importance)
    with steer(model, gate, asked, ids, importance=importance, rows=True) as steered:
        out = run(model, tokens, mask, output_hidden_states=True)
    assert_as_printed(steered, out, expected, mask, tolerance)
    moved = (out.logits - run(model, tokens, mask).logits)[:, -1].abs().amax(-1)
    assert expected.heads.any() and bool((moved > 100 * tolerance).any())


MODES = list(itertools.product(SCOPES, ("softmax", "share"), ("sdpa", "eager"), (True, False)))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("scope", "preference", "base", "padded"), MODES)
@torch.no_grad()
def test_a_steered_forward_is_algorithm_1_on_whole_matrices(
    models, exact, name, scope, preference, base, padded
):
    asked = config(scope=scope, preference=preference)
    check(models[name], exact[name], base, padded, asked, router(preference_kind=preference))


VARIANTS = {
    "no inter bias": {"gamma": 0.0},
    "no way to the gate": {"eta": 0.0},
    "no intra bias": {"beta": 0.0},
    "mass enough for some queries": {"psi_hat": 0.3, "preference": "share"},
    "every visual token": {"percentile": 0.0},
    "one visual token": {"percentile": 100.0},
    "every head": {"top_k": 9},
    "every layer": {"first_layer": 1},
    "gate": {"rule": "gate"},
    "first": {"rule": "first"},
    "fixed heads": {"heads": ((2, 1), (3, 2), (3, 4))},
    "temperature alone": {"gamma": 0.0, "beta": 0.0, "temperature": 2.5},
    "temperature": {"temperature": 0.6},
    "sharpness": {"sharpness": 3.0},
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_every_setting_has_the_effect_of_its_equation(models, exact, name, variant, scope):
    asked = config(scope=scope, **VARIANTS[variant])
    check(models[name], exact[name], "sdpa", True, asked, decree())


GATES = {
    "embedded": lambda: router(2, inputs="embedded"),
    "no mass on the present": lambda: decree(gate=((0.0, 1, 0), (0.0, 1, 0), (0.0, 1, 0))),
    "one a prompt": lambda: GateByRow((decree(), router(2), router()), torch.tensor([1, 2, 0])),
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("gate", GATES)
@torch.no_grad()
def test_every_gate_steers_by_its_own_p_and_g(models, exact, name, gate, scope):
    check(models[name], exact[name], "sdpa", True, config(scope=scope), GATES[gate]())


OTHERS = list(
    itertools.product([n for n in MAKERS if n not in BACKBONES], SCOPES, ("sdpa", "eager"))
)


@pytest.mark.parametrize("padded", (True, False))
@pytest.mark.parametrize(("name", "scope", "base"), OTHERS)
@torch.no_grad()
def test_other_architectures_are_steered_alike(models, exact, name, scope, base, padded):
    preference = "share" if padded else "softmax"
    asked = config(scope=scope, preference=preference, tau=0.5)
    gate = router(2, preference_kind=preference)
    check(models[name], exact[name], base, padded, asked, gate)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_a_float64_model_is_steered_to_double_precision(models, exact, name, scope):
    model = copy.deepcopy(models[name]).double()
    if name == "qwen3-omni":
        model.set_experts_implementation("eager")
    gate = router(2, torch.float64)
    check(model, exact[name], "sdpa", True, config(scope=scope, tau=0.5), gate, 1e-10)


@pytest.mark.parametrize("name", (*BACKBONES, "gemma3"))
@torch.no_grad()
def test_a_prompt_computed_in_cached_pieces_is_steered_at_its_last_position(models, exact, name):
    model, gate, asked = models[name], router(2), config()
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    importance = importance_of(ids)
    expected = printed(exact[name], tokens, mask, ids, gate, asked, importance)
    with steer(model, gate, asked, ids, importance=importance) as steered:
        cache = run(model, tokens[:, :20], mask[:, :20], use_cache=True).past_key_values
        out = run(model, tokens[:, 20:], mask, past_key_values=cache, use_cache=True)
    assert torch.equal(steered.decisions.heads[:, 0], expected.heads)
    last = out.logits[:, -1].double()
    torch.testing.assert_close(last, expected.logits[:, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("scope", SCOPES)
@torch.no_grad()
def test_empty_slots_of_a_static_cache_are_not_steered_towards(models, exact, name, scope):
    model, gate, asked = models[name], router(), config(scope=scope)
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    importance = importance_of(ids)
    expected = printed(exact[name], tokens, mask, ids, gate, asked, importance)
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
    with steer(model, gate, asked, ids, importance=importance, rows=True) as steered:
        out = run(model, tokens, mask, past_key_values=cache, use_cache=True,
                  output_hidden_states=True)  # fmt: skip
    assert_as_printed(steered, out, expected, mask, 1e-5)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", (*BACKBONES, "gemma3"))
@torch.no_grad()
def test_tokens_that_follow_in_the_same_pass_see_the_prompt_as_scope_says(
    models, exact, name, scope
):
    model, gate, asked = models[name], router(2), config(scope=scope)
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    importance = importance_of(ids)
    tokens, mask = (torch.cat([x, x[:, -4:]], 1) for x in (tokens, mask))
    expected = printed(exact[name], tokens, mask, ids, gate, asked, importance)
    with steer(model, gate, asked, ids, importance=importance, rows=True) as steered:
        out = run(model, tokens, mask, output_hidden_states=True)
    assert_as_printed(steered, out, expected, mask, 1e-5)


@pytest.mark.parametrize("scope", SCOPES)
@torch.no_grad()
def test_in_bfloat16_heads_bring_what_float64_makes_of_the_layers_own_queries_and_keys(
    models, scope, monkeypatch
):
    model = copy.deepcopy(models[QWEN]).bfloat16()
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    asked, gate, importance = config(scope=scope), router(), importance_of(ids)
    given = []

    def spy(module, query, key, value, visible, **more):
        given.append([x.double() for x in (query, key, value)] + [visible, more["scaling"]])
        return attend(module, query, key, value, visible, **more)

    attend = ALL_ATTENTION_FUNCTIONS["emomm_sdpa"]
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "emomm_sdpa", spy)
    with (
        entering_layers(model) as states,
        attention_outputs(model) as actual,
        steer(model, gate, asked, ids, importance=importance) as steered,
    ):
        run(model, tokens, mask)
    apart = 0
    for layer, b in itertools.product(range(3), range(3)):
        query, key, value, visible = (x[b] for x in given[layer][:4])
        key, value = (x.repeat_interleave(2, 0) for x in (key, value))
        scores = (query @ key.mT * given[layer][4]).masked_fill(~visible, -1e300)
        changed, (_, _, heads) = steered_scores(
            scores.numpy(), b, layer + 1, 29, *(states[i][b].double().numpy() for i in (layer, 0)),
            ids[b].numpy(), gate, asked, importance[b].double().numpy(),
        )  # fmt: skip
        assert steered.decisions.heads[b, 0, layer].nonzero().flatten().tolist() == sorted(heads)
        attention = torch.from_numpy(changed).softmax(-1)
        queries = mask[b].bool() if scope == "all" else torch.arange(30) == 29
        expected, plain = (w[:, queries] @ value for w in (attention, scores.softmax(-1)))
        error = (actual[layer][b, queries].double().transpose(0, 1) - expected).abs()[heads]
        # The output is rounded, and nothing else is, in the row that is computed apart.
        bound = 2**-8 * expected.abs()[heads] + 1e-5
        if scope == "all":
            # The kernel also rounds weights, and so psi(q) twice, which stands in a logarithm.
            bound = (2**-7 + 2 * asked.beta * 2**-7 + 1e-3) * (attention[:, queries] @ value.abs())
            bound = bound[heads]
        assert (error <= bound).all()
        apart += int(((plain - expected).abs()[heads] > 2 * bound).sum())
        mass = torch.stack([attention[:, -1, ids[b] == m].sum(-1) for m in range(3)], -1)
        torch.testing.assert_close(steered.trace.mass[b, layer].double(), mass, atol=1e-6, rtol=0)
    assert apart > 20


NO_STRENGTH = (
    {"eta": 0.0, "beta": 0.0},
    {"gamma": 0.0, "beta": 0.0},
    {"gamma": 0.0, "beta": 0.0},
    {"tau": 1.0},
    {"top_k": 0},
)


@pytest.mark.parametrize("base", ("sdpa", "eager"))
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_steering_of_no_strength_changes_not_one_bit(models, name, scope, base):
    model, gate = models[name], router(2)
    model.set_attn_implementation(base)
    tokens, mask, ids = inputs()
    plain = run(model, tokens, mask).logits
    for changes in NO_STRENGTH:
        asked = config(scope=scope, **changes)
        with steer(model, gate, asked, ids, importance=importance_of(ids)):
            out = run(model, tokens, mask).logits
        assert torch.equal(out, plain), changes


@pytest.mark.parametrize("first_layer", (1, 2, 3))
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("base", ("sdpa", "eager"))
@torch.no_grad()
def test_all_but_selected_heads_of_conflicting_prompts_from_l_r_on_keep_every_bit(
    models, base, scope, first_layer
):
    model = models[QWEN]
    model.set_attn_implementation(base)
    tokens, mask, ids = inputs()
    asked = config(scope=scope, first_layer=first_layer, tau=0.5)
    gate = decree(conflict=(0.9, 0.5, 0.8))
    with attention_outputs(model) as before:
        run(model, tokens, mask)
    with (
        attention_outputs(model) as after,
        steer(model, gate, asked, ids, importance=importance_of(ids)) as steered,
    ):
        run(model, tokens, mask)
    at = first_layer - 1
    for layer in range(at):
        assert torch.equal(after[layer], before[layer])
    assert steered.decisions.heads[:, 0, at].sum(-1).tolist() == [2, 0, 2]
    for b, h in itertools.product(range(3), range(4)):
        kept = torch.equal(after[at][b, :, h], before[at][b, :, h])
        assert kept != bool(steered.decisions.heads[b, 0, at, h])
    for x, y in zip(after, before, strict=True):
        assert torch.equal(x[1], y[1])
        assert scope == "all" or torch.equal(x[:, :-1], y[:, :-1])


def mixed_columns():
    first, other, named = router(2), router(5, inputs="embedded"), decree()
    by_row = GateByRow((first, named, other), torch.tensor([2, 1, 0]))
    return [
        (first, config()),
        (named, config(rule="first", top_k=1, beta=0.0, first_layer=3)),
        (first, config(eta=0.3, preference="share", percentile=20.0)),
        (by_row, config(rule="gate", gamma=0.4, tau=0.3)),
        (named, config(temperature=1.5, heads=((2, 1), (3, 4)), psi_hat=0.3)),
        (other, config(sharpness=2.0, epsilon_a=0.1, epsilon_b=0.1, tau=0.2)),
        (named, config(tau=1.0)),
    ]


def prefilled(model, tokens, mask, ids, positions):
    inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
    return prefill(model, inputs, ids)


def prompt(padded=True, axes=None):
    tokens, mask, ids = inputs(padded=padded)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    if axes:
        positions = torch.stack([positions * (i + 2) // 2 for i in range(axes)])
    return tokens, mask, ids, positions


def copied(cache):
    return [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]


def unchanged(cache, before):
    pairs = zip(cache.layers, before, strict=True)
    return all(torch.equal(x.keys, k) and torch.equal(x.values, v) for x, (k, v) in pairs)


REPLAYED = [(QWEN, None), (QWEN, 3), ("vita", None), ("qwen3-omni", 3), ("phi4", None)]


@pytest.mark.parametrize("base", ("sdpa", "eager"))
@pytest.mark.parametrize("padded", (True, False))
@pytest.mark.parametrize(("name", "axes"), REPLAYED)
@torch.no_grad()
def test_a_replayed_column_is_a_whole_steered_forward_and_leaves_its_cache(
    models, name, axes, padded, base
):
    model = models[name]
    model.set_attn_implementation(base)
    tokens, mask, ids, positions = prompt(padded, axes)
    columns, importance = mixed_columns(), importance_of(ids)
    prompts = prefilled(model, tokens, mask, ids, positions)
    kept = copied(prompts.cache)
    replayed, decisions = replay(prompts, columns, importance=importance, rows=True)
    assert unchanged(prompts.cache, kept)
    decoder, embeds = model.get_decoder(), model.get_input_embeddings()(tokens)
    close = {"atol": 1e-5, "rtol": 1e-5, "equal_nan": True}
    for c, (gate, asked) in enumerate(columns):
        with steer(model, gate, asked, ids, importance=importance, rows=True) as steered:
            out = decoder(inputs_embeds=embeds, attention_mask=mask, position_ids=positions,
                          use_cache=True)  # fmt: skip
        whole = steered.decisions
        assert torch.equal(decisions.heads[:, c], whole.heads[:, 0])
        torch.testing.assert_close(decisions.conflict[:, c], whole.conflict[:, 0], **close)
        torch.testing.assert_close(decisions.gate[:, c], whole.gate[:, 0], **close)
        torch.testing.assert_close(replayed.mass[:, c], steered.trace.mass, **close)
        torch.testing.assert_close(replayed.rows[:, c], steered.trace.rows, **close)
        hidden = out.last_hidden_state[:, -1]
        torch.testing.assert_close(replayed.hidden[:, c], hidden, **close)
        own = replayed.cache(prompts.cache, c)
        more = {
            "inputs_embeds": embeds[:, 3:4],
            "attention_mask": torch.cat([mask, mask[:, -1:]], 1),
            "position_ids": positions[..., -1:] + 1,
        }
        after = [decoder(**more, past_key_values=x) for x in (own, out.past_key_values)]
        torch.testing.assert_close(*(x.last_hidden_state for x in after), **close)
    torch.testing.assert_close(replayed.hidden[:, -1], prompts.hidden, **close)
    apart = (replayed.hidden[:, :-1] - prompts.hidden[:, None]).abs().amax((0, 2))
    assert (apart > 1e-3).all()
    assert unchanged(prompts.cache, kept)
    again, _ = replay(prompts, columns, importance=importance)
    assert torch.equal(again.hidden, replayed.hidden) and torch.equal(again.mass, replayed.mass)
    apiece, decided = replay(prompts, columns, importance=importance, rows=True, at_once=3)
    torch.testing.assert_close(vars(apiece), vars(replayed), **close)
    torch.testing.assert_close(vars(decided), vars(decisions), **close)


class Failing(ConstantGate):
    def route(self, row):
        if row.layer == 3:
            raise ZeroDivisionError("mine")
        return super().route(row)


@pytest.mark.parametrize("grad", (True, False))
def test_a_replay_leaves_the_prompt_as_it_was_also_when_a_gate_fails(models, grad):
    model = models[QWEN]
    prompts = prefilled(model, *prompt())
    kept, before = copied(prompts.cache), fingerprint(model)
    columns = [(decree(), config(beta=0.0))]
    with torch.set_grad_enabled(grad):
        first, _ = replay(prompts, columns)
        broken = Failing(*vars(decree()).values())
        with pytest.raises(ZeroDivisionError, match="mine"):
            replay(prompts, [*columns, (broken, config(beta=0.0))])
        assert unchanged(prompts.cache, kept) and fingerprint(model) == before
        again, _ = replay(prompts, columns)
    assert torch.equal(first.hidden, again.hidden)
    # A history would keep every replay's activations alive.
    assert not any(layer.keys.requires_grad for layer in prompts.cache.layers)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_without_importance_attention_of_the_unsteered_prompt_stands_in(models, name, scope):
    model, gate, asked = models[name], router(), config(scope=scope)
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    with record(model, ids, rows=True) as plain:
        run(model, tokens, mask)
    importance = torch.where(ids == V, plain.rows.double().mean((1, 2)), 0.0)
    before = fingerprint(model)
    with steer(model, gate, asked, ids, importance=importance) as given:
        expected = run(model, tokens, mask).logits
    with steer(model, gate, asked, ids) as steered:
        logits = run(model, tokens, mask).logits
    assert torch.equal(logits, expected)
    assert torch.equal(steered.trace.mass, given.trace.mass)
    assert torch.equal(steered.decisions.heads, given.decisions.heads)
    assert fingerprint(model) == before


@torch.no_grad()
def test_the_default_configuration_steers_generation_and_replays_without_further_arguments(models):
    model, gate = models[QWEN], decree()
    asked = SteeringConfig.at_published_depth(3)
    assert asked.beta > 0
    tokens, mask, ids, positions = prompt()
    prompts = prefilled(model, tokens, mask, ids, positions)
    replayed, _ = replay(prompts, [(gate, asked)])
    with steer(model, gate, asked, ids) as steered:
        made = model.generate(
            input_ids=tokens, attention_mask=mask, max_new_tokens=3, do_sample=False,
            eos_token_id=None, pad_token_id=0, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    logits = model.lm_head(replayed.hidden[:, 0])
    torch.testing.assert_close(made.logits[0], logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(steered.trace.mass, replayed.mass[:, 0], atol=1e-6, rtol=0)
    given = attention_importance(prompts.trace.mean_attention, ids)
    same, _ = replay(prompts, [(gate, asked)], importance=given)
    assert torch.equal(same.hidden, replayed.hidden)


@torch.no_grad()
def test_a_prompt_in_cached_pieces_needs_its_importance_given(models):
    model = models[QWEN]
    tokens, mask, ids = inputs()
    before = fingerprint(model)
    with pytest.raises(RuntimeError, match=r"not computed .*whole prompt"):
        with steer(model, decree(), config(), ids):
            run(model, tokens[:, :20], mask[:, :20], use_cache=True)
    assert fingerprint(model) == before


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", MAKERS)
def test_generating_inside_steer_continues_the_steered_prompt(models, exact, name, scope):
    model, gate, asked = models[name], router(2), config(scope=scope, tau=0.5)
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    importance = importance_of(ids)
    before, plain = fingerprint(model), run(model, tokens, mask).logits
    with steer(model, gate, asked, ids, importance=importance) as steered:
        made = model.generate(
            input_ids=tokens, attention_mask=mask, max_new_tokens=4, do_sample=False,
            eos_token_id=None, pad_token_id=0, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    assert steered.decisions.heads.any()
    for step, logits in enumerate(made.logits):
        seen = made.sequences[:, : 30 + step]
        visible = torch.nn.functional.pad(mask, (0, step), value=1)
        expected = printed(exact[name], seen, visible, ids, gate, asked, importance).logits[:, -1]
        torch.testing.assert_close(logits.double(), expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(made.sequences[:, 30 + step], expected.argmax(-1))
    assert fingerprint(model) == before
    assert torch.equal(run(model, tokens, mask).logits, plain)


@pytest.mark.parametrize("scope", SCOPES)
@torch.no_grad()
def test_the_model_is_left_as_it_was_after_failures_in_gate_and_body(models, scope):
    model = models[QWEN]
    tokens, mask, ids = inputs()
    before, plain = fingerprint(model), run(model, tokens, mask).logits
    asked = config(scope=scope, beta=0.0)
    for gate in (decree(), Failing(*vars(decree()).values())):
        with pytest.raises(ZeroDivisionError, match="mine"), steer(model, gate, asked, ids):
            run(model, tokens, mask)
            raise ZeroDivisionError("mine")
        assert fingerprint(model) == before
        assert torch.equal(run(model, tokens, mask).logits, plain)


@pytest.mark.parametrize("scope", SCOPES)
@torch.no_grad()
def test_nothing_of_a_steered_pass_stays_with_the_model(models, scope):
    tokens, mask, ids = inputs()
    with steer(models[QWEN], decree(), config(scope=scope, beta=0.0), ids) as steered:
        run(models[QWEN], tokens, mask)
    left = weakref.ref(steered.trace)
    del steered
    gc.collect()
    assert left() is None


def marks(*present, rows=2):
    """A prompt of 30 positions in which only some modalities are marked."""
    ids = inputs(rows=1, padded=False)[2]
    ids[~torch.isin(ids, torch.tensor(present))] = OTHER
    return ids.expand(rows, -1).clone()


@pytest.mark.parametrize("preference", ("softmax", "share"))
@pytest.mark.parametrize("scope", SCOPES)
@torch.no_grad()
def test_a_prompt_without_any_modality_is_left_alone_without_a_nan(models, scope, preference):
    model = models[QWEN]
    tokens, mask, _ = inputs(rows=2, padded=False)
    ids = torch.cat([marks(rows=1), marks(T, V, rows=1)])
    asked = config(scope=scope, preference=preference, tau=0.0, top_k=4)
    plain = run(model, tokens, mask).logits
    two = decree(conflict=(0.9, 0.9), gate=((0.1, 0.2, 0.7), (0.6, 0.3, 0.1)))
    for gate in (router(preference_kind=preference), router(inputs="embedded"), two):
        with steer(model, gate, asked, ids, importance=importance_of(ids)) as steered:
            out = run(model, tokens, mask).logits
        assert torch.equal(out[0], plain[0]) and not torch.equal(out[1], plain[1])
        assert not out.isnan().any() and not steered.decisions.conflict[..., 1:].isnan().any()
        assert steered.decisions.heads.any((1, 2, 3)).tolist() == [False, True]
        assert not steered.decisions.gate[0, :, 1:].any()


@pytest.mark.parametrize("rule", ("preference", "gate", "first"))
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("modality", (T, A, V))
@torch.no_grad()
def test_the_inter_bias_leaves_every_bit_of_a_prompt_of_one_modality(models, modality, scope, rule):
    model = models[QWEN]
    tokens, mask, _ = inputs(rows=2, padded=False)
    plain = run(model, tokens, mask).logits
    for preference in ("softmax", "share"):
        asked = config(scope=scope, beta=0.0, rule=rule, preference=preference, tau=0.0)
        with steer(model, router(), asked, marks(modality)) as steered:
            assert torch.equal(run(model, tokens, mask).logits, plain)
        assert steered.decisions.gate[..., 1:, modality].eq(1).all()


@pytest.mark.parametrize("scope", SCOPES)
@torch.no_grad()
def test_steered_heads_are_found_wherever_they_stand(models, scope):
    model = models[QWEN]
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs(rows=2)
    asked = config(scope=scope, beta=0.0, tau=0.0)
    # Pairs of heads share a key: groups are exchanged, and the heads within each.
    order = torch.tensor([3, 2, 0, 1])
    moved = copy.deepcopy(model)
    for layer in moved.get_decoder().layers:
        found = layer.self_attn
        for name, places in (("q", order), ("k", order[::2] // 2), ("v", order[::2] // 2)):
            for parameter in getattr(found, f"{name}_proj").parameters():
                heads = parameter.unflatten(0, (len(places), -1))
                parameter.copy_(heads[places].flatten(0, 1))
        weight = found.o_proj.weight
        weight.copy_(weight.unflatten(1, (4, -1))[:, order].flatten(1, 2))
    results = []
    for each in (model, moved):
        with steer(each, router(), asked, ids) as steered:
            results.append((run(each, tokens, mask).logits, steered.decisions.heads))
    (logits, heads), (other_logits, other_heads) = results
    assert torch.equal(heads[..., order], other_heads) and not torch.equal(heads, other_heads)
    real = mask.bool()
    torch.testing.assert_close(logits[real], other_logits[real], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_cannot_be_steered_is_said_before_the_model_runs(models):
    model, ids = models[QWEN], inputs()[2]
    importance = importance_of(ids)

    def refused(match, gate, asked, error=ValueError, **more):
        before = fingerprint(model)
        with pytest.raises(error, match=match), steer(model, gate, asked, ids, **more):
            raise AssertionError("entered")
        assert fingerprint(model) == before

    refused(r"\(3, 29\) is not of .* \(3, 30\)", decree(), config(), importance=importance[:, 1:])
    refused("has 3 layers", decree(), config(first_layer=4, beta=0.0))
    shape = {"layers": 3, "fingerprint": "", "first_layer": 2}
    refused("size 16.* of size 32", Router(state_size=16, **shape), config(beta=0.0))
    deeper = Router(state_size=32, **shape | {"layers": 4})
    refused("4 layers.* has 3", deeper, config(beta=0.0))
    refused("4 layers.* has 3", GateByRow((router(), deeper), torch.zeros(3)), config(beta=0.0))
    spoilt = importance.clone()
    spoilt[1, ids[1] == V] = torch.nan
    refused("row 1 of the batch has nan", decree(), config(), importance=spoilt)
    for heads in (((4, 1),), ((2, 5),), ((2, 0),)):
        refused("heads", decree(), config(beta=0.0, heads=heads))
    with pytest.raises(ValueError, match="share a scope"):
        Steerer(model, [(decree(), config(scope=x, beta=0.0)) for x in SCOPES], ids)
    with pytest.raises(ValueError, match="at least one"):
        Steerer(model, [], ids)
    unseeing = Steerer(model, [(decree(), config())], ids)
    with pytest.raises(ValueError, match="give importance"):
        with record(model, ids, intervention=unseeing):
            run(model, *inputs()[:2])


@torch.no_grad()
@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.5])
@pytest.mark.parametrize("which", ["conflict", "gate"])
@pytest.mark.parametrize("rule", ["preference", "gate", "first"])
def test_a_gate_that_is_no_probability_steers_nothing_unsaid(models, which, bad, rule):
    model = models[QWEN]
    tokens, mask, ids = inputs()
    p, g = torch.full((len(ids),), 0.9), torch.full((len(ids), 3), 1 / 3)
    (p if which == "conflict" else g[:, 0])[1] = bad
    gate = SimpleNamespace(check=lambda model: None, route=lambda row: (p[:, None], g[:, None]))
    with pytest.raises(ValueError, match=f"{which} is finite .*row 1 has"):
        ConstantGate(p, g)
    before = fingerprint(model)
    with pytest.raises(ValueError, match=rf"{which} .*layer 2, row 1 of the batch"):
        with steer(model, gate, config(beta=0.0, rule=rule), ids):
            run(model, tokens, mask)
    assert fingerprint(model) == before


@torch.no_grad()
def test_steering_all_queries_of_a_prompt_in_cached_pieces_is_refused(models):
    model = models[QWEN]
    tokens, mask, ids = inputs()
    with pytest.raises(RuntimeError, match="whole prompt in one pass"):
        with steer(model, decree(), config(scope="all", beta=0.0), ids):
            cache = run(model, tokens[:, :20], mask[:, :20], use_cache=True).past_key_values
            run(model, tokens[:, 20:], mask, past_key_values=cache, use_cache=True)


@torch.no_grad()
def test_steering_recording_and_replaying_do_not_nest(models):
    model, asked = models[QWEN], config(beta=0.0)
    tokens, mask, ids, positions = prompt()
    prompts = prefilled(model, tokens, mask, ids, positions)

    def steered():
        return steer(model, decree(), asked, ids)

    before, kept = fingerprint(model), copied(prompts.cache)
    for outer, inner in ((steered, steered), (steered, lambda: record(model, ids)),
                         (lambda: record(model, ids), steered)):  # fmt: skip
        with pytest.raises(RuntimeError, match="recorded already"), outer(), inner():
            pass
    with pytest.raises(RuntimeError, match="recorded already"), steered():
        replay(prompts, [(decree(), asked)])
    assert fingerprint(model) == before and unchanged(prompts.cache, kept)


@torch.no_grad()
def test_a_layer_that_does_not_fire_is_an_error(models, monkeypatch):
    model, asked = models[QWEN], config(beta=0.0)
    tokens, mask, ids, positions = prompt()
    prompts = prefilled(model, tokens, mask, ids, positions)
    with pytest.raises(RuntimeError, match=r"not computed in decoder layers \[1, 2, 3\]"):
        with steer(model, decree(), asked, ids):
            pass
    silent = model.get_decoder().layers[1]
    monkeypatch.setattr(silent, "forward", lambda hidden_states, **_: hidden_states)
    for scope in SCOPES:
        with pytest.raises(RuntimeError, match=r"decoder layers \[2\]"):
            with steer(model, decree(), config(beta=0.0, scope=scope), ids):
                run(model, tokens, mask)
    with pytest.raises(RuntimeError, match=r"decoder layers \[2\]"):
        replay(prompts, [(decree(), asked)])


@torch.no_grad()
def test_what_cannot_be_replayed_is_refused(models):
    model, gate, asked = models[QWEN], decree(), config(beta=0.0)
    tokens, mask, ids, positions = prompt()
    prompts = prefilled(model, tokens, mask, ids, positions)
    kept = copied(prompts.cache)
    with pytest.raises(ValueError, match="'all' .*cannot be replayed"):
        replay(prompts, [(gate, config(beta=0.0, scope="all"))])
    with pytest.raises(ValueError, match="share a scope"):
        replay(prompts, [(gate, asked), (gate, config(beta=0.0, scope="all"))])
    with pytest.raises(ValueError, match="same prompts"):
        replay_decision(replace(prompts, modality_ids=ids[:, 1:]))
    with pytest.raises(RuntimeError, match="continues 29 cached positions"):
        replay_decision(replace(prompts, attention_mask=mask[:, 1:], modality_ids=ids[:, 1:]))
    assert unchanged(prompts.cache, kept)
    whole = run(model, tokens, mask, use_cache=True).past_key_values
    with pytest.raises(RuntimeError, match="continues 30 cached positions"):
        replay_decision(replace(prompts, cache=whole))
    assert whole.get_seq_length() == 30


@pytest.mark.parametrize("length", (30, 10))
@torch.no_grad()
def test_a_prompt_with_a_sliding_cache_is_refused_for_replay(models, length):
    # The window is 12 positions: the second prompt has not reached it.
    tokens, mask, ids = (x[:, :length] for x in inputs(padded=False))
    with pytest.raises(NotImplementedError, match="full attention"):
        prompts = prefilled(models["gemma3"], tokens, mask, ids, mask.cumsum(-1) - 1)
        replay(prompts, [(decree(), config(beta=0.0))])
