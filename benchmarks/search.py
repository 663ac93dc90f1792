"""DualAdapter's search: whole axes of the grid on stored logits, against one point after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from benchmarks.measure import Line, Target, alternate, line, long, seconds
from benchmarks.names import CALTECH101
from benchmarks.sizes import Size
from shotfit.data.pictures import Picture
from shotfit.data.tasks import ClassList, Item
from shotfit.engine.frozen import Frozen, ImagePool, Images, normalize
from shotfit.errors import ShotfitError
from shotfit.fitting.train import train
from shotfit.methods.base import Fold, Support, Validation
from shotfit.methods.dualadapter import DualAdapter
from shotfit.towers.backbone import Backbone
from shotfit.towers.edits import Edit

__all__ = ["dualadapter_search"]


class Featured(Frozen):
    """A frozen model whose image features are random, near a center of each class, whatever the images are."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self._features: WeakKeyDictionary[ImagePool, Tensor] = WeakKeyDictionary()

    def image(self, images: Images, edits: Sequence[Edit] = ()) -> Tensor:
        """[images, embed]."""
        pool = images.pool
        assert pool is not None
        if pool not in self._features:
            generator = torch.Generator().manual_seed(0)
            centers = torch.randn(int(pool.labels.max()) + 1, self.embed, generator=generator)
            own = centers[pool.labels.repeat_interleave(max(pool.views, 1))]
            self._features[pool] = own + 4 * torch.randn(own.shape, generator=generator)
        return self._features[pool][images.rows]


class PointByPoint(DualAdapter):
    """The reference manner: each point's logits from cosines that are computed once."""

    @torch.no_grad()
    def search_on(self, validation: Validation) -> None:
        (fold,) = validation.folds
        features = normalize(self.image_features(fold.held))
        positive, negative = self.text_logits(features)
        (near, far), (values, negative_values) = self.cosines(features), self.values()
        best, found = -1, (0.0, 0.0, 0.0)
        for beta in self.grids()[0]:
            for alpha in self.grids()[1]:
                for weight in self.grids()[2]:
                    cached = torch.exp(-beta * (1 - near)) @ values
                    opposite = torch.exp(-beta * far) @ negative_values
                    logits = weight * (positive + alpha * cached) + (1 - weight) * (negative + alpha * opposite)
                    right = int((logits.argmax(dim=1) == fold.labels).sum())
                    if right > best:
                        best, found = right, (beta, alpha, weight)
        self.right = torch.tensor(best)
        self.get_buffer("coefficients").copy_(torch.tensor(found))


def dualadapter_search(size: Size, repeats: int) -> Line:
    """DualAdapter without training, fit of 16 shots x 100 classes including its search, against point by point."""
    backbone = size.backbone(image_tower=False)
    classes = size.classes_of(ClassList("caltech101", CALTECH101))
    count = len(classes.names)
    items, held = (
        [Item(Picture(Path()), label, "") for label in range(count) for _ in range(images)] for images in (16, 4)
    )
    frozen = Featured(backbone)
    center, judged = ImagePool(items), ImagePool(held)
    support = Support(center, ImagePool(items, 4), 16)
    fold = Fold(torch.arange(len(items)), judged.all(), judged.labels)
    validation = Validation("validation part", (fold,))
    grid = {} if size.layers > 3 else {"beta_grid": "0,7,3", "alpha_grid": "0,7,3", "lambda_grid": "0.6,1,2"}

    def fitted(kind: type[DualAdapter], training_free: bool = True) -> DualAdapter:
        method = kind(training_free=training_free)
        for axis, text in grid.items():
            setattr(method, axis, text)
        method.attach(frozen, (classes,))
        method.prepare(support)
        method.build(frozen, (classes,))
        return method

    def fit(kind: type[DualAdapter]) -> int:
        """The most held images that any point puts right."""
        method = fitted(kind)
        method.solve(support, validation)
        return int(method.right.max())

    found, expected = fit(DualAdapter), fit(PointByPoint)  # also encodes the texts
    if abs(found - expected) > 1:  # logits that are equal but for rounding may fall either way
        raise ShotfitError(f"The best points put {found} and {expected} held images right: nothing was timed.")
    timing = alternate(lambda: fit(DualAdapter), lambda: fit(PointByPoint), long(repeats)).fields()
    trained = fitted(DualAdapter, training_free=False)
    recipe = trained.recipe
    assert recipe is not None
    epochs = 30 if size.layers > 3 else 1
    training = seconds(lambda: train(trained, support, recipe, epochs, torch.Generator().manual_seed(0), validation))
    points = len(trained.grids()[0]) * len(trained.grids()[1]) * len(trained.grids()[2])
    sizes = {"embed": size.embed, "classes": count, "shots": 16, "held": len(held), "points": points}
    more = {
        "training_s": training,
        "ratio_with_training": (training + timing["reference_s"]) / (training + timing["ours_s"]),
    }
    return line(
        "dualadapter_search", timing["ratio"], Target(20, "times faster"), backbone.dtype, sizes, **timing, **more
    )
