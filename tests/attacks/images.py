"""Hostile pictures: bombs, damaged and odd files, things that are no files, and names that a terminal obeys."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from tests.attacks.runner import Case, Family, Place
from tests.attacks.values import NAMES, SPECIAL

__all__ = ["IMAGES"]

IMAGES = Family("images")
WIDE = 10_900  # squared, just within the bound on pixels
Content = Callable[[Random], bytes]


def asked_of(place: Place, random: Random, name: str) -> Case:
    """A command that reads the picture of this name, which lies in the class `red_thing` of the task."""
    task, file = place.folder / "task", place.folder / "task" / "red_thing" / name
    commands = {
        "file": place.predict(file, "--format", random.choice(["table", "csv", "jsonl"])),
        "folder": place.predict(task, "--top", "2"),
        "doctor": ["doctor", str(task)],
        "doctor json": ["doctor", str(task), "--json"],
        "evaluate": ["evaluate", str(place.base / "models" / "zero_shot"), str(task), "--all", *place.backbone],
        "unknown": place.predict(file, "--unknown", "--coverage", "0.9", method="linear_probe"),
        "strict": place.predict(file, "--strict"),
        "fit": [
            "fit", str(task), "--method", "zero_shot", "--recipe", "paper", "--out", str(place.folder / "model"),
            *random.choice([[], ["--skip-broken"]]), *place.backbone,
        ],
        "official": ["fit", str(task), "--method", "zero_shot", "--recipe", "paper", "--skip-broken",
                     "--out", str(place.folder / "model"), "--backbone", str(place.base / "hf")],
    }  # fmt: skip
    return Case(commands[random.choice([*commands])])


def named(place: Place, name: str = "bad.png") -> Path:
    return place.copy("task") / "red_thing" / name


def picture(times: int = 1, suffix: str = "png") -> Callable[[Content], Content]:
    """Register a function that gives a file's content as a kind of image."""

    def register(content: Content) -> Content:
        def make(place: Place, random: Random) -> Case:
            path = named(place, f"bad.{suffix}")
            path.write_bytes(content(random))
            return asked_of(place, random, path.name)

        IMAGES.add(content.__name__, make, times)
        return content

    return register


# PNG, by hand


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    found = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", found)


def zeros(count: int) -> bytes:
    """So many zero bytes, packed, without ever holding them."""
    packer, block = zlib.compressobj(9), bytes(2**20)
    parts = [packer.compress(block[: min(len(block), count - at)]) for at in range(0, count, len(block))]
    return b"".join(parts) + packer.flush()


def png(width: int, height: int, depth: int = 8, color: int = 2, *, before: bytes = b"", data: bytes | None = None,
        after: bytes = b"", interlaced: int = 0) -> bytes:  # fmt: skip
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(color, 3)
    packed = zeros(height * ((width * samples * depth + 7) // 8 + 1)) if data is None else data
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", packed) + after + chunk(b"IEND", b"")


@picture(2)
def png_bomb(random: Random) -> bytes:
    depth, color = random.choice([(8, 2), (8, 6), (16, 6), (16, 2), (16, 0)])
    side = WIDE if depth == 8 else 8_000  # the largest of 16 bits takes most of the time that an attack has
    return png(side, side, depth, color)


@picture(2)
def png_long_and_thin(random: Random) -> bytes:
    long = random.choice([60_000_000, 119_999_999])
    return png(*random.choice([(long, 1), (1, long // 20)]), 1, 0)


@picture()
def png_beyond_the_bound(random: Random) -> bytes:
    return png(random.choice([2**31 - 1, 50_000]), random.choice([2**31 - 1, 50_000]), data=zlib.compress(b"\0" * 99))


@picture(2)
def png_interlaced_bomb(random: Random) -> bytes:
    return png(WIDE, WIDE, 8, random.choice([2, 6]), interlaced=1)


@picture(2)
def png_text_bomb(random: Random) -> bytes:
    packed = zeros(random.choice([3, 200]) * 10**6)
    parts = [b"iTXt" + b"k\0\1\0\0\0" + packed, b"zTXt" + b"k\0\0" + packed, b"iCCP" + b"k\0\0" + packed]
    bombs = b"".join(chunk(part[:4], part[4:]) for part in parts for _ in range(random.choice([1, 40])))
    return png(40, 36, before=bombs, after=bombs)


@picture()
def png_many_chunks(random: Random) -> bytes:
    kind = random.choice([b"tEXt", b"eXIf", b"tIME", b"abCd", b"IDAT"])
    return png(40, 36, before=chunk(kind, b"") * 200_000)


@picture(2)
def png_chunk_lies(random: Random) -> bytes:
    lie = struct.pack(">I", random.choice([2**32 - 1, 2**31, 2**31 - 1, 10**9])) + b"tEXt" + bytes(40)
    return png(40, 36, before=lie)


@picture(2)
def png_odd_header(random: Random) -> bytes:
    return png(random.choice([0, 40]), 36, random.choice([0, 3, 16, 255]), random.randrange(8),
               interlaced=random.choice([0, 1, 9]), data=zlib.compress(bytes(9000)))  # fmt: skip


@picture()
def png_palette_oddities(random: Random) -> bytes:
    palette = chunk(b"PLTE", bytes(random.choice([0, 1, 3, 767, 3 * 300])))
    levels = chunk(b"tRNS", random.randbytes(random.choice([0, 1, 2, 256, 5000])))
    return png(
        40, 36, random.choice([1, 2, 4, 8]), 3, before=palette + levels, data=zlib.compress(random.randbytes(9000))
    )


@picture(2)
def png_animated(random: Random) -> bytes:
    frames = random.choice([1, 2**31 - 1, 0, 10**6])
    control = struct.pack(">IIIIIHHBB", 0, 40, 36, *random.choice([(0, 0), (2**31, 2**31)]), 1, 100, 0, 0)
    return png(40, 36, before=chunk(b"acTL", struct.pack(">II", frames, 0)) + chunk(b"fcTL", control))


@picture()
def png_no_end(random: Random) -> bytes:
    return png(40, 36)[: -random.randint(1, 40)] + bytes(random.choice([0, 10**6]))


# Pictures that Pillow writes, and then damaged


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(random: Random, mode: str = "RGB", side: int = 40) -> Image.Image:
    pixels = np.frombuffer(random.randbytes(side * side * 3), np.uint8).reshape(side, side, 3)
    return Image.fromarray(pixels).convert(mode)


FORMATS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif", "PPM": "ppm"}


def damaged(form: str, how: str) -> Callable[[Place, Random], Case]:
    def make(place: Place, random: Random) -> Case:
        options: dict[str, Any] = (
            {"compression": random.choice([None, "tiff_lzw", "tiff_adobe_deflate", "jpeg"])} if form == "TIFF" else {}
        )
        options |= {"progressive": True} if form == "JPEG" and random.random() < 0.5 else {}
        content = bytearray(saved(noise(random), form, **options))
        if how == "cut":
            del content[random.randrange(1, len(content)) :]
        elif how == "flipped":
            for _ in range(random.choice([1, 4, 40])):
                content[random.randrange(len(content) if random.random() < 0.5 else 60)] = random.randrange(256)
        elif how == "spliced":
            at, other = random.randrange(len(content)), random.randbytes(random.choice([1, 100, 10_000]))
            content[at:at] = other
        else:
            content[: random.choice([2, 4, 8])] = random.choice(
                [b"BM", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0", b"RIFF"]
            )
        path = named(place, f"bad.{FORMATS[form]}")
        path.write_bytes(content)
        return asked_of(place, random, path.name)

    return make


for form in FORMATS:
    for how in ("cut", "flipped", "spliced", "masked"):
        IMAGES.add(f"{form.lower()}_{how}", damaged(form, how))


@picture(2, "jpg")
def jpeg_scans(random: Random) -> bytes:
    """A progressive picture whose last scan comes again and again."""
    content = saved(Image.new("RGB", (random.choice([400, 2000]),) * 2), "JPEG", progressive=True)
    at = content.rindex(b"\xff\xda")
    return content[:at] + content[at:-2] * random.choice([1000, 20_000]) + b"\xff\xd9"


@picture(1, "jpg")
def jpeg_bomb(random: Random) -> bytes:
    content = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=random.random() < 0.5)
    at = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    return content[: at + 5] + struct.pack(">HH", WIDE, WIDE) + content[at + 9 :]


@picture(2, "jpg")
def jpeg_many_markers(random: Random) -> bytes:
    content = saved(noise(random), "JPEG")
    marker = random.choice([b"\xff\xfe\0\2", b"\xff\xe1\0\2", b"\xff\xed\0\2", b"\xff\xe2\0\x10ICC_PROFILE\0\1\1"])
    return content[:2] + marker * random.choice([10_000, 100_000]) + content[2:]


@picture(2, "jpg")
def jpeg_exif_bomb(random: Random) -> bytes:
    """EXIF whose directories lead to themselves, lie about their length, or claim 2^32 values."""
    many = random.choice([1, 5000])
    entry = struct.pack("<HHII", random.choice([0x8769, 0x0112, 0x8825, 0x927C]), random.choice([3, 4, 7, 2]),
                        random.choice([1, 2**32 - 1, 10**8]), random.choice([8, 0, 2**32 - 1]))  # fmt: skip
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", many) + entry * many + struct.pack("<I", 8)
    content, body = saved(noise(random), "JPEG"), b"Exif\0\0" + exif[:60_000]
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + content[2:]


@picture(2, "jpg")
def jpeg_orientation(random: Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = random.choice([0, 9, 65535, 6, 7])
    exif[0x010E] = "\x1b[31m" * 1000
    return saved(noise(random), "JPEG", exif=exif)


@picture(1, "jpg")
def jpeg_nested_previews(random: Random) -> bytes:
    """An MPO whose pictures hold MPOs."""
    content = saved(noise(random), "MPO", save_all=True, append_images=[noise(random)] * 3)
    for _ in range(random.randint(1, 6)):
        content = (
            content + content[:2] + b"\xff\xe2" + struct.pack(">H", min(len(content) + 2, 65535)) + content[:65533]
        )
    return content


@picture(1, "jpg")
def mpo_index_lies(random: Random) -> bytes:
    content = bytearray(saved(noise(random), "MPO", save_all=True, append_images=[noise(random)]))
    at = content.index(b"MPF\0")
    for _ in range(8):
        content[at + random.randrange(4, 80)] = random.choice([0, 255, random.randrange(256)])
    return bytes(content)


@picture(2, "jpg")
def jpeg_color_oddities(random: Random) -> bytes:
    content = saved(noise(random, random.choice(["CMYK", "L"])), "JPEG")
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([random.randrange(256)])
    return content[:2] + adobe + content[2:]


@picture(1, "jpg")
def icc_bomb(random: Random) -> bytes:
    profile = random.randbytes(200) + b"\0" * random.choice([0, 500_000, 8_000_000])
    return saved(noise(random), "JPEG", icc_profile=profile)


@picture(1, "png")
def xmp_bomb(random: Random) -> bytes:
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    xmp = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "boom">{entities}]><x>&a11;</x>'
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp)
    return saved(noise(random), "PNG", pnginfo=info)


@picture(2, "gif")
def gif_many_frames(random: Random) -> bytes:
    content = saved(Image.new("P", (8, 8)), "GIF")
    at = content.index(b",")
    return content[:at] + content[at:-1] * random.choice([1000, 100_000]) + b";"


@picture(2, "gif")
def gif_bomb(random: Random) -> bytes:
    content = bytearray(saved(Image.new("P", (8, 8)), "GIF"))
    content[6:10] = struct.pack("<HH", WIDE, WIDE)
    at = content.index(b",")
    if random.random() < 0.7:
        content[at + 5 : at + 9] = struct.pack("<HH", random.choice([8, WIDE]), WIDE)
    return bytes(content)


@picture(1, "gif")
def gif_comments(random: Random) -> bytes:
    content = saved(Image.new("P", (8, 8)), "GIF")
    at = content.index(b",")
    return content[:at] + (b"!\xfe" + b"\x01\x1b" * 500_000 + b"\0") + content[at:]


@picture(2, "webp")
def webp_bomb(random: Random) -> bytes:
    return saved(
        Image.new("RGB", (random.choice([10_000, 7000]), 10_000)),
        "WEBP",
        lossless=random.random() < 0.5,
        method=0,
        quality=1,
    )


@picture(1, "webp")
def webp_animated(random: Random) -> bytes:
    frames = [noise(random, side=16) for _ in range(40)]
    content = bytearray(saved(frames[0], "WEBP", save_all=True, append_images=frames))
    content[24:30] = random.randbytes(6)
    return bytes(content)


@picture(2, "bmp")
def bmp_bomb(random: Random) -> bytes:
    """Run-length encoded, or a header that claims more rows than there are, or turned upside down."""
    header = struct.pack("<IiiHHIIiiII", 40, WIDE, random.choice([WIDE, -WIDE, -(2**31)]), 1,
                         random.choice([8, 24, 32, 4, 1, 16]), random.choice([0, 1, 2, 3]), 0, 0, 0,
                         random.choice([0, 2**31, 256]), 0)  # fmt: skip
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, random.choice([54, 2**31])) + header + bytes(2000)


@picture(2, "ppm")
def ppm_oddities(random: Random) -> bytes:
    kind, most = (
        random.choice([b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"PF", b"P0"]),
        random.choice([b"255", b"0", b"65536", b"-1"]),
    )
    side = random.choice([b"10900", b"40", b"-4", b"9" * 5000, b"0"])
    return kind + b"\n# \x1b[31m\n" + side + b" " + side + b"\n" + most + b"\n" + b"1 " * 5000


@picture(2)
def mode_oddities(random: Random) -> bytes:
    mode = random.choice(["1", "LA", "PA", "I;16", "I", "LAB", "YCbCr", "CMYK", "F"])
    image = noise(random).convert("L").convert("I") if mode in ("I", "I;16") else noise(random)
    changed = {"LAB": lambda: Image.new("LAB", (40, 40), (50, 200, 200))}.get(mode, lambda: _converted(image, mode))()
    return saved(changed, "TIFF" if changed.mode not in ("1", "L", "LA", "RGBA", "I;16") else "PNG")


def _converted(image: Image.Image, mode: str) -> Image.Image:
    try:
        return image.convert("RGBA").convert(mode) if mode == "PA" else image.convert(mode)
    except ValueError:
        return image


@picture(1, "jpg")
def nothing(random: Random) -> bytes:
    return b""


@picture(2, "jpg")
def no_picture(random: Random) -> bytes:
    return random.choice([b"<html>\x1b[2J</html>", b"version https://git-lfs.github.com/spec/v1\n\x1b", random.randbytes(5000),
                          b"PK\3\4" + bytes(100), b"\0" * 10_000, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])  # fmt: skip


@picture(1, "png")
def other_formats(random: Random) -> bytes:
    """Of formats that are not tried, whatever the name says."""
    return saved(
        noise(random), random.choice(["ICO", "PCX", "SGI", "TGA", "PDF", "EPS", "DDS", "ICNS", "IM", "MSP"][:7])
    )


# What is no file


def special(make_at: Callable[[Path], None]) -> Callable[[Place, Random], Case]:
    def make(place: Place, random: Random) -> Case:
        path = named(place, random.choice(["bad.png", "bad.jpg", "bad.tif"]))
        make_at(path)
        return asked_of(place, random, path.name)

    return make


for name, make_at in SPECIAL.items():
    IMAGES.add(f"special_{name}", special(make_at))


# Names


def hard_name(odd: str) -> Callable[[Place, Random], Case]:
    def make(place: Place, random: Random) -> Case:
        path = named(place, f"{odd}.png")
        source = sorted(path.parent.glob("*.png"))[0]
        path.write_bytes(random.choice([source.read_bytes(), b"", random.randbytes(100)]))
        if random.random() < 0.4:
            path = path.parent.rename(path.parent.with_name(odd[:80])) / path.name
        if random.random() < 0.3:
            return Case([*place.predict("-"), "--format", "jsonl"], stdin=os.fsencode(path) + b"\n")
        case = asked_of(place, random, path.name)
        case.command = [str(path) if Path(word).name == path.name else word for word in case.command]
        return case

    return make


for name, odd in NAMES.items():
    IMAGES.add(f"name_{name}", hard_name(odd))
