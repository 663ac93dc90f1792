"""`--engine ray` and `--address`: where a command finds its workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shotfit.errors import UsageError

if TYPE_CHECKING:
    from shotfit.distributed.cluster import Cluster

__all__ = ["joined"]


@contextmanager
def joined(engine: str | None, address: str | None) -> Iterator[Cluster | None]:
    """A cluster of Ray while the block lasts; None for this process alone.

    Raises UsageError for an engine that is none, an address without one, and where Ray is missing; ShotfitError for a
    cluster that does not answer.
    """
    if engine not in (None, "ray"):
        raise UsageError(f"--engine is {engine!r}; expected ray, or nothing for this process alone.")
    if engine is None:
        if address is not None:
            raise UsageError("--address goes with --engine ray: add it, or leave --address out.")
        yield None
        return
    from shotfit.distributed.cluster import Cluster

    with Cluster(address) as cluster:
        yield cluster
