import numpy as np
import pandas as pd
import pytest
import torch
from attention_tables import made, shares_by_loops
from hypothesis import given, settings, strategies as st
from scipy.stats import bootstrap

import emomm_lib as m
from emomm_lib.chase.equations import preference
from emomm_lib.labels import COALITIONS

pytestmark = pytest.mark.filterwarnings("error")
PAIRS = ("TA", "TV", "AV", "TAV")


@pytest.fixture(scope="module")
def both():
    return made()


def test_nmas_is_mass_over_tokens_and_nan_where_a_modality_is_absent(both):
    _, traces = both
    nmas = traces.nmas()
    i = int(np.flatnonzero(traces.index["coalition"] == "TV")[0])
    assert nmas[i, 2, 1, 2] == pytest.approx(traces.mass[i, 2, 1, 2] / traces.counts[i, 2])
    absent = traces.counts == 0
    assert (np.isnan(nmas).all(axis=(1, 2)) == absent).all()
    assert not np.isnan(nmas).any(axis=(1, 2))[~absent].any()


def test_layer_shares_equal_loops_over_clips_layers_heads(both):
    _, traces = both
    np.testing.assert_allclose(m.layer_shares(traces), shares_by_loops(traces), rtol=1e-6)
    np.testing.assert_allclose(m.layer_nmas(traces), traces.nmas().mean(axis=2), rtol=1e-6)


def budget_by_loops(mass, counts):
    layers, heads, _ = mass.shape
    budget = np.full((layers, 3), np.nan)
    at = [k for k in range(3) if counts[k]]
    for layer in range(layers):
        own = []
        for head in range(heads):
            density = {k: mass[layer, head, k] / counts[k] for k in at}
            total = sum(density.values())
            own.append({k: density[k] / total if total else 0.0 for k in at})
        for k in at:
            budget[layer, k] = sum(shares[k] for shares in own) / heads
    return budget


def test_the_budget_is_the_mean_of_each_heads_shares(both):
    _, traces = both
    found = m.layer_budget(traces.mass, traces.counts)
    assert found.shape == (len(traces), 3, 3)
    for i in range(len(traces)):
        expected = budget_by_loops(traces.mass[i].astype(float), traces.counts[i])
        np.testing.assert_allclose(found[i], expected, rtol=1e-12)
        np.testing.assert_array_equal(m.layer_budget(traces.mass[i], traces.counts[i]), found[i])


def test_the_budget_is_the_papers_preference_of_a_layer_in_shares(both):
    _, traces = both
    present = torch.from_numpy(traces.counts > 0)[:, None, None]
    per_head = preference(torch.from_numpy(traces.nmas()), present, "share")
    budget = np.nan_to_num(m.layer_budget(traces.mass, traces.counts))
    np.testing.assert_allclose(per_head.mean(2).numpy(), budget, atol=1e-12)


def test_budget_and_shares_part_ways_where_heads_disagree_and_one_attends_more():
    index = pd.DataFrame({"sample_id": ["x"], "coalition": ["TV"]})
    counts = np.array([[10, 0, 20]])
    # One head looks hard at text, one a little at video.
    mass = np.array([[[[0.8, 0, 0.2], [0.001, 0, 0.018]]]], dtype=np.float32)
    traces = m.TraceTable(index, mass, counts)
    [[budget]], [[shares]] = m.layer_budget(mass, counts), m.layer_shares(traces)
    assert budget[[0, 2]] == pytest.approx([(8 / 9 + 1 / 10) / 2, (1 / 9 + 9 / 10) / 2], rel=1e-6)
    assert shares[[0, 2]] == pytest.approx([0.0801 / 0.091, 0.0109 / 0.091], rel=1e-6)
    # They rank the two modalities differently.
    assert budget[2] > budget[0] and shares[0] > 7 * shares[2]
    alike = m.TraceTable(index, mass[:, :, [0, 0]], counts)
    agreed = m.layer_budget(alike.mass, counts)
    np.testing.assert_allclose(agreed, m.layer_shares(alike), rtol=1e-6)
    single = m.TraceTable(index, mass[:, :, :1], counts)
    np.testing.assert_allclose(
        m.layer_budget(single.mass, counts), m.layer_shares(single), rtol=1e-6
    )


def test_a_head_that_attends_to_no_modality_leaves_a_rest_of_the_budget():
    mass = np.array([[[0.4, 0.1, 0], [0, 0, 0]]])
    assert m.layer_budget(mass, [10, 10, 0])[0, :2] == pytest.approx([0.4, 0.1])
    assert np.isnan(m.layer_budget(mass, [10, 10, 0])[0, 2])


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_shares_add_up_to_one_and_do_not_change_with_the_scale_of_attention(seed):
    _, traces = made(3, seed)
    shares = m.layer_shares(traces)
    some = (traces.index["coalition"] != "none").to_numpy()
    assert np.nansum(shares, axis=2)[some] == pytest.approx(1)
    half = m.TraceTable(traces.index, traces.mass / 2, traces.counts)
    np.testing.assert_allclose(m.layer_shares(half), shares, rtol=1e-6)
    alone = (traces.counts > 0).sum(axis=1) == 1
    assert np.nansum(shares[alone], axis=2) == pytest.approx(1)


def test_layers_count_from_one_and_hold_the_means_of_their_clips(both):
    _, traces = both
    found = m.nmas_by_layer(traces, bootstrap=m.Bootstrap(4000))
    assert list(found["coalition"].unique()) == list(COALITIONS[1:])
    assert set(found["layer"]) == {1, 2, 3}
    keyed = found.set_index(["coalition", "layer", "modality", "quantity"])
    assert ("TV", 1, "A", "nmas") not in keyed.index
    chosen = (traces.index["coalition"] == "TAV").to_numpy()
    values = shares_by_loops(traces)[chosen, 1, 2]
    theirs = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1))
    ours = keyed.loc[("TAV", 2, "V", "share")]
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours["value"] == pytest.approx(values.mean())
    assert ours["low"] == pytest.approx(theirs.confidence_interval.low, abs=0.1 * width)
    assert ours["high"] == pytest.approx(theirs.confidence_interval.high, abs=0.1 * width)
    density = traces.nmas()[chosen, 0].mean(axis=1)[:, 0].mean()
    assert keyed.loc[("TAV", 1, "T", "nmas"), "value"] == pytest.approx(density, rel=1e-6)
    assert set(found["n"]) == {40}


def test_results_depend_on_the_seed_and_not_on_the_order_of_the_rows(both):
    _, traces = both
    mixed = traces.select(np.random.default_rng(1).permutation(len(traces)))
    pd.testing.assert_frame_equal(m.nmas_by_layer(traces), m.nmas_by_layer(mixed))
    other = m.nmas_by_layer(traces, bootstrap=m.Bootstrap(seed=1))
    assert not m.nmas_by_layer(traces)["low"].equals(other["low"])


def test_select_takes_masks_and_positions(both):
    _, traces = both
    mask = np.zeros(len(traces), bool)
    mask[[2, 5]] = True
    for chosen in (traces.select(mask), traces.select([2, 5])):
        assert len(chosen) == 2
        assert (chosen.mass == traces.mass[[2, 5]]).all()
        assert chosen.index["sample_id"].tolist() == traces.index["sample_id"][[2, 5]].tolist()
    with pytest.raises(ValueError, match="a mask must have shape"):
        traces.select(mask[:-1])


def altered(array, at, value):
    array = array.copy()
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, k, c: (i, k[..., :2], c), r"mass must be \(4, layers, heads, 3\)"),
        (lambda i, k, c: (i, k[:3], c), "mass must be"),
        (lambda i, k, c: (i, k[:, :0], c), "mass must be"),
        (lambda i, k, c: (i, k, c[:, :2]), "counts must be integers"),
        (lambda i, k, c: (i, k, c * 1.5), "counts must be integers"),
        (lambda i, k, c: (i.assign(sample_id="x", coalition="TA"), k, c), "is there twice"),
        (lambda i, k, c: (i, k, altered(c, (0, 2), 7)), "clip a, coalition TA, has tokens of a"),
        (lambda i, k, c: (i, k, altered(c, (1, 0), 0)), "clip b, coalition TA, .*none of one in"),
        (lambda i, k, c: (i, altered(k, (2, 0, 0, 0), 1.5), c), "clip c, .*outside"),
        (lambda i, k, c: (i, altered(k, (2, 1, 0, 0), np.nan), c), "clip c, .*outside"),
        (lambda i, k, c: (i, altered(k, (3, 0, 1, 2), 0.1), c), "clip d, .*absent modality"),
        (lambda i, k, c: (i.drop(columns="coalition"), k, c), "traces lack"),
    ],
)
def test_traces_that_contradict_themselves_are_refused(change, message):
    index = pd.DataFrame({"sample_id": list("abcd"), "coalition": "TA"})
    mass = np.zeros((4, 2, 2, 3), np.float32)
    counts = np.tile([5, 6, 0], (4, 1))
    with pytest.raises(ValueError, match=message):
        m.TraceTable(*change(index, mass, counts))
