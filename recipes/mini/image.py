"""The image side: the join of both encoders as the start of a tower, and blocks trained to add to it.

The joint space has two parts. In the first 256 directions text speaks: the class token begins there as the mean of the
text vectors of ImageNet's names (with synonyms and hypernyms), weighted by Lite0's probabilities and centered. The
other 192 directions are images' own: the largest principal components of Lite0's pooled features, each of the same
variance. Text is zero there, so they change no zero-shot prediction; methods that compare images with images see them
most, because they say more of an image than the names do. The blocks begin as the identity.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pictures import VIEWS, Picture
from precision import autocast
from text import EMBED, WORDS
from torch import Tensor, nn
from torch.nn import functional

from shotfit.towers.config import BlocksConfig, StemConfig
from shotfit.towers.efficientnet import StemEmbedding
from shotfit.towers.transformer import VisionTransformer

__all__ = ["IMAGE", "Settings", "TrainingSet", "image_features", "join", "train_image"]

IMAGE = StemConfig(
    image_size=192,
    concepts=1000,
    blocks=BlocksConfig(width=EMBED, layers=4, heads=7, mlp_width=768, activation="quick_gelu", epsilon=1e-5),
    embed=EMBED,
)


@dataclass(frozen=True)
class Settings:
    """How the blocks are trained; the losses' weights are beside each other's scale."""

    epochs: int = 4
    batch: int = 256
    rate: float = 5e-4
    names: float = 1.0  # classification among class names
    captions: float = 1.0  # pictures against captions, both ways
    keep: float = 4.0  # 1 - cosine to the join's words of the plain view
    own: float = 4.0  # 1 - cosine to the join's own part of the plain view
    scale: float = 20.0  # of cosines in the first two
    own_share: float = 0.5  # length of the images' own part beside the words' part, as the blocks see it
    own_gain: float = 8.0  # of that part in the features


@dataclass
class TrainingSet:
    """Grids and what is known of each picture.

    labels: rows of `names`, -1 for none. caption_rows: the first of a picture's five rows of `captions`, -1 for none.
    """

    pictures: list[Picture]
    grids: NDArray[np.float16]  # [pictures, views, places, 1280]
    labels: Tensor
    names: Tensor  # text features of class names [names, embed]
    caption_rows: Tensor
    captions: Tensor  # text features [captions, embed]
    train: Tensor  # indices of the pictures trained on

    def grid(self, indices: Tensor, views: Tensor) -> Tensor:
        """[n, 1280, 6, 6] float32."""
        chosen = torch.from_numpy(self.grids[indices.numpy(), views.numpy()].astype(np.float32))
        grid: Tensor = chosen.transpose(1, 2).unflatten(2, (6, 6))
        return grid


def join(lite0: dict[str, Tensor], concepts: Tensor, data: TrainingSet, settings: Settings) -> VisionTransformer:
    """The tower before training. concepts [1000, 256]: a text vector for each of Lite0's classes."""
    tower = VisionTransformer(IMAGE)
    embedding = tower.embedding
    assert isinstance(embedding, StemEmbedding)
    pooled = torch.from_numpy(np.stack([data.grids[i, 0].mean(0, dtype=np.float32) for i in data.train.tolist()]))
    some = data.train[:: len(data.train) // 2000].numpy()
    places = torch.from_numpy(data.grids[some, 0].astype(np.float32)).flatten(0, 1)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.zero_()
        embedding.load_state_dict(lite0 | {k: v for k, v in embedding.state_dict().items() if k not in lite0})
        words = embedding.classifier(pooled).softmax(-1) @ concepts
        loudness = (words - words.mean(0)).pow(2).sum(-1).mean().sqrt()
        gain = WORDS**0.5 / loudness
        embedding.concepts[:, :WORDS] = concepts * gain
        embedding.positions[0, :WORDS] = -words.mean(0) * gain
        directions = _principal(pooled, EMBED - WORDS)
        spread = ((pooled - pooled.mean(0)) @ directions.T).pow(2).mean(0).sqrt()  # [EMBED - WORDS]
        directions = directions / spread[:, None] * (settings.own_share * (WORDS / len(directions)) ** 0.5)
        embedding.pooled.weight[WORDS:] = directions
        embedding.positions[0, WORDS:] = -directions @ pooled.mean(0)
        directions = _principal(places, EMBED)
        spread = ((places - places.mean(0)) @ directions.T).pow(2).mean().sqrt()
        embedding.token.weight.copy_(directions / spread)
        embedding.positions[1:] = -directions @ places.mean(0) / spread
        embedding.positions[1:] += 0.1 * torch.randn_like(embedding.positions[1:])
        for block in tower.blocks.children():
            for name, parameter in block.named_parameters():
                if name.endswith("weight") and "norm" in name:
                    parameter.fill_(1.0)
                elif name in ("attention.qkv.weight", "mlp.up.weight"):
                    nn.init.normal_(parameter, std=EMBED**-0.5)
        tower.post_norm.weight.fill_(1.0)
        assert tower.projection is not None
        tower.projection.weight.copy_(torch.eye(EMBED))
        tower.projection.weight[WORDS:] *= settings.own_gain
    embedding.network.requires_grad_(False)
    embedding.classifier.requires_grad_(False)
    embedding.concepts.requires_grad_(False)
    embedding.pooled.requires_grad_(False)
    return tower


def _principal(rows: Tensor, count: int) -> Tensor:
    """The `count` directions of largest variance [count, channels]."""
    covariance = (rows - rows.mean(0)).T @ (rows - rows.mean(0)) / len(rows)
    directions: Tensor = torch.linalg.eigh(covariance.double()).eigenvectors.flip(1)[:, :count].T.float().contiguous()
    return directions


def image_features(tower: VisionTransformer, data: TrainingSet, indices: Tensor, batch: int = 512) -> Tensor:
    """Features of the plain views [n, embed], not normalized."""
    embedding = tower.embedding
    assert isinstance(embedding, StemEmbedding)
    features = []
    with torch.inference_mode(), autocast():
        for part in indices.split(batch):
            stream = tower.resume(embedding.tokens(data.grid(part, torch.zeros_like(part))), 0)
            features.append(tower.finish(stream).float())
    return torch.cat(features)


def train_image(tower: VisionTransformer, data: TrainingSet, settings: Settings, seed: int) -> None:
    """Train the blocks and the positions, in place; what the join says is the target that must not be lost."""
    torch.manual_seed(seed)
    embedding = tower.embedding
    assert isinstance(embedding, StemEmbedding)
    target = functional.normalize(image_features(tower, data, torch.arange(len(data.pictures)))[:, :WORDS], dim=-1)
    own = functional.normalize(image_features(tower, data, torch.arange(len(data.pictures)))[:, WORDS:], dim=-1)
    blocks = list(tower.blocks.parameters())
    matrices = [p for p in blocks if p.ndim > 1] + [embedding.token.weight]
    vectors = [p for p in blocks if p.ndim == 1] + [embedding.positions]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}], lr=settings.rate
    )
    per_epoch = len(data.train) // settings.batch
    total = settings.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=total, pct_start=0.1)
    begin, shown = time.monotonic(), dict[str, float]()
    for step in range(total):
        if step % per_epoch == 0:
            order = data.train[torch.randperm(len(data.train))]
        chosen = order[(step % per_epoch) * settings.batch :][: settings.batch]
        grid = data.grid(chosen, torch.randint(VIEWS, (len(chosen),)))
        with autocast():
            features = tower.finish(tower.resume(embedding.tokens(grid), 0)).float()
        losses = _losses(features, chosen, data, target, own, settings)
        loss = sum((getattr(settings, name) * value for name, value in losses.items()), torch.zeros(()))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*matrices, *vectors], 1.0)
        optimizer.step()
        schedule.step()
        for name, value in losses.items():
            shown[name] = value.item() if name not in shown else 0.95 * shown[name] + 0.05 * value.item()
        if (step + 1) % 20 == 0:
            line = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
            print(f"image: step {step + 1} of {total}, {line}, {time.monotonic() - begin:.0f} s", flush=True)


def _losses(
    features: Tensor, chosen: Tensor, data: TrainingSet, target: Tensor, own: Tensor, settings: Settings
) -> dict[str, Tensor]:
    words = functional.normalize(features[:, :WORDS], dim=-1)
    labels, rows = data.labels[chosen], data.caption_rows[chosen]
    named, told = labels >= 0, rows >= 0
    logits = settings.scale * words[named] @ data.names[:, :WORDS].T
    captions = data.captions[rows[told] + torch.randint(5, (int(told.sum()),)), :WORDS]
    pairs = settings.scale * words[told] @ captions.T
    which = torch.arange(len(pairs))
    return {
        "names": functional.cross_entropy(logits, labels[named]),
        "captions": (functional.cross_entropy(pairs, which) + functional.cross_entropy(pairs.T, which)) / 2,
        "keep": 1 - (words * target[chosen]).sum(-1).mean(),
        "own": 1 - (functional.normalize(features[:, WORDS:], dim=-1) * own[chosen]).sum(-1).mean(),
    }
