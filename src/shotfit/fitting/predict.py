"""Predict many images at once: run the model, print a table, CSV or JSON Lines, or write a file.

for line in lines(model, Stream(["photos/"]), "csv", top=3):
    print(line)
write(predictions(model, Peeked(Stream(["photos/"]))), Path("labels.parquet"), "parquet")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from rich.cells import cell_len

from shotfit.data.containers import arrow
from shotfit.data.pictures import Picture
from shotfit.data.rows import Columns, check_file, csv_row, write_lines, write_rows
from shotfit.errors import UsageError
from shotfit.files import can_hold, write_atomically
from shotfit.fitting.asked import NOTHING_MORE, Asked
from shotfit.fitting.batches import BATCH
from shotfit.fitting.predictions import Prediction
from shotfit.fitting.written import fiftyone, label_studio
from shotfit.printing import as_csv, as_json, printable
from shotfit.progress import track

if TYPE_CHECKING:
    from shotfit.fitting.model import Model

__all__ = [
    "COLUMNS",
    "SEVERAL",
    "TOGETHER",
    "Broken",
    "Format",
    "Peeked",
    "Predictor",
    "as_lines",
    "as_object",
    "check_out",
    "form_for",
    "lines",
    "predictions",
    "rows_of",
    "write",
]

Format = Literal["table", "csv", "jsonl", "parquet", "label-studio", "fiftyone"]
Broken = Literal["keep", "skip", "stop"]

COLUMNS: Columns = {
    "image": "text",
    "rank": "whole",
    "label": "text",
    "probability": "number",
    "set": "texts",
    "unknown": "flag",
    "error": "text",
}

TOGETHER: Columns = {**COLUMNS, "transductive": "flag"}  # of images that were predicted together

# Of several labels a picture: a row for each image, with all its classes. In CSV it is a manifest of such labels.
SEVERAL: Columns = {"image": "text", "label": "texts", "probability": "numbers", "error": "text"}

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".json": "label-studio",
    ".txt": "table",
}
_IN_FILES: dict[Format, str] = {"parquet": "labels.parquet", "fiftyone": "labels/"}


def form_for(asked: str | None, out: Path | None) -> Format:
    """The format that is asked for; without one, what the file's ending says, or a table.

    Raises UsageError for an unknown format or ending, and for a format that is written to files alone.

    >>> form_for(None, Path("labels.parquet"))
    'parquet'
    """
    known = ", ".join(get_args(Format))
    if asked is None:
        form = "table" if out is None else _SUFFIXES.get(out.suffix.lower())
        if form is None:
            raise UsageError(f"--out {out} has no ending that says its format: give --format, one of {known}.")
        return form
    for form in get_args(Format):
        if form == asked:
            if out is None and form in _IN_FILES:
                raise UsageError(f"--format {form} is written to files, and not shown: add --out {_IN_FILES[form]}.")
            return form
    raise UsageError(f"There is no format {asked!r}: use one of {known}.")


class Peeked:
    """Images of which the first ones are known: as many as are there at once, and no more than make a batch and one.

    images: as `Model.predict_each` takes them.
    """

    def __init__(self, images: Iterable[Picture | None]) -> None:
        self._coming = iter(images)
        self._first = list[Picture | None]()
        for picture in self._coming:
            self._first.append(picture)
            if picture is None or len(self._first) > BATCH:
                break

    @property
    def first(self) -> list[Picture]:
        """The first images."""
        return [picture for picture in self._first if picture is not None]

    @property
    def several_batches(self) -> bool:
        """Whether there are, or may be, more than one batch."""
        return len(self._first) > BATCH or None in self._first

    def __iter__(self) -> Iterator[Picture | None]:
        return chain(self._first, self._coming)


def check_out(out: Path, form: Format) -> None:
    """Refuse a file, or for `fiftyone` a folder, that cannot be written, before anything is computed for it.

    Raises UsageError, also where the library is missing that a format needs.
    """
    if form == "parquet":
        arrow()
    if form != "fiftyone":
        check_file(out)
    elif (out.exists() and not out.is_dir()) or not can_hold(out / "_"):
        raise UsageError(f"--out {out} is no folder that files can be put into, as --format fiftyone needs one.")


class Predictor(Protocol):
    """What predicts images: `fitting.model.Model`, or an export as the light runtime opens it."""

    def predict_each(
        self, images: Iterable[Picture | None], top: int | None, keep_broken: bool, asked: Asked, lenient: bool
    ) -> Iterator[Prediction]:
        """The prediction of each image, as `Model.predict_each` gives it."""


def predictions(
    model: Predictor,
    images: Peeked,
    top: int | None = None,
    broken: Broken = "stop",
    tell: Callable[[Prediction], None] = lambda _: None,
    asked: Asked = NOTHING_MORE,
    lenient: bool = False,
) -> Iterator[Prediction]:
    """The predictions as soon as they are known, with a bar where there are several batches.

    broken: an image that cannot be read is a prediction with its error (keep), is left out (skip), or ends all (stop);
    `tell` is told of each that is kept or skipped. lenient: as in `Model.predict`.

    Raises UsageError for `top` below 1, or a model of several tasks; with "stop" ShotfitError for an image that cannot
    be read.
    """
    if top is not None and top < 1:
        raise UsageError(f"--top is {top}; expected 1 or more.")
    found = model.predict_each(images, top, broken != "stop", asked, lenient)
    # a bar for one batch would be gone before it is seen
    for one in track(found, "Predicting") if images.several_batches else found:
        if one.error is not None:
            tell(one)
        if one.error is None or broken == "keep":
            yield one


def as_lines(
    found: Iterable[Prediction],
    form: Format,
    names: Sequence[str] = (),
    first: Sequence[Picture] = (),
    columns: Columns = COLUMNS,
) -> Iterator[str]:
    """The predictions as lines without their line ends.

    table: the image, then its classes with their probabilities. csv: a header with COLUMNS, and a row for each class;
    what a spreadsheet would run begins with an apostrophe (`as_cell`). jsonl: an object an image. label-studio: one
    JSON list (`written.label_studio`).
    names, first: of all classes, and of the first images, by which a table's columns are as wide as they are. columns:
    TOGETHER for images that were predicted together, SEVERAL for several labels a picture.

    Raises UsageError for a format that has no lines.
    """
    if form == "label-studio":
        return label_studio(found)
    if form == "jsonl":
        return (as_json(as_object(one)) for one in found)
    if form == "csv":
        return _csv(found, columns)
    if form == "table":
        return _table(found, [str(picture) for picture in first], names)
    raise UsageError(f"There is no format {form!r} of lines: use table, csv, jsonl or label-studio.")


def _csv(found: Iterable[Prediction], columns: Columns) -> Iterator[str]:
    rows = rows_of(found)
    first = next(rows, None)  # a question that is refused leaves no header behind
    yield as_csv([list(columns)]).removesuffix("\n")
    yield from map(csv_row, rows if first is None else chain([first], rows))


def lines(
    model: Model,
    images: Iterable[Picture | None],
    form: Format = "table",
    top: int | None = None,
    broken: Broken = "stop",
    tell: Callable[[Prediction], None] = lambda _: None,
    asked: Asked = NOTHING_MORE,
    lenient: bool = False,
) -> Iterator[str]:
    """The lines of the predictions of images: see `predictions` and `as_lines`."""
    peeked = Peeked(images)
    found = predictions(model, peeked, top, broken, tell, asked, lenient)
    columns = SEVERAL if model.several_labels else COLUMNS
    return as_lines(found, form, model.one_task().names, peeked.first, columns)


def write(
    found: Iterable[Prediction], out: Path, form: Format, names: Sequence[str] = (), columns: Columns = COLUMNS
) -> None:
    """Write the predictions to a file, which is there once all are; `fiftyone` makes two in a folder.

    Raises UsageError where a library is missing, and OSError for a file that cannot be written.
    """
    if form == "parquet":
        write_rows(out, "parquet", columns, rows_of(found))
    elif form == "fiftyone":
        labels, data = fiftyone(found)
        for name, text in (("data.json", data), ("labels.json", labels)):
            write_atomically(out / name, text.encode())
    else:
        write_lines(out, as_lines(found, form, names, columns=columns))


def _table(predictions: Iterable[Prediction], first: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """A longer name than all before it makes the first column wider from there."""
    label = max((cell_len(printable(name)) for name in names), default=0)
    source = max((cell_len(printable(name)) for name in first), default=0)
    for one in predictions:
        source = max(source, cell_len(printable(one.source)))
        begin = _padded(one.source, source)
        if one.error is not None:
            yield f"{begin}  error: {printable(' '.join(one.error.split()))}"
            continue
        together = "  transductive" if one.transductive else ""
        pairs = zip(one.labels, one.probabilities, strict=True)
        line = begin + "".join(f"  {_padded(name, label)} {100 * value:5.1f} %" for name, value in pairs)
        line += "" if one.labels else "  none of the classes"
        line += "" if one.set is None else f"  {{{printable(', '.join(one.set))}}}"
        yield line + ("  unknown" if one.unknown else "") + together


def as_object(prediction: Prediction) -> dict[str, object]:
    """The prediction as a program reads it, a line of JSON Lines or an answer over HTTP."""
    together: dict[str, object] = {"transductive": True} if prediction.transductive else {}
    if prediction.error is not None:
        return {"image": prediction.source, "error": prediction.error, **together}
    pairs = zip(prediction.labels, prediction.probabilities, strict=True)
    best = [{"label": label, "probability": round(value, 6)} for label, value in pairs]
    found: dict[str, object] = {"image": prediction.source, "predictions": best}
    if prediction.set is not None:
        found["set"] = list(prediction.set)
    if prediction.unknown is not None:
        found["unknown"] = prediction.unknown
    if prediction.maps is not None:
        found["maps"] = [
            {"label": one.label, "overlay": one.overlay, "array": one.array, "point": [*one.point]}
            for one in prediction.maps
        ]
    return found | together


def rows_of(predictions: Iterable[Prediction]) -> Iterator[tuple[object, ...]]:
    """Rows of COLUMNS, or TOGETHER: one for each class, or one with the error; of SEVERAL one for each image."""
    for one in predictions:
        if one.several_labels:
            yield one.source, *((None, None) if one.error else (one.labels, one.probabilities)), one.error
            continue
        together = (True,) if one.transductive else ()
        if one.error is not None:
            yield one.source, None, None, None, None, None, one.error, *together
            continue
        for rank, (label, value) in enumerate(zip(one.labels, one.probabilities, strict=True), start=1):
            yield one.source, rank, label, value, one.set, one.unknown, None, *together


def _padded(text: str, width: int) -> str:
    shown = printable(text)
    return shown + " " * (width - cell_len(shown))
