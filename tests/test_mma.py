"""MMA's ranges and pairings follow the towers, and what cannot be adapted is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen
from shotfit.errors import UsageError
from shotfit.methods.mma import MMA
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
