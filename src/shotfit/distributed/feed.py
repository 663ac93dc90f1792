"""How parts go from the process that lists them to the workers: one after the other, as they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Feed", "coming"]


class Feed:
    """Parts that wait for workers, by their place in a round. One that is finished leaves its place behind.

    So whoever counts the places again, in place of a worker that died, finds every one where it was.
    """

    def __init__(self) -> None:
        self.waiting: dict[int, bytes] = {}
        self.given = 0
        self.closed = False
        self.change = asyncio.Condition()

    async def put(self, part: bytes) -> None:
        """One more."""
        async with self.change:
            self.waiting[self.given] = part
            self.given += 1
            self.change.notify_all()

    async def close(self) -> None:
        """There are no more."""
        async with self.change:
            self.closed = True
            self.change.notify_all()

    async def forget(self, place: int) -> None:
        """It is finished."""
        self.waiting.pop(place, None)

    async def get(self, place: int) -> bytes | None:
        """The part at a place, waited for; empty if it is finished, None if there is none."""
        async with self.change:
            await self.change.wait_for(lambda: self.given > place or self.closed)
            return self.waiting.get(place, b"") if self.given > place else None


def coming(feed: Any) -> Iterator[pyarrow.Table]:
    """The parts of a feed, as they come."""
    import pyarrow as pa
    import ray

    place = 0
    while (part := ray.get(feed.get.remote(place))) is not None:
        yield pa.table({"place": pa.array([place], pa.int64()), "part": pa.array([part], pa.large_binary())})
        place += 1
