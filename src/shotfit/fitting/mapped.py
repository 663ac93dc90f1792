"""Maps of predicted pictures as files: each drawn over its picture, and as an array.

    mapper = Mapper(Path("maps"), model, top=3)
    for prediction in mapper.drawn(predictions): ...        # prediction.maps names the files

    maps/street.jpg.car.png     the picture with the map over it
    maps/street.jpg.car.npy     [height, width] of float32

Files of an earlier run are replaced. Two pictures of one name in a run get numbers.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from shotfit.data.pictures import Picture
from shotfit.files import write_atomically
from shotfit.fitting.maps import MOST, Map, check_maps, maps_in
from shotfit.fitting.overlay import overlay
from shotfit.fitting.predictions import MapFiles, Prediction
from shotfit.fitting.sorting import check_folder, folder_names, numbered, safe_name

if TYPE_CHECKING:
    from shotfit.fitting.model import Model

__all__ = ["Mapper"]


class Mapper:
    """Draws maps into `folder`: of these classes, or of the `top` most probable ones of each picture. None is the most
    probable class, or of a model of several labels those that are predicted. Of a clip the middle frame is drawn.

    count: of the maps that were drawn.

    Raises UsageError for a folder that cannot be one, and as `maps` does.
    """

    def __init__(
        self, folder: Path, model: Model, classes: Sequence[str] = (), top: int | None = None, lenient: bool = False
    ) -> None:
        check_folder(folder)
        check_maps(model, classes, top or 1)
        self.folder, self.model, self.classes, self.top, self.lenient = folder, model, classes, top, lenient
        self.names, self.count = folder_names(model.one_task().names), 0
        self._taken: dict[str, str] = {}  # the picture of each name, so that none is drawn over another's

    def drawn(self, found: Iterable[Prediction]) -> Iterator[Prediction]:
        """The same predictions, each once the maps of its picture are written; what cannot be read has none.

        Raises OSError, with the name of the file, where one cannot be written.
        """
        for one in found:
            if one.error is not None or one.picture is None:
                yield one
                continue
            several = self.model.several_labels and self.top is None
            classes = self.classes or (one.labels[:MOST] if several else ())
            asked = classes or not several  # of several labels a picture may have none
            own = [*maps_in(self.model, one.picture, classes, self.top or 1, self.lenient)] if asked else []
            # one scale for the classes of a picture
            highest = max((float(found.places.max()) for found in own), default=None)
            yield replace(one, maps=tuple(self.write(found, highest) for found in own))

    def write(self, found: Map, highest: float | None = None) -> MapFiles:
        """Write a map's two files. highest: as in `overlay`."""
        stem = self._stem(found.picture, self.names[found.label])
        drawn, array = io.BytesIO(), io.BytesIO()
        overlay(found, highest).save(drawn, "PNG")
        np.save(array, found.array())
        files = [self.folder / f"{stem}{ending}" for ending in (".png", ".npy")]
        for file, content in zip(files, (drawn, array), strict=True):
            write_atomically(file, content.getvalue())
        self.count += 1
        return MapFiles(found.label, str(files[0]), str(files[1]), found.point)

    def _stem(self, picture: Picture, label: str) -> str:
        """The name of a map's files without their endings."""
        source = str(picture)
        own = safe_name(PurePosixPath(source.replace("\\", "/")).name)
        for name in numbered(own, f".{label}.png"):
            stem = name.removesuffix(".png")
            if self._taken.setdefault(stem.casefold(), source) == source:
                return stem
        raise AssertionError("numbers have an end")
