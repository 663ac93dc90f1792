"""A budget of memory that threads share.

    with DECODING.taken(bytes):         # waits until so much is free
        ...
    thread_pool(4)                          # a pool, for whose threads there is room

A processor decodes in as many threads as it has cores, and a picture of 100 megapixels takes half a gigabyte or a whole
one: ordinary pictures are decoded side by side, large ones after each other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

__all__ = ["DECODING", "MAX_DECODED", "Budget", "thread_pool"]

THREAD_BYTES = 2**25  # of addresses: its stack, and the first that it allocates

MAX_DECODED = 1_000_000_000
"""Bytes that pictures may take while they are decoded and converted, all threads of a process together."""


def thread_pool(most: int, name: str = "", begin: Callable[[], None] | None = None) -> ThreadPoolExecutor:
    """A pool of so many threads at most, each of which calls `begin` first.

    Raises MemoryError where there is none for as many as this machine has cores: a thread that cannot begin for want of
    memory cannot say so either, and Python would wait for it for ever.
    """
    bytes(min(most, os.cpu_count() or 1) * THREAD_BYTES)  # takes addresses alone: a bytearray writes its zeros
    return ThreadPoolExecutor(most, name, begin)


class Budget:
    """So many bytes, taken and given back."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.reset()

    def reset(self) -> None:
        """Nothing is taken: in a process that was just forked, whose other threads are gone."""
        self._free, self._changed = self.total, threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Wait until `amount` is free and hold it; one that is larger than the budget waits for all of it."""
        amount = min(amount, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


DECODING = Budget(MAX_DECODED)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=DECODING.reset)
