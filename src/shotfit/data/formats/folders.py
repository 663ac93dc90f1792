"""Class folders: `DIR/CLASS/IMAGE`, or `DIR/{train,val,test}/CLASS/IMAGE`.

Classes are the folders sorted by name, their files sorted by name, those in folders inside of a class folder too. Names
that begin with a dot are passed over. A single folder that wraps the others is gone through. What would be read as
something that it is not is refused: pictures with a file of labels beside them, folders of domains.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from shotfit.data.classnames import NAMES_FILE
from shotfit.data.images import SUFFIXES, shown
from shotfit.data.listing import PARTS, How, Listing, Part, parts_named
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, UsageError, first_few

__all__ = ["read", "recognizes"]

_LABEL_FILES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt", ".xlsx", ".xls", ".xml")


def recognizes(source: Path) -> bool:
    """Any folder may hold class folders."""
    return source.is_dir()


def read(source: Path, how: How) -> Listing:
    """The pictures of the class folders.

    Raises:
        ShotfitError: no class folders, pictures without one beside a file of labels, domains, two folders for one part.
        UsageError: anything said of paths and columns, which folders do not have.
    """
    if how.images is not None:
        raise UsageError(
            f"an images folder ({shown(how.images)}) goes with a manifest or a split file; {shown(source)} is a folder "
            "of class folders, whose images are found in them."
        )
    how.check_columns(source, "class folders")
    top, notes = _Folder(source), list[str]()
    loops, ignored = list(top.loops), list(top.others)
    while (wrapped := _wrapped(top)) is not None:
        notes.append(f"all of it lies in the folder {wrapped.path.name}/")
        top = wrapped
        loops += top.loops
        ignored += top.others
    part_folders = _parts(top)
    ignored = [*top.images, *(path for path in ignored if path.name != NAMES_FILE)]
    below: dict[Part, list[_Folder]] = {}  # class folders
    if part_folders:
        ignored += [path for path in top.folders if path not in [folder.path for folder in part_folders.values()]]
        for part, inside in part_folders.items():
            below[part] = _classes(inside)
            ignored += [*inside.images, *inside.others]
            loops += inside.loops
    else:
        below["train"] = _classes(top)
    classes = sorted({inside.path.name for folders in below.values() for inside in folders})
    if len(classes) == 1:
        _check_labels([top, *part_folders.values(), *(folder for folders in below.values() for folder in folders)])
    position = {name: i for i, name in enumerate(classes)}
    parts: dict[Part, list[tuple[Picture, int]]] = {part: [] for part in PARTS}
    deeper = 0
    for part, folders in below.items():
        for outer in folders:
            for inside in _all_below(outer):
                parts[part] += [(Picture(image), position[outer.path.name]) for image in inside.images]
                ignored += inside.others
                loops += inside.loops
                deeper += len(inside.images) if inside is not outer else 0
    if deeper:
        notes.append(f"{deeper:,} images lie in folders inside of class folders and belong to these classes")
    names = [f"{part_folders[part].path.name}/" for part in PARTS if part in part_folders]
    return Listing(
        reader=f"class folders under {_and(names)}" if names else "class folders",
        classes=tuple(classes),
        parts=parts,
        numbered=True,
        test_origin=f"the folder {part_folders['test'].path.name}/" if parts["test"] else "",
        ignored=tuple(sorted(ignored)),
        loops=tuple(sorted(loops)),
        notes=tuple(notes),
    )


def _wrapped(top: _Folder) -> _Folder | None:
    """The only folder of a folder, where class folders lie in it and not in the folder itself."""
    if len(top.folders) != 1 or top.images or parts_named([top.folders[0].name]):
        return None
    inside = _Folder(top.folders[0])
    return inside if not inside.images and len(inside.folders) > 1 and any(map(_holds_images, inside.folders)) else None


def _parts(top: _Folder) -> dict[Part, _Folder]:
    """The folders that are named after the parts and hold class folders; others are classes: trains, tests."""
    found: dict[Part, _Folder] = {}
    named, flat = parts_named([path.name for path in top.folders]), []
    for path in top.folders:
        part = named.get(path.name)
        inside = _Folder(path) if part else None
        if part is None or inside is None:
            continue
        if inside.images or not inside.folders:
            flat.append(inside)
            continue
        if part in found:
            raise ShotfitError(
                f"{shown(top.path)} has two {part} folders, {found[part].path.name} and {path.name}; keep one."
            )
        found[part] = inside
    if flat and not found and len(flat) == len(top.folders):
        _check_labels([top, *flat])
        raise ShotfitError(
            f"the pictures in {shown(flat[0].path)} lie directly in it, in no class folder; expected "
            f"{shown(flat[0].path)}/CLASS/IMAGE, or a manifest with lines path,label."
        )
    return found


def _check_labels(folders: Iterable[_Folder]) -> None:
    """Refuse pictures that are not sorted into folders while a file that may hold their labels lies beside them."""
    for folder in folders:
        files = [path for path in folder.others if path.suffix.lower() in _LABEL_FILES]
        if files:
            raise ShotfitError(
                f"{shown(folder.path)} has no class folders to tell the pictures' classes, but a file that may name "
                f"them, {files[0].name}: name that file in place of the folder (and the folder that its paths begin in "
                "with --images)."
            )


def _classes(top: _Folder) -> list[_Folder]:
    """The class folders; refuses a folder that holds no classes, and one that holds folders of classes."""
    if not top.folders:
        if top.images:
            _check_labels([top])
        raise ShotfitError(
            f"{shown(top.path)} holds no class folders ({len(top.images)} images lie directly in it); expected "
            f"{shown(top.path)}/CLASS/IMAGE, or a manifest with lines path,label."
        )
    inside = [_Folder(path) for path in top.folders]
    domains = [folder.path for folder in inside if _is_domain(folder)]
    if 2 * len(domains) > len(inside):
        raise ShotfitError(
            f"{shown(top.path)} holds domains ({first_few([path.name for path in domains], 5)}) with class folders in "
            f"them, not classes; pass one domain, e.g. {shown(domains[0])}."
        )
    return inside


def _is_domain(folder: _Folder) -> bool:
    """Whether more folders with images lie in it than images: a stray picture makes no class of a domain."""
    return sum(map(_holds_images, folder.folders)) > len(folder.images)


class _Folder:
    """The visible entries of a folder, sorted by name: images, folders, others, and links that loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: list[Path] = []
        self.folders: list[Path] = []
        self.others: list[Path] = []
        self.loops: list[Path] = []
        try:
            entries = sorted(path.iterdir(), key=lambda entry: entry.name)
        except OSError as error:
            raise ShotfitError(f"the folder {shown(path)} cannot be read: {error.strerror}.") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and _loops(entry):
                self.loops.append(entry)
            elif entry.is_dir():
                self.folders.append(entry)
            elif entry.suffix.lower() in SUFFIXES:
                self.images.append(entry)
            else:
                self.others.append(entry)


def _all_below(folder: _Folder) -> list[_Folder]:
    """The folder and all in it, without those that links lead to: what they hold is there under its own name."""
    found = [folder]
    for path in folder.folders:
        if not path.is_symlink():
            found += _all_below(_Folder(path))
    return found


def _loops(link: Path) -> bool:
    """Whether a link leads to itself, over other links too, or to a folder that it lies in."""
    try:
        target = link.resolve(strict=True)
        home = link.parent.resolve()
    except RuntimeError:  # Python 3.12 and earlier
        return True
    except OSError as error:
        return error.errno == errno.ELOOP
    return target == home or target in home.parents


def _holds_images(folder: Path) -> bool:
    """Whether images lie anywhere below the folder; links inside are not followed."""
    return any(
        Path(name).suffix.lower() in SUFFIXES for _, _, names in os.walk(folder) for name in names if name[0] != "."
    )


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
