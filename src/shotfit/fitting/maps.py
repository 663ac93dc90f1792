"""Where in a picture a model sees a class: what it would say if more of the picture were like one place of it.

    for found in maps(model, ["street.jpg"], classes=["car"]):
        found.point                     # where most is seen of it: x and y, in stored pixels
        found.array()                   # [height, width], NaN where the model does not look

    e_c(p) = logit_c(g_p) - mean over classes of logit(g_p)          [places, classes]
    m_c(p) = e_c(p) |g_p - f| / mean over places of |g_p - f|

g_p are the features of place p (`towers/places.py`), of which those of the image, f, are the mean. The method's own
head reads g_p as it reads the features of an image, whatever it is: text features, a cache of support images, a probe,
an average of members. So every edit of a method acts, and nothing needs a gradient. Where the head is linear in the
features, the mean of e_c over places is what the image's own logits say; where it is a cosine, the mean weighted by
|g_p| / |f|. The second factor says how much a place stands out, to the frozen tower: what is like the rest of the
picture shows no class in particular.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from shotfit.data.finding import pictures_in
from shotfit.data.images import as_stored, stored_size, unturned
from shotfit.data.pictures import Picture, PictureLike
from shotfit.engine.frozen import Images
from shotfit.errors import ShotfitError, UsageError, first_few
from shotfit.fitting.decoded import decoded, not_finite
from shotfit.towers.config import Preprocessing
from shotfit.towers.pixels import square_in
from shotfit.towers.places import grid_of

if TYPE_CHECKING:
    from shotfit.fitting.model import Model

__all__ = ["LONGEST", "MOST", "Map", "check_maps", "maps", "maps_in", "scaled", "seen_of"]

LONGEST = 1024
"""Pixels of the longer side of a map's array; a larger picture's is reduced."""
MOST = 20
"""Classes that are mapped in one picture."""

Grid = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Map:
    """A class in a picture. Places and pixels are those of the picture as it lies in its file, before any EXIF turn.

    places: [rows, columns] m_c. probability: of the class in the whole picture. seen: left, top, right
    and bottom of what the places cover, in pixels of the picture. width, height, orientation: of the picture.
    """

    picture: Picture
    label: str
    probability: float
    places: Grid
    seen: tuple[float, ...]
    width: int
    height: int
    orientation: int

    @property
    def point(self) -> tuple[float, float]:
        """The middle of the place where most is seen of the class, x and y in pixels; the first of equals."""
        rows, columns = self.places.shape
        down = _middles(rows, self.seen[1], self.seen[3])
        across = _middles(columns, self.seen[0], self.seen[2])
        within = ((down >= 0) & (down < self.height))[:, None] & ((across >= 0) & (across < self.width))
        row, column = divmod(int(np.where(within, self.places, -np.inf).argmax()), columns)
        return float(across[column]), float(down[row])

    def array(self, longest: int = LONGEST) -> Grid:
        """[height, width] m_c of the picture's pixels, NaN where no place lies (`over`).

        The shape is the picture's, or that reduced to `longest` pixels of the longer side.
        """
        return self.over(*scaled(self.width, self.height, most=longest))

    def over(self, width: int, height: int) -> Grid:
        """[height, width] m_c all over the picture, between places by their distance; NaN where no place lies."""
        rows, columns = self.places.shape
        left, top, right, bottom = self.seen
        down = _between(height, self.height, rows, top, bottom)
        return (down @ self.places @ _between(width, self.width, columns, left, right).T).astype(np.float32)


def scaled(width: int, height: int, least: int = 1, most: int = LONGEST) -> tuple[int, int]:
    """The size with its longer side within bounds."""
    scale = min(max(least, width, height), most) / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def maps(
    model: Model,
    images: PictureLike | Iterable[PictureLike],
    classes: Sequence[str] = (),
    top: int = 1,
    lenient: bool = False,
) -> Iterator[Map]:
    """Maps of these classes in each picture, or of its `top` most probable ones, best first.

    images, lenient: as in `Model.predict`.

    Raises UsageError for classes that the model does not predict, more than MOST of them, and a backbone that shows no
    places; ShotfitError for a picture that cannot be read.
    """
    check_maps(model, classes, top)
    for picture in pictures_in(images):
        yield from maps_in(model, picture, classes, top, lenient)


def check_maps(model: Model, classes: Sequence[str], top: int) -> None:
    """Refuse a backbone that shows no places, classes that the model does not predict, and more than MOST.

    Raises UsageError.
    """
    names, backbone = model.one_task().names, model.frozen.backbone
    if backbone.closed:
        raise UsageError(
            f"{backbone.name} is closed: it shows features of whole pictures and of no place in them, so nothing can "
            "be mapped. Use a backbone of shotfit's own towers, such as mini."
        )
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise UsageError(f"The model does not predict {first_few(unknown)}; its classes: {first_few(names, MOST)}.")
    if max(top, len(classes)) > MOST:
        raise UsageError(f"{max(top, len(classes))} classes are to be mapped in each picture; at most {MOST} are.")


def maps_in(
    model: Model, picture: Picture, classes: Sequence[str] = (), top: int = 1, lenient: bool = False
) -> Iterator[Map]:
    """Those of one picture, of any number of classes; see `maps`."""
    names, config = model.one_task().names, model.frozen.backbone.config
    (side, pixels), rule = grid_of(config.image), config.preprocessing
    read = picture.as_lenient() if lenient else picture
    probabilities, places = _said(model, Images.of(decoded(model, read)[None]))
    if not (probabilities.isfinite().all() and places.isfinite().all()):
        raise ShotfitError(not_finite(str(picture), model.frozen))
    width, height, orientation = stored_size(read)
    seen = seen_of(width, height, orientation, side * pixels / rule.size, rule)
    best = probabilities.topk(min(max(top, 1), len(names))).indices.tolist()
    for number in [names.index(name) for name in classes] or best:
        grid = Image.fromarray(places[:, number].view(side, side).numpy())
        yield Map(
            read, names[number], float(probabilities[number]),
            np.asarray(as_stored(grid, orientation)), seen, width, height, orientation,
        )  # fmt: skip


@torch.no_grad()
def _said(model: Model, image: Images) -> tuple[Tensor, Tensor]:
    """Of one image: probabilities [classes], and m [places, classes]."""
    probabilities, places = model.method.probabilities(model.logits(image))[0], replace(image, places=True)
    logits = model.logits(places, calibrated=False)  # [places, classes]
    if logits.shape[1] > 1:
        logits = logits - logits.mean(dim=1, keepdim=True)
    features = model.frozen.image(places)  # [places, embed]
    apart = (features - features.mean(dim=0)).norm(dim=1, keepdim=True).float()
    return probabilities.cpu(), (logits * apart / apart.mean().clamp(min=1e-30)).cpu()


def seen_of(width: int, height: int, orientation: int, share: float, rule: Preprocessing) -> tuple[float, ...]:
    """Left, top, right and bottom of what the grid covers, in pixels of a picture of this stored size.

    share: of a side of the tower's input that the grid covers, from its left or top on.
    """
    upright = (height, width) if orientation > 4 else (width, height)
    left, top, right, bottom = square_in(*upright, rule)
    sides = left, top, left + share * (right - left), top + share * (bottom - top)
    return unturned(sides, *upright, orientation)


def _middles(count: int, first: float, last: float) -> NDArray[np.float64]:
    """Where the middles of so many places lie between two sides, in pixels."""
    return first + (np.arange(count) + 0.5) * (last - first) / count


def _between(pixels: int, length: int, count: int, first: float, last: float) -> Grid:
    """Weights of places for pixels, [pixels, count]: of the two nearest by distance; NaN outside of what they cover.

    length: of the picture's side. first, last: the sides of what the places cover.
    """
    middles = (np.arange(pixels) + 0.5) * length / pixels
    place = np.clip((middles - first) / (last - first) * count - 0.5, 0, count - 1)
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(count)), 0, 1)
    weights[(middles < first) | (middles > last)] = np.nan
    return weights.astype(np.float32)
