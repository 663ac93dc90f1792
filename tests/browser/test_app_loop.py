"""What a person does with the labelling page, from a folder of pictures to an export, by hand and in a real browser."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

import shotfit
from tests.apps import CLIPART, App, class_of, unsorted_clipart
from tests.browser.watching import go_to, name_classes, opened, store, until, worked

pytestmark = pytest.mark.browser

KEYS = "1234567890"
PLANTED = {"bird_02.png": "musical_instrument", "vehicle_03.png": "house"}  # wrong labels
HELD_OUT = CLIPART / "vehicle" / "vehicle_30.png"
MANY = 20_000
JUMP = "(to) => { const grid = document.querySelector('.grid'); grid.scrollTop = grid.scrollHeight * to; }"


def test_a_person_labels_fits_corrects_tries_and_exports_in_three_minutes(browser: Browser, tmp_path: Path) -> None:
    folder = unsorted_clipart(tmp_path / "photos", of_each=29)
    (tmp_path / "here").mkdir()
    env = {"SHOTFIT_CACHE": str(tmp_path / "cache")}
    with App(folder, here=tmp_path / "here", env=env) as app, opened(browser, app) as page:
        began = time.monotonic()
        paths = store(page, "paths")
        classes = sorted({class_of(path) for path in paths})
        name_classes(page, classes)
        for name in classes:
            for path in [path for path in paths if class_of(path) == name][:3]:
                go_to(page, paths.index(path))
                page.keyboard.press(KEYS[classes.index(PLANTED.get(path, name))])
        until(lambda: store(page, "unsaved") == 0)
        assert app.labels() == {path: PLANTED.get(path, class_of(path)) for path in app.labels()}
        assert len(app.labels()) == 30

        page.locator("a[href='#fit']").first.press("Enter")
        page.get_by_role("button", name="Fit", exact=True).press("Enter")
        assert worked(page, "fit")["state"] == "done"

        page.locator("a[href='#look']").first.press("Enter")
        for path, wrong in PLANTED.items():
            _correct(page, path, wrong)
        page.get_by_role("button", name="Fit again").press("Enter")
        first = store(page, "job")["began"]
        until(lambda: (store(page, "job") or {}).get("began") != first or _is_done(page))
        assert worked(page, "fit")["state"] == "done"
        until(lambda: store(page, "fit")["changed"] == 0)
        checked = store(page, "fit")["checked"]
        assert checked["accuracy"] > checked["zero_shot_accuracy"]
        assert app.labels() == {path: class_of(path) for path in app.labels()}

        page.locator("a[href='#try']").first.press("Enter")
        page.set_input_files("input[type=file]", HELD_OUT)
        page.wait_for_selector(".tried dl")
        assert page.locator(".tried dt").count() >= 3
        tried = page.locator(".verdict").inner_text()

        page.locator("a[href='#ship']").first.press("Enter")
        page.get_by_role("button", name="Save the model").press("Enter")
        assert worked(page, "save")["state"] == "done"
        page.get_by_role("button", name="Export as ONNX").press("Enter")
        exported = worked(page, "export")
        assert exported["state"] == "done", exported
        page.wait_for_selector(".good")
        assert time.monotonic() - began < 180
    (said,) = shotfit.load(tmp_path / "here" / "photos-model").predict(HELD_OUT)
    assert tried.startswith(said.labels[0]) or tried.startswith("Perhaps none")
    assert [*(tmp_path / "here" / "photos-onnx").glob("*.onnx")]


def _is_done(page: Page) -> bool:
    return bool(store(page, "fit")["changed"] == 0)


def _correct(page: Page, path: str, wrong: str) -> None:
    """Correct a wrong label where Look shows it, which must be among its first ten pictures."""
    cards = page.locator("li.look")
    cards.first.wait_for()
    shown = [cards.nth(place).get_attribute("aria-label") or "" for place in range(min(10, cards.count()))]
    (place,) = [place for place, said in enumerate(shown) if said.startswith(f"{path}: labelled {wrong}")]
    card = cards.nth(place)
    if f"perhaps {class_of(path)}" in shown[place]:
        card.get_by_role("button", name=re.compile("^Change to")).press("Enter")
    else:
        card.get_by_role("combobox").select_option(class_of(path))
    card.get_by_text(f"Changed to {class_of(path)}").wait_for()


def test_many_pictures_paint_soon_and_scroll_smoothly(browser: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(MANY):
        image = Image.new("RGB", (48, 36), (number % 256, number // 256 % 256, 90))
        image.save(folder / f"{number:05d}.jpg")
    with App(folder, env={"SHOTFIT_CACHE": str(tmp_path / "cache")}) as app:
        names = app.state()["names"]
        assert len(names) == MANY
        with ThreadPoolExecutor(4) as threads:
            assert all(
                content[:2] == b"\xff\xd8" for content in threads.map(lambda name: app.get(f"small/{name}"), names)
            )
        with opened(browser, app) as page:
            page.add_init_script(
                "window.long = []; new PerformanceObserver((list) => { for (const one of list.getEntries()) "
                "window.long.push(Math.round(one.duration)); }).observe({ type: 'longtask', buffered: true });"
            )
            page.reload()
            page.wait_for_function(
                "() => { const shown = [...document.querySelectorAll('.cell img')].slice(0, 20);"
                "return shown.length === 20 && shown.every((one) => one.complete && one.naturalWidth); }"
            )
            painted = page.evaluate(
                "performance.getEntriesByType('resource').filter((one) => one.name.includes('/small/')).slice(0, 20)"
                ".reduce((last, one) => Math.max(last, one.responseEnd), 0)"
            )
            assert painted < 2000
            page.evaluate("window.long.length = 0")
            page.mouse.move(800, 500)
            for _ in range(100):
                page.mouse.wheel(0, 900)
                page.wait_for_timeout(16)
            for step in range(30):
                page.evaluate(JUMP, step * 11 % 30 / 30)
                page.wait_for_timeout(60)
            page.keyboard.press("End")
            page.wait_for_timeout(300)
            assert page.locator(".cell.current").get_attribute("aria-posinset") == str(MANY)
            long = page.evaluate("window.long")
            assert max(long, default=0) < 200, long
        status = Path(f"/proc/{app.process.pid}/status").read_text()
        resident = int((re.search(r"VmHWM:\s+(\d+) kB", status) or ["", "0"])[1])
        assert resident < 1_500_000
        print(f"painted after {painted:.0f} ms, longest task {max(long, default=0)} ms, server {resident / 1e3:.0f} MB")


def test_two_browsers_keep_the_union_and_see_each_other(browser: Browser, tmp_path: Path) -> None:
    folder = unsorted_clipart(tmp_path / "photos", of_each=3)
    with App(folder) as app, opened(browser, app) as one, opened(browser, app) as other:
        name_classes(one, ["left", "right"])
        until(lambda: store(other, "classes") == ["left", "right"])
        for place in range(8):
            go_to(one, place)
            one.keyboard.press("1")
            go_to(other, 29 - place)
            other.keyboard.press("2")
        for page in (one, other):
            until(lambda page=page: store(page, "labelled") == 16)  # type: ignore[misc]
        labels = [*app.labels().values()]
        assert (labels.count("left"), labels.count("right")) == (8, 8)
        go_to(one, 25)
        one.keyboard.press("1")  # the same picture, said otherwise: the last word stays, in both
        until(lambda: store(other, "labels")[25] == "left")
        go_to(other, 25)
        other.keyboard.press("Delete")
        until(lambda: store(one, "labels")[25] is None)
        one.keyboard.press("z")  # its own label is gone already: nothing to undo
        one.wait_for_timeout(500)
        assert store(other, "labels")[25] is None
