"""A zip or tar of class folders, read as folders are, without being unpacked: `photos.zip::cat/1.jpg`."""

from __future__ import annotations

from pathlib import Path

from shotfit.data.containers import ARCHIVES
from shotfit.data.formats.folders import check_plain, listing_of
from shotfit.data.formats.tree import archive_tree
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing
from shotfit.errors import ShotfitError

__all__ = ["read", "recognizes"]

_COMPRESSED = (".tgz", ".gz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar")


def recognizes(source: Path) -> bool:
    """A file that ends in .zip or .tar, or is packed as archives are that must be unpacked."""
    return not source.is_dir() and source.suffix.lower() in (*ARCHIVES, *_COMPRESSED)


def read(source: Path, how: How) -> Listing:
    """The pictures of the class folders in the archive.

    Raises ShotfitError for another or damaged archive, and as folders do; UsageError.
    """
    if source.suffix.lower() not in ARCHIVES:
        raise ShotfitError(
            f"{shown(source)} is compressed as a whole, so that no picture in it can be read by itself; unpack it, or "
            "make a .tar or .zip of the folders."
        )
    reader = f"class folders in {source.name}"
    check_plain(source, how, reader)
    return listing_of(archive_tree(source), reader, asked=False)
