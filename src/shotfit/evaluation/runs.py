"""The file of finished runs: one JSON object a line, added as soon as its run is finished."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shotfit.errors import ShotfitError
from shotfit.files import LIST_BYTES, UnreadableError, read_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["append_run", "as_bits", "as_text", "check_runs", "read_run", "read_runs"]

START = '{"key": '  # of every line, also of one that was cut off behind it


def read_runs(path: Path) -> dict[str, dict[str, Any]]:
    """Finished runs by key. A line that was cut off when a run was killed, or is not whole, is passed over.

    Raises ShotfitError for a file that cannot be read, or of something else.
    """
    try:
        lines = read_text(path, LIST_BYTES, "a file of finished runs", errors="replace").split("\n")
    except UnreadableError as error:
        if error.missing:
            return {}
        raise ShotfitError(f"{path} {error.reason}: name another file with --out.") from None
    runs = {}
    for line in lines:
        if (run := read_run(line)) is not None:
            runs[str(run["key"])] = run
    if not runs and any(line and not START.startswith(line[: len(START)]) for line in lines):
        raise ShotfitError(f"{path} exists and is not a file of finished runs: name another file with --out.")
    return runs


def read_run(line: str | bytes) -> dict[str, Any] | None:
    """The run of a line; None where it is not whole."""
    try:
        run = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return run if _is_whole(run) else None


def _is_whole(run: Any) -> bool:
    match run:
        case {
            "key": str(),
            "method": str(),
            "shots": int(),
            "seed": int(),
            "seconds": int() | float(),
            "scores": dict(scores),
            "refusal": str() | None,
        }:
            return bool(scores) and all(map(_is_score, scores.values()))
    return False


def _is_score(score: Any) -> bool:
    """The scores of an exam, or None where the method refused it."""
    match score:
        case None | {"accuracy": int() | float(), "images": int()}:
            return True
    return False


def as_text(right: NDArray[Any]) -> str:
    """Which images are right, a bit an image, as base64.

    >>> as_text(np.array([True, False, True]))
    'oA=='
    """
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def as_bits(score: Mapping[str, Any]) -> NDArray[Any] | None:
    """Which images are right, [images], by the scores of a run; None where an older version wrote them.

    >>> as_bits({"images": 3, "right": "oA=="}).tolist()
    [True, False, True]
    """
    try:
        packed = np.frombuffer(base64.b64decode(score["right"], validate=True), np.uint8)
    except (KeyError, TypeError, ValueError):
        return None
    images = score["images"]
    return np.unpackbits(packed)[:images].astype(bool) if len(packed) == (images + 7) // 8 else None


def check_runs(path: Path) -> None:
    """Refuse, before anything is fitted, a file that no run can be added to.

    Raises ShotfitError.
    """
    _append(path, b"")


def append_run(path: Path, run: Mapping[str, Any]) -> None:
    """Add one line in one write, on a line of its own even if the last one was cut off; one process at a time."""
    _append(path, json.dumps(run, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def _append(path: Path, line: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if fcntl is not None:
                with suppress(OSError):  # of a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            torn = file.seek(0, os.SEEK_END) > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write((b"\n" if torn else b"") + line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ShotfitError(f"{path} cannot be written ({error.strerror}): name another file with --out.") from None
