"""The labelling page's server as a process of its own, for tests that talk to it, and kill it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CLIPART = Path(__file__).parent.parent / "examples" / "clipart"


class App:
    """`shotfit app FOLDER`, from its start to its end."""

    def __init__(
        self, folder: Path, *more: str, here: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        words = [sys.executable, "-m", "shotfit", "app", folder, "--no-browser", *more]
        self.process = subprocess.Popen(
            [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
        self.address = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"open (http://127\.0\.0\.1:\d+/[\w-]+/)", line):
                self.address = found[1]
                break
        assert self.address, self.process.communicate()[1]

    @property
    def port(self) -> int:
        return int(self.address.split(":")[2].split("/")[0])

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> bytes:
        request = urllib.request.Request(self.address + path, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.get("api/state")))

    def post(self, action: str, **said: Any) -> dict[str, Any]:
        """The answer; one with the key "error" is a refusal."""
        request = urllib.request.Request(f"{self.address}api/{action}", json.dumps(said).encode())
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            return dict(json.loads(error.read()))

    def labels(self) -> dict[str, str]:
        """Labels by path, as a page that is opened now sees them."""
        state = self.state()
        pairs = zip(state["paths"], state["labels"], strict=True)
        return {path: state["classes"][place] for path, place in pairs if place >= 0}

    def kill(self) -> None:
        self.process.kill()
        self._ended()

    def stop(self) -> int:
        """End it as Ctrl-C does; gives its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self._ended()

    def _ended(self) -> int:
        self.process.communicate(timeout=30)
        return self.process.returncode

    def __enter__(self) -> App:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def unsorted_clipart(folder: Path, of_each: int | None = None) -> Path:
    """The drawings of examples/clipart in one folder, their labels gone: their names have the class in front."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in sorted(path for path in CLIPART.iterdir() if path.is_dir()):
        for file in sorted(kind.glob("*.png"))[:of_each]:
            shutil.copy(file, folder / file.name)
    return folder


def class_of(path: str) -> str:
    """What the drawing of `unsorted_clipart` shows."""
    return re.sub(r"_\d+\.png$", "", path)
