"""Freed memory is kept for the next tensors while a long work lasts; and how much a process has taken at most.

glibc gives a block above 32 MB back to the system as soon as it is freed, and the system clears each page of the next
one as it is first touched. A hidden activation of ViT-B/16 on 16 images is such a block, and clearing it takes four
times as long as computing it from another. Within `kept_memory` blocks come from the heap instead, which grows to what
a step needs and stays there. Afterwards what is free goes back to the system, and glibc has the limits that it comes to
by itself after its first large block.

Threads have heaps of 64 MB of their own there, as many as they need. glibc gives one back as soon as it is empty,
whatever the limits are, so a tower in a thread cleared its pages at every layer. With a pad of a whole heap it keeps
them. A thread's block above 64 MB fits into no heap, and goes back all the same.

Nothing is done where the C library is another one, nor to a GPU's memory, which PyTorch keeps anyway.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["count_anew", "give_back", "kept_memory", "peak_memory"]

# options of mallopt, as malloc.h numbers them
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
LARGEST = 32 << 20  # to which glibc raises the threshold by itself, and the one for trimming to twice that
BLOCKS = 65536  # mapped at the same time at most: glibc's default
HEAP = 64 << 20  # of a thread: as large as one gets
PAD = 128 << 10  # that the heap grows by beyond a block: glibc's default

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

_lock = Lock()
if hasattr(os, "register_at_fork"):  # no child gets it locked by a thread that it does not have
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_inside = 0  # how many are within it


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory until the outermost of these ends; also a decorator."""
    global _inside
    library = _glibc()
    if library is None:
        yield
        return
    with _lock:
        _inside += 1
        if _inside == 1:
            library.mallopt(M_MMAP_MAX, 0)
            library.mallopt(M_TRIM_THRESHOLD, -1)  # never
            library.mallopt(M_TOP_PAD, HEAP)  # addresses alone, until they are used
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                library.mallopt(M_MMAP_MAX, BLOCKS)
                library.mallopt(M_MMAP_THRESHOLD, LARGEST)
                library.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST)
                library.mallopt(M_TOP_PAD, PAD)
                library.malloc_trim(0)


def give_back() -> None:
    """Give what is free back to the system, also within `kept_memory`."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def peak_memory(device: torch.device) -> int | None:
    """Bytes that were taken at most: on a GPU by PyTorch's tensors there, else by the whole process, in its memory.

    None where the system does not tell.
    """
    if device.type == "cuda":
        import torch  # which the light runtime, a user of this file, does without

        return int(torch.cuda.max_memory_allocated(device))
    if not STATUS.is_file():
        return None
    rows = [row for row in STATUS.read_text().splitlines() if row.startswith("VmHWM:")]
    return 1024 * int(rows[0].split()[1]) if rows else None


def count_anew(device: torch.device) -> bool:
    """Have `peak_memory` count from now on; False where the system cannot."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True
