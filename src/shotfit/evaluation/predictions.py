"""What each run of a comparison says image by image, kept as CSV files.

One file for each run and column: image, label, predicted, probability (of the class that was predicted) and
label_probability (of the right one). Its name begins with method, shots and seed for people; the key of the run behind
them tells apart what they do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from shotfit.data.tasks import Item
from shotfit.errors import ShotfitError
from shotfit.evaluation.evaluate import Answers
from shotfit.files import write_atomically
from shotfit.printing import as_csv

__all__ = ["check_folder", "file_name", "write_predictions"]

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


def write_predictions(folder: Path, files: Mapping[str, tuple[Sequence[Item], Answers]]) -> None:
    """Write a file for each name: the images and what was said of them.

    Raises ShotfitError where the folder cannot be written.
    """
    for name, (items, answers) in files.items():
        rows: list[Sequence[object]] = [["image", "label", "predicted", "probability", "label_probability"]]
        for item, label, predicted, probabilities in zip(
            items, answers.labels, answers.predicted, answers.probabilities, strict=True
        ):
            named = answers.class_names[label], answers.class_names[predicted]
            rows.append([str(item.picture), *named, f"{probabilities[predicted]:.6f}", f"{probabilities[label]:.6f}"])
        try:
            write_atomically(folder / name, as_csv(rows).encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise _refused(folder, error) from None


def _refused(folder: Path, error: OSError) -> ShotfitError:
    return ShotfitError(f"{folder} cannot be written ({error.strerror}): name another folder with --keep-predictions.")


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:LONGEST]
