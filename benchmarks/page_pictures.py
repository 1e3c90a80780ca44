"""Pictures of the page for the documentation: python benchmarks/page_pictures.py ADDRESS. Writes docs/page-*.png.

ADDRESS: of `semid demo --serve`. Needs Chromium and its driver.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlencode

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.serving.browser import browsing

DOCS = Path(__file__).parents[1] / "docs"
STAR_WARS = "260"
PICTURES = {
    "page-light.png": ({"dark": False, "phone": False}, {"user": "3", "h": STAR_WARS, "k": 3, "why": "1196"}, 1050),
    "page-dark.png": ({"dark": True, "phone": False}, {"h": [STAR_WARS, "1196"], "k": 4, "where": "year > 1990"}, 1000),
    "page-phone.png": ({"dark": False, "phone": True}, {"h": [STAR_WARS, "1196"], "k": 4}, 1500)}
"""{name: (browser, address, height in pixels)}; the ids are those of the demo's films."""


def main(address: str) -> None:
    for name, (look, query, height) in PICTURES.items():
        with browsing(**look) as browser:
            browser.get(f"{address}/?{urlencode(query, doseq=True)}")
            WebDriverWait(browser, 30).until(lambda browser: browser.find_elements(By.CSS_SELECTOR, "#tree .cell"))
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
                "width": 390 if look["phone"] else 1280, "height": height, "deviceScaleFactor": 1, "mobile": look["phone"]})
            browser.save_screenshot(str(DOCS / name))


if __name__ == "__main__":
    main(*sys.argv[1:])
