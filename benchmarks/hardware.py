"""How close a training step comes to what the processor can do, and what bfloat16 and int8 add where it has them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.measure import Line, Target, alternate, line, operations_of, seconds
from benchmarks.sizes import Size
from benchmarks.steps import pair
from shotfit.checkpoints.weights import load_backbone, load_in
from shotfit.data.readers import read_task
from shotfit.engine.allocator import kept_memory
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError
from shotfit.evaluation.evaluate import evaluate
from shotfit.fitting.fit import fit
from shotfit.towers.backbone import Backbone
from shotfit.towers.precision import fast_precision

__all__ = ["bf16_step", "coop_gemm_share", "int8_images"]

CALTECH101 = Path("data/caltech101")


def coop_gemm_share(size: Size, repeats: int) -> Line:
    """Share of the machine's own matrix-product rate that the CoOp step reaches, 100 classes, stored views."""
    backbone = size.backbone()
    with tempfile.TemporaryDirectory() as folder:
        both = pair("coop", size, backbone, Path(folder))
        for _ in range(3):  # reads the streams, and on a GPU makes a recording
            both.step()
        done = operations_of(partial(both.gradients, "ours"))
        product, operations = _product(size)
        seconds(product)
        with kept_memory():
            both.step()
            pairs = [(seconds(both.step), seconds(product)) for _ in range(3 * repeats)]
    rate = done / median(step for step, _ in pairs)
    peak = operations / min(own for _, own in pairs)
    sizes = {"backbone": size.name, "classes": sum(both.ours.sizes), "batch": both.recipe.batch}
    more = {"step_gflops": rate / 1e9, "machine_gflops": peak / 1e9, "step_gflop": done / 1e9, "repeats": len(pairs)}
    return line("coop_gemm_share", 100 * rate / peak, Target(50, "%"), backbone.dtype, sizes, **more)


def _product(size: Size) -> tuple[Callable[[], object], float]:
    """A product of two large square matrices, and how many operations it is."""
    side = 64 if size.layers <= 3 else 8192 if size.device.type == "cuda" else 2048
    left, right, out = (torch.randn(side, side, device=size.device) for _ in range(3))
    return lambda: torch.mm(left, right, out=out), 2.0 * side**3


def bf16_step(size: Size, repeats: int) -> Line:
    """MMA's step in bfloat16 against float32, where the processor has instructions for it."""
    sizes, target = {"backbone": size.name, "batch": 16}, Target(1.7, "times faster")
    if fast_precision(size.device) != torch.bfloat16:
        note = "not measured here: the processor has no bfloat16 instructions"
        return line("bf16_step", None, target, torch.bfloat16, sizes, note=note)
    backbone = size.backbone()
    with tempfile.TemporaryDirectory() as folder:
        full = pair("mma", size, backbone, Path(folder))
        half = pair("mma", size, size.backbone().to(torch.bfloat16), Path(folder))
        for both in (half, full):
            for _ in range(3):
                both.step()
    with kept_memory():  # both are ours
        timing = alternate(half.step, full.step, repeats, steady=True).fields()
    return line("bf16_step", timing["ratio"], target, torch.bfloat16, sizes, **timing, **_accuracies(size))


def _accuracies(size: Size) -> Line:
    """Percent of Caltech101's test images that MMA with `mini` gets right, 16 shots, in both precisions."""
    if size.layers <= 3:
        return {"accuracy_note": "accuracy not measured: it takes whole fits, which the tiny size leaves out"}
    if not CALTECH101.is_dir():
        return {"accuracy_note": f"accuracy not measured: {CALTECH101} is not there (make data)"}
    found = {}
    task = read_task(CALTECH101)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        backbone = load_backbone("mini").to(size.device, dtype)
        model = fit(
            task, "mma", shots=16, recipe="paper", backbone=backbone, store=MemoryStore(), check=False, keep=True
        )
        found[f"accuracy_{name}"] = 100 * evaluate(model, task.test).accuracy
    return found | {"accuracy_target": 0.3}  # points between the two, at most


def int8_images(size: Size, repeats: int) -> Line:
    """The image tower in int8 against float32, batches of 32."""
    sizes, target, batch = {"backbone": size.name, "batch": 32}, Target(2, "times faster"), 32
    if size.device.type != "cpu":
        return line("int8_images", None, target, torch.int8, sizes, note="int8 runs on a CPU alone")
    exact = size.backbone()
    rough = load_in(exact, "int8")
    pixels = torch.randn(batch, 3, size.image_size, size.image_size, generator=torch.Generator().manual_seed(0))

    def features(backbone: Backbone) -> Tensor:
        return backbone.image.finish(backbone.image.start(pixels.to(backbone.dtype)))

    with torch.inference_mode(), kept_memory():
        cosine = float(torch.cosine_similarity(features(exact), features(rough)).min())
        if cosine < 0.95:
            raise ShotfitError(f"In int8 a feature has a cosine of {cosine:.3f} to that in float32.")
        timing = alternate(partial(features, rough), partial(features, exact), repeats, steady=True).fields()
        half = load_in(exact, "bfloat16")
        features(half)
        more = {"bfloat16_s": median(seconds(partial(features, half)) for _ in range(repeats)), "cosine": cosine}
    return line("int8_images", timing["ratio"], target, torch.int8, sizes, **timing, **more)
