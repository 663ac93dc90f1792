"""How much the server takes: bytes, pictures, waiting requests and seconds, and the error for what is beyond.

    limits = Limits(body=16 * 2**20)
    raise RefusedError(413, "The body has 20,000,000 bytes; at most 16,777,216 are read.")

Pixels are not bounded here: the decoder refuses what is beyond its own budget (data/headers.py, data/budget.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from shotfit.errors import ShotfitError, UsageError

__all__ = ["Held", "Limits", "RefusedError"]


class RefusedError(ShotfitError):
    """A request that is not served: an HTTP status, and one sentence for whoever sent it."""

    def __init__(self, status: int, message: object, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


@dataclass(frozen=True)
class Limits:
    """The bounds of a server; each is 1 or more."""

    body: int = 64 * 2**20  # bytes of one request
    files: int = 64  # pictures of one request
    fields: int = 16  # other fields of one request
    field_bytes: int = 64 * 2**10  # of all of them together
    read_seconds: int = 30  # until the last byte of a request must have come
    requests: int = 256  # that are read or answered at the same time
    queue: int = 512  # pictures that wait or are being worked on
    held: int = 512 * 2**20  # bytes of all requests together
    connections: int = 1024
    classes: int = 200  # class names that a request may bring

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise UsageError(f"The limit {field.name} is {getattr(self, field.name)}; expected 1 or more.")


class Held:
    """A count that may not go above its limit: of bytes in memory, or of requests."""

    def __init__(self, limit: int, what: str) -> None:
        self.limit, self.what, self.now = limit, what, 0

    def add(self, amount: int) -> None:
        """Take so much more.

        Raises RefusedError (429) where the limit would be passed; nothing is taken then.
        """
        if self.now + amount > self.limit:
            raise RefusedError(429, f"The server is busy: {self.what}. Try again in a second.", retry_after=1)
        self.now += amount

    def drop(self, amount: int) -> None:
        """Give back what was taken."""
        self.now -= amount

    @contextmanager
    def taken(self, amount: int = 1) -> Iterator[None]:
        """Take so much until the block is left."""
        self.add(amount)
        try:
            yield
        finally:
            self.drop(amount)
