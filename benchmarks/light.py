"""How soon an export answers: `shotfit predict` from its start to its end, without torch and with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import torch

from benchmarks.measure import Line, Target, alternate, check_same, line
from benchmarks.sizes import Size
from shotfit.data.readers import read_task
from shotfit.engine.store import MemoryStore
from shotfit.export.write import export_model
from shotfit.fitting.fit import fit
from shotfit.testing.tiny import tiny_backbone

__all__ = ["light_start"]

CLIPART = Path(__file__).parent.parent / "examples" / "clipart"
PICTURE = CLIPART / "bird" / "bird_01.png"


def light_start(size: Size, repeats: int) -> Line:
    """The first answer of `shotfit predict` for one picture, from the program's start: an export against the model."""
    with tempfile.TemporaryDirectory() as name:
        folder, numbers = Path(name), count()
        backbone = "mini"
        if size.layers <= 3:
            backbone = str(folder / "backbone")
            tiny_backbone(Path(backbone))
        task = read_task(CLIPART)
        model = fit(task, "tip_adapter", shots=2, backbone=backbone, store=MemoryStore(), check=False,
                    precision="float32")  # fmt: skip
        model.save(folder / "model")
        export_model(model, "onnx", folder / "export")

        def said(words: Sequence[object]) -> torch.Tensor:
            """Probabilities [classes] that the command prints, with a cache that is empty."""
            command = [sys.executable, "-m", "shotfit", "predict", *map(str, words), str(PICTURE), "--format", "jsonl"]
            found = os.environ | {"SHOTFIT_CACHE": str(folder / f"cache-{next(numbers)}")}
            found.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed, nothing is compiled again
            with subprocess.Popen([*command, "--top", "99"], env=found, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                answer = process.stdout.readline()
                process.kill()  # the answer is there; how long the program takes to end is another question
            rows = {row["label"]: row["probability"] for row in json.loads(answer)["predictions"]}
            return torch.tensor([rows[name] for name in task.classes.names])

        def ours() -> torch.Tensor:
            return said([folder / "export"])

        def reference() -> torch.Tensor:
            return said([folder / "model", "--backbone", backbone])

        same = check_same({"probabilities": ours()}, {"probabilities": reference()}, 1e-4)
        timing = alternate(ours, reference, repeats).fields()
    sizes = {"backbone": Path(backbone).name, "classes": len(task.classes.names), "images": 1}
    target = Target(4, "times faster")
    more = {"probability_difference": same}
    return line("light_start", timing["ratio"], target, torch.float32, sizes, **timing, **more)
