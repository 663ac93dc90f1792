"""A model of random weights that is served in this process, by a thread, or by a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from shotfit.engine.store import NoStore
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model, load
from shotfit.server.api import prediction_app
from shotfit.server.limits import Limits
from shotfit.server.running import Stopping, listening, run
from shotfit.testing.tiny import tiny_backbone, tiny_task

HERE = "http://127.0.0.1"


@dataclass(frozen=True)
class Home:
    """A folder with `photos`, a `backbone`, and a `model` (Tip-Adapter, with held-out images) and `open` (CLIP)."""

    folder: Path

    def model(self, name: str = "model") -> Model:
        return load(self.folder / name, str(self.folder / "backbone"), NoStore(), precision="float32")

    @property
    def pictures(self) -> list[Path]:
        return sorted((self.folder / "photos").rglob("*.png"))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("serving")
    tiny_backbone(folder / "backbone")
    tiny_task(folder / "photos", images=14)
    for name, method in (("model", "tip_adapter"), ("open", "zero_shot")):
        fit(folder / "photos", method, backbone=str(folder / "backbone"), keep=True).save(folder / name)
    return Home(folder)


@pytest.fixture(scope="session")
def client(home: Home) -> Iterator[TestClient]:
    with TestClient(prediction_app(home.model()), base_url=HERE) as client:
        yield client


Threaded = Callable[..., AbstractContextManager[int]]


@pytest.fixture
def threaded(home: Home) -> Threaded:
    """Serves in a thread, with other limits, and gives the port."""

    @contextmanager
    def serving(limits: Limits | None = None, model: Model | None = None) -> Iterator[int]:
        stopping, started, chosen = Stopping(), threading.Event(), limits or Limits()
        app = prediction_app(model or home.model(), chosen, stopping=stopping)
        with listening("127.0.0.1", 0, None) as place:
            arguments = (app, place, chosen, stopping, started.set)
            thread = threading.Thread(target=run, args=arguments, daemon=True)
            thread.start()
            assert started.wait(30)
            try:
                yield place.port
            finally:
                stopping.asked = True
                thread.join(30)
            assert not thread.is_alive()

    return serving


@contextmanager
def process(*words: object, under: tuple[str, ...] = ()) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`shotfit serve` in a process of its own, and its address."""
    command = [*under, sys.executable, "-m", "shotfit", "serve", *map(str, words), "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as run:
        assert run.stdout is not None
        try:
            line = run.stdout.readline()
            found = re.search(r"http://[\w.:]+", line)
            assert found, line + run.stdout.read()
            yield run, found[0]
        finally:
            if run.poll() is None:
                run.kill()
