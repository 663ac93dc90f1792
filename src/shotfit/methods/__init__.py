"""Methods by name. A third party's come from the entry points `shotfit.methods`, or from `path/to/file.py:Class`."""

from __future__ import annotations

import importlib
import importlib.util
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from shotfit.errors import UsageError

if TYPE_CHECKING:
    from shotfit.methods.base import Method

__all__ = ["METHODS", "find", "names"]

METHODS = {
    "zero_shot": "shotfit.methods.zero_shot:ZeroShot",
    "linear_probe": "shotfit.methods.linear_probe:LinearProbe",
    "clip_adapter": "shotfit.methods.clip_adapter:ClipAdapter",
    "tip_adapter": "shotfit.methods.tip_adapter:TipAdapter",
    "tip_adapter_f": "shotfit.methods.tip_adapter:TipAdapterF",
    "taskres": "shotfit.methods.taskres:TaskRes",
    "coop": "shotfit.methods.coop:CoOp",
}


def names() -> list[str]:
    """Names of all methods, those of installed plug-ins last."""
    return [*METHODS, *sorted(entry.name for entry in entry_points(group="shotfit.methods"))]


def find(name: str) -> type[Method]:
    """A method's class by its name, or by `path/to/file.py:Class`."""
    if name in METHODS:
        module, _, attribute = METHODS[name].partition(":")
        return _attribute(importlib.import_module(module), attribute, name)
    for entry in entry_points(group="shotfit.methods"):
        if entry.name == name:
            return _attribute(importlib.import_module(entry.module), entry.attr, name)
    file, _, attribute = name.rpartition(":")
    if file.endswith(".py"):
        if not Path(file).is_file():
            raise UsageError(f"There is no file {file} to take the method {attribute} from.")
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        assert spec is not None and spec.loader is not None
        module_object = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module_object)
        return _attribute(module_object, attribute, name)
    close = get_close_matches(name, names(), 1)
    hint = f"Did you mean {close[0]}?" if close else f"Methods: {', '.join(names())}."
    raise UsageError(f"There is no method {name!r}. {hint}")


def _attribute(module: object, attribute: str, name: str) -> type[Method]:
    from shotfit.methods.base import Method

    found = getattr(module, attribute, None)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UsageError(f"The method {name!r} is not a subclass of shotfit.methods.base.Method.")
    return found
