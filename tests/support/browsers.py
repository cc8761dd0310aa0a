"""Chromium for tests of pages. Without one they are skipped, unless REQUIRE_BROWSER=1 demands one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

REQUIRED = "REQUIRE_BROWSER"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def missing(what: str, why: str) -> None:
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but {why}")
    pytest.skip(f"NO BROWSER TEST OF {what}: {why}")


@contextmanager
def chromium(what: str) -> Iterator[Any]:
    """A browser for tests of `what`."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        missing(what, f"none of {', '.join(BROWSERS)} is installed; on Debian: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing(what, "playwright is not installed: pip install 'tfgradgen[test]'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
