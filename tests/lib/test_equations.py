"""CHASE's steering and the rows it acts on, against loops in float64, scipy and numpy."""

from __future__ import annotations

import itertools
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

from emomm_lib.attention.rows import Bias, biased, biased_kernel, brought, decision_scores
from emomm_lib.chase import equations as s

# After emomm_lib: beside a CPU build of torch they need it to be imported first.
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # isort: skip
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni  # isort: skip

T, A, V, OTHER = 0, 1, 2, -1
GROUPED = [(4, 4), (4, 2), (6, 1)]
quick = settings(max_examples=40, deadline=None)

shares = arrays(np.float64, 3, elements=st.floats(0, 1)).filter(lambda x: x.sum() > 1e-3)
distributions = shares.map(lambda x: x / x.sum())
availability = st.lists(st.booleans(), min_size=3, max_size=3).filter(any).map(np.array)


def tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def softmax(scores) -> np.ndarray:
    weights = [math.exp(x - max(scores)) for x in scores]
    return np.array(weights) / sum(weights)


@given(
    st.integers(0, 999), st.sampled_from(GROUPED), st.integers(1, 3), st.integers(1, 9),
    st.sampled_from([(1, 1), (2, 1), (1, 0), (2, 0)]), st.booleans(), st.booleans(),
)  # fmt: skip
@quick
def test_scores_and_what_they_bring_equal_loops_over_every_query_and_key(
    seed, heads, columns, keys, spread, additive, own
):
    h, groups = heads
    query, key = normal(seed, 2, h, columns, 5), normal(seed + 1, 2, groups, keys, 5)
    value, own_key = normal(seed + 2, 2, groups, keys, 4), normal(seed + 3, 2, groups, columns, 5)
    own_value = normal(seed + 4, 2, groups, columns, 4)
    visible = normal(seed + 5, spread[0], spread[1] or h, keys) > -0.3
    visible[..., -1] = True
    mask = torch.zeros(visible.shape).double().masked_fill(~visible, -1e30) if additive else visible
    mine = (own_key, own_value) if own else (None, None)
    scores = decision_scores(query, key, mask, 0.3, mine[0])
    attention = scores.softmax(-1)
    result = brought(attention, value, mine[1])
    seen = visible.expand(2, h, keys)
    for b, i, c in itertools.product(range(2), range(h), range(columns)):
        g = i // (h // groups)
        pairs = [(key[b, g, k], value[b, g, k], bool(seen[b, i, k])) for k in range(keys)]
        if own:
            pairs.append((own_key[b, g, c], own_value[b, g, c], True))
        at = [j for j, (_, _, there) in enumerate(pairs) if there]
        dots = [0.3 * sum(query[b, i, c, d] * pairs[j][0][d] for d in range(5)) for j in at]
        weights = softmax([float(x) for x in dots])
        np.testing.assert_allclose(scores[b, i, c, at], dots, atol=1e-12)
        assert attention[b, i, c].sum() == pytest.approx(float(attention[b, i, c, at].sum()))
        expected = sum(w * pairs[j][1].numpy() for w, j in zip(weights, at, strict=True))
        np.testing.assert_allclose(result[b, i, c], expected, atol=1e-12)


def test_scores_of_narrow_types_are_computed_in_float32_and_scaled_by_the_root_of_the_size():
    query, key = (normal(i, 1, 2, 1, 16).bfloat16() for i in range(2))
    scores = decision_scores(query, key, None, None)
    assert scores.dtype == torch.float32
    exact = (query.double() * key.double()).sum(-1) / 4
    torch.testing.assert_close(scores[..., 0].double(), exact, atol=1e-6, rtol=0)


def by_column(heads, modality, scale=None, marked=None, boost=None) -> Bias:
    """A bias from parts that have heads before columns, as attention has them."""
    turned = (None if x is None else x.transpose(1, 2) for x in (heads, modality, scale))
    return Bias(*turned, marked, boost)


def lift(beta: float, psi_hat: float):
    return lambda mass: beta * s.intra_bias(mass, psi_hat, 1e-6)


def steered(scores, modality, bias, scale, marked, beta, psi_hat) -> np.ndarray:
    """One row under Eq. 14 and 15, as they are written; -inf scores stay out."""
    attention = softmax(scores)
    psi = sum(a for a, m in zip(attention, marked, strict=True) if m)
    delta = math.log((psi_hat + 1e-6) / (psi + 1e-6)) if psi < psi_hat else 0.0
    changed = [
        scale * score + (bias[m] if m != OTHER else 0) + beta * delta * bool(mark)
        for score, m, mark in zip(scores, modality, marked, strict=True)
    ]
    return softmax(changed)


@given(
    st.integers(0, 999), st.integers(1, 3), st.integers(1, 8), st.booleans(), st.booleans(),
    st.floats(0.05, 0.95),
)  # fmt: skip
@quick
def test_biased_rows_equal_equation_15_and_unchosen_heads_keep_theirs(
    seed, columns, keys, scaled, marking, psi_hat
):
    rng = np.random.default_rng(seed)
    scores = normal(seed, 2, 3, columns, keys) * 2
    scores[:, :, :, 1:][tensor(rng.random((2, 3, columns, keys - 1)) < 0.2)] = -torch.inf
    ids = tensor(rng.integers(-1, 3, (2, keys)))
    heads = tensor(rng.random((2, 3, columns)) < 0.6)
    modality = normal(seed + 1, 2, 3, columns, 3)
    scale = tensor(rng.uniform(0.5, 2, (2, 3, columns))) if scaled else None
    marked = tensor(rng.random((2, columns, keys)) < 0.4) if marking else None
    bias = by_column(heads, modality, scale, marked, lift(0.5, psi_hat))
    one_hot = (ids[..., None] == torch.arange(3)).double()
    attention = scores.softmax(-1)
    rows, moved = biased(scores, attention, bias, one_hot, marked)
    for b, h, c in itertools.product(range(2), range(3), range(columns)):
        if not heads[b, h, c]:
            assert torch.equal(rows[b, h, c], attention[b, h, c]) and not moved[b, h, c]
            continue
        expected = steered(
            scores[b, h, c].tolist(), ids[b].tolist(), modality[b, h, c].tolist(),
            float(scale[b, h, c]) if scaled else 1.0,
            marked[b, c].tolist() if marking else [False] * keys, 0.5, psi_hat,
        )  # fmt: skip
        np.testing.assert_allclose(rows[b, h, c], expected, atol=1e-12)


def test_a_bias_of_nothing_moves_nothing_and_keeps_rows_to_the_bit():
    scores, one_hot = normal(0, 1, 2, 1, 6), torch.zeros(1, 6, 3).double()
    one_hot[0, :3, V] = 1
    attention = scores.softmax(-1)
    marked = one_hot[..., V].bool()[:, None]
    enough = Bias(torch.ones(1, 1, 2).bool(), torch.zeros(1, 1, 2, 3).double(),
                  torch.ones(1, 1, 2), marked, lift(0.5, 1e-6))  # fmt: skip
    rows, moved = biased(scores, attention, enough, one_hot, marked)
    assert torch.equal(rows, attention) and not moved.any()
    # A modality without a key has nothing to move either.
    absent = Bias(enough.heads, torch.tensor([2.0, 2.0, 0.0]).double().expand(1, 1, 2, 3))
    rows, moved = biased(scores, attention, absent, one_hot, None)
    assert torch.equal(rows, attention) and not moved.any()


def kernels(heads: int, groups: int):
    module = SimpleNamespace(num_key_value_groups=heads // groups, is_causal=True, training=False)
    eager = modeling_qwen2_5_omni.eager_attention_forward
    return {"sdpa": partial(sdpa_attention_forward, module), "eager": partial(eager, module)}


def prompts(seed: int, heads: int, groups: int, length: int, size: int = 6):
    """Two prompts of one length, the second left-padded by three; keys of every modality."""
    rng = np.random.default_rng(seed)
    query = normal(seed, 2, heads, length, size)
    key, value = normal(seed + 1, 2, groups, length, size), normal(seed + 2, 2, groups, length, 5)
    ids = tensor(rng.integers(-1, 3, (2, length)))
    ids[1, :3] = OTHER
    visible = torch.ones(length, length).tril().bool().repeat(2, 1, 1, 1)
    visible[1, :, :, :3] = False
    # As transformers has it: a padded query sees something, whatever it be.
    visible[1, :, :3] = True
    marked = (ids == V) & tensor(rng.random((2, length)) < 0.6)
    return query, key, value, ids, visible, marked


@pytest.mark.parametrize("base", ["sdpa", "eager"])
@pytest.mark.parametrize("heads", GROUPED)
@pytest.mark.parametrize("extras", ["none", "marked", "scaled", "both", "unmasked"])
def test_the_kernels_columns_equal_a_bias_matrix_on_every_query_with_its_own_psi(
    base, heads, extras
):
    h, groups = heads
    length, beta, psi_hat = 9, 0.5, 0.4
    query, key, value, ids, visible, marked = prompts(3, h, groups, length)
    if extras == "unmasked":
        visible = torch.ones(length, length).tril().bool().repeat(2, 1, 1, 1)
    mask = (
        visible
        if base == "sdpa"
        else torch.zeros(visible.shape).double().masked_fill(~visible, -1e300)
    )
    if extras == "unmasked" and base == "sdpa":
        mask = None
    on = marked if extras in ("marked", "both", "unmasked") else None
    scale = normal(9, 2, h, 1).exp() if extras in ("scaled", "both") else None
    modality = normal(5, 2, h, 1, 3)
    chosen = normal(6, 2, h, 1) > -0.5
    marked = None if on is None else on[:, None]
    bias = by_column(chosen, modality, scale, marked, lift(beta, psi_hat))
    one_hot = (ids[..., None] == torch.arange(3)).double()
    output, moved = biased_kernel(
        kernels(h, groups)[base], query, key, value, mask, bias, one_hot, on, scaling=0.4
    )
    assert output.shape == (2, length, h, 5)
    assert torch.equal(moved, chosen[..., 0])
    lifted = 0
    for b, i, q in itertools.product(range(2), range(h), range(length)):
        at = [k for k in range(length) if visible[b, 0, q, k]]
        scores = [0.4 * float(query[b, i, q] @ key[b, i // (h // groups), k]) for k in at]
        on_row = [on is not None and bool(on[b, k]) for k in at]
        lifted += sum(softmax(scores)[on_row]) < psi_hat if any(on_row) else 0
        weights = steered(
            scores, [int(ids[b, k]) for k in at], modality[b, i, 0].tolist(),
            1.0 if scale is None else float(scale[b, i, 0]), on_row, beta, psi_hat,
        )  # fmt: skip
        expected = sum(
            w * value[b, i // (h // groups), k] for w, k in zip(weights, at, strict=True)
        )
        # transformers' eager attention takes its softmax in float32.
        tolerance = 1e-12 if base == "sdpa" else 2e-6
        np.testing.assert_allclose(output[b, q, i], expected, atol=tolerance)
    # Or psi would not have mattered.
    assert on is None or lifted > 0


def test_a_head_that_neither_bias_nor_scale_nor_lift_touches_is_not_moved():
    query, key, value, ids, visible, marked = prompts(0, 4, 2, 8)
    # Every query sees one token of S_v, so that none is below a psi-hat of almost nothing.
    marked[:] = torch.arange(8) == 3
    visible[..., 3] = True
    one_hot = (ids[..., None] == torch.arange(3)).double()
    modality, scale = torch.zeros(2, 4, 1, 3).double(), torch.ones(2, 4, 1).double()
    modality[:, 1, :, A] = 0.3
    scale[:, 2] = 0.5
    every = torch.ones(2, 4, 1).bool()
    kernel = kernels(4, 2)["sdpa"]
    for psi_hat, expected in ((1e-9, [False, True, True, False]), (1.0, [True] * 4)):
        bias = by_column(every, modality, scale, marked[:, None], lift(0.5, psi_hat))
        args = (kernel, query, key, value, visible, bias, one_hot, marked)
        assert biased_kernel(*args, scaling=None)[1].tolist() == [expected] * 2


def test_the_fast_kernel_adds_a_bias_that_bfloat16_cannot_hold_to_a_tenth_of_its_rounding():
    # Halfway between two of its numbers, and twice that once divided by the scaling.
    added = -(4 + 2**-6)
    query, key = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    value = torch.eye(4)[None, None]
    one_hot = torch.zeros(1, 4, 3)
    one_hot[0, 0, V] = 1
    modality = torch.tensor([0.0, 0.0, added]).expand(1, 1, 1, 3)
    bias = Bias(torch.ones(1, 1, 1).bool(), modality)
    mask = torch.ones(1, 1, 4, 4).bool()
    narrow = (x.bfloat16() for x in (query, key, value))
    kernel = kernels(1, 1)["sdpa"]
    output, _ = biased_kernel(kernel, *narrow, mask, bias, one_hot, None, scaling=0.5)
    exact = math.exp(added) / (math.exp(added) + 3)
    # The weight itself comes back in bfloat16; the bias alone would have been off by 2**-6.
    assert float(output[0, 0, 0, 0]) == pytest.approx(exact, rel=2**-8 + 2**-6 / 10)


@given(distributions, distributions, st.floats(1e-12, 1e-3))
@quick
def test_kl_is_scipys_relative_entropy_to_q_plus_epsilon(p, q, epsilon):
    actual = float(s.kl_divergence(tensor(p), tensor(q), epsilon))
    assert actual == pytest.approx(rel_entr(p, q + epsilon).sum(), abs=1e-12)


@given(distributions, distributions)
@quick
def test_jsd_is_the_mean_divergence_to_the_middle_symmetric_and_within_0_and_log_2(p, q):
    one, two = tensor(p), tensor(q)
    exact = float(s.js_divergence(one, two, 0.0))
    halves = [rel_entr(x, (p + q) / 2).sum() / 2 for x in (p, q)]
    assert exact == pytest.approx(sum(halves), abs=1e-12)
    assert exact == pytest.approx(float(s.js_divergence(two, one, 0.0)), abs=1e-15)
    assert -1e-15 <= exact <= math.log(2) + 1e-15
    # Each of up to six terms p log(m + epsilon) with m >= p / 2 is off by 2 epsilon at most.
    assert exact - 6e-8 - 1e-15 <= float(s.js_divergence(one, two)) <= exact + 1e-15


def test_jsd_is_the_square_of_scipys_jensen_shannon_distance():
    # Away from equal distributions, whose distance scipy may round to nan.
    for p, q in np.random.default_rng(0).dirichlet([1, 1, 1], (50, 2)):
        actual = float(s.js_divergence(tensor(p), tensor(q), 0.0))
        assert actual == pytest.approx(jensenshannon(p, q) ** 2, rel=1e-9)


def test_jsd_of_equal_distributions_is_0_and_of_disjoint_ones_log_2():
    one, two = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]]).double()
    assert float(s.js_divergence(one, one)) == pytest.approx(0, abs=1e-7)
    assert float(s.js_divergence(one, two)) == pytest.approx(math.log(2), abs=1e-7)


@given(
    arrays(np.float64, (2, 3), elements=st.floats(1e-30, 1)), availability,
    st.sampled_from(["softmax", "share"]), st.floats(0.01, 100),
)  # fmt: skip
@quick
def test_a_preference_sums_to_one_over_present_modalities_whatever_absent_ones_hold(
    nmas, present, kind, other
):
    pi = s.preference(tensor(nmas), tensor(present), kind).numpy()
    np.testing.assert_allclose(pi.sum(-1), 1, atol=1e-12)
    assert (pi[:, ~present] == 0).all()
    for row, result in zip(nmas, pi, strict=True):
        weight = [math.exp(x) if kind == "softmax" else x for x in row[present]]
        np.testing.assert_allclose(result[present], np.array(weight) / sum(weight), atol=1e-12)
    for filling in (np.nan, other, np.inf):
        changed = np.where(present, nmas, filling)
        assert (s.preference(tensor(changed), tensor(present), kind).numpy() == pi).all()


def test_without_any_modality_there_is_no_preference():
    nothing = torch.zeros(3).bool()
    for kind in ("softmax", "share"):
        assert (s.preference(torch.rand(4, 3), nothing, kind) == 0).all()


@given(arrays(np.float64, 3, elements=st.floats(1e-9, 1e-3)), availability, st.floats(1e-6, 1e6))
@quick
def test_the_printed_softmax_is_uniform_on_small_scores_where_the_share_ignores_their_scale(
    nmas, present, factor
):
    there = tensor(present)
    literal = s.preference(tensor(nmas), there, "softmax").numpy()
    np.testing.assert_allclose(literal[present], 1 / present.sum(), atol=1e-3)
    share = s.preference(tensor(nmas), there, "share")
    scaled = s.preference(tensor(nmas * factor), there, "share")
    torch.testing.assert_close(share, scaled, atol=1e-12, rtol=0)


@given(distributions, distributions, st.floats(0, 1))
@quick
def test_a_target_preference_is_a_distribution_between_the_heads_and_the_gate(pi, gate, strength):
    target = s.target_preference(tensor(pi), tensor(gate), tensor(strength)).numpy()
    assert target.sum() == pytest.approx(1)
    assert (target >= np.minimum(pi, gate) - 1e-15).all()
    assert (target <= np.maximum(pi, gate) + 1e-15).all()
    np.testing.assert_allclose(target - pi, strength * (gate - pi), atol=1e-15)


@given(distributions, distributions, st.floats(0, 1))
@quick
def test_the_inter_modality_bias_is_the_log_ratio_and_0_without_strength(pi, gate, strength):
    target = strength * gate + (1 - strength) * pi
    bias = s.inter_bias(tensor(target), tensor(pi), 1e-6).numpy()
    for m in range(3):
        assert bias[m] == pytest.approx(math.log(target[m] + 1e-6) - math.log(pi[m] + 1e-6))
    still = s.target_preference(tensor(pi), tensor(gate), torch.zeros(()).double())
    assert (s.inter_bias(still, tensor(pi), 1e-6) == 0).all()


def masses(attention, ids) -> np.ndarray:
    return np.array([attention[ids == m].sum() for m in (T, A, V, OTHER)])


rows = st.integers(0, 999).map(
    lambda seed: (normal(seed, 12).numpy() * 2, np.random.default_rng(seed).permutation(12) % 4 - 1)
)


@given(rows, distributions, st.floats(0, 1), st.floats(0, 3), st.sampled_from(["softmax", "share"]))
@quick
def test_under_the_bias_a_modalitys_odds_to_any_other_change_by_the_ratio_of_ratios(
    row, gate, strength, gamma, kind
):
    """Mass is multiplied by (pi-hat / pi)^gamma and normalised; other tokens by 1."""
    scores, ids = row
    before = masses(softmax(scores), ids)
    nmas = before[:3] / [(ids == m).sum() for m in (T, A, V)]
    pi = s.preference(tensor(nmas), torch.ones(3).bool(), kind)
    target = s.target_preference(pi, tensor(gate), tensor(strength))
    bias = gamma * s.inter_bias(target, pi, 1e-6).numpy()
    after = masses(softmax(scores + np.append(bias, 0)[ids]), ids)
    factor = ((target.numpy() + 1e-6) / (pi.numpy() + 1e-6)) ** gamma
    for m, n in itertools.combinations(range(3), 2):
        moved = after[m] * before[n] / (after[n] * before[m])
        assert moved == pytest.approx(factor[m] / factor[n], rel=1e-9)
    for m in range(3):
        moved = after[m] * before[3] / (after[3] * before[m])
        assert moved == pytest.approx(factor[m], rel=1e-9)


@given(rows, distributions, st.floats(0, 1))
@quick
def test_with_shares_and_gamma_1_the_steered_row_prefers_exactly_the_target(row, gate, strength):
    scores, ids = row
    count = np.array([(ids == m).sum() for m in (T, A, V)])
    before = tensor(masses(softmax(scores), ids)[:3] / count)
    pi = s.preference(before, torch.ones(3).bool(), "share")
    target = s.target_preference(pi, tensor(gate), tensor(strength))
    bias = s.inter_bias(target, pi, 1e-15).numpy()
    after = masses(softmax(scores + np.append(bias, 0)[ids]), ids)[:3] / count
    np.testing.assert_allclose(after / after.sum(), target.numpy(), atol=1e-9)


@given(
    arrays(np.float64, (2, 6, 3), elements=st.sampled_from([0.0, 0.1, 0.2, 0.3])),
    st.lists(st.integers(0, 8), min_size=3, max_size=3),
)
@quick
def test_top_heads_are_the_k_largest_and_the_first_of_equals(score, k):
    score = np.swapaxes(score, 1, 2)
    chosen = s.top_heads(tensor(score), torch.tensor(k)).numpy()
    for b, c in itertools.product(range(2), range(3)):
        best = sorted(range(6), key=lambda h: (-score[b, c, h], h))[: k[c]]
        assert np.flatnonzero(chosen[b, c]).tolist() == sorted(best)
        assert chosen[b, c].sum() == min(k[c], 6)
    one = s.top_heads(tensor(score), torch.tensor(k[0]))
    assert torch.equal(one[:, 0], tensor(chosen[:, 0]))


@given(st.floats(0, 1), st.floats(1e-6, 1), st.floats(1e-9, 1e-2))
@quick
def test_the_intra_modality_bias_is_positive_below_psi_hat_and_0_from_there_on(
    mass, psi_hat, epsilon
):
    # Closer than that, the logarithm of their ratio is rounding.
    assume(mass >= psi_hat or mass < psi_hat - 1e-12)
    delta = float(s.intra_bias(tensor(mass), psi_hat, epsilon))
    if mass >= psi_hat:
        assert delta == 0
    else:
        assert delta > 0
        assert delta == pytest.approx(math.log(psi_hat + epsilon) - math.log(mass + epsilon))


@given(rows, st.floats(0.01, 1))
@quick
def test_beta_1_multiplies_the_odds_of_the_significant_tokens_and_stays_below_psi_hat(row, psi_hat):
    scores, ids = row
    marked = np.where(ids == V)[0][:2]
    psi = softmax(scores)[marked].sum()
    assume(psi < psi_hat)
    delta = float(s.intra_bias(tensor(psi), psi_hat, 1e-6))
    changed = scores.copy()
    changed[marked] += delta
    after = softmax(changed)[marked].sum()
    factor = (after / (1 - after)) / (psi / (1 - psi))
    assert factor == pytest.approx((psi_hat + 1e-6) / (psi + 1e-6), rel=1e-9)
    assert psi < after <= psi_hat


@given(
    st.integers(0, 999), st.integers(1, 60), st.booleans(), st.sampled_from(["f4", "f8"]),
    st.lists(st.one_of(st.integers(0, 100), st.floats(0, 100)), min_size=1, max_size=3),
)  # fmt: skip
@quick
def test_significant_tokens_are_those_from_numpys_percentile_on(seed, size, ties, dtype, percent):
    rng = np.random.default_rng(seed)
    importance = rng.integers(0, 4, (3, size)) if ties else rng.gamma(1, 1e-3, (3, size))
    importance = importance.astype(dtype)
    visual = rng.random((3, size)) < 0.7
    visual[2] = False
    chosen = s.significant_tokens(
        tensor(importance), tensor(visual), torch.tensor(percent, dtype=torch.double)
    ).numpy()
    assert chosen.shape == (3, len(percent), size)
    assert not chosen[2].any()
    for b, c in itertools.product(range(2), range(len(percent))):
        if not visual[b].any():
            assert not chosen[b, c].any()
            continue
        among = importance[b, visual[b]].astype(np.float64)
        threshold = np.percentile(among, percent[c])
        # A token that stands on the threshold itself, but for rounding, may fall on either side.
        near = np.abs(importance[b] - threshold) <= 1e-6 * max(abs(threshold), 1e-12)
        clear = visual[b] & ~near
        np.testing.assert_array_equal(chosen[b, c][clear], importance[b][clear] > threshold)
        assert not chosen[b, c][~visual[b]].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("percent", [0, 10, 20, 25, 30, 50, 60, 70, 75, 80, 90, 95, 99, 100])
def test_a_token_that_stands_exactly_on_the_percentile_is_significant(dtype, percent):
    """Rank P (n - 1) / 100 is whole: one token of the n is the threshold, and n - rank remain."""
    for steps in (20, 40, 100, 300, 1000):
        if steps * percent % 100:
            continue
        order = torch.randperm(steps + 1, generator=torch.Generator().manual_seed(steps))
        importance = (order / steps)[None]
        visual = torch.ones_like(importance).bool()
        at = torch.tensor([float(percent)])
        chosen = s.significant_tokens(importance.to(dtype), visual, at)
        assert int(chosen.sum()) == steps + 1 - steps * percent // 100, f"{steps + 1} tokens"


def test_normalising_importance_first_changes_no_significant_token():
    importance = normal(0, 2, 40).abs()
    visual = normal(1, 2, 40) > 0
    known = torch.where(visual, importance, 0.0)
    normalised = known / known.sum(1, keepdim=True)
    for percent in (0.0, 37.0, 80.0, 99.0):
        at = torch.tensor([percent]).double()
        one, two = (s.significant_tokens(x, visual, at) for x in (importance, normalised))
        assert torch.equal(one, two)


BAD = [math.nan, math.inf, -math.inf, -1e-9]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_importance_that_is_missing_infinite_or_negative_is_refused_by_its_row(bad, dtype):
    importance, visual = normal(0, 3, 8).abs().to(dtype), torch.ones(3, 8, dtype=torch.bool)
    importance[1, 5] = importance[1, 6] = importance[2, 0] = bad
    at = torch.tensor([80.0])
    with pytest.raises(ValueError, match=r"row 1 .* position 5 \(2 such tokens, in 2 rows\)"):
        s.significant_tokens(importance, visual, at)
    # What stands on other tokens has no part in S_v.
    visual[1, 5:7] = visual[2, 0] = False
    assert s.significant_tokens(importance, visual, at)[:, 0].sum(1).tolist() == [2, 2, 2]


@pytest.mark.parametrize("percentile", [math.nan, -0.1, 100.1, math.inf])
def test_a_percentile_out_of_range_is_refused(percentile):
    with pytest.raises(ValueError, match="percentile is in"):
        s.significant_tokens(torch.ones(1, 4), torch.ones(1, 4).bool(), torch.tensor([percentile]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.2, 0.0])
def test_a_lift_to_nowhere_is_refused(bad):
    mass = torch.tensor([0.1, 0.9])
    for name, given_ in (("psi_hat", (bad, 1e-6)), ("epsilon", (0.3, bad))):
        for values in (given_, tuple(torch.tensor([v, v]) for v in given_)):
            with pytest.raises(ValueError, match=f"{name} is positive"):
                s.intra_bias(mass, *values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_what_is_no_probability_routes_nothing(bad):
    p, g = torch.full((2, 3), 0.8), torch.full((2, 3, 3), 1 / 3)
    assert s.checked_route(p, g, 4) == (p, g)
    for name, at, values in (("conflict", (1, 2), p), ("gate", (1, 2, 0), g)):
        values[at] = bad
        with pytest.raises(ValueError, match=f"{name} .*layer 4, row 1 .*column 2"):
            s.checked_route(p, g, 4)
        values[at] = 0.5


@given(distributions)
@quick
def test_the_other_rules_spare_the_gates_first_modality(gate):
    by_gate = s.gate_bias(tensor(gate), 1e-6).numpy()
    first = int(np.argmax(gate))
    np.testing.assert_allclose(by_gate, np.log((gate + 1e-6) / (gate[first] + 1e-6)), atol=1e-12)
    assert by_gate[first] == 0 and (by_gate <= 0).all()
    assert s.first_bias(tensor(gate)).tolist() == [-1.0 + (m == first) for m in range(3)]


# Subnormal numbers lose digits in any division, which is not the gate's doing.
normal_gates = distributions.filter(lambda x: x[x > 0].min() > 1e-290)


@given(normal_gates, st.floats(0.01, 1000))
@quick
def test_a_sharpened_gate_is_a_distribution_whose_ratios_are_to_the_power(gate, power):
    sharp = s.sharpened(tensor(gate), power).numpy()
    assert sharp.sum() == pytest.approx(1, abs=1e-12)
    first = int(np.argmax(gate))
    for m in range(3):
        logarithm = power * (math.log(gate[m]) - math.log(gate[first])) if gate[m] else -math.inf
        assert sharp[m] / sharp[first] == pytest.approx(math.exp(logarithm), rel=1e-9, abs=1e-300)
    np.testing.assert_allclose(s.sharpened(tensor(gate), 1.0), gate, atol=1e-15)


def test_a_gate_of_nothing_stays_so_when_sharpened():
    assert (s.sharpened(torch.zeros(2, 3), 2.0) == 0).all()


def test_published_defaults_are_those_of_section_6_1():
    config = s.SteeringConfig.at_published_depth(28)
    published = {"first_layer": 13, "tau": 0.7, "eta": 0.6, "top_k": 4, "gamma": 1.4, "beta": 0.5}
    assert {name: getattr(config, name) for name in published} == published
    assert (config.rule, config.heads) == ("preference", None)
    assert (config.sharpness, config.temperature) == (1.0, 1.0)
    assert s.SteeringConfig(first_layer=13) == config


@pytest.mark.parametrize("layers", range(1, 65))
def test_the_first_layer_is_at_the_published_fraction_of_any_depth(layers):
    first = s.SteeringConfig.at_published_depth(layers).first_layer
    assert 1 <= first <= layers
    assert abs(first - layers * 13 / 28) <= 0.5 or first == 1


def test_changes_to_the_published_configuration_are_taken_over():
    config = s.SteeringConfig.at_published_depth(28, beta=0.0, first_layer=20, scope="all")
    assert (config.beta, config.first_layer, config.scope, config.gamma) == (0.0, 20, "all", 1.4)


REFUSED = [
    ("first_layer", 0), ("top_k", -1), ("tau", -0.1), ("tau", 1.1), ("eta", -0.1), ("eta", 1.01),
    ("gamma", -1.0), ("beta", -0.5), ("psi_hat", -0.1), ("psi_hat", 0.0), ("psi_hat", 1.5),
    ("percentile", -1.0), ("percentile", 100.5), ("epsilon_a", 0.0), ("epsilon_b", 0.0),
    ("epsilon_b", -1.0), ("temperature", 0.0), ("sharpness", 0.0), ("preference", "mass"),
    ("scope", "prompt"), ("rule", "last"), ("tau", math.nan), ("gamma", math.nan),
    ("epsilon_a", math.nan), ("percentile", math.nan), ("psi_hat", math.nan), ("beta", math.nan),
    ("gamma", math.inf), ("beta", math.inf), ("top_k", math.inf), ("first_layer", math.inf),
    ("epsilon_b", math.inf), ("temperature", math.inf), ("sharpness", math.nan), ("tau", math.inf),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), REFUSED)
def test_a_value_out_of_range_is_refused_by_field_and_value(field, value):
    with pytest.raises(ValueError, match=rf"{field} .*got '?{value}'?"):
        s.SteeringConfig(**({"first_layer": 1} | {field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("top_k", 0), ("tau", 0.0), ("tau", 1.0), ("eta", 0.0), ("eta", 1.0), ("gamma", 0.0),
     ("beta", 0.0), ("psi_hat", 1.0), ("percentile", 0.0), ("percentile", 100.0)],
)  # fmt: skip
def test_the_ends_of_a_range_belong_to_it(field, value):
    assert getattr(s.SteeringConfig(**({"first_layer": 1} | {field: value})), field) == value
