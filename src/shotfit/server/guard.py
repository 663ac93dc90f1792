"""What stands in front of every route: the token, the host's name, and one sentence for every error.

    app.add_middleware(Guard, token=token, open_paths=["/health"])

Without a token the server listens on a loopback address alone. A page of another site could still reach it through a
name of its own that leads there (DNS rebinding), so only names of this machine are answered then.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from shotfit.errors import ShotfitError, UsageError
from shotfit.printing import as_json, printable
from shotfit.server.limits import RefusedError
from shotfit.server.tokens import bearer, is_token

__all__ = ["Guard", "answer"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DRAIN_SECONDS = 2.0  # in which the rest of a refused request is passed over, so that its sender reads the answer

_OWN_NAMES = {"localhost", "127.0.0.1", "[::1]"}
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class Guard:
    """Middleware of an ASGI application.

    token: None lets everybody of this machine in. open_paths: are answered without a token. may_enter: lets a request
    in that shows the token in another way than in its header `Authorization: Bearer TOKEN`.
    """

    def __init__(
        self,
        app: App,
        token: str | None,
        open_paths: Collection[str] = (),
        may_enter: Callable[[Scope], bool] = lambda _: False,
    ) -> None:
        self.app, self.token, self.open_paths, self.may_enter = app, token, frozenset(open_paths), may_enter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = read = False

        async def received() -> Message:
            nonlocal read
            message = await receive()
            read = not message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, received, sent)
        except Exception as error:
            if begun:
                raise
            status, sentence = _told(error)
            if not read:
                await _drain(scope, receive)
            more = [] if read else [(b"connection", b"close")]
            if status == 401:
                more.append((b"www-authenticate", b"Bearer"))
            if isinstance(error, RefusedError) and error.retry_after is not None:
                more.append((b"retry-after", str(error.retry_after).encode()))
            await answer(sent, status, {"detail": sentence}, more)

    def _check(self, scope: Scope) -> None:
        if scope["path"] in self.open_paths:
            return
        if self.token is None:
            host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
            if host.rpartition(":")[0] not in _OWN_NAMES and host not in _OWN_NAMES:
                raise RefusedError(
                    403, f"{host[:100]!r} is no name of this machine: use 127.0.0.1, or start the server with a token."
                )
        elif not is_token(self.token, bearer(scope["headers"])) and not self.may_enter(scope):
            raise RefusedError(401, "The token is missing or wrong: send the header Authorization: Bearer TOKEN.")


async def answer(
    send: Send, status: int, content: dict[str, Any], headers: Collection[tuple[bytes, bytes]] = ()
) -> None:
    """Send an answer of JSON."""
    body = as_json(content).encode("utf-8", "backslashreplace")
    lines = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


def _told(error: Exception) -> tuple[int, str]:
    """The status and the sentence for an error; one that is nobody's request's is told on standard error too."""
    if isinstance(error, RefusedError):
        return error.status, str(error)
    if isinstance(error, UsageError):
        return 400, str(error)
    if isinstance(error, MemoryError):
        return 503, "The server is out of memory: send fewer or smaller pictures."
    print(printable(f"error: {type(error).__name__}: {error}"), file=sys.stderr, flush=True)
    if isinstance(error, ShotfitError):
        return 500, str(error)
    for line in traceback.format_exception(error):
        print(line.rstrip(), file=sys.stderr, flush=True)
    return 500, "This is a bug of shotfit: the server's standard error shows where."


async def _drain(scope: Scope, receive: Receive) -> None:
    """Pass over what is still sent; a client that waits for leave to send its body is not asked for it."""
    if any(name == b"expect" for name, _ in scope["headers"]):
        return

    async def passed() -> None:
        while (await receive()).get("more_body", False):
            pass

    try:
        await asyncio.wait_for(passed(), DRAIN_SECONDS)
    except asyncio.TimeoutError:
        return
