"""open_clip and timm as the tests import them: from a folder of their own beside the environment's packages.

    from .originals import open_clip, timm

They ask for torchvision, whose builds for CPUs alone are on no registry. With the build for GPUs beside it, torch lacks
the operators that torchvision describes as it is imported, and transformers could not be imported. So the Makefile
installs the three where nothing else finds them (`requirements/originals.txt`), and only here they are.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
from transformers.utils import import_utils

__all__ = ["open_clip", "timm"]

PLACE = Path(sys.prefix) / "originals"


def _imported() -> tuple[ModuleType, ModuleType]:
    """Both packages. transformers, asked before, remembers that there is no torchvision."""
    import_utils.is_torchvision_available(), import_utils.is_torchvision_v2_available()
    if not (PLACE / "open_clip").is_dir():
        pytest.skip(f"open_clip is not in {PLACE}: make test installs it", allow_module_level=True)
    sys.path.insert(0, str(PLACE))
    try:
        with mock.patch("torch.library.register_fake", lambda *_, **__: lambda function: function):
            importlib.import_module("torchvision")
        return importlib.import_module("open_clip"), importlib.import_module("timm")
    finally:
        sys.path.remove(str(PLACE))


open_clip, timm = _imported()
