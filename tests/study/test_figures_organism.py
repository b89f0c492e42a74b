"""Figures of the family of organisms: marks where their numbers are, open arms said to be open."""

from __future__ import annotations

from itertools import product

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from matplotlib import pyplot as plt

from emomm_study.mini.organism.arms import ARMS, DOSES
from emomm_study.report.figures import organism as figures
from emomm_study.report.figures.parts import MODALITY_COLOURS
from emomm_study.report.manifest import Provenance
from emomm_study.report.publish import caption, write_figure

FOUR = [name for name in ARMS if name not in DOSES]
SETTINGS = ["published", "published, share", "l_r 1, K 8", "l_r 1, K 8, gamma 4",
            "l_r 1, K 8, share"]  # fmt: skip
DOSED = [("repeated", 1), ("repeated", 2), ("repeated", 4), ("repeated", 8), ("room", 2),
         ("room", 3), ("room", 4), ("room", 6)]  # fmt: skip
SEEDS = (1, 2, 3)


def estimates(rows, columns, width=0.02, n=1000):
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(low=frame["value"] - width, high=frame["value"] + 2 * width, n=n)


def knockout_frame(arms=FOUR[:3], seeds=SEEDS, layers=8):
    rows = [(a, s, k, 0.6 - 0.05 * k * (1 + i / 4) / (1 + s / 9))
            for (i, a), s, k in product(enumerate(arms), seeds, range(1, layers + 1))]  # fmt: skip
    return estimates(rows, ["arm", "seed", "layer", "value"])


def steering_frame(arms=FOUR[:3], seeds=SEEDS):
    rows = [(a, s, name, 0.01 * i + 0.004 * s - 0.01)
            for a, s, (i, name) in product(arms, seeds, enumerate(SETTINGS))]  # fmt: skip
    return estimates(rows, ["arm", "seed", "setting", "value"])


def redundancy_frame(arms=FOUR, seeds=SEEDS):
    rows = [(a, s, dose, m, 0.05 - 0.012 * m * (dose == "room") + 0.003 * s)
            for a, s, (dose, m) in product(arms, seeds, DOSED)]  # fmt: skip
    return estimates(rows, ["arm", "seed", "dose", "moments", "value"])


def pair_frame(arms=FOUR[:3], seeds=SEEDS):
    rows = [
        (a, s, pair, 0.45 + 0.05 * i + 0.02 * s + 0.01 * k)
        for (k, a), s, (i, pair) in product(enumerate(arms), seeds, enumerate(figures.PAIRS))
    ]
    return estimates(rows, ["arm", "seed", "pair", "value"], n=520)  # fmt: skip


def modality_frame(scale, arms=FOUR[:3], seeds=SEEDS, n=1000):
    rows = [(a, s, m, scale * (0.5 + 0.2 * i + 0.03 * s + 0.02 * k))
            for (k, a), s, (i, m) in product(enumerate(arms), seeds, enumerate("TAV"))]  # fmt: skip
    return estimates(rows, ["arm", "seed", "modality", "value"], n=n)


def preference(arms=None, **given):
    return figures.preference_figure(
        pair_frame(**given), modality_frame(0.4, **given), modality_frame(0.9, n=330, **given), arms
    )


@pytest.fixture(autouse=True)
def closing():
    yield
    plt.close("all")


def curves(ax, width):
    """Lines of a width as (x, y)."""
    return [([*line.get_xdata()], [*line.get_ydata()]) for line in ax.lines
            if line.get_lw() == width and len(line.get_xdata()) > 2]  # fmt: skip


def marks(ax):
    """Single marks as (x, y)."""
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in ax.lines
            if len(line.get_xdata()) == 1]  # fmt: skip


def words(ax):
    return [text.get_text() for text in ax.texts]


def test_a_knockout_is_a_thin_line_a_seed_and_their_mean_in_percent():
    frame = knockout_frame()
    fig = figures.knockout_figure(frame.sample(frac=1, random_state=0), 4, FOUR[:3])
    assert len(fig.axes) == 3
    for arm, ax in zip(FOUR[:3], fig.axes, strict=True):
        own = frame[frame["arm"] == arm]
        thin, [(x, mean)] = curves(ax, 0.8), curves(ax, 2.0)
        assert len(thin) == 3 and x == [*range(1, 9)]
        for seed, (_, y) in zip(SEEDS, thin, strict=True):
            assert y == pytest.approx(100 * own[own["seed"] == seed]["value"].to_numpy())
        assert mean == pytest.approx(100 * own.groupby("layer")["value"].mean().to_numpy())
        assert 4 in [line.get_xdata()[0] for line in ax.lines if line.get_ls() == ":"]
        assert ax.get_title() == f"{arm}\n3 seeds, n = 1,000"


def test_an_arm_that_is_not_measured_is_open_and_takes_its_place():
    fig = figures.knockout_figure(knockout_frame(FOUR[:1], seeds=(1,)), 4, FOUR)
    assert [ax.get_title().split("\n")[0] for ax in fig.axes] == FOUR
    assert [words(ax) for ax in fig.axes] == [[], ["open"], ["open"], ["open"]]
    assert fig.axes[0].get_title().endswith("1 seed, n = 1,000")
    for made in (figures.steering_by_arm(steering_frame(FOUR[1:2]), FOUR),
                 figures.redundancy_figure(redundancy_frame(FOUR[1:2]), None, FOUR)):  # fmt: skip
        assert [words(ax) for ax in made.axes] == [["open"], [], ["open"], ["open"]]


def test_without_any_arm_a_sentence_stands_for_each_figure():
    empty = [frame[:0] for frame in (knockout_frame(), steering_frame(), redundancy_frame())]
    drawn = [
        figures.knockout_figure(empty[0], 4, FOUR),
        figures.steering_by_arm(empty[1], FOUR),
        figures.redundancy_figure(empty[2], 0.01, FOUR),
        figures.preference_figure(pair_frame()[:0], modality_frame(1)[:0], modality_frame(1)[:0]),
    ]
    for fig in drawn:
        assert figures.NOTHING in [text.get_text() for text in fig.texts]


def test_a_gain_stands_on_its_settings_row_a_seed_beneath_the_other():
    frame = steering_frame()
    fig = figures.steering_by_arm(frame, FOUR[:3])
    for arm, ax in zip(FOUR[:3], fig.axes, strict=True):
        found = marks(ax)
        assert len(found) == len(SEEDS) * len(SETTINGS)
        for x, y in found:
            own = frame[(frame["arm"] == arm) & (frame["setting"] == SETTINGS[round(y)])]
            assert np.isclose(100 * own["value"], x).any()
        spans = [s for c in ax.collections for s in c.get_segments()]
        assert sorted(s[0][0] for s in spans) == pytest.approx(
            sorted(100 * frame[frame["arm"] == arm]["low"])
        )
    names = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert names[3] == r"$l_r$ 1, $K$ 8, $\gamma$ 4"
    # One scale, or panels could not be compared.
    assert len({ax.get_xlim() for ax in fig.axes}) == 1


def test_a_dose_of_its_own_moments_and_one_of_a_room_are_two_curves():
    frame = redundancy_frame()
    fig = figures.redundancy_figure(frame, 0.006, FOUR)
    for arm, ax in zip(FOUR, fig.axes, strict=True):
        own = frame[frame["arm"] == arm].groupby(["dose", "moments"])["value"].mean()
        bold = dict(zip(("repeated", "room"), curves(ax, 2.0), strict=True))
        for dose, (x, y) in bold.items():
            assert x == [m for d, m in DOSED if d == dose]
            assert y == pytest.approx(100 * own[dose].to_numpy())
        assert 0.6 in [round(float(line.get_ydata()[0]), 6) for line in ax.lines
                       if line.get_ls() == "--"]  # fmt: skip


def test_preference_by_pairs_and_share_against_gtar_have_a_point_an_arm_and_seed():
    fig = preference(FOUR)
    left, right = fig.axes
    assert len(marks(left)) == 3 * 3 * 3 and len(marks(right)) == 3 * 3 * 3
    pairs = pair_frame()
    for x, y in marks(left):
        assert np.isclose(pairs[pairs["pair"] == figures.PAIRS[round(y)]]["value"], x).any()
    shares, gtar = modality_frame(0.4), modality_frame(0.9)
    for m, colour in MODALITY_COLOURS.items():
        own = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in right.lines
               if mpl.colors.to_hex(line.get_color()).upper() == colour}  # fmt: skip
        expected = {
            (a, b)
            for a, b in zip(
                shares[shares["modality"] == m]["value"],
                gtar[gtar["modality"] == m]["value"],
                strict=True,
            )
        }
        assert own == expected  # fmt: skip
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    assert labels == [*FOUR[:3], f"{FOUR[3]} (open)", "T", "A", "V"]
    assert "n = 330 to 330" in right.get_title()


FIGURES = {
    "knockout": lambda: figures.knockout_figure(knockout_frame(), 4, FOUR),
    "knockout of a deep model": lambda: figures.knockout_figure(
        knockout_frame(["Qwen2.5-Omni-7B"], (0,), 28), 13
    ),
    "steering": lambda: figures.steering_by_arm(steering_frame(), FOUR),
    "steering of one": lambda: figures.steering_by_arm(steering_frame(FOUR[:1], (1,))),
    "redundancy": lambda: figures.redundancy_figure(redundancy_frame([*ARMS][:5]), 0.006, [*ARMS]),
    "redundancy of one": lambda: figures.redundancy_figure(redundancy_frame(FOUR[:1], (1,))),
    "preference": lambda: preference(FOUR),
    "preference of six": lambda: preference(arms=[*ARMS]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_name_their_profile_and_no_text_overlaps_another_or_leaves_the_page(name):
    fig = FIGURES[name]()
    assert fig.get_figwidth() <= 9.6
    assert_legible(fig, least=8)
    assert any("profile: mini" in text.get_text() for text in fig.texts)


@pytest.mark.parametrize("name", ["knockout", "steering", "preference"])
def test_the_same_frames_give_the_same_bytes(name, tmp_path):
    source = Provenance(name, "13_causal_organism", "f00d", caption(name, "mini", "Drawn"))
    here, there = (
        write_figure(FIGURES[name](), "figure", "mini", source, root=tmp_path / where).paths
        for where in ("here", "there")
    )
    assert [p.read_bytes() for p in here] == [p.read_bytes() for p in there]


def test_a_frame_that_lacks_something_is_named():
    with pytest.raises(ValueError, match=r"frame: columns \['n'\] are missing"):
        figures.knockout_figure(knockout_frame().drop(columns="n"), 4)
    with pytest.raises(ValueError, match="frame: expected one row for each arm, seed, setting"):
        figures.steering_by_arm(pd.concat([steering_frame(), steering_frame()]))
    with pytest.raises(ValueError, match="at most 4 seeds have a marker"):
        figures.steering_by_arm(steering_frame(seeds=range(5)))
    with pytest.raises(ValueError, match=r"dose is one of .* got also \['blur'\]"):
        figures.redundancy_figure(redundancy_frame().replace({"dose": {"room": "blur"}}))
    with pytest.raises(ValueError, match=r"pair is one of .* got also \['V over T'\]"):
        figures.preference_figure(
            pair_frame().replace({"pair": {"T over V": "V over T"}}),
            modality_frame(1), modality_frame(1),
        )  # fmt: skip
    with pytest.raises(ValueError, match="at most 6 arms have a marker"):
        preference(arms=[*"abcdefg"])
