"""COCO: an object of images and annotations, with categories or without, or a list of results.

    {"images": [{"id": 1, "file_name": "street.jpg"}], "annotations": [{"image_id": 1, "bbox": [40, 30, 200, 180]}]}
    [{"image_id": 1, "bbox": [40, 30, 200, 180], "score": 0.9}]

An annotation gets its category_id and its score; classes that the file has no category of become new ones. A list of
results has no categories. Its images, and the numbers of its categories, are those of the COCO file that is named with
it; or its images are in a folder, called by their id as COCO's are, and its categories are numbered from 1 in the order
of the model's classes, with their name as `category_name`. Crowds stay as they are.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping
from heapq import merge
from pathlib import Path
from typing import Any

from shotfit.data.detections.boxes import BoxList, Detections, Labels, numbered
from shotfit.data.detections.spliced import Edit, Json, pieces, write_pieces
from shotfit.data.formats.annotated import Files, box_of, entry, label_of, left_out, number_of, only_file
from shotfit.data.formats.coco import COCO_BYTES, WHAT, folders_of, id_of
from shotfit.data.formats.documents import mentions
from shotfit.data.images import SUFFIXES, shown
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, first_few
from shotfit.files import read_text

__all__ = ["read", "recognizes"]

_LONGEST = 18  # digits of a number

_Id = int | str


def recognizes(source: Path) -> bool:
    """A JSON file of images and annotations, or of results; a folder with one such file."""
    if source.is_dir():
        return bool(_files(source))
    return source.suffix.lower() == ".json" and (
        mentions(source, "{", "images", "annotations") or mentions(source, "[", "image_id", "bbox")
    )


def read(source: Path, images: Path | None) -> Detections:
    """The boxes of a file. images: the folder of its pictures; for results also the COCO file that lists them.

    Raises ShotfitError: no such JSON, an entry that is malformed or refers to nothing, more boxes than are read.
    """
    path = only_file(source, _files(source), "COCO files") if source.is_dir() else source
    if not mentions(path, "["):
        return _File(path, images).detections()
    return _results(path, Json(read_text(path, COCO_BYTES, f"a file of {WHAT}"), shown(path), WHAT), images)


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.glob("*.json")) if recognizes(path)]
    except OSError:
        return []


class _Images:
    """The images of a COCO file by id, in its order."""

    def __init__(self, path: Path, images: Path | None) -> None:
        self.path, self.files = path, Files(folders_of(path, images))
        self.places: dict[_Id, int] = {}
        self.pictures: list[Picture] = []
        self.sizes: list[tuple[float, float] | None] = []

    def add(self, number: int, found: dict[str, Any]) -> None:
        where = f"{shown(self.path)}, image {entry(found.get('id', number), 40)}"
        key = id_of(found.get("id"), where)
        if key in self.places:
            raise ShotfitError(f"{where}: another image has this id; expected one for each.")
        self.places[key] = len(self.pictures)
        self.pictures.append(self.files.picture(found.get("file_name"), where))
        width, height = (number_of(found.get(side) or 0, where, side) for side in ("width", "height"))
        self.sizes.append((width, height) if min(width, height) > 0 else None)


class _Boxes:
    """The boxes of a list in a text, and where each stands. places: of the images by id; others get the next one."""

    def __init__(self, document: Json, places: dict[_Id, int]) -> None:
        self.document, self.places = document, places
        self.boxes, self.spans, self.crowds = BoxList(document.where), array("q"), 0

    def read(self, at: int, what: str) -> None:
        for number, (start, end, found) in enumerate(self.document.objects(at, what)):
            where = f"{self.document.where}, annotation {entry(found.get('id', number), 40)}"
            image = id_of(found.get("image_id"), where)
            if found.get("iscrowd"):
                self.crowds += 1
            elif found.get("bbox"):
                self.boxes.add(self.places.setdefault(image, len(self.places)), box_of("", found["bbox"], where))
                self.spans.extend((start, end))

    def edits(self, labels: Labels, ids: Mapping[str, int], named: bool = False) -> Iterator[Edit]:
        """What gives the boxes their labels. named: the name of a category too."""
        for box in range(len(self.boxes)):
            told = labels.of(box)
            if told is not None:
                name, score = told
                values = {"category_id": str(ids[name]), "score": score}
                values |= {"category_name": json.dumps(name)} if named else {}
                yield from self.document.put(self.spans[2 * box], self.spans[2 * box + 1], values)

    def notes(self) -> tuple[str, ...]:
        return tuple(left_out(self.crowds, "box", "of a crowd (iscrowd)"))


class _File:
    """A COCO file: images, boxes, names of categories by id, and where the list of these ends (None: there is none)."""

    def __init__(self, path: Path, images: Path | None, with_boxes: bool = True) -> None:
        self.document = document = Json(read_text(path, COCO_BYTES, f"a file of {WHAT}"), shown(path), WHAT)
        self.images, self.boxes = _Images(path, images), _Boxes(document, {})
        self.names, self.behind = dict[int, str](), None
        seen = list[str]()
        for key, at in document.members(document.start()):
            if key == "images":
                for number, (_, _, found) in enumerate(document.objects(at, key)):
                    self.images.add(number, found)
            elif key == "annotations" and with_boxes:
                self.boxes.read(at, key)
            elif key == "categories":
                for number, (_, _, found) in enumerate(document.objects(at, key)):
                    where = f"{document.where}, category {number}"
                    self.names[_number(found.get("id"), where)] = label_of(found.get("name"), where)
                self.behind = document.end - 1
            if key in seen and key in ("images", "annotations", "categories"):
                raise ShotfitError(f"{document.where} has {key} twice; expected it once.")
            seen.append(key)
        document.check_end()
        if "images" not in seen or (with_boxes and "annotations" not in seen):
            raise ShotfitError(f"{document.where} is no COCO file; expected an object with images and annotations.")

    def detections(self) -> Detections:
        _place(self.boxes, self.images)
        reader = f"COCO file {self.images.path.name}"
        pictures, sizes = self.images.pictures, self.images.sizes
        return Detections(reader, self.boxes.boxes, pictures, sizes, self.write, notes=self.boxes.notes())

    def write(self, out: Path, labels: Labels) -> None:
        ids, more = numbered(self.names, labels.names)
        added = ", ".join(json.dumps({"id": number, "name": name}) for number, name in more.items())
        begin, edits = self.document.start() + 1, list[Edit]()
        if more and self.behind is None:
            edits.append(Edit(begin, begin, f'"categories": [{added}], '))
        elif more and self.behind is not None:
            edits.append(Edit(self.behind, self.behind, f"{', ' if self.names else ''}{added}"))
        write_pieces(out, pieces(self.document.text, merge(edits, self.boxes.edits(labels, ids))))


def _place(boxes: _Boxes, images: _Images) -> None:
    """Number the pictures of boxes as the images are. Raises ShotfitError for a box without an image."""
    for key in boxes.places:
        if key not in images.places:
            raise ShotfitError(
                f"{boxes.document.where} annotates the image {entry(key, 40)}, which is not among the images of "
                f"{shown(images.path)}."
            )
    numbers, of = [images.places[key] for key in boxes.places], boxes.boxes.of
    for box, number in enumerate(of):
        of[box] = numbers[number]


def _results(path: Path, document: Json, images: Path | None) -> Detections:
    found = _Boxes(document, {})
    found.read(document.start(), "the list")
    document.check_end()
    names: dict[int, str] | None = None
    if images is not None and not images.is_dir():
        listed = _File(images, None, with_boxes=False)
        _place(found, listed.images)
        pictures, sizes, names = listed.images.pictures, listed.images.sizes, listed.names or None
    else:
        pictures = list(_by_id(found, images or path.parent))
        sizes = [None] * len(pictures)

    def write(out: Path, labels: Labels) -> None:
        ids = {name: number for number, name in enumerate(labels.names, start=1)}
        ids, more = (ids, {}) if names is None else numbered(names, labels.names)
        if more:
            raise ShotfitError(
                f"{shown(images or path)} has no category for {first_few([*more.values()])}, and a list of results has "
                "no place for new ones: add them there, or relabel the COCO file itself."
            )
        write_pieces(out, pieces(document.text, found.edits(labels, ids, named=names is None)))

    return Detections(f"COCO results {path.name}", found.boxes, pictures, sizes, write, notes=found.notes())


def _by_id(boxes: _Boxes, folder: Path) -> Iterator[Picture]:
    """The picture of each image: one that is called by its id, a number with or without zeros in front of it."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ShotfitError(f"the folder {shown(folder)} cannot be read: {error.strerror}.") from error
    stems = ((Path(name), Path(name).stem) for name in names)
    by_number = {
        int(stem): path
        for path, stem in stems
        if path.suffix.lower() in SUFFIXES and stem.isascii() and stem.isdecimal() and len(stem) < _LONGEST
    }
    files = Files([folder])
    for key in boxes.places:
        if isinstance(key, str):
            yield files.picture(key, boxes.document.where)
        elif key in by_number:
            yield Picture(folder / by_number[key])
        else:
            raise ShotfitError(
                f"{boxes.document.where} has boxes of the image {key}, and {shown(folder)} has no picture of that "
                "number; name their folder, or the COCO file that lists them (--images)."
            )


def _number(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ShotfitError(f"{where}: the id is {entry(value)}; expected a whole number.")
    return value
