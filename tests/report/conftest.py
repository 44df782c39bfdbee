"""A headless Chromium that opens pages from the disk."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from report.browser import Browser

REQUIRED = "TBT_REQUIRE_BROWSER"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser; without it tests are skipped, or fail where it must not be missing."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    reason = f"there is no {' and no '.join(missing)}: `make browser` installs it" if missing else ""
    if importlib.util.find_spec("selenium") is None:
        reason = "selenium, which drives Chromium, is not installed: it is in the extra `test`"
    if reason and os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{reason}, and {REQUIRED}=1 asks for it")
    if reason:
        pytest.skip(reason)
    from report.browser import Browser

    browser = Browser()
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    """The same browser for every test, at the size of a desk and in light colours."""
    chromium.resize(1280, 900)
    chromium.prefer("light")
    return chromium
