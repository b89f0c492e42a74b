"""The router against a multilayer perceptron, a loss and scores written out in numpy."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from dataclasses import replace

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file

from emomm_lib import LayerView
from emomm_lib.chase.router import Router, layer_input, load_router
from emomm_lib.chase.training import (
    RouterStates,
    RouterTargets,
    TrainingSettings,
    routed,
    router_loss,
    train_router,
)
from emomm_lib.labels import coalition_modalities

# After emomm_lib: beside a CPU build of torch they need it to be imported first.
from transformers import LlamaConfig, LlamaForCausalLM  # isort: skip

D, L, H = 6, 3, 2
COALITIONS = ("TAV", "TA", "TV", "AV")
quick = settings(max_examples=40, deadline=None)


def recorded(n: int = 60, seed: int = 0, noise: float = 0.3, coalitions=COALITIONS):
    """States from which labels can be read: a modality's mean points one way where it is right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (n, 4))
    # One wrong modality a clip at most, or nearly every clip would be in conflict.
    agree = rng.random((n, 3)) < 0.75
    labels[:, 1:] = np.where(agree, labels[:, :1], labels[:, 1:])
    clips = pd.DataFrame(labels, columns=["label_gt", "label_t", "label_a", "label_v"])
    clips.insert(0, "sample_id", [f"clip{i:04d}" for i in range(n)])
    chosen = [coalitions[i % len(coalitions)] for i in range(n)]
    present = np.array([[m in coalition_modalities(c) for m in "TAV"] for c in chosen])
    right = (labels[:, 1:] == labels[:, :1]) & present
    conflict = (right != present).any(1)
    way = rng.normal(size=(3, D))
    means = np.where(right, 1, -1)[:, None, :, None] * way + rng.normal(0, noise, (n, L, 3, D))
    query = np.where(conflict, 1, -1)[:, None, None] * np.ones(D) + rng.normal(0, noise, (n, L, D))
    mass = rng.dirichlet([1] * 4, (n, L, H))[..., :3] * present[:, None, None]
    counts = rng.integers(1, 40, (n, 3)) * present
    index = pd.DataFrame({"sample_id": clips["sample_id"], "coalition": chosen})
    tensors = [query, means * present[:, None, :, None], mass]
    states = RouterStates(
        index, *(torch.from_numpy(x.astype(np.float32)) for x in tensors), torch.from_numpy(counts)
    )
    return states, clips


def settings_of(**changes) -> TrainingSettings:
    return TrainingSettings(**({"first_layer": 2, "hidden": 8, "epochs": 2} | changes))


def made(inputs: str = "layer", kind: str = "softmax", seed: int = 0, **changes) -> Router:
    """A router whose standardization is not the identity."""
    torch.manual_seed(seed)
    given = {"state_size": D, "layers": L, "fingerprint": "abc", "first_layer": 2, "hidden": 8}
    router = Router(**(given | changes), inputs=inputs, preference_kind=kind)
    router.mean.normal_()
    router.scale.uniform_(0.5, 2)
    return router.eval()


def perceptron(router: Router, name: str, x: np.ndarray) -> np.ndarray:
    state = {k: v.double().numpy() for k, v in router.state_dict().items()}
    x = (x - state["mean"]) / state["scale"]
    if f"{name}.2.weight" not in state:
        return state[f"{name}.0.weight"] @ x + state[f"{name}.0.bias"]
    hidden = np.maximum(0, state[f"{name}.0.weight"] @ x + state[f"{name}.0.bias"])
    return state[f"{name}.2.weight"] @ hidden + state[f"{name}.2.bias"]


def answer(router: Router, x: np.ndarray, present) -> tuple[float, np.ndarray]:
    """p and g by Eq. 7 and 8."""
    [logit] = perceptron(router, "conflict_head", x)
    weight = np.exp(perceptron(router, "gate_head", x)) * np.asarray(present)
    return 1 / (1 + math.exp(-logit)), weight / max(weight.sum(), 1e-300)


def mean_preference(nmas: np.ndarray, present, kind: str) -> np.ndarray:
    """``(H, 3)`` to pi of a layer (Eq. 6), head by head."""
    total = np.zeros(3)
    for head in nmas:
        for m in np.flatnonzero(present):
            own = {k: math.exp(head[k]) if kind == "softmax" else head[k] for k in range(3)}
            total[m] += own[m] / sum(own[k] for k in np.flatnonzero(present))
    return total / len(nmas)


def seen(seed: int, columns: int = 2) -> LayerView:
    """Three prompts: all modalities, no audio, none at all."""
    rng = np.random.default_rng(seed)
    present = np.array([[True, True, True], [True, False, True], [False, False, False]])
    counts = rng.integers(1, 9, (3, 3)) * present
    mass = rng.random((3, columns, H, 3)) / 9 * present[:, None, None]
    means = rng.normal(size=(2, 3, 3, D)) * present[..., None]
    query = rng.normal(size=(3, columns, D))
    to = torch.from_numpy
    return LayerView(
        2, to(mass), to(counts), to(query).float(), to(means[0]).float(), to(means[1]).float()
    )


@pytest.mark.parametrize("inputs", ["layer", "embedded"])
@pytest.mark.parametrize("kind", ["softmax", "share"])
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("hidden", [8, 0])
@torch.no_grad()
def test_routing_equals_a_perceptron_on_an_input_put_together_by_hand(
    inputs, kind, columns, hidden
):
    router, row = made(inputs, kind, hidden=hidden), seen(1, columns)
    conflict, gate = router.route(row)
    assert conflict.shape == (3, columns) and gate.shape == (3, columns, 3)
    for b, c in itertools.product(range(3), range(columns)):
        present = row.present[b].numpy()
        if inputs == "layer":
            pi = mean_preference((row.mass[b, c] / row.counts[b]).numpy(), present, kind)
            x = np.concatenate([row.query_state[b, c], *row.modality_states[b], pi])
        else:
            x = np.concatenate(list(row.embedded[b]))
        p, g = answer(router, x, present)
        assert float(conflict[b, c]) == pytest.approx(p, abs=1e-6)
        np.testing.assert_allclose(gate[b, c], g, atol=1e-6)
        assert (gate[b, c].numpy()[~present] == 0).all()


@given(st.integers(0, 999), st.sampled_from(["layer", "embedded"]), st.sampled_from([8, 0]))
@quick
@torch.no_grad()
def test_the_forward_pass_equals_a_perceptron_and_shuts_absent_modalities_out(seed, inputs, hidden):
    router = made(inputs, seed=seed, hidden=hidden)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, len(router.mean)))
    present = rng.random((4, 3)) < 0.6
    conflict, gate = router(torch.from_numpy(x).float(), torch.from_numpy(present))
    for row, there, p, g in zip(x, present, conflict, gate, strict=True):
        assert float(p) == pytest.approx(perceptron(router, "conflict_head", row)[0], abs=1e-5)
        expected = np.where(there, perceptron(router, "gate_head", row), -np.inf)
        np.testing.assert_allclose(g, expected, atol=1e-5)


def test_the_router_is_two_perceptrons_of_the_published_width_over_4d_plus_3_features():
    router = Router(state_size=3584, layers=28, fingerprint="", first_layer=13)
    shapes = {name: tuple(p.shape) for name, p in router.named_parameters()}
    assert shapes["conflict_head.0.weight"] == (128, 4 * 3584 + 3)
    assert shapes["gate_head.2.weight"] == (3, 128)
    assert len(shapes) == 8
    x = torch.randn(2, 4 * 3584 + 3)
    assert layer_input(x[:, :3584], x[:, 3584:-3].view(2, 3, 3584), x[:, -3:]).equal(x)


def test_inputs_and_layers_that_do_not_exist_are_refused_by_value():
    with pytest.raises(ValueError, match="'states'"):
        made("states")
    for first in (0, 4):
        with pytest.raises(ValueError, match=rf"1\.\.3.*first_layer={first}"):
            made(first_layer=first)
    with pytest.raises(ValueError, match="0 for linear maps; got -1"):
        made(hidden=-1)


@pytest.mark.parametrize("inputs", ["layer", "embedded"])
@pytest.mark.parametrize("kind", ["softmax", "share"])
@torch.no_grad()
def test_on_recorded_states_a_router_answers_as_in_the_running_model(inputs, kind):
    states, _ = recorded(10, coalitions=(*COALITIONS, "none"))
    router = made(inputs, kind)
    conflict, gate = routed(router, states, batch_size=3)
    depth = L - router.first_layer + 1 if inputs == "layer" else 1
    assert conflict.shape == (10, depth) and gate.shape == (10, depth, 3)
    for layer in range(2, L + 1):
        row = LayerView(
            layer, states.mass[:, layer - 1, None].double(), states.counts,
            states.query_state[:, layer - 1, None], states.modality_states[:, layer - 1],
            states.modality_states[:, 0],
        )  # fmt: skip
        p, g = router.route(row)
        at = layer - 2 if inputs == "layer" else 0
        torch.testing.assert_close(conflict[:, at], p[:, 0], atol=1e-6, rtol=0)
        torch.testing.assert_close(gate[:, at], g[:, 0], atol=1e-6, rtol=0)


@torch.no_grad()
def test_embedded_inputs_do_not_depend_on_any_layer_but_the_first():
    states, _ = recorded(8)
    rows = torch.arange(8)
    router = made("embedded")
    noise = torch.randn_like(states.modality_states)
    noise[:, 0] = 0
    other = replace(
        states,
        query_state=torch.randn_like(states.query_state),
        modality_states=states.modality_states + noise,
        mass=states.mass / 2,
    )
    x, present = states.inputs(router, rows)
    assert torch.equal(x, other.inputs(router, rows)[0])
    assert torch.equal(x[:, 0], states.modality_states[:, 0].flatten(1))
    assert torch.equal(present[:, 0], states.present)
    answers = []
    for layer in (2, 3):
        answers += router.route(replace(seen(layer), layer=layer, embedded=seen(0).embedded))
    assert torch.equal(answers[0], answers[2]) and torch.equal(answers[1], answers[3])


def test_a_routers_inputs_are_those_of_its_layers_and_no_earlier_one():
    states, _ = recorded(5)
    for first in (1, 2, 3):
        x, _ = states.inputs(made(first_layer=first), torch.tensor([3, 1]))
        assert x.shape == (2, L - first + 1, 4 * D + 3)
        torch.testing.assert_close(x[0, 0, :D], states.query_state[3, first - 1])
        torch.testing.assert_close(
            x[1, -1, D : 4 * D], states.modality_states[1, -1].flatten(), atol=0, rtol=0
        )
        np.testing.assert_allclose(x[..., -3:].sum(-1), 1, atol=1e-6)


def test_taking_some_prompts_takes_their_rows_of_everything():
    states, clips = recorded(9)
    targets = RouterTargets.of(states, clips)
    rows = np.array([7, 2])
    some, wanted = states.take(rows), targets.take(rows)
    assert some.index["sample_id"].tolist() == ["clip0007", "clip0002"]
    assert torch.equal(some.mass, states.mass[[7, 2]])
    assert torch.equal(some.present, states.present[[7, 2]])
    assert torch.equal(wanted.gate, targets.gate[[7, 2]])
    again = RouterTargets.of(some, clips)
    assert torch.equal(again.conflict, wanted.conflict) and torch.equal(again.right, wanted.right)


def loss_by_loops(conflict_logit, gate_logit, conflict, gate, weights) -> float:
    """Eq. 10 with Eq. 19 and 20, epsilons aside."""
    losses = []
    for n, layers in enumerate(conflict_logit.tolist()):
        total = 0.0
        for at, logit in enumerate(layers):
            p = 1 / (1 + math.exp(-logit))
            y = float(conflict[n])
            bce = -(y * math.log(p) if y else (1 - y) * math.log(1 - p))
            weight = [math.exp(z) for z in gate_logit[n, at].tolist()]
            kl = 0.0
            for target, w in zip(gate[n].tolist(), weight, strict=True):
                kl += target * math.log(target / (w / sum(weight))) if target > 0 else 0.0
            total += weights[0] * kl + weights[1] * bce
        losses.append(total)
    return sum(losses) / len(losses)


@given(st.integers(0, 9999), st.integers(1, 5), st.floats(0, 3), st.floats(0, 3))
@quick
def test_the_loss_is_equation_10_also_with_absent_modalities(seed, count, one, two):
    rng = np.random.default_rng(seed)
    present = rng.random((count, 3)) < 0.6
    present[:, 0] |= ~present.any(1)
    gate = (rng.integers(0, 2, (count, 3)) + 0.01) * present
    gate = torch.from_numpy(gate / gate.sum(1, keepdims=True))
    logits = torch.from_numpy(rng.normal(size=(count, 4)) * 3)
    gate_logits = torch.from_numpy(
        np.where(present[:, None], rng.normal(size=(count, 4, 3)) * 3, -np.inf)
    )
    conflict = torch.from_numpy(rng.integers(0, 2, count).astype(np.float64))
    logits.requires_grad_(), gate_logits.requires_grad_()
    loss = router_loss(logits, gate_logits, conflict, gate, one, two)
    expected = loss_by_loops(logits.detach(), gate_logits.detach(), conflict, gate, (one, two))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    # 0 times infinity must not come back through the gradient.
    for gradient in torch.autograd.grad(loss, (logits, gate_logits)):
        assert gradient.isfinite().all()


def test_a_router_that_says_what_it_should_has_no_loss():
    gate = torch.tensor([[0.5, 0, 0.5], [0.2, 0.3, 0.5]], dtype=torch.double)
    logits = torch.tensor([[60, 60], [-60, -60]], dtype=torch.double)
    gate_logits = gate.log()[:, None].expand(-1, 2, -1)
    loss = router_loss(logits, gate_logits, torch.tensor([1, 0], dtype=torch.double), gate)
    assert float(loss) == pytest.approx(0, abs=1e-12)


def test_an_undecided_router_loses_log_2_a_layer_on_the_conflict():
    logits = torch.zeros(3, 4)
    gate = torch.full((3, 3), 1 / 3)
    loss = router_loss(logits, torch.zeros(3, 4, 3), torch.tensor([1.0, 0, 1]), gate, 1.0, 2.0)
    assert float(loss) == pytest.approx(2 * 4 * math.log(2), rel=1e-6)


def llama(layers: int = L, size: int = D):
    config = LlamaConfig(
        hidden_size=size, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=8, vocab_size=11, head_dim=4,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("inputs", ["layer", "embedded"])
@pytest.mark.parametrize("hidden", [5, 0])
def test_a_saved_router_comes_back_bit_for_bit_with_all_it_was_made_with(inputs, hidden, tmp_path):
    router = made(inputs, "share", first_layer=3, hidden=hidden)
    router.save_pretrained(tmp_path)
    again = load_router(tmp_path, llama(), "abc")
    assert router.state_dict().keys() == again.state_dict().keys()
    for name, value in router.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for name in ("state_size", "layers", "fingerprint", "first_layer", "preference_kind", "inputs"):
        assert getattr(router, name) == getattr(again, name), name
    assert not again.training
    row = seen(3)
    with torch.no_grad():
        for one, two in zip(router.route(row), again.route(row), strict=True):
            assert torch.equal(one, two)


def test_a_saved_router_is_weights_a_configuration_and_a_card(tmp_path):
    made().save_pretrained(tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md"}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["fingerprint"] == "abc" and config["first_layer"] == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_router_comes_back_bit_for_bit_in_its_own_precision(dtype, tmp_path):
    router = made().to(dtype)
    router.save_pretrained(tmp_path)
    again = Router.from_pretrained(tmp_path)
    for name, value in router.state_dict().items():
        assert again.state_dict()[name].dtype == dtype and torch.equal(
            value, again.state_dict()[name]
        )
    assert not again.training and all(p.requires_grad for p in again.parameters())
    again.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_card_of_a_router_is_read_off_it_and_its_front_matter_is_the_hubs(tmp_path):
    router = made("embedded", hidden=5)
    router.save_pretrained(tmp_path / "mine")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert card.data.library_name == "emomm_lib" and "attention-steering" in card.data.tags
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card.text, re.M))
    count = sum(p.numel() for p in router.parameters())
    assert rows["inputs"] == "embedded" and rows["hidden size"] == "5"
    assert rows["parameters"] == f"{count:,}" and rows["decoder"] == "3 layers of size 6"
    assert 'Router.from_pretrained("mine")' in card.text


SPOILT_CONFIGS = {
    "layers": (None, "layers is missing"),
    "size": (4, r"size is unknown; a router has state_size, layers"),
    "state_size": ("6", r"state_size is '6', expected a whole number of at least 1"),
    "hidden": (True, r"hidden is True, expected a whole number of at least 0"),
    "first_layer": (9, r"first_layer is 9, expected at most layers, 3"),
    "preference_kind": (["share"], r"preference_kind is \['share'\], expected one of"),
    "inputs": ("states", r"inputs is 'states', expected one of \('layer', 'embedded'\)"),
    "fingerprint": (7, "fingerprint is 7, expected a text"),
}


@pytest.mark.parametrize("key", SPOILT_CONFIGS)
def test_a_spoilt_configuration_is_refused_by_file_and_key(key, tmp_path):
    made().save_pretrained(tmp_path)
    value, said = SPOILT_CONFIGS[key]
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | {key: value}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(ValueError, match=rf"config\.json: {said}"):
        Router.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\xff"])
def test_a_configuration_that_is_no_object_is_refused_by_file(text, tmp_path):
    made().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config\.json: (it is no JSON|expected an object)"):
        Router.from_pretrained(tmp_path)


SPOILT_WEIGHTS = {
    "absent": (lambda t: t.pop("gate_head.2.bias"), r"gate_head\.2\.bias is missing"),
    "another": (lambda t: t.update(more=torch.zeros(1)), "more is unknown"),
    "of another shape": (
        lambda t: t.update(mean=torch.zeros(5)),
        r"mean has the shape \(5,\), expected \(27,\) by its config\.json",
    ),
    "not finite": (lambda t: t["scale"].fill_(torch.nan), "scale is not of finite"),
    "whole numbers": (lambda t: t.update(scale=torch.ones(27, dtype=torch.int64)), "scale is not"),
}


@pytest.mark.parametrize("kind", SPOILT_WEIGHTS)
def test_spoilt_weights_are_refused_by_file_and_tensor(kind, tmp_path):
    router = made()
    router.save_pretrained(tmp_path)
    tensors = {name: value.clone() for name, value in router.state_dict().items()}
    spoil, said = SPOILT_WEIGHTS[kind]
    spoil(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"model\.safetensors: {said}"):
        Router.from_pretrained(tmp_path)


def test_weights_that_are_a_pickle_are_refused_and_not_opened(tmp_path):
    made().save_pretrained(tmp_path)
    torch.save(made().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="it is no safetensors file"):
        Router.from_pretrained(tmp_path)


def test_a_configuration_of_any_size_allocates_nothing_before_the_weights_fit(tmp_path):
    made().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state_size": 10**9}))
    with pytest.raises(ValueError, match=r"expected \(4000000003,\)"):
        Router.from_pretrained(tmp_path)


def test_a_folder_is_read_without_the_hubs_library(tmp_path, monkeypatch):
    made().save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert Router.from_pretrained(tmp_path).fingerprint == "abc"


def test_a_hub_id_is_read_from_the_hub_and_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    asked = []

    def download(repo, name, *, revision):
        asked.append((repo, name, revision))
        return str(tmp_path / "hub" / name)

    made(seed=1).save_pretrained(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    found = Router.from_pretrained("me/router", revision="v1")
    assert torch.equal(found.mean, made(seed=1).mean)
    files = ("config.json", "model.safetensors")
    assert asked == [("me/router", name, "v1") for name in files]
    made(seed=2).save_pretrained("me/router")
    assert torch.equal(Router.from_pretrained("me/router").mean, made(seed=2).mean)
    assert len(asked) == 2


def test_a_hub_id_that_the_hub_does_not_give_is_an_error_that_says_both(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="nobody/nothing is no folder here, and the hub"):
        Router.from_pretrained("nobody/nothing")


def test_a_router_of_another_model_is_refused_with_both_sides_named(tmp_path):
    made().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="fingerprint abc.*xyz.*Train one"):
        load_router(tmp_path, llama(), "xyz")
    with pytest.raises(ValueError, match="3 layers of size 6.*LlamaForCausalLM has 3 of size 8"):
        load_router(tmp_path, llama(size=8), "abc")
    with pytest.raises(ValueError, match="3 layers of size 6.*has 4 of size 6"):
        load_router(tmp_path, llama(layers=4), "abc")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_holds_no_router_is_an_error_that_says_what_is_missing(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere has no config.json"):
        load_router(tmp_path / "nowhere", llama(), "abc")
    made().save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        load_router(tmp_path, llama(), "abc")


@pytest.fixture(scope="module")
def learned():
    """How training on 400 prompts went, by epoch, and the router that came of it."""
    states, clips = recorded(550)
    targets = RouterTargets.of(states, clips)
    parts = [(states.take(rows), targets.take(rows)) for rows in np.split(np.arange(550), [400])]
    wanted = settings_of(epochs=15, learning_rate=1e-2, hidden=16, first_layer=1)
    router, history = train_router(*parts[0], wanted, "abc", validation=parts[1], progress=False)
    return router, history


def test_what_can_be_read_from_states_is_learned(learned):
    router, history = learned
    assert len(history) == 15 and not router.training
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] / 4
    last = history.iloc[-1]
    assert last["conflict_auc"] > 0.95
    assert last["gate_top1"] > 0.9


def area_under_curve(score, truth) -> float:
    """How often a positive outranks a negative, a tie counting half."""
    pairs = [(p > n) + 0.5 * (p == n) for p in score[truth == 1] for n in score[truth == 0]]
    return float(np.mean(pairs))


@pytest.mark.parametrize("inputs", ["layer", "embedded"])
def test_validation_numbers_equal_those_of_an_independent_reading(inputs):
    states, clips = recorded(90, noise=3)
    targets = RouterTargets.of(states, clips)
    parts = [(states.take(rows), targets.take(rows)) for rows in np.split(np.arange(90), [50])]
    wanted = settings_of(inputs=inputs, lambda_gate=0.5, lambda_conflict=2.0, epochs=3)
    router, history = train_router(*parts[0], wanted, "abc", validation=parts[1], progress=False)
    assert history["epoch"].tolist() == [1, 2, 3]
    held, truth = parts[1]
    logits, gates, hits, score = [], [], [], []
    for n in range(len(held.index)):
        depth = range(1, L) if inputs == "layer" else [0]
        present = held.present[n].numpy()
        own_logits, own_gates = [], []
        for at in depth:
            x = held.modality_states[n, 0].flatten().numpy()
            if inputs == "layer":
                nmas = held.mass[n, at].numpy() / np.maximum(held.counts[n].numpy(), 1)
                pi = mean_preference(nmas.astype(float), present, "softmax")
                x = np.concatenate([held.query_state[n, at], *held.modality_states[n, at], pi])
            own_logits.append(perceptron(router, "conflict_head", x)[0])
            own_gates.append(np.where(present, perceptron(router, "gate_head", x), -np.inf))
        logits.append(own_logits)
        gates.append(own_gates)
        score.append(np.mean([1 / (1 + math.exp(-z)) for z in own_logits]))
        shares = [np.exp(g) / np.exp(g).sum() for g in own_gates]
        right = truth.right[n].numpy()
        if 0 < right[present].sum() < present.sum():
            hits.append(right[np.argmax(np.mean(shares, axis=0))])
    logits, gates = torch.tensor(np.array(logits)), torch.tensor(np.array(gates))
    loss = loss_by_loops(logits, gates, truth.conflict.double(), truth.gate.double(), (0.5, 2.0))
    last = history.iloc[-1]
    assert last["valid_loss"] == pytest.approx(loss, rel=1e-5)
    auc = area_under_curve(np.array(score), truth.conflict.numpy())
    assert last["conflict_auc"] == pytest.approx(auc, abs=1e-9)
    assert 0 < len(hits) < len(held.index)
    assert last["gate_top1"] == pytest.approx(np.mean(hits), abs=1e-6)


def trained(states, targets, **changes):
    router, _ = train_router(states, targets, settings_of(**changes), "abc", progress=False)
    return router.state_dict()


@pytest.mark.parametrize("standardize", [False, True])
def test_equal_settings_give_equal_bits_and_another_seed_others(standardize):
    states, clips = recorded()
    targets = RouterTargets.of(states, clips)
    torch.manual_seed(1)
    one = trained(states, targets, standardize=standardize)
    torch.manual_seed(2)
    two = trained(states, targets, standardize=standardize)
    other = trained(states, targets, standardize=standardize, seed=1)
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
        if name.endswith("weight"):
            assert not torch.equal(value, other[name]), name


def test_training_draws_nothing_from_the_callers_generators():
    states, clips = recorded()
    targets = RouterTargets.of(states, clips)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()
    trained(states, targets)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(np.array_equal(*x) for x in zip(numpy_before, np.random.get_state(), strict=True))


def test_validating_changes_no_weight():
    states, clips = recorded()
    targets = RouterTargets.of(states, clips)
    given = (states, targets, settings_of(), "abc")
    plain, history = train_router(*given, progress=False)
    watched, _ = train_router(*given, validation=(states, targets), progress=False)
    assert list(history) == ["epoch", "loss"]
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


def test_a_prompt_without_modalities_teaches_the_gate_nothing_and_harms_it_not():
    states, clips = recorded(12, coalitions=(*COALITIONS, "none"))
    some = [n for n, c in enumerate(states.index["coalition"]) if c != "none"]
    wanted = {"epochs": 1, "lambda_conflict": 0.0, "batch_size": 12}
    parts = states, RouterTargets.of(states, clips)
    whole = trained(*parts, **wanted)
    alone = trained(*(x.take(np.array(some)) for x in parts), **wanted)
    for name, value in whole.items():
        assert value.isfinite().all(), name
        # AdamW's first step does not depend on how large the mean's denominator is.
        torch.testing.assert_close(value, alone[name], atol=1e-6, rtol=0)


def test_one_epoch_on_one_batch_is_one_step_of_adamw():
    states, clips = recorded(12)
    targets = RouterTargets.of(states, clips)
    start = train_router(states, targets, settings_of(epochs=0), "abc", progress=False)[0]
    x, present = states.inputs(start, torch.arange(12))
    optimizer = torch.optim.AdamW(start.parameters(), lr=1e-4, weight_decay=0.01)
    loss = router_loss(*start(x, present), targets.conflict, targets.gate)
    loss.backward()
    optimizer.step()
    done, history = train_router(states, targets, settings_of(epochs=1), "abc", progress=False)
    assert history["loss"].tolist() == [pytest.approx(float(loss.detach()), rel=1e-6)]
    for name, value in start.state_dict().items():
        torch.testing.assert_close(value, done.state_dict()[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("inputs", ["layer", "embedded"])
def test_standardized_inputs_have_mean_0_and_deviation_1_on_the_training_prompts(inputs):
    states, clips = recorded(coalitions=("TAV", "TV"))
    states.modality_states.mul_(30).add_(100)
    # One feature that never changes, and one at a distance from zero.
    states.modality_states[..., 0, 0] = 7.0
    states.query_state[..., 1] += 1000
    wanted = settings_of(inputs=inputs, standardize=True, epochs=0)
    router, _ = train_router(states, RouterTargets.of(states, clips), wanted, "abc", progress=False)
    x, _ = states.inputs(router, torch.arange(len(states.index)))
    flat = ((x.double() - router.mean) / router.scale).flatten(0, 1)
    constant = x.flatten(0, 1).std(0) == 0
    assert int(constant.sum()) == 1
    assert (router.scale[constant] == 1).all()
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(flat.std(0, correction=0)[~constant], 1, atol=1e-4)


def test_without_standardizing_inputs_are_left_as_they_are():
    states, clips = recorded(8)
    state = trained(states, RouterTargets.of(states, clips))
    assert (state["mean"] == 0).all() and (state["scale"] == 1).all()


def test_targets_are_those_of_each_prompts_own_clip_and_coalition():
    states, clips = recorded(12)
    targets = RouterTargets.of(states, clips.sample(frac=1, random_state=0))
    for n, (name, coalition) in enumerate(states.index.itertuples(index=False)):
        clip = clips.set_index("sample_id").loc[name]
        right = [
            m in coalition_modalities(coalition) and clip[f"label_{m.lower()}"] == clip["label_gt"]
            for m in "TAV"
        ]
        assert targets.right[n].tolist() == right
        assert float(targets.conflict[n]) == (sum(right) < len(coalition))
        weight = [(r + 0.01) * (m in coalition) for r, m in zip(right, "TAV", strict=True)]
        np.testing.assert_allclose(targets.gate[n], np.array(weight) / sum(weight), rtol=1e-6)


def test_a_polarity_reading_changes_the_conflict_and_leaves_the_gate_by_class():
    states, clips = recorded(60)
    by_label, by_polarity = (RouterTargets.of(states, clips, r) for r in ("label", "polarity"))
    assert torch.equal(by_label.gate, by_polarity.gate)
    assert torch.equal(by_label.right, by_polarity.right)
    assert (by_polarity.conflict <= by_label.conflict).all()
    assert not torch.equal(by_label.conflict, by_polarity.conflict)


def test_states_of_clips_that_the_manifest_lacks_are_refused_by_name():
    states, clips = recorded(6)
    with pytest.raises(KeyError, match="clip0002.*clip0004"):
        RouterTargets.of(states, clips.drop([2, 4]))


def test_training_on_no_prompt_is_refused():
    states, clips = recorded(4)
    nothing = states.take(np.array([], dtype=int))
    with pytest.raises(ValueError, match="no prompt to train on"):
        train_router(nothing, RouterTargets.of(nothing, clips), settings_of(), "abc")
