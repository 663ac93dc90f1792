"""Runs of a comparison side by side, each in a process of this machine.

Every process has its share of the cores and carries out one run after the other (`running.run_alone`); results come
back here, and the store and the file of finished runs are shared. A process that dies costs its own run alone, which is
tried once more, in a new process. Ctrl-C, or an error of a run, ends all of them; a process whose parent is gone ends
itself. What they were writing has a temporary name, which the next writer removes.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, Protocol

import torch
from threadpoolctl import threadpool_limits

from shotfit.engine.allocator import kept_memory
from shotfit.errors import ShotfitError, plural
from shotfit.evaluation.running import Ground, Run, Told, run_alone
from shotfit.files import remove_unfinished
from shotfit.progress import say, telling

__all__ = ["Engine", "Slots", "carry_out", "in_processes", "is_measured", "side_by_side", "threads_each"]

TRIES = 2  # of a run whose process dies
GRACE = 5.0  # seconds that a process has to end

Known = Callable[[Run], "dict[str, Any] | None"]
Note = Callable[[int, Told, int], None]
Engine = Callable[[Ground, Sequence[Run], int, Known, Note, bool], None]
"""What carries the runs out that are not known, so many at a time; see `side_by_side`."""


def threads_each(jobs: int) -> int:
    """Threads of each of so many processes: the cores of this machine, or the threads of this process, shared out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, max(torch.get_num_threads(), 1) * jobs) // jobs)


def is_measured(runs: Iterable[Mapping[str, Any]], run: Run) -> bool:
    """Whether a run of the same method and number of shots says how fast it predicts."""
    return any(
        (one["method"], one["shots"]) == (run.variant, run.shots) and bool(one.get("images_per_second")) for one in runs
    )


class Slots(Protocol):
    """Places for runs, while a `with` block lasts; what is under way when it ends with an error is given up.

    said: what the places are, for people. under_way: what was submitted and has not ended.
    """

    said: str

    @property
    def under_way(self) -> Sized: ...

    def __enter__(self) -> Slots: ...

    def __exit__(self, kind: object, error: object, traceback: object) -> None: ...

    def submit(self, slot: int, number: int, run: Run, speed: bool) -> None:
        """Have a run done in a slot."""

    def renew(self, slot: int) -> None:
        """Have a slot again whose process died."""

    def ended(self) -> list[tuple[int, int, Future[Told]]]:
        """Slot, number and outcome of what has ended, which is waited for; BrokenProcessPool: its process died."""


def in_processes(ground: Ground, runs: Sequence[Run], jobs: int, known: Known, note: Note, speed: bool) -> None:
    """Carry out the runs that are not known in `jobs` processes of this machine; see `side_by_side`."""
    side_by_side(ground, runs, jobs, known, note, speed, _Slots)


def side_by_side(
    ground: Ground,
    runs: Sequence[Run],
    jobs: int,
    known: Known,
    note: Note,
    speed: bool,
    places: Callable[[int, Ground], Slots],
) -> None:
    """Carry out the runs that are not known, `jobs` of them at a time, and note each by its number as it is done.

    places: makes so many places for runs. known: the finished run, from the file. note: called with number, what came
    of it, and how many are under way.
    speed: measure predictions a second once for each method and number of shots.

    Raises ShotfitError for what a run raises, at once, and in the end for runs whose processes died twice.
    """
    first: dict[str, int] = {}  # another name may stand for the same settings
    alike: dict[int, list[int]] = {}
    done: list[Mapping[str, Any]] = []
    for number, run in enumerate(runs):
        found = known(run)
        if found is not None:
            done.append(found | {"method": run.variant})
            note(number, Told(found, resumed=True), 0)
        else:
            alike.setdefault(first.setdefault(run.key, number), []).append(number)
    waiting, tried, lost = list(alike), dict.fromkeys(alike, 0), list[str]()
    jobs = min(jobs, len(waiting))
    if not jobs:
        return
    with _shared(ground) as shared, places(jobs, shared) as slots:
        say(slots.said)
        heard, timed = set[str](), set[int]()

        def begin(slot: int) -> None:
            number = waiting.pop(0)
            tried[number] += 1
            under_way = [runs[other] for other in timed]
            measured = any((one.variant, one.shots) == (runs[number].variant, runs[number].shots) for one in under_way)
            if speed and not measured and not is_measured(done, runs[number]):
                timed.add(number)
            slots.submit(slot, number, runs[number], number in timed)

        for slot in range(jobs):
            begin(slot)
        while slots.under_way:
            for slot, number, outcome in slots.ended():
                timed.discard(number)
                told: Told | None = None
                try:
                    told = outcome.result()
                    done.append(told.run)
                except BrokenProcessPool:
                    again = tried[number] < TRIES
                    how = "its run is done again" if again else "its run is left out"
                    say(f"note: a process died ({runs[number].said}); {how}.")
                    if again:
                        waiting.insert(0, number)
                    else:
                        lost.append(runs[number].said)
                    slots.renew(slot)
                if waiting:
                    begin(slot)
                if told is not None:
                    for category, sentence in told.warned:
                        if sentence not in heard:
                            heard.add(sentence)
                            warnings.warn(sentence, category, stacklevel=2)
                    for position in alike[number]:
                        note(position, told if position == number else Told(told.run, True), len(slots.under_way))
    if lost:
        raise ShotfitError(
            f"{plural(len(lost), 'run')} of {len(runs)} could not be done, since a process died twice in each: "
            f"{lost[0]}{', ...' if len(lost) > 1 else ''}. Often memory ran out: give fewer --jobs, or bound --memory; "
            "finished runs are kept."
        )


@contextmanager
def _shared(ground: Ground) -> Iterator[Ground]:
    """The ground with a store that processes can share: one on the disk, for the time being where there is none."""
    if ground.store is not None:
        yield ground
        return
    with tempfile.TemporaryDirectory(prefix="shotfit-") as folder:
        yield replace(ground, store=Path(folder))


class _Context(SpawnContext):
    """Starts processes, and knows them."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[SpawnProcess] = []

    def Process(self, *arguments: Any, **named: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        process = SpawnProcess(*arguments, **named)
        self.started.append(process)
        return process


class _Slots:
    """Places for runs, each with a process of its own, so that one that dies takes no other with it."""

    def __init__(self, jobs: int, ground: Ground) -> None:
        self.jobs, self.ground, self.context = jobs, ground, _Context()
        self.pools = [self._pool() for _ in range(jobs)]
        self.under_way: dict[Future[Told], tuple[int, int]] = {}
        self.said = f"{jobs} processes of {plural(threads_each(jobs), 'thread')} each"

    def __enter__(self) -> _Slots:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for pool in self.pools:
            pool.shutdown(wait=False, cancel_futures=True)
        if kind is not None:
            for process in self.context.started:
                with suppress(ValueError, OSError):  # it has ended
                    process.terminate()
        for process in self.context.started:
            with suppress(ValueError, AssertionError):
                process.join(GRACE)
                if process.is_alive():
                    process.kill()

    def _pool(self) -> ProcessPoolExecutor:
        given = threads_each(self.jobs), self.ground
        return ProcessPoolExecutor(1, mp_context=self.context, initializer=_begin, initargs=given)

    def submit(self, slot: int, number: int, run: Run, speed: bool) -> None:
        """Have a run done in a slot."""
        with _no_interrupt():  # which a process that is just being started would answer with a traceback
            self.under_way[self.pools[slot].submit(_run, run, speed)] = slot, number

    def renew(self, slot: int) -> None:
        """Have a new process in a slot, in place of a dead one."""
        self.pools[slot].shutdown(wait=False)
        self.pools[slot] = self._pool()

    def ended(self) -> list[tuple[int, int, Future[Told]]]:
        """Slot, number and outcome of what has ended, which is waited for."""
        done, _ = wait(self.under_way, return_when=FIRST_COMPLETED)
        return [(*self.under_way.pop(one), one) for one in done]


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C comes after the block, and never to a process that is started in it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_ground: Ground | None = None  # of the runs that this process is given


def _begin(threads: int, ground: Ground) -> None:
    """What a process does first."""
    global _ground
    _ground = ground
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends its processes
    signal.signal(signal.SIGTERM, _end)
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end(*_: object) -> None:
    remove_unfinished()
    os._exit(1)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        _end()


def _run(run: Run, speed: bool) -> Told:
    assert _ground is not None
    return carry_out(_ground, run, speed)


def carry_out(ground: Ground, run: Run, speed: bool) -> Told:
    """Carry a run out in a process that has nothing else to do. Raises ShotfitError that goes to other processes."""
    with kept_memory(), telling(lambda *_: None):  # bars of several processes would overwrite one another
        try:
            return run_alone(ground, run, speed)
        except ShotfitError as error:  # of whatever kind: some are not made of their sentence alone
            plain = ShotfitError(str(error))
            plain.exit_code = error.exit_code
            raise plain from None
