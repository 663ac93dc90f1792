"""An export by hand, for tests that need one at once."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from shotfit.files import sha256


def by_hand(folder: Path, factor: float = 10.0) -> Path:
    """An export that takes a picture's mean color, times a factor, for the logits of red, green and blue."""
    shape: list[str | int | None] = ["n", 3, 8, 8]
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["means"]),
        helper.make_node("Flatten", ["means"], ["features"]),
        helper.make_node("Mul", ["features", "factor"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("logits", "features")],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])],
    )
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    preprocess = {
        "size": [8, 8], "resize": "squash", "interpolation": "bicubic", "crop": None, "fill": None,
        "mean": [0, 0, 0], "std": [1, 1, 1],
    }  # fmt: skip
    digests = {"model.onnx": sha256(folder / "model.onnx", 2**20, "a graph")}
    record = {"format": 1, "kind": "onnx", "model": "model.onnx", "classes": ["red", "green", "blue"], "trust": None}
    (folder / "export.json").write_text(json.dumps(record | {"preprocess": preprocess, "sha256": digests}))
    return folder
