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
from shotfit.fitting.several_labels import SeveralTrust
from shotfit.methods.base import Method
from shotfit.methods.ensemble import Ensemble

__all__ = ["everything", "once_more", "refit"]

# With the model that it replaces.
MEASURED = (
    "shots", "recipe", "choice", "race", "selection", "checked", "half_of_the_labels", "trust", "scores", "fell_back",
    "fitted_method",
)  # fmt: skip

# Of an ensemble, with the model that it is fitted again from: how it was chosen, and each member's setting.
RACED = ("recipe", "choice", "race", "selection", "fitted_method")


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
    if model.method.name == "zero_shot":
        return model
    again = once_more(model, [everything(task, shots, seed) for task in tasks], seed=seed, check=False, **settings)
    record = model.record
    measured = {name: record[name] for name in MEASURED if name in record}
    again.record |= measured | {"refit": True, "seconds": round(record["seconds"] + again.record["seconds"], 3)}
    again.trust, new, old = model.trust, again.method.own_offsets, model.method.own_offsets
    if isinstance(model.trust, SeveralTrust) and new is not None and old is not None:
        again.trust = model.trust.moved(new - old)
    return again


def once_more(model: Model, tasks: Sequence[Task], *, seed: int, check: bool, **settings: Any) -> Model:
    """What `model` is, fitted to other images: nothing is chosen anew.

    check: compare with zero-shot and calibrate on images that are held out from these. Of an ensemble, which is not
    checked, each member is fitted, and the calibration is kept; with new classes its temperature alone.

    Raises UsageError for a model of an older version, which does not say how it was fitted.
    """
    method, record = model.method, model.record
    if "choice" not in record:
        raise UsageError("This model was fitted by an older version of shotfit, and does not say how: fit it again.")
    given = {"backbone": model.frozen.backbone, "store": model.frozen.store} | settings
    given |= {"recipe": "paper", "views": record["views"], "shots": None, "seed": seed}  # that recipe chooses nothing

    just_fitted = model.support is not None  # a model from a folder searches again

    def fitted_again(fitted: Method, setting: Mapping[str, Any], checked: bool) -> Model:
        prototype = type(fitted)(**fitted.options() | (fitted.chosen() if just_fitted else {}))
        prototype.given = frozenset(prototype.options())  # all of them stay as they are
        found = fit(tasks, method=prototype, **{**given, **setting, "check": checked})
        found.record["found"] = record.get("found", [])
        if just_fitted and not checked:
            found.method.keep_chosen(fitted)
        return found

    if not isinstance(method, Ensemble):
        return fitted_again(method, {} if record["fell_back"] else record["choice"]["setting"], check)  # of what lost
    settings_of = {row["method"]: row["setting"] for row in record["race"] if "setting" in row}
    parts = [fitted_again(part, settings_of[part.name], False) for part in method.parts]
    again = max(parts, key=lambda part: len(part.learned))  # zero-shot among them has learned nothing
    seconds = sum(part.record["seconds"] for part in parts)
    again.method = Ensemble.of([part.method for part in parts], method.temperatures)
    trust = model.trust
    if trust is not None and again.method.sizes != method.sizes:  # no image of a new class was held out
        trust = trust.for_new_classes()
    again.trust = trust
    again.record |= record_of(again.method, again.frozen.backbone) | {name: record[name] for name in RACED} | {
        "training": {}, "trust": {} if trust is None else trust.summary, "seconds": round(seconds, 3),
    }  # fmt: skip
    return again
