"""From what a user points at to a task: class folders, a manifest, or another format that data lie in.

    read_task(Path("photos"))               # photos/CLASS/IMAGE, or photos/{train,val,test}/CLASS/IMAGE
    read_task(Path("labels.csv"))           # path,label[,split]
    read_task(Path("labels.csv"), group_column="patient")       # all images of a patient in one part
    read_task(Path("caltech-101"), images=Path("caltech-101/101_ObjectCategories"))     # a split file lies inside

The formats are in `formats/`, and the first of `FORMATS` that recognizes the source reads it, unless `read_as` names
one. Without a test part, a fifth of each class's train images becomes the test part (`held_out.py`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from shotfit.calls import checked
from shotfit.data.classnames import NAMES_FILE, ClassNames, read_class_names, without_numbers
from shotfit.data.clips import Sampling, framed, is_clip
from shotfit.data.containers import ARCHIVES, TABLES
from shotfit.data.filecache import FileCache, in_threads
from shotfit.data.formats import (
    archive,
    coco,
    coop,
    csv,
    cvat,
    datasets,
    fiftyone,
    folders,
    frames,
    imagefolder,
    jsonl,
    label_studio,
    labelled,
    parquet,
    shards,
    voc,
    webdataset,
    wnid,
    yolo,
)
from shotfit.data.formats.tree import is_hidden
from shotfit.data.held_out import held_out_share
from shotfit.data.images import shown
from shotfit.data.label_sets import check_one_label, refuse_format, separated
from shotfit.data.listing import AS_IT_IS, PARTS, How, Listing, Part, check_padding
from shotfit.data.missing import reason_none_exists
from shotfit.data.pictures import Picture
from shotfit.data.remote.addresses import only_here
from shotfit.data.rules import Rule
from shotfit.data.tasks import DEFAULT_TEMPLATE, ClassList, Item, Task, expand_templates
from shotfit.errors import ShotfitError, UsageError, plural
from shotfit.progress import track

__all__ = ["FORMATS", "read_task", "task_of"]


class Format(Protocol):
    """A module of `formats/`."""

    def recognizes(self, source: Path) -> bool:
        """Whether a source that exists looks like this format; never an error."""

    def read(self, source: Path, how: How) -> Listing:
        """Its pictures and classes, or a ShotfitError."""


FORMATS: dict[str, Format] = {
    "labels": labelled,
    "coop": coop,
    "label-studio": label_studio,
    "cvat": cvat,
    "fiftyone": fiftyone,
    "coco": coco,
    "voc": voc,
    "yolo": yolo,
    "datasets": datasets,
    "imagefolder": imagefolder,
    "csv": csv,
    "jsonl": jsonl,
    "parquet": parquet,
    "webdataset": webdataset,
    "archive": archive,
    "wnid": wnid,
    "folders": folders,
    "frames": frames,
}
"""By the names that --read-as takes, the surest signs first."""

MOST_WRAPPED = 3
"""How many folders in each other are gone through."""

OF_SEVERAL = ("csv", "jsonl", "imagefolder", "parquet", "datasets")
"""Those that may give a picture several labels."""


@checked
def read_task(
    source: str | Path,
    *,
    images: str | Path | None = None,
    class_names: str | Path | None = None,
    templates: Sequence[str] = (),
    name: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    read_as: str | None = None,
    padding: float | None = None,
    frames: int | None = None,
    fps: float | None = None,
    window: Sequence[float] | None = None,
    bands: Sequence[int] | None = None,
    several_labels: bool = False,
    cache: Path | None = None,
) -> Task:
    """The task that `source` holds: a folder, or a file of one of `FORMATS`.

    Args:
        images: the folder that the paths of a manifest or split file are relative to; by default the file's own.
        class_names: a `classes.toml`; by default the one beside the images or the manifest, if there is one.
        templates: go before those of `classes.toml`; texts with one `{}`, or names of sets ("ensemble").
        name: the task's name; by default that of the folder or file.
        path_column, label_column: the columns of a table that name each image and its class; by default the usual ones.
        group_column: the column of a manifest that names the group of each image (a patient, a track, a shop). Groups
            stay together: in the test part where it is made here, and wherever images are dealt into folds.
        read_as: the format, one of `FORMATS`; by default the first that recognizes the source.
        padding: what each box gets around it, a share of its width left and right and of its height above and below.
        frames, fps: how many frames of a clip are its pictures, or how many of each second; 8 of each by default. Where
            either is given, GIFs of several frames are clips too. The frames of a clip stay together.
        window: the levels (low, high) that become black and white, of pictures of more than 8 bits.
        bands: those of TIFFs that become red, green and blue (or gray), from 1.
        several_labels: a picture may have several labels, or none, as docs/several-labels.md says.
        cache: a folder in which the pictures' digests are kept, so that a second call reads no image.

    A validation image that is in the test part too counts for that alone, and `test_origin` says so.
    Images are read for their digest but not decoded: what is broken, missing or doubled is the doctor's to report.

    Raises:
        ShotfitError: nothing there to read, a folder of domains, a malformed manifest or `classes.toml`.
        UsageError: an unknown format; `images` or columns that the format does not have; numbers out of bounds.
    """
    only_here(source, "a task")
    check_padding(padding)
    source = _absolute(source)
    base = None if images is None else _absolute(images)
    how = How(
        base, path_column, label_column, group_column, read_as, padding, frames, fps, window, bands, several_labels
    )
    found, place = _format(source, read_as)
    lists = [FORMATS[name] for name in OF_SEVERAL]
    if several_labels and found not in lists:
        raise refuse_format(next(name for name, one in FORMATS.items() if one is found), OF_SEVERAL)
    listing = found.read(place, how)
    if place != source:
        listing = replace(listing, notes=(*listing.notes, f"all of it lies in the folder {place.relative_to(source)}/"))
    if not several_labels and found in lists:
        check_one_label(listing.classes, shown(source))
    return task_of(listing, source, how, class_names=class_names, templates=templates, name=name, cache=cache)


def task_of(
    listing: Listing,
    source: Path,
    how: How = AS_IT_IS,
    *,
    class_names: str | Path | None = None,
    templates: Sequence[str] = (),
    name: str | None = None,
    cache: Path | None = None,
    known: Sequence[str] = (),
) -> Task:
    """The task of a listing, with a test part; see `read_task`.

    known: of several labels, classes that there are beside those of the listing.
    """
    labels = None
    if how.several_labels:
        listing, labels = separated(listing, known)
    folder = source.is_dir()
    beside = (source if folder else source.parent) / NAMES_FILE
    names = read_class_names(Path(class_names or beside)) if class_names or beside.is_file() else ClassNames()
    classes = ClassList(
        task=name or _name_of(source),
        names=names.apply(listing.classes, without_numbers(listing.classes) if listing.numbered else listing.classes),
        templates=expand_templates(templates) or names.templates or (DEFAULT_TEMPLATE,),
        several_labels=how.several_labels,
    )
    listing = _in_frames(listing, how.sampling, source if folder else source.parent)
    parts = _items(listing, FileCache(cache), how.rule)
    for part, own in ({} if labels is None else labels).items():
        parts[part] = [item.with_labels(held) for item, held in zip(parts[part], own, strict=True)]
    _check_found(parts, source, how.images)
    test_origin = listing.test_origin
    if not parts["test"]:
        parts["train"], parts["test"] = held_out_share(parts["train"], parts["val"])
        test_origin = (
            f"about a fifth of each class, in whole groups of {how.group_column}"
            if how.group_column
            else "about a fifth of each class, in whole clips"
            if any(item.picture.source for item in parts["train"])
            else "about a fifth of each class, with all boxes of a picture"
            if listing.groups
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
        notes=listing.notes,
        padding=listing.padding,
    )


def _name_of(source: Path) -> str:
    """What a task is called: as its folder or file, that of a pattern as the folder of its files."""
    if source.is_dir() or shards.is_pattern(source, (*ARCHIVES, *TABLES)):
        return (source if source.is_dir() else source.parent).name
    return source.stem.removeprefix("split_zhou_")


def _without(val: Sequence[Item], test: Sequence[Item]) -> tuple[list[Item], int]:
    """The validation items that are not in the test part too, by name or content, and how many were.

    ImageNet's split of CoOp has its validation images as test images: a search on them would choose by the test part.
    """
    pictures, digests = {item.picture for item in test}, {item.digest for item in test} - {""}
    own = [item for item in val if item.picture not in pictures and item.digest not in digests]
    return own, len(val) - len(own)


def _format(source: Path, read_as: str | None) -> tuple[Format, Path]:
    """The format of a source, and where it lies: the source, or the folder that is all there is in it.

    Raises UsageError for an unknown name, ShotfitError for what none recognizes.
    """
    if read_as is not None and read_as not in FORMATS:
        close = difflib.get_close_matches(read_as, FORMATS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected {', '.join(FORMATS)}."
        raise UsageError(f"there is no format {read_as!r}; {hint}")
    if not source.exists() and not shards.is_pattern(source, (*ARCHIVES, *TABLES)):
        braces = ": write several shards as a pattern, such as train-*.tar" if "{" in source.name else ""
        raise ShotfitError(
            f"{shown(source)} does not exist{braces}; expected a folder of class folders, or a manifest."
        )
    if read_as is not None:
        return FORMATS[read_as], source
    found = _recognized(source)
    if found is FORMATS["folders"]:  # which goes through folders that wrap the others by itself
        for inside in _wrapped(source):
            if (other := _recognized(inside)) not in (None, found):
                return other, inside
    if found is not None:
        return found, source
    if source.suffix.lower() == ".json":  # a split file by another name; its reader says what it is not
        return FORMATS["coop"], source
    if source.suffix.lower() in (".txt", ".lst", ".dat", ".data"):
        raise ShotfitError(
            f"{shown(source)} is text, of which shotfit does not know what it lists; make it a CSV with the first line "
            "path,label (--read-as csv if it is one)."
        )
    raise ShotfitError(
        f"{shown(source)} is neither a folder nor a file of a format that is known ({', '.join(FORMATS)}); expected a "
        "folder of class folders, or a manifest such as labels.csv."
    )


def _recognized(source: Path) -> Format | None:
    return next((found for found in FORMATS.values() if found.recognizes(source)), None)


def _wrapped(folder: Path) -> Iterator[Path]:
    """The folder that is all there is in a folder, as where an archive was unpacked, and the one in it."""
    for _ in range(MOST_WRAPPED):
        try:
            inside = [entry for entry in os.scandir(folder) if not is_hidden(entry.name)]
            if len(inside) != 1 or not inside[0].is_dir():
                return
        except OSError:
            return
        folder = folder / inside[0].name
        yield folder


def _in_frames(listing: Listing, sampling: Sampling, home: Path) -> Listing:
    """The listing with frames in place of clips, in groups that keep those of a clip together.

    home: the folder that the clips' names begin in, so that groups are called the same wherever it lies.
    """
    if not any(is_clip(picture, sampling) or picture.source for part in PARTS for picture, _ in listing.parts[part]):
        return listing
    rows = [(part, picture, label, group) for part in PARTS
            for (picture, label), group in zip(listing.parts[part], listing.groups_of(part), strict=True)]  # fmt: skip
    spread = in_threads(lambda row: list(framed([row[1]], sampling)), rows)
    parts: dict[Part, list[tuple[Picture, int]]] = {part: [] for part in PARTS}
    groups: dict[Part, list[str]] = {part: [] for part in PARTS}
    frames, clips = 0, set[str]()
    for (part, _, label, group), pictures in zip(rows, track(spread, "looking into clips", len(rows)), strict=True):
        for picture in filter(None, pictures):
            source = picture.source
            parts[part].append((picture, label))
            groups[part].append(group or (source and os.path.relpath(source, home)))
            frames += bool(source)
            clips |= {source} - {""}
    notes = [f"{frames:,} frames of {plural(len(clips), 'clip')} are images of the task"] if clips else []
    return replace(listing, parts=parts, groups=groups, notes=(*listing.notes, *notes))


def _items(listing: Listing, cache: FileCache, rule: Rule) -> dict[Part, list[Item]]:
    found = [
        (part, picture.under(rule) if rule else picture, label, group)
        for part in PARTS
        for (picture, label), group in zip(listing.parts[part], listing.groups_of(part), strict=True)
    ]
    digests = cache.digests([picture for _, picture, *_ in found])
    parts: dict[Part, list[Item]] = {part: [] for part in PARTS}
    for (part, picture, label, group), digest in zip(found, digests, strict=True):
        parts[part].append(Item(picture, label, digest, group))
    return parts


def _check_found(parts: dict[Part, list[Item]], source: Path, images: Path | None) -> None:
    """A list whose files are all missing has the wrong folder; one sentence says more than a line for each."""
    items = [item for part in PARTS for item in parts[part]]
    if items and not any(item.digest or item.picture.exists() for item in items):
        base = images or (source if source.is_dir() else source.parent)
        paths = [item.picture.file for item in items if item.picture.file is not None]
        reason = reason_none_exists(paths, base, images is not None)
        raise ShotfitError(
            f"none of the {len(items):,} images that {shown(source)} lists exists, e.g. {shown(items[0].picture)}; "
            f"{reason}."
        )


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - without following links, whose names the user knows
