from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from published import edit
from scipy.optimize import minimize
from statsmodels.stats.inter_rater import fleiss_kappa

from emomm_lib.labels import CLASSES
from emomm_study.audit import kappa
from emomm_study.corpora.scores import Corpus, score_to_label

BOTH = pytest.mark.parametrize("mapping", Corpus)
TINY = [(1, 1, 1, 1, 1), (2, 0, 0, 2, 1), (0, 3, 1, 0, 1), (1, 2, 0, 2, 0), (0, 0, 3, 0, 2)]
HIGH = {
    (Corpus.CMU_MOSI, "T"): 0.694653,
    (Corpus.CMU_MOSI, "A"): 0.490276,
    (Corpus.CMU_MOSI, "V"): 0.624452,
    (Corpus.CMU_MOSI, "all"): 0.602956,
    (Corpus.CH_SIMS, "A"): 0.616349,
    (Corpus.CH_SIMS, "all"): 0.689178,
}


def move(folder, source, label, other):
    """One clip of CMU-MOSI from a class to another."""
    where = {"corpus": "cmu_mosi", "source": source}
    edit(folder, 3, {**where, "label": label}, "count", lambda t: str(int(t) - 1))
    edit(folder, 3, {**where, "label": other}, "count", lambda t: str(int(t) + 1))


def statsmodels_kappa(clips):
    """Kappa of whole clips by pattern, from one row of votes a clip."""
    return fleiss_kappa(np.repeat(kappa.PATTERNS, clips, axis=0))


def every_choice(counts, mapping):
    """All ways to give whole clips of each class a pattern of that class."""
    labels = score_to_label(kappa.pattern_scores(), mapping)
    ways = [
        [*combinations_with_replacement(np.flatnonzero(labels == c), n)]
        for c, n in enumerate(counts)
    ]
    for choice in product(*ways):
        yield np.bincount([p for part in choice for p in part], minlength=21)


def random_votes(counts, mapping, rng, sharp=1.0):
    """Real numbers of clips by pattern, with the class counts."""
    labels = score_to_label(kappa.pattern_scores(), mapping)
    clips = np.zeros(21)
    for c, n in enumerate(counts):
        at = np.flatnonzero(labels == c)
        clips[at] = n * rng.dirichlet(np.full(len(at), sharp))
    return clips


def test_the_patterns_are_all_ways_in_which_five_can_vote():
    ways = {v for v in product(range(6), repeat=3) if sum(v) == 5}
    assert {tuple(p) for p in kappa.PATTERNS.tolist()} == ways and len(kappa.PATTERNS) == 21


@BOTH
def test_a_patterns_class_is_that_of_its_mean_vote(mapping):
    means = [np.mean(np.repeat([-1, 0, 1], pattern)) for pattern in kappa.PATTERNS]
    assert kappa.pattern_scores() == pytest.approx(means)
    assert kappa.pattern_labels(mapping).tolist() == score_to_label(means, mapping).tolist()


@given(st.lists(st.integers(0, 4), min_size=21, max_size=21).filter(lambda c: sum(c) > 0))
def test_kappa_from_patterns_is_that_of_the_votes_one_by_one(clips):
    ours = kappa.kappa_of_counts(clips)
    votes = np.repeat(kappa.PATTERNS, clips, axis=0)
    if (votes.sum(axis=0) > 0).sum() == 1:
        assert np.isnan(ours)
    else:
        assert ours == pytest.approx(fleiss_kappa(votes), abs=1e-12)
        assert -0.25 - 1e-12 <= ours <= 1 + 1e-12


def test_kappa_by_hand():
    # Two clips: all five negative; three positive, two neutral. Agreement (1 + 4/10) / 2 = 0.7;
    # shares 0.5, 0.2, 0.3, so chance is 0.38 and kappa 0.32 / 0.62.
    clips = [(p == [5, 0, 0]).all() or (p == [0, 2, 3]).all() for p in kappa.PATTERNS]
    assert kappa.kappa_of_counts(np.array(clips, dtype=int)) == pytest.approx(0.32 / 0.62)


@BOTH
@pytest.mark.parametrize("counts", TINY, ids=str)
def test_no_whole_votes_lie_outside_the_range_and_some_are_its_low_end(counts, mapping):
    found = kappa.kappa_range(counts, mapping)
    kappas = kappa.kappa_of_counts(np.array([*every_choice(counts, mapping)]))
    assert found.low == pytest.approx(np.nanmin(kappas), abs=1e-12)
    assert found.attained_low == found.low
    assert np.nanmax(kappas) <= found.high + 1e-9
    assert found.attained_high <= np.nanmax(kappas) + 1e-12


@BOTH
@pytest.mark.parametrize("modality", "TAV")
def test_a_general_optimiser_from_random_starts_reaches_the_upper_bound_and_never_beats_it(
    modality, mapping
):
    counts, rng = kappa.class_counts()[modality], np.random.default_rng(0)
    labels = kappa.pattern_labels(mapping)
    member = (labels == np.arange(5)[:, None]).astype(float)
    bound, reached = kappa.kappa_range(counts, mapping).high, []
    for _ in range(4):
        found = minimize(
            lambda x: -kappa.kappa_of_counts(np.maximum(x, 0)),
            random_votes(counts, mapping, rng) / counts.sum(),
            method="SLSQP",
            bounds=[(0, 1)] * 21,
            constraints={"type": "eq", "fun": lambda x: member @ x - counts / counts.sum()},
            options={"ftol": 1e-12, "maxiter": 300},
        )
        point = np.maximum(found.x, 0)
        # Back on the class counts exactly, or a violated constraint could beat the bound.
        point *= (counts / counts.sum() / (member @ point))[labels]
        reached.append(kappa.kappa_of_counts(point))
    assert max(reached) <= bound + 1e-9
    assert max(reached) == pytest.approx(bound, abs=1e-5)


@BOTH
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), sharp=st.sampled_from([0.05, 0.3, 1.0]))
def test_random_votes_stay_inside_the_range_and_under_every_ceiling(mapping, seed, sharp):
    rng = np.random.default_rng(seed)
    counts = kappa.class_counts()["TAV"[seed % 3]]
    found = kappa.kappa_range(counts, mapping)
    value = kappa.kappa_of_counts(random_votes(counts, mapping, rng, sharp))
    assert found.low - 1e-12 <= value <= found.high + 1e-12
    assert kappa.ceiling(counts, mapping, rng.dirichlet([1, 1, 1])) >= found.attained_high


@BOTH
def test_whole_clips_come_within_a_millionth_of_the_bound_with_table_3s_counts(mapping):
    for modality, counts in kappa.class_counts().items():
        found = kappa.kappa_range(counts, mapping)
        assert 0 <= found.high - found.attained_high + 1e-12 < 1e-6, modality
        for clips, attained in (
            (found.votes_low, found.attained_low),
            (found.votes_high, found.attained_high),
        ):
            labels = np.repeat(kappa.pattern_labels(mapping), clips)
            assert np.bincount(labels, minlength=5).tolist() == counts.tolist()
            assert statsmodels_kappa(clips) == pytest.approx(attained, abs=1e-12)


@BOTH
def test_the_range_depends_on_proportions_alone(mapping):
    counts = kappa.class_counts()["V"]
    one, two = (kappa.kappa_range(k * counts, mapping) for k in (1, 2))
    assert (one.low, one.high) == pytest.approx((two.low, two.high), abs=1e-8)


def test_upper_ends_of_the_published_counts():
    frame = kappa.kappa_ranges().set_index(["mapping", "modality"])
    for (mapping, modality), high in HIGH.items():
        assert frame.at[(mapping.value, modality), "high"] == pytest.approx(high, abs=1e-6)


def test_audio_alone_cannot_have_the_published_kappa_under_cmu_mosis_mapping():
    frame = kappa.kappa_ranges()
    outside = frame.loc[~frame["contains_published"], ["mapping", "modality"]]
    assert outside.to_numpy().tolist() == [["cmu_mosi", "A"]]


def test_the_mean_has_the_means_of_the_three_ends():
    frame = kappa.kappa_ranges().set_index(["mapping", "modality"])
    for mapping in Corpus:
        three = frame.loc[[(mapping.value, m) for m in "TAV"], ["low", "high"]].mean()
        assert frame.loc[(mapping.value, "mean"), ["low", "high"]].to_numpy(float) == pytest.approx(
            three.to_numpy(), abs=1e-12
        )


@pytest.mark.parametrize(
    ("source", "label", "other"),
    [("t", "WN", "N"), ("t", "P", "Neu"), ("a", "WN", "N"), ("a", "WP", "P"), ("v", "Neu", "WP")],
)
def test_one_clip_moved_to_another_class_changes_that_modalitys_range_and_no_others(
    copy, source, label, other
):
    before = kappa.kappa_ranges().set_index(["modality", "mapping"])[["low", "high"]]
    move(copy, source, label, other)
    after = kappa.kappa_ranges(copy).set_index(["modality", "mapping"])[["low", "high"]]
    changed = ((before - after).abs() > 1e-6).any(axis=1)
    assert set(changed.index[changed].get_level_values("modality")) == {
        source.upper(),
        "mean",
        "all",
    }


def test_the_published_kappa_is_read_from_the_claims(copy):
    edit(copy, "claims", {"id": "kappa"}, "value", lambda _: "0.49")
    frame = kappa.kappa_ranges(copy).set_index(["mapping", "modality"])
    assert frame.at[("cmu_mosi", "A"), "contains_published"]
    edit(copy, "claims", {"id": "kappa"}, "value", lambda _: "0.61")
    frame = kappa.kappa_ranges(copy).set_index(["mapping", "modality"])
    assert not frame.at[("cmu_mosi", "all"), "contains_published"]
    with pytest.raises(ValueError, match="no votes with Table 3's counts give kappa 0.61"):
        kappa.witness("cmu_mosi", copy)


@BOTH
def test_the_witness_has_table_3s_classes_and_a_kappa_that_prints_as_published(mapping):
    found = kappa.witness(mapping)
    votes = np.concatenate([np.repeat(kappa.PATTERNS, c, axis=0) for c in found.clips])
    assert len(votes) == 6000
    assert f"{fleiss_kappa(votes):.2f}" == f"{kappa.published_kappa():.2f}" == "0.54"
    assert found.kappa == pytest.approx(fleiss_kappa(votes), abs=1e-12)
    for (modality, counts), clips in zip(kappa.class_counts().items(), found.clips, strict=True):
        own = np.repeat(kappa.PATTERNS, clips, axis=0)
        labels = score_to_label((own @ [-1, 0, 1]) / 5, mapping)
        assert np.bincount(labels, minlength=5).tolist() == counts.tolist()
        assert found.by_modality[modality] == pytest.approx(fleiss_kappa(own), abs=1e-12)


@BOTH
def test_the_witnesss_frame_holds_the_same_votes(mapping):
    found = kappa.witness(mapping)
    frame = found.frame()
    assert frame.groupby("modality")["clips"].sum().tolist() == [2000] * 3
    steps = frame["positive"] - frame["negative"]
    assert [CLASSES[c] for c in score_to_label(steps / 5, mapping)] == frame["label"].tolist()
    votes = np.repeat(frame[["negative", "neutral", "positive"]].to_numpy(), frame["clips"], axis=0)
    assert fleiss_kappa(votes) == pytest.approx(found.kappa, abs=1e-12)


def test_the_least_kappa_is_what_the_others_largest_leave_of_the_mean():
    ranges = kappa.kappa_ranges().set_index(["mapping", "modality"])
    frame = kappa.least_kappas().query("published_is == 'mean'")
    frame = frame.set_index(["mapping", "modality"])
    for mapping, modality in frame.index:
        others = [ranges.at[(mapping, m), "high"] for m in "TAV" if m != modality]
        least = frame.at[(mapping, modality), "least"]
        assert np.mean([least, *others]) == pytest.approx(0.535)
        assert ranges.at[(mapping, modality), "low"] < least < frame.at[(mapping, modality), "most"]
    assert frame["least"].round(3).to_dict()["cmu_mosi", "T"] == 0.490


def least_in_half_space(own, others, mapping, together, q):
    """Lower bound of the own clips' kappa by a second way: one tangent of the condition.

    The others are as good as they can be, and the least of a quasi-concave function is at a
    corner: one of the classes' own, or where an edge between two of these crosses the plane.
    """
    labels = kappa.pattern_labels(mapping)
    of_class = [np.flatnonzero(labels == c) for c in range(5)]
    chance = 2 * kappa.PATTERNS @ q / 5 - q @ q
    agreement = (kappa.PATTERNS**2).sum(axis=1) / 20 - 0.25
    excess = agreement - together - (1 - together) * chance
    need = -sum(n * excess[at].max() for n, at in zip(others, of_class, strict=True))
    least = np.inf
    for choice in product(*of_class):
        clips = np.bincount(choice, weights=own, minlength=21)
        if (have := clips @ excess) < need:
            continue
        corners = [clips]
        for c, at in enumerate(of_class):
            loss = own[c] * (excess[choice[c]] - excess[at])
            for p in at[loss > have - need]:
                step = own[c] * (have - need) / loss[at == p][0]
                corners.append(clips + step * (np.eye(21)[p] - np.eye(21)[choice[c]]))
        least = min(least, kappa.kappa_of_counts(np.array(corners)).min())
    return least


@pytest.mark.parametrize(
    ("mapping", "modality", "q"),
    [
        # Found by a search for the tangent of the largest bound.
        (Corpus.CMU_MOSI, "T", (0.194, 0.502, 0.304)),
        (Corpus.CMU_MOSI, "V", (0.2007, 0.5125, 0.2868)),
        (Corpus.CH_SIMS, "A", (0.311, 0.3244, 0.3646)),
    ],
)
def test_the_least_kappa_beside_all_votes_is_between_a_bound_and_a_value_found_otherwise(
    mapping, modality, q
):
    counts = kappa.class_counts()
    own, others = counts[modality], sum(c for m, c in counts.items() if m != modality)
    frame = kappa.least_kappas().set_index(["mapping", "published_is", "modality"])
    row = frame.loc[(mapping.value, "all", modality)]
    second = least_in_half_space(own, others, mapping, 0.535, np.array(q))
    assert second <= row["reached"] + 1e-9
    assert row["least"] <= second + 1e-9
    assert 0 < row["reached"] - row["least"] < 0.0021


def test_no_least_kappa_is_given_where_the_published_value_cannot_occur(copy):
    edit(copy, "claims", {"id": "kappa"}, "value", lambda _: "0.65")
    frame = kappa.least_kappas(copy).set_index("mapping")
    assert frame.loc["cmu_mosi", ["least", "reached"]].isna().all(axis=None)
    assert frame.loc["ch_sims_v2", ["least", "reached"]].notna().all(axis=None)


def test_statements_that_do_not_hold_are_audios_and_the_word_for_the_published_value():
    frame = kappa.kappa_statements()
    wrong = frame[~frame["holds"]]
    assert wrong["mapping"].tolist() == ["cmu_mosi", ""]
    assert [t.split()[0] for t in wrong["statement"]] == ["each", "'substantial'"]
    assert "A at most 0.4903" in wrong["detail"].iloc[0]
    assert "at most 0.6030, substantial is above 0.60" in frame["detail"].tolist()


@pytest.mark.parametrize(
    ("value", "name"),
    [(-0.1, "poor"), (0.2, "slight"), (0.21, "fair"), (0.41, "moderate"), (0.54, "moderate"),
     (0.6049, "moderate"), (0.61, "substantial"), (0.8, "substantial"), (1.0, "almost perfect")],
)  # fmt: skip
def test_bands_are_those_of_landis_and_koch_at_two_decimals(value, name):
    assert kappa.band(value) == name


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((1, 2, 3), "5 numbers of clips"),
        ((1, 2, -3, 1, 1), "not negative"),
        ((0, 0, 9, 0, 0), "two classes or more"),
        ((1.0, 2, 3, 1, 1), "whole clips"),
    ],
)
def test_counts_that_are_not_table_3s_kind_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        kappa.kappa_range(counts, "cmu_mosi")


def test_numbers_of_clips_by_pattern_have_21_places():
    with pytest.raises(ValueError, match=r"shape \(20,\)"):
        kappa.kappa_of_counts(np.ones(20))
