"""Hostile TIFF files: sizes of tiles and strips, overlapping strips, circles of pages, values of other types."""

from __future__ import annotations

import struct
from random import Random

import numpy as np
from PIL import Image

from tests.attacks.images import WIDE, picture, saved, zeros

__all__: list[str] = []

# TIFF, by hand


def tiff(tags: dict[int, tuple[int, list[int]]], data: bytes, big: bool = False, loop: bool = False) -> bytes:
    """Little-endian TIFF of one page; types 3 (16 bit) and 4 (32 bit), values in the order of their tags."""
    start, entries, extra = 8, b"", b""
    after = start + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        content = b"".join((value & 0xFFFFFFFF).to_bytes(4, "little")[: 2 if kind == 3 else 4] for value in values)
        where = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack("<I", after + len(extra))
        extra += content if len(content) > 4 else b""
        entries += struct.pack("<HHI", tag, kind, len(values)) + where
    body = struct.pack("<H", len(tags)) + entries + struct.pack("<I", start if loop else 0)
    return b"II" + struct.pack("<HI", 43 if big else 42, start) + body + extra + data


def page(width: int, height: int, data: bytes, **other: tuple[int, list[int]]) -> dict[int, tuple[int, list[int]]]:
    tags = {256: (4, [width]), 257: (4, [height]), 258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [2]), 277: (3, [3]),
            273: (4, [400]), 278: (4, [height]), 279: (4, [len(data)])}  # fmt: skip
    return tags | {int(name[1:]): value for name, value in other.items()}


@picture(3, "tif")
def tiff_tile_sizes(random: Random) -> bytes:
    data, side = zeros(10**6), random.choice([16, 10_000, 65_536, 2**31 - 16, 2**20])
    tags = page(*random.choice([(64, 64), (WIDE, WIDE)]), data)
    for gone in (273, 278, 279):
        del tags[gone]
    tags |= {259: (3, [random.choice([1, 5, 7, 8, 32773])]), 322: (4, [side]), 323: (4, [random.choice([side, 16])])}
    return tiff(tags | {324: (4, [400]), 325: (4, [len(data)])}, data)


@picture(2, "tif")
def tiff_few_bytes(random: Random) -> bytes:
    data = zeros(WIDE * 3)[:60]
    return tiff(page(WIDE, WIDE, data, t259=(3, [random.choice([1, 5, 8, 32773, 32946])])), data)


@picture(2, "tif")
def tiff_deflate_bomb(random: Random) -> bytes:
    data = zeros(WIDE * WIDE * 3)
    return tiff(page(WIDE, WIDE, data, t259=(3, [random.choice([8, 32946])])), data)


@picture(2, "tif")
def tiff_many_strips(random: Random) -> bytes:
    count = random.choice([10_000, 400_000])
    return tiff(page(64, count, b"", t273=(4, [400] * count), t279=(4, [192] * count), t278=(4, [1])), bytes(400))


@picture(2, "tif")
def tiff_overlapping_strips(random: Random) -> bytes:
    data = zeros(10**7)
    many = 5000
    return tiff(page(1000, many * 10, data, t259=(3, [8]), t273=(4, [400] * many), t279=(4, [len(data)] * many),
                     t278=(4, [10])), data)  # fmt: skip


@picture(3, "tif")
def tiff_odd_values(random: Random) -> bytes:
    tags = page(40, 36, bytes(5000))
    for _ in range(random.randint(1, 3)):
        tag = random.choice([*tags, 284, 317, 338, 339, 320, 530])
        tags[tag] = (
            random.choice([3, 4]),
            [random.choice([0, 1, 2, 7, 255, 65535, 2**31, -1])] * random.choice([1, 3, 9]),
        )
    return tiff(tags, bytes(5000), big=random.random() < 0.1)


@picture(1, "tif")
def tiff_circle_of_pages(random: Random) -> bytes:
    return tiff(page(40, 36, bytes(5000)), bytes(5000), loop=True)


@picture(1, "tif")
def tiff_many_samples(random: Random) -> bytes:
    many = random.choice([100, 5000, 65535])
    return tiff(page(200, 200, b"", t258=(3, [8] * many), t277=(3, [many])), bytes(5000))


@picture(2, "tif")
def tiff_float_oddities(random: Random) -> bytes:
    values = np.array([random.choice([np.nan, np.inf, -np.inf, 1e38, -1e38, 0.5]) for _ in range(64)], np.float32)
    return saved(Image.fromarray(values.reshape(8, 8)), "TIFF")
