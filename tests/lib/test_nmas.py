import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import bootstrap, pearsonr

import emomm_lib as m
from emomm_lib.chase.equations import preference
from emomm_lib.labels import COALITIONS, coalition_modalities

pytestmark = pytest.mark.filterwarnings("error")
PAIRS = ("TA", "TV", "AV", "TAV")


def made(n=40, seed=0, layers=3, heads=2, coalitions=COALITIONS):
    """Outcomes and traces of the same rows, shuffled alike."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (n, 4))
    rows = [(f"c{i:03d}", c, *labels[i]) for i in range(n) for c in coalitions]
    columns = ["sample_id", "coalition", "label_gt", "label_t", "label_a", "label_v"]
    frame = pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=seed, ignore_index=True)
    there = np.array([[k in coalition_modalities(c) for k in "TAV"] for c in frame["coalition"]])
    counts = there * rng.integers(5, 60, (len(frame), 3))
    mass = rng.dirichlet([2, 2, 2, 2], (len(frame), layers, heads))[..., :3]
    mass = (mass * there[:, None, None, :]).astype(np.float32)
    frame["right_polarity"] = (rng.random(len(frame)) < 0.3 + mass[:, 0, 0, 0]).astype(float)
    return frame, m.TraceTable(frame[["sample_id", "coalition"]], mass, counts)


def shares_by_loops(traces):
    n, layers, heads, _ = traces.mass.shape
    shares = np.full((n, layers, 3), np.nan)
    for i, coalition in enumerate(traces.index["coalition"]):
        at = ["TAV".index(k) for k in coalition_modalities(coalition)]
        for layer in range(layers):
            density = {
                k: np.mean(
                    [traces.mass[i, layer, h, k] / traces.counts[i, k] for h in range(heads)]
                )
                for k in at
            }
            for k in at:
                shares[i, layer, k] = density[k] / sum(density.values())
    return shares


def adoption_by_loops(frame, traces):
    """(clip, coalition, modality, share, right) of S_tc rows with an aligned modality."""
    keys = zip(traces.index["sample_id"], traces.index["coalition"], strict=True)
    shares = dict(zip(keys, shares_by_loops(traces).mean(axis=1), strict=True))
    found = []
    for row in frame.to_dict("records"):
        share = shares[row["sample_id"], row["coalition"]]
        signs = {s: np.sign(row[f"label_{s}"] - 2) for s in ("gt", "t", "a", "v")}
        available = coalition_modalities(row["coalition"])
        right = [k for k in available if signs[k.lower()] == signs["gt"]]
        if len(available) - len(right) == 1:
            for k in right:
                key = (row["sample_id"], row["coalition"], k)
                found.append((*key, share["TAV".index(k)], row["right_polarity"]))
    return pd.DataFrame(found, columns=["clip", "coalition", "modality", "share", "right"])


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


def test_equal_mass_on_ten_times_the_tokens_is_a_tenth_of_the_density():
    index = pd.DataFrame({"sample_id": ["x"], "coalition": ["TV"]})
    mass = np.array([[[[0.3, 0, 0.3]]]], dtype=np.float32)
    traces = m.TraceTable(index, mass, np.array([[20, 0, 200]]))
    found = m.attention_by_modality(traces).set_index(["modality", "quantity"])["value"]
    assert found["V", "mass"] == found["T", "mass"] == pytest.approx(0.3)
    assert found["T", "nmas"] / found["V", "nmas"] == pytest.approx(10)
    assert found["V", "share"] == pytest.approx(1 / 11)
    assert (found["V", "tokens"], found["T", "tokens"]) == (200, 20)


def test_a_layer_without_mass_has_no_shares_and_is_left_out_of_means():
    index = pd.DataFrame({"sample_id": ["x"], "coalition": ["TA"]})
    mass = np.array([[[[0, 0, 0]], [[0.3, 0.1, 0]]]], dtype=np.float32)
    traces = m.TraceTable(index, mass, np.array([[10, 10, 0]]))
    assert np.isnan(m.layer_shares(traces)[0, 0]).all()
    found = m.attention_by_modality(traces).set_index(["modality", "quantity"])["value"]
    assert found["T", "share"] == pytest.approx(0.75)
    by_layer = m.nmas_by_layer(traces).set_index(["layer", "modality", "quantity"])["value"]
    assert by_layer[1, "T", "nmas"] == 0 and np.isnan(by_layer[1, "T", "share"])


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


def test_attention_by_modality_averages_over_layers_heads_and_clips(both):
    _, traces = both
    found = m.attention_by_modality(traces).set_index(["coalition", "modality", "quantity"])[
        "value"
    ]
    for coalition in COALITIONS[1:]:
        part = traces.select((traces.index["coalition"] == coalition).to_numpy())
        shares = shares_by_loops(part)
        for modality in coalition_modalities(coalition):
            k = "TAV".index(modality)
            expected = {
                "tokens": part.counts[:, k].mean(),
                "mass": part.mass[..., k].mean(dtype=float),
                "nmas": part.nmas()[..., k].mean(),
                "share": shares[..., k].mean(),
            }
            for quantity, value in expected.items():
                assert found[coalition, modality, quantity] == pytest.approx(value, rel=1e-6)


def test_preference_points_are_means_over_the_rows_of_the_target_conflict(both):
    frame, traces = both
    rows = adoption_by_loops(frame, traces)
    found = m.preference_points(frame, traces).set_index(["coalition", "modality"])
    assert len(found) == 9
    for key, part in rows.groupby(["coalition", "modality"]):
        assert found.loc[key, "gtar"] == pytest.approx(part["right"].mean())
        assert found.loc[key, "share"] == pytest.approx(part["share"].mean(), rel=1e-6)
        assert found.loc[key, "n"] == len(part)
    gtar = m.gtar_frame(frame, ("coalition",), bootstrap=m.Bootstrap(10)).set_index(
        ["coalition", "modality"]
    )
    assert found["gtar"].to_numpy() == pytest.approx(gtar.loc[found.index, "value"].to_numpy())


def test_correlations_equal_scipys_between_cells_and_within_them(both):
    frame, traces = both
    found = m.nmas_gtar_correlation(frame, traces).set_index("quantity")
    points = m.preference_points(frame, traces)
    between = pearsonr(points["share"], points["gtar"]).statistic
    assert found.loc["between", "value"] == pytest.approx(between, abs=1e-9)
    rows = adoption_by_loops(frame, traces)
    cells = rows.groupby(["coalition", "modality"])
    left = {k: rows[k] - cells[k].transform("mean") for k in ("share", "right")}
    within = pearsonr(left["share"], left["right"]).statistic
    assert found.loc["within", "value"] == pytest.approx(within, abs=1e-6)
    centred = points[["share", "gtar"]] - points.groupby("coalition")[["share", "gtar"]].transform(
        "mean"
    )
    adjusted = pearsonr(centred["share"], centred["gtar"]).statistic
    assert found.loc["adjusted", "value"] == pytest.approx(adjusted, abs=1e-9)
    assert found.loc["between", "n"] == 9 and found.loc["within", "n"] == len(rows)
    assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()


def test_correlation_intervals_recompute_every_point_on_resampled_clips(both):
    frame, traces = both
    rows = adoption_by_loops(frame, traces)
    parts = dict(list(rows.groupby("clip")))
    names, rng = list(parts), np.random.default_rng(2)
    draws = []
    for _ in range(400):
        sample = pd.concat([parts[names[i]] for i in rng.integers(0, len(names), len(names))])
        cells = sample.groupby(["coalition", "modality"])
        centred = sample[["share", "right"]] - cells[["share", "right"]].transform("mean")
        points = cells[["share", "right"]].mean()
        adjusted = points - points.groupby("coalition").transform("mean")
        three = (points, adjusted, centred)
        draws.append([pearsonr(*x[["share", "right"]].to_numpy().T)[0] for x in three])
    found = m.nmas_gtar_correlation(frame, traces)
    expected = np.quantile(draws, [0.025, 0.975], axis=0)
    assert pytest.approx(expected, abs=0.08) == found[["low", "high"]].to_numpy().T


def test_attention_that_decides_adoption_is_told_from_attention_that_does_not():
    frame, traces = made(150, coalitions=PAIRS)
    share = m.layer_shares(traces).mean(axis=1)[:, 0]
    text_is_right = frame.assign(label_gt=4, label_t=4, label_a=0, label_v=0)
    follows = text_is_right.assign(right_polarity=(share > np.nanmedian(share)).astype(float))
    within = m.nmas_gtar_correlation(follows, traces).set_index("quantity").loc["within"]
    assert within["low"] > 0.3
    random = np.random.default_rng(4).integers(0, 2, len(frame))
    noise = text_is_right.assign(right_polarity=random)
    within = m.nmas_gtar_correlation(noise, traces).set_index("quantity").loc["within"]
    assert within["low"] < 0 < within["high"]


def test_a_constant_side_or_too_few_points_have_no_correlation(both):
    frame, traces = both
    found = m.nmas_gtar_correlation(frame.assign(right_polarity=1.0), traces)
    assert found[["value", "low", "high"]].isna().all(axis=None)
    # Constant up to rounding on the other side: equal mass on equally many tokens.
    rng = np.random.default_rng(0)
    there = np.array([[k in coalition_modalities(c) for k in "TAV"] for c in frame["coalition"]])
    mass = 0.1 * there[:, None, None] * rng.uniform(0.1, 1, (*traces.mass.shape[:3], 1))
    flat = m.TraceTable(traces.index, mass, there * 7)
    found = m.nmas_gtar_correlation(frame, flat).set_index("quantity")
    assert found.loc[["adjusted", "within"], ["value", "low", "high"]].isna().all(axis=None)
    two = m.nmas_gtar_correlation(frame[frame["coalition"] == "TA"], traces)
    two = two.set_index("quantity")
    assert np.isnan(two.loc["between", "value"]) and two.loc["between", "n"] == 2
    assert np.isfinite(two.loc["within", "value"])


def test_results_depend_on_the_seed_and_not_on_the_order_of_the_rows(both):
    frame, traces = both
    order = np.random.default_rng(1).permutation(len(traces))
    mixed = traces.select(order)
    for function in (m.nmas_by_layer, m.attention_by_modality):
        pd.testing.assert_frame_equal(function(traces), function(mixed))
        assert not function(traces)["low"].equals(
            function(traces, bootstrap=m.Bootstrap(seed=1))["low"]
        )
    other = frame.sample(frac=1, random_state=5)
    for function in (m.preference_points, m.nmas_gtar_correlation):
        pd.testing.assert_frame_equal(function(frame, traces), function(other, mixed))


def test_rows_without_a_trace_are_left_out_and_none_at_all_is_refused(both):
    frame, traces = both
    some = traces.select((traces.index["sample_id"] < "c020").to_numpy())
    pd.testing.assert_frame_equal(
        m.preference_points(frame, some),
        m.preference_points(frame[frame["sample_id"] < "c020"], traces),
    )
    with pytest.raises(ValueError, match="has a trace"):
        m.preference_points(frame.assign(sample_id="z"), traces)
    aligned = frame.assign(label_t=4, label_a=4, label_v=4, label_gt=4)
    with pytest.raises(ValueError, match="S_tc"):
        m.preference_points(aligned, traces)
    with pytest.raises(ValueError, match="coalition twice"):
        m.nmas_gtar_correlation(pd.concat([frame, frame]), traces)


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
