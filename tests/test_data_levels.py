"""Pictures of more than 8 bits: their levels become 0 to 255 by the range that they use."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shotfit.data import levels as levels_module
from shotfit.data.images import inspect, open_image
from shotfit.data.pictures import Picture

from .pictures import picture, save


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_few_bits_in_16_become_the_full_range(tmp_path: Path, suffix: str, bits: int) -> None:
    highest = 2**bits - 1
    levels = np.array([[0, highest // 5, highest]], dtype=np.uint16)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(levels))
    assert [open_image(Picture(path)).getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (51,) * 3, (255,) * 3]
    assert inspect(Picture(path)).full == highest


def test_12_bit_level_above_10_bits_decides(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(np.array([[0, 1024]], dtype=np.uint16)))
    assert inspect(Picture(path)).full == 4095


def deep_png(path: Path, levels: np.ndarray[Any, Any], kind: int, significant: bytes = b"") -> Path:
    """A PNG of 16 bits a channel: [height, width, channels]; kind: 0 gray, 2 RGB, 6 RGBA."""
    height, width, _ = levels.shape

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    more = chunk(b"sBIT", significant) if significant else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def deep_tiff(path: Path, levels: np.ndarray[Any, Any], order: str, more: tuple[int, int] | None = None) -> Path:
    """An uncompressed TIFF of 16 bits a channel; more: a further tag and its value."""
    height, width, channels = levels.shape
    data = levels.astype(f"{order}u2").tobytes()
    bits, color = struct.pack(f"{order}4H", *[16] * 4), 2 if channels > 1 else 1
    entries = [(256, 3, 1, width), (257, 3, 1, height), (259, 3, 1, 1), (262, 3, 1, color), (273, 4, 1, 16)]
    entries += [(277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data))]
    entries += [(258, 3, channels, 8 if channels > 1 else 16), *([(more[0], 3, 1, more[1])] if more else [])]

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        held = struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        return struct.pack(f"{order}HHI", tag, kind, count) + held

    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entry(*one) for one in sorted(entries)) + bytes(4)
    sign = b"II*\0" if order == "<" else b"MM\0*"
    path.write_bytes(sign + struct.pack(f"{order}I", 16 + len(data)) + bits + data + directory)
    return path


DEEP = np.array([[[0, 819, 4095], [4095, 0, 819]]], dtype=np.uint16)  # [1, 2, 3]
SHALLOW = [(0, 51, 255), (255, 0, 51)]


def test_12_bit_rgb_png_becomes_the_full_range(tmp_path: Path) -> None:
    opened = open_image(Picture(deep_png(tmp_path / "a.png", DEEP, 2)))
    assert [opened.getpixel((x, 0)) for x in range(2)] == SHALLOW


def test_12_bit_rgba_png_becomes_the_full_range_on_white(tmp_path: Path) -> None:
    levels = np.dstack([DEEP, np.array([[[65535], [0]]], dtype=np.uint16)])
    opened = open_image(Picture(deep_png(tmp_path / "a.png", levels, 6)))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [SHALLOW[0], (255, 255, 255)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_12_bit_rgb_tiff_becomes_the_full_range(tmp_path: Path, order: str) -> None:
    opened = open_image(Picture(deep_tiff(tmp_path / "a.tiff", DEEP, order)))
    assert [opened.getpixel((x, 0)) for x in range(2)] == SHALLOW


def test_16_bit_rgb_stays(tmp_path: Path) -> None:
    opened = open_image(Picture(deep_png(tmp_path / "a.png", DEEP * 16, 2)))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(0, 51, 255), (255, 0, 51)]


@pytest.mark.parametrize("kind", [0, 2])
def test_dark_png_that_says_it_has_16_bits_stays_dark(tmp_path: Path, kind: int) -> None:
    levels = np.full((2, 2, kind + 1), 4000, dtype=np.uint16)
    significant = b"\x10" * (kind + 1)
    found = open_image(Picture(deep_png(tmp_path / "a.png", levels, kind, significant))).getpixel((0, 0))
    assert isinstance(found, tuple) and max(found) < 17


def test_highest_level_that_a_tiff_declares_is_white(tmp_path: Path) -> None:
    levels = np.array([[[0], [3000]]], dtype=np.uint16)
    opened = open_image(Picture(deep_tiff(tmp_path / "a.tiff", levels, "<", more=(281, 15_000))))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (51, 51, 51)]


def test_bands_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    made = {
        "gray": Image.fromarray(rng.integers(0, 4096, (40, 30)).astype(np.uint16)),
        "floats": Image.fromarray(rng.normal(size=(40, 30)).astype(np.float32)),
        "alpha": Image.fromarray(rng.integers(0, 256, (40, 30, 4), dtype=np.uint8)),
        "palette": picture(1, 30, 40).quantize(),
        "cmyk": picture(1, 30, 40).convert("CMYK"),
    }
    paths = [save(tmp_path / f"{name}.tiff", image) for name, image in made.items()]
    paths.append(deep_png(tmp_path / "deep.png", rng.integers(0, 4096, (40, 30, 3)).astype(np.uint16), 2))
    whole = [open_image(Picture(path)).tobytes() for path in paths]
    monkeypatch.setattr(levels_module, "BAND", 100)
    assert [open_image(Picture(path)).tobytes() for path in paths] == whole
