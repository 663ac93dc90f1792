"""Label Studio: an export as JSON, or tasks with predictions, as they are imported.

    [{"data": {"image": "/data/upload/1/street.jpg"}, "predictions": [{"result": [
      {"type": "rectanglelabels", "original_width": 640, "original_height": 480,
       "value": {"x": 10, "y": 5, "width": 25, "height": 40, "rotation": 0, "rectanglelabels": ["car"]}}]}]}]

Every rectangle with a list of labels gets one, and a score, in annotations and in predictions. Those at an angle stay
as they are, and so do annotations that were skipped.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shotfit.data.detections.boxes import BoxList, Detections, Labels
from shotfit.data.detections.spliced import Edit, Json, pieces, write_pieces
from shotfit.data.formats.annotated import Files, entry, left_out, only_file
from shotfit.data.formats.documents import mentions
from shotfit.data.formats.label_studio import (
    WHAT,
    folders_of,
    is_turned,
    picture_named,
    picture_of,
    rectangle_of,
    was_skipped,
)
from shotfit.data.images import shown
from shotfit.data.listing import AS_IT_IS
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError
from shotfit.files import LIST_BYTES, read_text

__all__ = ["read", "recognizes"]

_LISTS = ("annotations", "completions", "predictions")


def recognizes(source: Path) -> bool:
    """A JSON list of tasks with rectangles; a folder with one."""
    if source.is_dir():
        return bool(_files(source))
    return source.suffix.lower() == ".json" and mentions(source, "[", "data", "rectanglelabels")


def read(source: Path, images: Path | None) -> Detections:
    """The rectangles of all tasks. images: the folder of the pictures.

    Raises ShotfitError: no such JSON, an entry that is malformed, a picture that is an address, too many boxes.
    """
    path = only_file(source, _files(source), "exports of Label Studio") if source.is_dir() else source
    document = Json(read_text(path, LIST_BYTES, f"a file of {WHAT}"), shown(path), WHAT)
    if not mentions(path, "["):
        raise ShotfitError(f"{shown(path)} is no list; expected Label Studio's tasks, exported as JSON.")
    files, boxes, starts = Files(folders_of(images or path.parent)), BoxList(document.where), array("q")
    pictures: list[Picture] = []
    sizes: list[tuple[float, float] | None] = []
    turned = 0
    for number, (start, _, task) in enumerate(document.objects(document.start(), "the export")):
        where = f"{document.where}, task {entry(task.get('id', number), 40)}"
        data = task.get("data")
        if not isinstance(data, dict):
            raise ShotfitError(f"{where} has no data; expected Label Studio's tasks, exported as JSON (not JSON-MIN).")
        regions = [region for *_, region in _rectangles(document, start)]
        if not regions:
            continue
        size = None
        for region in regions:
            if is_turned(region, where):
                turned += 1
                continue
            box, size = rectangle_of("", region, where)
            boxes.add(len(pictures), box)
        starts.append(start)
        pictures.append(picture_of(where, picture_named(where, data, AS_IT_IS, ()), files))
        sizes.append(size)
    document.check_end()

    def write(out: Path, labels: Labels) -> None:
        write_pieces(out, pieces(document.text, _edits(document, starts, labels)))

    notes = tuple(left_out(turned, "rectangle", "at an angle"))
    return Detections(f"Label Studio export {path.name}", boxes, pictures, sizes, write, notes=notes)


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.glob("*.json")) if recognizes(path)]
    except OSError:
        return []


def _rectangles(document: Json, task: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The rectangles of the task that begins there: where each region starts and ends, and it with its value's keys."""
    for key, place in document.members(task):
        if key not in _LISTS or document.text[place] != "[":
            continue
        for start, _, annotation in document.objects(place, key):
            if was_skipped(annotation):
                continue
            for inner, at in document.members(start):
                if inner == "result" and document.text[at] == "[":
                    for begin, end, region in document.objects(at, inner):
                        value = region.get("value")
                        if isinstance(value, dict) and isinstance(value.get("rectanglelabels"), list):
                            yield begin, end, {**value, **region}


def _edits(document: Json, tasks: array[int], labels: Labels) -> Iterator[Edit]:
    number = 0
    for task in tasks:
        for start, end, region in _rectangles(document, task):
            if is_turned(region, document.where):
                continue
            told = labels.of(number)
            number += 1
            if told is not None:
                inside = document.spans(start)["value"]
                edits = document.put(start, end, {"score": told[1]})
                yield from sorted([*edits, *document.put(*inside, {"rectanglelabels": json.dumps([told[0]])})])
