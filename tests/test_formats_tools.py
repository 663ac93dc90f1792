"""What annotation tools export becomes tasks: labels of pictures, boxes as crops, parts; the rest is one sentence."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shotfit.commands.cli import main
from shotfit.data.images import open_image
from shotfit.data.pictures import Crop, Picture
from shotfit.data.readers import FORMATS, read_task
from shotfit.data.reading import Reading
from shotfit.data.tasks import Item, Task
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.errors import ShotfitError
from shotfit.files import SETTINGS_BYTES
from shotfit.fitting import written
from shotfit.fitting.model import Prediction
from shotfit.testing.tiny import tiny_backbone

from .formats import (
    BOXES,
    EXPORTS,
    LABELS,
    boxes_in,
    coco,
    cvat,
    dumped,
    label_studio,
    labels_in,
    pictures,
    shares,
    voc,
)
from .pictures import picture, save, tree


@pytest.mark.parametrize("name", EXPORTS)
def test_export_is_recognized_and_gives_its_labels_or_boxes(tmp_path: Path, name: str) -> None:
    export = EXPORTS[name]
    source = export.write(tmp_path)
    task = read_task(source)
    assert task.reader.startswith(export.said)
    assert read_task(source, read_as=export.read_as).train == task.train
    if export.boxes:
        assert boxes_in(task) == {(name, label, box) for name, found in BOXES.items() for label, box in found}
        assert task.reader.endswith("each box an image")
    else:
        assert labels_in(task) == LABELS


def test_doctor_says_what_an_export_was_read_as(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = EXPORTS["coco parts"].write(tmp_path)
    assert main(["doctor", str(source)]) == 0
    told = capsys.readouterr().out
    assert "2 classes, 2 train, 1 validation and 1 test images, read as COCO file annotations/instances_train" in told
    assert "test part: about a fifth of each class, with all boxes of a picture" in told


# Parts, groups, classes


def parts_of(task: Task) -> dict[str, set[str]]:
    parts = {"train": task.train, "val": task.val, "test": task.test}
    return {part: {item.picture.path.stem for item in items} for part, items in parts.items()}


@pytest.mark.parametrize("name", ["coco parts", "coco roboflow", "yolo"])
def test_parts_are_those_of_the_export(tmp_path: Path, name: str) -> None:
    task = read_task(EXPORTS[name].write(tmp_path))
    assert task.test_origin == "about a fifth of each class, with all boxes of a picture"
    assert parts_of(task)["val"] == {"c"}


def test_image_sets_are_the_parts_of_voc(tmp_path: Path) -> None:
    task = read_task(EXPORTS["voc"].write(tmp_path))
    assert parts_of(task) == {"train": {"a"}, "val": {"b"}, "test": {"c"}}
    assert task.test_origin == "the image set test"
    assert "left out: 1 file of Annotations/, in no image set" in task.notes


def test_tags_and_subsets_are_parts(tmp_path: Path) -> None:
    source = EXPORTS["fiftyone samples"].write(tmp_path / "one")
    samples = json.loads((source / "samples.json").read_text())
    samples["samples"][0]["tags"] = ["validation"]
    dumped(source / "samples.json", samples)
    assert parts_of(read_task(source))["val"] == {"a"}
    pictures(tmp_path / "two")
    (tmp_path / "two" / "annotations.xml").write_text(cvat(False).replace('id="1"', 'id="1" subset="Test"'))
    task = read_task(tmp_path / "two")
    assert (parts_of(task)["test"], task.test_origin) == ({"b"}, "the images of the subset test")


def test_boxes_of_a_picture_are_never_in_two_parts(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(12)]
    images, boxes = [], []
    for number, name in enumerate(names):
        save(tmp_path / name)
        images.append({"id": number, "file_name": name, "width": 40, "height": 36})
        boxes += [{"image_id": number, "category_id": 1, "bbox": [x, 0, 9, 9]} for x in (0, 10, 20)]
    found = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "car"}]}
    parts = parts_of(read_task(dumped(tmp_path / "labels.json", found)))
    assert parts["test"]
    assert not parts["train"] & parts["test"]


def test_classes_have_the_order_of_the_source_and_those_without_an_image_are_named(tmp_path: Path) -> None:
    pictures(tmp_path)
    more = [{"id": 1, "name": "bike"}, {"id": 7, "name": "car"}, {"id": 3, "name": "bus"}]
    task = read_task(dumped(tmp_path / "labels.json", coco(["a.png", "b.png"], categories=more)))
    assert task.classes.names == ("bus", "car")
    assert task.notes == ("left out: 1 of 3 classes, without an image (bike)",)


# What is left out is said


def test_tasks_without_one_label_are_left_out_and_counted(tmp_path: Path) -> None:
    tasks = label_studio()
    tasks[0]["annotations"].append({"result": [{"value": {"choices": ["dog"]}}]})  # another person says otherwise
    pictures(tmp_path)
    task = read_task(dumped(tmp_path / "export.json", tasks))
    assert labels_in(task) == {name: label for name, label in LABELS.items() if name != "a.png"}
    assert task.notes == (
        "left out: 2 pictures without a label",
        "left out: 1 picture with several labels (an image has one class here)",
    )


def test_crowds_difficult_and_turned_boxes_are_left_out_and_counted(tmp_path: Path) -> None:
    pictures(tmp_path / "coco")
    found = coco(["a.png", "b.png"])
    found["annotations"][0]["iscrowd"] = 1
    crowds = read_task(dumped(tmp_path / "coco" / "labels.json", found))
    assert crowds.notes[:2] == ("left out: 1 box of a crowd (iscrowd)", "left out: 1 picture without a box")
    pictures(tmp_path / "voc")
    for one in LABELS:
        hard = "<object><name>bus</name><difficult>1</difficult><bndbox/></object>" if one == "a.png" else ""
        (tmp_path / "voc" / one.replace("png", "xml")).write_text(voc(one, hard))
    assert "left out: 1 object marked as difficult" in read_task(tmp_path / "voc").notes
    pictures(tmp_path / "cvat")
    shapes = cvat(True).replace('z="0"', 'rotation="30.0"', 1).replace("</image>", "<polygon/></image>", 1)
    (tmp_path / "cvat" / "annotations.xml").write_text(shapes)
    notes = read_task(tmp_path / "cvat").notes
    assert {"left out: 1 box at an angle", "left out: 1 shape other than a box"} <= {*notes}


def test_labels_of_pictures_win_over_boxes(tmp_path: Path) -> None:
    pictures(tmp_path)
    xml = cvat(False).replace("<tag", '<box label="car" xtl="1" ytl="1" xbr="9" ybr="9"/><tag')
    (tmp_path / "annotations.xml").write_text(xml)
    task = read_task(tmp_path)
    assert labels_in(task) == LABELS
    assert "left out: 4 boxes (pictures have labels of their own)" in task.notes


def test_predictions_are_read_where_nobody_annotated(tmp_path: Path) -> None:
    pictures(tmp_path)
    tasks = label_studio()[:4]
    for task in tasks:
        task["predictions"] = task.pop("annotations")
    read = read_task(dumped(tmp_path / "export.json", tasks))
    assert labels_in(read) == LABELS
    assert "no task has an annotation: the labels are predictions" in read.notes


# Boxes


@pytest.mark.parametrize(
    ("box", "crop"),
    [
        ([4.2, 3.9, 20.3, 18.05], (4, 3, 21, 19)),  # rounded outwards
        ([4.0000001, 2.9999999, 10, 10], (4, 3, 10, 10)),  # but not by the last digits
        ([-3, -0.5, 10, 10], (0, 0, 7, 10)),
        ([30, 30, 100, 100], (30, 30, 10, 6)),
    ],
)
def test_box_is_rounded_outwards_and_cut_at_the_edges(tmp_path: Path, box: list[float], crop: tuple[int, ...]) -> None:
    pictures(tmp_path)
    found = coco(["a.png"])
    found["annotations"][0]["bbox"] = box
    assert {sides for *_, sides in boxes_in(read_task(dumped(tmp_path / "labels.json", found)))} == {crop}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("relative", [False, True])
def test_box_is_of_the_upright_picture_that_people_saw(tmp_path: Path, orientation: int, relative: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "data" / "a.png", picture(5), exif=exif)
    upright = open_image(Picture(tmp_path / "data" / "a.png"))
    x, y, width, height = 4, 3, 20, 12
    if relative:
        box = [x / upright.width, y / upright.height, width / upright.width, height / upright.height]
        path = dumped(tmp_path / "labels.json", {"labels": {"a": [{"label": "car", "bounding_box": box}]}})
    else:
        found = coco(["a.png"])
        found["annotations"][0]["bbox"] = [x, y, width, height]
        found["images"][0] |= {"width": upright.width, "height": upright.height}
        path = dumped(tmp_path / "labels.json", found)
    (item,) = read_task(path).train
    assert open_image(item.picture).tobytes() == upright.crop((x, y, x + width, y + height)).tobytes()


def test_box_is_of_stored_pixels_where_the_file_states_their_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.png", picture(5), exif=exif)
    found = coco(["a.png"])  # states 40 x 36, and upright it is 36 x 40
    (item,) = read_task(dumped(tmp_path / "labels.json", found)).train
    assert item.picture.crop == Crop(4, 3, 20, 18)


def test_pictures_of_another_size_than_stated_are_left_out(tmp_path: Path) -> None:
    pictures(tmp_path)
    save(tmp_path / "b.png", picture(2, width=80, height=72))
    notes = read_task(dumped(tmp_path / "labels.json", coco(["a.png", "b.png"]))).notes
    (said,) = [note for note in notes if "1 picture of another size than the source states" in note]
    assert "b.png, 80 x 72 in place of 40 x 36" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -5, 10**400, 1e12, "4", None, [1], True])
def test_size_of_a_box_that_is_no_sensible_number_is_refused_with_its_entry(tmp_path: Path, value: object) -> None:
    pictures(tmp_path)
    found = coco(["a.png", "b.png"])
    found["annotations"][1]["bbox"] = [0, 0, value, 5]
    path = dumped(tmp_path / "labels.json", found)
    if value == "4":  # as numbers are in XML
        assert read_task(path).train
        return
    with pytest.raises(ShotfitError, match=r"labels\.json, annotation 1: the box"):
        read_task(path)


def test_broken_picture_is_left_to_the_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = EXPORTS["yolo"].write(tmp_path)
    (source / "images" / "train" / "b.png").write_bytes(b"broken")
    assert main(["doctor", str(source)]) == 3
    assert re.search(r"b\.png .*text", capsys.readouterr().out)
    task = Reading(skip_broken=True, to_fit=False).task(source, None)
    assert {name for name, *_ in boxes_in(task)} == {"a.png", "c.png"}


def test_crops_of_a_file_give_the_features_of_the_same_crops_as_files(tmp_path: Path) -> None:
    task = read_task(EXPORTS["coco boxes"].write(tmp_path / "coco"))
    items = sorted([*task.train, *task.test], key=lambda item: str(item.picture))
    for number, item in enumerate(items):
        crop = item.picture.crop
        assert crop is not None
        whole = open_image(item.picture.whole)
        cut = whole.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
        save(tmp_path / "files" / f"{number}.png", cut)
    files = [Item(Picture(path), 0, str(path)) for path in sorted((tmp_path / "files").iterdir())]
    frozen = Frozen(tiny_backbone(tmp_path / "backbone"))
    features = [frozen.image(ImagePool(these).all()) for these in (items, files)]
    assert torch.equal(*features)


# Refused in a sentence


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("https://example.org/a.png", "is no path; nothing is fetched"),
        ("s3://bucket/a.png", "is no path"),
        ("data:image/png;base64,AAAA", "is no path"),
        ("a\0.png", "expected a path"),
        ("", "expected a path|none is of a picture"),
        (3, "none is of a picture"),
    ],
)
def test_picture_that_is_no_path_is_refused(tmp_path: Path, name: object, said: str) -> None:
    tasks = label_studio()
    tasks[1]["data"]["image"] = name
    pictures(tmp_path)
    with pytest.raises(ShotfitError, match=said):
        read_task(dumped(tmp_path / "export.json", tasks))


XML = "<annotations><image name='a.png' width='40' height='36'>{}</image></annotations>"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("annotations.xml", f"<!DOCTYPE annotations [<!ENTITY b 'x'>]>{XML.format('&b;')}", "document type"),
        ("annotations.xml", "<!DOCTYPE annotations SYSTEM 'file:///etc/passwd'>" + XML.format(""), "document type"),
        ("annotations.xml", "<annotations>" + "<a>" * 200, "more than 100 levels"),
        ("annotations.xml", XML.format("<tag/>"), "image 0: the label is null"),
        ("annotations.xml", XML.format("<box label='a' xtl='5' ytl='1' xbr='2' ybr='9'/>"), "negative width"),
        ("annotations.xml", XML.format("<box label='a' xtl='nan' ytl='1' xbr='2' ybr='9'/>"), 'the box is "nan"'),
        ("annotations.xml", "<annotations><track/></annotations>", "tracks of a video; export as CVAT for images"),
        ("annotations.xml", "<annotations></annotations>", "no picture or box with a label"),
        ("data.yaml", "names: &a [x]\ntrain: images\nval: *a\n", "has an alias"),
        ("data.yaml", "train: images\nnames: " + "[" * 5000, "not valid YAML"),
        ("data.yaml", "train: images\nnames: [a]\nval: gone", "val is .*which is not there"),
        ("data.yaml", "train: images\nnames:", "has no names of classes"),
        ("data.yaml", "train: images\nnames: {x: cat}", "a name has the number"),
        ("labels.json", '{"images": [], "categories": ' + "[" * 100_000, "is not valid JSON"),
        ("labels.json", '{"images": 3, "categories": []}', "images is 3; expected a list"),
        ("labels.json", '{"images": [], "categories": [{"id": 1}]}', "category 0: the label is null"),
        ("labels.json", '{"images": [], "categories": [], "annotations": [{"image_id": 1}]}', "annotation 0: the id"),
        ("samples.json", '{"samples": [{"filepath": "a.png"}]}', "has 0 fields of labels"),
        ("samples.json", '{"samples": [{"filepath": 3, "x": {"_cls": "Detections"}}]}', "the name of the picture is 3"),
    ],
)
def test_malformed_export_is_refused_in_a_sentence(tmp_path: Path, file: str, content: str, said: str) -> None:
    pictures(tmp_path / "images")
    (tmp_path / file).write_text(content)
    (tmp_path / "metadata.json").write_text("{}")
    with pytest.raises(ShotfitError, match=said) as raised:
        read_task(tmp_path)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.1", "7 0.5 0.5 0.1 0.1", "x 0 0 1 1", "0 nan 0 1 1", "0 1 1 -1 1"])
def test_line_that_is_no_box_of_yolo_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    source = EXPORTS["yolo"].write(tmp_path)
    (source / "labels" / "train" / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(ShotfitError, match=r"a\.txt, line 2"):
        read_task(source)


@pytest.mark.parametrize("read_as", ["label-studio", "coco", "yolo", "voc", "cvat", "fiftyone"])
def test_class_folders_are_no_export_and_asking_for_one_is_a_sentence(tmp_path: Path, read_as: str) -> None:
    assert not FORMATS[read_as].recognizes(tree(tmp_path, cat=1, dog=1))
    with pytest.raises(ShotfitError, match=r"holds no |expected|has no "):
        read_task(tmp_path, read_as=read_as)


def test_zip_bomb_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "task.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", b" " * (SETTINGS_BYTES + 1))
    with pytest.raises(ShotfitError, match=r"annotations\.xml has more than"):
        read_task(tmp_path / "task.zip")


# Whatever a file holds, it is a task or one sentence

TEXT = st.sampled_from(["a.png", "b.png", "cat", "x", "", "0", "\ud800", "1e999"]) | st.text(max_size=5)
NUMBER = st.integers(-5, 50) | st.floats() | st.just(10**400)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def mutated(value: Any, draw: st.DrawFn) -> Any:
    """The value with one of its inner values replaced, or left out."""
    if not isinstance(value, (list, dict)) or not value or draw(st.integers(0, 4)) == 0:
        return draw(VALUE)
    key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    changed = dict(value) if isinstance(value, dict) else list(value)
    if draw(st.integers(0, 5)) == 0:
        del changed[key]
    else:
        changed[key] = mutated(value[key], draw)
    return changed


@st.composite
def mutations(draw: st.DrawFn, value: Any) -> Any:
    for _ in range(draw(st.integers(1, 3))):
        value = mutated(value, draw)
    return value


def survives(source: Path, read_as: str) -> None:
    """Reading ends in a task or in one sentence; recognizing never fails."""
    for found in FORMATS.values():
        assert found.recognizes(source) in (True, False)
    try:
        read_task(source, read_as=read_as)
    except ShotfitError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1500


JSONS = {
    "label-studio": (label_studio()[:3], "export.json"),
    "coco": (coco(["a.png", "b.png"]), "labels.json"),
    "fiftyone": ({"classes": ["cat"], "labels": {"a": 0, "b": shares("b.png")}}, "labels.json"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("place") / "data").parent


@pytest.mark.parametrize("read_as", JSONS)
@settings(max_examples=40)
@given(data=st.data())
def test_mutated_json_is_a_task_or_a_sentence(place: Path, read_as: str, data: st.DataObject) -> None:
    value, name = JSONS[read_as]
    dumped(place / name, data.draw(mutations(value)))
    survives(place / name, read_as)


FILES = {
    "label-studio": ("x.csv", "image,choice,annotation_id\na.png,cat,1\n"),
    "cvat": ("annotations.xml", cvat(True)),
    "voc": ("a.xml", voc("a.png")),
    "yolo": ("data.yaml", "train: data\nnames:\n  0: bus\n  1: car\n"),
    "coco": ("labels.json", json.dumps(coco(["a.png"]))),
    "fiftyone": ("labels.json", json.dumps({"labels": {"a": "cat"}})),
}


@pytest.mark.parametrize("read_as", FILES)
@settings(max_examples=40)
@given(data=st.data())
def test_damaged_bytes_are_a_task_or_a_sentence(place: Path, read_as: str, data: st.DataObject) -> None:
    name, text = FILES[read_as]
    content = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=6))
    (place / "data" / name).write_bytes(content)
    survives(place / "data" if read_as == "voc" else place / "data" / name, read_as)
    (place / "data" / name).unlink()


# Predictions that the tools take in


PREDICTIONS = [
    Prediction("photos & more/a.png", ("cat", "dog"), (0.75, 0.25)),
    Prediction("b.png", ("dog",), (0.5,)),
    Prediction("b.jpg", ("cat",), (0.5,)),
    Prediction("broken.png", (), (), "broken.png is truncated."),
]
PREDICTED = {"a.png": "cat", "b.png": "dog", "b.jpg": "cat"}


@pytest.mark.parametrize("form", ["label-studio", "fiftyone"])
def test_written_predictions_are_read_back_as_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for prediction in PREDICTIONS[:3]:
        save(Path(prediction.source))
    source = tmp_path / "elsewhere" / "labels.json"
    source.parent.mkdir()
    if form == "fiftyone":
        labels, data = written.fiftyone(PREDICTIONS)
        source.write_text(labels)
        (source.parent / "data.json").write_text(data)
        assert json.loads(labels)["labels"]["b-2"] == {"label": "cat", "confidence": 0.5}
    else:
        source.write_text("\n".join(written.label_studio(PREDICTIONS)))
        assert json.loads(source.read_text())[0]["predictions"][0]["score"] == 0.75
    task = read_task(source)
    assert labels_in(task) == PREDICTED
    assert task.reader.startswith("Label Studio export" if form == "label-studio" else "FiftyOne file")
