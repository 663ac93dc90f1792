"""Boxes of a file of annotations or detections, and how the file is written again with other labels.

    found = read_boxes(Path("detections.json"))                      # reading.py
    for number, picture, why in crops(found, padding=0.1): ...       # why: there is nothing to see
    found.write(Path("relabelled.json"), Labels(names, chosen, scores))

A file may list a million boxes. They are held as numbers, 44 bytes each, and a module of this folder keeps no more of
them than where they stand in its file: about 100 bytes a box beside the text.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shotfit.data.formats.annotated import Annotated, Box, crops_in
from shotfit.data.images import BrokenImageError, shown, stored_size
from shotfit.data.pictures import Picture
from shotfit.data.tasks import plain_name
from shotfit.errors import ShotfitError

__all__ = ["MOST_BOXES", "BoxList", "Detections", "Labels", "Written", "crops", "numbered"]

MOST_BOXES = 5_000_000
DIGITS = 6  # of a score


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of boxes: names [classes], chosen [boxes] (-1: the box stays as it is) and scores [boxes]."""

    names: tuple[str, ...]
    chosen: NDArray[Any]
    scores: NDArray[Any]

    def of(self, box: int) -> tuple[str, str] | None:
        """The name and the score, as digits, of a box; None where it stays as it is."""
        place = int(self.chosen[box])
        return None if place < 0 else (self.names[place], f"{round(float(self.scores[box]), DIGITS)!r}")


@dataclass(eq=False)
class BoxList:
    """Boxes as they are read: the number of the picture of each, and left, top, right and bottom.

    Raises ShotfitError beyond MOST_BOXES.
    """

    where: str
    of: array[int] = field(default_factory=lambda: array("i"))
    sides: array[float] = field(default_factory=lambda: array("d"))

    def add(self, picture: int, box: Box) -> None:
        if len(self.of) == MOST_BOXES:
            raise ShotfitError(f"{self.where} has more than {MOST_BOXES:,} boxes; split it.")
        self.of.append(picture)
        self.sides.extend((box.left, box.top, box.right, box.bottom))

    def __len__(self) -> int:
        return len(self.of)


@dataclass(frozen=True, eq=False)
class Written(Mapping[str, bytes]):
    """Files of a folder by name, each made when it is written."""

    makers: Mapping[str, Callable[[], bytes]]

    def __getitem__(self, name: str) -> bytes:
        return self.makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes by number, and the file that they are of.

    reader: what it was read as. pictures, sizes: width and height as the file states them. relative: sides are shares
    of the picture's. folder: it is written as a folder. write: to a file or folder, with labels. notes: what the user
    should know, a sentence each.
    """

    reader: str
    boxes: BoxList
    pictures: Sequence[Picture]
    sizes: Sequence[tuple[float, float] | None]
    write: Callable[[Path, Labels], None]
    relative: bool = False
    folder: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes)


def crops(found: Detections, padding: float = 0.0) -> Iterator[tuple[int, Picture, str]]:
    """Each box with its number, picture by picture: what it shows, and "".

    Where it shows nothing, its picture, and why in a sentence.
    """
    of = np.frombuffer(found.boxes.of, dtype=np.int32) if len(found) else np.zeros(0, dtype=np.int32)
    order = np.argsort(of, kind="stable")  # pictures as the file lists them, their boxes one after the other
    for group in np.split(order, np.flatnonzero(np.diff(of[order])) + 1):
        if len(group):
            yield from _of_picture(found, int(of[group[0]]), group.tolist(), padding)


def _of_picture(
    found: Detections, place: int, numbers: list[int], padding: float
) -> Iterator[tuple[int, Picture, str]]:
    picture, sides = found.pictures[place], found.boxes.sides
    boxes = [Box("", *sides[4 * number : 4 * number + 4]) for number in numbers]
    image = Annotated(picture, boxes=boxes, size=found.sizes[place], relative=found.relative)
    try:
        cut = crops_in(image, stored_size(picture), padding)
    except BrokenImageError as error:
        yield from ((number, picture, str(error)) for number in numbers)
        return
    if isinstance(cut, str):
        size = f"{shown(picture)} is of another size than {found.boxes.where} states ({cut})"
        said = f"{size}. Name the pictures that it was made for."
        yield from ((number, picture, said) for number in numbers)
        return
    for number, box, crop in zip(numbers, boxes, cut, strict=True):
        if crop is None:
            where = ", ".join(f"{side:g}" for side in (box.left, box.top, box.right, box.bottom))
            said = f"{shown(picture)} has nothing in the box {where} (left, top, right, bottom). Remove the box."
            yield number, picture, said
        else:
            yield number, picture.of_crop(crop), ""


def numbered(known: dict[int, str], names: Sequence[str]) -> tuple[dict[str, int], dict[int, str]]:
    """The number of each name, and the names that were not known before with numbers behind all others.

    Names are compared as class names are (`plain_name`).

    >>> numbered({0: "Red_fox", 4: "cat"}, ("cat", "dog", "red fox"))
    ({'cat': 4, 'dog': 5, 'red fox': 0}, {5: 'dog'})
    """
    places: dict[str, int] = {}
    for number, name in known.items():
        places.setdefault(plain_name(name), number)
    free = max((*known, -1)) + 1
    more = {free + place: name for place, name in enumerate(name for name in names if plain_name(name) not in places)}
    return {name: places.get(plain_name(name), -1) for name in names} | {name: at for at, name in more.items()}, more
