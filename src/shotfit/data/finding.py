"""The images that a user means: files and their parts, folders with all that lies below them, patterns.

for picture in Stream(["photos/", "more/*.jpg", "shard.tar", "shard.tar::1.jpg"]): ...
for picture in Stream(["s3://bucket/photos/", "https://host/shard.tar"], remote=True): ...
find_images(["photos/"]).images

An archive or a table that is named stands for all pictures in it, and a list (`lists.py`) for those that it names. Ones
that lie in a folder do not count: next to photographs they are most often something else. `train-{000..039}.tar` is
forty archives, as shells and webdataset spell them.

What is found comes one by one, so that the first images are worked on while a large folder is still walked through.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, product
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, TextIO, TypeAlias

from shotfit.data.containers import ARCHIVES, TABLES, is_container, is_table, members, row_count
from shotfit.data.images import (
    SUFFIXES,
    UNREAD_SUFFIXES,
    BrokenImageError,
    extras_for,
    is_truncated,
    is_unread,
    open_image,
    shown,
)
from shotfit.data.lists import AS_THEY_ARE, LISTS, LONGEST_PATH, Paths, is_list, paths_in
from shotfit.data.pictures import Picture, PictureLike, pictures_of
from shotfit.data.remote.addresses import Address, check_address, is_address
from shotfit.data.remote.pictures import RemotePicture, picture_named
from shotfit.data.tasks import Item
from shotfit.errors import ShotfitError, UsageError

__all__ = [
    "Found", "Place", "Stream", "find_images", "identified", "is_picture", "leniently", "lines_of", "pictures_in",
]  # fmt: skip

_BLOCK = 2**16  # bytes of a list that are read at once, if so many are there
_MOST_NUMBERED = 1_000_000  # names that one source may spell
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


@dataclass(frozen=True)
class Found:
    """Images, and what lies in the same folders and was passed over: pictures that are not read, unread folders."""

    images: list[Picture]
    passed_over: list[Path]


Place: TypeAlias = str | Path | Address | Picture
"""Where pictures are: the name of a file that is one, or of what a list names; the path or address of an archive or
table, which stands for all in it; a picture that is a part of a file."""


class Stream:
    """The images that are meant, found while they are asked for: files and their parts (`a.tar::1.jpg`) as they are,
    folders, archives and tables with all that lies in them, lists of paths, patterns like `a/*.jpg`.

    listed: the lines that stand for the source "-" (empty lines are passed over; None: the next one may be long in
    coming, and is passed on as None). A line that names nothing stays an image, which cannot be read.
    without: a folder whose files do not count. paths: how lists are read. remote: whether addresses are fetched; else
    one is a picture that cannot be read.
    passed_over: what was met until now that is no picture which is read. damaged: addresses among the sources that
    could not be listed or read to their end; the other sources go on.

    Raises ShotfitError at once for a source that is not there, for folders, archives and patterns without an image, and
    for archives and tables that cannot be read; on the way where no image at all was named.
    """

    def __init__(
        self,
        sources: Sequence[str],
        listed: Iterable[str | None] = (),
        without: Path | None = None,
        paths: Paths = AS_THEY_ARE,
        look: bool = True,
        remote: bool = False,
    ) -> None:
        """look: whether sources are looked into at once; else on the way, which is sooner where they are large."""
        self.sources = [name for source in sources for name in _spelled(source)]
        self.listed, self.paths, self.remote = listed, paths, remote
        self.without = None if without is None else without.resolve()
        self.passed_over: list[Path] = []
        self.damaged: list[ShotfitError] = []
        for source in self.sources:
            if self.remote and is_address(source) and not os.path.lexists(source):
                check_address(Address(source))  # and what is there is asked once
            elif source != "-" and look:
                next((picture for place in self._named(source) for picture in self._pictures(place)), None)
        self.passed_over.clear()

    def __iter__(self) -> Iterator[Picture | None]:
        found = False
        for place in self.places():
            if place is None:
                yield None
            else:
                with self._told(place):
                    for picture in self._pictures(place):
                        found = True
                        yield picture
        if not found and self.damaged:
            raise self.damaged[0]

    @contextmanager
    def _told(self, place: Place | str) -> Iterator[None]:
        """An address that cannot be read is told in the end, and does not stop the others."""
        try:
            yield
        except UsageError:  # a library that is missing
            raise
        except ShotfitError as error:
            if not self.remote or not (isinstance(place, Address) or (isinstance(place, str) and is_address(place))):
                raise
            self.damaged.append(error)

    def places(self) -> Iterator[Place | None]:
        """The same, but archives and tables that are named as a whole are not opened."""
        found = False
        for place in self._all():
            if place is None:
                yield None
            elif self.without is None or not self._is_without(place):
                found = True
                yield place
        if not found and self.damaged:
            raise self.damaged[0]
        if not found:
            raise ShotfitError("No image was named: give files, folders, patterns, or paths on standard input with -.")

    def _all(self) -> Iterator[Place | None]:
        for source in self.sources:
            if source != "-":
                with self._told(source):
                    yield from self._named(source)
                continue
            for line in self.listed:
                if line is None:
                    yield None
                elif name := line.rstrip("\r\n"):
                    if os.path.splitext(name)[1].lower() in SUFFIXES and _is_file(name):  # noqa: PTH122
                        yield name  # one question to the system, where what follows asks several
                        continue
                    try:
                        for place in self._named(name, listed=True):
                            if isinstance(place, (Path, Address)):
                                next(_inside(place))  # its errors come here
                            yield place
                    except ShotfitError:  # a folder without images, an archive that cannot be read
                        yield self.picture(name) if is_address(name) else Picture(Path(name))

    def _named(self, source: str, listed: bool = False) -> Iterator[Place]:
        """listed: what is not there is a picture all the same."""
        if self.remote and is_address(source) and not os.path.lexists(source):
            yield from self._elsewhere(source, listed)
            return
        if Path(source).is_dir():
            yield from self._below(Path(source))
            return
        named = Picture.of(source)
        if named.exists():
            yield from self._file(named, listed)
            return
        found = [] if "\0" in source else glob.glob(source, recursive=True)  # noqa: PTH207 (absolute ones too)
        matches = [Path(path) for path in sorted(found)]
        if not matches:
            if not listed:
                raise ShotfitError(
                    f"There is no image {source}: name files, folders, archives, patterns, or - for standard input."
                )
            yield named
        for path in matches:
            if path.suffix.lower() in SUFFIXES:
                yield str(path)
            elif is_container(path):
                yield from self._file(Picture(path), listed)
            elif is_unread(path):
                self.passed_over.append(path)

    def _elsewhere(self, source: str, listed: bool) -> Iterator[Place]:
        """What an address stands for. listed: what is not fetched is a picture that cannot be read."""
        from shotfit.data.remote.listing import below, is_pattern, matching

        picture, address = picture_named(source), Address(source)
        if not listed:
            check_address(address)
        ending = address.suffix.lower()
        if not isinstance(picture, RemotePicture) or picture.inside is not None or picture.crop is not None:
            yield picture
        elif is_pattern(address):
            yield from self._listed_elsewhere(address, matching(address), alone=False)
        elif source.endswith("/") or (not address.web and not ending):
            yield from self._listed_elsewhere(address, below(address), alone=True)
        elif ending in (*ARCHIVES, *TABLES):
            yield address
        elif ending in LISTS and not listed:
            raise ShotfitError(
                f"{address} is a list that lies elsewhere: copy it here first, its paths may stay there."
            )
        else:
            yield source

    def _listed_elsewhere(self, asked: Address, found: Iterator[Address], alone: bool) -> Iterator[Place]:
        """Pictures, archives and tables of those. alone: an archive beside a picture does not count."""
        pictures, containers = False, list[Address]()
        for one in found:
            ending = one.suffix.lower()
            if ending in SUFFIXES:
                pictures = True
                yield one.text
            elif ending in (*ARCHIVES, *TABLES):
                containers.append(one)
            elif ending in UNREAD_SUFFIXES:
                self.passed_over.append(Path(str(one)))
        if not pictures and not containers:
            raise ShotfitError(f"{asked} holds no images." if alone else f"There is no image at {asked}.")
        if not (alone and pictures):
            yield from containers

    def picture(self, name: str) -> Picture:
        """The picture of a name in a list."""
        return picture_named(name) if self.remote else Picture.of(name)

    def _pictures(self, place: Place) -> Iterator[Picture]:
        """The pictures of a place."""
        if isinstance(place, Picture):
            yield place
        elif isinstance(place, str):
            yield self.picture(place)
        else:
            yield from _inside(place)

    def _file(self, named: Picture, listed: bool) -> Iterator[Place]:
        """What is there under a name that is no folder's. listed: a list in a list is a picture that cannot be read."""
        if named.inside is not None or named.crop is not None or named.file is None:
            yield named
        elif not listed and is_list(named.file):
            yield from paths_in(named.file, self.paths)
        else:
            yield named.file if is_container(named.file) else named

    def _below(self, folder: Path) -> Iterator[Place]:
        """Images below a folder, sorted, or its archives and tables where there are no others.

        Hidden files and folders are left out, links to folders not followed.
        """
        found, containers = False, list[Path]()

        def unreadable(error: OSError) -> None:
            self.passed_over.append(Path(error.filename))

        for parent, folders, names in os.walk(folder, onerror=unreadable):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if self.without is not None:
                folders[:] = [name for name in folders if Path(parent, name).resolve() != self.without]
            start = os.path.join(parent, "")  # noqa: PTH118  (a million files: a path each would take ten times as long)
            names.sort()
            for name in names:
                if name.startswith("."):
                    continue
                if os.path.splitext(name)[1].lower() in SUFFIXES:  # noqa: PTH122
                    found = True
                    yield start + name
                    continue
                path = Path(parent, name)
                if is_container(path):
                    containers.append(path)
                elif is_unread(path):
                    self.passed_over.append(path)
            self.passed_over.extend(path for name in folders if (path := Path(parent, name)).is_symlink())
        if not found and not containers:
            extras = extras_for(self.passed_over)
            raise ShotfitError(f"The folder {folder} holds no images{': ' * bool(extras)}{', '.join(extras)}.")
        if not found:  # a folder of shards, or a saved data set; beside pictures an archive may be a copy of them
            yield from containers

    def _is_without(self, place: Place) -> bool:
        assert self.without is not None
        file = place.file if isinstance(place, Picture) else place
        if isinstance(file, Address) or (isinstance(file, str) and is_address(file)):
            return False
        return file is not None and _is_in(os.path.dirname(file), self.without)  # noqa: PTH120


def _spelled(source: str) -> list[str]:
    """The names of `{0000..0039}` in a source; one without, or that is there as it stands, is itself.

    Raises UsageError for too many.

    >>> _spelled("{1..2}/train-{008..010}.tar")[2:4]
    ['1/train-010.tar', '2/train-008.tar']
    """
    if _RANGE.search(source) is None or os.path.lexists(source):
        return [source]
    plain, *spelled = _RANGE.split(source)  # text, first, last, text, first, last, text, ...
    numbers = [range(int(first), int(last) + 1) for first, last in zip(spelled[::3], spelled[1::3], strict=True)]
    if not 0 < prod(map(len, numbers)) <= _MOST_NUMBERED:
        raise UsageError(f"{source} stands for no name, or more than {_MOST_NUMBERED:,}: write {{FIRST..LAST}}.")
    cells = [[f"{number:0{len(first)}}" for number in one] for first, one in zip(spelled[::3], numbers, strict=True)]
    texts = spelled[2::3]
    return [plain + "".join(chain(*zip(each, texts, strict=True))) for each in product(*cells)]


def find_images(sources: Sequence[str], listed: Iterable[str] = ()) -> Found:
    """All that a `Stream` gives, with its errors."""
    stream = Stream(sources, listed)
    images = [picture for picture in stream if picture is not None]
    return Found(images, stream.passed_over)


def pictures_in(sources: PictureLike | Iterable[PictureLike]) -> list[Picture]:
    """The pictures of images, files, folders, archives and patterns, as Python callers give them; see `pictures_of`.

    Raises UsageError for what is none of these, ShotfitError for a folder or archive without an image.
    """
    single = isinstance(sources, (str, os.PathLike))
    listed: Any = [sources] if single else sources
    if not isinstance(listed, (list, tuple)) or not any(isinstance(one, (str, os.PathLike)) for one in listed):
        return pictures_of(listed)
    found: list[Picture] = []
    stream = Stream([])
    for number, source in enumerate(listed):
        if isinstance(source, (str, os.PathLike)):
            places = stream._named(os.fspath(source), listed=True)
            found.extend(picture for place in places for picture in stream._pictures(place))
        else:
            found.append(Picture.of(source, f"image {number}"))
    return found


def identified(pictures: Sequence[Picture], cache: Path | None) -> tuple[list[Item], dict[Picture, ShotfitError]]:
    """The pictures with their digests, and why the others cannot be read.

    cache: the folder in which digests are kept.
    """
    from shotfit.data.filecache import FileCache  # and its database, which not every use of this file needs

    items: list[Item] = []
    broken: dict[Picture, ShotfitError] = {}
    for picture, digest in zip(pictures, FileCache(cache).digests(pictures), strict=True):
        if digest:
            items.append(Item(picture, 0, digest))
            continue
        try:
            open_image(picture)
            broken[picture] = ShotfitError(f"{shown(picture)} changes while it is read.")
        except ShotfitError as error:
            broken[picture] = error
    return items, broken


def leniently(items: Sequence[Item], error: BrokenImageError) -> list[Item] | None:
    """The items, of which the picture of the error may be cut off; None where that does not help."""
    if error.picture.lenient or not is_truncated(error):
        return None
    return [item.as_lenient() if item.picture == error.picture else item for item in items]


def lines_of(stream: TextIO) -> Iterator[str | None]:
    """The lines of a text stream as they come, and None where the next one may be long in coming.

    A pipe is asked for what is in it, and is not waited for until it ends.

    Raises ShotfitError for a line that is longer than any path.
    """
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # held in memory
        yield from map(_checked, stream)
        return
    rest = b""
    while block := os.read(descriptor, _BLOCK):
        *whole, rest = (rest + block).split(b"\n")
        yield from (_checked(os.fsdecode(line)) for line in whole)
        _checked(os.fsdecode(rest))
        yield None
    if rest:
        yield os.fsdecode(rest)


def _checked(line: str) -> str:
    if len(line) > LONGEST_PATH:
        raise ShotfitError(
            f"A line on standard input has more than {LONGEST_PATH:,} characters; expected a path a line."
        )
    return line


def _inside(container: Path | Address) -> Iterator[Picture]:
    """The pictures in an archive or a table.

    Raises ShotfitError for an archive or a table that has no pictures or cannot be read.
    """
    inside: Sequence[str | int]
    if is_table(container):
        inside = range(row_count(container))
    else:
        inside = [name for name, _ in members(container) if is_picture(name)]
    if not inside:
        raise ShotfitError(f"{container} holds no images.")
    for one in inside:
        yield RemotePicture(container, one) if isinstance(container, Address) else Picture(container, one)


def is_picture(name: str) -> bool:
    """Whether the member of an archive has the ending of a picture, and is not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") and part != "." for part in path.parts)


def _is_file(name: str) -> bool:
    return "\0" not in name and os.path.isfile(name)  # noqa: PTH113


@lru_cache(maxsize=1024)
def _is_in(folder: str, other: Path) -> bool:
    resolved = Path(folder).resolve()
    return resolved == other or other in resolved.parents
