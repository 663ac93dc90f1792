"""A model to predict with, and the command as a user types it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shotfit.commands.cli import main
from shotfit.engine.store import MemoryStore
from shotfit.fitting.fit import fit
from shotfit.testing.tiny import tiny_backbone, tiny_task

Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model and, beside it, its backbone and images."""
    folder = tmp_path_factory.mktemp("predict")
    backbone, task = tiny_backbone(folder / "backbone"), tiny_task(folder / "images")
    yield fit(task, "zero_shot", shots=1, backbone=backbone, store=MemoryStore()).save(folder / "model")


@pytest.fixture
def run(model: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, and the lines of both streams, of `shotfit predict MODEL WORDS`."""

    def ran(*words: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        code = main(["predict", str(model), *map(str, words), "--backbone", str(model.parent / "backbone")])
        found = capsys.readouterr()
        return code, found.out.splitlines(), found.err.splitlines()

    return ran
