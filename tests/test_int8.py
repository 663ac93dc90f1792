"""Frozen matrices in 8 bits: the product and its gradients, edits on them, and what is fitted, saved and opened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import shotfit
from shotfit.checkpoints.weights import load_backbone, load_in, save_backbone
from shotfit.data.tasks import Task
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore, Store
from shotfit.errors import UsageError
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone
from shotfit.towers.changed import parameters_at, weight_of
from shotfit.towers.edits import Edit, Factors, Weights
from shotfit.towers.int8 import Int8
from shotfit.towers.linear import Int8Linear, linear
from shotfit.towers.texts import Texts

KINDS = ("vit", "resnet", "siglip", "eva", "perception", "post_norm", "bert")
CHANGE_TOWERS = ("coop", "maple", "vpt", "mma", "clip_lora", "clip_svd", "wise_ft", "two_stage")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    tiny_backbone(folder)
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return tiny_task(tmp_path_factory.mktemp("images"))


def features(backbone: Backbone, edits: tuple[Edit, ...] = ()) -> Tensor:
    """Of images and texts, [8, embed]."""
    size = backbone.image.image_size
    pixels = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    texts = Texts.of(backbone.encode(["a thing", "a thin line", "another", "one more"]))
    image = backbone.image.finish(backbone.image.start(pixels, _of("image", edits)), _of("image", edits))
    text = backbone.text.finish(backbone.text.start(texts, _of("text", edits)), _of("text", edits))
    return torch.cat([image, text])


def _of(tower: str, edits: tuple[Edit, ...]) -> list[Edit]:
    return [edit for edit in edits if edit.tower == tower]


# The product


def test_product_is_near_the_exact_one() -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(24, 64), torch.randn(24), torch.randn(2, 5, 64)
    exact, found = x @ weight.T + bias, linear(x, Int8.of(weight), bias)
    assert found.shape == exact.shape
    assert float((found - exact).norm() / exact.norm()) < 0.02


def test_product_is_exact_where_nothing_is_rounded() -> None:
    weight, x = torch.randint(-127, 128, (6, 32)).float(), torch.randint(-127, 128, (4, 32)).float()
    weight[:, 0] = x[:, 0] = 127
    assert torch.equal(linear(x, Int8.of(weight), None), x @ weight.T)


def test_rows_are_those_of_the_whole() -> None:
    weight, x = torch.randn(24, 64), torch.randn(7, 64)
    whole = Int8.of(weight)
    assert torch.equal(linear(x, whole[6:15], None), linear(x, whole, None)[:, 6:15])


def test_tokens_are_rounded_each_by_itself() -> None:
    x = torch.randn(6, 32) * torch.tensor([1e-4, 1, 1e4, 0, 1, 1])[:, None]
    weight = Int8.of(torch.randn(8, 32))
    together, alone = linear(x, weight, None), torch.cat([linear(row[None], weight, None) for row in x])
    assert torch.equal(together, alone)
    assert together[3].abs().max() == 0


def test_gradient_is_that_of_the_matrix_as_it_is_kept() -> None:
    weight, bias = Int8.of(torch.randn(8, 32)), torch.randn(8, requires_grad=True)
    x, given = torch.randn(5, 32, requires_grad=True), torch.randn(5, 8)
    linear(x, weight, bias).backward(given)
    assert x.grad is not None and torch.allclose(x.grad, given @ weight.whole(), atol=1e-6)
    assert bias.grad is not None and torch.allclose(bias.grad, given.sum(dim=0))


# Towers


@pytest.mark.parametrize("kind", KINDS)
def test_towers_are_near_the_exact_ones(kind: str, tmp_path: Path) -> None:
    exact = tiny_backbone(tmp_path, kind)
    found = load_in(str(tmp_path), "int8")
    assert (found.precision, found.fingerprint) == ("int8", exact.fingerprint)
    inside = [name for name, layer in found.named_modules() if isinstance(layer, Int8Linear)]
    assert inside and all(".blocks." in name or ".pool." in name for name in inside)
    with torch.inference_mode():
        assert float(torch.cosine_similarity(features(exact), features(found)).min()) > 0.98


def test_a_given_backbone_is_copied(folder: Path) -> None:
    given = load_backbone(folder)
    other = load_in(given, "int8")
    assert (given.precision, other.precision) == ("float32", "int8")
    assert load_in(other) is load_in(other, "int8") is other
    with pytest.raises(UsageError, match="was opened in int8: name it, and it opens in float32"):
        load_in(other, "float32")


def test_what_cannot_be_in_int8_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its weights are rounded: name the backbone again in float32"):
        save_backbone(load_in(str(folder), "int8"), tmp_path / "saved")


# Edits


def test_every_weight_may_be_changed(folder: Path) -> None:
    """As they are kept, the float32 tower with these weights is what an int8 tower is but for rounded tokens."""
    backbone = load_in(str(folder), "int8")
    for tower in ("image", "text"):
        own = backbone.image if tower == "image" else backbone.text
        for step in range(own.last + 1):
            values = dict(parameters_at(own, step))
            edit = Weights(tower, step, values)
            with torch.inference_mode():
                same = torch.cosine_similarity(features(backbone), features(backbone, (edit,)))
            assert float(same.min()) > 0.999, (tower, step)
            assert all(torch.equal(weight_of(own, step, name), value) for name, value in values.items())


def test_factors_stand_beside_the_matrix(folder: Path) -> None:
    """Many tokens or few, put together or apart: within what rounding the tokens changes."""
    backbone, exact = load_in(str(folder), "int8"), load_backbone(folder)
    torch.manual_seed(0)
    parts = {
        f"attention.{name}.weight": Factors(torch.randn(16, rank) / 8, torch.randn(rank, 16) / 8)
        for name, rank in (("query", 2), ("value", 9))
    }
    edit = Weights("image", 2, parts)
    with torch.inference_mode():
        changed = features(exact, (edit,))
        assert float(torch.cosine_similarity(changed, features(backbone, (edit,))).min()) > 0.98
        assert float(torch.cosine_similarity(changed, features(exact))[:4].min()) < 0.999


# Fits


@pytest.mark.parametrize("method", CHANGE_TOWERS)
def test_method_that_changes_towers_fits_saves_and_opens(method: str, folder: Path, task: Task, tmp_path: Path) -> None:
    model = shotfit.fit(
        task, method, backbone=str(folder), shots=2, recipe="paper", epochs=2, precision="int8", check=False, keep=True
    )
    assert model.record["precision"] == "int8"
    model.save(tmp_path / "model")
    again = shotfit.load(tmp_path / "model", trust_backbone=True)
    assert again.frozen.backbone.precision == "int8"
    images = [item.picture.path for item in task.train[:3]]
    assert torch.allclose(torch.tensor(model.predict_proba(images)), torch.tensor(again.predict_proba(images)))
    exact = shotfit.load(tmp_path / "model", trust_backbone=True, precision="float32")
    assert float(torch.tensor(exact.predict_proba(images) - model.predict_proba(images)).abs().max()) < 0.2


def test_features_of_the_two_precisions_are_kept_apart(folder: Path, task: Task, tmp_path: Path) -> None:
    pool, store = ImagePool(task.train[:2]), Store(tmp_path / "store")
    exact, rough = (Frozen(load_in(str(folder), name), store).image(pool.all()) for name in ("float32", "int8"))
    assert not torch.equal(exact, rough)
    assert torch.equal(rough, Frozen(load_in(str(folder), "int8"), MemoryStore()).image(pool.all()))
