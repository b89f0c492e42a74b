"""The annotation panel in JupyterLab in a real browser, by keyboard alone (``browser.py``).

With ``EMOMM_SCREENSHOTS=<folder>`` pictures of the screens are kept.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from annotating_clips import TEXTS, small_campaign, small_clips
from browser import (
    PATIENCE,
    command,
    find_chromium,
    idle,
    jupyterlab,
    no_complaint,
    opened,
    write_notebook,
)
from playwright.sync_api import Page, expect

from emomm_study.annotation.campaign import CALIBRATION, Campaign

PANEL = ".emomm-annotate"
KEYS = {-1: ("1", "ArrowLeft"), 0: ("2", "ArrowDown"), 1: ("3", "ArrowRight")}
CELL = (
    "import os; from pathlib import Path; import pandas as pd\n"
    "from emomm_study.report.annotating import annotate\n"
    "Path({base!r}, 'pid').write_text(str(os.getpid()))\n"
    "clips = pd.read_csv(Path({base!r}, 'clips.csv'))\n"
    "annotate(Path({base!r}, 'campaign.sqlite'), clips, {base!r}, 'A1')"
)


@dataclass
class Desk:
    """An annotator's browser, and the files that are written meanwhile."""

    page: Page
    base: Path
    notebook: Path
    pressed: list[tuple[str, str, int, int]]
    """Phase, modality, seq, label of every answer, in the order pressed."""

    @property
    def panel(self):
        return self.page.locator(PANEL)

    def campaign(self) -> Campaign:
        return Campaign(self.base / "campaign.sqlite")

    def ready(self, screen: str) -> None:
        """Wait for a screen, and for a clip to have begun to play."""
        expect(self.panel).to_have_attribute("data-screen", screen, timeout=PATIENCE)
        if screen == "item":
            expect(self.panel).to_have_attribute("data-armed", "true", timeout=PATIENCE)

    def onward(self) -> None:
        number = self.panel.get_attribute("data-number")
        self.page.keyboard.press("Enter")
        expect(self.panel).not_to_have_attribute("data-number", number)

    def answer(self, label: int, arrow: bool = False) -> None:
        """Press a label's key for the clip that the panel shows."""
        self.ready("item")
        task = self.campaign().task("A1")
        expect(self.panel.locator(".emomm-seq")).to_have_text(f" · seq {task.seq}")
        number = self.panel.get_attribute("data-number")
        self.page.keyboard.press(KEYS[label][arrow])
        self.pressed.append((task.phase, task.modality, task.seq, label))
        expect(self.panel).not_to_have_attribute("data-number", number)

    def shown(self, name: str) -> None:
        if folder := os.environ.get("EMOMM_SCREENSHOTS"):
            self.page.screenshot(path=f"{folder}/{name}.png")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    chromium, base = find_chromium(), tmp_path_factory.mktemp("annotating")
    clips = small_clips(base)
    clips.to_csv(base / "clips.csv", index=False)
    small_campaign(base / "campaign.sqlite", clips)
    notebook = base / "work/annotate.ipynb"
    write_notebook(notebook, [CELL.format(base=str(base))])
    saving = {"@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True}}
    with (
        jupyterlab(base, notebook, saving) as address,
        opened(chromium, address, base / "browser", (1200, 900)) as tab,
    ):
        command(tab, "notebook:run-all-cells")
        tab.wait_for_selector(PANEL, timeout=PATIENCE)
        yield Desk(tab, base, notebook, [])


def test_a_panel_is_worked_by_keyboard_alone_and_a_killed_kernel_loses_nothing(desk):
    page, panel = desk.page, desk.panel
    # Nobody has clicked into the panel: it took the focus itself.
    desk.ready("pause")
    expect(panel.locator(".emomm-next")).to_be_focused()
    desk.shown("1_start")
    for label, same in ((-1, False), (1, True), (-1, True)):
        desk.onward()
        desk.answer(label)
        desk.ready("feedback")
        words = "agrees with the reference" if same else "differs"
        expect(panel.locator(".emomm-verdict")).to_contain_text(words)
        desk.shown(f"2_feedback{label}")
        desk.onward()
        desk.ready("pause")
    expect(panel.locator("ul")).to_contain_text("Calibration, Video is done: 1 of 1.")
    desk.onward()
    desk.ready("item")
    only_text(page)
    desk.shown("3_text")
    for label in (1, 0, -1):
        desk.answer(label, arrow=label == 0)
    desk.ready("pause")
    expect(panel.locator("ul")).to_contain_text("Text is done: 3 of 3.")
    desk.shown("4_break")
    desk.onward()
    desk.ready("item")
    only_sound(page)
    desk.shown("5_audio")
    desk.answer(0)
    desk.ready("item")
    kill(desk)
    # The panel still shows the next clip. What is pressed now reaches nobody, and it says so.
    page.keyboard.press("3")
    expect(panel.locator(".emomm-status")).to_contain_text(
        "The kernel does not answer", timeout=PATIENCE
    )
    desk.shown("6_killed")
    restart(desk)
    assert desk.campaign().task("A1").done == 1
    desk.ready("pause")
    expect(panel.locator("ul")).to_contain_text("1 of 3 clips are done.")
    desk.shown("7_resumed")
    desk.onward()
    hurried(desk)
    desk.answer(-1)
    desk.ready("pause")
    film = broken(desk)
    desk.onward()
    set_aside(desk)
    desk.ready("item")
    only_film(page)
    desk.shown("8_video")
    desk.answer(1)
    corrected(desk)
    desk.answer(0)
    desk.ready("pause")
    expect(panel.locator("h3")).to_have_text("All that could be opened is done.")
    film()
    command(page, "notebook:run-all-cells")
    expect(panel.locator("ul")).to_contain_text("2 of 3 clips are done.", timeout=PATIENCE)
    desk.ready("pause")
    desk.onward()
    desk.answer(0)
    desk.ready("pause")
    expect(panel.locator("h3")).to_have_text("All is done. Thank you.")
    desk.shown("9_end")
    assert recorded(desk.campaign()) == desk.pressed
    votes = desk.campaign().votes()
    newest = {key[1:3]: key[3] for key in desk.pressed if key[0] != CALIBRATION}
    got = votes.set_index(["modality", "seq"])["label"].to_dict()
    assert got == newest and len(votes) == 9
    no_complaint(page)


def recorded(campaign: Campaign) -> list[tuple[str, str, int, int]]:
    rows = [
        (phase, row.modality, row.seq, row.label)
        for phase in (CALIBRATION, "annotation")
        for row in campaign.history(phase).itertuples()
    ]
    return rows


def only_text(page: Page) -> None:
    panel = page.locator(PANEL)
    assert panel.locator("video, audio, img, object, embed, iframe, canvas").count() == 0
    assert panel.locator("blockquote").inner_text() in TEXTS.values()


def only_sound(page: Page) -> None:
    panel = page.locator(PANEL)
    assert panel.locator("video, img, object, embed, iframe, canvas, blockquote").count() == 0
    assert panel.locator("audio").count() == 1
    no_transcript(page)


def only_film(page: Page) -> None:
    panel = page.locator(PANEL)
    assert panel.locator("audio, blockquote").count() == 0
    film = panel.locator("video")
    assert film.evaluate("v => v.duration") > 0.4
    assert film.evaluate("v => v.webkitVideoDecodedByteCount") > 0
    assert film.evaluate("v => v.webkitAudioDecodedByteCount") == 0
    tracks = film.evaluate(
        "async v => { const c = v.captureStream(); "
        "return [c.getVideoTracks().length, c.getAudioTracks().length]; }"
    )
    assert tracks == [1, 0]
    no_transcript(page)


def no_transcript(page: Page) -> None:
    html = page.locator(PANEL).evaluate("e => e.outerHTML + e.innerText")
    assert not [text for text in TEXTS.values() if text in html]


def kill(desk: Desk) -> None:
    os.kill(int((desk.base / "pid").read_text()), signal.SIGKILL)


def restart(desk: Desk) -> None:
    """JupyterLab has started a new kernel by itself; say yes to that, and run the cell again."""
    page = desk.page
    page.get_by_role("button", name="Ok").click(timeout=PATIENCE)
    idle(page)
    command(page, "notebook:run-all-cells")


def broken(desk: Desk) -> Callable[[], None]:
    """Spoil the film that comes next; what is returned mends it."""
    name = desk.campaign().task("A1").sample_id
    clips = pd.read_csv(desk.base / "clips.csv").set_index("sample_id")
    path = desk.base / clips.at[name, "video_path"]
    whole = path.read_bytes()
    path.write_bytes(b"no film")
    return lambda: path.write_bytes(whole)


def set_aside(desk: Desk) -> None:
    """A clip that cannot be opened takes no label, and S leads to the next."""
    page, status = desk.page, desk.panel.locator(".emomm-status")
    expect(status).to_have_text("This clip cannot be opened. Press S to set it aside.")
    page.keyboard.press("1")
    expect(status).to_have_text("A clip that cannot be opened gets no label.")
    desk.shown("8_unreadable")
    number = desk.panel.get_attribute("data-number")
    page.keyboard.press("s")
    expect(desk.panel).not_to_have_attribute("data-number", number)
    assert recorded(desk.campaign()) == desk.pressed


def hurried(desk: Desk) -> None:
    """Held down, pressed twice, or pressed as the next clip appears: a key labels one clip."""
    desk.ready("item")
    task = desk.campaign().task("A1")
    said = desk.panel.evaluate("""panel => new Promise(done => {
        const said = [];
        const press = (key, repeat) => {
            panel.dispatchEvent(
                new KeyboardEvent('keydown', {key, repeat, bubbles: true, cancelable: true}));
            said.push(panel.querySelector('.emomm-status').textContent);
        };
        new MutationObserver((_, watcher) => {
            watcher.disconnect();
            press('3');
            done(said);
        }).observe(panel, {attributeFilter: ['data-number']});
        press('1', true);
        press('2');
        press('2');
        press('Backspace');
        press('2', true);
    })""")
    held = "Not counted: the kernel is still busy with what you did before."
    waiting = "Not counted: you can answer once the sound has begun to play."
    assert said == ["", "Saving …", held, held, held, waiting]
    desk.pressed.append((task.phase, task.modality, task.seq, 0))
    desk.ready("item")
    assert recorded(desk.campaign()) == desk.pressed


def corrected(desk: Desk) -> None:
    """Back to the clip before, a look at the answer, and another one."""
    page, panel = desk.page, desk.panel
    phase, modality, seq, label = desk.pressed[-1]
    assert label == 1
    desk.ready("item")
    number = panel.get_attribute("data-number")
    page.keyboard.press("Backspace")
    expect(panel).not_to_have_attribute("data-number", number)
    desk.ready("item")
    expect(panel.locator(".emomm-seq")).to_have_text(f" · seq {seq}")
    expect(panel.locator(".emomm-given")).to_contain_text("You answered +1 positive")
    desk.shown("8_corrected")
    number = panel.get_attribute("data-number")
    page.keyboard.press("1")
    desk.pressed.append((phase, modality, seq, -1))
    expect(panel).not_to_have_attribute("data-number", number)


def test_every_word_is_legible_in_light_and_dark_and_every_button_has_a_name(desk):
    page, panel = desk.page, desk.panel
    page.keyboard.press("Backspace")
    desk.ready("item")
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        command(page, "apputils:change-theme", theme=theme)
        light = str(theme == "JupyterLab Light").lower()
        expect(page.locator("body")).to_have_attribute("data-jp-theme-light", light)
        expect(page.locator("#jupyterlab-splash")).to_have_count(0)
        desk.shown(theme)
        contrasts = panel.evaluate(_CONTRASTS)
        assert len(contrasts) > 12 and not [c for c in contrasts if c[1] < 4.5], contrasts
    names = ("-1 negative, key 1 or ←", "0 neutral, key 2 or ↓", "1 positive, key 3 or →")
    for name in names:
        expect(panel.get_by_role("button", name=name, exact=True)).to_be_visible()
    expect(panel.get_by_role("button", name=names[1])).to_have_attribute("aria-pressed", "true")
    expect(panel.get_by_role("status")).to_have_attribute("aria-live", "polite")
    expect(panel.get_by_role("progressbar", name="done: 3 of 3")).to_be_visible()
    expect(page.get_by_role("group", name="annotation by A1: Video (pass 3 of 3)")).to_be_focused()
    page.keyboard.press("Tab")
    expect(panel.locator(".emomm-replay")).to_be_focused()
    page.keyboard.press("Tab")
    expect(panel.locator(".emomm-label").first).to_be_focused()
    panel.focus()
    page.keyboard.press("Enter")
    desk.ready("pause")
    assert recorded(desk.campaign()) == desk.pressed
    no_complaint(page)


_CONTRASTS = """panel => {
    const parse = colour => colour.match(/[\\d.]+/g).map(Number);
    const shade = colour => parse(colour).slice(0, 3)
        .map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
    const ground = e => {
        const own = parse(getComputedStyle(e).backgroundColor);
        return own.length === 3 || own[3] === 1 ? own : ground(e.parentElement);
    };
    const worded = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    return [...panel.querySelectorAll('*')].filter(e => worded(e) && e.offsetParent).map(e => {
        const pair = [shade(getComputedStyle(e).color), shade(`rgb(${ground(e).join()})`)];
        pair.sort((a, b) => b - a);
        return [e.textContent, (pair[0] + 0.05) / (pair[1] + 0.05)];
    });
}"""


def test_a_saved_notebook_holds_no_text_sound_or_film(desk):
    before = desk.notebook.stat().st_mtime_ns
    command(desk.page, "docmanager:save")
    until = time.monotonic() + 20
    saved = ""
    # A file that is being written is empty for a moment.
    while not saved.endswith("}\n") and time.monotonic() < until:
        desk.page.wait_for_timeout(100)
        if desk.notebook.stat().st_mtime_ns != before:
            saved = desk.notebook.read_text()
    # With the widget's state, which is its code and nothing else.
    assert "application/vnd.jupyter.widget-state+json" in saved and "AnyModel" in saved
    assert not [text for text in TEXTS.values() if text in saved]
    assert "base64" not in saved and "blob:" not in saved and "Segmented" not in saved
    assert len(saved) < 60_000
    ids = pd.read_csv(desk.base / "clips.csv")["sample_id"]
    assert not [name for name in ids if name in saved]
