"""Many pictures in parts: at most so many together, numbered from 0, the same ones each time.

    for part in Parts(["photos/", "shards/"], size=512):
        for picture in part.pictures(): ...

A part is small and goes to another process as it is: it holds the names of its pictures, and of an archive's members
where they lie, so that nobody looks for them again. Pictures that are files fill parts one after the other; those of an
archive or a table have parts of their own, so that who has a part reads one archive.

Nothing is held but the part that comes next and, of a folder, the names in it. Of archives the headers are read, of
tables the number of rows; no picture is opened.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shotfit.data.containers import Place, is_table, open_place, places, row_count
from shotfit.data.finding import Stream, is_picture
from shotfit.data.lists import AS_THEY_ARE, Paths
from shotfit.data.pictures import Picture
from shotfit.data.remote.addresses import Address, is_address
from shotfit.data.remote.pictures import RemotePicture, picture_named
from shotfit.errors import ShotfitError, UsageError

__all__ = ["SIZE", "Part", "Parts"]

SIZE = 512  # pictures of a part at most
MOST = 1_000_000  # that may be asked for

_FIELDS = len(Place._fields)
_NO_METHOD = -2  # of a member that is not packed, in a list of numbers


@dataclass(frozen=True)
class Part:
    """Pictures `start` to `start + count` of what is meant, counted over all parts, or rows of a table.

    index: its number. container: the archive or table that they are in; "": files. names: of files or members, in the
    encoding of the file system, with zero bytes between them; empty for rows. lie: of members where they lie. first:
    the first row. version: what an archive or table elsewhere was when it was listed.
    """

    index: int
    start: int
    count: int
    container: str = ""
    names: bytes = b""
    lie: bytes = b""
    first: int = 0
    version: str = ""

    def __len__(self) -> int:
        return self.count

    def pictures(self) -> list[Picture]:
        """Its pictures; of files, what a name means is looked up now, and nothing is opened."""
        if not self.container:
            return [picture_named(name) for name in self._names()]
        path = Address(self.container) if is_address(self.container) else Path(self.container)
        if not self.names:
            rows = range(self.first, self.first + self.count)
            if isinstance(path, Address):
                return [RemotePicture(path, row, version=self.version) for row in rows]
            return [Picture(path, row) for row in rows]
        numbers = array("q", self.lie)
        lie = [numbers[at : at + _FIELDS] for at in range(0, len(numbers), _FIELDS)]
        both = ((name, _placed(where)) for name, where in zip(self._names(), lie, strict=True))
        if isinstance(path, Address):
            return [RemotePicture(path, name, place=place, version=self.version) for name, place in both]
        return [_Member(path, name, place) for name, place in both]

    @property
    def digest(self) -> str:
        """Says which pictures these are, by name: 32 hex digits. Of members also their sizes and places.

        Of addresses what is shown of them, so that it is the same when they are signed anew; of an archive or table
        elsewhere also its version.
        """
        found = hashlib.sha256(f"{self.count} {self.first}\n".encode())
        names = self.names
        if not self.container and b"://" in names:
            names = b"\0".join(_encoded(str(picture_named(name))) for name in self._names())
        told = str(Address(self.container)) if is_address(self.container) else self.container
        told += f"\n{self.version}" if self.version else ""
        for content in (os.fsencode(told), names, self.lie):
            found.update(len(content).to_bytes(8, "little") + content)
        return found.hexdigest()[:32]

    def _names(self) -> list[str]:
        return [os.fsdecode(name) for name in self.names.split(b"\0")]


class _Member(Picture):
    """A member of an archive that is read from its place, so that the archive's index is not needed."""

    __slots__ = ("place",)

    def __init__(self, file: Path, inside: str, place: Place, lenient: bool = False) -> None:
        super().__init__(file, inside, lenient=lenient)
        self.place = place

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Its bytes, as of any picture."""
        assert self.file is not None
        with open_place(self.file, self.place) as file:
            yield file

    def as_lenient(self) -> Picture:
        """The same picture, which may be cut off."""
        assert self.file is not None and isinstance(self.inside, str)
        return _Member(self.file, self.inside, self.place, lenient=True)


class Parts:
    """The parts of what sources mean; see `Stream` for what they may be.

    size: pictures of a part at most. listed, paths: as `Stream` takes them; lines of a list are its pictures as they
    stand. without: a folder whose files do not count.

    count: how many parts there were until now. damaged: what was met until now and could not be read to its end, or
    holds no pictures; the others go on.

    Raises ShotfitError on the way: a source that is not there, a folder without images, and where there is no picture
    at all; UsageError for a size that is none.
    """

    def __init__(
        self,
        sources: Sequence[str],
        size: int = SIZE,
        listed: Iterable[str | None] = (),
        paths: Paths = AS_THEY_ARE,
        without: Path | None = None,
    ) -> None:
        if not 1 <= size <= MOST:
            raise UsageError(f"--part-size is {size}; expected 1 to {MOST:,} pictures.")
        self.size = size
        self.stream = Stream(sources, listed, without, paths, look=False, remote=True)
        self.damaged: list[ShotfitError] = []
        self.count = self._start = 0

    def __iter__(self) -> Iterator[Part]:
        self.count = self._start = 0
        self.damaged.clear()
        self.stream.damaged.clear()
        names = list[bytes]()
        for place in self.stream.places():
            if place is None:
                continue
            if not isinstance(place, (Path, Address)):
                names.append(_encoded(_full(place)))
                if len(names) == self.size:
                    yield self._files(names)
                continue
            if names:
                yield self._files(names)
            try:
                yield from self._rows(place) if is_table(place) else self._members(place)
            except UsageError:  # a library that is missing
                raise
            except (ShotfitError, OSError) as error:
                self.damaged.append(error if isinstance(error, ShotfitError) else ShotfitError(f"{place}: {error}"))
        if names:
            yield self._files(names)
        self.damaged += self.stream.damaged
        if not self.count and self.damaged:
            raise self.damaged[0]

    def _files(self, names: list[bytes]) -> Part:
        """The next part, of files; they are taken out of the list."""
        part = self._part(len(names), names=b"\0".join(names))
        names.clear()
        return part

    def _rows(self, table: Path | Address) -> Iterator[Part]:
        rows, version = row_count(table), _version(table)
        for first in range(0, rows, self.size):
            yield self._part(min(self.size, rows - first), _text(table), first=first, version=version)
        if not rows:
            raise ShotfitError(f"{table} holds no images.")

    def _members(self, archive: Path | Address) -> Iterator[Part]:
        names, lie, found = list[bytes](), array("q"), False
        version = _version(archive)

        def part() -> Part:
            made = self._part(len(names), _text(archive), b"\0".join(names), lie.tobytes(), version=version)
            names.clear()
            del lie[:]
            return made

        try:
            for name, place in places(archive):
                if not is_picture(name):
                    continue
                found = True
                names.append(_encoded(name))
                method = _NO_METHOD if place.method is None else place.method
                lie.extend((place.start, place.size, place.packed, method, place.checksum))
                if len(names) == self.size:
                    yield part()
        except (ShotfitError, OSError):
            if names:  # the members in front of the damage
                yield part()
            raise
        if names:
            yield part()
        if not found:
            raise ShotfitError(f"{archive} holds no images.")

    def _part(
        self,
        count: int,
        container: str = "",
        names: bytes = b"",
        lie: bytes = b"",
        first: int = 0,
        version: str = "",
    ) -> Part:
        part = Part(self.count, self._start, count, container, names, lie, first, version)
        self.count += 1
        self._start += count
        return part


def _full(place: str | Picture) -> str:
    """The name of a picture, of an address with what is not shown of it."""
    if not isinstance(place, RemotePicture):
        return str(place)
    inside = "" if place.inside is None else f"::{place.inside}"
    return f"{place.address.text}{inside}{'' if place.crop is None else place.crop}"


def _text(container: Path | Address) -> str:
    return container.text if isinstance(container, Address) else str(container)


def _version(container: Path | Address) -> str:
    """What an archive or table elsewhere is now; "" of one here."""
    if not isinstance(container, Address):
        return ""
    from shotfit.data.remote.files import state

    return " ".join(map(str, state(container)))


def _encoded(name: str) -> bytes:
    """The name in bytes, none of which is zero: one that no file can have becomes another that no file has."""
    try:
        return os.fsencode(name).replace(b"\0", b"\\x00")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace").replace(b"\0", b"\\x00")


def _placed(numbers: Sequence[int]) -> Place:
    place = Place(*numbers)
    return place._replace(method=None) if place.method == _NO_METHOD else place
