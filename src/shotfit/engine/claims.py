"""What a process is computing now, so that no other computes it too: claims beside the rows of a kind.

    with claims_in(folder) as claims:
        mine = claims.take(keys)        # those that nobody else is computing; they are ours from here on
        ...                             # compute them, write them
        claims.drop()                   # others find them in the store now
        claims.wait(keys)               # until none of them is being computed elsewhere

A claim is a file of digests that its process holds a lock on, so that it ends with its process in whatever way. Who
takes claims reads those of all others first, one at a time behind a lock on the folder's `kind.json`. Nobody waits
while he holds a claim, so nobody waits for ever. Where there are no locks (Windows, some network drives, a folder that
cannot be written to) everything is ours, and what two processes compute at once is only double.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from shotfit.engine.shards import digests_of
from shotfit.files import HELD, LIST_BYTES, UnreadableError, read_bytes
from shotfit.progress import say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Claims", "claims_in", "locked"]

PREFIX = f"{HELD}claim-"  # the next writer in the folder removes those that nobody holds
POLLS = 0.02, 0.25  # seconds between two looks at what others are computing, at first and in the end
PATIENCE = 10.0  # seconds after which it is told what is waited for


@contextmanager
def claims_in(folder: Path, guard: Path) -> Iterator[Claims]:
    """Claims on rows of a folder, which end with the block. guard: a file there that takers lock for a moment."""
    claims = Claims(folder, guard)
    try:
        yield claims
    finally:
        claims.drop()


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Whether this process holds the lock of an existing file while the block lasts; never where there are no locks."""
    if fcntl is None:
        yield False
        return
    descriptor, held = None, False
    try:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe of this name has nobody at its other end
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        yield held
    finally:
        if descriptor is not None:
            os.close(descriptor)


class Claims:
    """Those of one process on rows of one folder."""

    def __init__(self, folder: Path, guard: Path) -> None:
        self.folder, self.guard = folder, guard
        self._own = f"{PREFIX}{os.getpid()}-"  # begins the names of all claims of this process
        self._path = folder / f"{self._own}{secrets.token_hex(8)}"
        self._file: BinaryIO | None = None
        self.count = 0  # of what is claimed

    def take(self, keys: Sequence[str], most: int | None = None) -> set[str]:
        """Of keys, in their order, those that nobody else is computing: `most` at most, and ours from here on."""
        with locked(self.guard) as held:
            if not held:
                return set(keys if most is None else keys[:most])
            taken = self._of_others()
            free = [key for key, digest in _with_digests(keys) if digest not in taken][:most]
            with suppress(OSError):  # of a full disk: others may compute them too
                self._write(free)
            return set(free)

    def drop(self) -> None:
        """None is ours any more."""
        if self._file is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            with suppress(OSError):  # of a full disk: it is closed, without what could not be written
                self._file.close()
            self._file, self.count = None, 0

    def wait(self, keys: Sequence[str]) -> None:
        """Return as soon as one of the keys is computed, or given up, by whoever claims it."""
        wanted = {digest for _, digest in _with_digests(keys)}
        before, pause, began, told = len(wanted & self._of_others()), POLLS[0], time.monotonic(), False
        while before and len(wanted & self._of_others()) == before:
            time.sleep(pause)
            pause = min(2 * pause, POLLS[1])
            if not told and time.monotonic() - began > PATIENCE:
                told = True
                say("note: waiting for another process, which computes the same features now.")

    def _write(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        if self._file is None:
            self._file = self._path.open("xb")
            assert fcntl is not None
            fcntl.flock(self._file, fcntl.LOCK_EX)  # held by nobody but one who looks whether somebody does
        self._file.write(digests_of(keys).tobytes())
        self._file.flush()
        self.count += len(keys)

    def _of_others(self) -> set[bytes]:
        """The digests that other living processes claim.

        What this one could not give back, for want of memory, is passed over: else it would wait for itself.
        """
        found = set[bytes]()
        with suppress(OSError):
            for entry in os.scandir(self.folder):
                if not entry.name.startswith(PREFIX) or entry.name.startswith(self._own):
                    continue
                with locked(Path(entry.path), wait=False) as dead:
                    if dead or not Path(entry.path).exists():
                        continue
                    with suppress(UnreadableError):
                        data = read_bytes(Path(entry.path), LIST_BYTES, "a claim on rows of the store")
                        found.update(data[begin : begin + 16] for begin in range(0, len(data), 16))
        return found


def _with_digests(keys: Sequence[str]) -> list[tuple[str, bytes]]:
    found = digests_of(keys).tobytes()
    return [(key, found[16 * number : 16 * number + 16]) for number, key in enumerate(keys)]
