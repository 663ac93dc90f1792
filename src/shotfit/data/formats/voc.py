"""Pascal VOC: an XML file for each picture, with a box for each object in it.

    Annotations/000005.xml, JPEGImages/000005.jpg, ImageSets/Main/{train,val,trainval,test}.txt
    annotations/000005.xml, images/000005.jpg
    000005.xml, 000005.jpg                  # side by side, also in images/

Each of them in train/, valid/ and test/ too, and images/train/ and Annotations/train/.

Boxes are images of their own; VOC counts pixels from 1 and includes the last. Objects that are marked difficult are
left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element

from shotfit.data.formats.annotated import (
    Annotated,
    Box,
    Files,
    label_of,
    left_out,
    listed_annotated,
    number_of,
    of_corners,
)
from shotfit.data.formats.documents import read_xml, root_tag
from shotfit.data.images import SUFFIXES, shown
from shotfit.data.listing import How, Listing, Part, parts_named
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, first_few
from shotfit.files import LIST_BYTES, open_regular, read_text

__all__ = [
    "SIDES",
    "WHAT",
    "picture_folders",
    "picture_of",
    "read",
    "recognizes",
    "size_of",
    "xml_files",
    "xml_folders",
]

WHAT = "VOC's annotations"
SIDES = ("xmin", "ymin", "xmax", "ymax")
_APART = ("Annotations", "annotations")
_PICTURES = ("JPEGImages", "images", "Images")
_LISTS: dict[str, Part] = {"train": "train", "val": "val", "test": "test"}


def recognizes(source: Path) -> bool:
    """A folder with Annotations/ of such files, or with such files beside pictures, on top or in its parts."""
    return source.is_dir() and bool(xml_folders(source))


def read(source: Path, how: How) -> Listing:
    """The objects of the pictures that the image sets list, or of all.

    Raises:
        ShotfitError: no such files, XML that is malformed, objects without a name or box.
    """
    how.check_columns(source, "VOC's files")
    if not source.is_dir():
        raise ShotfitError(f"{shown(source)} is a file; expected the folder of Annotations/ or of the XML files.")
    inside = source / _APART[0]
    homes = xml_folders(source) or {inside if inside.is_dir() else source: "train"}
    listed = [(path, part) for home, part in homes.items() for path in xml_files(home)]
    origin, notes = "the images of the test folder", list[str]()
    sets = source / "ImageSets" / "Main"
    if len(homes) == 1 and sets.is_dir():
        listed, notes = _sets(sets, [path for path, _ in listed])
        origin = "the image set test"
    places = {home: Files([how.images] if how.images else picture_folders(home, source)) for home in homes}
    images: list[Annotated] = []
    difficult = 0
    for path, part in listed:
        found, hard = _image(path, part, places[path.parent])
        images.append(found)
        difficult += hard
    notes += left_out(difficult, "object", "marked as difficult")
    apart = [f"{home.relative_to(source)}/" for home in homes if home != source and not _has_pictures(home)]
    reader = f"VOC files under {first_few(apart)}" if apart else "VOC files beside the pictures"
    return listed_annotated(images, reader, source, origin, notes=notes, padding=how.padding)


def xml_files(folder: Path) -> list[Path]:
    """The XML files of a folder, sorted. Raises ShotfitError where it cannot be read."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(".xml") and name[0] != ".")
    except OSError as error:
        raise ShotfitError(f"the folder {shown(folder)} cannot be read: {error.strerror}.") from error
    return [folder / name for name in names]


def _is_voc(folder: Path) -> bool:
    """Whether the first XML file of a folder is VOC's."""
    try:
        first = next(iter(xml_files(folder)), None)
        if first is None:
            return False
        with open_regular(first, LIST_BYTES, "an XML file") as file:
            return root_tag(file.read(4096)) == "annotation"
    except (ShotfitError, OSError):
        return False


def _has_pictures(folder: Path) -> bool:
    try:
        return any(Path(name).suffix.lower() in SUFFIXES for name in os.listdir(folder))
    except OSError:
        return False


def xml_folders(source: Path) -> dict[Path, Part]:
    """The folders that a set's XML files lie in, each with its part; {} for what is no such set."""
    own = _xml_folder(source)
    if own is not None:
        return {own: "train"}
    for top in (source, source / "images", *(source / name for name in _APART)):
        try:
            folders = {path.name: path for path in sorted(top.iterdir()) if path.is_dir()}
        except OSError:
            continue
        apart = top != source and top.name in _APART
        named = parts_named(folders)
        if found := {home: part for name, part in named.items() if (home := _xml_folder(folders[name], apart))}:
            return found
    return {}


def _xml_folder(folder: Path, apart: bool = False) -> Path | None:
    """The folder of the XML files of one part: its Annotations/, or that in which they lie beside their pictures.

    apart: the pictures are elsewhere.
    """
    for inside in (folder / name for name in _APART):
        if _is_voc(inside):
            return inside
    return next(
        (home for home in (folder, folder / "images") if _is_voc(home) and (apart or _has_pictures(home))), None
    )


def picture_folders(home: Path, source: Path) -> list[Path]:
    """Where the pictures of a folder of XML files may lie, the likeliest first."""
    above = [home.parent] if home != source else []
    beside = [folder / name for folder in (*above, home, source) for name in _PICTURES]
    parted = [folder / home.name for folder in beside if home.parent.name in _APART]  # Annotations/train, images/train
    return [*dict.fromkeys([home, *parted, *beside, *above, source])]


def _sets(folder: Path, files: Iterable[Path]) -> tuple[list[tuple[Path, Part]], list[str]]:
    """The files in the order of the image sets with their parts; all of them where there are no sets."""
    by_name = {path.stem: path for path in files}
    sets = {name: ids for name in (*_LISTS, "trainval") if (ids := _ids(folder / f"{name}.txt")) is not None}
    if "train" not in sets and "val" not in sets and "trainval" in sets:
        sets["train"] = sets["trainval"]
    listed: dict[Path, Part] = {}
    lost = 0
    for name, part in _LISTS.items():
        for number in sets.get(name, []):
            path = by_name.get(number)
            lost += path is None
            if path is not None:
                listed.setdefault(path, part)
    if not sets:
        return [(path, "train") for path in by_name.values()], []
    notes = left_out(lost, "picture", "of the image sets, without a file in Annotations/")
    notes += left_out(len(by_name) - len(listed), "file", "of Annotations/, in no image set")
    return list(listed.items()), notes


def _ids(path: Path) -> list[str] | None:
    """The names in an image set; None where there is none. A second column is passed over."""
    if not path.is_file():
        return None
    return [line.split()[0] for line in read_text(path, LIST_BYTES, "an image set").split("\n") if line.strip()]


def _image(path: Path, part: Part, files: Files) -> tuple[Annotated, int]:
    """A picture with its objects, and how many difficult ones were left out."""
    where = shown(path)
    root = read_xml(path, WHAT)
    if root.tag != "annotation":
        raise ShotfitError(f"{where} begins with <{root.tag[:40]}>; expected VOC's <annotation>.")
    boxes: list[Box] = []
    difficult = 0
    for number, found in enumerate(root.findall("object")):
        if (found.findtext("difficult") or "").strip() == "1":
            difficult += 1
            continue
        here = f"{where}, object {number}"
        label, box = label_of(found.findtext("name"), here), found.find("bndbox")
        if box is None:
            raise ShotfitError(f"{here} ({ascii(label)[:40]}) has no <bndbox>.")
        left, top, right, bottom = (number_of(box.findtext(side), here, side) for side in SIDES)
        boxes.append(of_corners(label, (left - 1, top - 1, right, bottom), here))
    return Annotated(picture_of(path, root, files), part, (), boxes, size_of(root, where)), difficult


def picture_of(path: Path, root: Element, files: Files) -> Picture:
    """By the file's own name first, for names inside of it are of pictures as they were once called."""
    found = files.picture(path.stem, shown(path))
    name = (root.findtext("filename") or "").strip()
    return found if found.exists() or not name else files.picture(name, shown(path))


def size_of(root: Element, where: str) -> tuple[float, float] | None:
    """Width and height as a file states them; None where it does not."""
    sides = [root.findtext(f"size/{side}") for side in ("width", "height")]
    width, height = (number_of(side or 0, where, "size") for side in sides)
    return (width, height) if min(width, height) > 0 else None
