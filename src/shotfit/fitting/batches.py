"""How many images are predicted together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shotfit.data.pictures import Picture

__all__ = ["BATCH", "LARGEST", "growing"]

BATCH = 32
LARGEST = 256


def growing(images: Iterable[Picture | None]) -> Iterator[list[Picture]]:
    """Batches of growing size: the first answers come soon, and later files are read while the tower works.

    None among the images says that the next one may be long in coming; those before it do not wait for it.
    """
    batch, size = list[Picture](), BATCH
    for picture in images:
        if picture is not None:
            batch.append(picture)
        if batch and (picture is None or len(batch) == size):
            yield batch
            batch, size = [], min(2 * size, LARGEST)
    if batch:
        yield batch
