"""Boxes from end to end: predicted as the same crops in files, written back, judged by their pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import shotfit
from shotfit.commands.cli import main
from shotfit.data import decoded
from shotfit.data.detections.reading import read_boxes
from shotfit.data.images import open_image
from shotfit.data.pictures import Crop, Picture
from shotfit.data.readers import read_task
from shotfit.data.tasks import Item
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.evaluate import Answers, answers, evaluate
from shotfit.evaluation.pictures import picture_scores
from shotfit.fitting.fit import fit
from shotfit.fitting.relabelling import predict_boxes, relabel
from shotfit.testing.tiny import tiny_backbone, tiny_task

from ..pictures import picture, save
from .conftest import Run

SIDES = (96, 80)
SHARES = [(2 + 11 * number % 60, 3 + 7 * number % 50, 20 + number % 9, 18 + number % 7) for number in range(12)]


def detections(folder: Path, count: int = 4, **more: object) -> Path:
    """Pictures of twelve boxes each, of two classes, as COCO."""
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number in range(count):
        save(folder / "images" / f"{number}.png", picture(number, *SIDES))
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDES[0], "height": SIDES[1]})
        for place, box in enumerate(SHARES):
            boxes.append({"id": len(boxes), "image_id": number, "category_id": place % 2, "bbox": [*box], "mine": [1]})
    named = [{"id": 0, "name": "circle"}, {"id": 1, "name": "square"}]
    path = folder / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes[::-1], "categories": named, **more}))
    return path


@pytest.fixture
def opened(model: Path) -> shotfit.Model:
    return shotfit.load(model, backbone=str(model.parent / "backbone"), store=MemoryStore())


def cut(found: Picture, place: Path) -> Path:
    """What a box shows, in a file without loss."""
    crop = found.crop
    assert crop is not None
    whole = open_image(found.whole)
    return save(place, whole.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)))


def test_command_labels_boxes_and_keeps_the_rest(tmp_path: Path, run: Run, model: Path) -> None:
    source, out = detections(tmp_path), tmp_path / "out.json"
    code, _, told = run("--boxes", source, "--out", out, "--padding", 0.1)
    assert code == 0, told
    assert told[0] == "read as COCO file boxes.json: 48 boxes of 4 pictures, with 0.1 of their sides around them"
    assert told[-1] == f"written: {out}: 48 boxes labelled"
    before, after = (json.loads(path.read_text()) for path in (source, out))
    names = {one["id"]: one["name"] for one in after["categories"]}
    for one, was in zip(after["annotations"], before["annotations"], strict=True):
        assert 0 < one.pop("score") <= 1
        assert names[one["category_id"]] in json.loads((model / "adapter.json").read_text())["classes"][0]["names"]
        assert {**one, "category_id": 0} == {**was, "category_id": 0}


def test_boxes_are_predicted_as_the_same_crops_in_files(tmp_path: Path, opened: shotfit.Model) -> None:
    found = read_boxes(detections(tmp_path))
    said = dict(predict_boxes(opened, found, 0.2, top=3))
    assert len(said) == 48
    shown = [said[number].picture for number in said]
    files = [cut(one, tmp_path / "cut" / f"{number:02}.png") for number, one in enumerate(shown) if one is not None]
    for number, plain in zip(said, opened.predict(files, top=3), strict=True):
        assert (said[number].labels, said[number].probabilities) == (plain.labels, plain.probabilities)


def test_fit_to_boxes_is_the_fit_to_the_same_crops_in_files(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path / "backbone")
    task = read_task(detections(tmp_path / "a", count=5), padding=0.1)

    def as_files(items: Sequence[Item], part: str) -> tuple[Item, ...]:
        files = [cut(item.picture, tmp_path / "b" / f"{part}{number:03}.png") for number, item in enumerate(items)]
        return tuple(replace(item, picture=Picture(file)) for item, file in zip(items, files, strict=True))

    plain = replace(task, train=as_files(task.train, "train"), held_out=as_files(task.test, "test"), padding=None)
    said = []
    for one in (task, plain):
        fitted = fit(one, "tip_adapter", backbone=backbone, store=MemoryStore(), recipe="paper", check=False)
        said.append(answers(fitted, list(one.test)).probabilities)
        assert fitted.record["padding"] == one.padding
    assert np.array_equal(said[0], said[1])


def test_picture_is_decoded_once_for_its_boxes(
    tmp_path: Path, opened: shotfit.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path | None] = []
    real = decoded._load

    def load(found: decoded.Opened) -> None:
        loads.append(found.picture.file)
        real(found)

    monkeypatch.setattr(decoded, "_load", load)
    monkeypatch.setattr(decoded, "_KEPT", 0)  # as if they were large
    found = read_boxes(detections(tmp_path, count=2), images=tmp_path / "images")
    assert len(list(predict_boxes(opened, found))) == 24
    assert len(loads) == len(set(loads)) == 2


def test_groups_of_boxes_have_the_size_of_a_batch(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", picture(1, 96, 80))
    boxes = [Item(Picture(path, crop=Crop(number % 60, 0, 20, 20)), 0, str(number)) for number in range(70)]
    pool = ImagePool([Item(Picture(path), 0, "whole"), *boxes, Item(Picture(path), 0, "again")])
    assert [len(rows) for rows in pool.files(range(72))] == [1, 32, 32, 6, 1]
    pixels = list(Frozen(tiny_backbone(tmp_path / "backbone")).pixels(pool, range(72)))
    assert [len(batch) for batch in pixels] == [33, 32, 7]
    alone = [torch.stack(pool.pixels((row,), *_rule(tmp_path))) for row in (1, 40, 71)]
    assert torch.equal(torch.cat(alone).to(pixels[0].dtype), torch.cat(pixels)[[1, 40, 71]])


def _rule(tmp_path: Path) -> tuple[Any, bool]:
    return tiny_backbone(tmp_path / "backbone").config.preprocessing, True


# Padding is the model's


def test_model_keeps_its_padding_and_refuses_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone, source = tmp_path / "backbone", detections(tmp_path)
    fitted = fit(source, "zero_shot", padding=0.25, backbone=tiny_backbone(backbone), store=MemoryStore())
    fitted.save(tmp_path / "model")
    assert evaluate(fitted, source).images == evaluate(fitted, read_task(source, padding=0.25)).images
    with pytest.raises(UsageError, match=r"have a padding of 0, but the model was fitted with 0.25"):
        evaluate(fitted, read_task(source))
    with pytest.raises(UsageError, match=r"fitted to boxes with a padding of 0.25, not 0.1"):
        relabel(fitted, source, tmp_path / "out.json", padding=0.1)
    with pytest.raises(UsageError, match="goes around boxes, but the images are whole pictures"):
        fit(tiny_task(tmp_path / "plain"), "zero_shot", padding=0.1, backbone=tiny_backbone(backbone))
    with pytest.raises(UsageError, match=r"padding is 0.1, but the boxes of the task were read with 0 around them"):
        fit(read_task(source), "zero_shot", padding=0.1, backbone=tiny_backbone(backbone))
    words = [str(tmp_path / "model"), str(source), "--backbone", str(backbone), "--all"]
    assert main(["evaluate", *words, "--padding", "0.5"]) == 2
    assert "leave --padding out" in capsys.readouterr().err
    assert main(["evaluate", *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["by_picture"]["pictures"] == 4
    assert told["by_picture"]["box_accuracy"] == told["accuracy"]


@pytest.mark.parametrize("padding", [-0.1, 11, float("nan")])
def test_padding_is_a_share(tmp_path: Path, padding: float) -> None:
    with pytest.raises(UsageError, match=r"expected a share of a box's sides from 0 to 10, such as 0.1"):
        read_task(detections(tmp_path), padding=padding)


# Judged by pictures


def test_scores_by_picture(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    of = [0, 0, 1, 1, 1, 2]
    items = [Item(Picture(paths[number], crop=Crop(0, 0, 1 + place, 1)), 0, "") for place, number in enumerate(of)]
    labels, predicted = np.array([0, 1, 0, 0, 1, 2]), np.array([1, 0, 0, 0, 0, 2])
    scores = picture_scores(items, Answers(labels, np.eye(3)[predicted], ("x", "y", "z")))
    assert scores is not None
    assert (scores.pictures, scores.boxes, scores.box_accuracy) == (3, 6, 0.5)
    assert scores.picture_accuracy == pytest.approx((0 + 2 / 3 + 1) / 3)
    assert scores.all_right == pytest.approx(1 / 3)
    assert scores.same_classes == pytest.approx(2 / 3)  # in a the two classes are found, each in the other's place
    assert (scores.presence_precision, scores.presence_recall) == (1, 0.8)
    low, high = scores.box_accuracy_interval
    assert 0 <= low <= 0.5 <= high <= 1
    assert picture_scores([Item(Picture(paths[0]), 0, "")], Answers(labels[:1], np.eye(3)[:1], ("x", "y", "z"))) is None


# What cannot be judged, and what does not go together


def test_boxes_that_cannot_be_judged_keep_their_labels(tmp_path: Path, run: Run) -> None:
    source, out = detections(tmp_path), tmp_path / "out.json"
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "2.png").write_bytes((tmp_path / "images" / "2.png").read_bytes()[:900])
    words = ["--boxes", source, "--out", out]
    code, _, told = run(*words)
    assert code == 4
    assert len([line for line in told if line.startswith("not labelled: ") and "1.png" in line]) == 1
    assert told[-1] == f"written: {out}: 24 boxes labelled, 24 boxes as before"
    kept = [one for one in json.loads(out.read_text())["annotations"] if one["image_id"] in (1, 2)]
    assert kept == [one for one in json.loads(source.read_text())["annotations"] if one["image_id"] in (1, 2)]
    out.unlink()
    assert run(*words, "--strict")[0] == 3
    assert not out.exists()
    code, rows, _ = run(*words[:-2], "--format", "csv")
    assert (code, len(rows)) == (4, 49)
    assert sum("does not exist" in row for row in rows) == 12


def test_rows_are_written_where_out_names_a_table(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "rows.jsonl"
    assert run("--boxes", detections(tmp_path), "--out", out, "--top", 2)[0] == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 48
    assert rows[0]["image"].endswith("0.png#xywh=3,30,22,22")
    assert len(rows[0]["predictions"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--boxes writes the same format back: add --out"),
        (["--out", "o.json", "a.png"], "--boxes names its pictures: leave other images out"),
        (["--out", "o.json", "--transductive"], "--transductive does not go with --boxes"),
        (["--out", "o.json", "--copy-to", "x"], "--copy-to does not go with --boxes"),
        (["--out", "o.json", "--map", "maps"], "--map does not go with --boxes"),
        (["--out", "o.json", "--each-frame"], "--each-frame does not go with --boxes"),
        (["--out", "o.json", "--coverage", "0.9"], "go with rows, a box each: add --format"),
        (["--format", "fiftyone", "--out", "o"], "is of whole pictures"),
        (["--out", "o.json", "--padding", "-1"], "expected a share of a box's sides"),
        (["--out", "o.json", "--read-as", "xyz"], "boxes are not read as 'xyz'"),
        (["--out", "images"], "is a folder; expected the name of a file"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    source = detections(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    code, _, told = run("--boxes", source.name, *words)
    assert code == 2
    assert said in " ".join(told), told
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_images_and_padding_are_asked_for(tmp_path: Path, run: Run) -> None:
    assert "No image was named" in " ".join(run()[2])
    assert "--padding goes with --boxes" in " ".join(run("a.png", "--padding", 0.1)[2])


def test_folder_of_boxes_is_written_to_a_new_one(tmp_path: Path, run: Run) -> None:
    save(tmp_path / "in" / "a.png", picture(1, 96, 80))
    (tmp_path / "in" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "in" / "b.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    code, _, told = run("--boxes", tmp_path / "in", "--out", tmp_path / "in")
    assert (code, "is there already" in told[-1]) == (2, True)
    assert run("--boxes", tmp_path / "in", "--out", tmp_path / "out")[0] == 4  # b has no picture
    assert (tmp_path / "out" / "b.txt").read_text() == "0 0.5 0.5 0.2 0.2\n"
    assert len((tmp_path / "out" / "a.txt").read_text().split()) == 6
    with pytest.raises(ShotfitError, match="does not exist"):
        read_boxes(tmp_path / "gone")
