"""Knockout and restoration against whole float64 matrices in which what is cut is masked."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from tiny_models import MAKERS, fingerprint, inputs, make, run
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from emomm_lib import Block, Blocking, block, prefill, record, replay_blocked, restore
from emomm_lib.labels import MODALITIES

T, A, V = 0, 1, 2
QWEN = "qwen2.5-omni"
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def models():
    return {name: make(name) for name in MAKERS}


def instructed(ids):
    """Marks on some positions between the modalities and on the decision query of row 0."""
    marks = torch.zeros_like(ids, dtype=torch.bool)
    marks[:, 20:26] = True
    marks[0, -1] = True
    return marks


@torch.no_grad()
def printed(model, tokens, mask, ids, change, **more):
    """Logits, and the prompt's last rows, of a float64 model whose matrices ``change`` changes.

    ``change(layer, b, h, q, row)`` takes a row of weights before it is used; layers are 1-based.
    """
    exact = copy.deepcopy(model).double()
    rows = {}

    def attend(module, query, key, value, mask, scaling=None, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scaling
        scores = scores.masked_fill(mask < 0, -1e300)
        layer = module.layer_idx + 1
        weights = scores.softmax(-1)
        for b, h, q in itertools.product(*map(range, weights.shape[:3])):
            weights[b, h, q] = change(layer, b, h, q, weights[b, h, q])
        rows[layer] = weights[:, :, ids.shape[1] - 1]
        return torch.einsum("bhqk,bhkd->bqhd", weights, value), weights

    AttentionInterface.register("changed", attend)
    AttentionMaskInterface.register("changed", eager_mask)
    text = exact.get_decoder().config
    text._attn_implementation = "changed"
    if hasattr(text, "num_experts"):
        exact.set_experts_implementation("eager")
    out = run(exact, tokens, mask, use_cache=False)
    return out.logits, torch.stack([rows[i] for i in sorted(rows)], 1)


def without(ids, modalities, window, queries):
    """A change that takes modalities out of the rows of some queries, and divides by what is left."""
    own = torch.zeros_like(ids, dtype=torch.bool)
    for m in modalities:
        own |= ids == MODALITIES.index(m)
    width = ids.shape[1]

    def change(layer, b, h, q, row):
        asked = {"decision": q == width - 1, "all": True}.get(queries) if isinstance(
            queries, str) else q < width and bool(queries[b, q])  # fmt: skip
        if not (window[0] <= layer <= window[1] and asked):
            return row
        left = row.clone()
        left[:width][own[b]] = 0
        # Padding sees nothing but itself; a query that is left with nothing is left alone.
        return left / left.sum() if left.sum() > 0 else row

    return change


def asked_of(queries, ids):
    return instructed(ids) if queries == "marked" else queries


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("base", ["sdpa", "eager"])
@pytest.mark.parametrize("queries", ["decision", "all", "marked"])
@pytest.mark.parametrize(
    ("modalities", "window"), [("V", (2, 3)), ("TA", (1, 1)), ("TAV", (1, 3)), ("A", (3, 3))]
)
def test_a_blocked_forward_is_that_of_matrices_without_what_is_cut(
    models, modalities, window, queries, base, padded
):
    model = models[QWEN]
    model.set_attn_implementation(base)
    tokens, mask, ids = inputs(padded=padded)
    chosen = asked_of(queries, ids)
    change = without(ids, modalities, window, chosen)
    expected, last = printed(model, tokens, mask, ids, change)
    with block(model, ids, modalities, layers=window, queries=chosen, rows=True) as trace:
        out = run(model, tokens, mask)
    real = mask.bool()
    torch.testing.assert_close(out.logits[real].double(), expected[real], **CLOSE)
    torch.testing.assert_close(trace.rows.double(), last, **CLOSE)
    assert (out.logits - run(model, tokens, mask).logits)[:, -1].abs().max() > 1e-3


@pytest.mark.parametrize("queries", ["decision", "all", "marked"])
@pytest.mark.parametrize("name", sorted(set(MAKERS) - {QWEN}))
def test_other_architectures_are_blocked_alike(models, name, queries):
    model = models[name]
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    chosen = asked_of(queries, ids)
    expected, last = printed(model, tokens, mask, ids, without(ids, "TV", (2, 3), chosen))
    with block(model, ids, "TV", layers=(2, None), queries=chosen, rows=True) as trace:
        out = run(model, tokens, mask)
    real = mask.bool()
    torch.testing.assert_close(out.logits[real].double(), expected[real], **CLOSE)
    torch.testing.assert_close(trace.rows.double(), last, **CLOSE)


def test_a_float64_model_is_blocked_to_double_precision(models):
    model = copy.deepcopy(models[QWEN]).double()
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    expected, _ = printed(models[QWEN], tokens, mask, ids, without(ids, "V", (1, 3), "all"))
    with block(model, ids, "V", queries="all"):
        found = run(model, tokens, mask).logits
    real = mask.bool()
    torch.testing.assert_close(found[real], expected[real], atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("queries", ["decision", "all"])
def test_in_half_precision_nothing_is_left_of_what_is_cut(models, dtype, queries):
    model = copy.deepcopy(models[QWEN]).to(dtype)
    tokens, mask, ids = inputs(padded=False)
    with block(model, ids, "TV", queries=queries) as trace:
        logits = run(model, tokens, mask).logits
    assert not trace.mass[..., [T, V]].any() and bool(logits.isfinite().all())
    if queries == "all":
        others = torch.where(ids == V, (tokens + 7) % 90 + 3, tokens)
        with block(model, ids, "TV", queries=queries):
            changed = run(model, others, mask).logits
        elsewhere = (ids != V) & (ids != T)
        torch.testing.assert_close(changed[elsewhere], logits[elsewhere], atol=0.02, rtol=0.02)


def test_where_no_query_reads_a_modality_its_content_changes_nothing_else(models):
    model = models[QWEN]
    tokens, mask, ids = inputs()
    others = torch.where(ids == V, (tokens + 7) % 90 + 3, tokens)
    found = []
    for shown in (tokens, others):
        with block(model, ids, "V", queries="all"):
            found.append(run(model, shown, mask).logits)
    elsewhere = mask.bool() & (ids != V)
    torch.testing.assert_close(found[0][elsewhere], found[1][elsewhere], **CLOSE)
    assert (run(model, others, mask).logits - found[0])[:, -1].abs().max() > 1e-2


@pytest.mark.parametrize("queries", ["decision", "all", "marked"])
@pytest.mark.parametrize("base", ["sdpa", "eager"])
def test_blocking_nothing_changes_not_one_bit(models, base, queries):
    model = models[QWEN]
    model.set_attn_implementation(base)
    tokens, mask, ids = inputs()
    plain = run(model, tokens, mask).logits
    with block(model, ids, "", queries=asked_of(queries, ids)):
        assert torch.equal(run(model, tokens, mask).logits, plain)
    with block(model, ids, "TAV", queries=torch.zeros_like(ids, dtype=torch.bool)):
        assert torch.equal(run(model, tokens, mask).logits, plain)
    with block(model, ids, "A", queries=asked_of(queries, ids)):
        # Rows 1 and 2 have no sound.
        assert torch.equal(run(model, tokens, mask).logits[1:], plain[1:])


def test_queries_that_are_not_marked_keep_every_bit_of_the_first_layer_that_is_cut(models):
    model = models[QWEN]
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    marks = instructed(ids)
    plain = run(model, tokens, mask, output_hidden_states=True).hidden_states[2]
    with block(model, ids, "V", layers=(2, 2), queries=marks):
        cut = run(model, tokens, mask, output_hidden_states=True).hidden_states[2]
    assert torch.equal(cut[~marks], plain[~marks])
    assert not torch.equal(cut[marks], plain[marks])


@pytest.mark.parametrize("queries", ["decision", "all", "marked"])
@pytest.mark.parametrize("cuts", [(17,), (8, 22), (29,)])
@pytest.mark.parametrize("name", [QWEN, "vita"])
def test_a_prompt_in_cached_pieces_is_blocked_as_it_is_whole(models, name, cuts, queries):
    model = models[name]
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    chosen = asked_of(queries, ids)
    with block(model, ids, "TV", layers=(1, 2), queries=chosen) as whole:
        expected = run(model, tokens, mask).logits[:, -1]
    cache = None
    with block(model, ids, "TV", layers=(1, 2), queries=chosen) as trace:
        for start, end in itertools.pairwise((0, *cuts, tokens.shape[1])):
            out = run(model, tokens[:, start:end], mask[:, :end], past_key_values=cache,
                      use_cache=True)  # fmt: skip
            cache = out.past_key_values
    torch.testing.assert_close(out.logits[:, -1], expected, **CLOSE)
    torch.testing.assert_close(trace.mass, whole.mass, **CLOSE)


@pytest.mark.parametrize("queries", ["decision", "all", "marked"])
def test_tokens_after_the_prompt_are_cut_where_all_queries_are(models, queries):
    model = models[QWEN]
    tokens, mask, ids = inputs()
    chosen = asked_of(queries, ids)
    more = torch.cat([tokens, torch.full((3, 2), 11)], 1)
    longer = torch.cat([mask, torch.ones(3, 2, dtype=mask.dtype)], 1)
    expected, _ = printed(model, more, longer, ids, without(ids, "V", (1, 3), chosen))
    with block(model, ids, "V", queries=chosen):
        out = run(model, tokens, mask, use_cache=True)
        out = run(model, more[:, -2:], longer, past_key_values=out.past_key_values)
    torch.testing.assert_close(out.logits.double(), expected[:, -2:], **CLOSE)


@pytest.mark.parametrize("name", [QWEN, "vita"])
def test_a_replayed_sweep_is_one_blocked_pass_a_block(models, name):
    model = models[name]
    tokens, mask, ids = inputs()
    asked = {"input_ids": tokens, "attention_mask": mask,
             "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}  # fmt: skip
    blocks = [Block(m, first, last) for m in ("", "T", "AV") for first, last in ((1, 2), (3, None))]
    prompts = prefill(model, asked, ids)
    replayed = replay_blocked(prompts, blocks)
    for column, own in enumerate(blocks):
        window = own.first_layer, own.last_layer
        with block(model, ids, own.modalities, layers=window) as trace:
            hidden = run(model, tokens, mask, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(replayed.hidden[:, column], hidden[:, -1], **CLOSE)
        torch.testing.assert_close(replayed.mass[:, column], trace.mass, **CLOSE)
    torch.testing.assert_close(replayed.hidden[:, 0], prompts.hidden, **CLOSE)


def share(wanted, ids, window):
    """A change that gives V a mass in the last row and divides what is left among the others."""
    width = ids.shape[1]

    def change(layer, b, h, q, row):
        own = ids[b] == V
        found = row[:width][own].sum()
        if q != width - 1 or not window[0] <= layer <= window[1] or not found > 0:
            return row
        given = float(wanted[b, layer - 1, h])
        changed = row * (1 - given) / (1 - found)
        changed[:width][own] = row[:width][own] * given / found
        return changed

    return change


@pytest.mark.parametrize("window", [(1, 3), (2, 2)])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_restored_row_has_the_mass_asked_for_and_keeps_all_other_proportions(
    models, name, window
):
    model = models[name]
    model.set_attn_implementation("sdpa")
    tokens, mask, ids = inputs()
    wanted = torch.rand(3, 3, 4, generator=torch.Generator().manual_seed(3))
    expected, last = printed(model, tokens, mask, ids, share(wanted, ids, window))
    with restore(model, ids, "V", wanted, layers=window, rows=True) as trace:
        out = run(model, tokens, mask)
    torch.testing.assert_close(trace.rows.double(), last, **CLOSE)
    torch.testing.assert_close(out.logits[:, -1].double(), expected[:, -1], **CLOSE)
    at = slice(window[0] - 1, window[1])
    held = trace.mass[:, at, :, V] > 0
    torch.testing.assert_close(trace.mass[:, at, :, V][held], wanted[:, at][held], **CLOSE)


def test_restoring_to_zero_is_the_knockout_and_to_its_own_mass_is_nothing(models):
    model = models[QWEN]
    tokens, mask, ids = inputs()
    with record(model, ids) as trace:
        plain = run(model, tokens, mask).logits[:, -1]
    with restore(model, ids, "V", trace.mass[..., V]):
        torch.testing.assert_close(run(model, tokens, mask).logits[:, -1], plain, **CLOSE)
    with block(model, ids, "V", layers=(2, 3)):
        cut = run(model, tokens, mask).logits[:, -1]
    with restore(model, ids, "V", torch.zeros(3, 3, 4), layers=(2, 3)):
        torch.testing.assert_close(run(model, tokens, mask).logits[:, -1], cut, **CLOSE)


def test_a_modality_that_is_absent_cannot_be_restored_and_nothing_moves(models):
    model = models[QWEN]
    tokens, mask, ids = inputs()
    plain = run(model, tokens, mask).logits[:, -1]
    with restore(model, ids, "A", torch.full((3, 3, 4), 0.5)):
        found = run(model, tokens, mask).logits[:, -1]
    assert torch.equal(found[1:], plain[1:]) and not torch.equal(found[0], plain[0])


def test_the_model_is_left_as_it_was(models):
    model = models[QWEN]
    tokens, mask, ids = inputs()
    before, plain = fingerprint(model), run(model, tokens, mask).logits
    with pytest.raises(ZeroDivisionError), block(model, ids, "V", queries="all"):
        run(model, tokens, mask)
        raise ZeroDivisionError
    assert fingerprint(model) == before and torch.equal(run(model, tokens, mask).logits, plain)


@pytest.mark.parametrize(
    ("blocks", "queries", "said"),
    [
        ([Block("TX")], "decision", "letters of TAV; got ['X']"),
        ([Block("T", 0)], "decision", "layers 0 to 3: the decoder has layers 1 to 3"),
        ([Block("T", 3, 2)], "decision", "layers 3 to 2"),
        ([Block("T", 1, 4)], "decision", "layers 1 to 4"),
        ([Block("T")], "some", "'decision', 'all' or marks (B, S); got 'some'"),
        ([Block("T")], torch.ones(3, 30), "queries is bool (3, 30)"),
        ([Block("T")], torch.ones(3, 29, dtype=torch.bool), "queries is bool (3, 30)"),
    ],
)
def test_what_cannot_be_blocked_is_said_before_the_model_runs(models, blocks, queries, said):
    with pytest.raises(ValueError) as raised:
        Blocking(models[QWEN], blocks, inputs()[2], queries)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("modality", "mass", "said"),
    [
        ("X", torch.ones(3, 3, 4), "modality is one of"),
        ("V", torch.ones(3, 4, 3), "mass is (B, L, H) = (B, 3, 4); got (3, 4, 3)"),
        ("V", torch.full((3, 3, 4), 1.5), "a share of attention in 0..1"),
        ("V", torch.full((3, 3, 4), torch.nan), "a share of attention in 0..1"),
    ],
)
def test_what_is_no_mass_is_said_before_the_model_runs(models, modality, mass, said):
    model = models[QWEN]
    with pytest.raises(ValueError) as raised, restore(model, inputs()[2], modality, mass):
        pass
    assert said in str(raised.value)
