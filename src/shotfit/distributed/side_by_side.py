"""Runs of a comparison as tasks of Ray, each with its share of the cluster's cores.

A task calls what a process of `compare --jobs` calls (`shotfit.evaluation.jobs.carry_out`): so results, their file,
what is kept in the store and who waits for whom are the same. Store and results are folders that all machines share.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from threadpoolctl import threadpool_limits

from shotfit.distributed.stages import stand_in
from shotfit.errors import ShotfitError, plural
from shotfit.evaluation.jobs import Known, Note, carry_out, side_by_side
from shotfit.evaluation.running import Ground, Run, Told

if TYPE_CHECKING:
    from shotfit.distributed.cluster import Cluster

__all__ = ["RayRuns"]


class RayRuns:
    """Carries runs out on a cluster; see `Engine` of `shotfit.evaluation.jobs`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def __call__(self, ground: Ground, runs: Sequence[Run], jobs: int, known: Known, note: Note, speed: bool) -> None:
        """See `side_by_side`."""
        side_by_side(ground, runs, jobs, known, note, speed, self._slots)

    def _slots(self, jobs: int, ground: Ground) -> _Slots:
        return _Slots(self.cluster, jobs, ground)


class _Slots:
    """Places for runs; Ray finds the machine."""

    def __init__(self, cluster: Cluster, jobs: int, ground: Ground) -> None:
        self.ray = cluster.ray
        threads = max(1, cluster.cores // jobs)
        gpus = 0 if ground.device == "cpu" else min(1.0, int(cluster.resources().get("GPU", 0)) / jobs)
        self.said = f"{jobs} tasks of Ray, of {plural(threads, 'thread')} each"
        self.given = self.ray.put(ground), threads, str(Path.cwd())
        self.task = self.ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(_run)
        self.under_way: dict[Any, tuple[int, int]] = {}

    def __enter__(self) -> _Slots:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for task in self.under_way:
            self.ray.cancel(task, force=True)

    def submit(self, slot: int, number: int, run: Run, speed: bool) -> None:
        """Have a run done."""
        self.under_way[self.task.remote(*self.given, run, speed)] = slot, number

    def renew(self, slot: int) -> None:
        """Nothing is to be done: Ray starts processes as it needs them."""

    def ended(self) -> list[tuple[int, int, Future[Told]]]:
        """See `Slots`."""
        done, _ = self.ray.wait(list(self.under_way))
        return [(*self.under_way.pop(task), self._outcome(task)) for task in done]

    def _outcome(self, task: Any) -> Future[Told]:
        outcome, raised = Future[Told](), self.ray.exceptions
        died = raised.WorkerCrashedError, raised.NodeDiedError, raised.OutOfMemoryError
        try:
            found = self.ray.get(task)
        except died as error:
            outcome.set_exception(BrokenProcessPool(str(error)))
        else:
            if isinstance(found, Told):
                outcome.set_result(found)
            else:
                outcome.set_exception(_error(*found))
        return outcome


def _run(ground: Ground, threads: int, place: str, run: Run, speed: bool) -> Told | tuple[str, int]:
    """A run, in a worker; of an error of shotfit its sentence and exit code, which go to any process."""
    torch.set_num_threads(threads)
    try:
        stand_in(place)
        with threadpool_limits(threads):
            return carry_out(ground, run, speed)
    except ShotfitError as error:
        return str(error), error.exit_code


def _error(sentence: str, exit_code: int) -> ShotfitError:
    error = ShotfitError(sentence)
    error.exit_code = exit_code
    return error
