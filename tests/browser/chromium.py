"""The Chromium that the browser test drives; run as a script, it installs one where there is none."""

import os
import shutil
import subprocess
import sys

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Path of the Chromium that $CHROMIUM names, else of one on PATH, else of Playwright's own; None without any."""
    if named := os.environ.get("CHROMIUM"):
        path = shutil.which(named)
        if path is None or not starts(path):
            sys.exit(f"CHROMIUM = {named!r}: does not start; it must be the path of a Chromium or Chrome")
        return path
    with sync_playwright() as playwright:
        candidates = [*map(shutil.which, NAMES), playwright.chromium.executable_path]
    return next((path for path in candidates if path and starts(path)), None)


def starts(path: str) -> bool:
    """Whether it says its version: a package's stub or a browser whose libraries are missing does not."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install() -> None:
    """Playwright's own Chromium or, where its download is out of reach, the one of Debian's archive."""
    playwright = [sys.executable, "-m", "playwright"]
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if succeeds(*playwright, "install", "chromium"):
        if as_root and sys.platform == "linux":
            succeeds(*playwright, "install-deps", "chromium")
    elif as_root and shutil.which("apt-get"):
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        succeeds("apt-get", "update", "-qq") and succeeds("apt-get", "install", "-y", "-qq", "chromium")


def succeeds(*command: str) -> bool:
    print("+", *command, flush=True)
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0


if __name__ == "__main__":
    if find_chromium() is None:
        install()
    chromium = find_chromium()
    if chromium is None:
        sys.exit("No Chromium, and none could be installed: install chromium (or Chrome), or set CHROMIUM to its path")
    print("Chromium:", chromium)
