"""Judge an image tower on validation pictures alone: what settings are chosen by.

`unseen`: Tiny-ImageNet's validation pictures of classes that were left out of training and whose concepts are hidden
from the concept path, named among all 200 classes. It stands for classes that neither ImageNet's names nor the
training pictures cover; a tower that only remembers its training classes falls here.
"""

from __future__ import annotations

import random

import torch
from evaluate import probe
from image import TrainingSet, image_features
from text import WORDS
from torch import Tensor
from torch.nn import functional

from shotfit.towers.efficientnet import StemEmbedding
from shotfit.towers.transformer import VisionTransformer

__all__ = ["draw_unseen", "judge"]


def draw_unseen(data: TrainingSet, count: int, seed: int) -> set[str]:
    """WordNet numbers of Tiny-ImageNet classes to leave out."""
    numbers = sorted({picture.wnid for picture in data.pictures if picture.source == "tiny_imagenet"})
    return set(random.Random(seed).sample(numbers, count))


def judge(
    tower: VisionTransformer, data: TrainingSet, unseen: set[str], concepts: list[str], templated: Tensor
) -> dict[str, float]:
    """Shares on validation pictures. concepts: WordNet numbers of the concept path; templated: as data.names."""
    embedding = tower.embedding
    assert isinstance(embedding, StemEmbedding)
    held, shots, among = _tiny_imagenet(data)
    goal, shown = torch.searchsorted(among, data.labels[held]), torch.searchsorted(among, data.labels[shots])
    texts = templated[among, :WORDS]
    result = {}

    features = image_features(tower, data, held)
    result["tiny"] = _share(features[:, :WORDS] @ texts.T, goal)
    hidden = torch.tensor([data.pictures[i].wnid in unseen for i in held.tolist()])
    bias = embedding.classifier.bias.detach().clone()
    with torch.no_grad():
        embedding.classifier.bias[[place for place, number in enumerate(concepts) if number in unseen]] = -1e4
    masked = image_features(tower, data, held[hidden])
    result["unseen"] = _share(masked[:, :WORDS] @ texts.T, goal[hidden])
    with torch.no_grad():
        embedding.classifier.bias.copy_(bias)

    told = torch.tensor([i for i, picture in enumerate(data.pictures) if picture.captions and picture.validation])
    pictures = functional.normalize(image_features(tower, data, told)[:, :WORDS], dim=-1)
    captions = data.captions[data.caption_rows[told], :WORDS]
    similar = pictures @ captions.T
    places = torch.arange(len(told))
    result["flickr8k"] = (_share(similar, places) + _share(similar.T, places)) / 2

    result["probe"] = probe((image_features(tower, data, shots), shown), (features, goal))
    return result


def plain_probe(data: TrainingSet) -> float:
    """The probe on the stem's pooled features, as `judge` does it on the tower's."""
    held, shots, _ = _tiny_imagenet(data)

    def pooled(rows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(data.grids[rows.numpy(), 0].mean(1, dtype="float32")), data.labels[rows]

    return probe(pooled(shots), pooled(held))


def _tiny_imagenet(data: TrainingSet) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the validation pictures and of 16 training pictures a class, and the classes' labels, sorted."""
    tiny = [index for index, picture in enumerate(data.pictures) if picture.source == "tiny_imagenet"]
    by_label: dict[int, list[int]] = {}
    for index in tiny:
        if not data.pictures[index].validation:
            by_label.setdefault(int(data.labels[index]), []).append(index)
    chance = random.Random(0)
    shots = [index for label in sorted(by_label) for index in chance.sample(by_label[label], 16)]
    held = [index for index in tiny if data.pictures[index].validation]
    return torch.tensor(held), torch.tensor(shots), torch.tensor(sorted(by_label))


def _share(logits: Tensor, goal: Tensor) -> float:
    return logits.argmax(-1).eq(goal).float().mean().item()
