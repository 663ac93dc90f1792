"""Features of images, as an array: what the frozen model makes of them.

features = embed(["a.jpg", "b.jpg"])                # [2, embed], of length 1
features = embed("photos/", backbone="ViT-B-16")
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from shotfit.checkpoints.weights import load_in
from shotfit.data.finding import identified, leniently, pictures_in
from shotfit.data.images import BrokenImageError
from shotfit.data.pictures import PictureLike
from shotfit.data.tasks import Item
from shotfit.engine.allocator import kept_memory
from shotfit.engine.frozen import Frozen, ImagePool, normalize
from shotfit.engine.store import MemoryStore, Store, cache_folder, open_store
from shotfit.progress import track
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import Encoder
from shotfit.towers.precision import Precision

__all__ = ["embed", "features_of"]

TOGETHER = 256


def embed(
    images: PictureLike | Iterable[PictureLike],
    backbone: str | Backbone | Encoder = "mini",
    *,
    precision: Precision = "auto",
    device: str = "auto",
    store: Store | MemoryStore | None = None,
    lenient: bool = False,
) -> NDArray[Any]:
    """Features [n, embed] of images in float32, each of length 1: paths, folders, patterns, bytes, PIL images, arrays.

    store: where features are kept, so that a second call computes none; by default the cache's folder. lenient: an
    image that is cut off is read as far as it is there.

    Raises ShotfitError for an image that cannot be read.

    Example:
        >>> import numpy as np
        >>> embed(np.zeros((2, 32, 32, 3), dtype=np.uint8)).shape
        (2, 576)
    """
    loaded = load_in(backbone, precision, device)
    return features_of(Frozen(loaded, open_store() if store is None else store), images, lenient)


@kept_memory()
@torch.no_grad()
def features_of(frozen: Frozen, images: PictureLike | Iterable[PictureLike], lenient: bool = False) -> NDArray[Any]:
    """The same, of a frozen model."""
    pictures = pictures_in(images)
    items, broken = identified(pictures, cache_folder())
    if broken:
        raise next(iter(broken.values()))
    rows = [torch.zeros(0, frozen.embed)]
    starts = range(0, len(items), TOGETHER)
    for start in track(starts, "Embedding", len(starts)) if len(starts) > 1 else starts:
        rows.append(_rows(frozen, items[start : start + TOGETHER], lenient))
    return torch.cat(rows).numpy()


def _rows(frozen: Frozen, items: list[Item], lenient: bool) -> Tensor:
    """Features [items, embed] of a batch."""
    while True:
        try:
            return normalize(frozen.image(ImagePool(items, passing=True).all())).float().cpu()
        except BrokenImageError as error:
            again = leniently(items, error) if lenient else None
            if again is None:
                raise
            items = again
