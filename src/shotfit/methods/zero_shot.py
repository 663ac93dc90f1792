"""Zero-shot classification: prompts as the classifier.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020.

    t_c    = norm(mean_k norm(text(template_k with name_c)))     [embed]
    logits = exp(s) * norm(image) @ norm(t).T                    [images, classes]

What is frozen: everything. What is learned: nothing; it needs no image, and knows any classes.
Published: see docs/methods.md#zero_shot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from shotfit.methods.base import Method, option
from shotfit.methods.class_features import ENSEMBLES, class_features
from shotfit.methods.declared import Declared

__all__ = ["ZeroShot"]


class ZeroShot(Method):
    """Text features of the class names, averaged over templates."""

    name: ClassVar[str] = "zero_shot"
    title: ClassVar[str] = "zero-shot CLIP"
    paper: ClassVar[str] = "Radford et al., ICML 2021, arXiv 2103.00020"
    verified: ClassVar[bool] = True
    several_labels: ClassVar[bool] = True
    accepts_new_classes: ClassVar[bool] = True
    several_tasks: ClassVar[bool] = True

    ensemble: str = option(
        "normalize", "average templates after dividing each by its length, or raw", choices=ENSEMBLES
    )

    def declared(self) -> dict[str, Declared]:
        """Nothing."""
        return {}

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        return class_features(self.frozen, self.classes, self.ensemble)

    def features_of_tasks(self, tasks: Sequence[int]) -> Tensor:
        """[classes of these, embed]."""
        return class_features(self.frozen, [self.classes[task] for task in tasks], self.ensemble)
