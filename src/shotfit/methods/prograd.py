"""ProGrad: a context whose updates do not go against the frozen model.

Zhu et al., "Prompt-aligned Gradient for Prompt Tuning", ICCV 2023, arXiv 2205.14865.

    prompt_c = start, v_1 .. v_L, what is left of the words, name_c, ".", end
    logits   = exp(s) * norm(image) @ norm(text(prompt)).T                    [images, classes]
    g, h     = the gradients for v of the cross-entropy, and of its distance from the frozen model:
               - T^2 mean_j sum_c softmax(logits0 / T) log softmax(logits / T)          logits0: the task's template
    v steps by   g, where <g, h> >= 0, else by g - strength <g, h> h / |h|^2

What is frozen: both towers. What is learned: the context v [L, width], zero vectors in front of the words of the task's
template (`start=template`), or random, then one per class where `class_specific` asks for it, which knows no other
classes. Both gradients come from one pass through the towers.

# differs: an h below 1e-5 of g counts as no conflict. With as many vectors as words v starts as the frozen model
itself, where h is rounding and its direction noise.
# differs: a template without words in front of the name starts a random context.
# differs: float32 throughout; the official program trains the context in float16.
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#prograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine import ranks
from shotfit.engine.frozen import Frozen, Images
from shotfit.errors import NewClassesError, UsageError
from shotfit.methods.base import Method, option
from shotfit.methods.class_features import class_features
from shotfit.methods.declared import Declared
from shotfit.methods.prompts import context_of_words, declared_context, lay_out, random_context
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.towers.edits import Context
from shotfit.towers.texts import Texts

__all__ = ["ProGrad"]

NOISE = 1e-5  # of g: an h below it is rounding


class ProGrad(Method):
    """CoOp whose gradient loses what would undo the frozen model."""

    name: ClassVar[str] = "prograd"
    title: ClassVar[str] = "ProGrad"
    paper: ClassVar[str] = "Zhu et al., ICCV 2023, arXiv 2205.14865"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("sgd", lr=0.002, weight_decay=5e-4),
        Schedule("cosine", warmup=1, warmup_lr=1e-5),
        epochs={1: 50, 2: 100, 8: 200},
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("lr", (2e-3, 2e-2, 0.1), "how far a context must go depends on the backbone and the names"),
            Axis("steps", (800,), "200 epochs are 1,200 steps for a dozen classes, and 10,000 for a hundred"),
        ),
        robust={"lr": 2e-2, "steps": 400},
    )
    accepts_new_classes: ClassVar[bool] = True
    edits_towers: ClassVar[bool] = True

    length: int = option(16, "context length L, at least the number of the template's words", at_least=1)
    start: str = option("template", "how the context starts", choices=("template", "random"))
    class_specific: bool = option(False, "one random context per class; ignored if words start it")
    strength: float = option(1.0, "share of a conflict that is taken out; 0.8 for some data sets", at_least=0)
    temperature: float = option(1.0, "T of both logits in the distance from the frozen model", above=0)

    def check(self) -> None:
        """Refuse a context that is shorter than its words, or leaves no room for the names."""
        if self._words_count() > self.length:
            raise UsageError(
                f"{self.name}: length is {self.length}, but {self.words!r} has {self._words_count()} words: choose at "
                "least that, better one more, or start=random."
            )
        self._lay_out()

    @cached_property
    def words(self) -> str:
        """The template's, in front of the name; none for a random context."""
        template = self.classes[0].templates[0]
        return template.partition("{}")[0].strip() if self.start == "template" else ""

    def _words_count(self) -> int:
        return len(self.words.split())

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """The context: [L, width], or [classes, L, width] if class-specific."""
        if self.words:
            known = context_of_words(frozen, self.words)[: self._words_count()]
            context = torch.cat([known.new_zeros(self.length - len(known), known.shape[1]), known])
        else:
            context = random_context(frozen, *self._own(), self.length)
        self.context = nn.Parameter(context)

    def _own(self) -> tuple[int, ...]:
        return (len(self.class_names),) if self.class_specific and not self.words else ()

    def declared(self) -> dict[str, Declared]:
        """The context."""
        return {"parameter.context": declared_context(self.frozen, *self._own(), self.length)}

    @cached_property
    def texts(self) -> Texts:
        """The prompts as rows of ids."""
        return self._lay_out()

    def _lay_out(self) -> Texts:
        owners = range(len(self.class_names)) if self._own() else None
        return lay_out(
            self.frozen, self.class_names, self.length, owners=owners, method=self.name, words=self.words,
            replaced=self._words_count(),
        )  # fmt: skip

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        return self.frozen.text(self.texts, [Context(self.context.flatten(0, -2))])

    @cached_property
    def teacher(self) -> Tensor:
        """Class features [classes, embed] of the frozen model, of unit length."""
        return class_features(self.frozen, self.classes)

    def losses(self, images: Images, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and the distance from the frozen model, []."""
        features, temperature = self.image_features(images), self.temperature
        logits = self.frozen.logits(features, self.text_features())
        soft = (self.frozen.logits(features, self.teacher) / temperature).softmax(dim=-1)
        distance = -(temperature**2) * (soft * (logits / temperature).log_softmax(dim=-1)).sum(dim=-1).mean()
        return F.cross_entropy(logits, labels), distance

    def update(self, gradient: Tensor, other: Tensor) -> Tensor:
        """g without what goes against h, both of the context's shape."""
        product, length = (gradient * other).sum(), other.norm()
        conflict = (product < 0) & (length > NOISE * gradient.norm())
        against = self.strength * product / length.square() * other
        return torch.where(conflict, gradient - against, gradient)

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """The cross-entropy, [], with the update as its gradient."""
        loss, distance = self.losses(images, labels)
        (gradient,) = torch.autograd.grad(loss, self.context, retain_graph=True)
        (other,) = torch.autograd.grad(distance, self.context)
        update = self.update(ranks.mean(gradient), ranks.mean(other))
        along = (self.context * update).sum()
        return loss.detach() + along - along.detach()

    def takes_shares(self) -> bool:
        """No: the update is not the mean of those of parts of a batch."""
        return False

    def rebuild(self, fitted: Method) -> None:
        """The unified context, and what is left of its words, in front of other names."""
        assert isinstance(fitted, ProGrad)
        if fitted.context.dim() == 3:
            raise NewClassesError(
                "prograd with class_specific learned one context for each of its classes and cannot predict others: "
                "fit it with class_specific=false."
            )
        self.words = fitted.words
        self.context = nn.Parameter(fitted.context.detach().clone(), requires_grad=False)
