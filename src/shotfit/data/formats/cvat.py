"""CVAT's exports: "CVAT for images 1.1" and "ImageNet 1.0", as a zip or unpacked.

    annotations.xml, images/    <image name="a.jpg" width="640" height="480" subset="train"><tag label="cat"/></image>
    synsets.txt, train.txt      ImageNet without pictures: names of classes; `NAME NUMBER` a line, images beside it
    CLASS/IMAGE                 ImageNet with pictures: read as class folders

Tags are labels of whole pictures; without any, boxes are images of their own. Turned boxes and other shapes are left
out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from shotfit.data.containers import is_container, members, open_member
from shotfit.data.formats.annotated import (
    Annotated,
    Box,
    Files,
    entry,
    label_of,
    left_out,
    listed_annotated,
    number_of,
    of_corners,
)
from shotfit.data.formats.documents import parse_xml, root_tag
from shotfit.data.images import SUFFIXES, shown
from shotfit.data.listing import How, Listing, Part, part_named
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError
from shotfit.files import LIST_BYTES, SETTINGS_BYTES, open_regular, read_bytes

__all__ = ["read", "recognizes"]

WHAT = "CVAT's annotations"
_XML, _NAMES = "annotations.xml", "synsets.txt"
_SIDES = ("xtl", "ytl", "xbr", "ybr")
_SHAPES = ("polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")


@dataclass(frozen=True)
class _Export:
    """Where an export lies. names: its files; read: the bytes of one; picture: the picture of a name, for messages."""

    names: tuple[str, ...]
    read: Callable[[str], bytes]
    picture: Callable[[str, str], Picture]


def recognizes(source: Path) -> bool:
    """CVAT's XML, or a folder or zip with it on top, or with synsets.txt and a list."""
    try:
        if source.suffix.lower() == ".xml" and source.is_file():
            with open_regular(source, LIST_BYTES, "an XML file") as file:
                return root_tag(file.read(4096)) == "annotations"
        if source.is_dir():
            listed = (source / _NAMES).is_file() and _lists(_folder(source, None).names)
            return recognizes(source / _XML) or bool(listed)
        if source.suffix.lower() != ".zip" or not is_container(source):
            return False
        names = {name for name, _ in members(source)}
        return _XML in names or (_NAMES in names and bool(_lists(tuple(names))))
    except (ShotfitError, OSError):
        return False


def read(source: Path, how: How) -> Listing:
    """The pictures with their tags, or their boxes.

    Raises:
        ShotfitError: no such file in it, XML that is malformed or of CVAT for video, an entry that refers to nothing.
    """
    how.check_columns(source, "CVAT's exports")
    if source.suffix.lower() == ".xml" and not source.is_dir():
        export, xml = _folder(source.parent, how.images), source.name
    elif source.is_dir():
        export, xml = _folder(source, how.images), _XML
    else:
        export, xml = _zip(source, how.images), _XML
    if xml in export.names:
        return _from_xml(source, xml, export, how.padding)
    lists = _lists(export.names)
    if _NAMES not in export.names or not lists:
        raise ShotfitError(
            f"{shown(source)} has no {_XML}, and no {_NAMES} with a list of pictures; expected CVAT's export as CVAT "
            "for images 1.1 or ImageNet 1.0 (class folders are read as folders)."
        )
    return _from_lists(source, lists, export)


def _folder(folder: Path, images: Path | None) -> _Export:
    files = Files([images] if images else [folder / "images", folder])
    try:
        names = tuple(sorted(path.name for path in folder.iterdir() if path.is_file()))
    except OSError as error:
        raise ShotfitError(f"the folder {shown(folder)} cannot be read: {error.strerror}.") from error
    return _Export(names, lambda name: read_bytes(folder / name, SETTINGS_BYTES, f"a file of {WHAT}"), files.picture)


def _zip(path: Path, images: Path | None) -> _Export:
    sizes = dict(members(path))
    inside = {PurePosixPath(name).with_suffix("").as_posix(): name for name in sizes if _is_picture(name)}
    files = None if images is None else Files([images])

    def content(name: str) -> bytes:
        if sizes[name] > SETTINGS_BYTES:
            raise ShotfitError(f"{shown(path)}: {name} has more than {SETTINGS_BYTES:,} bytes.")
        with open_member(path, name) as file:
            return file.read()

    def picture(name: str, where: str) -> Picture:
        if files is not None:
            return files.picture(name, where)
        for known in (name, f"images/{name}"):
            if known in sizes:
                return Picture(path, known)
        for known in (name, f"images/{name}"):  # lists of ImageNet have names without endings
            if known in inside:
                return Picture(path, inside[known])
        raise ShotfitError(
            f"{where}: {entry(name)} is not in {path.name}; export the pictures too (Save images), or name their "
            "folder (--images DIR)."
        )

    return _Export(tuple(sizes), content, picture)


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _lists(names: tuple[str, ...]) -> list[str]:
    return sorted(name for name in names if name.endswith(".txt") and "/" not in name and name != _NAMES)


def _from_xml(source: Path, name: str, export: _Export, padding: float | None) -> Listing:
    where = shown(source) if source.name == name else f"{shown(source)}, {name}"
    root = parse_xml(where, export.read(name), WHAT)
    if root.tag != "annotations":
        raise ShotfitError(f"{where} begins with <{root.tag[:40]}>; expected CVAT's <annotations>.")
    if root.find("track") is not None:
        raise ShotfitError(f"{where} has tracks of a video; export as CVAT for images 1.1.")
    counts: Counter[tuple[str, str]] = Counter()
    images = [
        _image(f"{where}, image {number}", found, export, counts) for number, found in enumerate(root.findall("image"))
    ]
    classes = [text for label in root.iterfind(".//label/name") if (text := (label.text or "").strip())]
    return listed_annotated(
        images,
        f"CVAT file {name}",
        source,
        "the images of the subset test",
        classes,
        [note for (word, said), count in counts.items() for note in left_out(count, word, said)],
        padding,
    )


def _image(where: str, found: Element, export: _Export, counts: Counter[tuple[str, str]]) -> Annotated:
    picture = export.picture(found.get("name") or "", where)
    sides = [number_of(found.get(side) or 0, where, side) for side in ("width", "height")]
    size = (sides[0], sides[1]) if min(sides) > 0 else None
    labels = [label_of(tag.get("label"), where) for tag in found.findall("tag")]
    boxes: list[Box] = []
    for box in found.findall("box"):
        if number_of(box.get("rotation") or 0, where, "rotation"):
            counts["box", "at an angle"] += 1
        else:
            boxes.append(of_corners(label_of(box.get("label"), where), [box.get(side) for side in _SIDES], where))
    for shape in _SHAPES:
        if others := len(found.findall(shape)):
            counts["shape", "other than a box"] += others
    part: Part = part_named(found.get("subset") or "") or "train"
    return Annotated(picture, part, labels, boxes, size)


def _from_lists(source: Path, lists: list[str], export: _Export) -> Listing:
    classes = [line.strip() for line in _text(source, _NAMES, export).split("\n") if line.strip()]
    images: list[Annotated] = []
    for name in lists:
        part: Part = part_named(Path(name).stem) or "train"
        for number, line in enumerate(_text(source, name, export).split("\n"), start=1):
            where = f"{shown(source)}, {name}, line {number}"
            words = line.split()
            labels: list[str] = []
            while len(words) > 1 and words[-1].isascii() and words[-1].isdecimal():
                labels.append(_class(words.pop(), classes, where))
            if words:
                images.append(Annotated(export.picture(" ".join(words).strip("\"'"), where), part, labels))
    origin = "the list test.txt"
    return listed_annotated(images, f"CVAT's ImageNet lists {', '.join(lists)[:80]}", source, origin, classes)


def _class(number: str, classes: list[str], where: str) -> str:
    if len(number) > 9 or int(number) >= len(classes):
        raise ShotfitError(f"{where}: there is no class {number[:20]}; {_NAMES} has {len(classes):,}.")
    return classes[int(number)]


def _text(source: Path, name: str, export: _Export) -> str:
    try:
        return export.read(name).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise ShotfitError(f"{shown(source)}: {name} cannot be read (it is not UTF-8 text).") from None
