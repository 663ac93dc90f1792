"""Preprocessing rules and training views, on small images made here."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shotfit.data.views import Box, draw_box
from shotfit.errors import ShotfitError
from shotfit.towers.config import Preprocessing
from shotfit.towers.preprocess import clip_preprocessing, crop_and_flip, preprocess, siglip_preprocessing, to_rgb

Resize = Literal["shortest", "squash", "longest"]

PLAIN = Preprocessing(
    size=4,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    interpolation="bicubic",
    resize="shortest",
    crop_offset="round",
    rgb="last",
    transparency="drop",
)


def ramp(width: int, height: int) -> Image.Image:
    """Red counts columns, green rows: every pixel says where it came from."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([columns, rows, 0 * rows], -1).astype(np.uint8))


def whole_levels(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels * 255).round().to(torch.int64)


def test_pixels_are_float32_channels_first_and_normalized() -> None:
    pixels = preprocess(Image.new("RGB", (9, 5), (255, 0, 128)), siglip_preprocessing(8))
    assert pixels.dtype == torch.float32
    assert pixels.shape == (3, 8, 8)
    expected = torch.tensor([1.0, -1.0, 128 / 255 * 2 - 1])[:, None, None].expand(3, 8, 8)
    torch.testing.assert_close(pixels, expected)


@pytest.mark.parametrize(("offset", "columns"), [("round", [2, 3, 4, 5]), ("floor", [1, 2, 3, 4])])
def test_odd_margin_is_rounded_as_the_rule_says(offset: Literal["round", "floor"], columns: list[int]) -> None:
    rule = dataclasses.replace(PLAIN, crop_offset=offset)  # margin 3: round(1.5) = 2, 3 // 2 = 1
    levels = whole_levels(preprocess(ramp(7, 4), rule))
    assert levels[0, 0].tolist() == columns


def test_margin_of_one_rounds_half_to_even() -> None:
    assert whole_levels(preprocess(ramp(5, 4), PLAIN))[0, 0].tolist() == [0, 1, 2, 3]


def test_squash_keeps_the_whole_image() -> None:
    image = Image.new("RGB", (8, 4), "black")
    image.paste((255, 255, 255), (4, 0, 8, 4))
    levels = whole_levels(preprocess(image, dataclasses.replace(PLAIN, resize="squash")))
    assert (levels[0, :, 0] < 10).all()
    assert (levels[0, :, 3] > 245).all()


@pytest.mark.parametrize("size", [(8, 4), (4, 8), (40, 3), (1, 1), (3, 2)])
def test_longest_fits_the_image_and_fills_the_rest(size: tuple[int, int]) -> None:
    rule = dataclasses.replace(PLAIN, resize="longest", fill=7)
    levels = whole_levels(preprocess(Image.new("RGB", size, (200, 200, 200)), rule))
    width, height = (max(1, round(side * 4 / max(size))) for side in size)
    assert int((levels[0] == 200).sum()) == width * height
    assert int((levels[0] == 7).sum()) == 16 - width * height


def test_longest_pads_the_odd_pixel_at_the_end() -> None:
    rule = dataclasses.replace(PLAIN, resize="longest")
    levels = whole_levels(preprocess(Image.new("L", (4, 3), 9), rule))
    assert levels[0, :, 0].tolist() == [9, 9, 9, 0]


def test_transparency_is_dropped_or_laid_on_white() -> None:
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert whole_levels(preprocess(image, dataclasses.replace(PLAIN, rgb="first")))[:, 0, 0].tolist() == [10, 20, 30]
    white = dataclasses.replace(PLAIN, rgb="first", transparency="white")
    assert whole_levels(preprocess(image, white))[:, 0, 0].tolist() == [255, 255, 255]


def test_transparent_palette_entry_is_laid_on_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([5, 6, 7])
    image.info["transparency"] = 0
    assert to_rgb(image, "white").getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(image, "drop").getpixel((0, 0)) == (5, 6, 7)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
@pytest.mark.parametrize("rule", [clip_preprocessing(16), siglip_preprocessing(16)])
@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
def test_every_mode_gives_a_finite_square(mode: str, rule: Preprocessing, resize: Resize) -> None:
    pixels = preprocess(Image.new(mode, (31, 17)), dataclasses.replace(rule, resize=resize))
    assert pixels.shape == (3, 16, 16)
    assert bool(pixels.isfinite().all())


def test_image_is_left_as_it_was() -> None:
    image = ramp(9, 6)
    before = image.tobytes()
    preprocess(image, clip_preprocessing(4))
    crop_and_flip(image, Box(0, 0, 6, 9, True), clip_preprocessing(4))
    assert image.tobytes() == before


def test_strip_of_one_pixel_is_not_enlarged_whole() -> None:
    strip = Image.new("L", (60_000, 1), 50)
    strip.paste(200, (29_000, 0, 31_000, 1))
    assert (whole_levels(preprocess(strip, dataclasses.replace(PLAIN, size=64))) == 200).all()
    assert (whole_levels(preprocess(strip.rotate(90, expand=True), dataclasses.replace(PLAIN, size=64))) == 200).all()


def test_image_without_pixels_is_refused() -> None:
    with pytest.raises(ShotfitError, match=r"^an image of 0 x 3 pixels cannot be read"):
        preprocess(Image.new("RGB", (0, 3)), PLAIN)


def test_view_is_the_box_resized() -> None:
    levels = whole_levels(crop_and_flip(ramp(20, 10), Box(top=3, left=6, height=4, width=4, flipped=False), PLAIN))
    assert levels[0, 0].tolist() == [6, 7, 8, 9]
    assert levels[1, :, 0].tolist() == [3, 4, 5, 6]


def test_flipped_view_is_mirrored() -> None:
    levels = whole_levels(crop_and_flip(ramp(20, 10), Box(top=3, left=6, height=4, width=4, flipped=True), PLAIN))
    assert levels[0, 0].tolist() == [9, 8, 7, 6]


@pytest.mark.parametrize("box", [Box(0, 0, 5, 4, False), Box(-1, 0, 2, 2, False), Box(0, 0, 0, 1, False)])
def test_box_outside_the_image_is_refused(box: Box) -> None:
    with pytest.raises(ShotfitError, match="is not inside an image of 4 x 4 pixels"):
        crop_and_flip(ramp(4, 4), box, PLAIN)


@given(width=st.integers(1, 400), height=st.integers(1, 400), seed=st.integers(0, 2**31), low=st.floats(0.01, 1))
def test_drawn_box_lies_in_the_image(width: int, height: int, seed: int, low: float) -> None:
    box = draw_box(width, height, (low, 1.0), torch.Generator().manual_seed(seed))
    assert box.width >= 1
    assert box.height >= 1
    assert 0 <= box.left <= width - box.width
    assert 0 <= box.top <= height - box.height


def test_same_seed_draws_the_same_box_and_another_seed_another() -> None:
    boxes = [draw_box(90, 60, (0.08, 1.0), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert boxes[0] == boxes[1] != boxes[2]


def test_box_of_the_global_generator_follows_its_seed() -> None:
    torch.manual_seed(5)
    assert draw_box(90, 60, (0.5, 1.0)) == draw_box(90, 60, (0.5, 1.0), torch.Generator().manual_seed(5))


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.6, 0.5), (0.5, 1.5)])
def test_impossible_scale_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ShotfitError, match="is no range of area fractions"):
        draw_box(5, 5, scale)


def test_image_without_pixels_has_no_box() -> None:
    with pytest.raises(ShotfitError, match="has no box to draw"):
        draw_box(0, 5, (0.5, 1.0))
