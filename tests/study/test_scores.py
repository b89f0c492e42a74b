from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from emomm_lib.labels import (
    class_labels,
    polarity,
)
from emomm_study.corpora.scores import (
    GRIDS,
    Corpus,
    mosi_intensity_to_score,
    nearest_step,
    on_grid,
    score_to_label,
)

GRID = [Fraction(k, 5) for k in range(-5, 6)]
EXPECTED = {
    Corpus.CH_SIMS: [(-1.0, -0.8), (-0.6, -0.4, -0.2), (0.0,), (0.2, 0.4, 0.6), (0.8, 1.0)],
    Corpus.CMU_MOSI: [(-1.0, -0.8, -0.6), (-0.4, -0.2), (0.0,), (0.2, 0.4), (0.6, 0.8, 1.0)],
}
# Thousandths are exact enough to hit every tie (odd multiples of 0.1).
THOUSANDTHS = st.integers(-1000, 1000).map(lambda k: Fraction(k, 1000))


def nearest(score: Fraction) -> Fraction:
    """The grid point of the least distance, the one farther from zero in a tie."""
    return min(GRID, key=lambda point: (abs(score - point), -abs(point)))


@pytest.mark.parametrize("corpus", Corpus)
def test_each_class_has_exactly_the_scores_of_appendix_a1(corpus):
    assert [GRIDS[corpus].scores(label) for label in range(5)] == EXPECTED[corpus]
    for label, scores in enumerate(EXPECTED[corpus]):
        assert score_to_label(scores, corpus).tolist() == [label] * len(scores)


@pytest.mark.parametrize("corpus", Corpus)
@pytest.mark.parametrize("step", range(-5, 5))
def test_labels_change_at_the_published_boundaries_and_nowhere_else(corpus, step):
    low, high = score_to_label([step / 5, (step + 1) / 5], corpus)
    together = any({step / 5, (step + 1) / 5} <= set(scores) for scores in EXPECTED[corpus])
    assert (low == high) == together and high - low in (0, 1)


@pytest.mark.parametrize("corpus", Corpus)
@pytest.mark.parametrize("step", range(-5, 5))
def test_the_middle_between_two_grid_points_is_the_boundary_and_goes_away_from_zero(corpus, step):
    middle, gap = (2 * step + 1) / 10, 1e-6
    low, high = score_to_label([step / 5, (step + 1) / 5], corpus)
    assert score_to_label([middle - gap, middle + gap], corpus).tolist() == [low, high]
    assert score_to_label(middle, corpus) == (high if middle > 0 else low)


@given(THOUSANDTHS)
def test_nearest_step_equals_brute_force_over_the_eleven_grid_points(score):
    assert nearest_step(float(score)) == nearest(score) * 5


@given(st.integers(-3000, 3000).map(lambda k: Fraction(k, 1000)))
def test_mosi_intensity_is_divided_by_three_and_put_on_the_nearest_grid_point(intensity):
    score = mosi_intensity_to_score(float(intensity))
    assert score == float(nearest(intensity / 3)) and on_grid(score)


@given(THOUSANDTHS, st.sampled_from(Corpus))
def test_negating_a_score_mirrors_its_class(score, corpus):
    assert score_to_label(float(-score), corpus) == 4 - score_to_label(float(score), corpus)


@given(THOUSANDTHS, THOUSANDTHS, st.sampled_from(Corpus))
def test_a_higher_score_never_has_a_lower_class(one, two, corpus):
    low, high = score_to_label(sorted((float(one), float(two))), corpus)
    assert low <= high


@given(THOUSANDTHS)
def test_both_corpora_agree_on_polarity(score):
    sims, mosi = (polarity(score_to_label(float(score), corpus)) for corpus in Corpus)
    assert sims == mosi == np.sign(nearest(score))


def test_the_two_mappings_differ_only_at_six_tenths():
    grid = np.array([float(point) for point in GRID])
    differ = score_to_label(grid, Corpus.CH_SIMS) != score_to_label(grid, Corpus.CMU_MOSI)
    assert grid[differ].tolist() == [-0.6, 0.6]


@given(st.floats().filter(lambda x: not abs(x) <= 1 + 1e-6))
def test_scores_outside_the_range_or_missing_raise(score):
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        nearest_step([0.0, score])


@given(st.integers(-5000, 5000).map(lambda k: Fraction(k, 1000)))
def test_on_grid_holds_exactly_for_multiples_of_two_tenths_up_to_one(score):
    assert on_grid(float(score)) == (score in GRID)
    assert not on_grid(np.nan)


NO_LABELS = [np.nan, None, pd.NA, pd.NaT, 7, -1, 5, 2.5, np.inf, True, np.False_, "3", "WP", 1j]
NO_SCORES = [True, np.True_, "0.4", "x", 1j, np.datetime64("2020-01-01")]


@pytest.mark.parametrize("bad", NO_LABELS, ids=repr)
@pytest.mark.parametrize("function", [polarity, class_labels, GRIDS[Corpus.CH_SIMS].scores])
def test_what_is_no_class_has_no_polarity_and_no_scores(function, bad):
    with pytest.raises(ValueError, match=r"whole numbers 0 to 4; got .*\(1 in all\)"):
        function(bad)


@pytest.mark.parametrize("bad", NO_SCORES, ids=repr)
@pytest.mark.parametrize(
    "function", [nearest_step, on_grid, mosi_intensity_to_score, GRIDS[Corpus.CMU_MOSI].labels]
)
def test_what_is_no_number_has_no_class_and_no_grid(function, bad):
    for values in (bad, np.array([0, bad], dtype=object)):
        with pytest.raises(ValueError, match=r"must be numbers; got .*\(1 in all\)"):
            function(values)


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA, pd.NaT], ids=repr)
def test_a_missing_score_has_no_class_and_is_not_on_the_grid(missing):
    for function in (nearest_step, mosi_intensity_to_score, GRIDS[Corpus.CMU_MOSI].labels):
        with pytest.raises(ValueError, match=r"got nan \(1 in all\)"):
            function([0, missing])
    assert on_grid([0, missing]).tolist() == [True, False]


def test_an_intensity_out_of_range_is_named_as_it_was_given():
    with pytest.raises(ValueError, match=r"intensities must lie in \[-3, 3\]; got 3.2, -4.0"):
        mosi_intensity_to_score([1, 3.2, -4])
    for bad in (6, 0.5):
        with pytest.raises(ValueError, match=f"grid steps .* got {float(bad)}"):
            GRIDS[Corpus.CH_SIMS].labels([0, bad])


def test_scores_are_asked_of_one_class():
    with pytest.raises(ValueError, match="one class at a time"):
        GRIDS[Corpus.CH_SIMS].scores([1, 2])


@pytest.mark.parametrize("empty", [[], np.zeros((0, 3))], ids=repr)
def test_of_no_scores_there_are_no_steps(empty):
    assert nearest_step(empty).shape == np.shape(empty) and nearest_step(empty).dtype == np.int64
