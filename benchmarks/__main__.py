"""Time shotfit against the reference manner, and print a JSON line a measurement.

python -m benchmarks NAME [--repeats N]
python -m benchmarks all --out benchmarks/results.jsonl      what `make bench` runs
python -m benchmarks all --device cuda --out benchmarks/gpu.jsonl
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import (
    choosing,
    coop_text,
    fits,
    growth,
    hardware,
    jobs,
    light,
    prediction,
    search,
    serving,
    steps,
    table,
)
from benchmarks.measure import Line
from benchmarks.sizes import FULL, SIZES, Size
from shotfit.errors import ShotfitError

__all__ = ["ABOUT", "BENCHMARKS"]

FUNCTIONS: tuple[Callable[[Size, int], Line], ...] = (
    coop_text.coop_text_100,
    coop_text.coop_text_1000,
    steps.coop_step,
    steps.coop_step_fresh,
    steps.softcpt_step,
    steps.mma_step,
    steps.mma_step_fresh,
    steps.mmrl_step,
    steps.apex_step,
    steps.clip_lora_step,
    steps.cocoop_step,
    steps.maple_step,
    steps.promptsrc_step,
    search.dualadapter_search,
    fits.whole_fit,
    fits.compare_seeds,
    jobs.compare_jobs,
    fits.second_fit,
    choosing.auto_cost,
    prediction.predict_pipeline,
    light.light_start,
    hardware.coop_gemm_share,
    prediction.features_jpeg,
    prediction.mini_images,
    serving.serve_rate,
    hardware.bf16_step,
    hardware.int8_images,
)
BENCHMARKS = {function.__name__: function for function in FUNCTIONS}
ON_GPU = (
    "coop_step",
    "coop_step_fresh",
    "softcpt_step",
    "mma_step",
    "mma_step_fresh",
    "mmrl_step",
    "apex_step",
    "clip_lora_step",
    "cocoop_step",
    "maple_step",
    "promptsrc_step",
    "predict_pipeline",
    "coop_gemm_share",
    "mini_images",
    "bf16_step",
)
ABOUT = {name: " ".join((run.__doc__ or "").split()) for name, run in BENCHMARKS.items()}


def main() -> int:
    """Run what is named; the exit status is 1 where something could not be measured."""
    about = "\n".join(f"  {name}: {what}" for name, what in ABOUT.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*BENCHMARKS, "all", "table", "growth"])
    parser.add_argument("--repeats", type=int, default=3, help="timed pairs (default 3)")
    parser.add_argument("--size", choices=SIZES, default=FULL.name, help="towers; `tiny` only shows that it works")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=f"cuda for {', '.join(ON_GPU)}")
    parser.add_argument("--out", type=Path, help="also write the lines into this file")
    given = parser.parse_args()
    if given.name == "all":
        return _all(given)
    if given.name == "table":
        table.fill(ABOUT)
        return 0
    if given.name == "growth":
        growth.growth(given.repeats)
        return 0
    if given.device == "cuda" and given.name not in ON_GPU:
        parser.error(f"{given.name} is measured on the CPU; --device cuda is for {', '.join(ON_GPU)}.")
    size = replace(SIZES[given.size], device=torch.device(given.device))
    try:
        text = json.dumps(BENCHMARKS[given.name](size, given.repeats))
    except ShotfitError as error:
        print(f"{given.name}: {error}", file=sys.stderr)
        return 1
    print(text, flush=True)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    return 0


def _all(given: argparse.Namespace) -> int:
    """Each in a process of its own, so that none finds the memory of another."""
    status, lines = 0, ""
    options = ["--repeats", str(given.repeats), "--size", given.size, "--device", given.device]
    for name in BENCHMARKS if given.device == "cpu" else ON_GPU:
        command = [sys.executable, "-m", "benchmarks", name, *options]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        print(ended.stdout, end="", flush=True)
        status, lines = status or ended.returncode, lines + ended.stdout
        if given.out:
            given.out.write_text(lines, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
