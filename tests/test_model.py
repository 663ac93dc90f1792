"""Saved models that were tampered with, moved, or whose backbone went elsewhere: one sentence, never a wrong answer."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from torch import Tensor

from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.fit import fit
from shotfit.fitting.folder import check_target
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
    record["backbone"]["name"] = os.path.relpath(saved.parent / "backbone", folder)  # leads there from the copy
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
        Model.open(_changed(saved, tmp_path / "model", change), trust_backbone=True)


@pytest.mark.parametrize(
    "names", [["blue", "red"], ["green thing", "blue", "red_thing"]], ids=["fewer", "in another order"]
)
def test_record_of_other_classes_is_refused(saved: Path, tmp_path: Path, names: list[str]) -> None:
    def rename(record: dict[str, Any]) -> None:
        record["classes"][0]["names"] = names

    with pytest.raises(ShotfitError, match=r"is not the file that adapter\.json was written with"):
        Model.open(_changed(saved, tmp_path / "model", rename), trust_backbone=True)


def test_model_folder_with_other_files_is_not_replaced(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "model" / "labels.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"labels\.csv, which is no part of a model, and would be"):
        Model.open(saved, trust_backbone=True).save(tmp_path / "model")
    assert (tmp_path / "model" / "labels.csv").read_text() == "mine"


def test_folder_that_one_works_in_is_not_replaced(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is where you are"):
        Model.open(saved, trust_backbone=True).save(".")


def test_link_to_a_model_stays_one(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    Model.open(saved, trust_backbone=True).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and Model.open(tmp_path / "model", trust_backbone=True).record[
        "method"
    ] == "taskres"


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
    model = Model.open(saved, trust_backbone=True)
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
    folder = _changed(saved, tmp_path / "model", lambda record: None)
    script = (
        "import os, sys; from pathlib import Path; from shotfit.fitting.model import Model\n"
        "model, rename = Model.open(sys.argv[1], trust_backbone=True), os.replace\n"
        "def replace(source, target):\n"
        "    rename(source, target)\n"
        "    if str(source) == sys.argv[1]: os._exit(9)\n"
        "os.replace = replace; model.save(sys.argv[1])"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)
    assert (ended.returncode, folder.exists()) == (9, False), ended.stderr
    with pytest.warns(UserWarning, match="was being replaced when its writer was stopped; the older one is used"):
        older = Model.open(folder, trust_backbone=True)
    older.save(folder)
    assert Model.open(folder, trust_backbone=True).class_names == older.class_names
    assert not list(tmp_path.glob(".shotfit-old-*"))


def test_model_of_another_method_is_refused(saved: Path) -> None:
    with pytest.raises(UsageError, match="was saved by the method taskres, not by coop: name that one, or none"):
        Model.open(saved, method="coop", trust_backbone=True)


def test_backbone_by_a_relative_path_is_found_from_elsewhere(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved.parent)
    task = tiny_task(saved.parent / "images")
    model = fit(task, "zero_shot", shots=1, backbone="backbone", store=MemoryStore()).save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert Model.open(model, trust_backbone=True).class_names == task.classes.names


def test_missing_backbone_says_how_to_name_its_place(saved: Path, tmp_path: Path) -> None:
    folder = _changed(saved, tmp_path / "model", lambda record: record["backbone"].update(name="/gone/clip"))
    with pytest.raises(ShotfitError, match=r"needs its backbone /gone/clip, or --backbone that says where it is now"):
        Model.open(folder, trust_backbone=True)


def _opened_only_by_word(folder: Path, sentence: str) -> None:
    """Refused by one sentence that names both ways."""
    with pytest.raises(ShotfitError, match=sentence) as refused:
        Model.open(folder)
    assert "--backbone " in str(refused.value) and "--trust-backbone" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("spelling", ["absolute", "relative", "~"])
def test_path_that_only_the_model_names_is_not_opened(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    monkeypatch.chdir(saved.parent)
    monkeypatch.setenv("HOME", str(saved.parent))
    names = {"absolute": str(saved.parent / "backbone"), "relative": "./backbone", "~": "~/backbone"}
    folder = _changed(saved, tmp_path / "model", lambda record: record["backbone"].update(name=names[spelling]))
    _opened_only_by_word(folder, "names its backbone by a path")
    assert Model.open(folder, trust_backbone=True).class_names == Model.open(folder, "./backbone").class_names


def test_folder_of_the_form_of_a_hub_id_is_not_opened(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved.parent.parent)
    name = f"{saved.parent.name}/backbone"
    folder = _changed(saved, tmp_path / "model", lambda record: record["backbone"].update(name=name))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    _opened_only_by_word(folder, "is not in the cache")
    assert Model.open(folder, trust_backbone=True).frozen.backbone.name == str(saved.parent / "backbone")


@pytest.mark.parametrize("name", ["owner/name", "owner/name@main", "ViT-B/32", "openai/clip-vit-base-patch32"])
def test_opening_a_model_never_asks_the_network(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", asked)
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    folder = _changed(saved, tmp_path / "model", lambda record: record["backbone"].update(name=name))
    _opened_only_by_word(folder, "is not in the cache")


def test_model_opens_from_the_local_cache_of_the_hub(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, commit = tmp_path / "hub" / "models--owner--name", "0123456789abcdef0123456789abcdef01234567"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    shutil.copytree(saved.parent / "backbone", home / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = _changed(saved, tmp_path / "model", lambda record: record["backbone"].update(name="owner/name"))
    assert Model.open(folder).frozen.backbone.name == f"owner/name@{commit}"


@pytest.mark.parametrize("name", [".git/config", ".env", ".gitattributes", "labels.csv"])
def test_what_is_not_of_shotfit_is_not_replaced(saved: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    with pytest.raises(UsageError, match="which is no part of a model, and would be replaced as a whole"):
        check_target(folder)
    with pytest.raises(UsageError, match="which is no part of a model, and would be replaced as a whole"):
        Model.open(saved, trust_backbone=True).save(folder)
    assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize("record", ['{"name": "an adapter of another program"}', "[]", "no JSON"])
def test_folder_with_the_record_of_another_program_is_not_replaced(tmp_path: Path, record: str) -> None:
    (tmp_path / "adapter.json").write_text(record)
    with pytest.raises(UsageError, match=r"holds an adapter\.json that is not shotfit's"):
        check_target(tmp_path)


def test_what_systems_leave_in_a_folder_does_not_keep_a_model_from_being_replaced(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    (folder / ".DS_Store").write_bytes(b"")
    check_target(folder)


def test_model_that_is_not_finite_is_not_saved(saved: Path, tmp_path: Path) -> None:
    model = Model.open(saved, trust_backbone=True)
    next(model.method.parameters()).data.view(-1)[0] = torch.nan
    with pytest.raises(ShotfitError, match=r"holds numbers that are not finite, so .* is not written"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_model_that_is_not_finite_is_not_opened(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.open(saved, trust_backbone=True)
    next(model.method.parameters()).data.view(-1)[0] = torch.inf
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "isfinite", lambda self: torch.ones_like(self, dtype=torch.bool))
        model.save(tmp_path / "model")  # as a version that did not look
    with pytest.raises(ShotfitError, match=r"holds numbers that are not finite .*fit the model again"):
        Model.open(tmp_path / "model", trust_backbone=True)


def test_prediction_that_is_not_finite_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = Model.open(saved, trust_backbone=True), tiny_task(saved.parent / "images")
    monkeypatch.setattr(type(model.method), "logits", lambda _, images: torch.full((len(images), 3), torch.nan))
    with pytest.raises(ShotfitError, match=r"\.png has no prediction: the model gives numbers that are not finite"):
        model.predict(task.train[0].picture.path)
    with pytest.raises(ShotfitError, match="has no prediction"):
        model.probabilities(task.train)
    (kept,) = model.predict(task.train[0].picture.path, keep_broken=True)
    assert kept.labels == () and "not finite" in str(kept.error)


def test_broken_picture_is_an_error_unless_it_is_kept(saved: Path, tmp_path: Path) -> None:
    model, task = Model.open(saved, trust_backbone=True), tiny_task(saved.parent / "images")
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = [task.train[0].picture.path, tmp_path / "broken.png", task.train[1].picture.path]
    with pytest.raises(ShotfitError, match=r'broken\.png is no image but text: it begins with "no image"'):
        model.predict(paths)
    first, broken, last = model.predict(paths, keep_broken=True)
    assert (first.error, last.error, broken.labels) == (None, None, ()) and "is no image" in str(broken.error)
    alone = model.predict([paths[0], paths[2]])
    assert [one.labels for one in (first, last)] == [one.labels for one in alone]
    assert [one.probabilities[0] for one in (first, last)] == pytest.approx([one.probabilities[0] for one in alone])


def test_folder_that_cannot_be_made_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a folder: choose another --out"):
        Model.open(saved, trust_backbone=True).save(tmp_path / "file" / "model")


def test_task_without_train_images_is_refused(saved: Path, tmp_path: Path) -> None:
    tiny_task(tmp_path / "images" / "test")
    with pytest.raises(ShotfitError, match="images has no train images to fit to"):
        fit(tmp_path / "images", backbone=str(saved.parent / "backbone"), store=MemoryStore())
