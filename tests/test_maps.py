"""Where in a picture a model sees a class: features of places, the way back to stored pixels, drawings, points."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import shotfit
from shotfit.commands.cli import main
from shotfit.data.images import as_stored, open_image, upright
from shotfit.data.pictures import Crop, Picture
from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.engine.store import MemoryStore
from shotfit.errors import UsageError
from shotfit.evaluation.points import pointed, summary
from shotfit.fitting.fit import fit
from shotfit.fitting.mapped import Mapper
from shotfit.fitting.maps import Map
from shotfit.fitting.model import Model
from shotfit.fitting.overlay import overlay
from shotfit.fitting.predictions import Prediction
from shotfit.methods import find
from shotfit.methods.base import Method
from shotfit.testing.tiny import random_backbone, tiny_backbone, tiny_task
from shotfit.towers.config import BackboneConfig, BlocksConfig, ImageConfig, ResNetConfig, TextConfig
from shotfit.towers.pixels import square, square_in
from shotfit.towers.places import SHARE, at_places, grid_of
from shotfit.towers.preprocess import clip_preprocessing

from .encoders import Both

ROOT = Path(__file__).parents[1]
CLIPART = ROOT / "examples" / "clipart"
TEXT = TextConfig(258, 77, BlocksConfig(16, 1, 2, 32, "gelu", 1e-5), 24, True, "end", 257, 0, False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of a tiny backbone, saved beside its backbone and images."""
    folder = tmp_path_factory.mktemp("maps")
    found = fit(
        tiny_task(folder / "images"),
        "zero_shot",
        shots=1,
        backbone=tiny_backbone(folder / "backbone"),
        store=MemoryStore(),
    )
    found.save(folder / "model")
    return found


@pytest.fixture
def run(model: Model, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str], str]]:
    """Exit code, lines and messages of `shotfit predict MODEL WORDS`."""

    def ran(*words: object) -> tuple[int, list[str], str]:
        assert model.opened is not None
        folder = model.opened["folder"]
        code = main(["predict", str(folder), *map(str, words), "--backbone", str(folder.parent / "backbone")])
        found = capsys.readouterr()
        return code, found.out.splitlines(), found.err

    return ran


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Features of places


def blocks(layers: int = 3) -> BlocksConfig:
    return BlocksConfig(16, layers, 2, 32, "gelu", 1e-5)


TOWERS: dict[str, ImageConfig | ResNetConfig] = {
    "token": ImageConfig(48, 16, blocks(), 24, True, False, True, "token", True),
    "mean": ImageConfig(48, 16, blocks(), 24, True, False, True, "mean", True),
    "mean, normed last": ImageConfig(48, 16, blocks(), 24, False, False, True, "mean", True, norm_after_pool=True),
    "attention": ImageConfig(48, 16, blocks(), 16, False, False, True, "attention", False),
    "attention, normed last": ImageConfig(
        48, 16, blocks(), 24, True, False, True, "attention", True, norm_after_pool=True
    ),
    "a patch that leaves a rest": ImageConfig(50, 16, blocks(), 24, True, False, True, "token", True),
    "resnet": ResNetConfig(96, (1, 1, 1, 1), 4, 2, 24),
}


@pytest.mark.parametrize("kind", TOWERS)
def test_features_are_the_mean_of_those_of_their_places(kind: str) -> None:
    config = TOWERS[kind]
    tower = random_backbone(BackboneConfig(config, TEXT, clip_preprocessing(32), False)).double().image
    pixels = noise(1, 2, 3, config.image_size, config.image_size)
    features, places = tower.finish(tower.start(pixels)), at_places(tower, pixels)
    assert places.shape == (2, 9, features.shape[1]) and grid_of(config)[0] == 3
    assert places.std(dim=1).min() > 1e-3, "all places say the same"
    assert (places.mean(dim=1) - features).abs().max() < 1e-12


def test_a_class_token_is_read_block_by_block_and_token_by_token() -> None:
    config = ImageConfig(48, 16, blocks(1), 24, True, False, True, "token", True)
    tower: Any = random_backbone(BackboneConfig(config, TEXT, clip_preprocessing(32), False)).double().image
    pixels = noise(2, 1, 3, 48, 48)
    x, block = tower.start(pixels).hidden, tower.blocks[0]
    query, key, value = block.attention.qkv(block.norm1(x)).chunk(3, dim=-1)
    given = torch.zeros(10, 16, dtype=torch.float64)
    for head in (slice(0, 8), slice(8, 16)):
        weights = (key[:, head] @ query[0, head] / 8**0.5).softmax(dim=0)
        given += (weights[:, None] * value[:, head]) @ block.attention.out.weight[:, head].T
    whole = tower.run(tower.start(pixels)).hidden[0]
    spread = (whole.var(correction=0) + 1e-5).sqrt()
    apart = 9 * (given[1:] - given[1:].mean(dim=0))
    shift = ((apart - apart.mean(dim=1, keepdim=True)) / spread * tower.post_norm.weight) @ tower.projection.weight.T
    features = tower.finish(tower.start(pixels))
    assert (at_places(tower, pixels)[0] - features - SHARE * shift).abs().max() < 1e-12


class Linear(Method):
    """A head that is linear in the features, in the towers' precision."""

    name, title, paper = "linear", "linear", "none"

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """W [3, embed] and b [3]."""
        self.weight, self.bias = noise(7, 3, frozen.embed), noise(8, 3)

    def logits(self, images: Images) -> Tensor:
        """[images, 3]."""
        return self.image_features(images) @ self.weight.T + self.bias


def at_work(kind: str, method: Method, folder: Path) -> Method:
    """A method on a tiny backbone in float64."""
    frozen, classes = Frozen(tiny_backbone(folder, kind).double(), MemoryStore()), [ClassList("task", ("a", "b", "c"))]
    method.attach(frozen, classes)
    method.build(frozen, classes)
    return method


@pytest.mark.parametrize("kind", ["vit", "post_norm", "siglip", "perception", "eva"])
def test_logits_of_places_have_the_images_as_mean_where_the_head_is_linear(kind: str, tmp_path: Path) -> None:
    method, pixels = at_work(kind, Linear(), tmp_path), noise(3, 2, 3, 32, 32)
    whole, places = (method.logits(Images(None, pixels, places)) for places in (False, True))
    assert (places.unflatten(0, (2, -1)).mean(dim=1) - whole).abs().max() < 1e-10


@pytest.mark.parametrize("kind", ["vit", "post_norm", "siglip"])
def test_cosines_of_places_weighted_by_their_length_are_the_images(kind: str, tmp_path: Path) -> None:
    method, pixels = at_work(kind, find("zero_shot")(), tmp_path), noise(4, 2, 3, 32, 32)
    whole, places = Images.of(pixels), Images(None, pixels, places=True)
    image = method.image_features(whole).norm(dim=1)  # [images]
    lengths = method.image_features(places).norm(dim=1).unflatten(0, (2, -1))  # [images, places]
    weights = lengths / image[:, None] / lengths.shape[1]
    logits = method.logits(places).unflatten(0, (2, -1))
    assert ((weights[..., None] * logits).sum(dim=1) - method.logits(whole)).abs().max() < 1e-10


# The way back to stored pixels


@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(200, 300), (301, 120), (64, 64), (33, 90)])
def test_the_square_lies_where_it_is_said_to(resize: str, size: tuple[int, int]) -> None:
    width, height = size
    rule = replace(clip_preprocessing(64), interpolation="bilinear", **{"resize": resize})  # type: ignore[arg-type]
    across, down = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    ramps = np.stack(np.broadcast_arrays(across[None], down[:, None], 0 * across[None]), axis=-1)
    seen = np.asarray(square(Image.fromarray((255 * ramps).round().astype(np.uint8)), rule))[32, 32] / 255
    left, top, right, bottom = square_in(width, height, rule)
    x, y = left + 32.5 / 64 * (right - left), top + 32.5 / 64 * (bottom - top)
    assert seen[0] * width == pytest.approx(x, abs=0.02 * width) and seen[1] * height == pytest.approx(
        y, abs=0.02 * height
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_has_the_map_of_the_upright_one_in_stored_pixels(
    orientation: int, model: Model, tmp_path: Path
) -> None:
    plain = Image.fromarray(np.random.default_rng(5).integers(0, 256, (60, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    as_stored(plain, orientation).save(tmp_path / "turned.png", exif=exif)
    (straight,), (turned,) = model.maps(plain), model.maps(tmp_path / "turned.png")
    expected = as_stored(Image.fromarray(straight.array()), orientation)
    assert turned.array().shape == (expected.height, expected.width)
    np.testing.assert_allclose(turned.array(), np.asarray(expected), rtol=1e-5)
    x, y = turned.point
    mark = Image.new("L", (turned.width, turned.height))
    mark.putpixel((int(x), int(y)), 255)
    found = np.argwhere(np.asarray(upright(mark, orientation)))[0]
    assert found.tolist() == pytest.approx([straight.point[1], straight.point[0]], abs=1)


def test_what_the_model_does_not_look_at_has_no_value(model: Model) -> None:
    (found,) = model.maps(np.zeros((60, 40, 3), dtype=np.uint8) + np.arange(40, dtype=np.uint8)[:, None])
    array = found.array()
    assert array.shape == (60, 40) and np.isnan(array[:10]).all() and np.isnan(array[50:]).all()
    assert np.isfinite(array[10:50]).all() and array[10:50].max() == pytest.approx(found.places.max())
    assert found.array(30).shape == (30, 20)


def test_a_map_of_a_box_is_in_pixels_of_the_box(model: Model, tmp_path: Path) -> None:
    whole = np.random.default_rng(6).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    Image.fromarray(whole).save(tmp_path / "a.png")
    (cut,), (alone,) = model.maps(f"{tmp_path / 'a.png'}#xywh=20,10,40,60"), model.maps(whole[10:70, 20:60])
    assert (cut.width, cut.height, cut.point) == (40, 60, alone.point)
    np.testing.assert_array_equal(cut.array(), alone.array())


# Drawings and points


def made(places: list[list[float]], width: int = 40, height: int = 60, picture: Picture | None = None) -> Map:
    pixels = np.full((height, width, 3), (200, 30, 30), dtype=np.uint8)
    middle = (height - width) / 2
    return Map(
        picture or Picture.of(pixels), "a class", 0.5, np.array(places, dtype=np.float32),
        (0, middle, width, width + middle), width, height, 1,
    )  # fmt: skip


def test_an_overlay_leaves_what_is_not_seen_as_it_is() -> None:
    drawn = np.asarray(overlay(made([[0, 1], [2, 3]], 400, 600)))
    assert (drawn[:95, :400] == (200, 30, 30)).all() and (drawn[505:595, :400] == (200, 30, 30)).all()
    low, high = drawn[110, 10].astype(int), drawn[490, 390].astype(int)
    assert low[2] > low[1] and high[0] > high[2] and high.sum() > low.sum()
    assert drawn.shape[0] > 600 and drawn.shape[1] == 400


def test_where_nothing_is_seen_an_overlay_is_dark() -> None:
    found = made([[-3, -2], [-2, -1]], 400, 600)
    drawn = np.asarray(overlay(found))[101:499, :400]  # what is seen, which the ring stands in
    assert (drawn[5, 5] == drawn[200, 390]).all() and (drawn[5, 5] == drawn[390, 10]).all()


def test_a_long_name_is_cut_in_the_legend_and_a_flat_map_is_drawn() -> None:
    found = replace(made([[1, 1], [1, 1]], 20, 900), label="x" * 10_000)
    assert overlay(found).width == 320


def test_a_point_hits_the_boxes_of_its_class_alone() -> None:
    found = made([[0, 1], [9, 3]])
    assert found.point == (10, 40)
    inside, beside = Crop(5, 35, 10, 10), Crop(20, 0, 20, 30)
    assert [pointed(found, boxes).hit for boxes in ([inside], [beside], [beside, inside])] == [True, False, True]
    point = pointed(found, [beside, beside])  # which covers what one of them covers
    assert point.share == 600 / 2400
    rows = summary([point, pointed(found, [inside])], ["other", "a class"])
    assert [(row.label, row.asked, row.hits) for row in rows] == [("a class", 2, 0.5), ("all", 2, 0.5)]


def test_the_maximum_is_within_the_picture_where_the_rule_pads_it() -> None:
    found = replace(made([[9, 9, 9], [0, 1, 0], [9, 9, 9]], 60, 20), seen=(0, -20, 60, 40))
    assert found.point == (30, 10)


# The command


def test_predict_draws_maps_and_names_the_files(run: Callable[..., tuple[int, list[str], str]], tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (50, 40), (90, 10, 10)).save(tmp_path / folder / "same name.png")
    (tmp_path / "one" / "broken.png").write_bytes(b"no image")
    code, out, err = run(tmp_path / "one", tmp_path / "two", "--map", tmp_path / "out", "--top", 2, "--format", "jsonl")
    rows = [json.loads(line) for line in out]
    assert code == 4 and "4 maps drawn" in err and [len(row.get("maps", ())) for row in rows] == [0, 2, 2]
    files = [file for row in rows[1:] for one in row["maps"] for file in (one["overlay"], one["array"])]
    assert sorted(map(str, (tmp_path / "out").iterdir())) == sorted(files) and len(set(files)) == 8
    assert [one["label"] for one in rows[1]["maps"]] == [one["label"] for one in rows[1]["predictions"]]
    assert np.load(files[1]).shape == (40, 50)


def test_names_of_classes_and_pictures_stay_within_the_folder(model: Model, tmp_path: Path) -> None:
    other = Mapper(tmp_path / "out", model.for_classes(["../../a/b", "x:y"]), top=2)
    picture = Picture.of(np.zeros((40, 40, 3), dtype=np.uint8), "../evil\n.png")
    (drawn,) = other.drawn([Prediction("", ("x",), (1.0,), picture=picture)])
    assert drawn.maps is not None and len(drawn.maps) == 2
    assert {Path(one.overlay).parent for one in drawn.maps} == {tmp_path / "out"} and other.count == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--map", "out", "--top", 21], "at most 20"),
        (["--map", "out", "--map-classes", "blue,nothing"], "does not predict nothing"),
        (["--map-classes", "blue"], "add --map DIR"),
        (["--map", "out", "--copy-to", "sorted"], "one after the other"),
        (["--map", "out", "--transductive"], "does not go with --map"),
        (["--map", "out", "--out", "parts"], "--map"),
        (["--points", "--format", "csv"], "--points prints a table"),
        (["--points", "--out", "points.jsonl"], "does not go with --out"),
    ],
)
def test_what_cannot_be_mapped_is_refused_in_a_line(
    words: list[object], said: str, run: Callable[..., tuple[int, list[str], str]], model: Model, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (50, 40)).save("a.png")
    code, out, err = run("a.png", *words)
    assert code == 2 and not out and said in err and not (tmp_path / "out").exists()


def test_points_are_judged_by_the_boxes_of_a_set(
    run: Callable[..., tuple[int, list[str], str]], tmp_path: Path
) -> None:
    for part, number in (("train", 0), ("train", 1), ("test", 2)):
        (tmp_path / part).mkdir(exist_ok=True)
        colors = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(colors).save(tmp_path / part / f"{number}.png")
        boxes = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>1</ymin><xmax>{left + 19}</xmax>"
            "<ymax>40</ymax></bndbox></object>"
            for name, left in (("blue", 1), ("green thing", 21))
        )
        (tmp_path / part / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.png</filename><size><width>50</width><height>40</height></size>{boxes}"
            "</annotation>"
        )
    code, out, err = run(tmp_path, "--points", "--format", "jsonl", "--map", tmp_path.parent / "drawn")
    assert not err or code == 0, err
    *rows, last = [json.loads(line) for line in out]
    assert code == 0 and [(row["label"], row["share"]) for row in rows] == [("blue", 0.4), ("green thing", 0.4)]
    hits = [row["point"][0] < 20 if row["label"] == "blue" else 20 <= row["point"][0] < 40 for row in rows]
    assert [row["hit"] for row in rows] == hits and all(Path(row["overlay"]).exists() for row in rows)
    assert last["points"][-1] == {"label": "all", "asked": 2, "hits": sum(hits) / 2, "chance": pytest.approx(0.4)}
    assert run(tmp_path, "--points")[1][0].split()[:2] == ["class", "asked"]


def test_a_picture_that_is_cut_off_is_mapped_as_far_as_it_is_there(model: Model, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(9).integers(0, 256, (60, 40, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    (found,) = model.maps(tmp_path / "a.jpg", lenient=True)
    assert overlay(found).height > 60 and np.isfinite(found.places).all()


@pytest.mark.parametrize("kind", ["vit", "siglip", "resnet"])
def test_places_in_bfloat16_are_close(kind: str, tmp_path: Path) -> None:
    tower, pixels = tiny_backbone(tmp_path, kind).image, noise(10, 2, 3, 32, 32).float()
    exact, rough = at_places(tower, pixels), at_places(tower.to(torch.bfloat16), pixels.to(torch.bfloat16))
    assert torch.cosine_similarity(exact, rough.float(), dim=-1).min() > 0.98


def test_pictures_without_boxes_are_no_set_to_judge_points_by(
    run: Callable[..., tuple[int, list[str], str]], model: Model
) -> None:
    assert model.opened is not None
    code, _, err = run(model.opened["folder"].parent / "images", "--points")
    assert "is no box of a picture" in err and code == 2


def test_a_closed_encoder_is_refused_by_name(tmp_path: Path) -> None:
    closed = fit(tiny_task(tmp_path), "zero_shot", shots=1, backbone=Both(), store=MemoryStore())
    with pytest.raises(UsageError, match=r"Both.* is closed: .* nothing can be mapped"):
        closed.maps(np.zeros((40, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize("corner", [0, 3])
def test_mini_finds_a_drawing_in_a_corner(corner: int) -> None:
    drawing = open_image(sorted((CLIPART / "bird").iterdir())[0])
    drawing.thumbnail((100, 100))
    canvas = Image.new("RGB", (200, 200), "white")
    left, top = 100 * (corner % 2), 100 * (corner // 2)
    canvas.paste(drawing, (left, top))
    (found,) = shotfit.zero_shot(["bird", "house", "musical instrument"]).maps(canvas, ["bird"])
    x, y = found.point
    assert left <= x < left + 100 and top <= y < top + 100
