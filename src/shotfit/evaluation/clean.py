"""Which labels look wrong, and which pictures are there more than once, in a folder or whatever else `fit` takes.

    found = clean("photos/")
    found.suspects[0].picture, found.suspects[0].likely

Both `clean` and the page of a report show what `examined` finds. On arrays that are there already:
`confident.judge_labels` and `doubles.doubles_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shotfit.calls import checked
from shotfit.checkpoints.weights import load_in
from shotfit.data.given import Data, Labels, tasks_of
from shotfit.data.label_sets import check_alone
from shotfit.data.listing import How
from shotfit.data.pictures import Picture
from shotfit.data.reading import LEFT
from shotfit.data.tasks import Item, Task
from shotfit.engine.allocator import kept_memory
from shotfit.engine.frozen import Frozen
from shotfit.engine.store import MemoryStore, Store, cache_folder, open_store
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.confident import Judged, judge_labels
from shotfit.evaluation.doubles import NEAR, Doubles, doubles_of, nearest_of_class, unit
from shotfit.fitting.heldout import features_of_items
from shotfit.fitting.notebook import MOST, frame, html_table, thumbnail
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import Encoder
from shotfit.towers.precision import Precision

if TYPE_CHECKING:
    import pandas

__all__ = ["COLUMNS", "Cleaned", "DoublePictures", "Examined", "Suspect", "clean", "cleaned", "examined"]

COLUMNS = ("problem", "rank", "image", "part", "label", "likely", "score", "nearest")
"""Of a row of what `clean` found."""
SHOWN = 3
"""So many pictures of the likely label are named beside a suspect."""


@dataclass(frozen=True)
class Suspect:
    """An image whose label looks wrong. part: train, val or test. label: its own; likely: the most probable other one.

    score: how probable `likely` is of the two, from 0 to 1. wrong: whether confident learning calls the label wrong.
    nearest: the pictures of the likely class that are most like it, with their cosines.
    """

    rank: int
    picture: Picture
    part: str
    label: str
    likely: str
    score: float
    wrong: bool
    nearest: tuple[tuple[Picture, float], ...]

    def like_it(self) -> list[str]:
        """The names of the nearest pictures."""
        return [str(picture) for picture, _ in self.nearest]


@dataclass(frozen=True)
class DoublePictures:
    """Pictures that are the same (by content) or nearly so. cosine: of the first one and the least like it."""

    pictures: tuple[Picture, ...]
    labels: tuple[str, ...]
    parts: tuple[str, ...]
    same: bool
    cosine: float

    @property
    def problem(self) -> str:
        """What it is called: same picture or near double, and what makes it worse."""
        worse = [word for word, values in (("labels", self.labels), ("parts", self.parts)) if len(set(values)) > 1]
        where = f", in several {' and '.join(worse)}" if worse else ""
        return f"{'same picture' if self.same else 'near double'}{where}"


@dataclass(frozen=True)
class Cleaned:
    """What `clean` found. Nothing was moved or changed.

    images, classes: how many were looked at. wrong: labels that confident learning calls wrong, of all images. alone:
    images that could not be judged, each alone in its class. suspects, doubles: the worst first, as many as were asked
    for. groups: of doubles, in all. left_out: why images could not be read.
    """

    images: int
    classes: int
    wrong: int
    alone: int
    groups: int
    suspects: tuple[Suspect, ...]
    doubles: tuple[DoublePictures, ...]
    left_out: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each suspect, then one for each group of doubles, in which `nearest` names the other pictures."""
        found: list[dict[str, Any]] = []
        for one in self.suspects:
            found.append(
                _row("label", one.rank, one.picture, one.part, one.label, one.likely, one.score, one.like_it())
            )
        for rank, two in enumerate(self.doubles, start=1):
            label = "|".join(dict.fromkeys(two.labels))
            others = [str(picture) for picture in two.pictures[1:]]
            part = "|".join(dict.fromkeys(two.parts))
            found.append(_row(two.problem, rank, two.pictures[0], part, label, None, two.cosine, others))
        return found

    def to_frame(self) -> pandas.DataFrame:
        """The rows: problem, rank, image, part, label, likely, score, nearest.

        Raises UsageError where pandas is not installed.
        """
        return frame(self.rows())

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        counts = {"images": self.images, "classes": self.classes, "wrong": self.wrong, "alone": self.alone}
        suspects = [
            {
                "rank": one.rank, "image": str(one.picture), "part": one.part, "label": one.label,
                "likely": one.likely, "score": round(one.score, 6), "wrong": one.wrong, "nearest": one.like_it(),
            }
            for one in self.suspects
        ]  # fmt: skip
        doubles = [
            {
                "images": list(map(str, one.pictures)), "labels": list(one.labels), "parts": list(one.parts),
                "same": one.same, "cosine": one.cosine,
            }
            for one in self.doubles
        ]  # fmt: skip
        found = {"suspects": suspects, "groups_of_doubles": self.groups, "doubles": doubles}
        return counts | found | {"left_out": list(self.left_out)}

    def _repr_html_(self) -> str:
        rows = [row | {"nearest": ", ".join(row["nearest"])} for row in self.rows()]
        pictures = [*(one.picture for one in self.suspects), *(one.pictures[0] for one in self.doubles)]
        title = f"{self.images:,} images: {self.wrong:,} labels look wrong, {self.groups:,} groups of doubles"
        return html_table(rows, [thumbnail(picture) for picture in pictures[:MOST]], title)


@checked
@kept_memory()
def clean(
    data: Data,
    labels: Labels | None = None,
    *,
    count: int | None = 20,
    backbone: str | Backbone | Encoder = "mini",
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    near: float = NEAR,
    seed: int = 1,
    lenient: bool = False,
    store: Store | MemoryStore | None = None,
    precision: Precision = "auto",
    device: str = "auto",
) -> Cleaned:
    """Look for wrong labels and for doubles in the images of a task, all its parts; data as `fit` takes it.

    count: so many suspects and groups of doubles are given; None: every image, ranked, and every group. near: the
    cosine of features from which two pictures count as nearly the same. An image that cannot be read is named in
    `left_out`. The rest is as in `fit`.

    Raises UsageError for a count below 1, and several tasks; ShotfitError for data that cannot be read.

    Example (needs images):
        for one in clean("photos/").suspects:
            print(one.picture, one.label, one.likely, one.like_it())
    """
    told, how = list[str](), How(None, path_column, label_column, group_column)
    tasks = tasks_of(
        data, labels, how, cache=cache_folder(), skip_broken=True, lenient=lenient, to_fit=False, warned=told.append
    )
    if len(tasks) != 1:
        raise UsageError(f"{len(tasks)} tasks were given: clean one at a time.")
    left_out = tuple(one.removeprefix(LEFT) for one in told if one.startswith(LEFT))
    frozen = Frozen(load_in(backbone, precision, device), open_store() if store is None else store)
    return cleaned(frozen, tasks[0], count, near, seed, left_out)


def cleaned(
    frozen: Frozen, task: Task, count: int | None, near: float = NEAR, seed: int = 1, left_out: Sequence[str] = ()
) -> Cleaned:
    """The same of a task that was read; of a sealed one, without its test part."""
    check_alone([task], "clean")
    if count is not None and count < 1:
        raise UsageError(f"count is {count}; expected 1 or more, or None for all.")
    found = examined(frozen, task, near, seed)
    order = found.judged.order[found.judged.score[found.judged.order] >= 0]
    alone = len(found.items) - len(order)
    wrong, groups = int(found.judged.wrong.sum()), len(found.doubles)
    suspects, doubles = found.suspects(order[:count]), found.double_pictures(count)
    return Cleaned(len(found.items), len(found.names), wrong, alone, groups, suspects, doubles, tuple(left_out))


@dataclass(frozen=True, eq=False)
class Examined:
    """The n pictures of a task, judged; what is shown of them is chosen by whoever shows it.

    items, parts: [n], in the order of the task's parts: train, val, test. names: of the classes. features: [n, embed].
    """

    items: tuple[Item, ...]
    parts: tuple[str, ...]
    names: tuple[str, ...]
    features: NDArray[Any]
    judged: Judged
    doubles: tuple[Doubles, ...]

    def wrong(self) -> NDArray[np.intp]:
        """The rows of labels that confident learning calls wrong, the most suspicious first."""
        return self.judged.order[self.judged.wrong[self.judged.order]]

    def suspects(self, rows: NDArray[np.intp]) -> tuple[Suspect, ...]:
        """What is known of the labels of some rows. rank: of all n."""
        labels, likely = np.array([item.label for item in self.items]), self.judged.likely[rows]
        ranks = np.empty(len(labels), dtype=np.intp)
        ranks[self.judged.order] = np.arange(1, len(labels) + 1)
        near = nearest_of_class(self.features, rows, likely, labels, SHOWN)
        return tuple(
            Suspect(
                int(ranks[row]), self.items[row].picture, self.parts[row], self.names[labels[row]], self.names[other],
                float(self.judged.score[row]), bool(self.judged.wrong[row]),
                tuple((self.items[place].picture, cosine) for place, cosine in alike),
            )
            for row, other, alike in zip(rows.tolist(), likely.tolist(), near, strict=True)
        )  # fmt: skip

    def double_pictures(self, count: int | None) -> tuple[DoublePictures, ...]:
        """The worst groups of doubles; None: all."""
        return tuple(
            DoublePictures(
                tuple(self.items[row].picture for row in one.rows),
                tuple(self.names[self.items[row].label] for row in one.rows),
                tuple(self.parts[row] for row in one.rows),
                one.same,
                one.cosine,
            )
            for one in self.doubles[:count]
        )


def examined(frozen: Frozen, task: Task, near: float = NEAR, seed: int = 1) -> Examined:
    """Judge every label of a task by its other pictures, and find doubles; of a sealed one, without its test part.

    Raises UsageError for a cosine out of range; ShotfitError for a task without an image.
    """
    if not 0 < near <= 1:
        raise UsageError(f"near is {near}; expected a cosine above 0, up to 1.")
    test: Sequence[Item] = () if task.is_sealed else task.test
    of_part = {"train": task.train, "val": task.val, "test": test}
    items = tuple(item for part in of_part.values() for item in part)
    if not items:
        raise ShotfitError(f"{task.name} has no image that can be read: name a folder or manifest that has some.")
    parts = tuple(name for name, part in of_part.items() for _ in part)
    labels, classes = [item.label for item in items], task.classes.names
    features = unit(features_of_items(frozen, items).numpy())
    doubles = doubles_of(features, [item.digest for item in items], labels, parts, near)
    known = [one.rows for one in doubles] if near == NEAR else None  # whatever `near` is, labels are judged alike
    judged = judge_labels(features, labels, len(classes), [item.group for item in items], seed, known)
    return Examined(items, parts, classes, features, judged, tuple(doubles))


def _row(
    problem: str, rank: int, picture: Picture, part: str, label: str, likely: str | None, score: float,
    nearest: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    return {
        "problem": problem, "rank": rank, "image": str(picture), "part": part, "label": label, "likely": likely,
        "score": round(score, 6), "nearest": list(nearest),
    }  # fmt: skip
