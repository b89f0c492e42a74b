"""The explorer in JupyterLab in a real browser, by keyboard and mouse (``browser.py`` says how).

With ``EMOMM_SCREENSHOT=<file.png>`` it also keeps a picture of the widget; that is how
``docs/images/explorer.png`` is made:

    EMOMM_SCREENSHOT=docs/images/explorer.png python -m pytest tests/study/test_explorer_browser.py
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

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
from playwright.sync_api import Locator, Page, expect

from emomm_lib.chase.equations import SteeringConfig
from emomm_study.report.explorer import BY_HAND, ExplorerState

CELLS = (
    "import sys; sys.path.insert(0, {tests!r})\n"
    "from pathlib import Path\n"
    "from explorer_bench import slow_down, small_bench, small_router\n"
    "from emomm_study.report.explorer import explore\n"
    "bench = small_bench(Path({clips!r}))\n"
    "routers = {{'published': small_router(bench)}}\n"
    "explorer = explore(bench, bench.clips[::-1], routers)\n"
    "slow_down(explorer.explored, Path({slow!r}))",
    "explorer",
)
"""Open the explorer on a few clips, kept in a folder."""
FIRST = "cmu_mosi/q0GAH5Pv6pn/6"
LAYERS = 8
SLOW = 0.5
"""Seconds for a picture: a busy machine, or a large model."""


@dataclass
class Desk:
    """The explorer in a browser, and the state that it should have come to."""

    page: Page
    slow: Path
    state: ExplorerState

    def at(self, name: str) -> Locator:
        return self.page.locator(f".emomm-explorer .emomm-{name}").first

    @property
    def code(self) -> Locator:
        return self.at("code").locator("textarea")

    def content(self) -> tuple[str, str]:
        """The picture and the printed numbers."""
        return self.at("picture").inner_html(), self.at("numbers").locator("pre").inner_text()

    def moved(self, name: str, value: float | str) -> None:
        """What has just been done to a control."""
        if name in NUMBERS:
            value = type(self.state.value(name))(value)
        self.state = self.state.moved(name, value)

    def fill(self, name: str, value: float, key: str = "Enter") -> None:
        """Type a number into a control's field and leave it."""
        field = self.at(f"{name}-field")
        field.fill(f"{value:g}")
        field.press(key)
        self.moved(name, value)

    def reset(self) -> None:
        self.at("reset").click()
        self.state = published(self.state)

    def settled(self) -> None:
        """All that was done has been drawn, and controls, code and picture are of one state."""
        expect(self.at("controls")).to_have_attribute("aria-busy", "false")
        expect(self.code).to_have_value(self.state.code())
        state, config = self.state, self.state.config
        numbers = [name for name in NUMBERS if state.gate == BY_HAND or name not in BY_READER]
        for name in numbers:
            for control in (name, f"{name}-field"):
                assert float(self.at(control).input_value()) == state.value(name), control
        menus = {"gate": state.gate, "coalition": state.coalition, "sample_id": state.sample_id,
                 "preference": config.preference, "rule": config.rule}  # fmt: skip
        for name, value in menus.items():
            assert self.at(name).input_value() == value
        expect(self.at("title")).to_contain_text(f"{state.sample_id} under {state.coalition}")
        words = f"Attention on the frames, layers from {config.first_layer} on"
        expect(self.at("picture")).to_contain_text(words)


STEERING = {
    "tau": (0, 1, 0.01), "eta": (0, 1, 0.01), "gamma": (0, 12, 0.1), "beta": (0, 4, 0.05),
    "top_k": (0, 8, 1), "psi_hat": (0.01, 1, 0.01), "percentile": (0, 100, 1),
    "first_layer": (1, LAYERS, 1), "sharpness": (0.25, 8, 0.25),
}  # fmt: skip
BY_READER = dict.fromkeys(("conflict", "trust_t", "trust_a", "trust_v"), (0, 1, 0.01))
NUMBERS = STEERING | BY_READER
"""Where each slider begins and ends, and its step."""


def published(state: ExplorerState) -> ExplorerState:
    config = SteeringConfig.at_published_depth(LAYERS)
    kept = {"sample_id": state.sample_id, "coalition": state.coalition}
    return ExplorerState(**kept, gate="published", config=config)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, Path]]:
    """The notebook, run, with the explorer drawn."""
    chromium, base = find_chromium(), tmp_path_factory.mktemp("lab")
    notebook, slow = base / "work/explorer.ipynb", base / "slow"
    slow.write_text("0")
    names = {"tests": str(TESTS), "clips": str(base / "clips"), "slow": str(slow)}
    write_notebook(notebook, [cell.format(**names) for cell in CELLS])
    with (
        jupyterlab(base, notebook) as address,
        opened(chromium, address, base / "browser", (1720, 1500)) as tab,
    ):
        command(tab, "notebook:run-all-cells")
        tab.wait_for_selector(".emomm-picture svg", timeout=PATIENCE)
        yield tab, slow


@pytest.fixture
def desk(lab: tuple[Page, Path]) -> Iterator[Desk]:
    """The first clip with the published values, on a machine that is not busy."""
    page, slow = lab
    slow.write_text("0")
    state = ExplorerState(
        sample_id=FIRST, coalition="TAV", gate="published",
        config=SteeringConfig.at_published_depth(LAYERS),
    )  # fmt: skip
    desk = Desk(page, slow, state)
    desk.at("search").fill("")
    desk.at("corpus").select_option("all")
    desk.at("sample_id").select_option(FIRST)
    desk.at("coalition").select_option("TAV")
    desk.at("reset").click()
    desk.settled()
    yield desk
    no_complaint(page)


def test_a_slider_moved_by_keys_changes_picture_and_numbers_and_reset_restores_them(desk):
    start = desk.content()
    slider = desk.at("gamma")
    slider.focus()
    for _ in range(5):
        slider.press("ArrowUp")
    desk.moved("gamma", 1.9)
    desk.settled()
    assert all(now != then for now, then in zip(desk.content(), start, strict=True))
    # The notebook has not taken the keys for its own.
    expect(slider).to_be_focused()
    desk.reset()
    desk.settled()
    assert desk.content() == start


def test_a_number_that_cannot_be_is_refused_in_words(desk):
    start = desk.content()
    field = desk.at("tau-field")
    for typed, said in (("3", "tau is in [0, 1]; got 3"), ("", "τ needs a number")):
        field.fill(typed)
        field.press("Enter")
        expect(desk.at("remarks")).to_contain_text(said)
        expect(field).to_have_value("0.7")
        assert desk.content() == start
        expect(desk.at("tau")).to_have_attribute("max", "1")
    desk.fill("tau", 0.71)
    expect(desk.at("remarks")).not_to_contain_text("τ")
    desk.settled()


def test_a_number_typed_beyond_a_sliders_end_moves_the_end(desk):
    desk.fill("gamma", 40.5)
    desk.settled()
    expect(desk.at("gamma")).to_have_attribute("max", "40.5")
    desk.reset()
    desk.settled()
    expect(desk.at("gamma")).to_have_attribute("max", "12")


def test_only_the_modalities_of_the_coalition_are_played(desk):
    page = desk.page
    for coalition, films, sounds in (("TA", 0, 1), ("T", 0, 0), ("TV", 1, 0), ("TAV", 1, 0)):
        desk.at("coalition").select_option(coalition)
        desk.moved("coalition", coalition)
        desk.settled()
        assert page.locator(".emomm-explorer video").count() == films, coalition
        assert page.locator(".emomm-explorer audio").count() == sounds, coalition
        if films:
            film = page.locator(".emomm-explorer video")
            assert film.evaluate(_LENGTH) > 0.5


_LENGTH = """video => new Promise(done => {
    if (video.readyState > 0) done(video.duration);
    video.onloadedmetadata = () => done(video.duration);
    video.onerror = () => done(-1);
})"""


def test_another_clip_is_shown_and_another_gate_steers_it(desk):
    clips, before = desk.at("sample_id"), desk.content()
    clips.select_option(index=2)
    desk.moved("sample_id", clips.input_value())
    desk.settled()
    trust = desk.at("trust_t")
    expect(trust).not_to_be_visible()
    desk.at("gate").select_option(BY_HAND)
    desk.moved("gate", BY_HAND)
    expect(trust).to_be_visible()
    desk.settled()
    by_hand = desk.content()
    trust.focus()
    trust.press("Home")
    desk.moved("trust_t", 0.0)
    desk.settled()
    assert before[1] != by_hand[1] != desk.content()[1]
    desk.at("search").fill("7Ubh")
    expect(clips.locator("option")).to_have_count(1)
    desk.moved("sample_id", "cmu_mosi/7UbhAjqFlTV/21")
    desk.settled()


# While the kernel is busy


def test_fields_filled_in_quick_succession_are_all_kept_while_the_kernel_draws(desk):
    desk.slow.write_text(str(SLOW))
    desk.at("gate").select_option(BY_HAND)
    desk.moved("gate", BY_HAND)
    values = {"trust_t": 0.0, "trust_a": 0.25, "trust_v": 0.5, "conflict": 0.9, "tau": 0.4,
              "eta": 1.0, "gamma": 10.0, "beta": 1.5, "top_k": 7, "psi_hat": 0.8,
              "percentile": 60.0, "sharpness": 3.0, "first_layer": 2}  # fmt: skip
    assert values.keys() == NUMBERS.keys()
    for number, (name, value) in enumerate(values.items()):
        desk.fill(name, value, "Tab" if number % 2 else "Enter")
        # What was given stands there at once, and not what the kernel still draws.
        assert float(desk.at(f"{name}-field").input_value()) == value
        assert float(desk.at(name).input_value()) == value
    desk.settled()
    for name in values:
        desk.fill(name, 1)
    desk.fill("first_layer", 3)
    desk.settled()


def drag(desk: Desk, name: str, ways: int = 12) -> None:
    """Drag a slider about with the mouse for a fifth of a second, to a place near its end."""
    place = desk.at(name).bounding_box()
    y = place["y"] + place["height"] / 2
    mouse = desk.page.mouse
    mouse.move(place["x"] + place["width"] / 2, y)
    mouse.down()
    for way in range(ways):
        mouse.move(place["x"] + place["width"] * (0.2 + 0.7 * way / ways), y)
        desk.page.wait_for_timeout(15)
    mouse.up()


@pytest.mark.parametrize("slow", [0.0, SLOW])
def test_reset_at_once_after_a_drag_has_the_last_word(desk, slow):
    start = desk.content()
    for _ in range(3):
        desk.slow.write_text(str(slow))
        # Within the task in which the slider is let go, however slow this test is.
        desk.at("gamma").evaluate("""slider => {
            const reset = slider.closest('.emomm-controls').querySelector('.emomm-reset');
            slider.addEventListener('change', () => reset.click(), {once: true});
        }""")
        drag(desk, "gamma")
        desk.settled()
        # Nothing of the drag comes later.
        desk.page.wait_for_timeout(1000 * 3 * slow)
        desk.settled()
        assert desk.content() == start


def test_a_drag_that_is_let_go_amid_others_ends_where_it_was_let_go(desk):
    desk.slow.write_text(str(SLOW))
    desk.fill("tau", 0.5)
    drag(desk, "gamma")
    let_go = float(desk.at("gamma").input_value())
    assert let_go > 8
    desk.moved("gamma", let_go)
    desk.fill("eta", 0.1)
    desk.settled()


def test_what_is_done_after_a_reset_is_done_to_the_published_values(desk):
    desk.slow.write_text(str(SLOW))
    desk.fill("gamma", 9)
    desk.fill("tau", 0.1)
    desk.reset()
    desk.fill("tau", 0.5)
    desk.at("rule").select_option("first")
    desk.moved("rule", "first")
    desk.settled()


def test_a_refused_number_amid_others_undoes_none_of_them_and_is_said(desk):
    desk.slow.write_text(str(SLOW))
    desk.fill("gamma", 9)
    desk.at("tau-field").fill("3")
    desk.at("tau-field").press("Tab")
    desk.fill("beta", 2)
    desk.fill("first_layer", 2)
    desk.settled()
    expect(desk.at("remarks")).to_contain_text("tau is in [0, 1]; got 3")
    desk.fill("eta", 0.2)
    desk.settled()
    expect(desk.at("remarks")).to_contain_text("got 3")
    desk.fill("tau", 0.6)
    desk.settled()
    expect(desk.at("remarks")).not_to_contain_text("got 3")


def test_a_picture_that_comes_meanwhile_leaves_what_is_being_typed(desk):
    desk.slow.write_text(str(SLOW))
    desk.fill("gamma", 9)
    field = desk.at("first_layer-field")
    field.fill("2")
    # Another picture is drawn, and the field still waits to be left.
    expect(desk.at("controls")).to_have_attribute("aria-busy", "false")
    expect(desk.code).to_have_value(desk.state.code())
    assert field.input_value() == "2"
    field.press("Tab")
    desk.moved("first_layer", 2)
    desk.settled()


def test_search_filters_and_menus_in_quick_succession_are_all_kept(desk):
    desk.slow.write_text(str(SLOW))
    desk.at("search").press_sequentially("Ylkv", delay=20)
    desk.at("coalition").select_option("TV")
    desk.fill("gamma", 7)
    desk.at("corpus").select_option("cmu_mosi")
    desk.at("preference").select_option("share")
    desk.at("rule").select_option("gate")
    desk.moved("sample_id", "cmu_mosi/YlkVtUCbWoG/15")
    for name, value in (("coalition", "TV"), ("preference", "share"), ("rule", "gate")):
        desk.moved(name, value)
    desk.settled()
    expect(desk.at("search")).to_have_value("Ylkv")
    expect(desk.at("corpus")).to_have_value("cmu_mosi")
    expect(desk.at("sample_id").locator("option")).to_have_count(1)
    expect(desk.at("count")).to_have_text("1 clip")


def test_the_end_is_that_of_all_that_was_done_in_its_order_however_it_falls(desk):
    chance = random.Random(0)
    menus = {"coalition": ("TA", "TV", "TAV"), "gate": ("published", BY_HAND),
             "rule": ("gate", "preference", "first"),
             "preference": ("share", "softmax")}  # fmt: skip
    for _round in range(4):
        desk.slow.write_text(str(chance.choice((0.0, 0.05, 0.3))))
        for _ in range(20):
            there = NUMBERS if desk.state.gate == BY_HAND else STEERING
            kind = chance.choices(("field", "slider", "menu", "reset"), (8, 3, 3, 1))[0]
            name = chance.choice([*(menus if kind == "menu" else there)])
            if kind == "reset":
                desk.reset()
            elif kind == "menu":
                value = chance.choice(menus[name])
                desk.at(name).select_option(value)
                desk.moved(name, value)
            elif kind == "slider":
                key = chance.choice(("Home", "End"))
                desk.at(name).press(key)
                low, high, _ = there[name]
                desk.moved(name, low if key == "Home" else high)
            else:
                low, high, step = there[name]
                value = round(low + step * chance.randrange(round((high - low) / step)), 9)
                desk.fill(name, value, chance.choice(("Enter", "Tab")))
            desk.page.wait_for_timeout(chance.choice((0, 0, 40, 200)))
        desk.settled()


def test_an_answer_that_comes_late_does_not_write_into_a_field_that_one_is_in(desk):
    desk.fill("percentile", 90)
    desk.settled()
    desk.slow.write_text("0.3")
    field = desk.at("percentile-field")
    field.focus()
    field.evaluate("e => e.select()")
    # Pressed without leaving the field.
    desk.at("reset").evaluate("e => e.click()")
    desk.state = published(desk.state)
    expect(desk.at("controls")).to_have_attribute("aria-busy", "false")
    desk.page.keyboard.insert_text("40")
    field.press("Enter")
    desk.moved("percentile", 40)
    desk.settled()
    # Left without a word, it shows what holds.
    field.focus()
    desk.at("gamma").focus()
    desk.reset()
    desk.settled()


def test_nothing_of_the_widget_is_cut_off_at_1200_pixels(desk):
    page = desk.page
    desk.at("search").fill("Ylkv")
    desk.state = replace(desk.state, sample_id="cmu_mosi/YlkVtUCbWoG/15")
    desk.at("gate").select_option(BY_HAND)
    desk.moved("gate", BY_HAND)
    for name, value in {"trust_t": 0, "trust_a": 0, "gamma": 10, "first_layer": 2}.items():
        desk.fill(name, value)
    desk.at("search").fill("")
    expect(desk.at("sample_id").locator("option")).to_have_count(6)
    desk.settled()
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
    if kept := os.environ.get("EMOMM_SCREENSHOT"):
        desk.at("title").click()
        page.screenshot(path=kept, clip=place)


def test_two_views_of_one_explorer_show_the_same(desk):
    page = desk.page
    desk.at("title").click()
    command(page, "notebook:create-output-view")
    other = page.locator(".jp-LinkedOutputView .emomm-controls")
    expect(other).to_be_visible()
    desk.slow.write_text(str(SLOW))
    desk.fill("gamma", 9)
    other.locator(".emomm-tau-field").fill("0.5")
    other.locator(".emomm-tau-field").press("Enter")
    desk.moved("tau", 0.5)
    desk.fill("gamma", 8)
    desk.settled()
    for name in STEERING:
        assert float(other.locator(f".emomm-{name}-field").input_value()) == desk.state.value(name)
