"""Several labels a picture: every class is judged by itself, against all pictures without it.

    p(c | image) = sigmoid(z_c + o_c)
    loss         = mean over images of sum over classes of BCE(z_c + o_c, y_c)
    o_c          : as many images are expected to be of c as there are

Logits of most methods (cosines times 100) have no zero of their own, so each class has an offset o. It is not learned
but solved for, which it can be whatever the logits are: where sum_i sigmoid(z_ic + o_c) = sum_i y_ic, with half an
image more of either kind. There the derivative of the loss by o is (nearly) none, so that the gradient is that of the
loss with the best offsets.

Labels are a matrix of 0 and 1 here, `sets` [images, classes] in floating point; labels of one class are whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "CACHED",
    "are_sets",
    "average_precision",
    "mean_average_precision",
    "offsets",
    "precision_along",
    "set_log_likelihoods",
    "set_loss",
]

CACHED = 16
"""Images that each class counts for in a cache, however many it has: what the published weights of caches are for. A
sum that grew with the images would move the logits from the folds' fits to that of all images, and softmax, in which it
cancels, is not taken."""
HALVINGS = 40  # of the interval that an offset lies in
FAR = 20.0  # beyond the logits, where sigmoid is 0 or 1 for float32
ENTRIES = 2**22  # logits that are ranked together


def are_sets(labels: Tensor) -> bool:
    """Whether labels are sets [images, classes], and not one class a picture."""
    return labels.dim() == 2 and labels.is_floating_point()


@torch.no_grad()
def offsets(logits: Tensor, sets: Tensor) -> Tensor:
    """[classes] what is to be added to logits [images, classes] for as many of a class as there are.

    >>> logits, sets = torch.tensor([[30.0], [30.0], [30.0]]), torch.tensor([[1.0], [0.0], [1.0]])
    >>> round(float(offsets(logits, sets)), 2)
    -29.49
    """
    count = len(logits)
    wanted = (sets.sum(dim=0) + 0.5) * (count / (count + 1))  # half an image more of either kind
    low, high = -logits.amax(dim=0) - FAR, -logits.amin(dim=0) + FAR
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        more = torch.sigmoid(logits + middle).sum(dim=0) < wanted
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return (low + high) / 2


def set_log_likelihoods(logits: Tensor, sets: Tensor) -> Tensor:
    """[images] the log probability of what each image is and is not, at the best offsets: the sum over classes."""
    moved = logits + offsets(logits.detach(), sets)
    return -F.binary_cross_entropy_with_logits(moved, sets.to(moved), reduction="none").sum(dim=1)


def set_loss(logits: Tensor, sets: Tensor) -> Tensor:
    """[] the mean over images of the sum over classes of the binary cross-entropy."""
    return -set_log_likelihoods(logits, sets).mean()


def average_precision(logits: Tensor, sets: Tensor) -> Tensor:
    """[..., classes] average precision of logits [..., images, classes], not a number for a class without an image.

    As scikit-learn defines it: the sum over distinct logits of the precision down to there times the share of the
    class's images there. sets: [images, classes].

    >>> average_precision(torch.tensor([[3.0], [2.0], [1.0]]), torch.tensor([[1.0], [0.0], [1.0]])).tolist()
    [0.8333333333333333]
    """
    ranked, order = logits.double().transpose(-1, -2).sort(dim=-1, descending=True)  # [..., classes, images]
    own = sets.double().T.expand(order.shape).gather(-1, order)
    below = -ranked.contiguous()
    last = torch.searchsorted(below, below, right=True)  # how many are at or above each, equal ones included
    found = own.cumsum(dim=-1).gather(-1, last - 1)  # and how many of these are of the class
    return (own * found / last).sum(dim=-1) / own.sum(dim=-1)


def mean_average_precision(logits: Tensor, sets: Tensor) -> float:
    """The mean over the classes that have images. logits: [images, classes]."""
    return float(average_precision(logits, sets).nanmean())


def precision_along(fixed: Tensor, sloped: Tensor, sets: Tensor, values: Sequence[float]) -> Tensor:
    """The mean average precision of `fixed + x * sloped` for each x of `values`: [values], float64.

    fixed, sloped: [images, classes].
    """
    tried = torch.tensor(values, dtype=fixed.dtype, device=fixed.device)
    parts = tried.split(max(1, ENTRIES // max(1, fixed.numel())))
    found = [average_precision(fixed + part[:, None, None] * sloped, sets).nanmean(dim=-1) for part in parts]
    return torch.cat(found).nan_to_num().cpu()
