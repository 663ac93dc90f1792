"""docs/serving.md and its container file as they stand: examples run, and the image's steps are those of the wheel."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from shotfit.commands.cli import main
from tests.serving.conftest import Home, process

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
CONTAINER = (ROOT / "docs" / "Containerfile").read_text(encoding="utf-8")
TOKEN = "a-token-that-nobody-guesses"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pictures and the token that the page talks about."""
    for name, picture in zip(("new.jpg", "other.jpg"), home.pictures, strict=False):
        shutil.copy(picture, tmp_path / name)
    (tmp_path / "token.txt").write_text(TOKEN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_clients_of_the_page_are_answered(home: Home, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (home.folder / "model", "--backbone", home.folder / "backbone")
    with process(*words) as (run, address):
        (client,) = (block for block in blocks("python") if "httpx" in block)
        exec(client.replace("http://127.0.0.1:8000", address), {})
        assert [row.split()[0] for row in capsys.readouterr().out.splitlines()] == ["new.jpg", "other.jpg"]
        found = curl(next(line for line in commands() if line.startswith("curl -F")), address)
        assert len(found["predictions"][0]["predictions"]) == 3
        run.send_signal(signal.SIGTERM)
        assert run.wait(20) == 0
    with process(*words, "--token-file", place / "token.txt") as (_, address):
        guarded = next(line for line in commands() if line.startswith("curl -H"))
        assert curl(guarded, address)["predictions"][0]["image"] == "new.jpg"


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


def curl(command: str, address: str) -> dict[str, Any]:
    """What a line of the page prints; its address is the server's."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    line = re.sub(r"http://[\w.]+:8000", address, command)
    done = subprocess.run(["sh", "-c", f"{line} -s"], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_python_of_the_page_serves(home: Home, place: Path) -> None:
    (block,) = (block for block in blocks("python") if "serve_model" in block)
    loaded = f'shotfit.load("{home.folder / "model"}", "{home.folder / "backbone"}")'
    program = block.replace('shotfit.load("shotfit-model")', loaded).replace(
        "place.address)", "place.address, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("http://127.0.0.1:")
        run.send_signal(signal.SIGTERM)
        assert run.wait(20) == 0


def steps() -> dict[str, str]:
    """The instructions of the container file; each is there once."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", CONTAINER, flags=re.MULTILINE)).split("\n")
    found = [line.partition(" ")[::2] for line in lines if line.strip()]
    assert len({name for name, _ in found}) == len(found)
    return dict(found)


def test_container_is_built_from_the_wheel_alone() -> None:
    source, _ = steps()["COPY"].split()
    assert fnmatch.fnmatch("dist/shotfit-0.1.0-py3-none-any.whl", source)
    installs = [part.split() for part in steps()["RUN"].split("&&") if "pip install" in part]
    assert all("shotfit" not in word or "/tmp/wheel/" in word for words in installs for word in words)
    extra = re.search(r"\[(\w+)\]", steps()["RUN"])
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert extra and Requirement(f"shotfit[{extra[1]}]").extras == {"serve"} and "\nserve = [" in project


def test_container_starts_a_command_that_there_is(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    words: list[str] = json.loads(steps()["ENTRYPOINT"]) + json.loads(steps()["CMD"])
    assert words[0] == "shotfit"
    assert main([str(home.folder / "model") if word == "/model" else word for word in words[1:]]) == 2
    assert "--token-file /run/secrets/token cannot be read" in capsys.readouterr().err  # all else was understood


def test_commands_of_the_page_have_the_flags_that_they_name(capsys: pytest.CaptureFixture[str]) -> None:
    main(["serve", "--help"])
    known = capsys.readouterr().out
    written = [*commands(), *re.findall(r"ExecStart=(.*)", PAGE)]
    flags = {word for line in written if "shotfit serve" in line for word in shlex.split(line) if word.startswith("--")}
    assert flags and all(flag in known for flag in flags)
