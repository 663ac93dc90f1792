"""A folder of parts: numbered Parquet files of one job, each whole or not there, and what job they are of.

    folder = PartFolder(Path("labels"), job.asked | {"sources": ["photos/"], "part_size": 512})
    folder.begin()
    if folder.finished(part) is None:
        folder.write(part, table, broken=0)

`job.json` says what the rows depend on; another job is refused. A part says in its metadata which pictures it is of, so
it counts only while the sources list these. Several processes may write different parts at once. Files that shotfit
did not write are left alone, and a folder that held others before the first part is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotfit.data.containers import arrow
from shotfit.data.parts import Part
from shotfit.errors import ShotfitError, UsageError, first_few
from shotfit.files import SETTINGS_BYTES, TEMPORARY, UnreadableError, can_hold, read_text, write_new, writing
from shotfit.fitting.folder import SYSTEM_FILES
from shotfit.printing import cut

if TYPE_CHECKING:
    import pyarrow

__all__ = ["JOB", "Finished", "PartFolder", "name_of"]

JOB = "job.json"
FORMAT = 1
KEY = b"shotfit"  # of the metadata of a part

_NAME = re.compile(r"part-(\d{5,12})\.parquet")


def name_of(index: int) -> str:
    """The name of a part's file.

    >>> name_of(7)
    'part-00007.parquet'
    """
    return f"part-{index:05}.parquet"


@dataclass(frozen=True)
class Finished:
    """A part that is there: how many pictures it is of, and how many of them could not be read."""

    pictures: int
    broken: int


class PartFolder:
    """The parts of a job in `folder`. asked: all that rows depend on, but which pictures a part has."""

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self.folder, self.asked = folder, dict(asked)
        self.job = hashlib.sha256(json.dumps(self.asked, sort_keys=True).encode()).hexdigest()[:32]
        self._there = set[int]()  # numbers of the parts that were there in the beginning

    def check(self) -> None:
        """Refuse, in a sentence, a folder that this job cannot write to; nothing is written.

        Raises UsageError for a place that is no folder, holds other files and no parts, or the parts of another job.
        """
        place = self.folder
        if place.parts and place.parts[0] == "hf:":
            raise UsageError(f"--out {place} is on the hub: name a folder.")
        if (place.exists() and not place.is_dir()) or not can_hold(place / "_"):
            raise UsageError(f"--out {place} is no folder that files can be put into: name another one.")
        if not place.exists():
            return
        names = [entry.name for entry in os.scandir(place)]
        self._there = {int(found[1]) for name in names if (found := _NAME.fullmatch(name))}
        if JOB in names:
            self._compare()
        elif others := sorted(n for n in names if n not in SYSTEM_FILES and not n.startswith(TEMPORARY)):
            raise UsageError(f"--out {place} holds {first_few(others)} and no {JOB}: name a new or an empty folder.")

    def begin(self) -> None:
        """Make the folder and write down the job, unless another process of the same job just has.

        Raises as `check` does, and OSError.
        """
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / JOB).exists():
            return
        content = json.dumps({"format": FORMAT, "job": self.job, "asked": self.asked}, indent=2)
        try:
            write_new(self.folder / JOB, [f"{content}\n".encode()], beside=self.folder)
        except FileExistsError:
            self._compare()

    def finished(self, part: Part) -> Finished | None:
        """What is there of a part; None where it is not, is cut off, or is of other pictures.

        Raises ShotfitError for a file of its name that shotfit did not write.
        """
        found = self._told(part.index) if part.index in self._there else None
        if found is None or (found["pictures"], found["count"]) != (part.digest, len(part)):
            return None
        return Finished(found["count"], found["broken"])

    def was_there(self, part: Part) -> bool:
        """Whether a file of its name was there in the beginning, whatever is in it."""
        return part.index in self._there

    def write(self, part: Part, table: pyarrow.Table, broken: int) -> None:
        """Write the rows of a part; an older file of its name is replaced. Raises OSError."""
        pa = arrow()
        told = {"job": self.job, "part": part.index, "start": part.start, "count": len(part)}
        told |= {"pictures": part.digest, "broken": broken, "rows": table.num_rows}
        path = self.folder / name_of(part.index)
        marked = table.replace_schema_metadata({KEY: json.dumps(told).encode()})
        try:
            with writing(path) as file:
                # a dictionary of numbers that are all different takes eight times as long, and half as much room again
                pa.parquet.write_table(marked, file, use_dictionary="features" not in table.column_names)
        except pa.ArrowException as error:
            raise ShotfitError(f"{path} cannot be written ({' '.join(str(error).split())[:200]}).") from error

    def remove_beyond(self, parts: int, share: int = 1, shares: int = 1) -> int:
        """Remove those of this share that were there and that the sources no longer have; how many they were."""
        removed = 0
        for index in sorted(self._there):
            if index >= parts and index % shares == share - 1 and self._told(index) is not None:
                (self.folder / name_of(index)).unlink(missing_ok=True)
                removed += 1
        return removed

    def _compare(self) -> None:
        """Raises UsageError where `job.json` is of another job."""
        path = self.folder / JOB
        try:
            found = json.loads(read_text(path, SETTINGS_BYTES, "what parts are of"))
            asked = found["asked"]
            known = found["format"] == FORMAT and isinstance(asked, dict)
        except (UnreadableError, ValueError, KeyError, TypeError, RecursionError):
            known = False
        if not known:
            raise UsageError(f"{path} is not one that this shotfit wrote: name another --out.")
        if asked != self.asked:
            raise UsageError(
                f"--out {self.folder} holds the parts of another job ({self._difference(asked)}): name another folder, "
                "or do the same again."
            )

    def _difference(self, asked: Mapping[str, Any]) -> str:
        """What differs, in a few words."""
        for name, words in _WORDS.items():
            if asked.get(name) != self.asked.get(name):
                return words
        names = sorted(name for name in {*asked, *self.asked} if asked.get(name) != self.asked.get(name))
        name = names[0]
        there, now = (cut(str(values.get(name)), 60) for values in (asked, self.asked))
        return f"{name.replace('_', ' ')}: {there} there, {now} now"

    def _told(self, index: int) -> dict[str, Any] | None:
        """The metadata of a part of this job; None where the file is cut off or gone, or of another job."""
        pa, path = arrow(), self.folder / name_of(index)
        try:
            with pa.parquet.ParquetFile(path, memory_map=False) as file:
                metadata, rows = file.schema_arrow.metadata or {}, file.metadata.num_rows
        except (pa.ArrowException, OSError):
            return None
        if KEY not in metadata:
            raise ShotfitError(f"{path} was not written by shotfit, and would be replaced: move it elsewhere.")
        try:
            match json.loads(metadata[KEY]):
                case {
                    "job": self.job,
                    "part": int(number),
                    "pictures": str(),
                    "count": int(),
                    "broken": int(),
                    "rows": int(count),
                } as told if number == index and count == rows:
                    return dict(told)
        except (ValueError, RecursionError):
            pass
        return None


_WORDS = {
    "what": "predictions and features do not go together",
    "sources": "of other sources",
    "model": "of another model",
    "method": "of another model",
    "backbone": "of another backbone",
}
