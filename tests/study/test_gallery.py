"""The page of all figures is complete, and every figure has a form for dark screens."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from emomm_study.paths import COMMITTED_FIGURES, ROOT
from emomm_study.report import gallery, manifest
from emomm_study.report.publish import dark_name

FOLDER = COMMITTED_FIGURES / "mini"
ENTRIES = manifest.read("mini", COMMITTED_FIGURES)
LIGHT = sorted(n for n in ENTRIES if n.endswith(".png") and not n.endswith("_dark.png"))
PAGE = gallery.PAGE.read_text(encoding="utf-8")


def test_every_figure_is_on_the_page_once_light_and_dark():
    shown = re.findall(r'<img src="([^"]+)"', PAGE)
    assert sorted(path.rpartition("/")[2] for path in shown) == LIGHT
    darks = re.findall(r'scheme: dark\)" srcset="([^"]+)"', PAGE)
    assert [path.rpartition("/")[2] for path in darks] == [
        dark_name(path.rpartition("/")[2]) for path in shown
    ]
    for path in (*shown, *darks):
        assert (gallery.PAGE.parent / path).resolve().is_relative_to(FOLDER)
        assert (gallery.PAGE.parent / path).is_file()


def test_every_figure_stands_under_the_notebook_that_makes_it_with_its_caption():
    parts = re.split(r"^## (\d\d) · ", PAGE, flags=re.MULTILINE)[1:]
    numbers, texts = parts[::2], parts[1::2]
    assert numbers == sorted(set(numbers))
    for number, text in zip(numbers, texts, strict=True):
        for path in re.findall(r'<img src="([^"]+)"', text):
            entry = ENTRIES[path.rpartition("/")[2]]
            assert entry["notebook"].startswith(number)
            said = entry["caption"].partition(" Profile")[0].removeprefix(f"{entry['item']}: ")
            assert f"**{entry['item']}.** {said}" in text


def test_a_dark_figure_is_dark_and_shows_what_the_light_one_does():
    for name in LIGHT:
        with Image.open(FOLDER / name) as light, Image.open(FOLDER / dark_name(name)) as dark:
            assert dark.size == light.reduce(2).size
            corner = np.asarray(dark.convert("L"))[:3, :3]
        assert corner.max() < 40, name


def test_a_profile_without_figures_has_a_page_without_any(tmp_path):
    (tmp_path / "none").mkdir()
    assert "0 figures" in gallery.page("none", tmp_path)
    assert ROOT.joinpath("docs/figures.md") == gallery.PAGE
