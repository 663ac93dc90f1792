"""Tables as Parquet: pictures as bytes, as Hugging Face's hub has them, or paths, with a column of labels.

A file, a pattern, or a folder of files whose names or folders tell the parts: `train-00000-of-00002.parquet`, also in
`data/`. A picture is called `file.parquet::17`, by its row from 0.
"""

from __future__ import annotations

from pathlib import Path

from shotfit.data.formats.shards import are_shards, is_pattern, shards
from shotfit.data.formats.tables import read_tables
from shotfit.data.images import shown
from shotfit.data.listing import How, Listing
from shotfit.errors import ShotfitError

__all__ = ["read", "recognizes"]

SUFFIXES = (".parquet",)


def recognizes(source: Path) -> bool:
    """A file or pattern that ends in .parquet, or a folder of such files without pictures."""
    if source.is_dir():
        return are_shards(source, SUFFIXES)
    return is_pattern(source, SUFFIXES) or source.suffix.lower() in SUFFIXES


def read(source: Path, how: How) -> Listing:
    """The pictures of the tables. Raises ShotfitError and UsageError, as `read_tables` does."""
    files, notes = shards(source, SUFFIXES)
    if not files:
        raise ShotfitError(f"{shown(source)} holds no .parquet file; expected train-00000-of-00001.parquet or so.")
    reader = f"Parquet table {source.name}" if len(files) == 1 else f"{len(files)} Parquet tables in {source.name}"
    return read_tables(files, how, reader, "the tables and rows that say test", notes)
