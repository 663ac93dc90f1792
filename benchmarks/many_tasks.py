"""What a step of SoftCPT takes by the number of tasks, on a text tower of ViT-B/16's size with random weights.

    python -m benchmarks.many_tasks                          10, 100, 1,000 and 5,000 tasks of 20 classes, batch 32
    python -m benchmarks.many_tasks --tasks 100 1000 --steps 5 --size tiny

Each number of tasks has a process of its own, so that its peak of memory is its own; the whole process counts, with
torch and the tower. Image features are random numbers, as if they had been read from the store. The processes take
turns, a step each, so that what else runs on the machine meets all of them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import machine
from benchmarks.names import CALTECH101
from benchmarks.sizes import FULL, SIZES, Size
from shotfit.data.tasks import ClassList
from shotfit.engine.allocator import kept_memory
from shotfit.engine.frozen import Frozen, Images
from shotfit.fitting.epochs import Epochs
from shotfit.fitting.train import Stepper
from shotfit.methods.softcpt import SoftCPT

__all__ = ["Steps"]

CLASSES, MOST = 20, 8  # classes of a task, tasks of a batch
COUNTS = (10, 100, 1000, 5000)


class OfFeatures(SoftCPT):
    """SoftCPT on images that are features [n, embed] already."""

    def image_features(self, images: Images) -> Tensor:
        """[images, embed]."""
        return images.rows


class Steps:
    """Training steps on so many tasks."""

    def __init__(self, size: Size, tasks: int) -> None:
        words = CALTECH101
        lists = tuple(
            ClassList(
                f"{words[task % len(words)]} {task}",
                tuple(words[(task * 7 + place * 13) % len(words)] for place in range(CLASSES)),
            )
            for task in range(tasks)
        )
        self.frozen = Frozen(size.backbone(image_tower=False))
        self.method = OfFeatures(tasks_per_batch=MOST)
        began = time.perf_counter()
        self.method.attach(self.frozen, lists)
        torch.manual_seed(1)
        self.method.build(self.frozen, lists)
        self.prepared = time.perf_counter() - began
        recipe = self.method.training_recipe()
        self.labels = torch.arange(tasks * CLASSES)  # an image a class
        self.generator = torch.Generator().manual_seed(1)
        epochs = Epochs(recipe, self.labels, self.method.sizes)
        self.stepper = Stepper(self.method, recipe, 50, epochs.steps)
        self.batches = epochs.drawn(self.generator)

    def step(self) -> dict[str, float]:
        """Seconds of the next step, and the tasks and images of its batch."""
        chosen = self.batches[self.stepper.taken % len(self.batches)]
        features = torch.randn(len(chosen), self.frozen.embed, generator=self.generator)
        shown = len({int(label) // CLASSES for label in self.labels[chosen]})
        began, used = time.perf_counter(), time.process_time()
        self.stepper(Images.of(features), self.labels[chosen])
        taken, worked = time.perf_counter() - began, time.process_time() - used
        return {"seconds": taken, "processor": worked, "tasks": shown, "images": len(chosen)}


def _serve(size: Size, tasks: int) -> None:
    """A process of one number of tasks: a step for each line that it reads."""
    with kept_memory():
        steps = Steps(size, tasks)
        print(json.dumps({"prepared": steps.prepared}), flush=True)
        for _ in sys.stdin:
            found = steps.step()
            found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps(found), flush=True)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.many_tasks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--steps", type=int, default=9, help="timed steps of each, after two that warm up")
    parser.add_argument("--size", choices=SIZES, default=FULL.name)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve(SIZES[given.size], given.serve)
        return
    running = {tasks: Process(given.size, tasks) for tasks in given.tasks}
    for number in range(given.steps + 2):
        for process in running.values():
            process.step(kept=number >= 2)
    print("tasks   classes   prepared s   step s (median, range)     processor s   tasks shown   peak MB")
    medians, worked = dict[int, float](), dict[int, float]()
    for tasks, process in running.items():
        process.end()
        rows, times = process.rows, [row["seconds"] for row in process.rows]
        medians[tasks], worked[tasks] = median(times), median(row["processor"] for row in rows)
        print(
            f"{tasks:5,}   {tasks * CLASSES:7,}   {process.prepared:10.2f}   {medians[tasks]:6.3f} "
            f"({min(times):.3f} to {max(times):.3f})   {worked[tasks]:11.3f}   "
            f"{sum(row['tasks'] for row in rows) / len(rows):11.1f}   {max(row['peak'] for row in rows) / 1e6:7,.0f}"
        )
    spread, of_work = (max(own.values()) / min(own.values()) for own in (medians, worked))
    print(f"slowest by fastest: {spread:.3f}, by processor time {of_work:.3f}; load {os.getloadavg()[0]:.1f}")
    print(json.dumps(machine()))


class Process:
    """The steps of one number of tasks, in a process that waits for its turn."""

    def __init__(self, size: str, tasks: int) -> None:
        command = [sys.executable, "-m", "benchmarks.many_tasks", "--size", size, "--serve", str(tasks)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.prepared: float = self._said()["prepared"]
        self.rows: list[dict[str, Any]] = []

    def step(self, kept: bool) -> None:
        """One step; what it took is kept, or it was to warm up."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        said = self._said()
        self.rows += [said] if kept else []

    def end(self) -> None:
        """No more steps."""
        self.process.communicate()

    def _said(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said:
            raise SystemExit("a process ended before its time")
        found: dict[str, Any] = json.loads(said)
        return found


if __name__ == "__main__":
    main()
