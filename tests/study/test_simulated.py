"""Simulated annotators: votes are exact draws, and the way they are made keeps given classes."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import norm

from emomm_lib.labels import CLASSES, MODALITIES
from emomm_study import paper
from emomm_study.annotation import agreement
from emomm_study.annotation.campaign import Answer, Campaign, CampaignError
from emomm_study.corpora.scores import Corpus, score_to_label
from emomm_study.mini.annotators import (
    BALLOTS,
    SimulatedAnnotators,
    is_simulated,
    latent,
    simulate,
    simulated_campaign,
)

corpora = st.sampled_from(list(Corpus))
noises = st.floats(1e-3, 20)


def labelled(clips: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    classes = {f"label_{m.lower()}": rng.integers(0, 5, clips) for m in MODALITIES}
    return pd.DataFrame({"sample_id": [f"cmu_mosi/v{n % 3}/{n}" for n in range(clips)], **classes})


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    corpus=corpora,
    noise=noises,
    leaning=st.floats(0, 1),
    slip=st.floats(1e-3, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_the_mean_of_five_votes_always_has_the_given_class(
    labels, corpus, noise, leaning, slip, seed
):
    annotators = SimulatedAnnotators(noise, leaning, slip, seed)
    votes = annotators.vote(labels, corpus, np.random.default_rng(seed))
    assert np.isin(votes, (-1, 0, 1)).all() and votes.shape == (len(labels), 5)
    np.testing.assert_array_equal(score_to_label(votes.mean(axis=1), corpus), labels)


@pytest.mark.parametrize("label", range(5))
def test_probabilities_are_those_of_independent_voters_whose_mean_was_seen_to_have_the_class(label):
    annotators = SimulatedAnnotators(0.4, leaning=0.2, slip=0.1, seed=3)
    rng, corpus = np.random.default_rng(1), Corpus.CMU_MOSI
    perceived = latent(label, corpus) + annotators.leanings()
    perceived = perceived + rng.normal(0, 0.4, (400_000, 5))
    votes = np.clip(np.rint(perceived), -1, 1)
    slipped = rng.random(votes.shape) < 0.1
    votes = np.where(slipped, rng.integers(-1, 2, votes.shape), votes).astype(int)
    kept = votes[score_to_label(votes.mean(axis=1), corpus) == label]
    seen = np.bincount((kept + 1) @ 3 ** np.arange(4, -1, -1), minlength=243) / len(kept)
    expected = annotators.probabilities(label, corpus)
    sigma = np.sqrt(expected * (1 - expected) / len(kept))
    assert (np.abs(seen - expected) <= 5 * sigma + 1e-5).all()


def test_draws_have_these_probabilities():
    annotators = SimulatedAnnotators(0.3)
    votes = annotators.vote(np.full(200_000, 3), "cmu_mosi", np.random.default_rng(0))
    seen = np.bincount((votes + 1) @ 3 ** np.arange(4, -1, -1), minlength=243) / len(votes)
    expected = annotators.probabilities(3, "cmu_mosi")
    np.testing.assert_allclose(seen, expected, atol=0.006)
    assert (seen[expected == 0] == 0).all()


@given(label=st.integers(0, 4), corpus=corpora, noise=noises, order=st.permutations(range(5)))
@settings(max_examples=40, deadline=None)
def test_without_leanings_it_does_not_matter_who_is_who(label, corpus, noise, order):
    chance = SimulatedAnnotators(noise, leaning=0).probabilities(label, corpus)
    by_ballot = dict(zip(map(tuple, BALLOTS.tolist()), chance, strict=True))
    for ballot, p in by_ballot.items():
        assert p == pytest.approx(by_ballot[tuple(ballot[i] for i in order)], rel=1e-9, abs=1e-15)


def test_who_leans_upwards_votes_higher_than_the_others():
    annotators = SimulatedAnnotators(0.3, leaning=0.1, seed=1)
    chance = np.mean([annotators.probabilities(c, "cmu_mosi") for c in range(5)], axis=0)
    order = np.argsort(annotators.leanings())
    assert (np.diff((chance @ BALLOTS)[order]) > 0).all()


def expected_kappa(noise: float, corpus: Corpus, leaning: float = 0.0) -> float:
    """Pooled kappa of endless votes on Table 3's CMU-MOSI classes, with statistics of its own."""
    table = paper.table(3).query("corpus == 'cmu_mosi' and source != 'gt'")
    counts = table.groupby("label")["count"].sum().reindex(CLASSES).to_numpy()
    annotators = SimulatedAnnotators(noise, leaning=leaning)
    weight = sum(n * annotators.probabilities(c, corpus) for c, n in enumerate(counts))
    weight = weight / weight.sum()
    pairs = [float(np.mean([a == b for a, b in itertools.combinations(x, 2)])) for x in BALLOTS]
    observed = weight @ pairs
    shares = [weight @ (v == BALLOTS).mean(axis=1) for v in (-1, 0, 1)]
    expected = np.square(shares).sum()
    return float((observed - expected) / (1 - expected))


@given(corpus=corpora, noise=st.floats(0.08, 1), more=st.floats(1.05, 3))
@settings(max_examples=60, deadline=None)
def test_more_noise_gives_less_agreement(corpus, noise, more):
    assert expected_kappa(noise * more, corpus) < expected_kappa(noise, corpus)


def test_the_default_noise_gives_table_3_s_classes_a_kappa_that_prints_as_the_published_one():
    default = SimulatedAnnotators()
    kappa = expected_kappa(default.noise, Corpus.CMU_MOSI, default.leaning)
    published = paper.claims().set_index("id").at["kappa", "value"]
    assert round(kappa, 2) == published


def test_without_noise_everybody_votes_for_the_nearest_of_the_class_s_middle():
    for label, vote in ((0, -1), (2, 0), (4, 1)):
        sure = SimulatedAnnotators(1e-3, leaning=0, slip=1e-9)
        best = BALLOTS[np.argmax(sure.probabilities(label, "cmu_mosi"))]
        assert (best == vote).all() and norm.cdf(0.2 / 1e-3) == 1


@pytest.mark.parametrize("bad", [{"noise": 0.0}, {"leaning": -1.0}, {"slip": 0.0}, {"slip": 2.0}])
def test_impossible_annotators_are_refused(bad):
    with pytest.raises(ValueError, match="positive noise"):
        SimulatedAnnotators(**bad)
    with pytest.raises(ValueError, match="classes are integers 0 to 4"):
        SimulatedAnnotators().vote([0, 5], "cmu_mosi", np.random.default_rng(0))


# Campaigns


def test_a_simulated_campaign_is_full_and_its_means_have_the_labels(tmp_path):
    labels = labelled(60)
    campaign = simulated_campaign(tmp_path / "c.sqlite", labels.sample(frac=1, random_state=0))
    progress = campaign.progress()
    assert (progress["done"] == progress["total"]).all() and len(campaign.votes()) == 60 * 15
    found = agreement.mean_labels(campaign.votes())
    expected = labels.set_index("sample_id").sort_index()
    np.testing.assert_array_equal(found[list(expected)], expected)


def test_a_full_campaign_is_left_and_a_cut_off_one_gets_the_same_votes(tmp_path, monkeypatch):
    labels, annotators = labelled(12), SimulatedAnnotators()
    whole = simulated_campaign(tmp_path / "whole.sqlite", labels)
    assert simulate(whole, labels, "cmu_mosi", annotators) == 0
    bytes_before = (tmp_path / "whole.sqlite").read_bytes()
    assert simulated_campaign(tmp_path / "whole.sqlite", labels).fingerprint == whole.fingerprint
    assert (tmp_path / "whole.sqlite").read_bytes() == bytes_before

    record, calls = Campaign.record, []

    def stop_at_audio(self, answers):
        answers = list(answers)
        calls.append(len(answers))
        if answers[0].modality == "A":
            record(self, answers[:7])
            raise KeyboardInterrupt
        record(self, answers)

    monkeypatch.setattr(Campaign, "record", stop_at_audio)
    with pytest.raises(KeyboardInterrupt):
        simulated_campaign(tmp_path / "cut.sqlite", labels)
    monkeypatch.undo()
    resumed = simulated_campaign(tmp_path / "cut.sqlite", labels)
    pd.testing.assert_frame_equal(resumed.votes(), whole.votes())
    assert len(resumed.history()) == 12 * 15


@pytest.mark.parametrize(
    "other",
    [
        lambda labels: {"annotators": SimulatedAnnotators(0.5)},
        lambda labels: {"annotators": SimulatedAnnotators(seed=1)},
        lambda labels: {"labels": labels.assign(label_v=4 - labels["label_v"])},
        lambda labels: {"labels": labels.head(5)},
    ],
)
def test_a_stale_campaign_is_made_anew_and_never_mixed(tmp_path, other):
    labels = labelled(12)
    simulated_campaign(tmp_path / "c.sqlite", labels)
    wanted = {"labels": labels} | other(labels)
    made = simulated_campaign(tmp_path / "c.sqlite", **wanted)
    fresh = simulated_campaign(tmp_path / "fresh.sqlite", **wanted)
    pd.testing.assert_frame_equal(made.votes(), fresh.votes())
    assert len(made.history()) == len(fresh.history()) == len(wanted["labels"]) * 15


def test_a_campaign_of_people_is_never_touched(tmp_path):
    labels, path = labelled(3), tmp_path / "c.sqlite"
    people = Campaign.create(path, labels["sample_id"])
    people.record([Answer("A1", "T", 1, -1)])
    with pytest.raises(CampaignError, match="not made by simulated annotators"):
        simulated_campaign(path, labels)
    assert not is_simulated(people) and len(Campaign(path).votes()) == 1


def test_a_campaign_that_cannot_be_simulated_says_why(tmp_path):
    labels = labelled(4)
    teams = {
        tuple(f"A{i}" for i in r): s for r, s in ((range(1, 6), (1, 2)), (range(6, 11), (3, 4)))
    }
    two = Campaign.create(tmp_path / "two.sqlite", labels["sample_id"], teams)
    with pytest.raises(ValueError, match="one team of five.*it has 10 annotators"):
        simulate(two, labels, "cmu_mosi", SimulatedAnnotators())
    one = Campaign.create(tmp_path / "one.sqlite", labels["sample_id"])
    with pytest.raises(ValueError, match="no labels for 2 clips of .*cmu_mosi/v2/2"):
        simulate(one, labels.head(2), "cmu_mosi", SimulatedAnnotators())
