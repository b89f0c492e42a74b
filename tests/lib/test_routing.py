"""Table 6 and calibration against loops over prompts and layers, and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from emomm_lib import Bootstrap
from emomm_lib.metrics.routing import TABLE6, routing_metrics

FEW = {"bootstrap": Bootstrap(50)}
TAU = 0.6


def prompts(seed, count=40, layers=5, first_layer=3):
    """p, g, r_m and presence of prompts with two or three modalities; NaN before l_r."""
    rng = np.random.default_rng(seed)
    present = np.ones((count, 3), bool)
    for i in range(0, count, 2):
        present[i, rng.integers(3)] = False
    right = (rng.random((count, 3)) < 0.5) & present
    p = rng.random((count, layers))
    g = rng.dirichlet(np.ones(3), (count, layers)) * present[:, None]
    p[:, : first_layer - 1], g[:, : first_layer - 1] = np.nan, np.nan
    return p, g / g.sum(-1, keepdims=True), right, present


def by_loop(p, g, right, present, tau):
    """Recall, top-1 and joint success, a prompt and a layer at a time."""
    conflicts = caught = layers = hits = joint = 0
    for i in range(len(p)):
        own = [m for m in range(3) if present[i][m]]
        correct = [m for m in own if right[i][m]]
        if not correct or len(correct) == len(own):
            continue
        conflicts += 1
        steered = [k for k in range(len(p[i])) if not np.isnan(p[i][k]) and p[i][k] > tau]
        layers += len(steered)
        hits += sum(max(range(3), key=lambda m: g[i][k][m]) in correct for k in steered)
        if steered:
            caught += 1
            mean = [sum(g[i][k][m] for k in steered) / len(steered) for m in range(3)]
            joint += max(range(3), key=mean.__getitem__) in correct
    top1 = hits / layers if layers else np.nan
    return dict(zip(TABLE6, (caught / conflicts, top1, joint / conflicts), strict=True)), conflicts


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, TAU, 0.9]))
@settings(max_examples=30, deadline=None)
def test_table_6_is_what_a_loop_over_prompts_and_layers_counts(seed, tau):
    given_ = prompts(seed)
    found = routing_metrics(*given_, tau, **FEW)
    expected, conflicts = by_loop(*given_, tau)
    for name in TABLE6:
        assert found[name].value == pytest.approx(expected[name], nan_ok=True)
        assert found[name].n == conflicts


def test_joint_success_is_not_recall_times_top1():
    # A: steered in one layer of two, right there. B: in both, right in one, wrong on the mean.
    # C: a conflict that is not caught. D agrees, E has no modality that is right: neither counts.
    nan = np.nan
    p = [[nan, 0.9, 0.2], [nan, 0.8, 0.7], [nan, 0.5, 0.6], [nan, 0.9, 0.9], [nan, 0.9, 0.9]]
    text, video, torn = (0.8, 0.1, 0.1), (0.1, 0.0, 0.9), (0.4, 0.3, 0.3)
    none = (nan,) * 3
    g = [[none, text, video], [none, torn, video], [none, text, text], [none, text, text],
         [none, text, text]]  # fmt: skip
    right = [[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]]
    found = routing_metrics(p, g, right, np.ones((5, 3)), TAU, **FEW)
    # p = tau is not above it. Layers steered in conflicts: A's one, B's two; two of them right.
    assert found["conflict_recall"].value == pytest.approx(2 / 3)
    assert found["target_top1"].value == pytest.approx(2 / 3)
    assert found["joint_success"].value == pytest.approx(1 / 3)
    assert {found[name].n for name in TABLE6} == {3}


def test_where_nothing_is_steered_recall_is_0_and_top1_unknown():
    found = routing_metrics(*prompts(0), 1.0, **FEW)
    assert found["conflict_recall"].value == 0 and found["joint_success"].value == 0
    top1 = found["target_top1"]
    assert np.isnan([top1.value, top1.low, top1.high]).all()


def test_what_the_gate_says_in_layers_that_are_not_steered_changes_nothing():
    p, g, right, present = prompts(4)
    other = np.where((p > TAU)[..., None], g, np.random.default_rng(0).random(g.shape))
    assert routing_metrics(p, other, right, present, TAU) == routing_metrics(
        p, g, right, present, TAU
    )


def test_prompts_that_are_no_conflict_or_have_no_target_leave_no_trace():
    p, g, right, present = prompts(7)
    kept = [0 < r.sum() < t.sum() for r, t in zip(right, present, strict=True)]
    assert 0 < sum(kept) < len(p)
    part = [x[kept] for x in (p, g, right, present)]
    assert routing_metrics(*part, TAU) == routing_metrics(p, g, right, present, TAU)


def test_table_6_of_no_conflict_is_not_a_number_of_no_prompt():
    p, g, right, present = prompts(7)
    outside = [not 0 < r.sum() < t.sum() for r, t in zip(right, present, strict=True)]
    found = routing_metrics(*(x[outside] for x in (p, g, right, present)), TAU)
    assert [*found] == [*TABLE6] and {interval.n for interval in found.values()} == {0}
    assert np.isnan([(i.value, i.low, i.high) for i in found.values()]).all()


def test_copies_of_a_clips_prompts_narrow_no_interval_of_table_6():
    given_ = prompts(11)
    clips = np.array([f"c{i:02d}" for i in range(len(given_[0]))])
    once = routing_metrics(*given_, TAU, clusters=clips)
    copies = [np.concatenate([x] * 3) for x in given_]
    thrice = routing_metrics(*copies, TAU, clusters=np.concatenate([clips] * 3))
    for name in TABLE6:
        a, b = once[name], thrice[name]
        assert (b.value, b.low, b.high) == pytest.approx((a.value, a.low, a.high))
        assert a.low < a.value < a.high and b.n == 3 * a.n
