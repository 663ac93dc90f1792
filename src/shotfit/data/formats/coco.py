"""COCO: a JSON file of images, annotations and categories, or a folder of such files.

    instances.json, its images beside it or in images/
    annotations/instances_train2017.json, annotations/instances_val2017.json, train2017/, val2017/
    train/_annotations.coco.json, valid/_annotations.coco.json, as Roboflow writes them
    train/coco.json, train/images/, test/coco.json, test/images/

Boxes are images of their own. Annotations without a box are labels of whole pictures. Crowds are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from shotfit.data.formats.annotated import (
    Annotated,
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
from shotfit.data.formats.documents import mentions, read_json
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing, Part, part_named, parts_named
from shotfit.errors import ShotfitError, first_few

__all__ = ["COCO_BYTES", "WHAT", "folders_of", "id_of", "read", "recognizes"]

WHAT = "COCO's annotations"
COCO_BYTES = 512 * 2**20  # instances_train2017.json has 428 MiB
_UNREAD = frozenset({"segmentation", "keypoints", "caption"})
_KEYS = ("images", "categories")


def recognizes(source: Path) -> bool:
    """A JSON file that mentions images and categories, or a folder with such files where COCO has them."""
    if source.is_dir():
        return bool(_files(source))
    return source.suffix.lower() == ".json" and mentions(source, "{", *_KEYS)


def read(source: Path, how: How) -> Listing:
    """The boxes, or pictures, of the file, or of each part's file.

    Raises:
        ShotfitError: no such JSON, an entry that is malformed or refers to nothing, several files for one part.
    """
    how.check_columns(source, "COCO's files")
    parts: dict[Path, Part] = _parts(source) if source.is_dir() else {source: "train"}
    images: list[Annotated] = []
    classes: dict[str, float] = {}
    crowds = 0
    for path, part in parts.items():
        content = read_json(path, WHAT, COCO_BYTES, _UNREAD)
        if not isinstance(content, dict) or not all(key in content for key in _KEYS):
            raise ShotfitError(f"{shown(path)} is no COCO file; expected an object with images and categories.")
        names = _names(path, content)
        for number, name in names.items():
            classes.setdefault(name, number if isinstance(number, int) else len(classes))
        found, crowded = _images(path, part, content, names, how)
        images += found
        crowds += crowded
    called = {path: str(path.relative_to(source)) if source.is_dir() else path.name for path in parts}
    return listed_annotated(
        images,
        f"COCO file {first_few([*called.values()])}",
        source,
        f"the images of {first_few([called[path] for path, part in parts.items() if part == 'test'])}",
        sorted(classes, key=lambda name: classes[name]),
        left_out(crowds, "box", "of a crowd (iscrowd)"),
        how.padding,
    )


def _files(folder: Path) -> list[Path]:
    """COCO's files in a folder, in its folder annotations/, or in those of its parts."""
    try:
        found = sorted(folder.glob("*.json")) + sorted(folder.glob("annotations/*.json"))
        found += sorted(folder.glob("*/_annotations.coco.json"))
        inside = [path for path in sorted(folder.iterdir()) if part_named(path.name)]
        parted = [file for path in inside for home in (path, path / "annotations") for file in home.glob("*.json")]
    except OSError:
        return []
    for paths in (found, sorted(parted)):
        files = [path for path in dict.fromkeys(paths) if mentions(path, "{", *_KEYS)]
        if files:
            return [path for path in files if path.name.startswith("instances")] or files
    return []


def _called(path: Path, folder: Path) -> str:
    """What tells the part of a file: the folder of a part that it lies in, or its own name."""
    first = path.relative_to(folder).parts[0]
    return first if first != path.name and part_named(first) else path.stem


def _parts(folder: Path) -> dict[Path, Part]:
    files = _files(folder)
    names = {path: _called(path, folder) for path in files}
    named = parts_named(names.values())
    parts: dict[Path, Part] = {path: named[name] for path, name in names.items() if name in named}
    if len(files) == 1 or not parts:
        return {only_file(folder, files, "COCO files"): parts.get(files[0], "train") if files else "train"}
    if len(set(parts.values())) < len(files):
        told = first_few([str(path.relative_to(folder)) for path in files])
        raise ShotfitError(
            f"{shown(folder)} holds {len(files)} COCO files ({told}); expected one for each of train, val and test: "
            "name one."
        )
    return parts


def _names(path: Path, content: dict[str, Any]) -> dict[Any, str]:
    """The categories' names by id."""
    names: dict[Any, str] = {}
    for number, category in enumerate(objects(content["categories"], shown(path), "categories")):
        where = f"{shown(path)}, category {number}"
        names[id_of(category.get("id"), where)] = label_of(category.get("name"), where)
    return names


def id_of(value: object, where: str) -> int | str:
    """An id, which is a number or a text. Raises ShotfitError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ShotfitError(f"{where}: the id is {entry(value)}; expected a number.")
    return value


def _images(
    path: Path, part: Part, content: dict[str, Any], names: dict[Any, str], how: How
) -> tuple[list[Annotated], int]:
    """The images of a file in its order, and how many crowds were left out."""
    labels: dict[Any, list[str]] = {}
    boxes: dict[Any, list[Any]] = {}
    crowds = 0
    for number, found in enumerate(objects(content.get("annotations"), shown(path), "annotations")):
        where = f"{shown(path)}, annotation {entry(found.get('id', number), 40)}"
        image, category = (id_of(found.get(key), where) for key in ("image_id", "category_id"))
        if category not in names:
            raise ShotfitError(f"{where}: there is no category {entry(category, 40)}.")
        if found.get("iscrowd"):
            crowds += 1
        elif found.get("bbox"):
            boxes.setdefault(image, []).append(box_of(names[category], found["bbox"], where))
        else:
            labels.setdefault(image, []).append(names[category])
    files, images = Files(folders_of(path, how.images)), []
    for number, found in enumerate(objects(content["images"], shown(path), "images")):
        where = f"{shown(path)}, image {entry(found.get('id', number), 40)}"
        key = id_of(found.get("id"), where)
        picture = files.picture(found.get("file_name"), where)
        sides = tuple(number_of(found.get(side) or 0, where, side) for side in ("width", "height"))
        size = (sides[0], sides[1]) if min(sides) > 0 else None
        images.append(Annotated(picture, part, labels.pop(key, ()), boxes.pop(key, ()), size))
    lost = [*labels, *boxes]
    if lost:
        raise ShotfitError(f"{shown(path)} annotates the image {entry(lost[0], 40)}, which is not among its images.")
    return images, crowds


def folders_of(path: Path, images: Path | None) -> list[Path]:
    """Where the images of a file may lie; train2017/ for instances_train2017.json, images/default/ as CVAT has it."""
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    tails = [re.split(r"[_.]", path.stem)[-1], *([root.name] if part_named(root.name) else [])]
    if images is not None:
        return [images, *(images / tail for tail in tails)]
    inside = [root / "images" / tail for tail in tails] + [root / tail for tail in tails]
    return [path.parent, *inside, root / "images", root / "data", root]
