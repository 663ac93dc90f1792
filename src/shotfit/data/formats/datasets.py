"""Hugging Face's `datasets` as `save_to_disk` leaves them: Arrow files with `dataset_info.json` and `state.json`.

A DatasetDict is a folder a part with `dataset_dict.json` beside them. Folders of the library's own cache, which have no
`state.json`, and a single .arrow file are read too. Read with pyarrow alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shotfit.data.formats.lines import is_path
from shotfit.data.formats.shards import shards
from shotfit.data.formats.tables import names_of_features, read_tables
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing, Part, parts_named
from shotfit.errors import ShotfitError
from shotfit.files import SETTINGS_BYTES, read_text

__all__ = ["read", "recognizes"]

_DICT, _INFO, _STATE = "dataset_dict.json", "dataset_info.json", "state.json"
SUFFIXES = (".arrow",)


def recognizes(source: Path) -> bool:
    """A folder with the files of a saved dataset, or a .arrow file."""
    if not source.is_dir():
        return source.suffix.lower() in SUFFIXES
    return (source / _DICT).is_file() or (source / _INFO).is_file() or (source / _STATE).is_file()


def read(source: Path, how: How) -> Listing:
    """The pictures of the dataset, those of a DatasetDict by part.

    Raises ShotfitError for what was not saved so, and as `read_tables` does; UsageError.
    """
    if not source.is_dir():
        return read_tables([(source, "train")], how, f"Arrow table {source.name}", names=_names_in(source.parent))
    notes = list[str]()
    homes = {source.name: source}
    parts: dict[str, Part] = {source.name: "train"}
    if (source / _DICT).is_file():
        names = _object(source / _DICT).get("splits")
        if not (isinstance(names, list) and names and all(isinstance(one, str) and _is_name(one) for one in names)):
            raise ShotfitError(f"{shown(source / _DICT)} lists no splits; expected their names, which are folders.")
        parts = parts_named(names)
        homes = {name: source / name for name in parts}
        others = [name for name in names if name not in parts]
        if not parts:
            homes, parts = {names[0]: source / names[0]}, {names[0]: "train"}
            others = names[1:]
        notes += [f"the split {name} is none of train, val and test and is left out" for name in others]
    files, known = list[tuple[Path, Part]](), dict[str, tuple[str, ...]]()
    for name, home in homes.items():
        files += _files(home, parts[name])
        known = known or _names_in(home)
    return read_tables(files, how, f"saved dataset {source.name}", "the split for testing", notes, known)


def _names_in(home: Path) -> dict[str, tuple[str, ...]]:
    """The names of classes by column, of the description in a folder."""
    return names_of_features(_object(home / _INFO).get("features")) if (home / _INFO).is_file() else {}


def _files(home: Path, part: Part) -> list[tuple[Path, Part]]:
    """The Arrow files of a dataset, in its order."""
    if (home / _STATE).is_file():
        listed = _object(home / _STATE).get("_data_files")
        match listed:
            case [*entries] if entries and all(_is_file(entry) for entry in entries):
                return [(home / Path(entry["filename"]).name, part) for entry in entries]
        raise ShotfitError(f"{shown(home / _STATE)} lists no data files; expected those that save_to_disk wrote.")
    found = shards(home, SUFFIXES)[0] if home.is_dir() else []
    if not found:
        raise ShotfitError(f"{shown(home)} holds no .arrow file; expected those that save_to_disk wrote.")
    return found


def _is_name(text: str) -> bool:
    return is_path(text) and Path(text).name == text


def _is_file(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("filename"), str) and is_path(entry["filename"])


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, SETTINGS_BYTES, "a description of a dataset"))
    except (ValueError, RecursionError) as error:
        raise ShotfitError(f"{shown(path)} is not valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ShotfitError(f"{shown(path)} holds no object; expected what save_to_disk wrote.")
    return content
