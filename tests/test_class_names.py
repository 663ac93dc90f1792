"""Class names that a text tower cannot use are told of, and text in two Unicode forms is the same text."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

import pytest

import shotfit
from shotfit.commands.cli import main
from shotfit.data.namecheck import without_meaning
from shotfit.data.readers import read_task
from shotfit.data.tasks import ClassList, plain_name
from shotfit.errors import NamesWarning

from .pictures import save, tree


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def apart(text: str) -> str:
    return unicodedata.normalize("NFD", text)


SAY_NOTHING = """0 10 n01440764 a B é ж class_3 Class3 class_a group_B type_II img001 sku-123 c0 cls1 x550 A300B4 Q42
    727-200 bcc df 550e8400-e29b-41d4-a716-446655440000 5d41402abc4b2a76 a1b2 d3m0 30% ½ --- 0001_0002 m/01g317 label
    Grade-0 Level_3"""
SAY_SOMETHING = """cat ox TV BMW dog2 fire_truck FireTruck covid19 n01440764_tench 鳥 кошка Müller man o'neill कुत्ता crab
    facade photo speed_limit_20 brontosaurus bird-3 type_2_diabetes class_cat"""


@pytest.mark.parametrize("name", SAY_NOTHING.split())
def test_name_without_a_word_says_nothing(name: str) -> None:
    assert without_meaning([name]) == [name]


@pytest.mark.parametrize("name", SAY_SOMETHING.split())
def test_name_with_a_word_says_something(name: str) -> None:
    assert without_meaning([name]) == []


def test_doctor_warns_of_names_that_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path / "w", n01440764=2, n01443537=2, dog=2)
    assert main(["doctor", str(tmp_path / "w")]) == 0
    said = capsys.readouterr().out
    assert "warning: 2 of 3 class names say nothing to a text tower (n01440764, n01443537): give each class" in said
    assert "classes.toml or with --class-names FILE\n" in said


def test_names_from_a_file_are_what_the_doctor_looks_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path / "w", n01440764=2, n01443537=2)
    (tmp_path / "w" / "classes.toml").write_text('[names]\nn01440764 = "tench"\nn01443537 = "goldfish"\n')
    assert main(["doctor", str(tmp_path / "w")]) == 0
    assert "say nothing" not in capsys.readouterr().out


def test_doctor_and_fit_warn_of_classes_that_are_read_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tree(tmp_path / "j", 鳥=3, 家=3, cat=3)
    assert main(["doctor", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "warning: the text tower of mini-6 reads 2 of 3 classes of j like another ('家' and '鳥')" in said
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shotfit.fit(folder, method="zero_shot", check=False)
    (found,) = [str(one.message) for one in caught if one.category is NamesWarning]
    assert "'家' and '鳥'" in found


def test_start_from_names_warns_of_those_that_say_nothing() -> None:
    with pytest.warns(NamesWarning, match=r"2 of 3 class names say nothing to a text tower \(1, 2\).* in words$"):
        shotfit.zero_shot(["1", "2", "cat"])


def test_folders_of_a_class_in_two_unicode_forms_are_one_class(tmp_path: Path) -> None:
    for part, form in (("train", composed), ("test", apart)):
        for name in ("café", "tree"):
            save(tmp_path / part / form(name) / f"{part}-{name}.png", seed=len(part) + len(name))
    task = read_task(tmp_path)
    assert task.classes.names == (composed("café"), "tree")
    assert [item.label for item in task.test] == [0, 1]
    assert apart("café") in str(task.test[0].picture.path)  # files keep the names that they have


def test_labels_and_keys_and_paths_of_a_manifest_are_joined_by_unicode(tmp_path: Path) -> None:
    rows = ["path,label"]
    for number, form in enumerate((composed, apart, composed)):
        save(tmp_path / form(f"é{number}.png"), seed=number)
        rows.append(f"{apart(f'é{number}.png')},{form('Müller')}")
    (tmp_path / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "classes.toml").write_text(f'[names]\n"{apart("Müller")}" = "a miller"\n', encoding="utf-8")
    task = read_task(tmp_path / "labels.csv")
    assert task.classes.names == ("a miller",)
    assert all(item.digest for item in (*task.train, *task.test))


def test_class_lists_hold_names_in_one_form() -> None:
    assert ClassList(apart("Wörter"), (apart("für"),)) == ClassList(composed("Wörter"), (composed("für"),))
    assert plain_name(apart("Für")) == plain_name(composed("für"))


def test_a_model_knows_its_task_in_either_form() -> None:
    model = shotfit.zero_shot(["red kite", "buzzard"], name=composed("Vögel"))
    assert model.for_task(apart("Vögel")).task == composed("Vögel")
