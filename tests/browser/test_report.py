"""Reports as people see them: without scripts, narrow and wide, dark, on paper, and read aloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Dialog, Page

import shotfit
from shotfit.data.readers import read_task
from shotfit.fitting.fit import fit
from shotfit.report.comparison import write_comparison
from shotfit.testing.tiny import tiny_backbone, tiny_task
from tests.test_report import hostile_pages

pytestmark = pytest.mark.browser
NAMES = ("model", "record", "runs", "hostile/model", "hostile/record", "hostile/runs")
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of each kind: ordinary ones, and ones of hostile names."""
    folder = tmp_path_factory.mktemp("pages")
    tiny_task(folder / "photos", [f"class {number}" for number in range(12)], images=8)
    task, backbone = read_task(folder / "photos"), tiny_backbone(folder / "backbone")
    model = fit(task, "tip_adapter", backbone=backbone, keep=True)
    shotfit.write_report(model, task, out=folder / "model.html")
    shotfit.write_report(model, out=folder / "record.html")
    rows = shotfit.compare(task, ["zero_shot", "tip_adapter"], [1, 4], [1, 2], backbone=backbone)
    write_comparison(rows, out=folder / "runs.html")
    (folder / "hostile").mkdir()
    hostile_pages(folder / "hostile")
    return folder


@pytest.fixture
def messages() -> list[str]:
    """What the browser complains of, and whatever a page asked for beyond itself."""
    return []


@pytest.fixture(params=["light", "dark"])
def opened(browser: Browser, request: pytest.FixtureRequest, messages: list[str]) -> Iterator[Page]:
    """A page that runs no script of its own."""
    context = browser.new_context(java_script_enabled=False, color_scheme=request.param)
    page = context.new_page()
    page.on("console", lambda message: messages.append(message.text))
    page.on("dialog", lambda dialog: messages.append(dialog.message))
    page.on("request", lambda asked: None if asked.url[:5] in ("file:", "data:") else messages.append(asked.url))
    yield page
    context.close()


@pytest.mark.parametrize("name", NAMES)
def test_page_is_whole_without_scripts(opened: Page, pages: Path, messages: list[str], name: str) -> None:
    for width in (390, 1280):
        opened.set_viewport_size({"width": width, "height": 900})
        opened.goto((pages / f"{name}.html").as_uri())
        body = opened.locator("body").bounding_box()
        assert body is not None and body["width"] <= width
        for drawing in opened.locator("figure svg").all():
            box = drawing.bounding_box()
            assert box is not None and box["width"] > 200 and box["height"] > 50
        seen = opened.locator("main").inner_text()
        assert "How to repeat it" in seen or name.endswith("runs")
    assert messages == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, pages: Path, name: str, scheme: str) -> None:
    context = browser.new_context(color_scheme="dark" if scheme == "dark" else "light", bypass_csp=True)
    page = context.new_page()
    page.goto((pages / f"{name}.html").as_uri())
    wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    pictures = page.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
    found = Axe().run(page).response["violations"]
    context.close()
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in SERIOUS] == []
    assert not wide and pictures


def test_phone_scrolls_down_alone(browser: Browser, pages: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    for name in NAMES:
        page.goto((pages / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    context.close()


def test_paper_is_light_and_has_what_is_folded(browser: Browser, pages: Path, tmp_path: Path) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto((pages / "model.html").as_uri())
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)" != dark
    assert not page.locator("nav").is_visible()
    assert page.pdf(path=tmp_path / "page.pdf").startswith(b"%PDF")
    context.close()


def test_keyboard_reaches_links_and_wide_parts(browser: Browser, pages: Path) -> None:
    page = browser.new_page()
    page.goto((pages / "model.html").as_uri())
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('href') || document.activeElement.ariaLabel"))
    assert {"#mistakes", "Heat map of confusion", "Classes"} <= reached
    page.close()


def test_hostile_names_run_nothing(browser: Browser, pages: Path) -> None:
    page = browser.new_page(bypass_csp=True)  # also where the page's own rule did not hold
    said = list[str]()

    def heard(dialog: Dialog) -> None:
        said.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", heard)
    for name in NAMES[3:]:
        page.goto((pages / f"{name}.html").as_uri())
        assert page.locator("img[src='x']").count() == 0
        assert "<img src=x onerror=alert(1)>" in page.locator("main").inner_text()
        titles = page.locator("figure svg text").all_text_contents()
        assert name.endswith("record") or any(text.startswith("<img src=x") for text in titles)
    assert said == []
    page.close()
