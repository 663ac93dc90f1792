"""Wrong labels and doubles, as a user types it, and what the judgement on arrays promises."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import shotfit
from shotfit.data.shots import deal
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation import doubles
from shotfit.evaluation.confident import FOLDS, PENALTIES, judge_labels
from shotfit.evaluation.doubles import doubles_of, first_of_each, nearest, nearest_of_class, unit
from shotfit.fitting.heldout import best_temperature, log_likelihoods

from .test_cli import Shell, one_line

CLIPART = Path(__file__).parent.parent / "examples" / "clipart"
WRONG = ("tool/bird_05.png", "bird/tool_04.png")
Matrix = NDArray[Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings of three classes with two wrong labels, a drawing under two, a mirrored one, and a broken file."""
    folder = tmp_path_factory.mktemp("clean")
    for name in ("bird", "fruit", "tool"):
        (folder / "photos" / name).mkdir(parents=True)
        for path in sorted((CLIPART / name).glob("*.png"))[:10]:
            shutil.copy(path, folder / "photos" / name)
    for wrong in WRONG:
        name = Path(wrong).name
        shutil.move(folder / "photos" / name.split("_")[0] / name, folder / "photos" / wrong)
    shutil.copy(folder / "photos" / "fruit" / "fruit_03.png", folder / "photos" / "tool" / "same.png")
    with Image.open(folder / "photos" / "bird" / "bird_02.png") as image:
        image.convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "photos" / "bird" / "mirror.png")
    (folder / "photos" / "fruit" / "broken.png").write_text("broken")
    return folder


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(home)
    return Shell(capsys)


def named(image: str) -> str:
    return "/".join(Path(image).parts[-2:])


def test_wrong_labels_come_first_with_the_likely_one(shell: Shell) -> None:
    done = shell("clean", "photos", "-n", 4, "--json")
    assert done.code == 4 and "left out: " in done.err and "fruit/broken.png" in done.err
    found = json.loads(done.out)
    first = {named(one["image"]): one for one in found["suspects"][:3]}
    assert {*WRONG, "tool/same.png"} == {*first}
    assert [first[name]["likely"] for name in WRONG] == ["bird", "tool"]
    assert all("/bird/" in near for near in first[WRONG[0]]["nearest"])
    assert found["images"] == 32 and found["wrong"] >= 3 and len(found["left_out"]) == 1


def test_doubles_under_two_labels_come_first(shell: Shell) -> None:
    doubles = json.loads(shell("clean", "photos", "--json").out)["doubles"]
    assert {*map(named, doubles[0]["images"])} == {"fruit/fruit_03.png", "tool/same.png"}
    assert doubles[0]["same"] and {*doubles[0]["labels"]} == {"fruit", "tool"}
    mirrored = next(one for one in doubles if "bird/mirror.png" in map(named, one["images"]))
    assert not mirrored["same"] and mirrored["cosine"] >= 0.97


def test_table_and_csv_have_both_kinds_of_rows(shell: Shell, tmp_path: Path) -> None:
    done = shell("clean", "photos", "-n", 3)
    assert "1  photos/" in done.out and str(Path.cwd()) not in done.out
    assert done.code == 4 and "same picture, in several labels" in done.out
    assert done.out.splitlines()[-1].endswith("of doubles")
    assert shell("clean", "photos", "-n", 0, "--out", tmp_path / "all.csv").code == 4
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert sum(row["problem"] == "label" for row in rows) == 32
    assert {row["label"] for row in rows if row["problem"] == "same picture, in several labels"} == {"fruit|tool"}


def test_folder_is_as_it_was(shell: Shell, home: Path) -> None:
    before = {path: path.read_bytes() for path in sorted((home / "photos").glob("*/*"))}
    shell("clean", "photos")
    assert {path: path.read_bytes() for path in sorted((home / "photos").glob("*/*"))} == before


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["clean", "nowhere"], 3, "nowhere"),
        (["clean", "photos", "--format", "xml"], 2, "There is no format 'xml'"),
        (["clean", "photos", "--out", "photos"], 2, "is a folder"),
        (["clean", "photos", "-n", -1], 2, "-n"),
        (["clean", "photos", "--backbone", "no-such-model"], 2, "no-such-model"),
    ],
)
def test_wrong_call_is_one_line(shell: Shell, words: list[object], code: int, sentence: str) -> None:
    done = shell(*words)
    assert done.code == code and sentence in one_line(done)


def test_python_takes_images_and_a_sealed_task(home: Path) -> None:
    task = shotfit.read_task(home / "photos")
    whole = [item for item in task.train if item.picture.path.name != "broken.png"]
    found = shotfit.clean([item.picture for item in whole], [task.classes.names[item.label] for item in whole])
    assert found.images == len(whole) and len(found.to_frame()) == len(found.rows())
    assert "<table>" in found._repr_html_()
    sealed = shotfit.Task.from_images([item.picture for item in whole], [item.label for item in whole]).sealed()
    assert shotfit.clean(sealed).images == len(sealed.train)
    with pytest.raises(UsageError, match="count is 0"):
        shotfit.clean(sealed, count=0)


def blobs(n: int, classes: int, seed: int) -> tuple[Matrix, Matrix]:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return np.eye(classes + 2)[labels] * 2 + random.normal(size=(n, classes + 2)) * 0.5, labels


@settings(max_examples=20)
@given(st.integers(0, 999), st.integers(2, 6))
def test_planted_labels_are_ranked_first(seed: int, classes: int) -> None:
    features, true = blobs(60, classes, seed)
    labels = true.copy()
    wrong = np.random.default_rng(seed).choice(60, 3, replace=False)
    labels[wrong] = (labels[wrong] + 1) % classes
    judged = judge_labels(features, labels, classes)
    assert np.isin(wrong, judged.order[:8]).sum() >= 2
    assert np.allclose(judged.probabilities.sum(axis=1), 1)
    assert (judged.likely != labels).all() and (judged.score <= 1).all()
    assert (judged.score[judged.order] == np.sort(judged.score)[::-1]).all()


def test_no_image_is_judged_by_itself_its_double_or_its_group() -> None:
    random = np.random.default_rng(1)
    features, labels = random.normal(size=(40, 200)), np.arange(40) % 2  # nothing to be learned but each by heart
    alone = judge_labels(features, labels)
    twice = judge_labels(np.repeat(features, 2, axis=0), np.repeat(labels, 2))
    groups = [f"track {row // 4}" for row in range(80)]
    for judged in (alone, twice, judge_labels(np.repeat(features, 2, axis=0), np.repeat(labels, 2), groups=groups)):
        given = judged.score < 0.5
        assert 0.2 < given.mean() < 0.8


def test_image_alone_in_its_class_is_not_judged() -> None:
    features, labels = blobs(21, 2, 3)
    labels[20] = 2
    judged = judge_labels(features, labels)
    assert judged.score[20] == -1 and not judged.wrong[20] and judged.order[-1] == 20
    assert (judge_labels(features, np.zeros(21, dtype=int)).score == -1).all()


@pytest.mark.parametrize(
    ("features", "labels", "classes", "sentence"),
    [
        (np.zeros((0, 2)), [], None, "features is an array"),
        (np.full((2, 2), np.inf), [0, 1], None, "finite"),
        (np.ones((2, 2)), [0], None, "a whole number for each of the 2 rows"),
        (np.ones((2, 2)), [0.5, 1.0], None, "a whole number"),
        (np.ones((2, 2)), [0, 2], 2, "labels go from 0 to 2"),
        (np.ones((2, 2)), [-1, 0], None, "labels go from -1"),
    ],
)
def test_wrong_arrays_are_one_sentence(features: Matrix, labels: Any, classes: int | None, sentence: str) -> None:
    with pytest.raises(ShotfitError, match=sentence):
        judge_labels(features, labels, classes)


@settings(max_examples=40)
@given(st.integers(0, 999), st.integers(1, 30))
def test_every_row_is_in_one_group_of_its_likes(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    drawn = random.integers(0, n, n)
    features = random.normal(size=(n, 12))[drawn]
    groups = doubles_of(features, [str(one) for one in drawn], near=0.9999)
    rows = [row for group in groups for row in group.rows]
    assert len(rows) == len(set(rows)) and all(group.same for group in groups)
    assert all(len({drawn[row] for row in group.rows}) == 1 for group in groups)
    assert first_of_each(features, 0.9999).sum() == len(set(drawn.tolist()))


def test_doubles_across_labels_and_parts_are_the_worst() -> None:
    features = np.repeat(np.eye(3), 2, axis=0)
    digests = ["a", "a", "b", "b", "c", "d"]
    found = doubles_of(features, digests, [0, 0, 1, 1, 0, 1], ["train", "train", "train", "test", "val", "test"])
    assert [(one.rows, one.same, one.two_labels, one.two_parts) for one in found] == [
        ((4, 5), False, True, True), ((2, 3), True, False, True), ((0, 1), True, False, False),
    ]  # fmt: skip


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 999), st.integers(1, 40), st.integers(1, 5))
def test_nearest_in_blocks_is_the_nearest(monkeypatch: pytest.MonkeyPatch, seed: int, n: int, count: int) -> None:
    monkeypatch.setattr(doubles, "_CELLS", 50)
    random = np.random.default_rng(seed)
    features, same = unit(random.normal(size=(n, 6))), random.integers(0, n, n)
    rows, among = random.integers(0, n, 2 * n), np.flatnonzero(random.random(n) < 0.7)
    found = nearest(features, rows, among, count, same)
    for row, near in zip(rows.tolist(), found, strict=True):
        others = [place for place in among.tolist() if same[place] != same[row]]
        expected = sorted(others, key=lambda place: -float(features[place] @ features[row]))[:count]
        assert [place for place, _ in near] == expected
        assert np.allclose([cosine for _, cosine in near], features[expected] @ features[row], atol=1e-6)
    wanted = random.integers(0, n, len(rows))
    for row, label, near in zip(rows, wanted, nearest_of_class(features, rows, wanted, same, count), strict=True):
        (alone,) = nearest(features, [row], np.flatnonzero(same == label), count)
        assert [place for place, _ in near] == [place for place, _ in alone]


def test_doubles_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubles, "_CELLS", 7 * 40)
    features = np.random.default_rng(0).normal(size=(40, 64))
    features[33] = features[2] + 0.01
    assert [one.rows for one in doubles_of(features)] == [(2, 33)]


@pytest.mark.parametrize("embed", [8, 300])
def test_probabilities_are_those_of_ridge_regression(embed: int) -> None:
    random = np.random.default_rng(2)
    labels = np.arange(90) % 3
    features = unit(np.eye(3, embed)[labels] + random.normal(size=(90, embed)) * 0.4)
    folds = np.array(deal(labels.tolist(), FOLDS, 1))
    by_penalty = []
    for penalty in PENALTIES:
        logits = np.zeros((90, 3))
        for fold in range(FOLDS):
            rows = np.hstack([features, np.ones((90, 1))]).astype(np.float64)
            held, learned = rows[folds == fold], rows[folds != fold]
            square = learned.T @ learned + penalty * np.eye(embed + 1)
            logits[folds == fold] = held @ np.linalg.solve(square, learned.T @ np.eye(3)[labels[folds != fold]])
        by_penalty.append(torch.from_numpy(logits))
    given = torch.from_numpy(labels)
    best = max(by_penalty, key=lambda one: float(log_likelihoods(one, given, [3]).mean()))
    expected = (best / best_temperature(best, given, [3])).softmax(dim=1).numpy()
    assert np.allclose(judge_labels(features, labels).probabilities, expected, atol=1e-6)
