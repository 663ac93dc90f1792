"""What a fitted model costs: memory of the fit, bytes of the saved model, images a second of prediction.

with PeakMemory(backbone.device) as peak:
    model = fit(task)
peak.bytes, saved_bytes(model), prediction_rate(model, paths)
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from shotfit.data.pictures import Picture
from shotfit.engine.allocator import count_anew, give_back, peak_memory
from shotfit.errors import ShotfitError
from shotfit.fitting.model import Model

__all__ = ["PeakMemory", "prediction_rate", "saved_bytes"]

WARMING, TIMED = 8, 64  # images that are predicted first, and images that are timed


class PeakMemory:
    """The most memory that is in use while it is entered: `bytes`, None where the system does not tell.

    On a GPU: of PyTorch's tensors there. Else: resident memory of the whole process, with Python, the libraries and the
    backbone. What earlier work has freed is given back to the system first.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        give_back()
        self._counts = count_anew(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        if self._counts:
            self.bytes = peak_memory(self.device)


def saved_bytes(model: Model) -> int:
    """Bytes of the folder that the model is saved as, without the backbone."""
    with tempfile.TemporaryDirectory() as folder:
        place = model.save(Path(folder) / "model")
        return sum(file.stat().st_size for file in place.iterdir())


def prediction_rate(model: Model, images: Sequence[Picture]) -> float | None:
    """Images a second from file to answer, by 64 of the images after a few others; None where they cannot be read.

    Fewer images are asked for again and again.
    """
    asked = [images[number % len(images)] for number in range(TIMED)]
    try:
        for _ in model.predict_each(asked[:WARMING]):
            pass
        started = time.perf_counter()
        for _ in model.predict_each(asked):
            pass
    except ShotfitError:  # the features were stored, and the file has gone since
        return None
    return round(TIMED / (time.perf_counter() - started), 1)
