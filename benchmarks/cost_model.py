"""What a billion pictures take, and a simulation that says whether the figures can be added up like that.

python -m benchmarks.cost_model record          measure the stages, write benchmarks/scale_stages.json
python -m benchmarks.cost_model check           simulate 1 and 2 workers, measure them, and compare (15 %)
python -m benchmarks.cost_model plan --workers 64 --price 0.05

A stage is what `--engine ray` does with a part: list, decode, hand over to another process, run the tower, write.
`record` measures it part by part on one worker, and on two at the same time, which share the machine's memory, in
seconds of a processor, so that other work on the machine does not count, and what Ray's own processes take while one
worker runs; `check` needs a machine that does nothing else. The simulation replays these times through the pipeline's
queues: parts under way are bounded, decoding and Ray take cores from towers, and two parts are at a tower.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import simpy

from benchmarks.scale import commands, make_shards, measure
from shotfit.distributed.engine import AHEAD, IN_FLIGHT

__all__ = ["Costs", "Stages", "costs", "read_stages", "record", "simulate"]

FILE = Path(__file__).parent / "scale_stages.json"
WITHIN = 0.15
STEPS = ("list", "decode", "hand over", "tower", "write")
SETTLED = 0.1  # seconds after which the simulated engine takes a core for what it needed until then
RECORDER = """
import json, sys, time
from pathlib import Path
import torch
from shotfit.data.parts import Parts
from shotfit.distributed.stages import handed, taken
from shotfit.engine.allocator import kept_memory
from shotfit.fitting.jobs import Embedding, decode
from shotfit.fitting.parts import folder_for
torch.set_num_threads(1)
kept = kept_memory()
kept.__enter__()
shards, out, count, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
job = Embedding("mini")
folder = folder_for(job, [shards], out, size)
folder.begin()
listed = iter(Parts([shards], size))
first = next(listed)
job.run(decode(first.pictures()[:32], job.shown))
print(flush=True)
sys.stdin.readline()
found = []
for _ in range(count):
    times = [time.process_time()]
    part = next(listed)
    times.append(time.process_time())
    seen = decode(part.pictures(), job.shown)
    times.append(time.process_time())
    told, pixels = handed(seen)
    seen = taken(told, bytes(pixels))  # Ray copies them once, into memory that is shared
    times.append(time.process_time())
    table = job.run(seen)
    times.append(time.process_time())
    folder.write(part, table, job.broken(seen, table))
    times.append(time.process_time())
    found.append([later - earlier for earlier, later in zip(times, times[1:])])
listed.close()
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Stages:
    """Seconds of each part in each stage [parts, 5], by the number of workers that were measured at the same time.

    pictures: of a part. engine: cores that Ray's own processes take. load: of the machine, afterwards.
    """

    pictures: int
    seconds: Mapping[int, Sequence[Sequence[float]]]
    engine: float = 0.0
    load: float = 0.0

    def of(self, workers: int) -> Sequence[Sequence[float]]:
        """Those for so many workers on one machine, or for the most that were measured."""
        return self.seconds[max(known for known in self.seconds if known <= max(workers, min(self.seconds)))]


@dataclass(frozen=True)
class Costs:
    """What pictures take. hours: of one worker, all together. days: until they are done. money: in the prices' unit."""

    worker_hours: float
    days: float
    bytes_read: float
    bytes_written: float
    requests: float
    money: float


def record(parts: int, size: int, most: int = 2) -> Stages:
    """Measure the stages on 1 to `most` workers of one thread at the same time."""
    found: dict[int, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        shards = make_shards(Path(name) / "shards", (parts + 2) * size, shard=(parts + 2) * size)
        for workers in range(1, most + 1):
            started = [
                subprocess.Popen(
                    [sys.executable, "-c", RECORDER, str(shards), f"{name}/{workers}-{one}", str(parts), str(size)],
                    env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
                for one in range(workers)
            ]  # fmt: skip
            for process in started:
                assert process.stdout is not None
                process.stdout.readline()  # they begin together
            for process in started:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            found[workers] = [times for process in started for times in json.loads(process.communicate()[0])]
        out = Path(name) / "out"
        engine = measure(*commands(shards, out, 1, size)["ray"], out).engine
    return Stages(size, found, engine, os.getloadavg()[0])


def simulate(stages: Stages, workers: int, cores: int, parts: int = 200) -> float:
    """Pictures a second of one machine with so many workers, from the first part to the last.

    Every stage of a part waits for a core, as a process does; what was measured for other parts is replayed in turn.
    """
    world, times = simpy.Environment(), stages.of(workers)
    core = simpy.Resource(world, cores)
    towers = simpy.Resource(world, workers)
    queues = simpy.Resource(world, IN_FLIGHT * workers)
    decoders = simpy.Resource(world, workers)
    under_way = simpy.Resource(world, AHEAD * workers + 2)
    done, ended = list[float](), world.event()

    def busy(seconds: float) -> Generator[Any, Any, None]:
        with core.request() as mine:
            yield mine
            yield world.timeout(seconds)

    def part(number: int, place: Any) -> Generator[Any, Any, None]:
        _, decoding, handing, running, writing = times[number % len(times)]
        with decoders.request() as decoder:
            yield decoder
            yield from busy(decoding + handing)
        with queues.request() as queued:
            yield queued
            with towers.request() as tower:
                yield tower
                yield from busy(running + writing)
        done.append(world.now)
        under_way.release(place)
        if len(done) == parts:
            ended.succeed()

    def engine() -> Generator[Any, Any, None]:
        settled = 0.0
        while True:
            yield world.timeout(SETTLED)
            with core.request() as mine:
                yield mine
                owed, settled = stages.engine * (world.now - settled), world.now
                yield world.timeout(owed)

    def listing() -> Generator[Any, Any, None]:
        for number in range(parts):
            place = under_way.request()
            yield place
            yield from busy(times[number % len(times)][0])
            world.process(part(number, place))

    world.process(listing())
    world.process(engine())
    world.run(until=ended)
    return stages.pictures * (len(done) - 1) / (done[-1] - done[0])


def costs(
    pictures: float,
    rate: float,
    workers: int,
    price: float,
    *,
    bytes_each: float = 100e3,
    row_bytes: float = 1200,
    shard: int = 10_000,
    part: int = 512,
    per_request: float = 0.0,
    per_stored: float = 0.0,
) -> Costs:
    """What pictures take at `rate` pictures a second of one worker; the formula of docs/scale.md.

    price: of an hour of a worker; per_request: of a request; per_stored: of a byte of rows, for as long as it is kept.
    bytes_each, row_bytes: of a picture and of its row. shard: pictures of an archive; 1: files.
    """
    hours = pictures / rate / 3600
    requests = pictures / shard + pictures / part  # an archive is read once, a part is written once
    written = pictures * row_bytes
    money = hours * price + requests * per_request + written * per_stored
    return Costs(hours, hours / workers / 24, pictures * bytes_each, written, requests, money)


def read_stages(file: Path = FILE) -> Stages:
    """The stages that `record` wrote."""
    kept = json.loads(file.read_text())
    seconds = {int(workers): times for workers, times in kept["seconds"].items()}
    return Stages(kept["pictures"], seconds, kept["engine"], kept["load"])


def _check(stages: Stages, parts: int, cores: int) -> bool:
    """Compare simulation and measurement; whether they agree."""
    agree = True
    with tempfile.TemporaryDirectory() as name:
        shards = make_shards(Path(name) / "shards", parts * stages.pictures, shard=parts * stages.pictures)
        for workers in sorted(stages.seconds):
            out = Path(name) / f"out{workers}"
            found = measure(*commands(shards, out, workers, stages.pictures)["ray"], out).rate
            expected = simulate(stages, workers, cores, parts)
            off = expected / found - 1
            agree &= abs(off) <= WITHIN
            told = f"{expected:,.1f} simulated, {found:,.1f} measured, {100 * off:+.1f} %"
            print(f"{workers} workers: {told}, load {os.getloadavg()[0]:.1f}", flush=True)
    return agree


def main() -> int:
    """Do what is asked for; 1 where simulation and measurement differ by more than 15 %."""
    asked = argparse.ArgumentParser(prog="benchmarks.cost_model")
    asked.add_argument("what", choices=("record", "check", "plan"))
    asked.add_argument("--parts", type=int, default=48)
    asked.add_argument("--part-size", type=int, default=256)
    asked.add_argument("--workers", type=int, default=64)
    asked.add_argument("--pictures", type=float, default=1e9)
    asked.add_argument("--price", type=float, default=0.05, help="of an hour of a worker")
    given = asked.parse_args()
    if given.what == "record":
        FILE.write_text(json.dumps(_rounded(record(given.parts, given.part_size))) + "\n")
    stages = read_stages()
    for workers, times in stages.seconds.items():
        medians = [1000 * statistics.median(column) / stages.pictures for column in zip(*times, strict=True)]
        said = ", ".join(f"{step} {value:.2f}" for step, value in zip(STEPS, medians, strict=True))
        print(
            f"{workers} at the same time, ms a picture: {said}; Ray {stages.engine:.2f} cores; load {stages.load:.1f}"
        )
    if given.what == "check":
        return 0 if _check(stages, given.parts, os.cpu_count() or 1) else 1
    if given.what == "plan":
        cores = os.cpu_count() or 1
        rate = simulate(stages, cores, cores) / cores
        for name, value in asdict(costs(given.pictures, rate, given.workers, given.price)).items():
            print(f"{name}: {value:,.1f}")
    return 0


def _rounded(stages: Stages) -> dict[str, Any]:
    seconds = {workers: [[round(one, 5) for one in row] for row in times] for workers, times in stages.seconds.items()}
    told = {"pictures": stages.pictures, "load": round(stages.load, 2), "engine": round(stages.engine, 3)}
    return {**told, "seconds": seconds}


if __name__ == "__main__":
    raise SystemExit(main())
