"""Labels that people take along: a CSV file, class folders, or a folder as Hugging Face's `imagefolder` reads it.

    take(pictures, "csv", Path("labels.csv"))           # shotfit fit labels.csv --images photos/
    take(pictures, "folders", Path("sorted"), link=True)

Pictures are copied or linked to, never moved; nothing that is there is overwritten but a CSV file of labels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from shotfit.data.pictures import Picture
from shotfit.data.rows import check_file, write_rows
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import write_new
from shotfit.fitting.predictions import Prediction
from shotfit.fitting.sorting import Sorter
from shotfit.progress import track
from shotfit.server.app.gallery import Shown

__all__ = ["Form", "take"]

Form = Literal["csv", "folders", "imagefolder"]
_BLOCK = 2**20


def take(labelled: Sequence[tuple[Shown, str]], form: str, out: Path, folder: Path, link: bool = False) -> str:
    """Write the labels of pictures of `folder`; gives what was made, in a sentence.

    Raises UsageError for what cannot be written there; ShotfitError for a picture that has gone.
    """
    if form not in get_args(Form):
        raise UsageError(f"There is no form {form!r}: use one of {', '.join(get_args(Form))}.")
    if not labelled:
        raise UsageError("There are no labels yet.")
    try:
        if form == "csv":
            check_file(out)
            if out.exists() and not _is_ours(out):
                raise UsageError(f"{out} is there already, and holds something else: choose another name.")
            write_rows(out, "csv", {"path": "text", "label": "text"}, [(one.path, label) for one, label in labelled])
            return f"Wrote {out}"
        if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
            raise UsageError(f"{out} lies among the pictures: choose a folder beside them.")
        if form == "folders":
            sorter = Sorter(out, sorted({label for _, label in labelled}), link)
            told = [Prediction(one.path, (label,), (1.0,), picture=Picture(one.file)) for one, label in labelled]
            for _ in sorter.placed(track(told, "Copying")):
                pass
        else:
            _imagefolder(labelled, out, link)
    except OSError as error:
        raise ShotfitError(f"{error.filename or out} cannot be written ({error.strerror}).") from None
    return f"{'Linked' if link else 'Copied'} {len(labelled):,} pictures into {out}"


def _imagefolder(labelled: Sequence[tuple[Shown, str]], out: Path, link: bool) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already: choose a new name.")
    out.mkdir(parents=True, exist_ok=True)
    for one, _ in track(labelled, "Copying"):
        target = out / one.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            target.symlink_to(one.file)
        else:
            with one.file.open("rb") as file:
                write_new(target, iter(lambda file=file: file.read(_BLOCK), b""), beside=out)  # type: ignore[misc]
    rows = [(one.path, label) for one, label in labelled]
    write_rows(out / "metadata.csv", "csv", {"file_name": "text", "label": "text"}, rows)


def _is_ours(path: Path) -> bool:
    """Whether a file begins as the labels do that are written here."""
    with path.open("rb") as file:
        return file.read(len(b"path,label\n")) == b"path,label\n" or os.fstat(file.fileno()).st_size == 0
