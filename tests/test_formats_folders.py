"""Where the files of an export, and of a sample, may lie: layouts that are found, and what is said of them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from shotfit.data.readers import read_task

from . import layouts
from .formats import BOXES, EXPORTS, boxes_in, coco, dumped, pictures, voc
from .layouts import add
from .pictures import picture, save
from .test_formats_tools import parts_of


@pytest.mark.parametrize("name", [name for name in EXPORTS if "parts in" in name or "in parts" in name])
def test_folders_of_parts_tell_the_parts(tmp_path: Path, name: str) -> None:
    found = parts_of(read_task(EXPORTS[name].write(tmp_path)))
    assert {part: names - {"d"} for part, names in found.items()} == {"train": {"a", "b"}, "val": set(), "test": {"c"}}


def test_export_in_a_folder_of_its_own_is_read(tmp_path: Path) -> None:
    EXPORTS["coco roboflow"].write(tmp_path / "unpacked" / "street.v1")
    task = read_task(tmp_path)
    assert (len(task.train) + len(task.val) + len(task.test), task.name) == (4, tmp_path.name)
    assert task.notes == ("all of it lies in the folder unpacked/street.v1/",)


def test_numbers_are_the_classes_where_no_file_names_them(tmp_path: Path) -> None:
    source = EXPORTS["yolo in parts"].write(tmp_path)
    (source / "classes.txt").unlink()
    task = read_task(source)
    assert (task.classes.names, task.reader) == (("0", "1"), "YOLO files of labels, each box an image")
    assert "no classes.txt names the classes: they are called by their numbers" in task.notes


def test_pictures_of_a_subset_of_cvat_are_found(tmp_path: Path) -> None:
    pictures(tmp_path / "images" / "default")
    dumped(tmp_path / "annotations" / "instances_default.json", coco([*BOXES]))
    assert len(boxes_in(read_task(tmp_path))) == 4


def test_pictures_of_one_name_in_two_parts_are_told_apart(tmp_path: Path) -> None:
    for part, seed in {"train": 1, "test": 2}.items():
        save(tmp_path / part / "images" / "a.png", picture(seed))
        (tmp_path / part / "images" / "a.xml").write_text(voc("a.png"))
    task = read_task(tmp_path)
    assert [item.picture.path.parts[-3] for item in (*task.train, *task.test)] == ["train", "test"]


@pytest.mark.parametrize("names", [("0.v2.jpg", "0.v2.cls"), ("0.input.jpg", "0.target.cls")])
def test_names_of_more_dots_are_one_sample(names: tuple[str, str], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, names[0], layouts.png(1))
        add(archive, names[1], b"cat")
    assert read_task(tmp_path / "a.tar").classes.names == ("cat",)
