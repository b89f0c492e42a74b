"""Models under ``torch.compile``: watched again and again, they answer as the model as written."""

from __future__ import annotations

import pytest
import torch
from tiny_models import fingerprint, inputs, make, run

from emomm_lib import SteeringConfig, prefill, record, replay, steer
from emomm_lib.chase.gates import ConstantGate

GATE = ConstantGate(torch.tensor([0.9, 0.8, 0.9]), torch.tensor([[0.1, 0.2, 0.7]] * 3))


def whole(model):
    return torch.compile(model, backend="eager")


def in_place(model):
    model.compile(backend="eager")
    return model


def decoder(model):
    model.model.language_model = torch.compile(model.model.language_model, backend="eager")
    return model


@pytest.mark.parametrize("compiled", [whole, in_place, decoder])
@torch.no_grad()
def test_a_compiled_model_is_recorded_steered_and_replayed_as_often_as_one_likes(compiled):
    tokens, mask, ids = inputs()
    asked = SteeringConfig(first_layer=1, tau=0.0)
    plain = make("qwen2.5-omni")
    plain.set_attn_implementation("sdpa")

    def answers(model):
        before = fingerprint(model)
        with record(model, ids) as trace:
            run(model, tokens, mask)
        with steer(model, GATE, asked, ids) as steered:
            moved = run(model, tokens, mask).logits
        prompts = prefill(model, {"input_ids": tokens, "attention_mask": mask}, ids)
        hidden = replay(prompts, [(GATE, asked)])[0].hidden
        assert fingerprint(model) == before
        return [trace.mass, moved, steered.decisions.heads, hidden, run(model, tokens, mask).logits]

    expected = answers(plain)
    model = make("qwen2.5-omni")
    model.set_attn_implementation("sdpa")
    model = compiled(model)
    run(model, tokens, mask)
    for _ in range(3):
        found = answers(model)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
        assert found[2].any() and not torch.allclose(found[1], found[4], atol=1e-4)
