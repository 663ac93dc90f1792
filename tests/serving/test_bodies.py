"""Bodies that no client should send: never a 5xx, never more than the limits, never a wait without end."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from shotfit.server import connections
from shotfit.server.api import prediction_app
from shotfit.server.limits import Limits
from tests.serving.conftest import Home, Threaded

BOUNDARY = b"x-boundary"
ROUNDS = 1000


def part(name: bytes, content: bytes, more: bytes = b"") -> bytes:
    return b'--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (BOUNDARY, name, more, content)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--%s--\r\n" % BOUNDARY


def request(body: bytes, announced: int | None = None) -> bytes:
    head = (
        b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=%s\r\n" % BOUNDARY
    )
    return head + b"Content-Length: %d\r\n\r\n" % (len(body) if announced is None else announced) + body


async def asked(app: Any, chunks: Sequence[bytes], headers: Sequence[tuple[bytes, bytes]]) -> int:
    """The status of an answer to a body that comes in chunks."""
    scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"},
        **{"path": "/v1/predict", "raw_path": b"/v1/predict", "query_string": b"", "root_path": ""},
        **{"headers": [(b"host", b"127.0.0.1"), *headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)},
    }
    coming, statuses = iter(chunks), list[int]()
    left = len(chunks)

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= 1
        if left < 0:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": next(coming), "more_body": left > 0}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    (status,) = statuses
    return status


def hostile(draw: random.Random, picture: bytes) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """A form with something wrong in it, in chunks, and its headers."""
    noise = draw.randbytes(draw.choice([0, 1, 7, 100, 5000]))
    names = [b"files", b"files", b"top", b"coverage", b"unknown", b"classes", b"task", b"", noise[:20], b"f" * 300]
    contents = [picture, picture[: draw.randrange(len(picture))], noise, b"1", b"nan", b"-1", b"true", b"a,b", b"\xff"]
    extras = [b"", b'; filename="a.jpg"', b"; filename*=utf-8''%ff", b'; name="files"', b'; filename="../../x\0"']
    extras += [b"\r\nX: " + b"y" * 5000, b"\r\nX: 1" * 20, b"\r\nContent-Type: a/b"]
    extras += [b"\r\nContent-Transfer-Encoding: base64"]
    parts = [part(draw.choice(names), draw.choice(contents), draw.choice(extras)) for _ in range(draw.randrange(1, 6))]
    body = bytearray(form(*parts))
    for _ in range(draw.choice([0, 0, 1, 5, 50])):
        body[draw.randrange(len(body))] = draw.randrange(256)
    damage = draw.randrange(6)
    if damage == 0:
        del body[draw.randrange(len(body)) :]
    elif damage == 1:
        body[draw.randrange(len(body)) : draw.randrange(len(body))] = noise
    elif damage == 2:
        body += body[draw.randrange(len(body)) :]
    cuts = sorted(draw.sample(range(len(body) + 1), min(len(body), draw.choice([0, 1, 3, 20]))))
    chunks = [bytes(body[start:end]) for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    kinds = [b"multipart/form-data; boundary=" + BOUNDARY] * 12
    kinds += [b"multipart/form-data", b"multipart/form-data; boundary=" + b"b" * 500, noise[:50], b"text/plain", b""]
    kinds += [b'multipart/form-data; boundary="', b"multipart/form-data; boundary=\xff\xfe"]
    headers = [(b"content-type", draw.choice(kinds))]
    lengths = [None, None, str(len(body)).encode(), b"-1", b"9" * 400, b"abc", b"\xb2"]
    length = draw.choice(lengths)
    return chunks, headers if length is None else [*headers, (b"content-length", length)]


def test_thousand_hostile_bodies_are_no_error_of_the_server(home: Home) -> None:
    app = prediction_app(home.model(), Limits(files=4, fields=4))
    picture, draw, statuses = home.pictures[0].read_bytes(), random.Random(0), Counter[int]()

    async def attack() -> None:
        async with app.router.lifespan_context(app):
            for number in range(ROUNDS):
                chunks, headers = hostile(draw, picture)
                status = await asked(app, chunks, headers)
                statuses[status] += 1
                assert status < 500, (number, headers, b"".join(chunks)[:500])
            well = await asked(app, [form(part(b"files", picture))], [_type()])
            assert well == 200

    asyncio.run(attack())
    assert {200, 400, 413, 415} <= statuses.keys(), statuses


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_form_is_read_the_same_in_chunks_of_every_size(home: Home, size: int) -> None:
    app, picture = prediction_app(home.model()), home.pictures[0].read_bytes()[:2000]
    body = form(part(b"files", picture + b"\r\n--x-bound"), part(b"top", b"2"))

    async def ask() -> int:
        async with app.router.lifespan_context(app):
            return await asked(app, [body[at : at + size] for at in range(0, len(body), size)], [_type()])

    assert asyncio.run(ask()) == 200


def _type() -> tuple[bytes, bytes]:
    return b"content-type", b"multipart/form-data; boundary=" + BOUNDARY


def talk(port: int, *data: bytes, pause: float = 0.0) -> bytes:
    """All that the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        for block in data:
            line.sendall(block)
            time.sleep(pause)
        found = b""
        with suppress(ConnectionResetError):  # as a disconnected client may see it
            while block := line.recv(65536):
                found += block
        return found


def test_body_that_comes_too_slowly_is_408(threaded: Threaded) -> None:
    with threaded(Limits(read_seconds=1)) as port:
        body = form(part(b"files", b"x"))
        found = talk(port, request(body[:10], announced=len(body)))
        assert found.startswith(b"HTTP/1.1 408") and b"within 1 seconds" in found


def test_head_that_never_ends_and_silence_are_disconnected(threaded: Threaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with threaded() as port:
        begun = time.monotonic()
        assert talk(port) == b""
        assert talk(port, b"POST /v1/pre") == b""
        well = talk(port, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /he")
        assert well.startswith(b"HTTP/1.1 200") and well.count(b"HTTP/1.1") == 1
        assert time.monotonic() - begun < 10


def test_large_body_is_refused_by_its_head_and_its_sender_reads_why(threaded: Threaded) -> None:
    with threaded(Limits(body=100_000)) as port:
        waiting = request(b"", announced=10**9).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        found = talk(port, waiting)
        assert found.startswith(b"HTTP/1.1 413") and b"100 Continue" not in found
        body = form(part(b"files", b"x" * 1_000_000))
        assert talk(port, request(body)).startswith(b"HTTP/1.1 413")  # and not a reset connection


def test_head_of_too_many_bytes_is_400(threaded: Threaded) -> None:
    with threaded() as port:
        assert b" 400 " in talk(port, b"GET /health HTTP/1.1\r\nX: " + b"y" * 100_000).split(b"\r\n")[0]


def test_client_that_leaves_is_no_trouble_to_others(home: Home, threaded: Threaded) -> None:
    body = form(part(b"files", home.pictures[0].read_bytes()))
    with threaded() as port:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as line:
                line.sendall(request(body)[: -random.Random(0).randrange(1, 50)])
        found = talk(port, request(body).replace(b"Host", b"Connection: close\r\nHost"))
        assert found.startswith(b"HTTP/1.1 200")
