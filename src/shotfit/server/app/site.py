"""The page over HTTP: files, pictures, labels, and one stream of what changes.

    site = build(Board(folder, home), token, port)              # an ASGI application
    http://127.0.0.1:PORT/TOKEN/

Everything lies behind a random token in the path, so that no other page can guess an address, and nothing depends on
cookies, which ports of one machine share. The first line of defence is in front of all routes: a request for another
host (a name that was bound to 127.0.0.1), from another site, or without the token ends there. What is sent is bounded
before it is read. The headers forbid the browser to run, fetch or frame anything that does not come from here.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from shotfit.data.budget import thread_pool
from shotfit.data.cachefolder import cache_folder
from shotfit.data.images import as_jpeg
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import SETTINGS_BYTES, read_text
from shotfit.server.app.board import Board, BusyError
from shotfit.server.app.record import PLOTS
from shotfit.server.app.thumbnails import Thumbnails
from shotfit.server.guard import App, Receive, Scope, Send
from shotfit.server.running import Stopping
from shotfit.server.tokens import is_token

__all__ = ["build"]

SAID_BYTES = 8 * 2**20  # of JSON: a label for each of 100,000 pictures
PICTURE_BYTES = 64 * 2**20
SUGGESTED = 24  # pictures to label next
LARGE = 1600  # pixels of the longer side of a picture that is looked at
LOOK = 0.5  # seconds between two looks at whether the server is to end
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}  # a picture that changes has another name

STYLE = (  # what the page of a report says of its drawings
    "<style>svg{font-family:system-ui,sans-serif;--ink:#16201e;--muted:#55615e;--grid:#d9dddb;--paper:#fff}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e8eeec;--muted:#a3b0ac;--grid:#323b39;--paper:#1a201f}}</style>"
)

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}


def build(board: Board, token: str, port: int, stopping: Stopping) -> App:
    """The application for a board; it answers on that port of this machine alone. stopping: ends what would not end."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    thumbnails = Thumbnails(cache_folder())
    decoders = thread_pool(max(os.cpu_count() or 1, 2), "decoder")  # so that threads are left to write labels
    assets = {path.name: path.read_bytes() for path in files("shotfit.server.app").joinpath("assets").iterdir()}

    @app.exception_handler(ShotfitError)
    async def refused(request: Request, error: ShotfitError) -> Response:
        status = 409 if isinstance(error, BusyError) else 400
        return _json({"error": str(error)}, status)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:  # which standard error shows
        return _json({"error": f"This is a bug of shotfit: {type(error).__name__}: {error}"}, 500)

    @app.get("/")
    async def page() -> Response:
        return Response(assets["index.html"], media_type="text/html", headers={"Cache-Control": "no-store"})

    @app.get("/assets/{name}")
    async def asset(name: str) -> Response:
        if name not in assets:
            return _json({"error": "There is no such file."}, 404)
        kind = KINDS.get(name[name.rfind(".") :], "application/octet-stream")
        return Response(assets[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    @app.get("/small/{name}")
    async def small(name: str) -> Response:
        found = board.picture(name)
        made = await asyncio.get_running_loop().run_in_executor(decoders, thumbnails.of, Picture(found.file), name)
        return Response(made, media_type="image/jpeg", headers=FOR_EVER)

    @app.get("/large/{name}")
    async def large(name: str) -> Response:
        found = board.picture(name)
        made = await asyncio.get_running_loop().run_in_executor(decoders, as_jpeg, Picture(found.file), LARGE, 88)
        return Response(made, media_type="image/jpeg", headers=FOR_EVER)

    @app.get("/plot/{name}")
    async def plot(name: str) -> Response:
        if name not in PLOTS:
            return _json({"error": "There is no such drawing."}, 404)
        drawn = read_text(board.home / f"{name}.svg", SETTINGS_BYTES, "a drawing")
        return Response(
            drawn.replace(">", f">{STYLE}", 1),
            media_type="image/svg+xml",
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"},
        )

    @app.get("/api/state")
    def state() -> Response:
        found = board.state()
        board.look_again()
        return _json(found)

    @app.get("/api/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(
            _events(board, stopping), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    @app.post("/api/{action}")
    async def act(action: str, request: Request) -> Response:
        if action == "try":
            content = await _body(request, PICTURE_BYTES)
            classify = partial(board.worker.call, "classify", content=content, classes=board.classes())
            return _json(await run_in_threadpool(classify))
        said = _object(await _body(request, SAID_BYTES))
        return _json(await run_in_threadpool(_act, board, action, said))

    return _Guarded(app, token, port)


def _json(content: Any, status: int = 200) -> Response:
    """An answer; ASCII, so that names of files that are no text pass too."""
    return Response(json.dumps(content), status, media_type="application/json")


def _act(board: Board, action: str, said: dict[str, Any]) -> dict[str, Any]:
    """Do what a page asks for; gives its answer."""
    if action == "label":
        expected = None if "expected" not in said else _texts(said, "expected", nothing=True)
        number, left = board.label(_texts(said, "labels", nothing=True), expected)
        return {"number": number, "left": left}
    if action == "class":
        return {"name": board.name_class(_text(said, "name"))}
    if action == "rename":
        board.rename_class(_text(said, "name"), _text(said, "to"))
    elif action == "drop":
        board.drop_class(_text(said, "name"))
    elif action == "confirm":
        board.confirm(_list(said, "names"))
    elif action == "guess":
        names = _list(said, "names")
        paths = [board.picture(name).path for name in names]
        try:
            found = board.worker.call("guess", paths=paths, classes=board.classes())
        except BusyError:
            raise
        except ShotfitError as error:  # names that the text tower cannot read: no guess is no error of the page's
            return {"by": str(error), "guesses": dict.fromkeys(names)}
        return {"by": found["by"], "guesses": dict(zip(names, found["guesses"], strict=True))}
    elif action == "fit":
        board.fit(said.get("thorough") is True)
    elif action == "suggest":
        board.suggest(SUGGESTED)
    elif action == "take":
        board.take(_text(said, "form"), _text(said, "name"), said.get("link") is True)
    elif action == "save":
        board.begin("save", out=str(board.place(_text(said, "name"))))
    elif action == "export":
        board.begin("export", to=_text(said, "to"), out=str(board.place(_text(said, "name"))))
    elif action == "cancel":
        board.cancel()
    else:
        raise UsageError(f"There is nothing called {action!r} to do.")
    return {}


async def _events(board: Board, stopping: Stopping) -> AsyncIterator[bytes]:
    """What changes, as server-sent events; the first says how far the journal is."""
    loop, waiting = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()
    end = board.listen(lambda said: loop.call_soon_threadsafe(waiting.put_nowait, said))  # type: ignore[arg-type]
    coming: asyncio.Future[dict[str, Any]] | None = None
    try:
        yield _event({"type": "hello", "number": board.journal.number})
        while not stopping.asked:
            coming = asyncio.ensure_future(waiting.get())
            while not (coming.done() or stopping.asked):
                await asyncio.wait([coming], timeout=LOOK)
            if coming.done():
                yield _event(coming.result())
    finally:
        if coming is not None:
            coming.cancel()
        end()


def _event(said: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(said)}\n\n".encode()


async def _body(request: Request, limit: int) -> bytes:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > limit:
            raise UsageError(f"That is more than the {limit:,} bytes that are taken at once.")
    return bytes(content)


def _object(content: bytes) -> dict[str, Any]:
    try:
        said = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise UsageError("Expected a JSON object.")
    return said


def _text(said: dict[str, Any], key: str) -> str:
    value = said.get(key)
    if not isinstance(value, str):
        raise UsageError(f"{key} is to be a text.")
    return value


def _list(said: dict[str, Any], key: str) -> list[str]:
    value = said.get(key)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{key} is to be a list of texts.")
    return value


def _texts(said: dict[str, Any], key: str, nothing: bool = False) -> dict[str, str | None]:
    value = said.get(key)
    if not isinstance(value, dict) or not all(
        isinstance(one, str) or (nothing and one is None) for one in value.values()
    ):
        raise UsageError(f"{key} is to be an object of texts.")
    return value


class _Guarded:
    """What stands in front of all routes; see the module."""

    def __init__(self, app: App, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = [*message.get("headers", ())]
                said = {name for name, _ in given}
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*given, *(pair for pair in own if pair[0] not in said)]}
            await send(message)

        refusal, inside = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
            return
        await self.app({**scope, "path": inside, "raw_path": inside.encode()}, receive, with_headers)

    def _refusal(self, scope: Scope) -> tuple[Callable[..., Awaitable[None]] | None, str]:
        """The answer to a request that goes no further, or None; and the path behind the token."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get(b"host", "") not in self.hosts:
            return _json({"error": "This server answers on 127.0.0.1 alone."}, 421), ""
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", "none")
        own = origin is None or origin in {f"http://{host}" for host in self.hosts}
        if not own or site not in ("same-origin", "none"):
            return _json({"error": "Another site may not ask this server."}, 403), ""
        given, _, inside = scope["path"].removeprefix("/").partition("/")
        if not is_token(self.token, given.encode("utf-8", "replace")):
            said = "Open the address that shotfit app printed: it ends with a token, which changes at each start."
            return _json({"error": said}, 403), ""
        return None, f"/{inside}"
