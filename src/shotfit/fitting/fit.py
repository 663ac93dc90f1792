"""Fit a method to a task, and check the fit against zero-shot without a test image.

    model = shotfit.fit("photos/", method="tip_adapter_f")                  # all labelled images
    model = shotfit.fit("tasks.toml", method="softcpt", shots=4)            # several tasks at once

What a method receives has no test part. Whether the fitted model is better than zero-shot is judged on the validation
part, or by cross-validation of the support images; where it is not, zero-shot is what the user gets, in plain words,
unless he keeps the fit. Of several tasks, the mean over the tasks is what is judged.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from shotfit.calls import checked
from shotfit.checkpoints.weights import load_in
from shotfit.data.given import Data, Labels, holds_tasks, is_task_list, tasks_of
from shotfit.data.listing import How
from shotfit.data.rules import AS_STORED, Rule
from shotfit.data.tasks import Item, joined
from shotfit.engine.allocator import kept_memory
from shotfit.engine.frozen import Frozen
from shotfit.engine.ranks import world
from shotfit.engine.store import MemoryStore, Store, cache_folder, open_store
from shotfit.errors import FallbackWarning, ShotfitError, UsageError
from shotfit.fitting.checking import compared, with_half
from shotfit.fitting.epochs import Epochs
from shotfit.fitting.figures import figures_of
from shotfit.fitting.fitter import Fitter, Setting, Views, held_out_by, zero_shot
from shotfit.fitting.heldout import HeldOut
from shotfit.fitting.learned import marks
from shotfit.fitting.model import Model
from shotfit.fitting.names import warn_of_names
from shotfit.fitting.padding import padding_of
from shotfit.fitting.race import (
    ALONE,
    AUTO,
    VIEWED,
    Entrant,
    better_in_views,
    check_size,
    decided,
    entry_of,
    in_views,
    refused_row,
    shortlist,
)
from shotfit.fitting.record import record_of
from shotfit.fitting.selection import Candidate, Choice, Judge, candidate_at, choose, hold_out, points_of
from shotfit.fitting.several_labels import several_trust_of
from shotfit.fitting.trust import Trust, trust_of
from shotfit.methods import find
from shotfit.methods.base import Fold, Method, check_prompts
from shotfit.methods.recipe import VIEWS
from shotfit.progress import say
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import Encoder
from shotfit.towers.layout import Savings
from shotfit.towers.precision import Precision

__all__ = ["Needs", "RecipeName", "check_numbers", "entrants_of", "fit"]

MOST_VIEWS = 1000  # of an image
RecipeName = Literal["auto", "paper"]
Needs = Literal["new-classes"]


@checked
@kept_memory()
def fit(
    data: Data,
    labels: Labels | str | Method | None = None,
    method: str | Method = "auto",
    *,
    shots: int | None = None,
    seed: int = 1,
    backbone: str | Backbone | Encoder = "mini",
    options: Mapping[str, str | float | bool] | None = None,
    templates: Sequence[str] = (),
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    padding: float | None = None,
    frames: int | None = None,
    fps: float | None = None,
    window: Sequence[float] | None = None,
    bands: Sequence[int] | None = None,
    several_labels: bool = False,
    epochs: int | None = None,
    lr: float | None = None,
    steps: int | None = None,
    recipe: RecipeName = "auto",
    budget: float | None = None,
    needs: Needs | None = None,
    spare_classes: bool | None = None,
    views: Views | None = None,
    validation: Literal["few", "full"] = "few",
    check: bool = True,
    keep: bool = False,
    store: Store | MemoryStore | None = None,
    memory: int | None = None,
    skip_broken: bool = False,
    lenient: bool = False,
    precision: Precision = "auto",
    device: str = "auto",
    savings: Savings = Savings(),
) -> Model:
    """Fit a method to the images of a task, or of several at once, and give back the fitted model.

    data: anything `read_task` reads or a task list (.toml); images, as paths, bytes, PIL images or arrays [height,
    width, 3], with `labels`, a text or a whole number for each; or a table of pandas, polars or `datasets`, whose
    columns are the usual ones or named by path_column, label_column and group_column. padding: what each box has around
    it, a share of its sides, where images are boxes; the model keeps it. The doctor sees all of it first,
    and its warnings are told on standard error. Or a task or tasks, which are taken as they are. Test parts are not
    touched. skip_broken: leave out the files of a path that cannot be read. lenient: read what is there of those that
    are cut off. A text or a method in the place of `labels` is the method.
    several_labels: a picture may have several labels, or none; `labels` is then a list with those of each image.
    shots: images a class, drawn from each task's training part by CoOp's rule, as if it stood alone; None, the default,
    and 0 take all. Of clips so many whole ones are drawn.
    frames, fps, window, bands: of a path, how clips, levels and bands become pictures, as in `read_task`; the model
    keeps window and bands, and reads every later picture so.
    method: a name, "path/to/file.py:Class", or a method with its options; "auto" races a shortlist on held-out
    images and keeps the best or an ensemble, fitted to random views too where they help, needs="new-classes" among
    methods that predict classes they do not know. recipe: "paper" is the published one; "auto" chooses rate, length
    and the method's decisive options on images that are held out from the support, within a budget of work, or of
    `budget` seconds. epochs, lr: in place of the recipe's; steps: length of a cosine by step, in place of epochs.
    They are not chosen then, nor are options that are given. spare_classes: choose by classes, too, that a
    candidate has not been fitted to (None: where `needs` asks for new classes). views: random views of each image,
    "center" for the center view alone (also of methods with an option for views, such as gda, unless that is given),
    "fresh" for new random crops at every step. validation: "few" selects on at most four images a class of a
    validation part, by CoOp's rule, "full" on all of them. check: compare with zero-shot on the validation part or by
    cross-validation; a worse fit is replaced by zero-shot unless `keep`.
    memory: bytes for the activations of a training step. precision: in which the towers compute; "auto" is the one
    that the processor is fast at, or that of a backbone that is given. device: cpu, cuda, cuda:1, mps, or "auto": a
    GPU of CUDA if there is one, and for a backbone that is given, where it is. savings: which are in use; without
    an exact one the time alone changes.

    Raises ShotfitError or UsageError, in one sentence, for data, options or a backbone that cannot be used, and
    DivergedError for a training whose numbers do not stay finite.

    Example (needs images):
        model = fit("examples/clipart", shots=4)
        model.predict("drawing.png")[0].labels
        fit([array, another], ["cat", "dog"], method="zero_shot")
    """
    started = time.perf_counter()
    if budget is not None and world() > 1:
        raise UsageError("budget counts seconds, which differ from process to process: leave it out under torchrun.")
    method, labels = (labels, None) if isinstance(labels, (str, Method)) else (method, labels)
    entered = entrants_of(method, options, needs, check, shots, seed, epochs, lr, views, steps, recipe, budget)
    may_view = method == AUTO and recipe == "auto" and (views, needs, budget) == (None, None, None)
    if method == AUTO and views is None:
        views = "center"  # others are encoded for a method that is named, and for the winner
    store = open_store() if store is None else store
    how = How(None, path_column, label_column, group_column, None, padding, frames, fps, window, bands, several_labels)
    listed = is_task_list(data)
    if (how.sees and (listed or holds_tasks(data))) or (several_labels and listed):
        raise UsageError(
            "frames, fps, window, bands and several_labels say how one task is read: give them to read_task, and fit "
            "what that gives."
        )
    whole = tasks_of(
        data, labels, how, templates, cache=cache_folder(), shots=shots or None, skip_broken=skip_broken,
        lenient=lenient, warned=lambda said: say(f"warning: {said}"),
    )  # fmt: skip
    if method == AUTO and len(whole) > 1:
        raise UsageError(
            f"--method auto tries methods of one task, but {len(whole)} were given: fit each on its own, or name a "
            "method of several, such as softcpt."
        )
    around = padding_of(whole, padding)
    tasks = [task.support(shots or None, seed, validation) for task in whole]
    rule = rule_of(item for task in whole for item in (*task.train, *task.val))
    classes = tuple(task.classes for task in tasks)
    if any(one.several_labels for one in classes):
        check_alone(len(whole), needs, spare_classes)
        entered = shortlist(False, several_labels=True) if method == AUTO else entered
    for task in tasks:
        if not task.train:
            raise ShotfitError(f"{task.name} has no train images to fit to: name a folder or manifest that has some.")
    loaded = load_in(backbone, precision, device)
    check_prompts(loaded, classes)
    frozen = Frozen(loaded, store, savings, memory)
    warn_of_names(frozen, classes, meaning=isinstance(data, (str, os.PathLike)))  # its doctor tells of a task
    fitter = Fitter(frozen, classes, seed, views)
    support = joined([(task.classes, task.train) for task in tasks])
    selection = replace(fitter.validation(tasks, support), full=validation == "full")
    if method == AUTO and not selection.folds:
        entered = [find(ALONE if needs is None else "zero_shot")()]
    setting = Setting(lr, epochs, steps)
    spare = needs is not None if spare_classes is None else spare_classes
    entrants: list[Entrant] = []
    refused: list[dict[str, Any]] = []
    began = time.perf_counter()
    for number, one in enumerate(entered):
        # of the seconds that are left each method gets its share: the first ones have encoded the images for all
        left = None if budget is None else max(0.0, budget - (time.perf_counter() - began)) / (len(entered) - number)
        try:
            if len(entered) > 1:  # else nothing would be left
                check_size(one, len(support))
            shown = _in_center_views(one) if views == "center" else one
            entrants.append(_entrant(Judge(fitter, support, selection, left, spare), shown, recipe, setting, check))
        except ShotfitError as error:
            if not entrants and one is entered[-1]:
                raise
            refused.append(refused_row(one, str(error)))  # the others run on
    winner, rows = decided(entrants) if len(entrants) > 1 else (entrants[0], [])
    found, raced = winner.choice, winner.fitted
    if may_view and winner.parts and raced.name != "zero_shot" and not raced.judges_alone and len(support) <= VIEWED:
        viewing = replace(fitter, views=VIEWS)
        viewed = in_views(Judge(viewing, support, selection), winner)
        better, row = better_in_views(winner, viewed)
        rows.append(row)
        if better:
            assert viewed is not None
            winner, fitter, views = viewed, viewing, VIEWS
    rows += refused
    fitted = winner.fitted
    parts = winner.parts if fitted.name != "zero_shot" else []  # it is what others are compared with
    half = with_half(Judge(fitter, support, selection), winner)
    checked = compared(parts, zero_shot(frozen, classes), selection.description)
    _, ours, plain = figures_of(checked)
    worse = ours is not None and plain is not None and ours < plain and not keep
    if worse:
        _warn_of_fallback(fitted.name, checked)
        winner = _as_it_is(Judge(fitter, support, selection), zero_shot(frozen, classes))
    result, held = winner.fitted, winner.held_out()
    if result.judges_alone:
        known = _own_logits(fitter, support, result) if held is None else held
        trust: Trust | None = several_trust_of(known, result.own_offsets)
    else:
        trust = None if held is None else trust_of(held, result.sizes)
    judged_by = [item for task in tasks for item in task.val] if selection.source == "validation part" else []
    learned = marks([*support, *judged_by] if result.name != "zero_shot" else ())
    record = record_of(result, loaded) | {
        "fitted_method": fitted.name,
        "shots": shots,
        "seed": seed,
        "support_images": len(support),
        "labelled_images": sum(len(task.train) for task in whole),
        "learned_images": len(learned),
        "recipe": recipe,
        "views": views,
        "padding": around,
        "selection": _with_found(found.said(selection) or raced.selection(selection), fitted),
        "choice": found.record(),
        "found": sorted(result.found_options),
        "race": rows,
        "training": fitted.course_of_training,
        "half_of_the_labels": half,
        "checked": checked,
        "fell_back": worse,
        "trust": {} if trust is None else trust.summary,
        "seconds": round(time.perf_counter() - started, 3),
    } | ({"pictures": rule.as_json()} if rule else {})  # fmt: skip
    model = Model(result, frozen, record, learned=learned, trust=trust)
    model.support = tuple(tasks)
    if held is not None and selection.source != "validation part":
        model.held_out = torch.cat([fold.held.rows for fold, _ in winner.parts]), held
    return model


def rule_of(items: Iterable[Item]) -> Rule:
    """The window and bands that all images were read with. Raises UsageError where they differ."""
    found = {item.picture.rule for item in items}
    if len(found) > 1:
        raise UsageError("Some images were read with another --window or --bands than others: read all in one way.")
    return found.pop() if found else AS_STORED


def entrants_of(
    method: str | Method,
    options: Mapping[str, str | float | bool] | None,
    needs: Needs | None,
    check: bool,
    shots: int | None,
    seed: int,
    epochs: int | None,
    lr: float | None,
    views: Views | None,
    steps: int | None,
    recipe: RecipeName,
    budget: float | None,
) -> list[Method]:
    """The methods that `fit` will fit, as yet to nothing: the one that is named, or the shortlist of `auto`.

    Raises UsageError for settings that it could not use, before anything is read.
    """
    if needs not in (None, *get_args(Needs)):
        raise UsageError(f"There is no need {needs!r}: use new-classes, or leave it out.")
    if method != AUTO:
        if needs is not None:
            raise UsageError(
                "needs says what --method auto is to look for, but a method is named: leave one of them out."
            )
        found = [_prototype(method, options or {})]
    else:
        for name, value in {"an option": options, "lr": lr, "epochs": epochs, "steps": steps}.items():
            if value:
                raise UsageError(
                    f"{name} is given, but --method auto tries several methods: name the one that it is of."
                )
        if not check:
            raise UsageError("--method auto decides by the check on held-out images: leave that on, or name a method.")
        found = shortlist(needs is not None)
    for one in found:
        check_numbers(one, shots, seed, epochs, lr, views, steps, recipe, budget)
    return found


def _in_center_views(prototype: Method) -> Method:
    """The method without random views of its own; those that were asked for stay."""
    own, options = prototype.own_views, prototype.options()
    if not own or own in prototype.given or options[own] != type(prototype)().options()[own]:
        return prototype
    plain = type(prototype)(**options | {own: 0})
    plain.given = prototype.given
    return plain


def _with_found(selection: str, fitted: Method) -> str:
    """What a result names its selection, with what was found for options that are `auto`."""
    return f"{fitted.said_of_found} found, {selection}" if fitted.found_options else selection


def _warn_of_fallback(name: str, checked: Mapping[str, Any]) -> None:
    title, ours, plain = figures_of(checked)
    said = "" if title == "accuracy" else f"{title} "
    assert ours is not None and plain is not None
    warnings.warn(
        f"{name} is worse than zero-shot on held-out images ({said}{100 * ours:.1f} against "
        f"{100 * plain:.1f} %), so zero-shot is what you get; "
        "--keep, or keep=True, keeps the fit.",
        FallbackWarning,
        stacklevel=4,
    )


def check_alone(tasks: int, needs: Needs | None, spare_classes: bool | None) -> None:
    """Refuse what does not go with several labels a picture. Raises UsageError."""
    if tasks > 1:
        raise UsageError(f"Several labels a picture are fitted one task at a time, but {tasks} were given.")
    if needs is not None or spare_classes:
        raise UsageError(
            "With several labels a picture a model knows its own classes alone, as each has a threshold of its own: "
            "leave out what asks for new classes."
        )


def _own_logits(fitter: Fitter, support: Sequence[Item], fitted: Method) -> HeldOut:
    """What a method says of the images that it was fitted to, where none can be held out: it is too sure of them."""
    pool = fitter.pool(support)
    logits = held_out_by(fitted, Fold(torch.arange(0), pool.all(), pool.labels))
    source = "the images that were learned, as none could be held out: thresholds are too sure"
    return HeldOut(logits, pool.labels, torch.zeros(len(logits), 0), source)


def _as_it_is(judge: Judge, fitted: Method) -> Entrant:
    """A method that is fitted already, with what it says of held-out images."""
    plain = Candidate(fitted, Setting(), {}, 0)
    return Entrant(Choice(plain), fitted, hold_out(judge, plain, fitted))


def _entrant(judge: Judge, prototype: Method, recipe: RecipeName, setting: Setting, check: bool) -> Entrant:
    """A method with what is chosen of it, fitted to all, and what it says of images that are held out from it."""
    found = _choice(judge, prototype, recipe, setting)
    one = entry_of(judge, found, f"Fitting {prototype.name}", check)
    return replace(one, spared=judge.spared(found.candidate, one.fitted)) if check else one


def _choice(judge: Judge, prototype: Method, recipe: RecipeName, setting: Setting) -> Choice:
    """The method as it is to be fitted: as the paper says, or as `auto` chooses what the caller has left open."""
    as_published = Choice(Candidate(prototype, setting, {}, 0))
    trained = prototype.training_recipe()
    if recipe == "paper" or prototype.grid is None or trained is None:
        return as_published
    defaults = type(prototype)().options()
    fixed = {name for name, value in prototype.options().items() if value != defaults[name]} | prototype.given
    fixed |= {
        name for name, value in (("lr", setting.lr), ("steps", setting.epochs or setting.steps)) if value is not None
    }
    grid = prototype.grid.without(fixed)
    if not grid.axes:
        return as_published
    if setting.epochs is not None:
        labels = torch.tensor([item.label for item in judge.items])
        setting = Setting(setting.lr, None, setting.epochs * Epochs(trained, labels, judge.fitter.sizes).steps)
    if not judge.validation.folds:
        return Choice(candidate_at(prototype, grid.robust, setting))
    return choose(judge, points_of(prototype, grid, setting), grid.together)


def check_numbers(
    method: Method,
    shots: int | None,
    seed: int,
    epochs: int | None,
    lr: float | None,
    views: Views | None,
    steps: int | None = None,
    recipe: str = "auto",
    budget: float | None = None,
) -> None:
    """Refuse numbers that `fit` cannot use, before anything is read.

    Raises UsageError.
    """
    _check_count("shots", shots, 0)
    _check_count("seed", seed, 0)
    _check_count("epochs", epochs, 1)
    if views not in ("center", "fresh"):
        _check_count("views", views, 0, MOST_VIEWS, ", center or fresh")
    if lr is not None and not 0 < lr < math.inf:
        raise UsageError(f"The learning rate must be a number above 0, but is {lr:g}.")
    _check_count("steps", steps, 1)
    if recipe not in get_args(RecipeName):
        raise UsageError(f"There is no recipe {recipe!r}: use auto, or paper for the published one.")
    if budget is not None and not 0 < budget < math.inf:
        raise UsageError(f"The budget must be a number of seconds above 0, but is {budget:g}.")
    if budget is not None and recipe == "paper":
        raise UsageError("A budget bounds what --recipe auto tries, but the recipe is paper: leave one of them out.")
    if steps is not None and epochs is not None:
        raise UsageError(f"Both epochs ({epochs}) and steps ({steps}) are given: leave one of them out.")
    for name, value in (("epochs", epochs), ("steps", steps), ("lr", lr)):
        if value is not None and method.training_recipe() is None:
            raise UsageError(f"{name} is given, but {method.name} takes no gradient steps: leave it out.")


def _check_count(name: str, count: object, least: int, most: int = 2**32 - 1, words: str = "") -> None:
    """Refuse what is no count; numpy's seeds, and so all counts, have 32 bits."""
    if count is not None and not (isinstance(count, int) and least <= count <= most):
        raise UsageError(f"{name} is {count!r}; expected a whole number from {least} to {most:,}{words}.")


def _prototype(method: str | Method, options: Mapping[str, str | float | bool]) -> Method:
    if isinstance(method, Method):
        if options:
            raise UsageError("Give options either to the method object or as `options`, not both.")
        return method
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}
    return find(method).with_options(texts)
