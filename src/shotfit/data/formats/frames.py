"""Folders of frames: `DIR/CLASS/CLIP/FRAME`, or `DIR/{train,val,test}/CLASS/CLIP/FRAME`, also in an archive.

What lies in a folder inside of a class folder are the frames of one clip, in the order of their names; a picture that
lies directly in a class folder is a picture by itself. Clips are thinned, to eight frames or to `--frames`. Read where
`--read-as frames` asks for it: without, folders inside of class folders are only folders.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shotfit.data.clips import in_clip, together
from shotfit.data.containers import ARCHIVES
from shotfit.data.formats.folders import check_plain, listing_of
from shotfit.data.formats.tree import Folder, archive_tree
from shotfit.data.images import shown
from shotfit.data.listing import PARTS, How, Listing, Part
from shotfit.data.pictures import Picture
from shotfit.data.tasks import composed
from shotfit.errors import ShotfitError

__all__ = ["read", "recognizes"]


def recognizes(source: Path) -> bool:
    """Never: the same folders may hold pictures that are no frames."""
    return False


def read(source: Path, how: How) -> Listing:
    """The frames in folders inside of class folders. Raises ShotfitError where there are none, and as folders do."""
    archive = source.suffix.lower() in ARCHIVES and not source.is_dir()
    check_plain(source, how, "folders of frames")
    found = listing_of(archive_tree(source) if archive else Folder(source), "folders of frames", asked=True)
    parts: dict[Part, list[tuple[Picture, int]]] = {part: [] for part in PARTS}
    for part in PARTS:
        rows = [(picture, label, _clip(picture, found.classes[label])) for picture, label in found.parts[part]]
        for places in together(rows, lambda row: row[2]):
            frames, (_, label, clip) = [rows[place][0] for place in places], rows[places[0]]
            kept = [frames[place] for place in how.sampling.thinned(len(frames))] if clip else frames
            parts[part] += [(picture, label) for picture in in_clip(clip, kept, apart=not clip)]
    if not any(picture.clip for part in PARTS for picture, _ in parts[part]):
        raise ShotfitError(
            f"{shown(source)} has no folders inside of its class folders; expected {shown(source)}/CLASS/CLIP/FRAME."
        )
    return replace(found, parts=parts, notes=())


def _clip(picture: Picture, name: str) -> str:
    """The folder that a picture lies in, inside of the class folder of that name; "" where it lies in that itself."""
    folder = Path(str(picture)).parent
    return "" if composed(folder.name.rsplit("::", 1)[-1]) == name else str(folder)
