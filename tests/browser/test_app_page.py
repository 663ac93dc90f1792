"""The labelling page as anybody meets it: by keys, read aloud, on a phone, dark, with hostile names, server gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from shotfit.server.app.journal import NAME
from tests.apps import CLIPART, App, class_of, unsorted_clipart
from tests.browser.watching import current, go_to, name_classes, opened, store, until, worked

pytestmark = pytest.mark.browser

VIEWS = ("label", "fit", "look", "try", "ship")
SERIOUS = ("serious", "critical")
EMPTY = {"label": "Type the name of a first class", "fit": "Label some pictures first"}
EMPTY |= dict.fromkeys(("look", "try", "ship"), "There is no fit yet")
PUT = """([event, key, content]) => {
    const held = new DataTransfer();
    held.items.add(new File([new Uint8Array(content)], `${event}.png`, { type: "image/png" }));
    const kind = key === "clipboardData" ? ClipboardEvent : DragEvent;
    document.querySelector(".drop").dispatchEvent(new kind(event, { [key]: held, bubbles: true, cancelable: true }));
}"""
"""Puts a picture onto the page, as a person does with a mouse or with Ctrl-V."""
LOOKS: tuple[dict[str, Any], ...] = (
    {"color_scheme": "light"},
    {"color_scheme": "dark"},
    {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
)
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m",
    "'\"><script>alert(2)</script>",
    "long " * 1000,
    "\u202egnp.exe",
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A folder that was labelled, wrongly in places, and fitted."""
    base = tmp_path_factory.mktemp("fitted")
    folder = unsorted_clipart(base / "photos", of_each=8)
    with App(folder, here=base, env={"SHOTFIT_CACHE": str(base / "cache")}) as app:
        state = app.state()
        paths = dict(zip(state["names"], state["paths"], strict=True))
        labels = {name: class_of(path) for name, path in paths.items() if int(path[-6:-4]) <= 4}
        first, *_, last = labels
        labels[first], labels[last] = labels[last], labels[first]
        app.post("label", labels=labels)
        app.post("fit")
        until(lambda: app.state()["job"]["state"] != "running", 180)
        assert app.state()["job"]["state"] == "done"
        yield app


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0]['failureSummary'][:300]}"
        for one in found
        if one["impact"] in SERIOUS
    ]


@pytest.mark.parametrize("look", LOOKS, ids=["light", "dark", "phone"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious_and_nothing_is_cut_off(
    browser: Browser, fitted: App, view: str, look: dict[str, Any]
) -> None:
    with opened(browser, fitted, view, **look) as page:
        if view == "try":
            page.set_input_files("input[type=file]", CLIPART / "tool" / "tool_30.png")
            page.wait_for_selector(".tried dl")
        page.wait_for_timeout(300)
        drawn = "[...document.images].every((one) => one.complete && one.naturalWidth > 0 || one.loading === 'lazy')"
        until(lambda: page.evaluate(drawn))
        if view == "fit":
            assert page.locator(".plot img").count() == 1
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("document.querySelector('main').scrollWidth <= innerWidth")
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, a, select, input')].filter((one) => one.checkVisibility() && "
            "!(one.innerText || one.getAttribute('aria-label') || one.labels?.length)).map((one) => one.outerHTML)"
        )
        assert unnamed == []


@pytest.mark.parametrize("view", VIEWS)
def test_without_a_label_each_view_says_what_to_do(browser: Browser, tmp_path: Path, view: str) -> None:
    with App(unsorted_clipart(tmp_path / "photos", of_each=1)) as app, opened(browser, app, view) as page:
        said = page.locator("main").inner_text()
        assert EMPTY[view] in said
        assert serious(page) == []


def test_what_is_not_on_the_page_is_said_and_covers_no_class(browser: Browser, tmp_path: Path) -> None:
    folder = unsorted_clipart(tmp_path / "photos", of_each=1)
    (folder / "raw.nef").touch()
    (folder / NAME).write_text(json.dumps({"shotfit": "labels", "version": 1}) + "\nno change\n")
    with App(folder, env={"SHOTFIT_CACHE": str(tmp_path / "cache")}) as app:
        for look in (LOOKS[0], LOOKS[2]):
            with opened(browser, app, **look) as page:
                toasts = page.locator("#toasts")
                toasts.get_by_text("Left out: 1 picture of a format that is not read (raw.nef).").wait_for()
                toasts.get_by_text("1 line of .shotfit-labels.jsonl cannot be read").wait_for()
                assert serious(page) == []
                told, panel = toasts.bounding_box(), page.locator(".panel").bounding_box()
                assert told is not None and panel is not None
                aside = told["x"] >= panel["x"] + panel["width"]
                assert aside or told["y"] + told["height"] <= panel["y"]


def test_hostile_names_are_text_everywhere(browser: Browser, tmp_path: Path) -> None:
    folder = unsorted_clipart(tmp_path / "photos", of_each=2)
    (folder / "bird_01.png").rename(folder / "<img src=x onerror=alert(3)>.png")
    paths = sorted(path.name for path in folder.iterdir())
    lines = [{"shotfit": "labels", "version": 1}, {"labels": {path: HOSTILE[n % 5] for n, path in enumerate(paths)}}]
    (folder / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with App(folder, env={"SHOTFIT_CACHE": str(tmp_path / "cache")}) as app:
        for look in (LOOKS[0], LOOKS[2]):
            for view in VIEWS:
                with opened(browser, app, view, **look) as page:
                    page.wait_for_timeout(200)
                    assert page.locator("img[src=x], main script").count() == 0
                    assert page.evaluate("document.querySelector('main').scrollWidth <= innerWidth"), view
                    if view == "label":
                        assert page.locator(".classes .name", has_text=HOSTILE[0]).count() == 1
                        assert serious(page) == []
        with opened(browser, app, "fit") as page:  # the fit says in a sentence what is wrong with such names
            page.get_by_role("button", name="Fit", exact=True).click()
            job = worked(page, "fit")
            assert job["state"] in ("failed", "done")
            page.wait_for_timeout(200)
            assert page.locator("img[src=x], main script").count() == 0


def test_keys_alone_label_accept_select_and_undo(browser: Browser, tmp_path: Path) -> None:
    folder = unsorted_clipart(tmp_path / "photos", of_each=3)
    with App(folder, env={"SHOTFIT_CACHE": str(tmp_path / "cache")}) as app, opened(browser, app) as page:
        name_classes(page, ["bird", "house"])
        page.keyboard.press("1")
        assert current(page) == 1  # on to the next
        page.keyboard.press("Shift+ArrowRight")
        page.locator(".chosen").get_by_text("2 pictures selected").wait_for()
        page.evaluate("import('./assets/store.js').then((store) => store.load())")  # as after a broken connection
        page.locator(".chosen").get_by_text("2 pictures selected").wait_for()
        page.keyboard.press("2")
        assert store(page, "labels")[:4] == ["bird", "house", "house", None]
        page.keyboard.press("z")
        assert store(page, "labels")[:4] == ["bird", None, None, None]
        until(lambda: page.locator(".cell.current .guess:visible").count(), 90)
        at = current(page)
        guessed = page.locator(".cell.current .guess").inner_text().split("?")[0]
        page.keyboard.press("Enter")
        assert store(page, "labels")[at] == guessed
        page.keyboard.press("Home")
        page.keyboard.press("Delete")
        assert store(page, "labels")[0] is None
        page.keyboard.press("Control+a")
        page.locator(".chosen").get_by_text("30 pictures selected").wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        page.get_by_role("dialog").wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("v")
        page.get_by_role("dialog").locator("img").wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("c")
        page.keyboard.type("hou")
        page.keyboard.press("Enter")  # the first that is found
        until(lambda: store(page, "unsaved") == 0)
        assert "house" in app.labels().values()
        page.keyboard.press("u")
        assert page.get_by_role("button", name="To label").get_attribute("aria-pressed") == "true"


def test_what_next_shows_pictures_that_have_no_label(browser: Browser, fitted: App) -> None:
    with opened(browser, fitted) as page:
        page.get_by_role("button", name="What next?").click()
        assert worked(page, "suggest")["state"] == "done"
        page.get_by_role("button", name="Suggested").wait_for()
        assert page.locator(".cell:not([hidden])").count() == 24
        assert page.locator(".cell:not([hidden]).labelled").count() == 0


def test_a_fit_is_cancelled_and_the_next_one_runs(browser: Browser, fitted: App) -> None:
    with opened(browser, fitted, "fit") as page:
        page.get_by_role("button", name="Fit thoroughly").click()
        page.get_by_role("button", name="Cancel").click()
        assert worked(page, "fit")["state"] == "cancelled"
        page.get_by_role("button", name="Fit again", exact=True).click()
        until(lambda: store(page, "job")["state"] == "running")
        go = page.locator("a[href='#label']").first
        go.click()  # the page is alive meanwhile
        go_to(page, 3)
        page.keyboard.press("1")
        page.keyboard.press("z")
        assert worked(page, "fit")["state"] == "done"


def test_a_kept_label_is_not_suspected_again(browser: Browser, fitted: App) -> None:
    with opened(browser, fitted, "look") as page:
        page.locator("li.look").first.wait_for()
        suspect = store(page, "fit")["look"]["suspects"][0]["path"]
        page.locator("li.look").first.focus()
        page.keyboard.press("k")
        page.locator("li.look").first.get_by_text("Kept").wait_for()
        page.wait_for_timeout(300)
        page.reload()
        page.locator("li.look").first.wait_for()
        assert suspect not in [one["path"] for one in store(page, "fit")["look"]["suspects"]]


def test_a_picture_can_be_pasted_and_dropped(browser: Browser, fitted: App) -> None:
    content = [*(CLIPART / "fruit" / "fruit_30.png").read_bytes()]
    with opened(browser, fitted, "try") as page:
        for event, key in (("paste", "clipboardData"), ("drop", "dataTransfer")):
            page.evaluate(PUT, [event, key, content])
            page.locator(f".tried img[alt='{event}.png']").wait_for()


def test_the_page_says_when_the_server_is_gone(browser: Browser, tmp_path: Path) -> None:
    app = App(unsorted_clipart(tmp_path / "photos", of_each=1))
    context = browser.new_context()
    page = context.new_page()
    page.goto(app.address)
    page.wait_for_selector(".cell.current")
    name_classes(page, ["bird"])
    page.keyboard.press("1")
    until(lambda: store(page, "unsaved") == 0)
    app.kill()
    page.keyboard.press("1")
    page.get_by_text("The server does not answer.", exact=True).wait_for()
    assert store(page, "labels")[1] is None  # that one was not kept, and it says so
    page.get_by_text("That label was not kept").wait_for()
    context.close()
