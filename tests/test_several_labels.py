"""Several labels a picture: how they are read, dealt and drawn, what is learned, predicted and measured."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

import shotfit
from shotfit.data.doctor import examine
from shotfit.data.readers import read_task
from shotfit.data.shots import deal_sets, draw_sets
from shotfit.data.tasks import Task
from shotfit.engine.store import MemoryStore
from shotfit.errors import NewClassesError, ShotfitError, UsageError
from shotfit.evaluation.several_labels import evaluate_labels
from shotfit.fitting.asked import Asked
from shotfit.fitting.heldout import HeldOut
from shotfit.fitting.model import Model
from shotfit.fitting.several_labels import HIGHEST, several_trust_of, thresholds_of
from shotfit.methods.dualadapter.negative_cache import cache_of_sets
from shotfit.methods.linear_probe import LinearProbe
from shotfit.methods.several_labels import average_precision, offsets, set_loss
from shotfit.testing.tiny import tiny_backbone
from shotfit.towers.backbone import Backbone

from .pictures import save
from .test_cli import Shell, shell

__all__ = ["shell"]  # a fixture

LABELS = ["red", "blue", "red|blue", "", "red|green", "green"] * 5


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


def pictures(folder: Path, count: int) -> list[str]:
    random, names = np.random.default_rng(0), [f"{number:02}.png" for number in range(count)]
    for name, label in zip(names, LABELS, strict=False):
        pixels = random.integers(0, 80, (32, 32, 3), dtype=np.uint8)
        for channel, color in enumerate(("red", "green", "blue")):
            pixels[..., channel] += 150 * (color in label)
        save(folder / name, Image.fromarray(pixels))
    return names


def manifest(folder: Path, lines: list[str], name: str = "labels.csv") -> Path:
    pictures(folder, len(LABELS))
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def plain(folder: Path) -> Path:
    return manifest(folder, ["path,label", *(f"{place:02}.png,{label}" for place, label in enumerate(LABELS))])


def labels_in(task: Task) -> dict[str, set[str]]:
    return {item.picture.path.name: {task.classes.names[label] for label in item.labels}
            for item in (*task.train, *task.val, *task.test)}  # fmt: skip


EXPECTED = {f"{place:02}.png": set(label.split("|")) - {""} for place, label in enumerate(LABELS)}


def test_all_forms_say_the_same(tmp_path: Path) -> None:
    columns = [f"{place:02}.png,{int('red' in label)},{int('green' in label)},{int('blue' in label)}"
               for place, label in enumerate(LABELS)]  # fmt: skip
    lists = [json.dumps({"path": f"{place:02}.png", "label": [one for one in label.split("|") if one]})
             for place, label in enumerate(LABELS)]  # fmt: skip
    forms = [
        plain(tmp_path / "text"),
        manifest(tmp_path / "columns", ["path,red,green,blue", *columns]),
        manifest(tmp_path / "lists", lists, "labels.jsonl"),
    ]
    for form in forms:
        task = read_task(form, several_labels=True)
        assert task.classes.names == ("blue", "green", "red")
        assert labels_in(task) == EXPECTED


def test_lists_of_parquet_and_of_numbers_with_names(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    names = pictures(tmp_path, len(LABELS))
    numbers = [[("red", "green", "blue").index(one) for one in label.split("|") if one] for label in LABELS]
    feature = {"label": {"feature": {"_type": "ClassLabel", "names": ["red", "green", "blue"]}, "_type": "Sequence"}}
    told = {b"huggingface": json.dumps({"info": {"features": feature}}).encode()}
    table = pa.table({"path": names, "label": numbers})
    pq.write_table(table.replace_schema_metadata(told), tmp_path / "labels.parquet")
    assert labels_in(read_task(tmp_path / "labels.parquet", several_labels=True)) == EXPECTED


def test_class_that_no_picture_has_is_named(tmp_path: Path) -> None:
    lines = ["path,red,green,pink", "00.png,1,0,0", "01.png,0,1,0", "02.png,1,1,0"]
    task = read_task(manifest(tmp_path / "csv", lines), several_labels=True)
    assert task.classes.names == ("green", "red")
    assert task.notes == ("1 of 3 class names have no picture: pink",)
    parts = {part: ["file_name,red,green", f"{part}.png,{int(part == 'train')},0"] for part in ("train", "val")}
    for part, told in parts.items():  # a class of one file alone, and one of none
        save(tmp_path / "parts" / part / f"{part}.png")
        (tmp_path / "parts" / part / "metadata.csv").write_text("\n".join(told))
    several = read_task(tmp_path / "parts", several_labels=True)
    assert (several.classes.names, several.notes) == (("red",), ("1 of 2 class names have no picture: green",))
    images, given = [bytes([number]) for number in range(3)], [[0], [2], []]
    listed = shotfit.Task.from_images(images, given, classes=["red", "green", "blue"], several_labels=True)
    assert listed.notes == ("1 of 3 class names have no picture: green",)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["path,a|b,blue", "00.png,1,0", "01.png,0,1"], "has the column 'a|b', which is no name of a class"),
        ([",path,red", "0,00.png,1", "1,01.png,0"], "leave a column of row numbers out"),
        (["path,red,red", "00.png,1,0", "01.png,0,1"], "has two columns 'red'"),
        (["path,label", "00.png,red", '01.png,"[""red"", ""blue""]"'], "looks like a list in a text"),
        (["path,label,red", "00.png,red,1", "01.png,blue,0"], "leave one of the two forms out"),
        (["path,red,blue", "00.png,1,0", "01.png,2,1"], "line 3: the column 'red' is '2'; the column of a class holds"),
        (["path,label", "00.png,", "01.png,"], "labels no picture"),
        (["path,label", "00.png,red||blue", "01.png,"], "has an empty name among its labels"),
    ],
)
def test_bad_lists_are_refused_in_a_line(lines: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ShotfitError) as caught:
        read_task(manifest(tmp_path, lines), several_labels=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_that_every_picture_has_is_judged_and_not_fitted_to(tmp_path: Path) -> None:
    labels = manifest(tmp_path, ["path,label", "00.png,red", "01.png,red"])
    task = read_task(labels, several_labels=True)
    assert not examine(task, to_fit=False).errors
    with pytest.raises(ShotfitError, match=r"one class, 'red', and every picture has it: add pictures without it"):
        shotfit.fit(labels, "zero_shot", several_labels=True)


def test_forms_are_not_mixed(tmp_path: Path) -> None:
    lines = ['{"path": "00.png", "label": ["red"]}', '{"path": "01.png", "label": "red|blue"}']
    with pytest.raises(ShotfitError, match=r"line 2: the labels are texts, but lists in .*line 1; write them in one"):
        read_task(manifest(tmp_path, lines, "labels.jsonl"), several_labels=True)


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (["path,label", "00.png,red", "01.png,blue", "02.png,red|blue"], "labels.csv"),
        (["path,red,blue", "00.png,1,0", "01.png,1,1"], "labels.csv"),
        (['{"path": "00.png", "label": ["red", "blue"]}'], "labels.jsonl"),
    ],
)
def test_several_labels_without_the_flag_say_what_to_do(lines: list[str], name: str, tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match="--several-labels"):
        read_task(manifest(tmp_path, lines, name))


def test_a_bar_in_a_name_separates_nothing_without_the_flag(tmp_path: Path) -> None:
    task = read_task(manifest(tmp_path, ["path,label", "00.png,AC|DC", "01.png,Kiss"]))
    assert task.classes.names == ("AC|DC", "Kiss")


def test_class_folders_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "red" / "1.png")
    with pytest.raises(UsageError, match="goes with a list of pictures"):
        read_task(tmp_path, several_labels=True)


sets_of_images = st.lists(st.sets(st.integers(-1, 4), min_size=1, max_size=3).map(tuple), min_size=1, max_size=40)


@given(sets_of_images, st.integers(1, 5), st.integers(0, 100))
def test_shots_give_each_class_as_many_images_as_it_has(sets: list[tuple[int, ...]], shots: int, seed: int) -> None:
    chosen, _ = draw_sets(sets, [], shots, seed)
    there, drawn = (Counter(label for own in some for label in own) for some in (sets, [sets[one] for one in chosen]))
    assert len(set(chosen)) == len(chosen)
    assert all(drawn[label] >= min(shots, there[label]) for label in there)
    assert (chosen, []) == draw_sets(sets, [], shots, seed)


@given(sets_of_images, st.integers(2, 4), st.integers(0, 100))
def test_no_fold_takes_a_class_away(sets: list[tuple[int, ...]], folds: int, seed: int) -> None:
    dealt = deal_sets(sets, folds, seed)
    for label in {label for own in sets for label in own}:
        assert len({dealt[place] for place, own in enumerate(sets) if label in own}) > 1 or any(
            dealt[place] == -1 for place, own in enumerate(sets) if label in own
        )


def test_folds_are_even_and_keep_groups() -> None:
    random = np.random.default_rng(1)
    sets = [tuple(np.flatnonzero(random.random(5) < 0.3).tolist()) or (-1,) for _ in range(200)]
    dealt = deal_sets(sets, 4, 1)
    for label in range(-1, 5):
        counts = Counter(fold for fold, own in zip(dealt, sets, strict=True) if label in own)
        assert max(counts.values()) - min(counts.values()) <= 4
    groups = [f"g{place % 25}" for place in range(200)]
    together = deal_sets(sets, 4, 1, groups)
    assert len(set(zip(groups, together, strict=True))) == 25


@given(st.integers(2, 30), st.integers(0, 1000))
def test_average_precision_is_scikit_learns(images: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, (images, 3))
    scores = random.integers(0, 6, (images, 3)).astype(float)  # some are equal
    found = average_precision(torch.tensor(scores), torch.tensor(truth, dtype=torch.double))
    for place in range(3):
        if truth[:, place].any():
            assert abs(float(found[place]) - average_precision_score(truth[:, place], scores[:, place])) < 1e-12


def test_loss_is_that_of_the_best_offsets() -> None:
    torch.manual_seed(0)
    logits = torch.randn(40, 3, dtype=torch.double) * 5 + 30
    sets = (torch.rand(40, 3) < 0.3).double()
    bias = offsets(logits, sets)
    expected = (sets.sum(dim=0) + 0.5) * 40 / 41
    assert torch.allclose(torch.sigmoid(logits + bias).sum(dim=0), expected)
    assert torch.allclose(set_loss(logits, sets), set_loss(logits - 17.0, sets))  # where logits begin means nothing


def test_linear_probe_is_scikit_learns_regression_of_each_class() -> None:
    random = np.random.default_rng(0)
    features, sets = random.normal(size=(60, 8)), (random.random((60, 3)) < 0.4).astype(float)
    probe = LinearProbe(tolerance=1e-9)
    weight, bias = probe._fit_sets(features, sets, 0.5)
    for place in range(3):
        own = LogisticRegression(C=0.5, tol=1e-9, max_iter=1000).fit(features, sets[:, place])
        assert np.allclose(weight[place], own.coef_[0], atol=1e-5)
        assert np.allclose(bias[place], own.intercept_[0], atol=1e-5)


def test_negative_keys_are_of_images_without_the_class() -> None:
    keys, sets = torch.eye(4), torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    cache = cache_of_sets(keys, sets)
    assert cache.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(cache.keys, keys[[0, 1, 0, 3]])
    assert cache.opposite is not None
    assert torch.equal(cache.opposite, keys[[2, 3, 1, 2]])  # one image without the class for each of its own


def test_thresholds_are_bounded_and_common_where_images_are_few() -> None:
    probabilities = torch.tensor([[0.9, 0.9], [0.8, 0.8], [0.2, 0.7], [0.1, 0.1]]).repeat(5, 1)
    sets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]).repeat(5, 1)
    sets[0, 1] = 1.0  # a single image of the second class
    own, common = thresholds_of(probabilities, sets).tolist()
    assert own == pytest.approx(0.5)  # halfway between 0.8 and 0.2
    assert 0 < common <= HIGHEST


def test_probabilities_are_calibrated() -> None:
    torch.manual_seed(0)
    chance = torch.rand(4000, 2)
    sets = (torch.rand(4000, 2) < chance).float()
    trust = several_trust_of(HeldOut(10 * chance.logit() + 50, sets, torch.zeros(4000, 1), "by hand"))
    said = trust.calibration(10 * chance.logit() + 50).sigmoid()
    assert float((said - chance).abs().mean()) < 0.03


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> tuple[Model, Path]:
    labels = plain(tmp_path_factory.mktemp("data"))
    model = shotfit.fit(
        labels, "linear_probe", several_labels=True, backbone=backbone, store=MemoryStore(), keep=True
    )  # fmt: skip
    return model, labels


def test_model_predicts_sets_and_none(fitted: tuple[Model, Path], tmp_path: Path) -> None:
    model, labels = fitted
    names = [labels.parent / f"{place:02}.png" for place in range(6)]
    said = model.predict(names)
    assert [set(one.labels) for one in said] == [set(label.split("|")) - {""} for label in LABELS[:6]]
    assert all(len(one.labels) == 3 for one in model.predict(names, top=3))
    again = Model.open(model.save(tmp_path / "model"), trust_backbone=True)
    assert again.several_labels
    assert again.predict(names) == said
    record = json.loads((tmp_path / "model" / "adapter.json").read_text())
    assert record["classes"][0]["several_labels"] is True
    assert record["checked"]["mean_average_precision"] > 0.9


def test_model_is_measured(fitted: tuple[Model, Path]) -> None:
    scores = evaluate_labels(fitted[0], fitted[1])
    assert scores.mean_average_precision > 0.9
    assert scores.unlabelled == sum(not EXPECTED[item.picture.path.name] for item in read_task(
        fitted[1], several_labels=True).test)  # fmt: skip


def test_what_is_about_one_label_is_refused(fitted: tuple[Model, Path], backbone: Backbone) -> None:
    model, labels = fitted
    task = read_task(labels, several_labels=True)
    with pytest.raises(UsageError, match="score it with evaluate_labels"):
        shotfit.evaluate(model, task)
    with pytest.raises(UsageError, match="about one label a picture"):
        shotfit.compare(task, ["zero_shot"], shots=[1], seeds=[1], backbone=backbone)
    with pytest.raises(NewClassesError):
        model.for_classes(["other", "another"])
    with pytest.raises(UsageError, match="gives each image one label, and several are asked for: choose one of zero_"):
        shotfit.fit(task, "coop", backbone=backbone)
    with pytest.raises(UsageError, match="for models that give each picture one label"):
        model.predict(labels.parent / "00.png", asked=Asked(coverage=0.9))


def test_lists_of_labels_from_python(tmp_path: Path, backbone: Backbone) -> None:
    names = [tmp_path / name for name in pictures(tmp_path, len(LABELS))]
    labels: Any = [[one for one in label.split("|") if one] for label in LABELS]
    model = shotfit.fit(
        names, labels, "zero_shot", several_labels=True, backbone=backbone, store=MemoryStore(), check=False
    )  # fmt: skip
    assert model.class_names == ("blue", "green", "red")


def test_command_line(shell: Shell, tmp_path: Path, backbone: Backbone) -> None:
    labels, place = plain(tmp_path), str(tmp_path / "model")
    tower = ["--backbone", str(backbone.name)]
    done = shell("fit", str(labels), "--several-labels", "--method", "taskres", "--epochs", "3", *tower, "--out", place)
    assert done.code == 0, done.err
    assert "labels: 1.2 a picture, 5 pictures without any" in done.out
    assert "mean average precision on" in done.out
    rows = shell("predict", place, str(tmp_path / "02.png"), *tower, "--format", "csv").out.splitlines()
    assert rows[0] == "image,label,probability,error"
    told = shell("evaluate", place, str(labels), *tower, "--json")
    assert json.loads(told.out)["mean_average_precision"] >= 0
    assert "exact" in json.loads(told.out)
    together = shell("evaluate", place, str(labels), *tower, "--transductive")
    assert together.code == 2 and "--transductive goes with models that give each picture one label" in together.err
    exported = shell("export", place, *tower, "--out", str(tmp_path / "export"))
    assert exported.code == 2
