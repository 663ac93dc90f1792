"""Methods by name, and what a method is written with.

    from shotfit.methods import Method, Optimizer, ParameterGroup, Recipe, Schedule, option

A third party's methods come from the entry points `shotfit.methods`, or from `path/to/file.py:Class`. What a method is
written with is imported when it is first used, so that a name can be checked without waiting for torch.
"""

from __future__ import annotations

import importlib
import inspect
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotfit.checkpoints.code import named_in
from shotfit.errors import UsageError

if TYPE_CHECKING:
    from shotfit.methods.base import Method, option
    from shotfit.methods.declared import Declared
    from shotfit.methods.recipe import Axis, Grid, Optimizer, ParameterGroup, Recipe, Schedule

__all__ = [
    "METHODS",
    "Axis",
    "Declared",
    "Grid",
    "Method",
    "Optimizer",
    "ParameterGroup",
    "Recipe",
    "Schedule",
    "address",
    "file_of",
    "find",
    "in_file",
    "names",
    "option",
]

_WRITTEN_WITH = {
    "base": ("Method", "option"),
    "declared": ("Declared",),
    "recipe": ("Axis", "Grid", "Optimizer", "ParameterGroup", "Recipe", "Schedule"),
}

METHODS = {
    "zero_shot": "shotfit.methods.zero_shot:ZeroShot",
    "linear_probe": "shotfit.methods.linear_probe:LinearProbe",
    "nearest_centroid": "shotfit.methods.nearest_centroid:NearestCentroid",
    "knn": "shotfit.methods.knn:KNN",
    "cross_modal": "shotfit.methods.cross_modal:CrossModal",
    "clip_adapter": "shotfit.methods.clip_adapter:ClipAdapter",
    "tip_adapter": "shotfit.methods.tip_adapter:TipAdapter",
    "tip_adapter_f": "shotfit.methods.tip_adapter:TipAdapterF",
    "gda": "shotfit.methods.gda:GDA",
    "proker": "shotfit.methods.proker:ProKeR",
    "prolip": "shotfit.methods.prolip:ProLIP",
    "lp_plus_plus": "shotfit.methods.lp_plus_plus:LPPlusPlus",
    "zs_lp": "shotfit.methods.clap:ZSLP",
    "clap": "shotfit.methods.clap:CLAP",
    "taskres": "shotfit.methods.taskres:TaskRes",
    "coop": "shotfit.methods.coop:CoOp",
    "kgcoop": "shotfit.methods.kgcoop:KgCoOp",
    "prograd": "shotfit.methods.prograd:ProGrad",
    "cocoop": "shotfit.methods.cocoop:CoCoOp",
    "vpt": "shotfit.methods.vpt:VPT",
    "deep_language": "shotfit.methods.deep_language:DeepLanguage",
    "ivlp": "shotfit.methods.ivlp:IVLP",
    "maple": "shotfit.methods.maple:MaPLe",
    "promptsrc": "shotfit.methods.promptsrc:PromptSRC",
    "apex": "shotfit.methods.apex:Apex",
    "mma": "shotfit.methods.mma:MMA",
    "clip_lora": "shotfit.methods.clip_lora:ClipLora",
    "clip_svd": "shotfit.methods.clip_svd:ClipSVD",
    "two_stage": "shotfit.methods.two_stage:TwoStage",
    "fine_tune": "shotfit.methods.fine_tune:FineTune",
    "wise_ft": "shotfit.methods.fine_tune:WiseFT",
    "mma_plus_plus": "shotfit.methods.mma:MMAPlusPlus",
    "mmrl": "shotfit.methods.mmrl:MMRL",
    "dualadapter": "shotfit.methods.dualadapter:DualAdapter",
    "coop_mt": "shotfit.methods.softcpt:CoOpMT",
    "softcpt": "shotfit.methods.softcpt:SoftCPT",
}

MADE = {"ensemble": "shotfit.methods.ensemble:Ensemble"}  # of fitted methods, and fitted by none


def __getattr__(name: str) -> Any:
    for module, held in _WRITTEN_WITH.items():
        if name in held:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def names() -> list[str]:
    """Names of all methods, those of installed plug-ins last."""
    return [*METHODS, *sorted(entry.name for entry in entry_points(group="shotfit.methods"))]


def find(name: str) -> type[Method]:
    """A method's class by its name, or by `path/to/file.py:Class`."""
    if name in METHODS or name in MADE:
        module, _, attribute = (METHODS | MADE)[name].partition(":")
        return _attribute(importlib.import_module(module), attribute, name)
    for entry in entry_points(group="shotfit.methods"):
        if entry.name == name:
            return _attribute(importlib.import_module(entry.module), entry.attr, name)
    if name.rpartition(":")[0].endswith(".py"):
        return _checked(named_in(name, "the method"), name)
    close = get_close_matches(name, names(), 1)
    hint = f"Did you mean {close[0]}?" if close else f"Methods: {', '.join(names())}."
    raise UsageError(f"There is no method {name!r}. {hint}")


def address(method: type[Method]) -> str:
    """What `find` finds this class by: its name, or the file that it came from.

    A class of a notebook or console is in no file: it stands under its module, by which nothing finds it.
    """
    # names of plug-ins last: to look them up reads the records of all that is installed
    named = method.name in METHODS or method.name in MADE or method.name in names()
    if named and find(method.name) is method:  # else it has the name of what it inherits from
        return method.name
    return f"{file_of(method) or method.__module__}:{method.__qualname__}"


def file_of(method: type[Method]) -> Path | None:
    """The file that a method's class came from; None in a notebook or console."""
    try:
        file = Path(inspect.getfile(method))
    except (TypeError, OSError):
        return None
    return file if file.is_file() else None


def in_file(address: str) -> bool:
    """Whether an address is a file of code, and not the name of a method that is installed.

    >>> in_file("my_method.py:Offset"), in_file("coop")
    (True, False)
    """
    return address.rpartition(":")[0].endswith(".py") and address not in names()


def _attribute(module: object, attribute: str, name: str) -> type[Method]:
    return _checked(getattr(module, attribute, None), name)


def _checked(found: object, name: str) -> type[Method]:
    from shotfit.methods.base import Method

    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UsageError(f"The method {name!r} is not a subclass of shotfit.methods.base.Method.")
    return found
