"""Packing of whole groups against all ways to deal them out, and against an integer program."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import LinearConstraint, milp

from emomm_study.corpora.packing import pack

FEW = settings(max_examples=40, deadline=None)
RATIOS = st.sampled_from([(7, 1, 2), (2, 1, 1), (1, 1, 1), (8, 1, 1), (90, 5, 5)])


def sizes_of(parts, sizes):
    return np.array([sizes[np.asarray(parts) == p].sum() for p in range(3)])


def worst(found, ratios):
    """Largest deviation of a share from its ratio."""
    return np.abs(found / found.sum() - np.array(ratios) / sum(ratios)).max()


def strata(sizes, seed, kinds=4):
    rng = np.random.default_rng(seed)
    return np.array([rng.multinomial(n, rng.dirichlet(np.ones(kinds))) for n in sizes])


@FEW
@given(
    st.lists(st.integers(1, 60), min_size=3, max_size=8),
    RATIOS,
    st.sampled_from([0.0, 0.01, 0.05]),
    st.integers(0, 999),
)
def test_no_way_to_deal_groups_out_comes_nearer_unless_the_bound_is_kept(
    sizes, ratios, bound, seed
):
    counts, sizes = strata(sizes, seed), np.array(sizes)
    parts = pack(counts, ratios, bound)
    assert set(parts) == {0, 1, 2}
    everyway = (sizes_of(way, sizes) for way in product(range(3), repeat=len(sizes)))
    nearest = min(worst(found, ratios) for found in everyway if found.all())
    assert worst(sizes_of(parts, sizes), ratios) <= max(bound, nearest) + 1e-12


def nearest_by_program(sizes, ratios):
    """The least worst deviation, by an integer program over who is where."""
    n, share = len(sizes), np.array(ratios) / sum(ratios)
    cost = np.append(np.zeros(3 * n), 1.0)
    held = np.kron(np.eye(3), sizes / sizes.sum())
    one = np.hstack([np.kron(np.ones(3), np.eye(n)), np.zeros((n, 1))])
    someone = np.hstack([np.kron(np.eye(3), np.ones(n)), np.zeros((3, 1))])
    limits = [
        LinearConstraint(np.hstack([held, -np.ones((3, 1))]), -np.inf, share),
        LinearConstraint(np.hstack([held, np.ones((3, 1))]), share, np.inf),
        LinearConstraint(one, 1, 1),
        LinearConstraint(someone, 1, np.inf),
    ]
    whole = np.append(np.ones(3 * n), 0)
    found = milp(cost, integrality=whole, bounds=(0, 1), constraints=limits)
    assert found.success
    return found.fun


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(1, 400), min_size=10, max_size=13),
    st.integers(0, 4000),
    st.sampled_from([(7, 1, 2), (2, 1, 1)]),
)
def test_with_a_dominant_group_sizes_are_those_of_an_integer_program(sizes, large, ratios):
    sizes = np.array([*sizes, large + 1])
    parts = pack(strata(sizes, large), ratios, 0.0)
    nearest = nearest_by_program(sizes, ratios)
    assert worst(sizes_of(parts, sizes), ratios) <= nearest + 1e-6


@pytest.mark.parametrize("seed", range(8))
def test_an_exact_split_that_exists_is_found_within_the_bound_and_mixed(seed):
    rng = np.random.default_rng(seed)
    # Three parts of exactly 70, 10 and 20%, each cut into groups at random.
    sizes = []
    for total, groups in ((1400, 20), (200, 5), (400, 9)):
        cuts = np.sort(rng.choice(np.arange(1, total), groups - 1, replace=False))
        sizes += np.diff([0, *cuts, total]).tolist()
    sizes = np.array(sizes)
    counts = strata(sizes, seed, kinds=10)
    parts = pack(counts, (7, 1, 2), 0.01)
    assert worst(sizes_of(parts, sizes), (7, 1, 2)) <= 0.01
    mix = np.array([counts[parts == p].sum(0) for p in range(3)])
    apart = np.abs(mix / mix.sum(1, keepdims=True) - counts.sum(0) / counts.sum()).sum(1) / 2

    def by_size_alone(part):
        order = rng.permutation(len(sizes))
        found = order[np.cumsum(sizes[order]) <= part * sizes.sum()]
        own = counts[found].sum(0)
        return np.abs(own / own.sum() - counts.sum(0) / counts.sum()).sum() / 2

    chance = np.median([by_size_alone(0.2) for _ in range(50)])
    assert apart[2] < chance / 2


def test_the_order_of_strata_does_not_matter_and_nothing_is_left_to_chance():
    sizes = np.random.default_rng(0).integers(5, 60, 40)
    counts = strata(sizes, 1)
    parts = pack(counts, (7, 1, 2), 0.01)
    assert (pack(counts, (7, 1, 2), 0.01) == parts).all()
    assert (pack(counts[:, ::-1], (7, 1, 2), 0.01) == parts).all()
