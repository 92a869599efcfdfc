"""Debian's chromium without a window, for tests of pages.

    python tests/browser/chromium.py install    # needs root

Its driver is Debian's as well, of the same version; nothing is fetched when tests run.
"""

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

# Debian's packages and the programs that they bring.
PROGRAMS = {"chromium": "chromium", "chromium-driver": "chromedriver"}


def why_not() -> str | None:
    """Why no browser can be started here; None if one can."""
    missing = [name for name in PROGRAMS.values() if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} here (python tests/browser/chromium.py install, on Debian)"
    return None


def install() -> None:
    """Install Debian's packages; needs root."""
    if why_not() is None:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (("update",), ("install", "--yes", "--no-install-recommends", *PROGRAMS)):
        subprocess.run(["apt-get", "--quiet", "--quiet", *arguments], env=environment, check=True)


def start() -> "Chrome":
    """A browser that keeps what pages say on their console."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    # Root has no sandbox, and containers little shared memory.
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit(f"usage: {sys.argv[0]} install")
    install()
