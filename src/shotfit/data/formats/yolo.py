"""YOLO: a text file of boxes for each picture, and a data.yaml with names and parts, or a list of names alone.

    data.yaml                       names: [cat, dog] or {0: cat, 1: dog}; train: images/train, val: ..., test: ...
    images/train/1.jpg              parts are folders, lists of folders, or text files with a picture a line
    labels/train/1.txt              class, center x, center y, width, height, in shares of the sides, a box a line

    classes.txt, images/1.jpg, labels/1.txt     # labelImg, Label Studio; obj.names of Darknet and CVAT
    train/images/1.jpg, train/labels/1.txt      # parts are folders; where no file has names, numbers are the classes

Boxes are images of their own; of a polygon or a turned box the box around it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shotfit.data.formats.annotated import (
    Annotated,
    Box,
    Files,
    entry,
    label_of,
    listed_annotated,
    number_of,
    of_corners,
    only_file,
)
from shotfit.data.formats.documents import YAML_BYTES, read_yaml
from shotfit.data.formats.lines import is_path
from shotfit.data.images import SUFFIXES, shown
from shotfit.data.listing import How, Listing, Part, parts_named
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError
from shotfit.files import LIST_BYTES, SETTINGS_BYTES, UnreadableError, read_text

__all__ = [
    "BOX_LINE",
    "WHAT",
    "is_yaml",
    "labels_of",
    "listed_pictures",
    "names_of",
    "read",
    "recognizes",
    "sides_of",
    "yaml_of",
]

WHAT = "YOLO's data sets"
_SUFFIXES = (".yaml", ".yml")
_PARTS: dict[str, Part] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAMES = ("classes.txt", "obj.names")
_LOOKED_AT = 50  # pictures of a folder, some of which may have no box
BOX_LINE = re.compile(r"\s*\d{1,9}(?:\s+[-+.\deE]+){4,}\s*")
"""A line of a file of labels."""
_STRANGE, _BESIDE = 10_000, 4  # entries below a part that are neither pictures nor labels: in all, and for each picture
_OTHER_PLACES = 8  # how often `..` is left out where nothing lies


def recognizes(source: Path) -> bool:
    """A YAML file with names and parts, or a folder with one, or with pictures that have files of boxes."""
    return is_yaml(source) or (source.is_dir() and bool(_homes(source)))


def is_yaml(source: Path) -> bool:
    """Whether it is, or is a folder with, a YAML file of YOLO."""
    if source.is_dir():
        return bool(_files(source))
    return source.suffix.lower() in _SUFFIXES and _is_yolo(source)


def read(source: Path, how: How) -> Listing:
    """The boxes of the pictures of each part.

    Raises:
        ShotfitError: no such YAML, a part that is not there, a line that is no box, a class without a name.
    """
    how.check_columns(source, "YOLO's data sets")
    if not is_yaml(source) and source.is_dir() and (homes := _homes(source)):
        return _without_yaml(source, homes, how)
    path = yaml_of(source)
    settings = read_yaml(path, WHAT)
    names = names_of(path, settings)
    keypoints = settings.get("kpt_shape") is not None
    images = {
        picture: Annotated(picture, part, (), list(_boxes(picture, names, keypoints)), relative=True)
        for picture, part in listed_pictures(path, settings, how.images).items()
    }
    return listed_annotated(
        list(images.values()),
        f"YOLO data set {path.name}",
        source,
        f"the test part of {path.name}",
        names.values(),
        padding=how.padding,
    )


def _without_yaml(source: Path, homes: dict[Path, Part], how: How) -> Listing:
    """The boxes of the pictures in folders. Raises ShotfitError, as `read` does."""
    lists = [home / name for home in (source, source / "labels", *homes) for name in _NAMES]
    named = next((path for path in lists if path.is_file()), None)
    lines = [] if named is None else read_text(named, SETTINGS_BYTES, "a list of classes").rstrip().split("\n")
    names = {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    images = [
        Annotated(picture, part, (), list(_boxes(picture, names or None, keypoints=False)), relative=True)
        for home, part in homes.items()
        for picture in _pictures(home, shown(home))
    ]
    classes = names.values() or sorted({box.label for image in images for box in image.boxes}, key=int)
    notes = [] if names else ["no classes.txt names the classes: they are called by their numbers"]
    reader = "YOLO files of labels" if named is None else f"YOLO data set by {named.name}"
    return listed_annotated(images, reader, source, "the images of the test folder", classes, notes, how.padding)


def _homes(source: Path) -> dict[Path, Part]:
    """The folders of pictures that have files of boxes, each with its part."""
    for top in (source, source / "images"):
        try:
            folders = {path.name: path for path in sorted(top.iterdir()) if path.is_dir()}
        except OSError:
            continue
        found: dict[Path, Part] = {}
        for name, part in parts_named(folders).items():
            home = next((home for home in (folders[name] / "images", folders[name]) if _has_boxes(home)), None)
            found |= {} if home is None else {home: part}
        if found:
            return found
    return next(({home: "train"} for home in (source / "images", source) if _has_boxes(home)), {})


def _has_boxes(home: Path) -> bool:
    """Whether the first pictures of a folder have a file with a box."""
    try:
        pictures = [name for name in sorted(os.listdir(home)) if Path(name).suffix.lower() in SUFFIXES]
        for name in pictures[:_LOOKED_AT]:
            path = labels_of(home / name)
            if path.is_file() and (text := read_text(path, SETTINGS_BYTES, "a file of labels").strip()):
                return BOX_LINE.fullmatch(text.split("\n", 1)[0]) is not None
    except (ShotfitError, OSError, ValueError):
        pass
    return False


def yaml_of(source: Path) -> Path:
    """The YAML file that is meant. Raises ShotfitError for none or several in a folder."""
    return only_file(source, _files(source), "YAML files of YOLO") if source.is_dir() else source


def listed_pictures(path: Path, settings: Any, images: Path | None) -> dict[Picture, Part]:
    """The pictures that a YAML file lists, each with its part. Raises ShotfitError for a part that is not there."""
    found: dict[Picture, Part] = {}
    for key, part in _PARTS.items():
        for given in _listed(settings.get(key), shown(path), key):
            for picture in _pictures(_place(path, settings, given, images, key), shown(path)):
                found.setdefault(picture, part)
    return found


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES and _is_yolo(path)]
    except OSError:
        return []


def _is_yolo(path: Path) -> bool:
    try:
        lines = read_text(path, YAML_BYTES, "a YAML file").split("\n")
    except ShotfitError:
        return False
    keys = {line.partition(":")[0].strip("\"' ") for line in lines if ":" in line}
    return "names" in keys and not keys.isdisjoint(_PARTS)


def names_of(path: Path, settings: Any) -> dict[int, str]:
    """The names of the classes by number."""
    names = settings.get("names") if isinstance(settings, dict) else None
    pairs = list(names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else ())
    if not pairs:
        raise ShotfitError(f"{shown(path)} has no names of classes; expected names: [cat, dog] or names: {{0: cat}}.")
    found: dict[int, str] = {}
    for number, name in pairs:
        if not str(number).isascii() or not str(number).isdecimal() or len(str(number)) > 9:
            raise ShotfitError(f"{shown(path)}: a name has the number {entry(number)}; expected 0, 1, ...")
        found[int(number)] = label_of(name, f"{shown(path)}, name {number}")
    return dict(sorted(found.items()))


def _listed(value: Any, where: str, key: str) -> list[str]:
    """The folders or files that a part names."""
    found = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(one, str) and is_path(one) for one in found):
        raise ShotfitError(f"{where}: {key} is {entry(value)}; expected a folder, a text file, or a list of them.")
    return [one for one in found if one.strip() and one != "null"]


def _place(path: Path, settings: Any, given: str, images: Path | None, key: str) -> Path:
    """Where a part lies: from `path`, from the file's own folder, or, as Roboflow's are written, without a `..`."""
    base = settings.get("path")
    roots = [images] if images else [path.parent / base] if isinstance(base, str) and is_path(base) else []
    roots.append(path.parent)
    names = [given]
    while names[-1].startswith("../") and len(names) < _OTHER_PLACES:
        names.append(names[-1].removeprefix("../"))
    for name in names:
        for root in roots:
            if (root / name).exists():
                return Path(os.path.normpath(root / name))
    raise ShotfitError(
        f"{shown(path)}: {key} is {entry(given)}, which is not there; expected a folder of pictures, or a text file, "
        "beside it or under its `path` (or under --images DIR)."
    )


def _pictures(place: Path, where: str) -> Iterator[Picture]:
    """The pictures of a folder, also in folders inside of it, or of a list. where: what names it, for errors.

    Raises ShotfitError for a folder that holds much else, such as the whole disk, before all of it is looked at.
    """
    if place.is_dir():
        most = _STRANGE
        for parent, folders, names in os.walk(place):
            folders.sort()
            most -= len(folders)
            for name in sorted(names):
                ending = Path(name).suffix.lower()
                if name[0] != "." and ending in SUFFIXES:
                    most += _BESIDE
                    yield Picture(Path(parent) / name)
                elif ending != ".txt":
                    most -= 1
            if most < 0:
                raise ShotfitError(
                    f"{where}: {shown(place)} holds {_STRANGE:,} files and folders that are no pictures, or more; "
                    "expected the folder of the pictures of a part: name that one."
                )
        return
    files = Files([place.parent])
    for number, line in enumerate(read_text(place, LIST_BYTES, "a list of pictures").split("\n"), start=1):
        if line.strip():
            yield files.picture(line.strip(), f"{shown(place)}, line {number}")


def _boxes(picture: Picture, names: dict[int, str] | None, keypoints: bool) -> Iterator[Box]:
    """The boxes in the text file of a picture; none where there is no file. names: None for the numbers themselves."""
    path = labels_of(picture.path)
    try:
        lines = read_text(path, SETTINGS_BYTES, "a file of labels").split("\n")
    except UnreadableError as error:
        if error.missing:
            return
        raise
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{shown(path)}, line {number}"
        word, *rest = line.split()
        number_of_class = int(word) if word.isascii() and word.isdecimal() and len(word) < 10 else -1
        label = str(number_of_class) if names is None else names.get(number_of_class)
        if label is None or number_of_class < 0:
            raise ShotfitError(f"{where}: the class is {entry(word)}; expected the number of a name.")
        yield of_corners(label, sides_of(rest, keypoints, where), where)


def sides_of(words: Sequence[str], keypoints: bool, where: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom, from what stands behind the class in a line. Raises ShotfitError."""
    values = [number_of(word, where, "box") for word in words]
    if keypoints or len(values) in (4, 5):  # the fifth is a confidence
        if len(values) < 4:
            raise ShotfitError(f"{where} has {len(values)} numbers; expected four of a box.")
        x, y, width, height = values[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) >= 6 and len(values) % 2 == 0:
        across, down = values[::2], values[1::2]
        return min(across), min(down), max(across), max(down)
    raise ShotfitError(f"{where} has {len(values)} numbers; expected four of a box, or pairs of a polygon.")


def labels_of(picture: Path) -> Path:
    """labels/ for the last images/ in a picture's path, as Ultralytics has it; else beside it."""
    parts = list(picture.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return Path(*parts).with_suffix(".txt")
