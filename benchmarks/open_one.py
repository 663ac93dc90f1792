"""How long one task of a saved model of many takes to open, and how much of the file is read for it.

    python -m benchmarks.open_one                            5,000 tasks of 20 classes, on `mini`
    python -m benchmarks.open_one --tasks 100

The model is made up: names, random class features and held-out figures, saved as a fit saves them. Times are without
the imports, which are stated beside them, and without the backbone, which is given.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

BEGAN = time.perf_counter()

import torch  # noqa: E402

from benchmarks.measure import seconds  # noqa: E402
from benchmarks.names import CALTECH101  # noqa: E402
from shotfit.checkpoints.weights import load_in  # noqa: E402
from shotfit.data.tasks import ClassList  # noqa: E402
from shotfit.engine.frozen import Frozen  # noqa: E402
from shotfit.fitting.calibration import Calibration  # noqa: E402
from shotfit.fitting.model import Model  # noqa: E402
from shotfit.fitting.record import record_of  # noqa: E402
from shotfit.fitting.trust import Trust  # noqa: E402
from shotfit.methods.softcpt import SoftCPT  # noqa: E402
from shotfit.towers.backbone import Backbone  # noqa: E402

IMPORTED = time.perf_counter() - BEGAN
CLASSES = 20

__all__ = ["made_up"]


def made_up(backbone: Backbone, tasks: int) -> Model:
    """A SoftCPT model of so many tasks, of random numbers."""
    lists = tuple(
        ClassList(f"task {task}", tuple(CALTECH101[(task + place) % len(CALTECH101)] for place in range(CLASSES)))
        for task in range(tasks)
    )
    frozen, method, count = Frozen(backbone), SoftCPT(), tasks * CLASSES
    method.attach(frozen, lists)
    torch.manual_seed(0)
    method.build(frozen, lists)
    method.requires_grad_(False)
    method.baked = torch.randn(count, frozen.embed)
    summary = {"source": "made up", "images": count, "temperature": 2.0, "plain_temperature": 2.0}
    trust = Trust(
        Calibration(2.0, 2.0), torch.rand(count), torch.arange(count), torch.rand(count),
        torch.randn(count, frozen.embed), torch.zeros(tasks, 2), torch.ones(tasks, 2), summary,
    )  # fmt: skip
    record = record_of(method, backbone) | {"trust": summary, "fitted_method": "softcpt", "support_images": count}
    return Model(method, frozen, record, trust=trust)


def main() -> None:
    """Save such a model, and open it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.open_one",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, default=5000)
    given = parser.parse_args()
    backbone = load_in("mini", "float32", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        place = made_up(backbone, given.tasks).save(Path(folder) / "model")
        sizes = {path.name: path.stat().st_size / 1e6 for path in place.iterdir()}
        name = f"task {given.tasks // 2}"

        def processor(task: str | None) -> float:
            began = time.process_time()
            Model.open(place, backbone, task=task)
            return time.process_time() - began

        one = [(seconds(lambda: Model.open(place, backbone, task=name)), processor(name)) for _ in range(5)]
        whole = [(seconds(lambda: Model.open(place, backbone)), processor(None)) for _ in range(2)]
        files = ", ".join(f"{file} {size:.1f} MB" for file, size in sorted(sizes.items()))
        print(f"{given.tasks:,} tasks of {CLASSES} classes: {files}")
        for what, taken in (("one task", one), ("all of it", whole)):
            print(f"{what}: {median(a for a, _ in taken):.3f} s, {median(b for _, b in taken):.3f} s of processor time")
        print(f"beside it: imports {IMPORTED:.2f} s, once a process; the backbone was given")


if __name__ == "__main__":
    main()
