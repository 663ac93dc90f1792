"""Where remote pictures come from in tests: a host of the web that sends ranges, with faults, and S3 by moto.

    with running_web({"a.jpg": content}) as web:
        f"{web.url}/a.jpg", web.asked           # [("GET", "/a.jpg", "bytes=0-99")]
    with running_s3() as url: ...

Under `/FAULT/NAME` a file has one of the faults of `Web`.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest


class Web(ThreadingHTTPServer):
    """FAULTS: plain (no ranges), cut (ends before its length), silent (never answers), busy (503 twice), forbidden,
    endless (no length, no end), elsewhere (a redirect to what `target` says), unsized (no length)."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.asked: list[tuple[str, str, str]] = []
        self.times = Counter[str]()
        self.sent = 0
        self.delay = 0.0  # seconds before each answer
        self.target = ""
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""

    def gets(self, name: str) -> list[str]:
        """The ranges that were asked of a file."""
        return [ranges for method, path, ranges in self.asked if method == "GET" and path.endswith(f"/{name}")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        web = self.server
        path = unquote(urlsplit(self.path).path)
        told = self.headers.get("Range", "")
        web.asked.append((self.command, path, told))
        web.times[path] += 1
        _, fault, name = path.split("/", 2) if path.count("/") > 1 else ("", "", path[1:])
        time.sleep(web.delay)
        content = web.files.get(name)
        if fault == "silent":
            web.over.wait(20)
            self.close_connection = True
            return
        if fault == "forbidden" or (fault == "busy" and web.times[path] < 3) or content is None:
            self._answer({"forbidden": 403, "busy": 503}.get(fault, 404), b"no")
            return
        if fault == "elsewhere":
            self._answer(302, b"", {"Location": web.target})
            return
        if fault == "endless":
            self._endless()
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"'}
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", told)
        if fault == "plain" or found is None:
            self._answer(200, content, headers, short=fault == "cut")
            return
        start, end = int(found[1]), min(int(found[2]), len(content) - 1)
        if start >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self._answer(206, content[start : end + 1], headers, short=fault == "cut")

    def _answer(self, status: int, content: bytes, headers: Mapping[str, str] = {}, short: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if short else content)
            self.server.sent += len(content)
        self.close_connection = self.close_connection or short

    def _endless(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):
            while not self.server.over.is_set():
                self.wfile.write(b"10000\r\n" + bytes(2**16) + b"\r\n")
                self.server.sent += 2**16


@contextmanager
def running_web(files: Mapping[str, bytes]) -> Iterator[Web]:
    web = Web(files)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        web.shutdown()
        web.server_close()


@contextmanager
def running_s3(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address, which botocore is told, with a login that is made up."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/none",
            "AWS_SHARED_CREDENTIALS_FILE": "/none",
            "AWS_ENDPOINT_URL": url,
        }.items():
            patch.setenv(name, value)
        yield url
    finally:
        server.stop()
