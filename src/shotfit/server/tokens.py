"""The token that a client of the server shows, compared in constant time.

token = read_token(Path("token.txt"))
is_token(token, bearer(scope["headers"]))
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from shotfit.errors import UsageError
from shotfit.files import UnreadableError, read_text

__all__ = ["bearer", "is_token", "new_token", "read_token"]

SHORTEST = 16  # characters; a shorter one could be guessed
MAX_BYTES = 4096  # of a token's file

_TOKEN = re.compile(r"[!-~]+")
_MAKE_ONE = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def new_token() -> str:
    """A random token of 256 bits, which may stand in an address."""
    return secrets.token_urlsafe(32)


def read_token(path: Path) -> str:
    """The token in a file: its one line, without what stands around it.

    Raises UsageError for a file that cannot be read, and for a token that is short or has spaces or other signs than
    ASCII's visible ones.
    """
    try:
        token = read_text(path, MAX_BYTES, "a token").strip()
    except UnreadableError as error:
        raise UsageError(f"--token-file {path} {error.reason}.") from None
    if len(token) < SHORTEST or not _TOKEN.fullmatch(token):
        raise UsageError(
            f"--token-file {path} holds no token: expected one line of {SHORTEST} or more letters, digits and signs "
            f"without spaces. Make one with {_MAKE_ONE} > {path}."
        )
    return token


def bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """What stands behind "Authorization: Bearer" in the headers of a request.

    >>> bearer([(b"authorization", b"Bearer abc")])
    b'abc'
    """
    for name, value in headers:
        if name == b"authorization":
            kind, _, given = value.partition(b" ")
            return given.strip() if kind.lower() == b"bearer" else None
    return None


def is_token(token: str, given: bytes | None) -> bool:
    """Whether it is the token. How long the answer takes says nothing of the token, nor of its length."""
    expected, found = (hashlib.sha256(value).digest() for value in (token.encode(), given or b""))
    return hmac.compare_digest(expected, found) and given is not None
