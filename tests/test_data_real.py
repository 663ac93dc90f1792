"""Real folders are read as they are described: the sample images, and the evaluation sets where they are at hand."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import pytest

from shotfit.data.doctor import examine
from shotfit.data.readers import read_task
from shotfit.data.tasks import Task
from shotfit.errors import ShotfitError

ROOT = Path(__file__).parents[1]


def unpacked(name: str, folder: Path) -> Path:
    """An evaluation set of `../shared/data`, unpacked into a folder."""
    archive = ROOT.parent / "shared" / "data" / f"{name}.tar"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not at hand")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder


def sizes(task: Task) -> tuple[int, int, int, int]:
    return len(task.classes.names), len(task.train), len(task.val), len(task.test)


def test_sample_images_have_no_errors() -> None:
    folder = ROOT / "examples" / "clipart"
    if not folder.is_dir():
        pytest.skip("examples/clipart is not at hand")
    task = read_task(folder)
    assert sizes(task) == (10, 260, 0, 60)
    assert examine(task, shots=16).errors == ()


def test_signs_have_numbers_and_parts(tmp_path: Path) -> None:
    task = read_task(unpacked("gtsrb", tmp_path))
    assert sizes(task) == (43, 688, 0, 516)
    assert task.classes.names[0] == "speed_limit_20"
    report = examine(task, shots=16)
    assert (report.errors, report.warnings) == ((), ())


@pytest.mark.slow
def test_caltech101_is_read_by_its_split(tmp_path: Path) -> None:
    task = read_task(unpacked("caltech101", tmp_path))
    assert sizes(task) == (100, 4128, 1649, 2465)
    (gray,) = examine(task).warnings
    assert gray.message.startswith("381 images are gray")
    assert set(Counter(item.label for item in task.shots(16, 1).train).values()) == {16}


def test_domains_are_refused_and_one_domain_is_read(tmp_path: Path) -> None:
    folder = unpacked("pacs", tmp_path)
    with pytest.raises(ShotfitError, match="pass one domain"):
        read_task(folder)
    assert read_task(folder / "photo").classes.names[:2] == ("dog", "elephant")


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("gtsrb", "a photo of a 20 speed limit traffic sign."),
        ("dtd", "banded texture."),
        ("flowers17", "a photo of a bluebell, a type of flower."),
    ],
)
def test_names_and_templates_of_the_evaluation_sets_fit_them(tmp_path: Path, name: str, prompt: str) -> None:
    task = read_task(unpacked(name, tmp_path), class_names=ROOT / "examples" / "tasks" / f"{name}.toml")
    assert task.classes.prompts()[0] == [prompt]
    assert len(set(task.classes.names)) == len(task.classes.names)
