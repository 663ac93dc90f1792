"""The image side: the join of both encoders as the start of a tower, and blocks trained to add to it.

The joint space has two parts. In the first 256 directions text speaks: a linear map of Lite1's pooled features leads
there (prototypes.py). The other 320 directions are images' own: the largest principal components of what that map
leaves over of photographs and drawings, of the head's features and of those before its last stage in equal parts. Text
is zero there but in the last, which is the same for all images, so they choose between no two images for a text;
methods that compare images with images see them too, and lose little of what the stem knows.

The map is applied to every place of the grid, and the class token begins as a constant: what a picture shows comes to
it by attention alone, which begins as the mean over places in the first block.

Trained are the blocks above it, and one matrix behind the text tower, which starts as the identity.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pictures import VIEWS, Picture
from precision import autocast
from prototypes import WORDS, Space
from safetensors.torch import load_file, save_file
from text import EMBED
from torch import Tensor, nn
from torch.nn import functional

from shotfit.towers.config import BlocksConfig, StemConfig
from shotfit.towers.efficientnet import EARLY, HEAD, EfficientNetLite1, StemEmbedding
from shotfit.towers.transformer import VisionTransformer

__all__ = ["IMAGE", "Maps", "Settings", "TrainingSet", "image_features", "join", "lean", "partly", "train_image"]

PLACES = 18  # of 36, in sparse steps
IMAGE = StemConfig(
    image_size=192,
    blocks=BlocksConfig(width=EMBED, layers=4, heads=9, mlp_width=320, activation="quick_gelu", epsilon=1e-5),
    embed=EMBED,
)


@dataclass(frozen=True)
class Settings:
    """How the blocks are trained; the losses' weights are beside each other's scale."""

    steps: int = 320
    sparse: float = 0.75  # share of the steps that see half of the places alone, at half the cost
    batch: int = 256
    rate: float = 5e-4
    names: float = 1.0  # classification among all names
    captions: float = 0.5  # pictures against captions, both ways
    steady: float = 2.0  # length of what all tokens have in common beside that of what a place shows
    keep: float = 4.0  # 1 - cosine to the join's words of the plain view, of photographs
    own: float = 4.0  # 1 - cosine to the join's own part of the plain view
    meaning: float = 4.0  # 1 - cosine of names to where they were
    drawings: float = 0.3  # share of a batch
    own_share: float = 0.5  # length of the images' own part beside the words' part, as the blocks see it
    own_power: float = 0.5  # its directions are divided by this power of their spread: 0 as they are, 1 all alike
    own_gain: float = 2.0  # of that part in the features
    share: float = 0.6  # of what training changed that is kept
    common: float = 0.25  # squared length of what all images share, beside that of the rest


@dataclass
class Maps:
    """What the stem makes of all pictures before its head."""

    grids: NDArray[np.float16]  # [pictures, views, places, 512]
    widen: Callable[[Tensor], Tensor]  # the stem's head

    def grid(self, indices: Tensor, views: Tensor) -> Tensor:
        """[n, 1472, 6, 6] float32."""
        chosen = torch.from_numpy(self.grids[indices.numpy(), views.numpy()].astype(np.float32))
        with torch.no_grad():
            return self.widen(chosen.transpose(1, 2).unflatten(2, (6, 6)))

    def pooled(self, indices: Tensor, view: int = 0, batch: int = 512) -> Tensor:
        """The mean over places [n, 1472]."""
        parts = indices.split(batch)
        return torch.cat([self.grid(part, torch.full_like(part, view)).mean((2, 3)) for part in parts])


@dataclass
class TrainingSet:
    """What is known of each picture.

    picture_names: rows of `names`, the picture's own first, -1 for none. caption_rows: the first of a picture's rows of
    `captions` and how many there are.
    """

    pictures: list[Picture]
    maps: Maps
    vocabulary: list[str]
    names: Tensor  # their text features [names, embed], length 1
    picture_names: Tensor  # [pictures, most]
    captions: Tensor  # text features [captions, embed], length 1
    caption_rows: Tensor  # [pictures, 2]
    train: Tensor  # indices of the pictures trained on

    @property
    def labels(self) -> Tensor:
        """The row of `names` that is each picture's own [pictures]."""
        return self.picture_names[:, 0]


def join(
    network: EfficientNetLite1, space: Space, data: TrainingSet, settings: Settings, seed: int
) -> VisionTransformer:
    """The tower before training, always the same, so that a run that goes on keeps its share of the same change."""
    torch.manual_seed(seed)
    tower = VisionTransformer(IMAGE)
    embedding = tower.embedding
    assert isinstance(embedding, StemEmbedding)
    photographs = torch.tensor([index for index in data.train.tolist() if data.pictures[index].photograph])
    pooled = data.maps.pooled(data.train)
    some = photographs[:: len(photographs) // 2000]
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.zero_()
        embedding.network.load_state_dict(network.state_dict())
        words = space.places(pooled)
        even = _even(pooled - space.mean)
        own, rest = _left_over((pooled - space.mean) * even, words)
        own = own * even / rest[:, None] ** settings.own_power
        lengths = (words.pow(2).sum(-1).mean().sqrt(), (rest ** (1 - settings.own_power)).pow(2).sum().sqrt())
        embedding.token.weight[:WORDS] = space.directions * (WORDS**0.5 / lengths[0])
        embedding.token.weight[WORDS:] = own * (settings.own_share * WORDS**0.5 / lengths[1])
        shown = embedding.tokens(data.maps.grid(some, torch.zeros_like(some)))[:, 1:]
        steady = settings.steady * (shown - shown.mean((0, 1))).pow(2).mean().sqrt() * _signs()
        embedding.positions[0] = steady
        embedding.positions[1:] = steady - embedding.token.weight @ space.mean
        embedding.positions[1:] += 0.1 * torch.randn_like(embedding.positions[1:])
        _gather(tower, embedding.tokens(data.maps.grid(some, torch.zeros_like(some)))[:, 1:], steady)
        tower.post_norm.weight.fill_(1.0)
        assert tower.projection is not None
        tower.projection.weight.copy_(torch.eye(EMBED))
        tower.projection.weight[WORDS:] *= settings.own_gain
    embedding.requires_grad_(False)
    next(tower.blocks.children()).requires_grad_(False)
    return tower


def _signs() -> Tensor:
    """As many ones as minus ones, in random order [EMBED]: a norm of layers takes no mean from them."""
    return 1 - 2 * (torch.randperm(EMBED) % 2).float()


def _gather(tower: VisionTransformer, places: Tensor, steady: Tensor) -> None:
    """Set the blocks so that the class token holds the mean of the places [n, places, width] behind the first of them.

    The first block's queries are zero, so that attention is even, and its values are the normed tokens. Its norms take
    away what all tokens have in common, and its last bias takes it out of the stream: the blocks above read what a
    token shows, and begin as the identity.
    """
    normed = functional.layer_norm(places, (EMBED,))
    mean, gain = normed.mean((0, 1)), 1 / normed.var((0, 1)).mean().sqrt()
    wanted, gathered = (places - steady).mean(1), gain * (normed.mean(1) - mean)
    factor = (wanted.pow(2).mean() / gathered.pow(2).mean()).sqrt()
    for block in tower.blocks.children():
        for name, parameter in block.named_parameters():
            if name.endswith("weight") and "norm" in name:
                parameter.fill_(1.0)
            elif name in ("attention.qkv.weight", "mlp.up.weight"):
                nn.init.normal_(parameter, std=EMBED**-0.5)
    first = next(tower.blocks.children())
    for norm in ("norm1", "norm2"):
        first.get_parameter(f"{norm}.weight").fill_(gain)
        first.get_parameter(f"{norm}.bias").copy_(-gain * mean)
    weight = first.get_parameter("attention.qkv.weight")
    weight[:EMBED] = 0
    weight[2 * EMBED :] = torch.eye(EMBED)
    first.get_parameter("attention.out.weight").copy_(factor * torch.eye(EMBED))
    first.get_parameter("mlp.down.bias").copy_(-steady)


def _even(pooled: Tensor) -> Tensor:
    """Factors of centered pooled features [1472] that let the head's and the earlier map's vary as much in all."""
    head, early = (part.pow(2).sum(-1).mean().sqrt() for part in (pooled[:, :HEAD], pooled[:, HEAD:]))
    return torch.cat([torch.ones(HEAD), (head / early).expand(EARLY)])


def _left_over(pooled: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Principal directions [EMBED - WORDS, 1472] of what the words leave of pooled features, and their spread."""
    told = torch.linalg.solve(words.T @ words, words.T @ pooled)  # [WORDS, 1472]
    rest = pooled - words @ told
    directions = _principal(rest, EMBED - WORDS)
    return directions, (rest @ directions.T).pow(2).mean(0).sqrt()


def _principal(rows: Tensor, count: int) -> Tensor:
    """The `count` directions of largest variance [count, channels]."""
    covariance = (rows - rows.mean(0)).T @ (rows - rows.mean(0)) / len(rows)
    directions: Tensor = torch.linalg.eigh(covariance.double()).eigenvectors.flip(1)[:, :count].T.float().contiguous()
    return directions


def image_features(
    tower: VisionTransformer, data: TrainingSet, indices: Tensor, view: int = 0, batch: int = 512
) -> Tensor:
    """Features of one view [n, embed], not normalized."""
    embedding = tower.embedding
    assert isinstance(embedding, StemEmbedding)
    features = []
    with torch.inference_mode(), autocast():
        for part in indices.split(batch):
            stream = tower.resume(embedding.tokens(data.maps.grid(part, torch.full_like(part, view))), 0)
            features.append(tower.finish(stream).float())
    return torch.cat(features)


def train_image(
    tower: VisionTransformer, data: TrainingSet, settings: Settings, scale: float, seed: int, file: Path
) -> Tensor:
    """Train the blocks above the first, in place, and give the matrix behind the text tower [words, words].

    What the join says is the target that must not be lost. scale: of cosines in the losses that choose. The outcome is
    kept in `file`.
    """
    if file.exists():
        kept = load_file(file)
        matrix = kept.pop("matrix")
        tower.load_state_dict(kept)
        return matrix
    torch.manual_seed(seed)
    embedding = tower.embedding
    assert isinstance(embedding, StemEmbedding)
    joined = image_features(tower, data, torch.arange(len(data.pictures)))
    targets = functional.normalize(joined[:, :WORDS], dim=-1), functional.normalize(joined[:, WORDS:-1], dim=-1)
    matrix = nn.Parameter(torch.eye(WORDS))
    blocks = [p for p in tower.blocks.parameters() if p.requires_grad]
    matrices, vectors = [p for p in blocks if p.ndim > 1], [p for p in blocks if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": 0.05},
        {"params": vectors, "weight_decay": 0.0},
        {"params": [matrix], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=settings.steps, pct_start=0.1)
    weights = _weights(data, settings)
    begin, shown = time.monotonic(), dict[str, float]()
    for step in range(settings.steps):
        chosen = data.train[torch.multinomial(weights, settings.batch)]
        grid = data.maps.grid(chosen, torch.randint(VIEWS, (len(chosen),)))
        with autocast():
            with torch.no_grad():
                gathered = tower.run(tower.resume(embedding.tokens(grid), 0), until=1)
                tokens = gathered.hidden.unflatten(0, (len(chosen), -1))
            if step < settings.steps * settings.sparse:
                tokens = tokens[:, torch.cat([torch.zeros(1).long(), 1 + torch.randperm(tokens.shape[1] - 1)[:PLACES]])]
            features = tower.finish(tower.resume(tokens, 1)).float()
        losses = _losses(features, chosen, data, targets, matrix, scale)
        loss = sum((getattr(settings, name) * value for name, value in losses.items()), torch.zeros(()))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*matrices, *vectors, matrix], 1.0)
        optimizer.step()
        schedule.step()
        for name, value in losses.items():
            shown[name] = value.item() if name not in shown else 0.95 * shown[name] + 0.05 * value.item()
        if (step + 1) % 20 == 0:
            line = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
            print(f"image: step {step + 1} of {settings.steps}, {line}, {time.monotonic() - begin:.0f} s", flush=True)
    kept = tower.state_dict() | {"matrix": matrix.detach()}
    save_file({name: value.contiguous() for name, value in kept.items()}, file)
    return matrix.detach()


def partly(tower: VisionTransformer, begun: Mapping[str, Tensor], matrix: Tensor, share: float) -> Tensor:
    """Keep a share of what training changed, in place, and of the matrix behind the text tower, which is given.

    begun: the tower's weights before training. Between the join and the trained tower lies one that knows its training
    pictures as well and forgets less of others (WiSE-FT, arXiv 2109.01903).
    """
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            parameter.copy_(begun[name].lerp(parameter, share))
    return torch.eye(WORDS).lerp(matrix, share)


def lean(tower: VisionTransformer, data: TrainingSet, settings: Settings) -> None:
    """Give all images a part in common, in the last direction, where text has its lift.

    CLIP's images are so: any two have a cosine far above 0, and methods that weigh images by their cosines have
    settings for that.
    """
    length = image_features(tower, data, data.train[:500]).norm(dim=-1).mean()
    assert tower.projection is not None
    with torch.no_grad():
        tower.post_norm.bias[-1] += settings.common**0.5 * length / tower.projection.weight[-1, -1]


def _weights(data: TrainingSet, settings: Settings) -> Tensor:
    """How often a picture is drawn [train]: names with many pictures less often each, drawings their share in all."""
    told = torch.tensor([picture.photograph and not picture.wnid for picture in data.pictures])
    labels = data.labels.where(~told, -1)  # by captions, of which each has its own
    counts = torch.bincount(labels.clamp(min=0), minlength=len(data.vocabulary))
    weights = torch.where(labels >= 0, counts[labels].float() ** -0.5, 0.2)[data.train]
    drawn = torch.tensor([not data.pictures[index].photograph for index in data.train.tolist()])
    weights[drawn] *= settings.drawings / weights[drawn].sum()
    weights[~drawn] *= (1 - settings.drawings) / weights[~drawn].sum()
    return weights


def _losses(
    features: Tensor,
    chosen: Tensor,
    data: TrainingSet,
    targets: tuple[Tensor, Tensor],
    matrix: Tensor,
    scale: float,
) -> dict[str, Tensor]:
    words, own = functional.normalize(features[:, :WORDS], dim=-1), functional.normalize(features[:, WORDS:-1], dim=-1)
    before = functional.normalize(data.names[:, :WORDS], dim=-1)
    names = functional.normalize(before @ matrix.T, dim=-1)
    lifts = data.names[:, -1] * (features[:, -1] / features[:, :WORDS].norm(dim=-1)).mean().detach()
    photograph = torch.tensor([data.pictures[index].photograph for index in chosen.tolist()])
    return {
        "names": _among_names(scale * (words @ names.T + lifts), data.picture_names[chosen]),
        "captions": _captions(words, chosen, data, matrix, scale),
        "keep": 1 - (words * targets[0][chosen]).sum(-1)[photograph].mean(),
        "own": 1 - (own * targets[1][chosen]).sum(-1).mean(),
        "meaning": 1 - (names * before).sum(-1).mean(),
    }


def _among_names(logits: Tensor, own: Tensor) -> Tensor:
    """Cross-entropy to one of a picture's names, its first half the time; its other names are no mistakes."""
    named = own[:, 0] >= 0
    logits, own = logits[named], own[named]
    known = own >= 0
    chance = known.float()
    chance[:, 0] += chance.sum(1) - 1
    goal = own.gather(1, torch.multinomial(chance.clamp(min=0), 1))
    others = torch.zeros_like(logits, dtype=torch.bool).scatter(1, torch.where(known, own, goal), True)
    others = others.scatter(1, goal, False)
    return functional.cross_entropy(logits.masked_fill(others, -torch.inf), goal[:, 0])


def _captions(words: Tensor, chosen: Tensor, data: TrainingSet, matrix: Tensor, scale: float) -> Tensor:
    rows, counts = data.caption_rows[chosen].unbind(1)
    told = counts > 0
    drawn = rows[told] + (torch.rand(int(told.sum())) * counts[told]).long()
    captions = functional.normalize(data.captions[drawn, :WORDS] @ matrix.T, dim=-1)
    pairs, which = scale * words[told] @ captions.T, torch.arange(int(told.sum()))
    return (functional.cross_entropy(pairs, which) + functional.cross_entropy(pairs.T, which)) / 2
