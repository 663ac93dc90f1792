"""Pictures with captions, for encoders that are to be put into one space (`shotfit align`).

    read_pairs(Path("pairs.csv"))           # image,caption[,split], a caption a line; a picture may have several
    read_pairs(Path("pairs.jsonl"))         # {"image": ..., "captions": [...]}
    read_pairs(Path("pairs.parquet"))       # columns of pictures or paths, and of captions
    read_pairs(Path("photos"))              # class folders: the prompts of a class are its pictures' captions

Paths, columns and parts are read as those of every manifest, with a column of captions in the place of labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shotfit.data.containers import schema_of
from shotfit.data.formats import csv, jsonl, tables
from shotfit.data.formats.lines import columns_of, rows_of
from shotfit.data.images import shown
from shotfit.data.listing import AS_IT_IS, How, Part, Row
from shotfit.data.lists import PATHS, plain_column
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.errors import ShotfitError, first_few

__all__ = ["CAPTIONS", "Pair", "read_pairs"]

CAPTIONS = ("caption", "captions", "text", "texts", "sentence", "sentences", "description", "report", "title", "prompt")
"""What a column of captions is called, the likeliest first; in any case."""
MOST_CAPTIONS = 1000  # of a picture
LONGEST = 10_000  # characters of a caption


@dataclass(frozen=True)
class Pair:
    """A picture and its captions, of a part. group: pictures that belong together; "" is one by itself."""

    picture: Picture
    captions: tuple[str, ...]
    part: Part = "train"
    group: str = ""


def read_pairs(source: Path, how: How = AS_IT_IS, templates: Sequence[str] = ()) -> list[Pair]:
    """The pictures with all captions of each, in the order of the source.

    how: as in `read_task`, `label_column` being that of captions. templates: of the prompts of class folders.

    Raises ShotfitError for what cannot be read, and for fewer than two pictures.
    """
    ending = source.suffix.lower()
    if ending in csv.SUFFIXES and source.is_file():
        header, lines = csv.table(source)
        rows = _rows(source, header, lines, how)
    elif ending in jsonl.SUFFIXES and source.is_file():
        keys = dict.fromkeys(key for _, line in jsonl.lines_of(source) for key in line)
        rows = _rows(source, keys, jsonl.lines_of(source), how)
    elif ending == ".parquet" and source.is_file():
        names = schema_of(source).names
        rows = tables.rows_in(source, replace(how, label_column=_column(source, names, how))).rows
    else:
        rows = _of_task(source, how, templates)
    pairs = list(_together(rows))
    if len(pairs) < 2:
        raise ShotfitError(f"{shown(source)} has {len(pairs)} picture with captions; expected two at least.")
    return pairs


def _rows(source: Path, names: Iterable[str], lines: Iterable[tuple[int, Mapping[str, Any]]], how: How) -> list[Row]:
    names = list(names)
    column = _column(source, names, how)
    columns = columns_of(shown(source), names, replace(how, label_column=column))
    return rows_of(source, _single(source, lines, column), columns, how)


def _single(
    source: Path, lines: Iterable[tuple[int, Mapping[str, Any]]], column: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """A line for each caption of a list of them."""
    for number, line in lines:
        value: Any = line.get(column)
        captions = value if isinstance(value, list) else [value]
        if not captions or len(captions) > MOST_CAPTIONS or not all(isinstance(one, str) for one in captions):
            raise ShotfitError(
                f"{shown(source)}, line {number}: expected a caption under {column!r}, or a list of 1 to "
                f"{MOST_CAPTIONS:,}."
            )
        for one in captions:
            if len(str(one)) > LONGEST:
                raise ShotfitError(f"{shown(source)}, line {number}: a caption has more than {LONGEST:,} characters.")
            yield number, {**line, column: one}


def _column(source: Path, names: Sequence[str], how: How) -> str:
    """The column of captions."""
    if how.label_column is not None:
        return how.label_column
    plain = {plain_column(name): name for name in reversed(list(names))}
    found = next((plain[name] for name in CAPTIONS if name in plain), None)
    if found is None:
        paths = next((plain[name] for name in PATHS if name in plain), "path")
        raise ShotfitError(
            f"{shown(source)} has the columns {first_few(list(names), 8) or '(none)'}; expected {paths},caption in its "
            "first line, or --caption-column NAME for the column of the captions."
        )
    return found


def _of_task(source: Path, how: How, templates: Sequence[str]) -> list[Row]:
    """The pictures of a labelled source with the prompts of their classes; its test part stays out."""
    task = read_task(source, **vars(how), templates=templates)
    prompts = task.classes.prompts()
    parts: tuple[tuple[Part, Any], ...] = (("train", task.train), ("val", task.val))
    return [
        Row(item.picture, prompt, part) for part, items in parts for item in items for prompt in prompts[item.label]
    ]


def _together(rows: Sequence[Row]) -> Iterator[Pair]:
    """A pair for each picture, where it first stands."""
    captions: dict[Picture, list[str]] = {}
    first: dict[Picture, Row] = {}
    for row in rows:
        first.setdefault(row.picture, row)
        captions.setdefault(row.picture, []).append(row.label)
    for picture, row in first.items():
        yield Pair(picture, tuple(dict.fromkeys(captions[picture])), row.part, row.group)
