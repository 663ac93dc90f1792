"""Whether a model is judged on images that it has learned, which is said with every figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shotfit.data.tasks import Task
from shotfit.fitting.learned import count_learned, said_of_learned
from shotfit.fitting.model import Model

__all__ = ["judged_on_learned"]


def judged_on_learned(
    judged: Sequence[tuple[Model, Sequence[Task]]], everything: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Say of each task how many of its images the model has learned, if any, and count them for programs.

    judged: models, and the tasks that each was judged on: their test parts, or all images.
    """
    counts: dict[str, int] = {}
    for model, tasks in judged:
        for task in tasks:
            items = [*task.train, *task.val, *task.test] if everything else task.test
            counts[task.name] = count_learned(model, items)
            sentence = said_of_learned(counts[task.name], len(items))
            if sentence:
                several = len(judged) > 1 or len(tasks) > 1
                say(f"{task.name}: {sentence}" if several else sentence)
    learned = {"learned_images": sum(counts.values())}
    return learned | ({"learned_images_of": counts} if len(counts) > 1 else {})
