"""Intervals against resampling image by image, tests against examples by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from shotfit.commands.cli import main
from shotfit.evaluation.evaluate import Answers
from shotfit.evaluation.intervals import (
    accuracy_intervals,
    difference_intervals,
    interval_by_image,
    interval_by_seed,
)
from shotfit.evaluation.paired import compare_answers, favoured, holm, mcnemar
from shotfit.fitting.fit import fit
from shotfit.testing.tiny import tiny_backbone, tiny_task

CLASSES = 4
OWN = """
from shotfit.methods.zero_shot import ZeroShot

class Own(ZeroShot):
    name = "own"
"""


def drawn(seed: int, images: int = 200) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Labels, and whether each of two models is right."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(CLASSES, size=images)
    return labels, generator.random(images) < 0.5 + labels / 8, generator.random(images) < 0.7


def resampled(labels: NDArray[Any], worth: NDArray[Any]) -> list[list[float]]:
    """The middle 95 % of mean and mean over classes, image by image."""
    generator, found = np.random.default_rng(9), []
    for _ in range(4000):
        rows = generator.integers(len(labels), size=len(labels))
        by_class = [worth[rows][labels[rows] == label].mean() for label in range(CLASSES)]
        found.append((worth[rows].mean(), np.mean(by_class)))
    return [np.quantile(own, [0.025, 0.975]).tolist() for own in zip(*found, strict=True)]


def test_intervals_are_those_of_resampled_images() -> None:
    labels, right, _ = drawn(0)
    plain, by_class = resampled(labels, right.astype(float))
    found = accuracy_intervals(labels, right, CLASSES)
    assert found[0] == pytest.approx(plain, abs=0.01)
    assert found[1] == pytest.approx(by_class, abs=0.01)
    assert accuracy_intervals(labels, right, CLASSES) == found


def test_difference_is_resampled_in_pairs() -> None:
    labels, first, second = drawn(1)
    plain, by_class = resampled(labels, second.astype(float) - first)
    found = difference_intervals(labels, first, second, CLASSES)
    assert found[0] == pytest.approx(plain, abs=0.012)
    assert found[1] == pytest.approx(by_class, abs=0.012)
    assert difference_intervals(labels, first, first, CLASSES) == ((0.0, 0.0), (0.0, 0.0))


def test_interval_holds_what_it_says() -> None:
    generator, held = np.random.default_rng(2), 0
    for _ in range(200):
        low, high = interval_by_image((generator.random(100) < 0.7).astype(float))
        held += low <= 0.7 <= high
    assert 180 <= held <= 199


def test_class_without_images_is_left_out_of_the_mean() -> None:
    labels, right = np.array([0, 0, 2, 2]), np.ones(4, dtype=bool)
    assert accuracy_intervals(labels, right, 3) == ((1.0, 1.0), (1.0, 1.0))


def test_one_seed_has_no_interval_by_seed() -> None:
    assert interval_by_seed([0.5]) is None
    assert interval_by_seed([0.0, 1.0]) == (0.0, 1.0)


def test_mcnemar_asks_only_the_images_that_one_is_right_on() -> None:
    assert mcnemar(3, 12) == pytest.approx(binomtest(3, 15).pvalue)
    assert mcnemar(1, 0) == 1.0


def test_holm_is_monotone_and_at_most_one() -> None:
    assert holm([0.04, 0.001, 0.8]) == pytest.approx([0.08, 0.003, 0.8])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_image_counts_once_however_many_seeds() -> None:
    assert favoured(np.array([3, 3, 1, 0]), np.array([0, 2, 1, 1])) == (2, 1)


def test_two_models_are_compared_image_by_image() -> None:
    labels = np.array([0, 0, 1, 1])
    names = ("cat", "dog")
    first = Answers(labels, np.eye(2)[[0, 1, 0, 0]], names)
    second = Answers(1 - labels, np.eye(2)[[1, 1, 0, 1]], ("dog", "cat"))  # the classes in another order
    found = compare_answers(first, second)
    assert (found.both_right, found.only_first, found.only_second, found.both_wrong) == (1, 0, 2, 1)
    assert (found.difference, found.mean_class_difference, found.p) == (0.5, 0.5, 0.5)
    assert found.difference_interval[0] <= 0.5 <= found.difference_interval[1]
    assert found.as_json()["first"]["accuracy"] == 0.25


def test_two_models_of_which_a_file_made_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    tiny_backbone(tmp_path / "backbone")
    tiny_task(tmp_path / "photos")
    for name, method in (("first", "zero_shot"), ("second", f"{file}:Own")):
        fit(tmp_path / "photos", method, backbone=str(tmp_path / "backbone"), keep=True).save(tmp_path / name)
    words = ["evaluate", *(str(tmp_path / name) for name in ("first", "second", "photos"))]
    words += ["--backbone", str(tmp_path / "backbone")]
    assert main(words) == 2
    assert "run only if you name it: add --method" in capsys.readouterr().err
    assert main([*words, "--method", f"{file}:Own", "--json"]) == 0
    assert [Path(name).name for name in json.loads(capsys.readouterr().out)["models"]] == ["first", "second"]
    words.pop(2)
    assert main([*words, "--method", f"{file}:Own"]) == 2
    assert "was saved by the method zero_shot, not by own" in capsys.readouterr().err
