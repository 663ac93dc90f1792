"""Bytes of what lies elsewhere: all of a small file, a block of a large one, and files that can be sought in.

    content = whole(address, MAX_BYTES)
    with RemoteFile(address) as file: tarfile.open(fileobj=file)

A large file is read in blocks. The blocks last read stay in memory, KEPT bytes of them in all, so that a shard whose
headers were looked at a moment ago is not asked for again when its pictures are decoded.

fsspec and what it needs for each protocol are imported when the first address is asked for.
"""

from __future__ import annotations

import errno
import io
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from shotfit.data.remote.addresses import PROTOCOLS, Address, refusal, without_secrets
from shotfit.errors import UsageError
from shotfit.files import UnreadableError
from shotfit.printing import cut

__all__ = ["BLOCK", "KEPT", "RemoteFile", "State", "kept_whole", "state", "system", "told", "whole"]

BLOCK = 4 * 2**20
KEPT = 128 * 2**20
"""Bytes of blocks that stay in memory."""
JUMP = 2**20  # bytes between two headers from which on it is cheaper to ask for the header alone
HEADER = 2**16  # bytes that are asked for then
_LONGEST = 16 * 2**20  # bytes of a read that go through blocks
_STATES = 256  # files whose size is remembered
_STATE_SECONDS = 300
_BROKEN_OFF = ("ClientPayloadError", "IncompleteRead", "IncompleteReadError", "ResponseStreamingError")


class State(NamedTuple):
    """The size of a file in bytes, and what names its version: an ETag, or a time; "" where neither is told."""

    size: int
    version: str


@lru_cache(maxsize=16)
def _system(protocol: str, process: int) -> Any:
    try:
        import fsspec
        from fsspec.config import conf

        options: dict[str, Any] = {"use_listings_cache": False}
        if protocol in ("s3", "s3a"):
            given = conf.get("s3", {}).get("config_kwargs", {})
            retries = {"total_max_attempts": 3, "mode": "standard"}
            usual = {"connect_timeout": 10, "read_timeout": 30, "retries": retries, "max_pool_connections": 32}
            options["config_kwargs"] = usual | given
        found = fsspec.filesystem(protocol, **options)
    except (ImportError, ValueError) as error:  # ValueError: of a protocol that this fsspec does not know
        raise UsageError(
            f"{protocol}:// is read through a library that is not installed: pip install {PROTOCOLS[protocol]}."
        ) from error
    if protocol in ("s3", "s3a"):
        found.retries = 1  # it nests its own, which would be twelve times the timeout of a host that is silent
    return found


def system(address: Address) -> Any:
    """The file system of fsspec for an address.

    Raises UnreadableError for an address that is not fetched, UsageError where its library is not installed.
    """
    if why := refusal(address):
        raise UnreadableError.of(address, why)
    return _system(address.protocol, os.getpid())


def path_of(address: Address) -> Any:
    """The path as the file system of an address calls it. Never a chain: `::` is a part of the name."""
    return system(address)._strip_protocol(address.text)


def told(address: Address, error: BaseException) -> NoReturn:
    """Raise, as one sentence without secrets, what a library raised for an address.

    Raises UnreadableError; UsageError and UnreadableError as they are.
    """
    if isinstance(error, (UsageError, UnreadableError)):
        raise error
    text = " ".join(without_secrets(str(error).replace(address.text, str(address))).split())
    kind, status = type(error).__name__, getattr(error, "status", 0)
    if isinstance(error, ImportError):
        raise UsageError(f"{address} needs a library that is not installed ({cut(text, 200)}).") from error
    missing = isinstance(error, FileNotFoundError) or status in (404, 410)
    if missing:
        reason = "does not exist"
    elif isinstance(error, PermissionError) or status in (401, 403, 407):
        reason = "may not be read (no permission): check your login, and what it may read"
    elif kind in ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ProfileNotFound"):
        reason = "may not be read (no login was found): log in, or set FSSPEC_S3_ANON=true for a public bucket"
    elif isinstance(error, TimeoutError) or kind in (
        *(
            "EndpointConnectionError",
            "ConnectTimeoutError",
            "ReadTimeoutError",
            "FSTimeoutError",
            "ConnectionClosedError",
        ),
        *("ClientConnectorError", "ClientConnectorDNSError", "ServerDisconnectedError", "ClientOSError"),
        *("ConnectionTimeoutError", "SocketTimeoutError", "ServerTimeoutError"),
    ):
        reason = f"cannot be fetched: {address.host} does not answer"
    elif kind in _BROKEN_OFF:
        reason = "cannot be fetched: the host broke off in the middle"
    elif kind == "TooLongError":
        reason = "cannot be fetched (its host sends more than it is asked for)"
    else:
        reason = f"cannot be fetched ({cut(text, 200) or kind})"
    raise UnreadableError.of(address, reason, missing) from error


def whole(address: Address, limit: int) -> bytes:
    """All bytes of a file, in one request. Raises UnreadableError where there are more than `limit`, and else."""
    content = _range(address, 0, limit, whole=True)[0]
    if len(content) > limit:
        raise _too_long(address, limit)
    return content


def _too_long(address: Address, limit: int) -> UnreadableError:
    return UnreadableError.of(address, f"has more bytes than the {limit:,} that are read of a picture")


def kept_whole(address: Address, limit: int) -> bytes:
    """The same for a file that is asked for again soon."""
    return _kept.get(address, lambda: whole(address, limit))


def state(address: Address) -> State:
    """Size and version of a file, which are asked for again after a while. Raises UnreadableError."""
    now = time.monotonic()
    with _kept.lock:
        found = _states.get(address)
    if found is not None and now - found[0] < _STATE_SECONDS:
        return found[1]
    if address.web:
        content, size, version = _range(address, 0, BLOCK)
        if size is None:
            raise UnreadableError.of(address, "has no size, as its host tells none: copy it here first")
        now_there = State(size, version)
        _kept.get((address, now_there, 0), lambda: content)
    else:
        try:
            told_of = system(address).info(path_of(address))
        except Exception as error:
            told(address, error)
        if told_of.get("type") == "directory" or not isinstance(told_of.get("size"), int):
            raise UnreadableError.of(address, "is no file")
        names = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime")
        now_there = State(told_of["size"], next((str(told_of[name]) for name in names if told_of.get(name)), ""))
    with _kept.lock:
        _states[address] = (now, now_there)
        while len(_states) > _STATES:
            _states.popitem(last=False)
    return now_there


_states: OrderedDict[Address, tuple[float, State]] = OrderedDict()


def _range(address: Address, start: int, length: int, whole: bool = False) -> tuple[bytes, int | None, str]:
    """At most `length` bytes from `start`, with size and version of the file where they are told.

    whole: they are to be all of it; a byte more is a file that is too long.
    """
    try:
        found = system(address)
        if address.web:
            from fsspec.asyn import sync

            from shotfit.data.remote.web import get

            return sync(found.loop, get, found, address, start, length, not whole)
        content = _cat(found, path_of(address), start, start + length + whole)
    except Exception as error:
        if getattr(error, "status", 0) == 416 or _is_behind(error):
            return b"", None, ""
        if getattr(error, "status", 0) == 200:
            raise UnreadableError.of(address, "lies on a host that sends no ranges: copy it here first") from error
        if whole and type(error).__name__ == "TooLongError":
            raise _too_long(address, length) from error
        told(address, error)
    if len(content) > length and not whole:
        raise UnreadableError.of(address, "cannot be fetched (its host sends more than it is asked for)")
    return content, None, ""


def _cat(found: Any, path: Any, start: int, end: int) -> bytes:
    """Bytes of a file; asked for once more where they broke off, which the libraries do not do."""
    try:
        return bytes(found.cat_file(path, start=start, end=end))
    except Exception as error:
        if type(error).__name__ not in _BROKEN_OFF:
            raise
    return bytes(found.cat_file(path, start=start, end=end))


def _is_behind(error: BaseException) -> bool:
    """Whether a range begins where the file ends, as all ranges of an empty file do."""
    response = getattr(error.__cause__, "response", None) or {}
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code == "InvalidRange" or (isinstance(error, OSError) and error.errno == errno.EINVAL and code == "416")


class _Kept:
    """What was read last, KEPT bytes of it. Who asks for what another thread is just reading waits for that."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._found: OrderedDict[Hashable, Future[bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, read: Callable[[], bytes]) -> bytes:
        with self.lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            else:
                mine = self._found[key] = Future()
        if found is not None:
            return found.result()
        try:
            content = read()
        except BaseException as error:
            with self.lock:
                self._found.pop(key, None)
            mine.set_exception(error)
            raise
        mine.set_result(content)
        with self.lock:
            self._bytes += len(content)
            for other in [*self._found]:
                if self._bytes <= KEPT:
                    break
                if self._found[other].done():
                    self._bytes -= len(self._found.pop(other).result())
        return content

    def clear(self) -> None:
        with self.lock:
            self._found.clear()
            self._bytes = 0
        _states.clear()


_kept = _Kept()


def _anew() -> None:
    """A child that was forked has neither the connections nor the threads."""
    global _kept
    _kept = _Kept()
    _states.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_anew)


class RemoteFile(io.RawIOBase):
    """A file of an address that is read by ranges, of which blocks are kept.

    limit: more bytes are refused. headers: small pieces far from each other are read, as the headers of an archive are.

    Raises UnreadableError, here and while it is read.
    """

    def __init__(self, address: Address, limit: int, headers: bool = False) -> None:
        super().__init__()
        self.address, self.headers = address, headers
        self.state = state(address)
        if self.state.size > limit:
            size = f"{self.state.size:,} bytes, more than the {limit:,} that are read"
            raise UnreadableError.of(address, f"has {size}")
        self._at = self._end = 0  # _end: of the last read
        self._small = (0, b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file; nothing is fetched."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.state.size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As of any file."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def read(self, size: int | None = -1) -> bytes:
        """All the bytes that are asked for, unless the file ends before."""
        start, left = self._at, max(self.state.size - self._at, 0)
        length = left if size is None or size < 0 else min(size, left)
        if not length:
            return b""
        content = self._read(start, length)
        if len(content) != length:
            raise UnreadableError.of(self.address, "changed, or was cut off, while it was read")
        self._at = self._end = start + length
        return content

    def readall(self) -> bytes:
        """The rest."""
        return self.read()

    def _read(self, start: int, length: int) -> bytes:
        if self.headers and length <= HEADER:
            at, content = self._small
            if at <= start and start + length <= at + len(content):
                return content[start - at : start - at + length]
            if start - self._end > JUMP:
                self._small = start, self._fetched(start, min(HEADER, self.state.size - start))
                return self._small[1][:length]
        if length > _LONGEST:
            return self._fetched(start, length)
        found = bytearray()
        for number in range(start // BLOCK, (start + length - 1) // BLOCK + 1):
            block = self._block(number)
            first = number * BLOCK
            found += block[max(start - first, 0) : start + length - first]
        return bytes(found)

    def _block(self, number: int) -> bytes:
        first = number * BLOCK
        length = min(BLOCK, self.state.size - first)
        return _kept.get((self.address, self.state, number), lambda: self._fetched(first, length))

    def _fetched(self, start: int, length: int) -> bytes:
        content, size, version = _range(self.address, start, length)
        if (size or self.state.size, version or self.state.version) != self.state:
            raise UnreadableError.of(self.address, "changed while it was read")
        return content
