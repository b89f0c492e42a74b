"""What watching and steering a decoder launch in each layer: few operations, and none that waits.

Before they were counted, a layer that 41 operations compute launched some 54 when recorded, and steered
some 236 with the decision query alone and 302 with all queries, of which 67 were in double precision;
it made the host wait three to seven times.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import inputs, make, run

from benchmarks.operations import Counted, counted
from emomm_lib import SteeringConfig, prefill, record, replay, steer
from emomm_lib.attention import rows
from emomm_lib.chase.equations import head_distance, head_preference, top_heads
from emomm_lib.chase.gates import ConstantGate
from emomm_lib.chase.router import Router
from emomm_study.evaluate.gates import GateByRow

QWEN = "qwen2.5-omni"
PUBLISHED = SteeringConfig(first_layer=1, tau=0.0)
LAST = 2
"""A layer of three in which all that one pass makes once has been made."""
ADDED = {"record": 8, "decision, beta = 0": 51, "decision": 59, "all": 96, "all, beta = 0": 77}
"""At most so many operations of one layer, over those of the plain model's."""


@pytest.fixture(scope="module")
def models():
    return {name: make(name) for name in (QWEN, "vita")}


def router(seed=0, **more):
    torch.manual_seed(seed)
    return Router(state_size=32, layers=3, fingerprint="", first_layer=1, hidden=6, **more).eval()


def importance_of(ids):
    scores = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(ids == 2, scores, 0.0)


def watching(kind, model, ids, gate=None):
    if kind == "plain":
        return nullcontext()
    if kind == "record":
        return record(model, ids)
    scope, _, without = kind.partition(", ")
    asked = replace(PUBLISHED, scope=scope, **({"beta": 0.0} if without else {}))
    return steer(model, gate or router(), asked, ids, importance=importance_of(ids))


@torch.no_grad()
def counts(kind, model, padded=True, gate=None) -> Counted:
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs(padded=padded)
    with watching(kind, model, ids, gate), counted(model) as found:
        run(model, tokens, mask, use_cache=True)
    return found


@torch.no_grad()
def replayed(model, columns) -> Counted:
    tokens, mask, ids = inputs()
    prompts = prefill(model, {"input_ids": tokens, "attention_mask": mask}, ids)
    with counted(model) as found:
        replay(prompts, columns, importance=importance_of(ids))
    return found


def by_row(count):
    return GateByRow(tuple(router(i) for i in range(count)), torch.arange(3) % count)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", [QWEN, "vita"])
@pytest.mark.parametrize("kind", ADDED)
def test_a_watched_layer_launches_no_more_operations_than_it_is_known_to(
    models, kind, name, padded
):
    plain, found = (counts(k, models[name], padded) for k in ("plain", kind))
    assert found.launched(LAST) - plain.launched(LAST) <= ADDED[kind]
    if kind == "decision":
        assert found.launched(LAST) <= 100


def test_a_replayed_layer_launches_no_more_for_many_configurations_than_for_two(models):
    gate = router()
    columns = [(gate, replace(PUBLISHED, eta=i / 40)) for i in range(40)]
    one, two, many = (replayed(models[QWEN], columns[:n]).launched(LAST) for n in (1, 2, 40))
    assert one <= 97 and many <= two <= one + 3


def test_further_routers_cost_a_layer_what_they_compute_themselves(models):
    one, two, three = (
        counts("decision", models[QWEN], gate=by_row(n)).launched(LAST) for n in (1, 2, 3)
    )
    assert three - two == two - one <= 13


WATCHED = {
    **{kind: {} for kind in ADDED},
    "decision": {"gate": by_row(3)},
    "all": {"gate": router(inputs="embedded")},
}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("kind", WATCHED)
def test_the_host_waits_for_the_device_in_no_watched_layer(models, kind, padded):
    plain = counts("plain", models[QWEN], padded)
    found = counts(kind, models[QWEN], padded, **WATCHED[kind])
    assert all(found.waiting(layer) == plain.waiting(layer) for layer in range(3))


def test_the_host_waits_in_no_replayed_layer_whatever_is_asked_of_it(models):
    columns = [
        (by_row(3), PUBLISHED),
        (ConstantGate(torch.rand(3), torch.rand(3, 3)), replace(PUBLISHED, heads=((2, 1), (3, 4)))),
        (router(), replace(PUBLISHED, preference="share", rule="gate", temperature=1.5)),
        (router(1), replace(PUBLISHED, sharpness=2.0, rule="first", percentile=20.0)),
    ]
    found = replayed(models[QWEN], columns)
    assert not any(found.waiting(layer) for layer in range(3))


def test_the_counter_sees_a_wait_for_what_it_is(models):
    tokens, mask, ids = inputs()
    waits = {
        "mask": lambda x: x[x > 0],
        "item": lambda x: float(x.sum()),
        "branch": lambda x: bool(x.any()),
        "list": lambda x: torch.as_tensor([1, 2]),
        "device": lambda x: x.to("meta"),
    }
    model = models[QWEN]
    for wait in waits.values():
        before = counts("plain", model).waiting(1)
        hook = (
            model.get_decoder()
            .layers[1]
            .mlp.register_forward_hook(lambda _, given, out, wait=wait: wait(out) is None and None)
        )
        try:
            assert len(counts("plain", model).waiting(1)) == len(before) + 1
        finally:
            hook.remove()


def test_what_is_in_double_precision_is_what_tells_heads_apart_and_their_bias(models):
    found = counts("decision", models[QWEN])
    double = [x.name for x in found.of[LAST] if x.launched and x.double]
    assert len(double) <= 22
    assert not any(x.double for x in counts("plain", models[QWEN]).of[LAST])


@pytest.mark.parametrize("kind", ["softmax", "share"])
def test_at_single_precision_other_heads_would_be_chosen(kind, monkeypatch):
    """Attention of 28 heads on a few thousand tokens: softmax of nMAS leaves them nearly alike."""
    generator = torch.Generator().manual_seed(0)
    mass = torch.rand(64, 1, 28, 3, generator=generator) / 30
    gate = torch.rand(64, 1, 3, generator=generator).softmax(-1).double()
    counts_ = torch.tensor([[200, 400, 2000]]).expand(64, -1)
    state = torch.zeros(64, 1, 1)

    def chosen():
        view = rows.LayerView(1, mass, counts_, state, state, state)
        pi = head_preference(view, kind)
        return top_heads(head_distance(pi, gate[:, :, None].to(pi)), torch.tensor([4]))[
            :, 0
        ].numpy()

    nmas = mass.double().numpy()[:, 0] / np.array([200, 400, 2000])
    raised = np.exp(nmas.astype(np.longdouble)) if kind == "softmax" else nmas.astype(np.longdouble)
    pi = raised / raised.sum(-1, keepdims=True)
    q = gate.numpy().astype(np.longdouble)
    middle = (pi + q) / 2 + np.longdouble(1e-8)
    divergence = (pi * np.log(pi / middle)).sum(-1) + (q * np.log(q / middle)).sum(-1)
    expected = np.zeros_like(divergence, dtype=bool)
    best = np.argsort(-divergence, axis=-1, kind="stable")[:, :4]
    np.put_along_axis(expected, best, True, -1)
    np.testing.assert_array_equal(chosen(), expected)
    monkeypatch.setattr(rows, "SINGLE_ONLY", frozenset({"cpu"}))
    assert (chosen() != expected).any() == (kind == "softmax")


@torch.no_grad()
def test_on_a_device_without_double_precision_nothing_is_computed_in_it(models, monkeypatch):
    model, gate = models[QWEN], router()
    tokens, mask, ids = inputs()
    expected = {}
    for single in (False, True):
        if single:
            monkeypatch.setattr(rows, "SINGLE_ONLY", frozenset({"cpu"}))
        for scope in ("decision", "all"):
            asked = replace(PUBLISHED, scope=scope, preference="share")
            with counted(model) as found, steer(model, gate, asked, ids) as steered:
                logits = run(model, tokens, mask).logits
            if single:
                assert not any(x.double for layer in found.of.values() for x in layer)
                torch.testing.assert_close(logits, expected[scope], atol=1e-4, rtol=1e-4)
            expected[scope] = logits
            assert steered.decisions.heads.any()
