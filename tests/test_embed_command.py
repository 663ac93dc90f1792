"""`shotfit embed`: features, names, labels, parts and errors in files that numpy and pandas read."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import shotfit
from shotfit.commands.cli import main
from shotfit.fitting import features as module
from shotfit.fitting.features import write_features
from shotfit.testing.tiny import tiny_backbone, tiny_task


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    tiny_backbone(folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/CLASS/IMAGE, five of each of three classes, in the folder where the command runs."""
    tiny_task(tmp_path / "photos", images=5)
    monkeypatch.chdir(tmp_path)
    return Path("photos")


def run(*words: str, code: int = 0) -> None:
    assert main(["embed", *words]) == code


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_labelled_folder_gives_names_labels_parts_and_features(photos: Path, backbone: str, ending: str) -> None:
    out = Path(f"features.{ending}")
    run("photos", "--out", str(out), "--backbone", backbone)
    if ending == "npz":
        found = dict(np.load(out))  # no pickle in it
        table = pd.DataFrame({name: found[name] for name in ("image", "label", "part", "error")})
        features = found["features"]
    else:
        table = pd.read_parquet(out)
        features = np.stack(table["features"])
    assert features.shape == (15, 32) and features.dtype == np.float32
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert np.allclose(features, shotfit.embed([*table["image"]], backbone), atol=1e-5)
    task = shotfit.read_task("photos")
    held_out = {Path(item.picture.path).relative_to(Path.cwd()).as_posix() for item in task.test}
    assert set(table["image"][table["part"] == "test"]) == held_out
    assert (table["label"] == [Path(name).parent.name for name in table["image"]]).all()


def test_pictures_without_labels_come_from_files_archives_and_patterns(photos: Path, backbone: str) -> None:
    with zipfile.ZipFile("more.zip", "w") as archive:
        archive.write(photos / "blue" / "0.png", "a.png")
    run("photos/blue/1.png", "more.zip", "photos/red_thing/*.png", "--out", "f.npz", "--backbone", backbone)
    found = np.load("f.npz")
    assert found["image"].tolist() == [
        "photos/blue/1.png", "more.zip::a.png", *(f"photos/red_thing/{number}.png" for number in range(5)),
    ]  # fmt: skip
    assert set(found["label"]) == set(found["part"]) == {""}


def test_flat_folder_is_read_without_labels_and_says_so(
    photos: Path, backbone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("photos/blue", "--out", "f.npz", "--backbone", backbone)
    captured = capsys.readouterr()
    assert captured.err.startswith("note: read without labels, because ")
    assert captured.out.startswith("5 images: 32 features each")


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_broken_pictures_are_rows_with_their_error(
    photos: Path, backbone: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "blue" / "1.png").write_bytes(b"no picture")
    whole = (photos / "blue" / "2.png").read_bytes()
    (photos / "blue" / "2.png").write_bytes(whole[: len(whole) // 2])
    run("photos", "--out", f"f.{ending}", "--backbone", backbone, "--json", code=4)
    said = json.loads(capsys.readouterr().out)
    assert (said["images"], said["broken"], said["classes"], said["dimensions"]) == (15, 2, 3, 32)
    if ending == "npz":
        found = np.load("f.npz")
        errors = dict(zip(found["image"].tolist(), found["error"].tolist(), strict=True))
        missing = np.isnan(found["features"]).all(axis=1)
    else:
        table = pd.read_parquet("f.parquet")
        errors = dict(zip(table["image"], table["error"].fillna(""), strict=True))
        missing = table["features"].isna().to_numpy()
    assert missing.sum() == 2
    broken = {name: error for name, error in errors.items() if error}
    assert set(broken) == {"photos/blue/1.png", "photos/blue/2.png"}
    assert "truncated" in broken["photos/blue/2.png"]


def test_batches_and_groups_of_rows_keep_the_order(
    photos: Path, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_features(["photos"], Path("whole.npz"), backbone)
    monkeypatch.setattr(module, "TOGETHER", 4)
    monkeypatch.setattr(module, "ROWS", 6)
    (photos / "blue" / "extra.png").write_bytes(b"broken")
    found = write_features(["photos"], Path("parts.parquet"), backbone)
    assert (found.images, len(found.broken)) == (16, 1)
    whole = np.load("whole.npz")
    expected = dict(zip(whole["image"].tolist(), whole["features"], strict=True))
    for row in pd.read_parquet("parts.parquet").itertuples():
        if row.error is None or pd.isna(row.error):
            assert np.allclose(row.features, expected[row.image], atol=1e-5)


def test_no_more_pictures_are_held_than_run_together(
    photos: Path, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOGETHER", 4)
    seen: list[int] = []
    identified: Any = vars(module)["identified"]

    def counted(pictures: list[Any], cache: Path | None) -> Any:
        seen.append(len(pictures))
        return identified(pictures, cache)

    monkeypatch.setattr(module, "identified", counted)
    write_features(["photos"], Path("f.npz"), backbone)
    assert seen == [4, 4, 4, 3]


def test_manifest_and_its_columns(photos: Path, backbone: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.csv").write_text("picture,kind,split\nphotos/blue/0.png,cold,train\nphotos/blue/1.png,warm,val\n")
    columns = ["--path-column", "picture", "--label-column", "kind"]
    run("list.csv", "--out", "f.npz", "--backbone", backbone, *columns)
    found = np.load("f.npz")
    assert sorted(zip(found["label"].tolist(), found["part"].tolist(), strict=True)) == [
        ("cold", "train"), ("warm", "val"),
    ]  # fmt: skip
    capsys.readouterr()
    Path("odd.csv").write_text("a,b\n1,2\n")
    run("odd.csv", "--out", "g.npz", "--backbone", backbone, code=3)
    assert not Path("g.npz").exists()


def test_second_time_no_picture_is_decoded(photos: Path, backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run("photos", "--out", "f.npz", "--backbone", backbone)

    def refuse(*arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("shotfit.engine.frozen.center_view", refuse)
    run("photos", "--out", "g.npz", "--backbone", backbone)
    assert np.array_equal(np.load("f.npz")["features"], np.load("g.npz")["features"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["photos", "--out", "f.csv"], 2, "has no ending that says its format"),
        (["photos", "--out", "photos"], 2, "photos lies in --out photos"),
        (["photos", "--out", "nowhere/\0/f.npz"], 2, "--out"),
        (["missing", "--out", "f.npz"], 3, "There is no image missing"),
        (["photos", "photos", "--read-as", "folders", "--out", "f.npz"], 2, "Labels come from one source"),
        (["photos", "--out", "f.npz", "--backbone", "mimi"], 2, "mimi"),
    ],
)
def test_wrong_calls_are_one_line_and_write_nothing(
    photos: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "\0" in words[2]:
        words[2] = "photos/blue/0.png/f.npz"  # below a file
    run(*words, code=code)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not Path("f.npz").exists()


def test_missing_pyarrow_is_one_line(photos: Path, backbone: str, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    run("photos", "--out", "f.parquet", "--backbone", backbone, code=2)
    assert "pip install 'shotfit[data]'" in capsys.readouterr().err
    assert not Path("f.parquet").exists()


def test_names_that_are_no_text_are_written_as_escapes(photos: Path, backbone: str) -> None:
    name = b"photos/blue/\xff.png"
    Image.new("RGB", (8, 8)).save("plain.png")
    try:
        Path("plain.png").rename(name.decode("utf-8", "surrogateescape"))
    except OSError:
        pytest.skip("the file system takes text alone")
    run("photos", "--out", "f.parquet", "--backbone", backbone)
    assert pd.read_parquet("f.parquet")["image"].str.contains("udcff").any()
    run("photos", "--out", "f.npz", "--backbone", backbone)
