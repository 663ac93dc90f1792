"""Files from outside are opened in one place: regular ones, up to a size, without waiting."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from shotfit.files import UnreadableError, check_regular, open_regular, read_bytes, read_text

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
