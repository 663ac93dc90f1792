"""From a decoded image to an image tower's input, with Pillow and without torchvision.

A `Preprocessing` rule says what the checkpoint was trained with: OpenAI's transform, open_clip's three resize modes,
or the Hugging Face processors of CLIP and SigLIP. All of them resize 8-bit images (antialiased) and normalize
afterwards, so pixel values are whole grey levels before the mean is taken off.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from shotfit.data.views import Box
from shotfit.errors import ShotfitError
from shotfit.towers.config import Preprocessing

__all__ = ["clip_preprocessing", "crop_and_flip", "preprocess", "siglip_preprocessing", "to_rgb"]

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# A strip of one pixel by thousands would be enlarged to gigabytes before its middle is cut out.
LONGEST_ASPECT = 64


def clip_preprocessing(size: int) -> Preprocessing:
    """OpenAI's CLIP: shorter side to `size`, centre crop, RGB last, CLIP's mean and standard deviation."""
    return Preprocessing(
        size=size,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        interpolation="bicubic",
        resize="shortest",
        crop_offset="round",
        rgb="last",
        transparency="drop",
    )


def siglip_preprocessing(size: int) -> Preprocessing:
    """Hugging Face's SigLIP: RGB on white first, to a square of `size`, mean and standard deviation 0.5."""
    return Preprocessing(
        size=size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        resize="squash",
        crop_offset="round",
        rgb="first",
        transparency="white",
    )


def preprocess(image: Image.Image, rule: Preprocessing) -> Tensor:
    """The tower's input for an image of any of Pillow's modes: float32 `[3, size, size]`, normalized.

    Equal to torchvision's and transformers' Pillow pipelines bit for bit up to float32 rounding (about 1e-7). EXIF
    orientation is not applied here: whoever opens the file decides that.

    Raises ShotfitError for an image without pixels.
    """
    if 0 in image.size:
        raise ShotfitError(
            f"an image of {image.width} x {image.height} pixels cannot be read; both sides must be 1 or more."
        )
    if rule.rgb == "first":
        image = to_rgb(image, rule.transparency)
    if rule.resize == "squash":
        image = _resize(image, rule.size, rule.size, rule)
    elif rule.resize == "shortest":
        image = _center_crop(_resize_shorter_side(image, rule), rule)
    else:
        image = _pad(_resize_longer_side(image, rule), rule)
    return _normalize(to_rgb(image, rule.transparency), rule)


def crop_and_flip(image: Image.Image, box: Box, rule: Preprocessing, share: int = 1) -> Tensor:
    """A training view: the image as RGB, cut at `box`, resized to the tower's square, mirrored where the box says so.

    Float32 `[3, size, size]`, normalized as `preprocess` does. The whole rule but its resize mode and crop applies.
    share: the box was drawn for an image of so many times this one's width and height.
    Raises ShotfitError for a box that is not inside the image.
    """
    right, bottom, width, height = box.left + box.width, box.top + box.height, image.width * share, image.height * share
    if min(box.left, box.top) < 0 or min(box.width, box.height) < 1 or right > width or bottom > height:
        raise ShotfitError(f"{box} is not inside an image of {width} x {height} pixels; draw it for this size.")
    image, edges = to_rgb(image, rule.transparency), (box.left, box.top, right, bottom)
    if share == 1:
        image = _resize(image.crop(edges), rule.size, rule.size, rule)
    else:  # edges between pixels
        left, top, right_edge, bottom_edge = (edge / share for edge in edges)
        square = (rule.size, rule.size)
        image = image.resize(square, FILTERS[rule.interpolation], (left, top, right_edge, bottom_edge))
    if box.flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _normalize(image, rule)


def to_rgb(image: Image.Image, transparency: str) -> Image.Image:
    """The image as RGB; its alpha channel dropped ("drop"), or the image laid on white ("white").

    Pillow's conversion saturates 16-bit gray at 255 instead of scaling it, as the official programs do.
    """
    if image.mode == "RGB" and not (transparency == "white" and "transparency" in image.info):
        return image
    if transparency == "white" and (image.has_transparency_data):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    return image.convert("RGB")


def _resize(image: Image.Image, width: int, height: int, rule: Preprocessing) -> Image.Image:
    if image.size == (width, height):
        return image
    return image.resize((width, height), FILTERS[rule.interpolation])


def _resize_shorter_side(image: Image.Image, rule: Preprocessing) -> Image.Image:
    image = _trim(image)
    short, long = sorted(image.size)
    longer = int(rule.size * long / short)
    width, height = (rule.size, longer) if image.width <= image.height else (longer, rule.size)
    return _resize(image, width, height, rule)


def _trim(image: Image.Image) -> Image.Image:
    """The middle of a strip that is longer than `LONGEST_ASPECT` squares: only its central square is ever seen."""
    short, long = sorted(image.size)
    excess = long - LONGEST_ASPECT * short
    if excess <= 0:
        return image
    start = excess // 2
    if image.width > image.height:
        return image.crop((start, 0, start + LONGEST_ASPECT * short, short))
    return image.crop((0, start, short, start + LONGEST_ASPECT * short))


def _resize_longer_side(image: Image.Image, rule: Preprocessing) -> Image.Image:
    ratio = max(image.size) / rule.size
    width, height = (max(1, round(side / ratio)) for side in image.size)
    return _resize(image, width, height, rule)


def _center_crop(image: Image.Image, rule: Preprocessing) -> Image.Image:
    left, top = (_offset(side - rule.size, rule) for side in image.size)
    return image.crop((left, top, left + rule.size, top + rule.size))


def _offset(margin: int, rule: Preprocessing) -> int:
    return round(margin / 2) if rule.crop_offset == "round" else margin // 2


def _pad(image: Image.Image, rule: Preprocessing) -> Image.Image:
    across, down = (rule.size - side for side in image.size)
    border = (across // 2, down // 2, across - across // 2, down - down // 2)
    fill = rule.fill if len(image.getbands()) == 1 else (rule.fill,) * len(image.getbands())
    return ImageOps.expand(image, border, fill)


def _normalize(image: Image.Image, rule: Preprocessing) -> Tensor:
    # NumPy, because images are read in threads, in each of which torch would start threads of its own.
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (rule.mean, rule.std))
    pixels = np.ascontiguousarray(np.moveaxis(np.asarray(image), 2, 0), dtype=np.float32)  # [3, size, size]
    pixels /= 255
    pixels -= mean
    pixels /= std
    return torch.from_numpy(pixels)
