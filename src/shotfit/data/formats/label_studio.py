"""Label Studio's exports: JSON, JSON-MIN and CSV; a file, or a folder with one.

    [{"data": {"image": "/data/upload/1/0a1b2c3d-cat.jpg"}, "annotations": [{"result":
      [{"type": "choices", "value": {"choices": ["cat"]}}]}]}]
    [{"image": "/data/local-files/?d=photos/cat.jpg", "choice": "cat", "annotation_id": 1}]

Choices are labels of whole pictures; without any, rectangles are images of their own. Tasks that were skipped or have
no label are left out. Where no task has an annotation, predictions are read. Pictures are looked for beside the file,
in images/ and in upload/, or under --images, also without the eight digits that an upload puts before a name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

from shotfit.data.formats import csv
from shotfit.data.formats.annotated import (
    Annotated,
    Box,
    Files,
    box_of,
    entry,
    label_of,
    left_out,
    listed_annotated,
    number_of,
    objects,
    only_file,
)
from shotfit.data.formats.documents import mentions, parse_json, read_json
from shotfit.data.formats.lines import LABELS
from shotfit.data.images import SUFFIXES, shown
from shotfit.data.listing import How, Listing
from shotfit.data.lists import PATHS
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, first_few
from shotfit.files import open_regular

__all__ = [
    "WHAT", "folders_of", "is_turned", "picture_named", "picture_of", "read", "recognizes", "rectangle_of",
    "was_skipped",
]  # fmt: skip

WHAT = "Label Studio's exports"
_ANNOTATIONS = ("annotations", "completions")
_OWN = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "project")
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
_LOCAL = "/data/local-files/"

_Counts = Counter[tuple[str, str]]  # of what is left out: a word for one, and what is said of it


def recognizes(source: Path) -> bool:
    """A JSON list of tasks with data and annotations or predictions, or with an annotation_id; CSV with one."""
    return bool(_files(source)) if source.is_dir() else _is_export(source)


def read(source: Path, how: How) -> Listing:
    """The pictures with their choices, or their rectangles.

    Raises:
        ShotfitError: no such JSON or CSV, a picture that is a URL, an entry that is malformed.
    """
    replace(how, path_column=None, label_column=None).check_columns(source, "Label Studio's exports")
    path = only_file(source, _files(source), "exports of Label Studio") if source.is_dir() else source
    entries = list(_entries(path))
    tasks = [one for _, one in entries if isinstance(one.get("data"), dict)]
    notes: list[str] = []
    counts: _Counts = Counter()
    files = Files(folders_of(how.images or path.parent))
    if len(tasks) < len(entries):
        images = [_line(where, one, how, files, counts) for where, one in entries]
    else:
        results = {id(one): _annotations(where, one) for where, one in entries}
        if not any(results.values()):
            results = {id(one): objects(one.get("predictions"), where, "predictions") for where, one in entries}
            if any(results.values()):
                notes.append("no task has an annotation: the labels are predictions")
        images = [_task(where, one, results[id(one)], how, files, counts) for where, one in entries]
    notes += [note for (word, said), count in counts.items() for note in left_out(count, word, said)]
    return listed_annotated(images, f"Label Studio export {path.name}", source, notes=notes, padding=how.padding)


def folders_of(root: Path) -> list[Path]:
    """Where the pictures of an export may lie."""
    return [root, root / "images", root / "upload", root / "data"]


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.iterdir()) if _is_export(path)]
    except OSError:
        return []


def _is_export(path: Path) -> bool:
    ending = path.suffix.lower()
    if ending == ".json":
        tasks = (("data", name) for name in (*_ANNOTATIONS, "predictions"))
        return mentions(path, "[", "annotation_id") or any(mentions(path, "[", *keys) for keys in tasks)
    if ending not in csv.SUFFIXES:
        return False
    try:
        with open_regular(path, 2**44, "a list") as file:
            first = file.read(4096).splitlines()[:1]
        return bool(first) and b"annotation_id" in first[0]
    except (ShotfitError, OSError):
        return False


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tasks, or lines, each with what a message calls it."""
    if path.suffix.lower() in csv.SUFFIXES:
        for number, line in csv.table(path)[1]:
            yield f"{shown(path)}, line {number}", {key: _cell(value) for key, value in line.items() if key is not None}
        return
    content = read_json(path, WHAT)
    if not isinstance(content, list):
        raise ShotfitError(f"{shown(path)} is {entry(content)}; expected a list of Label Studio's tasks.")
    for number, one in enumerate(objects(content, shown(path), "the export")):
        yield f"{shown(path)}, task {entry(one.get('id', number), 40)}", one


def _cell(value: Any) -> Any:
    """What stands in a cell of CSV: JSON of rectangles or several choices, or text."""
    if isinstance(value, str) and value.lstrip().startswith(("[{", '{"')):
        try:
            return parse_json("", value, WHAT)
        except ShotfitError:
            return value
    return value


def _annotations(where: str, task: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations that were not skipped."""
    found = next((task[key] for key in _ANNOTATIONS if task.get(key)), None)
    return [one for one in objects(found, where, "annotations") if not was_skipped(one)]


def was_skipped(annotation: Mapping[str, Any]) -> bool:
    """Whether somebody skipped the task."""
    return bool(annotation.get("was_cancelled"))


def _task(
    where: str, task: dict[str, Any], results: list[dict[str, Any]], how: How, files: Files, counts: _Counts
) -> Annotated:
    picture = picture_of(where, picture_named(where, task["data"], how, ()), files)
    labels: list[str] = []
    boxes: list[Box] = []
    size = None
    for number, result in enumerate(results):
        found = objects(result.get("result"), where, "result")
        regions = [(one, one["value"]) for one in found if isinstance(one.get("value"), dict)]
        labels += [name for _, value in regions if "x" not in value for name in _choices(value.get("choices"), where)]
        if number == len(results) - 1:  # of several people's rectangles the last
            own, size = _boxes([{**value, **one} for one, value in regions if "x" in value], where, counts)
            boxes += own
    return Annotated(picture, "train", labels, boxes, size)


def _line(where: str, line: dict[str, Any], how: How, files: Files, counts: _Counts) -> Annotated:
    """A picture of JSON-MIN or CSV."""
    name = picture_named(where, line, how, _OWN)
    key = how.label_column or _label_key(where, line, name)
    value = line.get(key)
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        boxes, size = _boxes(objects(value, where, key), where, counts)
        return Annotated(picture_of(where, line[name], files), "train", (), boxes, size)
    return Annotated(picture_of(where, line[name], files), "train", list(_choices(value, where)))


def picture_named(where: str, data: Mapping[str, Any], how: How, others: Iterable[str]) -> Any:
    """The picture of a task's data; of a line, where `others` are no pictures, the key that has it."""
    keys = [key for key in data if key not in others]
    usual = [key for name in PATHS for key in keys if key.lower() == name and isinstance(data[key], str)]
    pictures = [key for key in keys if isinstance(data[key], str) and Path(data[key][-255:]).suffix.lower() in SUFFIXES]
    found = [how.path_column] if how.path_column else [key for key in usual if key in pictures] or pictures or usual
    if not found or found[0] not in data:
        raise ShotfitError(
            f"{where} has the keys {first_few([entry(key, 40) for key in data], 8)}; none is of a picture: name it "
            "with --path-column NAME."
        )
    return found[0] if others else data[found[0]]


def _label_key(where: str, line: Mapping[str, Any], picture: str) -> str:
    keys = [key for key in line if key not in _OWN and key != picture]
    usual = [key for key in keys if key.lower() in ("choice", "choices", *LABELS)]
    found = usual[:1] or keys
    if len(found) > 1:
        names = first_few([entry(key, 40) for key in found], 8)
        raise ShotfitError(f"{where} may have its label in {names}; name one with --label-column NAME.")
    return found[0] if found else "choice"  # a task without a choice has no key of it


def _choices(value: Any, where: str) -> Iterator[str]:
    """Names of choices: one, a list of them, or {"choices": [...]}; none for an empty value."""
    if isinstance(value, dict):
        value = value.get("choices")
    for name in value if isinstance(value, list) else [] if value is None or value == "" else [value]:
        yield label_of(name, where)


def _boxes(
    regions: Iterable[Mapping[str, Any]], where: str, counts: _Counts
) -> tuple[list[Box], tuple[float, float] | None]:
    """The rectangles in pixels, and the size of the picture that they are in."""
    boxes: list[Box] = []
    size = None
    for region in regions:
        names = region.get("rectanglelabels") or region.get("choices") or []
        if not isinstance(names, list) or len(names) != 1 or "width" not in region:
            counts["region", "other than a rectangle with one label"] += 1
        elif is_turned(region, where):
            counts["rectangle", "at an angle"] += 1
        else:
            box, size = rectangle_of(label_of(names[0], where), region, where)
            boxes.append(box)
    return boxes, size


def is_turned(region: Mapping[str, Any], where: str) -> bool:
    """Whether a rectangle stands at an angle."""
    return bool(number_of(region.get("rotation") or 0, where, "rotation"))


def rectangle_of(label: str, region: Mapping[str, Any], where: str) -> tuple[Box, tuple[float, float]]:
    """A rectangle in pixels, and the size of its picture, from a region with the keys of its value."""
    width, height = (number_of(region.get(f"original_{side}"), where, side) for side in ("width", "height"))
    if min(width, height) < 1:
        raise ShotfitError(f"{where}: a region's picture has {width:g} x {height:g} pixels; expected its size.")
    share = [region.get(key) for key in ("x", "y", "width", "height")]  # in percent
    return box_of(label, share, where, (width / 100, height / 100)), (width, height)


def picture_of(where: str, name: Any, files: Files) -> Picture:
    """The picture of a path, of Label Studio's own addresses of local and uploaded files too."""
    if isinstance(name, str) and name.startswith(_LOCAL):
        try:
            name = parse_qs(urlsplit(name).query).get("d", [name])[0]
        except ValueError:
            raise ShotfitError(f"{where}: {entry(name)} is no address of a file.") from None
    found = files.picture(name, where)
    bare = PurePosixPath(name).name
    if not found.exists() and _UPLOADED.match(bare):
        original = files.picture(_UPLOADED.sub("", bare, count=1), where)
        return original if original.exists() else found
    return found
