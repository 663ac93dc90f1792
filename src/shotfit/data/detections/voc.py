"""Pascal VOC: an XML file, or a folder of them.

    000005.xml                                  # its picture beside it, or under --images
    Annotations/000005.xml, JPEGImages/         # and the other folders of formats/voc.py

An object gets another <name> and a <score>; files are changed byte by byte in these places, and nowhere else. All
objects count, those that are marked difficult too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from xml.parsers import expat
from xml.sax.saxutils import escape

from shotfit.data.detections.boxes import BoxList, Detections, Labels, Written
from shotfit.data.formats.annotated import Files, number_of, of_corners
from shotfit.data.formats.documents import parse_xml, root_tag
from shotfit.data.formats.voc import SIDES, WHAT, picture_folders, picture_of, size_of, xml_files, xml_folders
from shotfit.data.images import shown
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError
from shotfit.files import LIST_BYTES, SETTINGS_BYTES, open_regular, read_bytes, write_atomically, write_folder

__all__ = ["read", "recognizes"]

_Span = tuple[int, int, int]  # where an element begins, where its end tag begins, where it ends
_Object = tuple[_Span | None, _Span | None, int]  # its name, its score, and where its end tag begins

_SCORES = ("score", "confidence")
_TAG = re.compile(rb"""<[^\s/>]+(?:\s+[^\s=/>]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*(/?)>""")


def recognizes(source: Path) -> bool:
    """An XML file of VOC, or a folder whose first XML file is one."""
    try:
        first = next(iter(_files(source)), None) if source.is_dir() else source
        if first is None or first.suffix.lower() != ".xml":
            return False
        with open_regular(first, LIST_BYTES, "an XML file") as file:
            return root_tag(file.read(4096)) == "annotation"
    except (ShotfitError, OSError):
        return False


def read(source: Path, images: Path | None) -> Detections:
    """The objects of a file, or of all files of a folder. images: the folder of the pictures.

    Raises ShotfitError: no such files, XML that is malformed, objects without a box, more boxes than are read.
    """
    paths = _files(source) if source.is_dir() else [source]
    if not paths:
        raise ShotfitError(f"{shown(source)} holds no XML files; expected VOC's annotations.")
    boxes, counts = BoxList(shown(source)), list[int]()
    pictures: list[Picture] = []
    sizes: list[tuple[float, float] | None] = []
    top = source if source.is_dir() else source.parent
    top = top.parent if top.name == "Annotations" else top
    homes = dict.fromkeys(path.parent for path in paths)
    files = {home: Files([images] if images else picture_folders(home, top)) for home in homes}
    for place, path in enumerate(paths):
        where = shown(path)
        root = parse_xml(where, _content(path), WHAT)
        if root.tag != "annotation":
            raise ShotfitError(f"{where} begins with <{root.tag[:40]}>; expected VOC's <annotation>.")
        found = root.findall("object")
        for number, one in enumerate(found):
            here, box = f"{where}, object {number}", one.find("bndbox")
            if box is None:
                raise ShotfitError(f"{here} has no <bndbox>.")
            left, top_side, right, bottom = (number_of(box.findtext(side), here, side) for side in SIDES)
            boxes.add(place, of_corners("", (left - 1, top_side - 1, right, bottom), here))
        counts.append(len(found))
        pictures.append(picture_of(path, root, files[path.parent]))
        sizes.append(size_of(root, where))

    def write(out: Path, labels: Labels) -> None:
        if not source.is_dir():
            write_atomically(out, _of_file(source, labels, 0, counts[0]))
            return
        first = [0, *accumulate(counts)]
        makers = {
            path.relative_to(source).as_posix(): partial(_of_file, path, labels, first[number], counts[number])
            for number, path in enumerate(paths)
        }
        write_folder(out, Written(makers))

    reader = f"{len(paths):,} VOC files" if source.is_dir() else f"VOC file {source.name}"
    return Detections(reader, boxes, pictures, sizes, write, folder=source.is_dir())


def _of_file(path: Path, labels: Labels, first: int, count: int) -> bytes:
    """A file with the labels of `count` boxes from number `first` on, one an object.

    Raises ShotfitError where it has another count of objects than when it was read.
    """
    content = _content(path)
    try:
        found = _objects(content)
    except (expat.ExpatError, ValueError):
        found = []
    if len(found) != count:
        raise ShotfitError(f"{shown(path)} changed while its boxes were predicted: run it again.")
    return _relabelled(content, found, labels, first)


def _relabelled(content: bytes, found: Sequence[_Object], labels: Labels, first: int) -> bytes:
    edits: list[tuple[int, int, bytes]] = []
    for number, (name, score, end) in enumerate(found, start=first):
        told = labels.of(number)
        if told is None:
            continue
        text = escape(told[0]).encode("ascii", "xmlcharrefreplace")
        if name is None:
            edits.append((end, end, b"<name>%b</name><score>%b</score>" % (text, told[1].encode())))
            continue
        edits.append(_inside(content, name, text))
        if score is not None:
            edits.append(_inside(content, score, told[1].encode()))
        else:
            before = content[: name[0]]
            blank = before[len(before.rstrip()) :]
            edits.append((name[2], name[2], b"%b<score>%b</score>" % (blank, told[1].encode())))
    parts, at = list[bytes](), 0
    for start, stop, new in sorted(edits):
        parts += [content[at:start], new]
        at = stop
    return b"".join([*parts, content[at:]])


def _inside(content: bytes, span: _Span, text: bytes) -> tuple[int, int, bytes]:
    """The edit that gives an element another text; one that is a single tag gets an end tag."""
    start, last, end = span
    tag = _TAG.match(content, start)
    assert tag is not None
    if tag[1]:
        word = re.match(rb"<([^\s/>]+)", content[start:])
        assert word is not None
        return tag.end() - 2, end, b">%b</%b>" % (text, word[1])
    return tag.end(), last, text


def _objects(content: bytes) -> list[_Object]:
    """Where the objects stand. Raises ExpatError, or ValueError for a document type."""
    parser, path = expat.ParserCreate(), list[tuple[str, int]]()
    parts: dict[str, _Span] = {}
    found: list[_Object] = []

    def begin(tag: str, _: object) -> None:
        path.append((tag, parser.CurrentByteIndex))

    def finish(tag: str) -> None:
        at, (_, start) = parser.CurrentByteIndex, path.pop()
        within = [name for name, _ in path]
        if within == ["annotation", "object"] and tag in ("name", *_SCORES):
            parts.setdefault(tag, (start, at, _end(content, start, at)))
        elif within == ["annotation"] and tag == "object":
            score = next((parts[name] for name in _SCORES if name in parts), None)
            found.append((parts.get("name"), score, at))
            parts.clear()

    def refuse(*_: object) -> None:
        raise ValueError("a document type")

    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = begin, finish, refuse
    parser.Parse(content, True)
    return found


def _end(content: bytes, start: int, last: int) -> int:
    """Where an element ends: behind its end tag, or behind its only one."""
    if content.startswith(b"</", last):
        return content.index(b">", last) + 1
    tag = _TAG.match(content, start)
    assert tag is not None
    return tag.end()


def _content(path: Path) -> bytes:
    content = read_bytes(path, SETTINGS_BYTES, f"a file of {WHAT}")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ShotfitError(f"{shown(path)} is XML in UTF-16, which is not changed; save it in UTF-8.")
    return content


def _files(folder: Path) -> list[Path]:
    """The XML files that a folder of VOC has, also without pictures."""
    return xml_files(folder) or [path for home in xml_folders(folder) for path in xml_files(home)]
