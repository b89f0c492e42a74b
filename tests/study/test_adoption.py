"""Attention by modality and adoption: against loops over clips, and scipy."""

import numpy as np
import pandas as pd
import pytest
from attention_tables import made, shares_by_loops
from scipy.stats import pearsonr

import emomm_lib as m
from emomm_lib.labels import COALITIONS, coalition_modalities
from emomm_study.evaluate.adoption import (
    attention_by_modality,
    nmas_gtar_correlation,
    preference_points,
)

pytestmark = pytest.mark.filterwarnings("error")
PAIRS = ("TA", "TV", "AV", "TAV")


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


def test_equal_mass_on_ten_times_the_tokens_is_a_tenth_of_the_density():
    index = pd.DataFrame({"sample_id": ["x"], "coalition": ["TV"]})
    mass = np.array([[[[0.3, 0, 0.3]]]], dtype=np.float32)
    traces = m.TraceTable(index, mass, np.array([[20, 0, 200]]))
    found = attention_by_modality(traces).set_index(["modality", "quantity"])["value"]
    assert found["V", "mass"] == found["T", "mass"] == pytest.approx(0.3)
    assert found["T", "nmas"] / found["V", "nmas"] == pytest.approx(10)
    assert found["V", "share"] == pytest.approx(1 / 11)
    assert (found["V", "tokens"], found["T", "tokens"]) == (200, 20)


def test_a_layer_without_mass_has_no_shares_and_is_left_out_of_means():
    index = pd.DataFrame({"sample_id": ["x"], "coalition": ["TA"]})
    mass = np.array([[[[0, 0, 0]], [[0.3, 0.1, 0]]]], dtype=np.float32)
    traces = m.TraceTable(index, mass, np.array([[10, 10, 0]]))
    assert np.isnan(m.layer_shares(traces)[0, 0]).all()
    found = attention_by_modality(traces).set_index(["modality", "quantity"])["value"]
    assert found["T", "share"] == pytest.approx(0.75)
    by_layer = m.nmas_by_layer(traces).set_index(["layer", "modality", "quantity"])["value"]
    assert by_layer[1, "T", "nmas"] == 0 and np.isnan(by_layer[1, "T", "share"])


def test_attention_by_modality_averages_over_layers_heads_and_clips(both):
    _, traces = both
    found = attention_by_modality(traces).set_index(["coalition", "modality", "quantity"])["value"]
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
    found = preference_points(frame, traces).set_index(["coalition", "modality"])
    assert len(found) == 9
    for key, part in rows.groupby(["coalition", "modality"]):
        assert found.loc[key, "gtar"] == pytest.approx(part["right"].mean())
        assert found.loc[key, "share"] == pytest.approx(part["share"].mean(), rel=1e-6)
        assert found.loc[key, "n"] == len(part)
    gtar = m.gtar_frame(frame, ("coalition",), bootstrap=m.Bootstrap(10)).set_index(
        ["coalition", "modality"]
    )
    assert found["gtar"].to_numpy() == pytest.approx(gtar.loc[found.index, "value"].to_numpy())


def test_intervals_of_preference_points_are_about_those_of_a_proportion_and_of_a_mean(both):
    frame, traces = both
    rows = adoption_by_loops(frame, traces)
    found = preference_points(frame, traces).set_index(["coalition", "modality"])
    for key, part in rows.groupby(["coalition", "modality"]):
        for name, column in (("gtar", "right"), ("share", "share")):
            mean, error = part[column].mean(), part[column].std() / np.sqrt(len(part))
            low, high = found.loc[key, [f"{name}_low", f"{name}_high"]]
            # Few rows: a normal interval is near, not equal.
            assert low <= mean <= high
            assert high - low == pytest.approx(2 * 1.96 * error, rel=0.5, abs=0.02)


def test_correlations_equal_scipys_between_cells_and_within_them(both):
    frame, traces = both
    found = nmas_gtar_correlation(frame, traces).set_index("quantity")
    points = preference_points(frame, traces)
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
    found = nmas_gtar_correlation(frame, traces)
    expected = np.quantile(draws, [0.025, 0.975], axis=0)
    assert pytest.approx(expected, abs=0.08) == found[["low", "high"]].to_numpy().T


def test_attention_that_decides_adoption_is_told_from_attention_that_does_not():
    frame, traces = made(150, coalitions=PAIRS)
    share = m.layer_shares(traces).mean(axis=1)[:, 0]
    text_is_right = frame.assign(label_gt=4, label_t=4, label_a=0, label_v=0)
    follows = text_is_right.assign(right_polarity=(share > np.nanmedian(share)).astype(float))
    within = nmas_gtar_correlation(follows, traces).set_index("quantity").loc["within"]
    assert within["low"] > 0.3
    random = np.random.default_rng(4).integers(0, 2, len(frame))
    noise = text_is_right.assign(right_polarity=random)
    within = nmas_gtar_correlation(noise, traces).set_index("quantity").loc["within"]
    assert within["low"] < 0 < within["high"]


def test_a_constant_side_or_too_few_points_have_no_correlation(both):
    frame, traces = both
    found = nmas_gtar_correlation(frame.assign(right_polarity=1.0), traces)
    assert found[["value", "low", "high"]].isna().all(axis=None)
    # Constant up to rounding on the other side: equal mass on equally many tokens.
    rng = np.random.default_rng(0)
    there = np.array([[k in coalition_modalities(c) for k in "TAV"] for c in frame["coalition"]])
    mass = 0.1 * there[:, None, None] * rng.uniform(0.1, 1, (*traces.mass.shape[:3], 1))
    flat = m.TraceTable(traces.index, mass, there * 7)
    found = nmas_gtar_correlation(frame, flat).set_index("quantity")
    assert found.loc[["adjusted", "within"], ["value", "low", "high"]].isna().all(axis=None)
    two = nmas_gtar_correlation(frame[frame["coalition"] == "TA"], traces)
    two = two.set_index("quantity")
    assert np.isnan(two.loc["between", "value"]) and two.loc["between", "n"] == 2
    assert np.isfinite(two.loc["within", "value"])


def test_rows_without_a_trace_are_left_out_and_none_at_all_is_refused(both):
    frame, traces = both
    some = traces.select((traces.index["sample_id"] < "c020").to_numpy())
    pd.testing.assert_frame_equal(
        preference_points(frame, some),
        preference_points(frame[frame["sample_id"] < "c020"], traces),
    )
    with pytest.raises(ValueError, match="has a trace"):
        preference_points(frame.assign(sample_id="z"), traces)
    aligned = frame.assign(label_t=4, label_a=4, label_v=4, label_gt=4)
    with pytest.raises(ValueError, match="S_tc"):
        preference_points(aligned, traces)
    with pytest.raises(ValueError, match="coalition twice"):
        nmas_gtar_correlation(pd.concat([frame, frame]), traces)


@pytest.fixture(scope="module")
def both():
    return made()


def test_results_depend_on_the_seed_and_not_on_the_order_of_the_rows(both):
    frame, traces = both
    mixed = traces.select(np.random.default_rng(1).permutation(len(traces)))
    pd.testing.assert_frame_equal(attention_by_modality(traces), attention_by_modality(mixed))
    seeded = attention_by_modality(traces, bootstrap=m.Bootstrap(seed=1))
    assert not attention_by_modality(traces)["low"].equals(seeded["low"])
    other = frame.sample(frac=1, random_state=5)
    for function in (preference_points, nmas_gtar_correlation):
        pd.testing.assert_frame_equal(function(frame, traces), function(other, mixed))
