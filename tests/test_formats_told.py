"""What a format says of a source that is not quite as expected, and what it takes all the same."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shotfit.data.images import open_image
from shotfit.data.readers import read_task
from shotfit.errors import ShotfitError

from . import layouts
from .formats import EXPORTS
from .layouts import IDS, put


def _labels(folder: Path, text: str) -> Path:
    for place, label in enumerate("aabb"):
        put(folder / "img" / f"{place}{label}.png", layouts.png(place))
    return put(folder / "labels.csv", text.encode())


def test_class_folders_by_ids_are_not_told_as_passed_over(tmp_path: Path) -> None:
    for number, one in enumerate(IDS):
        put(tmp_path / "data" / "train" / one / "1.png", layouts.png(number))
    put(tmp_path / "data" / "words.txt", "".join(f"{one}\tfish {n}\n" for n, one in enumerate(IDS)).encode())
    for source in (tmp_path / "data", tmp_path / "data" / "train"):
        task = read_task(source)
        assert task.classes.names[0] == "fish 0" and not task.passed_over()


def test_table_with_paths_in_place_of_pictures_says_so(tmp_path: Path) -> None:
    images = [{"bytes": None, "path": f"/home/me/{n}.png"} for n in range(4)]
    column = pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"image": column, "label": ["a", "b"] * 2}), tmp_path / "a.parquet")
    task = read_task(tmp_path / "a.parquet")
    with pytest.raises(
        ShotfitError, match=r"parquet::0 holds the path /home/me/0\.png and no picture: save the data set"
    ):
        open_image(task.train[0].picture)


def test_columns_are_known_by_their_names_with_spaces(tmp_path: Path) -> None:
    task = read_task(_labels(tmp_path, "Image Path,Class Name\nimg/0a.png,a\nimg/2b.png,b\n"))
    assert task.classes.names == ("a", "b")


def test_part_of_yolo_that_is_the_whole_disk_is_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = EXPORTS["yolo"].write(tmp_path / "disk" / "home" / "data") / "data.yaml"
    for number in range(40):
        put(tmp_path / "disk" / f"{number:02}" / "a.so", b"")
    path.write_text(re.sub(r"(?m)^train: .*$", "train: ../..", path.read_text()))
    assert len(read_task(path).train) > 0  # so little is looked through
    monkeypatch.setattr("shotfit.data.formats.yolo._STRANGE", 30)
    walked, walk = list[str](), os.walk

    def noted(place: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for one in walk(place):
            walked.append(one[0])
            yield one

    monkeypatch.setattr("shotfit.data.formats.yolo.os.walk", noted)
    with pytest.raises(ShotfitError, match=r"data.yaml: .*disk holds 30 files and folders that are no pictures"):
        read_task(path)
    assert len(walked) < 5
