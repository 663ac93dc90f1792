"""Predict or embed any number of pictures into a folder of parts, in memory that does not grow with them.

    predict_parts(model, ["photos/"], Path("labels"))                   # labels/part-00000.parquet, ...
    embed_parts(["shards/"], Path("features"), "mini", share=(2, 8))    # the second of eight processes

Threads decode ahead of the tower. On processors each thread of the tower runs batches by itself, with one thread of
its own: that is faster than one batch on all of them, and rows do not depend on how many processors there are. Nothing
is read from the store of features or kept there, as the parts are what is kept.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from shotfit.data.budget import thread_pool
from shotfit.data.containers import arrow
from shotfit.data.images import shown
from shotfit.data.lists import AS_THEY_ARE, Paths
from shotfit.data.parts import SIZE, Part, Parts
from shotfit.data.pictures import Picture
from shotfit.data.remote.addresses import is_address
from shotfit.data.remote.pictures import picture_named
from shotfit.engine.allocator import kept_memory
from shotfit.errors import UsageError, plural
from shotfit.fitting.asked import NOTHING_MORE, Asked
from shotfit.fitting.jobs import Embedding, FeatureType, Job, Predicting, Seen, batches, decode
from shotfit.fitting.model import Model
from shotfit.fitting.part_folder import PartFolder
from shotfit.progress import say, track
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import Encoder
from shotfit.towers.precision import Precision

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "ALL", "Engine", "WrittenParts", "check_call", "embed_parts", "folder_for", "in_this_process", "predict_parts",
    "write_parts",
]  # fmt: skip

Engine = Callable[[Job, PartFolder, Iterable[Part]], Iterator[tuple[int, int]]]
"""What computes parts and writes them to the folder, in any order: gives, as they come, pictures and how many of them
are broken, of a part or some of it. The parts come lazily, and are asked for in this process."""

ALL = (1, 1)
"""The share of one process that does everything."""
MOST_TOWERS = 32  # batches that run at the same time, each in memory of its own
TOLD_SECONDS = 60  # between two lines of progress, where there is no bar


@dataclass
class WrittenParts:
    """What was done. parts: of this share; there: how many of them were finished before; again: how many had other
    pictures, or no end. pictures, broken: in all of them. removed: parts that the sources no longer have. computed,
    seconds: pictures that were worked on now, and how long that took. damaged: sentences about archives and tables that
    could not be read to their end. passed_over: pictures of formats that are not read.
    """

    out: Path
    parts: int = 0
    there: int = 0
    pictures: int = 0
    broken: int = 0
    again: int = 0
    removed: int = 0
    computed: int = 0
    seconds: float = 0.0
    damaged: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self) | {"out": str(self.out)}


def predict_parts(
    model: Model,
    sources: Sequence[str],
    out: Path,
    *,
    top: int | None = None,
    asked: Asked = NOTHING_MORE,
    lenient: bool = False,
    broken: Literal["keep", "skip", "stop"] = "keep",
    part_size: int = SIZE,
    share: tuple[int, int] = ALL,
    listed: Iterable[str | None] = (),
    paths: Paths = AS_THEY_ARE,
    engine: Engine | None = None,
) -> WrittenParts:
    """Predict any number of pictures into the folder `out`: `part-00000.parquet`, ..., of `part_size` pictures at most.

    The columns are image, rank, label, probability, set, unknown and error. A part that is there is not computed again,
    so that an interrupted call goes on where it stopped. One that the sources now list other pictures for is done
    again.

    sources: what `shotfit predict` takes. share: (i, n) does parts i-1, i-1+n, ... alone, for n processes that write to
    one folder. broken: whether a picture that cannot be read is a row with its error (keep), is left out (skip) or ends
    all (stop). listed, paths: see `Stream`. engine: what computes the parts, as `shotfit.distributed` has one; None:
    threads of this process.

    Raises UsageError for a folder that holds the parts of another job, or other files; ShotfitError for sources that
    are not there; OSError for a disk that is full.

    Example (needs a saved model):
        shotfit.predict_parts(shotfit.load("shotfit-model"), ["photos/"], "labels")
    """
    job = Predicting(model, top, asked, lenient, broken)
    return write_parts(
        job, sources, Path(out), part_size=part_size, share=share, listed=listed, paths=paths, engine=engine
    )


def embed_parts(
    sources: Sequence[str],
    out: Path,
    backbone: str | Backbone | Encoder = "mini",
    *,
    precision: Precision = "auto",
    device: str = "auto",
    dtype: FeatureType = "float32",
    lenient: bool = False,
    broken: Literal["keep", "skip", "stop"] = "keep",
    part_size: int = SIZE,
    share: tuple[int, int] = ALL,
    listed: Iterable[str | None] = (),
    paths: Paths = AS_THEY_ARE,
    engine: Engine | None = None,
) -> WrittenParts:
    """The features of any number of pictures in a folder of parts, with the columns image, error and features.

    dtype: float32, or float16, which takes half the room. The rest is as in `predict_parts`.
    """
    check_call(Path(out), sources, share)
    job = Embedding(backbone, precision, device, dtype, lenient, broken)
    return write_parts(
        job, sources, Path(out), part_size=part_size, share=share, listed=listed, paths=paths, engine=engine
    )


def folder_for(job: Job, sources: Sequence[str], out: Path, part_size: int, paths: Paths = AS_THEY_ARE) -> PartFolder:
    """The folder of a job's parts. What stands in its `job.json` says what the rows depend on, and how they are cut."""
    more = {"sources": [_told(str(source)) for source in sources], "part_size": part_size}
    more |= {name: str(value) for name, value in vars(paths).items() if value is not None}
    return PartFolder(out, job.asked | more)


def _told(source: str) -> str:
    """A source without secrets, which an address may have."""
    return str(picture_named(source)) if is_address(source) else source


def check_call(out: Path, sources: Sequence[str], share: tuple[int, int] = ALL) -> None:
    """Refuse, before anything is loaded, a share that is none, and a folder of parts that is or holds a source.

    Raises UsageError.
    """
    if not 1 <= share[0] <= share[1]:
        raise UsageError(f"--part is {share[0]}/{share[1]}; expected I/N with I from 1 to N, as in 3/8.")
    place = out.resolve()
    for source in sources:
        named = Path(source).resolve()
        if source != "-" and not is_address(str(source)) and (named == place or place in named.parents):
            raise UsageError(f"{source} lies in --out {out}: name another folder for the parts.")


def write_parts(
    job: Job,
    sources: Sequence[str],
    out: Path,
    *,
    part_size: int = SIZE,
    share: tuple[int, int] = ALL,
    listed: Iterable[str | None] = (),
    paths: Paths = AS_THEY_ARE,
    engine: Engine | None = None,
) -> WrittenParts:
    """Do a job on pictures; see `predict_parts`."""
    check_call(out, sources, share)
    parts = Parts(sources, part_size, listed, paths, without=out)
    folder = folder_for(job, sources, out, part_size, paths)
    folder.check()
    listing = iter(parts)
    first = next(listing)  # a source that is not there is told before anything is written
    folder.begin()
    done, started = WrittenParts(out), time.perf_counter()
    waiting = _unfinished(chain([first], listing), folder, share, done)
    title = "Embedding" if job.what == "embed" else "Predicting"
    told = time.monotonic()
    for _ in track(_each((engine or in_this_process)(job, folder, waiting), done), title, rate=True):
        if time.monotonic() - told >= TOLD_SECONDS:
            told = time.monotonic()
            if not os.isatty(2):
                rate = done.computed / (time.perf_counter() - started)
                say(f"{plural(done.computed, 'picture')}, {rate:,.1f} a second")
    if not parts.damaged:  # else what is missing may come back
        done.removed = folder.remove_beyond(parts.count, *share)
    done.damaged = [str(error) for error in parts.damaged]
    done.passed_over = [shown(path) for path in parts.stream.passed_over]
    done.seconds = round(time.perf_counter() - started, 3)
    return done


def _unfinished(
    parts: Iterable[Part], folder: PartFolder, share: tuple[int, int], done: WrittenParts
) -> Iterator[Part]:
    """The parts of a share that are still to be done; the others are counted."""
    for part in parts:
        if part.index % share[1] != share[0] - 1:
            continue
        done.parts += 1
        done.pictures += len(part)
        found = folder.finished(part)
        if found is not None:
            done.there += 1
            done.broken += found.broken
            continue
        done.again += folder.was_there(part)
        yield part


def _each(computed: Iterator[tuple[int, int]], done: WrittenParts) -> Iterator[int]:
    """Count what an engine does; gives each picture's number."""
    for pictures, broken in computed:
        done.broken += broken
        done.computed += pictures
        yield from range(done.computed - pictures + 1, done.computed + 1)


def in_this_process(job: Job, folder: PartFolder, parts: Iterable[Part]) -> Iterator[tuple[int, int]]:
    """The engine of one process: writes each part once it is whole, while the next ones are computed."""
    with kept_memory(), thread_pool(1) as writer:
        written = deque[Future[None]]()
        for part, table, pictures, broken in _computed(job, parts):
            yield pictures, 0 if table is None else broken
            if table is not None:
                written.append(writer.submit(folder.write, part, table, broken))
                while len(written) > 2 or (written and written[0].done()):
                    written.popleft().result()
        for future in written:
            future.result()


def _computed(job: Job, parts: Iterable[Part]) -> Iterator[tuple[Part, pyarrow.Table | None, int, int]]:
    """Each batch in order: its part, the table of that once it is whole, pictures, and how many broken in the part.

    As many batches as there are towers run at the same time, and as many again wait for them, decoded.
    """
    pa, towers, threads = arrow(), _towers(job), torch.get_num_threads()
    ahead = 2 * towers + 1
    decoders = thread_pool(max(2, os.cpu_count() or 1), "decode")
    runners = thread_pool(towers, "tower", _alone if job.frozen.backbone.device.type == "cpu" else _as_it_is)
    coming: deque[tuple[Part, bool, Future[tuple[pyarrow.Table, int, int]]]] = deque()
    tables, broken = list[Any](), 0
    try:
        work = _batches(parts)
        first = next(work, None)
        if first is None:
            return
        job.prepare()
        following: tuple[Part, list[Picture], bool] | None = first
        while following is not None or coming:
            while following is not None and len(coming) < ahead:
                part, pictures, last = following
                seen = decoders.submit(decode, pictures, job.shown)
                coming.append((part, last, runners.submit(_run, job, seen)))
                following = next(work, None)
            part, last, future = coming.popleft()
            table, count, wrong = future.result()
            tables.append(table)
            broken += wrong
            yield part, pa.concat_tables(tables) if last else None, count, broken
            if last:
                tables, broken = [], 0
    finally:
        runners.shutdown(cancel_futures=True, wait=False)
        decoders.shutdown(cancel_futures=True)
        runners.shutdown()
        torch.set_num_threads(threads)  # what `_alone` set for its thread holds for later ones too


def _batches(parts: Iterable[Part]) -> Iterator[tuple[Part, list[Picture], bool]]:
    """The batches of all parts, and whether each is the last of its part."""
    for part in parts:
        left = len(part)
        for pictures in batches(part):
            left -= len(pictures)
            yield part, pictures, not left


def _run(job: Job, seen: Future[Seen]) -> tuple[pyarrow.Table, int, int]:
    found = seen.result()
    table = job.run(found)
    return table, len(found), job.broken(found, table)


def _towers(job: Job) -> int:
    """How many batches run at the same time: one on a GPU, else one for each thread that PyTorch has."""
    return min(torch.get_num_threads(), MOST_TOWERS) if job.frozen.backbone.device.type == "cpu" else 1


def _alone() -> None:
    """A thread of a tower computes with one thread; that of others, which have their own number, stays as it is."""
    torch.set_num_threads(1)


def _as_it_is() -> None:
    """A GPU needs no threads."""
