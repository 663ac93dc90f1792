"""How two encoders come into one space, on features alone: maps in closed form, a small contrastive head, recall.

    joined(images, texts, owners, how="procrustes", strength=0.1)       # a mean and a map for each encoder
    recall(images, texts, owners)                                       # at 1, 5 and 10, both ways, beside chance

x_i is an image's feature of length 1 less the mean, y_i the mean of its captions' likewise; C are covariances, each
with `strength` times its mean eigenvalue added to the diagonal.

    ridge         image map  Cx^-1 Cxy,  text map  I                                    [image, text], [text, text]
    procrustes    U S V' = Cx^-1/2 Cxy Cy^-1/2;  maps  Cx^-1/2 U S^1/2  and  Cy^-1/2 V S^1/2, of the largest S
    contrastive   both maps go on from procrustes' by CLIP's loss, an image with one of its captions at a time

With a large strength, whitening does nothing and `procrustes` is the orthogonal one, weighted by what both share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from shotfit.checkpoints.joined import Maps
from shotfit.engine.frozen import normalize

__all__ = ["HOWS", "STRENGTHS", "How", "Recall", "best_scale", "joined", "recall"]

How = Literal["procrustes", "ridge", "contrastive"]
HOWS: tuple[How, ...] = get_args(How)
STRENGTHS = (0.003, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
LARGEST = 1024  # dimensions of a joint space
AT = (1, 5, 10)
STEPS, BATCH, RATE, DECAY = 600, 512, 1e-3, 0.05  # of the contrastive head
TOGETHER = 1024  # rows that are compared with all others at once


@dataclass(frozen=True)
class Recall:
    """Shares of held-out queries whose own is among the nearest 1, 5 and 10, and what chance gives.

    to_text: a caption of the image; to_image: an image of the caption.
    """

    to_text: tuple[float, ...]
    to_image: tuple[float, ...]
    chance_to_text: tuple[float, ...]
    chance_to_image: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the six figures, by which a strength is chosen."""
        return sum((*self.to_text, *self.to_image)) / (2 * len(AT))

    def as_json(self) -> dict[str, dict[str, float]]:
        """By direction and number."""
        return {name: dict(zip(map(str, AT), values, strict=True)) for name, values in vars(self).items()}


def joined(
    images: Tensor, texts: Tensor, owners: Tensor, how: How, strength: float, scale: float = 1.0, seed: int = 1
) -> Maps:
    """Maps learned from features [images, image] and [captions, text]; owners [captions]: the image of each caption."""
    x, y = normalize(images.double()), normalize(texts.double())
    image_mean, text_mean = x.mean(dim=0), y.mean(dim=0)
    x, y = x - image_mean, y - text_mean
    mean = torch.zeros(len(x), y.shape[1], dtype=y.dtype).index_add_(0, owners, y)
    mean = mean / torch.bincount(owners, minlength=len(x)).clamp(min=1)[:, None]  # [images, text]
    between = x.T @ mean / len(x)  # [image, text]
    if how == "ridge":
        covariance = _regular(x.T @ x / len(x), strength)
        image_map, text_map = torch.linalg.solve(covariance, between), torch.eye(y.shape[1], dtype=y.dtype)
    else:
        left = _inverse_root(_regular(x.T @ x / len(x), strength))
        right = _inverse_root(_regular(mean.T @ mean / len(x), strength))
        u, s, v = torch.linalg.svd(left @ between @ right, full_matrices=False)
        kept = min(int((s > s[0] * 1e-6).sum()), LARGEST)
        weight = s[:kept].sqrt()
        image_map, text_map = left @ u[:, :kept] * weight, right @ v[:kept].T * weight
    maps = [image_map / (x @ image_map).norm(dim=1).mean(), text_map / (y @ text_map).norm(dim=1).mean()]
    if how == "contrastive":
        maps = _contrasted(x, y, owners, maps, seed)
    parts = [part.float().contiguous() for part in (image_mean, maps[0], text_mean, maps[1])]
    return Maps(parts[0], parts[1], parts[2], parts[3], scale)


def _regular(covariance: Tensor, strength: float) -> Tensor:
    return covariance + strength * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)


def _inverse_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=1e-12).rsqrt() @ vectors.T


@torch.enable_grad()
def _contrasted(x: Tensor, y: Tensor, owners: Tensor, maps: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The maps after training on batches of images, each with one of its captions, all drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    x, y = x.float(), y.float()
    order = torch.argsort(owners, stable=True)  # captions, image by image
    counts = torch.bincount(owners, minlength=len(x))
    starts = counts.cumsum(0) - counts
    weights = [part.float().clone().requires_grad_() for part in maps]
    scale = torch.tensor(math.log(20.0), requires_grad=True)
    optimizer = torch.optim.AdamW([*weights, scale], lr=RATE, weight_decay=DECAY)
    batch = min(BATCH, len(x))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
        chosen = torch.randperm(len(x), generator=generator)[:batch]
        which = (torch.rand(batch, generator=generator) * counts[chosen]).long()
        captions = order[starts[chosen] + which]
        logits = scale.exp() * normalize(x[chosen] @ weights[0]) @ normalize(y[captions] @ weights[1]).T
        target = torch.arange(batch)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [part.detach().double() for part in weights]


def recall(images: Tensor, texts: Tensor, owns: Tensor) -> Recall:
    """Of features in the joint space. owns: [images, captions], whether a caption is the image's."""
    cosines = normalize(images) @ normalize(texts).T  # [images, captions]
    return Recall(_found(cosines, owns), _found(cosines.T, owns.T), _by_chance(owns), _by_chance(owns.T))


def _found(cosines: Tensor, owns: Tensor) -> tuple[float, ...]:
    """Share of rows of which one of the nearest columns is their own."""
    most = min(max(AT), cosines.shape[1])
    hits = torch.cat(
        [own.gather(1, part.topk(most, dim=1).indices) for part, own in
         zip(cosines.split(TOGETHER), owns.split(TOGETHER), strict=True)]
    )  # fmt: skip
    return tuple(float(hits[:, : min(at, most)].any(dim=1).double().mean()) for at in AT)


def _by_chance(owns: Tensor) -> tuple[float, ...]:
    """The same where columns lie in any order."""
    columns, own = owns.shape[1], owns.sum(dim=1).double()  # [rows]
    missed = torch.ones_like(own)
    shares = []
    for place in range(max(AT)):
        left = columns - place
        missed = missed * (1 - own / left).clamp(min=0) if left > 0 else torch.zeros_like(missed)
        if place + 1 in AT:
            shares.append(float((1 - missed).mean()))
    return tuple(shares)


def best_scale(images: Tensor, texts: Tensor, owns: Tensor) -> float:
    """The logarithm of what multiplies cosines so that held-out images find their captions most probable."""
    cosines = normalize(images) @ normalize(texts).T
    scales = [math.log(value) for value in (5, 7, 10, 14, 20, 28, 40, 56, 80, 100)]

    def loss(scale: float) -> float:
        chances = (math.exp(scale) * cosines).log_softmax(dim=1)
        return -float(chances.masked_fill(~owns, -math.inf).logsumexp(dim=1).mean())

    return min(scales, key=loss)
