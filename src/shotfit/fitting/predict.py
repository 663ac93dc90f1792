"""Predict many images at once: find them, run the model, write a table, CSV or JSONL.

for line in lines(model, find_images(["photos/"]).images, "csv", top=3):
    print(line)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from rich.cells import cell_len

from shotfit.data.finding import Found, find_images
from shotfit.data.pictures import Picture
from shotfit.errors import UsageError
from shotfit.fitting.asked import NOTHING_MORE, Asked
from shotfit.fitting.model import BATCH, Model
from shotfit.fitting.predictions import Prediction
from shotfit.printing import as_csv, as_json, printable
from shotfit.progress import track

__all__ = ["Broken", "Format", "Found", "find_images", "lines"]

Format = Literal["table", "csv", "jsonl"]
Broken = Literal["keep", "skip", "stop"]

COLUMNS = ("image", "rank", "label", "probability", "set", "unknown", "error")


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
