"""The doctor reports all problems of a folder together, errors apart from warnings, and reads every content once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shotfit.data import doctor, filecache
from shotfit.data.doctor import Report, examine
from shotfit.data.images import Facts, inspect
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.errors import ShotfitError

from .pictures import bomb, picture, save, tree


def diagnose(folder: Path, shots: int | None = None, cache: Path | None = None) -> Report:
    return examine(read_task(folder, cache=cache), shots, cache)


def errors(report: Report) -> list[tuple[str, str]]:
    named = [(problem.kind, [picture.path.name for picture in problem.pictures[:1]]) for problem in report.errors]
    return sorted((kind, names[0] if names else "") for kind, names in named)


def warning(report: Report, kind: str) -> str:
    (found,) = [problem.message for problem in report.warnings if problem.kind == kind]
    return found


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with everything wrong that one meets in folders of images."""
    folder = tree(tmp_path / "photos", cat=6, dog=6)
    cat = folder / "cat"
    (cat / "zero.png").touch()
    path = save(cat / "truncated.jpg", picture(1))
    path.write_bytes(path.read_bytes()[:-200])
    (cat / "text.png").write_text("no picture")
    save(cat / "one.png", picture(2, width=1, height=1))
    save(cat / "deep.png", Image.fromarray(np.full((40, 40), 40_000, dtype=np.uint16)))
    save(cat / "print.jpg", picture(3).convert("CMYK"))
    save(cat / "palette.png", picture(4).convert("P"), transparency=0)
    save(cat / "moving.gif", picture(5), save_all=True, append_images=[picture(6)])
    save(cat / "猫.png", picture(7))
    (cat / "self.png").symlink_to("self.png")
    bomb(cat / "bomb.png")
    (folder / "empty").mkdir()
    return folder


def test_all_errors_are_reported_together(broken: Path) -> None:
    assert errors(diagnose(broken)) == [
        ("empty class", ""),
        ("loop", "self.png"),
        ("too large", "bomb.png"),
        ("unreadable", "text.png"),
        ("unreadable", "truncated.jpg"),
        ("unreadable", "zero.png"),
    ]


def test_odd_but_readable_images_are_warnings(broken: Path) -> None:
    report = diagnose(broken)
    modes = [problem.message.split(", e.g.")[0] for problem in report.warnings if problem.kind == "mode"]
    assert "1 image is CMYK (mode CMYK; converted to RGB)" in modes
    assert "2 images are in palette colors (mode P; converted to RGB)" in modes  # the animation too
    assert any("16-bit gray" in mode or "32-bit gray" in mode for mode in modes)  # older Pillow reads 16 bit as 32
    assert "1 image is transparent (put on white), e.g. " in warning(report, "transparency")
    assert "moving.gif" in warning(report, "animation")
    assert "one.png" in warning(report, "small")


def test_errors_are_raised_in_one_line(broken: Path) -> None:
    with pytest.raises(ShotfitError, match=r"photos has 6 problems: .* and 3 more\. Run `shotfit doctor .*`") as caught:
        diagnose(broken).raise_for_errors()
    assert "\n" not in str(caught.value)
    assert "--skip-broken" not in str(caught.value)  # the empty class would remain


def test_broken_files_can_be_left_out(broken: Path) -> None:
    (broken / "empty").rmdir()
    task = read_task(broken)
    report = examine(task)
    with pytest.raises(ShotfitError, match="or pass --skip-broken to leave these files out"):
        report.raise_for_errors()
    report.raise_for_errors(skip_broken=True)
    assert [problem.kind for problem in examine(report.without_broken(task)).errors] == ["loop"]  # never an image


def test_leaving_files_out_of_a_sealed_task_keeps_the_seal(broken: Path) -> None:
    task = read_task(broken).sealed()
    assert examine(task).without_broken(task).is_sealed


def test_class_of_broken_images_only_is_empty(tmp_path: Path) -> None:
    tree(tmp_path, cat=2, dog=0)
    (tmp_path / "dog" / "a.png").touch()
    with pytest.raises(ShotfitError, match="class 'dog' has no train image that can be read"):
        diagnose(tmp_path).raise_for_errors(skip_broken=True)


def test_missing_images_of_a_list_are_named(tmp_path: Path) -> None:
    tree(tmp_path, cat=2)
    (tmp_path / "list.csv").write_text("path,label\ncat/000.png,cat\ncat/001.png,cat\ncat/gone.png,cat\n")
    (problem,) = examine(read_task(tmp_path / "list.csv")).errors
    assert problem.message.endswith("cat/gone.png does not exist. Replace or remove it.")


def test_good_folder_has_no_problems(tmp_path: Path) -> None:
    report = diagnose(tree(tmp_path, cat=5, dog=5), shots=4)
    assert (report.errors, report.warnings, report.images, report.classes) == ((), (), 10, 2)
    report.raise_for_errors()


def test_same_image_in_train_and_test_is_a_warning(tmp_path: Path) -> None:
    tree(tmp_path / "train", cat=3)
    save(tmp_path / "test" / "cat" / "copy.png", Image.open(tmp_path / "train" / "cat" / "001.png"))
    assert warning(diagnose(tmp_path), "train and test").startswith("1 image is in the test part and in another, e.g. ")


def test_same_image_under_two_classes_is_a_warning(tmp_path: Path) -> None:
    tree(tmp_path, cat=3, dog=3)
    save(tmp_path / "dog" / "cat.png", Image.open(tmp_path / "cat" / "001.png"))
    said = warning(diagnose(tmp_path), "two classes")
    assert said.startswith("1 image is under more than one class, e.g. ")
    assert "cat/001.png and " in said
    assert "dog/cat.png" in said


def test_same_image_twice_in_a_class_is_a_warning(tmp_path: Path) -> None:
    tree(tmp_path, cat=3, dog=3)
    save(tmp_path / "cat" / "copy.png", Image.open(tmp_path / "cat" / "001.png"))
    assert [problem.kind for problem in diagnose(tmp_path).warnings] == ["copies"]


def test_empty_files_are_not_copies(tmp_path: Path) -> None:
    tree(tmp_path, cat=3, dog=3)
    for name in ("a.png", "b.png"):
        (tmp_path / "cat" / name).touch()
    assert diagnose(tmp_path).warnings == ()


@pytest.mark.parametrize(("one", "other"), [("hot_dog", "hot dog"), ("Cat", "cat"), ("a__b", "a_b")])
def test_names_that_differ_in_case_or_underscores_are_a_warning(tmp_path: Path, one: str, other: str) -> None:
    said = warning(diagnose(tree(tmp_path, **{one: 2, other: 2})), "similar names")
    assert repr(one) in said
    assert repr(other) in said


def test_only_class_is_a_warning(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "photos" / f"{number}.png", seed=number)
    assert "'photos' is the only class, so every picture is predicted as it" in warning(diagnose(tmp_path), "one class")


def test_equal_names_are_a_warning(tmp_path: Path) -> None:
    said = warning(diagnose(tree(tmp_path, **{"0_crane": 2, "1_crane": 2})), "similar names")
    assert said == "2 classes have the same name 'crane'"


def test_few_images_are_warnings(tmp_path: Path) -> None:
    report = diagnose(tree(tmp_path, cat=1, dog=5, owl=30), shots=16)
    assert warning(report, "one image") == (
        "1 class has a single train image: cat (learned from, and left out of the check)"
    )
    assert warning(report, "few images") == "2 classes have fewer train images than the 16 shots: cat (1), dog (4)"


def test_rotation_is_a_warning(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    tree(tmp_path, cat=2)
    save(tmp_path / "cat" / "a.jpg", picture(), exif=exif)
    assert "turned by EXIF (applied)" in warning(diagnose(tmp_path), "rotation")


def test_images_of_one_mode_are_one_line(tmp_path: Path) -> None:
    for i in range(30):
        save(tmp_path / ("cat", "dog")[i % 2] / f"{i}.png", picture(i).convert("L"))
    (problem,) = diagnose(tmp_path).warnings
    assert problem.message.startswith("30 images are gray (mode L; converted to RGB), e.g. ")
    assert len(problem.pictures) == 30


def test_images_of_formats_that_are_not_read_are_a_warning(tmp_path: Path) -> None:
    tree(tmp_path, cat=2)
    (tmp_path / "cat" / "IMG_0001.JXL").write_text("x")
    assert "IMG_0001.JXL; save as JPEG or PNG to use" in warning(diagnose(tmp_path), "format")


def test_test_part_alone_is_examined(tmp_path: Path) -> None:
    tree(tmp_path / "test", cat=2)
    report = diagnose(tmp_path)
    assert (report.images, report.errors) == (2, ())


def test_second_run_reads_no_image(broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (broken / "cat" / "self.png").unlink()
    for path in broken.glob("*/*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    first = diagnose(broken, cache=tmp_path / "cache")
    monkeypatch.setattr(filecache, "digest", lambda path: pytest.fail(f"read {path}"))
    monkeypatch.setattr(doctor, "inspect", lambda path: pytest.fail(f"decoded {path}"))
    assert diagnose(broken, cache=tmp_path / "cache") == first


def test_verdict_follows_the_content_to_another_name(broken: Path, tmp_path: Path) -> None:
    diagnose(broken, cache=tmp_path / "cache")
    (broken / "cat" / "text.png").rename(broken / "dog" / "moved.png")
    found = diagnose(broken, cache=tmp_path / "cache").errors
    assert any(problem.message.split(" is no image")[0].endswith("dog/moved.png") for problem in found)


def test_copies_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(5):
        save(tmp_path / "cat" / f"{i}.png", picture(1))
    decoded: list[Path] = []

    def counted(path: Path) -> Facts:
        decoded.append(path)
        return inspect(Picture(path))

    monkeypatch.setattr(doctor, "inspect", counted)
    diagnose(tmp_path)
    assert len(decoded) == 1


def test_errors_of_the_system_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "photos", cat=2)
    task = read_task(tmp_path / "photos")
    with monkeypatch.context() as patch:
        patch.setattr("PIL.ImageFile.ImageFile.load", lambda self: (_ for _ in ()).throw(OSError(5, "I/O error")))
        assert "(I/O error)" in examine(task, cache=tmp_path).errors[0].message
    assert examine(task, cache=tmp_path).errors == ()


def test_report_is_plain_data(broken: Path) -> None:
    report = diagnose(broken)
    plain = json.loads(json.dumps(report.to_json()))
    assert plain["images"] == report.images
    assert [problem["kind"] for problem in plain["errors"]] == [problem.kind for problem in report.errors]
    assert plain["errors"][0]["paths"] == [str(path) for path in report.errors[0].pictures]
