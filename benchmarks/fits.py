"""Whole fits with `mini`: on the sample drawings, and the second fit of Caltech101 as a command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.hardware import CALTECH101
from benchmarks.measure import Line, Target, alternate, check_same, line, long, seconds
from benchmarks.reference import Clip, pad
from benchmarks.sizes import Size, pixels_of
from shotfit.checkpoints.weights import load_backbone
from shotfit.data.images import open_image
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.data.tasks import Item, Task
from shotfit.data.views import draw_box
from shotfit.engine.frozen import Frozen, Images
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError
from shotfit.evaluation.compare import compare
from shotfit.fitting.fit import fit
from shotfit.methods.coop import CoOp
from shotfit.methods.recipe import Recipe
from shotfit.towers.backbone import Backbone
from shotfit.towers.preprocess import crop_and_flip

__all__ = ["compare_seeds", "second_fit", "whole_fit"]

DRAWINGS = Path(__file__).parent.parent / "examples" / "clipart"
FEATURE_METHODS = ("tip_adapter", "tip_adapter_f", "linear_probe", "taskres")


class CoOpRuns:
    """CoOp in the reference manner, one run at a time: files are read at every step, into fresh crops."""

    def __init__(self, backbone: Backbone, task: Task) -> None:
        self.backbone, self.task, self.clip = backbone, task, Clip(backbone)
        recipe = CoOp.recipe
        assert recipe is not None
        self.recipe: Recipe = recipe

    def start(self, seed: int) -> tuple[CoOp, reference.CoOp]:
        """A run's parameters before the first step, in both manners."""
        method = CoOp()
        method.attach(Frozen(self.backbone, MemoryStore()), (self.task.classes,))
        torch.manual_seed(seed)
        method.build(method.frozen, method.classes)
        return method, reference.CoOp(self.clip, pad(method.texts.rows, self.clip), dict(method.named_parameters()))

    def fit(self, shots: int, seed: int, epochs: int) -> reference.CoOp:
        """Train one run."""
        items = list(self.task.shots(shots, seed).train)
        method, recipe, generator = self.start(seed)[1], self.recipe, torch.Generator().manual_seed(seed)
        optimizer = torch.optim.SGD(method.parameters(), lr=0.002, momentum=0.9, weight_decay=5e-4)
        batch = min(recipe.batch, len(items))
        for epoch in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = recipe.schedule.rate(recipe.optimizer.lr, epoch, epochs)
            order = torch.randperm(len(items), generator=generator).split(batch)
            for rows in (rows for rows in order if len(rows) == batch):
                chosen = [items[row] for row in rows.tolist()]
                loss = method.loss(self._crops(chosen, generator), torch.tensor([item.label for item in chosen]))
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
        return method

    def _crops(self, items: list[Item], generator: torch.Generator) -> Tensor:
        """[n, 3, size, size]."""
        pixels = []
        for item in items:
            image = open_image(Picture(item.picture.path))
            box = draw_box(image.width, image.height, self.recipe.crop_scale, generator)
            pixels.append(crop_and_flip(image, box, self.backbone.config.preprocessing))
        return torch.stack(pixels)

    @torch.no_grad()
    def accuracy(self, method: reference.CoOp) -> float:
        """On the test part, from its files."""
        text, right = method.text_features(), 0
        test = list(self.task.test)
        for start in range(0, len(test), 100):
            items = test[start : start + 100]
            logits = self.clip.logits(method.image_features(pixels_of(items, self.backbone)), text)
            right += int((logits.argmax(dim=1) == torch.tensor([item.label for item in items])).sum())
        return right / len(test)

    def check(self) -> float:
        """That both manners give the same loss before the first step."""
        method, other = self.start(1)
        items = list(self.task.train[:8])
        pixels, labels = pixels_of(items, self.backbone), torch.tensor([item.label for item in items])
        ours, theirs = method.loss(Images.of(pixels), labels), other.loss(pixels, labels)
        return check_same({"loss": ours.detach()}, {"loss": theirs.detach()}, 1e-4)


def whole_fit(size: Size, repeats: int) -> Line:
    """CoOp with `mini`, 4 shots of 10 classes, from the files to the fitted parameters in as many epochs."""
    shots, epochs = (4, 100) if size.layers > 3 else (1, 1)
    runs = CoOpRuns(load_backbone("mini"), read_task(DRAWINGS))
    difference = runs.check()

    def ours() -> object:
        return fit(
            runs.task, "coop", shots=shots, epochs=epochs, recipe="paper", backbone=runs.backbone, store=MemoryStore(),
            check=False,
        )  # fmt: skip

    timing = alternate(ours, lambda: runs.fit(shots, 1, epochs), long(repeats)).fields()
    sizes = {"backbone": "mini", "classes": len(runs.task.classes.names), "shots": shots, "epochs": epochs}
    target = Target(1, "times faster")
    dtype = runs.backbone.dtype
    return line("whole_fit", timing["ratio"], target, dtype, sizes, **timing, loss_difference=difference)


def compare_seeds(size: Size, repeats: int) -> Line:
    """CoOp with `mini`, 1 shot of 10 classes, three seeds fitted and evaluated, against one run after another."""
    epochs, seeds = (50, (1, 2, 3)) if size.layers > 3 else (1, (1, 2))
    runs = CoOpRuns(load_backbone("mini"), read_task(DRAWINGS))
    difference = runs.check()

    def ours() -> object:
        return compare(
            runs.task, ["coop@paper"], [1], seeds, backbone=runs.backbone, epochs=epochs, store=MemoryStore()
        )

    def one_by_one() -> list[float]:
        return [runs.accuracy(runs.fit(1, seed, epochs)) for seed in seeds]

    timing = alternate(ours, one_by_one, long(repeats)).fields()
    names, test = runs.task.classes.names, len(runs.task.test)
    sizes = {"backbone": "mini", "classes": len(names), "shots": 1, "epochs": epochs, "seeds": len(seeds), "test": test}
    target = Target(1, "times faster")
    dtype = runs.backbone.dtype
    return line("compare_seeds", timing["ratio"], target, dtype, sizes, **timing, loss_difference=difference)


def second_fit(size: Size, repeats: int) -> Line:
    """The slowest of the feature methods' second fits with `mini`, 16 shots of Caltech101, the whole command."""
    task, methods = (CALTECH101, FEATURE_METHODS) if size.layers > 3 else (DRAWINGS, FEATURE_METHODS[:1])
    target = Target(5, "seconds", at_most=True)
    sizes = {"backbone": "mini", "shots": 16, "images": task.name}
    if not task.is_dir():
        note = f"not measured here: {task} is not there (make data)"
        return line("second_fit", None, target, torch.float32, sizes, note=note)
    with tempfile.TemporaryDirectory() as name:
        run = partial(_command, task, Path(name))
        first = seconds(partial(run, methods[0]))
        found = {m: median(seconds(partial(run, m)) for _ in range(repeats)) for m in methods}
    more = {"seconds": found, "first_s": first, "repeats": repeats}
    return line("second_fit", max(found.values()), target, torch.float32, sizes, **more)


def _command(task: Path, folder: Path, method: str) -> None:
    command = [sys.executable, "-m", "shotfit", "fit", str(task), "--shots", "16", "--method", method]
    command += ["--precision", "float32", "--recipe", "paper"]
    surroundings = os.environ | {"SHOTFIT_CACHE": str(folder / "cache")}
    ended = subprocess.run([*command, "--out", str(folder / "model")], env=surroundings, capture_output=True, text=True)
    if ended.returncode:
        raise ShotfitError(f"shotfit fit --method {method} failed: {ended.stderr.strip().splitlines()[-1]}")
