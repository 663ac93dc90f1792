"""MMA's ranges and pairings follow the towers, and what cannot be adapted is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.errors import UsageError
from shotfit.methods import find
from shotfit.methods.mma import MMA, MMAPlusPlus
from shotfit.testing.tiny import random_backbone, tiny_backbone
from shotfit.towers.backbone import Backbone
from shotfit.towers.config import BackboneConfig, BlocksConfig, ImageConfig, TextConfig
from shotfit.towers.preprocess import clip_preprocessing


def backbone(image: int, text: int) -> Backbone:
    """A backbone of these depths."""
    blocks = BlocksConfig(8, image, 2, 8, "quick_gelu", 1e-5)
    vision = ImageConfig(32, 16, blocks, 8, True, False, True, "token", True)
    words = TextConfig(16, 8, BlocksConfig(8, text, 2, 8, "quick_gelu", 1e-5), 8, True, "end", 15, 0, False)
    return random_backbone(BackboneConfig(vision, words, clip_preprocessing(32), False))


def attached(method: MMA, image: int, text: int) -> MMA:
    method.attach(Frozen(backbone(image, text)), [ClassList("task", ("a", "b"))])
    return method


@pytest.mark.parametrize(("depth", "first", "transfer"), [(12, 5, 9), (4, 2, 3), (3, 2, 3), (2, 1, 2), (24, 9, 17)])
def test_default_range_is_the_upper_two_thirds_or_third(depth: int, first: int, transfer: int) -> None:
    assert list(attached(MMA(), depth, depth).sites("text")) == list(range(first, depth + 1))
    assert list(attached(MMA(protocol="transfer"), depth, depth).sites("image")) == list(range(transfer, depth + 1))


def test_published_number_of_parameters() -> None:
    blocks = [BlocksConfig(width, 12, 8, 8, "quick_gelu", 1e-5) for width in (768, 512)]
    vision = ImageConfig(32, 16, blocks[0], 512, True, False, True, "token", True)
    words = TextConfig(16, 8, blocks[1], 512, True, "end", 15, 0, False)
    method = MMA()
    method.attach(Frozen(random_backbone(BackboneConfig(vision, words, clip_preprocessing(32), False))), [])
    method.build(method.frozen, [])
    assert sum(parameter.numel() for parameter in method.parameters()) == 674_560


def test_unequal_depths_are_paired_from_the_top() -> None:
    assert attached(MMA(start=0, end=3), 6, 3).sites("image") == {0: 0, 1: 4, 2: 5, 3: 6}
    assert attached(MMA(start=0, end=3, pairing="index"), 6, 3).sites("image") == {0: 0, 1: 1, 2: 2, 3: 3}


def test_text_site_without_a_partner_keeps_its_shared_map() -> None:
    method = attached(MMA(start=2, end=5), 3, 5)
    method.build(method.frozen, method.classes)
    assert method.sites("image") == {3: 1, 4: 2, 5: 3} and list(method.sites("text")) == [2, 3, 4, 5]
    assert {"text_2_down_weight", "shared_2_weight"} <= dict(method.named_parameters()).keys()


@pytest.mark.parametrize(
    ("method", "depths", "sentence"),
    [
        (MMA(end=4), (3, 3), "end is 4, but the text tower has 3 blocks"),
        (MMA(start=3, end=2), (3, 3), "blocks 3 to 2 are an empty range"),
        (MMA(pairing="index"), (3, 5), "needs a text tower that is not deeper"),
        (MMA(start=1, end=2, towers="image"), (3, 5), "have no partner among the 3 blocks of the image tower"),
    ],
)
def test_ranges_that_the_towers_do_not_have_are_refused(method: MMA, depths: tuple[int, int], sentence: str) -> None:
    attached(method, *depths)
    with pytest.raises(UsageError, match=sentence) as refusal:
        method.build(method.frozen, method.classes)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "options",
    [{"scale": "0"}, {"dim": "0"}, {"prediction_scale": "-2"}, {"prediction_scale": "-0.5"}, {"pairing": "middle"}],
)
def test_impossible_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=f"mma: {next(iter(options))} must be"):
        MMA.with_options(options)


def test_resnet_is_refused_by_name_unless_only_the_text_is_adapted(tmp_path: Path) -> None:
    resnet = tiny_backbone(tmp_path, "resnet")
    method = MMA()
    method.attach(Frozen(resnet), [ClassList("task", ("a", "b"))])
    with pytest.raises(
        UsageError, match=rf"changes transformer blocks of the image tower, but {tmp_path} has a ResNet"
    ):
        method.build(method.frozen, method.classes)
    text = MMA(towers="text")
    text.attach(Frozen(resnet), [ClassList("task", ("a", "b"))])
    text.build(text.frozen, text.classes)
    assert text.text_features().isfinite().all()


def test_adapters_compute_in_float32_beside_towers_in_bfloat16(tmp_path: Path) -> None:
    method = MMA()
    method.attach(Frozen(tiny_backbone(tmp_path).to(torch.bfloat16)), [ClassList("task", ("a", "b"))])
    method.build(method.frozen, method.classes)
    assert all(parameter.dtype == torch.float32 for parameter in method.parameters())
    assert method.text_features().dtype == torch.float32  # heads and losses compute in it


@pytest.mark.parametrize("memory", [None, 1])
def test_dropout_leaves_out_the_same_in_the_backward_pass(tmp_path: Path, memory: int | None) -> None:
    frozen = Frozen(tiny_backbone(tmp_path).double(), memory=memory)
    method, images = MMA(dropout=0.4, scale=0.5), Images.of(torch.randn(3, 3, 32, 32, dtype=torch.double))
    method.attach(frozen, [ClassList("task", ("a", "b", "c"))])
    method.build(frozen, method.classes)
    weight, labels = method.get_parameter("shared_3_weight"), torch.arange(3)

    def loss() -> Tensor:
        torch.manual_seed(0)
        return method.loss(images, labels)

    direction = torch.randn_like(weight)
    slope = float((torch.autograd.grad(loss(), weight)[0] * direction).sum())
    found = list[float]()
    for step in (1e-6, -2e-6):
        weight.data += step * direction
        found.append(float(loss().detach()))
    assert slope == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("option", ["consistency", "dropout"])
def test_options_between_off_and_the_published_value_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} must be 0 or more, or -1, but is -0.5"):
        find("mma_plus_plus").with_options({option: "-0.5"})


def test_published_recipes_of_mma_plus_plus() -> None:
    plain, told, moved = MMAPlusPlus(), MMAPlusPlus(descriptions="it.json"), MMAPlusPlus(protocol="transfer")
    rates = [recipe.optimizer.lr for one in (plain, told, moved) if (recipe := one.training_recipe())]
    assert rates == [0.3, 0.2, 0.3]
    assert [one.dropout_rate for one in (plain, told, moved)] == [0.2, 0.1, 0.1]
    assert [one.used_scale for one in (plain, moved)] == [0.0065, 0.005]
    assert [one.consistency_weight for one in (plain, moved)] == [2.5, 1.0]
    assert list(attached(moved, 12, 12).sites("text")) == list(range(5, 13))
