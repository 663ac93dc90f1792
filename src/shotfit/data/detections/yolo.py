"""YOLO: a data.yaml or its folder, or a folder of label files, as Ultralytics writes them where it detects.

    data.yaml, images/train/1.jpg, labels/train/1.txt       # see formats/yolo.py
    labels/1.txt, labels/classes.txt                        # pictures beside them, in ../images, or under --images

A line gets another class and its confidence as the fifth number. A polygon and a line with key points get the class
alone, for they have no place for a confidence. New classes go behind the known ones, into data.yaml or classes.txt;
where a folder has no classes.txt, its numbers are those of the model's classes, and it gets one. What is written is a
folder with the label files, and the list of classes, under the names that they have; pictures stay where they are.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from pathlib import Path

import yaml

from shotfit.data.detections.boxes import BoxList, Detections, Labels, Written, numbered
from shotfit.data.detections.spliced import Edit, pieces
from shotfit.data.formats.annotated import Files, entry, of_corners
from shotfit.data.formats.documents import YAML_BYTES, read_yaml
from shotfit.data.formats.yolo import BOX_LINE, WHAT, is_yaml, labels_of, listed_pictures, names_of, sides_of, yaml_of
from shotfit.data.images import shown
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError
from shotfit.files import SETTINGS_BYTES, read_text, write_folder

__all__ = ["read", "recognizes"]

_CLASSES = "classes.txt"


def recognizes(source: Path) -> bool:
    """YOLO's YAML file, a folder with one, or a folder whose first label file begins with a box."""
    if is_yaml(source):
        return True
    try:
        first = next(iter(_label_files(source)), None) if source.is_dir() else None
        lines = [] if first is None else _text(first).split("\n")
    except ShotfitError:
        return False
    return bool(BOX_LINE.fullmatch(next((line for line in lines if line.strip()), "")))


def read(source: Path, images: Path | None) -> Detections:
    """The boxes of the label files. images: the folder of the pictures.

    Raises ShotfitError: a part that is not there, a line that is no box, more boxes than are read.
    """
    return _of_set(yaml_of(source), images) if is_yaml(source) else _of_folder(source, images)


def _of_set(path: Path, images: Path | None) -> Detections:
    settings = read_yaml(path, WHAT)
    names = names_of(path, settings)
    keypoints = settings.get("kpt_shape") is not None
    pictures = {labels_of(picture.path): picture for picture in listed_pictures(path, settings, images)}
    found = {file: picture for file, picture in pictures.items() if file.is_file()}
    if not found:
        raise ShotfitError(f"{shown(path)} lists {len(pictures):,} pictures, and none has a file of labels.")
    inside = all(file.is_relative_to(path.parent) for file in found)
    top = path.parent if inside else Path(os.path.commonpath([file.parent for file in found]))

    def listed(names_of_numbers: Mapping[int, str], more: Mapping[int, str]) -> dict[str, Callable[[], bytes]]:
        text = read_text(path, YAML_BYTES, "a YAML file")
        written = "".join(pieces(text, _renamed(text, names_of_numbers))) if more else text
        return {path.name: written.encode}

    return _detections(f"YOLO data set {path.name}", path, found, top, names, listed, keypoints)


def _of_folder(folder: Path, images: Path | None) -> Detections:
    paths = _label_files(folder)
    beside = folder / _CLASSES
    lines = read_text(beside, SETTINGS_BYTES, "a list of classes").split("\n") if beside.is_file() else []
    names = {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    files = Files([images] if images else [folder, folder.parent / "images", folder.parent])
    found = {path: files.picture(path.stem, shown(path)) for path in paths}

    def listed(names_of_numbers: Mapping[int, str], _: Mapping[int, str]) -> dict[str, Callable[[], bytes]]:
        known = [names_of_numbers.get(number, "") for number in range(max(names_of_numbers) + 1)]
        return {_CLASSES: "".join(f"{name}\n" for name in known).encode}

    return _detections(f"YOLO labels {folder.name}", folder, found, folder, names, listed, keypoints=False)


def _detections(
    reader: str,
    source: Path,
    found: Mapping[Path, Picture],
    top: Path,
    names: dict[int, str],
    listed: Callable[[Mapping[int, str], Mapping[int, str]], dict[str, Callable[[], bytes]]],
    keypoints: bool,
) -> Detections:
    """found: the picture of each label file. top: the folder that their names begin in. listed: writes the classes."""
    boxes, counts = BoxList(shown(source)), list[int]()
    for place, path in enumerate(found):
        before = len(boxes)
        for number, line in enumerate(_text(path).split("\n"), start=1):
            if line.strip():
                where = f"{shown(path)}, line {number}"
                word, *rest = line.split()
                if not word.isascii() or not word.isdecimal():
                    raise ShotfitError(f"{where}: the class is {entry(word)}; expected a number.")
                boxes.add(place, of_corners("", sides_of(rest, keypoints, where), where))
        counts.append(len(boxes) - before)

    def write(out: Path, labels: Labels) -> None:
        ids, more = numbered(names, labels.names)
        first = [0, *accumulate(counts)]
        makers: dict[str, Callable[[], bytes]] = {
            path.relative_to(top).as_posix(): partial(_of_file, path, labels, ids, keypoints, first[place : place + 2])
            for place, path in enumerate(found)
        }
        write_folder(out, Written({**makers, **listed({**names, **more}, more)}))

    pictures = list(found.values())
    return Detections(reader, boxes, pictures, [None] * len(pictures), write, relative=True, folder=True)


def _of_file(path: Path, labels: Labels, ids: Mapping[str, int], keypoints: bool, span: list[int]) -> bytes:
    """A label file with the labels of boxes from number span[0] to span[1]."""
    lines, box = _text(path).split("\n"), span[0]
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        told = labels.of(box) if box < span[1] else None
        box += 1
        if told is not None:
            words = re.split(r"(\S+)", line)  # what is between words, and words
            words[1] = str(ids[told[0]])
            if len(words) == 11 and not keypoints:
                words[9] += f" {told[1]}"
            elif len(words) == 13 and not keypoints:
                words[11] = told[1]
            lines[number] = "".join(words)
    if box != span[1]:
        raise ShotfitError(f"{shown(path)} changed while its boxes were predicted: run it again.")
    return "\n".join(lines).encode()


def _renamed(text: str, names: Mapping[int, str]) -> list[Edit]:
    """The edits that give a YAML text these names, and their count where it says one."""
    edits = []
    for key, value in yaml.compose(text, Loader=yaml.BaseLoader).value:
        if key.value == "names":
            start, last = value.start_mark, value
            while not getattr(last, "flow_style", True) and last.value:  # a block ends with its last scalar
                last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
            said = ", ".join(f"{number}: {json.dumps(name, ensure_ascii=False)}" for number, name in names.items())
            edits.append(Edit(start.index, last.end_mark.index, f"{' ' * (not start.column)}{{{said}}}"))
        elif key.value == "nc":
            edits.append(Edit(value.start_mark.index, value.end_mark.index, str(max(names) + 1)))
    return sorted(edits)


def _label_files(folder: Path) -> list[Path]:
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".txt" and path.name != _CLASSES)
    except OSError as error:
        raise ShotfitError(f"the folder {shown(folder)} cannot be read: {error.strerror}.") from error
    return found


def _text(path: Path) -> str:
    return read_text(path, SETTINGS_BYTES, "a file of labels")
