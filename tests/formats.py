"""Small examples of what annotation tools export, in their real layouts; all have the same pictures and labels."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shotfit.data.tasks import Task

from .pictures import save

WIDTH, HEIGHT = 40, 36  # of `save`
LABELS = {"a.png": "cat", "b.png": "dog", "c.png": "cat", "d.png": "dog"}
BOXES = {
    "a.png": [("car", (4, 3, 20, 18))],
    "b.png": [("bus", (0, 0, 40, 36)), ("car", (10, 5, 7, 9))],
    "c.png": [("bus", (2, 2, 8, 8))],
}
CLASSES = ["bus", "car"]


@dataclass(frozen=True)
class Export:
    """How an example is written (giving what a user names), as what it is read, and whether it has boxes."""

    write: Callable[[Path], Path]
    read_as: str
    said: str
    boxes: bool


def labels_in(task: Task) -> dict[str, str]:
    """The label of each picture."""
    items = [*task.train, *task.val, *task.test]
    assert all(item.digest for item in items)
    return {name(item.picture): task.classes.names[item.label] for item in items}


def boxes_in(task: Task) -> set[tuple[str, str, tuple[int, ...]]]:
    """Picture, label and box of each crop."""
    items = [*task.train, *task.val, *task.test]
    assert all(item.digest for item in items)
    found: set[tuple[str, str, tuple[int, ...]]] = set()
    for item in items:
        crop = item.picture.crop
        assert crop is not None
        sides = (crop.left, crop.top, crop.width, crop.height)
        found.add((name(item.picture), task.classes.names[item.label], sides))
    return found


def name(picture: Any) -> str:
    """The file name of a picture or member."""
    return Path(picture.inside or picture.path).name


def pictures(folder: Path) -> Path:
    """The pictures of the examples."""
    for one in LABELS:
        save(folder / one)
    return folder


def dumped(path: Path, value: object) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


# Label Studio


def label_studio(address: str = "/data/upload/1/0a1b2c3d-{}") -> list[dict[str, Any]]:
    """Tasks with choices, one of them skipped and one without any."""
    tasks: list[dict[str, Any]] = []
    for number, (one, label) in enumerate({**LABELS, "e.png": "", "f.png": "cat"}.items()):
        result = [{"type": "choices", "from_name": "choice", "to_name": "image", "value": {"choices": [label]}}]
        annotations = [{"id": number, "was_cancelled": one == "f.png", "result": result if label else []}]
        tasks.append({"id": number, "data": {"image": address.format(one)}, "annotations": annotations})
    return tasks


def _label_studio(folder: Path) -> Path:
    pictures(folder / "images")
    return dumped(folder / "project-1.json", label_studio()).parent


def _label_studio_local(folder: Path) -> Path:
    pictures(folder / "my photos")
    address = "/data/local-files/?d=srv/my%20photos/{}"
    return dumped(folder / "export.json", label_studio(address))


def rectangles(one: str, **more: object) -> list[dict[str, Any]]:
    """Rectangles in percent."""
    found = []
    for label, (x, y, width, height) in BOXES.get(one, []):
        sides = {"x": x / 0.4, "y": y / 0.36, "width": width / 0.4, "height": height / 0.36, "rotation": 0}
        found.append({**sides, "rectanglelabels": [label], "original_width": WIDTH, "original_height": HEIGHT} | more)
    return found


def _label_studio_boxes(folder: Path) -> Path:
    pictures(folder)
    tasks = []
    for number, one in enumerate(LABELS):
        result = []
        for value in rectangles(one):
            size = {key: value.pop(key) for key in ("original_width", "original_height")}
            result.append({"type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value, **size})
        tasks.append({"id": number, "data": {"img": f"/data/upload/7/{one}"}, "annotations": [{"result": result}]})
    return dumped(folder / "boxes.json", tasks)


def _json_min(folder: Path) -> Path:
    pictures(folder)
    lines = [{"image": f"/data/upload/1/{one}", "choice": label, "annotation_id": 1} for one, label in LABELS.items()]
    return dumped(folder / "min.json", lines)


def _json_min_boxes(folder: Path) -> Path:
    pictures(folder)
    lines = [{"image": one, "label": rectangles(one), "annotation_id": 1, "lead_time": 2.5} for one in BOXES]
    return dumped(folder / "min.json", lines)


def _table(path: Path, lines: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def _label_studio_csv(folder: Path) -> Path:
    pictures(folder)
    lines = [{"annotation_id": 1, "choice": label, "id": 3, "image": f"/x/{one}"} for one, label in LABELS.items()]
    return _table(folder / "labels.csv", lines)


def _label_studio_csv_boxes(folder: Path) -> Path:
    pictures(folder)
    lines = [{"image": one, "label": json.dumps(rectangles(one)), "annotation_id": 1} for one in BOXES]
    return _table(folder / "labels.csv", lines)


# CVAT


def cvat(boxes: bool) -> str:
    """CVAT for images 1.1."""
    images = ""
    for number, one in enumerate(BOXES if boxes else LABELS):
        inside = f'<tag label="{LABELS[one]}" source="manual"></tag>'
        if boxes:
            inside = "".join(
                f'<box label="{label}" xtl="{x}.00" ytl="{y}.00" xbr="{x + width}.00" ybr="{y + height}.0" z="0"/>'
                for label, (x, y, width, height) in BOXES[one]
            )
        images += f'<image id="{number}" name="{one}" width="{WIDTH}" height="{HEIGHT}">{inside}</image>'
    meta = "<meta><task><labels><label><name>cat</name></label></labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}{images}</annotations>'


def _cvat(boxes: bool, folder: Path) -> Path:
    pictures(folder)
    (folder / "annotations.xml").write_text(cvat(boxes))
    return folder if boxes else folder / "annotations.xml"


def zipped(path: Path, folder: Path) -> Path:
    """All files of a folder in a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def _cvat_zip(boxes: bool, folder: Path) -> Path:
    pictures(folder / "in" / "images")
    (folder / "in" / "annotations.xml").write_text(cvat(boxes))
    return zipped(folder / "task.zip", folder / "in")


def _cvat_lists(folder: Path) -> Path:
    pictures(folder / "images")
    (folder / "synsets.txt").write_text("cat\ndog\n")
    lines = [f"{Path(one).stem} {['cat', 'dog'].index(label)}\n" for one, label in LABELS.items()]
    (folder / "default.txt").write_text("".join(lines))
    return folder


# FiftyOne


def _fiftyone_labels(folder: Path) -> Path:
    pictures(folder / "data")
    labels = {Path(one).stem: ["dog", "cat"].index(label) for one, label in LABELS.items()}
    return dumped(folder / "labels.json", {"classes": ["dog", "cat"], "labels": {**labels, "e": None}}).parent


def shares(one: str) -> list[dict[str, Any]]:
    """Detections with boxes in shares."""
    return [
        {"_cls": "Detection", "label": label, "bounding_box": [x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT]}
        for label, (x, y, width, height) in BOXES.get(one, [])
    ]


def _fiftyone_detections(folder: Path) -> Path:
    pictures(folder / "data")
    labels = {Path(one).stem: shares(one) for one in BOXES}
    return dumped(folder / "labels.json", {"classes": CLASSES, "labels": labels})


def _fiftyone_samples(boxes: bool, folder: Path) -> Path:
    pictures(folder / "data")
    dumped(folder / "metadata.json", {"name": "mine", "media_type": "image"})
    samples = []
    for one, label in LABELS.items():
        value: object = {"_cls": "Classification", "label": label, "confidence": None}
        if boxes:
            value = {"_cls": "Detections", "detections": shares(one)}
        sample = {"filepath": f"data/{one}", "tags": ["train", "good"], "metadata": None, "ground_truth": value}
        samples.append(sample | {"predictions": {"_cls": "Classification", "label": "other"}})
    dumped(folder / "samples.json", {"samples": samples})
    return folder


# COCO, VOC, YOLO


def coco(names: list[str], boxes: bool = True, **more: object) -> dict[str, Any]:
    """A COCO file of some of the pictures; categories 7 and 3, in label order bus, car."""
    categories = {"car": 7, "bus": 3} if boxes else {"cat": 1, "dog": 2}
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(names):
        if not boxes:
            annotations.append({"image_id": number, "category_id": categories[LABELS[one]]})
        for label, box in BOXES.get(one, []) if boxes else []:
            found = {"image_id": number, "category_id": categories[label], "bbox": [*box], "iscrowd": 0}
            annotations.append({**found, "segmentation": [[1.5, 2, 3]], "area": 3.0})
    images = [{"id": i, "file_name": one, "width": WIDTH, "height": HEIGHT} for i, one in enumerate(names)]
    for number, found in enumerate(annotations):
        found["id"] = number
    named = [{"id": number, "name": label} for label, number in categories.items()]
    return {"info": {}, "images": images, "annotations": annotations, "categories": named, **more}


def _coco_file(boxes: bool, folder: Path) -> Path:
    pictures(folder / "images")
    return dumped(folder / "labels.json", coco([*LABELS], boxes))


def _coco_parts(folder: Path) -> Path:
    save(folder / "train2017" / "a.png")
    save(folder / "train2017" / "b.png")
    save(folder / "val2017" / "c.png")
    dumped(folder / "annotations" / "instances_train2017.json", coco(["a.png", "b.png"]))
    dumped(folder / "annotations" / "instances_val2017.json", coco(["c.png"]))
    dumped(folder / "annotations" / "person_keypoints_val2017.json", coco(["c.png"]))
    return folder


def _roboflow(folder: Path) -> Path:
    for part, names in {"train": ["a.png", "b.png"], "valid": ["c.png"]}.items():
        for one in names:
            save(folder / part / one)
        dumped(folder / part / "_annotations.coco.json", coco(names))
    return folder


def _coco_in_parts(folder: Path) -> Path:
    for part, names in {"train": ["a.png", "b.png"], "test": ["c.png"]}.items():
        for one in names:
            save(folder / part / "images" / one)
            (folder / part / "images" / one.replace("png", "xml")).write_text(voc(one))
        dumped(folder / part / "coco.json", coco(names))
    return folder


def voc(one: str, more: str = "") -> str:
    """VOC's file of a picture."""
    objects = "".join(
        f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + width}</xmax><ymax>{y + height}</ymax></bndbox></object>"
        for label, (x, y, width, height) in BOXES.get(one, [])
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{one}</filename>{size}{objects}{more}</annotation>"


def _voc(folder: Path) -> Path:
    pictures(folder / "JPEGImages")
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (folder / "Annotations").mkdir()
    for one in LABELS:
        (folder / "Annotations" / one.replace("png", "xml")).write_text(voc(one))
    lists = {"train": "a\n", "val": "b\n", "trainval": "a\nb\n", "test": "c\n", "car_train": "a 1\n"}
    for part, names in lists.items():
        (sets / f"{part}.txt").write_text(names)
    return folder


def _voc_beside(folder: Path) -> Path:
    pictures(folder / "train")
    for one in LABELS:
        (folder / "train" / one.replace("png", "xml")).write_text(voc(one))
    return folder


def _voc_in(pictures_in: str, files_in: str, folder: Path) -> Path:
    """In other folders; {} is the part."""
    for part, names in {"train": ["a.png", "b.png"], "test": ["c.png"]}.items():
        for one in names:
            save(folder / pictures_in.format(part) / one)
            path = folder / files_in.format(part) / one.replace("png", "xml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(voc(one))
    return folder


def yolo_lines(one: str) -> str:
    """Boxes as class, center and size; one of them as a polygon."""
    lines = []
    for label, (x, y, width, height) in BOXES.get(one, []):
        left, top, right, bottom = x / WIDTH, y / HEIGHT, (x + width) / WIDTH, (y + height) / HEIGHT
        numbers = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        if one == "c.png":
            numbers = [left, top, right, top, right, bottom]
        lines.append(" ".join(map(str, [CLASSES.index(label), *numbers])) + "\n")
    return "".join(lines)


def _yolo(folder: Path) -> Path:
    for part, names in {"train": ["a.png", "b.png", "d.png"], "val": ["c.png"]}.items():
        (folder / "labels" / part).mkdir(parents=True)
        for one in names:
            save(folder / "images" / part / one)
            if one in BOXES:
                (folder / "labels" / part / one.replace("png", "txt")).write_text(yolo_lines(one))
    classes = "names:\n  0: bus\n  1: car\n"
    (folder / "data.yaml").write_text(f"path: ../elsewhere\ntrain: images/train\nval: images/val\ntest:\n{classes}")
    return folder


def _yolo_lists(folder: Path) -> Path:
    """As Roboflow writes paths, and lists of pictures."""
    (folder / "train" / "labels").mkdir(parents=True)
    for one in LABELS:
        save(folder / "train" / "images" / one)
        (folder / "train" / "labels" / one.replace("png", "txt")).write_text(yolo_lines(one))
    (folder / "mine.txt").write_text("./train/images/c.png\n")
    (folder / "my.yaml").write_text("train: ../train/images\nval: [mine.txt]\nnc: 2\nnames: ['bus', 'car']\n")
    return folder / "my.yaml"


def _yolo_in(pictures_in: str, files_in: str, names: str, folder: Path) -> Path:
    """Without a data.yaml; {} is the part."""
    for part, inside in {"train": ["a.png", "b.png", "d.png"], "test": ["c.png"]}.items():
        for one in inside:
            save(folder / pictures_in.format(part) / one)
            path = folder / files_in.format(part) / one.replace("png", "txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yolo_lines(one))
    (folder / names).write_text("".join(f"{name}\n" for name in CLASSES))
    return folder


YOLO_FOLDERS = {
    "yolo label-studio": ("images", "labels", "classes.txt", "YOLO data set by classes.txt"),
    "yolo labelimg": (".", ".", "classes.txt", "YOLO data set by classes.txt"),
    "yolo cvat": ("obj_{}_data", "obj_{}_data", "obj.names", "YOLO data set by obj.names"),
    "yolo in parts": ("{}/images", "{}/labels", "classes.txt", "YOLO data set by classes.txt"),
    "yolo parts in images": ("images/{}", "labels/{}", "labels/classes.txt", "YOLO data set by classes.txt"),
}
"""Folders of the pictures and of the files of labels, the list of names, and what is said."""

VOC_FOLDERS = {
    "voc small": ("images", "annotations", "VOC files under annotations/"),
    "voc in parts": ("{}/images", "{}/images", "VOC files beside the pictures"),
    "voc apart in parts": ("{}/JPEGImages", "{}/Annotations", "VOC files under test/Annotations/"),
    "voc parts in images": ("images/{}", "images/{}", "VOC files beside the pictures"),
    "voc parts in both": ("images/{}", "annotations/{}", "VOC files under annotations/test/"),
}
"""Folders of the pictures and of the XML files, and what is said."""

EXPORTS = {
    "label-studio": Export(_label_studio, "label-studio", "Label Studio export project-1.json", False),
    "label-studio local": Export(_label_studio_local, "label-studio", "Label Studio export", False),
    "label-studio boxes": Export(_label_studio_boxes, "label-studio", "Label Studio export", True),
    "label-studio min": Export(_json_min, "label-studio", "Label Studio export", False),
    "label-studio min boxes": Export(_json_min_boxes, "label-studio", "Label Studio export", True),
    "label-studio csv": Export(_label_studio_csv, "label-studio", "Label Studio export", False),
    "label-studio csv boxes": Export(_label_studio_csv_boxes, "label-studio", "Label Studio export", True),
    "cvat tags": Export(lambda folder: _cvat(False, folder), "cvat", "CVAT file annotations.xml", False),
    "cvat boxes": Export(lambda folder: _cvat(True, folder), "cvat", "CVAT file annotations.xml", True),
    "cvat zip": Export(lambda folder: _cvat_zip(False, folder), "cvat", "CVAT file annotations.xml", False),
    "cvat zip boxes": Export(lambda folder: _cvat_zip(True, folder), "cvat", "CVAT file annotations.xml", True),
    "cvat lists": Export(_cvat_lists, "cvat", "CVAT's ImageNet lists default.txt", False),
    "fiftyone labels": Export(_fiftyone_labels, "fiftyone", "FiftyOne file labels.json", False),
    "fiftyone detections": Export(_fiftyone_detections, "fiftyone", "FiftyOne file labels.json", True),
    "fiftyone samples": Export(lambda folder: _fiftyone_samples(False, folder), "fiftyone", "FiftyOne file sam", False),
    "fiftyone boxes": Export(lambda folder: _fiftyone_samples(True, folder), "fiftyone", "FiftyOne file samples", True),
    "coco labels": Export(lambda folder: _coco_file(False, folder), "coco", "COCO file labels.json", False),
    "coco boxes": Export(lambda folder: _coco_file(True, folder), "coco", "COCO file labels.json", True),
    "coco parts": Export(_coco_parts, "coco", "COCO file annotations/instances_train2017.json, annot", True),
    "coco roboflow": Export(_roboflow, "coco", "COCO file train/_annotations.coco.json, valid/", True),
    "coco in parts": Export(_coco_in_parts, "coco", "COCO file test/coco.json, train/coco.json", True),
    "voc": Export(_voc, "voc", "VOC files under Annotations/", True),
    "voc beside": Export(_voc_beside, "voc", "VOC files beside the pictures", True),
    "yolo": Export(_yolo, "yolo", "YOLO data set data.yaml", True),
    "yolo lists": Export(_yolo_lists, "yolo", "YOLO data set my.yaml", True),
    **{name: Export(partial(_yolo_in, *way[:3]), "yolo", way[3], True) for name, way in YOLO_FOLDERS.items()},
    **{name: Export(partial(_voc_in, *way[:2]), "voc", way[2], True) for name, way in VOC_FOLDERS.items()},
}
"""By name."""
