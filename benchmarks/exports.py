"""Every method's export beside the model on real images, and how fast exports run.

    python -m benchmarks.exports --data data/clipart --images data/caltech101
    python -m benchmarks.exports --data examples/clipart --images examples/clipart --backbones vit,siglip,resnet
    python -m benchmarks.exports --speed shotfit-model

Prints a JSON line for each method and backbone: the largest difference of two logits (allowed: 1e-3) and the share of
images of the same class. Fits are short, since what is compared is the export. `vit`, `siglip` and `resnet` are the
tiny backbones of the tests. With `--speed`: images a second of one core, of a model in torch, in onnxruntime and in
OpenVINO, in batches of 16 of pixels that are there already. It is the processor's time that counts, so that other work
on the machine does not; run it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from shotfit.checkpoints.weights import load_backbone
from shotfit.commands.arguments import as_list
from shotfit.data.finding import find_images
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.data.tasks import Task
from shotfit.engine.frozen import Images
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.export.comparing import compared, pixels_of
from shotfit.export.graph import run_graph, write_graph
from shotfit.export.lower import in_int8
from shotfit.export.openvino import run_openvino, write_openvino
from shotfit.export.traced import Traced
from shotfit.export.write import in_float32
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model, load
from shotfit.methods import METHODS, find
from shotfit.methods.ensemble import Ensemble
from shotfit.testing.tiny import tiny_backbone
from shotfit.towers.backbone import Backbone

__all__ = ["compare_methods", "speeds"]

SHOTS, EPOCHS, TOGETHER = 4, 2, 16


def models(task: Task, backbone: Backbone) -> Iterator[Model]:
    """A short fit of each method that the backbone takes, then an ensemble of two."""
    fitted = {}
    for name in METHODS:
        epochs = None if find(name)().training_recipe() is None else EPOCHS
        try:
            fitted[name] = fit(
                task, name, shots=SHOTS, epochs=epochs, recipe="paper", backbone=backbone, precision="float32",
                store=MemoryStore(), keep=True, check=False,
            )  # fmt: skip
        except UsageError:  # a method of transformers, on a ResNet
            continue
        yield fitted[name]
    first, second = fitted["taskres"], fitted["tip_adapter_f"]
    ensemble = Ensemble.of([first.method, second.method], [1.0, 2.0])
    yield Model(ensemble, first.frozen, first.record | {"method": "ensemble"})


def compare_methods(task: Task, backbone: Backbone, pictures: Sequence[Picture]) -> Iterator[dict[str, Any]]:
    """A row for each method."""
    for model in models(task, backbone):
        with TemporaryDirectory() as place:
            graph, start = Path(place) / "model.onnx", time.perf_counter()
            reference = in_float32(model)
            try:
                write_graph(Traced(reference), graph)
            except ShotfitError as error:
                yield {"method": model.method.name, "refused": str(error)}
                continue
            seconds = time.perf_counter() - start
            found = compared(reference, pictures, run_graph(graph))
        yield {
            "method": model.method.name,
            "images": found.images,
            "difference": found.difference,
            "same": found.same,
            "seconds": round(seconds, 1),
        }


def speeds(model: Model, rounds: int = 6) -> Iterator[dict[str, Any]]:
    """Images a second of one core: the best of some rounds, each of a batch."""
    reference = in_float32(model)
    size = reference.frozen.backbone.config.preprocessing.size
    pixels = torch.rand(TOGETHER, 3, size, size)

    def timed(name: str, run: Callable[[], object]) -> dict[str, Any]:
        run()
        best = float("inf")
        for _ in range(rounds):
            start = time.process_time()
            run()
            best = min(best, time.process_time() - start)
        return {"runtime": name, "images_per_second": round(TOGETHER / best, 1)}

    @torch.inference_mode()
    def in_torch(one: Model) -> object:
        return one.logits(Images.of(pixels.to(one.frozen.backbone.dtype)))

    yield timed("torch float32", lambda: in_torch(reference))
    if model.frozen.backbone.dtype == torch.bfloat16:
        yield timed("torch bfloat16", lambda: in_torch(model))
    with TemporaryDirectory() as place:
        graph, low, xml = (Path(place) / name for name in ("model.onnx", "int8.onnx", "model.xml"))
        write_graph(Traced(reference), graph)
        noise = [Picture.of((255 * torch.rand(size, size, 3)).byte().numpy()) for _ in range(TOGETHER)]
        in_int8(graph, low, (batch.numpy() for batch in pixels_of(reference, noise)))
        for name, file in (("float32", graph), ("int8", low)):
            run = run_graph(file)
            yield timed(f"onnxruntime {name}", lambda run=run: run(pixels.numpy()))  # type: ignore[misc]
            write_openvino(file, xml, half=False)
            other = run_openvino(xml)
            yield timed(f"openvino {name}", lambda run=other: run(pixels.numpy()))  # type: ignore[misc]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("examples/clipart"))
    parser.add_argument("--images", type=Path, default=Path("examples/clipart"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--backbones", default="mini")
    parser.add_argument("--speed", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.speed is not None:
        for row in speeds(load(asked.speed, trust_backbone=True)):
            print(json.dumps(row), flush=True)
        return
    found = find_images([str(asked.images)]).images
    pictures = [found[number * len(found) // asked.count] for number in range(min(asked.count, len(found)))]
    task = read_task(asked.data)
    with TemporaryDirectory() as place:
        for name in as_list("--backbones", asked.backbones):
            tiny = name in ("vit", "siglip", "resnet")
            backbone = tiny_backbone(Path(place) / name, name) if tiny else load_backbone(name)
            for row in compare_methods(task, backbone, pictures):
                print(json.dumps({"backbone": name} | row), flush=True)


if __name__ == "__main__":
    main()
