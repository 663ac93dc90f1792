"""WebDataset: tar shards of samples, files of one name up to the first dot: `0001.jpg` with `0001.cls`.

A shard, a folder of shards or a pattern (`train-*.tar`); the parts by the shards' names or folders. The label is in
`.cls` (a number or a name), else in `.json` under a usual key or --label-column, else in `.txt`. Numbers get the names
in `classnames.txt` or `classes.txt` beside the shards, a class a line, if there is one. A picture is called
`train-0000.tar::0001.jpg`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shotfit.data.containers import PartError, members, open_member
from shotfit.data.formats.lines import LABELS, text_of
from shotfit.data.formats.shards import are_shards, is_pattern, shards
from shotfit.data.images import SUFFIXES as IMAGES
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing, Part, Row, listed, named
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, UsageError, first_few
from shotfit.files import SETTINGS_BYTES, read_text

__all__ = ["read", "recognizes"]

SUFFIXES = (".tar",)

_LABELS = ("cls", "json", "txt")  # the surest first
_NAMES = ("classnames.txt", "classes.txt")
_LONGEST = 1024**2  # bytes of a label's file
_LONGEST_LABEL = 200


@dataclass
class _Sample:
    """The files of a sample by what stands behind the first dot of their names."""

    images: list[str] = field(default_factory=list)
    others: dict[str, tuple[str, int]] = field(default_factory=dict)  # name and size


def recognizes(source: Path) -> bool:
    """A tar whose pictures have labels beside them by name, or a folder or pattern of tars."""
    try:
        if source.is_dir():
            return are_shards(source, SUFFIXES)
        if is_pattern(source, SUFFIXES):
            return True
        return source.suffix.lower() in SUFFIXES and any(
            sample.images and sample.others.keys() & set(_LABELS) for sample in _samples(source).values()
        )
    except (ShotfitError, OSError, ValueError):
        return False


def read(source: Path, how: How) -> Listing:
    """The pictures of all shards.

    Raises:
        ShotfitError: a damaged shard, a sample with two pictures or without a label, a number without a name.
        UsageError: an images folder, or a column of paths.
    """
    if how.images is not None or how.path_column is not None:
        raise UsageError(f"an images folder or path column goes with a manifest; {shown(source)} is a WebDataset.")
    files, notes = shards(source, SUFFIXES)
    if not files:
        raise ShotfitError(f"{shown(source)} holds no .tar file; expected shards such as train-0000.tar.")
    rows, without = list[Row](), 0
    kind = "json" if how.label_column else ""
    for path, part in files:
        samples = _samples(path)
        for key, sample in samples.items():
            if not sample.images:
                without += 1
                continue
            if len(sample.images) > 1:
                raise ShotfitError(
                    f"{shown(path)}: the sample {key} has {len(sample.images)} pictures ({first_few(sample.images)}); "
                    "expected one a sample."
                )
            kind = kind or _kind(path, key, sample)
            rows.append(_row(path, key, sample, part, kind, how))
    if not rows:
        raise ShotfitError(f"{shown(source)} has no picture; expected samples such as 0001.jpg with 0001.cls.")
    if without:
        notes = [*notes, f"{without:,} samples have no picture and are left out"]
    if how.group_column and not any(row.group for row in rows):
        raise ShotfitError(f"{shown(source)} has no sample with a {how.group_column!r}, as the group of each image.")
    reader = f"WebDataset {source.name}" if len(files) == 1 else f"WebDataset of {len(files):,} shards"
    listing = listed(rows, reader, "the shards that say test", notes=notes)
    names = _class_names(source) if all(row.label.isdecimal() for row in rows) else None
    return listing if names is None else named(listing, *names)


def _samples(path: Path) -> dict[str, _Sample]:
    found: dict[str, _Sample] = {}
    for name, size in members(path):
        folder, slash, file = name.rpartition("/")
        first, _, ending = file.partition(".")
        if not first or not ending or folder.startswith("__MACOSX"):  # hidden, or of no sample
            continue
        sample = found.setdefault(f"{folder}{slash}{first}", _Sample())
        last = ending.rpartition(".")[2].lower()
        if f".{last}" in IMAGES:
            sample.images.append(name)
        else:
            sample.others[ending.lower()] = name, size
            sample.others.setdefault(last, (name, size))  # of `0001.target.cls`, and of names with a dot
    return found


def _kind(path: Path, key: str, sample: _Sample) -> str:
    for kind in _LABELS:
        if kind in sample.others:
            return kind
    raise ShotfitError(
        f"{shown(path)}: the sample {key} has no label; expected {key}.cls, .json or .txt beside its picture (or class "
        "folders in the archive: --read-as archive)."
    )


def _row(path: Path, key: str, sample: _Sample, part: Part, kind: str, how: How) -> Row:
    where = f"{shown(path)}: the sample {key}"
    text, group = _text(path, where, sample, kind), ""
    if kind == "json":
        fields = _fields(where, text)
        names = [how.label_column] if how.label_column else LABELS
        name = next((name for name in names if name in fields), None)
        if name is None:
            raise ShotfitError(
                f"{where} has the keys {', '.join(fields)[:200] or '(none)'} in its .json; expected label, or "
                "--label-column NAME."
            )
        text = text_of(where, fields, name)
    if how.group_column:
        group = text_of(where, _fields(where, _text(path, where, sample, "json")), how.group_column)
    label = text.strip()
    if not label or len(label) > _LONGEST_LABEL or "\n" in label:
        raise ShotfitError(f"{where} has a .{kind} of {len(label):,} characters; expected a class's name or number.")
    return Row(Picture(path, sample.images[0]), label, part, group)


def _text(path: Path, where: str, sample: _Sample, kind: str) -> str:
    if kind not in sample.others:
        raise ShotfitError(f"{where} has no .{kind}; expected one in each sample, as the others have.")
    name, size = sample.others[kind]
    if size > _LONGEST:
        raise ShotfitError(f"{where} has a .{kind} of {size:,} bytes; expected a label, or fields with one.")
    try:
        with open_member(path, name) as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ShotfitError(f"{where} has a .{kind} that is not UTF-8 text.") from None
    except PartError as error:
        raise ShotfitError(f"{where} has a .{kind} that {error}.") from None


def _fields(where: str, text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ShotfitError(f"{where} has a .json that is not valid JSON ({error}).") from None
    if not isinstance(fields, dict):
        raise ShotfitError(f'{where} has a .json without keys; expected an object such as {{"label": "cat"}}.')
    return fields


def _class_names(source: Path) -> tuple[list[str], str] | None:
    """The lines of a file of class names beside the shards, and its name; None where there is none."""
    homes = (source, source.parent) if source.is_dir() else (source.parent,)
    for path in (home / name for home in homes for name in _NAMES):
        if path.is_file():
            lines = read_text(path, SETTINGS_BYTES, "a file of class names").split("\n")
            return [line.strip() for line in lines if line.strip()], shown(path)
    return None
