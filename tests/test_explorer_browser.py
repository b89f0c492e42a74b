"""The explorer in JupyterLab in a real browser, moved by keyboard.

Needs a Chromium, which is found on the PATH. Without one the test is skipped, or fails where
``EMOMM_BROWSER_TESTS=1`` is set. With ``EMOMM_SCREENSHOT=<file.png>`` it also keeps a picture of
the widget; that is how ``docs/images/explorer.png`` is made:

    EMOMM_SCREENSHOT=docs/images/explorer.png python -m pytest tests/test_explorer_browser.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect, sync_playwright

TESTS = Path(__file__).resolve().parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ABSENT = (
    "no Chromium on the PATH, so the explorer is not tried in a browser; on Debian and Ubuntu: "
    "sudo apt-get install chromium (elsewhere any Chrome or Chromium by one of the names "
    f"{', '.join(BROWSERS)})"
)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
TOKEN = "explorer"
PATIENCE = 60_000
"""Milliseconds: importing torch and transformers takes most of it on a busy machine."""


@pytest.fixture(scope="module")
def browser_path() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        if os.environ.get("EMOMM_BROWSER_TESTS") == "1":
            pytest.fail(ABSENT)
        pytest.skip(ABSENT)
    return found


def notebook(path: Path, clips: Path) -> None:
    """A notebook of two cells that opens the explorer on a few clips, kept in a folder."""
    cells = [
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
        "from pathlib import Path\n"
        "from explorer_bench import small_bench, small_router\n"
        "from emomm_lib.report.explorer import explore\n"
        f"bench = small_bench(Path({str(clips)!r}))\n"
        "routers = {'published': small_router(bench)}\n"
        "explorer = explore(bench, bench.clips[::-1], routers)",
        "explorer",
    ]
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(text) for text in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(made, path)


@pytest.fixture(scope="module")
def lab(browser_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab of this environment that shows the notebook."""
    base = tmp_path_factory.mktemp("lab")
    work = base / "work"
    work.mkdir()
    notebook(work / "explorer.ipynb", base / "clips")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = {name: str(base / name.lower()) for name in (
        "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR",
        "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR",
    )}  # fmt: skip
    quiet = base / "jupyterlab_settings_dir/@jupyterlab/apputils-extension"
    quiet.mkdir(parents=True)
    settings = {"fetchNews": "false", "checkForUpdates": False}
    (quiet / "notification.jupyterlab-settings").write_text(json.dumps(settings))
    environment = {**os.environ, **home, "JUPYTER_PREFER_ENV_PATH": "1"}
    environment.pop("JUPYTER_PATH", None)
    log = base / "lab.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
             "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
             "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
             f"--ServerApp.root_dir={work}", "--LabApp.extension_manager=readonly",
             "--LabApp.news_url=None",
             "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
            cwd=work, env=environment, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _await(f"{address}/api/status?token={TOKEN}", server, log)
        yield f"{address}/lab/tree/explorer.ipynb?token={TOKEN}&reset"
    finally:
        _stop(server, address)


def _await(url: str, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def _stop(server: subprocess.Popen, address: str) -> None:
    """End the server and its kernels, which are in sessions of their own."""
    try:
        listing = f"{address}/api/kernels?token={TOKEN}"
        with urllib.request.urlopen(listing, timeout=5) as answer:
            kernels = [kernel["id"] for kernel in json.load(answer)]
        for kernel in kernels:
            url = f"{address}/api/kernels/{kernel}?token={TOKEN}"
            urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10)
    except OSError:
        pass
    # Also where a kernel could not be asked: the server ends its kernels when told to end.
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(5)


@pytest.fixture(scope="module")
def page(lab: str, browser_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The notebook, run, with the explorer drawn; ``page.said`` is what the console complained."""
    with sync_playwright() as play:
        home = str(tmp_path_factory.mktemp("browser"))
        environment = {**os.environ, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}
        browser = play.chromium.launch(
            executable_path=browser_path, args=list(FLAGS), env=environment
        )
        try:
            tab = browser.new_page(viewport={"width": 1720, "height": 1500})
            tab.said = []
            tab.on("console", lambda m: m.type == "error" and tab.said.append(m.text))
            tab.on("pageerror", lambda error: tab.said.append(str(error)))
            tab.goto(lab)
            tab.wait_for_selector(".jp-Notebook .jp-Cell", timeout=PATIENCE)
            # Run before the kernel is there, JupyterLab would ask which kernel to take.
            expect(tab.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=PATIENCE)
            tab.get_by_role("menuitem", name="Run", exact=True).click()
            tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            tab.wait_for_selector(".emomm-picture svg", timeout=PATIENCE)
            yield tab
        finally:
            browser.close()


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


def no_complaint(page: Page) -> None:
    assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
    assert page.locator(".jp-RenderedText[data-mime-type*='error']").count() == 0
    widgets = [x for x in page.said if "widget" in x.lower() or "Error" in x]
    assert not widgets, widgets


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
