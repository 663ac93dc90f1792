"""Many methods, shots and seeds in one table, by a protocol; an interrupted comparison goes on where it stopped.

    rows = compare(read_task("photos/"), ["zero_shot", "coop", "coop+length=4"], shots=[1, 16], seeds=[1, 2, 3])
    rows = compare(photos, ["coop", "clip_adapter"], protocol="base-to-new")
    rows = compare(photos, ["coop"], protocol="domain-shift", targets=[sketches, cartoons])
    rows = compare(read_tasks("tasks.toml"), ["coop", "softcpt"], leave_out="flowers")
    rows = compare([photos, flowers], ["coop", "linear_probe"], apart=True)

Every run is a sealed fit followed by its evaluations (`protocols.py` says on what). Methods are compared as they are:
none falls back to zero-shot. Each finished run is one line of a JSONL file, written at once: its scores, which images
are right, what it cost, where the data lie, all settings and the date. A run whose line is there with the same images,
backbone, settings and versions of shotfit is not done again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import shotfit
from shotfit.calls import checked
from shotfit.checkpoints.weights import load_in
from shotfit.data.given import Data, Labels, tasks_of
from shotfit.data.label_sets import check_alone
from shotfit.data.tasks import ClassList, Item, Task
from shotfit.engine.allocator import kept_memory
from shotfit.engine.frozen import Frozen
from shotfit.engine.store import MemoryStore, Store, cache_folder, open_store
from shotfit.errors import UsageError
from shotfit.evaluation.jobs import Engine, in_processes, is_measured
from shotfit.evaluation.predictions import check_folder
from shotfit.evaluation.protocols import (
    Lesson,
    Plan,
    Protocol,
    check_protocol,
    plan_data_sets,
    plan_protocol,
    plan_tasks,
    warn_of_shared_images,
)
from shotfit.evaluation.published import with_published
from shotfit.evaluation.rows import Rows, summarize
from shotfit.evaluation.running import (
    Ground,
    Run,
    Told,
    asks_for_new,
    file_names,
    is_kept,
    name_of,
    perform,
    precision_of,
)
from shotfit.evaluation.runs import check_runs, read_runs
from shotfit.evaluation.variants import Variant, read_variant
from shotfit.files import LIST_BYTES, sha256
from shotfit.fitting.fit import RecipeName, check_numbers
from shotfit.fitting.program import program_of
from shotfit.methods.base import Method, check_prompts
from shotfit.progress import say
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import Encoder
from shotfit.towers.precision import Precision

__all__ = ["compare", "plan_of", "read_variants"]

Report = Callable[[Mapping[str, Any]], None]


@checked
def compare(
    data: Data,
    methods: Sequence[str],
    shots: Sequence[int] = (16,),
    seeds: Sequence[int] = (1,),
    *,
    labels: Labels | None = None,
    protocol: Protocol = "few-shot",
    targets: Sequence[Task] = (),
    leave_out: str | Sequence[str] = (),
    apart: bool = False,
    backbone: str | Backbone | Encoder = "mini",
    epochs: int | None = None,
    recipe: RecipeName = "auto",
    lr: float | None = None,
    views: int | Literal["center", "fresh"] | None = None,
    validation: Literal["few", "full"] = "few",
    store: Store | MemoryStore | None = None,
    memory: int | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    out: str | Path | None = None,
    keep_predictions: str | Path | None = None,
    speed: bool = False,
    jobs: int = 1,
    engine: Engine | None = None,
    report: Report | None = None,
) -> Rows:
    """Fit every method with every number of shots and every seed, and evaluate each fit as the protocol says.

    data, labels: what `fit` takes: a task, or several, each judged on its own test part; a path, images or a table;
    methods that can are fitted to all of them at once.
    leave_out: of several tasks, those that are predicted from their names by the methods that can; zero_shot is
    added beside them. apart: several tasks are data sets, each fitted on its own by every method. methods: names,
    with options where they are to differ: `coop+length=4+lr=0.01`; auto is the race of `fit`, among methods that
    predict new classes where the protocol asks for them. targets: what transfer and domain-shift evaluate on, all
    their images. recipe: of methods whose name does not say one (mma@paper). epochs, lr: in place of the recipes'.
    validation, memory, precision, device: as in `fit`. out: the JSONL file of finished runs (None: nothing is kept).
    keep_predictions: a folder for a CSV file of each run and column, image by image; a finished run that has none
    there is done again. speed: measure images a second of prediction too, once for each method and number of shots.
    jobs: so many runs side by side, each in a process of its own with its share of the cores, on one store; the rows
    are the same. A script that asks for it calls under `if __name__ == "__main__":`, since each process imports it.
    engine: what carries the runs out, as `shotfit.distributed` has one; None: this machine.
    report: called with each run, also with those found in the file (`resumed` is true in them), and told its number,
    the total and how many are under way.

    A method that predicts no new classes has no rows in the columns that ask for it.

    Raises UsageError for an unknown method, option or protocol or an empty list, and ShotfitError for tasks that the
    protocol cannot use, before anything is fitted.
    """
    out, keep_predictions = (None if place is None else Path(place) for place in (out, keep_predictions))
    if leave_out and "zero_shot" not in methods:
        methods = ["zero_shot", *methods]
    variants = read_variants(methods, shots, seeds, lr, epochs, views, recipe)
    tasks = tasks_of(data, labels, cache=cache_folder(), shots=max(shots), warned=lambda said: say(f"warning: {said}"))
    check_alone(tasks, "compare")
    data = tasks[0] if len(tasks) == 1 and not isinstance(data, (list, tuple)) else tasks
    plan = plan_of(data, protocol, targets, leave_out, apart)
    if isinstance(data, Task):
        warn_of_shared_images(data, targets)
    if jobs < 1:
        raise UsageError(f"jobs is {jobs}; expected 1 or more runs side by side.")
    loaded = load_in(backbone, precision, device)
    store = open_store() if store is None else store
    _check_prompts(plan, loaded)
    for lesson in plan.all_lessons:  # refused before the first fit, not after it
        support = lesson.support(shots[0], seeds[0], validation)
        for variant in variants:
            if lesson in plan.lessons_of(variant.several_tasks):
                for method in variant.entrants(asks_for_new(lesson)):
                    method.attach(Frozen(loaded, MemoryStore()), [task.classes for task in support])
                    method.check()
    finished = {} if out is None else read_runs(out)
    if out is not None:
        check_runs(out)
    if keep_predictions is not None:
        check_folder(keep_predictions)
    lessons = plan.all_lessons
    kept = store if isinstance(store, Store) else None
    ground = Ground(
        lessons,
        name_of(loaded),
        loaded.fingerprint,
        precision_of(loaded),
        str(loaded.device),
        None if kept is None else kept.folder.absolute(),
        None if kept is None else kept.limit,
        protocol,
        targets=tuple(str(task.source) for task in targets),
        epochs=epochs,
        lr=lr,
        recipe=recipe,
        views=views,
        validation=validation,
        memory=memory,
        out=out,
        predictions=keep_predictions,
    )
    todo, done = list(_cells(variants, shots, seeds, plan, loaded, views, validation)), dict[int, dict[str, Any]]()

    def known(run: Run) -> dict[str, Any] | None:
        found = finished.get(run.key)
        if found is not None and keep_predictions is not None:
            names = file_names(read_variant(run.variant, lr, epochs, recipe), run, lessons[run.lesson])
            return found if is_kept(found, names, keep_predictions) else None
        return found

    def note(number: int, told: Told, under_way: int = 0) -> None:
        finished[todo[number].key] = told.run  # another name may stand for the same settings
        done[number] = told.run | {"method": todo[number].variant}
        if report is not None:
            counted = {"resumed": told.resumed, "number": len(done), "total": len(todo), "under_way": under_way}
            report(done[number] | counted)

    with kept_memory():
        if jobs > 1 or engine is not None:
            (engine or in_processes)(ground, todo, jobs, known, note, speed)
        else:
            for number, run in enumerate(todo):
                found = known(run)
                measured = not speed or is_measured(done.values(), run)
                told = perform(ground, run, loaded, store, not measured) if found is None else Told(found, True)
                note(number, told)
    # not within kept memory: what scipy's import leaves behind would keep the heap from shrinking
    runs = [done[number] for number in range(len(todo))]
    return Rows(with_published(summarize(runs, plan.summaries), plan, protocol))


def plan_of(
    data: Task | Sequence[Task],
    protocol: str = "few-shot",
    targets: Sequence[Task] = (),
    leave_out: str | Sequence[str] = (),
    apart: bool = False,
) -> Plan:
    """The plan of a comparison: what is fitted and judged, and the columns of its table.

    Raises as `compare` does.
    """
    check_protocol(protocol, targets)
    if isinstance(data, Task):
        if leave_out:
            raise UsageError("A task can be left out of several only: name a list of tasks with --tasks FILE.")
        return plan_protocol(protocol, data, targets)
    if apart:
        return plan_data_sets(data, protocol)
    return plan_tasks(data, [leave_out] if isinstance(leave_out, str) else leave_out, protocol)


def read_variants(
    methods: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
    lr: float | None,
    epochs: int | None,
    views: int | Literal["center", "fresh"] | None,
    recipe: RecipeName = "auto",
) -> list[Variant]:
    """The methods with their options, if they can be fitted with these numbers.

    Raises UsageError.
    """
    for name, values in (("methods", methods), ("shots", shots), ("seeds", seeds)):
        if not values:
            raise UsageError(f"There are no {name} to compare: give at least one.")
        if len(set(values)) != len(values):
            raise UsageError(f"The {name} to compare hold one of them twice: name each once.")
    for number in shots:
        if number < 1:
            raise UsageError(f"shots is {number}; expected 1 or more images a class.")
    variants = [read_variant(method, lr, epochs, recipe) for method in methods]
    for variant, number, seed in itertools.product(variants, shots, seeds):
        check_numbers(
            variant.entrants(False)[0], number, seed, variant.epochs, variant.lr, views, variant.steps, variant.recipe
        )
    return variants


def _check_prompts(plan: Plan, backbone: Backbone) -> None:
    """Refuse a class name that the backbone cannot read before the first fit, not after it."""
    for lesson in plan.all_lessons:
        check_prompts(backbone, [task.classes for task in lesson.tasks])
        check_prompts(backbone, [exam.classes for exam in lesson.exams if exam.classes])


def _cells(
    variants: Sequence[Variant],
    shots: Sequence[int],
    seeds: Sequence[int],
    plan: Plan,
    backbone: Backbone,
    views: int | str | None,
    validation: str,
) -> Iterator[Run]:
    """Every run of the table, with all that its result depends on."""
    fingerprints: dict[int, str] = {}
    places = {id(lesson): number for number, lesson in enumerate(plan.all_lessons)}
    base = {"backbone": backbone.fingerprint, "views": views, "version": shotfit.__version__}
    base |= {"precision": backbone.precision}
    base |= {} if validation == "few" else {"validation": validation}
    for variant in variants:
        prototype = variant.prototype
        method = {
            "method": variant.method,
            "program": program_of(*variant.entrants(False)),
            "options": {} if prototype is None else prototype.options(),
            "given": [] if prototype is None else _fixed(prototype, variant.recipe),
            "files": [sha256(file, LIST_BYTES, "a file of an option") for file in prototype.files()]
            if prototype
            else [],
            "epochs": variant.epochs,
            "steps": variant.steps,
            "recipe": variant.recipe,
            "lr": variant.lr,
        }
        for number, seed, lesson in itertools.product(shots, seeds, plan.lessons_of(variant.several_tasks)):
            if id(lesson) not in fingerprints:
                fingerprints[id(lesson)] = _fingerprint(lesson)
            drawn = {"lesson": fingerprints[id(lesson)], "shots": number, "seed": seed}
            settings = base | method | drawn
            yield Run(_key(settings), variant.name, number, seed, places[id(lesson)], settings)


def _fixed(prototype: Method, recipe: RecipeName) -> list[str]:
    """Options that are given, maybe at their defaults, and that the recipe `auto` would else choose."""
    grid = prototype.grid
    axes = grid.axes if grid is not None and recipe == "auto" else ()
    return sorted({axis.name for axis in axes} & prototype.given)


def _fingerprint(lesson: Lesson) -> str:
    """sha256 over all that a lesson is: classes, templates, and content and label of every image, part by part."""
    digest = hashlib.sha256(json.dumps(lesson.kept).encode())

    def add(classes: ClassList | None, *parts: Sequence[Item]) -> None:
        digest.update(json.dumps(classes and classes.as_json()).encode())
        for part in parts:
            digest.update(b"part")
            for item in part:
                group = f" {item.group}" if item.group else ""  # decides in which fold it is
                digest.update(f"{item.label} {item.digest or item.picture}{group}\n".encode(errors="surrogateescape"))

    for task in lesson.tasks:
        add(task.classes, task.train, task.val)
    for exam in lesson.exams:
        digest.update(json.dumps([exam.column, exam.among]).encode())
        add(exam.classes, exam.items, *([exam.unknown] if exam.unknown else []))
    return digest.hexdigest()


def _key(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
