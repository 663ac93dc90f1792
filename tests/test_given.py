"""Data from Python: lists, tables and data sets give the task that the same images give as class folders."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import shotfit
from shotfit.data.given import from_images, from_table, tasks_of
from shotfit.data.listing import How
from shotfit.data.readers import read_task
from shotfit.data.tasks import Task
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore, Store
from shotfit.errors import FallbackWarning, ShotfitError, UsageError
from shotfit.fitting import race
from shotfit.fitting.asked import Asked
from shotfit.testing.tiny import tiny_backbone, tiny_task


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Four images a class under train/ and test/."""
    folder = tmp_path_factory.mktemp("given") / "photos"
    tiny_task(folder, images=4)
    return read_task(folder)


def parted(task: Task) -> tuple[list[Path], list[str], list[str]]:
    """The paths, labels and parts of all images of a task."""
    names = task.classes.names
    items = [(item, part) for part in ("train", "val", "test") for item in getattr(task, part)]
    return [item.picture.path for item, _ in items], [names[item.label] for item, _ in items], [p for _, p in items]


def same(task: Task, other: Task) -> bool:
    """Whether two tasks have the same classes and the same images, by content, in the same parts."""
    parts = [[(item.digest, item.label) for item in getattr(task, part)] for part in ("train", "val", "test")]
    others = [[(item.digest, item.label) for item in getattr(other, part)] for part in ("train", "val", "test")]
    return task.classes.names == other.classes.names and list(map(sorted, parts)) == list(map(sorted, others))


def test_paths_and_bytes_are_the_task_of_the_folders(folders: Task) -> None:
    paths, labels, parts = parted(folders)
    assert same(from_images(paths, labels, parts=parts), folders)
    assert same(from_images(map(str, paths), np.array(labels), parts=parts), folders)
    assert same(Task.from_images([path.read_bytes() for path in paths], labels, parts=parts), folders)
    numbers = [folders.classes.names.index(label) for label in labels]
    assert same(from_images(paths, numbers, parts=parts, classes=folders.classes.names), folders)


def test_arrays_and_pil_images_give_equal_features(folders: Task, tmp_path: Path) -> None:
    paths, labels, parts = parted(folders)
    frozen = Frozen(tiny_backbone(tmp_path), MemoryStore())
    images = [Image.open(path).convert("RGB") for path in paths]
    tasks = [
        from_images(paths, labels, parts=parts),
        from_images(images, labels, parts=parts),
        from_images([np.asarray(image) for image in images], labels, parts=parts),
    ]
    features = [frozen.image(ImagePool(task.train).all()) for task in tasks]
    assert torch.equal(features[0], features[1]) and torch.equal(features[0], features[2])


class Frame:
    """A table with the methods of polars that are used."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows, self.columns = rows, list(rows[0])

    def iter_rows(self, named: bool) -> list[dict[str, Any]]:
        return self._rows if named else []


def test_table_with_columns_is_the_task_of_the_folders(folders: Task) -> None:
    paths, labels, parts = parted(folders)
    columns = zip(map(str, paths), labels, parts, strict=True)
    rows = [dict(zip(("file", "species", "split"), row, strict=True)) for row in columns]
    assert same(from_table(Frame(rows)), folders)
    renamed = [{"where": row["file"], "kind": row["species"], "split": row["split"]} for row in rows]
    assert same(from_table(Frame(renamed), How(path_column="where", label_column="kind")), folders)


def test_frame_of_pandas_is_the_task_of_the_folders(folders: Task) -> None:
    pandas = pytest.importorskip("pandas")
    paths, labels, parts = parted(folders)
    frame = pandas.DataFrame({"path": list(map(str, paths)), "label": labels, "split": parts})
    assert same(from_table(frame), folders)


class ClassLabel:
    names: tuple[str, ...] = ()


class Dataset(list[dict[str, Any]]):
    """A data set with what is used of `datasets`."""

    column_names = ("image", "label")
    features: ClassVar = {"label": ClassLabel()}


def test_data_set_with_parts_is_the_task_of_the_folders(folders: Task) -> None:
    paths, labels, parts = parted(folders)
    ClassLabel.names = folders.classes.names
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": path.name}, "label": folders.classes.names.index(label)}
        for path, label in zip(paths, labels, strict=True)
    ]
    split = {
        part: Dataset(row for row, own in zip(rows, parts, strict=True) if own == part) for part in ("train", "test")
    }
    assert same(from_table(split), folders)
    ClassLabel.names = (*folders.classes.names, "nobody")
    assert same(from_table(split), folders)  # as of a table in a file
    assert from_table(split).notes == (f"1 of {len(ClassLabel.names)} class names have no picture: nobody",)


def test_cells_without_a_value_are_no_group_and_the_train_part(folders: Task) -> None:
    pandas = pytest.importorskip("pandas")
    paths, labels, parts = parted(folders)
    split = [None if part == "train" else part for part in parts]
    groups = [float("nan"), *["one"] * (len(paths) - 1)]
    table = pandas.DataFrame({"path": list(map(str, paths)), "label": labels, "split": split, "owner": groups})
    assert same(from_table(table, How(group_column="owner")), folders)


def test_fit_takes_images_with_labels(folders: Task, tmp_path: Path) -> None:
    paths, labels, _ = parted(folders)
    backbone = tiny_backbone(tmp_path)
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    fitted = shotfit.fit(arrays, labels, method="linear_probe", backbone=backbone, store=MemoryStore(), views="center")
    assert fitted.class_names == folders.classes.names
    assert fitted.predict(arrays[0])[0].labels[0] in folders.classes.names


@pytest.mark.parametrize(
    ("data", "labels", "said"),
    [
        (["a.png"], None, "data is a list without labels"),
        (3, None, "data is a int without labels"),
        ([b"1", b"2"], ["cat"], "there are 2 images and 1 labels"),
        ([b"1"], "cat", "labels is 'cat'; expected a list"),
        ([b"1"], [1.5], r"labels\[0\] is 1.5; expected a text or a whole number"),
        ([b"1"], [None], r"labels\[0\] is None; .* Leave images without one out"),
        ([b"1"], [["cat", "dog"]], r"labels\[0\] is \['cat', 'dog'\]; .* say several_labels=True"),
        ([3], ["cat"], "image 0 is a int; expected a path, bytes"),
        ("photos", ["cat"], "labels go with a list of images"),
        ([], [], "data is an empty list; expected images with a label for each"),
        ([b"1"], [float("nan")], r"labels\[0\] is nan; .* Leave images without one out, in pandas by .*dropna"),
    ],
)
def test_data_of_another_kind_is_a_sentence(data: object, labels: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        tasks_of(data, labels)


@pytest.mark.parametrize("said", [{"window": (0, 9)}, {"frames": 4}, {"group_column": "patient"}])
def test_how_a_task_is_read_is_not_said_once_it_is_read(folders: Task, tmp_path: Path, said: dict[str, Any]) -> None:
    (tmp_path / "tasks.toml").write_text("")
    for data in (folders, (folders, folders), tmp_path / "tasks.toml"):
        with pytest.raises(UsageError, match="say how one task is read: give them to read_task"):
            shotfit.fit(data, "zero_shot", **said)
    with pytest.raises(UsageError, match="several_labels say how one task is read"):
        shotfit.fit(tmp_path / "tasks.toml", "zero_shot", several_labels=True)


def test_list_of_one_task_is_judged_as_the_task(folders: Task, tmp_path: Path) -> None:
    model = shotfit.fit(folders, "zero_shot", backbone=tiny_backbone(tmp_path), store=MemoryStore())
    assert shotfit.evaluate(model, [folders]) == shotfit.evaluate(model, folders)
    assert shotfit.evaluate(model, [folders]).images == len(folders.test)


def photos(folder: Path, name: str, color: tuple[int, int, int], count: int = 4) -> list[Path]:
    """Noisy pictures of one colour."""
    generator = np.random.default_rng(sum(color))
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}{number}.png" for number in range(count)]
    for path in paths:
        pixels = np.clip(np.array(color) + generator.integers(-20, 20, (40, 40, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return paths


def test_missing_image_of_a_list_names_no_command(tmp_path: Path) -> None:
    images = [*photos(tmp_path, "a", (200, 0, 0)), tmp_path / "no.png"]
    with pytest.raises(ShotfitError, match=r"^there is 1 problem with the images: .*no\.png does not exist") as raised:
        tasks_of(images, ["cat"] * 5)
    assert "skip_broken=True" in str(raised.value) and "doctor" not in str(raised.value)


def test_model_shows_itself_in_a_line(folders: Task, tmp_path: Path) -> None:
    model = shotfit.fit(folders, method="zero_shot", backbone=tiny_backbone(tmp_path), store=MemoryStore())
    assert repr(model).startswith("<shotfit.Model zero_shot on ") and repr(model).endswith(" classes>")


@pytest.mark.parametrize("method", ["linear_probe", "tip_adapter_f"])
def test_model_learns_more_images_and_a_new_class(folders: Task, tmp_path: Path, method: str) -> None:
    model = shotfit.fit(folders, method=method, recipe="paper", backbone=tiny_backbone(tmp_path), store=MemoryStore())
    white = photos(tmp_path / "white", "w", (250, 250, 250))
    more = model.add(white, ["white"] * 4)
    assert more.class_names == (*folders.classes.names, "white")
    assert more.record["support_images"] == model.record["support_images"] + 4
    assert len(more.learned) == len(model.learned) + 4
    corrected = more.add(white[:1], [folders.classes.names[0]])
    assert corrected.record["support_images"] == more.record["support_images"]
    assert more.predict(white)[0].labels


def test_added_images_are_learned_with_the_seed_of_the_fit(folders: Task, tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path)
    model = shotfit.fit(folders, method="linear_probe", seed=0, backbone=backbone, store=MemoryStore(), keep=True)
    assert model.add(photos(tmp_path / "white", "w", (250, 250, 250)), ["white"] * 4).record["seed"] == 0


@pytest.mark.parametrize("name", ["white", None], ids=["new class", "known class"])
def test_ensemble_learns_more_images_twice_and_opens_again(
    folders: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.setattr("shotfit.fitting.race.SHORTLIST", ("zero_shot", "tip_adapter", "linear_probe"))
    averaging = lambda found: (race._ensemble(found[1:], found[0].fitted.sizes), race.decided(found)[1])  # noqa: E731
    monkeypatch.setattr("shotfit.fitting.fit.decided", averaging)
    backbone = tiny_backbone(tmp_path)
    model = shotfit.fit(folders, backbone=backbone, store=MemoryStore(), keep=True)
    assert model.record["method"] == "ensemble" and model.trust is not None
    calibration = replace(model.trust.calibration, bias=torch.zeros(len(model.class_names)))
    model.trust = replace(model.trust, calibration=calibration)
    white = photos(tmp_path / "white", "w", (250, 250, 250))
    label = name or folders.classes.names[0]
    more = model.add(white[:2], [label] * 2).add(white[2:], [label] * 2)
    assert more.record["support_images"] == model.record["support_images"] + 4
    assert [row["method"] for row in more.record["race"]] == [row["method"] for row in model.record["race"]]
    opened = shotfit.load(more.save(tmp_path / "model"), backbone=backbone)
    assert opened.class_names == more.class_names
    np.testing.assert_allclose(opened.predict_proba(white), more.predict_proba(white), atol=1e-5)
    if name is not None:
        with pytest.raises(UsageError, match=r"Prediction sets are for the classes .* fit again where model\.add"):
            opened.predict(white, asked=Asked(coverage=0.5))
    else:
        assert opened.predict(white, asked=Asked(coverage=0.5))[0].set is not None


def test_model_that_fell_back_to_zero_shot_takes_a_new_class(
    folders: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as lost:
        lost.setattr(
            "shotfit.fitting.fit.compared",
            lambda *_: {"on": "some", "images": 8, "accuracy": 0.1, "zero_shot_accuracy": 0.9},
        )
        with pytest.warns(FallbackWarning):
            model = shotfit.fit(
                folders,
                method="taskres",
                recipe="paper",
                steps=2,
                backbone=tiny_backbone(tmp_path),
                store=MemoryStore(),
            )
    white = photos(tmp_path / "white", "w", (250, 250, 250))
    more = model.add(white, ["white"] * 4)
    assert more.method.name == "zero_shot" and more.class_names == (*folders.classes.names, "white")


def test_model_from_a_folder_is_told_what_it_was_fitted_to(folders: Task, tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path)
    fitted = shotfit.fit(folders, method="linear_probe", backbone=backbone, store=MemoryStore())
    opened = shotfit.load(fitted.save(tmp_path / "model"), backbone=backbone)
    white = photos(tmp_path / "white", "w", (250, 250, 250))
    with pytest.raises(UsageError, match="keeps no images: say what it was fitted to"):
        opened.add(white, ["white"] * 4)
    assert opened.add(white, ["white"] * 4, data=folders).class_names[-1] == "white"


def test_model_goes_to_another_process_by_its_folder(folders: Task, tmp_path: Path) -> None:
    fitted = shotfit.fit(folders, method="linear_probe", backbone="mini", store=MemoryStore(), views="center")
    with pytest.raises(UsageError, match="save it first"):
        pickle.dumps(fitted)
    fitted.save(tmp_path / "model")
    again = pickle.loads(pickle.dumps(fitted))
    paths = [item.picture for item in folders.test]
    assert np.array_equal(again.predict_proba(paths), fitted.predict_proba(paths))


def test_probabilities_and_features_are_arrays(folders: Task, tmp_path: Path) -> None:
    fitted = shotfit.fit(folders, method="zero_shot", backbone=tiny_backbone(tmp_path), store=MemoryStore())
    paths = [item.picture.path for item in folders.test]
    probabilities = fitted.predict_proba(paths)
    assert probabilities.shape == (len(paths), len(folders.classes.names))
    assert np.allclose(probabilities.sum(axis=1), 1)
    best = [folders.classes.names[place] for place in probabilities.argmax(axis=1)]
    assert [one.labels[0] for one in fitted.predict(paths)] == best
    assert fitted.predict_proba([]).shape == (0, len(folders.classes.names))
    features = fitted.embed(paths)
    assert features.shape == (len(paths), fitted.frozen.embed)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert len(fitted.embed(folders.source)) == len([*folders.train, *folders.test])


def test_results_show_themselves_in_a_notebook(folders: Task, tmp_path: Path) -> None:
    fitted = shotfit.fit(folders, method="zero_shot", backbone=tiny_backbone(tmp_path), store=MemoryStore())
    odd = tmp_path / "<b>.png"
    odd.write_bytes(folders.test[0].picture.path.read_bytes())
    predictions = fitted.predict([odd, tmp_path / "none.png"], keep_broken=True)
    page = predictions._repr_html_()
    assert "&lt;b&gt;.png" in page and "<b>" not in page and "data:image/jpeg;base64" in page
    assert list(predictions.to_frame()["error"].notna()) == [False, True]
    scores = shotfit.evaluate(fitted, folders)
    assert list(scores.to_frame()["name"]) == list(folders.classes.names)
    rows = shotfit.compare(folders, ["zero_shot"], backbone=fitted.frozen.backbone, store=MemoryStore())
    assert list(rows.to_frame()["method"]) == ["zero_shot"]
    assert all("<table>" in shown._repr_html_() for shown in (scores, rows, fitted))


def test_second_prediction_decodes_no_image(folders: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    backbone = tiny_backbone(tmp_path)
    fitted = shotfit.fit(folders, method="zero_shot", backbone=backbone, store=Store(tmp_path / "store"))
    paths = [item.picture.path for item in folders.test]
    first = fitted.predict_proba(paths)
    monkeypatch.setattr("shotfit.engine.frozen.center_view", lambda *_: pytest.fail("an image was decoded"))
    assert np.array_equal(fitted.predict_proba(paths), first)
