"""Predictions in a process that was forked after a backbone was loaded: gunicorn --preload, multiprocessing on Linux.

A fork copies one thread. The threads with which torch computes are gone in the child, but its pool still counts on
them, and the first product of matrices would wait for ever. So a child computes with one thread of its own, as many
workers together do best. What a GPU holds does not go through a fork at all: that is said in a line.
"""

from __future__ import annotations

import os
from functools import cache

import torch

from shotfit.errors import ShotfitError

__all__ = ["check_device", "outlive_forks"]

_on_gpu = False  # whether the parent of this process had used CUDA when it forked


def _in_child(used: list[bool]) -> None:
    global _on_gpu
    _on_gpu = _on_gpu or used[0]
    torch.set_num_threads(1)


@cache
def outlive_forks() -> None:
    """From now on, forked children of this process compute with one thread. Said once, with the first backbone."""
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        used = [False]  # before the fork, for in the child torch does not say it any more
        os.register_at_fork(
            before=lambda: used.__setitem__(0, torch.cuda.is_initialized()), after_in_child=lambda: _in_child(used)
        )


def check_device(device: torch.device) -> torch.device:
    """The device, unless it is a GPU that this process cannot use: then a ShotfitError says what to do."""
    if _on_gpu and device.type == "cuda":
        raise ShotfitError(
            "A model on a GPU does not outlive a fork: load it in the worker, start workers with the method 'spawn', "
            "or load it with device='cpu'."
        )
    return device
