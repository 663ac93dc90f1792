"""Preprocessing and training views equal what torchvision and transformers compute from the same encoded files."""

from __future__ import annotations

import dataclasses
import io
import re
import sys

import PIL
import pytest
import torch
from PIL import Image
from torch import Tensor

from shotfit.data.views import draw_box
from shotfit.towers.config import Preprocessing
from shotfit.towers.preprocess import clip_preprocessing, crop_and_flip, preprocess, siglip_preprocessing

from .cases import Case, cases

PILLOW = "13.0.0"  # that the cases were recorded with
EXACT = 1e-6  # absolute, with that Pillow
# With another Pillow, or the JPEG decoder that comes with it, as the README there allows: one grey level, seldom.
GREY_LEVEL, SELDOM = 1 / 255, 0.01


# Older versions resize some sizes by other sums.
pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11) and int(PIL.__version__.partition(".")[0]) < 13,
    reason=f"needs Pillow {PILLOW}, which has no wheel for this Python",
)


def transform(case: Case) -> bool:
    return case.method == "preprocess"


def augment(case: Case) -> bool:
    return case.method == "augment"


def opened(case: Case, name: str) -> Image.Image:
    return Image.open(io.BytesIO(case[f"in/file/{name}"].numpy().tobytes()))


def assert_same_pixels(actual: Tensor, expected: Tensor, rule: Preprocessing, what: str) -> None:
    assert actual.dtype == torch.float32
    assert actual.shape == expected.shape, what
    apart = (actual - expected).abs()
    if PIL.__version__ == PILLOW:
        assert float(apart.max()) <= EXACT, f"{what}: differs by {float(apart.max()):.3g}"
    else:
        level = GREY_LEVEL / torch.tensor(rule.std)[:, None, None]
        assert bool((apart <= level + EXACT).all()), (
            f"{what}: differs by {float((apart / level).max()):.3g} grey levels"
        )
        share = float((apart > EXACT).float().mean())
        assert share <= SELDOM, f"{what}: {share:.1%} of the values differ"


def rule_of(case: Case, output: str) -> tuple[str, Preprocessing]:
    """The file and the rule behind a recorded tensor's name: `[siglip/]FILE[/rgb_first]/SIZE`."""
    match = re.fullmatch(r"(siglip/)?(.+?)(/rgb_first)?/(\d+)", output)
    assert match is not None, output
    siglip, file, rgb_first, size = match.groups()
    settings = case.settings
    if siglip or case.meta["variant"] == "SigLIP":
        rule = siglip_preprocessing(int(size))
    else:
        rule = clip_preprocessing(int(size))
        if rgb_first:
            rule = dataclasses.replace(rule, rgb="first")
    if "mean" in settings:
        mean, std = tuple(settings["mean"]), tuple(settings["std"])
        assert (rule.mean, rule.std, rule.interpolation) == (mean, std, settings["interpolation"])
    return file, rule


@pytest.mark.parametrize("case", cases("clip_towers", transform))
def test_every_recorded_file_is_preprocessed_alike(case: Case) -> None:
    outputs = case.under("out/")
    assert outputs
    for output, expected in outputs.items():
        file, rule = rule_of(case, output)
        assert_same_pixels(preprocess(opened(case, file), rule), expected, rule, output)


@pytest.mark.parametrize("case", cases("clip_towers", augment))
def test_training_views_are_the_recorded_boxes_and_pixels(case: Case) -> None:
    settings = case.settings
    rule = clip_preprocessing(settings["size"])
    recorded = {name for name in case.tensors if name.endswith("/boxes")}
    assert recorded
    for name in sorted(recorded):
        match = re.fullmatch(r"out/(.+)/scale([\d.]+)/boxes", name)
        assert match is not None
        file, smallest = match.groups()
        scale = next((low, high) for low, high in settings["scales"] if low == float(smallest))
        image = opened(case, file).convert("RGB")
        drawn = {
            seed: draw_box(image.width, image.height, scale, torch.Generator().manual_seed(seed))
            for seed in settings["seeds"]
        }
        assert [[int(number) for number in dataclasses.astuple(box)] for box in drawn.values()] == case[name].tolist()
        expected = case[f"out/{file}/scale{smallest}/{settings['size']}"]
        for seed, pixels in zip(settings["images_for_seeds"], expected, strict=True):
            assert_same_pixels(crop_and_flip(image, drawn[seed], rule), pixels, rule, f"{name} seed {seed}")
