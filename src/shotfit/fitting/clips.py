"""What a model says of a clip: the arithmetic mean of its frames' calibrated probabilities.

    for picture, answer in averaged(answers, names): ...      # a clip once its last frame is answered

The mean of probabilities, not of logits: a frame that is sure counts as one frame, and not as many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from shotfit.data.clips import together
from shotfit.data.pictures import Picture
from shotfit.data.tasks import Item
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.asked import Asked, Verdict
from shotfit.fitting.predictions import Timeline

__all__ = ["averaged", "by_clip", "check_alone"]

Told = tuple[Tensor, Verdict] | ShotfitError


def averaged(
    answers: Iterable[tuple[Picture, Told]], names: Sequence[str], asked: Asked
) -> Iterator[tuple[str, Picture, Told, Timeline | None]]:
    """What each picture is called, itself, its answer, and for a clip what its frames said. Frames that follow each
    other and are of one clip are one picture, the middle one; the first frame that cannot be read is its answer.

    Raises UsageError for a clip where sets or marks are asked for.
    """
    frames = list[tuple[Picture, Told]]()
    for picture, answer in answers:
        if picture.frame is None:
            yield str(picture), picture, answer, None
            continue
        check_alone(asked)
        frames = [*(frames if picture.frame.number else ()), (picture, answer)]
        if picture.frame.number + 1 == picture.frame.total:
            yield _mean(frames, names)
            frames = []


def check_alone(asked: Asked) -> None:
    """Refuse sets and marks of clips. Raises UsageError."""
    if asked.coverage is not None or asked.unknown:
        raise UsageError(
            "--coverage and --unknown are measured on pictures, and a clip's answer is the mean of its frames: leave "
            "them out, or ask for each frame with --each-frame."
        )


def _mean(frames: Sequence[tuple[Picture, Told]], names: Sequence[str]) -> tuple[str, Picture, Told, Timeline | None]:
    picture = frames[len(frames) // 2][0]
    rows = list[Tensor]()
    for _, answer in frames:
        if isinstance(answer, ShotfitError):
            return picture.clip, picture, answer, None
        rows.append(answer[0])
    each = torch.stack(rows)  # [frames, classes]
    times = tuple(one.moment for one, _ in frames)
    timeline = Timeline(tuple(names), times, each.numpy().astype(np.float32))
    return picture.clip, picture, (each.double().mean(dim=0).to(each.dtype), Verdict()), timeline


def by_clip(items: Sequence[Item], probabilities: Tensor) -> tuple[list[Item], Tensor]:
    """One item for each clip, its middle frame, and the mean of its frames' probabilities; other images as they are.

    probabilities: [images, classes] of the items. Returns items and [clips and images, classes].
    """
    groups = together(items, lambda item: item.picture.clip and f"{item.label} {item.picture.clip}")
    if len(groups) == len(items):
        return list(items), probabilities
    means = torch.stack([probabilities[places].double().mean(dim=0) for places in groups])
    return [items[places[len(places) // 2]] for places in groups], means.to(probabilities.dtype)
