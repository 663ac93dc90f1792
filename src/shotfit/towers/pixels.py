"""From a decoded image to an image tower's input as an array: Pillow and NumPy, no torch and no torchvision.

    pixels(image, rule)                         # float32 [3, size, size]
    with opened_image(picture, shorter=MARGIN * rule.size) as image: ...

What it computes follows the checkpoint's `Preprocessing` rule: OpenAI's transform, open_clip's three resize modes, or
the Hugging Face processors of CLIP and SigLIP. All of them resize 8-bit images (antialiased) and normalize afterwards,
so pixel values are whole grey levels before the mean is taken off. The light runtime and the towers share this file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shotfit.errors import ShotfitError
from shotfit.towers.config import Preprocessing

__all__ = ["FILTERS", "LONGEST_ASPECT", "MARGIN", "normalized", "pixels", "resized", "square", "square_in", "to_rgb"]

MARGIN = 2  # a JPEG may be decoded at a share of its size that keeps so many times the tower's pixels a side
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# A strip of one pixel by thousands would be enlarged to gigabytes before its middle is cut out.
LONGEST_ASPECT = 64


def pixels(image: Image.Image, rule: Preprocessing) -> NDArray[np.float32]:
    """The tower's input for an image of any of Pillow's modes: float32 `[3, size, size]`, normalized.

    Equal to torchvision's and transformers' Pillow pipelines bit for bit up to float32 rounding (about 1e-7). EXIF
    orientation is not applied here: whoever opens the file decides that.

    Raises ShotfitError for an image without pixels.
    """
    return normalized(square(image, rule), rule)


def square(image: Image.Image, rule: Preprocessing) -> Image.Image:
    """The same before it is normalized: RGB, `size` pixels a side."""
    if 0 in image.size:
        raise ShotfitError(
            f"an image of {image.width} x {image.height} pixels cannot be read; both sides must be 1 or more."
        )
    if rule.rgb == "first":
        image = to_rgb(image, rule.transparency)
    if rule.resize == "squash":
        image = resized(image, rule.size, rule.size, rule)
    elif rule.resize == "shortest":
        image = _center_crop(_resize_shorter_side(image, rule), rule)
    else:
        image = _pad(_resize_longer_side(image, rule), rule)
    return to_rgb(image, rule.transparency)


def square_in(width: int, height: int, rule: Preprocessing) -> tuple[float, float, float, float]:
    """Which part of a picture of this size `square` shows: left, top, right and bottom in its pixels.

    A side lies outside of the picture where the rule pads it.
    """
    if rule.resize == "squash":
        return 0, 0, width, height
    sides = []
    for side, other in ((width, height), (height, width)):
        if rule.resize == "shortest":
            seen = min(side, LONGEST_ASPECT * other)
            enlarged = rule.size if side <= other else int(rule.size * seen / other)
            first = _offset(enlarged - rule.size, rule)
        else:
            seen, enlarged = side, max(1, round(side / (max(side, other) / rule.size)))
            first = -((rule.size - enlarged) // 2)
        begin, scale = (side - seen) // 2, seen / enlarged  # a strip is trimmed first
        sides.append((begin + first * scale, begin + (first + rule.size) * scale))
    (left, right), (top, bottom) = sides
    return left, top, right, bottom


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


def resized(image: Image.Image, width: int, height: int, rule: Preprocessing) -> Image.Image:
    """The image at this size by the rule's filter; itself where it has it."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), FILTERS[rule.interpolation])


def _resize_shorter_side(image: Image.Image, rule: Preprocessing) -> Image.Image:
    image = _trim(image)
    short, long = sorted(image.size)
    longer = int(rule.size * long / short)
    width, height = (rule.size, longer) if image.width <= image.height else (longer, rule.size)
    return resized(image, width, height, rule)


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
    return resized(image, width, height, rule)


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


def normalized(image: Image.Image, rule: Preprocessing) -> NDArray[np.float32]:
    """An RGB image as float32 `[3, height, width]`, from 0 to 1, less the rule's mean, over its deviation."""
    # NumPy, because images are read in threads, in each of which torch would start threads of its own.
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (rule.mean, rule.std))
    values: NDArray[Any] = np.ascontiguousarray(
        np.moveaxis(np.asarray(image), 2, 0), dtype=np.float32
    )  # [3, size, size]
    values /= 255
    values -= mean
    values /= std
    return values
