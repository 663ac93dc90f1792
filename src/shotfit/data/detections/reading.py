"""Find out of which format a file of boxes is, and read it.

found = read_boxes(Path("detections.json"), images=Path("photos"))
found.reader, len(found)
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Protocol

from shotfit.data.detections import coco, label_studio, voc, yolo
from shotfit.data.detections.boxes import Detections
from shotfit.data.images import shown
from shotfit.data.missing import reason_none_exists
from shotfit.data.remote.addresses import only_here
from shotfit.errors import ShotfitError, UsageError

__all__ = ["BOX_FORMATS", "read_boxes"]


class BoxFormat(Protocol):
    """A module of this folder."""

    def recognizes(self, source: Path) -> bool:
        """Whether a source that exists looks like this format; never an error."""

    def read(self, source: Path, images: Path | None) -> Detections:
        """Its boxes, or a ShotfitError."""


BOX_FORMATS: dict[str, BoxFormat] = {"label-studio": label_studio, "coco": coco, "voc": voc, "yolo": yolo}
"""By the names that --read-as takes, the surest signs first."""


def read_boxes(source: Path, images: Path | None = None, read_as: str | None = None) -> Detections:
    """The boxes of a file or folder.

    images: where its pictures lie (None: beside it); for a list of COCO's results also the COCO file that lists them.
    read_as: one of BOX_FORMATS; None: the one that recognizes it.

    Raises:
        ShotfitError: nothing there, of no known format, malformed, without a box.
        UsageError: an unknown format.
    """
    only_here(source, "a file of boxes")
    if read_as is not None and read_as not in BOX_FORMATS:
        close = difflib.get_close_matches(read_as, BOX_FORMATS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected {', '.join(BOX_FORMATS)}."
        raise UsageError(f"boxes are not read as {read_as!r}; {hint}")
    if not source.exists():
        raise ShotfitError(f"{shown(source)} does not exist; expected a file of boxes ({', '.join(BOX_FORMATS)}).")
    if images is not None and not images.exists():
        raise ShotfitError(f"{shown(images)} does not exist; expected the folder of the pictures (--images).")
    if read_as is not None:
        form: BoxFormat | None = BOX_FORMATS[read_as]
    else:
        form = next((one for one in BOX_FORMATS.values() if one.recognizes(source)), None)
    if form is None:
        raise ShotfitError(
            f"{shown(source)} is no file of boxes in a format that is known ({', '.join(BOX_FORMATS)}); name a COCO or "
            "Label Studio JSON file, VOC XML or a folder of it, or YOLO's data.yaml or folder of labels."
        )
    found = form.read(source, images)
    if not len(found):
        raise ShotfitError(f"{shown(source)}, read as {found.reader}, has no box; expected boxes to label.")
    if not any(picture.exists() for picture in found.pictures):
        base = images or (source if source.is_dir() else source.parent)
        paths = [picture.path for picture in found.pictures]
        reason = reason_none_exists(paths, base, images is not None)
        raise ShotfitError(
            f"none of the {len(paths):,} pictures of {shown(source)} exists, e.g. {shown(paths[0])}; {reason}."
        )
    return found
