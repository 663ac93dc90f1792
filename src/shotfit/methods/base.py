"""What every method is: options, parameters, features, logits, a recipe or a solution.

A method writes no training loop, no data loading, no saving and no device code, and knows no other method. Its learned
and kept tensors are its own direct parameters and buffers (no submodules), so that a saved one opens without running
a tower.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import dataclass_transform

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, ImagePool, Images
from shotfit.errors import NewClassesError, ShotfitError, UsageError
from shotfit.methods.declared import Declared
from shotfit.methods.numbering import (
    MANY,
    classes_of,
    labels_among,
    labels_by_task,
    loss_within_tasks,
    parts_of,
    shown_in,
)
from shotfit.methods.recipe import Grid, ParameterGroup, Recipe
from shotfit.methods.several_labels import are_sets, set_loss
from shotfit.towers.backbone import Backbone

__all__ = ["AUTO", "Fold", "Method", "Support", "Validation", "check_prompts", "check_texts", "option"]

AUTO = "auto"  # stands in place of a value that each fit finds
LARGEST = 1_000_000  # of a whole number; far above what any is good for, and below what fills the memory unasked


def option(
    default: Any,
    help: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: Sequence[str] = (),
    auto: bool = False,
) -> Any:
    """A method's option: its default, its help text and its bounds. Flags, tables and model cards are made from it.

    auto: the word auto may stand in place of a value; each fit then finds one by the method's `find_option`.
    """
    metadata = {"help": help, "above": above, "at_least": at_least, "at_most": at_most, "choices": tuple(choices)}
    metadata["auto"] = auto
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, eq=False)
class Support:
    """The labelled images that a method may learn from.

    center: their center views; random: their random views (the same pool as `center` if the recipe draws none).
    """

    center: ImagePool
    random: ImagePool
    shots: int

    @property
    def labels(self) -> Tensor:
        """[images] class of each image, or [images, classes] of 0 and 1."""
        return self.center.labels


@dataclass(frozen=True, eq=False)
class Fold:
    """One split for a selection: support images by index to learn from, others to judge by."""

    train: Tensor  # [n] indices of support images
    held: Images
    labels: Tensor  # [m] of the held images, or [m, classes] of 0 and 1


@dataclass(frozen=True, eq=False)
class Validation:
    """What a search may judge by; never test images. Without folds a method uses its fixed defaults."""

    source: Literal["validation part", "cross-validation", "none"]
    folds: tuple[Fold, ...]
    full: bool = False  # all of a validation part, where few shots would take few of its images

    @property
    def description(self) -> str:
        """How a result names its selection."""
        images = sum(len(fold.labels) for fold in self.folds)
        if self.source == "validation part":
            return f"{'full ' if self.full else ''}validation part ({images} images)"
        if self.source == "cross-validation":
            return f"cross-validation of the support images ({len(self.folds)} folds)"
        return "fixed defaults (no validation part and too few shots for cross-validation)"

    def said(self, search: bool, what: str) -> str:
        """How a result names what a method chose by; what: the coefficients that are fixed where `search` is off."""
        return self.description if search or not self.folds else f"fixed {what} (search is off)"


@dataclass_transform()  # a default is positional in `option`, which a field specifier may not have
class Method(nn.Module):
    """Base of all methods. Options are the dataclass fields of a subclass, made with `option`."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    recipe: ClassVar[Recipe | None] = None  # None: `solve` finds the parameters
    grid: ClassVar[Grid | None] = None  # what `auto` chooses; None: nothing, the paper's recipe is also `auto`'s
    accepts_new_classes: ClassVar[bool] = False
    several_tasks: ClassVar[bool] = False
    several_labels: ClassVar[bool] = False  # its logits may judge every class by itself (`methods/several_labels.py`)
    edits_towers: ClassVar[bool] = False  # it puts prompts or adapters into the towers, which closed encoders have not
    own_views: ClassVar[str] = ""  # its option that says how many random views it looks at, whatever its recipe says
    verified: ClassVar[bool] = False  # by recorded results of its authors' program (tests/parity); is not inherited

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclasses.dataclass(eq=False, repr=False)(cls)

    def __post_init__(self) -> None:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {field.name: getattr(self, field.name) for field in fields}
        nn.Module.__init__(self)
        auto = [field.name for field in fields if field.metadata["auto"] and values[field.name] == AUTO]
        self.options_to_find = frozenset(auto)  # as by default until a fit finds them
        self.found_options: dict[str, Any] = {}
        for field in fields:
            setattr(self, field.name, field.default if field.name in self.options_to_find else values[field.name])
        self._check()
        self.baked: Tensor | None = None
        self.given: frozenset[str] = frozenset()  # options that the caller named, which `auto` does not choose
        self.own_offsets: Tensor | None = None  # [classes] of several labels, by what it learned from; not saved
        self.course_of_training: dict[str, float] = {}  # steps, losses and support images right, of its own fit

    # What a method writes.

    def check(self) -> None:
        """Refuse, once attached and before an image is read, a backbone or class list that cannot be fitted."""

    def files(self) -> list[Path]:
        """The files that options name: what is in them decides the result too."""
        return []

    def prepare(self, support: Support) -> None:
        """Look at the support images before `build`, where parameters start from them (a cache of features)."""

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Create parameters and buffers."""

    def text_features(self) -> Tensor:
        """Class features [classes, embed], not normalized."""
        raise ShotfitError(f"{self.name} has no text features.")

    def features_of_tasks(self, tasks: Sequence[int]) -> Tensor:
        """`text_features` of the classes of some tasks, by number and ascending: [classes of these, embed].

        A method of several tasks whose classes depend on their own task alone gives those and computes no others; its
        training steps then leave out the tasks that a batch does not show.
        """
        return self.text_features().index_select(0, classes_of(tasks, self.sizes).to(self.frozen.backbone.device))

    def image_features(self, images: Images) -> Tensor:
        """Image features [images, embed], not normalized."""
        return self.frozen.image(images)

    def logits(self, images: Images) -> Tensor:
        """Logits [images, classes]."""
        return self.frozen.logits(self.image_features(images), self.class_features())

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """The training loss, []: mean cross-entropy, of several tasks among the classes of each image's own.

        labels: [images] numbers through all tasks, or [images, tasks] numbers within each (`numbering`), or sets
        [images, classes], whose loss is the binary cross-entropy of each class.
        """
        if are_sets(labels):
            return set_loss(self.logits(images), labels)
        if len(self.classes) == 1 and labels.dim() == 1:
            return F.cross_entropy(self.logits(images), labels)
        shown = self.shown(labels)
        if shown is not None:  # the loss looks at the columns of these alone
            logits = self.frozen.logits(self.image_features(images), self.features_of_tasks(shown))
            own = [self.sizes[task] for task in shown]
            return loss_within_tasks(logits, labels_among(labels, self.sizes, shown), own)
        return loss_within_tasks(self.logits(images), labels_by_task(labels, self.sizes), self.sizes)

    def solve(self, support: Support, validation: Validation) -> None:
        """Find the parameters without gradient steps, or search coefficients after them."""

    def find_option(self, name: str, support: Support) -> Any:
        """The value of an option that is `auto`, by the frozen model, the class lists and the support images alone.

        The method is attached, and not built yet; other options that are `auto` may still be as by default.
        """
        raise ShotfitError(f"{self.name} has no way to find {name}: give it a value.")

    def chosen(self) -> dict[str, Any]:
        """What `solve` chose, as options that fix it, where choosing it anew costs too much for the check's folds."""
        return {}

    def keep_chosen(self, fitted: Method) -> None:
        """Take over the coefficients that `solve` chose for an earlier fit, so that no fit chooses them anew."""

    def declared(self) -> dict[str, Declared] | None:
        """Its parameters and buffers once it is fitted, by the names of `state`; None: it does not say.

        A model that is opened is checked against it. The method is attached, and knows its options and classes.
        """
        return None

    def selection(self, validation: Validation) -> str:
        """How a result names what this method chose anything by."""
        recipe = self.training_recipe()
        by_epoch = recipe is not None and recipe.best_epoch and validation.source == "validation part"
        if by_epoch or type(self).solve is not Method.solve:
            return validation.description
        return "nothing was chosen" + ("" if recipe is None else " (the last epoch's model)")

    def training_recipe(self) -> Recipe | None:
        """The recipe, where it depends on the options."""
        return self.recipe

    def takes_shares(self) -> bool:
        """Whether `loss` is a mean over the images, and maybe what looks at none, so that processes can share a batch
        out.
        """
        return not self.judges_alone

    def parameter_groups(self) -> list[ParameterGroup]:
        """What is trained: all parameters, at the recipe's rate."""
        return [ParameterGroup(tuple(self.parameters()))]

    def adjust_gradients(self) -> None:
        """Change the parameters' gradients in place, after the backward pass and before the optimizer's step."""

    # What shotfit does with it.

    def attach(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Give it the frozen model and the class list, before `build` or `restore`."""
        if len(classes) > 1 and not self.several_tasks:
            raise UsageError(
                f"{self.name} fits one task at a time, but {len(classes)} were given: fit each on its own."
            )
        if self.edits_towers and frozen.backbone.closed:
            raise UsageError(
                f"{self.name} changes the towers inside, and {frozen.backbone.name} is closed: choose a method on "
                "features, such as tip_adapter_f, taskres or clip_adapter, or a backbone of shotfit's own towers."
            )
        if any(task.several_labels for task in classes) and not self.several_labels:
            raise UsageError(
                f"{self.name} gives each image one label, and several are asked for: choose one of "
                f"{', '.join(_of_several_labels())}."
            )
        object.__setattr__(self, "frozen", frozen)  # not a submodule: its weights are not the method's
        self.classes = tuple(classes)

    frozen: Frozen

    @torch.no_grad()
    def find_options(self, support: Support) -> None:
        """Give every option that is `auto` the value that is found for it, within its bounds."""
        for name in sorted(self.options_to_find):
            self.found_options[name] = self.find_option(name, support)
            setattr(self, name, self.found_options[name])
        self._check()

    @property
    def said_of_found(self) -> str:
        """What a fit has found for options that are `auto`, for people; nothing where none is."""
        return ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                         for name, value in sorted(self.found_options.items()))  # fmt: skip

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of classes of each task."""
        return tuple(len(task.names) for task in self.classes)

    @property
    def judges_alone(self) -> bool:
        """Whether an image may have several labels, so that each class is judged by itself."""
        return self.classes[0].several_labels

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of logits [images, classes]: of classes that exclude each other, or of each by itself."""
        return logits.float().sigmoid() if self.judges_alone else logits.float().softmax(dim=-1)

    @property
    def class_names(self) -> list[str]:
        """The class names of all tasks, in the order of the logits."""
        return [name for task in self.classes for name in task.names]

    @property
    def knows_tasks(self) -> bool:
        """Whether it computes the class features of one task without those of others, and logits from them alone."""
        kind = type(self)
        plain = kind.logits is Method.logits and kind.class_features is Method.class_features
        return plain and kind.features_of_tasks is not Method.features_of_tasks

    def leaves_out_absent(self, images: int) -> bool:
        """Whether a training step on so many images leaves out the tasks that they do not show (`absent_tasks`).

        On a GPU, where a step that is the same for every batch is replayed, only where a batch cannot show all tasks.
        """
        if not (self.frozen.savings.absent_tasks and len(self.classes) > 1 and self.knows_tasks):
            return False
        recipe = self.training_recipe()
        most = min(images, recipe.tasks_per_batch or images) if recipe else images
        return self.frozen.backbone.device.type == "cpu" or most < len(self.classes)

    def shown(self, labels: Tensor) -> list[int] | None:
        """The tasks that a step on these labels runs prompts of; None: all of them."""
        if not self.leaves_out_absent(len(labels)):
            return None
        shown = shown_in(labels, self.sizes)
        return shown if 0 < len(shown) < len(self.classes) else None

    def class_features(self) -> Tensor:
        """`text_features`, or what was baked of them once the method is fitted.

        Of many tasks they are computed task after task where no gradient is asked for, in bounded memory.
        """
        if self.baked is not None:
            return self.baked
        if torch.is_grad_enabled() or len(self.classes) < MANY or not self.knows_tasks:
            return self.text_features()
        return torch.cat([self.features_of_tasks(part) for part in parts_of(self.sizes)])

    def task_logits(self, images: Images, tasks: Sequence[int]) -> Tensor:
        """Logits [images, classes of these] for some tasks, by number and ascending.

        Of many tasks the other classes are not looked at.
        """
        own = classes_of(tasks, self.sizes).to(self.frozen.backbone.device)
        if len(self.classes) < MANY or not self.knows_tasks:
            return self.logits(images).index_select(1, own)
        features = self.features_of_tasks(tasks) if self.baked is None else self.baked.index_select(0, own)
        return self.frozen.logits(self.image_features(images), features)

    @torch.no_grad()
    def bake(self) -> None:
        """Compute the class features once and for all; prediction then needs the image tower alone."""
        self.baked = None
        if type(self).text_features is not Method.text_features:
            self.baked = self.class_features().detach().clone()

    def for_classes(self, classes: Sequence[ClassList]) -> Method:
        """The fitted method on another class list, or a refusal.

        Raises NewClassesError, in a sentence that names the methods that can.
        """
        if not self.accepts_new_classes:
            from shotfit.methods import METHODS, find  # the table names this module's subclasses

            able = ", ".join(name for name in METHODS if find(name).accepts_new_classes)
            raise NewClassesError(
                f"{self.name} learned one row for each of its classes and cannot predict others. Methods that can: "
                f"{able}."
            )
        other = type(self)(**self.options())
        other.attach(self.frozen, classes)
        check_prompts(self.frozen.backbone, classes)
        with torch.random.fork_rng(devices=[]):  # what `build` draws is overwritten, and must not move other draws
            other.rebuild(self)
        other.requires_grad_(False)
        other.bake()
        return other

    def rebuild(self, fitted: Method) -> None:
        """Take over what `fitted` learned, for this method's own class list (class-independent tensors by default)."""
        self.build(self.frozen, self.classes)
        self.load_state_dict(fitted.state_dict())

    def state(self) -> dict[str, Tensor]:
        """All that a saved method needs: parameters, buffers, and the baked class features."""
        tensors: dict[str, Tensor] = {f"parameter.{key}": value for key, value in self.named_parameters()}
        tensors |= {f"buffer.{key}": value for key, value in self.named_buffers()}
        if self.baked is not None:
            tensors["baked"] = self.baked
        return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}

    def all_declared(self) -> dict[str, Declared] | None:
        """What `state` gives: what is declared, and the baked class features."""
        own = self.declared()
        if own is None or type(self).text_features is Method.text_features:
            return own
        return own | {"baked": Declared(len(self.class_names), self.frozen.embed)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            # A copy: a tensor read from a file begins at any byte, and sums over it may then differ in their last bits.
            value = value.to(self.frozen.backbone.device, copy=True)
            if kind == "parameter":
                self.register_parameter(name, nn.Parameter(value, requires_grad=False))
            elif kind == "buffer":
                self.register_buffer(name, value)
            elif kind == "baked":
                self.baked = value
            else:
                raise ShotfitError(f"A saved {self.name} holds the unknown tensor {key}: fit it again.")

    def options(self) -> dict[str, Any]:
        """Option values by name, `auto` where one is still to be found."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return values | dict.fromkeys(self.options_to_find - self.found_options.keys(), AUTO)

    @classmethod
    def with_options(cls, values: Mapping[str, str]) -> Method:
        """From strings, as the command line and files give them."""
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        parsed: dict[str, Any] = {}
        for key, text in values.items():
            if key not in fields:
                known = ", ".join(sorted(fields)) or "none"
                raise UsageError(f"{cls.name} has no option {key!r}. Its options: {known}.")
            found = text == AUTO and fields[key].metadata["auto"]
            parsed[key] = AUTO if found else _parse(cls.name, fields[key], text)
        method = cls(**parsed)
        method.given = frozenset(values)
        return method

    def _check(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, rule = getattr(self, field.name), field.metadata
            kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
            kind = type(field.default)
            fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
            if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
                value, fits = float(value), True
                setattr(self, field.name, value)
            allowed = fits and (kind is not float or math.isfinite(value)) and (kind is not int or value <= LARGEST)
            expected = kinds[kind]
            if rule["choices"]:
                allowed, expected = value in rule["choices"], "one of " + ", ".join(rule["choices"])
            bounds = []
            for bound, words in (("above", "above"), ("at_least", "at least"), ("at_most", "at most")):
                if (limit := rule[bound]) is not None:
                    bounds.append(f"{words} {limit:g}")
                    if allowed:
                        allowed = {"above": value > limit, "at_least": value >= limit, "at_most": value <= limit}[bound]
            if not allowed:
                expected = f"{expected} {' and '.join(bounds)}".strip()
                if kind is int and fits and value > LARGEST:
                    expected += f", at most {LARGEST:,}"
                expected += ", or auto" if rule["auto"] else ""
                raise UsageError(f"{self.name}: {field.name} must be {expected}, but is {value!r}.")


def _of_several_labels() -> list[str]:
    from shotfit.methods import METHODS, find  # the table names this module's subclasses

    return [name for name in METHODS if find(name).several_labels]


def check_prompts(backbone: Backbone, classes: Sequence[ClassList]) -> None:
    """Refuse class names and templates that the backbone cannot read.

    Raises ShotfitError.
    """
    check_texts(backbone, [text for task in classes for prompts in task.prompts() for text in prompts])


def check_texts(backbone: Backbone, texts: Sequence[str]) -> None:
    """Refuse texts that are too long or hold a special token.

    Raises ShotfitError.
    """
    tokenizer = backbone.checked_tokenizer()
    for text in texts:
        tokenizer.check(text)
    tokenizer.encode(texts)


def _parse(method: str, field: dataclasses.Field[Any], text: str) -> Any:
    default: Any = field.default
    key, other = field.name, ", or auto" if field.metadata["auto"] else ""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{method}: {key} must be true or false{other}, but is {text!r}.")
        return text.lower() == "true"
    try:
        return type(default)(text)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise UsageError(f"{method}: {key} must be {kind}{other}, but is {text!r}.") from None
