"""The documentation as a site, read from the file system; its notebooks, which `make docs` runs, are not run here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parent.parent.parent
BUILD = ["-m", "sphinx", "--quiet", "--fail-on-warning", "--define", "nb_execution_mode=off"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    places = ["--doctree-dir", str(folder / "doctrees"), str(ROOT / "docs"), str(folder / "html")]
    subprocess.run([sys.executable, *BUILD, *places], check=True)
    return folder / "html"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that may ask for files alone, and has nothing to complain of."""
    page = browser.new_page()
    wrong = list[str]()
    page.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else wrong.append(one.url))
    page.on("console", lambda one: wrong.append(one.text))
    page.on("pageerror", lambda one: wrong.append(str(one)))
    yield page
    page.close()
    assert wrong == []


def test_search_finds_pages_and_functions(page: Page, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    page.get_by_placeholder("Search").fill("write_report")
    page.get_by_placeholder("Search").press("Enter")
    results = page.locator("#search-results li a")
    expect(results.filter(has_text="shotfit.write_report").first).to_be_visible()
    results.filter(has_text="How do I see what a model gets wrong?").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("How do I see what a model gets wrong?")


def test_no_page_is_wider_than_a_phone_or_asks_another_host(page: Page, site: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    wide = list[str]()
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wide.append(path.name)
    assert wide == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "start/photos", "api", "methods", "notebooks/first_model"])
def test_axe_finds_nothing_serious(browser: Browser, site: Path, name: str, scheme: str) -> None:
    page = browser.new_page(color_scheme="dark" if scheme == "dark" else "light")
    page.goto((site / f"{name}.html").as_uri())
    found = Axe().run(page).response["violations"]
    page.close()
    serious = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []
