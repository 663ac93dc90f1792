"""What a model says of images, image by image, and how a notebook shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shotfit.data.pictures import Picture
from shotfit.fitting.notebook import MOST, frame, html_table, thumbnail

if TYPE_CHECKING:
    import pandas

__all__ = ["MapFiles", "Prediction", "Predictions", "Timeline"]


@dataclass(frozen=True, eq=False)
class Timeline:
    """What the frames of a clip say: names of the classes, and probabilities [frames, classes] of each frame.

    times: in seconds, None for the frames of a folder, which have none.
    """

    class_names: tuple[str, ...]
    times: tuple[float | None, ...]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class MapFiles:
    """The files of a class's map: drawn over the picture (PNG) and as an array (.npy).

    point: where most is seen of the class, x and y in stored pixels.
    """

    label: str
    overlay: str
    array: str
    point: tuple[float, float]


@dataclass(frozen=True)
class Prediction:
    """One image's best classes, best first, with their probabilities; none where there is an `error`.

    error: why there is no prediction, in a sentence. set: the classes of its prediction set; unknown: whether it
    belongs to no class. Both are None where nobody asked. transductive: it depends on the images that were predicted
    with it. picture: the image itself. timeline: of a clip, what its frames say. maps: what was drawn of it; None where
    nobody asked. several_labels: the classes do not exclude each other, and there may be none.
    """

    source: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str | None = None
    set: tuple[str, ...] | None = None
    unknown: bool | None = None
    picture: Picture | None = field(default=None, repr=False, compare=False)
    transductive: bool = False
    timeline: Timeline | None = field(default=None, repr=False, compare=False)
    maps: tuple[MapFiles, ...] | None = None
    several_labels: bool = False


class Predictions(list[Prediction]):
    """A list of predictions, which a notebook shows as a table with the images."""

    def to_frame(self) -> pandas.DataFrame:
        """A row for each class of each image: image, rank, label, probability, set, unknown, error.

        Where images were predicted together, `transductive` too.

        Raises UsageError where pandas is not installed.
        """
        return frame([row for prediction in self for row in _rows(prediction)])

    def _repr_html_(self) -> str:
        best = [next(_rows(prediction)) for prediction in self]
        plain, more = ("image", "label", "probability"), ("set", "unknown", "error", "transductive")
        kept = [*plain, *(name for name in more if any(row.get(name) is not None for row in best))]
        rows = [{name: row[name] for name in kept} for row in best]
        return html_table(rows, [thumbnail(prediction.picture) for prediction in self[:MOST]], f"{len(self):,} images")


def _rows(prediction: Prediction) -> Iterator[dict[str, Any]]:
    pairs = zip(prediction.labels, prediction.probabilities, strict=True)
    best: list[tuple[str | None, float | None]] = [*pairs] or [(None, None)]
    for rank, (label, probability) in enumerate(best, start=1):
        yield {
            "image": prediction.source,
            "rank": None if label is None else rank,
            "label": label,
            "probability": probability,
            "set": None if prediction.set is None else ", ".join(prediction.set),
            "unknown": prediction.unknown,
            "error": prediction.error,
        } | ({"transductive": True} if prediction.transductive else {})
