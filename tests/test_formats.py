"""Data as people have it: every format gives the task that the same pictures give as class folders."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shotfit.commands.cli import main
from shotfit.data.listing import AS_IT_IS
from shotfit.data.pictures import Picture
from shotfit.data.readers import FORMATS, read_task
from shotfit.data.tasks import Item, Task
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError
from shotfit.fitting.fit import fit
from shotfit.methods.linear_probe import LinearProbe
from shotfit.testing.tiny import tiny_backbone

from . import layouts
from .layouts import IDS, Pictures, Write, add, entries, hub_table, put

LAYOUTS: dict[str, tuple[str, Write]] = {
    "csv": ("csv", layouts.manifest()),
    "csv of windows": ("csv", layouts.manifest(";", "utf-8-sig", "\r\n", "{part}\\{number:03}.png")),
    "csv with tabs": ("csv", layouts.manifest("\t", file="labels.tsv")),
    "csv with bars": ("csv", layouts.manifest("|")),
    "csv of excel": ("csv", layouts.manifest(";", top="sep=;\n", end="\r\n")),
    "csv in utf-16": ("csv", layouts.manifest("\t", "utf-16", file="labels.csv")),
    "csv of kaggle": ("csv", layouts.manifest(name="{part}/{number:03}", header=("id", "label", "split"))),
    "csv with absolute paths": ("csv", layouts.manifest(name="{folder}/{part}/{number:03}.PNG")),
    "csv with odd columns": ("csv", layouts.manifest(header=("Image Path", "Label", "Subset"))),
    "jsonl": ("jsonl", layouts.jsonl),
    "imagefolder csv": ("imagefolder", layouts.imagefolder("csv", in_parts=True)),
    "imagefolder csv on top": ("imagefolder", layouts.imagefolder("csv", in_parts=False)),
    "imagefolder jsonl": ("imagefolder", layouts.imagefolder("jsonl", in_parts=True)),
    "imagefolder parquet": ("imagefolder", layouts.imagefolder("parquet", in_parts=False)),
    "parquet shards": ("parquet", layouts.parquet()),
    "parquet in data/": ("parquet", layouts.parquet("data/{part}-00000-of-00001-a1b2c3d4e5f6a7b8.parquet")),
    "parquet by folder": ("parquet", layouts.parquet("plain_text/{part}/0000.parquet", struct=False)),
    "parquet of text": ("parquet", layouts.parquet_of_text),
    "parquet of paths": ("parquet", layouts.parquet_of_paths),
    "datasets": ("datasets", layouts.datasets),
    "webdataset": ("webdataset", layouts.webdataset()),
    "webdataset by folder": ("webdataset", layouts.webdataset("{part}/{shard:06}.tar", names="classes.txt")),
    "webdataset of names": ("webdataset", layouts.webdataset("set-{part}-{shard}.tar", "name")),
    "webdataset json": ("webdataset", layouts.webdataset(label="json")),
    "webdataset txt": ("webdataset", layouts.webdataset(label="txt")),
    "wnid": ("wnid", layouts.by_id("synset_words.txt")),
    "wnid above": ("wnid", layouts.by_id("../LOC_synset_mapping.txt")),
    "wnid json": ("wnid", layouts.by_id("imagenet_class_index.json")),
    "zip": ("archive", layouts.zipped()),
    "zip of windows": ("archive", layouts.zipped(slash="\\")),
    "zip with a folder around": ("archive", layouts.zipped("photos/")),
    "tar": ("archive", layouts.tarred),
    "folders": ("folders", layouts.folders),
    "labels": ("labels", layouts.labelled),
}
WITHOUT_PARTS = ("datasets", "zip", "zip with a folder around", "tar", "wnid", "parquet shards", "webdataset")


def facts(task: Task) -> tuple[Any, ...]:
    """What is equal in every layout: the classes in order, and label and digest of the pictures in each part."""

    def part(items: Any) -> list[tuple[int, str]]:
        return sorted((item.label, item.digest) for item in items)

    return task.classes.names, part(task.train), part(task.val), part(task.test)


def same_as_folders(tmp_path: Path, pictures: Pictures) -> tuple[Any, ...]:
    return facts(read_task(layouts.folders(tmp_path / "as folders", pictures)))


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_gives_the_task_of_the_same_pictures_as_class_folders(name: str, tmp_path: Path) -> None:
    format_name, write = LAYOUTS[name]
    pictures = layouts.pictures()
    source = write(tmp_path / "data", pictures)
    how = {"path_column": "image path"} if name == "csv with odd columns" else {}
    task = read_task(source, **how)  # type: ignore[arg-type]
    assert facts(task) == same_as_folders(tmp_path, pictures)
    assert facts(read_task(source, read_as=format_name, **how)) == facts(task)  # type: ignore[arg-type]
    assert len(task.train) == len(task.val) == len(task.test) == 8
    assert not task.notes or "wrap" in name or "around" in name or name == "labels"


@pytest.mark.parametrize("name", WITHOUT_PARTS)
def test_layout_without_parts_has_the_same_fifth_as_class_folders(name: str, tmp_path: Path) -> None:
    pictures = layouts.pictures(("train",))
    task = read_task(LAYOUTS[name][1](tmp_path / "data", pictures))
    assert facts(task) == same_as_folders(tmp_path, pictures)
    assert (len(task.train), len(task.test)) == (6, 2)


@pytest.mark.parametrize("name", LAYOUTS)
def test_format_is_found_by_itself_and_doctor_says_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    format_name, write = LAYOUTS[name]
    source = write(tmp_path / "data", layouts.pictures())
    found = next(known for known, reader in FORMATS.items() if reader.recognizes(source))
    assert found == format_name
    more = ["--path-column", "image path"] if name == "csv with odd columns" else []
    assert main(["doctor", str(source), *more]) == 0
    said = {"csv": "manifest", "jsonl": "manifest", "parquet": "(3 )?Parquet table", "datasets": "saved dataset"}
    said |= {"webdataset": "WebDataset", "wnid": "class folders by WordNet ids", "archive": "class folders in photos"}
    said |= {"labels": "the labels of shotfit app"}
    assert re.search(f"read as {said.get(format_name, f'(class )?{format_name}')}", capsys.readouterr().out)


def test_tiny_imagenet_is_read_with_its_answers(tmp_path: Path) -> None:
    pictures = layouts.pictures(("train", "val"))
    task = read_task(layouts.tiny_imagenet(tmp_path / "tiny-imagenet-200", pictures))
    assert task.classes.names == ("tench", "vulture")
    assert Counter(item.label for item in task.val) == {0: 4, 1: 4}
    items = [*task.train, *task.val, *task.test]
    assert all(task.classes.names[item.label] == _label(pictures, item) for item in items)
    assert [path.name for path in task.passed_over()] == ["test_0.png"]


def _label(pictures: Pictures, item: Item) -> str:
    content = item.picture.path.read_bytes()
    return next(label for _, label, _, other in entries(pictures) if other == content)


def test_wnid_folders_without_names_are_folders(tmp_path: Path) -> None:
    layouts.folders(tmp_path / "data", {"train": {one: [layouts.png(1)] for one in IDS}})
    task = read_task(tmp_path / "data")
    assert (task.reader, task.classes.names) == ("class folders", tuple(IDS))


def test_shard_and_pattern_of_shards_are_read(tmp_path: Path) -> None:
    pictures = layouts.pictures()
    folder = layouts.webdataset()(tmp_path / "data", pictures)
    one = read_task(folder / "train-0000.tar")
    assert (len(one.train) + len(one.test), one.classes.names) == (4, ("tench", "vulture"))
    several = read_task(folder / "train-*.tar")
    assert len(several.train) + len(several.test) == 8
    assert several.name == "data"
    with pytest.raises(ShotfitError, match=r"0\.\.9\}\.tar does not exist: write several shards as a pattern"):
        read_task(folder / "train-{0..9}.tar")
    assert str(one.train[0].picture).startswith(f"{folder}/train-0000.tar::0")


# What a format tells and refuses


def labels(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    for place, label in enumerate("aabb"):
        put(folder / "img" / f"{place}{label}.png", layouts.png(place))
    return put(folder / name, text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,healthy,rust\n0a,1,0\n1a,0,1\n", r"columns of 0 and 1, as for a class each \(healthy, rust\)"),
        ("img/0a.png,a\nimg/2b.png,b\n", "names no columns in its first line, but an image .* add a first line path,"),
        ("path,label\nimg/0a.png,a, b\n", "line 2 has more cells than there are columns"),
        ("path,label,label\nimg/0a.png,a,b\n", "two columns 'label'"),
        ("path,label\nimg/0a.png,caf\xe9\n".encode("latin-1"), "not UTF-8 text, from line 2 on.*CSV UTF-8"),
        ("path,label\n0a.png,a\n2b.png,b\n", r"none of the 2 images .* pass --images .*img"),
    ],
)
def test_table_that_is_no_manifest_is_refused_in_a_line(text: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match=said):
        read_task(labels(tmp_path, text))


def test_quotes_blank_lines_and_other_unicode_are_read(tmp_path: Path) -> None:
    put(tmp_path / "e\u0301.png", layouts.png(1))
    text = '"path;of";"a ""label"""\n\xe9.png;"x;y"\n;\n\n'
    task = read_task(labels(tmp_path, text), path_column="path;of", label_column='a "label"')
    assert [str(item.picture.path.name) for item in task.train] == ["e\u0301.png"]
    assert task.classes.names == ("x;y",)


def test_json_array_is_told_from_json_lines(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match="is a JSON array; expected an object a line"):
        read_task(labels(tmp_path, json.dumps([{"path": "img/0a.png", "label": "a"}]), "labels.jsonl"))


def test_rows_without_label_are_left_out_of_a_hub_table(tmp_path: Path) -> None:
    table = hub_table({"dog": [layouts.png(1)], "tench": [layouts.png(2)]}, ["dog", "newt", "tench"])
    test = table.slice(0, 1).set_column(1, "label", pa.array([-1]))
    pq.write_table(pa.concat_tables([table, test]), tmp_path / "a.parquet")
    task = read_task(tmp_path / "a.parquet")
    assert task.classes.names == ("dog", "tench")
    assert task.notes == ("1 row without a label left out", "1 of 3 class names have no picture: newt")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": [b"x"], "text": ["a"]}, "has the columns image, text; expected .*--label-column"),
        ({"a": [b"x"], "b": [b"y"], "label": ["a"]}, r"several columns of pictures \(a, b\)"),
        ({"image": [b"x"], "label": [1.5]}, "row 0: the label is 1.5; expected text or a whole number"),
        ({"image": [b"x"], "label": [{"a": 1}]}, "row 0: the label is"),
        ({"label": ["a"]}, "expected .*--path-column"),
        ({"image": [b"x"], "label": [None]}, "row 0 has no label"),
    ],
)
def test_table_of_another_kind_is_refused(columns: dict[str, list[Any]], said: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ShotfitError, match=said):
        read_task(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"1.png": b"", "1.seg.png": b"", "1.cls": b"0"}, "the sample 1 has 2 pictures"),
        ({"1.png": b"", "1.cls": b"a", "2.png": b""}, r"the sample 2 has no \.cls"),
        ({"1.png": b"", "1.json": b'{"size": 3}'}, r"has the keys size in its \.json; .*--label-column"),
        ({"1.png": b"", "1.json": b"[" * 5000}, "that is not valid JSON"),
        ({"1.png": b"", "1.cls": b"9"}, "the label '9' is not among the 2 class names of"),
        ({"1.png": b"", "1.txt": b"a long text\nof two lines"}, "expected a class's name or number"),
        ({"1.png": b"", "1.cls": b"\xff"}, "not UTF-8"),
    ],
)
def test_shard_of_another_kind_is_refused(files: dict[str, bytes], said: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in files.items():
            add(archive, name, content)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(ShotfitError, match=said):
        read_task(tmp_path / "a.tar")


def test_column_of_a_json_in_shards_is_chosen(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(2):
            add(archive, f"{number}.png", layouts.png(number))
            add(archive, f"{number}.json", json.dumps({"label": 0, "kind": f"k{number}", "who": "ann"}).encode())
    task = read_task(tmp_path / "a.tar", label_column="kind", group_column="who")
    assert task.classes.names == ("k0", "k1")
    assert {item.group for item in (*task.train, *task.test)} == {"ann"}


def test_compressed_archive_and_labels_in_an_archive_are_told(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match="is compressed as a whole"):
        read_task(put(tmp_path / "photos.tar.gz", b"x"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("images/1.png", layouts.png(1))
        archive.writestr("labels.csv", "id,label\n1,a\n")
    with pytest.raises(ShotfitError, match=r"labels\.csv: unpack the archive and name that file"):
        read_task(tmp_path / "a.zip")


def test_line_that_lists_the_list_is_left_out(tmp_path: Path) -> None:
    text = "file_name,label\n0a.png,a\n1a.png,b\nmetadata.csv,c\n"
    task = read_task(labels(tmp_path, text, "img/metadata.csv").parent)
    assert task.reader == "imagefolder by metadata.csv"
    assert task.classes.names == ("a", "b")


def test_class_folders_with_captions_are_class_folders(tmp_path: Path) -> None:
    folder = layouts.folders(tmp_path / "data", layouts.pictures(("train",)))
    put(folder / "metadata.csv", b"file_name,text\ntench/000.png,a fish\n")
    assert read_task(folder).reader == "class folders"


def test_cache_of_the_library_and_a_single_arrow_file_are_read(tmp_path: Path) -> None:
    pictures = layouts.pictures(("train",))
    folder = layouts.datasets(tmp_path / "data", pictures)
    (folder / "state.json").unlink()
    assert facts(read_task(folder)) == same_as_folders(tmp_path, pictures)
    assert read_task(folder / "data-00000-of-00002.arrow").classes.names == ("tench",)


def test_imagefolder_counts_pictures_that_are_not_listed(tmp_path: Path) -> None:
    folder = layouts.imagefolder("csv", in_parts=True)(tmp_path / "data", layouts.pictures())
    put(folder / "train" / "more.png", layouts.png(99))
    assert [path.name for path in read_task(folder).passed_over()] == ["more.png"]


# Anything


def outcome(source: Path, read_as: str | None = None) -> None:
    """A task, or an error of one line."""
    try:
        read_task(source, read_as=read_as)
    except ShotfitError as error:
        assert "\n" not in str(error)


FILES = {
    "labels": (".shotfit-labels.jsonl",),
    "csv": ("a.csv", "a.tsv", "metadata.csv"),
    "jsonl": ("a.jsonl", "metadata.jsonl"),
    "parquet": ("a.parquet", "metadata.parquet"),
    "datasets": ("a.arrow", "dataset_info.json", "state.json", "dataset_dict.json"),
    "webdataset": ("a.tar", "classes.txt"),
    "archive": ("a.zip", "a.tar"),
    "wnid": ("words.txt", "imagenet_class_index.json", "val_annotations.txt"),
}
WORDS = (
    *("path", "label", "file_name", "image", "rank", "probability", "a.png", "n01440764", '"label"', "_data_files"),
    *(",", ";", "\n", '"', "{", "}", "[", ":", "1", "0", "-1", "null", "\ufeff", "sep=;", "::", "\\"),
)
JOINED = st.lists(st.sampled_from(WORDS), max_size=25).map(lambda words: "".join(words).encode())
CONTENT = st.binary(max_size=60) | JOINED
FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("format_name", FILES)
@FEW
@given(data=st.data())
def test_any_bytes_end_in_a_task_or_a_line(format_name: str, data: st.DataObject, tmp_path: Path) -> None:
    name = data.draw(st.sampled_from(FILES[format_name]))
    path = put(tmp_path / "n01440764" / name, data.draw(CONTENT))
    put(tmp_path / "n01440764" / "n02084071" / "a.png", b"")
    for source in (path, path.parent):
        for reader in FORMATS.values():
            assert reader.recognizes(source) in (True, False)
        outcome(source)
        outcome(source, format_name)
    path.unlink()


KEYS = st.sampled_from(["label", "path", "x"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=4) | st.just("a.png"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
LABELS = st.none() | st.integers(-3, 4) | st.binary(max_size=3) | st.text(max_size=3)
ROWS = st.lists(st.dictionaries(st.sampled_from(["path", "label", "split", "image", "cls"]), VALUES), max_size=5)


@FEW
@given(rows=ROWS)
def test_any_rows_end_in_a_task_or_a_line(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    outcome(put(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)).encode()))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["path", "label"], *([str(value) for value in row.values()] for row in rows)])
    outcome(put(tmp_path / "a.csv", text.getvalue().encode("utf-8", "replace")))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, row in enumerate(rows):
            add(archive, f"{number}.png", b"")
            add(archive, f"{number}.json", json.dumps(row).encode())
    outcome(tmp_path / "a.tar", "webdataset")
    for name in ("dataset_info.json", "state.json", "dataset_dict.json"):
        found = {"features": rows[0] if rows else 0, "_data_files": rows, "splits": [str(row)[:9] for row in rows]}
        put(tmp_path / "saved" / name, json.dumps(found).encode())
    outcome(tmp_path / "saved")


@FEW
@given(
    labels=st.lists(LABELS, min_size=1, max_size=4),
    metadata=st.none() | VALUES.map(lambda value: {b"huggingface": json.dumps({"info": {"features": value}}).encode()}),
)
def test_any_table_ends_in_a_task_or_a_line(labels: list[Any], metadata: Any, tmp_path: Path) -> None:
    kinds = {type(label) for label in labels if label is not None}
    column = labels if len(kinds) < 2 else [str(one) for one in labels]
    table = pa.table({"image": [b"x"] * len(labels), "label": column})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.replace_schema_metadata())
    for name in ("a.parquet", "a.arrow"):
        outcome(tmp_path / name)
        content = bytearray((tmp_path / name).read_bytes())
        content[len(content) // 2] ^= 0xFF
        outcome(put(tmp_path / f"b{name}", bytes(content)))


@pytest.mark.parametrize("reader", FORMATS.values(), ids=list(FORMATS))
def test_recognizing_never_raises(reader: Any, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    for kind in ("csv", "jsonl", "parquet", "arrow", "tar", "zip", "json"):
        put(tmp_path / f"empty.{kind}", b"")
        (tmp_path / f"pipe.{kind}").mkdir()
        os.mkfifo(closed / f"pipe.{kind}")
    (closed / "metadata.csv").symlink_to(closed / "metadata.csv")
    os.mkfifo(closed / "metadata.jsonl")
    os.mkfifo(closed / "words.txt")
    (closed / "n01440764").mkdir()
    sources = [*tmp_path.iterdir(), *closed.iterdir(), tmp_path / "gone.csv", tmp_path / "[*.tar", Path("\0.tar")]
    closed.chmod(0)
    try:
        assert all(reader.recognizes(source) in (True, False) for source in sources)
    finally:
        closed.chmod(0o700)
    assert all(reader.recognizes(source) in (True, False) for source in sources)


# Ways through more than a reader


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    tiny_backbone(folder)
    return folder


def test_predictions_read_back_as_a_manifest(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(layouts.folders(tmp_path / "data", layouts.pictures(("train",))))
    put(Path("vulture/broken.png"), b"x")
    options = ["--backbone", str(backbone)]
    assert main(["fit", "--classes", '"vulture, wet",tench', "--out", str(tmp_path / "m"), *options]) == 0
    capsys.readouterr()
    first = dict[str, str]()
    for form in ("csv", "jsonl"):
        assert main(["predict", str(tmp_path / "m"), "vulture", "tench", "--format", form, *options]) == 4
        listed = capsys.readouterr().out
        if form == "csv":
            first = {row["image"]: row["label"] for row in csv.DictReader(io.StringIO(listed)) if row["rank"] == "1"}
        task = read_task(put(tmp_path / "labels" / f"predicted.{form}", listed.encode()))
        assert task.reader == f"predictions predicted.{form}, of each image the first label"
        assert task.notes == ("1 rows of images that could not be read are left out",)
        items = [*task.train, *task.test]
        assert len(items) == 8 and all(item.digest for item in items)
        assert {os.path.relpath(item.picture.path): task.classes.names[item.label] for item in items} == first


def test_unknown_images_are_no_labels(tmp_path: Path) -> None:
    lines = "image,rank,label,probability,set,unknown,error\n" + "".join(
        f"img/{name}.png,{rank},{label},0.5,,{unknown},\n"
        for name, unknown in (("0a", "false"), ("1a", "true"))
        for rank, label in enumerate("ab", start=1)
    )
    task = read_task(labels(tmp_path, lines))
    assert [item.picture.path.name for item in (*task.train, *task.test)] == ["0a.png"]
    assert task.notes == ("1 rows of images that are marked unknown are left out",)


def test_fit_from_files_archives_tables_and_bytes_is_the_same_model(backbone: Path, tmp_path: Path) -> None:
    pictures = layouts.pictures()
    writers: dict[str, Callable[[Path, Pictures], Path]] = {
        name: LAYOUTS[name][1] for name in ("folders", "zip", "tar", "parquet shards", "datasets", "csv")
    }
    writers["webdataset"] = layouts.webdataset("{part}.tar")
    tasks = {name: read_task(write(tmp_path / name, pictures), name="fish") for name, write in writers.items()}

    def in_memory(items: Any) -> tuple[Item, ...]:
        return tuple(replace(item, picture=Picture.of(item.picture.path.read_bytes())) for item in items)

    files = tasks["folders"]
    tasks["bytes"] = replace(files, train=in_memory(files.train), val=in_memory(files.val))
    saved = {}
    for name, task in tasks.items():
        model = fit(task, LinearProbe(), shots=2, backbone=str(backbone), store=MemoryStore(), recipe="paper")
        model.save(tmp_path / "m")
        saved[name] = (tmp_path / "m" / "adapter.safetensors").read_bytes()
    assert {name: content == saved["folders"] for name, content in saved.items()} == dict.fromkeys(saved, True)


def test_table_of_many_rows_takes_little_memory(tmp_path: Path) -> None:
    rows = 20_000
    table = pa.table({"image": [b"x"] * rows, "label": ["a class with a long name", "b"] * (rows // 2)})
    pq.write_table(table, tmp_path / "a.parquet")
    tracemalloc.start()
    listing = FORMATS["parquet"].read(tmp_path / "a.parquet", AS_IT_IS)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(listing.parts["train"]) == rows
    assert most < 1000 * rows


def test_saved_dataset_is_what_the_library_writes(tmp_path: Path) -> None:
    import datasets as library  # type: ignore[import-untyped]

    pictures = layouts.pictures()
    names = ["tench", "vulture"]
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=names)})
    parts = {}
    for part, classes in pictures.items():
        rows = [(content, label) for label, contents in classes.items() for content in contents]
        images = [{"bytes": content, "path": None} for content, _ in rows]
        columns = {"image": images, "label": [label for _, label in rows]}
        parts["validation" if part == "val" else part] = library.Dataset.from_dict(columns, features=features)
    library.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert facts(read_task(tmp_path / "saved")) == same_as_folders(tmp_path, pictures)
    for part, found in parts.items():
        found.to_parquet(str(tmp_path / "hub" / "data" / f"{part}-00000-of-00001.parquet"))
    assert facts(read_task(tmp_path / "hub")) == same_as_folders(tmp_path, pictures)
