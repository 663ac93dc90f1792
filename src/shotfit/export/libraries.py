"""The libraries that exports are made with. None comes with shotfit alone."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

from shotfit.errors import UsageError

__all__ = ["check_installed", "quiet"]

NEEDED = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript", "onnxruntime"),
    "classifier": (),
    "web": ("onnx", "onnxscript", "onnxruntime"),
}
EXTRAS = {"openvino": "onnx,openvino", "web": "onnx"}


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


@contextmanager
def quiet() -> Iterator[None]:
    """Without what these libraries say of themselves, of each other and of what they would like better."""
    loggers = [logging.getLogger("torch.onnx"), logging.getLogger()]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
