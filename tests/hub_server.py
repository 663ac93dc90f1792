"""A hub on this machine: as much of the Hugging Face hub's interface as its client uses to push and to load a model.

    with running_hub() as hub:
        hub.endpoint, hub.repositories["owner/name"].files()
        hub.faults["wrong"] = "adapter.safetensors"        # one of Hub.FAULTS

Repositories have commits; files that end in .safetensors are large ones, which a redirect leads to, as on the real hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_" + "s3cr3t" * 5


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def etag_of(name: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_large(name) else git_digest(content)


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # oldest first
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str = "") -> str:
        names = json.dumps([[name, git_digest(content)] for name, content in sorted(files.items())])
        sha = hashlib.sha1(f"{len(self.commits)}{names}".encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        return sha

    @property
    def head(self) -> str:
        return [*self.commits][-1]

    def resolved(self, revision: str) -> str | None:
        return self.head if revision == "main" else revision if revision in self.commits else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.resolved(revision) or ""]


@dataclass
class Hub:
    """repositories: by name. requests: what was asked. faults: what goes wrong, by kind.

    status: answer everything so. wrong: the file whose bytes are others of the same length. cut: the file that ends
    early. listed_size: what a file is said to have. moves: files that a commit of somebody else brings in before the
    next commit is taken.
    """

    endpoint: str = ""
    token: str | None = TOKEN  # that may write and sees private repositories
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    faults: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, files: dict[str, bytes], private: bool = False) -> Repository:
        self.repositories[name] = repository = Repository(private)
        repository.commit(files)
        return repository


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.body()
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        if "status" in self.hub.faults:
            self.send(self.hub.faults["status"], {"error": "so it is"})
            return
        given = self.headers.get("Authorization")
        if given is not None and given != f"Bearer {self.hub.token}":
            self.send(401, {"error": "Invalid credentials in Authorization header"})
            return
        self.known = given is not None
        for pattern, handle in (
            (r"/api/validate-yaml", self.validated),
            (r"/api/repos/create", self.created),
            (r"/large/(\w+)", self.large),
            (r"/api/models/([\w.-]+/[\w.-]+)/preupload/main", self.preupload),
            (r"/api/models/([\w.-]+/[\w.-]+)/commit/main", self.commit),
            (r"/api/models/([\w.-]+/[\w.-]+)/tree/([^/]+)", self.tree),
            (r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", self.info),
            (r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self.batch),
            (r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.resolve),
        ):
            found = re.fullmatch(pattern, path)
            if found is not None:
                handle(body, *found.groups())
                return
        self.send(404, {"error": f"there is no {path}"})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def seen(self, name: str) -> Repository | None:
        """The repository, or an answer that it is not there: what a stranger hears of a private one, too."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self.known):
            self.send(404 if self.known else 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repository

    def revision(self, repository: Repository, revision: str | None) -> str | None:
        sha = repository.resolved(revision or "main")
        if sha is None:
            self.send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        return sha

    def validated(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        self.send(200 if content.startswith("---\n") else 400, {"errors": [], "warnings": []})

    def created(self, body: bytes) -> None:
        said = json.loads(body)
        name = f"{said['organization']}/{said['name']}"
        if not self.known:
            self.send(401, {"error": "Invalid username or password."})
        elif name in self.hub.repositories:
            self.send(409, {"error": "You already created this model repo"})
        else:
            private = said.get("visibility") == "private" or bool(said.get("private"))
            self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private)
            self.send(200, {"url": f"{self.hub.endpoint}/{name}", "name": name})

    def entry(self, name: str, content: bytes) -> dict[str, Any]:
        size = self.hub.faults.get("listed_size", {}).get(name, len(content))
        pointer = {"lfs": {"sha256": etag_of(name, content), "oid": etag_of(name, content), "size": size,
                           "pointerSize": 130}} if is_large(name) else {}  # fmt: skip
        return {"size": size, **pointer}

    def info(self, body: bytes, name: str, revision: str | None) -> None:
        repository = self.seen(name)
        sha = None if repository is None else self.revision(repository, revision)
        if repository is not None and sha is not None:
            siblings = [
                {"rfilename": file, "blobId": git_digest(content), **self.entry(file, content)}
                for file, content in repository.files(sha).items()
            ]
            self.send(200, {"id": name, "sha": sha, "private": repository.private, "siblings": siblings})

    def tree(self, body: bytes, name: str, revision: str) -> None:
        repository = self.seen(name)
        sha = None if repository is None else self.revision(repository, revision)
        if repository is not None and sha is not None:
            files = repository.files(sha).items()
            self.send(200, [
                {"type": "file", "path": file, "oid": git_digest(content), **self.entry(file, content)}
                for file, content in files
            ])  # fmt: skip

    def preupload(self, body: bytes, name: str) -> None:
        if self.seen(name) is not None:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if is_large(one["path"]) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            self.send(200, {"files": files})

    def batch(self, body: bytes, name: str) -> None:
        objects = [
            one | {"actions": {"upload": {"href": f"{self.hub.endpoint}/large/{one['oid']}", "header": {}}}}
            for one in json.loads(body)["objects"]
        ]
        self.send(200, {"transfer": "basic", "objects": objects})

    def large(self, body: bytes, digest: str) -> None:
        if self.command == "PUT":
            assert hashlib.sha256(body).hexdigest() == digest
            self.hub.large[digest] = body
            self.send(200, {})
        else:
            self.send_file("adapter.safetensors", self.hub.large[digest])

    def commit(self, body: bytes, name: str) -> None:
        repository = self.seen(name)
        if repository is None:
            return
        lines = [json.loads(line) for line in body.splitlines()]
        head = next(line["value"] for line in lines if line["key"] == "header")
        if "moves" in self.hub.faults:
            repository.commit(repository.files() | self.hub.faults.pop("moves"))
        if head.get("parentCommit", repository.head) != repository.head:
            self.send(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        files = dict(repository.files())
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        sha = repository.commit(files, head["summary"])
        self.send(200, {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}", "commitOid": sha})

    def resolve(self, body: bytes, name: str, revision: str, file: str) -> None:
        repository = self.seen(name)
        sha = None if repository is None else self.revision(repository, revision)
        if repository is None or sha is None:
            return
        content = repository.files(sha).get(file)
        if content is None:
            self.send(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        elif is_large(file):
            digest = etag_of(file, content)
            self.hub.large[digest] = content
            store = self.hub.endpoint.replace("127.0.0.1", "localhost")  # another host, as the real one has
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": sha}
            self.send(302, {}, {"Location": f"{store}/large/{digest}", **linked})
        else:
            self.send_file(file, content, {"X-Repo-Commit": sha})

    def send_file(self, name: str, content: bytes, more: dict[str, str] | None = None) -> None:
        etag = {"ETag": f'"{etag_of(name, content)}"', **(more or {})}
        if self.hub.faults.get("wrong") == name:
            content = bytes(255 - byte for byte in content)
        if self.hub.faults.get("cut") == name and self.command == "GET":
            self.hub.faults["length"] = len(content)
            content = content[: len(content) // 2]
        self.send(200, content, etag)

    def send(self, status: int, content: bytes | Any, more: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in (more or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(self.hub.faults.pop("length", len(data))))
        if self.hub.faults.get("cut"):
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisHub", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
