"""Colours stay apart for people who see fewer of them, on white and on a dark ground."""

from __future__ import annotations

import io
from itertools import combinations

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pytest
from coloraide import Color
from hypothesis import given, strategies as st
from matplotlib import pyplot as plt
from PIL import Image

from emomm_study.report import dark, style
from emomm_study.report.drawing import DARK, drawn
from emomm_study.report.figures import annotation, audit_results, chase, places, systems

PALETTES = {
    "sources": [*style.COLOURS.values()],
    "subsets, as areas": [*style.SUBSET_COLOURS.values()],
    "subsets, as lines": [*chase._COLOURS.values()],
    "routers": [*chase.ROUTER_COLOURS],
    "metrics of the audit": [colour for _, colour in audit_results._METRICS.values()],
    "verdicts of the audit": [*audit_results._VERDICT_COLOURS.values()],
    "decodings": [colour for _, colour in systems.LOOKS.values()],
    "votes": [*annotation._VOTES.values()],
    "places": [places._LINES[name][0] for name in ("face", "person")],
}
SIGHTS = ("normal", "protan", "deutan", "tritan")
LEAST = 10.0
"""CIEDE2000 by which two colours of one figure differ at least; 2.3 is just noticeable."""


def seen(colour: str, sight: str) -> Color:
    """A colour as somebody sees it who lacks a kind of cone (Machado and others, 2009)."""
    found = Color(colour)
    if sight == "normal":
        return found
    return found.filter(sight, method="machado", severity=1).convert("srgb").clip()


def apart(colours: list[str], sight: str) -> dict[tuple[str, str], float]:
    return {
        (a, b): seen(a, sight).delta_e(seen(b, sight), method="2000")
        for a, b in combinations(colours, 2)
    }


def as_dark(colour: str) -> str:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return mpl.colors.to_hex(dark.darkened(rgb))


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("name", PALETTES)
def test_no_two_colours_of_a_figure_are_alike_to_any_eye(name, sight):
    for colours in (PALETTES[name], [as_dark(c) for c in PALETTES[name]]):
        distances = apart(colours, sight)
        nearest = min(distances, key=distances.get)
        assert distances[nearest] > LEAST, (nearest, distances[nearest])


def test_red_and_green_alike_would_be_found_out():
    assert min(apart(["#C00000", "#6B6B00"], "deutan").values()) < LEAST
    assert min(apart(["#C00000", "#6B6B00"], "normal").values()) > LEAST


CHANNELS = st.tuples(*[st.floats(0, 1)] * 3)


@given(CHANNELS, CHANNELS)
def test_the_darker_of_two_colours_is_the_lighter_one_on_a_dark_ground(one, two):
    before = [Color("srgb", c).convert("lab-d65")["lightness"] for c in (one, two)]
    after = [
        Color("srgb", list(dark.darkened(c))).convert("lab-d65")["lightness"] for c in (one, two)
    ]
    # Out of the gamut lightness gives way a little.
    if before[0] > before[1] + 25:
        assert after[0] < after[1]


def test_white_becomes_the_ground_and_black_the_ink_and_greys_stay_grey():
    for grey, lightness in ((1.0, dark.GROUND), (0.0, dark.INK)):
        found = dark.darkened([grey] * 3)
        assert np.ptp(found) < 0.01
        assert Color("srgb", list(found)).convert("lab-d65")["lightness"] == pytest.approx(
            lightness, abs=0.5
        )


def test_pictures_are_found_in_a_part_of_a_figure_too():
    with style.context():
        fig = plt.figure(figsize=(4, 2))
        _, right = fig.subfigures(1, 2)
        ax = right.add_axes((0.5, 0.0, 0.5, 1.0))
        ax.imshow(np.zeros((8, 4, 3), np.uint8), aspect="auto")
    [box] = dark.picture_boxes(fig)
    assert box == pytest.approx((0.75, 0.0, 1.0, 1.0))
    plt.close(fig)


def test_a_dark_figure_has_a_dark_ground_half_the_size_and_its_pictures_as_they_were():
    with style.context():
        fig, (left, right) = plt.subplots(1, 2, figsize=(4, 2))
        left.plot([0, 1], [0, 1])
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[:, :] = (200, 30, 90)
        right.imshow(picture)
        found = drawn(fig, ["png"])
        box = right.get_position()
    image = Image.open(io.BytesIO(found[DARK])).convert("RGB")
    pixels = np.asarray(image)
    assert image.size == (400, 200)
    ground = dark.darkened([1.0] * 3) * 255
    assert np.allclose(pixels[2, 2], ground, atol=2)
    middle = round((1 - (box.y0 + box.y1) / 2) * 200), round((box.x0 + box.x1) / 2 * 400)
    assert np.allclose(pixels[middle], (200, 30, 90), atol=2)
    plt.close(fig)
