"""Rows of the store on the device that computes with them."""

from __future__ import annotations

import torch
from torch import Tensor

from shotfit.engine.shards import Held

__all__ = ["Rows"]


class Rows:
    """Rows of the store, [n, ...] in all, for batches on a device.

    whole: held there as one tensor. Otherwise each batch is read from where the rows lie, which is files but for a
    store in memory, so that a pool's streams take no memory of their own. A GPU that has room for twice as much holds
    them whole too: a training step would wait for each copy.
    """

    def __init__(self, rows: Held, device: torch.device, whole: bool) -> None:
        self.rows, self.device = rows, device
        room = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        self.all = rows.stack().to(device) if whole or 2 * rows.nbytes <= room else None

    def take(self, chosen: Tensor) -> Tensor:
        """Rows by number, [len(chosen), ...]."""
        if self.all is not None:
            return self.all.index_select(0, chosen.to(self.device))
        return self.rows.stack(chosen.tolist()).to(self.device)
