"""A fitted model as one module, pixels in, calibrated logits and features out, that torch can trace.

    module = Traced(model)                        # of a model in float32 on the CPU
    logits, features, *_ = module(pixels)         # [n, classes], [n, embed]

Nothing is computed again that the method computes: its own `logits` runs, on a frozen model that has no store and takes
pixels alone. So what a method puts into the tower (adapters, prompts) and its head (caches, probes, ensembles) go into
the graph as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.fitting.model import Model
from shotfit.methods.base import Method
from shotfit.towers.backbone import Backbone
from shotfit.towers.edits import NOTHING, Edit, frozen_until
from shotfit.towers.layout import Savings, Stream

__all__ = ["Traced", "attached"]


class OnePass(Frozen):
    """A frozen model that runs pixels, and each of its steps once in a pass, whoever asks for it."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone, savings=Savings.without(["silu"]))  # which a runtime finds out for itself
        self.begin()

    def begin(self) -> None:
        """Forget the pass before."""
        self._streams: dict[int, Stream] = {}
        self._features: Tensor | None = None
        self.made = list[Tensor]()  # all features of this pass, where the tower ends

    def image(self, images: Images, edits: Sequence[Edit] = ()) -> Tensor:
        """Image features [images, embed], not normalized, of pixels."""
        tower = self.backbone.image
        edits = [edit for edit in edits if edit.tower == "image"]
        if edits:
            step = frozen_until(edits, tower.last)
            start = step == NOTHING
            stream = tower.start(images.rows, edits, self.savings) if start else self._until(images.rows, step)
            self.made.append(tower.finish(stream, edits))
            return self.made[-1]
        if self._features is None:
            self._features = tower.finish(self._until(images.rows, tower.last - 1))
            self.made.append(self._features)
        return self._features

    def _until(self, pixels: Tensor, step: int) -> Stream:
        """The frozen stream after a step, from the latest step before it that has run."""
        if step not in self._streams:
            before = max((known for known in self._streams if known < step), default=None)
            tower = self.backbone.image
            stream = tower.start(pixels, (), self.savings) if before is None else self._streams[before]
            self._streams[step] = tower.run(stream, until=step)
        return self._streams[step]


class Traced(nn.Module):
    """forward(pixels [n, 3, size, size]): calibrated logits [n, classes] of the model's task, whose softmax is what it
    predicts, features [n, embed] of the frozen image tower, of unit length, and what the tower gave at the end of each
    pass."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        classes = model.one_task()
        self.frozen = OnePass(model.frozen.backbone)
        self.method = attached(model.method, self.frozen)
        self.calibration = None if model.trust is None else model.trust.calibration
        first = sum(model.method.sizes[: model.tasks.index(classes.task)]) if model.task is not None else 0
        self.columns = slice(first, first + len(classes.names))
        # under the tracer's eye: the method keeps its frozen model where no module is looked for
        self.tower, self.logit_scale = self.frozen.backbone.image, self.frozen.backbone.logit_scale
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """[n, 3, size, size] to [n, classes], [n, embed] and again as often [n, embed] as the tower runs."""
        self.frozen.begin()
        images = Images.of(pixels)
        features = normalize(self.frozen.image(images))  # before edits, so that they find the streams that they share
        logits = self.method.logits(images).float()
        if self.calibration is not None:
            logits = self.calibration(logits)
        made = self.frozen.made
        self.frozen.begin()
        return logits[:, self.columns], features, *made


@torch.no_grad()
def attached(fitted: Method, frozen: Frozen) -> Method:
    """The fitted method on another frozen model, as a saved one is opened."""
    method = type(fitted)(**fitted.options())
    method.attach(frozen, fitted.classes)
    method.restore(fitted.state())
    return method.requires_grad_(False)
