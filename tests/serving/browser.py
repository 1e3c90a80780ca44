"""Chromium without a window, for tests of the page and pictures of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium import webdriver

PHONE = {"width": 390, "height": 844, "pixelRatio": 1, "touch": True, "mobile": True}


@contextmanager
def browsing(*, dark: bool = False, phone: bool = False) -> Iterator[webdriver.Chrome]:
    """Yield a browser of 1280 x 900 or of a phone's size. Skips the test where Chromium or its driver is not installed."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
                 *(["--no-sandbox"] if os.getuid() == 0 else [])):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if phone:
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": PHONE})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        if not phone:
            browser.set_window_size(1280, 900)
        if dark:
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
        yield browser
    finally:
        browser.quit()
