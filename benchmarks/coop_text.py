"""CoOp's text side alone: what a training step costs for the prompts of 100 and of 1,000 classes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.coop_steps import ours_of, reference_of, text_method
from benchmarks.measure import Line, Target, alternate, check_same, line, long
from benchmarks.memory import measured_apart
from benchmarks.sizes import Size
from shotfit.methods import coop

__all__ = ["coop_text_100", "coop_text_1000"]

MEMORY = 2**30  # bytes that ours may take for text activations of 1,000 classes
BUDGET = 20 * 2**30  # bytes that the reference may take


def coop_text_100(size: Size, repeats: int) -> Line:
    """CoOp's text tower, 16 context vectors, 100 classes, forward and backward, against 77 padded tokens a class."""
    method = text_method(size, 100)
    timed, sizes = _timed(size, method, 0, repeats)
    return line("coop_text_100", timed["ratio"], Target(24, "times faster"), torch.float32, sizes, **timed)


def coop_text_1000(size: Size, repeats: int) -> Line:
    """The same with ImageNet's 1,000 names; the reference in the largest chunks of classes that fit 20 GiB."""
    classes = min(1000, size.classes)
    ours, reference = (
        measured_apart(manner, classes, size, budget) for manner, budget in (("ours", MEMORY), ("reference", BUDGET))
    )
    timed, sizes = _timed(size, text_method(size, classes, MEMORY), reference["chunk"], long(repeats), warm=False)
    sizes |= {"reference_chunk": reference["chunk"], "ours_memory": MEMORY}
    peaks = {"ours_bytes": ours["peak"], "reference_bytes": reference["peak"]}
    timed |= peaks | {"memory_ratio": peaks["reference_bytes"] / peaks["ours_bytes"], "memory_target": 10}
    return line("coop_text_1000", timed["ratio"], Target(16, "times faster"), torch.float32, sizes, **timed)


def _timed(size: Size, method: coop.CoOp, chunk: int, repeats: int, warm: bool = True) -> tuple[Line, Line]:
    """Timings and sizes of both manners on the same prompts. warm: the reference runs once before it is timed."""
    found: dict[str, dict[str, Tensor]] = {}
    steps = {"ours": ours_of(method), "reference": reference_of(method, chunk)}

    def run(manner: str) -> None:
        found[manner] = steps[manner]()

    run("ours")
    if warm:
        run("reference")
    timing = alternate(partial(run, "ours"), partial(run, "reference"), repeats).fields()
    difference = check_same(found["ours"], found["reference"], 1e-3)
    sizes = {"backbone": size.name, "classes": sum(method.sizes), "context": method.length}
    return timing | {"gradient_difference": difference}, sizes
