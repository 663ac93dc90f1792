"""Peak resident memory of CoOp's text step above the loaded model, one manner a process (Linux).

    python -m benchmarks.memory ours 1000 --budget 1073741824          --memory of a fit
    python -m benchmarks.memory reference 1000 --budget 21474836480    chunks of classes, as large as fit

Prints {"peak": bytes, "chunk": classes}.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.coop_steps import ours_of, reference_of, text_method
from benchmarks.sizes import SIZES, Size
from shotfit.errors import ShotfitError
from shotfit.methods.coop import CoOp

__all__ = ["measured_apart", "peak_of", "status"]

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PROBES = (4, 20)  # classes of the two small steps that tell what a class takes


def peak_of(action: Callable[[], object]) -> int:
    """Bytes by which the resident memory grows at most while an action runs."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")  # the peak counts from now on
    before = status("VmRSS")
    action()
    return status("VmHWM") - before


def status(field: str) -> int:
    """Bytes of this process by the system's name: VmRSS is what is resident, VmHWM its peak."""
    (row,) = (row for row in STATUS.read_text().splitlines() if row.startswith(f"{field}:"))
    return 1024 * int(row.split()[1])


def largest_chunk(method: CoOp, budget: int) -> int:
    """Classes of the reference whose step fits the budget, from two small ones; all of them at most."""
    few, more = (peak_of(reference_of(method, classes, first_alone=True)) for classes in PROBES)
    each = (more - few) / (PROBES[1] - PROBES[0])
    return min(sum(method.sizes), max(1, int((budget - few) / max(each, 1)) + PROBES[0]))


def measured_apart(manner: str, classes: int, size: Size, budget: int) -> dict[str, Any]:
    """What `main` prints, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", manner, str(classes), "--size", size.name]
    ended = subprocess.run([*command, "--budget", str(budget)], stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        raise ShotfitError(f"The memory of {manner} with {classes} classes could not be measured.")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def main() -> None:
    """Measure one step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("manner", choices=("ours", "reference"))
    parser.add_argument("classes", type=int)
    parser.add_argument("--size", choices=SIZES, default="ViT-B/16")
    parser.add_argument("--budget", type=int, required=True, help="bytes")
    given = parser.parse_args()
    ours = given.manner == "ours"
    method = text_method(SIZES[given.size], given.classes, given.budget if ours else None)
    chunk = 0 if ours else largest_chunk(method, given.budget)
    print(json.dumps({"peak": peak_of(ours_of(method) if ours else reference_of(method, chunk)), "chunk": chunk}))


if __name__ == "__main__":
    main()
