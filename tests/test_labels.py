"""What a fit learns from, as a user types it: all labels, some, the held-out ones too, one a class, or none at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import shotfit
from shotfit.commands.arguments import as_classes
from shotfit.data.readers import read_task
from shotfit.data.tasks import Task
from shotfit.engine.store import MemoryStore
from shotfit.errors import UsageError
from shotfit.evaluation.compare import compare
from shotfit.fitting.fit import fit
from shotfit.fitting.fitter import Fitter, Setting
from shotfit.fitting.learned import count_learned
from shotfit.fitting.model import Model
from shotfit.fitting.record import read_record
from shotfit.fitting.refit import refit
from shotfit.methods import METHODS, find
from shotfit.methods.base import Method
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone

from .test_cli import Result, Shell, one_line

PROBE = ["--method", "linear_probe", "--keep"]
ON_IT = ["--backbone", "backbone"]  # a model that was fitted on a path opens where it is named
OPTIONS = {"coop": {"length": "4"}, "coop_mt": {"length": "4"}, "softcpt": {"length": "4"}}


@pytest.fixture(scope="module", autouse=True)
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backbone]:
    """A tiny backbone, which every command finds as `backbone` in its folder."""
    folder = tmp_path_factory.mktemp("labels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOTFIT_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield tiny_backbone(Path("backbone"))


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty images of three classes, six of them held out."""
    tiny_task(tmp_path / "photos", images=10)
    return tmp_path / "photos"


def last(result: Result) -> dict[str, object]:
    assert result.code == 0, result.err
    return dict(json.loads(result.out.splitlines()[-1]))


def unequal(folder: Path, *counts: int) -> Task:
    """A task whose classes have these numbers of images."""
    names = [f"class {number}" for number in range(len(counts))]
    tiny_task(folder, names, images=max(counts))
    for name, count in zip(names, counts, strict=True):
        for number in range(count, max(counts)):
            (folder / name / f"{number}.png").unlink()
    return read_task(folder)


# All labels, or some


def test_fit_learns_from_all_labelled_images(shell: Shell, photos: Path, tmp_path: Path) -> None:
    result = shell("fit", photos, "--backbone", "backbone", *PROBE, "--out", tmp_path / "m")
    assert "learned from 24 of 24 labelled images (6 more are held out)" in "".join(result.out.splitlines()[:3])
    assert "24 of 24 labelled images (all shots, seed 1)" in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.parametrize(("shots", "learned", "recorded"), [(0, 24, None), (4, 12, 4)])
def test_shots_draw_and_none_of_them_is_all(
    shell: Shell,
    photos: Path,
    tmp_path: Path,
    shots: int,
    learned: int,
    recorded: int | None,
) -> None:
    words = ["fit", photos, "--backbone", "backbone", *PROBE, "--shots", shots, "--out", tmp_path / "m", "--json"]
    result = shell(*words)
    assert f"learned from {learned} of 24 labelled images" in result.err
    found = last(result)
    assert (found["shots"], found["support_images"], found["labelled_images"]) == (recorded, learned, 24)


def test_python_fits_to_all_images(photos: Path, backbone: Backbone) -> None:
    model = fit(photos, "tip_adapter", backbone=backbone, store=MemoryStore())
    assert (model.record["support_images"], model.record["shots"]) == (24, None)


def test_comparisons_keep_their_shots(photos: Path, backbone: Backbone, tmp_path: Path) -> None:
    (row,) = compare(read_task(photos), ["tip_adapter"], [2], [1], backbone=backbone, out=tmp_path / "runs.jsonl")
    assert row.shots == 2


# The images that a model has learned


def test_evaluate_says_where_it_judges_on_learned_images(shell: Shell, photos: Path, tmp_path: Path) -> None:
    shell("fit", photos, "--backbone", "backbone", *PROBE, "--out", tmp_path / "m")
    held_out = shell("evaluate", tmp_path / "m", photos, "--json", *ON_IT)
    assert last(held_out)["learned_images"] == 0
    assert "held-out figure" not in held_out.err
    everything = shell("evaluate", tmp_path / "m", photos, "--all", *ON_IT)
    said = "24 of these 30 images are among those that the model learned from: this is no held-out figure"
    assert said in everything.out.splitlines()


def test_learned_images_are_known_under_another_name(shell: Shell, photos: Path, tmp_path: Path) -> None:
    shell("fit", photos, "--backbone", "backbone", *PROBE, "--out", tmp_path / "m")
    for image in sorted(photos.glob("*/*.png")):
        (tmp_path / "moved" / image.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / "moved" / image.parent.name / f"copy-{image.name}")
    assert (
        last(shell("evaluate", tmp_path / "m", tmp_path / "moved", "--all", "--json", *ON_IT))["learned_images"] == 24
    )


def test_images_that_a_fit_was_chosen_by_count_as_learned(photos: Path, backbone: Backbone) -> None:
    task = read_task(photos)
    split = replace(task, train=task.train[::2], val=task.train[1::2])
    model = fit(split, "linear_probe", backbone=backbone, store=MemoryStore(), keep=True)
    drawn = split.support(None, 1)
    assert count_learned(model, drawn.train) == len(drawn.train)
    assert count_learned(model, drawn.val) == len(drawn.val)
    assert count_learned(model, task.test) == 0


def test_zero_shot_has_learned_no_image(photos: Path, backbone: Backbone) -> None:
    task = read_task(photos)
    assert count_learned(fit(task, "zero_shot", backbone=backbone, store=MemoryStore()), task.train) == 0


def test_what_was_learned_is_saved_in_eight_bytes_an_image(photos: Path, backbone: Backbone, tmp_path: Path) -> None:
    task = read_task(photos)
    model = fit(task, "linear_probe", backbone=backbone, store=MemoryStore(), keep=True)
    opened = Model.open(model.save(tmp_path / "m"), backbone)
    assert torch.equal(opened.learned, model.learned)
    assert (opened.learned.dtype, len(opened.learned)) == (torch.int64, 24)
    assert count_learned(opened.for_task(task.name), task.train) == 24


# Refit


def test_refit_learns_the_held_out_images_after_they_were_measured(
    shell: Shell,
    photos: Path,
    tmp_path: Path,
) -> None:
    words = ["fit", photos, "--backbone", "backbone", *PROBE, "--json"]
    plain = last(shell(*words, "--out", tmp_path / "plain"))
    result = shell(*words, "--out", tmp_path / "again", "--refit")
    again = last(result)
    assert (again["accuracy"], again["test_images"]) == (plain["accuracy"], plain["test_images"])
    assert (again["support_images"], again["learned_images"], again["refit"]) == (30, 30, True)
    assert (plain["support_images"], plain["learned_images"], plain["refit"]) == (24, 24, False)
    assert "fitted again to 30 labelled images, the 6 held-out ones among them" in result.err
    assert "has no held-out figure of its own" in (tmp_path / "again" / "README.md").read_text()
    said = "6 of these 6 images are among those that the model learned from: this is no held-out figure"
    judged = shell("evaluate", tmp_path / "again", photos, "--json", *ON_IT)
    assert said in judged.err
    assert last(judged)["learned_images"] == 6


def test_refit_is_the_fit_of_all_images(shell: Shell, photos: Path, tmp_path: Path) -> None:
    words = ["fit", photos, "--backbone", "backbone", "--method", "taskres", "--epochs", 2, "--keep", "--no-check"]
    words += ["--recipe", "paper"]
    assert shell(*words, "--refit", "--out", tmp_path / "m").code == 0
    task = read_task(photos)
    whole = replace(task, train=(*task.train, *task.test), held_out=())
    expected = fit(whole, "taskres", epochs=2, backbone="backbone", store=MemoryStore(), check=False, recipe="paper")
    found = Model.open(tmp_path / "m", "backbone").method.state()
    assert all(torch.equal(found[name], value) for name, value in expected.method.state().items())


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("taskres", {"steps": 8}),
        ("taskres", {"epochs": 3, "lr": 0.01}),
        ("taskres", {"epochs": 3, "recipe": "paper"}),
        ("tip_adapter_f", {"steps": 8, "views": "center"}),
        ("linear_probe", {}),
    ],
)
def test_refit_chooses_nothing_anew(
    photos: Path, backbone: Backbone, method: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, store = read_task(photos), MemoryStore()
    model = fit(task.sealed(), method, backbone=backbone, store=store, keep=True, **settings)
    trained: list[tuple[Setting, dict[str, Any]]] = []
    train = Fitter.fit

    def note(fitter: Fitter, *words: Any, **named: Any) -> Method:
        prototype, items, _, _, setting = words
        trained.append((setting, prototype.options()))
        assert len(items) == 30
        return train(fitter, *words, **named)

    monkeypatch.setattr(Fitter, "fit", note)
    again = refit(model, [task], **{name: settings[name] for name in settings if name != "recipe"})
    expected = model.method.options() | model.method.chosen()
    assert trained == [(Setting(**model.record["choice"]["setting"]), expected)]
    same = ("recipe", "choice", "race", "selection", "checked", "trust", "shots")
    assert all(again.record[name] == model.record[name] for name in same)
    assert again.trust is model.trust and again.trust is not None
    assert again.record["training"].get("steps") == model.record["training"].get("steps")


def test_refit_of_drawn_shots_adds_the_held_out_images(shell: Shell, photos: Path, tmp_path: Path) -> None:
    words = ["fit", photos, "--backbone", "backbone", *PROBE, "--shots", 2, "--refit", "--out", tmp_path / "m"]
    found = last(shell(*words, "--json"))
    assert (found["shots"], found["support_images"]) == (2, 3 * 2 + 6)


def test_refit_of_zero_shot_changes_nothing_and_says_so(shell: Shell, photos: Path, tmp_path: Path) -> None:
    words = ["fit", photos, "--backbone", "backbone", "--method", "zero_shot", "--refit", "--out", tmp_path / "m"]
    result = shell(*words)
    assert "not fitted again: zero-shot learns from no image" in result.out
    assert "refit" not in read_record(tmp_path / "m")


# Classes of one image


@pytest.mark.parametrize("method", sorted(METHODS))
def test_class_with_one_image_is_learned_and_left_out_of_the_check(
    method: str, backbone: Backbone, tmp_path: Path
) -> None:
    task = unequal(tmp_path / "photos", 6, 5, 1)
    epochs, options = 1 if find(method).recipe else None, OPTIONS.get(method)
    model = fit(task, method, epochs=epochs, options=options, backbone=backbone, store=MemoryStore(), keep=True)
    assert model.record["support_images"] == 5 + 4 + 1
    if method != "zero_shot":
        assert model.record["checked"]["images"] == 5 + 4


def test_folder_of_single_images_is_fitted_without_a_figure(shell: Shell, tmp_path: Path) -> None:
    unequal(tmp_path / "photos", 1, 1, 1)
    words = ["fit", tmp_path / "photos", "--backbone", "backbone", "--method", "tip_adapter", "--out", tmp_path / "m"]
    result = shell(*words, "--json")
    assert "no image could be held out (no class has a second one)" in result.err
    assert "warning: 3 classes have a single train image" in result.err
    found = last(result)
    assert (found["test_images"], found["accuracy"], found["zero_shot_accuracy"]) == (0, None, None)
    assert shell("predict", tmp_path / "m", tmp_path / "photos", *ON_IT).code == 0


def test_task_of_single_images_among_others_is_fitted(shell: Shell, tmp_path: Path) -> None:
    unequal(tmp_path / "one", 1, 1, 1)
    tiny_task(tmp_path / "many", images=5)
    (tmp_path / "tasks.toml").write_text('[[task]]\ndata = "one"\n[[task]]\ndata = "many"\n')
    words = ["fit", "--tasks", tmp_path / "tasks.toml", "--backbone", "backbone", "--epochs", 1, "--keep"]
    words += ["--method", "softcpt", "--set", "length=4", "--out", tmp_path / "m", "--json"]
    found = last(shell(*words))
    assert found["test_images"] == 3
    assert read_record(tmp_path / "m")["checked"]["tasks"].keys() == {"many"}


# Groups


def test_groups_of_a_manifest_stay_together_from_fit_to_evaluate(shell: Shell, photos: Path, tmp_path: Path) -> None:
    images = sorted(photos.glob("*/*.png"))
    rows = [f"{image},{image.parent.name},{number // 2}" for number, image in enumerate(images)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,patient", *rows]))
    grouped = [tmp_path / "labels.csv", "--group-column", "patient"]
    result = shell("fit", *grouped, "--backbone", "backbone", *PROBE, "--out", tmp_path / "m")
    assert result.code == 0, result.err
    assert "test part: about a fifth of each class, in whole groups of patient" in result.out
    assert last(shell("evaluate", tmp_path / "m", *grouped, "--json", *ON_IT))["learned_images"] == 0
    torn = shell("evaluate", tmp_path / "m", tmp_path / "labels.csv", *ON_IT)
    assert "images are among those that the model learned from" in torn.out
    assert shell("doctor", *grouped).code == 0
    words = [
        "compare",
        *grouped,
        "--backbone",
        "backbone",
        "--shots",
        1,
        "--seeds",
        1,
        "--out",
        tmp_path / "runs.jsonl",
    ]
    assert shell(*words, "--methods", "zero_shot").code == 0


def test_group_column_of_a_folder_is_refused(shell: Shell, photos: Path) -> None:
    result = shell("fit", photos, "--backbone", "backbone", "--group-column", "patient")
    assert (result.code, "goes with a manifest" in one_line(result)) == (2, True)


# No labels


def test_class_names_alone_make_a_zero_shot_model(shell: Shell, photos: Path, tmp_path: Path) -> None:
    words = [
        "fit",
        "--classes",
        'red kite,"gull, herring"',
        "--template",
        "a sketch of a {}.",
        "--backbone",
        "backbone",
    ]
    result = shell(*words, "--out", tmp_path / "m", "--json")
    found = last(result)
    assert (found["method"], found["predicts_with"], found["support_images"]) == ("zero_shot", "zero_shot", 0)
    assert "learned from no image" in result.err and f"IMAGES --backbone {Path.cwd()}/backbone" in result.err
    record = read_record(tmp_path / "m")
    assert record["classes"][0]["names"] == ["red kite", "gull, herring"]
    assert record["classes"][0]["templates"] == ["a sketch of a {}."]
    assert "Learned from: no image" in (tmp_path / "m" / "README.md").read_text()
    predicted = shell("predict", tmp_path / "m", photos, "--format", "jsonl", *ON_IT).out.splitlines()
    assert len(predicted) == 30


def test_zero_shot_start_says_the_same_as_a_zero_shot_fit(photos: Path, backbone: Backbone) -> None:
    task = read_task(photos)
    started = shotfit.zero_shot(list(task.classes.names), templates=task.classes.templates, backbone=backbone)
    fitted = fit(task, "zero_shot", backbone=backbone, store=MemoryStore())
    assert torch.equal(started.probabilities(task.test), fitted.probabilities(task.test))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["PHOTOS"], "goes with images: leave one out"),
        (["--method", "coop"], "--method goes with images"),
        (["--refit"], "--refit goes with images"),
        (["--shots", "4"], "--shots goes with images"),
        (["--group-column", "patient"], "--group-column goes with images"),
    ],
)
def test_class_names_go_without_images(shell: Shell, photos: Path, words: list[str], sentence: str) -> None:
    result = shell("fit", *[photos if word == "PHOTOS" else word for word in words], "--classes", "a,b")
    assert (result.code, sentence in one_line(result)) == (2, True)


@pytest.mark.parametrize("classes", ["robin,Robin", "robin,,wren", "", '"robin'])
def test_class_names_that_are_no_list_are_refused(shell: Shell, tmp_path: Path, classes: str) -> None:
    result = shell("fit", "--classes", classes, "--backbone", "backbone", "--out", tmp_path / "m")
    assert result.code == 2
    assert "--classes" in one_line(result) or "twice" in one_line(result)
    assert not (tmp_path / "m").exists()


def test_class_names_come_from_a_file_for_fit_and_predict(shell: Shell, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffred kite\r\n\r\n  gull, herring \r\n", encoding="utf-8")
    names = f"@{tmp_path / 'names.txt'}"
    assert as_classes(names) == ["red kite", "gull, herring"]
    assert shell("fit", "--classes", names, "--backbone", "backbone", "--out", tmp_path / "m").code == 0
    picture = next(photos.rglob("*.png"))
    predicted = shell("predict", tmp_path / "m", picture, "--classes", names, "--format", "jsonl", *ON_IT)
    assert predicted.code == 0, predicted.err


def test_file_of_class_names_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        as_classes(f"@{tmp_path / 'names.txt'}")
    (tmp_path / "names.txt").write_text("\n \n")
    with pytest.raises(UsageError, match="is empty; expected one class name a line"):
        as_classes(f"@{tmp_path / 'names.txt'}")
