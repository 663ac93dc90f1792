"""SoftCPT: the context of a task's prompts is made out of the task's name; and the baselines that share it plainly.

Ding et al., "Prompt Tuning with Soft Context Sharing for Vision-Language Models", Neurocomputing 2024,
arXiv 2208.13474.

    f_t = text(u_1 .. u_M, name of task t, ".")             [embed]
    g_c = text(v_1 .. v_K, name of class c, ".")            [embed], of the variants that look at the class (C...)
    S   = z W, z = f_t, or [g_c ; f_t], as it is            [L, width] for each task, or each class
    t_c = text(S of c's task or of c, name of class c, ".") [embed]
    logits = exp(s) * norm(image) @ norm(t).T               [images, classes of all tasks]
    loss   = 1/n * sum over images and their tasks of cross-entropy among the task's classes

What is frozen: both towers. What is learned: the task context u [M, width] or one for each task (...TS), the class
context v [K, width] or one for each class (CS..), and the linear map W [embed or 2 embed, L * width], through both
passes of the text tower. A new task needs its name and class names alone, unless something was learned for each task
or class. `CoOpMT` learns the contexts themselves: one for all tasks, one a task, or one a class.

Not in the paper: with `hierarchy` f_t is the mean over the names on the task's path, and with `neighbours` it is mixed
with those of the k tasks of the nearest names (`relations.py`). `tasks_per_batch` bounds how many tasks a batch shows.

# differs: one update a batch and one step of the schedule an epoch. The official program registers each of its three or
four parts with the same optimizer, so that it repeats every update that often and runs the schedule as many times too
fast: the rate rises again to its maximum. `update=released` does the same, to compare with the published numbers.
# differs: an image that is marked as in a task but of no class is not trained; the official program takes class 0.
# differs: initial words set the length by their tokens, not by their spaces, as in `coop`.
# differs: float32 throughout; the official program trains u and v in float16 and W in float32.
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#softcpt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.errors import NewClassesError, UsageError
from shotfit.methods.base import Method, option
from shotfit.methods.declared import Declared
from shotfit.methods.numbering import NONE, classes_of, labels_by_task, loss_within_tasks
from shotfit.methods.prompts import (
    POSITIONS,
    context_length,
    context_of_words,
    declared_context,
    lay_out,
    random_context,
    some,
)
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.methods.relations import Relations
from shotfit.towers.edits import Context
from shotfit.towers.texts import Texts

__all__ = ["CoOpMT", "SoftCPT"]

VARIANTS = ("nata", "nats", "cata", "csta", "cats", "csts")
OFFSET = 1e-6  # what the official program adds to class features of sampled classes
PAPER = "Ding et al., Neurocomputing 2024, arXiv 2208.13474"
RECIPE = Recipe(
    Optimizer("sgd", lr=0.002, weight_decay=5e-4),
    Schedule("cosine", warmup=1, warmup_lr=1e-5),
    epochs={1: 50},
    replayable=True,
)
MOST_TASKS = "how many tasks the images of a batch come from at most; 0: as many as chance gives"
GRID = Grid(
    (
        Axis("lr", (2e-3, 6e-3, 2e-2), "how far a context must go depends on the backbone and the names"),
        Axis("steps", (1200, 400), "50 epochs are 300 steps for a dozen classes, and 2,500 for a hundred"),
    ),
    robust={"lr": 6e-3, "steps": 400},
)


class SoftCPT(Method):
    """Contexts generated from task names, and class names, by a linear map of their text features."""

    name: ClassVar[str] = "softcpt"
    title: ClassVar[str] = "SoftCPT"
    paper: ClassVar[str] = PAPER
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = RECIPE
    grid: ClassVar[Grid | None] = GRID
    accepts_new_classes: ClassVar[bool] = True
    edits_towers: ClassVar[bool] = True
    several_tasks: ClassVar[bool] = True

    variant: str = option(
        "nata",
        "class context: none (na..), one (ca..) or one a class (cs..); task context: one (..ta) or one a task (..ts)",
        choices=VARIANTS,
    )
    network: str = option(
        "lin",
        "what the map reads of class and task: both, their mean, or the class alone",
        choices=("lin", "linmean", "lincls"),
    )
    length: int = option(16, "length L of the generated contexts", at_least=1)
    task_length: int = option(4, "length M of the task context; 0: the bare name", at_least=0)
    class_length: int = option(4, "length K of the class context, of variants with one; 0: the bare name", at_least=0)
    position: str = option("end", "where the class name stands beside the generated context", choices=POSITIONS)
    task_position: str = option("end", "where the task name stands", choices=POSITIONS)
    class_position: str = option("end", "where the class name stands beside the class context", choices=POSITIONS)
    task_words: str = option("", "initial task context, one for all tasks; random if empty")
    class_words: str = option("", "initial class context, one for all classes; random if empty")
    freeze_class_context: bool = option(False, "leave the class context at its initial values")
    class_sampling: float = option(
        0.0, "share of the classes without an image in the batch that a step looks at; 0: all", at_least=0, at_most=1
    )
    update: str = option("single", "updates a batch: single, or repeated as released", choices=("single", "released"))
    tasks_per_batch: int = option(0, MOST_TASKS, at_least=0)
    hierarchy: bool = option(False, "make a context of the names on the task's path, the `parent` of a task list")
    neighbours: int = option(0, "how many tasks of the nearest names a context is mixed with", at_least=0)
    mix: float = option(0.5, "share of the neighbours in it", at_least=0, at_most=1)

    def _check(self) -> None:
        super()._check()
        related = {"hierarchy": self.hierarchy, f"neighbours={self.neighbours}": self.neighbours > 0}
        used = [name for name, wanted in related.items() if wanted]
        if used and (self.variant.endswith("ts") or self.network == "lincls"):
            other = f"variant={self.variant}" if self.variant.endswith("ts") else "network=lincls"
            raise UsageError(
                f"softcpt: {used[0]} needs one task context that every context is made with, but {other} is given: use "
                "variant=nata, cata or csta, and network=lin or linmean."
            )
        asked = {
            f"network={self.network}": self.network != "lin",
            "freeze_class_context": self.freeze_class_context,
            "class_sampling": self.class_sampling > 0,
            "class_words": bool(self.class_words),
        }
        wrong = [name for name, wanted in asked.items() if wanted]
        if wrong and not self.conditioned:
            raise UsageError(
                f"softcpt: {wrong[0]} needs a variant with a class context (cata, csta, cats, csts), but the variant "
                f"is {self.variant}."
            )

    @property
    def conditioned(self) -> bool:
        """Whether contexts are made for each class, not for each task."""
        return self.variant.startswith("c")

    def training_recipe(self) -> Recipe:
        """The recipe; as released, with as many updates as the official program has parts.

        A step that draws classes is another each time.
        """
        recipe = replace(RECIPE, replayable=not self.class_sampling, tasks_per_batch=self.tasks_per_batch)
        if self.update == "single":
            return recipe
        parts = 4 if self.conditioned and not self.freeze_class_context else 3
        return replace(recipe, updates=parts, schedule=replace(recipe.schedule, stride=parts))

    def takes_shares(self) -> bool:
        """Classes are sampled by the labels of the whole batch."""
        return not self.class_sampling

    def check(self) -> None:
        """Refuse contexts that leave no room for the names, and words that cannot be read."""
        names, frozen = self.class_names, self.frozen
        lay_out(frozen, names, self.length, self.position, None, self.name)
        length = context_length(frozen, self.task_words, self.task_length)
        above = {name for task in self.classes for name in task.parents} if self.hierarchy else set[str]()
        self.conditions([*(task.task for task in self.classes), *sorted(above)], length, self.task_position)
        if self.conditioned:
            length = context_length(frozen, self.class_words, self.class_length)
            self.conditions(names, length, self.class_position)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Task context [M, width] or [tasks, M, width], class context alike, and the map."""
        own_tasks, own_classes = self.owners()
        task_context = self.initial(self.task_words, own_tasks, self.task_length)
        class_context = self.initial(self.class_words, own_classes, self.class_length) if self.conditioned else None
        inputs = frozen.embed * (2 if self.conditioned and self.network == "lin" else 1)
        width = frozen.backbone.text.token_embedding.weight.shape[1]
        projection = torch.randn(inputs, self.length * width).to(frozen.backbone.device, frozen.parameter_dtype) * 0.02
        self.take(task_context, class_context, projection)

    def owners(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """How many task contexts and class contexts there are: () is one for all."""
        tasks = (len(self.classes),) if self.variant.endswith("ts") else ()
        return tasks, (sum(self.sizes),) if self.variant.startswith("cs") else ()

    def declared(self) -> dict[str, Declared]:
        """The contexts that there are, and the map."""
        own_tasks, own_classes = self.owners()
        frozen, width = self.frozen, self.frozen.backbone.config.text.blocks.width
        inputs = frozen.embed * (2 if self.conditioned and self.network == "lin" else 1)
        found = {"parameter.projection": Declared(inputs, self.length * width)}
        kind = "buffer" if self.freeze_class_context else "parameter"
        contexts = {"parameter.task_context": (self.task_words, own_tasks, self.task_length)}
        if self.conditioned:
            contexts[f"{kind}.class_context"] = (self.class_words, own_classes, self.class_length)
        for name, (words, own, length) in contexts.items():
            if words:
                found[name] = declared_context(frozen, context_length(frozen, words, length))
            elif length:
                found[name] = declared_context(frozen, *own, length)
        return found

    def initial(self, words: str, own: tuple[int, ...], length: int) -> Tensor | None:
        """A context as it starts; words are one for all."""
        if words:
            return context_of_words(self.frozen, words)
        return random_context(self.frozen, *own, length) if length else None

    def take(
        self,
        task_context: Tensor | None,
        class_context: Tensor | None,
        projection: Tensor,
        known: Sequence[ClassList] | None = None,
    ) -> None:
        """Hold the tensors, and lay the prompts out. known: the tasks among which neighbours are looked for."""
        self.task_context = None if task_context is None else nn.Parameter(task_context)
        self.projection = nn.Parameter(projection)  # [embed or 2 embed, L * width]
        if self.freeze_class_context:
            self.register_buffer("class_context", class_context)
        else:
            self.class_context = None if class_context is None else nn.Parameter(class_context)
        self.lay_out(known)

    def lay_out(self, known: Sequence[ClassList] | None = None) -> None:
        """The three kinds of prompts: of task names, of class names for the map, of class names with what it makes."""
        names = self.class_names
        owner = [number for number, task in enumerate(self.classes) for _ in task.names]
        self.task_of = torch.tensor(owner, device=self.frozen.backbone.device)  # [classes]
        self.owner_of: Sequence[int] = range(len(names)) if self.conditioned else owner  # of the generated contexts
        self.texts = lay_out(self.frozen, names, self.length, self.position, self.owner_of, self.name)
        related = self.hierarchy, self.neighbours, self.mix
        self.relations = Relations.of(self.frozen, self.classes, known or self.classes, *related)
        self.task_texts = self.conditions_of(self.relations.names, self.task_context, self.task_position)
        self.constant: Tensor | None = None  # g [classes, embed] where nothing in it is trained
        if self.conditioned:
            self.class_texts = self.conditions_of(names, self.class_context, self.class_position)
            if self.freeze_class_context or self.class_context is None:
                with torch.no_grad():
                    self.constant = self.run(self.class_texts, self.class_context)

    def conditions_of(self, names: Sequence[str], context: Tensor | None, position: str) -> Texts:
        """Prompts of names with their context, or with none."""
        own = range(len(names)) if context is not None and context.dim() == 3 else None
        return self.conditions(names, 0 if context is None else context.shape[-2], position, own)

    def conditions(self, names: Sequence[str], length: int, position: str, own: Sequence[int] | None = None) -> Texts:
        """Prompts of names with a context of this length, or with none."""
        for name in names:
            self.frozen.backbone.checked_tokenizer().check(name)
        return lay_out(self.frozen, names, length, position, own, self.name)

    def run(self, texts: Texts, context: Tensor | None) -> Tensor:
        """Text features [texts, embed] of prompts with a context, or with none."""
        return self.frozen.text(texts, [] if context is None else [Context(context.flatten(0, -2))])

    def task_features(self, tasks: Sequence[int] | None = None) -> Tensor:
        """f [tasks, embed] of all tasks or of some, not normalized; with relations what they mix."""
        relations = self.relations
        if relations.plain:
            texts = self.task_texts if tasks is None else some(self.task_texts, tasks)
            return self.run(texts, self.task_context)
        tasks = range(len(self.classes)) if tasks is None else tasks
        needed = relations.needed(tasks)
        texts = self.task_texts if len(needed) == len(relations.names) else some(self.task_texts, needed)
        return relations.mixed(self.run(texts, self.task_context), tasks, needed)

    def class_conditions(self, chosen: Tensor | None = None) -> Tensor:
        """g [classes, embed] of all classes or of those chosen, not normalized."""
        if self.constant is not None:
            return self.constant if chosen is None else self.constant.index_select(0, chosen)
        texts = self.class_texts if chosen is None else some(self.class_texts, chosen.tolist())
        return self.run(texts, self.class_context)

    def contexts(self, chosen: Tensor | None = None) -> Tensor:
        """S [tasks, L, width], or [classes, L, width] of variants with a class context.

        chosen: numbers of classes; S is of those, or of their tasks, ascending.
        """
        tasks = None if chosen is None else self.task_of[chosen].unique()  # ascending
        if not self.conditioned:
            z = self.task_features(None if tasks is None else tasks.tolist())
        elif self.network == "lincls":
            z = self.class_conditions(chosen)
            if self.task_context is not None:  # has no part in it, but must have a gradient (of zero) to decay
                z = z + 0 * self.task_context.sum()
        else:
            features = self.task_features(None if tasks is None else tasks.tolist())
            place = self.task_of
            if chosen is not None and tasks is not None:
                place = torch.searchsorted(tasks, self.task_of[chosen])
            both = self.class_conditions(chosen), features.index_select(0, place)
            z = torch.cat(both, dim=1) if self.network == "lin" else (both[0] + both[1]) / 2
        return (z @ self.projection.to(z)).unflatten(1, (self.length, -1))

    def text_features(self, chosen: Tensor | None = None) -> Tensor:
        """t [classes, embed] of all classes, or of those chosen (by number, ascending within each task)."""
        contexts = [Context(self.contexts(chosen).flatten(0, 1))]
        return self.frozen.text(self.texts, contexts) if chosen is None else self._text(chosen.tolist(), contexts)

    def _text(self, chosen: list[int], contexts: Sequence[Context]) -> Tensor:
        """t of the classes chosen, whose contexts alone are there: the ids of a prompt count those of all."""
        own = [self.owner_of[number] for number in chosen]
        place = {owner: number for number, owner in enumerate(sorted(set(own)) if not self.conditioned else own)}
        vocabulary = self.frozen.backbone.config.text.vocabulary
        lower = [(owner - place[owner]) * self.length for owner in own]
        return self.frozen.text(some(self.texts, chosen, vocabulary, lower), contexts, len(self.texts) - len(chosen))

    def features_of_tasks(self, tasks: Sequence[int]) -> Tensor:
        """t [classes of these, embed]: prompts of no other class run, and of no other task but those related."""
        return self.text_features(classes_of(tasks, self.sizes).to(self.task_of.device))

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """[]; with class sampling among the classes chosen for this batch."""
        if not self.class_sampling:
            return super().loss(images, labels)
        chosen, sizes, within = self.sample(labels_by_task(labels, self.sizes))
        if self.leaves_out_absent(len(images)):
            shown = (within != NONE).any(dim=0).tolist()
            owners = [seen for seen, size in zip(shown, sizes, strict=True) for _ in range(size)]
            chosen = chosen[torch.tensor(owners, device=chosen.device)]
            sizes = [size for seen, size in zip(shown, sizes, strict=True) if seen]
            within = within[:, torch.tensor(shown, device=within.device)]
        features = self.text_features(chosen) + OFFSET
        return loss_within_tasks(self.frozen.logits(self.image_features(images), features), within, sizes)

    def sample(self, within: Tensor) -> tuple[Tensor, list[int], Tensor]:
        """Classes for one step, how many of each task, and the labels counted among them.

        within: [images, tasks] labels within each task. In each task those with an image in the batch come first, in
        their order, then a share of the others (rounded up) in the order of torch's default generator.
        """
        chosen, sizes, labels = list[int](), list[int](), within.clone()
        start = 0
        for task, size in enumerate(self.sizes):
            present = sorted(set(within[:, task].tolist()) - {-1})
            absent = torch.tensor([label for label in range(size) if label not in present], dtype=torch.long)
            drawn = absent[torch.randperm(len(absent))[: math.ceil(self.class_sampling * len(absent))]]
            for place, label in enumerate(present):
                labels[within[:, task] == label, task] = place
            chosen += [start + label for label in (*present, *drawn.tolist())]
            sizes.append(len(present) + len(drawn))
            start += size
        return torch.tensor(chosen, device=within.device), sizes, labels

    def rebuild(self, fitted: Method) -> None:
        """The same map for other names, where nothing was learned for single classes, or for tasks not known."""
        tensors = dict(fitted.named_parameters()) | dict(fitted.named_buffers())
        tensors = {name: value.detach().clone() for name, value in tensors.items()}
        task_context, class_context = tensors.get("task_context"), tensors.get("class_context")
        if class_context is not None and class_context.dim() == 3:
            raise NewClassesError(
                f"softcpt with variant={self.variant} learned a context for each of its classes and cannot predict "
                "others: fit it with variant=nata or cata."
            )
        if task_context is not None and task_context.dim() == 3:
            task_context = task_context[_known(self, fitted, f"variant={self.variant}", "variant=nata or cata")]
        self.take(task_context, class_context, tensors["projection"], fitted.classes)
        self.requires_grad_(False)


class CoOpMT(Method):
    """Context vectors that are learned for several tasks together: one for all, one a task, or one a class."""

    name: ClassVar[str] = "coop_mt"
    title: ClassVar[str] = "CoOp-MT"
    paper: ClassVar[str] = f"baseline of {PAPER}"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = RECIPE
    grid: ClassVar[Grid | None] = GRID
    accepts_new_classes: ClassVar[bool] = True
    edits_towers: ClassVar[bool] = True
    several_tasks: ClassVar[bool] = True

    sharing: str = option(
        "all", "one context for all tasks, one a task, or one a class", choices=("all", "task", "class")
    )
    length: int = option(16, "context length L", at_least=1)
    position: str = option("end", "where the class name stands", choices=POSITIONS)
    tasks_per_batch: int = option(0, MOST_TASKS, at_least=0)

    def training_recipe(self) -> Recipe:
        """The recipe, with the bound of tasks."""
        return replace(RECIPE, tasks_per_batch=self.tasks_per_batch)

    def check(self) -> None:
        """Refuse a context that leaves no room for the names."""
        lay_out(self.frozen, self.class_names, self.length, self.position, None, self.name)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """The context: [L, width], [tasks, L, width] or [classes, L, width]."""
        self.take(random_context(frozen, *self.owners(), self.length))

    def owners(self) -> tuple[int, ...]:
        """How many contexts there are: () is one for all."""
        return {"all": (), "task": (len(self.classes),), "class": (sum(self.sizes),)}[self.sharing]

    def declared(self) -> dict[str, Declared]:
        """The context."""
        return {"parameter.context": declared_context(self.frozen, *self.owners(), self.length)}

    def take(self, context: Tensor) -> None:
        """Hold the context, and lay the prompts out."""
        self.context = nn.Parameter(context)
        names = self.class_names
        of_task = [number for number, task in enumerate(self.classes) for _ in task.names]
        own = {"all": None, "task": of_task, "class": range(len(names))}[self.sharing]
        self.texts = lay_out(self.frozen, names, self.length, self.position, own, self.name)

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        return self.frozen.text(self.texts, [Context(self.context.flatten(0, -2))])

    def features_of_tasks(self, tasks: Sequence[int]) -> Tensor:
        """[classes of these, embed]."""
        chosen = classes_of(tasks, self.sizes).tolist()
        texts, absent = some(self.texts, chosen), len(self.texts) - len(chosen)
        return self.frozen.text(texts, [Context(self.context.flatten(0, -2))], absent)

    def rebuild(self, fitted: Method) -> None:
        """The context of all, or of tasks that are known, beside other names."""
        if self.sharing == "class":
            raise NewClassesError(
                "coop_mt with sharing=class learned one context for each of its classes and cannot predict others: "
                "fit it with sharing=all or task."
            )
        context = fitted.get_parameter("context").detach().clone()
        if self.sharing == "task":
            context = context[_known(self, fitted, "sharing=task", "sharing=all")]
        self.take(context)
        self.requires_grad_(False)


def _known(method: Method, fitted: Method, option: str, instead: str) -> list[int]:
    """The place of each of a method's tasks among those that another was fitted to; others are refused."""
    known = [task.task for task in fitted.classes]
    for task in method.classes:
        if task.task not in known:
            raise NewClassesError(
                f"{method.name} with {option} learned a context for each of its tasks ({', '.join(known)}) and cannot "
                f"predict others ({task.task}): fit it with {instead}."
            )
    return [known.index(task.task) for task in method.classes]
