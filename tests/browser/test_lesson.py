"""A real JupyterLab in a real Chromium: a learner opens the lesson, runs it, and moves a widget."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = "05_search"
TOKEN = "browser-test"  # without a token, REST calls fail on the cross-site check
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHOTS = os.environ.get("LABKIT_SCREENSHOTS")  # a folder, when a person wants to look

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium or Chrome is installed; `make browser` says how"
    ),
]


@dataclass
class Lab:
    """A running JupyterLab server and the folder it serves."""

    url: str
    folder: Path

    def get(self, path: str) -> list[dict]:
        request = urllib.request.Request(f"{self.url}/{path}", headers={"Authorization": f"token {TOKEN}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def wait_idle(self, seconds: float) -> None:
        """Wait for the kernel itself; the page's own badge lags behind it right after a start."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            kernels = self.get("api/kernels")
            if kernels and all(k["execution_state"] == "idle" and k["connections"] >= 1 for k in kernels):
                return
            time.sleep(0.5)
        raise AssertionError(f"The kernel was not idle after {seconds:.0f} s: {self.get('api/kernels')}")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """JupyterLab on a copy of the module, so that running it changes nothing in the repository."""
    folder = tmp_path / "course"
    for part in ("modules", "assignments", "course"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "lab.log").open("wb")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
            *(f"--port={port}", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"),
            "--LabApp.news_url=None",
        ],
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config")},
    )
    lab = Lab(f"http://127.0.0.1:{port}", folder)
    try:
        for _ in range(120):
            try:
                lab.get("api/kernels")
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()
                time.sleep(0.5)
        yield lab
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def _menu(page, menu: str, item: str) -> None:
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.get_by_role("menuitem", name=item, exact=True).click()


def _shot(page, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def _picture(widget) -> str:
    """A fingerprint of the figure that a widget shows."""
    return hashlib.sha256(widget.locator("img").first.get_attribute("src").encode()).hexdigest()


def test_lesson_runs_and_widget_moves(lab: Lab) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
        )
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(f"{lab.url}/lab/tree/modules/{MODULE}/lesson.ipynb?reset&token={TOKEN}")
        page.locator("#jupyterlab-splash").wait_for(state="detached", timeout=60_000)
        page.locator(".jp-Notebook").first.wait_for(timeout=60_000)
        lab.wait_idle(90)
        _shot(page, "lesson-opened")

        _menu(page, "Run", "Run All Cells")
        _run_to_the_end(lab, page, lab.folder / "modules" / MODULE / "lesson.ipynb")

        explorer = _scroll_to(page, ".jupyter-widgets:has(img)")
        _shot(page, "explorer-before")
        before = _picture(explorer)
        handle = page.locator(".noUi-handle").first
        handle.focus()
        for _ in range(4):
            handle.press("ArrowRight")
        until = time.monotonic() + 30
        while _picture(explorer) == before:
            assert time.monotonic() < until, "The figure did not change when the slider moved."
            time.sleep(0.2)
        _shot(page, "explorer-after")
        browser.close()


def _scroll_to(page, selector: str):
    """Scroll down until it is there: JupyterLab draws an output only when it comes near the window."""
    page.locator(".jp-WindowedPanel-outer").first.hover()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Home")
    for _ in range(200):
        found = page.locator(selector).first
        if found.count():
            found.scroll_into_view_if_needed()
            return found
        page.mouse.wheel(0, 600)
        time.sleep(0.1)
    raise AssertionError(f"Nothing in the notebook matches {selector}.")


def _run_to_the_end(lab: Lab, page, path: Path) -> None:
    """Save and read what JupyterLab saved, until every code cell has run; fail on the first that failed."""
    until = time.monotonic() + 600
    while True:
        lab.wait_idle(600)
        page.keyboard.press("Control+s")
        time.sleep(2)
        notebook = json.loads(path.read_text(encoding="utf-8"))
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for cell in code:
            for output in cell["outputs"]:
                assert output["output_type"] != "error", (cell["source"], output["ename"], output["evalue"])
        waiting = [cell for cell in code if cell["execution_count"] is None]
        if not waiting:
            return
        assert time.monotonic() < until, (
            f"{len(waiting)} cells had not run, the first: {waiting[0]['source']}"
        )
