"""From pictures to a tower's pixels, in threads that run ahead of the tower.

    for pixels in read_ahead(batches, lambda one: center_view(one, rule)):      # lists of [3, size, size]
        ...                                                # the next batch is being read while this one is worked on

With `reduced`, a JPEG is decoded at a half, a quarter or an eighth of its size as long as what a view shows of it keeps
`MARGIN` times the tower's pixels a side: its own transform averages what the resizing would average next. That is not
exact: docs/data.md states what it changes. Small images, and all other formats, are decoded in full anyway.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from shotfit.data.budget import thread_pool
from shotfit.data.images import opened_image
from shotfit.data.pictures import Picture
from shotfit.data.views import Box
from shotfit.engine.allocator import give_back
from shotfit.towers.config import Preprocessing
from shotfit.towers.pixels import MARGIN, square
from shotfit.towers.preprocess import crop_and_flip, preprocess

__all__ = ["MARGIN", "center_square", "center_view", "cut", "read_ahead"]

LARGE = 2**25  # pixels

A = TypeVar("A")
B = TypeVar("B")


def center_view(picture: Picture, rule: Preprocessing, reduced: bool = True) -> Tensor:
    """The picture as the checkpoint's preprocessing shows it: [3, size, size]."""
    with _opened(picture, MARGIN * rule.size if reduced and rule.reducible else None) as image:
        return preprocess(image, rule)


def center_square(picture: Picture, rule: Preprocessing, reduced: bool = True) -> NDArray[np.uint8]:
    """The same in bytes, before `towers.preprocess.normalized_batch`: [size, size, 3], a quarter of the memory."""
    with _opened(picture, MARGIN * rule.size if reduced else None) as image:
        return np.asarray(square(image, rule))


def cut(
    picture: Picture, size: tuple[int, int], boxes: Sequence[Box], rule: Preprocessing, reduced: bool = True
) -> list[Tensor]:
    """Training views of the picture, which is decoded once: [3, size, size] for each box.

    size: width and height of the whole image (`image_size`), for which the boxes were drawn.
    """
    narrowest = min(min(box.width, box.height) for box in boxes)
    shorter = -(-MARGIN * rule.size * min(size) // narrowest)  # rounded up
    with _opened(picture, shorter if reduced and rule.reducible else None) as image:
        return [crop_and_flip(image, box, rule, size[0] // image.width) for box in boxes]


@contextmanager
def _opened(picture: Picture, shorter: int | None) -> Iterator[Image.Image]:
    """The image; after a large one, its memory goes back to the system, also within `kept_memory`."""
    with opened_image(picture, shorter=shorter) as image:
        large = image.width * image.height > LARGE
        yield image
        del image
    if large:
        give_back()


def read_ahead(batches: Sequence[Sequence[A]], read: Callable[[A], B]) -> Generator[list[B], None, None]:
    """What `read` gives for each entry, batch by batch in order; the next batch is read while one is worked on."""
    pool = thread_pool(os.cpu_count() or 1)
    try:
        coming: list[Future[B]] = []
        for batch in (*batches, ()):
            waiting, coming = coming, [pool.submit(read, entry) for entry in batch]
            if waiting:
                yield [future.result() for future in waiting]
    finally:  # an error, or a caller that had enough: what has not begun is not begun
        pool.shutdown(cancel_futures=True)
