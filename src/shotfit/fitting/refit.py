"""Fit a model that was judged once more, to all labelled images: what one uses where no label is to be wasted.

model = fit(task.sealed(), "linear_probe")
scores = evaluate(model, task.test)             # a held-out figure, of the model before
model = refit(model, [task])                    # has learned the test images too
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from shotfit.data.tasks import Task
from shotfit.errors import UsageError
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.fitting.record import record_of
from shotfit.methods.base import Method
from shotfit.methods.ensemble import Ensemble

__all__ = ["everything", "refit"]

# With the model that it replaces.
MEASURED = (
    "shots", "recipe", "choice", "race", "selection", "checked", "half_of_the_labels", "trust", "scores", "fell_back",
    "fitted_method",
)  # fmt: skip


def everything(task: Task, shots: int | None, seed: int) -> Task:
    """The task with the images that a fit draws, and all of the validation and test parts, to learn from."""
    drawn = task.support(shots or None, seed)
    return replace(drawn, train=(*drawn.train, *task.val, *task.test), val=(), held_out=None)


def refit(model: Model, tasks: Sequence[Task], *, shots: int | None = None, seed: int = 1, **settings: Any) -> Model:
    """The same method with the same options, rate and length, fitted to the images of `model` and the held-out ones.

    Nothing is chosen anew. shots, seed and the further settings of `fit` are those that `model` was fitted with. What
    was measured, and what the model knows of its own reliability, is of the model before; the record says `refit`. Of
    an ensemble each member is fitted. A model that fell back to zero-shot learns nothing, and is given back as it is.
    """
    method, record = model.method, model.record
    if method.name == "zero_shot":
        return model
    if "choice" not in record:
        raise UsageError("This model was fitted by an older version of shotfit, and does not say how: fit it again.")
    labelled = [everything(task, shots, seed) for task in tasks]
    given = {"backbone": model.frozen.backbone, "store": model.frozen.store} | settings
    given |= {"check": False, "recipe": "paper", "views": record["views"]}  # that recipe chooses nothing

    def once_more(fitted: Method, setting: Mapping[str, Any]) -> Model:
        prototype = type(fitted)(**fitted.options() | fitted.chosen())
        found = fit(labelled, prototype, shots=None, seed=seed, **{**given, **setting})
        found.method.keep_chosen(fitted)
        return found

    if isinstance(method, Ensemble):
        settings_of = {row["method"]: row["setting"] for row in record["race"] if "setting" in row}
        parts = [once_more(part, settings_of[part.name]) for part in method.parts]
        again = max(parts, key=lambda part: len(part.learned))  # zero-shot among them has learned nothing
        again.method = Ensemble.of([part.method for part in parts], method.temperatures)
        again.record |= record_of(again.method, again.frozen.backbone) | {"training": {}}
        seconds = sum(part.record["seconds"] for part in parts)
    else:
        again = once_more(method, record["choice"]["setting"])
        seconds = again.record["seconds"]
    measured = {name: record[name] for name in MEASURED if name in record}
    again.record |= measured | {"refit": True, "seconds": round(record["seconds"] + seconds, 3)}
    again.trust = model.trust
    return again
