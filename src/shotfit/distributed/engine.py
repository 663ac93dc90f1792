"""Parts through Ray Data: decoding and towers as stages of their own, with as many parts under way as they need.

    places  ->  coming (1 task)  ->  Decoding (actors)  ->  Tower (actors, the model loaded once each)  ->  counts

This process lists the parts and hands them to a feed as others are finished, so that it never holds more than so many.
Ray Data holds decoding back where towers are slower, starts a worker again that dies, and gives its part to another.
Decoding is no stage of tasks, as Ray ends a worker that had none for a second, and starting one takes three. A
decoder that came stays for the same reason, however little it has to do. A part that got lost with something that Ray
does not start again is done in another round.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotfit.data.parts import Part
from shotfit.distributed.feed import Feed, coming
from shotfit.distributed.stages import Decoding, Failed, Tower
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.jobs import Job
from shotfit.fitting.part_folder import PartFolder
from shotfit.printing import cut
from shotfit.progress import say

if TYPE_CHECKING:
    from shotfit.distributed.cluster import Cluster

__all__ = ["RayParts"]

MOST_BYTES = 2**30  # of a part's pixels, which go from worker to worker
ROUND = 20_000  # parts of one run of Ray Data, which remembers something of each
AHEAD = 4  # parts that are under way for each tower, and two more
IN_FLIGHT = 2  # of which at each tower: one runs, one waits
TRIES = 3  # rounds, one after the other, in which no part is finished
TOWER, DECODER, LISTER = 0.75, 0.2, 0.01  # cores that each is counted as
TOWER_GPU = 1


class RayParts:
    """Computes parts on a cluster; see `Engine` of `shotfit.fitting.parts`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def __call__(self, job: Job, folder: PartFolder, parts: Iterable[Part]) -> Iterator[tuple[int, int]]:
        """Pictures and broken ones of each part that was finished, in any order.

        Raises UsageError for a job that cannot go to other processes, and ShotfitError for what a worker raises and
        for a cluster that loses part after part.
        """
        size = job.shown.rule.size**2 * 3
        coming = iter(parts)
        left, vain = list[Part](), 0
        packed: bytes | None = None
        while True:
            first = left.pop(0) if left else next(coming, None)
            if first is None:
                return
            if packed is None:
                packed = _packed(job)
            if len(first) * size > MOST_BYTES:
                raise UsageError(
                    f"--part-size {len(first)} is more than one worker takes from another with this model: give at "
                    f"most {MOST_BYTES // size:,}."
                )
            left.insert(0, first)
            round_ = _Round(self.cluster, job, packed, folder, left, coming)
            yield from round_
            left = round_.lost
            vain = 0 if round_.finished else vain + 1
            if round_.error is not None:
                if vain == TRIES:
                    raise ShotfitError(f"The cluster lost every part {TRIES} times: {round_.error}")
                say(f"note: the cluster lost some parts ({len(left)}: {round_.error}); they are done again")


class _Round:
    """One run of Ray Data over at most ROUND parts. again: parts to begin with. lost: those that were not finished."""

    def __init__(
        self, cluster: Cluster, job: Job, packed: bytes, folder: PartFolder, again: list[Part], coming: Iterator[Part]
    ) -> None:
        self.ray, self.job, self.packed, self.folder = cluster.ray, job, packed, folder
        self.gpus = 0 if job.frozen.backbone.device.type == "cpu" else int(cluster.resources().get("GPU", 0))
        self.towers = self.gpus or cluster.cores
        self.decoders = max(1, cluster.cores - 1 if self.gpus else self.towers)
        self.again, self.coming = again, coming
        self.under_way: dict[int, Part] = {}
        self.given = self.finished = 0
        self.closed = False
        self.error: str | None = None

    @property
    def lost(self) -> list[Part]:
        """What is to be done again."""
        return [*self.under_way.values(), *self.again]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        feed = self.ray.remote(num_cpus=0, max_restarts=0)(Feed).remote()
        batches = iter(
            self._dataset(feed).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        )  # a generator
        try:
            self._fill(feed)
            for rows in batches:
                for row in rows.to_pylist():
                    part = self.under_way.pop(row["place"], None)
                    if part is None:
                        continue
                    if row["failed"]:
                        raise _error(pickle.loads(row["failed"]))
                    feed.forget.remote(row["place"])
                    self.finished += 1
                    self._fill(feed)
                    yield row["pictures"], row["broken"]
            if self.under_way:
                self.error = "a worker died and was not replaced"
        except self.ray.exceptions.RayError as error:
            self.error = cut(" ".join(str(error).split()), 200)
        finally:
            batches.close()  # which ends the stages, whatever is raised here
            self.ray.kill(feed)

    def _fill(self, feed: Any) -> None:
        """Have as many parts under way as there may be."""
        while not self.closed and len(self.under_way) < AHEAD * self.towers + 2:
            part = self.again.pop(0) if self.again else next(self.coming, None)
            if part is not None:
                self.under_way[self.given] = part
                feed.put.remote(self.given, pickle.dumps(part))
                self.given += 1
            if part is None or self.given == ROUND:
                self.closed = True
                feed.close.remote(self.given)

    def _dataset(self, feed: Any) -> Any:
        """The stages, nothing of which runs yet."""
        data = self.ray.data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fields that are deprecated, which the copy touches
            context = data.DataContext.get_current().copy()
        context.target_max_block_size = 1  # a block is one part
        context.enable_progress_bars = context.enable_operator_progress_bars = False
        context.print_on_execution_start = False
        context.issue_detectors_config.detectors = []
        context.execution_options.preserve_order = False
        context.memory_usage_poll_interval_s = None  # which would read all of a tower's pages each second
        context.autoscaling_config.actor_pool_util_downscaling_threshold = -1.0  # no decoder is used as little as that
        place = str(Path.cwd())
        with data.DataContext.current(context):
            parts = data.read_datasource(_source(data, feed), concurrency=1, override_num_blocks=1, num_cpus=LISTER)
            decoded = parts.map_batches(
                Decoding,
                fn_constructor_args=(self.job.shown, place),
                batch_size=None,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(
                    min_size=1, max_size=self.decoders, max_tasks_in_flight_per_actor=IN_FLIGHT
                ),
                num_cpus=1 if self.gpus else DECODER,
            )
            return decoded.map_batches(
                Tower,
                fn_constructor_args=(self.packed, self.folder.folder, self.folder.asked, place),
                batch_size=None,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(size=self.towers, max_tasks_in_flight_per_actor=IN_FLIGHT),
                num_cpus=DECODER if self.gpus else TOWER,
                num_gpus=TOWER_GPU if self.gpus else 0,
            )


def _source(data: Any, feed: Any) -> Any:
    """The feed as a source of Ray Data, of one task."""
    from ray.data.block import BlockMetadata

    class Places(data.Datasource):  # type: ignore[misc]
        def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[Any]:
            metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [data.ReadTask(lambda: coming(feed), metadata)]

        def estimate_inmemory_data_size(self) -> int | None:
            return None

    return Places()


def _packed(job: Job) -> bytes:
    try:
        return pickle.dumps(job)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UsageError(
            f"This {job.what} cannot go to other processes: {error}; name the backbone instead."
        ) from error


def _error(failed: Failed) -> Exception:
    if not failed.exit_code:
        return RuntimeError(f"a worker raised {failed.sentence}")
    return (UsageError if failed.exit_code == UsageError.exit_code else ShotfitError)(failed.sentence)
