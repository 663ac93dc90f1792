"""Files from outside are opened in one place: regular ones, up to a size, without waiting."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from shotfit.commands.cli import main
from shotfit.files import UnreadableError, check_regular, open_regular, read_bytes, read_text
from shotfit.testing.tiny import tiny_backbone, tiny_task

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and devices have names on Unix")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path, kind in ((pipe, "pipe"), (tmp_path / "socket", "socket"), (Path("/dev/zero"), "device")):
            for read in (open_regular, check_regular, read_bytes, read_text):
                with pytest.raises(UnreadableError, match=f"is a {kind}; expected a manifest, which is a regular file"):
                    read(path, 100, "a manifest")
    with pytest.raises(UnreadableError, match="is a folder; expected"):
        read_text(tmp_path, 100, "a manifest")


def test_bound_holds_for_size_and_for_what_is_read(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(50 * 2**30)
    with pytest.raises(UnreadableError, match="has 53,687,091,200 bytes, more than the 100 that are read of a list"):
        read_bytes(sparse, 100, "a list")
    grown = tmp_path / "grown"
    grown.write_bytes(b"x" * 100)
    with open_regular(grown, 100, "a list") as opened, grown.open("ab") as more:
        more.write(b"x" * 10**6)
        more.flush()
        with pytest.raises(UnreadableError, match="has more bytes than the 100 that are read of a list"):
            opened.read()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a system without /proc")
def test_files_of_proc_are_read_up_to_the_bound() -> None:
    assert "VmHWM" in read_text(Path("/proc/self/status"), 10**6, "a list")
    with pytest.raises(UnreadableError, match="has more bytes than the 10 that"):
        read_bytes(Path("/proc/self/status"), 10, "a list")
    with pytest.raises(UnreadableError, match="holds more than 65,536 bytes, though its size is 0; expected a list"):
        read_bytes(Path("/proc/self/pagemap"), 2**40, "a list")


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="only root reads the kernel's messages")
def test_file_that_would_have_its_reader_wait_is_one_line() -> None:
    with pytest.raises(UnreadableError, match="/proc/kmsg has nothing to read now; expected a list"):
        for _ in range(100_000):  # a message each
            with open_regular(Path("/proc/kmsg"), 2**40, "a list") as file:
                file.read()


def test_missing_unnameable_and_foreign_files_are_one_line(tmp_path: Path) -> None:
    for name, missing in (("none", True), ("x" * 300, False), ("a\0b", True)):
        with pytest.raises(UnreadableError, match=r"cannot be read \([^\n]*\)\.$") as caught:
            read_bytes(tmp_path / name, 100, "a list")
        assert caught.value.missing is missing
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(UnreadableError, match=r"latin cannot be read \(it is not UTF-8 text\)\.$"):
        read_text(tmp_path / "latin", 100, "a list")
    assert read_text(tmp_path / "latin", 100, "a list", errors="replace") == "caf\ufffd"


def test_text_loses_its_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert read_text(tmp_path / "list", 100, "a list") == "a\nb\n"
    with open_regular(tmp_path / "list", 100, "a list") as file:
        assert file.read() == b"\xef\xbb\xbfa\r\nb\n"
        file.seek(3)
        assert file.readline() == b"a\r\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opening")
    tiny_task(folder / "photos", images=2)
    tiny_backbone(folder / "backbone")
    words = ("fit", "--classes", "a,b", "--backbone", folder / "backbone", "--out", folder / "model")
    assert main([str(word) for word in words]) == 0
    return folder


FIT = "fit photos --backbone backbone --out never"
OPENED = {  # what is opened by each command
    "odd.csv": f"{FIT.replace('photos', 'odd.csv')}",
    "odd.jsonl": "doctor odd.jsonl",
    "odd.json": "doctor odd.json",
    "odd.toml": "fit --tasks odd.toml --backbone backbone",
    "names.toml": f"{FIT} --class-names names.toml",
    "names.txt": "fit --classes @names.txt --backbone backbone",
    "odd.py": "show odd.py:Method",
    "said.json": f"{FIT} --method dualadapter --set descriptions=said.json --recipe paper",
    "odd.pt": "fit photos --backbone odd.pt",
    "backbone/config.json": FIT,
    "backbone/model.safetensors": FIT,
    "backbone/tokenizer.json": FIT,
    "model/adapter.json": "predict model photos --backbone backbone",
    "model/adapter.safetensors": "predict model photos --backbone backbone",
    "runs.jsonl": "compare photos --backbone backbone --methods zero_shot --shots 1 --out runs.jsonl",
}


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
@pytest.mark.parametrize("name", OPENED)
def test_command_refuses_what_is_no_regular_file_in_one_line(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    kind: str,
) -> None:
    for part in ("photos", "backbone", "model"):
        shutil.copytree(home / part, tmp_path / part)
    place = tmp_path / name
    place.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    else:
        with place.open("wb") as file:
            file.truncate(50 * 2**30)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    code = main(OPENED[name].split())
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert code in (2, 3)
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    refused = "53,687,091,200 bytes" if kind == "sparse" else f"is a {kind}; expected"
    assert refused in lines[0] or (name == "backbone/tokenizer.json" and "has no tokenizer" in lines[0])
