"""Images as programs of scikit-learn pass them: lists, arrays, columns, and rows of pixels.

pictures, columns = images_of(frame[["path"]])                                  # columns: 1
pictures, columns = images_of(digits.data, (8, 8), (0, 16))                     # columns: 64
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.utils.validation import check_array

from shotfit.data.pictures import Picture

__all__ = ["images_of"]

_NUMBERS = "biufc"  # kinds of numpy


def images_of(
    given: Any, shape: Sequence[int] | None = None, values: tuple[float, float] | None = None
) -> tuple[list[Picture], int | None]:
    """The pictures of X, and how many columns X has; None where it has none.

    shape: of the image in each row of a table of numbers, as numpy.reshape takes it. values: black and white in arrays
    that are not of uint8.

    Raises ValueError or TypeError, as scikit-learn does, for an X of another form; UsageError for what is no image.
    """
    if shape is not None:
        rows = check_array(given, dtype="numeric", input_name="X")  # [n, pixels]
        return [_picture(_reshaped(row, shape), number, values) for number, row in enumerate(rows)], rows.shape[1]
    if isinstance(given, (str, bytes, os.PathLike, Image.Image, Picture)) or not isinstance(given, Iterable):
        raise TypeError(f"X is one {type(given).__name__}; expected a list, array or column of images.")
    column = _column(given)
    listed = list(given if column is None else column)
    if not listed:
        raise ValueError("X has 0 sample(s), while a minimum of 1 is required: give an image for each label.")
    return [_picture(image, number, values) for number, image in enumerate(listed)], None if column is None else 1


def _column(given: Any) -> Any:
    """The one column of a table; None where X is a list of images. Raises ValueError for other tables."""
    if hasattr(given, "columns"):
        if len(given.columns) != 1:
            raise ValueError(f"X is a table of {len(given.columns)} columns; expected one column of images.")
        return given[given.columns[0]]
    if not isinstance(given, np.ndarray) or given.ndim > 2:
        return None
    if given.ndim == 2 and given.shape[1] == 1 and given.dtype.kind not in _NUMBERS:
        return given[:, 0]
    if given.ndim == 2 or given.dtype.kind in _NUMBERS:
        raise ValueError(
            f"X is an array {list(given.shape)} of {given.dtype}; expected paths, or images [n, height, width, 3]. For "
            "rows of pixels, as scikit-learn's own data sets have them, say image_shape=(height, width)."
        )
    return None


def _reshaped(row: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    try:
        return row.reshape(tuple(shape))
    except (TypeError, ValueError):
        raise ValueError(f"image_shape is {shape!r:.80}, which {len(row)} numbers in a row of X do not fill.") from None


def _picture(image: Any, number: int, values: tuple[float, float] | None) -> Picture:
    name = f"image {number}"
    if isinstance(image, np.ndarray) and image.dtype.kind in _NUMBERS and image.dtype != np.uint8:
        image = _as_bytes(image, values)
    return Picture.of(image, name)


def _as_bytes(image: NDArray[Any], values: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Numbers of another type as uint8: black is 0, white 255, what lies beyond is cut."""
    if values is None:
        raise ValueError(
            f"X holds numbers of {image.dtype}; expected uint8 from 0 to 255, or value_range=(black, white), such as "
            "value_range=(0.0, 1.0)."
        )
    black, white = values
    if image.dtype.kind == "c" or not black < white or not np.isfinite(image).all():
        raise ValueError(
            f"value_range is {values!r:.80} and X holds {image.dtype}; expected finite numbers, black first."
        )
    scaled = (image.astype(np.float64) - black) * (255 / (white - black))
    return scaled.round().clip(0, 255).astype(np.uint8)
