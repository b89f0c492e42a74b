"""The book in a real browser, opened from disk (``browser.py`` says how a browser is found).

With ``EMOMM_SCREENSHOT=<folder>`` it also keeps the pictures of ``docs/book.md``:

    EMOMM_SCREENSHOT=docs/images python -m pytest tests/study/test_book.py
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import FLAGS, find_chromium
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from book.replay import FILE, GRID, unsqueezed
from emomm_lib.labels import CLASSES
from emomm_study.paths import ROOT

PAGES = (
    "index.html", "README.html", "RESULTS.html", "explorer.html", "equations.html",
    "docs/glossary.html", "api/chase.html", "notebooks/07_main_results.html",
    "notebooks/11_steering_explorer.html",
)  # fmt: skip
"""One of each kind."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("book") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "book.build", str(folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    # A warning is an error.
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_shows_a_picture_that_is_not_in_the_book(site):
    for page in sorted(site.rglob("*.html")):
        sources = re.findall(r'(?:src|srcset)="([^":]+\.(?:png|svg))', page.read_text("utf-8"))
        assert not [source for source in sources if not (page.parent / source).is_file()], page.name


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        yield opened
        opened.close()


def tab(browser: Browser, scheme: str = "light") -> Page:
    """A new tab; ``page.said`` is what its console complained and what it could not load."""
    page = browser.new_context(
        color_scheme=scheme, viewport={"width": 1300, "height": 1000}
    ).new_page()
    page.said = []
    page.on("console", lambda m: m.type in ("error", "warning") and page.said.append(m.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("requestfailed", lambda request: page.said.append(request.url))
    page.on("request", lambda r: r.url.startswith("http") and page.said.append(r.url))
    return page


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    return tab(browser)


@pytest.fixture(scope="module")
def explorer(browser: Browser, site: Path) -> Page:
    page = tab(browser)
    page.goto((site / "explorer.html").as_uri())
    expect(page.locator("#live")).to_have_attribute("aria-busy", "false")
    return page


def kept(page: Page, name: str, **options: object) -> None:
    """A picture for the documentation, where one is asked for."""
    if folder := os.environ.get("EMOMM_SCREENSHOT"):
        place = ROOT / folder / name
        page.screenshot(path=place, **options)
        # A page has few colours, and a repository little room.
        with Image.open(place) as picture:
            few = picture.convert("RGB").quantize(255, Image.Quantize.MAXCOVERAGE)
        few.save(place, optimize=True)


# The pages


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opened_from_disk_says_and_fetches_nothing_amiss_and_passes_axes_rules(
    page, site, name
):
    page.said.clear()
    page.goto((site / name).as_uri(), wait_until="load")
    assert page.said == []
    assert page.locator("article h1").count() == 1
    check_rules(page)
    if name in ("index.html", "README.html"):
        kept(page, {"index.html": "book.png", "README.html": "readme.png"}[name])


def check_rules(page: Page) -> None:
    # Without asking for style sheets, which a page from disk may not read.
    found = Axe().run(page, options={"resultTypes": ["violations"], "preload": False})
    broken = [
        f"{rule['id']} ({rule['help']}): {rule['nodes'][0]['html'][:200]}"
        for rule in found.response["violations"]
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("name", ["explorer.html", "notebooks/11_steering_explorer.html"])
def test_a_page_in_the_dark_passes_axes_rules(browser, site, name):
    page = tab(browser, "dark")
    page.goto((site / name).as_uri())
    assert page.locator("html").get_attribute("data-theme") == "dark"
    check_rules(page)


def test_search_from_disk_finds_nmas_in_the_glossary_and_the_reference(page, site):
    page.said.clear()
    page.goto((site / "search.html").as_uri() + "?q=nMAS")
    expect(page.locator("#search-results .search-summary")).to_contain_text("found")
    found = " ".join(
        page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    )
    assert "docs/glossary.html" in found and "api/" in found
    assert page.said == []


def test_equations_are_numbered_as_in_the_paper_and_drawn_as_mathematics(page, site):
    page.goto((site / "equations.html").as_uri())
    expect(page.locator("mjx-container")).not_to_have_count(0)
    page.wait_for_function("MathJax.startup.promise.then(() => true)")
    numbered = page.locator("div.math .eqno").all_inner_texts()
    assert [re.search(r"\((\d+)\)", text)[1] for text in numbered] == [
        str(n + 1) for n in range(25)
    ]
    assert page.locator("mjx-merror").count() == 0


def test_every_picture_of_a_notebook_has_its_caption_as_alternative_text(site):
    lacking = []
    for file in sorted((site / "notebooks").glob("*.html")):
        for tag in re.findall(r"<img [^>]*>", file.read_text(encoding="utf-8")):
            alt = re.search(r'alt="([^"]*)"', tag)
            if alt is None or len(alt[1].split()) < 3:
                lacking.append(f"{file.name}: {tag[:120]}")
    assert not lacking, "\n".join(lacking)


def test_a_link_to_the_source_leads_to_the_file_as_it_is(site):
    [copy] = site.glob("_downloads/*/tiny_models.py")
    assert copy.read_bytes() == (ROOT / "tests" / "tiny_models.py").read_bytes()


# The live explorer


def kept_states() -> dict[str, object]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def choose(page: Page, clip: int, **settings: object) -> None:
    """Set the controls as a reader does."""
    page.locator("#live-clip").select_option(str(clip))
    for name, value in settings.items():
        control = page.locator(f"#live-{name}")
        if name in ("preference", "place"):
            control.select_option(value)
        else:
            place = GRID[name].index(value) if name in GRID else value
            control.fill(str(place))


def table(page: Page, name: str) -> list[list[str]]:
    """The cells of a table's body, its row's heading first."""
    page.locator(".live details").evaluate("details => details.open = true")
    return page.locator(f"#live-{name} tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.children].map(cell => cell.textContent))"
    )


def test_sliders_moved_by_keys_move_bars_letters_and_what_is_read_aloud(explorer):
    choose(explorer, 3, T=0, A=0, V=1, gamma=1.4, eta=0.6, preference="softmax", place="published")
    strength = explorer.locator("#live-gamma")
    bars = explorer.locator(".live-bar-after")
    before = bars.evaluate_all("all => all.map(bar => bar.style.height)")
    said = explorer.locator("#live-verdict").inner_text()
    strength.focus()
    strength.press("End")
    expect(explorer.locator("#live-verdict")).not_to_have_text(said)
    assert bars.evaluate_all("all => all.map(bar => bar.style.height)") != before
    assert strength.get_attribute("aria-valuetext") == "12"
    expect(explorer.locator("#live-verdict")).to_contain_text("from wrong to right")
    strength.blur()
    kept(
        explorer, "live_explorer.png", clip=explorer.locator("#live").bounding_box(), full_page=True
    )
    explorer.locator("#live-reset").press("Enter")
    expect(explorer.locator("#live-verdict")).to_have_text(said)


@pytest.mark.parametrize(
    ("clip", "trust", "setting"),
    [(0, (1, 1, 1), ("published", "softmax", 1.4, 0.6)), (5, (0, 0.5, 1), ("everywhere", "share", 12, 1)),
     (11, (0.5, 0, 0), ("published", "share", 5, 0.4)), (7, (0, 0, 0), ("everywhere", "softmax", 9, 0.2))],
)  # fmt: skip
def test_the_page_shows_the_numbers_of_the_setting_that_its_controls_say(
    explorer, clip, trust, setting
):
    data = kept_states()
    most = max(trust)
    scaled = tuple(t / most for t in trust) if most else (1.0, 1.0, 1.0)
    every = list(itertools.product(*GRID.values()))
    place = every.index((*setting, scaled))
    row = unsqueezed(data["clips"][clip]["states"], len(every))[place]
    choose(
        explorer,
        clip,
        **dict(zip(GRID, setting, strict=False)),
        **dict(zip("TAV", trust, strict=True)),
    )
    expected = [f"{value / 255:.2f}" for value in row[:5]]
    [_, after] = table(explorer, "answers")
    assert after == ["after", *expected, CLASSES[row[5]]]
    last = table(explorer, "shares")[-1]
    assert last[4:6] == [f"{value / 255:.2f}" for value in row[-2:]]


@pytest.mark.parametrize("name", ["gamma", "eta"])
def test_a_strength_or_a_step_of_0_is_the_unsteered_model(explorer, name):
    choose(explorer, 2, T=0, A=1, V=0, gamma=9, eta=1, preference="share", place="everywhere")
    steered = table(explorer, "answers")[1]
    choose(explorer, 2, **{name: 0})
    before, after = table(explorer, "answers")
    assert after[1:] == before[1:] != steered[1:]


def test_another_clip_is_named_shown_and_quoted_in_its_language(explorer):
    for place, clip in enumerate(kept_states()["clips"]):
        explorer.locator("#live-clip").select_option(str(place))
        quoted = explorer.locator("#live-words q")
        expect(quoted).to_have_text(clip["text"])
        assert quoted.get_attribute("lang") == clip["language"]
        assert CLASSES[clip["labels"][3]] in explorer.locator("#live-frames").get_attribute("alt")


def test_the_live_page_complains_of_nothing_after_all_that(explorer):
    assert explorer.said == []
