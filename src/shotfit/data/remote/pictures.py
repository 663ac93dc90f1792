"""Pictures of what lies elsewhere: a file of an address, a member of an archive, a row of a table.

    picture_named("s3://bucket/photos/1.jpg")   # a RemotePicture; any other name is a Picture of this machine
    together([...])                             # those that are decoded one after the other, fetched a few ahead

`Picture.of` never makes one of these, so that nothing fetches an address but what asks for it: the sources of `predict`
and `embed`. They have no `file`, and their bytes are in memory while they are decoded.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from shotfit.data.budget import thread_pool
from shotfit.data.containers import ARCHIVES, MAX_BYTES, TABLES, Place, open_member, open_place
from shotfit.data.pictures import Crop, Picture, crop_in
from shotfit.data.remote.addresses import Address, is_address
from shotfit.data.remote.files import kept_whole, state, whole
from shotfit.data.rules import AS_STORED, Rule
from shotfit.files import UnreadableError

__all__ = ["AHEAD", "RemotePicture", "picture_named", "together"]

AHEAD = 8  # pictures that are fetched in front of the one that is decoded
_SMALL = 8 * 2**20  # bytes of such a picture; a larger one is fetched when its turn comes
_THREADS = 32  # that fetch
_PART = re.compile(rf"({'|'.join(map(re.escape, (*ARCHIVES, *TABLES)))})::", re.IGNORECASE)


class RemotePicture(Picture):
    """A picture of an address. inside, crop, lenient: as of any picture.

    place: of a member, where it lies. version: what its archive or table was then; "": any.
    """

    __slots__ = ("_line", "_number", "address", "place", "version")

    def __init__(
        self,
        address: Address,
        inside: str | int | None = None,
        crop: Crop | None = None,
        *,
        place: Place | None = None,
        version: str = "",
        lenient: bool = False,
        rule: Rule = AS_STORED,
    ) -> None:
        super().__init__(None, inside, crop, name=str(address), lenient=lenient, rule=rule)
        self.address, self.place, self.version = address, place, version
        self._line: _Line | None = None
        self._number = 0

    def _with(self, **changed: Any) -> Picture:
        fields: dict[str, Any] = {"lenient": self.lenient, "rule": self.rule, "crop": self.crop} | changed
        if fields.pop("moment", None) is not None or fields.pop("frame", None) is not None:
            raise UnreadableError.of(self.address, "belongs to a clip that lies elsewhere: copy it here first")
        return RemotePicture(self.address, self.inside, place=self.place, version=self.version, **fields)

    @property
    def suffix(self) -> str:
        """The ending of its name in lower case."""
        if self.inside is None:
            return self.address.suffix.lower()
        return os.path.splitext(self.inside)[1].lower() if isinstance(self.inside, str) else ""  # noqa: PTH122

    @property
    def path(self) -> Path:
        """There is none. Raises UnreadableError."""
        raise UnreadableError.of(self.address, "is no file of this machine: copy it here first")

    def exists(self) -> bool:
        """Nobody is asked: it is found out when it is read."""
        return True

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Its bytes. Raises UnreadableError where they cannot be fetched."""
        if self.version and " ".join(map(str, state(self.address))) != self.version:
            raise UnreadableError.of(self.address, "changed after it was listed: run it again")
        if self.place is not None:
            with open_place(self.address, self.place) as file:
                yield file
        elif self.inside is not None:
            with open_member(self.address, self.inside) as file:
                yield file
        elif self._line is not None:
            yield io.BytesIO(self._line.content(self._number))
        else:
            yield io.BytesIO(kept_whole(self.address, MAX_BYTES))

    def _key(self) -> tuple[object, ...]:
        return self.address, self.inside, self.crop, self.lenient, self.rule


def picture_named(name: str) -> Picture:
    """The picture of a name: an existing path wins, then an address, then what `Picture.of` makes of it."""
    if not is_address(name) or os.path.lexists(name):
        return Picture.of(name)
    whole, crop = crop_in(name)
    found = _PART.search(whole)
    if found is None:
        return RemotePicture(Address(whole), crop=crop)
    container, inside = whole[: found.end(1)], whole[found.end() :]
    if found[1].lower() in TABLES and re.fullmatch(r"\d{1,18}", inside):
        return RemotePicture(Address(container), int(inside), crop)
    return RemotePicture(Address(container), inside, crop)


def together(pictures: Sequence[Picture]) -> None:
    """Fetch a few ahead of those of these pictures that are files elsewhere: they are read in this order, each once."""
    ahead = [one for one in pictures if isinstance(one, RemotePicture) and one.inside is None and one.crop is None]
    if len(ahead) > 1:
        line = _Line([one.address for one in ahead])
        for number, one in enumerate(ahead):
            one._line, one._number = line, number


class _Line:
    """Addresses that are asked for one after the other, of which the next AHEAD ones are being fetched."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.addresses = addresses
        self._coming: dict[int, Future[bytes | None]] = {}
        self._begun = 0  # how many were asked for
        self._lock = threading.Lock()

    def content(self, number: int) -> bytes:
        with self._lock:
            until = min(number + 1 + AHEAD, len(self.addresses))
            for one in range(max(self._begun, number + 1), until):
                self._coming[one] = _fetching(os.getpid()).submit(_small, self.addresses[one])
            self._begun = max(self._begun, until)
            mine = self._coming.pop(number, None)
        found = None if mine is None else mine.result()
        return whole(self.addresses[number], MAX_BYTES) if found is None else found


def _small(address: Address) -> bytes | None:
    try:
        return whole(address, _SMALL)
    except UnreadableError as error:
        if "more bytes than" in error.reason:
            return None
        raise


@lru_cache(maxsize=1)
def _fetching(process: int) -> ThreadPoolExecutor:
    return thread_pool(_THREADS, "fetch")
