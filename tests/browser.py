"""A JupyterLab of this environment and a Chromium to look at it with, for tests of widgets.

Chromium is found on the PATH. Without one these tests are skipped, or fail where
``EMOMM_BROWSER_TESTS=1`` is set.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect, sync_playwright

TESTS = Path(__file__).resolve().parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ABSENT = (
    "no Chromium on the PATH, so the widgets are not tried in a browser; on Debian and Ubuntu: "
    "sudo apt-get install chromium (elsewhere any Chrome or Chromium by one of the names "
    f"{', '.join(BROWSERS)})"
)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
TOKEN = "tests"
PATIENCE = 60_000
"""Milliseconds: importing torch and transformers takes most of it on a busy machine."""
# What is expected comes in the end; how soon is the machine's affair.
expect.set_options(timeout=PATIENCE)


def find_chromium() -> str:
    """Its path; skips the test, or fails it, where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        if os.environ.get("EMOMM_BROWSER_TESTS") == "1":
            pytest.fail(ABSENT)
        pytest.skip(ABSENT)
    return found


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    """A notebook of code cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(text) for text in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(made, path)


@contextmanager
def jupyterlab(
    base: Path, notebook: Path, settings: dict[str, dict] | None = None
) -> Iterator[str]:
    """The address of a notebook in a JupyterLab that keeps all that is its own in a folder.

    ``settings`` are JupyterLab's, by ``<package>/<plugin>``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = {name: str(base / name.lower()) for name in (
        "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR",
        "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR",
    )}  # fmt: skip
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    settings = {"@jupyterlab/apputils-extension/notification": quiet, **(settings or {})}
    for plugin, values in settings.items():
        file = base / "jupyterlab_settings_dir" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    environment = {**os.environ, **home, "JUPYTER_PREFER_ENV_PATH": "1"}
    environment.pop("JUPYTER_PATH", None)
    log = base / "lab.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
             "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
             "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
             f"--ServerApp.root_dir={notebook.parent}", "--LabApp.extension_manager=readonly",
             "--LabApp.news_url=None", "--LabApp.expose_app_in_browser=True",
             "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
            cwd=notebook.parent, env=environment, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _await(f"{address}/api/status?token={TOKEN}", server, log)
        yield f"{address}/lab/tree/{notebook.name}?token={TOKEN}&reset"
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


@contextmanager
def opened(browser: str, address: str, home: Path, size: tuple[int, int]) -> Iterator[Page]:
    """The notebook in a tab, its kernel idle; ``page.said`` is what the console complained."""
    with sync_playwright() as play:
        environment = {**os.environ, "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)}
        chromium = play.chromium.launch(executable_path=browser, args=list(FLAGS), env=environment)
        try:
            tab = chromium.new_page(viewport={"width": size[0], "height": size[1]})
            tab.said = []
            tab.on("console", lambda m: m.type == "error" and tab.said.append(m.text))
            tab.on("pageerror", lambda error: tab.said.append(str(error)))
            tab.goto(address)
            tab.wait_for_selector(".jp-Notebook .jp-Cell", timeout=PATIENCE)
            idle(tab)
            yield tab
        finally:
            chromium.close()


def idle(page: Page) -> None:
    """Wait for the kernel; run before it is there, JupyterLab would ask which one to take."""
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=PATIENCE)


def command(page: Page, name: str, **arguments: object) -> None:
    """Begin one of JupyterLab's commands, as its menus do."""
    page.evaluate("([n, a]) => { jupyterapp.commands.execute(n, a); }", [name, arguments])


def no_complaint(page: Page) -> None:
    """No cell failed, and no widget complained in the console."""
    assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
    assert page.locator(".jp-RenderedText[data-mime-type*='error']").count() == 0
    widgets = [x for x in page.said if "widget" in x.lower() or "Error" in x]
    assert not widgets, widgets
