"""Images that belong to no class: how strange an image is to a fitted model.

    entropy     = -sum_k p(k) log p(k)                         of the calibrated probabilities
    distance    = 1 - max_k f . m_k                            f the frozen image features, m_k a class's mean, both of
                                                               unit length
    strangeness = z(entropy) + 2 z(distance)                   z: less the mean of held-out images, over their deviation

Held-out images are compared with the mean of their class without themselves. What is kept is one row of half precision
a class: 2 * classes * embed bytes. docs/trust.md compares this with the maximum probability, maximum concept matching,
energy, distances to single images, and DualAdapter's negative half.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Strangeness", "strangeness_of"]

SHARE = 2.0  # of the distance


@dataclass(frozen=True, eq=False)
class Strangeness:
    """means: [classes, embed], of unit length, half precision; zero for a class without held-out images. center, width:
    [2], mean and standard deviation of entropy and distance on held-out images."""

    means: Tensor
    center: Tensor
    width: Tensor

    def __call__(self, probabilities: Tensor, features: Tensor) -> Tensor:
        """[images] of probabilities [images, classes] and features [images, embed] of unit length."""
        distance = 1 - (features.float() @ self.means.float().T).amax(dim=1)
        return self.combined(torch.stack([entropy(probabilities), distance], dim=1))

    def combined(self, parts: Tensor) -> Tensor:
        """[images] of entropy and distance, [images, 2]."""
        return ((parts - self.center) / self.width) @ torch.tensor([1.0, SHARE])


def entropy(probabilities: Tensor) -> Tensor:
    """In nats, [images] of [images, classes].

    >>> entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).exp().tolist()
    [1.0, 2.0]
    """
    return -torch.special.xlogy(probabilities, probabilities).sum(dim=1)


def strangeness_of(probabilities: Tensor, features: Tensor, labels: Tensor, classes: int) -> tuple[Strangeness, Tensor]:
    """The measure of held-out images of one task, and their own strangeness [images]; labels: [images].

    A task of which none could be held out has a measure that says nothing.
    """
    if not len(labels):
        nothing = torch.zeros(classes, features.shape[1]).half()
        return Strangeness(nothing, torch.zeros(2), torch.ones(2)), torch.zeros(0)
    sums = torch.zeros(classes, features.shape[1]).index_add(0, labels, features)
    cosines = features @ F.normalize(sums, dim=1).T  # [images, classes]
    without = F.normalize(sums[labels] - features, dim=1)  # [images, embed]; zero where an image is alone in its class
    cosines = cosines.scatter(1, labels[:, None], (without * features).sum(dim=1, keepdim=True))
    parts = torch.stack([entropy(probabilities), 1 - cosines.amax(dim=1)], dim=1)  # [images, 2]
    deviation = parts.std(dim=0, correction=0)
    found = Strangeness(F.normalize(sums, dim=1).half(), parts.mean(dim=0), deviation.clamp_min(1e-6))
    return found, found.combined(parts)
