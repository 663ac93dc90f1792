"""What a hint proposes was tried and helps: it names no flag that was given, and the folder or ending that is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shotfit.commands.cli import main

from .pictures import save, tree


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) in (2, 3)
    return capsys.readouterr().err


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        save(tmp_path / "img" / f"a{number}.png", seed=number)
    return tmp_path


def listed(folder: Path, pattern: str) -> Path:
    path = folder / "list.csv"
    path.write_text("path,label\n" + "".join(f"{pattern.format(n)},c{n % 2}\n" for n in range(4)))
    return path


@pytest.mark.parametrize("given", [(), ("--images", "img")])
@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("gone\\b{}.png", r"--images img must be the folder|\(--images DIR\)"),
        ("C:\\me\\b{}.png", r"the paths are absolute, and of another place"),
        ("/nowhere/b{}.png", r"the paths are absolute, and of another place"),
        ("elsewhere/b{}.png", r"--images img must be the folder|\(--images DIR\)"),
        ("https://example.com/a{}.png", r"the paths are addresses, and nothing is fetched"),
        ("file:///img/a{}.png", r"the paths are addresses, and nothing is fetched"),
    ],
)
def test_paths_that_no_flag_mends(
    photos: Path, capsys: pytest.CaptureFixture[str], pattern: str, hint: str, given: tuple[str, ...]
) -> None:
    found = said(capsys, "doctor", listed(photos, pattern), *given)
    assert re.search(hint, found)
    if given:
        assert "--images DIR" not in found
    assert found.count("\n") == 1


@pytest.mark.parametrize("pattern", ["img/a{}", "img\\a{}.png", "img/a{}.PNG"])
def test_paths_without_ending_or_with_backslashes_or_of_another_case_are_found(photos: Path, pattern: str) -> None:
    assert main(["doctor", str(listed(photos, pattern))]) == 0


def test_paths_of_another_ending(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "another ending: a0.jpg is a0.png" in said(capsys, "doctor", listed(photos, "img/a{}.jpg"))


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("data/img/a{}.png", "they are in . without data/ in front: leave it out of the paths"),
        ("/home/me/img/a{}.png", "they are in . without /home/me/ in front: leave it out of the paths"),
        ("C:\\me\\img\\a{}", "they are in . without C:/me/ in front: leave it out of the paths"),
        ("IMG/a{}.png", "the folder is called img, and not IMG"),
        ("a{}", "they are in img: pass --images img"),
        ("img%2Fa{}.png", "they are written as in addresses: img%2Fa0.png is img/a0.png"),
        ("'img/a{}.png'", "they have signs around them: 'img/a0.png' is img/a0.png"),
        ("/img/a{}.png", "they are in . without / in front: leave it out of the paths"),
    ],
)
def test_what_is_wrong_with_the_folders_of_the_paths_is_said(
    photos: Path, capsys: pytest.CaptureFixture[str], pattern: str, hint: str
) -> None:
    assert hint in said(capsys, "doctor", listed(photos, pattern))


def test_the_right_folder_is_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "they are in img: pass --images img" in said(capsys, "doctor", listed(photos, "a{}.png"))
    assert "they are in .: pass --images ." in said(capsys, "doctor", listed(photos, "img/a{}.png"), "--images", "img")


def test_the_command_that_shows_all_problems_has_the_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tree(tmp_path / "pictures", cat=2)
    (tmp_path / "list.csv").write_text("path,label\ncat/000.png,cat\ncat/001.png,cat\ncat/gone.png,cat\n")
    found = said(capsys, "fit", tmp_path / "list.csv", "--images", folder, "--out", tmp_path / "model")
    assert f"list.csv --images {folder}` to see all of them, or pass --skip-broken" in found


def test_sets_per_class_without_coverage_name_the_flag_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, "evaluate", tmp_path, tmp_path, "--coverage-per-class")
    assert "--coverage-per-class is about prediction sets: add --coverage" in found
