"""`shotfit predict --boxes`: the boxes of a file get labels, or become rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shotfit.commands.arguments import first_given
from shotfit.commands.console import to
from shotfit.errors import LEFT_OUT, UsageError, plural

if TYPE_CHECKING:
    from shotfit.data.detections.boxes import Detections
    from shotfit.fitting.asked import Asked
    from shotfit.fitting.model import Model
    from shotfit.fitting.predictions import Prediction

__all__ = ["check_boxes", "predict_into_boxes"]


def check_boxes(out: Path | None, form: str | None, images: object, own: Mapping[str, object], rows: object) -> None:
    """Refuse what --boxes does not go with.

    own: whether each flag was given that never goes with it, rows: those that go with rows alone. Raises UsageError.
    """
    if images:
        raise UsageError("--boxes names its pictures: leave other images out (--images DIR says where they lie).")
    flag = first_given(own)
    if flag is not None:
        raise UsageError(f"{flag} does not go with --boxes: leave one of them out.")
    if form is None and out is None:
        raise UsageError("--boxes writes the same format back: add --out, or --format table, csv or jsonl for rows.")
    if form is None and rows:
        raise UsageError("--top, --coverage and --unknown go with rows, a box each: add --format, such as csv.")
    if form in ("label-studio", "fiftyone"):
        raise UsageError(
            f"--format {form} is of whole pictures: leave it out, and boxes keep the format that they have."
        )


def predict_into_boxes(
    model: Model,
    found: Detections,
    padding: float,
    out: Path | None,
    form: str | None,
    top: int,
    asked: Asked,
    strict: bool,
    skip_broken: bool,
    lenient: bool,
) -> None:
    """Predict the boxes and write their file again; with a format, print or write a row for each."""
    from shotfit.fitting.predict import as_lines, form_for, write
    from shotfit.fitting.relabelling import predict_boxes, write_labels

    say = to(sys.stderr)
    names = model.one_task().names
    said = predict_boxes(model, found, padding, top, strict, asked, lenient)
    pictures = plural(len(set(found.boxes.of)), "picture")
    around = f", with {padding:g} of their sides around them" if padding else ""
    say(f"read as {found.reader}: {plural(len(found), 'box', 'boxes')} of {pictures}{around}")
    for note in found.notes:
        say(f"note: {note}")
    if form is None:
        assert out is not None
        done = write_labels(out, found, names, said, lambda why: say(f"not labelled: {' '.join(why.split())}"))
        kept = f", {plural(done.kept, 'box', 'boxes')} as before" if done.kept else ""
        say(f"written: {out}: {plural(done.labelled, 'box', 'boxes')} labelled{kept}")
        if done.kept and not skip_broken:
            raise typer.Exit(LEFT_OUT)
        return
    chosen, broken = form_for(form, out), 0

    def rows() -> Iterator[Prediction]:
        nonlocal broken
        for _, one in said:
            broken += one.error is not None
            if one.error is None or not skip_broken:
                yield one

    if out is not None:
        write(rows(), out, chosen, names)
        say(f"written: {out}")
    else:
        say_row = to(sys.stdout) if chosen == "table" or sys.stdout.isatty() else partial(print, flush=True)
        for line in as_lines(rows(), chosen, names):
            say_row(line)
    if broken and not skip_broken:
        raise typer.Exit(LEFT_OUT)
