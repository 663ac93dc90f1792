"""Fit a model that was judged once more, to all labelled images: what one uses where no label is to be wasted.

model = fit(task.sealed(), "linear_probe")
scores = evaluate(model, task.test)             # a held-out figure, of the model before
model = refit(model, [task])                    # has learned the test images too
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shotfit.data.tasks import Task
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model

__all__ = ["everything", "refit"]

MEASURED = (
    "shots",
    "choice",
    "selection",
    "checked",
    "scores",
    "fell_back",
    "fitted_method",
)  # with the model that it replaces


def everything(task: Task, shots: int | None, seed: int) -> Task:
    """The task with the images that a fit draws, and all of the validation and test parts, to learn from."""
    drawn = task.support(shots or None, seed)
    return replace(drawn, train=(*drawn.train, *task.val, *task.test), val=(), held_out=None)


def refit(model: Model, tasks: Sequence[Task], *, shots: int | None = None, seed: int = 1, **settings: Any) -> Model:
    """The same method with the same options, fitted to the images of `model` and the held-out ones of its tasks.

    shots, seed and the further settings of `fit` are those that `model` was fitted with. What was measured stays in the
    record and says `refit`. A model that fell back to zero-shot learns nothing, and is given back as it is.
    """
    if model.method.name == "zero_shot":
        return model
    prototype = type(model.method)(**model.method.options() | model.method.chosen())
    given = {"backbone": model.frozen.backbone, "store": model.frozen.store} | settings | {"check": False}
    given |= {name: value for name, value in model.record["choice"]["chosen"].items() if name in ("lr", "steps")}
    again = fit([everything(task, shots, seed) for task in tasks], prototype, shots=None, seed=seed, **given)
    measured = {name: model.record[name] for name in MEASURED if name in model.record}
    seconds = round(model.record["seconds"] + again.record["seconds"], 3)
    again.record |= measured | {"refit": True, "seconds": seconds}
    return again
