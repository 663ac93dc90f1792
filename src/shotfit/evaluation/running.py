"""One run of a comparison: a sealed fit and its evaluations, described by plain data that any process can carry out.

    ground = Ground(lessons=plan.all_lessons, backbone="mini", ...)     # what all runs share, sent to a process once
    run = Run(key="...", variant="coop+length=4", shots=16, seed=1, lesson=0, ...)
    record = run_alone(ground, run)                                     # the line of the results file, as a dict

`compare` carries runs out one after the other with what it has opened, `jobs.py` in processes of this machine. An
engine for several machines calls `run_alone`: it opens the backbone by its name once a process, and keeps features in
the store that `ground` names.

A run that another process is carrying out is waited for and taken over: while a run lasts its process holds the lock of
a file of its key beside the store, and writes the finished run there for those who wait.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import shotfit
from shotfit.checkpoints import names
from shotfit.checkpoints.weights import load_in
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore, Store
from shotfit.errors import DivergedError, NewClassesError, ShotfitError, plural
from shotfit.evaluation.costs import PeakMemory, prediction_rate, saved_bytes
from shotfit.evaluation.evaluate import Answers, answers
from shotfit.evaluation.predictions import file_name, write_predictions
from shotfit.evaluation.protocols import Exam, Lesson, Protocol
from shotfit.evaluation.runs import append_run, as_text, read_run, read_runs
from shotfit.evaluation.trust import evaluate_trust
from shotfit.evaluation.variants import Variant, read_variant
from shotfit.files import LIST_BYTES
from shotfit.fitting.fit import Needs, RecipeName, fit
from shotfit.fitting.model import Model
from shotfit.fitting.race import AUTO
from shotfit.methods.base import Method
from shotfit.progress import say
from shotfit.towers.backbone import Backbone
from shotfit.towers.precision import Precision

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Ground",
    "Run",
    "Told",
    "asks_for_new",
    "file_names",
    "is_kept",
    "name_of",
    "perform",
    "precision_of",
    "run_alone",
]

# What stands in the line of a run for each column.
MEASURED = (
    "accuracy", "mean_class_accuracy", "macro_f1", "calibration_error", "top5_accuracy", "log_loss", "images",
)  # fmt: skip
PRECISIONS: dict[str, Precision] = {"float32": "float32", "bfloat16": "bfloat16", "int8": "int8"}
UNDER_WAY = "runs"  # folder of the runs that are under way, beside the store's rows


@dataclass(frozen=True)
class Ground:
    """What all runs of a comparison share.

    backbone: the name that it opens by, with its fingerprint, or itself where it has none. store: the folder of the
    store. targets: where the images of targets lie. out, predictions: the file of finished runs, the folder of
    predictions. The rest as in `compare`.
    """

    lessons: tuple[Lesson, ...]
    backbone: str | Backbone
    fingerprint: str
    precision: Precision
    device: str
    store: Path | None
    limit: int | None
    protocol: Protocol
    targets: tuple[str, ...] = ()
    epochs: int | None = None
    lr: float | None = None
    recipe: RecipeName = "auto"
    views: int | Literal["center", "fresh"] | None = None
    validation: Literal["few", "full"] = "few"
    memory: int | None = None
    out: Path | None = None
    predictions: Path | None = None


@dataclass(frozen=True)
class Run:
    """One run. lesson: which of the ground's. settings: all that its result depends on, whose digest is `key`."""

    key: str
    variant: str
    shots: int
    seed: int
    lesson: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """How a sentence names it."""
        return f"{self.variant}, {plural(self.shots, 'shot')}, seed {self.seed}"


@dataclass(frozen=True)
class Told:
    """What a process gives back: the run; whether another process had done it; warnings on the way, with category."""

    run: dict[str, Any]
    resumed: bool = False
    warned: tuple[tuple[type[Warning], str], ...] = ()


def name_of(backbone: Backbone) -> str | Backbone:
    """The name that a process opens a backbone by; the backbone itself where no name stands for it."""
    name = backbone.name
    if backbone.closed:
        return backbone  # pickled by its name, where it has one
    opens = names.find(name) is not None or "@" in name or (bool(name) and Path(name).exists())
    return name if opens and backbone.precision in PRECISIONS else backbone


def precision_of(backbone: Backbone) -> Precision:
    """How `load_in` is told the precision of a backbone."""
    return PRECISIONS.get(backbone.precision, "auto")


@lru_cache(maxsize=1)
def _opened(
    backbone: str | Backbone, fingerprint: str, precision: Precision, device: str, store: Path | None, limit: int | None
) -> tuple[Backbone, Store | MemoryStore]:
    """The backbone and the store of a ground, in this process, which keeps them for its next run.

    Raises ShotfitError where the backbone's name does not stand for the same weights any more.
    """
    loaded = load_in(backbone, precision, device)
    if loaded.fingerprint != fingerprint:
        raise ShotfitError(
            f"{loaded.name} holds other weights than the backbone that is compared: save that one with save_backbone, "
            "and name the folder."
        )
    return loaded, MemoryStore() if store is None else Store(store, limit)


def run_alone(ground: Ground, run: Run, speed: bool = False) -> Told:
    """Carry a run out in a process of its own, or one that does several; the arguments and the result are picklable.

    Raises ShotfitError as `compare` does.
    """
    loaded, store = _opened(
        ground.backbone, ground.fingerprint, ground.precision, ground.device, ground.store, ground.limit
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        told = perform(ground, run, loaded, store, speed)
    heard = dict.fromkeys((one.category, str(one.message)) for one in caught)
    return Told(told.run, told.resumed, tuple(heard))


def perform(ground: Ground, run: Run, loaded: Backbone, store: Store | MemoryStore, speed: bool = False) -> Told:
    """Carry a run out, and add its line to the file of finished runs; or take it over from a process that does it now.

    speed: measure images a second of prediction too.
    """
    lesson, variant = ground.lessons[run.lesson], read_variant(run.variant, ground.lr, ground.epochs, ground.recipe)
    names = file_names(variant, run, lesson)
    folder = store.folder / UNDER_WAY if isinstance(store, Store) else None
    with _under_way(folder, run) as claim:
        known = read_runs(ground.out).get(run.key) if ground.out is not None else None
        written = known is not None
        known = claim.found if known is None else known
        if known is not None and (ground.predictions is None or is_kept(known, names, ground.predictions)):
            if ground.out is not None and not written:
                append_run(ground.out, known)
            return Told(known | {"method": variant.name}, resumed=True)
        record = _done(ground, run, variant, names, loaded, store, speed)
        if ground.out is not None:
            append_run(ground.out, record)
        claim.finish(record)
    return Told(record)


def _done(
    ground: Ground,
    run: Run,
    variant: Variant,
    names: Mapping[str, str],
    loaded: Backbone,
    store: Store | MemoryStore,
    speed: bool,
) -> dict[str, Any]:
    """The line of a run, once it is fitted and judged."""
    lesson, protocol = ground.lessons[run.lesson], ground.protocol
    record = {"key": run.key, "method": variant.name, "shots": run.shots, "seed": run.seed, "protocol": protocol}
    record |= _places(lesson, ground.targets)
    said: dict[str, Answers] = {}
    _encode(lesson, variant, loaded, store)
    try:
        with PeakMemory(loaded.device) as peak:
            model = fit(
                lesson.support(run.shots, run.seed, ground.validation), variant.prototype or AUTO, shots=None,
                seed=run.seed, backbone=loaded, views=ground.views, validation=ground.validation,
                epochs=variant.epochs, lr=variant.lr, steps=variant.steps, recipe=variant.recipe,
                needs=_needs(variant, lesson), check=variant.prototype is None or protocol == "open-set", keep=True,
                store=store, memory=ground.memory, spare_classes=asks_for_new(lesson),
            )  # fmt: skip
        judged, said = _judged(model, lesson)
        record |= judged | {"peak_memory": peak.bytes, "model_bytes": saved_bytes(model)}
        if speed:
            record["images_per_second"] = _speed(model, lesson)
    except DivergedError as error:
        record |= _diverged(lesson, f"{run.said}: {error}")
    record |= {"backbone": loaded.name, "version": shotfit.__version__, "settings": run.settings, "date": _now()}
    if ground.predictions is not None:
        write_predictions(ground.predictions, {names[own]: said[own] for own in said})
        record["predictions"] = {column: names[column] for column in said}
    return record


def _encode(lesson: Lesson, variant: Variant, loaded: Backbone, store: Store | MemoryStore) -> None:
    """Encode what the exams show in one go, where the frozen features are asked for: batches as large as they can be,
    which processes that begin at the same time share out.
    """
    plain = any(type(one).image_features is Method.image_features for one in variant.entrants(asks_for_new(lesson)))
    items = [item for exam in lesson.exams for item in (*exam.items, *exam.unknown)]
    if plain and items:
        Frozen(loaded, store).image(ImagePool(items).all())


class _Claim:
    """A run that this process carries out; `found` where another one has just done it, which was waited for."""

    def __init__(self, descriptor: int | None = None, found: dict[str, Any] | None = None) -> None:
        self.descriptor, self.found = descriptor, found

    def finish(self, run: Mapping[str, Any]) -> None:
        """Have those who wait take the run over."""
        if self.descriptor is not None:
            with suppress(OSError):  # of a full disk: they do it themselves
                os.write(self.descriptor, json.dumps(run).encode())


@contextmanager
def _under_way(folder: Path | None, run: Run) -> Iterator[_Claim]:
    """While the block lasts, other processes that come to the same run wait here."""
    if folder is None or fcntl is None:
        yield _Claim()
        return
    path, waited = folder / f"{run.key}.run", False
    claim: _Claim | None = None
    try:
        while claim is None:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:  # the folder has just gone with the last run
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"note: waiting for another process, which does this run now: {run.said}.")
                waited = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                os.truncate(descriptor, 0)
                claim = _Claim(descriptor)
            else:
                found = read_run(os.pread(descriptor, LIST_BYTES, 0)) if waited else None
                os.close(descriptor)
                claim = _Claim(found=found) if found is not None and found["key"] == run.key else None
    except OSError:  # a store that cannot be written to, or without locks
        claim = _Claim()
    if claim.descriptor is None:  # outside of what is tried above: an error of the run is its own
        yield claim
        return
    try:
        yield claim
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
            folder.rmdir()  # if nothing else is under way
        os.close(claim.descriptor)


def asks_for_new(lesson: Lesson) -> bool:
    """Whether a lesson is examined in classes that are not fitted."""
    return any(exam.classes is not None for exam in lesson.exams)


def file_names(variant: Variant, run: Run, lesson: Lesson) -> dict[str, str]:
    """The file of predictions of each column."""
    return {
        exam.column: file_name(variant.method, run.shots, run.seed, run.key, exam.column, number)
        for number, exam in enumerate(lesson.exams)
    }


def is_kept(run: Mapping[str, Any], names: Mapping[str, str], folder: Path) -> bool:
    """Whether the predictions of a finished run are there."""
    judged = [column for column, scores in run["scores"].items() if scores is not None]
    return all(column in names and (folder / names[column]).is_file() for column in judged)


def _needs(variant: Variant, lesson: Lesson) -> Needs | None:
    """What a race is to look for."""
    return "new-classes" if variant.prototype is None and asks_for_new(lesson) else None


def _judged(model: Model, lesson: Lesson) -> tuple[dict[str, Any], dict[str, Answers]]:
    """The scores of a fitted model in each exam, None where it refuses the exam's classes, and what it said in each."""
    scores: dict[str, Any] = {}
    said: dict[str, Answers] = {}
    refusal = None
    for exam in lesson.exams:
        try:
            judged = _asked(model, exam)
        except NewClassesError as error:
            scores[exam.column], refusal = None, str(error)
            continue
        if exam.unknown:
            if model.trust is None:
                scores[exam.column], refusal = None, "no image was held out, so that nothing can be told apart"
                continue
            apart = evaluate_trust(judged, exam.items, unknown=exam.unknown)
            scores[exam.column] = {"accuracy": getattr(apart, exam.measure), "images": len(exam.items)}
            continue
        found = said[exam.column] = answers(judged, exam.items, exam.among)
        measured = found.scores()
        scores[exam.column] = {name: getattr(measured, name) for name in MEASURED} | {"right": as_text(found.right)}
    record = {name: model.record[name] for name in ("fitted_method", "seconds", "selection", "support_images")}
    tasks = [task.name for task in lesson.tasks]
    return {"tasks": tasks, "scores": scores, "refusal": refusal} | record, said


def _diverged(lesson: Lesson, refusal: str) -> dict[str, Any]:
    """What stands in the place of `_judged` where the fit has no model to judge."""
    scores = {exam.column: None for exam in lesson.exams}
    record = {"seconds": 0.0, "selection": "", "support_images": 0}
    return {"tasks": [task.name for task in lesson.tasks], "scores": scores, "refusal": refusal} | record


def _asked(model: Model, exam: Exam) -> Model:
    """The fitted model for the classes of an exam."""
    if exam.classes is not None:
        return model.for_classes(exam.classes)
    return model if exam.task is None else model.for_task(exam.task)


def _places(lesson: Lesson, targets: Sequence[str]) -> dict[str, Any]:
    """Where the images of a run lie, and the templates of their prompts."""
    return {
        "data": [str(task.source) for task in lesson.tasks],
        "targets": list(targets),
        "templates": [task.classes.templates for task in lesson.tasks],
    }


def _speed(model: Model, lesson: Lesson) -> float | None:
    """Images a second on the first exam that the model takes."""
    for exam in lesson.exams:
        try:
            return prediction_rate(_asked(model, exam), [item.picture for item in exam.items])
        except NewClassesError:
            continue
    return None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
