"""What is done with a model of several labels a picture: fitted again, parts, other formats, maps, lists, reports."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shotfit
from shotfit.data.readers import read_task
from shotfit.engine.store import MemoryStore
from shotfit.errors import UsageError
from shotfit.evaluation.several_labels import evaluate_labels
from shotfit.evaluation.suggest import choose
from shotfit.fitting.mapped import Mapper
from shotfit.fitting.model import Model
from shotfit.fitting.parts import predict_parts
from shotfit.fitting.predictions import Prediction
from shotfit.fitting.refit import refit
from shotfit.fitting.relabelling import relabel
from shotfit.report.label_facts import look_at_labels
from shotfit.report.recorded import how_to_fit
from shotfit.towers.backbone import Backbone

from .pictures import save
from .test_cli import Shell, one_line, shell
from .test_report import Page, is_self_contained
from .test_several_labels import EXPECTED, LABELS, backbone, fitted, plain

__all__ = ["backbone", "fitted", "shell"]  # fixtures

HOSTILE = "<img src=x onerror=alert(1)>"
Fitted = tuple[Model, Path]


@pytest.fixture(scope="module")
def saved(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted[0].save(tmp_path_factory.mktemp("saved") / "model")


def names_of(labels: Path, count: int = len(LABELS)) -> list[Path]:
    return [labels.parent / f"{place:02}.png" for place in range(count)]


# Fitted again


def test_refit_learns_all_pictures_and_keeps_what_was_measured(fitted: Fitted) -> None:
    model, labels = fitted
    task = read_task(labels, several_labels=True)
    again = refit(model, [task])
    assert again.several_labels and again.record["refit"] and len(again.learned) == len(LABELS) > len(model.learned)
    assert again.record["checked"] == model.record["checked"]
    assert again.cutoffs.tolist() == model.cutoffs.tolist()
    assert evaluate_labels(again, task, everything=True).mean_average_precision > 0.9


def test_added_picture_may_have_a_new_class_beside_a_known_one_or_none(fitted: Fitted, backbone: Backbone) -> None:
    labels = fitted[1]
    model = shotfit.fit(
        labels, "linear_probe", several_labels=True, backbone=backbone, store=MemoryStore(), check=False
    )  # fmt: skip
    new: Any = [["red", "white"], ["white"], []]
    pictures = [np.full((32, 32, 3), shade, np.uint8) for shade in (255, 250, 3)]
    again = model.add(pictures, new)
    assert again.class_names == ("blue", "green", "red", "white") and again.support is not None
    assert {item.labels for item in again.support[0].train[-3:]} == {(2, 3), (3,), ()}
    assert {len(again.add(pictures[:1], [own]).class_names) for own in (["white"], [], ["grey"])} == {4, 5}
    once_more = again.add(names_of(labels, 1), [["green"]])  # which was red
    assert len(again.learned) == len(model.learned) + 3 and once_more.support is not None
    assert once_more.support[0].train[-1].labels == (1,) and len(once_more.learned) == len(again.learned)


# Predictions


def test_parts_hold_a_row_a_picture_with_all_its_labels(fitted: Fitted, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    model, labels = fitted
    (labels.parent / "broken.png").write_bytes(b"none")
    names = [*names_of(labels, 4), labels.parent / "broken.png"]
    done = predict_parts(model, list(map(str, names)), tmp_path / "parts", part_size=3)
    rows = [row for file in sorted((tmp_path / "parts").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert done.parts == 2 and done.broken == 1 and list(rows[0]) == ["image", "label", "probability", "error"]
    assert [set(row["label"]) for row in rows[:4]] == [EXPECTED[name.name] for name in names[:4]]
    assert rows[3]["label"] == [] and rows[4]["label"] is None and "broken.png" in rows[4]["error"]
    (labels.parent / "broken.png").unlink()


def test_label_studio_gets_every_label_as_a_choice(
    shell: Shell, fitted: Fitted, saved: Path, backbone: Backbone, tmp_path: Path
) -> None:
    names = names_of(fitted[1], 4)
    words = ("--backbone", backbone.name, "--format", "label-studio", "--out", tmp_path / "tasks.json")
    assert shell("predict", saved, *names, *words).code == 0
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    chosen = [one["predictions"][0]["result"][0]["value"]["choices"] for one in tasks]
    assert [set(own) for own in chosen] == [EXPECTED[name.name] for name in names] and chosen[3] == []
    assert tasks[3]["predictions"][0]["score"] == 0


def test_predictions_are_read_as_labels_again(
    shell: Shell, fitted: Fitted, saved: Path, backbone: Backbone, tmp_path: Path
) -> None:
    out = tmp_path / "labels.csv"
    assert shell("predict", saved, *names_of(fitted[1], 6), "--backbone", backbone.name, "--out", out).code == 0
    task = read_task(out, several_labels=True)
    every = (*task.train, *task.val, *task.test)
    assert {item.picture.path.name: {task.classes.names[label] for label in item.labels} for item in every} == {
        name: EXPECTED[name] for name in list(EXPECTED)[:6]
    }


@pytest.mark.parametrize("said", ['"predictions": [{"probability": 0.9}]', '"predictions": 1.5', '"time": 1'])
def test_predictions_without_a_label_are_one_line(shell: Shell, tmp_path: Path, said: str) -> None:
    labels = plain(tmp_path)
    lines = [f'{{"image": "{name}", "predictions": [{{"label": "red"}}]}}' for name in names_of(labels, 4)]
    lines.append(f'{{"image": "{labels.parent / "05.png"}", {said}}}')
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    result = shell("doctor", tmp_path / "said.jsonl", "--several-labels")
    assert result.code == 3 and one_line(result) and "said.jsonl, line 5: the label" in result.err


def test_boxes_are_refused_as_each_has_one_label(fitted: Fitted, tmp_path: Path) -> None:
    model, labels = fitted
    boxes = {
        "images": [{"id": 1, "file_name": "00.png", "width": 32, "height": 32}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 9, 9], "category_id": 1}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    with pytest.raises(UsageError, match="Labels of boxes are for models that give each picture one label"):
        relabel(model, tmp_path / "boxes.json", tmp_path / "out.json", images=labels.parent)
    assert not (tmp_path / "out.json").exists()


def test_map_has_the_probability_that_is_predicted(fitted: Fitted) -> None:
    model, labels = fitted
    name = labels.parent / "02.png"
    (said,) = model.predict(name, top=3)
    maps = model.maps(name, top=3)
    assert sum(said.probabilities) > 1  # each by itself
    assert [one.label for one in maps] == list(said.labels)
    assert [one.probability for one in maps] == pytest.approx(said.probabilities, abs=1e-5)


def test_maps_are_of_the_labels_that_are_predicted(fitted: Fitted, tmp_path: Path) -> None:
    model, labels = fitted
    said = model.predict(names_of(labels, 4))
    drawn = [*Mapper(tmp_path / "maps", model).drawn(said)]
    assert [tuple(own.label for own in one.maps or ()) for one in drawn] == [one.labels for one in said]
    assert len(drawn[2].maps or ()) == 2 and drawn[3].maps == ()
    alone = Mapper(tmp_path / "asked", model, classes=["blue"])
    (asked,) = alone.drawn([Prediction("", (), (), picture=said[3].picture, several_labels=True)])
    assert asked.maps is not None and [one.label for one in asked.maps] == ["blue"]


# Lists


def test_suggestions_are_of_the_class_that_is_least_sure_and_not_of_two_that_are_sure() -> None:
    features = np.eye(3)
    probabilities = np.array([[0.99, 0.98, 0.01], [0.99, 0.4, 0.02], [0.9, 0.05, 0.05]])
    assert choose(features, probabilities, 1).rows == [0]  # as if the classes excluded each other
    found = choose(features, probabilities, 1, several_labels=True)
    assert found.rows == [1] and found.doubt.tolist() == pytest.approx([0.04, 0.8, 0.2])


def test_pictures_to_label_next_as_typed(
    shell: Shell, fitted: Fitted, saved: Path, backbone: Backbone, tmp_path: Path
) -> None:
    for number in range(4):
        save(tmp_path / f"{number}.png", seed=number)
    done = shell("suggest", saved, tmp_path, "-n", 2, "--backbone", backbone.name, "--json")
    assert done.code == 0 and len(json.loads(done.out)["suggestions"]) == 2


def test_features_stand_beside_all_labels(shell: Shell, fitted: Fitted, backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    done = shell("embed", fitted[1], "--several-labels", "--out", out, "--backbone", backbone.name)
    assert done.code == 0, done.err
    found = np.load(out)
    labelled = {Path(str(name)).name: str(label) for name, label in zip(found["image"], found["label"], strict=True)}
    assert {name: set(label.split("|")) - {""} for name, label in labelled.items()} == EXPECTED


# Reports


def test_slips_are_what_the_model_misses_and_adds(fitted: Fitted) -> None:
    model, labels = fitted
    task = read_task(labels, several_labels=True)
    facts = look_at_labels(model, task, everything=True)
    missed, added = facts.missed(100), facts.added(100)
    truth, said = facts.answers.sets.astype(bool), facts.answers.probabilities >= facts.answers.thresholds
    assert len(missed) == int((truth & ~said).sum()) and len(added) == int((said & ~truth).sum())
    assert all(slip.label in slip.item.labels for slip in missed)
    assert all(slip.label not in slip.item.labels for slip in added)
    assert [slip.probability for slip in added] == sorted((slip.probability for slip in added), reverse=True)
    assert all(slip.label in {label for label, _ in slip.shown} for slip in (*missed, *added))


def test_page_says_what_evaluate_says(
    shell: Shell, fitted: Fitted, saved: Path, backbone: Backbone, tmp_path: Path
) -> None:
    labels, out, towers = fitted[1], tmp_path / "page.html", ("--backbone", backbone.name)
    scores = json.loads(shell("evaluate", saved, labels, *towers, "--all", "--json").out)
    done = shell("report", saved, labels, *towers, "--all", "--out", out)
    assert done.code == 0, done.err
    page = Page(out)
    assert f"Mean average precision {100 * scores['mean_average_precision']:.1f} %" in page.text
    for own in scores["per_class"]:
        assert f"{own['name']} {own['images']} {own['predicted']} {100 * own['threshold']:.1f}" in page.text
    assert is_self_contained(page) and "Not a held-out figure" in page.text
    anchors = {attributes["href"] for attributes in page.of("a")}
    assert anchors == {f"#{attributes['id']}" for attributes in page.of("h2")} - {"#result"}
    assert "--several-labels" in page.text and str(labels.parent) not in page.source


def test_page_of_wrong_labels_shows_them_and_escapes_names(tmp_path: Path, backbone: Backbone) -> None:
    labels = plain(tmp_path)
    rows = list(csv.reader(labels.read_text().splitlines()))
    for row in rows[1:7]:
        row[1] = "|".join(filter(None, [HOSTILE, row[1]]))  # which nobody can see
    labels.write_text("\n".join(",".join(row) for row in rows) + "\n")
    model = shotfit.fit(
        labels, "zero_shot", several_labels=True, backbone=backbone, store=MemoryStore(), check=False
    )  # fmt: skip
    task = read_task(labels, several_labels=True)
    page = Page(shotfit.write_report(model, task, out=tmp_path / "page.html", everything=True))
    assert HOSTILE not in page.source and is_self_contained(page)
    slips = page.text.count("missed ") + page.text.count("added ")
    assert slips > 2 and "the model is zero-shot" in page.text and page.of("img")
    assert not Page(shotfit.write_report(model, labels, out=tmp_path / "no.html", images=False)).of("img")


def test_fit_writes_the_page_of_its_test_part(shell: Shell, tmp_path: Path, backbone: Backbone) -> None:
    labels, out = plain(tmp_path), tmp_path / "fit.html"
    words = ("--several-labels", "--method", "taskres", "--epochs", 2, "--backbone", backbone.name, "--report", out)
    done = shell("fit", labels, *words, "--out", tmp_path / "model")
    assert done.code == 0, done.err
    assert "Missed labels" in Page(out).text and "test part" in Page(out).text
    done = shell("report", tmp_path / "model", "--out", out)
    assert done.code == 0 and "mean average precision" in Page(out).text and "95 %" not in Page(out).text


def test_command_that_repeats_a_fit_says_how_pictures_are_read() -> None:
    record: dict[str, Any] = {
        "method": "zero_shot", "found_at": "zero_shot", "options": {}, "shots": None, "seed": 1, "recipe": "auto",
        "backbone": {"name": "mini-6"}, "choice": {}, "race": [{}], "padding": 0.1,
        "classes": [{"task": "a", "names": ["b"], "templates": ["a photo of a {}."], "several_labels": True}],
        "pictures": {"window": [-160, 240], "bands": [4, 3, 2]},
    }  # fmt: skip
    assert "--several-labels --window -160,240 --bands 4,3,2 --padding 0.1" in how_to_fit(record, "photos")


def test_a_folder_without_labels_in_it_is_one_line(shell: Shell, saved: Path, backbone: Backbone) -> None:
    result = shell("report", saved, saved.parent, "--backbone", backbone.name)
    assert result.code in (2, 3) and one_line(result)
