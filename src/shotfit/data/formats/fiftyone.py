"""FiftyOne's data sets on disk.

    labels.json, data/                      FiftyOneImageClassificationDataset, FiftyOneImageDetectionDataset
    samples.json, metadata.json, data/      FiftyOneDataset: the field ground_truth, or --label-column NAME

A labels.json has {"classes": [...], "labels": {"name without ending": class number or name}}, with confidences
{"label": ..., "confidence": ...} in place of a class; data.json, where there is one, has the path for each name. Tags
that are called after a part are the part of a sample. (An ImageClassificationDirectoryTree is class folders.)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from shotfit.data.formats.annotated import (
    Annotated,
    Box,
    Files,
    box_of,
    entry,
    label_of,
    listed_annotated,
    objects,
)
from shotfit.data.formats.documents import mentions, read_json
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing, Part, part_named
from shotfit.errors import ShotfitError, first_few

__all__ = ["read", "recognizes"]

WHAT = "FiftyOne's data sets"
_LABELS, _SAMPLES = "labels.json", "samples.json"
_FIELD = "ground_truth"
_LABEL_TYPES = ("Classification", "Classifications", "Detections", "Detection")


def recognizes(source: Path) -> bool:
    """A folder with labels.json beside data/ or data.json, or samples.json beside metadata.json; or such a file."""
    folder, name = (source, None) if source.is_dir() else (source.parent, source.name)
    whole = (folder / "metadata.json").is_file() and mentions(folder / _SAMPLES, "{", "samples")
    if whole and name in (None, _SAMPLES):
        return True
    beside = (folder / "data").is_dir() or (folder / "data.json").is_file()
    return name in (None, _LABELS) and beside and mentions(folder / _LABELS, "{", "labels")


def read(source: Path, how: How) -> Listing:
    """The pictures with their labels, or their detections.

    Raises:
        ShotfitError: no such JSON, an entry that is malformed, no field of labels or several.
    """
    replace(how, label_column=None).check_columns(source, "FiftyOne's data sets")
    folder = source if source.is_dir() else source.parent
    path = source if not source.is_dir() else folder / _SAMPLES if (folder / _SAMPLES).is_file() else folder / _LABELS
    if not path.exists():
        raise ShotfitError(f"{shown(folder)} holds no {_LABELS} and no {_SAMPLES}; expected a data set of FiftyOne.")
    content = read_json(path, WHAT)
    places = [how.images] if how.images else [folder, folder / "data"]
    if isinstance(content, dict) and isinstance(content.get("labels"), dict):
        how.check_columns(source, "FiftyOne's labels.json")
        classes = _classes(content, shown(path))
        images = _labelled(path, content["labels"], classes, _manifest(folder), Files([places[-1], folder]))
        return listed_annotated(images, f"FiftyOne file {path.name}", source, classes=classes, padding=how.padding)
    if isinstance(content, dict) and "samples" in content:
        samples = objects(content["samples"], shown(path), "samples")
        field = how.label_column or _field(path, samples)
        files = Files(places)
        images = [_sample(f"{shown(path)}, sample {number}", one, field, files) for number, one in enumerate(samples)]
        reader = f"FiftyOne file {path.name} (field {entry(field)})"
        origin = f"the samples of {path.name} that are tagged test"
        return listed_annotated(images, reader, source, origin, padding=how.padding)
    raise ShotfitError(f"{shown(path)} is no file of FiftyOne; expected an object with labels, or with samples.")


def _classes(content: dict[str, Any], where: str) -> list[str]:
    names = content.get("classes") or []
    if not isinstance(names, list):
        raise ShotfitError(f"{where}: classes is {entry(names)}; expected a list of names.")
    return [label_of(name, f"{where}, class {number}") for number, name in enumerate(names)]


def _manifest(folder: Path) -> dict[str, Any]:
    """Paths by the names of data.json, without their endings, as FiftyOne takes them."""
    path = folder / "data.json"
    if not path.is_file():
        return {}
    content = read_json(path, WHAT)
    if not isinstance(content, dict):
        raise ShotfitError(f"{shown(path)} is {entry(content)}; expected an object of names and paths.")
    return {_without_ending(name): value for name, value in content.items()}


def _without_ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem if dot and "/" not in ending else name


def _labelled(
    path: Path, labels: dict[str, Any], classes: list[str], manifest: dict[str, Any], files: Files
) -> list[Annotated]:
    images = []
    for name, target in labels.items():
        where = f"{shown(path)}, {entry(name)}"
        picture = files.picture(manifest.get(name, name), where)
        if isinstance(target, list) and any(isinstance(one, dict) and "bounding_box" in one for one in target):
            boxes = [_box(one, where, classes) for one in objects(target, where, "the list of boxes")]
            images.append(Annotated(picture, boxes=boxes, relative=True))
        else:
            targets = target if isinstance(target, list) else [] if target is None else [target]
            images.append(Annotated(picture, labels=[_target(one, where, classes) for one in targets]))
    return images


def _target(target: Any, where: str, classes: list[str]) -> str:
    """The label of a target: a name, or the number of a class, or an object that has one of these."""
    if isinstance(target, dict):
        target = target.get("label")
    if isinstance(target, int) and not isinstance(target, bool) and classes:
        if not 0 <= target < len(classes):
            raise ShotfitError(f"{where}: there is no class {entry(target)}; expected 0 to {len(classes) - 1}.")
        return classes[target]
    return label_of(target, where)


def _box(found: dict[str, Any], where: str, classes: list[str]) -> Box:
    return box_of(_target(found, where, classes), found.get("bounding_box"), where)


def _field(path: Path, samples: list[dict[str, Any]]) -> str:
    """The field with labels: ground_truth, else the only one that has any."""
    found = dict.fromkeys(key for sample in samples for key, value in sample.items() if _type(value))
    if _FIELD in found:
        return _FIELD
    if len(found) != 1:
        names = first_few([entry(name) for name in found], 5) or "none"
        raise ShotfitError(f"{shown(path)} has {len(found)} fields of labels ({names}); name one: --label-column NAME.")
    return next(iter(found))


def _type(value: Any) -> str:
    """The type of a label; "" for another value."""
    found = value.get("_cls") if isinstance(value, dict) else None
    return found if found in _LABEL_TYPES else ""


def _sample(where: str, sample: dict[str, Any], field: str, files: Files) -> Annotated:
    picture = files.picture(sample.get("filepath"), where)
    tags = sample.get("tags") if isinstance(sample.get("tags"), list) else []
    parts: list[Part] = [named for tag in tags or () if isinstance(tag, str) and (named := part_named(tag))]
    part = parts[0] if parts else "train"
    value = sample.get(field)
    kind = _type(value)
    if value is None:
        return Annotated(picture, part)
    if not kind:
        raise ShotfitError(f"{where}: {field} is {entry(value)}; expected a classification or detections.")
    if kind.startswith("Detection"):
        found = [value] if kind == "Detection" else objects(value.get("detections"), where, "detections")
        return Annotated(picture, part, boxes=[_box(one, where, []) for one in found], relative=True)
    several = [value] if kind == "Classification" else objects(value.get("classifications"), where, "classifications")
    labels = [_target(one, where, []) for one in several if one.get("label") is not None]
    return Annotated(picture, part, labels)
