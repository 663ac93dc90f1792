"""Predict many images at once: find them, run the model, write a table, CSV or JSONL.

for line in lines(model, find_images(["photos/"]).images, "csv", top=3):
    print(line)
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.cells import cell_len

from shotfit.data.images import SUFFIXES, is_unread
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.asked import NOTHING_MORE, Asked
from shotfit.fitting.model import BATCH, Model, Prediction
from shotfit.printing import as_csv, as_json, printable
from shotfit.progress import track

__all__ = ["Broken", "Format", "Found", "find_images", "lines"]

Format = Literal["table", "csv", "jsonl"]
Broken = Literal["keep", "skip", "stop"]

COLUMNS = ("image", "rank", "label", "probability", "set", "unknown", "error")


@dataclass(frozen=True)
class Found:
    """Images, and what lies in the same folders and was passed over: pictures that are not read, unread folders."""

    images: list[Picture]
    passed_over: list[Path]


def find_images(sources: Iterable[str], listed: Iterable[str] = ()) -> Found:
    """The images that are meant: files and their parts (`a.tar::1.jpg`) as they are, folders with all that lies below
    them, patterns like `a/*.jpg`.

    listed: the lines that stand for the source "-" (empty lines are passed over). A line that names nothing stays an
    image, which cannot be read.

    Raises ShotfitError for a source that is not there, and for folders and patterns without an image.
    """
    found = Found([], [])
    for source in sources:
        if source == "-":
            for line in listed:
                if line.strip():
                    _find(line.rstrip("\r\n"), found, listed=True)
        else:
            _find(source, found)
    if not found.images:
        raise ShotfitError("No image was named: give files, folders, patterns, or paths on standard input with -.")
    return found


def _find(source: str, found: Found, listed: bool = False) -> None:
    if Path(source).is_dir():
        _below(Path(source), found)
        return
    named = Picture.of(source)
    if named.exists():
        found.images.append(named)
        return
    matches = [Path(path) for path in sorted(glob.glob(source, recursive=True))]  # noqa: PTH207 (absolute ones too)
    if not matches and not listed:
        raise ShotfitError(f"There is no image {source}: name files, folders, patterns, or - for standard input.")
    found.images.extend(Picture(path) for path in matches if path.suffix.lower() in SUFFIXES)
    if not matches:
        found.images.append(named)
    found.passed_over.extend(path for path in matches if is_unread(path))


def lines(
    model: Model,
    images: Sequence[Picture],
    form: Format = "table",
    top: int = 1,
    broken: Broken = "stop",
    tell: Callable[[Prediction], None] = lambda _: None,
    asked: Asked = NOTHING_MORE,
) -> Iterator[str]:
    """The predictions as lines without their line ends, as soon as they are known.

    table: the image, then its classes with their probabilities. csv: a header with COLUMNS, and a row for each class;
    what a spreadsheet would run begins with an apostrophe (`as_cell`). jsonl: an object an image.
    broken: an image that cannot be read is a row with its error (keep), has no row (skip), or ends all (stop); `tell`
    is told of each that is kept or skipped.

    Raises UsageError for an unknown format, `top` below 1, or a model of several tasks; with "stop" ShotfitError for an
    image that cannot be read.
    """
    if top < 1:
        raise UsageError(f"--top is {top}; expected 1 or more.")
    if form not in ("table", "csv", "jsonl"):
        raise UsageError(f"There is no format {form!r}: use table, csv or jsonl.")
    names = model.one_task().names
    widths = max(cell_len(printable(path)) for path in images), max(cell_len(printable(name)) for name in names)
    if form == "csv":
        yield ",".join(COLUMNS)
    predictions = model.predict_each(images, top, broken != "stop", asked)
    # a bar for one batch would be gone before it is seen
    for one in track(predictions, "Predicting", len(images)) if len(images) > BATCH else predictions:
        if one.error is not None:
            tell(one)
        if one.error is None or broken == "keep":
            yield _line(one, form, widths)


def _line(prediction: Prediction, form: Format, widths: tuple[int, int]) -> str:
    if form == "jsonl":
        return as_json(_object(prediction))
    if form == "csv":
        return as_csv(_rows(prediction)).removesuffix("\n")
    source, label = widths
    if prediction.error is not None:
        return f"{_padded(prediction.source, source)}  error: {printable(' '.join(prediction.error.split()))}"
    pairs = zip(prediction.labels, prediction.probabilities, strict=True)
    line = _padded(prediction.source, source) + "".join(
        f"  {_padded(name, label)} {100 * value:5.1f} %" for name, value in pairs
    )
    line += "" if prediction.set is None else f"  {{{printable(', '.join(prediction.set))}}}"
    return line + ("  unknown" if prediction.unknown else "")


def _object(prediction: Prediction) -> dict[str, object]:
    if prediction.error is not None:
        return {"image": prediction.source, "error": prediction.error}
    pairs = zip(prediction.labels, prediction.probabilities, strict=True)
    best = [{"label": label, "probability": round(value, 6)} for label, value in pairs]
    found: dict[str, object] = {"image": prediction.source, "predictions": best}
    if prediction.set is not None:
        found["set"] = list(prediction.set)
    if prediction.unknown is not None:
        found["unknown"] = prediction.unknown
    return found


def _rows(prediction: Prediction) -> Iterator[tuple[object, ...]]:
    """Rows of COLUMNS: one for each class, or one with the error."""
    if prediction.error is not None:
        yield prediction.source, "", "", "", "", "", prediction.error
        return
    classes = "" if prediction.set is None else "|".join(prediction.set)
    unknown = "" if prediction.unknown is None else str(prediction.unknown).lower()
    pairs = zip(prediction.labels, prediction.probabilities, strict=True)
    for rank, (label, value) in enumerate(pairs, start=1):
        yield prediction.source, rank, label, f"{value:.6f}", classes, unknown, ""


def _padded(text: str, width: int) -> str:
    shown = printable(text)
    return shown + " " * (width - cell_len(shown))


def _below(folder: Path, found: Found) -> None:
    """Images below a folder, sorted; hidden files and folders are left out, links to folders not followed."""
    before = len(found.images)

    def unreadable(error: OSError) -> None:
        found.passed_over.append(Path(error.filename))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(parent) / name for name in sorted(names) if not name.startswith(".")]
        found.images.extend(Picture(path) for path in paths if path.suffix.lower() in SUFFIXES)
        found.passed_over.extend(path for path in paths if is_unread(path))
        found.passed_over.extend(path for name in folders if (path := Path(parent) / name).is_symlink())
    if len(found.images) == before:
        raise ShotfitError(f"The folder {folder} holds no images.")
