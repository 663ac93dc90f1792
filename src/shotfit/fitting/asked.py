"""What is asked of each image besides its best classes: a prediction set, and whether it belongs to any class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shotfit.errors import UsageError
from shotfit.fitting.conformal import check_share

__all__ = ["KNOWN_SHARE", "NOTHING_MORE", "Answer", "Asked", "HeldOutMeasures", "Verdict", "judge"]

KNOWN_SHARE = 0.95


@dataclass(frozen=True)
class Asked:
    """What is asked of each image.

    coverage: the share of images whose true class is to be in the set (None: no sets); per_class: of the images of each
    class. unknown: whether to mark images of no class; known_share: how many of the others may not be marked.
    """

    coverage: float | None = None
    per_class: bool = False
    unknown: bool = False
    known_share: float = KNOWN_SHARE

    def __post_init__(self) -> None:
        if self.coverage is not None:
            check_share("--coverage", self.coverage)
        elif self.per_class:
            raise UsageError("--per-class is about prediction sets: add --coverage, such as --coverage 0.9.")
        check_share("--known-share", self.known_share)


NOTHING_MORE = Asked()


@dataclass(frozen=True)
class Verdict:
    """The answers for one image; None where it was not asked."""

    set: tuple[str, ...] | None = None
    unknown: bool | None = None


T = TypeVar("T")
Answer: TypeAlias = Callable[[ArrayLike, Callable[[], Any]], list[T]]
"""What answers, image by image, for probabilities [images, classes] and what gives features [images, embed]."""


class HeldOutMeasures(Protocol):
    """What held-out images say, with the errors of `trust.Trust`; the light runtime has one without torch."""

    def thresholds(self, names: Sequence[str], coverage: float, per_class: bool = False) -> NDArray[Any]:
        """The largest 1 - p of a class in a prediction set, [classes]."""

    def strangest(self, share: float) -> float:
        """The strangeness above which an image is unknown."""

    @property
    def strangeness(self) -> Callable[[Any, Any], ArrayLike]:
        """The measure: [images] of probabilities [images, classes] and features [images, embed]."""


def judge(
    asked: Asked, trust: HeldOutMeasures | None, record: Mapping[str, Any], names: Sequence[str]
) -> Answer[Verdict]:
    """What answers for probabilities [images, classes] and what gives the features [images, embed] of these images.

    Raises UsageError where the model cannot answer, in a sentence that says why.
    """
    option = "--coverage" if asked.coverage is not None else "--unknown"
    if trust is None and (asked.coverage is not None or asked.unknown):
        raise UsageError(f"{option} needs images that were held out while the model was fitted, and {_why(record)}.")
    bounds = None if trust is None or asked.coverage is None else (trust, trust.thresholds(names, *_of(asked)))
    strangest = None if trust is None or not asked.unknown else (trust, trust.strangest(asked.known_share))

    def answers(probabilities: ArrayLike, features: Callable[[], Any]) -> list[Verdict]:
        rows = np.asarray(probabilities)  # [images, classes]
        sets: list[tuple[str, ...] | None] = [None] * len(rows)
        unknown: list[bool | None] = [None] * len(rows)
        if bounds is not None:
            order = (-rows).argsort(axis=1, kind="stable").tolist()
            inside = ((1 - rows) <= bounds[1]).tolist()
            sets = [tuple(names[k] for k in best if holds[k]) for best, holds in zip(order, inside, strict=True)]
        if strangest is not None:
            found = strangest[0].strangeness(probabilities, features())
            unknown = (np.asarray(found) > strangest[1]).tolist()
        return [Verdict(own, strange) for own, strange in zip(sets, unknown, strict=True)]

    return answers


def _of(asked: Asked) -> tuple[float, bool]:
    assert asked.coverage is not None
    return asked.coverage, asked.per_class


def _why(record: Mapping[str, Any]) -> str:
    if record.get("format") == 1:
        return "this model of an older format has kept none: fit it again"
    return "this one has none (too few shots, or the check was off): fit with two or more images of each class"
