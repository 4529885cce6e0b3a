"""Take screenshots of a report in a browser: wide and 360 pixels narrow, light and dark, and printed.

Usage::

    python tools/screenshots.py report.html folder/

Needs the extra ``dev`` and Chromium with its driver (Debian: ``apt-get install chromium chromium-driver``).
"""

from __future__ import annotations

import base64
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

WIDTHS = {"wide": 1280, "narrow": 360}
SCHEMES = ("light", "dark")
_QUIET = (
    "--headless=new",
    "--no-sandbox",  # root, as in containers, gets no sandbox; pages are our own
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)


def browser_programs() -> tuple[str, str] | None:
    """Return the paths of Chromium and its driver, or None where they are not installed."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def open_browser() -> Iterator[Chrome]:
    """Open Chromium without a window; it logs the requests and console messages of pages.

    Raises:
        FileNotFoundError: Chromium or its driver is not installed.
    """
    if (programs := browser_programs()) is None:
        raise FileNotFoundError("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = programs[0]
    for argument in _QUIET:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Without the driver's path selenium would search for one on the network.
    browser = Chrome(options, ChromeService(programs[1]))
    try:
        yield browser
    finally:
        browser.quit()


def look(browser: Chrome, width: int, scheme: str) -> None:
    """Show pages at a width in pixels, with the colour scheme ``light`` or ``dark`` preferred."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def main() -> None:
    """Take the screenshots."""
    page, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    with open_browser() as browser:
        browser.get(page.as_uri())
        for name, width in WIDTHS.items():
            for scheme in SCHEMES:
                look(browser, width, scheme)
                picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
                _write(folder / f"{name}-{scheme}.png", picture["data"])
        look(browser, WIDTHS["wide"], "light")
        _write(folder / "print.pdf", browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])


def _write(path: Path, content: str) -> None:
    path.write_bytes(base64.b64decode(content))
    print(path)


if __name__ == "__main__":
    main()
