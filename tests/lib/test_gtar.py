import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import bootstrap

import emomm_lib as m
from emomm_lib.labels import COALITIONS, coalition_modalities

pytestmark = pytest.mark.filterwarnings("error")
COLUMNS = ["sample_id", "coalition", "label_gt", "label_t", "label_a", "label_v", "right_polarity"]


def made(n=80, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (n, 4))
    rows = [
        (f"c{i:03d}", c, *labels[i], float(rng.random() < 0.6))
        for i in range(n)
        for c in COALITIONS
    ]
    return pd.DataFrame(rows, columns=COLUMNS).sample(frac=1, random_state=seed, ignore_index=True)


def sign(label):
    return (label > 2) - (label < 2)


def by_loops(frame, coalitions):
    """Numerators and denominators of Eq. 4, row by row."""
    right, total = dict.fromkeys("TAV", 0.0), dict.fromkeys("TAV", 0)
    for row in frame.to_dict("records"):
        if row["coalition"] not in coalitions:
            continue
        available = coalition_modalities(row["coalition"])
        agrees = {k: sign(row[f"label_{k.lower()}"]) == sign(row["label_gt"]) for k in available}
        if sum(not a for a in agrees.values()) == 1:
            for k in available:
                right[k] += agrees[k] * row["right_polarity"]
                total[k] += agrees[k]
    return right, total


def test_the_worked_example_of_appendix_b2():
    row = pd.DataFrame([("x", "TV", 0, 4, 2, 1, 1.0)], columns=COLUMNS)
    assert m.target_conflict(row).tolist() == [True]
    found = m.gtar_frame(row).set_index("modality")
    assert (found.loc["V", "value"], found.loc["V", "n"]) == (1, 1)
    assert np.isnan(found.loc["T", "value"]) and found.loc["T", "n"] == 0
    assert "A" not in found.index


def test_only_available_modalities_can_conflict_and_neutral_is_a_polarity():
    rows = [("x", c, 4, 3, 2, 0, 1.0) for c in COALITIONS]
    found = dict(
        zip(COALITIONS, m.target_conflict(pd.DataFrame(rows, columns=COLUMNS)), strict=True)
    )
    assert {c for c, there in found.items() if there} == {"A", "V", "TA", "TV"}


@given(st.integers(0, 10**6), st.integers(1, 25))
@settings(max_examples=30, deadline=None)
def test_gtar_is_equation_4_summed_row_by_row(seed, n):
    frame = made(n, seed)
    found = m.gtar_frame(frame, bootstrap=m.Bootstrap(20)).set_index(["setting", "modality"])
    for setting, coalitions in (("conflict", ["TAV"]), ("missing_conflict", ["TA", "TV", "AV"])):
        right, total = by_loops(frame, coalitions)
        for k in "TAV":
            expected = right[k] / total[k] if total[k] else np.nan
            assert found.loc[(setting, k), "value"] == pytest.approx(expected, nan_ok=True)
            assert found.loc[(setting, k), "n"] == total[k]


def test_gtar_by_coalition_has_the_present_modalities_in_the_usual_order():
    frame = made()
    found = m.gtar_frame(frame, ("coalition",), bootstrap=m.Bootstrap(100))
    assert ["".join(g["modality"]) for _, g in found.groupby("coalition", sort=False)] == [
        *found["coalition"].unique()
    ]
    assert list(found["coalition"].unique()) == ["TA", "TV", "AV", "TAV"]
    for row in found.itertuples():
        right, total = by_loops(frame, [row.coalition])
        assert row.value == pytest.approx(right[row.modality] / total[row.modality])


def test_an_expected_correctness_counts_as_the_fraction_it_is():
    rows = [("x", "TAV", 4, 4, 4, 0, 2 / 3), ("y", "TAV", 4, 4, 4, 0, 1 / 3)]
    found = m.gtar_frame(pd.DataFrame(rows, columns=COLUMNS)).set_index("modality")
    assert found.loc["T", "value"] == pytest.approx(0.5)


def test_intervals_agree_with_scipys_bootstrap_of_clips():
    frame = made(150)
    whole = frame[frame["coalition"] == "TAV"].sort_values("sample_id")
    signs = {s: np.sign(whole[f"label_{s}"].to_numpy() - 2) for s in ("gt", "t", "a", "v")}
    wrong = sum((signs[s] != signs["gt"]).astype(int) for s in "tav")
    a = ((wrong == 1) & (signs["t"] == signs["gt"])).astype(float)
    c = whole["right_polarity"].to_numpy()
    theirs = bootstrap(
        (a * c, a),
        lambda x, y, axis=-1: x.sum(axis) / y.sum(axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = m.gtar_frame(frame, bootstrap=m.Bootstrap(8000)).set_index(["setting", "modality"])
    ours = found.loc[("conflict", "T")]
    width = theirs.high - theirs.low
    assert ours["low"] == pytest.approx(theirs.low, abs=0.1 * width)
    assert ours["high"] == pytest.approx(theirs.high, abs=0.1 * width)


def test_pooled_coalitions_of_one_clip_are_resampled_together():
    frame = made(100)
    pairs = frame[frame["coalition"].isin(["TA", "TV"])]
    same = pairs.assign(label_a=pairs["label_v"], right_polarity=pairs["label_gt"] % 2 == 0)
    pooled = m.gtar_frame(same).set_index("modality").loc["T"]
    single = m.gtar_frame(same[same["coalition"] == "TA"]).set_index("modality").loc["T"]
    assert pooled["n"] == 2 * single["n"]
    assert (pooled["low"], pooled["high"]) == pytest.approx((single["low"], single["high"]))


def test_results_depend_on_the_seed_and_not_on_the_order_of_the_rows():
    frame = made()
    shuffled = frame.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(m.gtar_frame(frame), m.gtar_frame(shuffled))
    assert not m.gtar_frame(frame)["low"].equals(
        m.gtar_frame(frame, bootstrap=m.Bootstrap(seed=1))["low"]
    )


def test_runs_named_in_by_are_kept_apart():
    frame = pd.concat([made(seed=1).assign(run="a"), made(seed=2).assign(run="b")])
    found = m.gtar_frame(frame, ("run", "setting"), bootstrap=m.Bootstrap(50))
    second = found[found["run"] == "b"].drop(columns="run").reset_index(drop=True)
    pd.testing.assert_frame_equal(second, m.gtar_frame(made(seed=2), bootstrap=m.Bootstrap(50)))
    with pytest.raises(ValueError, match="coalition twice"):
        m.gtar_frame(frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="label_v"), "label_v"),
        (lambda f: f.assign(label_v=np.nan), "label_v of the outcomes must be a label 0 to 4"),
        (lambda f: f.assign(label_gt=5), "label_gt"),
        (lambda f: f.assign(right_polarity=np.nan), "neither right nor wrong"),
        (lambda f: f[f["coalition"] == "T"], "GTAR needs rows"),
    ],
)
def test_bad_outcomes_are_refused_with_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        m.gtar_frame(change(made(5)))
