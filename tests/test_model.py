"""Saved models that were tampered with, moved, or whose backbone went elsewhere: one sentence, never a wrong answer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.methods import find
from shotfit.testing.tiny import tiny_backbone, tiny_task


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny_backbone(folder / "backbone")
    return _fit(folder, "taskres").save(folder / "model")


def _fit(folder: Path, method: str) -> Model:
    backbone, task = str(folder / "backbone"), tiny_task(folder / "images")
    epochs = 1 if find(method).recipe else None
    return fit(task, method, shots=1, epochs=epochs, backbone=backbone, store=MemoryStore(), check=False)


def _changed(saved: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    shutil.copytree(saved, folder)
    record = json.loads((folder / "adapter.json").read_text())
    change(record)
    (folder / "adapter.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(format=3),
        lambda record: record.update(options={"unheard": 1}),
        lambda record: record.update(classes=[1]),
        lambda record: record.update(classes=[]),
        lambda record: record.update(backbone={"name": "mini"}),
        lambda record: record.update(found_at=3),
        lambda record: record.pop("weights"),
        lambda record: record.update(classes=[[]] * 10_000),
    ],
)
def test_record_that_is_not_whole_is_refused(
    saved: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(ShotfitError, match="is damaged or of another version"):
        Model.open(_changed(saved, tmp_path / "model", change))


@pytest.mark.parametrize(
    "names", [["blue", "red"], ["green thing", "blue", "red_thing"]], ids=["fewer", "in another order"]
)
def test_record_of_other_classes_is_refused(saved: Path, tmp_path: Path, names: list[str]) -> None:
    def rename(record: dict[str, Any]) -> None:
        record["classes"][0]["names"] = names

    with pytest.raises(ShotfitError, match=r"is not the file that adapter\.json was written with"):
        Model.open(_changed(saved, tmp_path / "model", rename))


def test_model_folder_with_other_files_is_not_replaced(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "model" / "labels.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"holds labels\.csv beside a model, and would be replaced as a whole"):
        Model.open(saved).save(tmp_path / "model")
    assert (tmp_path / "model" / "labels.csv").read_text() == "mine"


def test_folder_that_one_works_in_is_not_replaced(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is where you are"):
        Model.open(saved).save(".")


def test_link_to_a_model_stays_one(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    Model.open(saved).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and Model.open(tmp_path / "model").record["method"] == "taskres"


def test_model_for_other_classes_has_no_scores_of_the_old_ones(saved: Path, tmp_path: Path) -> None:
    model = _fit(saved.parent, "zero_shot")
    model.record["scores"] = {"accuracy": 0.5}
    card = (model.for_classes(["dog", "cat"]).save(tmp_path / "model") / "README.md").read_text()
    assert "Classes: dog, cat" in card and "accuracy" not in card


@pytest.mark.parametrize("mode", ["I;16", "LA", "P", "RGB"])
def test_opened_picture_is_predicted_as_its_file(saved: Path, tmp_path: Path, mode: str) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (40, 36), dtype=np.uint16)
    image = (
        Image.fromarray(levels) if mode == "I;16" else Image.fromarray((levels // 256).astype(np.uint8)).convert(mode)
    )
    if mode == "LA":
        image.putalpha(Image.fromarray((levels % 256).astype(np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    model = Model.open(saved)
    by_path = model.predict([tmp_path / "a.png"], top=3)
    by_picture = model.predict([Image.open(tmp_path / "a.png")], top=3)
    assert by_path[0].probabilities == pytest.approx(by_picture[0].probabilities, abs=1e-6)


def test_weights_of_another_model_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = _changed(saved, tmp_path / "model", lambda record: None)
    _fit(saved.parent, "linear_probe").save(tmp_path / "other")
    shutil.copyfile(tmp_path / "other" / "adapter.safetensors", folder / "adapter.safetensors")
    with pytest.raises(ShotfitError, match=r"is not the file that adapter\.json was written with"):
        Model.open(folder)


@pytest.mark.parametrize("place", ["inside", "relative", "elsewhere"])
def test_code_that_only_the_model_names_is_not_run(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = tmp_path / "model"
    file = {"inside": folder / "code.py", "relative": Path("code.py"), "elsewhere": tmp_path / "code.py"}[place]
    _changed(saved, folder, lambda record: record.update(found_at=f"{file}:Method"))
    monkeypatch.chdir(folder)
    file.write_text("raise SystemExit('it ran')")
    with pytest.raises(
        UsageError, match=r"taskres of a file, which is run only if you name it: add --method .*code\.py"
    ):
        Model.open(folder)


def test_model_whose_replacement_was_killed_opens_as_it_was_and_can_be_replaced(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    script = (
        "import os, sys; from pathlib import Path; from shotfit.fitting.model import Model\n"
        "model, rename = Model.open(sys.argv[1]), os.replace\n"
        "def replace(source, target):\n"
        "    rename(source, target)\n"
        "    if str(source) == sys.argv[1]: os._exit(9)\n"
        "os.replace = replace; model.save(sys.argv[1])"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)
    assert (ended.returncode, folder.exists()) == (9, False), ended.stderr
    with pytest.warns(UserWarning, match="was being replaced when its writer was stopped; the older one is used"):
        older = Model.open(folder)
    older.save(folder)
    assert Model.open(folder).class_names == older.class_names
    assert not list(tmp_path.glob(".shotfit-old-*"))


def test_model_of_another_method_is_refused(saved: Path) -> None:
    with pytest.raises(UsageError, match="was saved by the method taskres, not by coop: name that one, or none"):
        Model.open(saved, method="coop")


def test_backbone_by_a_relative_path_is_found_from_elsewhere(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved.parent)
    task = tiny_task(saved.parent / "images")
    model = fit(task, "zero_shot", shots=1, backbone="backbone", store=MemoryStore()).save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert Model.open(model).class_names == task.classes.names


def test_missing_backbone_says_how_to_name_its_place(saved: Path, tmp_path: Path) -> None:
    folder = _changed(saved, tmp_path / "model", lambda record: record["backbone"].update(name="/gone/clip"))
    with pytest.raises(ShotfitError, match=r"needs its backbone /gone/clip, or --backbone that says where it is now"):
        Model.open(folder)


def test_folder_that_cannot_be_made_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a folder: choose another --out"):
        Model.open(saved).save(tmp_path / "file" / "model")


def test_task_without_train_images_is_refused(saved: Path, tmp_path: Path) -> None:
    tiny_task(tmp_path / "images" / "test")
    with pytest.raises(ShotfitError, match="images has no train images to fit to"):
        fit(tmp_path / "images", backbone=str(saved.parent / "backbone"), store=MemoryStore())
