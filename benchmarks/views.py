"""What fixed views cost in accuracy: center, 1, 2, 4 or 8 random views drawn once, or new crops at every step.

    python -m benchmarks.views --data data/caltech101 data/dtd --methods coop,mma,apex,softcpt --out views.jsonl

Prints a JSON line for each data set, method and kind of views: the accuracy on the test part in percent, its mean and
spread over the seeds, and the mean seconds of a fit (the first fit in some views also encodes them). `--out`
keeps finished fits, so that an interrupted run goes on where it stopped. Fits with fresh crops run the image tower at
every step and take hours where the others take minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from shotfit.checkpoints.weights import load_in
from shotfit.commands.arguments import as_list, as_numbers, as_views
from shotfit.data.readers import read_task
from shotfit.engine.store import cache_folder, open_store
from shotfit.evaluation.compare import compare

__all__ = ["views"]

VIEWS = "center,1,2,4,8,fresh"


def views(
    folder: Path,
    methods: list[str],
    kinds: list[str],
    shots: int,
    seeds: list[int],
    epochs: int | None,
    out: Path | None,
    device: str = "cpu",
) -> Iterator[dict[str, Any]]:
    """One measurement for each kind of views and each method, as soon as its seeds are fitted."""
    task, store = read_task(folder, cache=cache_folder()), open_store()
    backbone = load_in("mini", "float32", device)
    for kind in kinds:
        for method in methods:
            (row,) = compare(
                task, [method], [shots], seeds,
                backbone=backbone, epochs=epochs, recipe="paper", views=as_views(kind), store=store, out=out,
            )  # fmt: skip
            yield {
                "name": "views",
                "data": task.name,
                "method": method,
                "views": kind,
                "shots": shots,
                "seeds": seeds,
                "epochs": epochs or "recipe",
                "value": round(100 * row.mean, 2),
                "unit": "% of test images",
                "spread": None if row.spread is None else round(100 * row.spread, 2),
                "accuracies": [round(100 * accuracy, 2) for accuracy in row.accuracies],
                "fit_s": round(row.seconds, 2),
                "test_images": row.images,
                "threads": torch.get_num_threads(),
            }


def main() -> None:
    """Print the measurements that the arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.views", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders of images")
    parser.add_argument("--methods", default="coop,mma,apex,softcpt", help="names between commas")
    parser.add_argument("--views", default=VIEWS, help=f"kinds of views between commas (default {VIEWS})")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", default="1,2,3", help="numbers between commas")
    parser.add_argument("--epochs", type=int, help="in place of the recipes'")
    parser.add_argument("--device", default="cpu", help="where the towers run (default cpu), in float32")
    parser.add_argument("--out", type=Path, help="file of finished fits (JSONL)")
    given = parser.parse_args()
    methods, kinds = as_list("--methods", given.methods), as_list("--views", given.views)
    seeds = as_numbers("--seeds", given.seeds)
    for folder in given.data:
        for found in views(folder, methods, kinds, given.shots, seeds, given.epochs, given.out, given.device):
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
