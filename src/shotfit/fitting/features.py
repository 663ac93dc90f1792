"""The features of many images into a file: what they are called, their labels and parts, and what could not be read.

    found = write_features(["photos/"], Path("features.npz"))
    np.load("features.npz")["features"]             # [n, embed], each of length 1; NaN where an image is broken

Images are read and encoded a few hundred at a time. Parquet is written as they come; an npz file holds all features
until the end, and nothing else of the images.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from shotfit.checkpoints.weights import load_in
from shotfit.data.clips import framed
from shotfit.data.containers import arrow, is_container
from shotfit.data.finding import Stream, identified
from shotfit.data.images import SUFFIXES, BrokenImageError, shown
from shotfit.data.label_sets import BAR
from shotfit.data.listing import AS_IT_IS, How
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.data.rows import as_text, check_file
from shotfit.engine.allocator import kept_memory
from shotfit.engine.frozen import Frozen, ImagePool, normalize
from shotfit.engine.store import cache_folder, open_store
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import writing
from shotfit.progress import say, track
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import Encoder
from shotfit.towers.precision import Precision

__all__ = ["COLUMNS", "FeaturesFile", "Written", "form_of_features", "write_features"]

FeaturesFile = Literal["npz", "parquet"]
COLUMNS = ("image", "label", "part", "error")
TOGETHER = 256  # images that are read and encoded at once
ROWS = 4096  # of a group of rows of Parquet


@dataclass(frozen=True)
class Written:
    """What a file of features holds. classes: 0 where there are no labels. dimensions: of a feature."""

    out: Path
    images: int
    broken: tuple[str, ...]
    classes: int
    dimensions: int
    backbone: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"out": str(self.out), "broken": len(self.broken)}


@dataclass(frozen=True)
class _Named:
    """A picture with its label and part; "" where it has none."""

    picture: Picture
    label: str = ""
    part: str = ""


@dataclass(frozen=True)
class _Row:
    """A picture with its features [embed] or its error."""

    named: _Named
    features: NDArray[np.float32] | None
    error: str = ""

    @property
    def texts(self) -> tuple[str, str, str, str]:
        return shown(self.named.picture), self.named.label, self.named.part, self.error


def form_of_features(out: Path) -> FeaturesFile:
    """The format that a file's ending says. Raises UsageError for another one.

    >>> form_of_features(Path("features.NPZ"))
    'npz'
    """
    for form in get_args(FeaturesFile):
        if out.suffix.lower() == f".{form}":
            return form
    raise UsageError(f"--out {out} has no ending that says its format: name it .npz, or .parquet.")


@torch.no_grad()
def write_features(
    sources: Sequence[str],
    out: Path,
    backbone: str | Backbone | Encoder = "mini",
    *,
    how: How = AS_IT_IS,
    precision: Precision = "auto",
    device: str = "auto",
) -> Written:
    """Write the features of images, float32 and of length 1, to an .npz or .parquet file, which is there once all are.

    Pictures are named as they lie from where you are, where that is above them; else by their whole path.

    sources: one folder of class folders, manifest or what else `read_task` reads, whose labels and parts are written,
    too; or files, folders, archives, tables and patterns without labels. A folder or archive that has no labels is read
    as the latter, with a note. how: as in `read_task`; what is said there of columns or labels asks for labels.

    An image that cannot be read is a row with its error: its features are missing in Parquet, and NaN in npz. In npz,
    `image`, `label`, `part` and `error` are arrays of texts [n], `features` is [n, embed].

    Raises UsageError for a file that cannot be written, and where pyarrow is missing; ShotfitError for sources that are
    not there.
    """
    started = time.perf_counter()
    form = form_of_features(out)
    check_file(out)
    if form == "parquet":
        arrow()
    named, total, classes = _named(sources, how)
    frozen = Frozen(load_in(backbone, precision, device), open_store())
    broken: list[str] = []
    count = 0

    def rows() -> Iterator[_Row]:
        nonlocal count
        for row in track(_rows(frozen, named), "Embedding", total):
            count += 1
            if row.error:
                broken.append(row.error)
            yield row

    with kept_memory():
        write = _write_parquet if form == "parquet" else _write_npz
        write(out, rows(), frozen.embed)
    took = round(time.perf_counter() - started, 3)
    return Written(out, count, tuple(broken), classes, frozen.embed, frozen.backbone.name, took)


def _named(sources: Sequence[str], how: How) -> tuple[Iterable[_Named], int | None, int]:
    """The pictures, how many they are, if that is known, and how many classes they have."""
    first = Path(sources[0]) if sources else Path()
    seen = replace(how, frames=None, fps=None, window=None, bands=None)  # which say nothing of labels
    asked = any(value is not None for value in seen.flags().values())
    if asked and len(sources) != 1:
        raise UsageError("Labels come from one source: name one folder or manifest, or leave out how to read it.")
    if asked or (len(sources) == 1 and first.exists() and first.suffix.lower() not in SUFFIXES):
        try:
            task = read_task(first, cache=cache_folder(), **vars(how))
        except ShotfitError as error:
            if asked or not (first.is_dir() or is_container(first)):
                raise
            say(f"note: read without labels, because {error}")
        else:
            parts = {"train": task.train, "val": task.val, "test": task.test}
            found = [
                _Named(item.picture, BAR.join(task.classes.names[label] for label in item.labels), part)
                for part in parts
                for item in parts[part]
            ]
            return found, len(found), len(task.classes.names)
    pictures = framed(Stream(sources, remote=True), how.sampling, apart=True)
    return (_Named(picture.under(how.rule)) for picture in pictures if picture is not None), None, 0


def _rows(frozen: Frozen, named: Iterable[_Named]) -> Iterator[_Row]:
    """A row for each picture, in order, as soon as its batch is encoded."""
    coming = iter(named)
    while batch := list(islice(coming, TOGETHER)):
        items, broken = identified([one.picture for one in batch], cache_folder())
        while True:
            whole = [item for item in items if item.picture not in broken]
            features = np.zeros((0, frozen.embed), np.float32)
            try:
                if whole:
                    features = normalize(frozen.image(ImagePool(whole, passing=True).all())).float().cpu().numpy()
                break
            except BrokenImageError as error:  # the others are asked for again; what was computed is kept
                broken[error.picture] = error
        known = iter(features)
        for one in batch:
            why = broken.get(one.picture)
            yield _Row(one, next(known)) if why is None else _Row(one, None, " ".join(str(why).split()))


def _write_npz(out: Path, rows: Iterator[_Row], embed: int) -> None:
    texts: list[tuple[str, ...]] = []
    blocks = [np.zeros((0, embed), np.float32)]
    while group := list(islice(rows, TOGETHER)):
        texts += [row.texts for row in group]
        blocks.append(np.stack([np.full(embed, np.nan, np.float32) if row.features is None else row.features
                                for row in group]))  # fmt: skip
    features = np.concatenate(blocks)
    blocks.clear()
    columns: dict[str, Any] = {
        name: np.array([one[place] for one in texts], dtype=str) for place, name in enumerate(COLUMNS)
    }
    with writing(out) as file:
        np.savez(file, **columns | {"features": features})


def _write_parquet(out: Path, rows: Iterator[_Row], embed: int) -> None:
    pa = arrow()
    vector = pa.list_(pa.float32(), embed)
    schema = pa.schema([*((name, pa.string()) for name in COLUMNS), ("features", vector)])
    with writing(out) as file:
        try:
            with pa.parquet.ParquetWriter(file, schema) as writer:
                while group := list(islice(rows, ROWS)):
                    columns = [
                        pa.array([as_text(value) or None for value in column], pa.string())
                        for column in zip(*(row.texts for row in group), strict=True)
                    ]
                    missing = np.array([row.features is None for row in group])
                    flat = np.zeros((len(group), embed), np.float32)
                    for place, row in enumerate(group):
                        if row.features is not None:
                            flat[place] = row.features
                    values = pa.FixedSizeListArray.from_arrays(
                        pa.array(flat.ravel()), type=vector, mask=pa.array(missing)
                    )
                    writer.write_table(pa.table([*columns, values], schema=schema))
        except pa.ArrowException as error:
            raise ShotfitError(f"{out} cannot be written ({' '.join(str(error).split())[:200]}).") from error
