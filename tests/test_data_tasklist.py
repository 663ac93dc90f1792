"""A task list becomes tasks in its order; what cannot is refused in one sentence that names the file and the task."""

from __future__ import annotations

from pathlib import Path

import pytest

from shotfit.data.rules import Rule
from shotfit.data.tasklist import check_names, read_tasks
from shotfit.errors import ShotfitError, UsageError

from .pictures import tree

LIST = """
[[task]]
name = "pet kind"
description = "Animals of the house"
data = "photos/pets"
template = "a photo of a {}, a type of pet."

[[task]]
data = "photos/toys"
templates = ["a toy {}.", "a small {}."]
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tree(tmp_path / "photos" / "pets", cat=5, dog=5)
    tree(tmp_path / "photos" / "toys", ball=5, doll=5, train_set=5)
    return tmp_path


def written(home: Path, text: str) -> Path:
    path = home / "tasks.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_tasks_stand_in_the_order_of_the_file(home: Path) -> None:
    pets, toys = read_tasks(written(home, LIST))
    assert (pets.name, pets.description, pets.classes.names) == ("pet kind", "Animals of the house", ("cat", "dog"))
    assert pets.classes.templates == ("a photo of a {}, a type of pet.",)
    assert (toys.name, toys.description) == ("toys", "")
    assert toys.classes.templates == ("a toy {}.", "a small {}.")
    assert all(item.picture.path.is_file() for task in (pets, toys) for item in (*task.train, *task.test))


def test_paths_are_relative_to_the_file_wherever_one_stands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(home, LIST)
    monkeypatch.chdir(home / "photos")
    assert len(read_tasks(Path("..") / path.name)) == 2


def test_manifest_with_images_and_class_names_elsewhere(home: Path) -> None:
    (home / "lists").mkdir()
    rows = [f"{kind}/{number:03}.png,{kind}" for kind in ("cat", "dog") for number in range(5)]
    (home / "lists" / "pets.csv").write_text("path,label\n" + "\n".join(rows))
    (home / "names.toml").write_text('[names]\ncat = "house cat"\n')
    text = '[[task]]\ndata = "lists/pets.csv"\nimages = "photos/pets"\nclass_names = "names.toml"\n'
    (pets,) = read_tasks(written(home, text))
    assert (pets.name, pets.classes.names) == ("pets", ("house cat", "dog"))
    assert len(pets.train) + len(pets.test) == 10


def test_window_and_bands_stand_with_the_task(home: Path) -> None:
    pets, toys = read_tasks(written(home, LIST + "window = [-160, 240]\nbands = [4, 3, 2]\n"))
    rules = [{item.picture.rule for item in task.train} for task in (pets, toys)]
    assert rules == [{Rule()}, {Rule((-160.0, 240.0), (4, 3, 2))}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "tasks.toml holds no task"),
        ("[task]\ndata = 'photos/pets'", "has a single `task`; write \\[\\[task\\]\\]"),
        ("[[task]\n", "tasks.toml cannot be read .*expected a TOML file"),
        ("[[tasks]]\ndata = 'photos/pets'", "tasks.toml has the unknown key 'tasks'"),
        ("[[task]]\ndate = 'photos/pets'", "task number 1 has the unknown key 'date'; did you mean data?"),
        ("[[task]]\nname = 'pets'\ncolour = 'red'", "task pets has the unknown key 'colour'; expected name"),
        ("[[task]]\nname = 'pets'", "task pets has no `data`"),
        ("[[task]]\nname = 'pets'\ndata = 'nowhere'", "task pets: .*nowhere does not exist"),
        ("[[task]]\nname = 3\ndata = 'photos/pets'", "`name` must be a text, but is 3"),
        ("[[task]]\nname = 'a'\ndata = 'photos/pets'\nframes = 2.5", "`frames` must be a whole number, but is 2.5"),
        ("[[task]]\nname = 'a'\ndata = 'photos/pets'\nwindow = 5", "`window` must be a list of numbers, but is 5"),
        ("[[task]]\nname = 'a'\ndata = 'photos/pets'\nbands = [0]", "task a: --bands is 0; expected one band"),
        ("[[task]]\nname = ' '\ndata = 'photos/pets'", "`name` must be a text"),
        ("[[task]]\ntemplates = 'a {}.'\ndata = 'photos/pets'", "`templates` must be a list of texts"),
        ("[[task]]\ntemplate = 'a photo'\ndata = 'photos/pets'", "number 1: the template 'a photo' holds {} 0 times"),
        (
            "[[task]]\ntemplate = 'a {}.'\ntemplates = ['a {}.']\ndata = 'photos/pets'",
            "has both `template` and `templates`",
        ),
        (
            "[[task]]\nname = 'a'\ndata = 'photos/pets'\n[[task]]\nname = 'a'\ndata = 'photos/toys'",
            "has two tasks called 'a'",
        ),
        ("[[task]]\ndata = 'photos/pets'\n[[task]]\ndata = 'photos/pets'", "has two tasks called 'pets'"),
    ],
)
def test_wrong_list_is_refused_in_one_line(home: Path, text: str, words: str) -> None:
    with pytest.raises(ShotfitError, match=words) as refusal:
        read_tasks(written(home, text))
    assert "\n" not in str(refusal.value) and "tasks.toml" in str(refusal.value)


def test_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match=r"none\.toml cannot be read"):
        read_tasks(tmp_path / "none.toml")


def test_no_task_and_two_of_one_name_are_refused(home: Path) -> None:
    tasks = read_tasks(written(home, LIST))
    check_names(tasks)
    with pytest.raises(UsageError, match="empty"):
        check_names([])
    with pytest.raises(UsageError, match="Two tasks are called 'toys'"):
        check_names([*tasks, tasks[1]])
