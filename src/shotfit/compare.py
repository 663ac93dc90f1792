"""Many methods, shots and seeds on one task, in one table; an interrupted comparison goes on where it stopped.

    rows = compare(read_task("photos/"), ["zero_shot", "tip_adapter_f"], shots=[1, 16], seeds=[1, 2, 3])

Every run is the sealed fit followed by one evaluation on the test part. Methods are compared as they are: none falls
back to zero-shot. Each finished run is one line of a JSONL file, written at once; a run whose line is there with the
same images, backbone, settings and versions of shotfit is not done again.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import shotfit
from shotfit.data.tasks import Task
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluate import evaluate
from shotfit.fit import fit
from shotfit.methods import find
from shotfit.store import MemoryStore, Store
from shotfit.towers.backbone import Backbone
from shotfit.towers.weights import load_backbone

__all__ = ["Row", "compare", "summarize", "table"]


@dataclass(frozen=True)
class Row:
    """One cell of the table: a method with a number of shots, over the seeds.

    mean, spread: of the accuracy on the test part, a fraction from 0 to 1; the spread is the standard deviation over
    seeds (n - 1), None for one seed. seconds: mean time of a fit.
    """

    method: str
    shots: int
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    mean: float
    spread: float | None
    seconds: float
    test_images: int

    def as_json(self) -> dict[str, Any]:
        """The row as plain data."""
        return asdict(self)


def compare(
    task: Task,
    methods: Sequence[str],
    shots: Sequence[int] = (16,),
    seeds: Sequence[int] = (1,),
    *,
    backbone: str | Backbone = "mini",
    epochs: int | None = None,
    views: int | Literal["center", "fresh"] | None = None,
    store: Store | MemoryStore | None = None,
    memory: int | None = None,
    out: Path | None = None,
    report: Callable[[Mapping[str, Any]], None] | None = None,
) -> list[Row]:
    """Fit and evaluate every method with every number of shots and every seed.

    out: the JSONL file of finished runs (None: nothing is kept). report: called with each run, also with those found in
    the file (`resumed` is true in them).

    Raises UsageError for an unknown method or an empty list, before anything is fitted; ShotfitError for a task
    without test images.
    """
    for name, values in (("methods", methods), ("shots", shots), ("seeds", seeds)):
        if not values:
            raise UsageError(f"There are no {name} to compare: give at least one.")
        if len(set(values)) != len(values):
            raise UsageError(f"The {name} to compare hold one of them twice: name each once.")
    programs = {method: _program(method) for method in methods}
    for number in shots:
        if number < 1:
            raise UsageError(f"shots is {number}; expected 1 or more images a class.")
    if not task.test:
        raise ShotfitError(f"{task.name} has no test images to compare on.")
    loaded = load_backbone(backbone) if isinstance(backbone, str) else backbone
    base = {
        "task": _fingerprint(task),
        "backbone": loaded.fingerprint,
        "epochs": epochs,
        "views": views,
        "version": shotfit.__version__,
    }
    finished = {} if out is None else _read(out)
    runs: list[dict[str, Any]] = []
    for method in methods:
        for number in shots:
            for seed in seeds:
                key = _key(base | {"method": method, "program": programs[method], "shots": number, "seed": seed})
                known = finished.get(key)
                if known is None:
                    model = fit(
                        task.sealed(), method, shots=number, seed=seed, backbone=loaded, epochs=epochs, views=views,
                        check=False, keep=True, store=store, memory=memory,
                    )  # fmt: skip
                    scores = evaluate(model, task.test)
                    run = {
                        "key": key,
                        "method": method,
                        "shots": number,
                        "seed": seed,
                        "accuracy": scores.accuracy,
                        "mean_class_accuracy": scores.mean_class_accuracy,
                        "macro_f1": scores.macro_f1,
                        "calibration_error": scores.calibration_error,
                        "test_images": scores.images,
                        "seconds": model.record["seconds"],
                        "selection": model.record["selection"],
                        "backbone": loaded.name,
                        "task": task.name,
                        "version": shotfit.__version__,
                    }
                    if out is not None:
                        _append(out, run)
                else:
                    run = known
                runs.append(run)
                if report is not None:
                    report(run | {"resumed": known is not None})
    return summarize(runs)


def summarize(runs: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of the table, in the order in which method and shots first appear."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["method"], run["shots"]), []).append(run)
    return [_row(method, number, group) for (method, number), group in groups.items()]


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as lines: a method a line, a number of shots a column, accuracies in percent."""
    methods = list(dict.fromkeys(row.method for row in rows))
    shots = list(dict.fromkeys(row.shots for row in rows))
    cells = {(row.method, row.shots): f"{100 * row.mean:.1f}" + _plus_minus(row.spread) for row in rows}
    lines = [["method", *(f"{number} shot{'s' if number > 1 else ''}" for number in shots)]]
    lines += [[method, *(cells.get((method, number), "-") for number in shots)] for method in methods]
    widths = [max(len(line[column]) for line in lines) for column in range(len(shots) + 1)]
    return [
        "  ".join(
            [f"{line[0]:{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]


def _plus_minus(spread: float | None) -> str:
    return "" if spread is None else f" ± {100 * spread:.1f}"


def _row(method: str, shots: int, runs: Sequence[Mapping[str, Any]]) -> Row:
    accuracies = tuple(float(run["accuracy"]) for run in runs)
    return Row(
        method=method,
        shots=shots,
        seeds=tuple(run["seed"] for run in runs),
        accuracies=accuracies,
        mean=fmean(accuracies),
        spread=stdev(accuracies) if len(accuracies) > 1 else None,
        seconds=fmean(run["seconds"] for run in runs),
        test_images=runs[0]["test_images"],
    )


def _fingerprint(task: Task) -> str:
    """sha256 over the classes, templates, and the content and label of every image of every part, in order."""
    digest = hashlib.sha256(json.dumps([task.classes.names, task.classes.templates]).encode())
    for part in (task.train, task.val, task.test):
        digest.update(b"part")
        for item in part:
            digest.update(f"{item.label} {item.digest or item.path}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _program(method: str) -> str:
    """sha256 of the file that a method stands in, so that a changed one runs again."""
    return hashlib.sha256(Path(inspect.getfile(find(method))).read_bytes()).hexdigest()


def _key(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, dict[str, Any]]:
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
        if (
            isinstance(run, dict)
            and {"key", "method", "shots", "seed", "accuracy", "seconds", "test_images"} <= run.keys()
        ):
            runs[str(run["key"])] = run
    if lines and not runs:
        raise ShotfitError(f"{path} exists and is not a file of finished runs: name another file with --out.")
    return runs


def _append(path: Path, run: Mapping[str, Any]) -> None:
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
