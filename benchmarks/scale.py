"""Pictures a second of every way to predict many of them, and their memory.

python -m benchmarks.scale                                 the table of docs/scale.md, as Markdown
python -m benchmarks.scale --pictures 200000 --ways ray    one way; --ways one,shares,torchrun,ray,spark

Pictures of 64 pixels are put into shards, and embedded with `mini` at one thread a worker. Before and after each way
the towers run alone for a while, on as many processes as there are workers: `share` is the way's rate from its first
part to its last, as its files tell it, against the mean of both. `idle` is what nobody used of the machine meanwhile:
what is missing to all cores beside it and the work is what other programs took. `memory` is the PSS of all its
processes, shared memory included.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from benchmarks.fits import DRAWINGS
from shotfit.errors import ShotfitError

__all__ = ["Look", "Measured", "commands", "make_shards", "measure", "steady_rate", "tower_rate"]

SIDE = 64  # pixels of a picture
SHARD = 5000  # pictures of one
PART = 512  # pictures of a part
SECONDS = 20.0  # that the towers run alone
EVERY = 5.0  # seconds between two looks at memory, each of which takes 50 ms of a core where Ray runs
ALONE = """
import sys, time
import numpy as np, torch
from shotfit.fitting.jobs import Embedding, Seen
torch.set_num_threads(1)
job = Embedding("mini")
size = job.shown.rule.size
pixels = np.random.default_rng(0).integers(0, 255, ({part}, size, size, 3), np.uint8)
seen = Seen(("",) * {part}, pixels, {{}})
job.run(seen)
print(flush=True)
sys.stdin.readline()
done, began, worked = 0, time.perf_counter(), time.process_time()
while time.perf_counter() - began < {seconds}:
    job.run(seen)
    done += {part}
print(done / (time.perf_counter() - began), (time.process_time() - worked) / done)
"""


@dataclass
class Measured:
    """A run. rate: pictures a second from the first part to the last; whole: of the whole command. work: seconds of
    processors for a picture in that time; engine: cores that what is no worker of Ray takes then. memory: bytes, every
    EVERY seconds. idle: cores of the machine that nobody used.
    """

    pictures: int
    seconds: float
    rate: float
    work: float
    engine: float
    memory: list[int] = field(default_factory=list)
    idle: float = 0.0

    @property
    def whole(self) -> float:
        return self.pictures / self.seconds

    @property
    def most(self) -> int:
        """Bytes at most, but for single looks."""
        return sorted(self.memory)[int(0.95 * (len(self.memory) - 1))] if self.memory else 0

    @property
    def growth(self) -> float:
        """Memory in the last quarter of the run against that in the second one."""
        quarter = len(self.memory) // 4
        if not quarter:
            return 1.0
        return statistics.median(self.memory[-quarter:]) / statistics.median(self.memory[quarter : 2 * quarter])


def make_shards(folder: Path, pictures: int, source: Path = DRAWINGS, shard: int = SHARD) -> Path:
    """Tar archives of so many pictures: those of `source`, small, again and again under other names."""
    files = sorted(path for path in source.rglob("*") if path.suffix in (".png", ".jpg"))[:500]
    small = [_small(path) for path in files]
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, pictures, shard):
        with tarfile.open(folder / f"shard-{first // shard:04}.tar", "w") as archive:
            for number in range(first, min(first + shard, pictures)):
                member = tarfile.TarInfo(f"{number:09}.jpg")
                content = small[number % len(small)]
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder


def _small(path: Path) -> bytes:
    with Image.open(path) as image:
        made = image.convert("RGB").resize((SIDE, SIDE))
    content = io.BytesIO()
    made.save(content, "JPEG", quality=90)
    return content.getvalue()


def tower_rate(workers: int, seconds: float = SECONDS) -> tuple[float, float]:
    """Pictures a second of towers alone, on as many processes of one thread, and seconds of a processor for each."""
    command = [sys.executable, "-c", ALONE.format(part=PART, seconds=seconds)]
    started = [
        subprocess.Popen(command, env=_env(1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(workers)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()  # they begin together
    told = [process.communicate("\n")[0].split() for process in started]
    return sum(float(rate) for rate, _ in told), statistics.mean(float(work) for _, work in told)


def commands(shards: Path, out: Path, workers: int, part: int = PART) -> dict[str, tuple[list[str], int]]:
    """The command of each way, and the threads that it is told of (`OMP_NUM_THREADS`)."""
    ours = [sys.executable, "-m", "shotfit", "embed", str(shards), "--out", str(out), "--part-size", str(part)]
    words = " ".join(ours)
    shares = f"for i in $(seq {workers}); do {words} --part $i/{workers} & done; wait"
    share = f"exec {words} --part $((RANK + 1))/$WORLD_SIZE"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    spark = [sys.executable, "-m", "benchmarks.scale_spark", str(shards), str(out), str(workers), str(part)]
    return {
        "one": (ours, workers),
        "shares": (["bash", "-c", shares], 1),
        "torchrun": ([*torchrun, "--no-python", "bash", "-c", share], 1),
        "ray": ([*ours, "--engine", "ray"], workers),
        "spark": (spark, 1),
    }


def measure(command: Sequence[str], threads: int, out: Path) -> Measured:
    """Run a command that writes parts to `out`.

    Raises ShotfitError where it fails.
    """
    began, looks = time.perf_counter(), list[Look]()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=_env(threads), stdout=said, stderr=said)
        ended = threading.Event()
        looker = threading.Thread(target=_look, args=(process.pid, ended, looks))
        looker.start()
        code = process.wait()
        seconds = time.perf_counter() - began
        ended.set()
        looker.join()
        if code:
            said.seek(0)
            raise ShotfitError(f"{' '.join(command)} failed: {said.read()[-500:]}")
    rate, pictures, first, last = steady_rate(out)
    within = [look for look in looks if first <= look.at <= last]
    work = engine = idle = 0.0
    if len(within) > 1:
        lasted = within[-1].at - within[0].at
        work = (within[-1].work - within[0].work) / (rate * lasted)
        engine = (within[-1].engine - within[0].engine) / lasted
        idle = (within[-1].idle - within[0].idle) / lasted
    return Measured(pictures, seconds, rate, work, engine, [look.memory for look in looks], idle)


def steady_rate(out: Path) -> tuple[float, int, float, float]:
    """Pictures a second from the first part that was written to the last, the pictures of all parts, both times."""
    import pyarrow.parquet as pq

    found = sorted((path.stat().st_mtime, pq.read_metadata(path).num_rows) for path in out.glob("part-*.parquet"))
    lasted = found[-1][0] - found[0][0]
    rows = [count for _, count in found]
    return sum(rows[1:]) / lasted if lasted else 0.0, sum(rows), found[0][0], found[-1][0]


class Look(NamedTuple):
    """At a time: bytes of memory, and seconds of processors until then, of a process and all that it started.

    engine: seconds of those of them that are no workers of Ray. idle: seconds that processors had nothing to do.
    """

    at: float
    memory: int
    work: float
    engine: float
    idle: float


def _look(pid: int, ended: threading.Event, looks: list[Look]) -> None:
    worked: dict[int, float] = {}
    workers = set[int]()
    while not ended.wait(EVERY):
        family = list(_family(pid))
        for one in family:
            worked[one] = max(worked.get(one, 0.0), _work(one))
        workers.update(filter(_is_worker, family))
        engine = sum(work for one, work in worked.items() if one not in workers)
        looks.append(Look(time.time(), sum(map(_pss, family)), sum(worked.values()), engine, _idle()))


def _is_worker(pid: int) -> bool:
    try:
        return b"MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _work(pid: int) -> float:
    try:
        cells = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def _idle() -> float:
    cells = Path("/proc/stat").read_text().split(None, 6)  # of all processors: the time idle, and waiting for a disk
    return (int(cells[4]) + int(cells[5])) / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> Iterator[int]:
    """A process and all that it started, and those started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    waiting = [pid]
    while waiting:
        yield (one := waiting.pop())
        waiting.extend(parents.get(one, []))


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0


def _env(threads: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads)}


def _memory(found: Measured) -> str:
    return f"{found.most / 1e9:.2f} GB, {100 * (found.growth - 1):+.0f} % from its second to its last quarter"


def main() -> None:
    """Measure the ways that are asked for, and print a row for each."""
    asked = argparse.ArgumentParser(prog="benchmarks.scale")
    asked.add_argument("--pictures", type=int, default=20_000)
    asked.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked.add_argument("--part-size", type=int, default=PART)
    asked.add_argument("--alone", type=float, default=SECONDS, help="seconds that the towers run alone")
    asked.add_argument("--ways", default="one,shares,torchrun,ray")
    given = asked.parse_args()
    print(f"{given.pictures:,} pictures, {given.workers} workers, load {os.getloadavg()[0]:.1f}\n")
    print(
        "| way | pictures a second | of the whole command | share of the towers | work for a picture | idle | memory |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        shards = make_shards(Path(name) / "shards", given.pictures)
        for number, way in enumerate(given.ways.split(",")):
            out = Path(name) / f"{way}{number}"
            before = tower_rate(given.workers, given.alone)
            found = measure(*commands(shards, out, given.workers, given.part_size)[way], out)
            alone, work = map(statistics.mean, zip(before, tower_rate(given.workers, given.alone), strict=True))
            share = f"{100 * found.rate / alone:.0f} % of {alone:,.0f}"
            effort = f"{1000 * found.work:.1f} ms, {1000 * work:.1f} by the tower"
            idle = f"{found.idle:.2f} cores"
            cells = [way, f"{found.rate:,.0f}", f"{found.whole:,.0f}", share, effort, idle, _memory(found)]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
