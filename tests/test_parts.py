"""`predict` and `embed` with `--out DIR`: parts that go on where they stopped, the same rows whoever computes them."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import shotfit
from shotfit.commands.cli import main
from shotfit.data.parts import Part, Parts
from shotfit.engine.store import MemoryStore
from shotfit.fitting.fit import fit
from shotfit.fitting.jobs import Predicting, batches, decode
from shotfit.fitting.part_folder import JOB
from shotfit.fitting.parts import write_parts
from shotfit.testing.tiny import tiny_backbone, tiny_task

from .pictures import save
from .predicting.test_predict_formats import fill
from .test_docs import ROOT, blocks

COUNT = 45  # pictures, in parts of 20: batches of 20, 20 and 5
Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in `photos`, one of them broken in `mixed`, a backbone and two models."""
    folder = tmp_path_factory.mktemp("parts")
    backbone, task = tiny_backbone(folder / "backbone"), tiny_task(folder / "task")
    for name, shots in (("model", 1), ("other", 2)):
        fit(task, "tip_adapter", shots=shots, backbone=backbone, store=MemoryStore()).save(folder / name)
    for number in range(COUNT):
        save(folder / "photos" / ("a" if number < 30 else "b") / f"{number:03}.png", seed=number)
    return folder


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, and the lines of standard error, of shotfit in an empty folder; `photos` and the rest lie beside."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "model", "other", "backbone"):
        Path(name).symlink_to(home / name)

    def ran(*words: object, size: int = 20) -> tuple[int, list[str]]:
        capsys.readouterr()
        flags = [] if "--part-size" in words or not size else ["--part-size", str(size)]
        code = main([*map(str, words), "--backbone", str(home / "backbone"), *flags])
        return code, capsys.readouterr().err.splitlines()

    return ran


def tables(folder: str | Path) -> list[pa.Table]:
    return [pq.read_table(path) for path in sorted(Path(folder).glob("part-*.parquet"))]


def content(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def names(folder: str | Path) -> list[str]:
    return [name for table in tables(folder) for name in table.column("image").to_pylist()]


def photos_of(home: Path) -> list[Path]:
    return sorted((home / "photos").rglob("*.png"))


# The parts


@pytest.mark.parametrize("words", [["predict", "model", "photos"], ["embed", "photos"]])
def test_shares_write_the_rows_of_one_process_bit_for_bit(run: Run, words: list[str]) -> None:
    code, err = run(*words, "--out", "one")
    assert code == 0 and err[-1].startswith(f"written: one: 3 parts, {COUNT} pictures")
    for share in (3, 1, 2):
        assert run(*words, "--out", "shares", "--part", f"{share}/3")[0] == 0
        assert len(tables("shares")) == {3: 1, 1: 2, 2: 3}[share]
    assert [table.num_rows for table in tables("one")] == [20, 20, 5]
    assert content("one") == content("shares")


def test_predictions_are_those_of_predict(run: Run) -> None:
    words = ["predict", "model", "photos", "--top", 2, "--precision", "float32", "--out"]
    assert run(*words, "parts")[0] == 0
    assert run(*words, "all.parquet", size=0)[0] == 0
    parts, whole = pa.concat_tables(tables("parts")), pq.read_table("all.parquet")
    assert parts.schema.equals(whole.schema)
    for name in ("image", "rank", "label", "error"):
        assert parts.column(name).equals(whole.column(name))
    assert np.allclose(parts.column("probability"), whole.column("probability"), atol=1e-6)


def test_rows_do_not_depend_on_the_number_of_threads(run: Run) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert run("embed", "photos", "--out", f"by{threads}")[0] == 0
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert content("by1") == content("by3")


@pytest.mark.parametrize(("dtype", "kind"), [("float16", pa.float16()), ("float32", pa.float32())])
def test_features_are_lists_of_one_size_in_the_type_asked_for(run: Run, dtype: str, kind: pa.DataType) -> None:
    assert run("embed", "photos", "--out", "features", "--dtype", dtype, "--precision", "float32")[0] == 0
    table = pa.concat_tables(tables("features"))
    assert table.schema.names == ["image", "error", "features"]
    assert table.schema.field("features").type == pa.list_(kind, 32)
    column = pq.read_metadata("features/part-00000.parquet").row_group(0).column(2)
    assert not column.has_dictionary_page  # of numbers that are all different
    found = np.stack(table.column("features").to_numpy(zero_copy_only=False))
    expected = shotfit.embed(table.column("image").to_pylist(), "backbone", precision="float32")
    assert np.allclose(found, expected, atol=2e-3 if dtype == "float16" else 1e-5)


def test_second_run_computes_nothing_and_says_the_same(run: Run, home: Path) -> None:
    run("predict", "model", "photos", "--out", "labels")
    before = {path: path.stat().st_mtime_ns for path in Path("labels").iterdir()}
    code, err = run("predict", "model", "photos", "--out", "labels")
    assert (code, err) == (0, [f"written: labels: 3 parts (3 there before), {COUNT} pictures"])
    assert {path: path.stat().st_mtime_ns for path in Path("labels").iterdir()} == before


def test_killed_runs_go_on_to_the_same_rows(run: Run, home: Path) -> None:
    for number in range(160):
        save(Path("many") / f"{number:03}.png", seed=number)
    words = ["predict", "model", "many", "--out", "killed", "--part-size", "4", "--backbone", str(home / "backbone")]
    for parts in (1, 8):
        process = subprocess.Popen([sys.executable, "-m", "shotfit", *words], stderr=subprocess.DEVNULL)
        while len(list(Path("killed").glob("part-*"))) < parts and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    there = len(tables("killed"))
    assert 8 <= there < 40
    code, err = run(*words)
    assert code == 0 and f"40 parts ({there} there before), 160 pictures" in err[-1]
    run("predict", "model", "many", "--out", "whole", size=4)
    assert content("killed") == content("whole")
    assert names("killed") == [f"many/{number:03}.png" for number in range(160)]


def test_broken_picture_is_a_row_with_its_error_also_when_nothing_is_left_to_do(run: Run, home: Path) -> None:
    for number, path in enumerate(photos_of(home)[:30]):
        save(Path("mixed") / path.name, seed=number)
    Path("mixed/007.png").write_bytes(b"no image")
    for _ in range(2):
        code, err = run("predict", "model", "mixed", "--out", "labels", "--top", 2)
        assert code == 4 and "2 parts" in err[-1] and "30 pictures, 1 not predicted" in err[-1]
    rows = [row for table in tables("labels") for row in table.to_pylist()]
    assert [row["image"] for row in rows if row["error"]] == ["mixed/007.png"]
    assert len(rows) == 59 and "is no image but text" in rows[14]["error"]
    assert run("embed", "mixed", "--out", "features")[0] == 4
    missing = tables("features")[0].column("features")
    assert [place for place, one in enumerate(missing.to_pylist()) if one is None] == [7]
    assert run("predict", "model", "mixed", "--out", "skipped", "--skip-broken")[0] == 0
    assert len(names("skipped")) == 29
    code, err = run("predict", "model", "mixed", "--out", "strict", "--strict")
    assert code == 3 and "007.png" in err[-1] and tables("strict") == []


# Folders


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "other", "photos"], "of another model"),
        (["predict", "model", "photos", "--top", "2"], "top: 1 there, 2 now"),
        (["predict", "model", "photos", "--part-size", "7"], "part size: 20 there, 7 now"),
        (["predict", "model", "photos", "--precision", "bfloat16"], "precision: float32 there, bfloat16 now"),
        (["predict", "model", "photos/a"], "of other sources"),
        (["embed", "photos"], "predictions and features"),
    ],
)
def test_another_job_is_refused_in_one_line(run: Run, words: list[str], said: str) -> None:
    assert run("predict", "model", "photos", "--out", "labels", "--precision", "float32")[0] == 0
    before = content("labels")
    precision = [] if "--precision" in words else ["--precision", "float32"]
    code, err = run(*words, *precision, "--out", "labels")
    assert code == 2 and err[-1].startswith("error: --out labels holds the parts of another job") and said in err[-1]
    assert len(err) == 1 and content("labels") == before


def test_folder_with_other_files_is_refused_and_left_alone(run: Run) -> None:
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    code, err = run("predict", "model", "photos", "--out", "full")
    assert (code, len(err)) == (2, 1) and "holds notes.txt and no job.json" in err[0]
    assert content("full") == {"notes.txt": b"mine"}
    run("predict", "model", "photos", "--out", "labels", "--part", "1/3")
    Path("labels/notes.txt").write_text("mine")
    pq.write_table(pa.table({"a": [1]}), "labels/part-00001.parquet")
    code, err = run("predict", "model", "photos", "--out", "labels")
    assert code == 3 and "part-00001.parquet was not written by shotfit" in err[-1]
    assert Path("labels/notes.txt").read_text() == "mine" and pq.read_table("labels/part-00001.parquet").num_rows == 1


def test_part_that_is_cut_off_is_done_again(run: Run) -> None:
    run("predict", "model", "photos", "--out", "labels")
    before, cut = content("labels"), Path("labels/part-00001.parquet")
    cut.write_bytes(cut.read_bytes()[:-9])
    code, err = run("predict", "model", "photos", "--out", "labels")
    assert code == 0 and "1 part had other pictures, or no end" in err[0] and "(2 there before)" in err[-1]
    assert content("labels") == before


def test_changed_listing_costs_the_parts_that_it_changes(run: Run) -> None:
    for number in range(25):
        save(Path("growing") / f"{number:03}.png", seed=number)
    run("predict", "model", "growing", "--out", "labels", size=10)
    save(Path("growing/100.png"), seed=100)
    code, err = run("predict", "model", "growing", "--out", "labels", size=10)
    assert code == 0 and "3 parts (2 there before), 26 pictures" in err[-1] and names("labels")[-1].endswith("100.png")
    for number in range(5, 25):
        Path(f"growing/{number:03}.png").unlink()
    code, err = run("predict", "model", "growing", "--out", "labels", size=10)
    assert code == 0 and "removed 2 parts of pictures that are no longer listed" in err[1]
    assert len(names("labels")) == 6


@pytest.mark.parametrize("share", ["0/3", "4/3", "x", "1/0", "1/", "-1/3", "1/3/5", "9" * 40 + "/3"])
def test_share_that_is_none_is_one_line(run: Run, share: str) -> None:
    code, err = run("predict", "model", "photos", "--out", "labels", f"--part={share}")
    assert (code, len(err)) == (2, 1) and "--part is" in err[0] and "as in 3/8" in err[0]
    assert not Path("labels").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "model", "photos", "--out", "l.csv", "--part", "1/2"], "--part goes with a folder of parts"),
        (["embed", "photos", "--out", "f.npz", "--dtype", "float16"], "--dtype goes with a folder of parts"),
        (["embed", "photos", "--out", "f", "--dtype", "float8"], "expected float16 or float32"),
        (["embed", "photos", "--out", "f", "--label-column", "x"], "--label-column does not go with a folder of"),
        (["predict", "model", "photos", "--out", "l", "--copy-to", "x"], "--copy-to does not go with a folder of"),
        (["predict", "model", "photos", "--out", "l", "--part-size", "0"], "--part-size is 0"),
        (["predict", "model", "photos/a", "--out", "photos"], "photos/a lies in --out photos"),
        (["predict", "model", "missing", "--out", "l"], "There is no image missing"),
        (["predict", "missing", "photos", "--out", "l"], "missing"),
    ],
)
def test_wrong_calls_are_one_line_and_write_nothing(run: Run, words: list[str], said: str) -> None:
    code, err = run(*words, size=0)
    assert code in (2, 3) and len(err) == 1 and said in err[0]
    assert {path.name for path in Path().iterdir()} == {"photos", "model", "other", "backbone"}


def test_full_disk_is_one_line_and_what_was_written_stays(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("predict", "model", "photos", "--out", "labels", "--part", "1/3")
    before = content("labels")
    with monkeypatch.context() as patch:
        fill(patch, Path("labels"))
        code, err = run("predict", "model", "photos", "--out", "labels")
    assert code == 3 and len(err) == 1
    assert "part-00001.parquet cannot be written: the disk is full" in err[0]
    assert content("labels") == before
    assert run("predict", "model", "photos", "--out", "labels")[0] == 0 and len(names("labels")) == COUNT


# Sources


def shard(path: Path, pictures: list[Path]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for picture in pictures:
            archive.add(picture, picture.name)
    return path


def test_parts_never_cross_shards(run: Run, home: Path) -> None:
    pictures = photos_of(home)
    for number in range(3):
        shard(Path(f"shards/{number}.tar"), pictures[15 * number : 15 * number + 15])
    with zipfile.ZipFile("more.zip", "w") as archive:
        for picture in pictures[:11]:
            archive.write(picture, picture.name, zipfile.ZIP_DEFLATED)
    pq.write_table(pa.table({"image": [path.read_bytes() for path in pictures[:12]]}), "rows.parquet", row_group_size=5)
    with pa.OSFile("saved.arrow", "wb") as file:  # as `datasets` saves
        schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()})
        with pa.ipc.new_stream(file, schema) as writer:
            cells = [{"bytes": path.read_bytes(), "path": path.name} for path in pictures[:7]]
            writer.write_table(pa.table([cells, list(range(7))], schema=schema))
    sources = ["shards", "more.zip", "rows.parquet", "saved.arrow"]
    assert run("embed", *sources, "--out", "f", "--precision", "float32", size=10)[0] == 0
    assert [table.num_rows for table in tables("f")] == [10, 5] * 3 + [10, 1] + [10, 2] + [7]
    assert names("f")[:2] == ["shards/0.tar::000.png", "shards/0.tar::001.png"] and names("f")[-1] == "saved.arrow::6"
    assert not any(table.column("error").drop_null() for table in tables("f"))
    found = np.stack(pa.concat_tables(tables("f")).column("features").to_numpy(zero_copy_only=False))
    expected = shotfit.embed([str(path) for path in pictures], "backbone", precision="float32")
    order = [*range(45), *range(11), *range(12), *range(7)]
    assert np.allclose(found, expected[order], atol=1e-5)


def test_numbered_shards_are_those_of_the_range(run: Run, home: Path) -> None:
    for number in range(8, 12):
        shard(Path(f"train-{number:03}.tar"), photos_of(home)[number : number + 1])
    assert run("embed", "train-{008..010}.tar", "--out", "f") == (0, ANY)
    assert names("f") == [f"train-{number:03}.tar::{number:03}.png" for number in (8, 9, 10)]
    for source in ("train-{9..8}.tar", "{0..99999}-{0..99999}.tar"):
        assert run("embed", source, "--out", "g")[1] == [
            f"error: {source} stands for no name, or more than 1,000,000: write {{FIRST..LAST}}."
        ]


@pytest.mark.parametrize("at", ["header", "picture"])
def test_shard_that_is_cut_off_is_one_line_and_the_rest_is_done(run: Run, home: Path, at: str) -> None:
    pictures = photos_of(home)
    for number in range(3):
        shard(Path(f"shards/{number}.tar"), pictures[10 * number : 10 * number + 10])
    path = Path("shards/1.tar")
    with tarfile.open(path) as archive:
        sixth = archive.getmembers()[5]
    path.write_bytes(path.read_bytes()[: sixth.offset + 100 if at == "header" else sixth.offset_data + 50])
    code, err = run("predict", "model", "shards", "--out", "labels")
    assert code == 4 and "note: shards/1.tar is no .tar archive that can be read" in err[0]
    rows = [row for table in tables("labels") for row in table.to_pylist()]
    whole = [row["image"] for row in rows if row["error"] is None]
    assert whole == [f"shards/{name // 10}.tar::{name:03}.png" for name in [*range(15), *range(20, 30)]]
    broken = [row for row in rows if row["error"]]
    assert len(err) == 2 and ([] if at == "header" else ["shards/1.tar::015.png"]) == [row["image"] for row in broken]


def test_lists_of_paths_are_the_pictures_that_they_name(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [path.relative_to(home).as_posix() for path in photos_of(home)[:25]]
    Path("list.txt").write_text("\n".join(paths))
    Path("list.csv").write_text("id;File Name\n" + "".join(f"{k};{path}\n" for k, path in enumerate(paths)))
    Path("plain.csv").write_text("".join(f"{path}\n" for path in paths))
    Path("list.jsonl").write_text("".join(json.dumps({"image": path, "n": 1}) + "\n" for path in paths))
    pq.write_table(pa.table({"where": paths, "path": paths}), "list.parquet")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(paths)))
    run("predict", "model", "list.txt", "--out", "first")
    assert names("first") == paths
    for source in ("list.csv", "plain.csv", "list.jsonl", "list.parquet", "-"):
        out = f"of-{Path(source).suffix[1:] or 'stdin'}-{len(source)}"
        assert run("predict", "model", source, "--out", out)[0] == 0
        assert [table.to_pylist() for table in tables(out)] == [table.to_pylist() for table in tables("first")]
    assert run("predict", "model", "list.parquet", "--out", "l", "--path-column", "where")[0] == 0
    code, err = run("predict", "model", "list.csv", "--out", "m", "--path-column", "nothing")
    assert code == 3 and "has no column 'nothing' (--path-column); its columns: id, File Name" in err[0]
    assert run("predict", "model", "list.csv", "--out", "rows.csv", size=0)[0] == 0
    assert [row["image"] for row in csv.DictReader(io.StringIO(Path("rows.csv").read_text()))] == paths


def test_paths_of_a_list_begin_beside_it_or_where_we_are_or_as_said(run: Run, home: Path) -> None:
    Path("lists").mkdir()
    save(Path("lists/own.png"), seed=1)
    Path("lists/beside.txt").write_text("own.png\nmissing.png\n")
    assert run("predict", "model", "lists/beside.txt", "--out", "a")[0] == 4
    assert names("a") == ["lists/own.png", "lists/missing.png"]
    Path("lists/elsewhere.txt").write_text("a/000.png\n")
    assert run("predict", "model", "lists/elsewhere.txt", "--images", "photos", "--out", "b")[0] == 0
    Path("lists/empty.txt").write_text("\n\n")
    code, err = run("predict", "model", "lists/empty.txt", "--out", "c")
    assert code == 3 and "lists/empty.txt names no picture" in err[0] and not Path("c").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "label,n\nx,1\n", "has the columns label, n; expected one of paths"),
        ("a.csv", 'path,n\n"' + "x" * 200_000 + '"\n', "line 2: not valid CSV (field larger than field limit"),
        ("a.txt", "x" * 2_000_000, "more than 1,048,576 characters"),
        ("a.jsonl", '{"path": "a.png"}\n[1]\n', 'line 2: expected an object {"path": ...}'),
        ("a.jsonl", '{"path": \n', "line 1: not valid JSON"),
        ("a.jsonl", '{"label": "a"}\n', "has the columns label; expected one of paths"),
    ],
)
def test_list_that_cannot_be_read_is_one_line(run: Run, name: str, content: str, said: str) -> None:
    Path(name).write_text(content)
    code, err = run("predict", "model", name, "--out", "labels")
    assert code == 3 and len(err) == 1 and said in err[0] and not Path("labels").exists()


def test_names_that_are_no_text_keep_their_bytes(run: Run, home: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.png")
    save(Path("odd") / name, seed=1)
    assert run("predict", "model", "odd", "--out", "labels")[0] == 0
    assert names("labels") == ["odd/caf\\udce9\n.png"]
    Path("list.txt").write_bytes(b"odd/caf\xe9.png\n")
    Path("odd", name).rename(os.fsdecode(b"odd/caf\xe9.png"))
    assert run("predict", "model", "list.txt", "--out", "of-list")[0] == 0


@pytest.mark.slow
def test_job_array_of_the_page_writes_what_one_process_writes(run: Run, home: Path) -> None:
    """Local processes stand for the tasks of the array."""
    (script,) = blocks(ROOT / "docs" / "scale.md", "bash")
    assert len(script.splitlines()) <= 20
    Path("my-model").symlink_to(home / "model")
    Path("array.sh").write_text(script)
    Path("shotfit").write_text(f'#!/bin/sh\nexec {sys.executable} -m shotfit "$@" --backbone backbone --part-size 8\n')
    Path("shotfit").chmod(0o755)
    known = os.environ | {"PATH": f"{Path.cwd()}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_COUNT": "3"}
    tasks = [subprocess.Popen(["bash", "array.sh"], env=known | {"SLURM_ARRAY_TASK_ID": str(number)},
                              stderr=subprocess.PIPE, text=True) for number in (1, 2, 3)]  # fmt: skip
    said = [task.communicate(timeout=120)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, 0], said
    assert all("2 parts" in line for line in said)
    run("predict", "model", "photos/", "--out", "one", size=8)
    assert content("one") == content("labels")


# What other engines call


def test_a_job_and_its_parts_go_to_other_processes(run: Run, home: Path) -> None:
    run("predict", "model", "photos", "--out", "labels")
    model = shotfit.load("model", backbone="backbone")
    parts = [pickle.loads(pickle.dumps(part)) for part in Parts(["photos"], 20)]
    assert [part.count for part in parts] == [20, 20, 5] and all(isinstance(part, Part) for part in parts)
    assert len(pickle.dumps(parts[0])) < 100 * 20
    job = Predicting(model)
    shown = pickle.loads(pickle.dumps(job.shown))
    for part, table in zip(parts, tables("labels"), strict=True):
        made = [job.run(decode(pictures, shown)) for pictures in batches(part)]
        assert pa.concat_tables(made).equals(table.replace_schema_metadata(None))
    again = write_parts(job, ["photos"], Path("labels"), part_size=20)
    assert (again.there, again.computed) == (3, 0)


def test_model_in_memory_and_its_folder_are_one_job(run: Run, home: Path) -> None:
    model = shotfit.fit("photos", "zero_shot", backbone="backbone", store=MemoryStore())
    shotfit.predict_parts(model, ["photos"], Path("labels"), part_size=20)
    model.save("saved")
    assert run("predict", "saved", "photos", "--out", "labels")[1][-1].startswith("written: labels: 3 parts (3 there")


def test_job_says_what_it_is_of(run: Run) -> None:
    run("predict", "model", "photos", "--out", "labels")
    job = json.loads(Path("labels", JOB).read_text())
    assert job["asked"]["sources"] == ["photos"] and job["asked"]["part_size"] == 20
    assert str(Path.cwd()) not in Path("labels", JOB).read_text()
