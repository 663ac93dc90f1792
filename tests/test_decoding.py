"""Files are read in order, in threads, and large JPEGs at a reduced size that changes next to nothing."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from shotfit.data.images import BrokenImageError, image_size
from shotfit.data.pictures import Picture
from shotfit.data.views import Box
from shotfit.engine.decoding import center_square, center_view, cut, read_ahead
from shotfit.towers.config import Preprocessing
from shotfit.towers.preprocess import clip_preprocessing, normalized_batch, siglip_preprocessing

RULE = clip_preprocessing(32)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blurred tiles of many colors, 512 x 384, as JPEG."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((512, 384), Image.Resampling.NEAREST).filter(ImageFilter.GaussianBlur(2))
    path = tmp_path_factory.mktemp("decoding") / "a.jpg"
    image.save(path, quality=90)
    return path


def levels(pixels: Tensor) -> Tensor:
    """Normalized pixels in gray levels."""
    return pixels * torch.tensor(RULE.std)[:, None, None] * 255


@pytest.mark.parametrize("rule", [RULE, siglip_preprocessing(48), replace(RULE, resize="longest", fill=7)])
def test_squares_normalized_together_are_center_views_bit_for_bit(photograph: Path, rule: Preprocessing) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (70, 50, 4), dtype=np.uint8)
    pictures = [Picture(photograph), Picture.of(noise), Picture.of(noise[:, :, 0])]
    together = normalized_batch(np.stack([center_square(picture, rule) for picture in pictures]), rule)
    assert torch.equal(together, torch.stack([center_view(picture, rule) for picture in pictures]))


def test_reduced_center_view_is_the_full_one_within_a_few_gray_levels(photograph: Path) -> None:
    picture = Picture(photograph)
    difference = levels(center_view(picture, RULE) - center_view(picture, RULE, reduced=False)).abs()
    assert 0 < float(difference.max()) <= 12 and float(difference.mean()) < 1.5


@pytest.mark.parametrize("box", [Box(0, 0, 384, 512, False), Box(101, 53, 203, 271, True)])
def test_reduced_crop_is_the_full_one_within_a_few_gray_levels(photograph: Path, box: Box) -> None:
    size = image_size(Picture(photograph))
    (reduced,), (full,) = (cut(Picture(photograph), size, [box], RULE, reduced) for reduced in (True, False))
    difference = levels(reduced - full).abs()
    assert 0 < float(difference.max()) <= 25 and float(difference.mean()) < 1.5


def test_narrow_crop_is_cut_from_the_full_image(photograph: Path) -> None:
    boxes = [Box(0, 0, 384, 512, False), Box(10, 20, 100, 100, False)]
    picture, size = Picture(photograph), image_size(Picture(photograph))
    for reduced, full in zip(*(cut(picture, size, boxes, RULE, reduced) for reduced in (True, False)), strict=True):
        assert torch.equal(reduced, full)


def test_batches_come_in_order() -> None:
    assert list(read_ahead([[1, 2], [3]], lambda number: number * 10)) == [[10, 20], [30]]


def test_next_batch_is_read_while_one_is_worked_on() -> None:
    begun = threading.Event()

    def read(number: int) -> int:
        if number == 2:
            begun.set()
        return number

    for _ in read_ahead([[1], [2]], read):
        assert begun.wait(timeout=60)


def test_error_of_a_file_reaches_the_caller(photograph: Path) -> None:
    missing = photograph.with_name("missing.jpg")
    with pytest.raises(BrokenImageError, match=r"missing.jpg does not exist"):
        list(read_ahead([[photograph], [missing]], lambda path: center_view(Picture(path), RULE)))


def test_nothing_more_is_read_once_the_caller_stops() -> None:
    read: list[int] = []
    reading = read_ahead([[1], [2], [3]], read.append)
    next(reading)
    reading.close()
    assert 3 not in read
