"""Image features of the support, view by view: what methods that train no tower learn from."""

from __future__ import annotations

import torch
from torch import Tensor

from shotfit.engine.frozen import Frozen
from shotfit.methods.base import Support

__all__ = ["support_features"]


@torch.no_grad()
def support_features(frozen: Frozen, support: Support, views: int) -> Tensor:
    """Features [views, images, embed] of random views of the support images, not normalized; 0: of the center view."""
    pool = support.center.in_views(views)
    items = torch.arange(len(pool.pictures))
    return torch.stack([frozen.image(pool.take(items, view)) for view in range(max(views, 1))])
