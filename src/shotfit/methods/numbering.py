"""Classes of several tasks, numbered through all of them in task order.

Task t owns the numbers from the sum of the sizes before it on, so that one matrix of logits [images, classes] serves
all tasks. An image is judged, and trained, among the classes of its own task.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "MANY",
    "NONE",
    "among_own",
    "classes_of",
    "labels_among",
    "labels_by_task",
    "loss_within_tasks",
    "parts_of",
    "shown_in",
    "step_labels",
    "tasks_of",
]

NONE = -1  # the label of an image in a task that it does not belong to
MANY = 64  # tasks from which on what concerns one is computed, saved and opened on its own
TOGETHER = 2048  # classes whose features run together, where there are many tasks


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


def shown_in(labels: Tensor, sizes: Sequence[int]) -> list[int]:
    """The tasks that labels show, ascending. labels: as of `labels_by_task`.

    Example:
        >>> shown_in(torch.tensor([4, 0, 4]), (3, 2, 7))
        [0, 1]
    """
    if labels.dim() == 2:
        return (labels != NONE).any(dim=0).nonzero().flatten().tolist()
    return tasks_of(labels, sizes).unique().tolist()


def labels_among(labels: Tensor, sizes: Sequence[int], tasks: Sequence[int]) -> Tensor:
    """The class of each image within each of some tasks, NONE for others: [images, tasks named].

    It takes no memory for the tasks that are not named. labels: as of `labels_by_task`.

    Example:
        >>> labels_among(torch.tensor([11, 0]), (3, 2, 7), [0, 2]).tolist()
        [[-1, 6], [0, -1]]
    """
    some = torch.tensor(tasks, device=labels.device)
    if labels.dim() == 2:
        return labels.index_select(1, some)
    counts = labels.new_tensor(sizes)
    starts = (counts.cumsum(0) - counts).index_select(0, some)
    within = labels[:, None] - starts  # [images, tasks named]
    return torch.where((within >= 0) & (within < counts.index_select(0, some)), within, NONE)


def classes_of(tasks: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """The numbers of the classes of some tasks, task after task, [classes].

    Example:
        >>> classes_of([2, 0], (3, 2, 2)).tolist()
        [5, 6, 0, 1, 2]
    """
    ends = list(accumulate(sizes))
    return torch.tensor([number for task in tasks for number in range(ends[task] - sizes[task], ends[task])])


def parts_of(sizes: Sequence[int], classes: int = TOGETHER) -> list[list[int]]:
    """All tasks in runs of neighbours that have at most so many classes together; one task at least.

    Example:
        >>> parts_of((3, 2, 2), 5)
        [[0, 1], [2]]
    """
    parts, held = list[list[int]](), 0
    for task, size in enumerate(sizes):
        if not parts or held + size > classes:
            parts.append([])
            held = 0
        parts[-1].append(task)
        held += size
    return parts


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
