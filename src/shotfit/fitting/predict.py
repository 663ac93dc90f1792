"""Predict many images at once: find them, run the model, write a table, CSV or JSONL.

for line in lines(model, find_images(["photos/"]), "csv", top=3):
    print(line)
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.cells import cell_len

from shotfit.data.images import SUFFIXES
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.asked import NOTHING_MORE, Asked
from shotfit.fitting.model import BATCH, Model, Prediction
from shotfit.progress import track

__all__ = ["Format", "find_images", "lines"]

Format = Literal["table", "csv", "jsonl"]


def find_images(sources: Iterable[str], listed: Iterable[str] = ()) -> list[Path]:
    """The images that are meant: files as they are, folders with all that lies below them, patterns like `a/*.jpg`.

    listed: the lines that stand for the source "-" (empty lines are passed over).

    Raises ShotfitError for a source that is not there, and for folders and patterns without an image.
    """
    found: list[Path] = []
    for source in sources:
        if source == "-":
            found += find_images(line.rstrip("\r\n") for line in listed if line.strip())
        elif Path(source).is_dir():
            found += _below(Path(source))
        elif os.path.lexists(source):
            found.append(Path(source))
        else:
            matches = [Path(path) for path in sorted(glob.glob(source, recursive=True))]  # noqa: PTH207 (absolute ones too)
            if not matches:
                raise ShotfitError(
                    f"There is no image {source}: name files, folders, patterns, or - for standard input."
                )
            found += [path for path in matches if path.suffix.lower() in SUFFIXES]
    if not found:
        raise ShotfitError("No image was named: give files, folders, patterns, or paths on standard input with -.")
    return found


def lines(
    model: Model, images: Sequence[Path], form: Format = "table", top: int = 1, asked: Asked = NOTHING_MORE
) -> Iterator[str]:
    """The predictions as lines without their line ends, as soon as they are known.

    table: the image, then its classes with their probabilities. csv: image, rank, label, probability, set (names with |
    between them) and unknown (true or false), with a header. jsonl: an object an image.

    Raises UsageError for an unknown format, `top` below 1, or a model of several tasks; ShotfitError for an image that
    cannot be read.
    """
    if top < 1:
        raise UsageError(f"--top is {top}; expected 1 or more.")
    if form not in ("table", "csv", "jsonl"):
        raise UsageError(f"There is no format {form!r}: use table, csv or jsonl.")
    names = model.one_task().names
    widths = max(cell_len(str(path)) for path in images), max(cell_len(name) for name in names)
    if form == "csv":
        yield "image,rank,label,probability,set,unknown"
    predictions = model.predict_each(images, top, asked)
    # a bar for one batch would be gone before it is seen
    for one in track(predictions, "Predicting", len(images)) if len(images) > BATCH else predictions:
        yield _line(one, form, widths)


def _line(prediction: Prediction, form: Format, widths: tuple[int, int]) -> str:
    pairs = list(zip(prediction.labels, prediction.probabilities, strict=True))
    if form == "jsonl":
        best = [{"label": label, "probability": round(value, 6)} for label, value in pairs]
        more: dict[str, Any] = {"set": prediction.set, "unknown": prediction.unknown}
        asked = {name: value for name, value in more.items() if value is not None}
        return json.dumps({"image": prediction.source, "predictions": best} | asked, ensure_ascii=False)
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        after = ("|".join(prediction.set or ()), "" if prediction.unknown is None else str(prediction.unknown).lower())
        rows = ((prediction.source, rank, name, f"{value:.6f}", *after) for rank, (name, value) in enumerate(pairs, 1))
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")
    source, label = widths
    line = _padded(prediction.source, source) + "".join(
        f"  {_padded(name, label)} {100 * value:5.1f} %" for name, value in pairs
    )
    line += "" if prediction.set is None else f"  {{{', '.join(prediction.set)}}}"
    return line + ("  unknown" if prediction.unknown else "")


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _below(folder: Path) -> list[Path]:
    """Images below a folder, sorted; hidden files and folders are passed over, links to folders not followed."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        kept = sorted(name for name in names if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)
        found += [Path(parent) / name for name in kept]
    if not found:
        raise ShotfitError(f"The folder {folder} holds no images.")
    return found
