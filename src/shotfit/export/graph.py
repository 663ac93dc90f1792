"""The traced model as ONNX: standard operators, any number of images, constants folded.

    write_graph(Traced(model), Path("model.onnx"))
    logits, features = run_graph(Path("model.onnx"))(pixels)

Weights beyond what one file of ONNX may hold (2 GB) go into model.onnx.data beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from shotfit.errors import ShotfitError
from shotfit.export.libraries import quiet
from shotfit.export.traced import Traced

__all__ = ["LARGEST", "Run", "run_graph", "write_graph"]

Run = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Pixels [n, 3, size, size] to logits [n, classes] and features [n, embed]."""

OPSET = 20  # what onnxruntime 1.17, onnxruntime-web and OpenVINO 2024 read
LARGEST = 2**31 - 2**24  # bytes in one file; protobuf ends at 2 GiB
EXAMPLES = 2  # images that are traced with; torch takes one for a size that never changes
UNBOUNDED = 2**40  # bytes of a constant that is folded


class PlainAttention(TorchFunctionMode):
    """Attention as its two products and softmax, which every runtime knows and joins again as it likes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace one function, and leave the others."""
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    if attn_mask is not None or is_causal:
        raise ShotfitError("its attention is masked, as a text tower's is, which would run for each image")
    return ((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)).softmax(dim=-1) @ value


def write_graph(module: Traced, path: Path) -> None:
    """Trace the module and write it as ONNX: input `pixels`, outputs `logits` and `features`.

    Raises ShotfitError for a method whose logits torch cannot trace.
    """
    from onnxscript import optimizer

    size, names = module.tower.image_size, ["logits", "features"]
    pixels = torch.full((EXAMPLES, 3, size, size), 0.5)
    with torch.no_grad(), quiet():
        with torch.backends.mkldnn.flags(enabled=False):  # its products are no operators of ONNX
            module(pixels)  # what a method computes once and keeps, it computes here, from numbers
            try:
                with PlainAttention():
                    images = torch.export.Dim("n")
                    traced = torch.export.export(
                        module, (pixels,), dynamic_shapes={"pixels": {0: images}}, strict=False
                    )
                program = cast("Any", torch.onnx.export(
                    traced, dynamo=True, input_names=["pixels"], output_names=names, opset_version=OPSET,
                    optimize=False, verbose=False,
                ))  # fmt: skip
            except Exception as error:  # torch raises what it likes for what it cannot follow
                said = " ".join(str(error).split())[:200]
                raise ShotfitError(
                    f"{module.method.name} cannot be exported: torch cannot trace its logits ({said})."
                ) from error
        optimizer.optimize_ir(
            program.model, input_size_limit=UNBOUNDED, output_size_limit=UNBOUNDED, onnx_shape_inference=False
        )
        _name_nodes(program.model.graph)
        weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
        program.model.graph.name = "shotfit"
        program.save(str(path), external_data=weights > LARGEST)


def _name_nodes(graph: Any) -> None:
    """Nodes are called tower/... and head/..., by where the tower ends; then its ends are no outputs any more."""
    inside, open_values = set[Any](), list(graph.outputs[2:])
    while open_values:
        node = open_values.pop().producer()
        if node is not None and node not in inside:
            inside.add(node)
            open_values += [value for value in node.inputs if value is not None]
    del graph.outputs[2:]
    for number, node in enumerate(graph):
        node.metadata_props.clear()  # of its way through torch
        node.name = f"{'tower' if node in inside else 'head'}/{number}_{node.op_type}"


def run_graph(path: Path) -> Run:
    """What onnxruntime computes of a file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits, features = session.run(["logits", "features"], {"pixels": pixels})
        return logits, features

    return run
