"""What `shotfit predict` writes: tables, files of every format, and copies or links in class folders."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import shotfit.files
from shotfit.commands.cli import main
from shotfit.fitting.sorting import UNKNOWN, Sorter, folder_names, safe_name
from shotfit.testing.tiny import tiny_task

from ..pictures import save
from .conftest import Run

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

COLUMNS = ["image", "rank", "label", "probability", "set", "unknown", "error"]
LABELS = {"red_thing", "green thing", "blue"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures, the fourth broken."""
    for number in range(12):
        save(tmp_path / "photos" / f"{number:02}.png", seed=number)
    (tmp_path / "photos" / "03.png").write_bytes(b"no image")
    return tmp_path / "photos"


def files_in(folder: Path) -> list[str]:
    """Paths of the files below a folder, temporary ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


# Formats


def test_csv_in_a_file_is_what_is_printed(photos: Path, run: Run, tmp_path: Path) -> None:
    _, printed, _ = run(photos, "--format", "csv", "--top", "2")
    code, out, err = run(photos, "--out", tmp_path / "rows.csv", "--top", "2")
    assert (code, out, err[-1]) == (4, [], f"written: {tmp_path / 'rows.csv'}")
    assert (tmp_path / "rows.csv").read_text().splitlines() == printed


@pytest.mark.parametrize(("ending", "form"), [(".jsonl", "jsonl"), (".ndjson", "jsonl"), (".txt", "table")])
def test_the_ending_of_the_file_says_the_format(photos: Path, run: Run, tmp_path: Path, ending: str, form: str) -> None:
    _, printed, _ = run(photos, "--format", form)
    code, _, _ = run(photos, "--out", tmp_path / f"rows{ending}")
    assert code == 4 and (tmp_path / f"rows{ending}").read_text().splitlines() == printed


def test_parquet_has_the_columns_of_the_csv_with_types(photos: Path, run: Run, tmp_path: Path) -> None:
    _, printed, _ = run(photos, "--format", "csv", "--top", "2")
    code, out, _ = run(photos, "--out", tmp_path / "rows.parquet", "--top", "2")
    table = parquet.read_table(tmp_path / "rows.parquet")
    kinds = ["string", "int32", "string", "double", "list<item: string>", "bool", "string"]
    assert (code, out, table.schema.names) == (4, [], COLUMNS)
    assert [str(kind).replace("element:", "item:") for kind in table.schema.types] == kinds
    rows = table.to_pylist()
    assert [(row["image"], str(row["rank"] or ""), row["label"] or "") for row in rows] == [
        (row["image"], row["rank"], row["label"]) for row in csv.DictReader(printed)
    ]
    (broken,) = [row for row in rows if row["error"]]
    assert all(broken[name] is None for name in ("rank", "label", "probability", "set", "unknown"))


def test_name_that_is_no_text_is_escaped_in_every_file(model: Path, run: Run, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.png"
    save(tmp_path / "a.png")
    try:
        os.rename(tmp_path / "a.png", name)  # noqa: PTH104
    except OSError:
        pytest.skip("this file system has names of text alone")
    for ending in ("csv", "jsonl", "parquet", "json"):
        code, _, err = run(os.fsdecode(name), "--out", tmp_path / f"rows.{ending}")
        assert (code, len(err)) == (0, 1)
    (row,) = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert row["image"].endswith("\\udcff.png")


def test_label_studio_takes_one_document(photos: Path, run: Run, tmp_path: Path) -> None:
    code, out, _ = run(photos, "--format", "label-studio")
    tasks = json.loads("\n".join(out))
    assert (code, len(tasks)) == (4, 11)
    (result,) = tasks[0]["predictions"][0]["result"]
    assert result["value"]["choices"][0] in LABELS
    run(photos, "--out", tmp_path / "tasks.json")
    assert json.loads((tmp_path / "tasks.json").read_text()) == tasks


def test_fiftyone_makes_a_folder_of_two_files(photos: Path, run: Run, tmp_path: Path) -> None:
    code, _, _ = run(photos, "--format", "fiftyone", "--out", tmp_path / "set")
    assert (code, files_in(tmp_path / "set")) == (4, ["data.json", "labels.json"])
    labels = json.loads((tmp_path / "set" / "labels.json").read_text())["labels"]
    assert len(labels) == 11 and {one["label"] for one in labels.values()} <= LABELS


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "excel"], "There is no format 'excel'"),
        (["--format", "parquet"], "add --out labels.parquet"),
        (["--format", "fiftyone"], "add --out labels/"),
        (["--out", "rows.xlsx"], "no ending that says its format"),
        (["--format", "csv", "--out", "."], "is a folder"),
        (["--copy-to", "a", "--link-to", "b"], "give one"),
        (["--copy-to", "a", "--each-frame"], "--copy-to and --link-to sort whole files"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(photos: Path, run: Run, words: list[str], said: str) -> None:
    code, out, err = run(photos, *words)
    assert (code, out, len(err)) == (2, [], 1) and said in err[0]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "json"])
def test_stopped_on_the_way_leaves_the_older_file(photos: Path, run: Run, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"rows.{ending}"
    out.write_text("older")
    before = files_in(tmp_path)
    code, _, err = run(photos, "--out", out, "--strict")
    assert (code, len(err), out.read_text()) == (3, 1, "older")
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_full_disk_is_one_line_and_leaves_nothing(
    photos: Path, run: Run, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(tmp_path)
    fill(monkeypatch, tmp_path)
    code, _, err = run(photos, "--out", tmp_path / f"rows.{ending}", "--skip-broken")
    assert code == 3 and err[-1].startswith(f"error: {tmp_path / f'rows.{ending}'} cannot be written: the disk is full")
    assert files_in(tmp_path) == before


def fill(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the disk be full for what is written in a folder."""
    write = io.FileIO.write

    def full(self: shotfit.files._Written, data: bytes) -> int | None:
        if self.told.is_relative_to(folder):
            with shotfit.files._named(self.told):
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(shotfit.files._Written, "write", full)


# Archives and tables


@pytest.fixture
def packed(photos: Path, tmp_path: Path) -> Path:
    """A tar, a zip and a table of the twelve pictures, with other things among them."""
    paths = sorted(photos.iterdir())
    (tmp_path / "shards").mkdir()
    for number in range(2):
        with tarfile.open(tmp_path / "shards" / f"{number}.tar", "w") as tar:
            for path in paths[number::2]:
                tar.add(path, path.name)
                tar.addfile(tarfile.TarInfo(f"{path.stem}.cls"))
                tar.addfile(tarfile.TarInfo(f"__MACOSX/._{path.name}"))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"deep/{path.name}")
        archive.writestr("deep/notes.txt", "no picture")
    parquet.write_table(
        pyarrow.table({"image": [path.read_bytes() for path in paths], "id": list(range(12))}),
        tmp_path / "photos.parquet",
        row_group_size=5,
    )
    return tmp_path


@pytest.mark.parametrize("source", ["shards/*.tar", "shards", "photos.zip", "photos.parquet"])
def test_archives_and_tables_stand_for_all_pictures_in_them(packed: Path, run: Run, source: str) -> None:
    _, as_files, _ = run(packed / "photos", "--format", "csv")
    code, out, err = run(packed / source, "--format", "csv")
    rows = list(csv.DictReader(out))
    assert (code, len(rows), len(err)) == (4, 12, 1)
    assert sorted(row["label"] for row in rows) == sorted(row["label"] for row in csv.DictReader(as_files))
    assert len({row["image"] for row in rows}) == 12 and all("::" in row["image"] for row in rows)


def test_archive_beside_pictures_is_not_opened(packed: Path, run: Run) -> None:
    (packed / "photos" / "again.zip").write_bytes((packed / "photos.zip").read_bytes())
    _, out, _ = run(packed / "photos", "--format", "csv")
    assert len(out) == 1 + 12


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("a.zip", b"no archive", "no .zip archive"), ("a.tar", b"\0" * 10240, "holds no images"), ("a.parquet", b"x", "")],
)
def test_archive_that_cannot_be_read_is_one_line(
    tmp_path: Path, run: Run, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    code, out, (line,) = run(tmp_path / name)
    assert (code, out) == (3, []) and name in line and said in line


# Copies and links


def test_copies_lie_in_class_folders_and_the_originals_stay(photos: Path, run: Run, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    code, out, err = run(photos, "--copy-to", tmp_path / "sorted", "--format", "csv")
    rows = [row for row in csv.DictReader(out) if not row["error"]]
    assert code == 4
    assert files_in(tmp_path / "sorted") == sorted(f"{row['label']}/{Path(row['image']).name}" for row in rows)
    for row in rows:
        name = Path(row["image"]).name
        assert (tmp_path / "sorted" / row["label"] / name).read_bytes() == before[name]
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before
    counts = {label: sum(row["label"] == label for row in rows) for label in {row["label"] for row in rows}}
    assert err[-1].startswith(f"11 pictures copied into {tmp_path / 'sorted'}: ")
    assert all(f"{label} {count}" in err[-1] for label, count in counts.items())


def test_same_content_is_skipped_and_other_content_gets_a_number(photos: Path, run: Run, tmp_path: Path) -> None:
    run(photos, "--copy-to", tmp_path / "sorted")
    once = files_in(tmp_path / "sorted")
    _, _, err = run(photos, "--copy-to", tmp_path / "sorted")
    assert files_in(tmp_path / "sorted") == once and "11 of which were there before" in err[-1]
    (there,) = (tmp_path / "sorted").glob("*/00.png")
    there.write_bytes(b"mine")
    run(photos, "--copy-to", tmp_path / "sorted")
    assert there.read_bytes() == b"mine"
    assert there.with_name("00-2.png").read_bytes() == (photos / "00.png").read_bytes()


def test_pictures_of_one_name_are_all_copied(tmp_path: Path, run: Run) -> None:
    for number in range(3):
        save(tmp_path / "photos" / str(number) / "a.png", Image.new("RGB", (40, 40), (10 * number, 0, 0)))
    run(tmp_path / "photos", "--copy-to", tmp_path / "sorted")
    contents = {path.read_bytes() for path in (tmp_path / "sorted").rglob("*.png")}
    assert contents == {path.read_bytes() for path in (tmp_path / "photos").rglob("*.png")}


def test_links_lead_to_the_files(photos: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("photos", "--link-to", "sorted", "--skip-broken")
    links = list((tmp_path / "sorted").glob("*/*"))
    assert (code, len(links)) == (0, 11) and "11 pictures linked into sorted" in err[-1]
    assert all(link.is_symlink() and link.samefile(photos / link.name) for link in links)
    _, _, err = run("photos", "--link-to", "sorted", "--skip-broken")
    assert "11 of which were there before" in err[-1] and len(list((tmp_path / "sorted").glob("*/*"))) == 11


@pytest.mark.parametrize("source", ["shards/*.tar", "photos.zip", "photos.parquet"])
def test_parts_of_files_become_files_of_their_bytes(packed: Path, run: Run, source: str) -> None:
    run(packed / source, "--copy-to", packed / "sorted", "--skip-broken")
    found = {path.read_bytes() for path in (packed / "sorted").glob("*/*.png")}
    assert found == {path.read_bytes() for path in (packed / "photos").iterdir() if path.name != "03.png"}
    assert not list((packed / "sorted").rglob("deep"))


def test_box_becomes_a_picture_of_what_is_in_it(photos: Path, run: Run, tmp_path: Path) -> None:
    run(f"{photos / '00.png'}#xywh=4,6,20,10", "--copy-to", tmp_path / "sorted")
    (copy,) = (tmp_path / "sorted").glob("*/00-4_6_20_10.png")
    with Image.open(copy) as image, Image.open(photos / "00.png") as whole:
        assert image.tobytes() == whole.crop((4, 6, 24, 16)).tobytes()


@pytest.mark.parametrize("source", ["photos.zip", "photos/00.png#xywh=4,6,20,10"])
def test_parts_of_files_are_not_linked(packed: Path, run: Run, source: str) -> None:
    code, _, err = run(packed / source, "--link-to", packed / "sorted")
    assert code == 3 and "no link can lead to: use --copy-to" in err[-1]


def test_target_in_the_predicted_folder_is_passed_over(photos: Path, run: Run) -> None:
    _, first, _ = run(photos, "--copy-to", photos / "sorted", "--format", "csv")
    _, again, _ = run(photos, "--copy-to", photos / "sorted", "--format", "csv")
    _, pattern, _ = run(photos / "**" / "*.png", "--copy-to", photos / "sorted", "--format", "csv")
    assert len(first) == 1 + 12 and again == first and len(pattern) == 1 + 12


def test_sorting_a_folder_into_itself_is_refused(photos: Path, run: Run) -> None:
    for target in (photos, photos.parent):
        code, out, (line,) = run(photos, "--copy-to", target)
        assert (code, out) == (2, []) and "name another folder" in line


def test_full_disk_leaves_whole_copies_alone(
    photos: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(monkeypatch, tmp_path / "sorted")
    code, _, err = run(photos, "--copy-to", tmp_path / "sorted", "--skip-broken")
    assert code == 3 and "the disk is full" in err[-1] and str(tmp_path / "sorted") in err[-1]
    assert files_in(tmp_path / "sorted") == []


def test_unknown_pictures_lie_apart_from_a_class_of_that_name(tmp_path: Path, photos: Path) -> None:
    from shotfit.data.pictures import Picture
    from shotfit.fitting.predictions import Prediction

    sorter = Sorter(tmp_path / "sorted", ["_unknown", "cat"])
    for number, unknown in enumerate((True, False)):
        picture = Picture(photos / f"0{number}.png")
        list(sorter.placed([Prediction(str(picture), ("_unknown",), (1.0,), unknown=unknown, picture=picture)]))
    assert files_in(tmp_path / "sorted") == [f"{UNKNOWN}-2/01.png", f"{UNKNOWN}/00.png"]


@given(st.text(st.characters(), max_size=400))
def test_every_class_name_makes_a_safe_folder(name: str) -> None:
    safe = safe_name(name)
    assert safe not in ("", ".", "..") and len(safe.encode()) <= 255
    assert not set(safe) & set('<>:"/\\|?*\0\n\x1b') and not safe.startswith(".") and not safe.endswith((".", " "))
    assert safe.partition(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}


@given(st.lists(st.text(st.sampled_from("aA./ \u00e9"), max_size=4), unique=True, max_size=30))
def test_no_two_classes_share_a_folder(names: list[str]) -> None:
    found = [folder.casefold() for folder in folder_names(names).values()]
    assert len(set(found)) == len(names) and UNKNOWN not in found


# Rows of an evaluation, and predictions as data


@pytest.fixture
def command(model: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, and the lines of both streams, of `shotfit WORDS`, with the model's backbone."""

    def ran(*words: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        code = main([*map(str, words), "--backbone", str(model.parent / "backbone")])
        found = capsys.readouterr()
        return code, found.out.splitlines(), found.err.splitlines()

    return ran


def rows_of(path: Path) -> list[dict[str, object]]:
    """The rows of a file as they are read back, numbers and truth as text of the CSV."""
    if path.suffix == ".csv":
        return list(csv.DictReader(path.read_text().splitlines()))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return list(parquet.read_table(path).to_pylist())


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_evaluate_writes_a_row_for_each_image(model: Path, command: Run, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"rows.{ending}"
    code, said, _ = command("evaluate", model, model.parent / "images", "--all", "--out", out, "--json")
    rows = rows_of(out)
    assert (code, len(rows)) == (0, 18)
    assert list(rows[0]) == ["image", "label", "predicted", "probability", "label_probability", "right"]
    right = [str(row["right"]).lower() == "true" for row in rows]
    assert right == [row["label"] == row["predicted"] for row in rows]
    assert sum(right) / 18 == pytest.approx(json.loads(said[-1])["accuracy"])
    assert all(Path(str(row["image"])).parent.name == row["label"] for row in rows)


def test_evaluate_of_several_tasks_has_a_column_of_tasks(
    model: Path, command: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        tiny_task(tmp_path / name, seed=len(name))
    (tmp_path / "tasks.toml").write_text("".join(f'[[task]]\ndata = "{name}"\n' for name in ("one", "two")))
    words = ["--tasks", tmp_path / "tasks.toml", "--method", "zero_shot"]
    assert command("fit", *words, "--out", tmp_path / "models")[0] == 0
    words = ["--tasks", tmp_path / "tasks.toml", "--out", tmp_path / "rows.csv"]
    assert command("evaluate", tmp_path / "models", *words)[0] == 0
    rows = rows_of(tmp_path / "rows.csv")
    assert [row["task"] for row in rows] == ["one"] * (len(rows) // 2) + ["two"] * (len(rows) // 2) and rows


def test_evaluate_adds_sets_and_marks_where_they_are_asked_for(command: Run, tmp_path: Path) -> None:
    tiny_task(tmp_path / "photos", images=60)
    words = ["--method", "linear_probe", "--set", "search=false", "--out", tmp_path / "model"]
    assert command("fit", tmp_path / "photos", *words)[0] == 0
    asked = ["--coverage", "0.8", "--unknown-images", tmp_path / "photos" / "blue"]
    code, _, err = command("evaluate", tmp_path / "model", tmp_path / "photos", *asked, "--out", tmp_path / "r.parquet")
    rows = rows_of(tmp_path / "r.parquet")
    assert (code, err) == (0, [])
    assert list(rows[0])[-3:] == ["right", "set", "unknown"]
    assert all(isinstance(row["set"], list) and isinstance(row["unknown"], bool) for row in rows)


@pytest.mark.parametrize(("words", "said"), [(["--out", "rows.xlsx"], "name a .csv"), (["--out", "."], "name a .csv")])
def test_rows_of_no_known_format_are_refused(model: Path, command: Run, words: list[str], said: str) -> None:
    code, _, (line,) = command("evaluate", model, model.parent / "images", *words)
    assert code == 2 and said in line


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_predictions_are_read_back_as_labels(
    photos: Path, run: Run, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(photos / "=1+1.png", seed=77)
    run("photos", "--out", f"rows.{ending}", "--top", "3", "--skip-broken")
    _, printed, _ = run("photos", "--format", "csv", "--skip-broken")
    from shotfit.data.readers import read_task

    task = read_task(Path(f"rows.{ending}"))
    read = {str(item.picture.path.resolve()): task.classes.names[item.label] for item in [*task.train, *task.test]}
    best = {str(Path(row["image"].lstrip("'")).resolve()): row["label"] for row in csv.DictReader(printed)}
    assert len(read) == 12 and read == best
