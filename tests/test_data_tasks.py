"""Class lists make prompts, tasks seal their test part, and shots follow CoOp's rule."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from shotfit.data.pictures import Picture
from shotfit.data.shots import base_and_new, deal, draw, renumbered, sample
from shotfit.data.tasks import DEFAULT_TEMPLATE, ClassList, Item, Task, expand_templates
from shotfit.errors import ShotfitError, UsageError

LABELS = st.lists(st.integers(0, 5), max_size=60)


class Touchy(Sequence[Item]):
    """A test part that nobody may look at."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        raise AssertionError("the test part was touched")

    def __len__(self) -> int:
        raise AssertionError("the test part was touched")


def items(labels: Sequence[int]) -> tuple[Item, ...]:
    return tuple(Item(Picture(Path(f"/{i}.png")), label, f"{i:064x}") for i, label in enumerate(labels))


def task(labels: Sequence[int] = (0, 1, 0, 1), val: Sequence[int] = (), held_out: Sequence[Item] = ()) -> Task:
    return Task(ClassList("pets", ("cat", "dog")), items(labels), items(val), held_out)


def test_prompts_put_every_name_into_every_template() -> None:
    classes = ClassList("flowers", ("lily_of_the_valley", "iris"), ("a {}.", "the {}."))
    assert classes.prompts() == [["a lily of the valley.", "the lily of the valley."], ["a iris.", "the iris."]]


def test_hyphens_stay() -> None:
    assert ClassList("t", ("jack-o'-lantern",)).prompts() == [["a photo of a jack-o'-lantern."]]


def test_braces_in_a_name_are_plain_text() -> None:
    assert ClassList("t", ("{0}",)).prompts() == [["a photo of a {0}."]]


@pytest.mark.parametrize("template", ["a photo", "{} and {}", ""])
def test_template_without_exactly_one_place_is_refused(template: str) -> None:
    with pytest.raises(ShotfitError, match="expected exactly once"):
        ClassList("t", ("cat",), (template,))


@pytest.mark.parametrize("name", ["", " ", "_"])
def test_empty_class_name_is_refused(name: str) -> None:
    with pytest.raises(ShotfitError, match="empty name"):
        ClassList("t", ("cat", name))


def test_class_name_that_is_no_text_is_refused_printably() -> None:
    with pytest.raises(ShotfitError, match="not valid UTF-8") as caught:
        ClassList("t", ("\udcff",))
    str(caught.value).encode()


def test_task_without_classes_is_refused() -> None:
    with pytest.raises(ShotfitError, match="has no classes"):
        ClassList("t", ())


def test_ensemble_is_a_set_of_eight_templates() -> None:
    templates = expand_templates(["ensemble", "{} texture."])
    assert len(templates) == 9
    assert DEFAULT_TEMPLATE in templates


def test_sealed_task_refuses_its_test_part() -> None:
    with pytest.raises(ShotfitError, match="the test part of task 'pets' is sealed"):
        _ = task().sealed().test


def test_sealing_and_drawing_never_touch_the_test_part() -> None:
    sealed = task(held_out=Touchy()).shots(1, seed=1).sealed().shots(1, seed=2)
    assert sealed.is_sealed
    assert "touched" not in repr(sealed)


def test_shots_leave_the_test_part() -> None:
    held_out = items([1])
    assert task(held_out=held_out).shots(1, seed=1).test is held_out


def test_shots_draw_from_train_and_val() -> None:
    drawn = task([0] * 9 + [1] * 9, val=[0] * 9 + [1] * 9).shots(8, seed=3)
    assert Counter(item.label for item in drawn.train) == {0: 8, 1: 8}
    assert Counter(item.label for item in drawn.val) == {0: 4, 1: 4}


@pytest.mark.parametrize(("shots", "seed"), [(0, 1), (-1, 1), (1, -1)])
def test_impossible_shots_and_seeds_are_refused(shots: int, seed: int) -> None:
    with pytest.raises(UsageError, match="expected"):
        task().shots(shots, seed)


@given(LABELS, LABELS, st.integers(1, 20), st.integers(0, 10**6))
def test_drawing_is_that_of_pythons_global_generator(train: list[int], val: list[int], shots: int, seed: int) -> None:
    random.seed(seed)
    expected = []
    for labels, wanted in ((train, shots), (val, min(shots, 4))):
        chosen: list[int] = []
        for label in dict.fromkeys(labels):
            group = [i for i, other in enumerate(labels) if other == label]
            chosen += random.sample(group, wanted) if len(group) >= wanted else group
        expected.append(chosen)
    assert list(draw(train, val, shots, seed)) == expected


@given(LABELS, st.integers(1, 20), st.integers(0, 100))
def test_every_class_gets_its_shots_once(labels: list[int], shots: int, seed: int) -> None:
    chosen = sample(labels, shots, random.Random(seed))
    assert len(set(chosen)) == len(chosen)
    assert Counter(labels[i] for i in chosen) == {label: min(n, shots) for label, n in Counter(labels).items()}


@settings(deadline=None)
@given(st.permutations([3] * 4 + [0] * 7 + [2] * 5), st.integers(2, 4), st.integers(0, 99))
def test_folds_are_those_of_scikit_learn(labels: list[int], folds: int, seed: int) -> None:
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    held = [places.tolist() for _, places in splitter.split(labels, labels)]
    dealt = deal(labels, folds, seed)
    assert [[place for place, fold in enumerate(dealt) if fold == number] for number in range(folds)] == held


@given(LABELS)
def test_base_and_new_halve_the_classes(labels: list[int]) -> None:
    base, new = base_and_new(labels)
    assert base + new == sorted(set(labels))
    assert len(base) - len(new) in (0, 1)


@given(LABELS)
def test_renumbering_keeps_the_order_of_classes(labels: list[int]) -> None:
    base, _ = base_and_new(labels)
    positions, numbers = renumbered(labels, base)
    assert [base[number] for number in numbers] == [labels[position] for position in positions]
    assert positions == [i for i, label in enumerate(labels) if label in base]
