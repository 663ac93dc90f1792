"""Class folders: `DIR/CLASS/IMAGE`, or `DIR/{train,val,test}/CLASS/IMAGE`.

Classes are the folders sorted by name, their files sorted by name, those in folders inside of a class folder too. A
folder that wraps all the others is gone through, on top and in a part (`seg_train/seg_train/CLASS`). What would be read
as something that it is not is refused: pictures with a file of labels beside them, folders of domains. `--read-as
folders` takes the folders for classes all the same.

    listing_of(Folder(Path("photos")), "class folders", asked=False)        # also for the tree of an archive
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from shotfit.data.classnames import NAMES_FILE
from shotfit.data.formats import csv
from shotfit.data.formats.lines import columns_of
from shotfit.data.formats.tree import ArchiveFolder, Folder, stem
from shotfit.data.images import shown
from shotfit.data.listing import AS_IT_IS, PARTS, How, Listing, Part, part_named, parts_named
from shotfit.data.pictures import Picture
from shotfit.data.tasks import composed
from shotfit.errors import ShotfitError, UsageError, first_few

__all__ = ["listing_of", "part_folders", "read", "recognizes"]

_READ = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".xml")
_UNREAD = (
    *(".xlsx", ".xls", ".ods", ".mat", ".txt", ".lst", ".npy", ".npz", ".pkl", ".pickle", ".yaml", ".yml", ".db"),
    *(".sqlite", ".h5"),
)
_LABEL_FILES = (*_READ, *_UNREAD)
_NO_LABELS = ("readme", "license", "licence", "requirements", "citation", "notes", "thumbs", "environment", "config")
_HOLDERS = frozenset(("image", "images", "img", "imgs", "pictures", "photos", "part", "batch", "chunk", "jpg", "png"))
_LOOKED_AT = 500  # lines of a table beside class folders
_LARGEST = 64 * 2**20


def recognizes(source: Path) -> bool:
    """Any folder may hold class folders."""
    return source.is_dir()


def read(source: Path, how: How) -> Listing:
    """The pictures of the class folders.

    Raises:
        ShotfitError: no class folders, pictures beside a file of labels, domains, two folders for one part.
        UsageError: anything said of paths and columns, which folders do not have.
    """
    check_plain(source, how, "class folders")
    return listing_of(Folder(source), "class folders", asked=how.read_as is not None)


def check_plain(source: Path, how: How, what: str) -> None:
    """Refuse what is said of paths and columns for a source that has neither. Raises UsageError."""
    if how.images is not None:
        raise UsageError(
            f"an images folder ({shown(how.images)}) goes with a manifest or a split file; {shown(source)} is read as "
            f"{what}, whose images are found in it."
        )
    how.check_columns(source, what)


def listing_of(top: Folder, reader: str, asked: bool) -> Listing:
    """The listing of a tree of class folders; see `read`.

    reader: what it is read as. asked: the user has said that these are class folders, so labels in files beside them
    and folders that look like domains do not count.
    """
    notes, loops, ignored = list[str](), list(top.loops), list(top.others)
    while (wrapped := _wrapped(top)) is not None:
        notes.append(f"all of it lies in the folder {wrapped.name}/")
        ignored += [folder.path for folder in top.folders if folder is not wrapped]
        top = wrapped
        loops += top.loops
        ignored += top.others
    found = part_folders(top, asked)
    ignored = [*_paths(top.images), *(path for path in ignored if path.name != NAMES_FILE)]
    below: dict[Part, list[Folder]] = {}  # class folders
    if found:
        ignored += [folder.path for folder in top.folders if folder not in found.values()]
        for part, outer in found.items():
            inside = _innermost(outer)
            below[part] = _classes(inside, asked, inside.others)
            ignored += [*_paths(inside.images), *inside.others, *(outer.others if inside is not outer else ())]
            loops += inside.loops
    else:
        below["train"] = _classes(top, asked, ignored)
    folders = [folder for part in below.values() for folder in part]
    position = {name: i for i, name in enumerate(sorted({composed(folder.name) for folder in folders}))}
    parts: dict[Part, list[tuple[Picture, int]]] = {part: [] for part in PARTS}
    deeper = list[Picture]()
    for part, classes in below.items():
        for outer in classes:
            for inside in outer.below():
                parts[part] += [(image, position[composed(outer.name)]) for image in inside.images]
                ignored += inside.others
                loops += inside.loops
                deeper += inside.images if inside is not outer else ()
    if not asked:
        _check_labels([top, *found.values()], folders)
    if deeper:
        notes.append(
            f"{len(deeper):,} images lie in folders inside of class folders and belong to these classes, e.g. "
            f"{shown(deeper[0])}"
        )
    names = [f"{found[part].name}/" for part in PARTS if part in found]
    return Listing(
        reader=f"{reader} under {_and(names)}" if names else reader,
        classes=tuple(position),
        parts=parts,
        numbered=True,
        test_origin=f"the folder {found['test'].name}/" if parts["test"] else "",
        ignored=tuple(sorted(ignored)),
        loops=tuple(sorted(loops)),
        notes=tuple(notes),
    )


def _paths(images: Iterable[Picture]) -> list[Path]:
    return [Path(str(image)) for image in images]


def _wrapped(top: Folder) -> Folder | None:
    """The only folder of a folder that holds pictures, where they lie in class folders or parts inside of it.

    What lies beside it (annotations, lists) must be files: an empty folder is a class without images.
    """
    if top.images or not top.folders:
        return None
    full = [folder for folder in islice(top.folders, 100) if folder.holds_images()] if len(top.folders) <= 100 else []
    if len(full) != 1 or parts_named([full[0].name]):
        return None
    if any(not any(inside.others for inside in folder.below()) for folder in top.folders if folder is not full[0]):
        return None
    inside = full[0]
    deep = not inside.images and len(inside.folders) > 1 and any(folder.holds_images() for folder in inside.folders)
    return inside if deep or _wrapped(inside) is not None else None


def _innermost(part: Folder) -> Folder:
    """The folder that holds a part's class folders: the part's own, or the single one in it (train/train/CLASS)."""
    while len(part.folders) == 1 and not part.images:
        inside = part.folders[0]
        if inside.images or len(inside.folders) < 2 or not any(folder.holds_images() for folder in inside.folders):
            break
        part = inside
    return part


def part_folders(top: Folder, asked: bool = False) -> dict[Part, Folder]:
    """The folders that are named after the parts and hold class folders; others are classes: trains, tests.

    Where single pictures lie beside its class folders, a folder is a part if there are fewer of them, or another part.

    Raises ShotfitError for two folders of one part, and where all of them hold pictures in no class folder.
    """
    found: dict[Part, Folder] = {}
    named = parts_named([folder.name for folder in top.folders])
    parts = [folder for folder in top.folders if folder.name in named]
    sure = [folder for folder in parts if folder.folders and (not folder.images or _is_domain(folder))]
    mixed = [folder for folder in parts if folder.images and any(inside.holds_images() for inside in folder.folders)]
    flat = [folder for folder in parts if folder not in sure and (folder not in mixed or not sure)]
    for folder in [folder for folder in parts if folder not in flat]:
        part = named[folder.name]
        if part in found:
            both = f"{found[part].name} and {folder.name}"
            raise ShotfitError(f"{shown(top.path)} has two {part} folders, {both}; keep one.")
        found[part] = folder
    if flat and not found and not asked and all(map(_is_flat_part, top.folders)):
        _refuse_labels([top, *flat])
        raise ShotfitError(
            f"the pictures in {shown(flat[0].path)} lie directly in it, in no class folder; expected "
            f"{shown(flat[0].path)}/CLASS/IMAGE, or a manifest with lines path,label, or pass --read-as folders if the "
            "folders are the classes."
        )
    return found


def _is_flat_part(folder: Folder) -> bool:
    """Whether a folder is no class beside a part of single pictures: another such part, as test1 is, or no pictures."""
    return part_named(folder.name) is not None or not folder.holds_images()


def _check_labels(tops: Sequence[Folder], classes: Sequence[Folder]) -> None:
    """Refuse folders that are no classes: a single one while a file that may hold labels lies beside or in it, and such
    that a table beside them, with other labels, tells apart otherwise.
    """
    names = {folder.name for folder in classes if folder.holds_images()}
    if _are_batches(names):
        _refuse_labels(tops)
    if len(names) == 1:
        _refuse_labels([*tops, *(inside for folder in classes for inside in folder.below())])
        return
    tables = [path for top in tops for path in top.others if path.suffix.lower() in csv.SUFFIXES]
    if not tables or isinstance(tops[0], ArchiveFolder):
        return
    homes: dict[str, set[str]] = defaultdict(set)
    for folder in classes:
        for inside in folder.below():
            for image in inside.images:
                homes[stem(image)].add(folder.name)
    for path in tables:
        if _disagrees(path, homes):
            raise ShotfitError(
                f"{path.name} in {shown(path.parent)} gives the pictures of one folder several labels, so the folders "
                f"are no classes: name that file ({shown(path)}), with the folder of its pictures as --images, or pass "
                "--read-as folders to have the folders as classes."
            )


def _are_batches(names: set[str]) -> bool:
    """Whether folders differ in a number alone and are called as no class is: images_001, HAM10000_images_part_1."""
    common = {re.sub(r"\d+", "", name.casefold()) for name in names}
    return len(names) > 1 and len(common) == 1 and any(word in _HOLDERS for word in re.split(r"[\W_]+", min(common)))


def _disagrees(path: Path, homes: dict[str, set[str]]) -> bool:
    """Whether a table that lists the pictures has other labels than their folders, as far as its first lines tell."""
    labels: dict[str, set[str]] = defaultdict(set)
    with suppress(ShotfitError, OSError):
        if path.stat().st_size > _LARGEST:
            return False
        header, lines = csv.table(path)
        columns = columns_of("", header, AS_IT_IS)
        for _, line in islice(lines, _LOOKED_AT):
            name = Path(str(line.get(columns.path) or "").replace("\\", "/")).name
            home = homes.get(name) or homes.get(Path(name).stem) or set()
            if len(home) == 1:
                labels[next(iter(home))].add(str(line.get(columns.label)))
    return any(len(found) > 1 for found in labels.values())


def _refuse_labels(folders: Iterable[Folder]) -> None:
    """Refuse pictures that are not sorted into folders while a file that may hold their labels lies beside them."""
    file = _likeliest([path for folder in folders for path in folder.others])
    if file is None:
        return
    archive, inside, _ = str(file).partition("::")
    home = archive if inside else str(file.parent)
    advice = (
        "unpack the archive and name that file in place of it"
        if inside
        else "save it as CSV with the first line path,label and name that in place of the folder, or pass "
        "--read-as folders if the folders are the classes"
        if file.suffix.lower() in _UNREAD
        else f"name that file ({shown(file)}) in place of the folder (and the folder that its paths begin in with "
        "--images), or pass --read-as folders if the folders are the classes"
    )
    raise ShotfitError(
        f"{shown(Path(home))} has no class folders to tell the pictures' classes, but a file that may name them, "
        f"{file.name}: {advice}."
    )


def _likeliest(files: Iterable[Path]) -> Path | None:
    """The file that may hold labels, and of several the likeliest."""
    may = [
        path
        for path in files
        if path.suffix.lower() in _LABEL_FILES and not path.name.casefold().startswith(_NO_LABELS)
    ]
    return min(may, key=_unlikeliness, default=None)


def _unlikeliness(path: Path) -> tuple[bool, int, str]:
    """By what files are ordered, so that the first is the likeliest to hold labels of what one learns from."""
    name = path.name.casefold()
    return "submission" in name or "test" in name, _LABEL_FILES.index(path.suffix.lower()), name


def _classes(top: Folder, asked: bool, beside: Iterable[Path]) -> list[Folder]:
    """The class folders; refuses a folder that holds no classes, and one that holds folders of classes.

    beside: other files, of which one may be a table of the labels of pictures in folders by date.
    """
    if not top.folders:
        if top.images and not asked:
            _refuse_labels([top] if isinstance(top, ArchiveFolder) else [top, Folder(top.path.parent)])
        raise ShotfitError(
            f"{shown(top.path)} holds no class folders ({len(top.images)} images lie directly in it); expected "
            f"{shown(top.path)}/CLASS/IMAGE, or a manifest with lines path,label."
        )
    domains = [] if asked else [folder for folder in top.folders if _is_domain(folder)]
    if 2 * len(domains) > len(top.folders):
        file = _likeliest(path for path in beside if path.suffix.lower() in csv.SUFFIXES)
        table = f", or {shown(file)} if that file has the labels" if file is not None else ""
        one = min(domains, key=lambda folder: "test" in folder.name.casefold())  # nobody is sent to a test part
        raise ShotfitError(
            f"{shown(top.path)} holds domains ({first_few([folder.name for folder in domains], 5)}) with class folders "
            f"in them, not classes; pass one domain, e.g. {shown(one.path)}, or --read-as folders if {one.name} is a "
            f"class, --read-as frames if the folders in it are clips{table}."
        )
    return top.folders


def _is_domain(folder: Folder) -> bool:
    """Whether more folders with images lie in it than images: a stray picture makes no class of a domain."""
    return sum(inside.holds_images() for inside in folder.folders) > len(folder.images)


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
