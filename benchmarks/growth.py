"""How cost grows: with classes, shots, tasks and image size; as numbers and as a picture.

python -m benchmarks growth        writes benchmarks/growth.json and docs/growth.png
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.coop_steps import ours_of, reference_of, text_method
from benchmarks.fits import DRAWINGS, CoOpRuns
from benchmarks.measure import machine, seconds
from benchmarks.names import CALTECH101
from benchmarks.plot import draw
from benchmarks.reference import Clip, SoftCPT, pad
from benchmarks.sizes import FULL, Size
from benchmarks.steps import pair
from shotfit.checkpoints.weights import load_backbone
from shotfit.data.readers import read_task
from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen
from shotfit.engine.store import MemoryStore
from shotfit.fitting.fit import fit
from shotfit.methods import softcpt

__all__ = ["Curve", "growth"]

NUMBERS, PICTURE = Path("benchmarks/growth.json"), Path("docs/growth.png")
OURS, REFERENCE = "shotfit", "reference manner"
Action = Callable[[], object]


@dataclass(frozen=True)
class Curve:
    """Seconds by something that grows, for each manner: pairs of (x, seconds)."""

    title: str
    x: str
    series: dict[str, list[tuple[int, float]]]


def growth(repeats: int, size: Size = FULL) -> None:
    """Measure the four curves, and write the numbers and the picture."""
    curves = [by_classes(size, repeats), by_shots(repeats), by_tasks(size, repeats), by_image_size(size, repeats)]
    numbers: dict[str, Any] = {"machine": machine(), "curves": [vars(curve) for curve in curves]}
    NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    draw([vars(curve) for curve in curves]).save(PICTURE, optimize=True)


def _curve(
    title: str, x: str, places: Sequence[int], actions: Callable[[int], Mapping[str, Action]], repeats: int
) -> Curve:
    """Median seconds at each place, printed as they come; the first place's first run of each manner warms up."""
    series: dict[str, list[tuple[int, float]]] = {OURS: [], REFERENCE: []}
    for place in places:
        for manner, action in actions(place).items():
            if place == places[0]:
                action()
            took = median(seconds(action) for _ in range(repeats))
            print(f"{title}; {x}: {place}; {manner}: {took:.3g} s", flush=True)
            series[manner].append((place, took))
    return Curve(title, x, series)


def by_classes(size: Size, repeats: int, places: Sequence[int] = (10, 30, 100, 300, 1000)) -> Curve:
    """CoOp's text side; the reference up to 100 classes, whose memory grows as its time does."""

    def actions(classes: int) -> Mapping[str, Action]:
        method = text_method(size, classes)
        return {OURS: ours_of(method)} | ({REFERENCE: reference_of(method)} if classes <= 100 else {})

    return _curve("CoOp, a step's text side", "classes", places, actions, repeats)


def by_shots(repeats: int, places: Sequence[int] = (1, 2, 4, 8, 16), epochs: int = 10) -> Curve:
    """CoOp with `mini`, a whole fit of ten epochs, images read from their files."""
    runs = CoOpRuns(load_backbone("mini"), read_task(DRAWINGS))

    def actions(shots: int) -> dict[str, Action]:
        def ours() -> object:
            store = MemoryStore()
            return fit(
                runs.task, "coop", shots=shots, epochs=epochs, recipe="paper", backbone=runs.backbone, store=store,
                check=False,
            )  # fmt: skip

        return {OURS: ours, REFERENCE: lambda: runs.fit(shots, 1, epochs)}

    return _curve(f"CoOp with mini, fit of {epochs} epochs", "shots of 10 classes", places, actions, repeats)


def by_tasks(size: Size, repeats: int, places: Sequence[int] = (1, 2, 4, 8)) -> Curve:
    """SoftCPT's text side, 12 classes a task."""
    frozen = Frozen(size.backbone(image_tower=False))
    each = min(12, size.classes)

    def actions(tasks: int) -> dict[str, Action]:
        lists = tuple(ClassList(f"task {i}", CALTECH101[i * each : (i + 1) * each]) for i in range(tasks))
        method, clip = softcpt.SoftCPT(), Clip(frozen.backbone)
        method.attach(frozen, lists)
        torch.manual_seed(1)
        method.build(frozen, lists)
        ids = pad(method.task_texts.rows, clip), pad(method.texts.rows, clip)
        other = SoftCPT(clip, *ids, method.sizes, method.length, dict(method.named_parameters()))
        return {
            OURS: lambda: torch.autograd.backward(method.text_features().sum()),
            REFERENCE: lambda: torch.autograd.backward(other.text_features().sum()),
        }

    return _curve("SoftCPT, a step's text side", f"tasks of {each} classes", places, actions, repeats)


def by_image_size(size: Size, repeats: int, places: Sequence[int] = (96, 160, 224, 320)) -> Curve:
    """MMA's whole step, batch 16, 10 classes, stored views."""

    def actions(side: int) -> dict[str, Action]:
        own = replace(size, image_size=side, classes=min(10, size.classes))
        with tempfile.TemporaryDirectory() as folder:
            both = pair("mma", own, own.backbone(), Path(folder))
            for _ in both.images:  # reads the files
                both.step()
        return {OURS: both.step, REFERENCE: both.reference_step}

    return _curve("MMA, a whole step of 16 images", "image size in pixels", places, actions, repeats)
