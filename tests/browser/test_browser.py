"""The browser of these tests is a real one."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser


@pytest.mark.browser
def test_browser_draws_a_page(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content("<h1>shotfit</h1>")
    assert page.inner_text("h1") == "shotfit"
