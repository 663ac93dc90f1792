"""The pointing game: does the place where a model sees most of a class lie in a box of that class?

    found = [*points(model, items)]             # items: boxes of pictures, each with its label
    for row in summary(found, model.class_names): row.hits, row.chance

Every class that has a box in a picture is asked for once in it (Zhang et al., "Top-down Neural Attention by Excitation
Backprop", ECCV 2016, arXiv 1608.00507; here without slack around the box). A point that is drawn evenly from the
picture hits with the share of the picture that the boxes of the class cover.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shotfit.data.pictures import Crop, Picture
from shotfit.data.tasks import Item
from shotfit.errors import UsageError
from shotfit.fitting.maps import Map, maps_in

if TYPE_CHECKING:
    from shotfit.fitting.model import Model

__all__ = ["ALL", "Point", "Points", "pointed", "points", "summary"]

ALL = "all"
"""What the row of all classes is called."""


@dataclass(frozen=True)
class Point:
    """A class that was asked for in a picture, where most is seen of it (x and y in stored pixels), whether that is in
    a box of the class, and the share of the picture that its boxes cover.
    """

    map: Map
    x: float
    y: float
    hit: bool
    share: float


@dataclass(frozen=True)
class Points:
    """Of a class, or of ALL: how often it was asked for, the share of hits, and the mean share of the boxes."""

    label: str
    asked: int
    hits: float
    chance: float


def points(model: Model, items: Sequence[Item], names: Sequence[str], lenient: bool = False) -> Iterator[Point]:
    """A point for each class that has a box in a picture, picture by picture.

    names: of the items' labels, which the model predicts.

    Raises UsageError where an item is no box, or the model does not predict a class; errors as `maps`.
    """
    boxes: dict[Picture, dict[str, list[Crop]]] = {}
    for item in items:
        if item.picture.crop is None:
            raise UsageError(
                f"{item.picture} is no box of a picture: points are judged by sets with boxes, such as VOC's or COCO's."
            )
        boxes.setdefault(item.picture.whole, {}).setdefault(names[item.label], []).append(item.picture.crop)
    for picture, of_classes in boxes.items():
        for found in maps_in(model, picture, [*of_classes], lenient=lenient):
            yield pointed(found, of_classes[found.label])


def pointed(found: Map, boxes: Sequence[Crop]) -> Point:
    """Where a map points to, judged by the boxes of its class."""
    x, y = found.point
    inside = np.zeros((found.height, found.width), dtype=bool)
    for box in boxes:
        inside[box.top : box.top + box.height, box.left : box.left + box.width] = True
    return Point(found, x, y, bool(inside[int(y), int(x)]), float(inside.mean()))


def summary(found: Iterable[Point], names: Sequence[str]) -> list[Points]:
    """A row for each of these classes that was asked for, and the row of all, in which every question counts once."""
    by_class: dict[str, list[Point]] = {}
    for point in found:
        by_class.setdefault(point.map.label, []).append(point)
    rows = [_row(name, by_class[name]) for name in names if name in by_class]
    return [*rows, _row(ALL, [point for own in by_class.values() for point in own])]


def _row(label: str, own: Sequence[Point]) -> Points:
    hits, chance = (float(np.mean([getattr(point, name) for point in own])) for name in ("hit", "share"))
    return Points(label, len(own), hits, chance)
