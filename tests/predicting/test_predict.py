"""`shotfit predict` on folders as they are: nothing is lost, and nothing is passed over in silence."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from shotfit.commands.cli import main
from shotfit.data.finding import find_images
from shotfit.data.pictures import Picture
from shotfit.fitting.model import Prediction
from shotfit.fitting.predict import COLUMNS, lines
from shotfit.testing.tiny import tiny_task

from ..pictures import save
from .conftest import Run

JXL = b"\0\0\0\x0cJXL \r\n\x87\n"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty pictures, the 34th broken: in the second batch, with pictures before and behind it."""
    for number in range(40):
        save(tmp_path / "photos" / f"{number:02}.png", seed=number)
    (tmp_path / "photos" / "33.png").write_bytes(b"no image")
    return tmp_path / "photos"


def test_broken_picture_is_a_row_with_its_error_and_the_rest_goes_on(photos: Path, run: Run) -> None:
    code, out, err = run(photos, "--format", "csv")
    rows = list(csv.DictReader(out))
    assert (code, out[0], len(rows)) == (4, "image,rank,label,probability,set,unknown,error", 40)
    assert [row["image"] for row in rows] == [str(photos / f"{number:02}.png") for number in range(40)]
    (broken,) = [row for row in rows if row["error"]]
    assert broken["image"].endswith("33.png") and "is no image but text" in broken["error"]
    assert not any(broken[name] for name in ("rank", "label", "probability", "set", "unknown"))
    (line,) = err
    assert line.startswith("not predicted: ") and "33.png is no image" in line


def test_pictures_beside_a_broken_one_are_predicted_as_without_it(photos: Path, run: Run) -> None:
    _, with_it, _ = run(photos, "--format", "csv")
    (photos / "33.png").unlink()
    code, without, err = run(photos, "--format", "csv")
    assert (code, err) == (0, [])
    whole = [row for row in csv.DictReader(with_it) if not row["error"]]
    for row, other in zip(whole, csv.DictReader(without), strict=True):
        assert (row["image"], row["label"]) == (other["image"], other["label"])
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)


def test_broken_picture_is_an_object_with_its_error(photos: Path, run: Run) -> None:
    code, out, _ = run(photos, "--format", "jsonl")
    found = [json.loads(line) for line in out]
    assert (code, len(found), found[33].keys()) == (4, 40, {"image", "error"})
    assert all(one.keys() == {"image", "predictions"} for one in found if "error" not in one)


def test_broken_picture_has_its_error_in_the_table(photos: Path, run: Run) -> None:
    code, out, _ = run(photos)
    assert (code, len(out)) == (4, 40)
    assert "33.png  error: " in out[33] and "is no image" in out[33]


@pytest.mark.parametrize(("form", "header"), [("csv", 1), ("jsonl", 0), ("table", 0)])
def test_skip_broken_leaves_the_row_out_and_exits_with_0(photos: Path, run: Run, form: str, header: int) -> None:
    code, out, err = run(photos, "--format", form, "--skip-broken")
    assert (code, len(out), len(err)) == (0, 39 + header, 1)
    assert not any("33.png" in line for line in out) and "33.png" in err[0]


def test_strict_stops_at_the_first_broken_picture(photos: Path, run: Run) -> None:
    code, out, err = run(photos, "--format", "csv", "--strict")
    assert (code, len(out)) == (3, 1 + 33)
    (line,) = err
    assert line.startswith("error: ") and "33.png is no image" in line


def test_strict_and_skip_broken_exclude_each_other(photos: Path, run: Run) -> None:
    code, _, err = run(photos, "--strict", "--skip-broken")
    assert code == 2 and "give one" in err[0]


def test_only_broken_pictures_are_rows_all_the_same(photos: Path, run: Run) -> None:
    code, out, err = run(photos / "33.png", photos / "33.png", "--format", "csv")
    assert (code, len(out), len(err)) == (4, 3, 2)


def test_listed_path_that_names_nothing_is_a_row(photos: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{photos / '00.png'}\ngone.png\n{photos / '01.png'}\n"))
    code, out, _ = run("-", "--format", "csv")
    rows = list(csv.DictReader(out))
    assert (code, len(rows)) == (4, 3) and "gone.png does not exist" in rows[1]["error"]


def test_error_with_commas_and_quotes_is_one_field(photos: Path, run: Run) -> None:
    shutil.move(photos / "33.png", photos / 'a, "b".png')
    _, out, _ = run(photos, "--format", "csv")
    (broken,) = [row for row in csv.DictReader(out) if row["error"]]
    assert broken["image"] == str(photos / 'a, "b".png')


def test_set_and_unknown_have_columns_of_their_own(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Prediction("a.png", ("cat",), (0.5,), set=("cat", "dog"), unknown=False)

    class Fake:
        several_labels = False

        def one_task(self) -> object:
            return type("Classes", (), {"names": ("cat", "dog")})

        def predict_each(self, *_: object, **__: object) -> Iterator[Prediction]:
            yield one

    header, row = lines(Fake(), [Picture(Path("a.png"))], "csv")  # type: ignore[arg-type]
    assert header.split(",") == list(COLUMNS)
    assert row == "a.png,1,cat,0.500000,cat|dog,false,"
    (line,) = lines(Fake(), [Picture(Path("a.png"))], "jsonl")  # type: ignore[arg-type]
    assert (json.loads(line)["set"], json.loads(line)["unknown"]) == (["cat", "dog"], False)


def test_pictures_that_are_passed_over_are_counted_and_named(photos: Path, run: Run) -> None:
    (photos / "phone.JXL").write_bytes(JXL)
    (photos / "scan").write_bytes((photos / "00.png").read_bytes())
    (photos / "LICENSE").write_text("no picture")
    (photos / "notes.txt").write_text("no picture")
    code, out, err = run(photos, "--skip-broken")
    assert (code, len(out)) == (0, 39)
    assert err[-1] == (f"note: passed over 2 entries that cannot be read: {photos / 'phone.JXL'}, {photos / 'scan'}.")


def test_patterns_and_links_pass_nothing_over_in_silence(photos: Path) -> None:
    (photos / "phone.jxl").write_bytes(JXL)
    (photos.parent / "linked").mkdir()
    save(photos.parent / "linked" / "a.png")
    (photos / "album").symlink_to(photos.parent / "linked")
    assert find_images([f"{photos}/*"]).passed_over == [photos / "phone.jxl"]
    assert find_images([str(photos)]).passed_over == [photos / "phone.jxl", photos / "album"]


def test_reading_for_a_fit_counts_and_names_the_pictures_that_it_ignores(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_task(tmp_path / "photos")
    (tmp_path / "photos" / "blue" / "phone.jxl").write_bytes(JXL)
    (tmp_path / "photos" / "README.md").write_text("about")
    save(tmp_path / "photos" / "blue" / "more" / "a.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "blue" / "scan", format="JPEG")
    assert main(["doctor", str(tmp_path / "photos")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ignored: ")]
    assert line.startswith("ignored: 3 entries (README.md, phone.jxl, scan); 2 pictures among them (")
    assert all(name in line.partition(";")[2] for name in ("phone.jxl", "scan"))


@pytest.mark.parametrize("out", [[], ["--out", "inside/model"], ["--out", "train"]])
def test_fit_writes_no_model_into_the_images(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: list[str]
) -> None:
    tiny_task(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos")
    before = sorted(Path().rglob("*"))
    code = main(["fit", ".", "--backbone", str(model.parent / "backbone"), "--method", "zero_shot", *out])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2 and "among the images: choose an --out elsewhere, such as --out ../" in line
    assert sorted(Path().rglob("*")) == before
