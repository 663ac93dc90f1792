"""CoOp's split files, `split_zhou_*.json`: the file itself, or a folder that holds one.

One JSON object with the lists `train`, `test` and mostly `val` of triples [path, label, class name]. The order of the
triples decides which images are drawn as shots, so it is kept. Class names are made to be read and taken as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shotfit.data.formats.lines import Places, is_path
from shotfit.data.images import shown
from shotfit.data.listing import PARTS, How, Listing, Part
from shotfit.data.pictures import Picture
from shotfit.data.tasks import composed
from shotfit.errors import ShotfitError
from shotfit.files import LIST_BYTES, read_text

__all__ = ["read", "recognizes"]

_NAMES = "split_zhou_*.json"


def recognizes(source: Path) -> bool:
    """A file of that name, or a folder with one in it."""
    return source.match(_NAMES) or (source.is_dir() and next(source.glob(_NAMES), None) is not None)


def read(source: Path, how: How) -> Listing:
    """The images of a split file, in its order, with paths relative to its folder or to `how.images`.

    Raises:
        ShotfitError: several in the folder, no such JSON, or one label with two class names.
    """
    how.check_columns(source, "CoOp's split files")
    path = _split_file(source) if source.is_dir() else source
    places = Places(how.images or path.parent)
    content = _json_object(path)
    names: dict[int, str] = {}
    triples: dict[Part, list[tuple[Picture, int]]] = {}
    for part in PARTS:
        triples[part] = []
        for entry in content.get(part, []):
            file, label, name = _triple(path, part, entry)
            name = composed(name)
            if names.setdefault(label, name) != name:
                raise ShotfitError(f"{shown(path)} gives label {label} two names: {names[label]!r} and {name!r}.")
            triples[part].append((places.picture(file), label))
    if not names:
        raise ShotfitError(f"{shown(path)} lists no image; expected triples [path, label, class name].")
    position = {label: i for i, label in enumerate(sorted(names))}
    return Listing(
        reader=f"CoOp split file {path.name}",
        classes=tuple(names[label] for label in position),
        parts={part: [(file, position[label]) for file, label in found] for part, found in triples.items()},
        numbered=False,
        test_origin=f"the test list of {path.name}" if triples["test"] else "",
    )


def _split_file(folder: Path) -> Path:
    splits = sorted(folder.glob(_NAMES))
    if len(splits) != 1:
        found = ", ".join(path.name for path in splits) or "none"
        raise ShotfitError(f"{shown(folder)} holds {len(splits)} split files ({found}); name one.")
    return splits[0]


def _json_object(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(read_text(path, LIST_BYTES, "a split file"))
    except (ValueError, RecursionError) as error:
        raise ShotfitError(f"{shown(path)} is not valid JSON ({error}); expected a split file.") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part, []), list) for part in PARTS):
        content = {}
    if "train" not in content and "test" not in content:
        raise ShotfitError(
            f"{shown(path)} is no split file; expected an object with the lists train, val and test of triples "
            "[path, label, class name]. Make a manifest of another list: a .jsonl with an object a line (jq -c '.[]' "
            "makes them of an array), or a CSV with the first line path,label."
        )
    return content


def _triple(path: Path, part: Part, entry: object) -> tuple[str, int, str]:
    match entry:
        case [str(file), int(label), str(name)] if is_path(file):
            return file, label, name
    raise ShotfitError(
        f"{shown(path)} has the entry {json.dumps(entry)[:80]} under {part}; expected [path, label, class name]."
    )
