"""Split files and manifests become tasks; malformed ones are refused with the line that is wrong."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shotfit.data.given import from_table
from shotfit.data.lists import paths_in
from shotfit.data.readers import read_task
from shotfit.data.tasks import Item, Task, composed
from shotfit.errors import ShotfitError

from .pictures import picture, save, tree


def every(task: Task) -> list[Item]:
    return [*task.train, *task.val, *task.test]


def names(items: list[Item], task: Task) -> list[tuple[str, str]]:
    return [(task.classes.names[item.label], item.picture.path.name) for item in items]


def split_file(folder: Path, name: str = "split_zhou_Pets.json", **parts: list[tuple[str, int, str]]) -> Path:
    path = folder / name
    path.write_text(json.dumps(parts))
    return path


def test_split_file_wins_over_the_tree_and_keeps_its_order(tmp_path: Path) -> None:
    tree(tmp_path, b=3, a=3)
    split_file(
        tmp_path,
        train=[("b/002.png", 1, "big_dog"), ("a/001.png", 0, "cat"), ("b/000.png", 1, "big_dog")],
        val=[("a/002.png", 0, "cat")],
        test=[("a/000.png", 0, "cat")],
    )
    task = read_task(tmp_path)
    assert task.classes.names == ("cat", "big_dog")
    assert names(list(task.train), task) == [("big_dog", "002.png"), ("cat", "001.png"), ("big_dog", "000.png")]
    assert (len(task.val), len(task.test)) == (1, 1)
    assert task.reader == "CoOp split file split_zhou_Pets.json"


def test_validation_images_that_are_tested_too_are_for_the_test_alone(tmp_path: Path) -> None:
    tree(tmp_path, a=3, b=1)
    (tmp_path / "a" / "copy.png").write_bytes((tmp_path / "b" / "000.png").read_bytes())
    split_file(
        tmp_path,
        train=[("a/000.png", 0, "cat")],
        val=[("a/001.png", 0, "cat"), ("a/002.png", 0, "cat"), ("a/copy.png", 0, "cat")],
        test=[("a/001.png", 0, "cat"), ("b/000.png", 0, "cat")],
    )
    task = read_task(tmp_path)
    assert [item.picture.path.name for item in task.val] == ["002.png"]
    assert len(task.test) == 2
    assert task.test_origin.endswith("; 2 of its images were also for validation and are left out there")


def test_split_file_takes_its_images_from_another_folder(tmp_path: Path) -> None:
    tree(tmp_path / "images", a=2)
    path = split_file(tmp_path, train=[("a/000.png", 0, "cat")], test=[("a/001.png", 0, "cat")])
    task = read_task(path, images=tmp_path / "images")
    assert task.name == "Pets"
    assert task.train[0].picture.path == tmp_path / "images" / "a" / "000.png"
    assert task.train[0].digest


def test_split_file_whose_images_are_all_elsewhere_says_so(tmp_path: Path) -> None:
    path = split_file(tmp_path, train=[("a/000.png", 0, "cat")], test=[("a/001.png", 0, "cat")])
    with pytest.raises(ShotfitError, match=r"none of the 2 images .* exists, .*--images DIR"):
        read_task(path)


def test_split_file_with_numbers_in_names_keeps_them(tmp_path: Path) -> None:
    tree(tmp_path, a=2)
    split_file(tmp_path, train=[("a/000.png", 0, "1_cat"), ("a/001.png", 1, "2_dog")])
    assert read_task(tmp_path).classes.names == ("1_cat", "2_dog")


def test_two_split_files_are_refused(tmp_path: Path) -> None:
    for name in ("split_zhou_A.json", "split_zhou_B.json"):
        split_file(tmp_path, name, train=[])
    with pytest.raises(ShotfitError, match=r"holds 2 split files \(split_zhou_A.json, split_zhou_B.json\); name one"):
        read_task(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "is no split file"),
        ('{"train": 3}', "is no split file"),
        ('{"train": []}', "lists no image"),
        ('{"train": [["a.png", "0", "cat"]]}', r"has the entry \[.*expected \[path, label, class name\]"),
        ('{"train": [["a.png", 0, "cat"], ["b.png", 0, "dog"]]}', "gives label 0 two names: 'cat' and 'dog'"),
    ],
)
def test_malformed_split_file_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "split_zhou_A.json").write_text(content)
    with pytest.raises(ShotfitError, match=said):
        read_task(tmp_path)


def test_csv_manifest_with_parts(tmp_path: Path) -> None:
    tree(tmp_path, cat=3, dog=3)
    (tmp_path / "list.csv").write_text(
        "path,label,split,note\ncat/000.png,Cat,train,x\ndog/000.png,dog,train,\n"
        "cat/001.png,Cat,valid,\ncat/002.png,Cat,test,\ndog/002.png,dog,test,\n"
    )
    task = read_task(tmp_path / "list.csv")
    assert (task.name, task.reader) == ("list", "manifest list.csv")
    assert task.test_origin == "the lines of list.csv with split test"
    assert [len(part) for part in (task.train, task.val, task.test)] == [2, 1, 2]
    assert task.classes.names == ("Cat", "dog")
    assert all(item.digest for item in every(task))


@pytest.mark.parametrize(
    ("column", "cells", "parts"),
    [
        ("set", ("train", "Training", "valid", "test"), (2, 1, 1)),
        ("Data Set", ("train", "eval", "dev", "test"), (1, 2, 1)),
        ("is_test", ("0", "false", "1", "True"), (2, 0, 2)),
        ("is_train", ("1", "1", "0", "0"), (2, 0, 2)),
        ("set", ("A", "train", "val", "test"), (4, 0, 0)),  # something else
        ("is_test", ("0", "2", "1", "1"), (4, 0, 0)),
        ("type", ("test", "test", "test", "test"), (4, 0, 0)),
    ],
)
def test_column_by_another_name_tells_the_parts_where_every_cell_says_one(
    tmp_path: Path, column: str, cells: Sequence[str], parts: tuple[int, ...]
) -> None:
    names = [str(save(tmp_path / f"{number}.png", picture(number))) for number in range(4)]
    lines = [f"{name},{number},{cell}" for number, (name, cell) in enumerate(zip(names, cells, strict=True))]
    (tmp_path / "a.csv").write_text("\n".join([f"path,label,{column}", *lines]))
    csv = read_task(tmp_path / "a.csv")
    frame = pytest.importorskip("pandas").read_csv(tmp_path / "a.csv", dtype={"label": str, column: str})
    for task in (csv, from_table(frame)):
        assert tuple(len(part) for part in (task.train, task.val, task.test)) == parts
    pytest.importorskip("pyarrow")
    frame.to_parquet(tmp_path / "a.parquet")
    assert len(read_task(tmp_path / "a.parquet").test) == parts[2]


def test_lines_of_blanks_in_front_of_the_columns_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("\n\npath,label\na.png,cat\n,dog\n")
    with pytest.raises(ShotfitError, match="line 5 has no path"):
        read_task(tmp_path / "a.csv")


def test_jsonl_manifest_without_parts(tmp_path: Path) -> None:
    tree(tmp_path, cat=5)
    lines = [json.dumps({"path": f"cat/00{i}.png", "label": i % 2}) for i in range(5)]
    (tmp_path / "list.jsonl").write_text("\n\n".join(lines) + "\n")
    task = read_task(tmp_path / "list.jsonl")
    assert task.classes.names == ("0", "1")
    assert Counter(item.label for item in task.test) == {0: 1, 1: 1}


def test_manifest_paths_are_relative_to_the_images_folder(tmp_path: Path) -> None:
    tree(tmp_path / "images", cat=2)
    (tmp_path / "list.tsv").write_text("path\tlabel\n000.png\tcat\n001.png\tcat\n")
    task = read_task(tmp_path / "list.tsv", images=tmp_path / "images" / "cat")
    assert all(item.digest for item in every(task))


def test_numbers_as_labels_are_sorted_as_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for label in (10, 9, 1)))
    assert read_task(tmp_path / "list.csv").classes.names == ("1", "9", "10")


def test_manifest_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    save(tmp_path / "a, b.png")
    (tmp_path / "list.csv").write_bytes('\ufeffpath, label\r\n"a, b.png",猫\r\n'.encode())
    assert read_task(tmp_path / "list.csv").classes.names == ("猫",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", r"has the columns \(none\); expected path,label"),
        ("a.csv", "a,b\na.png,cat\n", "columns a, b; expected path,label .*--path-column NAME .*--label-column NAME"),
        ("a.csv", "path,label\n", "lists no image"),
        ("a.csv", "path,label\na.png\n", "line 2 has no label"),
        ("a.csv", "path,label,split\na.png,cat,train\nb.png,cat\n", "line 3 has no split"),
        ("a.csv", "path,label,split\na.png,cat,all\n", "line 2: the split is 'all'; expected train, val or test"),
        ("a.jsonl", '{"path": "a.png"}\n', "has the columns path; expected path,label .*--label-column NAME"),
        ("a.csv", "path,label,split\na.png,,train\n", "line 2 has no label"),
        ("a.jsonl", '{"path": "a.png", "label": ""}\n{"path": "b.png"}\n', "line 1 has no label"),
        ("a.jsonl", '{"path": "a.png", "label": "cat"}\n{\n', "line 2: not valid JSON"),
        ("a.jsonl", "[1]\n", "line 1: expected an object"),
        ("a.jsonl", '{"path": "a.png", "label": null}\n', "has the columns path; expected path,label"),
        ("a.jsonl", '{"path": "a.png", "label": 1.5}\n', "line 1: the label is 1.5; expected text or a whole number"),
        ("a.jsonl", '{"path": "a.png", "label": true}\n', "line 1: the label is true; expected text or"),
        ("a.jsonl", '{"path": ["a.png"], "label": 1}\n', 'line 1: the path is \\["a.png"\\]; expected text or'),
        ("a.csv", "path,label\na.png,cat\n", "none of the 1 images"),
        ("a.csv", "path,label\na\0.png,cat\n", "no path|not valid CSV"),
        ("a.jsonl", '{"path": "\\ud800", "label": "cat"}', "line 1: .* is no path"),
        ("a.jsonl", "[" * 100_000, "line 1: not valid JSON"),
        ("a.jsonl", '{"path": "a.png", "label": ' + "1" * 5000 + "}", "line 1: not valid JSON"),
        ("a.csv", f"path,label\na.png,{'1' * 5000}\n", "none of the 1 images"),
    ],
)
def test_malformed_manifest_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ShotfitError, match=said):
        read_task(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "path;label\na.png;\na.png;cat\na.png\n"),
        ("a.jsonl", '{"path": "a.png"}\n{"path": "a.png", "label": "cat"}\n{"path": "a.png", "label": " "}\n'),
    ],
)
def test_lines_without_a_label_are_left_out_and_counted(tmp_path: Path, name: str, content: str) -> None:
    save(tmp_path / "a.png")
    (tmp_path / name).write_text(content)
    task = read_task(tmp_path / name)
    numbers = "2, 4" if name == "a.csv" else "1, 3"
    assert task.notes == (f"2 lines without a label left out (line {numbers})",)
    assert [(task.classes.names[item.label], item.picture.path.name) for item in every(task)] == [("cat", "a.png")]


def test_empty_split_is_train(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text(f"path,label,split\n{image},cat,\n{image},dog,test\n")
    (tmp_path / "b.jsonl").write_text(
        '{"path": "a.png", "label": "cat", "split": null}\n{"path": "a.png", "label": "dog", "split": "test"}\n'
    )
    for name in ("a.csv", "b.jsonl"):
        task = read_task(tmp_path / name)
        assert (len(task.train), len(task.test)) == (1, 1)


@pytest.mark.skipif(os.sep != "/", reason="where backslashes are those of Windows, they need no change")
def test_list_with_the_paths_of_windows_names_the_files(tmp_path: Path) -> None:
    save(tmp_path / "05" / "a.png")
    save(tmp_path / "05\\b.png")  # which may be a name as well
    names = ["05\\a.png", "05\\a.png#xywh=0,0,8,8", "05\\b.png", "05\\none.png"]
    (tmp_path / "list.csv").write_text("\n".join(["path;label", *(f"{name};wren" for name in names)]))
    found = [name.removeprefix(f"{tmp_path}/") for name in paths_in(tmp_path / "list.csv")]
    assert found == ["05/a.png", "05/a.png#xywh=0,0,8,8", "05\\b.png", "05\\none.png"]


def test_manifest_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"path,label\n\xff.png,cat\n")
    with pytest.raises(ShotfitError, match="it is not UTF-8 text"):
        read_task(tmp_path / "a.csv")


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8).filter(
    lambda name: name.strip() == name and name.replace("_", " ").strip() != ""
)


@settings(max_examples=40)  # each reads two tasks
@given(st.lists(st.tuples(NAMES, st.sampled_from(["train", "val", "test"])), min_size=1, max_size=20))
def test_any_label_survives_both_kinds_of_manifest(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    path = str(save(folder / "a.png", seed=1))
    listed = [{"path": path, "label": label, "split": part} for label, part in rows]
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in listed), encoding="utf-8")
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"])
        writer.writeheader()
        writer.writerows(listed)
    tasks = [read_task(folder / name) for name in ("a.jsonl", "a.csv")]
    assert len({task.classes.names for task in tasks}) == 1
    assert set(tasks[0].classes.names) <= {composed(label) for label, _ in rows}
