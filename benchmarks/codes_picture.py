"""A picture of the laboratory's page for the documentation: python benchmarks/codes_picture.py OUT/codes.html. Writes docs/codes.png.

OUT: of `semid compare --codes` on the bundled films. Needs Chromium and its driver.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.serving.browser import browsing

PICTURE = Path(__file__).parents[1] / "docs" / "codes.png"
WIDE, HIGH = 1280, 2050


def main(page: str) -> None:
    with browsing() as browser:
        browser.get(Path(page).resolve().as_uri())
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": WIDE, "height": HIGH, "deviceScaleFactor": 1, "mobile": False})
        browser.save_screenshot(str(PICTURE))


if __name__ == "__main__":
    main(*sys.argv[1:])
