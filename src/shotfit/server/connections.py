"""A connection of uvicorn whose client may not take forever: to send a request's head, or to take its answer.

What of a body comes too slowly is for whoever reads it (bodies.py).
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Connection"]

HEAD_SECONDS = 15  # from the connection, or the first byte of a further request, to the end of its head
ANSWER_SECONDS = 30  # in which a client takes what the system could not send at once


class Connection(H11Protocol):
    """HTTP/1.1, with deadlines for head and answer; a client that misses one is disconnected."""

    _deadline: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there, and says nothing yet."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head or a body."""
        super().data_received(data)
        self._expect_head()

    def on_response_complete(self) -> None:
        """An answer is sent; bytes of the next request may have come with the last one."""
        super().on_response_complete()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        for timer in (self._deadline, self._writing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client takes its answer more slowly than it is written."""
        super().pause_writing()
        self._writing = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client took it."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

    def _expect_head(self) -> None:
        """A deadline while a head is incomplete, and none while a request is served or nothing of the next has come."""
        incomplete = (self.cycle is None or self.cycle.response_complete) and bool(self.conn.trailing_data[0])
        if not incomplete and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        elif incomplete and self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
