"""Tip-Adapter and Tip-Adapter-F: a cache of the support images beside the text classifier.

Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", ECCV 2022, arXiv 2207.09519.

    K      = norm(mean over views of image(support))           [support, embed]
    V      = one-hot labels                                    [support, classes]
    a      = norm(image) @ K.T                                 [images, support]
    logits = exp(s) * norm(image) @ norm(t).T + alpha * exp(-beta (1 - a)) @ V

What is frozen: both towers. Tip-Adapter learns nothing and searches beta and alpha; Tip-Adapter-F trains K, which is
not normalized again, with the initial beta and alpha, and searches them afterwards.

# differs: the temperature is the backbone's exp(s); the official program multiplies by 100, CLIP's own value, whatever
the checkpoint says (`temperature=100` restores it).
# differs: the last epoch's keys are kept and nothing is chosen on test images, as the official program chooses F's
epoch.
With several labels a picture the values are sets, and each class counts as if it had 16 images.

# differs: F trains on the views drawn once for the cache (`--views fresh` draws a new crop at every step, as the
official program does).
Published: see docs/methods.md#tip_adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.errors import ShotfitError
from shotfit.methods.base import Method, Support, Validation, option
from shotfit.methods.class_features import class_features, scaled_cosines
from shotfit.methods.coefficients import MOST_STEPS, at_once, best_first, grid, judged_along
from shotfit.methods.declared import Declared
from shotfit.methods.recipe import VIEWS, Axis, Grid, Optimizer, Recipe, Schedule
from shotfit.methods.several_labels import CACHED
from shotfit.methods.support_features import support_features

__all__ = ["TipAdapter", "TipAdapterF", "cached"]

LOW = 0.1  # lower end of both searches


class TipAdapter(Method):
    """The cache model, without training."""

    name: ClassVar[str] = "tip_adapter"
    title: ClassVar[str] = "Tip-Adapter"
    paper: ClassVar[str] = "Zhang et al., ECCV 2022, arXiv 2207.09519"
    verified: ClassVar[bool] = True
    several_labels: ClassVar[bool] = True
    own_views: ClassVar[str] = "cache_views"

    alpha: float = option(1.17, "weight of the cache where nothing is searched; F trains with it", at_least=0)
    beta: float = option(1.0, "sharpness of the cache where nothing is searched; F trains with it", at_least=0)
    search: bool = option(True, "search beta and alpha on validation images")
    alpha_scale: float = option(3.0, "upper end of the search for alpha, not reached", above=0.1)
    beta_scale: float = option(7.0, "upper end of the search for beta, not reached", above=0.1)
    alpha_steps: int = option(20, "values of alpha that are tried", at_least=1, at_most=MOST_STEPS)
    beta_steps: int = option(200, "values of beta that are tried", at_least=1, at_most=MOST_STEPS)
    cache_views: int = option(VIEWS, "random views averaged to a key; 0: the center view", at_least=0, at_most=1000)
    temperature: float = option(0.0, "factor of the text classifier's cosines; 0: the backbone's own", at_least=0)

    @torch.no_grad()
    def prepare(self, support: Support) -> None:
        """Average the views of each support image to its key."""
        views = support_features(self.frozen, support, self.cache_views)  # [views, support, embed]
        self.prepared = normalize(views.mean(dim=0)), support.labels

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Keys [support, embed], values [support, classes], and (beta, alpha)."""
        if not hasattr(self, "prepared"):
            raise ShotfitError(f"{self.name} needs support images before it is built: call prepare(support) first.")
        keys, labels = self.prepared
        del self.prepared
        self.base = class_features(frozen, classes)  # [classes, embed]
        self.keep(keys)
        self.register_buffer("cache_values", self._values(labels).to(keys))
        self.register_buffer("beta_alpha", torch.tensor([self.beta, self.alpha]).to(keys.device))

    def _values(self, labels: Tensor) -> Tensor:
        """[support, classes]: one-hot; of sets each class as if it had CACHED images."""
        if not self.judges_alone:
            return nn.functional.one_hot(labels, len(self.base))
        return labels * CACHED / labels.sum(dim=0).clamp(min=1)

    def keep(self, keys: Tensor) -> None:
        """Hold the keys as a buffer: they are not trained."""
        self.register_buffer("cache_keys", keys)

    def declared(self) -> dict[str, Declared]:
        """Keys, values, and (beta, alpha)."""
        return {
            "buffer.cache_keys": Declared("support", self.frozen.embed),
            "buffer.cache_values": Declared("support", len(self.class_names)),
            "buffer.beta_alpha": Declared(2),
        }

    def keys(self) -> Tensor:
        """[support, embed]."""
        return self.get_buffer("cache_keys")

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        return self.base

    def text_logits(self, features: Tensor) -> Tensor:
        """Logits [images, classes] of the text classifier alone, of normalized image features."""
        return scaled_cosines(self.frozen, features, self.class_features(), self.temperature)

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        features = normalize(self.image_features(images))
        found = self.get_buffer("beta_alpha")
        cache = cached(features @ self.keys().T, self.get_buffer("cache_values"), found[0])
        return self.text_logits(features) + found[1] * cache

    def solve(self, support: Support, validation: Validation) -> None:
        """Search beta and alpha on the folds; a fold's cache holds its own training images only."""
        if self.searches(validation):
            self.search_on(validation)

    def keep_chosen(self, fitted: Method) -> None:
        """Beta and alpha."""
        self.get_buffer("beta_alpha").copy_(fitted.get_buffer("beta_alpha"))

    def searches(self, validation: Validation) -> bool:
        """Whether there is something to search on."""
        return self.search and bool(validation.folds)

    def selection(self, validation: Validation) -> str:
        """What beta and alpha were chosen by."""
        if self.searches(validation) or not validation.folds:
            return validation.description
        why = "trained keys know all support images" if self.search else "search is off"
        return f"fixed defaults ({why})"

    @torch.no_grad()
    def search_on(self, validation: Validation) -> None:
        """Keep the pair with the most held images right, the first of equals with beta outermost.

        Of sets the mean average precision decides, for every tenth beta: each point is ranked by itself. Nothing right
        anywhere keeps the defaults.
        """
        steps = max(1, self.beta_steps // 10) if self.judges_alone else self.beta_steps
        betas = grid(LOW, self.beta_scale, steps)
        alphas = grid(LOW, self.alpha_scale, self.alpha_steps)
        self.correct = torch.zeros(len(betas), len(alphas), dtype=torch.double)  # held images right of each pair
        for fold in validation.folds:
            features = normalize(self.image_features(fold.held))
            train = fold.train.to(features.device)
            affinity = features @ self.keys()[train].T  # [held, train]
            values = self.get_buffer("cache_values")[train]
            cache = partial(cached, affinity, values) if self.judges_alone else _cache_of(affinity, values)
            zero_shot = self.text_logits(features)
            labels = fold.labels.to(features.device)
            several = at_once(zero_shot)
            for row in range(0, len(betas), several):
                caches = torch.stack([cache(beta) for beta in betas[row : row + several]])
                self.correct[row : row + several] += judged_along(zero_shot, caches, labels, alphas)
        best = best_first(self.correct)
        if best is not None:
            self.get_buffer("beta_alpha").copy_(torch.tensor([betas[best[0]], alphas[best[1]]]))


class TipAdapterF(TipAdapter):
    """The cache model with trained keys.

    Its keys have seen every support image, so cross-validation would judge beta and alpha by images that the cache
    knows: they are searched on a validation part only, and keep their defaults otherwise.
    """

    name: ClassVar[str] = "tip_adapter_f"
    title: ClassVar[str] = "Tip-Adapter-F"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("adamw", lr=1e-3, weight_decay=0.01, eps=1e-4),
        Schedule("cosine", unit="step"),
        epochs={1: 20},
        batch=256,
        crop_scale=(0.5, 1.0),
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis(
                "beta", (1.0, 3.0), "how near an image must be to count; the published search needs a validation part"
            ),
            Axis("lr", (1e-3, 3e-3, 1e-2), "20 epochs of a small folder are 20 steps"),
            Axis("steps", (200,), "what the published epochs are for 2,500 images"),
        ),
        robust={"beta": 1.0, "lr": 1e-2, "steps": 100},
        together=True,
    )

    def keep(self, keys: Tensor) -> None:
        """Hold the keys as a parameter."""
        self.cache_keys = nn.Parameter(keys.clone())

    def keys(self) -> Tensor:
        """[support, embed]."""
        return self.cache_keys

    def declared(self) -> dict[str, Declared]:
        """The keys are a parameter."""
        own = super().declared()
        return own | {"parameter.cache_keys": own.pop("buffer.cache_keys")}

    def searches(self, validation: Validation) -> bool:
        """Only where there is a validation part."""
        return super().searches(validation) and validation.source == "validation part"


def _cache_of(affinity: Tensor, values: Tensor) -> Callable[[float], Tensor]:
    """`cached` for many beta: on a CPU the weights are added up class by class.

    A product with one-hot values takes `classes` times as many additions, all but one of which add a zero: with a
    thousand classes nearly all of a search. On a GPU the product is the fast one, and always adds in the same order.
    """
    if affinity.device.type != "cpu":
        return lambda beta: cached(affinity, values, beta)
    labels, apart = values.argmax(dim=1), (1 - affinity).T.contiguous()  # [support], [support, images]

    def added(beta: float) -> Tensor:
        sums = apart.new_zeros(values.shape[1], apart.shape[1])  # [classes, images]
        return sums.index_add_(0, labels, torch.exp(-beta * apart)).T.contiguous()

    return added


def cached(affinity: Tensor, values: Tensor, beta: Tensor | float) -> Tensor:
    """The cache's logits [images, classes] of cosines [images, support] and one-hot values [support, classes]."""
    return torch.exp(-beta * (1 - affinity)) @ values
