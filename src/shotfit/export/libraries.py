"""The libraries that exports are made with. None comes with shotfit alone."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from shotfit.errors import UsageError

__all__ = ["check_installed"]

NEEDED = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript", "onnxruntime"),
    "classifier": (),
}
EXTRAS = {"openvino": "onnx,openvino"}


def check_installed(kind: str) -> None:
    """Refuse, before anything is loaded, an export whose libraries are missing.

    Raises UsageError with the line that installs them.
    """
    for name in NEEDED[kind]:
        try:
            found = find_spec(name) is not None and import_module(name) is not None
        except ImportError:
            found = False
        if not found:
            extra = EXTRAS.get(kind, kind)
            raise UsageError(
                f"--to {kind} is made with {name}, which is not installed: pip install 'shotfit[{extra}]'."
            )
