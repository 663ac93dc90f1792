"""A graph in a lower precision.

float16   weights are kept in half precision and computed with in float32: half the size, and the same speed; runtimes
          on GPUs make more of it
int8      convolutions and products of the image tower compute in 8 bits, by ranges of what flowed there for some images
          (static quantization); the head, which multiplies small differences, stays as it is
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shotfit.export.graph import LARGEST
from shotfit.export.libraries import quiet

__all__ = ["in_half", "in_int8"]

SMALL = 1024  # entries of a constant that is not worth a conversion
LARGEST_HALF = 65504.0
QUANTIZED = ["Conv", "Gemm", "MatMul", "Clip"]  # with Clip, what stands before it has no range of its own


def in_half(graph: Path, out: Path) -> None:
    """Write the graph with its weights in half precision."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(graph))
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < SMALL or np.abs(values).max() > LARGEST_HALF:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], name=f"weights/{name}", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    external = model.ByteSize() > LARGEST
    onnx.save_model(model, str(out), save_as_external_data=external, location=f"{out.name}.data" if external else None)


def in_int8(graph: Path, out: Path, batches: Iterable[NDArray[np.float32]]) -> None:
    """Write the graph with an image tower in 8 bits. batches: pixels [m, 3, size, size] to calibrate on."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.coming: Iterator[NDArray[np.float32]] = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            pixels = next(self.coming, None)
            return None if pixels is None else {"pixels": pixels}

    model = onnx.shape_inference.infer_shapes(onnx.load(str(graph)))
    head = [node.name for node in model.graph.node if not node.name.startswith("tower/")]
    with quiet():
        quantize_static(
            model,
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=head,
            use_external_data_format=model.ByteSize() > LARGEST,
            extra_options={"MatMulConstBOnly": True},
        )
