"""What each layer of both towers knows: which data set a sample is from, and how far the towers are from each other.

    found = layers(frozen, tasks)
    found.start                          # the block from which on `mma` would adapt

After Yang et al., "MMA: Multi-Modal Adapter for Vision-Language Models", CVPR 2024, which reports that higher layers
tell data sets apart and lower ones less, that texts tell them better than images, and that the towers are far from each
other, most of all in lower layers. The measures are ours: of the paper, the abstract alone was at hand.

    told_i = share of held-out samples whose data set is recognised after step i, mean over data sets
    gap_i  = 1 - CKA of the classes' mean images and of their prompts after step i

A sample of the image tower is a training image, one of the text tower a class's name in one template for all data sets.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from shotfit.data.tasks import DEFAULT_TEMPLATE, Item, Task
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.layers import image_levels, text_levels
from shotfit.errors import ShotfitError, UsageError
from shotfit.methods.levels import FEWEST, alignment, first_block, told_apart

__all__ = ["IMAGES", "SEEDS", "Finding", "Layers", "Level", "evenly_drawn", "layers", "spread"]

SEEDS = (1, 2, 3)
IMAGES = 512  # of a data set, at most


@dataclass(frozen=True)
class Level:
    """What stands at the same distance from the end of both towers.

    image, text: embedding, block N or features; empty where a tower is not so deep. image_told, text_told: shares from
    0 to 1, one a seed. gap: None where a tower is not so deep.
    """

    image: str
    text: str
    image_told: tuple[float, ...]
    text_told: tuple[float, ...]
    gap: float | None

    def as_json(self) -> dict[str, Any]:
        """With mean and standard deviation over the seeds."""
        sides: dict[str, Any] = {
            side: {"step": step, "told": told, "mean": fmean(told), "deviation": spread(told)} if told else None
            for side, step, told in (("image", self.image, self.image_told), ("text", self.text, self.text_told))
        }
        return sides | {"gap": self.gap}


@dataclass(frozen=True)
class Finding:
    """A claim of the paper: that one figure is above another, by more than their deviations over the seeds."""

    claim: str
    here: float
    against: float
    deviations: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether it is so here."""
        return self.here - self.against > self.deviations


@dataclass(frozen=True)
class Layers:
    """The levels from below; how many samples of which data sets, and the block that follows.

    samples: data set, its training images and its classes that were looked at.
    """

    backbone: str
    samples: tuple[tuple[str, int, int], ...]
    seeds: tuple[int, ...]
    levels: tuple[Level, ...]
    start: int

    @property
    def chance(self) -> float:
        """What guessing tells."""
        return 1 / len(self.samples)

    def findings(self) -> tuple[Finding, ...]:
        """What the paper's figure says, and what is so here, by the first and the last block of each tower."""
        blocks = [level for level in self.levels if "block" in level.image or "block" in level.text]
        image = [level.image_told for level in blocks if "block" in level.image]
        text = [level.text_told for level in blocks if "block" in level.text]
        gaps = [level.gap for level in blocks if level.gap is not None and "block" in level.image and level.text]
        return (
            *(_rises(tower, told[0], told[-1]) for tower, told in (("image", image), ("text", text))),
            Finding("texts tell data sets better than images", fmean(map(fmean, text)), fmean(map(fmean, image))),
            *(Finding("the towers are farther apart in lower blocks", gaps[0], gaps[-1]) for _ in gaps[:1]),
        )

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        samples = [{"name": name, "images": images, "classes": classes} for name, images, classes in self.samples]
        told = {"backbone": self.backbone, "data_sets": samples, "seeds": self.seeds, "chance": self.chance}
        return told | {
            "levels": [level.as_json() for level in self.levels],
            "start": self.start,
            "findings": [asdict(one) | {"holds": one.holds} for one in self.findings()],
        }


def spread(told: Sequence[float]) -> float | None:
    """The standard deviation over seeds; None of one."""
    return stdev(told) if len(told) > 1 else None


def _rises(tower: str, first: Sequence[float], last: Sequence[float]) -> Finding:
    deviations = (spread(first) or 0.0) + (spread(last) or 0.0)
    return Finding(f"higher blocks of the {tower} tower tell data sets better", fmean(last), fmean(first), deviations)


def layers(frozen: Frozen, tasks: Sequence[Task], *, seeds: Sequence[int] = SEEDS, images: int = IMAGES) -> Layers:
    """Run each tower once over training images and class names of some data sets, and judge every level of it.

    seeds: of the halves that samples are learned from and judged on. images: of a data set, at most; they are drawn
    evenly over its classes, and are the same for every seed.

    Raises UsageError for fewer than two data sets and for a closed backbone; ShotfitError for a data set of one class
    or image.
    """
    if len(tasks) < 2:
        raise UsageError("One data set was named, and which of several a sample is from is asked: name two or more.")
    for task in tasks:
        if len(task.train) < 2 or len(task.classes.names) < 2:
            raise ShotfitError(f"{task.name} has a single training image or class; two of each are needed.")
    drawn = [evenly_drawn(task.train, images) for task in tasks]
    items = [item for own in drawn for item in own]
    of_items = [number for number, own in enumerate(drawn) for _ in own]
    names = [name for task in tasks for name in task.classes.readable]
    of_names = [number for number, task in enumerate(tasks) for _ in task.classes.names]
    of_images = image_levels(frozen, ImagePool(items))
    of_texts = text_levels(frozen, frozen.encode([DEFAULT_TEMPLATE.replace("{}", name) for name in names]))
    groups = [f"{number} {item.group}" if item.group else "" for number, item in zip(of_items, items, strict=True)]
    firsts = [sum(len(task.classes.names) for task in tasks[:number]) for number in range(len(tasks))]
    classes = torch.tensor([firsts[number] + item.label for number, item in zip(of_items, items, strict=True)])
    deepest, levels = max(len(of_images), len(of_texts)), list[Level]()
    for place in range(deepest):
        image, text = (place - deepest + len(steps) for steps in (of_images, of_texts))
        levels.append(
            Level(
                _named(image, len(of_images)),
                _named(text, len(of_texts)),
                tuple(told_apart(of_images[image], of_items, seed, groups) for seed in seeds if image >= 0),
                tuple(told_apart(of_texts[text], of_names, seed) for seed in seeds if text >= 0),
                _gap(of_images[image], classes, of_texts[text]) if min(image, text) >= 0 else None,
            )
        )
    if any(isnan(told) for level in levels for told in (*level.image_told, *level.text_told)):
        raise ShotfitError("No image can be held out: those of each data set are of one group.")
    samples = [(task.name, len(own), len(task.classes.names)) for task, own in zip(tasks, drawn, strict=True)]
    return Layers(frozen.backbone.name, tuple(samples), tuple(seeds), tuple(levels), _start(levels))


def _start(levels: Sequence[Level]) -> int:
    """The block of the text tower from which on both towers together tell more (`first_block`)."""
    sides = [(level.image_told, level.text_told) for level in levels[:-1] if level.text_told]
    return first_block([fmean([fmean(told) for told in both if told]) for both in sides])


def evenly_drawn(items: Sequence[Item], most: int) -> list[Item]:
    """So many items, evenly over the classes."""
    shuffled = random.Random(0).sample(items, len(items))
    taken, ranks = dict[int, int](), list[tuple[int, int]]()
    for place, item in enumerate(shuffled):
        ranks.append((taken.setdefault(item.label, 0), place))
        taken[item.label] += 1
    return [shuffled[place] for _, place in sorted(ranks)[:most]]


def _named(step: int, steps: int) -> str:
    if step < 0:
        return ""
    return "embedding" if step == 0 else "features" if step == steps - 1 else f"block {step}"


def _gap(images: Tensor, classes: Tensor, texts: Tensor) -> float | None:
    """1 - CKA of the mean image [classes, width] and the text [classes, width] of each class that has images."""
    there = classes.unique()
    if len(there) < FEWEST:
        return None
    means = torch.stack([images[classes == one].mean(dim=0) for one in there])
    return 1 - alignment(means, texts[there])
