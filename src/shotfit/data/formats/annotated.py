"""What annotation tools have in common: pictures with labels of their own, or with boxes that have labels.

    car = box_of("car", (40, 30, 200, 180), "street.json, annotation 7")
    listed_annotated([Annotated(picture, boxes=[car], size=(640, 480))], "COCO file street.json", source)

Where any picture has a label of its own, pictures are the images of a task; else each box is one, cut out of its
picture (`Crop`). Boxes of one picture are a group: they never lie in two parts. A box begins at the pixel that its left
and top lie in and ends with the one that its right and bottom lie in. With `padding` it is larger: by that share of its
width on the left and on the right, by that share of its height above and below, as far as the picture reaches.

Tools show a picture as EXIF turns it, and mean boxes so; a file that states the size of the stored pixels means these.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from shotfit.data.filecache import in_threads
from shotfit.data.formats.lines import Places, is_path
from shotfit.data.images import BrokenImageError, shown, stored_size, unturned
from shotfit.data.listing import Listing, Part, Row, listed
from shotfit.data.pictures import Crop, Picture
from shotfit.errors import ShotfitError, first_few

__all__ = [
    "Annotated",
    "Box",
    "Files",
    "box_of",
    "crops_in",
    "entry",
    "label_of",
    "left_out",
    "listed_annotated",
    "number_of",
    "objects",
    "of_corners",
    "only_file",
    "stored_or_none",
]

LARGEST = 1e9  # pixels
_SLACK = 1e-3  # pixels: what percentages and shares lose in their digits

_REMOTE = re.compile(r"(?:[a-zA-Z][a-zA-Z0-9+.-]+://|data:)")


@dataclass(frozen=True)
class Box:
    """A label, and the left, top, right and bottom side: in pixels, or in shares of the picture's sides."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Annotated:
    """A picture as a tool lists it.

    labels: of the whole picture; several different ones mean that it has no class. boxes: labels of parts of it. size:
    its width and height as the source states them. relative: its boxes are shares of its sides.
    """

    picture: Picture
    part: Part = "train"
    labels: Sequence[str] = ()
    boxes: Sequence[Box] = ()
    size: tuple[float, float] | None = None
    relative: bool = False


def entry(value: object, most: int = 80) -> str:
    """An entry of a file, for a message."""
    try:
        return json.dumps(value)[:most]
    except (TypeError, ValueError, RecursionError):
        return ascii(value)[:most]


def number_of(value: object, where: str, what: str) -> float:
    """A finite number below LARGEST, also as text. Raises ShotfitError, which `where` begins."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST:
        raise ShotfitError(f"{where}: the {what} is {entry(value)}; expected a number of pixels.")
    return number


def box_of(label: str, box: object, where: str, scale: tuple[float, float] = (1, 1)) -> Box:
    """A box from its left, top, width and height. Raises ShotfitError for anything but four sensible numbers."""
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        raise ShotfitError(f"{where}: the box is {entry(box)}; expected left, top, width and height.")
    left, top, width, height = (number_of(value, where, "box") for value in box)
    return of_corners(label, (left, top, left + width, top + height), where, scale)


def of_corners(label: str, corners: Sequence[object], where: str, scale: tuple[float, float] = (1, 1)) -> Box:
    """A box from its left, top, right and bottom. Raises ShotfitError, as `box_of` does."""
    left, top, right, bottom = (number_of(value, where, "box") for value in corners)
    if right < left or bottom < top:
        raise ShotfitError(
            f"{where}: the box from {left:g}, {top:g} to {right:g}, {bottom:g} has a negative width or height."
        )
    across, down = scale
    return Box(label, left * across, top * down, right * across, bottom * down)


def label_of(value: object, where: str) -> str:
    """The name of a class. Raises ShotfitError for what is no text or number."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise ShotfitError(f"{where}: the label is {entry(value)}; expected a name.")
    return str(value).strip()


@dataclass
class Files:
    """From a name in a file of annotations to its picture in one of some folders.

    Where there is no such file, the name is tried without its first folders: tools write paths from roots of their own.
    """

    folders: Sequence[Path]
    _places: list[Places] = field(init=False)

    def __post_init__(self) -> None:
        self._places = [Places(folder) for folder in dict.fromkeys(self.folders)]

    def picture(self, name: object, where: str) -> Picture:
        """The picture; one that does not exist where there is none. Raises ShotfitError for what is no path."""
        if not isinstance(name, str) or not name.strip() or not is_path(name):
            raise ShotfitError(f"{where}: the name of the picture is {entry(name)}; expected a path.")
        if _REMOTE.match(name):
            raise ShotfitError(
                f"{where}: the picture is {entry(name)}, which is no path; nothing is fetched from elsewhere: save the "
                "pictures in a folder, and name them or the folder (--images DIR)."
            )
        first = self._places[0].picture(name)
        for tail in _tails(name):
            for number, places in enumerate(self._places):
                found = places.picture(tail)
                if found.exists():
                    self._places.insert(0, self._places.pop(number))  # where the next ones lie too
                    return found
        return first


def _tails(name: str) -> Iterable[str]:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    yield name
    for start in range(1, min(len(parts), 16)):
        yield "/".join(parts[start:])


def listed_annotated(
    images: Sequence[Annotated],
    reader: str,
    source: Path,
    test_origin: str = "",
    classes: Iterable[str] = (),
    notes: Iterable[str] = (),
    padding: float | None = None,
) -> Listing:
    """The listing of annotated pictures, or of their boxes.

    classes: in label order, where the source has an order; those that no image has are left out and named. padding: of
    boxes, as above; None is none.

    Raises ShotfitError where nothing has a label.
    """
    notes = [*notes]
    whole = any(image.labels for image in images)
    rows = _whole(images, notes) if whole else _boxes(images, notes, padding or 0.0)
    if not rows:
        told = "".join(f"; {note}" for note in notes)
        raise ShotfitError(f"{shown(source)} has no picture or box with a label ({len(images):,} pictures{told}).")
    used, known = {row.label for row in rows}, list(dict.fromkeys(classes))
    if unused := [name for name in known if name not in used]:
        notes.append(f"left out: {len(unused):,} of {len(known):,} classes, without an image ({first_few(unused, 5)})")
    listing = listed(
        rows,
        reader if whole else f"{reader}, each box an image",
        test_origin,
        classes=[name for name in known if name in used],
        notes=notes,
    )
    return replace(listing, padding=None if whole else padding or 0.0)


def only_file(source: Path, files: Sequence[Path], what: str) -> Path:
    """The file that is meant in a folder. Raises ShotfitError for none or several."""
    if not files:
        raise ShotfitError(f"{shown(source)} holds no {what}; name the file, or the folder that it lies in.")
    if len(files) > 1:
        raise ShotfitError(
            f"{shown(source)} holds {len(files)} {what} ({first_few([path.name for path in files])}); name one."
        )
    return files[0]


def _whole(images: Sequence[Annotated], notes: list[str]) -> list[Row]:
    rows, without, several, boxes = [], 0, 0, 0
    for image in images:
        labels = set(image.labels)
        boxes += len(image.boxes)
        if len(labels) == 1:
            rows.append(Row(image.picture, labels.pop(), image.part))
        elif labels:
            several += 1
        else:
            without += 1
    notes += left_out(without, "picture", "without a label")
    notes += left_out(several, "picture", "with several labels (an image has one class here)")
    notes += left_out(boxes, "box", "(pictures have labels of their own)")
    return rows


def _boxes(images: Sequence[Annotated], notes: list[str], padding: float) -> list[Row]:
    rows: list[Row] = []
    counts: Counter[str] = Counter()
    example = ""
    boxed = [image for image in images if image.boxes]
    for image, stored in zip(boxed, in_threads(stored_or_none, [image.picture for image in boxed]), strict=True):
        picture = image.picture
        if stored is None:  # the doctor says what is wrong with it
            rows.append(Row(picture, image.boxes[0].label, image.part))
            continue
        crops = crops_in(image, stored, padding)
        if isinstance(crops, str):
            counts["size"] += 1
            example = example or f"{shown(picture)}, {crops}"
            continue
        for box, crop in zip(image.boxes, crops, strict=True):
            if crop is None:
                counts["outside"] += 1
            else:
                rows.append(Row(picture.of_crop(crop), box.label, image.part, group=str(picture)))
    notes += left_out(len(images) - len(boxed), "picture", "without a box")
    notes += left_out(counts["outside"], "box", "with nothing of the picture in it")
    notes += left_out(counts["size"], "picture", f"of another size than the source states ({example})")
    return rows


def crops_in(image: Annotated, stored: tuple[int, int, int], padding: float = 0.0) -> list[Crop | None] | str:
    """The boxes in stored pixels, None for one with nothing of the picture in it.

    stored: width, height and orientation as they lie in the file. A text says in which way the picture's size is not
    the one that the source states.
    """
    *whole, orientation = stored
    width, height = whole if orientation < 5 else reversed(whole)
    if not image.relative and image.size is not None:
        stated = tuple(round(side) for side in image.size)
        if stated == tuple(whole) != (width, height):
            width, height, orientation = *whole, 1
        elif stated != (width, height):
            return f"{width} x {height} in place of {stated[0]} x {stated[1]}"
    across, down = (width, height) if image.relative else (1, 1)
    crops: list[Crop | None] = []
    for box in image.boxes:
        sides = (box.left * across, box.top * down, box.right * across, box.bottom * down)
        crop = _crop(unturned(sides, width, height, orientation), *whole)
        if crop is not None and padding:
            more, above = padding * (sides[2] - sides[0]), padding * (sides[3] - sides[1])
            sides = (sides[0] - more, sides[1] - above, sides[2] + more, sides[3] + above)
            crop = _crop(unturned(sides, width, height, orientation), *whole)
        crops.append(crop)
    return crops


def left_out(count: int, word: str, said: str) -> list[str]:
    """The note of what was left out; none of nothing.

    >>> left_out(2, "box", "of a crowd"), left_out(0, "box", "of a crowd")
    (['left out: 2 boxes of a crowd'], [])
    """
    words = word if count == 1 else f"{word}es" if word.endswith("x") else f"{word}s"
    return [f"left out: {count:,} {words} {said}"] * bool(count)


def stored_or_none(picture: Picture) -> tuple[int, int, int] | None:
    """Width, height and orientation as the picture lies in its file; None where it cannot be read."""
    try:
        return stored_size(picture)
    except BrokenImageError:
        return None


def _crop(sides: tuple[float, ...], width: int, height: int) -> Crop | None:
    left, top = (max(0, math.floor(side + _SLACK)) for side in sides[:2])
    right, bottom = min(width, math.ceil(sides[2] - _SLACK)), min(height, math.ceil(sides[3] - _SLACK))
    return Crop(left, top, right - left, bottom - top) if right > left and bottom > top else None


def objects(value: Any, where: str, what: str) -> list[dict[str, Any]]:
    """A list of objects. Raises ShotfitError for anything else; None is an empty list."""
    found = [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ShotfitError(f"{where}: {what} is {entry(value)}; expected a list of objects.")
    return found
