"""A page of the labelling server that is watched: what it complains of, and what it asks for elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page

from tests.apps import App

__all__ = ["current", "go_to", "name_classes", "opened", "store", "until", "worked"]


@contextmanager
def opened(browser: Browser, app: App, view: str = "label", **settings: Any) -> Iterator[Page]:
    """A page in a browser of its own; in the end it must have complained of nothing, and asked nobody else."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **settings})
    page, wrong = context.new_page(), list[str]()
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    own = (app.address, "data:", "blob:")
    context.on("request", lambda asked: None if asked.url.startswith(own) else wrong.append(asked.url))
    page.goto(f"{app.address}#{view}")
    page.wait_for_selector("main section")
    yield page
    context.close()
    assert wrong == []


def store(page: Page, what: str) -> Any:
    """Something that the page knows."""
    return page.evaluate(
        "async (what) => { const { store } = await import('./assets/store.js'); return store[what]; }", what
    )


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    """The first value that is true."""
    end = time.monotonic() + seconds
    while True:
        found = true()
        if found:
            return found
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def worked(page: Page, kind: str, seconds: float = 120) -> dict[str, Any]:
    """The work of that kind, once it has ended."""

    def ended() -> Any:
        page.wait_for_timeout(50)
        job = store(page, "job")
        return job if job and job["kind"] == kind and job["state"] != "running" else None

    found = until(ended, seconds)
    assert isinstance(found, dict)
    return found


def current(page: Page) -> int:
    """The place of the picture that keys are about."""
    return int(page.locator(".cell.current").get_attribute("data-index") or -1)


def go_to(page: Page, place: int) -> None:
    """To a picture, by arrow keys."""
    at = current(page)
    for _ in range(abs(place - at)):
        page.keyboard.press("ArrowRight" if place > at else "ArrowLeft")
    assert current(page) == place


def name_classes(page: Page, names: list[str]) -> None:
    """New classes, by keys."""
    for name in names:
        page.keyboard.press("c")
        page.keyboard.type(name)
        page.keyboard.press("Enter")
    until(lambda: store(page, "classes") == names)
