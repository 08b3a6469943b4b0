"""JupyterLab in a headless Chromium: started on loopback in a copy of some notebooks, as `make lab` starts it."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from routerlab.core.runs import root

HINT = "Debian: apt-get install chromium; pip install playwright"
NOISE = ("favicon", "Download the React DevTools", "jupyterlab-manager", "ResizeObserver", "404 (Not Found)")


def chromium() -> str:
    """The browser, or why there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    return ""


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """JupyterLab on `folder`; gives its address with the token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(folder / ".config"),
        "JUPYTER_CONFIG_PATH": str(root() / "notebooks" / "lab"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"),
        "ROUTERLAB_FIGURES": str(folder / "figures"),
        "PYTHONPATH": str(root()),
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        f"--port={port}",
        f"--IdentityProvider.token={token}",
    ]
    with (folder / "lab.log").open("w") as log:
        process = subprocess.Popen([*command, str(folder)], env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(240):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5).read()
                break
            if process.poll() is not None:
                raise RuntimeError((folder / "lab.log").read_text()[-2000:])
            time.sleep(0.25)
        # A workspace for each notebook: Lab would open the last one's tabs as well.
        yield f"http://127.0.0.1:{port}/lab/workspaces/STEM/tree/NAME?token={token}"
    finally:
        process.terminate()
        process.wait(20)


class Lab:
    """A page of a browser on that server, with what it complained about."""

    def __init__(self, page, address: str, folder: Path) -> None:
        self.page, self.address, self.folder = page, address, folder
        self.errors: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda m: m.type == "error" and self._complain(m.text))
        page.on("pageerror", lambda error: self._complain(str(error)))
        page.on("request", lambda r: self.asked.append(r.url))

    def _complain(self, text: str) -> None:
        if not any(known in text for known in NOISE):
            self.errors.append(text)

    def open(self, name: str) -> None:
        """Open a notebook and wait for its kernel."""
        address = self.address.replace("STEM", Path(name).stem).replace("NAME", name)
        self.page.goto(address, wait_until="domcontentloaded")
        self.page.locator(".jp-Notebook:visible .jp-Cell").first.wait_for(timeout=60_000)
        self.page.locator('[data-status="idle"]').first.wait_for(timeout=60_000)
        self.page.locator(".jp-Notebook:visible .jp-CodeCell").first.click()

    def run_all(self, name: str, seconds: float) -> dict:
        """Run all cells, save, and give the notebook as it is on disk then."""
        last, again, ends = time.monotonic() + seconds, 0.0, []
        while time.monotonic() < last:
            if not any(ends) and time.monotonic() > again:  # a busy machine may lose the first click
                self.page.get_by_role("menuitem", name="Run", exact=True).click()
                self.page.locator(".lm-Menu-item", has_text="Run All Cells").first.click()
                again = time.monotonic() + 60
            self.page.wait_for_timeout(2000)
            self.page.keyboard.press("Control+s")
            self.page.wait_for_timeout(1000)
            book = json.loads((self.folder / name).read_text())
            code = [c for c in book["cells"] if c["cell_type"] == "code" and "".join(c["source"]).strip()]
            ends = [c["execution_count"] for c in code]
            failed = [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
            if failed or (all(ends) and self.page.locator('[data-status="idle"]').count()):
                return book
        self.page.screenshot(path=self.folder / "still_runs.png")
        raise TimeoutError(f"{name} still runs after {seconds} s; cells run: {ends}")


@contextlib.contextmanager
def browser() -> Iterator:
    """A page of a headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield opened.new_page(viewport={"width": 1400, "height": 1000})
        opened.close()


def frames(page, explorer, steps: int) -> list[float]:
    """Milliseconds from a move of the explorer's slider to the frame that shows it, for each of `steps` moves."""
    return explorer.evaluate(
        """async (box, steps) => {
          const slider = box.querySelector("input[type=range]"), point = box.querySelector(".point"), out = [];
          for (let i = 0; i < steps; i++) {
            const before = point.getAttribute("cx") + point.getAttribute("cy"), start = performance.now();
            slider.value = (i * 379) % 1000;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
            await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
            const after = point.getAttribute("cx") + point.getAttribute("cy");
            if (i && before === after) throw new Error(`the picture did not change at ${slider.value}`);
            out.push(performance.now() - start);
          }
          return out;
        }""",
        steps,
    )
