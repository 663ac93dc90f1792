"""The pictures that an export is measured on, and those that int8 is calibrated on: never the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from shotfit.data.clips import is_clip
from shotfit.data.finding import find_images
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.data.tasks import Task, plain_name
from shotfit.engine.store import cache_folder
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.model import Model

__all__ = ["Pictures", "generated_pictures", "given_pictures"]

MEASURED, CALIBRATED = 1000, 64  # at most; more change neither figure by what anybody would act on
GENERATED = 24

T = TypeVar("T")


@dataclass(frozen=True)
class Pictures:
    """measured: what is compared; labels: the class of each, -1 where it is not known; calibrating: others."""

    measured: tuple[Picture, ...]
    labels: tuple[int, ...]
    calibrating: tuple[Picture, ...]
    given: bool

    @property
    def labelled(self) -> int:
        """How many have a label."""
        return sum(label >= 0 for label in self.labels)


def generated_pictures(size: int) -> Pictures:
    """Pictures for an export without any: clouds of color of many scales, always the same."""
    random, found = np.random.default_rng(0), list[Picture]()
    for number in range(GENERATED):
        cells = 2 + number % 7 * 3
        low, high = sorted(random.integers(0, 256, 2).tolist())
        noise = random.integers(low, high + 1, (cells, cells, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)
        found.append(Picture.of(image, f"generated image {number}"))
    return Pictures(tuple(found), (-1,) * GENERATED, (), given=False)


def given_pictures(source: Path, model: Model) -> Pictures:
    """Of labelled data its test part is measured, and its other images calibrate; of a folder of pictures, every other.

    Labels are those of classes that the model has too.

    Raises ShotfitError for what holds no picture.
    """
    task = _task_of(source)
    if task is not None:
        numbers = {plain_name(name): number for number, name in enumerate(model.one_task().names)}
        own = [numbers.get(plain_name(name), -1) for name in task.classes.names]
        others = [*task.train, *task.val]
        measured, rest = (task.test, others) if task.test else _halves(others)
        measured = _spread(measured, MEASURED)
        labels = tuple(own[item.label] for item in measured)
        calibrating = tuple(item.picture for item in _spread(rest, CALIBRATED))
        return Pictures(tuple(item.picture for item in measured), labels, calibrating, given=True)
    found = [picture for picture in find_images([str(source)]).images if not is_clip(picture)]
    if not found:
        raise UsageError(f"{source} holds no picture to compare on.")
    apart, beside = _halves(found)
    apart = _spread(apart, MEASURED)
    return Pictures(tuple(apart), (-1,) * len(apart), tuple(_spread(beside, CALIBRATED)), given=True)


def _halves(items: list[T]) -> tuple[list[T], list[T]]:
    """Every other one, to measure, and the rest, to calibrate on; a single one is measured.

    >>> _halves(["a", "b", "c"]), _halves(["a"])
    ((['b'], ['a', 'c']), (['a'], []))
    """
    return (items[1::2], items[::2]) if len(items) > 1 else (items, [])


def _task_of(source: Path) -> Task | None:
    """Labelled data, or None for a folder of pictures without classes."""
    try:
        return read_task(source, cache=cache_folder())
    except ShotfitError:
        if not source.is_dir():
            raise
        return None


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many, from all over the list.

    >>> _spread("abcdefgh", 3)
    ['a', 'c', 'f']
    """
    return [items[number * len(items) // most] for number in range(most)] if len(items) > most else list(items)
