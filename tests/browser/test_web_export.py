"""`shotfit export --to web`: the page says in Chromium what the library says, by itself and to everybody."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, expect

from shotfit import light
from shotfit.engine.store import MemoryStore
from shotfit.export.preparing import preprocess_record
from shotfit.export.write import export_model
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.towers.pixels import pixels
from shotfit.towers.preprocess import clip_preprocessing, siglip_preprocessing

from ..pictures import picture, save

CLIPART = Path(__file__).parent.parent.parent / "examples" / "clipart"
HOSTILE = "<img src=x onerror=alert(1)>"

pytestmark = pytest.mark.browser


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing of each request."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some classes of clipart as class folders, one under a name that a page must not run."""
    place = tmp_path_factory.mktemp("photos")
    for name in ("bird", "house", "fruit"):
        (place / (HOSTILE if name == "fruit" else name)).symlink_to(CLIPART / name)
    return place


@pytest.fixture(scope="module")
def model(photos: Path) -> Model:
    store = MemoryStore()
    return fit(photos, "tip_adapter", shots=4, backbone="mini", store=store, check=False, precision="float32")


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(model, "web", tmp_path_factory.mktemp("web") / "page").folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The folder on a plain static server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page with its model loaded; nothing may be asked of another host, and the console stays empty."""
    page, wrong = browser.new_page(), list[str]()
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith((address, "blob:", "data:")) else wrong.append(one.url))
    page.goto(address)
    expect(page.locator("#status")).to_have_text("Ready.", timeout=120_000)
    yield page
    page.close()
    assert wrong == []


def shown(page: Page, count: int) -> list[dict[str, float]]:
    """What the page says of each picture, in the order in which they were given."""
    expect(page.locator("#list > li")).to_have_count(count, timeout=240_000)
    found = {}
    for entry in page.query_selector_all("#list > li"):
        rows = entry.query_selector_all(".bars li")
        pairs = ((row.get_attribute("data-label"), row.get_attribute("data-probability")) for row in rows)
        found[int(entry.get_attribute("data-number") or -1)] = {str(label): float(share or 0) for label, share in pairs}
    return [found[number] for number in range(count)]


def test_page_classifies_as_the_library_does(page: Page, model: Model, folder: Path, tmp_path: Path) -> None:
    turned, exif = picture(1, 90, 60), Image.Exif()
    exif[0x0112] = 6
    files = [
        str(path) for name in ("bird", "house", "fruit", "tool") for path in sorted((CLIPART / name).iterdir())[4:8]
    ]
    smooth = picture(2, 9, 7)
    files += [
        str(save(tmp_path / "turned.jpg", turned, exif=exif)),
        str(save(tmp_path / "strip.png", picture(3, 900, 4))),
        str(save(tmp_path / "gray.jpg", picture(4, 60, 90).convert("L"))),
        str(save(tmp_path / "palette.png", picture(5, 70, 90).quantize(16))),
        str(save(tmp_path / "tiny.png", smooth)),
        str(save(tmp_path / "tall.jpg", smooth.resize((150, 700)))),
    ]
    page.set_input_files("#files", files)
    found = shown(page, len(files))
    for name, one, expected in zip(files, found, model.predict(files, top=3), strict=True):
        assert max(one, key=lambda label: one[label]) == expected.labels[0], name
        for label, probability in zip(expected.labels, expected.probabilities, strict=True):
            assert one[label] == pytest.approx(probability, abs=1e-3), name
    again = light.load(folder).predict(files, top=3)  # the light runtime opens this folder too
    assert [one.labels[0] for one in again] == [max(one, key=lambda label: one[label]) for one in found]


RULES = {
    "clip": clip_preprocessing(24),
    "siglip": siglip_preprocessing(24),
    "floor": replace(clip_preprocessing(25), crop_offset="floor", interpolation="bilinear"),
    "longest": replace(siglip_preprocessing(24), resize="longest", fill=127),
}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_of_preprocessing_gives_the_numbers_of_pillow(page: Page, name: str) -> None:
    rule, body = RULES[name], page.query_selector("body")
    assert body is not None
    for width, height in ((24, 24), (25, 24), (7, 5), (61, 40), (40, 67), (40, 56), (131, 3), (2, 300), (24, 90)):
        image = picture(width, width, height)
        found = body.evaluate(
            """async (_, [width, height, rgba, rule]) => {
                const { pixels } = await import("./pixels.js");
                const read = (left, top, across, count) => {
                    const rows = [];
                    for (let y = top; y < top + count; y++) {
                        rows.push(...rgba.slice((y * width + left) * 4, (y * width + left + across) * 4));
                    }
                    return rows;
                };
                return Array.from(pixels(width, height, read, rule));
            }""",
            [width, height, list(image.convert("RGBA").tobytes()), preprocess_record(rule)],
        )
        assert np.array_equal(np.array(found, np.float32), pixels(image, rule).ravel()), (width, height)


def test_transparent_picture_lies_on_white(page: Page, model: Model, tmp_path: Path) -> None:
    red, green, blue = picture(6, 80, 80).split()
    file = save(tmp_path / "alpha.png", Image.merge("RGBA", (red, green, blue, green)))
    page.set_input_files("#files", str(file))
    (found,) = shown(page, 1)
    (expected,) = model.predict(str(file), top=3)
    for label, probability in zip(expected.labels, expected.probabilities, strict=True):
        assert found[label] == pytest.approx(probability, abs=0.02)  # browsers round a blend in their own way


def test_what_is_no_picture_is_told_and_the_next_one_is_classified(page: Page, tmp_path: Path) -> None:
    (tmp_path / "<b>broken.png").write_bytes(b"no picture")
    page.set_input_files("#files", [str(tmp_path / "<b>broken.png"), str(CLIPART / "bird" / "bird_01.png")])
    first, second = shown(page, 2)
    assert (first, bool(second)) == ({}, True)
    expect(page.locator(".error")).to_have_text("cannot be read as an image by this browser.")
    expect(page.locator("#list h3").last).to_have_text("<b>broken.png")


def test_dropped_and_pasted_pictures_are_classified(page: Page) -> None:
    data = io.BytesIO()
    picture(7).save(data, "PNG")
    script = """([content, kind]) => {
        const file = new File([Uint8Array.from(content)], kind + ".png", {type: "image/png"});
        const held = new DataTransfer();
        held.items.add(file);
        const name = kind === "drop" ? "dataTransfer" : "clipboardData";
        const made = kind === "drop" ? new DragEvent(kind, {bubbles: true}) : new ClipboardEvent(kind, {bubbles: true});
        Object.defineProperty(made, name, {value: held});
        document.body.dispatchEvent(made);
    }"""
    handle = page.query_selector("body")
    assert handle is not None
    for kind in ("drop", "paste"):
        handle.evaluate(f"(_, given) => ({script})(given)", [list(data.getvalue()), kind])
    shown(page, 2)
    assert page.locator("#list h3").all_inner_texts() == ["paste.png", "drop.png"]


def test_camera_gives_a_picture(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.add_init_script("""
        navigator.mediaDevices.getUserMedia = async () => {
            const canvas = document.createElement("canvas");
            canvas.getContext("2d").fillRect(0, 0, 50, 50);
            setInterval(() => canvas.getContext("2d").fillRect(0, 0, 50, 50), 50);
            return canvas.captureStream();
        };
    """)
    page.goto(address)
    page.locator("#camera").click(timeout=120_000)
    expect(page.locator("#shoot")).to_be_focused()
    page.keyboard.press("Enter")
    shown(page, 1)
    page.locator("#close").click()
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#camera")).to_be_focused()
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_accessible_on_a_phone(browser: Browser, address: str, scheme: Literal["light", "dark"]) -> None:
    phone: ViewportSize = {"width": 390, "height": 844}
    page = browser.new_page(viewport=phone, color_scheme=scheme, bypass_csp=True)  # axe comes in as a script
    page.goto(address)
    expect(page.locator("#status")).to_have_text("Ready.", timeout=120_000)
    page.set_input_files("#files", str(CLIPART / "bird" / "bird_01.png"))
    shown(page, 1)
    page.locator("summary").click()
    expect(page.locator("#classes")).to_contain_text("<img src=x")  # as text
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    violations = Axe().run(page).response["violations"]
    assert [one["id"] for one in violations if one["impact"] in ("serious", "critical")] == []
    page.close()


def test_missing_model_is_told(browser: Browser, folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.name != "model.onnx":
            (tmp_path / file.name).symlink_to(file)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
    expect(page.locator("#status")).to_have_text(re.compile(r"cannot be loaded: model\.onnx is not there \(404\)"))
    page.close()
    server.shutdown()
    server.server_close()
