"""GET over HTTP: a range of a file, counted while it is read, with timeouts, and tried again where that may help.

fsspec's own way reads whatever a server sends. Here a server that sends more than was asked for, another range, or
nothing for a while, is an error. The session is fsspec's, so its settings (`FSSPEC_HTTP`) hold: headers, proxies.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from typing import Any, NamedTuple

from shotfit.data.remote.addresses import Address

__all__ = ["CONNECT_SECONDS", "READ_SECONDS", "TRIES", "Answer", "StatusError", "TooLongError", "get"]

CONNECT_SECONDS = 10
READ_SECONDS = 30
"""Without a byte."""
WHOLE_SECONDS = 900  # of one answer, however slowly it comes
TRIES = 3
_PAUSES = (0.3, 1.5)  # seconds before the second and the third
_LONGEST_PAUSE = 10  # that a server may ask for
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_SILENT = 3  # times that a host did not answer, after which it is left alone
_LEFT_ALONE = 60  # seconds
_PIECE = 2**20

_silent: dict[str, tuple[int, float]] = {}
_lock = threading.Lock()


class Answer(NamedTuple):
    """Bytes from `start`, the size of the whole file (None: not told), and what names its version (""): not told."""

    content: bytes
    size: int | None
    version: str


class StatusError(Exception):
    """A server answered, but not with the file."""

    def __init__(self, status: int, reason: str = "") -> None:
        super().__init__(f"HTTP {status}{f' {reason}' if reason else ''}")
        self.status = status


class TooLongError(Exception):
    """An answer has more bytes than are read."""


class SilentError(TimeoutError):
    """A host that did not answer several times, and is left alone for a while."""


async def get(system: Any, address: Address, start: int, length: int, ranges: bool) -> Answer:
    """At most `length` bytes from `start`; fewer where the file ends. ranges: they are a part; else more is too long.

    Raises StatusError (416 where the file ends before `start`, 200 where the server sends no ranges), TooLongError,
    aiohttp's ClientError, TimeoutError.
    """
    import aiohttp

    _check_silent(address.host)
    for number in range(TRIES):
        wait = 0.0
        try:
            answer = await _once(system, address, start, length, ranges)
        except StatusError as error:
            _heard(address.host)
            if error.status not in _AGAIN or number == TRIES - 1:
                raise
            wait = min(getattr(error, "after", 0), _LONGEST_PAUSE)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.InvalidURL):
            raise
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, asyncio.TimeoutError) as error:
            if number == TRIES - 1:
                if isinstance(error, (aiohttp.ClientConnectorError, TimeoutError, asyncio.TimeoutError)):
                    _unheard(address.host)
                raise
        else:
            _heard(address.host)
            return answer
        await asyncio.sleep(max(wait, _PAUSES[number]))
    raise AssertionError("the last try returns or raises")


async def _once(system: Any, address: Address, start: int, length: int, ranges: bool) -> Answer:
    import aiohttp

    session = await system.set_session()
    options = dict(system.kwargs)
    headers = dict(options.pop("headers", {})) | {"Accept-Encoding": "identity"}
    headers["Range"] = f"bytes={start}-{start + length - 1}"
    options.setdefault(
        "timeout", aiohttp.ClientTimeout(WHOLE_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    )
    async with session.get(system.encode_url(address.text), headers=headers, max_redirects=5, **options) as found:
        version = found.headers.get("ETag") or found.headers.get("Last-Modified") or ""
        if found.status == 206:
            told = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", found.headers.get("Content-Range", ""))
            if told is None or int(told[1]) != start:
                raise StatusError(206, "with another range than was asked for")
            size = None if told[3] == "*" else int(told[3])
        elif found.status == 200 and not start:
            size = found.content_length
            if ranges and (size is None or size > length):
                raise StatusError(200)
        else:
            error = StatusError(found.status, found.reason or "")
            after = found.headers.get("Retry-After", "")
            error.after = int(after) if after.isdecimal() else 0  # type: ignore[attr-defined]
            raise error
        if not ranges and size is not None and size > length:
            raise TooLongError
        return Answer(await _counted(found, length), size, version)


async def _counted(found: Any, length: int) -> bytes:
    content = bytearray()
    async for piece in found.content.iter_chunked(_PIECE):
        content += piece
        if len(content) > length:
            raise TooLongError
    return bytes(content)


def _check_silent(host: str) -> None:
    with _lock:
        times, last = _silent.get(host, (0, 0.0))
    if times >= _SILENT and time.monotonic() - last < _LEFT_ALONE:
        raise SilentError


def _heard(host: str) -> None:
    with _lock:
        _silent.pop(host, None)


def _unheard(host: str) -> None:
    with _lock:
        _silent[host] = (_silent.get(host, (0, 0.0))[0] + 1, time.monotonic())
        while len(_silent) > 10_000:
            _silent.pop(next(iter(_silent)))
