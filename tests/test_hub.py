"""Checkpoints by hub id: from the cache without a network, and from a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from shotfit.checkpoints.names import find
from shotfit.checkpoints.weights import load_backbone
from shotfit.errors import ShotfitError

from .checkpoints import HUGGINGFACE_CONFIG, huggingface_weights, write_huggingface, write_open_clip

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def snapshot(cache: Path, repository: str = "owner/name", commit: str = COMMIT) -> Path:
    """The folder of a commit in the cache, to which `main` points."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit


def test_hub_id_opens_from_the_cache_offline(cache: Path) -> None:
    write_huggingface(snapshot(cache))
    assert load_backbone("owner/name").name == f"owner/name@{COMMIT}"


def test_revision_opens_from_the_cache_offline(cache: Path) -> None:
    write_open_clip(snapshot(cache))
    assert load_backbone("owner/name", revision=COMMIT).name == f"owner/name@{COMMIT}"
    assert load_backbone(f"owner/name@{COMMIT}").name == f"owner/name@{COMMIT}"


def test_short_name_opens_its_commit_offline(cache: Path) -> None:
    entry = find("laion-b-32")
    assert entry is not None and entry.repository is not None
    folder = write_open_clip(snapshot(cache, entry.repository, entry.revision))
    write_huggingface(folder)
    backbone = load_backbone("laion-b-32")
    assert backbone.name == "LAION-B/32"
    assert backbone.config.text.blocks.activation == "gelu"


def test_empty_cache_offline_says_what_to_do(cache: Path) -> None:
    with pytest.raises(ShotfitError, match=r"owner/name at revision main is not in the cache .*HF_HUB_OFFLINE is set"):
        load_backbone("owner/name")


def test_cache_without_weights_counts_as_empty(cache: Path) -> None:
    (write_huggingface(snapshot(cache)) / "model.safetensors").unlink()
    with pytest.raises(ShotfitError, match="is not in the cache"):
        load_backbone("owner/name")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a download needs, for one repository."""

    files: dict[str, bytes]
    served: list[str]

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/owner/name/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()
            ]
            self.send(200, json.dumps(tree).encode(), body)
        elif path in ("/api/models/owner/name/revision/main", f"/api/models/owner/name/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.files]
            self.send(200, json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode(), body)
        elif path.startswith("/owner/name/resolve/") and path.rpartition("/")[2] in self.files:
            name = path.rpartition("/")[2]
            if body:
                self.served.append(name)
            self.send(200, self.files[name], body)
        else:
            missing = "RevisionNotFound" if "owner/name/revision" in path else "RepoNotFound"
            self.send(404, b"{}", body, {"X-Error-Code": missing})

    def send(self, status: int, content: bytes, body: bool, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        for key, value in {"ETag": etag, "X-Repo-Commit": COMMIT, **(more or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub on this machine, and the names of the files that it has served. A parameter is what its
    configuration has of its own."""
    folder = write_huggingface(tmp_path / "repository", config=HUGGINGFACE_CONFIG | getattr(request, "param", {}))
    torch.save(huggingface_weights(), folder / "pytorch_model.bin")
    (folder / "README.md").write_text("a card")
    served: list[str] = []
    handler = type(
        "Repository", (Hub,), {"files": {p.name: p.read_bytes() for p in folder.iterdir()}, "served": served}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", served
    server.shutdown()
    thread.join()
    server.server_close()


PROGRAM = """
import sys
from shotfit.errors import ShotfitError
from shotfit.checkpoints.weights import load_backbone
for source in sys.argv[1:]:
    try:
        print(load_backbone(source).name)
    except ShotfitError as error:
        print(error)
"""


def opened(home: Path, endpoint: str, *sources: str, offline: bool = False) -> list[str]:
    """What a fresh process says of each source: the backbone's name, or the error."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *sources],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stderr == "", "no progress bar where there is no terminal"
    return done.stdout.splitlines()


def test_download_fetches_what_is_needed_and_then_works_offline(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    endpoint, served = hub
    home = tmp_path / "home"
    assert opened(home, endpoint, "owner/name", f"owner/name@{COMMIT}") == [f"owner/name@{COMMIT}"] * 2
    assert sorted(served) == ["config.json", "model.safetensors"]  # no card, no pickled twin, nothing twice
    assert opened(home, endpoint, "owner/name", offline=True) == [f"owner/name@{COMMIT}"]


@pytest.mark.parametrize(
    ("hub", "said"), [({"model_type": "blip-2"}, "model_type 'blip-2' is not supported")], indirect=["hub"]
)
def test_towers_that_shotfit_has_not_are_refused_before_weights_are_fetched(
    tmp_path: Path, hub: tuple[str, list[str]], said: str
) -> None:
    endpoint, served = hub
    (answer,) = opened(tmp_path / "home", endpoint, "owner/name")
    assert said in answer and served == ["config.json"]


def test_failures_of_the_hub_are_one_sentence(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    endpoint, _ = hub
    unknown, revision = opened(tmp_path / "home", endpoint, "owner/other", "owner/name@v9")
    assert unknown.startswith("The hub has no repository owner/other, or it is private.")
    assert revision.startswith("owner/name has no revision 'v9'")


def test_unreachable_hub_is_one_sentence(tmp_path: Path) -> None:
    (answer,) = opened(tmp_path / "home", "http://127.0.0.1:9", "owner/name")
    assert answer.startswith("owner/name could not be fetched from http://127.0.0.1:9 (")
    assert "Name a folder" in answer and "HF_HUB_OFFLINE=1" in answer
