"""Scores against scikit-learn's and against counts by hand; labels by class name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from shotfit.data.pictures import Picture
from shotfit.data.tasks import ClassList, Item, Task
from shotfit.errors import ShotfitError
from shotfit.evaluation.evaluate import labelled_for, score
from shotfit.evaluation.printed import class_lines

NAMES = ("cat", "dog", "red_fox")


def task_of(*names: str) -> Task:
    items = tuple(Item(Picture(Path(f"{label}.png")), label, str(label)) for label in range(len(names)))
    return Task(ClassList("animals", names), train=items, held_out=items)


def test_scores_equal_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=200)
    probabilities = generator.dirichlet(np.ones(3), size=200)
    predicted = probabilities.argmax(axis=1)
    scores = score(labels, probabilities, NAMES)
    assert scores.accuracy == pytest.approx((predicted == labels).mean())
    assert scores.mean_class_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert scores.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_classes_top_five_and_log_loss_equal_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(8, size=300)
    probabilities = generator.dirichlet(np.full(8, 0.3), size=300)
    scores = score(labels, probabilities, tuple("abcdefgh"))
    theirs = precision_recall_fscore_support(labels, probabilities.argmax(axis=1))
    ours = [(own.precision, own.recall, own.f1, own.images) for own in scores.per_class]
    assert np.array(ours) == pytest.approx(np.stack(theirs, axis=1))
    assert [own.predicted for own in scores.per_class] == np.bincount(probabilities.argmax(axis=1)).tolist()
    assert scores.top5_accuracy == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5))
    assert scores.log_loss == pytest.approx(log_loss(labels, probabilities))


def test_five_classes_have_no_top_five() -> None:
    assert score(np.array([0]), np.full((1, 5), 0.2), tuple("abcde")).top5_accuracy is None
    assert score(np.array([5]), np.full((1, 6), 1 / 6), tuple("abcdef")).top5_accuracy == 0.0


def test_class_that_nothing_speaks_of_has_no_shares() -> None:
    cat, dog, fox = score(np.array([0, 1]), np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]]), NAMES).per_class
    assert (cat.precision, cat.recall) == (0.5, 1.0)
    assert (dog.precision, dog.recall, dog.f1) == (None, 0.0, 0.0)
    assert (fox.precision, fox.recall, fox.f1) == (None, None, None)


def test_impossible_answer_has_a_log_loss_that_is_finite() -> None:
    assert score(np.array([0]), np.array([[0.0, 1.0]]), ("a", "b")).log_loss == pytest.approx(36.04, abs=0.01)


def test_class_table_is_sorted_by_f1_and_says_how_many_it_leaves_out() -> None:
    names = tuple(f"class{number}" for number in range(12))
    probabilities = np.eye(12)[[1, *range(1, 12)]]
    found = score(np.arange(12), probabilities, names)
    lines = class_lines(found)
    assert [line.split()[0] for line in lines[2:4]] == ["class0", "class1"]
    assert lines[-1] == "  and 2 more (--per-class shows all)"
    assert len(class_lines(found, every=True)) == 14


def test_class_without_images_does_not_lower_the_means() -> None:
    scores = score(np.array([0, 1]), np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]]), NAMES)
    assert (scores.mean_class_accuracy, scores.macro_f1) == (1.0, 1.0)


def test_calibration_error_by_hand() -> None:
    # two images in the bin (0.8, 0.867] of which one is right, one in (0.933, 1] that is right
    probabilities = np.array([[0.82, 0.18, 0.0], [0.84, 0.16, 0.0], [0.0, 1.0, 0.0]])
    scores = score(np.array([0, 1, 1]), probabilities, NAMES)
    assert scores.calibration_error == pytest.approx((2 * abs(0.5 - 0.83) + 0.0) / 3)


def test_confused_pairs_come_most_frequent_first() -> None:
    probabilities = np.eye(3)[[1, 1, 0, 2]]
    assert score(np.array([0, 0, 2, 2]), probabilities, NAMES).most_confused() == [
        ("cat", "dog", 2),
        ("red_fox", "cat", 1),
    ]


def test_classes_are_found_by_name() -> None:
    assert [item.label for item in labelled_for(NAMES, task_of("Red fox", "cat"))] == [2, 0]


def test_all_images_are_train_and_test() -> None:
    assert len(labelled_for(NAMES, task_of(*NAMES), everything=True)) == 6


def test_unknown_class_is_refused_by_name() -> None:
    with pytest.raises(ShotfitError, match="not known to it: wolf"):
        labelled_for(NAMES, task_of("cat", "wolf"))


def test_one_class_is_scored_without_a_warning() -> None:
    found = score(np.array([0, 0]), np.array([[1.0], [1.0]]), ("only",))
    assert (found.accuracy, found.confusion) == (1.0, ((2,),))
