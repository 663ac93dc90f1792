"""DualAdapter and its revision SimNL: what a class is, and what it is not, each by text and by images.

Zhang et al., "Negative Yields Positive: Unified Dual-Path Adapter for Vision-Language Models", arXiv 2403.12964 v1,
2024; v2 is "Enhancing Vision-Language Few-Shot Adaptation with Negative Learning" (SimNL), WACV 2025.

    f         = norm(image)                                            [images, embed]
    W         = 0.45 norm(T + r_1) + 0.55 norm(D + r_2)                [classes, embed], not normalized again
    K, K-     = norm(keys + r_3), norm(negative keys + r_4)            [support, embed]
    P         = s f @ W.T + alpha exp(-beta (1 - f @ K.T)) @ V
    Q         = 0.15 s (1 - f @ norm(T- + r_5).T) + alpha exp(-beta f @ K-.T) @ V-
    logits    = lambda P + (1 - lambda) Q                              [images, classes]
    loss      = CE + rerank(f, W) + 8 consistency(W)                   `prototype_losses` has the last two

T, T-: prompts of the templates and of the negative ones. D: sentences about each class (`descriptions`), else T.
V, V-: one-hot labels of the cache, weighted by how alike an image is to the others of its class (`trust`).

What is frozen: both towers. What is learned: five residuals, one row a class, all zero at the start, so that new
classes have none. With `training_free` they stay zero.

Coefficients (beta, alpha, lambda) are searched on a validation part. Without one they are searched by cross-validation
only where nothing was trained, with the cache, its negatives and its weights made anew from the training images of each
fold; trained residuals have seen every support image, so with them the coefficients keep their defaults.

With several labels a picture an image is in the cache once for each of its classes, a class's negative keys are means
of images without it (`negative_cache.cache_of_sets`), the cross-entropy is binary, and rerank is left out.

# differs: the consistency loss compares classes. The official program compares dimensions of the embedding, over all
classes (`consistency_axis=dimension` restores it).
# differs: one draw of shots; the official program draws the cache by one seed and the training images by another, and
so sees up to twice as many.
# differs: keys are the mean over the views drawn once, or the center view where nothing is trained, and training uses
the same views (`--views 10` averages as many as the official program, `--views fresh` trains on a new crop each time).
# differs: float32 for the official half precision; AdamW's eps stays at the 1e-3 that it was chosen for (`eps`).
# differs: rows are found by their label, and a class with fewer images than others is not filled up with copies; its
weights still sum to the nominal number of shots, and for negatives its images are taken in turn.
# differs: SimNL's weights are not a number at one shot; here they are 1.
# differs: the temperature s is the backbone's; the official program has 100, CLIP's own (`temperature=100`).
# differs: epoch and coefficients are judged by at most four validation images a class, as everywhere in shotfit. The
official program takes all of them (`--validation full`), and on ImageNet test images, which is never done here.
# differs: a coarser grid of coefficients; the official one of most data sets is `beta_grid=0,7,200 alpha_grid=0,7,40
lambda_grid=0.6,1,20`.
# differs: the second negative template of ucf101 is its positive one in the official table, and is left out.
Published: see docs/methods.md#dualadapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.errors import ShotfitError
from shotfit.methods.base import Method, Support, Validation, check_prompts
from shotfit.methods.class_features import class_features, mean_features
from shotfit.methods.coefficients import at_once, best_first, judged_along
from shotfit.methods.declared import Declared
from shotfit.methods.descriptions import read_descriptions
from shotfit.methods.dualadapter.negative_cache import Cache, cache_of_sets, check_left_out, negative_keys, trust
from shotfit.methods.dualadapter.options import NEGATIVE, POSITIVE, DualAdapterOptions, given_templates
from shotfit.methods.dualadapter.paired_templates import PAIRED_TEMPLATES, negated, with_templates
from shotfit.methods.dualadapter.prototype_losses import away_from, rerank
from shotfit.methods.recipe import Axis, Grid, Optimizer, ParameterGroup, Recipe, Schedule
from shotfit.methods.several_labels import set_loss

__all__ = ["DualAdapter"]

TRUST_TEMPERATURE = {"dualadapter": 0.1, "simnl": 1.0}
SEARCH_ENTRIES = 2**21  # entries of a matrix of logits that the search holds at once


class DualAdapter(DualAdapterOptions):
    """Positive and negative adapters of text and images."""

    name: ClassVar[str] = "dualadapter"
    title: ClassVar[str] = "DualAdapter"
    paper: ClassVar[str] = "Zhang et al., arXiv 2403.12964; SimNL: WACV 2025"
    verified: ClassVar[bool] = True
    several_labels: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("adamw", lr=1e-4, weight_decay=0.1, eps=1e-3),
        Schedule("cosine", unit="step"),
        epochs={1: 30},
        batch=256,
        crop_scale=(0.5, 1.0),
        best_epoch=True,
        keep_last=True,
        replayable=True,
    )
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("positive_weight", (0.75, 0.5, 0.0, 1.0), "where names say little, what an image is not says more"),
            Axis("lr", (1e-4, 1e-3, 1e-2), "30 epochs of a small folder are 30 steps"),
            Axis("steps", (100,), "at the higher rates the residuals have settled by then"),
        ),
        robust={"positive_weight": 0.75, "lr": 1e-3, "steps": 100},
        together=True,
    )

    def training_recipe(self) -> Recipe | None:
        """None where no residual is trained."""
        if self.recipe is None or not self.trained():
            return None
        return replace(self.recipe, optimizer=replace(self.recipe.optimizer, eps=self.eps))

    def check(self) -> None:
        """Refuse descriptions that lack classes, templates that cannot be read, and negatives of too few."""
        self._sentences()
        check_prompts(self.frozen.backbone, self._prompts())
        check_left_out(self.left_out, len(self.classes[0].names))

    def files(self) -> list[Path]:
        """The descriptions."""
        return [Path(self.descriptions)] if self.descriptions else []

    def _prompts(self) -> tuple[ClassList, ClassList]:
        """The classes with the templates that say what an image is, and with those that say what it is not."""
        own = self.classes[0]
        positive, negative = PAIRED_TEMPLATES.get(self.template_set, (own.templates, negated(own.templates)))
        return with_templates(own, positive), with_templates(own, given_templates(self.negative_templates) or negative)

    def _sentences(self) -> list[list[str]] | None:
        return read_descriptions(Path(self.descriptions), self.classes[0].names) if self.descriptions else None

    # What the fit learns from

    @torch.no_grad()
    def prepare(self, support: Support) -> None:
        """Read the descriptions, and average the views of each support image to its key."""
        self.sentences = self._sentences()
        pool, items = support.random, torch.arange(len(support.labels))
        views = [self.frozen.image(pool.take(items, view)) for view in range(max(pool.views, 1))]
        keys = normalize(torch.stack(views).mean(dim=0))
        labels = support.labels.to(keys.device)
        if self.judges_alone:
            self.prepared = cache_of_sets(keys, labels)
        else:
            self.prepared = Cache(keys, labels, labels.clone(), support.shots)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Text features [classes, embed], the caches [support, embed], residuals, and (beta, alpha, lambda)."""
        if not hasattr(self, "prepared"):
            raise ShotfitError(f"{self.name} needs support images before it is built: call prepare(support) first.")
        cache, (positive, negative) = self.prepared, self._prompts()
        template = class_features(frozen, [positive])
        self.register_buffer("template", template)
        self.register_buffer("description", self._described(frozen, template))
        self.register_buffer("negative", class_features(frozen, [negative]))
        self.shots = cache.shots
        self.hold(cache)
        rows = cache.keys if self.residual_per == "shot" else template
        for name in self.trained():
            like = rows if name.endswith("keys") else template
            self.register_parameter(f"residual_{name}", nn.Parameter(torch.zeros_like(like)))
        fixed = self.fixed_lambda()
        start = [self.beta, self.alpha if self.cache else 0.0, self.positive_weight if fixed is None else fixed]
        self.register_buffer("coefficients", torch.tensor(start).to(cache.keys))
        del self.prepared, self.sentences

    def _described(self, frozen: Frozen, template: Tensor) -> Tensor:
        """Description features [classes, embed], of unit length."""
        if self.sentences is None:
            return template.clone()
        texts = frozen.sentences([sentence for own in self.sentences for sentence in own])
        return mean_features(frozen.text(texts), [len(own) for own in self.sentences])

    def hold(self, cache: Cache) -> None:
        """Take a cache: its keys, the opposite ones, and the weights of the rows in both."""
        opposite = negative_keys(cache, self.left_out) if cache.opposite is None else cache.opposite
        plain = torch.ones_like(cache.keys[:, 0])
        weights = trust(cache, self._softness()) if self.refinement else plain
        self.register_buffer("keys", cache.keys)
        self.register_buffer("negative_keys", opposite)
        self.register_buffer("labels", cache.labels)
        self.register_buffer("groups", cache.groups)
        self.register_buffer("weights", weights)
        known = opposite.norm(dim=1) > 0  # a class alone has no opposite
        trusted = weights if self.revision == "simnl" else cache.evenly() if self.judges_alone else plain
        self.register_buffer("negative_weights", known * trusted)

    def declared(self) -> dict[str, Declared]:
        """Text features, the caches, residuals, and (beta, alpha, lambda)."""
        classes, embed = len(self.class_names), self.frozen.embed
        found = {f"buffer.{name}": Declared(classes, embed) for name in ("template", "description", "negative")}
        found |= {f"buffer.{name}": Declared("support", embed) for name in ("keys", "negative_keys")}
        found |= {f"buffer.{name}": Declared("support", below=classes) for name in ("labels", "groups")}
        found |= {f"buffer.{name}": Declared("support") for name in ("weights", "negative_weights")}
        rows = dict.fromkeys(("keys", "negative_keys"), "support" if self.residual_per == "shot" else classes)
        residuals = {f"parameter.residual_{name}": Declared(rows.get(name, classes), embed) for name in self.trained()}
        return found | residuals | {"buffer.coefficients": Declared(3)}

    def _softness(self) -> float:
        return self.refinement_temperature or TRUST_TEMPERATURE[self.revision]

    def parameter_groups(self) -> list[ParameterGroup]:
        """Positive residuals, and negative ones at their own rate."""
        trained = self.trained()
        groups = [(POSITIVE, 1.0), (NEGATIVE, self.negative_rate)]
        return [
            ParameterGroup(tuple(self.get_parameter(f"residual_{name}") for name in names if name in trained), rate)
            for names, rate in groups
            if not set(names).isdisjoint(trained)
        ]

    # The four parts

    def adapted(self, name: str) -> Tensor:
        """A buffer of features moved by its residual, of unit length."""
        features = self.get_buffer(name)
        residual: Tensor | None = dict(self.named_parameters()).get(f"residual_{name}")
        if residual is None:
            return features
        if name.endswith("keys") and self.residual_per == "class":
            residual = residual[self.get_buffer("groups")]
        return F.normalize(features + residual, dim=1)

    def text_features(self) -> Tensor:
        """W [classes, embed]."""
        share = self.description_weight
        return (1 - share) * self.adapted("template") + share * self.adapted("description")

    def values(self) -> tuple[Tensor, Tensor]:
        """Values [support, classes] of the positive and the negative cache."""
        hard = F.one_hot(self.get_buffer("labels"), len(self.get_buffer("template")))
        return hard * self.get_buffer("weights")[:, None], hard * self.get_buffer("negative_weights")[:, None]

    def text_logits(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [images, classes] of normalized image features by the positive and the negative texts."""
        scale = self.temperature or self.frozen.temperature.to(features)
        away = 1 - features @ self.adapted("negative").T
        return scale * features @ self.class_features().T, self.negative_scale * scale * away

    def cosines(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines [images, support] of normalized image features with both caches' keys."""
        return features @ self.adapted("keys").T, features @ self.adapted("negative_keys").T

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        return self.logits_of(normalize(self.image_features(images)))

    def logits_of(self, features: Tensor) -> Tensor:
        """Logits [images, classes] of normalized image features."""
        beta, alpha, weight = self.get_buffer("coefficients")
        positive, negative = self.text_logits(features)
        if self.cache:
            near, far = _cached(self.cosines(features), self.values(), beta)
            positive, negative = positive + alpha * near, negative + alpha * far
        if self.paths == "both":
            return weight * positive + (1 - weight) * negative
        return positive if self.paths == "positive" else negative

    # Losses and search

    def loss(self, images: Images, labels: Tensor) -> Tensor:
        """Cross-entropy, and what is asked of the positive text classifier."""
        features = normalize(self.image_features(images))
        logits = self.logits_of(features)
        if self.judges_alone:  # rerank asks for one class to be nearest
            loss = set_loss(logits, labels)
            return loss if self.paths == "negative" else loss + self.consistency_weight * self.consistency()
        loss = F.cross_entropy(logits, labels)
        if self.paths == "negative":
            return loss
        return loss + self.rerank_weight * self.rerank(features, labels) + self.consistency_weight * self.consistency()

    def rerank(self, features: Tensor, labels: Tensor) -> Tensor:
        """[] the margin loss of normalized image features against W."""
        return rerank(features, self.text_features(), labels, self.rerank_neighbours, self.rerank_scale)

    def consistency(self) -> Tensor:
        """[] how far W has turned away from the frozen texts."""
        axis, share = ("dimension", "class").index(self.consistency_axis), self.description_weight
        moved = self.text_features()
        from_template = away_from(moved, self.get_buffer("template"), axis)
        return (1 - share) * from_template + share * away_from(moved, self.get_buffer("description"), axis)

    def solve(self, support: Support, validation: Validation) -> None:
        """Search the coefficients where that is honest."""
        if self._searches(validation):
            self.search_on(validation)

    def keep_chosen(self, fitted: Method) -> None:
        """Beta, alpha and lambda."""
        self.get_buffer("coefficients").copy_(fitted.get_buffer("coefficients"))

    def _searches(self, validation: Validation) -> bool:
        # trained residuals know the held images, and of several labels the negatives are made of all images together
        seen = validation.source == "cross-validation" and (self.trained() or self.judges_alone)
        return self.search and bool(validation.folds) and not seen

    def selection(self, validation: Validation) -> str:
        """What the coefficients and the epoch were chosen by."""
        if self._searches(validation) or not validation.folds:
            return validation.description
        if validation.source == "validation part" and self.trained():
            return f"{validation.description}, for the epoch alone"
        why = "search is off" if not self.search else "trained residuals know all support images"
        return f"fixed defaults ({why})"

    @torch.no_grad()
    def search_on(self, validation: Validation) -> None:
        """Keep the coefficients with the most held images right, the first of equals with beta outermost.

        Nothing right anywhere keeps the defaults.
        """
        axes, whole, crossed = self.grids(), self._whole(), validation.source == "cross-validation"
        self.right = torch.zeros([len(axis) for axis in axes], dtype=torch.double)  # held images right at each point
        for fold in validation.folds:
            if crossed:
                self.hold(whole.take(fold.train.to(whole.labels.device)))
            features = normalize(self.image_features(fold.held))
            rows = max(1, SEARCH_ENTRIES // max(len(self.get_buffer("template")), len(self.get_buffer("keys"))))
            labels = fold.labels.to(features.device)
            for some, their in zip(features.split(rows), labels.split(rows), strict=True):
                self._count(some, their, axes)
        if crossed:
            self.hold(whole)
        best = best_first(self.right)
        if best is not None:
            found = [axis[index] for axis, index in zip(axes, best, strict=True)]
            self.get_buffer("coefficients").copy_(torch.tensor(found))

    def _whole(self) -> Cache:
        keys, labels, groups = (self.get_buffer(name) for name in ("keys", "labels", "groups"))
        return Cache(keys, labels, groups, self.shots)

    def _count(self, features: Tensor, labels: Tensor, axes: tuple[list[float], list[float], list[float]]) -> None:
        """Add these images to the counts of `right`: four matrices a beta, and a whole axis of alpha at once."""
        betas, alphas, weights = axes
        positive, negative = self.text_logits(features)
        cosines, values = self.cosines(features), self.values()
        several = at_once(positive)
        for row, beta in enumerate(betas):
            near, far = _cached(cosines, values, beta)
            for column in range(0, len(weights), several):
                some = weights[column : column + several]
                fixed = torch.stack([weight * positive + (1 - weight) * negative for weight in some])
                sloped = torch.stack([weight * near + (1 - weight) * far for weight in some])
                self.right[row, :, column : column + several] += judged_along(fixed, sloped, labels, alphas).T


def _cached(
    cosines: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor], beta: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Logits [images, classes] of both caches: near its keys, and far from the opposite ones."""
    near, far = cosines
    return torch.exp(-beta * (1 - near)) @ values[0], torch.exp(-beta * far) @ values[1]
