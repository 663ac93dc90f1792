"""Judge an image tower on validation pictures alone: what settings are chosen by.

All shares but `flickr8k` and `said` are of Tiny-ImageNet's validation pictures, named among all 200 classes. With
`--check`, 40 classes are left out of training. `untaught` is those classes' pictures, as for a class that ImageNet has
a name for but no training picture shows; `unseen` are the same with their names where they would be if Lite1 did not
know the classes: a class that nothing covers. A tower that only remembers its training classes falls here.
`seen` are the other classes' pictures beside those. `drawn` is the line drawings and the like of all pictures. `said`
is of Flickr8k's: how often a name of what their captions say stands above six classes of Tiny-ImageNet on its own
pictures, and below them on theirs, in equal parts; the mean over names. `probe` and `near` compare images with images,
16 shots of the 40 classes alone: logistic regression on standardized features, and the nearest class mean by cosine.
"""

from __future__ import annotations

import random

import torch
from evaluate import probe
from image import TrainingSet, image_features
from pictures import Picture
from prototypes import MENTIONS
from torch import Tensor
from torch.nn import functional

from shotfit.towers.transformer import VisionTransformer

__all__ = ["best_scale", "draw_unseen", "judge", "plain"]


def draw_unseen(pictures: list[Picture], count: int, seed: int) -> set[str]:
    """WordNet numbers of Tiny-ImageNet classes to leave out."""
    numbers = sorted({picture.wnid for picture in pictures if picture.source == "tiny_imagenet"})
    return set(random.Random(seed).sample(numbers, count))


def judge(
    tower: VisionTransformer, data: TrainingSet, unseen: set[str], templated: Tensor, expected: Tensor
) -> dict[str, float]:
    """Shares on validation pictures. templated: as data.names; expected: the same without the unseen classes."""
    held, shots, among = _tiny_imagenet(data)
    goal = torch.searchsorted(among, data.labels[held])
    texts = templated[among]
    hidden = torch.tensor([data.pictures[index].wnid in unseen for index in held.tolist()])
    result = {}

    features = image_features(tower, data, held)
    right = (features @ texts.T).argmax(-1).eq(goal)
    result["tiny"], result["untaught"] = right.float().mean().item(), right[hidden].float().mean().item()
    result["drawn"] = _share(image_features(tower, data, held, view=2) @ texts.T, goal)
    result["unseen"] = _share(features[hidden] @ expected[among].T, goal[hidden])
    result["seen"] = _share(features[~hidden] @ expected[among].T, goal[~hidden])

    told = torch.tensor([i for i, picture in enumerate(data.pictures) if picture.captions and picture.validation])
    pictures = functional.normalize(image_features(tower, data, told), dim=-1)
    similar = pictures @ data.captions[data.caption_rows[told, 0]].T
    places = torch.arange(len(told))
    result["flickr8k"] = (_share(similar, places) + _share(similar.T, places)) / 2
    named = functional.normalize(features, dim=-1), goal
    result["said"] = _said(pictures, data.picture_names[told], named, templated, among)
    shown = shots[torch.tensor([data.pictures[index].wnid in unseen for index in shots.tolist()])]
    shown_features = image_features(tower, data, shown)
    return result | _images(shown_features, data.labels[shown], features[hidden], data.labels[held[hidden]])


def _said(
    told: Tensor, names: Tensor, classes: tuple[Tensor, Tensor], templated: Tensor, among: Tensor, draws: int = 100
) -> float:
    """told [n, embed] with `names` [n, most]; classes: features of pictures and the rows of `among` that they are."""
    features, goal = classes
    chance, shares = random.Random(0), []
    rivals = [torch.tensor(chance.sample(range(len(among)), 6)) for _ in range(draws)]
    above = torch.stack([(told @ templated[among[six]].T).amax(-1) for six in rivals])  # [draws, n]
    theirs = torch.stack([(features @ templated[among[six]].T).amax(-1) for six in rivals])
    own = torch.stack([torch.isin(goal, six) for six in rivals])
    rows, counts = names[names >= 0].unique(return_counts=True)
    for row in rows[counts >= MENTIONS].tolist():
        says = names.eq(row).any(-1)
        won = (told[says] @ templated[row] > above[:, says]).float().mean()
        kept = (features @ templated[row] <= theirs)[own].float().mean()
        shares.append((won + kept) / 2)
    return torch.stack(shares).mean().item()


def best_scale(tower: VisionTransformer, data: TrainingSet, templated: Tensor) -> float:
    """The factor of cosines that makes probabilities of names fit best on Tiny-ImageNet's validation pictures."""
    held, _, among = _tiny_imagenet(data)
    goal = torch.searchsorted(among, data.labels[held])
    cosines = functional.normalize(image_features(tower, data, held), dim=-1) @ templated[among].T
    scales = torch.logspace(0.5, 2.5, 81).tolist()
    return min(scales, key=lambda scale: functional.cross_entropy(scale * cosines, goal).item())


def plain(data: TrainingSet, unseen: set[str]) -> dict[str, float]:
    """`probe` and `near` on the stem's pooled features, as `judge` gives them for the tower's."""
    held, shots, _ = _tiny_imagenet(data)
    held, shots = (
        rows[torch.tensor([data.pictures[index].wnid in unseen for index in rows.tolist()])] for rows in (held, shots)
    )
    return _images(data.maps.pooled(shots), data.labels[shots], data.maps.pooled(held), data.labels[held])


def _images(shown: Tensor, labels: Tensor, held: Tensor, goal: Tensor) -> dict[str, float]:
    directions, classes = functional.normalize(shown, dim=-1), labels.unique()
    means = torch.stack([directions[labels == label].mean(0) for label in classes])
    near = (functional.normalize(held, dim=-1) @ functional.normalize(means, dim=-1).T).argmax(-1)
    return {
        "probe": probe((shown, labels), (held, goal)),
        "near": classes[near].eq(goal).float().mean().item(),
    }


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
