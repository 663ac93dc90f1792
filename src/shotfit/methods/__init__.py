"""Methods by name, and what a method is written with.

    from shotfit.methods import Method, Optimizer, ParameterGroup, Recipe, Schedule, option

A third party's methods come from the entry points `shotfit.methods`, or from `path/to/file.py:Class`. What a method is
written with is imported when it is first used, so that a name can be checked without waiting for torch.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from shotfit.errors import UsageError
from shotfit.files import CODE_BYTES, UnreadableError, check_regular

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
    "clip_adapter": "shotfit.methods.clip_adapter:ClipAdapter",
    "tip_adapter": "shotfit.methods.tip_adapter:TipAdapter",
    "tip_adapter_f": "shotfit.methods.tip_adapter:TipAdapterF",
    "taskres": "shotfit.methods.taskres:TaskRes",
    "coop": "shotfit.methods.coop:CoOp",
    "apex": "shotfit.methods.apex:Apex",
    "mma": "shotfit.methods.mma:MMA",
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
    file, _, attribute = name.rpartition(":")
    if file.endswith(".py"):
        try:
            check_regular(Path(file), CODE_BYTES, "the file of a method")
        except UnreadableError as error:
            reason = "is not there" if error.missing else error.reason
            raise UsageError(f"The method {attribute} is to be taken from {file}, which {reason}.") from None
        return _attribute(_module_of(Path(file).resolve()), attribute, name)
    close = get_close_matches(name, names(), 1)
    hint = f"Did you mean {close[0]}?" if close else f"Methods: {', '.join(names())}."
    raise UsageError(f"There is no method {name!r}. {hint}")


def address(method: type[Method]) -> str:
    """What `find` finds this class by: its name, or the file that it came from.

    A class of a notebook or console is in no file: it stands under its module, by which nothing finds it.
    """
    if (method.name in names() or method.name in MADE) and find(
        method.name
    ) is method:  # else it has the name of what it inherits from
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
    return address not in names() and address.rpartition(":")[0].endswith(".py")


def _module_of(file: Path) -> ModuleType:
    of_file = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]  # another folder may have a file of this name
    name = f"shotfit_method_{file.stem}_{of_file}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look their annotations up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise UsageError(f"{file} cannot be imported: {type(error).__name__}: {error}.") from error
    return module


def _attribute(module: object, attribute: str, name: str) -> type[Method]:
    from shotfit.methods.base import Method

    found = getattr(module, attribute, None)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UsageError(f"The method {name!r} is not a subclass of shotfit.methods.base.Method.")
    return found
