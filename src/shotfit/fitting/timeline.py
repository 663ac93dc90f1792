"""What the frames of clips say one after the other, as rows: clip, frame, time, label, probability.

gathered = Timelines()
write(gathered.kept(predictions(...)), out, "csv")      # as ever
gathered.write(Path("timeline.csv"))                    # .csv, .jsonl or .parquet
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from shotfit.data.containers import arrow
from shotfit.data.rows import Columns, check_file, form_of, write_rows
from shotfit.errors import UsageError
from shotfit.fitting.predictions import Prediction, Timeline

__all__ = ["DRAWN", "Timelines", "check_timeline"]

DRAWN = (".svg", ".png")
MOST = 50_000_000  # probabilities of a call: some 200 MB
COLUMNS: Columns = {"clip": "text", "frame": "whole", "time": "number", "label": "text", "probability": "number"}


def check_timeline(out: Path) -> None:
    """Refuse a file that cannot be written, or whose ending says no format. Raises UsageError."""
    if out.suffix.lower() not in DRAWN and form_of(out) is None:
        raise UsageError(f"--timeline {out} has no ending that says its format: .csv, .jsonl, .parquet, .svg or .png.")
    if form_of(out) == "parquet":
        arrow()
    check_file(out)


class Timelines:
    """The timelines of the clips among predictions, by the clips' names."""

    def __init__(self) -> None:
        self.of: dict[str, Timeline] = {}
        self._held = 0

    def kept(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """The same predictions, whose timelines are kept. Raises UsageError for more than MOST probabilities."""
        for one in predictions:
            if one.timeline is not None:
                self._held += one.timeline.probabilities.size
                if self._held > MOST:
                    raise UsageError(f"--timeline keeps {MOST:,} probabilities at most: predict fewer clips at a time.")
                self.of[one.source] = one.timeline
            yield one

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Rows of COLUMNS: the frames of each clip, and the classes of each frame in the model's order."""
        for clip, one in self.of.items():
            for number, (time, values) in enumerate(zip(one.times, one.probabilities, strict=True)):
                for label, value in zip(one.class_names, values.tolist(), strict=True):
                    yield clip, number, time, label, value

    def write(self, out: Path) -> None:
        """Write the rows in the format that the file's ending says."""
        write_rows(out, form_of(out) or "csv", COLUMNS, self.rows())
