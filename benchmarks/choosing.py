"""What it costs to let `--recipe auto` choose, against the paper's recipe at the same number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.fits import DRAWINGS
from benchmarks.measure import Line, Target, alternate, line, long
from benchmarks.sizes import Size
from shotfit.checkpoints.weights import load_backbone
from shotfit.data.readers import read_task
from shotfit.engine.shards import Held
from shotfit.engine.store import Compute, Kind, MemoryStore
from shotfit.fitting.fit import fit
from shotfit.methods import METHODS, find

__all__ = ["auto_cost"]


class Forgetful(MemoryStore):
    """Keeps what is encoded, but no trial: every one is made anew."""

    def held(
        self, kind: Kind, keys: Sequence[str], compute: Compute, description: str, together: int | None = None
    ) -> Held:
        """See MemoryStore.held."""
        if kind["tower"] == "held out":
            return MemoryStore().held(kind, keys, compute, description)
        return super().held(kind, keys, compute, description)


def auto_cost(size: Size, repeats: int) -> Line:
    """The dearest of the trained methods with `mini`, 16 shots of 10 classes, 100 steps: a checked fit by `auto`.

    The reference is the whole fit with the paper's recipe at the options and rate that `auto` chose.
    """
    small = size.layers <= 3
    backbone, task, steps = load_backbone("mini"), read_task(DRAWINGS), 8 if small else 100
    methods = [name for name in METHODS if find(name).grid is not None]
    ratios, seconds = {}, {}
    for name in methods[:1] if small else methods:
        run = partial(fit, task, name, shots=16, backbone=backbone, store=Forgetful(), steps=steps, keep=True)
        own = run().record["choice"]["chosen"]  # and all that both look at is encoded before either is timed
        options = {key: str(value) for key, value in own.items() if key != "lr"}
        paper = partial(run, recipe="paper", options=options, lr=own["lr"])
        timing = alternate(paper, run, long(repeats)).fields()
        ratios[name], seconds[name] = timing["ratio"], timing["reference_s"]
    sizes = {"backbone": "mini", "classes": len(task.classes.names), "shots": 16, "steps": steps}
    more = {"times": ratios, "auto_s": seconds}
    target = Target(4, "times the paper's recipe", at_most=True)
    return line("auto_cost", max(ratios.values()), target, backbone.dtype, sizes, **more)
