"""Texts in the columns of tables: their values, and how long they may be.

A text that many rows have is there once in a file and in memory, but not in what is made of the rows. So long texts are
counted for each row that has one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotfit.errors import ShotfitError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["MAX_COLUMN_BYTES", "MAX_TEXT", "long_texts", "too_long", "values_of"]

MAX_TEXT = 2**20
"""Bytes of a path, label or other text of a table."""
MAX_COLUMN_BYTES = 256 * 1024**2
"""Bytes of a column of labels or paths."""
_LONG = 256  # bytes, which few paths and labels have


def values_of(column: Any) -> list[Any]:
    """The values of a column; those of a dictionary are made once, whatever the number of rows that have them."""
    if hasattr(column, "dictionary"):
        words = column.dictionary.to_pylist()
        return [None if place is None else words[place] for place in column.indices.to_pylist()]
    return list(column.to_pylist())


def long_texts(path: Path, batch: pyarrow.RecordBatch) -> int:
    """The bytes of the long texts of a batch, also in lists. Raises ShotfitError for one above MAX_TEXT."""
    import pyarrow.compute as compute
    from pyarrow import types

    total = 0
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        while types.is_list(column.type) or types.is_large_list(column.type):
            column = column.values
        places = column.indices if types.is_dictionary(column.type) else None
        texts = column if places is None else column.dictionary
        if types.is_string(texts.type) or types.is_large_string(texts.type):
            lengths = compute.binary_length(texts)
            if (compute.max(lengths).as_py() or 0) > MAX_TEXT:
                raise too_long(path, name)
            lengths = lengths if places is None else lengths.take(places)
            total += compute.sum(lengths.filter(compute.greater(lengths, _LONG))).as_py() or 0
    return total


def too_long(path: Path, name: str) -> ShotfitError:
    """Why a table with a text above MAX_TEXT is not read."""
    return ShotfitError(
        f"{path} has a text of more than {MAX_TEXT:,} bytes in the column {name}; expected a path or label."
    )
