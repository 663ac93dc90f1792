"""What the tests of several analyses begin with: a folder with a tiny backbone, the frozen model, a shell in there."""

from __future__ import annotations

from pathlib import Path

import pytest

from shotfit.engine.frozen import Frozen
from shotfit.engine.store import MemoryStore
from shotfit.testing.tiny import tiny_backbone

from .test_cli import Shell

__all__ = ["frozen", "home", "shell"]  # fixtures


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the backbone `tiny`; modules put their data sets beside it."""
    folder = tmp_path_factory.mktemp("analysis")
    tiny_backbone(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def frozen(home: Path) -> Frozen:
    return Frozen(tiny_backbone(home / "same"), MemoryStore())


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(home)
    return Shell(capsys)
