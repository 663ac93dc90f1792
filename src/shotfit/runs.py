"""The file of finished runs: one JSON object a line, added as soon as its run is finished."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shotfit.errors import ShotfitError

__all__ = ["append_run", "read_runs"]

NEEDED = {"key", "method", "shots", "seed", "scores", "seconds"}


def read_runs(path: Path) -> dict[str, dict[str, Any]]:
    """Finished runs by key. A line that was cut off when a run was killed is passed over."""
    if not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ShotfitError(f"{path} cannot be read ({error.strerror}): name another file with --out.") from None
    runs = {}
    for line in lines:
        try:
            run = json.loads(line)
        except ValueError:
            continue
        if isinstance(run, dict) and run.keys() >= NEEDED:
            runs[str(run["key"])] = run
    if lines and not runs:
        raise ShotfitError(f"{path} exists and is not a file of finished runs: name another file with --out.")
    return runs


def append_run(path: Path, run: Mapping[str, Any]) -> None:
    """Add one line in one write, on a line of its own even if the last one was cut off."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            torn = file.seek(0, os.SEEK_END) > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write((b"\n" if torn else b"") + json.dumps(run, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ShotfitError(f"{path} cannot be written ({error.strerror}): name another file with --out.") from None
