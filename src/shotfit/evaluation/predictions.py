"""What models say image by image, in files: image, label, predicted, probability (of the class that was predicted) and
label_probability (of the right one).

A comparison keeps a CSV file for each run and column. Its name begins with method, shots and seed for people; the key
of the run behind them tells apart what they do not. An evaluation writes one file of any format of `data/rows.py`, with
whether the prediction is right, and what else was asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from shotfit.data.containers import arrow
from shotfit.data.rows import Columns, Kind, check_file, form_of, write_rows
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.evaluate import Answers
from shotfit.fitting.asked import Verdict

__all__ = ["check_folder", "check_rows_file", "file_name", "write_answers", "write_predictions"]

_COLUMNS: Columns = {
    "image": "text",
    "label": "text",
    "predicted": "text",
    "probability": "number",
    "label_probability": "number",
}
LONGEST = 40  # letters of a name's part


def file_name(method: str, shots: int, seed: int, key: str, column: str, number: int) -> str:
    """The file of a run's column, of which it is the numbered one; safe on every system, whatever the names are.

    >>> file_name("coop", 16, 1, "0f3a", "../my photos", 0)
    'coop-16-1-0f3a-0-my_photos.csv'
    """
    parts = [_safe(method), str(shots), str(seed), _safe(key), str(number), _safe(column)]
    return "-".join(part for part in parts if part) + ".csv"


def check_folder(folder: Path) -> None:
    """Make the folder, or refuse it before anything is fitted.

    Raises ShotfitError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error) from None


def write_predictions(folder: Path, files: Mapping[str, Answers]) -> None:
    """Write a file for each name: what was said of images.

    Raises ShotfitError where the folder cannot be written.
    """
    for name, answers in files.items():
        try:
            write_rows(folder / name, "csv", _COLUMNS, _rows(answers))
        except OSError as error:
            raise _refused(folder, error) from None


def write_answers(
    path: Path,
    said: Mapping[str, Answers],
    verdicts: Sequence[Verdict] = (),
    several: bool = False,
) -> None:
    """Write a row for each image, in the format that the file's ending says.

    said: by task, which has a column where there are `several`. verdicts: of the images of all tasks; where one asks
    for a set, or a mark of unknown images, there is a column for it; so there is where images were predicted together.

    Raises as `write_rows` does.
    """
    asks_set = any(one.set is not None for one in verdicts)
    asks_unknown = any(one.unknown is not None for one in verdicts)
    together = any(answers.transductive for answers in said.values())
    columns: dict[str, Kind] = {"task": "text", **_COLUMNS, "right": "flag", "set": "texts", "unknown": "flag"}
    columns |= {"transductive": "flag"}
    asked_for = {"task": several, "set": asks_set, "unknown": asks_unknown, "transductive": together}
    for name, is_asked in asked_for.items():
        if not is_asked:
            del columns[name]
    more = iter(verdicts)

    def rows() -> Iterator[tuple[object, ...]]:
        for task, answers in said.items():
            for row, right in zip(_rows(answers), answers.right.tolist(), strict=True):
                verdict = next(more, Verdict())
                asked = [*([verdict.set] if asks_set else []), *([verdict.unknown] if asks_unknown else [])]
                yield (*([task] if several else []), *row, right, *asked, *([answers.transductive] if together else []))

    write_rows(path, form_of(path) or "csv", columns, rows())


def check_rows_file(path: Path) -> None:
    """Refuse a file that is of no format for rows, or that cannot be written, before anything is computed for it.

    Raises UsageError.
    """
    form = form_of(path)
    if form is None:
        raise UsageError(f"--out {path} has no ending that says its format: name a .csv, .jsonl or .parquet file.")
    if form == "parquet":
        arrow()
    check_file(path)


def _rows(answers: Answers) -> Iterator[tuple[object, ...]]:
    for item, label, predicted, probabilities in zip(
        answers.items, answers.labels, answers.predicted, answers.probabilities, strict=True
    ):
        named = answers.class_names[label], answers.class_names[predicted]
        what = item.picture.clip or str(item.picture)
        yield (what, *named, float(probabilities[predicted]), float(probabilities[label]))


def _refused(folder: Path, error: OSError) -> ShotfitError:
    return ShotfitError(f"{folder} cannot be written ({error.strerror}): name another folder with --keep-predictions.")


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:LONGEST]
