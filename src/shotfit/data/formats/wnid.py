"""Class folders that are named by WordNet's ids (`n01440764`), as those of ImageNet and its relatives, with names.

The names stand in a file in the folder or up to three above it: `LOC_synset_mapping.txt`, `synset_words.txt`,
`words.txt`, `classnames.txt` (lines of id and names), or `imagenet_class_index.json`. A class gets its first name:
`n01440764 tench, Tinca tinca` is `tench`. A part whose pictures lie in no class folder is read by
`val_annotations.txt` in it (Tiny ImageNet) or by `LOC_val_solution.csv` above (ImageNet of Kaggle).

Without a file of names these are class folders as others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from shotfit.data.formats.folders import check_plain
from shotfit.data.formats.tree import Folder
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing, Part, Row, listed, parts_named
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, first_few
from shotfit.files import SETTINGS_BYTES, read_text

__all__ = ["read", "recognizes"]

_ID = re.compile(r"n\d{8}")
_LINE = re.compile(r"(n\d{8})[\s,:]+(\S.*)")
_NAMES = (
    *("LOC_synset_mapping.txt", "synset_words.txt", "imagenet_class_index.json", "classnames.txt"),
    *("words.txt", "wordnet.txt", "synsets.txt"),
)
_ANSWERS = ("val_annotations.txt", "LOC_val_solution.csv")
_ABOVE = 3


def recognizes(source: Path) -> bool:
    """A folder whose folders, or those of its parts, are mostly called by ids, with a file that names some of them."""
    try:
        if not source.is_dir():
            return False
        top = Folder(source)
        parts = _parts(top).values()
        found = {folder.name for home in (top, *parts) for folder in islice(home.folders, 5000)}
        ids = {name for name in found if _ID.fullmatch(name)}
        others = found - ids - {part.name for part in parts}
        return len(ids) > len(others) and bool(ids & _names(source)[0].keys())
    except (ShotfitError, OSError, ValueError):
        return False


def read(source: Path, how: How) -> Listing:
    """The pictures of the class folders.

    Raises ShotfitError for no such folders or no names; UsageError for what is said of paths and columns.
    """
    check_plain(source, how, "class folders by WordNet ids")
    top = Folder(source)
    names, file = _names(source)
    parts = _parts(top)
    homes: dict[Part, Folder] = parts if any(map(_classes, parts.values())) else {"train": top}
    rows, ids, loops = list[Row](), set[str](), list(top.loops)
    read_from = [*homes.values(), *(_classes(top) if top in homes.values() else ())]
    ignored = [*top.others, *(folder.path for folder in top.folders if folder not in read_from)]
    for part, home in homes.items():
        classes = _classes(home)
        ids |= {folder.name for folder in classes}
        for folder in classes:
            for inside in folder.below():
                rows += [Row(image, folder.name, part) for image in inside.images]
                ignored += inside.others
                loops += inside.loops
        if not classes:
            flat = [image for inside in home.below() for image in inside.images]
            answers = _answers(home.path, source)
            rows += [Row(image, answers[_stem(image)], part) for image in flat if _stem(image) in answers]
            ignored += [image.path for image in flat if _stem(image) not in answers]
        elif home is not top:
            ignored += [*home.others, *(image.path for image in home.images)]
    ids |= {row.label for row in rows}
    if not ids or file is None:
        missing = "class folders named by WordNet ids (n01440764)" if not ids else f"file of their names ({_NAMES[0]})"
        raise ShotfitError(f"{shown(source)} has no {missing}; expected both, or --read-as folders.")
    said = [f"{parts_home.name}/" for parts_home in homes.values() if parts_home is not top]
    listing = listed(
        rows,
        f"class folders by WordNet ids{' under ' if said else ''}{' and '.join(said)}, named by {file.name}",
        f"the folder {homes['test'].name}/" if "test" in homes else "",
        classes=sorted(ids),
        ignored=(path for path in ignored if path.name not in (*_NAMES, *_ANSWERS)),
        loops=loops,
    )
    nameless = [one for one in listing.classes if one not in names]
    notes = [f"{file.name} has no name for {len(nameless):,} classes: {first_few(nameless)}"] if nameless else []
    return replace(listing, classes=tuple(names.get(one, one) for one in listing.classes), notes=tuple(notes))


def _parts(top: Folder) -> dict[Part, Folder]:
    named = parts_named([folder.name for folder in top.folders])
    return {named[folder.name]: folder for folder in reversed(top.folders) if folder.name in named}


def _classes(home: Folder) -> list[Folder]:
    return [folder for folder in home.folders if _ID.fullmatch(folder.name)]


def _stem(image: Picture) -> str:
    return image.path.stem


def _homes(source: Path) -> Iterator[Path]:
    """The folder and those above it."""
    yield from (source, *source.parents[:_ABOVE])


def _names(source: Path) -> tuple[dict[str, str], Path | None]:
    """The first name of each id, and the file that has it; the nearest file that names any."""
    for path in (home / name for home in _homes(source) for name in _NAMES):
        if path.is_file():
            found = _of_json(path) if path.suffix == ".json" else dict(_of_lines(path))
            if found:
                return found, path
    return {}, None


def _of_lines(path: Path) -> Iterator[tuple[str, str]]:
    for line in read_text(path, SETTINGS_BYTES, "a file of class names", "replace").split("\n"):
        found = _LINE.fullmatch(line.strip())
        if found and (name := found[2].split(",")[0].strip().strip('"')):
            yield found[1], name


def _of_json(path: Path) -> dict[str, str]:
    try:
        content = json.loads(read_text(path, SETTINGS_BYTES, "a file of class names"))
    except (ValueError, RecursionError) as error:
        raise ShotfitError(f"{shown(path)} is not valid JSON ({error}).") from error
    found: dict[str, str] = {}
    for entry in content.values() if isinstance(content, dict) else ():
        match entry:
            case [str(one), str(name)] if _ID.fullmatch(one) and name.strip():
                found[one] = name
    return found


def _answers(home: Path, source: Path) -> dict[str, str]:
    """The id of each picture of a part, by the picture's name without ending."""
    found: dict[str, str] = {}
    for path in (folder / name for folder in (home, *_homes(source)) for name in _ANSWERS):
        if path.is_file():
            for line in read_text(path, SETTINGS_BYTES, "a list of labels", "replace").split("\n"):
                name, *words = re.split(r"[\t, ]+", line.strip())
                if words and _ID.fullmatch(words[0]):
                    found[Path(name).stem] = words[0]
            break
    return found
