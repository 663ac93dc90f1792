"""The leaderboard: every method on six data sets with `mini`, at 1 and 16 shots, by the paper's recipe and by `auto`.

    python -m benchmarks.leaderboard                     carry the runs out, as many as the hours allow; again to go on
    python -m benchmarks.leaderboard --minutes 90        begin none after so many minutes
    python -m benchmarks.leaderboard --longest 60        only those that take a minute or less
    python -m benchmarks.leaderboard forecast            what is left to do, and how long it takes
    python -m benchmarks.leaderboard --again mma,apex    run these anew, after a change of their programs
    python -m benchmarks.leaderboard page                docs/leaderboard.md and the tables of docs/choose.md

Runs of `compare`, one after the other, in five parts: 16 shots by the paper's recipe first, then by `auto`, then one
shot, then two more seeds of 16 shots, and of one; in each part the cheapest method first. A finished run is a line of
leaderboard.jsonl and is not done again, whatever changes in shotfit, unless `--again` names its method. Seconds of a
step are measured on two data sets before a method's first run, and with them a run is forecast: one of more than
LONGEST seconds is left out, and the page shows it empty.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import leaderboard_page
from benchmarks.standings import LEFT_OUT, RACE, RESULTS, SETS, key_of
from shotfit.checkpoints.weights import load_backbone
from shotfit.commands.arguments import as_list, as_numbers
from shotfit.data.readers import read_task
from shotfit.data.tasks import Task
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore, Store, cache_folder, open_store
from shotfit.errors import ShotfitError
from shotfit.evaluation.compare import compare
from shotfit.evaluation.runs import append_run, read_runs
from shotfit.fitting.fit import fit
from shotfit.fitting.race import shortlist
from shotfit.methods import METHODS, find
from shotfit.methods.recipe import VIEWS
from shotfit.towers.backbone import Backbone

__all__ = ["Cell", "cells", "seconds_of", "steps_of"]

RATES = Path(__file__).parent / "leaderboard_rates.json"  # seconds of a step, by method and number of classes
SEEDS = (1, 2, 3)
LONGEST = 20 * 60  # seconds of a run
MEASURED = ("dtd", "gtsrb")  # on which steps are timed
FEW, MORE, MOST = 2, 8, 512  # steps whose difference is timed: so many more, until that takes a second
UNTRAINED = 2.0  # seconds of a fit without steps, and of what a fit does beside its steps,
EACH = 0.01  # and for each image that it learns from
KEPT = (  # of a run: nothing of this machine
    "key", "method", "shots", "seed", "scores", "refusal", "seconds", "selection", "support_images", "peak_memory",
    "model_bytes", "backbone", "version", "date",
)  # fmt: skip
TRIED = 2.5  # trainings of the longest length that `auto` takes


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    recipe: str
    shots: int
    seed: int
    data: str

    @property
    def variant(self) -> str:
        """As `compare` names it."""
        return self.method if self.method == RACE else f"{self.method}@{self.recipe}"


def cells(methods: Sequence[str] = tuple(METHODS)) -> list[list[Cell]]:
    """All runs, part by part in the order of their worth."""
    chosen = [name for name in methods if find(name).grid is not None] + [RACE]

    def part(names: Sequence[str], recipe: str, shots: int, seeds: Sequence[int]) -> list[Cell]:
        return [Cell(name, recipe, shots, seed, data) for name in names for seed in seeds for data in SETS]

    first, *others = SEEDS
    return [
        part(methods, "paper", 16, [first]),
        part(chosen, "auto", 16, [first]),
        part(methods, "paper", 1, [first]),
        part(methods, "paper", 16, others),
        part(methods, "paper", 1, others),
    ]


def steps_of(cell: Cell, counts: Sequence[int]) -> int:
    """Steps of a run, those of all candidates together; 0 for a fit without any. counts: images of each class."""
    if cell.method == RACE:
        return 0
    kind = find(cell.method)
    recipe = kind().training_recipe()
    if recipe is None:
        return 0
    if cell.recipe == "auto":
        assert kind.grid is not None
        return round(TRIED * max(axis.values[0] for axis in kind.grid.axes if axis.name == "steps"))
    images = sum(min(cell.shots, count) for count in counts)
    return recipe.length_for(cell.shots) or recipe.epochs_for(cell.shots) * recipe.steps_for(images)


def seconds_of(cell: Cell, counts: Sequence[int], rates: Mapping[str, float]) -> float:
    """The forecast of a run: its steps at the measured rate, which is linear in the number of classes.

    rates: seconds of a step, by the number of classes of two data sets; empty where there are no steps.

    >>> seconds_of(Cell("zero_shot", "paper", 16, 1, "dtd"), [80] * 10, {})
    3.6
    """
    fixed = UNTRAINED + EACH * sum(min(cell.shots, count) for count in counts)
    if cell.method == RACE:
        return TRIED * len(shortlist(False)) * fixed
    if not rates:
        return fixed
    (few, low), (many, high) = sorted((int(count), rate) for count, rate in rates.items())
    slope = max(0.0, (high - low) / (many - few))
    return fixed + steps_of(cell, counts) * max(low + slope * (len(counts) - few), 0.0)


class Leaderboard:
    """The runs, what is finished of them, and what they are carried out with."""

    def __init__(
        self, data: Path, methods: Sequence[str], parts: Sequence[int], again: Sequence[str] = (), file: Path = RESULTS
    ) -> None:
        found = cells(methods)
        self.results, self.parts = file, [found[number - 1] for number in parts]
        self.tasks = {name: read_task(data / name, cache=cache_folder()) for name in SETS}
        images = {name: Counter(item.label for item in task.train) for name, task in self.tasks.items()}
        self.counts = {name: [own[label] for label in sorted(own)] for name, own in images.items()}
        self.backbone: Backbone = load_backbone("mini")
        self.store: Store | MemoryStore = open_store()
        if again:
            _forget(file, again)
        self.done: dict[Cell, float] = {}
        for run in read_runs(file).values():
            (method, recipe, shots), name, seed = key_of(run)
            self.done[Cell(method, recipe, shots, seed, name)] = float(run["seconds"])
        self.rates: dict[str, dict[str, float]] = _read(RATES) or {}

    def measure(self) -> None:
        """Time the steps of the methods whose steps are not timed yet."""
        for name in dict.fromkeys(cell.method for part in self.parts for cell in part):
            if name == RACE or name in self.rates or find(name)().training_recipe() is None:
                continue
            rates = {}
            for data in MEASURED:
                task = self.tasks[data]
                self._fit(name, task, FEW)  # encodes what is kept
                short, more, taken = self._fit(name, task, FEW), MORE, 0.0
                while taken < 1 and more < MOST:
                    taken = self._fit(name, task, FEW + more) - short
                    rate, more = max(taken, 0.0) / more, 4 * more
                rates[str(len(task.classes.names))] = rate
            self.rates[name] = rates
            _write(RATES, self.rates)
            print(f"{name}: seconds of a step by classes: {rates}", flush=True)

    def _fit(self, name: str, task: Task, steps: int) -> float:
        began = time.perf_counter()
        fit(
            task, name, shots=16, recipe="paper", steps=steps, check=False, keep=True, backbone=self.backbone,
            store=self.store,
        )  # fmt: skip
        return time.perf_counter() - began

    def forecast(self, cell: Cell) -> float:
        """Seconds that a run will take: what another seed of it took, where one was run."""
        for seed in SEEDS:
            if (same := replace(cell, seed=seed)) in self.done:
                return self.done[same]
        return seconds_of(cell, self.counts[cell.data], self.rates.get(cell.method, {}))

    def left(self) -> Iterator[tuple[Cell, float]]:
        """The runs that are left, in order, with their forecasts; those that are too long too."""
        for part in self.parts:
            by_method: dict[str, list[tuple[Cell, float]]] = {}
            for cell in part:
                if cell not in self.done:
                    by_method.setdefault(cell.method, []).append((cell, self.forecast(cell)))
            for own in sorted(by_method.values(), key=lambda own: sum(seconds for _, seconds in own)):
                yield from sorted(own, key=lambda pair: pair[1])

    def say_forecast(self) -> None:
        """What is left, in total; and keep which runs are left out for their length, for the page."""
        left = list(self.left())
        runs = [seconds for _, seconds in left if seconds <= LONGEST]
        long = [f"{cell.variant} on {cell.data}, {cell.shots} shots" for cell, seconds in left if seconds > LONGEST]
        own = {name for part in self.parts for name in (cell.method for cell in part)}
        kept = [said for said in _read(LEFT_OUT) if said.partition("@")[0] not in own]
        _write(LEFT_OUT, sorted({*kept, *long}))
        untimed = sum(name not in self.rates and find(name)().training_recipe() is not None for name in own - {RACE})
        print(
            f"{len(self.done):,} runs are done in {sum(self.done.values()) / 3600:.1f} h; {len(runs):,} are left, "
            f"about {sum(runs) / 3600:.1f} h; {len(long):,} of more than {LONGEST / 60:.0f} min are left out"
            + (f"; steps of {untimed} methods are not timed yet, and count as none." if untimed else "."),
            flush=True,
        )

    def run(self, hours: float, minutes: float, longest: float) -> None:
        """Carry out what is left. hours: of all runs, those of earlier days too; minutes: of this call.

        longest: seconds of a run at most, by its forecast.
        """
        began, tried = time.perf_counter(), set[Cell]()
        while True:
            spent = sum(self.done.values())
            waiting = ((cell, s) for cell, s in self.left() if cell not in tried and s <= longest)
            cell, seconds = next(waiting, (None, 0.0))
            if cell is None or spent + seconds > 3600 * hours or time.perf_counter() - began > 60 * minutes:
                break
            tried.add(cell)
            said = f"{cell.variant}, {cell.shots} shots, seed {cell.seed}, {cell.data}"
            print(f"{said}: about {seconds:.0f} s", flush=True)
            try:
                self._encode(cell)
                compare(
                    self.tasks[cell.data], [cell.variant], [cell.shots], [cell.seed], backbone=self.backbone,
                    store=self.store, report=partial(self._note, cell),
                )  # fmt: skip
            except ShotfitError as error:
                print(f"  {error}", flush=True)

    def _encode(self, cell: Cell) -> None:
        """Encode the images that a fit looks at, so that its seconds are its own, whichever method comes first."""
        items = self.tasks[cell.data].support(cell.shots, cell.seed).train
        for views in (0, VIEWS):
            Frozen(self.backbone, self.store).image(ImagePool(items, views).all())

    def _note(self, cell: Cell, run: Mapping[str, Any]) -> None:
        self.done[cell] = float(run["seconds"])
        append_run(self.results, {name: run[name] for name in KEPT if name in run} | {"data": [cell.data]})
        scores = run["scores"][cell.data]
        said = run["refusal"] if scores is None else f"{100 * scores['accuracy']:.1f} %"
        print(f"  {said}, {run['seconds']:.1f} s", flush=True)


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def _write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _forget(results: Path, methods: Sequence[str]) -> None:
    """Take the runs of some methods out of the file."""
    lines = [run for run in read_runs(results).values() if key_of(run)[0][0] not in methods]
    results.write_text("".join(json.dumps(run, ensure_ascii=False) + "\n" for run in lines), encoding="utf-8")


def main() -> None:
    """Do what the arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.leaderboard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=("run", "forecast", "page"), default="run")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder of the data sets")
    parser.add_argument("--hours", type=float, default=20.0, help="of all runs together (default 20)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of this call (default: no end)")
    parser.add_argument("--longest", type=float, default=LONGEST, help=f"seconds of a run at most (default {LONGEST})")
    parser.add_argument("--methods", default=",".join(METHODS), help="names between commas")
    parser.add_argument("--parts", default="1,2,3,4,5", help="numbers between commas, of the parts above")
    parser.add_argument("--again", default="", help="methods whose runs are done anew")
    given = parser.parse_args()
    if given.what == "page":
        leaderboard_page.write()
        return
    again = as_list("--again", given.again) if given.again else []
    parts = as_numbers("--parts", given.parts)
    board = Leaderboard(given.data, as_list("--methods", given.methods), parts, again)
    if given.what == "run":
        board.measure()
    board.say_forecast()
    if given.what == "run":
        board.run(given.hours, given.minutes, given.longest)
        board.say_forecast()


if __name__ == "__main__":
    main()
