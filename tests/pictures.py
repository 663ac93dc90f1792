"""Small image files for the tests of the data room, made with numpy and Pillow."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

LONG_AGO = 1_700_000_000  # a time that no test runs at


def picture(seed: int = 0, width: int = 40, height: int = 36) -> Image.Image:
    """A random RGB picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(path: Path, image: Image.Image | None = None, seed: int | None = None, **options: object) -> Path:
    """Save a picture, by default one that its path decides, as if it had been there for long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = zlib.crc32(str(path).encode()) if seed is None else seed
    (picture(chosen) if image is None else image).save(path, **options)  # type: ignore[arg-type]
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def tree(folder: Path, **classes: int) -> Path:
    """Class folders with so many pictures each, all different, also from those of a folder of another name."""
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            save(folder / name / f"{i:03}.png", seed=zlib.crc32(f"{folder.name}/{name}".encode()) + i)
    return folder


def bomb(path: Path, width: int = 50_000, height: int = 50_000) -> Path:
    """A PNG whose header claims more pixels than anybody wants decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path
