"""The class matrix alone, for an image tower that another library runs.

    logits = scale * norm(features) @ weight.T + bias           of methods that compare by cosine
    logits = features @ weight.T + bias                         of a linear probe (scale 1, normalize false)

Whether a method's head is one of these is found by asking it, not by its name: it is given features in place of
images, and a matrix is read off from its answers and has to explain others. An ensemble of such heads is one too, up to
a number for each image that changes no probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.errors import UsageError
from shotfit.export.comparing import TOLERANCE
from shotfit.export.graph import Run
from shotfit.export.traced import attached
from shotfit.fitting.model import Model
from shotfit.towers.config import StemConfig
from shotfit.towers.edits import Edit

__all__ = ["ClassMatrix", "class_matrix"]

ASKED = 64  # features that the matrix has to explain
INSTEAD = "use --to onnx or --to openvino, which hold the image tower too"


@dataclass(frozen=True, eq=False)
class ClassMatrix:
    """weight: [classes, embed]; bias: [classes]; normalize: features are to have length 1 first."""

    weight: Tensor
    bias: Tensor
    scale: float
    normalize: bool

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [n, classes] of features [n, embed], which no method has changed."""
        known = normalize(features) if self.normalize else features
        return self.scale * known @ self.weight.T + self.bias

    def run(self, model: Model) -> Run:
        """Logits and features of pixels, as an export that holds the tower would give them."""

        def run(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            with torch.no_grad():
                features = model.frozen.image(Images.of(torch.from_numpy(pixels)))
                return self(features).numpy(), normalize(features).numpy()

        return run

    def content(self) -> bytes:
        """The bytes of `classifier.safetensors`."""
        return save({"weight": self.weight.contiguous(), "bias": self.bias.contiguous()})


class _TowerChangedError(Exception):
    pass


class _Given(Frozen):
    """A frozen model whose images are their features."""

    def image(self, images: Images, edits: Sequence[Edit] = ()) -> Tensor:
        """What was given, [images, embed]."""
        if any(edit.tower == "image" for edit in edits):
            raise _TowerChangedError
        return images.rows


@torch.no_grad()
def class_matrix(model: Model) -> ClassMatrix:
    """The matrix that a model's head is, calibration included.

    Raises UsageError for a method that changes the image tower or whose head is no matrix, and for a backbone that
    other libraries do not have.
    """
    name, backbone = model.method.name, model.frozen.backbone
    if isinstance(backbone.config.image, StemConfig):
        raise UsageError(
            f"--to classifier is for an image tower that another library runs, but that of {backbone.name} is "
            f"shotfit's own: {INSTEAD}."
        )
    frozen = _Given(backbone)
    asked = Model(attached(model.method, frozen), frozen, model.record, model.task, trust=model.trust)
    features = torch.randn(ASKED, frozen.embed, generator=torch.Generator().manual_seed(0))
    axes = torch.eye(frozen.embed)
    try:
        answers, doubled, ahead, behind = (
            asked.logits(Images.of(given)) for given in (features, 2 * features, axes, -axes)
        )
    except _TowerChangedError:
        raise UsageError(f"{name} changes the image tower, which a class matrix leaves out: {INSTEAD}.") from None
    for centered in (False, True):
        found = [part - part.mean(dim=1, keepdim=True) if centered else part for part in (answers, doubled)]
        up, down = (part - part.mean(dim=1, keepdim=True) if centered else part for part in (ahead, behind))
        weight, bias = (up - down).T / 2, (up + down).mean(dim=0) / 2
        scale = (float(weight.norm(dim=1).mean()) or 1.0) if _same(*found) else 1.0
        matrix = ClassMatrix(weight / scale, bias, scale, _same(*found))
        if _same(matrix(features), found[0]):
            return matrix
    raise UsageError(
        f"The head of {name} is not linear in the image's features, so no class matrix says the same: {INSTEAD}."
    )


def _same(found: Tensor, expected: Tensor) -> bool:
    return bool(((found - expected).abs() <= TOLERANCE * (expected.abs() / 100).clamp_min(1)).all())
