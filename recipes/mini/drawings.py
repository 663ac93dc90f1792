"""Drawings with names: emoji in four styles, Tux Paint's stamps and Open Clip Art, put on white as 192 px squares.

They come from packages of npm and Debian, unpacked beside each other in one folder:

    emoji-datasource-google 16.0.0    Noto's emoji, 64 px (npm; Apache-2.0)
    emoji-datasource-twitter 16.0.0   Twemoji, 64 px (npm; CC BY 4.0)
    openmoji 17.0.0                   in color and as black lines, SVG, with names (npm; CC BY-SA 4.0)
    tuxpaint-stamps-default           photographs and drawings with a sentence each (Debian; GPL-2+)
    openclipart-png                   drawings with file names (Debian; public domain)

A name is kept where WordNet knows it as something that can be seen. The 320 drawings of `clipart.csv` are left out.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import resvg_py
from pictures import SIZE, Picture
from PIL import Image
from words import WordNet

__all__ = ["read_drawings"]

_GROUPS = {"animals-nature", "food-drink", "objects", "travel-places", "activities", "people-body", "smileys-emotion"}
_NO_THINGS = ("buttons", "computer/icons", "shapes", "special", "signs_and_symbols/flags", "logos", "decorations")
_MARGIN = 8  # pixels around a drawing
_LARGEST = 16_000_000  # pixels


def read_drawings(folder: Path, clipart: Path, wordnet: WordNet, work: Path) -> list[Picture]:
    """All drawings as pictures of their own; what was drawn on white is kept in `work`."""
    work.mkdir(parents=True, exist_ok=True)
    with clipart.open(encoding="utf-8", newline="") as lines:
        left_out = {Path(row["path"]).name for row in csv.DictReader(lines)}
    found = [*_emoji(folder, wordnet), *_stamps(folder, wordnet), *_clip_art(folder, wordnet, left_out)]
    squares = [work / f"{number:05d}.png" for number in range(len(found))]
    with ThreadPoolExecutor(2) as pool:
        drawn = list(pool.map(_draw, [file for file, *_ in found], squares))
    return [
        Picture(square, 0, 0, source, False, names=names, captions=captions)
        for (_, source, names, captions), square, good in zip(found, squares, drawn, strict=True)
        if good
    ]


Found = tuple[Path, str, tuple[str, ...], tuple[str, ...]]


def _emoji(folder: Path, wordnet: WordNet) -> Iterator[Found]:
    with (folder / "openmoji" / "data" / "openmoji.csv").open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["group"] in _GROUPS and not row["skintone"]]
    for row in rows:
        name = row["annotation"].partition(":")[0].strip()
        words = name.lower().split()
        names = wordnet.meaning(words) if " ".join(words) in wordnet.senses else wordnet.meaning(words[:-1])
        names = tuple(dict.fromkeys([name, *names]))
        code = row["hexcode"]
        plain = code.replace("-FE0F", "").lower()
        for file in (
            folder / "openmoji" / "color" / "svg" / f"{code}.svg",
            folder / "openmoji" / "black" / "svg" / f"{code}.svg",
            *(
                folder / f"emoji-datasource-{style}" / "img" / style / "64" / f"{form}.png"
                for style in ("google", "twitter")
                for form in dict.fromkeys([code.lower(), plain, f"{plain}-fe0f"])
            ),
        ):
            if file.exists():
                yield file, "emoji", names, ()


def _stamps(folder: Path, wordnet: WordNet) -> Iterator[Found]:
    for file in sorted((folder / "tuxpaint" / "stamps").rglob("*")):
        if file.suffix not in (".png", ".svg") or not file.with_suffix(".txt").exists():
            continue
        sentence = file.with_suffix(".txt").read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()
        told = re.sub(r"[^a-z ]", "", sentence.lower().removesuffix(".")).split()
        told = told[1:] if told[:1] in (["a"], ["an"], ["the"], ["some"]) else told
        names = wordnet.meaning(told) or wordnet.meaning(_words(file.stem))
        yield file, "stamps", names, (sentence,)


def _clip_art(folder: Path, wordnet: WordNet, left_out: set[str]) -> Iterator[Found]:
    root = folder / "openclipart" / "png"
    for file in sorted(root.rglob("*.png")):
        inside = file.relative_to(root).as_posix()
        if file.name in left_out or inside.startswith(_NO_THINGS):
            continue
        words = _words(file.stem)
        names = wordnet.meaning(words) or wordnet.meaning(words[1:])
        if names:
            yield file, "clip art", names, ()


def _words(stem: str) -> list[str]:
    return re.sub(r"[^a-z]+", " ", stem.lower()).split()


def _draw(file: Path, square: Path) -> bool:
    """Put a drawing on a white square; False where it cannot be read, is huge or has nothing on it."""
    if square.exists():
        return True
    side = SIZE - 2 * _MARGIN
    try:
        content = io.BytesIO(resvg_py.svg_to_bytes(svg_path=str(file), width=side) if file.suffix == ".svg" else b"")
        with Image.open(content if file.suffix == ".svg" else file) as image:
            if image.width * image.height > _LARGEST:
                return False
            drawn = image.convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
    box = drawn.getchannel("A").getbbox()
    if box is None:
        return False
    drawn = drawn.crop(box)
    share = side / max(drawn.size)
    width, height = (max(1, round(length * share)) for length in drawn.size)
    drawn = drawn.resize((width, height), Image.Resampling.BICUBIC)
    white = Image.new("RGB", (SIZE, SIZE), "white")
    white.paste(drawn, ((SIZE - width) // 2, (SIZE - height) // 2), drawn)
    white.save(square)
    return True
