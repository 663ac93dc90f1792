"""The training pictures: tiles cut out of their sheets, three views of each, and the frozen stem's grids of all views.

Views: as it is; a random crop, mirrored half the time; and a drawn one (gray, cartoon, painting or line drawing), whose
label stays that of the photograph, so that the blocks learn to read drawings as what they show.
"""

from __future__ import annotations

import csv
import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from precision import autocast
from teachers import MEAN, STD
from torch import Tensor
from words import WordNet

from shotfit.towers.efficientnet import EARLY, EfficientNetLite1

__all__ = ["VIEWS", "Picture", "read_class_names", "read_pictures", "store_grids"]

VIEWS = 3
NARROW = 320 + EARLY  # channels that the stem keeps of a place: what its head reads, and what comes before it
SIZE = 192


@dataclass(frozen=True)
class Picture:
    """One tile of a sheet, or a whole file (side 0).

    `wnid` for labelled photographs, `names` of what it shows (its own or what its captions say, synonyms, what is
    above), `captions`.
    """

    sheet: Path
    tile: int
    side: int
    source: str
    validation: bool
    wnid: str = ""
    names: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()

    @property
    def photograph(self) -> bool:
        """Whether a camera saw it."""
        return self.source in ("tiny_imagenet", "samples", "flickr8k")

    def open(self) -> Image.Image:
        """The tile as RGB."""
        if not self.side:
            with Image.open(self.sheet) as whole:
                return whole.convert("RGB")
        left, top = self.side * (self.tile % 10), self.side * (self.tile // 10)
        return _sheet(self.sheet).crop((left, top, left + self.side, top + self.side))


@lru_cache(maxsize=4)
def _sheet(path: Path) -> Image.Image:
    with Image.open(path) as sheet:
        return sheet.convert("RGB")


def read_class_names(data: Path) -> dict[str, str]:
    """ImageNet's 1,000 classes in the order of Lite1's outputs: WordNet number to name."""
    with (data / "imagenet1k.csv").open(encoding="utf-8", newline="") as lines:
        return {row["wnid"]: row["name"] for row in csv.DictReader(lines)}


def read_pictures(folder: Path, wordnet: WordNet) -> list[Picture]:
    """All pictures of the unpacked `train_images.tar`, validation parts marked."""

    def names(row: dict[str, str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys([row["classname"], *wordnet.names(row["wnid"])]))

    pictures = []
    with (folder / "tiny_imagenet.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            pictures += [
                Picture(folder / row["sheet"], tile, 64, "tiny_imagenet", tile >= 45, row["wnid"], names(row))
                for tile in range(50)
            ]
    with (folder / "imagenet_samples.csv").open(encoding="utf-8", newline="") as lines:
        pictures += [
            Picture(folder / row["sheet"], int(row["tile"]), 96, "samples", False, row["wnid"], names(row))
            for row in csv.DictReader(lines)
        ]
    with (folder / "flickr8k.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            sheet, validation, captions = folder / row["sheet"], row["split"] == "val", tuple(row["captions"])
            said = wordnet.said(captions)
            pictures.append(Picture(sheet, row["tile"], 96, "flickr8k", validation, names=said, captions=captions))
    return pictures


def make_view(image: Image.Image, view: int, chance: random.Random) -> Image.Image:
    """One of the views of a tile at 192 px."""
    if view > 0:
        share = chance.uniform(0.65, 1.0)
        side = round(image.width * share)
        left, top = chance.randint(0, image.width - side), chance.randint(0, image.height - side)
        image = image.crop((left, top, left + side, top + side))
        image = ImageOps.mirror(image) if chance.random() < 0.5 else image
    image = image if view < 2 else draw(image, chance)
    return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def draw(image: Image.Image, chance: random.Random) -> Image.Image:
    """The picture in one of four manners of drawing."""
    manner = chance.choice(("gray", "cartoon", "painting", "lines", "lines"))
    if manner == "gray":
        return ImageOps.autocontrast(ImageOps.grayscale(image)).convert("RGB")
    if manner == "cartoon":
        flat = ImageOps.posterize(image.filter(ImageFilter.MedianFilter(chance.choice((3, 5)))), chance.choice((2, 3)))
        return ImageEnhance.Color(flat).enhance(chance.uniform(1.2, 2.5))
    if manner == "painting":
        flat = image.filter(ImageFilter.ModeFilter(chance.choice((3, 5))))
        return ImageEnhance.Color(flat).enhance(chance.uniform(0.6, 1.8))
    soft = ImageOps.grayscale(image).filter(ImageFilter.GaussianBlur(chance.uniform(0.5, 1.3)))
    pixels = np.asarray(soft, dtype=np.float32)
    down, right = np.gradient(pixels)
    slope = np.hypot(down, right)
    strokes = np.clip((slope - np.quantile(slope, chance.uniform(0.75, 0.9))) / 3.0, 0.0, 1.0)
    return Image.fromarray((255 * (1 - strokes)).astype(np.uint8)).convert("RGB")


def to_pixels(image: Image.Image) -> Tensor:
    """Normalized pixels [3, 192, 192]."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (pixels - mean) / std


def store_grids(
    pictures: list[Picture], network: EfficientNetLite1, file: Path, seed: int, batch: int = 64
) -> NDArray[np.float16]:
    """The stem's maps of all views before its head, [pictures, views, 36, 512] in half precision, in `file`.

    A run that was cut off goes on where it stopped: `file` is beside a note of how many pictures are done.
    """
    note = file.with_suffix(".done")
    done = int(note.read_text()) if file.exists() and note.exists() else 0
    shape = (len(pictures), VIEWS, (SIZE // 32) ** 2, NARROW)
    grids = np.lib.format.open_memmap(file, mode="r+" if done else "w+", dtype=np.float16, shape=shape)

    @torch.inference_mode()
    def write(start: int) -> int:
        part = pictures[start : start + batch]
        tiles = [picture.open() for picture in part]
        for view in range(VIEWS):
            chances = [random.Random(f"{seed}/{start + index}/{view}") for index in range(len(part))]
            pixels = torch.stack(
                [to_pixels(make_view(*pair)) for pair in zip(tiles, repeat(view), chances, strict=False)]
            )
            with autocast():
                maps = torch.cat([network.narrow(few) for few in pixels.split(4)])
            grids[start : start + len(part), view] = maps.flatten(2).transpose(1, 2).to(torch.float16).numpy()
        return start + len(part)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each worker runs pictures and network of its own batch
    with ThreadPoolExecutor(threads) as pool:
        for ready in pool.map(write, range(done, len(pictures), batch)):
            if (ready // batch) % 20 == 0 or ready == len(pictures):
                grids.flush()
                note.write_text(str(ready))
                print(f"stem: {ready} of {len(pictures)} pictures", flush=True)
    torch.set_num_threads(threads)
    return grids
