"""A function of the user's in the place of a rule of preprocessing, for closed encoders (`closed.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shotfit.towers.config import Preprocessing

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["OwnPreprocessing", "own_preprocessing"]


@dataclass(frozen=True)
class OwnPreprocessing(Preprocessing):
    """`function` makes pixels [3, height, width] of a picture. `size`: the longer of the two.

    The fields of a rule say what stands in front of it: the whole picture in RGB, of which a training view is cut out
    and resized to a square.
    """

    function: Callable[[Image.Image], Tensor] = field(kw_only=True)

    @property
    def reducible(self) -> bool:
        """A function may look at any pixel, so that pictures are decoded in full."""
        return False

    def as_json(self) -> dict[str, Any]:
        """A function has no form in JSON; the backbone's fingerprint covers what it does."""
        return {"size": self.size, "function": "the encoder's own"}

    def pixels(self, image: Image.Image) -> Tensor:
        """[3, height, width] of a picture in RGB."""
        return self.function(image)


def own_preprocessing(size: int, function: Callable[[Image.Image], Tensor]) -> OwnPreprocessing:
    """The rule of a function that gives pixels of this size."""
    return OwnPreprocessing(
        size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic", "squash", "round", "first", "drop", function=function
    )
