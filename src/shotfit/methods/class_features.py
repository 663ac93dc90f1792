"""Class features of frozen prompts: one row a class from its templates.

    normalize   norm(mean_k norm(t_ck))    CLIP's own, Tip-Adapter's
    raw         mean_k t_ck                TaskRes's; long features weigh more

With one template both give the same logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, normalize
from shotfit.towers.edits import Unprojected
from shotfit.towers.resnet import ModifiedResNet

__all__ = ["ENSEMBLES", "class_features", "last_matrix", "mean_features", "scaled_cosines", "unprojected_texts"]

ENSEMBLES = ("normalize", "raw")


def class_features(frozen: Frozen, classes: Sequence[ClassList], ensemble: str = "normalize") -> Tensor:
    """Class features [classes, embed] of the prompts of all tasks; of unit length with `normalize`."""
    return torch.cat([_of_task(frozen, task, ensemble) for task in classes])


def _of_task(frozen: Frozen, task: ClassList, ensemble: str) -> Tensor:
    texts, templates = frozen.class_texts([task])
    features = frozen.text(texts).reshape(-1, templates, frozen.embed)  # [classes, templates, embed]
    if ensemble == "raw":
        return features.mean(dim=1)
    return normalize(normalize(features).mean(dim=1))


def last_matrix(tower: Any) -> nn.Linear | None:
    """What projects into the joint space; None where that is no matrix, or where the tower is closed."""
    last = tower.pool.out if isinstance(tower, ModifiedResNet) else getattr(tower, "projection", None)
    return last if isinstance(last, nn.Linear) else None


@torch.no_grad()
def unprojected_texts(frozen: Frozen, classes: Sequence[ClassList]) -> Tensor:
    """What the text tower pools in front of its projection, the mean of each class's templates: [classes, width]."""
    texts, templates = frozen.class_texts(classes)
    pooled = frozen.text(texts, [Unprojected("text", frozen.backbone.text.last - 1)])
    return pooled.unflatten(0, (-1, templates)).mean(dim=1)


def scaled_cosines(frozen: Frozen, features: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """Cosines [images, classes] times the temperature (0: the backbone's own).

    features: [images, embed], normalized. texts: [classes, embed].
    """
    cosines = features @ normalize(texts).T
    return cosines * (temperature if temperature else frozen.temperature.to(features))


def mean_features(features: Tensor, counts: Sequence[int]) -> Tensor:
    """norm(mean norm) [classes, embed] of features that lie class by class, `counts` to each."""
    parts = normalize(features).split(list(counts))
    return normalize(torch.stack([part.mean(dim=0) for part in parts]))
