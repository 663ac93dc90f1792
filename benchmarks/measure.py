"""How a figure is taken: both manners in one process, alternating, medians; and the line that states it."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from shotfit.engine.allocator import kept_memory
from shotfit.errors import ShotfitError

__all__ = [
    "Line",
    "Target",
    "Timing",
    "alternate",
    "check_same",
    "line",
    "long",
    "machine",
    "operations_of",
    "seconds",
]

Line = dict[str, Any]
Action = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of each run of both manners."""

    ours: Sequence[float]
    reference: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """Of each pair: how many times faster ours was."""
        return [slow / fast for fast, slow in zip(self.ours, self.reference, strict=True)]

    def fields(self) -> Line:
        """What a line says of it: medians, and the range of the ratio."""
        ratios = self.ratios
        return {
            "ours_s": median(self.ours),
            "reference_s": median(self.reference),
            "ratio": median(ratios),
            "ratio_lowest": min(ratios),
            "ratio_highest": max(ratios),
            "repeats": len(ratios),
        }


def seconds(action: Action) -> float:
    """The wall time of one run, what it left to a GPU included."""
    begin = time.perf_counter()
    action()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def alternate(ours: Action, reference: Action, repeats: int, steady: bool = False) -> Timing:
    """Run both in turns.

    steady: as when many steps follow one another, so each manner runs once more in front of its timed run, and ours
    keeps its memory, as it does in training; the reference has the allocator that any program has.
    """
    pairs = []
    for _ in range(repeats):
        with kept_memory() if steady else nullcontext():
            if steady:
                ours()
            taken = seconds(ours)
        if steady:
            reference()
        pairs.append((taken, seconds(reference)))
    return Timing([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def operations_of(action: Action) -> int:
    """The operations in the matrix products of one run."""

    def product(left: Sequence[int], right: Sequence[int], *_: object, **__: object) -> int:
        return 2 * math.prod(left) * right[0]  # [..., in] and [out, in]

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: product})
    with counter:
        action()
    total: int = counter.get_total_flops()
    return total


def long(repeats: int) -> int:
    """How often to repeat what takes minutes: a third as often, once at least."""
    return (repeats + 2) // 3


def check_same(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor], tolerance: float) -> float:
    """The largest difference of tensors of equal names, as a share of the largest entry of each.

    Raises ShotfitError above the tolerance: what computes something else may not be compared.
    """
    worst = 0.0
    for name, expected in reference.items():
        scale = max(float(expected.detach().abs().max()), 1e-30)
        difference = float((ours[name] - expected).detach().abs().max()) / scale
        if not difference <= tolerance:
            raise ShotfitError(
                f"{name} of ours differs by {difference:.1e} of the reference's largest entry, more than "
                f"{tolerance:.0e}: they compute something else, so the times say nothing."
            )
        worst = max(worst, difference)
    return worst


@dataclass(frozen=True)
class Target:
    """What the value must reach."""

    value: float
    unit: str
    at_most: bool = False


def line(name: str, value: float | None, target: Target, dtype: torch.dtype, sizes: Line, **more: Any) -> Line:
    """One measurement as a line of results.jsonl; a value of None was not measured, and `note` says why."""
    wanted: Line = {"target": target.value} | ({"target_is": "at most"} if target.at_most else {})
    rest = {"sizes": sizes, "dtype": str(dtype).removeprefix("torch."), "machine": machine()}
    return {"name": name, "value": value, "unit": target.unit, **wanted, **more, **rest}


def machine() -> Line:
    """The processor, its cores, the threads in use, and the GPU where one was."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_initialized() else {}
    return gpu | {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    names = [row for row in table.read_text().splitlines() if row.startswith("model name")] if table.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
