"""Fit a frozen vision-language model to a task from a few labelled images.

    import shotfit

    model = shotfit.fit("photos/")                    # the test part of the folder is not touched
    model.save("my-model")
    shotfit.load("my-model").predict("new.jpg")[0].labels

Names are imported when they are first used, so that `import shotfit` and `shotfit --help` do not wait for torch.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from shotfit.errors import ShotfitError

if TYPE_CHECKING:
    from shotfit.checkpoints.joined import open_joined
    from shotfit.checkpoints.weights import load_backbone
    from shotfit.data.readers import read_task
    from shotfit.data.tasklist import read_tasks
    from shotfit.data.tasks import Task
    from shotfit.evaluation.clean import clean
    from shotfit.evaluation.compare import compare
    from shotfit.evaluation.evaluate import evaluate, evaluate_tasks
    from shotfit.evaluation.several_labels import evaluate_labels
    from shotfit.evaluation.suggest import suggest
    from shotfit.export.write import export_model
    from shotfit.fitting.align import align
    from shotfit.fitting.asked import Asked
    from shotfit.fitting.classifier import Classifier
    from shotfit.fitting.embedding import embed
    from shotfit.fitting.fit import fit
    from shotfit.fitting.model import Model, load
    from shotfit.fitting.parts import embed_parts, predict_parts
    from shotfit.fitting.pushing import push
    from shotfit.fitting.start import zero_shot
    from shotfit.report.writing import write_report

__version__: str

__all__ = [
    "Asked",
    "Classifier",
    "Model",
    "ShotfitError",
    "Task",
    "__version__",
    "align",
    "clean",
    "compare",
    "embed",
    "embed_parts",
    "evaluate",
    "evaluate_labels",
    "evaluate_tasks",
    "export_model",
    "fit",
    "load",
    "load_backbone",
    "open_joined",
    "predict_parts",
    "push",
    "read_task",
    "read_tasks",
    "suggest",
    "write_report",
    "zero_shot",
]

_HOMES = {
    "Asked": "fitting.asked",
    "Classifier": "fitting.classifier",
    "Model": "fitting.model",
    "Task": "data.tasks",
    "align": "fitting.align",
    "clean": "evaluation.clean",
    "compare": "evaluation.compare",
    "embed": "fitting.embedding",
    "embed_parts": "fitting.parts",
    "evaluate": "evaluation.evaluate",
    "evaluate_labels": "evaluation.several_labels",
    "evaluate_tasks": "evaluation.evaluate",
    "export_model": "export.write",
    "fit": "fitting.fit",
    "load": "fitting.model",
    "load_backbone": "checkpoints.weights",
    "open_joined": "checkpoints.joined",
    "predict_parts": "fitting.parts",
    "push": "fitting.pushing",
    "read_task": "data.readers",
    "read_tasks": "data.tasklist",
    "suggest": "evaluation.suggest",
    "write_report": "report.writing",
    "zero_shot": "fitting.start",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        value: Any = "0+source"  # of a source tree that is not installed
        for distribution in ("shotfit-light", "shotfit"):  # which may bring these files
            with suppress(PackageNotFoundError):
                value = version(distribution)
    elif name == "light":  # the runtime of exports, a module
        value = importlib.import_module("shotfit.light")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"shotfit.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
