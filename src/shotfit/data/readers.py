"""From what a user points at to a task: class folders, a manifest, or CoOp's split file.

    read_task(Path("photos"))               # photos/CLASS/IMAGE, or photos/{train,val,test}/CLASS/IMAGE
    read_task(Path("labels.csv"))           # path,label[,split]
    read_task(Path("labels.csv"), group_column="patient")       # all images of a patient in one part
    read_task(Path("caltech-101"), images=Path("caltech-101/101_ObjectCategories"))     # a split file lies inside

A split file that lies in a folder wins over the folders beside it. Classes are the folders sorted by name, their files
sorted by name; names that begin with a dot are passed over; whatever else lies there is listed in `Task.ignored`.

Without a test part, a fifth of each class's train images becomes the test part (`held_out.py`).
"""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from shotfit.calls import checked
from shotfit.data.classnames import NAMES_FILE, ClassNames, read_class_names, without_numbers
from shotfit.data.filecache import FileCache
from shotfit.data.held_out import held_out_share
from shotfit.data.images import SUFFIXES, shown
from shotfit.data.listing import PART_NAMES, PARTS, Listing, Part
from shotfit.data.manifests import read_manifest, read_split_file
from shotfit.data.missing import reason_none_exists
from shotfit.data.tasks import DEFAULT_TEMPLATE, ClassList, Item, Task, composed, expand_templates
from shotfit.errors import ShotfitError, UsageError, first_few

__all__ = ["read_task"]

_SPLIT_FILES = "split_zhou_*.json"
_MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson")


@checked
def read_task(
    source: str | Path,
    *,
    images: str | Path | None = None,
    class_names: str | Path | None = None,
    templates: Sequence[str] = (),
    name: str | None = None,
    group_column: str | None = None,
    cache: Path | None = None,
) -> Task:
    """The task that `source` holds: a folder, a manifest (.csv, .tsv, .jsonl, .ndjson) or a split file (.json).

    Args:
        images: the folder that the paths of a manifest or split file are relative to; by default the file's own.
        class_names: a `classes.toml`; by default the one beside the images or the manifest, if there is one.
        templates: go before those of `classes.toml`; texts with one `{}`, or names of sets ("ensemble").
        name: the task's name; by default that of the folder or file.
        group_column: the column of a manifest that names the group of each image (a patient, a track, a shop). Groups
            stay together: in the test part where it is made here, and wherever images are dealt into folds.
        cache: a folder in which the files' digests are kept, so that a second call reads no image.

    A validation image that is in the test part too counts for that alone, and `test_origin` says so.
    Images are read for their digest but not decoded: what is broken, missing or doubled is the doctor's to report.

    Raises:
        ShotfitError: nothing there to read, a folder of domains, a malformed manifest or `classes.toml`.
        UsageError: `images` together with class folders, or `group_column` with anything but a manifest.
    """
    source = _absolute(source)
    images = None if images is None else _absolute(images)
    listing = _read(source, images, group_column)
    beside = (source if source.is_dir() else source.parent) / NAMES_FILE
    names = read_class_names(Path(class_names or beside)) if class_names or beside.is_file() else ClassNames()
    classes = ClassList(
        task=name or (source.name if source.is_dir() else source.stem.removeprefix("split_zhou_")),
        names=names.apply(listing.classes, without_numbers(listing.classes) if listing.numbered else listing.classes),
        templates=expand_templates(templates) or names.templates or (DEFAULT_TEMPLATE,),
    )
    parts = _items(listing, FileCache(cache))
    _check_found(parts, source, images)
    test_origin = listing.test_origin
    if not parts["test"]:
        parts["train"], parts["test"] = held_out_share(parts["train"], parts["val"])
        test_origin = (
            f"about a fifth of each class, in whole groups of {group_column}"
            if group_column
            else "a fifth of each class, chosen by content"
        )
        if not parts["test"]:
            test_origin = "none, because no class has a second image, or group, to hold out"
    parts["val"], shared = _without(parts["val"], parts["test"])
    if shared:
        test_origin += f"; {shared:,} of its images were also for validation and are left out there"
    return Task(
        classes=classes,
        train=tuple(parts["train"]),
        val=tuple(parts["val"]),
        held_out=tuple(parts["test"]),
        source=source,
        reader=listing.reader,
        test_origin=test_origin,
        ignored=listing.ignored,
        loops=listing.loops,
    )


def _without(val: Sequence[Item], test: Sequence[Item]) -> tuple[list[Item], int]:
    """The validation items that are not in the test part too, by path or content, and how many were.

    ImageNet's split of CoOp has its validation images as test images: a search on them would choose by the test part.
    """
    paths, digests = {item.path for item in test}, {item.digest for item in test} - {""}
    own = [item for item in val if item.path not in paths and item.digest not in digests]
    return own, len(val) - len(own)


def _read(source: Path, images: Path | None, group_column: str | None) -> Listing:
    if group_column is not None:
        if source.suffix.lower() not in _MANIFESTS:
            raise UsageError(
                f"a group column ({group_column}) goes with a manifest, a file that ends in {', '.join(_MANIFESTS)}; "
                f"{shown(source)} is none."
            )
        if group_column.strip() in ("", "path", "label", "split"):
            raise UsageError(
                f"the group column is {group_column!r}; expected a column of its own, such as patient or track."
            )
    if source.is_dir():
        splits = sorted(source.glob(_SPLIT_FILES))
        if len(splits) > 1:
            found = ", ".join(path.name for path in splits)
            raise ShotfitError(f"{shown(source)} holds {len(splits)} split files ({found}); name one.")
        if splits:
            return read_split_file(splits[0], images or source)
        if images is not None:
            raise UsageError(
                f"an images folder ({shown(images)}) goes with a manifest or a split file; {shown(source)} is a folder "
                "of class folders, whose images are found in them."
            )
        return _read_folders(source)
    if not source.exists():
        raise ShotfitError(f"{shown(source)} does not exist; expected a folder of class folders, or a manifest.")
    if source.suffix.lower() == ".json":
        return read_split_file(source, images or source.parent)
    if source.suffix.lower() in _MANIFESTS:
        return read_manifest(source, images or source.parent, group_column)
    raise ShotfitError(
        f"{shown(source)} is neither a folder nor a manifest; expected a folder of class folders, or a file that ends "
        f"in {', '.join(_MANIFESTS)} or .json (CoOp's split file)."
    )


def _items(listing: Listing, cache: FileCache) -> dict[Part, list[Item]]:
    files = [
        (part, _on_disk(_absolute(path)), label, group)
        for part in PARTS
        for (path, label), group in zip(listing.parts[part], listing.groups_of(part), strict=True)
    ]
    digests = cache.digests([path for _, path, *_ in files])
    parts: dict[Part, list[Item]] = {part: [] for part in PARTS}
    for (part, path, label, group), digest in zip(files, digests, strict=True):
        parts[part].append(Item(path, label, digest, group))
    return parts


def _on_disk(path: Path) -> Path:
    """The path, or the one of a file whose name has the same characters in another Unicode form (see `composed`)."""
    text = os.fspath(path)
    if not text.isascii() and not os.path.lexists(path):
        for form in ("NFC", "NFD"):
            other = Path(unicodedata.normalize(form, text))
            if os.path.lexists(other):
                return other
    return path


def _check_found(parts: dict[Part, list[Item]], source: Path, images: Path | None) -> None:
    """A list whose files are all missing has the wrong folder; one sentence says more than a line for each."""
    items = [item for part in PARTS for item in parts[part]]
    if items and not any(item.digest or os.path.lexists(item.path) for item in items):
        base = _absolute(images or (source if source.is_dir() else source.parent))
        reason = reason_none_exists([item.path for item in items], base, images is not None)
        raise ShotfitError(
            f"none of the {len(items):,} images that {shown(source)} lists exists, e.g. {shown(items[0].path)}; "
            f"{reason}."
        )


def _read_folders(source: Path) -> Listing:
    """Class folders, at the top or under folders that are named after the parts."""
    top = _Folder(source)
    loops = list(top.loops)
    part_folders: dict[Part, Path] = {}
    for path in top.folders:
        part = PART_NAMES.get(path.name.casefold())
        if part and (inside := _Folder(path)).folders and not inside.images:  # else it is a class: trains, tests
            if part in part_folders:
                raise ShotfitError(
                    f"{shown(source)} has two {part} folders, {part_folders[part].name} and {path.name}; keep one."
                )
            part_folders[part] = path
    ignored = [*top.images, *(path for path in top.others if path.name != NAMES_FILE)]
    below: dict[Part, list[_Folder]] = {}  # class folders
    if part_folders:
        ignored += [path for path in top.folders if path not in part_folders.values()]
        for part, path in part_folders.items():
            inside = _Folder(path)
            below[part] = _check_classes(inside)
            ignored += [*inside.images, *inside.others]
            loops += inside.loops
    else:
        below["train"] = _check_classes(top)
    classes = sorted({composed(inside.path.name) for folders in below.values() for inside in folders})
    position = {name: i for i, name in enumerate(classes)}
    parts: dict[Part, list[tuple[Path, int]]] = {part: [] for part in PARTS}
    for part, folders in below.items():
        for inside in folders:
            parts[part] += [(image, position[composed(inside.path.name)]) for image in inside.images]
            ignored += [*inside.folders, *inside.others]
            loops += inside.loops
    listed = [f"{part_folders[part].name}/" for part in PARTS if part in part_folders]
    return Listing(
        reader=f"class folders under {_and(listed)}" if listed else "class folders",
        classes=tuple(classes),
        parts=parts,
        numbered=True,
        test_origin=f"the folder {part_folders['test'].name}/" if parts["test"] else "",
        ignored=tuple(sorted(ignored)),
        loops=tuple(sorted(loops)),
    )


def _check_classes(top: _Folder) -> list[_Folder]:
    """The class folders; refuses a folder that holds no classes, and one that holds folders of classes."""
    if not top.folders:
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


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - without following links, whose names the user knows


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
