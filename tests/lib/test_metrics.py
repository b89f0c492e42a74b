import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.linalg import block_diag
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

import emomm_lib as m
from emomm_lib.metrics.bootstrap import resampled_sums
from emomm_lib.metrics.fleiss import fleiss_of, fleiss_parts

LABEL = st.integers(0, 4)
PAIRS = st.lists(st.tuples(LABEL, LABEL), min_size=1, max_size=30)
pytestmark = pytest.mark.filterwarnings("error")


def columns(pairs):
    return tuple(np.array(column) for column in zip(*pairs, strict=True))


def noisy(n=400, seed=1, right=0.6):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, n)
    return truth, np.where(rng.random(n) < right, truth, rng.integers(0, 5, n))


@given(PAIRS)
@settings(max_examples=50, deadline=None)
def test_agreement_is_equation_1_summed_clip_by_clip(pairs):
    expected = 1 - sum(abs(i - j) for i, j in pairs) / (4 * len(pairs))
    assert m.agreement(*columns(pairs)) == pytest.approx(expected, abs=1e-12)


@given(PAIRS)
@settings(max_examples=25, deadline=None)
def test_agreement_is_symmetric_bounded_and_one_only_for_equal_labels(pairs):
    y_i, y_j = columns(pairs)
    value = m.agreement(y_i, y_j)
    assert value == m.agreement(y_j, y_i)
    assert 0 <= value <= 1
    assert (value == 1) == (y_i == y_j).all()


def test_agreement_matrix_holds_the_pairwise_values_with_ones_on_the_diagonal():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"label_{s}": rng.integers(0, 5, 50) for s in ("gt", "t", "a", "v")})
    matrix = m.agreement_matrix(frame)
    assert list(matrix.index) == list(matrix.columns) == ["gt", "t", "a", "v"]
    assert (np.diag(matrix) == 1).all()
    assert np.array_equal(matrix, matrix.T)
    assert matrix.loc["t", "v"] == m.agreement(frame["label_t"], frame["label_v"])


@given(PAIRS)
@settings(max_examples=50, deadline=None)
def test_scores_equal_loops_over_clips(pairs):
    truth, prediction = columns(pairs)
    assert m.accuracy5(truth, prediction) == pytest.approx(np.mean([t == p for t, p in pairs]))
    non_negative = np.mean([(t < 2) == (p < 2) for t, p in pairs])
    assert m.accuracy2(truth, prediction) == pytest.approx(non_negative)
    signed = [(t > 2) == (p > 2) for t, p in pairs if t != 2]
    expected = np.mean(signed) if signed else np.nan
    assert m.accuracy2_signed(truth, prediction) == pytest.approx(expected, nan_ok=True)
    per_class = []
    for c in {*truth.tolist(), *prediction.tolist()}:
        hit = sum(t == p == c for t, p in pairs)
        wrong = sum((t == c) != (p == c) for t, p in pairs)
        per_class.append(2 * hit / (2 * hit + wrong))
    assert m.macro_f1(truth, prediction) == pytest.approx(np.mean(per_class))
    scores = (truth - 2) / 2, (prediction - 2) / 2
    assert m.mae(*scores) == pytest.approx(np.mean([abs(t - p) / 2 for t, p in pairs]))


@given(PAIRS)
@settings(max_examples=50, deadline=None)
def test_scores_equal_those_of_scikit_learn(pairs):
    truth, prediction = columns(pairs)
    plain = {
        "acc5": accuracy_score(truth, prediction),
        "acc2": accuracy_score(truth >= 2, prediction >= 2),
        "f1": f1_score(truth, prediction, average="macro", zero_division=0),
        "mae": mean_absolute_error(truth, prediction),
    }
    for name, value in plain.items():
        assert m.METRICS[name](truth, prediction) == pytest.approx(value)


def test_a_neutral_prediction_counts_as_documented():
    assert m.accuracy2([0, 4], [2, 2]) == 0.5
    assert m.accuracy2_signed([0, 4], [2, 2]) == 0.5
    assert m.accuracy2_signed([2, 2, 4], [0, 4, 4]) == 1


def test_series_are_paired_by_position_and_not_by_index():
    truth, prediction = noisy(50)
    shuffled = pd.Series(prediction, index=np.arange(50)[::-1])
    assert m.accuracy5(pd.Series(truth), shuffled) == accuracy_score(truth, prediction)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([0, 1], [0], "one length"),
        ([], [], "at least 1"),
        ([[0]], [[0]], "one-dimensional"),
        ([0, 5], [0, 1], r"0 to 4; got 5"),
        ([0, 1], [0.0, 1.5], r"got 1.5 \(1 in all\)"),
        ([0, -1], [0, 1], "got -1"),
        ([0, 1], [True, 1], "got True"),
        ([0, 1], ["0", "1"], "got '0', '1' \\(2 in all\\)"),
        ([0, 1], [0, np.inf], "got inf"),
        ([0, 1], pd.array([0, None], dtype="Int64"), "second argument has no value"),
        ([0, 1], [0, np.nan], r"second argument has no value at positions \[1\]"),
    ],
)
def test_bad_labels_are_refused_and_a_failed_item_is_never_scored(truth, prediction, message):
    for metric in (m.agreement, m.accuracy5, m.accuracy2, m.macro_f1, m.METRICS["acc5"]):
        with pytest.raises(ValueError, match=message):
            metric(truth, prediction)


@pytest.mark.parametrize("bad", ["0.4", True, np.inf, np.nan, None, 1j])
def test_a_score_that_is_no_finite_number_has_no_error(bad):
    for metric in (m.mae, m.METRICS["mae"]):
        with pytest.raises(ValueError, match="no value at|must be numbers|must be finite"):
            metric([0.2, 0.4], np.array([0.2, bad], dtype=object))


@pytest.mark.parametrize("name", ["acc5", "f1", "mae"])
def test_intervals_agree_with_scipy(name):
    truth, prediction = noisy(150)
    metric, plain = m.METRICS[name], {"acc5": m.accuracy5, "f1": m.macro_f1, "mae": m.mae}[name]
    ours = m.bootstrap_interval(metric, truth, prediction, bootstrap=m.Bootstrap(8000))
    theirs = bootstrap(
        (truth, prediction),
        plain,
        paired=True,
        vectorized=False,
        n_resamples=400 if name == "f1" else 1500,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == plain(truth, prediction)
    assert ours.low == pytest.approx(theirs.low, abs=0.12 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.12 * width)


def test_grouping_equal_clips_does_not_change_the_bootstrap_distribution():
    truth, prediction = noisy(60)
    rng = np.random.default_rng(5)
    index = rng.integers(0, 60, (1500, 60))
    brute = [f1_score(truth[i], prediction[i], average="macro", zero_division=0) for i in index]
    ours = m.METRICS["f1"].finish(
        resampled_sums(m.METRICS["f1"].contributions(truth, prediction), None, m.Bootstrap(20000))
    )
    assert np.mean(ours) == pytest.approx(np.mean(brute), abs=0.006)
    assert np.std(ours) == pytest.approx(np.std(brute), rel=0.08)


@given(st.permutations(range(40)))
@settings(max_examples=15, deadline=None)
def test_row_order_does_not_change_an_interval(order):
    truth, prediction = noisy(40)
    speakers = np.repeat(np.arange(10), 4)
    for clusters in (None, speakers):
        kwargs = {"clusters": clusters} if clusters is None else {"clusters": clusters[order]}
        one = m.bootstrap_interval(m.METRICS["f1"], truth, prediction, clusters=clusters)
        two = m.bootstrap_interval(m.METRICS["f1"], truth[order], prediction[order], **kwargs)
        assert one == two


def test_the_seed_alone_decides_the_draws():
    truth, prediction = noisy()
    one, two, other = (
        m.bootstrap_interval(m.METRICS["f1"], truth, prediction, bootstrap=m.Bootstrap(seed=s))
        for s in (0, 0, 1)
    )
    assert one == two
    assert (one.low, one.high) != (other.low, other.high)


def test_copying_every_clip_into_its_cluster_leaves_the_interval_alone():
    truth, prediction = noisy(200)
    clip = np.arange(200)
    metric = m.METRICS["acc5"]
    single = m.bootstrap_interval(metric, truth, prediction)
    three = [np.repeat(x, 3) for x in (truth, prediction, clip)]
    clustered = m.bootstrap_interval(metric, *three[:2], clusters=three[2])
    naive = m.bootstrap_interval(metric, *three[:2])
    assert (clustered.low, clustered.high) == (single.low, single.high)
    assert naive.high - naive.low < 0.7 * (single.high - single.low)


def test_the_paired_difference_of_a_system_with_itself_is_exactly_zero():
    truth, prediction = noisy()
    for metric in m.METRICS.values():
        interval = m.paired_bootstrap(metric, truth, prediction, prediction)
        assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def test_paired_intervals_agree_with_scipy_and_are_narrower_than_unpaired_ones():
    truth, baseline = noisy(300)
    fixed = np.random.default_rng(9).random(300) < 0.1
    better = np.where(fixed, truth, baseline)
    metric = m.METRICS["acc5"]
    ours = m.paired_bootstrap(metric, truth, baseline, better, bootstrap=m.Bootstrap(8000))
    gain = (better == truth).astype(float) - (baseline == truth)
    theirs = bootstrap((gain,), np.mean, method="percentile", rng=np.random.default_rng(2))
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.value == pytest.approx(gain.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * width)
    alone = m.bootstrap_interval(metric, truth, better)
    assert ours.high - ours.low < alone.high - alone.low


def test_intervals_cover_the_true_accuracy_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        truth = np.zeros(300, dtype=int)
        prediction = (rng.random(300) > 0.6).astype(int)
        interval = m.bootstrap_interval(
            m.METRICS["acc5"], truth, prediction, bootstrap=m.Bootstrap(500, seed)
        )
        covered += interval.low <= 0.6 <= interval.high
    assert 0.9 <= covered / 200 <= 0.99


def test_a_resample_without_signed_clips_is_left_out_and_none_at_all_gives_nan():
    metric = m.METRICS["acc2_signed"]
    some = m.bootstrap_interval(metric, [2, 2, 4], [2, 2, 4])
    assert (some.value, some.low, some.high) == (1, 1, 1)
    none = m.bootstrap_interval(metric, [2, 2], [2, 2])
    assert np.isnan([none.value, none.low, none.high]).all()
    assert none.left_out == 2000


def test_an_undefined_value_has_an_undefined_interval_though_resamples_are_defined():
    # A ratio to a sum that is 0 over the clips, and not over most resamples.
    parts = np.column_stack([np.ones(6), [1, -1, 1, -1, 1, -1]])

    def ratio(sums):
        total = np.where(sums[..., 1] == 0, np.nan, sums[..., 1])
        return np.stack([sums[..., 0] / total, sums[..., 0]], axis=-1)

    undefined, defined = m.intervals_of(parts, ratio)
    assert np.isnan([undefined.value, undefined.low, undefined.high]).all()
    assert 0 < undefined.left_out < 2000
    assert (defined.value, defined.low, defined.high, defined.left_out) == (6, 6, 6, 0)


def test_resamples_in_which_a_value_is_undefined_are_counted_and_left_out_of_its_interval():
    metric = m.METRICS["acc2_signed"]
    found = m.bootstrap_interval(metric, [2, 2, 4], [2, 2, 4])
    # A resample of three without the third clip: (2/3)^3.
    assert found.left_out / 2000 == pytest.approx(8 / 27, abs=0.04)
    assert m.bootstrap_interval(metric, [4, 4, 4], [4, 2, 4]).left_out == 0


def test_clusters_of_another_length_are_refused():
    with pytest.raises(ValueError, match="each of the 3 clips"):
        m.bootstrap_interval(m.METRICS["acc5"], [0, 1, 2], [0, 1, 2], clusters=["a", "b"])


def test_score_frame_has_one_row_a_group_and_metric_with_the_values_of_its_clips():
    truth, prediction = noisy(90)
    frame = pd.DataFrame(
        {
            "subset": np.repeat(["align", "conflict", "align"], 30),
            "sample_id": np.repeat(np.arange(30), 3),
            "label_gt": truth,
            "label_pred": prediction,
            "score_gt": (truth - 2) / 2,
            "score_pred": (prediction - 2) / 2,
        }
    )
    scored = m.score_frame(frame, by=["subset"], cluster="sample_id", bootstrap=m.Bootstrap(200))
    assert list(scored.columns) == ["subset", "metric", "value", "low", "high", "n"]
    assert len(scored) == 2 * len(m.METRICS)
    align = frame[frame["subset"] == "align"]
    row = scored[(scored["subset"] == "align") & (scored["metric"] == "f1")].iloc[0]
    assert row["value"] == pytest.approx(m.macro_f1(align["label_gt"], align["label_pred"]))
    assert row["n"] == 60
    assert (scored["low"] <= scored["value"]).all() and (scored["value"] <= scored["high"]).all()
    with pytest.raises(ValueError, match="score_pred"):
        m.score_frame(frame.drop(columns="score_pred"))


def continuous(n=120, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 2))


def test_intervals_of_clips_that_are_all_different_agree_with_scipy():
    x = continuous()
    ours = m.intervals_of(x, lambda s: s / len(x), bootstrap=m.Bootstrap(8000))
    theirs = bootstrap((x,), np.mean, axis=0, method="percentile", rng=np.random.default_rng(2))
    for k, interval in enumerate(ours):
        low, high = theirs.confidence_interval.low[k], theirs.confidence_interval.high[k]
        assert interval.value == pytest.approx(x[:, k].mean())
        assert interval.low == pytest.approx(low, abs=0.1 * (high - low))
        assert interval.high == pytest.approx(high, abs=0.1 * (high - low))
    one = m.interval_of(x[:, :1], lambda s: s[..., 0] / len(x), bootstrap=m.Bootstrap(8000))
    assert one.value == ours[0].value and isinstance(one.low, float)


@pytest.mark.parametrize("rounding", [None, 0])
def test_the_size_of_a_block_of_draws_changes_nothing(monkeypatch, rounding):
    x = continuous() if rounding is None else np.round(continuous(), rounding)
    sums = resampled_sums(x, None, m.Bootstrap(50))
    monkeypatch.setattr("emomm_lib.metrics.bootstrap.BLOCK", 7 * 120)
    assert np.allclose(resampled_sums(x, None, m.Bootstrap(50)), sums, atol=1e-9)


def test_strata_keep_their_size_and_are_drawn_independently():
    names = np.repeat(["few", "many"], [30, 90])
    contributions = np.stack([names == "few", names == "many", *continuous().T], axis=1)
    sums = resampled_sums(contributions, None, m.Bootstrap(4000), names)
    assert (sums[:, 0] == 30).all() and (sums[:, 1] == 90).all()
    x, halves = continuous(60)[:, :1], np.repeat(["a", "b"], 60)
    one, other = resampled_sums(block_diag(x, x), None, m.Bootstrap(4000), halves).T
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.06
    assert one.std() == pytest.approx(np.sqrt(60) * x.std(), rel=0.05)


def test_clusters_inside_strata_are_drawn_whole_and_may_not_lie_in_two():
    names, speakers = np.repeat(["a", "b"], 60), np.arange(120) // 3
    sums = resampled_sums(continuous(), speakers, m.Bootstrap(200), names)
    single = pd.DataFrame(continuous()).groupby(speakers).sum().to_numpy()
    expected = resampled_sums(single, None, m.Bootstrap(200), np.repeat(["a", "b"], 20))
    assert np.allclose(sums, expected)
    with pytest.raises(ValueError, match="two strata"):
        resampled_sums(continuous(), np.arange(120) % 7, m.Bootstrap(10), names)


@pytest.mark.parametrize(
    ("contributions", "strata", "message"),
    [
        (np.zeros(3), None, "one row a clip"),
        (np.zeros((0, 2)), None, "at least one clip"),
        ([[1.0], [np.nan]], None, "1 not finite"),
        (np.zeros((3, 1)), ["a"], "strata must name"),
    ],
)
def test_contributions_that_cannot_be_resampled_are_refused(contributions, strata, message):
    with pytest.raises(ValueError, match=message):
        m.intervals_of(contributions, lambda s: s, strata=strata)


@pytest.mark.parametrize("unit", [1.0, 0.1, 1 / 3, 1e-9, 1e9])
def test_kappa_of_votes_that_are_all_alike_is_nan_up_to_rounding(unit):
    alike = fleiss_parts([[5, 0, 0]] * 7).sum(axis=0)
    assert np.isnan(fleiss_of(unit * alike)[2])
    # Sums that rounding leaves a trace of another category in.
    assert np.isnan(fleiss_of(unit * (alike + [0, 1e-13, 0, 0, 0]))[2])
    mixed = fleiss_parts([[5, 0, 0]] * 700 + [[4, 1, 0]]).sum(axis=0)
    assert np.isfinite(fleiss_of(unit * mixed)[2])


@pytest.mark.parametrize("bad", [np.nan, -1, 2.5, np.inf, True, "5"])
def test_votes_that_cannot_be_counted_have_no_kappa(bad):
    with pytest.raises(ValueError, match="votes"):
        fleiss_parts([[5, 0, 0], [4, 1, bad]])


def test_every_public_name_is_exported():
    assert all(hasattr(m, name) for name in m.__all__)
    assert len(set(m.__all__)) == len(m.__all__)
