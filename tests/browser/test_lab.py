"""Every notebook in a real JupyterLab in Chromium: all cells run without error, every control changes its figure.

`make test-browser` installs what this needs. Notebooks are copies, with the parameters of a small run; screenshots
stay in runs/browser.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

import nbformat
import papermill
import pytest
from chromium import find_chromium
from helpers import small_parameters
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from pkdlib import ROOT
from pkdlib.engine.files import RUNS

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SCREENSHOTS = RUNS / "browser"
VIEWPORT = {"width": 1500, "height": 1100}
FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none"}',  # cells out of sight are in the page too
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}
RUN_SECONDS, MOVE_SECONDS = 900, 120  # patience for a notebook, and for a page or a figure, on a busy core
STILL = 20  # looks at cells of which none waits, half a second apart
DIGEST = """async image => {
    const bytes = await (await fetch(image.src)).arrayBuffer()
    const digest = await crypto.subtle.digest("SHA-256", bytes)
    return Array.from(new Uint8Array(digest), byte => byte.toString(16)).join("")
}"""
# One text per code cell: "[3]:" when it has run, "[*]:" when it waits.
PROMPTS = """() => Array.from(document.querySelectorAll(".jp-Notebook .jp-CodeCell"),
    cell => cell.querySelector(".jp-InputPrompt").textContent.trim())"""
BROKEN_WIDGETS = ".jupyter-widgets-error-widget"


class Lab(NamedTuple):
    url: str
    token: str
    folder: Path


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab with settings of its own over copies of the notebooks."""
    home = tmp_path_factory.mktemp("lab")
    folder = home / "notebooks"
    folder.mkdir()
    parameters = small_parameters(home / "runs")
    for path in NOTEBOOKS:
        papermill.execute_notebook(path, folder / path.name, parameters[path.stem], prepare_only=True)
    for name, text in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    own = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython",
           "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}  # fmt: skip
    environment = os.environ | {variable: str(home / name) for variable, name in own.items()}
    environment.pop("PKDLIB_BATCH", None)  # somebody is watching: progress bars as a learner sees them
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}",
               "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               f"--IdentityProvider.token={token}"]  # fmt: skip
    running = Lab(f"http://127.0.0.1:{port}", token, folder)
    with open(home / "server.log", "w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                ask(running, "status")
                break
            except OSError:  # not listening yet
                assert server.poll() is None and time.monotonic() < deadline, (home / "server.log").read_text()
                time.sleep(0.5)
        yield running
    finally:
        server.terminate()  # and with it its kernels
        server.wait(timeout=60)


def ask(lab: Lab, path: str, method: str = "GET") -> bytes:
    request = Request(f"{lab.url}/api/{path}", headers={"Authorization": f"token {lab.token}"}, method=method)
    with urlopen(request, timeout=30) as answer:
        return answer.read()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    assert chromium, "no Chromium: make test-browser installs one"
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    SCREENSHOTS.mkdir(parents=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()
    print(f"\nScreenshots: {SCREENSHOTS}")


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_notebook_runs_and_its_widgets_answer(name: str, lab: Lab, browser: Browser) -> None:
    path = lab.folder / f"{name}.ipynb"
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    page = browser.new_page(viewport=VIEWPORT)
    page.set_default_timeout(1000 * MOVE_SECONDS)
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    try:
        page.goto(f"{lab.url}/lab/tree/{path.name}?reset&token={lab.token}")
        wait_for_kernel(page)
        choose(page, "Edit", "Clear Outputs of All Cells")
        choose(page, "Run", "Run All Cells")
        wait_for_cells(page, len(code))
        wait_for_kernel(page)
        cells = save(page, path)
        raised = [output for cell in cells for output in cell.outputs if output.output_type == "error"]
        assert [f"{output.ename}: {output.evalue}" for output in raised] == []
        assert all(cell.execution_count for cell in cells)
        explorers = page.locator(".pkd-explorer").all()
        assert page.locator(BROKEN_WIDGETS).all_inner_texts() == [], complaints
        assert len(explorers) == sum(len(re.findall(r"\bwidgets\.\w+\(", source)) for source in code)
        for number, explorer in enumerate(explorers, start=1):
            move_every_control(page, explorer)
            explorer.screenshot(path=SCREENSHOTS / f"{name}-widget-{number}.png")
        assert page.locator(BROKEN_WIDGETS).all_inner_texts() == [], complaints
        assert [text for text in complaints if re.search("widget|could not create", text, re.IGNORECASE)] == []
    finally:
        photograph(page, name)
        page.close()
        shut_down_kernels(lab)


def choose(page: Page, menu: str, item: str) -> None:
    page.locator(".lm-MenuBar-itemLabel").get_by_text(menu, exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True).click()


def wait_for_kernel(page: Page) -> None:
    idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    idle.wait_for(state="attached", timeout=1000 * RUN_SECONDS)


def wait_for_cells(page: Page, count: int) -> None:
    """Return when every code cell has its number, or when none waits any more: an error leaves those below it empty."""
    deadline, still = time.monotonic() + RUN_SECONDS, 0
    while still < STILL:
        prompts = page.evaluate(PROMPTS)
        if len(prompts) == count and all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in prompts):
            return
        assert time.monotonic() < deadline, f"cells have not run: {prompts}"
        still = 0 if "[*]:" in prompts else still + 1
        page.wait_for_timeout(500)


def move_every_control(page: Page, explorer: Locator) -> None:
    explorer.scroll_into_view_if_needed()
    controls = explorer.locator(".pkd-control").all()
    assert len(controls) >= 3
    for control in controls:
        kind = control.get_attribute("class")
        if "widget-dropdown" in kind:
            select = control.locator("select")
            for option in [text for text in select.locator("option").all_inner_texts() if text != chosen(select)]:
                with figure_changes(page, explorer, f"{label(control)}: {option}"):
                    select.select_option(label=option)
        elif "slider" in kind:
            handle = control.get_by_role("slider")
            at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
            with figure_changes(page, explorer, label(control)):
                handle.press("ArrowLeft" if at_end else "ArrowRight")
        elif "widget-checkbox" in kind:
            with figure_changes(page, explorer, label(control)):
                control.get_by_role("checkbox").click()
        elif "widget-text" in kind:
            type_nonsense_and_back(page, explorer, control.get_by_role("textbox"))
        else:
            pytest.fail(f"this test does not know how to move {kind}")


def type_nonsense_and_back(page: Page, explorer: Locator, box: Locator) -> None:
    """An impossible text gives a message and another figure; the first text brings the first figure back."""
    message, first, figure = explorer.locator(".pkd-message"), box.input_value(), digest(explorer)
    assert box.is_enabled() and message.count() == 0
    with figure_changes(page, explorer, "nonsense typed"):
        box.fill("99, 1")
        box.press("Enter")
    message.wait_for(state="visible")
    explorer.screenshot(path=SCREENSHOTS / "message.png")
    with figure_changes(page, explorer, "the first text again"):
        box.fill(first)
        box.press("Enter")
    message.wait_for(state="detached")
    assert digest(explorer) == figure


@contextmanager
def figure_changes(page: Page, explorer: Locator, what: str) -> Iterator[None]:
    """Fails unless what is done within gives the explorer's figure other bytes, of an image that can be shown."""
    before = digest(explorer)
    yield
    deadline = time.monotonic() + MOVE_SECONDS
    while digest(explorer) == before:
        assert time.monotonic() < deadline, f"{what}: the figure stayed as it was"
        page.wait_for_timeout(100)
    assert explorer.locator("img.pkd-figure").evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


def digest(explorer: Locator) -> str:
    return explorer.locator("img.pkd-figure").evaluate(DIGEST)


def label(control: Locator) -> str:
    return control.inner_text().strip().splitlines()[0]


def chosen(select: Locator) -> str:
    return select.evaluate("select => select.options[select.selectedIndex].text")


def save(page: Page, path: Path) -> list[nbformat.NotebookNode]:
    """The code cells as JupyterLab has them."""
    choose(page, "File", "Save Notebook")
    page.locator(".lm-TabBar-tab.jp-mod-dirty").wait_for(state="detached")
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def photograph(page: Page, name: str) -> None:
    """The whole notebook, a screenful after the other."""
    notebook = page.locator(".jp-Notebook .jp-WindowedPanel-outer, .jp-Notebook.jp-WindowedPanel-outer").first
    if notebook.count() == 0:
        page.screenshot(path=SCREENSHOTS / f"{name}-not-opened.png")
        return
    height, seen = (notebook.evaluate(f"panel => panel.{size}") for size in ("scrollHeight", "clientHeight"))
    for number, top in enumerate(range(0, height, seen), start=1):
        notebook.evaluate("(panel, top) => panel.scrollTo(0, top)", top)
        page.wait_for_timeout(200)
        page.screenshot(path=SCREENSHOTS / f"{name}-{number:02d}.png")


def shut_down_kernels(lab: Lab) -> None:
    for kernel in json.loads(ask(lab, "kernels")):
        ask(lab, f"kernels/{kernel['id']}", "DELETE")
