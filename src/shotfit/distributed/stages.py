"""What the workers of a cluster do with parts: decode them, run the model on them, write their rows.

Rows of Ray Data's blocks are one part each. What goes wrong goes along as a row, so that the process that asked says it
in its own words; what Ray raises is left to faults of the cluster. A worker's process serves one job.
"""

from __future__ import annotations

import os
import pickle
import platform
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from shotfit.data.parts import Part
from shotfit.engine.allocator import kept_memory
from shotfit.errors import ShotfitError
from shotfit.fitting.jobs import Job, Seen, Shown, decode
from shotfit.fitting.part_folder import PartFolder

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Decoding", "Failed", "Tower", "handed", "stand_in", "taken"]


@dataclass(frozen=True)
class Failed:
    """Why a part could not be done: a sentence, and whether it is one of shotfit's own (its exit code) or a bug (0)."""

    sentence: str
    exit_code: int = 0

    @classmethod
    def of(cls, error: Exception) -> Failed:
        """What an error says."""
        if isinstance(error, ShotfitError):
            return cls(str(error), error.exit_code)
        if isinstance(error, OSError):
            return cls(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), ShotfitError.exit_code)
        return cls(f"{type(error).__name__}: {error}")


class Decoding:
    """A worker that decodes parts: as `shown`, with paths that begin in `place`."""

    def __init__(self, shown: Shown, place: str) -> None:
        torch.set_num_threads(1)
        self.kept = ExitStack()
        self.kept.enter_context(kept_memory())
        self.shown, self.place = shown, place

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Parts with their pixels."""
        for place, packed in _rows(rows, "part"):
            seen, pixels = handed(self._seen(packed)) if packed else (b"", b"")
            yield pa.table({
                "place": pa.array([place], pa.int64()),
                "part": pa.array([packed], pa.large_binary()),
                "seen": pa.array([seen], pa.large_binary()),
                "pixels": _cell(pixels),
            })  # fmt: skip

    def _seen(self, packed: bytes) -> Seen | Failed:
        try:
            stand_in(self.place)
            part: Part = pickle.loads(packed)
            return decode(part.pictures(), self.shown)
        except Exception as error:
            return Failed.of(error)


class Tower:
    """A worker with a model: parts that are decoded become files of the folder.

    job: pickled. asked: what the folder's parts depend on. place: where paths begin.
    """

    def __init__(self, job: bytes, folder: Path, asked: Mapping[str, Any], place: str) -> None:
        torch.set_num_threads(1)
        self.kept = ExitStack()
        self.kept.enter_context(kept_memory())
        self.failed: bytes | None = None
        try:
            stand_in(place)
            self.job: Job = pickle.loads(job)
            self.folder = PartFolder(folder, asked)
            _check_alike(self.job.asked, asked)
            self.job.prepare()
        except Exception as error:  # told with the first part: Ray would start the worker again and again
            self.failed = pickle.dumps(Failed.of(error))

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """How many pictures were done, and how many of them are broken."""
        for place, packed, seen, pixels in _rows(rows, "part", "seen", "pixels"):
            pictures = broken = 0
            failed = self.failed or b""
            if packed and not failed:
                try:
                    pictures, broken = self._do(pickle.loads(packed), taken(seen, pixels))
                except Exception as error:
                    failed = pickle.dumps(Failed.of(error))
            yield pa.table({
                "place": pa.array([place], pa.int64()),
                "pictures": pa.array([pictures], pa.int64()),
                "broken": pa.array([broken], pa.int64()),
                "failed": pa.array([failed], pa.binary()),
            })  # fmt: skip

    def _do(self, part: Part, seen: Seen | Failed) -> tuple[int, int]:
        if isinstance(seen, Failed):
            raise _again(seen)
        table = self.job.run(seen)
        broken = self.job.broken(seen, table)
        self.folder.write(part, table, broken)
        return len(seen), broken


def handed(seen: Seen | Failed) -> tuple[bytes, Any]:
    """What was decoded in two cells, the second of which is its pixels as they lie in memory: nobody copies them."""
    pixels = list[pickle.PickleBuffer]()
    told = pickle.dumps(seen, 5, buffer_callback=pixels.append)
    return told, pixels[0].raw() if pixels else b""


def taken(told: Any, pixels: Any) -> Seen | Failed:
    """The way back; the pixels may not be written to."""
    found: Seen | Failed = pickle.loads(told, buffers=[pixels])
    return found


def _cell(content: Any) -> pa.Array:
    """A column of one row, whose bytes are not copied."""
    held = pa.py_buffer(content)
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(array("q", [0, held.size])), held])


def _rows(rows: pa.Table, *columns: str) -> Iterable[tuple[Any, ...]]:
    """Place and other columns of each row; what is large is not copied."""
    for number in range(rows.num_rows):
        cells = (rows.column(name)[number].as_buffer() for name in columns)
        yield (rows.column("place")[number].as_py(), *map(_bytes, cells))


def _bytes(buffer: Any) -> Any:
    return memoryview(buffer)


def _again(failed: Failed) -> Exception:
    if not failed.exit_code:
        return RuntimeError(failed.sentence)
    error = ShotfitError(failed.sentence)
    error.exit_code = failed.exit_code
    return error


def stand_in(place: str) -> None:
    """Have this process in the folder that the caller is in, from which paths begin. Raises ShotfitError."""
    try:
        if str(Path.cwd()) != place:
            os.chdir(place)
    except OSError as error:
        raise ShotfitError(
            f"{place} is not a folder on {platform.node()}; with --engine ray every machine has the folders of the "
            "command, of the pictures, of the model and of --out under the same paths."
        ) from error


def _check_alike(mine: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises ShotfitError where this machine would compute other rows than the one that asked."""
    others = sorted(name for name, value in mine.items() if asked.get(name) != value)
    if others:
        name = others[0]
        raise ShotfitError(
            f"{platform.node()} would compute other rows ({name}: {mine[name]!s:.40} there, {asked.get(name)!s:.40} "
            "here); give --precision, and the same model on every machine."
        )
