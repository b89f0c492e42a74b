"""The explorer in JupyterLab in a real browser, moved by keyboard (``browser.py`` says how).

With ``EMOMM_SCREENSHOT=<file.png>`` it also keeps a picture of the widget; that is how
``docs/images/explorer.png`` is made:

    EMOMM_SCREENSHOT=docs/images/explorer.png python -m pytest tests/test_explorer_browser.py
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

import pytest
from browser import (
    PATIENCE,
    TESTS,
    command,
    find_chromium,
    jupyterlab,
    no_complaint,
    opened,
    write_notebook,
)
from playwright.sync_api import Page, expect

CELLS = (
    "import sys; sys.path.insert(0, {tests!r})\n"
    "from pathlib import Path\n"
    "from explorer_bench import small_bench, small_router\n"
    "from emomm_lib.report.explorer import explore\n"
    "bench = small_bench(Path({clips!r}))\n"
    "routers = {{'published': small_router(bench)}}\n"
    "explorer = explore(bench, bench.clips[::-1], routers)",
    "explorer",
)
"""Open the explorer on a few clips, kept in a folder."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The notebook, run, with the explorer drawn."""
    chromium, base = find_chromium(), tmp_path_factory.mktemp("lab")
    notebook = base / "work/explorer.ipynb"
    cells = [cell.format(tests=str(TESTS), clips=str(base / "clips")) for cell in CELLS]
    write_notebook(notebook, cells)
    with (
        jupyterlab(base, notebook) as address,
        opened(chromium, address, base / "browser", (1720, 1500)) as tab,
    ):
        command(tab, "notebook:run-all-cells")
        tab.wait_for_selector(".emomm-picture svg", timeout=PATIENCE)
        yield tab


def content(page: Page) -> tuple[str, str]:
    """The picture and the printed numbers."""
    picture = page.locator(".emomm-picture").first.inner_html()
    return picture, page.locator(".emomm-numbers pre").first.inner_text()


def changed(page: Page, before: tuple[str, str], what: str) -> tuple[str, str]:
    """Picture and numbers once both are others than before."""
    until = time.monotonic() + 15
    while time.monotonic() < until:
        now = content(page)
        if now[0] != before[0] and now[1] != before[1]:
            return now
        page.wait_for_timeout(50)
    parts = ("picture", "numbers")
    same = [part for part, a, b in zip(parts, now, before, strict=True) if a == b]
    raise AssertionError(f"{what}: {' and '.join(same)} did not change")


def test_a_slider_moved_by_keys_changes_picture_and_numbers_and_reset_restores_them(page):
    start = content(page)
    code = page.locator(".emomm-code textarea").input_value()
    slider = page.locator(".emomm-gamma .noUi-handle")
    slider.focus()
    for _ in range(5):
        slider.press("PageUp")
    changed(page, start, "moving gamma")
    # The browser holds back what it has not sent while the kernel works: let that arrive first.
    page.wait_for_function(_SETTLED, timeout=PATIENCE)
    moved = content(page)
    expect(page.locator(".emomm-gamma-field input")).not_to_have_value("1.4")
    expect(page.locator(".emomm-code textarea")).not_to_have_value(code)
    page.locator("button.emomm-reset").click()
    changed(page, moved, "reset")
    expect(page.locator(".emomm-gamma-field input")).to_have_value("1.4")
    expect(page.locator(".emomm-code textarea")).to_have_value(code)
    assert content(page) == start
    no_complaint(page)


_SETTLED = """() => {
    const slider = document.querySelector('.emomm-gamma .noUi-handle');
    const field = document.querySelector('.emomm-gamma-field input');
    return Math.abs(field.value - slider.getAttribute('aria-valuenow')) < 1e-6;
}"""


def test_a_number_that_cannot_be_is_refused_in_words(page):
    start = content(page)
    field = page.locator(".emomm-tau-field input")
    field.fill("3")
    field.press("Enter")
    expect(page.locator(".emomm-remarks")).to_contain_text("tau is in [0, 1]; got 3")
    expect(field).to_have_value("0.7")
    assert content(page) == start
    field.fill("0.71")
    field.press("Enter")
    expect(page.locator(".emomm-remarks")).not_to_contain_text("got 3")
    page.locator("button.emomm-reset").click()
    no_complaint(page)


def test_only_the_modalities_of_the_coalition_are_played(page):
    menu = page.locator(".emomm-coalition select")
    for coalition, films, sounds in (("TA", 0, 1), ("T", 0, 0), ("TV", 1, 0), ("TAV", 1, 0)):
        before = content(page)
        menu.select_option(coalition)
        changed(page, before, coalition)
        assert page.locator(".emomm-explorer video").count() == films, coalition
        assert page.locator(".emomm-explorer audio").count() == sounds, coalition
        if films:
            film = page.locator(".emomm-explorer video")
            assert film.evaluate(_LENGTH) > 0.5
    no_complaint(page)


_LENGTH = """video => new Promise(done => {
    if (video.readyState > 0) done(video.duration);
    video.onloadedmetadata = () => done(video.duration);
    video.onerror = () => done(-1);
})"""


def test_another_clip_is_shown_and_another_gate_steers_it(page):
    before = content(page)
    title = page.locator(".emomm-title").inner_text()
    clips = page.locator(".emomm-clip select")
    clips.select_option(index=2)
    now = changed(page, before, "another clip")
    assert page.locator(".emomm-title").inner_text() != title
    page.locator(".emomm-gate select").select_option("by hand")
    now = changed(page, now, "gate by hand")
    trust = page.locator(".emomm-trust_t .noUi-handle")
    expect(trust).to_be_visible()
    trust.focus()
    trust.press("Home")
    changed(page, now, "no trust in T")
    page.locator(".emomm-search input").fill("7Ubh")
    expect(clips.locator("option")).to_have_count(1)
    expect(page.locator(".emomm-title")).to_contain_text("7UbhAjqFlTV/21")
    no_complaint(page)


def test_nothing_of_the_widget_is_cut_off_at_1200_pixels(page):
    by_keys = {"trust_t": "0", "trust_a": "0", "gamma": "10", "first_layer": "2"}
    page.locator(".emomm-search input").fill("Ylkv")
    expect(page.locator(".emomm-title")).to_contain_text("YlkVtUCbWoG/15")
    page.locator(".emomm-gate select").select_option("by hand")
    for name, value in by_keys.items():
        field = page.locator(f".emomm-{name}-field input")
        field.fill(value)
        field.press("Enter")
    expect(page.locator(".emomm-code textarea")).to_have_value(re.compile("first_layer=2"))
    page.locator(".emomm-search input").fill("")
    expect(page.locator(".emomm-clip option")).to_have_count(6)
    widget = page.locator(".emomm-explorer").first
    place = widget.evaluate("""e => {
        const all = [...e.children].map(c => c.getBoundingClientRect());
        const x = Math.min(...all.map(r => r.left)), y = Math.min(...all.map(r => r.top));
        return {x: x, y: y, width: Math.max(...all.map(r => r.right)) - x,
                height: Math.max(...all.map(r => r.bottom)) - y};
    }""")
    assert place["width"] <= 1200
    scrolled = widget.evaluate("""e => [...e.querySelectorAll('*')].filter(x => {
        const s = getComputedStyle(x);
        return /auto|scroll/.test(s.overflowX + s.overflowY) &&
            (x.scrollWidth > x.clientWidth + 1 || x.scrollHeight > x.clientHeight + 1);
    }).map(x => x.className)""")
    assert scrolled == []
    no_complaint(page)
    if kept := os.environ.get("EMOMM_SCREENSHOT"):
        page.locator(".emomm-title").click()
        page.screenshot(path=kept, clip=place)
