"""What a method is and what it costs: its options, its recipe, and every call it makes of the two towers.

    print("\\n".join(describe("coop", "mini")))

The calls are those of a dry run on three class names and a few made-up images, so that what is printed is what runs.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from PIL import Image

from shotfit.checkpoints.weights import load_in
from shotfit.data.pictures import Picture
from shotfit.data.tasks import ClassList, Item
from shotfit.engine.frozen import Frozen, ImagePool, Images
from shotfit.engine.plans import Plan
from shotfit.engine.store import MemoryStore
from shotfit.methods import find, names
from shotfit.methods.base import Method, Support, Validation
from shotfit.methods.recipe import Recipe
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import Encoder
from shotfit.towers.layout import Savings
from shotfit.towers.preprocess import preprocess

__all__ = [
    "CLASSES",
    "Phase",
    "call_lines",
    "describe",
    "dry_run",
    "facts",
    "options_of",
    "overview",
    "recipe_lines",
    "shown",
    "verified",
]

CLASSES = ("cat", "dog", "traffic light")


@dataclass(frozen=True)
class Phase:
    """A part of a method's life, and the calls of the towers in it."""

    name: str
    calls: tuple[Plan, ...]


def overview() -> list[tuple[str, str, str, str, str]]:
    """Name, title, whether it predicts classes that it was not fitted to, whether it is verified, and source, of every
    method.
    """
    methods = [find(name) for name in names()]
    return [(m.name, m.title, _yes(m.accepts_new_classes), _yes(verified(m)), m.paper) for m in methods]


def verified(method: type[Method]) -> bool:
    """Whether recorded results of its authors' program say that it computes the same."""
    return bool(vars(method).get("verified", False))


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def facts(name: str) -> dict[str, Any]:
    """A method for programs: its name, title, source, whether it predicts new classes and is verified, its options."""
    method = find(name)
    options = [dict(zip(("option", "default", "help"), row, strict=True)) for row in options_of(method)]
    head = {"method": method.name, "title": method.title, "source": method.paper}
    kind = {"new_classes": method.accepts_new_classes, "verified": verified(method)}
    return head | kind | {"options": options}


def options_of(method: type[Method]) -> list[tuple[str, str, str]]:
    """Name, default and help with bounds of every option."""
    rows = []
    for field in fields(method):  # type: ignore[arg-type]
        rule = field.metadata
        bounds = [
            f"{words} {rule[key]:g}"
            for key, words in (("above", "above"), ("at_least", "at least"), ("at_most", "at most"))
            if rule[key] is not None
        ]
        if rule["choices"]:
            bounds.append("one of " + ", ".join(rule["choices"]))
        if rule["auto"]:
            bounds.append("or auto")
        shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default) or "(empty)"
        rows.append((field.name, shown, rule["help"] + (f" [{'; '.join(bounds)}]" if bounds else "")))
    return rows


def describe(
    name: str,
    backbone: str | Backbone | Encoder = "mini",
    options: Mapping[str, str] | None = None,
    classes: Sequence[str] = CLASSES,
    savings: Savings = Savings(),
    memory: int | None = None,
) -> list[str]:
    """All of it as lines of text. The calls are those of the method with the options given.

    savings, memory: as of a fit.
    """
    method = find(name)
    prototype = method.with_options(options or {})
    module = inspect.getmodule(method)
    lines = [*(module.__doc__ or method.__doc__ or "").strip().splitlines(), ""]
    rows = options_of(method)
    lines.append("Options (--set name=value), with their defaults:" if rows else "Options: none")
    if rows:
        width, default = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
        lines += [f"  {option:{width}}  {value:{default}}  {text}" for option, value, text in rows]
    lines += ["", *recipe_lines(prototype.training_recipe()), "", *_grid_lines(prototype), ""]
    lines.append(f"New class names after the fit: {_yes(method.accepts_new_classes)}")
    lines.append(f"Verified against results of its authors' program: {_yes(verified(method))}")
    loaded = load_in(backbone, device="cpu")
    lines += ["", f"Calls of the towers of {loaded.name}, for the class names {', '.join(classes)}:"]
    return [*lines, *(f"  {line}" for line in call_lines(dry_run(prototype, loaded, classes, savings, memory)))]


def dry_run(
    method: Method,
    backbone: Backbone,
    classes: Sequence[str] = CLASSES,
    savings: Savings = Savings(),
    memory: int | None = None,
) -> list[Phase]:
    """The calls of the towers while the method is prepared, trained for one step, and predicts."""
    frozen = Frozen(backbone, MemoryStore(), savings, memory)
    lists = (ClassList("example", tuple(classes)),)
    frozen.plans = plans = list[Plan]()
    phases: list[Phase] = []

    def phase(name: str) -> None:
        if plans:
            phases.append(Phase(name, tuple(plans)))
        plans.clear()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        items = _made_up(len(classes))
        center, recipe = ImagePool(items), method.training_recipe()
        random = ImagePool(items, recipe.views) if recipe and recipe.views else center
        support = Support(center, random, 1)
        method.attach(frozen, lists)
        method.prepare(support)
        method.build(frozen, lists)
        phase("before training (once)")
        if recipe is not None:
            method.loss(random.all(), random.labels)
            phase("a training step")
            if method.several_tasks:
                method.attach(frozen, (*lists, *(ClassList(f"other {number}", tuple(classes)) for number in (1, 2))))
                method.build(frozen, method.classes)
                method.loss(random.all(), random.labels)
                phase("a training step of three such tasks, on images of the first alone")
                method.attach(frozen, lists)
                method.build(frozen, lists)
                plans.clear()
        with torch.no_grad():
            method.solve(support, Validation("none", ()))
            phase("search or solution (once)")
            method.bake()
            phase("class features, kept with the model (once)")
            rule = backbone.config.preprocessing
            pixels = torch.stack([preprocess(Image.new("RGB", (32, 32)), rule)]).to(backbone.dtype)
            method.logits(Images.of(pixels))
            phase("a prediction of one new image")
    return phases


def call_lines(phases: Sequence[Phase]) -> list[str]:
    """Each part of a method's life, and below it what it calls of the towers."""
    return [line for phase in phases for line in (phase.name, *(f"  {call}" for call in _calls(phase)))]


def _made_up(classes: int) -> list[Item]:
    """One image of noise a class."""
    pictures = [Picture.of(torch.randint(256, (32, 32, 3), dtype=torch.uint8).numpy()) for _ in range(classes)]
    return [Item(picture, label, picture.digest()) for label, picture in enumerate(pictures)]


def recipe_lines(recipe: Recipe | None) -> list[str]:
    """How a method is trained by the paper's recipe."""
    if recipe is None:
        return ["Recipe: none (no gradient steps)"]
    by_shots = [f"{epochs} from {shots} shots" for shots, epochs in sorted(recipe.epochs.items())]
    length = f"  epochs     {', '.join(by_shots)}"
    if recipe.steps_per_shot:
        length = f"  steps      {recipe.steps_per_shot:g} for each shot"
    optimizer, schedule = recipe.optimizer, recipe.schedule
    warmup = f", {schedule.warmup} {schedule.unit}s at {schedule.warmup_lr:g} first" if schedule.warmup else ""
    views = f"{recipe.views} random views of each image, drawn once" if recipe.views else "the center view"
    return [
        "Recipe:",
        f"  optimizer  {optimizer.name}, learning rate {optimizer.lr:g}, weight decay {optimizer.weight_decay:g}",
        f"  schedule   {schedule.name} by {schedule.unit}{warmup}",
        length,
        f"  batch      {recipe.batch} images" + (f", {recipe.updates} updates on each" if recipe.updates > 1 else ""),
        f"  views      {views}",
    ]


def _grid_lines(prototype: Method) -> list[str]:
    """What `auto` chooses from, axis by axis, each with its reason."""
    if prototype.grid is None or prototype.training_recipe() is None:
        return ["Recipe auto: chooses nothing"]
    grid = prototype.grid.without(prototype.given)
    values = {axis.name: ", ".join(map(shown, axis.values)) for axis in grid.axes}
    width, column = (max(map(len, words), default=0) for words in (values, values.values()))
    robust = ", ".join(f"{name}={shown(value)}" for name, value in grid.robust.items())
    return [
        "Recipe auto, a cosine by step, chooses on held-out images:",
        *(f"  {axis.name:{width}}  {values[axis.name]:{column}}  {axis.reason}" for axis in grid.axes),
        f"  where none can be held out: {robust}",
    ]


def shown(value: object) -> str:
    """A value of a grid."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _calls(phase: Phase) -> list[str]:
    """Each call, how often it comes, and below it what is saved."""
    lines: list[str] = []
    for plan, count in Counter(phase.calls).items():
        predicted = plan.tower == "image" and "prediction" in phase.name
        lines.append(_call(plan, predicted) + (f" ({count} times)" if count > 1 else ""))
        lines += [f"  {saving}" for saving in _savings(plan, predicted)]
    return lines


def _call(plan: Plan, predicted: bool) -> str:
    what = ("text" if plan.tower == "text" else "image") + ("" if plan.rows == 1 else "s")
    counts = Counter(plan.edits)
    edits = ", ".join(f"{count} x {edit}" if count > 1 else edit for edit, count in counts.items()) or "no edits"
    parts: list[str] = [f"{plan.tower} tower: {plan.rows} {what}, {edits}"]
    if predicted:
        parts.append("runs in full, nothing stored")
    elif not plan.savings.frozen_beginning:
        parts.append("runs in full, nothing stored (frozen_beginning is off)")
    elif plan.all_stored:
        parts.append("all frozen: its features are computed once and stored")
    elif plan.frozen_until < 0:
        parts.append("nothing frozen: every step runs")
    else:
        kept = "stored" if plan.tower == "image" else "kept in memory"
        both = " with its input" if plan.paired else ""
        parts.append(f"frozen until step {plan.frozen_until} of {plan.last}: computed once and {kept}{both}")
    return "; ".join(parts)


def _savings(plan: Plan, predicted: bool) -> list[str]:
    """What was chosen for the steps that run, here or when the call's features are stored."""
    lines = []
    if plan.tokens is not None and plan.padded_tokens is not None:
        lines.append(f"{plan.tokens:,} tokens run instead of {plan.padded_tokens:,} padded ones")
    for (length, rows), count in Counter(plan.shared).items():
        which = f"{count} shared beginnings, each" if count > 1 else "shared beginning:"
        lines.append(f"{which} {length} tokens run once for {rows} texts")
    if plan.absent:
        lines.append(f"{plan.absent:,} texts of tasks that the batch does not show are left out (absent_tasks)")
    if plan.replaced:
        lines.append(f"keys and values only: {plan.replaced} prompt tokens of an image, in the block before the next")
    if plan.read_alone:
        lines.append("the last block runs for the read token alone")
    if plan.silu:
        lines.append("QuickGELU runs as SiLU")
    if plan.chunks > 1 and not predicted:
        lines.append(f"{plan.chunks} chunks, each run again in the backward pass")
    return lines
