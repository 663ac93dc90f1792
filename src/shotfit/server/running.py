"""Run an ASGI application with uvicorn until a signal comes, and finish then what was accepted.

    with listening("127.0.0.1", 8000, token) as place:      # refused here, before anything heavy is loaded
        run(app, place, Limits(), started=lambda: print(place.address))

SIGTERM and SIGINT: no new connection is taken, every request that has begun is answered, and clients are told to close.
A second SIGINT ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from shotfit.errors import UsageError
from shotfit.server.limits import Limits

if TYPE_CHECKING:
    import uvicorn

__all__ = ["Place", "Stopping", "check_installed", "listening", "run"]

HEAD_BYTES = 16 * 2**10  # of a request's line and headers
KEEP_ALIVE_SECONDS = 15
LINGER_SECONDS = 1.0  # in which a client that keeps its connection may send a last request before it is closed
GRACE_SECONDS = 25  # for the answers; systems kill after 30
BACKLOG = 1024


@dataclass(frozen=True)
class Place:
    """Where a server listens. host: as it was asked for."""

    host: str
    socket: socket.socket

    @property
    def port(self) -> int:
        """The port, also where any was asked for (0)."""
        return int(self.socket.getsockname()[1])

    @property
    def address(self) -> str:
        """As a browser takes it."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class Stopping:
    """Whether the server was asked to end, by a signal or by who sets `asked`; it is not ready any more then."""

    def __init__(self) -> None:
        self.asked = False


def check_installed() -> None:
    """Refuse to go on without the libraries of the extra `serve`.

    Raises UsageError.
    """
    for name in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "jinja2"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(f"Serving needs {name}, which is not installed: pip install 'shotfit[serve]'.") from error


@contextlib.contextmanager
def listening(host: str, port: int, token: str | None) -> Iterator[Place]:
    """A socket that is bound to the address; connections are refused until the server runs.

    Raises UsageError for an address that others reach where there is no token, and for one that cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError):
        raise UsageError(f"--host {host!r} is no address of this machine: use 127.0.0.1, or 0.0.0.0 for all.") from None
    if token is None and not all(ipaddress.ip_address(one[4][0]).is_loopback for one in found):
        raise UsageError(
            f"--host {host!r} is an address that others reach, and there is no token: add --token-file FILE, or use "
            "--host 127.0.0.1."
        )
    family, kind, _, _, address = found[0]
    with socket.socket(family, kind) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            made.bind(address)
        except OSError as error:
            raise UsageError(
                f"--host {host} --port {port} cannot be used ({error.strerror}): choose another --port, or 0 for any."
            ) from None
        yield Place(host, made)


def run(
    app: Any,
    place: Place,
    limits: Limits,
    stopping: Stopping | None = None,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Serve the application until SIGTERM or SIGINT, and return when all that was accepted is answered.

    stopping: tells when the end begins, and can ask for it. started: called once connections are taken.
    """
    import uvicorn

    from shotfit.server.connections import Connection

    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # not each client that speaks no HTTP
    config = uvicorn.Config(
        app,
        http=Connection,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=HEAD_BYTES,
        limit_concurrency=limits.connections,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    _server(config, stopping or Stopping(), started).run([place.socket])


def _server(config: uvicorn.Config, stopping: Stopping, started: Callable[[], None]) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """Of uvicorn's, with an end that loses no request, and that is no error."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

        async def on_tick(self, counter: int) -> bool:
            return await super().on_tick(counter) or stopping.asked

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            stopping.asked = True
            self.server_state.default_headers.append((b"connection", b"close"))  # also of what is being answered
            for listener in sockets or []:
                await self._take_waiting(listener)
            for server in self.servers:
                server.close()
            until = asyncio.get_running_loop().time() + LINGER_SECONDS
            while self.server_state.connections and asyncio.get_running_loop().time() < until and not self.force_exit:
                await asyncio.sleep(0.02)
            await super().shutdown(sockets)

        async def _take_waiting(self, listener: socket.socket) -> None:
            """The connections that the system has accepted for us; closing the socket would reset them."""
            waiting = []
            with contextlib.suppress(OSError):
                while True:
                    waiting.append(listener.accept()[0])
            for one in waiting:
                one.setblocking(False)
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, one)

        def _protocol(self) -> asyncio.Protocol:
            kind: Any = config.http_protocol_class
            return kind(config=config, server_state=self.server_state, app_state=self.lifespan.state)

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """As uvicorn does, but a signal that was obeyed is not raised again: the end is a success."""
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        def _end(self, number: int, _: FrameType | None) -> None:
            stopping.asked = True
            self.force_exit = self.should_exit and number == signal.SIGINT
            self.should_exit = True

    return Server(config)
