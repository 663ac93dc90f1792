"""Boxes judged by the picture that they are of: are all of them right, and does it show the classes that it is said to?

items = list(task.test)
picture_scores(items, answers(model, items)).all_right
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shotfit.data.pictures import Picture
from shotfit.data.tasks import Item
from shotfit.evaluation.evaluate import Answers
from shotfit.evaluation.intervals import Interval, interval_by_group

__all__ = ["PictureScores", "picture_lines", "picture_scores"]


@dataclass(frozen=True)
class PictureScores:
    """What labels of boxes are worth a picture; fractions from 0 to 1 but the counts.

    box_accuracy: the share of boxes that are right. picture_accuracy: the mean over pictures of the share of their
    boxes that are right. all_right: the share of pictures whose boxes are all right. same_classes: the share of
    pictures in which exactly the classes are found that are there, wherever and however often. presence_precision,
    presence_recall: of the pairs of a picture and a class that are found, and that are there. The intervals are 95 %
    bootstrap intervals by picture: boxes of one picture are alike, and are drawn together.
    """

    pictures: int
    boxes: int
    box_accuracy: float
    picture_accuracy: float
    all_right: float
    same_classes: float
    presence_precision: float
    presence_recall: float
    box_accuracy_interval: Interval
    all_right_interval: Interval

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)


def picture_scores(items: Sequence[Item], said: Answers) -> PictureScores | None:
    """The scores of boxes by their pictures; None where no image is a box.

    items: the images that the answers are about, in their order; those that are no boxes do not count.
    """
    numbers: dict[Picture, int] = {}
    boxes = [place for place, item in enumerate(items) if item.picture.crop is not None]
    if not boxes:
        return None
    of = np.array([numbers.setdefault(items[place].picture.whole, len(numbers)) for place in boxes])
    right = said.right[boxes].astype(int)
    counts, sums = np.bincount(of), np.bincount(of, right).astype(int)
    there, found = set(zip(of, said.labels[boxes], strict=True)), set(zip(of, said.predicted[boxes], strict=True))
    differ = {number for number, _ in there ^ found}
    both = len(there & found)
    whole = (sums == counts).astype(int)
    return PictureScores(
        pictures=len(numbers),
        boxes=len(boxes),
        box_accuracy=float(right.mean()),
        picture_accuracy=float((sums / counts).mean()),
        all_right=float(whole.mean()),
        same_classes=1 - len(differ) / len(numbers),
        presence_precision=both / len(found),
        presence_recall=both / len(there),
        box_accuracy_interval=interval_by_group(sums, counts),
        all_right_interval=interval_by_group(whole, np.ones_like(whole)),
    )


def picture_lines(scores: PictureScores) -> list[str]:
    """The scores for people, a line each."""
    low, high = scores.box_accuracy_interval
    few, most = scores.all_right_interval
    return [
        f"a picture ({scores.pictures:,} pictures, {scores.boxes:,} boxes):",
        f"  box accuracy         {_percent(scores.box_accuracy)} ({_percent(low)} to {_percent(high)}, by picture)",
        f"  picture accuracy     {_percent(scores.picture_accuracy)}",
        f"  all boxes right      {_percent(scores.all_right)} ({_percent(few)} to {_percent(most)})",
        f"  same classes         {_percent(scores.same_classes)}",
        f"  class presence       precision {_percent(scores.presence_precision)}, recall "
        f"{_percent(scores.presence_recall)}",
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
