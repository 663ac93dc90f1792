"""Groups of images (a patient, a track, a shop) stay together: in the test part, in folds and in what reads them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shotfit.data.doctor import examine
from shotfit.data.held_out import held_out_share
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.data.shots import KEPT, cross_validation, deal
from shotfit.data.tasklist import read_tasks
from shotfit.data.tasks import Item
from shotfit.errors import ShotfitError, UsageError
from shotfit.testing.tiny import tiny_task

IMAGES = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["", "ann", "bob", "cid", "dan", "eva"])), max_size=60)
FOLDS, SEEDS = st.integers(2, 4), st.integers(0, 99)


def apart(images: Sequence[tuple[int, str]]) -> tuple[list[int], list[str]]:
    return [label for label, _ in images], [group for _, group in images]


def items_of(images: Sequence[tuple[int, str]]) -> list[Item]:
    return [Item(Picture(Path(f"/{i}")), label, f"{i * 7919:064x}", group) for i, (label, group) in enumerate(images)]


@given(IMAGES, FOLDS, SEEDS)
def test_no_group_is_in_two_folds(images: list[tuple[int, str]], folds: int, seed: int) -> None:
    labels, groups = apart(images)
    found = defaultdict(set)
    for group, fold in zip(groups, deal(labels, folds, seed, groups), strict=True):
        found[group].add(fold)
    assert all(len(dealt) == 1 for group, dealt in found.items() if group)


@given(IMAGES, FOLDS, SEEDS)
def test_every_image_is_held_out_once_or_kept(images: list[tuple[int, str]], folds: int, seed: int) -> None:
    labels, groups = apart(images)
    held = Counter(position for fold in cross_validation(labels, groups, folds, seed) for position in fold)
    assert set(held.values()) <= {1}
    assert held.keys() <= set(range(len(images)))


@given(IMAGES, FOLDS, SEEDS)
def test_no_fold_takes_a_whole_class_away(images: list[tuple[int, str]], folds: int, seed: int) -> None:
    labels, groups = apart(images)
    for held in cross_validation(labels, groups, folds, seed):
        assert {labels[position] for position in range(len(labels)) if position not in held} == set(labels)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), FOLDS, SEEDS)
def test_groups_of_one_image_spread_each_class_evenly(labels: list[int], folds: int, seed: int) -> None:
    dealt = deal(labels, folds, seed, [f"group {position}" for position in range(len(labels))])
    for label in set(labels):
        sizes = Counter(fold for own, fold in zip(labels, dealt, strict=True) if own == label)
        if sum(sizes.values()) > 1:
            assert max(sizes.values()) - min(sizes.get(fold, 0) for fold in range(folds)) <= 1


def test_equal_groups_that_span_classes_are_spread_evenly() -> None:
    labels, groups = apart([(label, f"patient {number}") for number in range(8) for label in (0, 0, 1)])
    for seed in range(5):
        dealt = Counter(zip(labels, deal(labels, 4, seed, groups), strict=True))
        assert dealt == {(label, fold): 4 if label == 0 else 2 for label in (0, 1) for fold in range(4)}


def test_seed_decides_how_groups_are_dealt() -> None:
    labels, groups = apart([(number % 2, f"patient {number // 2}") for number in range(60)])
    assert deal(labels, 4, 1, groups) == deal(labels, 4, 1, groups)
    assert deal(labels, 4, 1, groups) != deal(labels, 4, 2, groups)


def test_class_with_one_image_is_in_no_fold() -> None:
    labels = [0] * 5 + [1] + [2] * 5
    dealt = deal(labels, 4, seed=1)
    assert [fold == KEPT for fold in dealt] == [label == 1 for label in labels]
    assert [fold for fold in dealt if fold != KEPT] == deal([0] * 5 + [2] * 5, 4, seed=1)


def test_class_of_one_group_is_in_no_fold() -> None:
    labels, groups = apart([(0, "ann")] * 3 + [(1, f"patient {number}") for number in range(6)])
    assert deal(labels, 3, 1, groups)[:3] == [KEPT] * 3


def test_nothing_is_judged_where_most_classes_have_one_image() -> None:
    assert cross_validation([0, 1, 2, 3, 3], [""] * 5, most=4, seed=1) == []
    assert cross_validation([], [], most=4, seed=1) == []


@given(IMAGES, st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["ann", "bob", ""])), max_size=3))
def test_no_group_of_the_test_part_is_elsewhere(
    images: list[tuple[int, str]], val_images: list[tuple[int, str]]
) -> None:
    items = items_of(images)
    val = [Item(Picture(Path(f"/val{i}")), label, f"val{i}", group) for i, (label, group) in enumerate(val_images)]
    train, test = held_out_share(items, val)
    assert not {item.group for item in test} & {item.group for item in (*train, *val)} - {""}
    assert sorted(train + test, key=items.index) == items


@given(IMAGES)
def test_every_class_of_the_test_part_is_learned_too(images: list[tuple[int, str]]) -> None:
    train, test = held_out_share(items_of(images))
    assert {item.label for item in test} <= {item.label for item in train}


def test_test_part_is_about_a_fifth_of_each_class() -> None:
    items = items_of([(label, f"{label} {number // 3}") for label in range(4) for number in range(60)])
    _, test = held_out_share(items)
    assert all(12 <= count <= 14 for count in Counter(item.label for item in test).values())


def test_group_that_grows_stays_in_its_part() -> None:
    images = [(label, f"{label} {number // 3}") for label in range(2) for number in range(60)]
    _, test = held_out_share(items_of(images))
    _, grown = held_out_share(items_of([*images, (0, test[0].group)]))
    assert {item.group for item in test} == {item.group for item in grown}


def test_copies_of_an_image_bind_their_groups() -> None:
    items = items_of([(0, f"patient {number // 2}") for number in range(40)])
    copies = [Item(Picture(Path("/copy")), 0, items[0].digest, "patient 19"), *items]
    for part in held_out_share(copies):
        assert len({"patient 0", "patient 19"} & {item.group for item in part}) in (0, 2)


def manifest(folder: Path, suffix: str = ".csv", column: str = "patient") -> Path:
    """Twelve images of three classes, two of a patient."""
    task = tiny_task(folder / "photos", images=4)
    rows = [
        {"path": str(item.picture.path), "label": task.classes.names[item.label], column: number // 2}
        for number, item in enumerate(sorted((*task.train, *task.test), key=lambda item: str(item.picture.path)))
    ]
    path = folder / f"labels{suffix}"
    lines = [json.dumps(row) for row in rows]
    if suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_column_of_a_manifest_names_the_groups(tmp_path: Path, suffix: str) -> None:
    task = read_task(manifest(tmp_path, suffix), group_column="patient")
    assert {item.group for item in (*task.train, *task.test)} == {str(number) for number in range(6)}
    assert Counter(item.label for item in task.test) == {0: 2, 1: 2, 2: 2}  # a whole patient of each class
    assert task.test_origin == "about a fifth of each class, in whole groups of patient"


def test_task_list_names_the_group_column_of_a_task(tmp_path: Path) -> None:
    manifest(tmp_path)
    (tmp_path / "tasks.toml").write_text('[[task]]\ndata = "labels.csv"\ngroup_column = "patient"\n')
    (task,) = read_tasks(tmp_path / "tasks.toml")
    assert all(item.group for item in task.train)


def test_column_that_no_line_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match=r"no column 'track' .*; its columns: path, label, patient\."):
        read_task(manifest(tmp_path), group_column="track")


def test_groups_without_a_manifest_are_refused(tmp_path: Path) -> None:
    tiny_task(tmp_path / "photos")
    with pytest.raises(UsageError, match=r"a group column \(track\) goes with a manifest"):
        read_task(tmp_path / "photos", group_column="track")
    with pytest.raises(UsageError, match=r"the group column is 'label'; expected a column of its own"):
        read_task(manifest(tmp_path), group_column="label")


def test_group_that_the_split_tears_apart_is_a_warning(tmp_path: Path) -> None:
    task = tiny_task(tmp_path / "photos", images=2)
    names, items = task.classes.names, [*task.train, *task.test]
    rows = [
        f"{item.picture.path},{names[item.label]},{part},p7"
        for part, item in zip(("train", "test") * 3, items, strict=True)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split,patient", *rows]))
    report = examine(read_task(tmp_path / "labels.csv", group_column="patient"))
    (said,) = [problem.message for problem in report.warnings if problem.kind == "torn groups"]
    assert said == "1 group has images in the test part and in another, e.g. 'p7'; the accuracy there is too high"
