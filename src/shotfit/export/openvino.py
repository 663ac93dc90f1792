"""A graph as OpenVINO's model.xml and model.bin.

The graph is read by OpenVINO's own reader of ONNX, which sends and fetches nothing. On processors with instructions for
bfloat16 OpenVINO would compute in it unasked; the comparison, and the README of an export in float32, ask for float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from shotfit.export.graph import Run

__all__ = ["run_openvino", "write_openvino"]


def write_openvino(graph: Path, out: Path, half: bool) -> None:
    """Write model.xml with model.bin beside it. half: weights in half precision."""
    import openvino

    openvino.save_model(openvino.Core().read_model(str(graph)), str(out), compress_to_fp16=half)


def run_openvino(path: Path) -> Run:
    """What OpenVINO computes of a file, on the CPU in float32 (or in int8, where the file says so)."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def run(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = compiled([pixels])
        return found["logits"], found["features"]

    return run
