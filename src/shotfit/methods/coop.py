"""CoOp: context optimization.

Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022, arXiv 2109.01134.

    prompt_c = start, v_1 .. v_L, name_c, ".", end          (position `end`; `middle` and `front` move the name)
    t_c      = text(prompt_c)                               [embed]
    logits   = exp(s) * norm(image) @ norm(t).T             [images, classes]

What is frozen: both towers. What is learned: the context v [L, width], one for all classes, or one per class
(`class_specific`), which then knows no other classes.

# differs: initial words set L by their tokens, not by their spaces, so that a word of several tokens becomes context as
a whole; identical for words of one token each. The official program leaves its other tokens as fixed text.
# differs: float32 throughout; the official program trains the context in float16, where its warm-up hardly moves it.
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step, of 8 % at
least, as the official program does).
Published: see docs/methods.md#coop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen
from shotfit.errors import NewClassesError
from shotfit.methods.base import Method, option
from shotfit.methods.declared import Declared
from shotfit.methods.prompts import (
    POSITIONS,
    context_length,
    context_of_words,
    declared_context,
    lay_out,
    random_context,
)
from shotfit.methods.recipe import Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.towers.edits import Context

__all__ = ["CoOp"]


class CoOp(Method):
    """Learned context vectors in front of, behind or around the class name."""

    name: ClassVar[str] = "coop"
    title: ClassVar[str] = "CoOp"
    paper: ClassVar[str] = "Zhou et al., IJCV 2022, arXiv 2109.01134"
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
            Axis("steps", (1600, 400), "200 epochs are 1,200 steps for a dozen classes, and 10,000 for a hundred"),
        ),
        robust={"lr": 2e-2, "steps": 400},
    )
    accepts_new_classes: ClassVar[bool] = True
    edits_towers: ClassVar[bool] = True

    length: int = option(16, "context length L; the words' length if `words` is given", at_least=1)
    class_specific: bool = option(False, "one context per class; ignored if `words` is given")
    words: str = option("", "initial context, e.g. 'a photo of a'; random if empty")
    position: str = option("end", "where the class name stands", choices=POSITIONS)

    def check(self) -> None:
        """Refuse a context that leaves no room for the names, and words that cannot be read."""
        length = context_length(self.frozen, self.words, self.length)
        lay_out(self.frozen, self.class_names, length, self.position, None, self.name)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """The context: [L, width], or [classes, L, width] if class-specific."""
        if self.words:
            self.context = nn.Parameter(context_of_words(frozen, self.words))
        else:
            count = sum(len(task.names) for task in classes)
            shape = (count, self.length) if self.class_specific else (self.length,)
            self.context = nn.Parameter(random_context(frozen, *shape))
        self.lay_out()

    def declared(self) -> dict[str, Declared]:
        """The context."""
        own = (len(self.class_names),) if self.class_specific and not self.words else ()
        length = context_length(self.frozen, self.words, self.length)
        return {"parameter.context": declared_context(self.frozen, *own, length)}

    def lay_out(self) -> None:
        """The prompts as rows of ids, where learned ids stand beyond the vocabulary."""
        names = self.class_names
        owners = range(len(names)) if self.context.dim() == 3 else None
        self.texts = lay_out(self.frozen, names, self.context.shape[-2], self.position, owners, self.name)

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        return self.frozen.text(self.texts, [Context(self.context.flatten(0, -2))])

    def rebuild(self, fitted: Method) -> None:
        """The unified context in front of other names."""
        context = fitted.get_parameter("context")
        if context.dim() == 3:
            raise NewClassesError(
                "coop with class_specific learned one context for each of its classes and cannot predict others: "
                "fit it with class_specific=false."
            )
        self.context = nn.Parameter(context.detach().clone(), requires_grad=False)
        self.lay_out()
