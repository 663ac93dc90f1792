"""Transductive prediction: what StatA promises, and that every output says that images depend on each other."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotfit.commands.cli import main
from shotfit.engine.frozen import normalize
from shotfit.evaluation.evaluate import evaluate, evaluate_together
from shotfit.fitting.model import load
from shotfit.fitting.transductive import assigned, predict_together

from .conftest import Run

EMBED = 16


def drawn(counts: list[int], apart: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a model says of images of each class, their features, texts beside their classes' centres, and labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = normalize(torch.randn(len(counts), EMBED, dtype=torch.double, generator=generator))
    texts = normalize(centres + 0.2 * torch.randn(centres.shape, dtype=torch.double, generator=generator))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.randn(len(labels), EMBED, dtype=torch.double, generator=generator)
    images = normalize(centres[labels] + apart * noise)
    return (10 * images @ texts.T).softmax(dim=1), images, texts, labels


def test_rows_are_probabilities() -> None:
    probabilities, images, texts, _ = drawn([5, 8, 3])
    found = assigned(probabilities, images, texts)
    assert found.isfinite().all() and (found >= 0).all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(16, dtype=torch.double))


def test_images_help_each_other() -> None:
    probabilities, images, texts, labels = drawn([40, 40, 40], apart=0.45)
    alone = (probabilities.argmax(dim=1) == labels).sum()
    assert (assigned(probabilities, images, texts).argmax(dim=1) == labels).sum() >= alone
    assert alone < 120


def test_image_alone_keeps_its_class() -> None:
    probabilities, images, texts, _ = drawn([3, 3, 3], apart=0.5)
    for row in range(9):
        found = assigned(probabilities[row : row + 1], images[row : row + 1], texts)
        assert found.argmax() == probabilities[row].argmax()


def test_classes_without_images_take_no_more_than_alone() -> None:
    probabilities, images, texts, labels = drawn([30, 0, 0, 30, 0, 0], apart=0.3)
    right = [(one.argmax(dim=1) == labels).sum() for one in (probabilities, assigned(probabilities, images, texts))]
    assert right[1] >= right[0] and right[0] < 60


def test_what_all_agree_on_is_a_fixed_point() -> None:
    texts = torch.eye(4, dtype=torch.double)
    images, sure = texts.repeat_interleave(5, dim=0), torch.eye(4, dtype=torch.double).repeat_interleave(5, dim=0)
    found = assigned(sure, images, texts)
    torch.testing.assert_close(found, sure, rtol=0, atol=1e-9)
    torch.testing.assert_close(assigned(found, images, texts), found, rtol=0, atol=1e-9)


def test_order_of_images_and_classes_plays_no_part() -> None:
    probabilities, images, texts, _ = drawn([9, 7, 8], apart=0.4)
    generator = torch.Generator().manual_seed(1)
    rows, columns = torch.randperm(24, generator=generator), torch.randperm(3, generator=generator)
    found = assigned(probabilities[rows][:, columns], images[rows], texts[columns])
    torch.testing.assert_close(found, assigned(probabilities, images, texts)[rows][:, columns], rtol=0, atol=1e-9)


def test_every_output_says_that_images_depend_on_each_other(model: Path, run: Run, tmp_path: Path) -> None:
    photos, note = model.parent / "images", "note: --transductive: the answer for each image depends on the others"
    code, shown, told = run(photos, "--transductive")
    assert code == 0 and shown and all(line.endswith("  transductive") for line in shown)
    assert any(line.startswith(note) for line in told)
    rows = list(csv.DictReader(run(photos, "--transductive", "--format", "csv")[1]))
    assert len(rows) == len(shown) and all(row["transductive"] == "true" for row in rows)
    objects = [json.loads(line) for line in run(photos, "--transductive", "--format", "jsonl")[1]]
    assert len(objects) == len(rows) and all(one["transductive"] is True for one in objects)
    assert "transductive" not in "".join(run(photos, "--format", "csv")[1])


def test_python_predicts_together_and_says_so(model: Path) -> None:
    opened, photos = load(model, backbone=str(model.parent / "backbone")), model.parent / "images"
    together, alone = predict_together(opened, str(photos)), opened.predict(str(photos))
    assert [one.source for one in together] == [one.source for one in alone]
    assert all(one.transductive for one in together) and not any(one.transductive for one in alone)
    assert "transductive" in together._repr_html_() and "transductive" not in alone._repr_html_()
    assert together.to_frame().transductive.all() and "transductive" not in alone.to_frame()


def test_evaluation_of_images_together_says_so_everywhere(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["evaluate", str(model), str(model.parent / "images"), "--all", "--transductive"]
    words += ["--backbone", str(model.parent / "backbone"), "--out", str(tmp_path / "rows.csv")]
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert printed.err.count("transductive: the images were predicted together") == 1
    assert "each image alone: accuracy" in printed.err and found["transductive"] is True
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["transductive"] for row in rows} == {"true"} and len(rows) == found["images"]
    opened = load(model, backbone=str(model.parent / "backbone"))
    scores = evaluate_together(opened, model.parent / "images", everything=True)
    assert scores.accuracy == found["accuracy"] and scores.transductive and "transductive" in scores._repr_html_()
    alone = evaluate(opened, model.parent / "images", everything=True)
    assert alone.accuracy == found["accuracy_alone"] and not alone.transductive
    said = {one.source: one.labels[0] for one in predict_together(opened, str(model.parent / "images"))}
    assert {row["image"]: row["predicted"] for row in rows} == said


@pytest.mark.parametrize("more", [["--coverage", "0.9"], ["--unknown-images", "photos"]])
def test_what_is_measured_on_images_alone_is_refused(
    model: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert main(["evaluate", str(model), str(model.parent / "images"), "--transductive", *more]) == 2
    assert "--transductive scores one model and task" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--unknown"], ["--format", "label-studio"], ["--copy-to", "sorted"]])
def test_what_has_no_room_to_say_so_is_refused(model: Path, run: Run, more: list[str]) -> None:
    code, out, (told,) = run(model.parent / "images", "--transductive", *more)
    assert (code, out) == (2, []) and "--transductive does not go with" in told
