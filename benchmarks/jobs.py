"""`compare --jobs 2`: the whole command, against the same runs one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.fits import DRAWINGS
from benchmarks.measure import Line, Target, alternate, line, long, seconds
from benchmarks.sizes import Size
from shotfit.errors import ShotfitError

__all__ = ["compare_jobs"]

METHODS = "coop+steps=200+lr=0.02,mma+steps=60+lr=0.006"


def compare_jobs(size: Size, repeats: int) -> Line:
    """24 short runs of CoOp and MMA with `mini`, the whole command from an empty cache: `--jobs 2` at one thread a
    process, against one after the other at one thread.
    """
    full = size.layers > 3
    methods, shots, seeds = (METHODS, "1,2,4", "1,2,3,4") if full else ("zero_shot,tip_adapter", "1", "1")
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        run = partial(_command, Path(name), methods, shots, seeds, found)
        timing = alternate(partial(run, 2, 1), partial(run, 1, 1), long(repeats)).fields()
        two_threads = seconds(partial(run, 1, 2))
    if found["2 jobs"] != found["1 jobs"]:
        raise ShotfitError("runs side by side gave other scores than one after the other, so the times say nothing.")
    sizes = {"backbone": "mini", "classes": 10, "runs": len(found["2 jobs"]), "load": round(os.getloadavg()[0], 2)}
    more = {"two_threads_s": two_threads, "against_two_threads": two_threads / timing["ours_s"]}
    return line("compare_jobs", timing["ratio"], Target(1.6, "times faster"), torch.float32, sizes, **timing, **more)


def _command(
    folder: Path, methods: str, shots: str, seeds: str, found: dict[str, dict[str, Any]], jobs: int, threads: int
) -> None:
    """Run it with an empty cache, and keep its scores by `jobs`; of two threads, whose last digits differ, none."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        out = Path(name) / "runs.jsonl"
        command = [sys.executable, "-m", "shotfit", "compare", str(DRAWINGS), "--methods", methods, "--shots", shots]
        command += ["--seeds", seeds, "--precision", "float32", "--jobs", str(jobs), "--out", str(out)]
        surroundings = os.environ | {"SHOTFIT_CACHE": f"{name}/cache", "OMP_NUM_THREADS": str(threads)}
        ended = subprocess.run(command, env=surroundings, capture_output=True, text=True)
        if ended.returncode:
            raise ShotfitError(f"shotfit compare failed: {ended.stderr.strip().splitlines()[-1]}")
        runs = [json.loads(row) for row in out.read_text(encoding="utf-8").splitlines()]
    if threads == 1:
        found[f"{jobs} jobs"] = {run["key"]: run["scores"] for run in runs}
