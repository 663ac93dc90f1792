"""Fit a frozen vision-language model to a task from a few labelled images.

    import shotfit

    model = shotfit.fit("photos/", shots=16)          # the test part of the folder is not touched
    model.save("my-model")
    shotfit.load("my-model").predict("new.jpg")[0].labels

Names are imported when they are first used, so that `import shotfit` and `shotfit --help` do not wait for torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from shotfit.errors import ShotfitError

if TYPE_CHECKING:
    from shotfit.data.readers import read_task
    from shotfit.data.tasklist import read_tasks
    from shotfit.evaluation.compare import compare
    from shotfit.evaluation.evaluate import evaluate, evaluate_tasks
    from shotfit.fitting.fit import fit
    from shotfit.fitting.model import Model, load

__version__: str

__all__ = [
    "Model",
    "ShotfitError",
    "__version__",
    "compare",
    "evaluate",
    "evaluate_tasks",
    "fit",
    "load",
    "read_task",
    "read_tasks",
]

_ROOMS = {
    "Model": "shotfit.fitting.model",
    "compare": "shotfit.evaluation.compare",
    "evaluate": "shotfit.evaluation.evaluate",
    "evaluate_tasks": "shotfit.evaluation.evaluate",
    "fit": "shotfit.fitting.fit",
    "load": "shotfit.fitting.model",
    "read_task": "shotfit.data.readers",
    "read_tasks": "shotfit.data.tasklist",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("shotfit")
        except PackageNotFoundError:  # a source tree that is not installed
            value = "0+source"
    elif name in _ROOMS:
        value = getattr(importlib.import_module(_ROOMS[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `shotfit.fit` the function: importing the module shotfit.fit would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        room = isinstance(value, ModuleType) and _ROOMS.get(name) == value.__name__
        super().__setattr__(name, getattr(value, name) if room else value)


sys.modules[__name__].__class__ = _Package
