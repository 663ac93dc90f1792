"""`shotfit predict` as a stream: rows while later pictures are still to come, and features that are kept."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shotfit.data.finding import Stream, find_images, lines_of
from shotfit.data.pictures import Picture
from shotfit.data.remote.addresses import Address

from ..pictures import save
from .conftest import Run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty pictures: more than the first batch."""
    for number in range(40):
        save(tmp_path / "photos" / f"{number:02}.png", seed=number)
    return tmp_path / "photos"


@pytest.fixture
def started(model: Path) -> Iterator[subprocess.Popen[str]]:
    """`shotfit predict MODEL -`, whose standard input is a pipe that stays open."""
    words = ["predict", str(model), "-", "--backbone", str(model.parent / "backbone"), "--format", "csv"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-m", "shotfit", *words], stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1
    ) as process:
        yield process
        process.kill()


@pytest.mark.slow
def test_each_path_on_a_pipe_has_its_row_before_the_next_one_is_written(
    started: subprocess.Popen[str], photos: Path
) -> None:
    assert started.stdin and started.stdout and started.stderr
    rows = list[str]()
    for number in range(3):
        started.stdin.write(f"{photos / f'{number:02}.png'}\n")
        rows += [started.stdout.readline() for _ in range(1 if rows else 2)]  # waits for ever where a row waits
    started.stdin.close()
    assert [Path(row["image"]).name for row in csv.DictReader(rows)] == ["00.png", "01.png", "02.png"]
    assert (started.wait(60), started.stdout.read(), started.stderr.read()) == (0, "", "")


@pytest.mark.parametrize("broken", [["stdout"], ["stdout", "stderr"]])
def test_reader_that_has_gone_is_no_error(broken: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stderr": subprocess.PIPE} | dict.fromkeys(broken, writer)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = subprocess.run([sys.executable, "-m", "shotfit", "--help"], env=buffered, **streams)  # type: ignore[call-overload]
    os.close(writer)
    assert (ended.returncode, ended.stderr or b"") == (0, b"")


@pytest.mark.slow
def test_ended_on_the_way_leaves_whole_copies_and_no_rows(model: Path, photos: Path) -> None:
    folder = photos.parent
    words = ["predict", str(model), "-", "--backbone", str(model.parent / "backbone")]
    words += ["--out", str(folder / "rows.csv"), "--copy-to", str(folder / "sorted")]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-m", "shotfit", *words], stdin=pipe, stderr=pipe, text=True) as process:
        assert process.stdin and process.stderr
        process.stdin.write("".join(f"{photos / f'{number:02}.png'}\n" for number in range(3)))
        process.stdin.flush()
        begun = time.monotonic()
        while len(copies := list((folder / "sorted").glob("*/*.png"))) < 3 and time.monotonic() - begun < 120:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert (process.wait(60), process.stderr.read()) == (130, "ended by SIGTERM\n")
    assert {path.name: path.read_bytes() for path in copies} == {
        name: (photos / name).read_bytes() for name in ("00.png", "01.png", "02.png")
    }
    assert not list(folder.rglob(".shotfit-*")) and not (folder / "rows.csv").exists()


def test_lines_of_a_pipe_come_before_it_ends() -> None:
    read, write = os.pipe()
    with open(read, encoding="utf-8") as reader:  # noqa: PTH123
        lines = lines_of(reader)
        os.write(write, b"a.png\nb.png\nhal")
        assert [next(lines) for _ in range(3)] == ["a.png", "b.png", None]
        os.write(write, b"f.png\nlast \xff")
        assert [next(lines) for _ in range(2)] == ["half.png", None]
        os.close(write)
        assert [os.fsencode(line) for line in lines if line] == [b"last \xff"]


def test_first_rows_come_before_the_folder_is_walked_through(
    photos: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    of, printed = Stream._below, print

    def below(self: Stream, folder: Path) -> Iterator[str | Path | Address | Picture]:
        for picture in of(self, folder):
            seen.append(f"found {picture}")
            yield picture

    def told(*words: object, **options: object) -> None:
        seen.append("row")
        printed(*words, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Stream, "_below", below)
    monkeypatch.setattr("builtins.print", told)
    code, out, _ = run(photos, "--format", "jsonl")
    assert (code, len(out)) == (0, 40)
    assert seen.index("row") < seen.index(f"found {photos / '39.png'}")


def test_second_prediction_decodes_no_picture(photos: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first, _ = run(photos, "--format", "csv", "--top", "3")

    def fail(picture: Picture, **_: object) -> None:
        raise AssertionError(f"{picture} is decoded")

    monkeypatch.setattr("shotfit.engine.decoding.opened_image", fail)
    code, again, err = run(photos, "--format", "csv", "--top", "3")
    assert (code, again, err) == (0, first, [])


def test_member_of_an_archive_finds_the_features_of_the_same_file(
    photos: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(photos.parent / "all.tar", "w") as tar:
        for path in sorted(photos.iterdir()):
            tar.add(path, path.name)
    _, first, _ = run(photos, "--format", "csv")
    monkeypatch.setattr("shotfit.engine.decoding.opened_image", None)
    code, again, _ = run(photos.parent / "all.tar", "--format", "csv")
    assert code == 0 and [line.split(",")[1:] for line in again] == [line.split(",")[1:] for line in first]


def test_missing_source_is_told_before_anything_is_predicted(photos: Path, run: Run) -> None:
    (photos.parent / "empty").mkdir()
    for source in ("gone.png", "gone/*.png", photos.parent / "empty"):
        code, out, (line,) = run(photos, source)
        assert (code, out) == (3, []) and str(source) in line


def test_listed_folder_without_images_is_a_row(photos: Path) -> None:
    (photos.parent / "empty").mkdir()
    found = find_images(["-"], [str(photos.parent / "empty"), str(photos)])
    assert [str(picture) for picture in found.images[:2]] == [str(photos.parent / "empty"), str(photos / "00.png")]


def test_paths_on_a_pipe_are_not_gathered_before_the_first_one(photos: Path) -> None:
    paths = (f"{photos / '00.png'}\n" for _ in range(100_000))
    assert str(next(iter(Stream(["-"], paths)))) == str(photos / "00.png")
    assert len(list(paths)) == 99_999
