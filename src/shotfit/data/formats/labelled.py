"""Labels that `shotfit app` keeps beside pictures: class folders, or none, and `.shotfit-labels.jsonl`.

One line of JSON a change, behind a first line that says what the file is. The last word on a picture counts; one that
the file does not name has the label of its class folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shotfit.data.formats.folders import check_plain, listing_of
from shotfit.data.formats.tree import Folder
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing, Part, Row, listed
from shotfit.errors import ShotfitError
from shotfit.files import LIST_BYTES, UnreadableError, read_bytes

__all__ = ["HEAD_LINE", "NAME", "Change", "foldered", "is_head", "read", "recognizes"]

NAME = ".shotfit-labels.jsonl"
HEAD = {"shotfit": "labels", "version": 1}
HEAD_LINE = (json.dumps(HEAD) + "\n").encode()


@dataclass(frozen=True)
class Change:
    """What one line says.

    labels: by the path of a picture, relative to the folder, with slashes; None takes its label away, also the one that
    its folder gives. added, dropped: classes by name. confirmed: labels that somebody has looked at and keeps.
    """

    labels: Mapping[str, str | None] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    confirmed: Mapping[str, str] = field(default_factory=dict)

    def line(self, at: float) -> bytes:
        """The line of the file, with its end; ASCII, so that names that are no text pass too."""
        said = {name: value for name, value in vars(self).items() if value}
        return (json.dumps({"at": round(at, 3), **said}) + "\n").encode("ascii")

    @classmethod
    def of(cls, line: bytes) -> Change | None:
        """The change of a line; None for what is none."""
        try:
            said: Any = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(said, dict):
            return None
        labels, confirmed = said.get("labels", {}), said.get("confirmed", {})
        lists = [said.get(name, []) for name in ("added", "dropped")]
        good = (
            isinstance(labels, dict)
            and isinstance(confirmed, dict)
            and all(value is None or isinstance(value, str) for value in labels.values())
            and all(isinstance(value, str) for value in confirmed.values())
            and all(isinstance(one, list) and all(isinstance(name, str) for name in one) for one in lists)
        )
        return cls(labels, tuple(lists[0]), tuple(lists[1]), confirmed) if good else None


def is_head(line: bytes) -> bool:
    """Whether a line is the first one of such a file."""
    try:
        return bool(json.loads(line) == HEAD)
    except (ValueError, RecursionError):
        return False


def recognizes(source: Path) -> bool:
    """A folder in which somebody has labelled pictures."""
    try:
        return source.is_dir() and any(change.labels for change in _changes(source))
    except ShotfitError:
        return False


def read(source: Path, how: How) -> Listing:
    """The pictures that have a label; a class folder's test part stays one.

    Raises:
        ShotfitError: no such file, or none that `shotfit app` wrote.
        UsageError: anything said of paths and columns, which it does not have.
    """
    reader = "the labels of shotfit app"
    check_plain(source, how, reader)
    said = dict[str, str | None]()
    for change in _changes(source):
        said.update(change.labels)
    top = Folder(source)
    _, labels, parts = foldered(top)
    rows, given, unlabelled = list[Row](), 0, 0
    for inside in top.below():
        for picture in inside.images:
            path = picture.path.relative_to(source).as_posix()
            label = said.get(path, labels.get(picture.path))
            if label is None:
                unlabelled += 1
            else:
                given += path in said
                rows.append(Row(picture, label, parts.get(picture.path, "train")))
    rows.sort(key=lambda row: row.picture.path)
    both = f"{given:,} labels are from {NAME} and {len(rows) - given:,} of class folders; --read-as folders takes these"
    notes = [f"{both} alone"] if labels else []
    notes += [f"{unlabelled:,} pictures have no label yet"] if unlabelled else []
    return listed(rows, reader, "the test folder", notes=notes)


def foldered(top: Folder) -> tuple[tuple[str, ...], dict[Path, str], dict[Path, Part]]:
    """Class folders: the classes, the label and the part of each picture; nothing where there are no two classes."""
    try:
        listing = listing_of(top, "class folders", asked=False)
    except ShotfitError:  # not sorted into class folders
        return (), {}, {}
    if len(listing.classes) < 2:
        return (), {}, {}
    found = [(part, picture, label) for part, pairs in listing.parts.items() for picture, label in pairs]
    labels = {picture.path: listing.classes[label] for _, picture, label in found}
    return listing.classes, labels, {picture.path: part for part, picture, _ in found}


def _changes(source: Path) -> Iterator[Change]:
    """The changes that the file says; what a killed writer left of a line is passed over."""
    path = source / NAME
    try:
        content = read_bytes(path, LIST_BYTES, "a file of labels")
    except UnreadableError as error:
        if error.missing:
            raise ShotfitError(
                f"{shown(source)} has no {NAME}: `shotfit app` makes it as pictures are labelled."
            ) from None
        raise
    head, *lines = content[: content.rfind(b"\n") + 1].split(b"\n")
    if not is_head(head):
        raise ShotfitError(f"{shown(path)} was not written by `shotfit app`: move it away.")
    yield from filter(None, map(Change.of, lines))
