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
        self.finished = set[int]()
        self.count: int | None = None
        self.change = asyncio.Condition()

    async def put(self, place: int, part: bytes) -> None:
        """One more. Ray does not keep the order of calls, so each says its place."""
        async with self.change:
            self.waiting[place] = part
            self.change.notify_all()

    async def close(self, count: int) -> None:
        """There are so many, and no more."""
        async with self.change:
            self.count = count
            self.change.notify_all()

    async def forget(self, place: int) -> None:
        """It is finished."""
        self.finished.add(place)
        self.waiting.pop(place, None)

    async def get(self, place: int) -> bytes | None:
        """The part at a place, waited for; empty if it is finished, None if there is none."""

        def known() -> bool:
            return place in self.waiting or place in self.finished or (self.count is not None and place >= self.count)

        async with self.change:
            await self.change.wait_for(known)
            return None if self.count is not None and place >= self.count else self.waiting.get(place, b"")


def coming(feed: Any) -> Iterator[pyarrow.Table]:
    """The parts of a feed, as they come."""
    import pyarrow as pa
    import ray

    place = 0
    while (part := ray.get(feed.get.remote(place))) is not None:
        yield pa.table({"place": pa.array([place], pa.int64()), "part": pa.array([part], pa.large_binary())})
        place += 1
