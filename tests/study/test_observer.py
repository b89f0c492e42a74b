"""The ideal observer against enumeration and against clips drawn by the generator itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from emomm_lib.labels import COALITIONS, MODALITIES
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.surrogate.cue import (
    INFORMATIVE_CUE,
    NULL_CUE,
    Confusion,
    EmphasisCue,
    Expressiveness,
    draw_shown,
    shown_probabilities,
)
from emomm_study.mini.surrogate.joint import joint_counts
from emomm_study.mini.surrogate.observer import IdealObserver, agreeing_labels
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan, training_plan

EVEN = Expressiveness()
UNEVEN = Expressiveness(Confusion(0.02, 0.12), Confusion(0.05, 0.20), Confusion(0.10, 0.35))


def chance(shown, label, rate, lapse=0.0):
    """P(shown | label), by the words of :func:`draw_shown`, and of a lapse."""
    neighbours = [k for k in (label - 1, label + 1) if 0 <= k <= 4]
    own = 1 - rate if shown == label else rate / len(neighbours) * (shown in neighbours)
    return (1 - lapse) * own + lapse / 5


def enumerated(labels, cue, expressiveness, shown, emphatic, coalition, lapse):
    """P(GT | evidence) by a sum over every tuple of labels."""
    total = labels.sum()
    rate = {}
    for i, m in enumerate(MODALITIES):
        agrees = sum(labels[cell] for cell in itertools.product(range(5), repeat=4)
                     if cell[i + 1] == cell[0])  # fmt: skip
        mean = (agrees * cue.agree + (total - agrees) * cue.disagree) / total
        rate[m] = (cue.agree, cue.disagree) if cue.informative else (mean, mean)
    weight = [0.0] * 5
    for cell in itertools.product(range(5), repeat=4):
        p = labels[cell]
        for i, m in enumerate(MODALITIES):
            if m not in coalition:
                continue
            own = rate[m][0 if cell[i + 1] == cell[0] else 1]
            confusion = getattr(expressiveness, m.lower())
            wrong = confusion.emphatic if emphatic[i] else confusion.plain
            p *= (own if emphatic[i] else 1 - own) * chance(shown[i], cell[i + 1], wrong, lapse)
        weight[cell[0]] += p
    return np.array(weight) / sum(weight)


@pytest.mark.parametrize("cue", [INFORMATIVE_CUE, NULL_CUE, EmphasisCue(0.5, 0.5)])
@pytest.mark.parametrize("expressiveness", [EVEN, UNEVEN])
@pytest.mark.parametrize(("corpus", "lapse"), [(None, 0.02), *((c, 0.0) for c in Corpus)])
def test_the_posterior_is_bayes_rule_over_every_tuple_of_labels(corpus, lapse, cue, expressiveness):
    labels = agreeing_labels() if corpus is None else joint_counts(corpus).astype(float)
    observer = IdealObserver(labels, cue, expressiveness, lapse)
    rng = np.random.default_rng(0)
    cells = rng.choice(625, 6, p=labels.ravel() / labels.sum())
    gtav = np.stack(np.unravel_index(cells, labels.shape), 1)
    emphatic = rng.random((6, 3)) < 0.5
    shown = draw_shown(gtav[:, 1:], emphatic, expressiveness, rng)
    for coalition in COALITIONS:
        found = observer.posterior(shown, emphatic, coalition)
        expected = [
            enumerated(
                labels, cue, expressiveness, s, e, () if coalition == "none" else coalition, lapse
            )
            for s, e in zip(shown, emphatic, strict=True)
        ]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_what_is_shown_is_drawn_as_often_as_the_observer_believes():
    confusion = Confusion(0.15, 0.35)
    labels = np.repeat(np.arange(5), 40_000)[:, None].repeat(3, 1)
    for emphatic in (False, True):
        flags = np.full(labels.shape, emphatic)
        shown = draw_shown(labels, flags, Expressiveness(*[confusion] * 3),
                           np.random.default_rng(1))  # fmt: skip
        for label in range(5):
            rate = np.bincount(shown[labels == label], minlength=5) / (labels == label).sum()
            believed = shown_probabilities(confusion)[int(emphatic), label]
            np.testing.assert_allclose(rate, believed, atol=0.006)


def with_subset(plan):
    names = [f"t{i}" for i in range(len(plan))]
    return plan.assign(sample_id=names, subset="all")


def test_on_training_clips_the_posterior_is_calibrated_and_no_other_weighing_is_right_more_often():
    plan = with_subset(training_plan(20_000, 5, EVEN))
    observer = IdealObserver(expressiveness=EVEN)
    shown = plan[["shown_t", "shown_a", "shown_v"]].to_numpy()
    emphatic = plan[["emphatic_t", "emphatic_a", "emphatic_v"]].to_numpy()
    posterior = observer.posterior(shown, emphatic, "TAV")
    right = posterior.argmax(1) == plan["label_gt"].to_numpy()
    best = posterior.max(1)
    for low, high in itertools.pairwise((0.3, 0.5, 0.7, 0.9, 1.0)):
        own = (best > low) & (best <= high)
        error = 4 * 0.5 / np.sqrt(own.sum())
        assert abs(right[own].mean() - best[own].mean()) < error
    votes = np.eye(5)[shown].sum(1).argmax(1) == plan["label_gt"].to_numpy()
    middle = np.median(shown, axis=1) == plan["label_gt"].to_numpy()
    assert right.mean() > max(votes.mean(), middle.mean())


def test_even_clarity_gives_no_modality_an_advantage_and_uneven_clarity_does():
    """So that an order among them, in a model trained on even clips, is the model's own."""
    for expressiveness, even in ((EVEN, True), (UNEVEN, False)):
        plan = with_subset(training_plan(20_000, 6, expressiveness))
        outcomes = IdealObserver(expressiveness=expressiveness).outcomes(plan)
        alone = outcomes.groupby("coalition")["right"].mean()[list(MODALITIES)]
        assert (alone.max() - alone.min() < 0.015) == even
        # Some 70% at most: what a reader of even clips can reach with one modality.
        assert not even or alone.between(0.66, 0.74).all()


def test_outcomes_stand_beside_a_readers_and_more_modalities_never_hurt_on_its_own_clips():
    plan = with_subset(training_plan(20_000, 7, EVEN))
    outcomes = IdealObserver(expressiveness=EVEN).outcomes(plan)
    assert set(outcomes) >= {"sample_id", "coalition", "right", "right_polarity", "subset"}
    accuracy = outcomes.groupby("coalition")["right"].mean()
    assert accuracy["none"] == pytest.approx(0.2)
    for small, large in itertools.permutations(COALITIONS[1:], 2):
        if set(small) < set(large):
            assert accuracy[small] < accuracy[large]


def test_a_clip_that_no_training_clip_is_like_is_explained_by_the_fewest_lapses():
    """T and A show N, V shows P: by one lapse, V's, and not by two; without any it knows nothing."""
    shown, emphatic = np.array([[0, 0, 4]]), np.ones((1, 3), bool)
    posterior = IdealObserver(expressiveness=EVEN).posterior(shown, emphatic, "TAV")[0]
    assert posterior[:2].sum() > 0.99 and posterior.argmax() == 0


def test_one_that_knows_the_conflicts_and_the_cue_is_right_more_often_on_conflicts():
    corpus = Corpus.CH_SIMS
    plan = corpus_plan(corpus, SurrogateSettings(expressiveness=EVEN)).assign(subset="all")
    naive = IdealObserver(expressiveness=EVEN)
    knowing = IdealObserver(joint_counts(corpus).astype(float), INFORMATIVE_CUE, EVEN)
    found = {}
    for name, observer in (("naive", naive), ("knowing", knowing)):
        outcomes = observer.outcomes(plan)
        found[name] = outcomes.loc[outcomes["coalition"] == "TAV", "right"].mean()
    assert found["knowing"] > found["naive"] + 0.05
