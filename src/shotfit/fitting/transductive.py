"""Transductive prediction: images that are predicted together help each other (StatA).

Zanella, Fuchs, De Vleeschouwer and Ben Ayed, 2025, arXiv 2501.03729; the step for z is that of TransCLIP, 2406.01837.

    y    what the model says of each image alone [images, classes]; q, t: frozen features of images and of class texts
    z   ~ y exp((1 / 50) log N(q; mu_c, Sigma_c) + (1 / 6) (W' z + W z))     W: cosines to each image's nearest three
    beta = n_c / (1 + n_c)                                                   n_c: images whose best class is c
    mu_c = norm(beta mean_c + (1 - beta) t_c)
    Sigma_c = beta S_c + (1 - beta) (Sigma_0 + (mu_c - t_c)^2)               diagonal; mean_c, S_c weighted by z

A class that no image is given to keeps its text as its mean, and does not collapse. Ten rounds of five steps for z.

The answer for an image depends on the others, so every output names it, and it is never a default.

# differs: the paper's start of Sigma_0 is not known here; it is the spread of q around t as y weighs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from shotfit.calls import checked
from shotfit.data.finding import pictures_in
from shotfit.data.pictures import Picture, PictureLike
from shotfit.data.tasks import Item
from shotfit.engine.frozen import normalize
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.asked import NOTHING_MORE, Asked
from shotfit.fitting.batches import growing
from shotfit.fitting.decoded import best_of
from shotfit.fitting.heldout import features_of_items
from shotfit.fitting.model import Model
from shotfit.fitting.predictions import Prediction, Predictions
from shotfit.fitting.several_labels import refuse
from shotfit.methods.class_features import class_features

__all__ = ["MOST_TOGETHER", "Together", "assigned", "predict_together", "probabilities_together"]

ROUNDS, STEPS, NEIGHBOURS = 10, 5, 3
SOFTNESS, NEAR = 50.0, 6.0  # what divides the likelihood, and what divides the neighbours' say
SMALLEST = 1e-6  # of a variance, in shares of 1 / width
MOST_TOGETHER = 50_000  # images, all of which are compared with all
ROWS = 1024  # images whose neighbours are looked for at a time


class Together:
    """A model that predicts all images of a call together, in place of `Model`."""

    def __init__(self, model: Model) -> None:
        if model.several_labels:
            raise refuse("Images that are predicted together")
        self.model = model

    @torch.no_grad()
    def predict_each(
        self,
        images: Iterable[Picture | None],
        top: int | None = None,
        keep_broken: bool = False,
        asked: Asked = NOTHING_MORE,
        lenient: bool = False,
    ) -> Iterator[Prediction]:
        """As `Model.predict_each`, once all images are read.

        Raises UsageError where sets or marks are asked for, which were measured on images alone, and for more images
        than MOST_TOGETHER.
        """
        if asked.coverage is not None or asked.unknown:
            raise UsageError("--coverage and --unknown are measured on images alone: leave them or --transductive out.")
        names, found = self.model.one_task().names, list[Prediction]()
        probabilities, features = list[Tensor](), list[Tensor]()
        for batch in growing(images):
            told = self.model.answered(batch, _features, lenient)
            for picture, answer in zip(batch, told, strict=True):
                if picture.clip:
                    raise UsageError(f"{picture.clip} is a clip, and --transductive is of pictures: add --each-frame.")
                one = Prediction(str(picture), (), (), picture=picture, transductive=True)
                if isinstance(answer, ShotfitError):
                    if not keep_broken:
                        raise answer
                    one = replace(one, error=str(answer))
                else:
                    probabilities.append(answer[0])
                    features.append(answer[1])
                found.append(one)
            _check_count(len(features))
        if features:
            texts = class_features(self.model.frozen, self.model.classes).cpu()
            rows = iter(assigned(torch.stack(probabilities), torch.stack(features), texts))
        for one in found:
            if one.error is None:
                labels, shares = best_of(next(rows).float(), names, top or 1)
                one = replace(one, labels=labels, probabilities=shares)
            yield one


@checked
def predict_together(
    model: Model,
    images: PictureLike | Sequence[PictureLike],
    top: int = 1,
    task: str | None = None,
    keep_broken: bool = False,
    lenient: bool = False,
) -> Predictions:
    """Transductive predictions, as of `predict --transductive`: the images help each other, and no label is read.

    The answer for an image depends on the others of the call, so each prediction has `transductive` true. The arguments
    are those of `Model.predict`.

    Raises as `Model.predict` does, and UsageError for more than 50,000 images.

    Example (needs a saved model):
        predict_together(load("shotfit-model"), "photos/")[0].labels
    """
    one = model if task is None else model.for_task(task)
    return Predictions(Together(one).predict_each(pictures_in(images), top, keep_broken, lenient=lenient))


@torch.no_grad()
def probabilities_together(model: Model, items: Sequence[Item]) -> Tensor:
    """As `Model.probabilities`, of images that are predicted together: [images, classes].

    Raises as `Model.probabilities` does, and UsageError for more images than MOST_TOGETHER.
    """
    _check_count(len(items))
    texts = class_features(model.frozen, model.classes).cpu()
    return assigned(model.probabilities(items), features_of_items(model.frozen, items), texts)


def _check_count(images: int) -> None:
    if images > MOST_TOGETHER:
        raise UsageError(
            f"--transductive compares all images with all, at most {MOST_TOGETHER:,} of them: predict fewer."
        )


def _features(probabilities: ArrayLike, features: Callable[[], Any]) -> list[Tensor]:
    """What is asked of each image besides its probabilities: its features [embed]."""
    return list(features())


def assigned(probabilities: Tensor, images: Tensor, texts: Tensor) -> Tensor:
    """z [images, classes]: probabilities of images that are predicted together.

    probabilities: [images, classes] of each alone. images: features [images, embed]; texts: [classes, embed].
    """
    y, q, t = probabilities.double(), normalize(images.double()), normalize(texts.double())
    log_y = y.clamp(min=torch.finfo(torch.float32).tiny).log()
    nearest, weight = _neighbours(q)
    around = (y.sum(dim=0)[:, None] * t.square() - 2 * t * (y.T @ q)).sum(dim=0) + q.square().sum(dim=0)
    start = (around / len(q)).clamp(min=SMALLEST / q.shape[1])  # Sigma_0 [embed]
    mean, variance, z = t, start.expand_as(t), y
    for _ in range(ROUNDS):
        likelihood = _likelihood(q, mean, variance)
        for _ in range(STEPS):
            around_z = (weight[..., None] * z[nearest]).sum(dim=1)  # W z
            spread = (weight[..., None] * z[:, None]).flatten(0, 1)  # each image's say for its nearest
            around_z = around_z.index_add(0, nearest.flatten(), spread)
            z = (log_y + likelihood / SOFTNESS + around_z / NEAR).softmax(dim=1)
        mean, variance = _moments(z, q, t, start)
    return z


def _neighbours(q: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest other images and the cosines to them, at least 0: each [images, up to 3]."""
    count = min(NEIGHBOURS, len(q) - 1)
    places, cosines = list[Tensor](), list[Tensor]()
    for start in range(0, len(q), ROWS):
        alike = q[start : start + ROWS] @ q.T
        own = torch.arange(len(alike))
        alike[own, start + own] = -torch.inf
        best = alike.topk(count, dim=1)
        places.append(best.indices)
        cosines.append(best.values.clamp(min=0))
    return torch.cat(places), torch.cat(cosines)


def _likelihood(q: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log N(q; mean, diag variance) without its constant, [images, classes]."""
    square = q.square() @ (1 / variance).T - 2 * q @ (mean / variance).T + (mean.square() / variance).sum(dim=1)
    return -0.5 * (square + variance.log().sum(dim=1))


def _moments(z: Tensor, q: Tensor, t: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each class, held by its text: each [classes, embed]."""
    counts = z.argmax(dim=1).bincount(minlength=len(t)).double()[:, None]  # n_c [classes, 1]
    beta, total = counts / (1 + counts), z.sum(dim=0)[:, None].clamp(min=1e-12)
    mean = normalize(beta * (z.T @ q) / total + (1 - beta) * t)
    spread = (z.T @ q.square() - 2 * mean * (z.T @ q)) / total + mean.square()
    variance = beta * spread.clamp(min=0) + (1 - beta) * (start + (mean - t).square())
    return mean, variance.clamp(min=SMALLEST / q.shape[1])
