"""Digests and verdicts are kept, never trusted when stale, and never needed."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from shotfit.data import filecache
from shotfit.data.filecache import FileCache
from shotfit.data.images import digest
from shotfit.data.pictures import Picture, pictures_of

from .pictures import LONG_AGO


def files(folder: Path, count: int = 5) -> list[Path]:
    """Files of different content that were last written long ago."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        write(path, str(i))
    return paths


def write(path: Path, text: str, when: float = LONG_AGO) -> None:
    path.write_text(text)
    os.utime(path, (when, when))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """The files that are read."""
    found: list[Picture] = []

    def counted(path: Picture) -> str:
        found.append(path)
        return digest(path)

    monkeypatch.setattr(filecache, "digest", counted)
    return found


def test_digests_are_those_of_the_content(tmp_path: Path) -> None:
    assert FileCache(tmp_path).digests(pictures_of(files(tmp_path / "a"))) == [sha256(str(i)) for i in range(5)]


def test_second_time_reads_no_file(tmp_path: Path, reads: list[Picture]) -> None:
    paths = files(tmp_path / "a")
    first = FileCache(tmp_path).digests(pictures_of(paths))
    reads.clear()
    assert FileCache(tmp_path).digests(pictures_of(paths)) == first
    assert reads == []


def test_without_a_folder_nothing_is_kept(tmp_path: Path, reads: list[Picture]) -> None:
    paths = files(tmp_path / "a")
    for _ in range(2):
        assert FileCache(None).digests(pictures_of(paths)) == [sha256(str(i)) for i in range(5)]
    assert len(reads) == 10


def test_file_of_other_size_is_read_again(tmp_path: Path) -> None:
    paths = files(tmp_path / "a")
    FileCache(tmp_path).digests(pictures_of(paths))
    write(paths[0], "longer")
    assert FileCache(tmp_path).digests(pictures_of(paths))[0] == sha256("longer")


def test_file_of_equal_size_and_time_is_read_again(tmp_path: Path) -> None:
    paths = files(tmp_path / "a")
    FileCache(tmp_path).digests(pictures_of(paths))
    time.sleep(0.05)  # the time of change, which nobody can set, ticks in hundredths of a second
    write(paths[0], "x")
    assert FileCache(tmp_path).digests(pictures_of(paths))[0] == sha256("x")


def test_replaced_file_is_read_again(tmp_path: Path) -> None:
    paths = files(tmp_path / "a")
    FileCache(tmp_path).digests(pictures_of(paths))
    write(tmp_path / "new", "x")
    (tmp_path / "new").replace(paths[0])
    assert FileCache(tmp_path).digests(pictures_of(paths))[0] == sha256("x")


@pytest.mark.parametrize("ago", [0.0, 1.5, -3600.0])
def test_file_written_just_now_is_not_trusted(tmp_path: Path, reads: list[Picture], ago: float) -> None:
    path = tmp_path / "a.png"
    write(path, "x", when=time.time() - ago)
    FileCache(tmp_path).digests(pictures_of([path]))
    FileCache(tmp_path).digests(pictures_of([path]))
    assert len(reads) == 2


def test_file_that_changes_while_it_is_read_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = files(tmp_path / "a", 1)

    def changing(path: Picture) -> str:
        found = digest(path)
        write(path.path, "changed")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(filecache, "digest", changing)
        FileCache(tmp_path).digests(pictures_of([path]))
    assert FileCache(tmp_path).digests(pictures_of([path])) == [sha256("changed")]


def test_missing_and_unreadable_files_have_no_digest(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    paths = [tmp_path / name for name in ("gone.png", "folder.png", "loop.png")]
    assert FileCache(tmp_path).digests(pictures_of(paths)) == ["", "", ""]


def test_names_that_are_no_text_are_kept(tmp_path: Path, reads: list[Picture]) -> None:
    path = tmp_path / os.fsdecode(b"\xff.png")
    write(path, "x")
    for _ in range(2):
        assert FileCache(tmp_path).digests(pictures_of([path])) == [sha256("x")]
    assert len(reads) == 1


def test_verdicts_are_kept_by_content_and_rules(tmp_path: Path) -> None:
    FileCache(tmp_path).keep_verdicts({"a": "fine", "b": "broken"}, "1")
    assert FileCache(tmp_path).verdicts(["a", "b", "c"], "1") == {"a": "fine", "b": "broken"}
    assert FileCache(tmp_path).verdicts(["a", "b", "c"], "2") == {}


@pytest.mark.parametrize("damage", ["garbage", "truncated"])
def test_damaged_database_is_made_anew(tmp_path: Path, damage: str) -> None:
    paths = files(tmp_path / "a", 200)
    cache = FileCache(tmp_path)
    expected = cache.digests(pictures_of(paths))
    database = tmp_path / "files.sqlite"
    content = database.read_bytes()
    database.write_bytes(b"garbage" * 1000 if damage == "garbage" else content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"files\.sqlite is damaged and was made anew"):
        assert cache.digests(pictures_of(paths)) == expected
    assert cache.digests(pictures_of(paths)) == expected


def _changed(folder: Path, old: bytes, new: bytes) -> None:
    content = (folder / "files.sqlite").read_bytes()
    assert content.count(old) == 1
    (folder / "files.sqlite").write_bytes(content.replace(old, new))


def test_changed_digit_of_a_digest_is_read_again_alone(tmp_path: Path, reads: list[Picture]) -> None:
    paths = files(tmp_path / "a")
    expected = FileCache(tmp_path).digests(pictures_of(paths))
    other = expected[3][:-1] + ("0" if expected[3][-1] != "0" else "1")
    _changed(tmp_path, expected[3].encode(), other.encode())
    reads.clear()
    assert FileCache(tmp_path).digests(pictures_of(paths)) == expected
    assert FileCache(tmp_path).digests(pictures_of(paths)) == expected
    assert reads == [Picture(paths[3])]  # once: then the row is mended


@pytest.mark.parametrize("damage", [b"broken", b"f\xffne!!"], ids=["another text", "no text"])
def test_changed_verdict_counts_as_missing(tmp_path: Path, damage: bytes) -> None:
    FileCache(tmp_path).keep_verdicts({"a": "is fine", "b": "whole!"}, "1")
    _changed(tmp_path, b"whole!", damage)
    assert FileCache(tmp_path).verdicts(["a", "b"], "1") == {"a": "is fine"}


@pytest.mark.filterwarnings("ignore:.*files.sqlite:UserWarning")
def test_no_bad_byte_anywhere_gives_another_digest(tmp_path: Path) -> None:
    paths = files(tmp_path / "a", 3)
    expected = FileCache(tmp_path).digests(pictures_of(paths))
    whole = (tmp_path / "files.sqlite").read_bytes()
    written = [place for place, byte in enumerate(whole) if byte or place < 100]
    for place in written[::41]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        (tmp_path / "files.sqlite").write_bytes(damaged)
        assert FileCache(tmp_path).digests(pictures_of(paths)) == expected, place


def test_clearing_deletes_the_database_of_shotfit_alone(tmp_path: Path) -> None:
    FileCache(tmp_path).digests(pictures_of(files(tmp_path / "a", 1)))
    (tmp_path / "files.sqlite.backup").write_text("mine")
    FileCache(tmp_path).clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "files.sqlite.backup"]


@pytest.mark.parametrize("made", ["by another program", "no database"])
def test_clearing_keeps_a_database_of_others(tmp_path: Path, made: str) -> None:
    path = tmp_path / "files.sqlite"
    path.write_text("notes")
    if made == "by another program":
        path.unlink()
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE files (name TEXT)")
            database.execute("CREATE TABLE accounts (name TEXT)")
        database.close()
    FileCache(tmp_path).clear()
    assert path.exists()


def test_what_is_no_database_is_set_aside_and_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "files.sqlite").write_text("notes of mine, which are no database" * 100)
    with pytest.warns(UserWarning, match="is damaged and was made anew"):
        FileCache(tmp_path).digests(pictures_of(files(tmp_path / "a", 1)))
    assert (tmp_path / "files.sqlite.damaged").read_text().startswith("notes of mine")


def test_database_that_cannot_be_opened_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "files.sqlite").mkdir()
    with pytest.warns(UserWarning, match=r"files\.sqlite cannot be used .*files are read again"):
        assert FileCache(tmp_path).digests(pictures_of(files(tmp_path / "a", 1))) == [sha256("0")]


def test_cache_folder_that_is_a_file_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.warns(UserWarning, match=r"cannot be used \(File exists\); files are read again"):
        assert FileCache(tmp_path / "cache").digests(pictures_of(files(tmp_path / "a", 1))) == [sha256("0")]


def test_interrupted_reading_keeps_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = files(tmp_path / "a", 12)
    monkeypatch.setattr(filecache, "_CHUNK", 4)

    def interrupted(path: Picture) -> str:
        if path.path == paths[9]:
            raise KeyboardInterrupt
        return digest(path)

    monkeypatch.setattr(filecache, "digest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        FileCache(tmp_path).digests(pictures_of(paths))
    with sqlite3.connect(tmp_path / "files.sqlite") as database:
        assert database.execute("SELECT count(*) FROM sealed_files").fetchone() == (8,)
    database.close()


def _digest_all(folder: Path, paths: Sequence[Path]) -> list[str]:
    return FileCache(folder).digests(pictures_of(paths))


def test_several_processes_share_a_database(tmp_path: Path) -> None:
    paths = files(tmp_path / "a", 50)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawn) as pool:
        found = list(pool.map(_digest_all, [tmp_path] * 3, [paths] * 3))
    assert found == [[sha256(str(i)) for i in range(50)]] * 3
