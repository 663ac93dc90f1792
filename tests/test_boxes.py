"""Files of boxes get other labels and nothing else: what is read is written again, to the value or to the byte."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shotfit.data.detections.boxes import Detections, Labels, crops
from shotfit.data.detections.reading import read_boxes
from shotfit.data.detections.spliced import Json, pieces
from shotfit.data.pictures import Crop
from shotfit.errors import ShotfitError, UsageError

from .formats import BOXES, EXPORTS, HEIGHT, WIDTH, coco, dumped, pictures, voc
from .pictures import save

NAMES = ("car", "bus", "flat & wide é")
SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def labels(found: Detections, keep: int = -1) -> Labels:
    """A label for each box, in turn; the box `keep` stays as it is."""
    chosen = np.arange(len(found)) % len(NAMES)
    chosen[chosen == keep] = -1
    return Labels(NAMES, chosen, np.linspace(0.25, 1, len(found)))


def written(found: Detections, folder: Path) -> Path:
    out = folder / ("out" if found.folder else "out.file")
    found.write(out, labels(found))
    return out


# Round and round


@pytest.mark.parametrize("name", ["coco boxes", "voc", "voc beside", "yolo", "yolo lists", "label-studio boxes"])
def test_boxes_are_the_same_when_they_were_labelled(tmp_path: Path, name: str) -> None:
    source = EXPORTS[name].write(tmp_path / "in")
    found = read_boxes(source)
    assert len(found) == sum(map(len, BOXES.values()))
    boxes = {(picture.path.name, picture.crop) for _, picture, why in crops(found) if not why}
    assert boxes == {(one, Crop(*box)) for one, listed in BOXES.items() for _, box in listed}
    out = written(found, tmp_path)
    target = source if source.is_file() else tmp_path / "in"
    again = read_boxes(_beside(out, target, found))
    assert list(again.boxes.sides) == list(found.boxes.sides)


def _beside(out: Path, source: Path, found: Detections) -> Path:
    """What was written in the place of what was read, beside the pictures."""
    if not found.folder:
        return Path(out.rename(source if source.is_file() else next(source.glob("*.json"))))
    for path in out.rglob("*"):
        if path.is_file():
            place = source if source.is_dir() else source.parent
            roots = [place / "Annotations", place] if (place / "Annotations").is_dir() else [place]
            target = next(root for root in roots if (root / path.relative_to(out)).exists()) / path.relative_to(out)
            target.write_bytes(path.read_bytes())
    return source


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
KEYS = {"id", "image_id", "category_id", "category_name", "bbox", "score", "iscrowd", "images", "annotations"}
KEYS |= {"categories", "data", "predictions", "completions", "result", "was_cancelled", "value", "rectanglelabels"}
KEYS |= {"x", "y", "width", "height", "rotation", "original_width", "original_height", "file_name", "name"}
MORE: st.SearchStrategy[dict[str, Any]] = st.dictionaries(TEXTS, VALUES, max_size=3).map(
    lambda more: {key: value for key, value in more.items() if key not in KEYS}
)


@SETTINGS
@given(value=st.dictionaries(TEXTS, VALUES, max_size=5), key=TEXTS, new=VALUES, indent=st.none() | st.integers(0, 3))
def test_json_is_changed_in_one_place(value: dict[str, Any], key: str, new: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    document = Json(text, "a.json", "tests")
    assert "".join(pieces(text, [])) == text
    spans = document.spans(document.start())
    assert {name: json.loads(text[start:end]) for name, (start, end) in spans.items()} == value
    changed = "".join(pieces(text, document.put(0, len(text), {key: json.dumps(new)})))
    assert json.loads(changed) == {**value, key: new}


@SETTINGS
@given(st.lists(MORE, min_size=1, max_size=4), MORE, MORE, st.booleans(), st.none() | st.integers(0, 2))
def test_coco_keeps_all_other_fields(
    tmp_path: Path, boxes: list[dict[str, Any]], info: dict[str, Any], image: dict[str, Any], named: bool, indent: int
) -> None:
    save(tmp_path / "a.png")
    found = [one | {"image_id": 3, "bbox": [1, 2.5, 3, 1e1]} for one in boxes]
    content: dict[str, Any] = info | {"annotations": found, "images": [image | {"id": 3, "file_name": "a.png"}]}
    if named:
        content["categories"] = [{"id": 5, "name": "Car", "supercategory": "x"}]
        found[0]["category_id"] = 5
    source = tmp_path / "labels.json"
    source.write_text(json.dumps(content, indent=indent), encoding="utf-8")
    out = json.loads(written(read_boxes(source), tmp_path).read_text(encoding="utf-8"))
    names = {one["id"]: one["name"] for one in out.pop("categories")}
    told = [names[one.pop("category_id")] for one in out["annotations"]]
    assert [name.lower() for name in told] == [NAMES[number % 3] for number in range(len(found))]
    assert [one.pop("score") for one in out["annotations"]][-1] in (0.25, 1.0)
    content.pop("categories", None)
    found[0].pop("category_id", None)
    assert out == content


@SETTINGS
@given(st.lists(MORE, min_size=1, max_size=3), MORE, MORE, st.none() | st.integers(0, 2))
def test_label_studio_keeps_all_other_fields(
    tmp_path: Path, regions: list[dict[str, Any]], more: dict[str, Any], value: dict[str, Any], indent: int | None
) -> None:
    save(tmp_path / "a.png")
    sides = {"x": 10.0, "y": 20, "width": 30, "height": 5.5, "rectanglelabels": ["old"]}
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    result = [one | size | {"value": value | sides} for one in regions] + [{"value": {"choices": ["x"]}}, {}]
    skipped = {"was_cancelled": True, "result": result}
    content = [more | {"data": {"image": "a.png"}, "annotations": [skipped, {"result": result}], "predictions": None}]
    source = tmp_path / "tasks.json"
    source.write_text(json.dumps(content, indent=indent), encoding="utf-8")
    found = read_boxes(source)
    assert len(found) == len(regions)
    out = json.loads(written(found, tmp_path).read_text(encoding="utf-8"))
    for number, region in enumerate(out[0]["annotations"][1]["result"][: len(regions)]):
        assert region["value"]["rectanglelabels"] == [NAMES[number % 3]]
        region["value"]["rectanglelabels"] = ["old"]
        assert 0.25 <= region.pop("score") <= 1
    assert out == content


BLANK = st.text("\t\n ", max_size=3)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))
TAGS = ["name", "name first", "empty", "none", "cdata", "score", "confidence"]


@SETTINGS
@given(st.lists(st.tuples(st.sampled_from(TAGS), BLANK, WORDS), min_size=1, max_size=4), WORDS, st.booleans())
def test_voc_keeps_all_else_to_the_byte(
    tmp_path: Path, objects: list[tuple[str, str, str]], note: str, latin: bool
) -> None:
    save(tmp_path / "a.png")

    def escaped(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    part = "<part><name>head</name><score>0.1</score><bndbox/></part>"
    kinds = {
        "name": "<name>{0}</name>", "name first": "<name a='>'>{0}</name >", "empty": "<name/>", "none": "",
        "cdata": "<name><![CDATA[<b>]]></name>", "score": "<name>{0}</name><score>0.5</score>",
        "confidence": "<confidence/><name>{0}</name>",
    }  # fmt: skip
    inside = "".join(
        f"<object>{part}{box}{blank}{kinds[kind].format(escaped(word) or '-')}<!-- {len(word)} --></object>{blank}"
        for kind, blank, word in objects
    )
    text = f"<annotation><filename>a.png</filename><!-- kept --><note>{escaped(note)}</note>{inside}</annotation>\n"
    head, encoding = ('<?xml version="1.0" encoding="ISO-8859-1"?>', "latin-1") if latin else ("", "utf-8")
    source = tmp_path / "a.xml"
    source.write_bytes(head.encode() + text.encode(encoding, "xmlcharrefreplace"))
    out = written(read_boxes(source), tmp_path).read_bytes()
    before, after = ElementTree.fromstring(source.read_bytes()), ElementTree.fromstring(out)
    for number, one in enumerate(after.findall("object")):
        assert one.findtext("name") == NAMES[number % 3]
        assert 0.25 <= float(one.findtext("score") or one.findtext("confidence") or 0) <= 1
    assert before.findtext("note") == after.findtext("note")

    def bare(content: bytes) -> bytes:
        """Without names, scores and the blanks in front of them."""
        kept = re.sub(rb"<part>.*?</part>", b"<part/>", content, flags=re.S)
        kept = re.sub(rb"<name(?: a='>')?>.*?</name ?>|<name/>", b"", kept, flags=re.S)
        return re.sub(rb"\s*(<(score|confidence)>.*?</\2>|<confidence/>)|\s+", b"", kept, flags=re.S)

    assert bare(out) == bare(source.read_bytes())
    assert out.count(b"<part><name>head</name><score>0.1</score><bndbox/></part>") == len(objects)


NUMBERS = st.floats(0, 0.4, allow_nan=False).map(repr)


@SETTINGS
@given(st.lists(st.tuples(st.integers(0, 9), st.lists(NUMBERS, min_size=4, max_size=8), BLANK), min_size=1, max_size=5))
def test_yolo_keeps_numbers_and_blanks(tmp_path: Path, lines: list[tuple[int, list[str], str]]) -> None:
    save(tmp_path / "a.png")
    lines = [(number, words[:6] if len(words) == 7 else words, blank) for number, words, blank in lines]
    text = "".join(f"{number}\t{'  '.join(words)}{blank}\n" for number, words, blank in lines)
    folder = tmp_path / "labels"
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text(text)
    found = read_boxes(folder, images=tmp_path)
    out = Labels(NAMES, np.arange(len(found)) % 3, np.full(len(found), 0.5))
    for path in (tmp_path / "out").glob("*"):
        path.unlink()
    found.write(tmp_path / "out", out)
    again = (tmp_path / "out" / "a.txt").read_text()
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines() == list(NAMES)
    expected = []
    for number, (_, words, blank) in enumerate(lines):
        kept = [*words[:4], "0.5"] if len(words) in (4, 5) else words
        expected.append(f"{number % 3}\t{'  '.join(kept)}{blank}\n")
    assert re.sub("[ ]+", " ", again) == re.sub("[ ]+", " ", "".join(expected))


@pytest.mark.parametrize(
    "said",
    [
        "nc: 2\nnames: ['bus', 'car']\n", "names:\n- bus  # first\n- car\nnc: 2\n", "names:\n  0: bus\n  1: car\n",
        "names: {0: bus, 1: car}\nnc: 2", "nc: 2\nnames:\n  - bus\n  - car\n\n# the end\n",
    ],
)  # fmt: skip
def test_new_classes_go_behind_the_known_ones_in_yaml(tmp_path: Path, said: str) -> None:
    EXPORTS["yolo"].write(tmp_path / "in")
    path = tmp_path / "in" / "data.yaml"
    path.write_text(f"# mine\ntrain: images/train\nval: images/val\n{said}")
    text = (written(read_boxes(path), tmp_path) / "data.yaml").read_text()
    plain = yaml.safe_load(text)
    assert plain["names"] == {0: "bus", 1: "car", 2: NAMES[2]}
    assert plain.get("nc", 3) == 3
    assert plain["train"] == "images/train"
    assert text.startswith("# mine\n")


def test_known_classes_leave_the_yaml_as_it_is(tmp_path: Path) -> None:
    source = EXPORTS["yolo"].write(tmp_path / "in")
    found = read_boxes(source)
    found.write(tmp_path / "out", Labels(("car", "Bus"), np.zeros(len(found), int), np.ones(len(found))))
    assert (tmp_path / "out" / "data.yaml").read_bytes() == (source / "data.yaml").read_bytes()


def test_boxes_without_a_label_stay_as_they_are(tmp_path: Path) -> None:
    source = EXPORTS["coco boxes"].write(tmp_path)
    found = read_boxes(source)
    found.write(tmp_path / "out.json", Labels(NAMES, np.full(len(found), -1), np.zeros(len(found))))
    out, before = (json.loads(path.read_text()) for path in (tmp_path / "out.json", tmp_path / "labels.json"))
    assert out["annotations"] == before["annotations"]


def test_crowds_and_turned_rectangles_stay_as_they_are(tmp_path: Path) -> None:
    pictures(tmp_path)
    content = coco(["a.png", "b.png"])
    content["annotations"][0]["iscrowd"] = 1
    found = read_boxes(dumped(tmp_path / "labels.json", content))
    assert (len(found), found.notes) == (2, ("left out: 1 box of a crowd (iscrowd)",))
    out = json.loads(written(found, tmp_path).read_text())
    assert out["annotations"][0] == content["annotations"][0]


# Results of COCO, which name no classes


def results(**more: Any) -> list[dict[str, Any]]:
    return [{"image_id": 7, "bbox": [1, 1, 9, 9], "score": 0.3, **more}, {"image_id": 12, "bbox": [2, 2, 9, 9]}]


def test_results_find_pictures_by_their_number_and_name_classes(tmp_path: Path) -> None:
    for name in ("000000000007.png", "12.png"):
        save(tmp_path / "photos" / name)
    found = read_boxes(dumped(tmp_path / "results.json", results()), images=tmp_path / "photos")
    assert [picture.path.name for picture in found.pictures] == ["000000000007.png", "12.png"]
    out = json.loads(written(found, tmp_path).read_text())
    assert [(one["category_id"], one["category_name"]) for one in out] == [(1, "car"), (2, "bus")]
    assert out[0]["score"] == 0.25
    assert out[0]["bbox"] == [1, 1, 9, 9]


def test_results_take_images_and_categories_of_the_file_beside_them(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    images = [{"id": 7, "file_name": "a.png"}, {"id": 12, "file_name": "a.png"}]
    categories = [{"id": 90, "name": "Bus"}, {"id": 3, "name": "car"}, {"id": 5, "name": NAMES[2]}]
    listed = dumped(tmp_path / "listed.json", {"images": images, "categories": categories})
    source = dumped(tmp_path / "results.json", results(category_id=1))
    out = json.loads(written(read_boxes(source, images=listed), tmp_path).read_text())
    assert [one["category_id"] for one in out] == [3, 90]
    assert "category_name" not in out[0]
    dumped(listed, {"images": images, "categories": categories[:1]})
    found = read_boxes(source, images=listed)
    with pytest.raises(ShotfitError, match=r"listed.json has no category for car, flat & wide é, and a list"):
        found.write(tmp_path / "second.json", labels(found))
    assert not (tmp_path / "second.json").exists()


# What boxes show


@pytest.mark.parametrize(
    ("padding", "crop"), [(0.0, (10, 10, 10, 4)), (0.1, (9, 9, 12, 6)), (0.5, (5, 8, 20, 8)), (10.0, (0, 0, 40, 36))]
)
def test_padding_is_a_share_of_the_box_and_ends_at_the_edges(
    tmp_path: Path, padding: float, crop: tuple[int, ...]
) -> None:
    save(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png"}
    source = dumped(tmp_path / "a.json", {"images": [image], "annotations": [{"image_id": 1, "bbox": [10, 10, 10, 4]}]})
    ((_, picture, _),) = crops(read_boxes(source), padding)
    assert picture.crop == Crop(*crop)


def test_box_that_shows_nothing_says_why(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    images = [{"id": 1, "file_name": "a.png", "width": 40, "height": 36}, {"id": 2, "file_name": "gone.png"}]
    images += [{"id": 3, "file_name": "broken.png"}, {"id": 4, "file_name": "a.png", "width": 80, "height": 72}]
    boxes = [{"image_id": number, "bbox": [50 if number == 1 else 1, 1, 9, 9]} for number in (1, 2, 3, 4)]
    found = read_boxes(dumped(tmp_path / "a.json", {"images": images, "annotations": boxes}))
    said = [why for *_, why in crops(found, padding=10)]
    ends = ["a.png has nothing in the box 50, 1, 59, 10 (left, top, right, bottom). Remove the box."]
    ends += ["gone.png does not exist. Replace or remove it.", "broken.png is "]
    ends += ["a.json states (40 x 36 in place of 80 x 72). Name the pictures that it was made for."]
    assert all(end in why for end, why in zip(ends, said, strict=True)), said


# Refused in a sentence

HOSTILE = '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]><annotation>&y;</annotation>'
IMAGE = {"id": 1, "file_name": "a.png"}
BAD: dict[str, tuple[str, str, str]] = {
    "entities": ("a.xml", HOSTILE, "it has a document type (<!DOCTYPE>), which is not read"),
    "no box": ("a.xml", "<annotation><object><name>a</name></object></annotation>", "object 0 has no <bndbox>"),
    "utf-16": ("a.xml", "\ufeffutf-16", "is XML in UTF-16, which is not changed; save it in UTF-8"),
    "no image": ("a.json", json.dumps({"images": [IMAGE], "annotations": [{"image_id": 2, "bbox": [0, 0, 1, 1]}]}),
                 "annotates the image 2, which is not among the images of"),
    "no number": ("a.json", json.dumps({"images": [IMAGE], "annotations": [{"image_id": 1, "bbox": [0, 0, "x", 1]}]}),
                  'the box is "x"; expected a number of pixels'),
    "cut off": ("a.json", '{"images": [], "annotations": [{"image_id": 1, "bb', "is not valid JSON"),
    "deep": ("a.json", '{"images": [], "annotations": ' + "[" * 100_000, "is not valid JSON"),
    "more": ("a.json", '{"images": [], "annotations": []} {}', "there is more behind its end"),
    "no objects": ("a.json", '{"images": 3, "annotations": []}', "images is 3; expected a list of objects"),
    "nothing": ("a.json", '{"images": [], "annotations": []}', "has no box; expected boxes to label"),
    "twice": ("a.json", '{"images": [], "annotations": [], "images": []}', "has images twice; expected it once"),
    "no size": ("a.json", json.dumps([{"data": {"image": "a.png"}, "predictions": [{"result": [
        {"value": {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": []}}]}]}]), "the width is null"),
    "address": ("a.json", json.dumps([{"data": {"image": "https://x/a.png"}, "predictions": [{"result": [
        {"original_width": 9, "original_height": 9, "value": {
            "x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": []}}]}]}]), "which is no path"),
    "results": ("a.json", '[{"image_id": 5, "bbox": [0, 0, 1, 1]}]', "has no picture of that number"),
    "other": ("a.json", '{"a": 1}', "is no file of boxes in a format that is known"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    file, content, said = BAD[name]
    save(tmp_path / "a.png")
    path = tmp_path / file
    path.write_bytes(content.encode("utf-16" if name == "utf-16" else "utf-8"))
    with pytest.raises(ShotfitError) as error:
        read_boxes(path, read_as="voc" if file.endswith("xml") else None)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.1", "x 0 0 1 1", "0 nan 0 1 1", "0 1 1 -1 1"])
def test_line_that_is_no_box_of_yolo_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(ShotfitError, match=r"a.txt, line 2"):
        read_boxes(tmp_path)


def test_formats_and_places_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="boxes are not read as 'cocoa'; did you mean coco"):
        read_boxes(tmp_path, read_as="cocoa")
    with pytest.raises(ShotfitError, match="does not exist; expected a file of boxes"):
        read_boxes(tmp_path / "gone.json")
    with pytest.raises(ShotfitError, match="expected the folder of the pictures"):
        read_boxes(tmp_path, images=tmp_path / "gone")


def test_file_that_changed_meanwhile_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    source = EXPORTS["voc"].write(tmp_path / "in")
    found = read_boxes(source)
    (source / "Annotations" / "a.xml").write_text(voc("d.png"))
    with pytest.raises(ShotfitError, match=r"a.xml changed while its boxes were predicted"):
        found.write(tmp_path / "out", labels(found))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def mutate(content: bytes, place: int, new: bytes) -> bytes:
    at = place % (len(content) + 1)
    return content[:at] + new + content[at + len(new) // 2 :]


@pytest.mark.parametrize("name", ["coco boxes", "label-studio boxes", "voc", "yolo"])
@SETTINGS
@given(data=st.data())
def test_damaged_bytes_are_boxes_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"damaged {name}"
    if not folder.exists():
        EXPORTS[name].write(folder)
    suffixes: Callable[[Path], bool] = lambda path: path.suffix in (".json", ".xml", ".txt", ".yaml")  # noqa: E731
    path = data.draw(st.sampled_from(sorted(filter(suffixes, folder.rglob("*")))))
    before = path.read_bytes()
    try:
        path.write_bytes(mutate(before, data.draw(st.integers(0, 2000)), data.draw(st.binary(min_size=1, max_size=6))))
        try:
            found = read_boxes(folder, read_as=EXPORTS[name].read_as)
            list(crops(found))
        except ShotfitError as error:
            assert "\n" not in str(error)
            return
        out = folder.parent / f"out {name}"
        found.write(out, labels(found, keep=1))
    finally:
        path.write_bytes(before)
