"""p* and g* against loops over clips, and the paper's example (Sec. 5.1, Eq. 9)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from emomm_lib.chase.targets import conflict_target, correctness, gate_target
from emomm_lib.labels import COALITIONS, coalition_modalities

READINGS = ("label", "polarity")
N, WN, NEU, WP, P = range(5)
EVERY = [[True, True, True]]

label = st.integers(N, P)
clip = st.tuples(label, st.tuples(label, label, label), st.sampled_from(COALITIONS))
clips = st.lists(clip, min_size=1, max_size=12)
quick = settings(max_examples=40, deadline=None)


def columns(chosen):
    present = [[m in coalition_modalities(c) for m in "TAV"] for _, _, c in chosen]
    return [gt for gt, _, _ in chosen], [own for _, own, _ in chosen], present


def same(one: int, two: int, reading: str) -> bool:
    signs = {N: "-", WN: "-", NEU: "0", WP: "+", P: "+"}
    return one == two if reading == "label" else signs[one] == signs[two]


@given(clips, st.sampled_from(READINGS))
@quick
def test_a_modality_is_right_when_it_is_there_and_agrees_with_the_truth(chosen, reading):
    right = correctness(*columns(chosen), reading)
    assert right.shape == (len(chosen), 3) and right.dtype == bool
    for row, (truth, own, coalition) in zip(right, chosen, strict=True):
        for name, y, r in zip("TAV", own, row, strict=True):
            assert r == (name in coalition_modalities(coalition) and same(y, truth, reading))


@given(clips, st.sampled_from(READINGS))
@quick
def test_a_conflict_is_one_present_modality_that_disagrees(chosen, reading):
    target = conflict_target(*columns(chosen), reading)
    assert target.shape == (len(chosen),) and target.dtype == np.float32
    for p, (truth, own, coalition) in zip(target, chosen, strict=True):
        held = dict(zip("TAV", own, strict=True))
        there = coalition_modalities(coalition)
        assert p == float(any(not same(held[m], truth, reading) for m in there))


@given(clips, st.sampled_from(READINGS), st.floats(1e-6, 10))
@quick
def test_the_gate_is_equation_9_over_present_modalities(chosen, reading, epsilon):
    target = gate_target(*columns(chosen), reading, epsilon)
    assert target.shape == (len(chosen), 3) and target.dtype == np.float32
    for g, (truth, own, coalition) in zip(target, chosen, strict=True):
        held = dict(zip("TAV", own, strict=True))
        there = coalition_modalities(coalition)
        weight = {m: float(same(held[m], truth, reading)) + epsilon for m in there}
        for name, value in zip("TAV", g, strict=True):
            expected = weight[name] / sum(weight.values()) if name in there else 0.0
            assert value == pytest.approx(expected, rel=1e-6)
            # Not nearly: an absent modality must get nothing.
            assert (value == 0) == (name not in there)
        assert float(g.sum()) == pytest.approx(1.0 if there else 0.0, abs=1e-6)


def test_where_audio_conflicts_and_text_and_video_align_audio_is_suppressed():
    """The example under Eq. 9."""
    [gate] = gate_target([WP], [[WP, N, WP]], EVERY, "label")
    np.testing.assert_allclose(gate, [1.01 / 2.03, 0.01 / 2.03, 1.01 / 2.03], rtol=1e-6)
    assert conflict_target([WP], [[WP, N, WP]], EVERY, "label") == [1]


def test_without_audio_that_clip_has_no_conflict_and_two_equal_weights():
    there = [[True, False, True]]
    assert gate_target([WP], [[WP, N, WP]], there, "label").tolist() == [[0.5, 0, 0.5]]
    assert conflict_target([WP], [[WP, N, WP]], there, "label") == [0]


def test_a_weaker_label_of_the_same_sign_conflicts_by_label_and_not_by_polarity():
    clip = [P], [[WP, P, P]], EVERY
    assert [conflict_target(*clip, reading)[0] for reading in READINGS] == [1, 0]
    by_label, by_polarity = (gate_target(*clip, reading)[0] for reading in READINGS)
    assert by_label[0] < by_label[1] == by_label[2]
    np.testing.assert_allclose(by_polarity, 1 / 3, rtol=1e-6)


def test_neutral_is_a_polarity_of_its_own():
    for truth, own in ((NEU, WP), (WN, NEU)):
        assert conflict_target([truth], [[own, truth, truth]], EVERY, "polarity") == [1]


def test_polarity_never_finds_a_conflict_that_labels_do_not():
    grid = np.stack(np.meshgrid(*[range(5)] * 4), -1).reshape(-1, 4)
    there = np.ones((len(grid), 3), dtype=bool)
    by_label, by_polarity = (conflict_target(grid[:, 0], grid[:, 1:], there, r) for r in READINGS)
    assert (by_polarity <= by_label).all()
    # All 625 but the 5 where all are equal; and but the 2 * 16 + 1 of one sign.
    assert (by_label.sum(), by_polarity.sum()) == (620, 625 - 33)


def test_where_no_modality_is_right_all_weigh_the_same():
    wrong = [P], [[N, WN, NEU]]
    np.testing.assert_allclose(gate_target(*wrong, EVERY, "label"), 1 / 3, rtol=1e-6)
    there = [[True, False, True]]
    assert gate_target(*wrong, there, "label").tolist() == [[0.5, 0, 0.5]]


def test_a_prompt_without_modalities_has_no_conflict_and_a_gate_of_zeros():
    nothing = [[False, False, False]]
    assert conflict_target([P], [[N, N, N]], nothing, "label") == [0]
    assert gate_target([P], [[N, N, N]], nothing, "label").tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("epsilon", [0.0, -0.01, float("nan")])
def test_a_smoothing_that_is_not_positive_is_refused(epsilon):
    with pytest.raises(ValueError, match=rf"epsilon is positive.*{epsilon}"):
        gate_target([P], [[N, N, N]], EVERY, "label", epsilon)


def test_a_reading_that_is_neither_label_nor_polarity_is_refused_by_name():
    for target in (correctness, conflict_target, gate_target):
        with pytest.raises(ValueError, match="'sign'"):
            target([P], [[N, N, N]], EVERY, "sign")


@pytest.mark.parametrize("bad", [7, -1, np.nan, 2.5, "1"])
def test_what_is_no_label_makes_no_target(bad):
    for given_ in (([bad], [[1, 2, 3]]), ([1], np.array([[1, 2, bad]], dtype=object))):
        for target in (correctness, conflict_target, gate_target):
            with pytest.raises(ValueError, match="whole numbers 0 to 4"):
                target(*given_, EVERY, "label")
