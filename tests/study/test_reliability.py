"""Calibration of p and the gate's first choice, against scikit-learn and loops."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.calibration import calibration_curve

from emomm_lib import Bootstrap
from emomm_study.evaluate.routing import (
    expected_calibration_error,
    gate_top1,
    reliability,
    trust_by_chance,
)

FEW = {"bootstrap": Bootstrap(50)}
TAU = 0.6


@given(st.integers(0, 10_000), st.integers(1, 15))
@settings(max_examples=30, deadline=None)
def test_a_reliability_table_is_scikit_learns_calibration_curve(seed, bins):
    rng = np.random.default_rng(seed)
    p = np.concatenate([rng.random(60), rng.integers(0, bins + 1, 20) / bins, [0.0, 1.0]])
    y = rng.random(len(p)) < p
    table = reliability(p, y, bins)
    observed, predicted = calibration_curve(y, p, n_bins=bins)
    np.testing.assert_allclose(table["observed"], observed)
    np.testing.assert_allclose(table["predicted"], predicted)
    assert table["n"].sum() == len(p)
    inside = table["predicted"].between(table["low"] - 1e-12, table["high"] + 1e-12)
    assert inside.all() and np.allclose(table["high"] - table["low"], 1 / bins)


def test_calibration_error_of_two_bins_by_hand():
    table = reliability([0.1, 0.3, 0.5, 0.9], [0, 1, 1, 0], bins=2)
    # 0.5 belongs to the lower bin: 0.3 predicted and 2/3 observed in three of four.
    expected = pd.DataFrame({"low": [0.0, 0.5], "high": [0.5, 1.0], "predicted": [0.3, 0.9],
                             "observed": [2 / 3, 0.0], "n": [3, 1]})  # fmt: skip
    pd.testing.assert_frame_equal(table, expected)
    assert expected_calibration_error(table) == pytest.approx((3 * (2 / 3 - 0.3) + 0.9) / 4)


@pytest.mark.parametrize(
    ("p", "y"), [([1.1], [1]), ([-0.1], [0]), ([np.nan], [1]), ([0.5, 0.5], [1])]
)
def test_what_is_no_probability_of_an_outcome_is_refused(p, y):
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\]"):
        reliability(p, y)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_a_gates_first_choice_is_judged_as_a_loop_does(shape):
    rng = np.random.default_rng(2)
    present = rng.random((40, 3)) < 0.7
    right = (rng.random((40, 3)) < 0.5) & present
    gate = rng.random((len(right), *shape, 3)) * present.reshape(len(right), *[1] * len(shape), 3)
    found = gate_top1(gate, right, present)
    assert found.shape == (len(right), *shape)
    for where in np.ndindex(found.shape):
        i = where[0]
        best = max(range(3), key=lambda m: gate[where][m])
        correct, held = right[i].sum(), present[i].sum()
        if 0 < correct < held:
            assert found[where] == float(right[i][best])
        else:
            assert np.isnan(found[where])


@pytest.mark.parametrize("seed", range(5))
def test_chance_is_what_a_modality_drawn_at_random_is_right_in_where_some_are_wrong(seed):
    rng = np.random.default_rng(seed)
    present = np.ones((60, 3), bool)
    present[np.arange(0, 60, 2), rng.integers(0, 3, 30)] = False
    right = (rng.random((60, 3)) < 0.5) & present
    shares = []
    for row, there in zip(right, present, strict=True):
        own = [bool(r) for r, t in zip(row, there, strict=True) if t]
        if any(own) and not all(own):
            shares.append(sum(own) / len(own))
    states = SimpleNamespace(present=torch.from_numpy(present))
    found = trust_by_chance(states, SimpleNamespace(right=torch.from_numpy(right)))
    assert found == pytest.approx(sum(shares) / len(shares))
    nobody = SimpleNamespace(right=torch.zeros(60, 3, dtype=torch.bool))
    assert np.isnan(trust_by_chance(states, nobody))
