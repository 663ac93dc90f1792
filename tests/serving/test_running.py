"""The server as a process: what it refuses at the start, and that its end loses nothing."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from shotfit.commands.cli import main
from tests.serving.conftest import Home, process
from tests.serving.test_bodies import form, part, request


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main(["serve", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_public_address_without_a_token_is_refused_in_one_line(
    home: Home, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    line = refused(capsys, home.folder / "model", "--host", host, "--port", 0)
    assert "others reach, and there is no token: add --token-file FILE" in line


def test_address_that_cannot_be_had_is_one_line(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no address of this machine" in refused(capsys, home.folder / "model", "--host", "no.such.host.invalid")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused(capsys, home.folder / "model", "--port", taken.getsockname()[1])
    assert "choose another --port" in line


def test_missing_extra_is_one_line(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    line = refused(capsys, home.folder / "model")
    assert line == "error: Serving needs uvicorn, which is not installed: pip install 'shotfit[serve]'."


def test_token_file_that_is_missing_is_one_line(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, home.folder / "model", "--token-file", home.folder / "nothing.txt")
    assert "--token-file" in line and "nothing.txt cannot be read" in line


class Client(threading.Thread):
    """Asks over one connection until the server closes it: every request that it took is answered in full."""

    def __init__(self, port: int, pictures: list[bytes]) -> None:
        super().__init__()
        self.port, self.pictures = port, pictures
        self.answered, self.lost, self.reset = 0, list[Any](), 0

    def run(self) -> None:
        number = 0
        while True:
            line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                line.connect()
            except ConnectionError:
                return  # nobody listens any more
            while True:
                body = form(part(b"files", self.pictures[number % len(self.pictures)]))
                number += 1
                try:
                    line.request("POST", "/v1/predict", body, {"content-type": CONTENT_TYPE})
                    answer = line.getresponse()
                except (ConnectionError, http.client.RemoteDisconnected):
                    self.reset += 1  # no byte of an answer
                    break
                try:
                    found = json.loads(answer.read())
                    if answer.status == 200 and found["predictions"][0]["predictions"]:
                        self.answered += 1
                    else:
                        self.lost.append(found)
                except (http.client.HTTPException, ValueError) as error:
                    self.lost.append(error)
                if answer.getheader("connection") == "close":
                    break


CONTENT_TYPE = "multipart/form-data; boundary=x-boundary"


def test_sigterm_under_load_loses_nothing_that_was_accepted(home: Home) -> None:
    pictures = [path.read_bytes() for path in home.pictures]
    with process(home.folder / "model", "--backbone", home.folder / "backbone") as (run, address):
        clients = [Client(int(address.rpartition(":")[2]), pictures) for _ in range(16)]
        for client in clients:
            client.start()
        time.sleep(2)
        assert all(client.is_alive() for client in clients)
        run.send_signal(signal.SIGTERM)
        assert run.stdout is not None
        said, code = run.stdout.read(), run.wait(30)
    for client in clients:
        client.join(60)
    answered = sum(client.answered for client in clients)
    assert code == 0
    assert [client.lost for client in clients if client.lost] == []
    assert sum(client.reset for client in clients) == 0
    assert f"ended: {answered:,} requests answered" in said
    assert answered > 16


def test_request_whose_body_is_on_its_way_at_the_end_is_answered(home: Home) -> None:
    whole = request(form(part(b"files", home.pictures[0].read_bytes())))
    with process(home.folder / "model", "--backbone", home.folder / "backbone") as (run, address):
        host, _, port = address.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as line:
            line.sendall(whole[:-100])
            time.sleep(0.5)
            run.send_signal(signal.SIGTERM)
            time.sleep(2)  # longer than idle connections are kept
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)), timeout=5)
            line.sendall(whole[-100:])
            found = b""
            while block := line.recv(65536):
                found += block
        assert found.startswith(b"HTTP/1.1 200") and b"connection: close" in found
        assert run.wait(20) == 0


def test_token_guards_a_public_address(home: Home, tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text("a-token-that-nobody-guesses\n")
    words = (home.folder / "model", "--backbone", home.folder / "backbone", "--host", "0.0.0.0")
    with process(*words, "--token-file", tmp_path / "token.txt") as (run, address):
        line = http.client.HTTPConnection("127.0.0.1", int(address.rpartition(":")[2]), timeout=20)
        for header, status in (({}, 401), ({"Authorization": "Bearer a-token-that-nobody-guesses"}, 200)):
            line.request("GET", "/v1/model", headers=header)
            answer = line.getresponse()
            answer.read()
            assert answer.status == status
        line.close()
        run.send_signal(signal.SIGINT)
        assert run.wait(20) == 0
