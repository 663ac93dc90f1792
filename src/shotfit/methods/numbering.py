"""Classes of several tasks, numbered through all of them in task order.

Task t owns the numbers from the sum of the sizes before it on, so that one matrix of logits [images, classes] serves
all tasks. An image is judged, and trained, among the classes of its own task.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["among_own", "labels_by_task", "loss_within_tasks", "step_labels", "tasks_of"]

NONE = -1  # the label of an image in a task that it does not belong to


def labels_by_task(labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """The class of each image within each task, NONE for other tasks: [images, tasks], of labels [images].

    Labels that are [images, tasks] already stay: that is how an image belongs to several tasks.

    Example:
        >>> labels_by_task(torch.tensor([0, 4]), (3, 2)).tolist()
        [[0, -1], [-1, 1]]
    """
    if labels.dim() == 2:
        return labels
    counts = labels.new_tensor(sizes)
    within = labels[:, None] - (counts.cumsum(0) - counts)  # [images, tasks]
    return torch.where((within >= 0) & (within < counts), within, NONE)


def step_labels(labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """The labels that a training step is given: of one task as they are, of several those within each."""
    return labels if len(sizes) == 1 else labels_by_task(labels, sizes)


def tasks_of(labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """The task of each label, [images].

    Example:
        >>> tasks_of(torch.tensor([0, 4, 2]), (3, 2)).tolist()
        [0, 1, 0]
    """
    return torch.bucketize(labels, labels.new_tensor(sizes).cumsum(0), right=True)


def loss_within_tasks(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """Cross-entropy [] within each task's classes, summed over images and tasks, divided by the number of images.

    logits: [images, classes] of all tasks. labels: [images, tasks], as `labels_by_task` gives them. A task without an
    image in the batch adds nothing.
    """
    parts = zip(logits.split(list(sizes), dim=1), labels.unbind(dim=1), strict=True)
    losses = [F.cross_entropy(own, label, ignore_index=NONE, reduction="sum") for own, label in parts]
    return torch.stack(losses).sum() / len(logits)


def among_own(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """The logits [images, classes] with minus infinity for classes of other tasks than the label's ([images])."""
    if len(sizes) == 1:
        return logits
    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))  # [classes]
    mine = tasks_of(labels, sizes)[:, None] == owner.to(labels.device)
    return logits.masked_fill(~mine.to(logits.device), -torch.inf)
