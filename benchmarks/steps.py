"""Whole training steps: loss, gradients and the optimizer's update, against the reference manner on the same batch.

Ours reads stored views (kept after the first step), or fresh pixels of which nothing is stored; the reference runs its
image tower from pixels either way. Decoding takes part in neither.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks import low_rank, reference
from benchmarks.measure import Line, Target, alternate, check_same, line, operations_of
from benchmarks.names import CALTECH101, TASKS
from benchmarks.reference import Clip, Reference, pad
from benchmarks.sizes import Size, pictures, pixels_of
from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, ImagePool, Images
from shotfit.engine.store import MemoryStore
from shotfit.fitting.train import Stepper
from shotfit.methods.apex import Apex
from shotfit.methods.base import Method
from shotfit.methods.clip_lora import ClipLora
from shotfit.methods.cocoop import CoCoOp
from shotfit.methods.coop import CoOp
from shotfit.methods.maple import MaPLe
from shotfit.methods.mma import MMA
from shotfit.methods.mmrl import MMRL
from shotfit.methods.numbering import step_labels
from shotfit.methods.prompted import Prompted
from shotfit.methods.promptsrc import PromptSRC
from shotfit.methods.recipe import ParameterGroup, Recipe
from shotfit.methods.softcpt import SoftCPT
from shotfit.towers.backbone import Backbone

__all__ = [
    "METHODS", "Pair", "apex_step", "clip_lora_step", "cocoop_step", "coop_step", "coop_step_fresh", "maple_step",
    "mma_step", "mma_step_fresh", "mmrl_step", "promptsrc_step", "softcpt_step",
]  # fmt: skip

BATCHES = 2  # of images, taken in turns
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}  # of loss and gradients


@dataclass
class Pair:
    """One method in both manners, from the same parameters on the same batches.

    images: ours, by batch. pixels [n, 3, size, size] and labels [n]: the reference's.
    """

    ours: Method
    reference: Reference
    images: list[Images]
    pixels: list[Tensor]
    labels: list[Tensor]

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.stepper = Stepper(self.ours, recipe, recipe.epochs_for(16), BATCHES)
        group = ParameterGroup(tuple(self.reference.parameters()))
        self.optimizer = recipe.optimizer.over([group])
        self.taken = 0
        self.own = [step_labels(some, self.ours.sizes) for some in self.labels]

    @property
    def recipe(self) -> Recipe:
        """The method's own."""
        recipe = self.ours.training_recipe()
        assert recipe is not None
        return recipe

    def gradients(self, manner: Literal["ours", "reference"]) -> dict[str, Tensor]:
        """Loss and gradients of the first batch."""
        if manner == "ours":
            loss, parameters = self.ours.loss(self.images[0], self.own[0]), dict(self.ours.named_parameters())
        else:
            loss = self.reference.loss(self.pixels[0], self.labels[0])
            parameters = dict(self.reference.named_parameters())
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        return {"loss": loss.detach(), **dict(zip(parameters, gradients, strict=True))}

    def same(self) -> float:
        """Check that loss and gradients of the first batch are the same; gives the largest difference."""
        return check_same(self.gradients("ours"), self.gradients("reference"), TOLERANCE[self.pixels[0].dtype])

    def step(self) -> Tensor:
        """Ours: one step, []."""
        batch = self.stepper.taken % len(self.images)
        return self.stepper(self.images[batch], self.own[batch])

    def reference_step(self) -> Tensor:
        """The reference manner: the same step, []."""
        batch = self.taken % len(self.pixels)
        schedule, optimizer = self.recipe.schedule, self.recipe.optimizer
        unit, period = self.taken // BATCHES, self.recipe.epochs_for(16)
        if schedule.unit == "step":
            unit, period = self.taken, period * BATCHES
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.rate(optimizer.lr, unit, period)
        loss = self.reference.loss(self.pixels[batch], self.labels[batch])
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.reference.adjust_gradients()
        self.optimizer.step()
        self.taken += 1
        return loss.detach()


def coop(frozen: Frozen, classes: tuple[ClassList, ...]) -> tuple[Method, Reference]:
    """CoOp with 16 context vectors."""
    method, clip = _built(CoOp(length=16), frozen, classes), Clip(frozen.backbone)
    assert isinstance(method, CoOp)
    return method, reference.CoOp(clip, pad(method.texts.rows, clip), dict(method.named_parameters()))


def softcpt(frozen: Frozen, classes: tuple[ClassList, ...]) -> tuple[Method, Reference]:
    """SoftCPT, variant NATA."""
    method, clip = _built(SoftCPT(), frozen, classes), Clip(frozen.backbone)
    assert isinstance(method, SoftCPT)
    ids = pad(method.task_texts.rows, clip), pad(method.texts.rows, clip)
    parameters = dict(method.named_parameters())
    return method, reference.SoftCPT(clip, *ids, method.sizes, method.length, parameters)


def mma(frozen: Frozen, classes: tuple[ClassList, ...]) -> tuple[Method, Reference]:
    """MMA beside the upper two thirds of the blocks, 5 to 12 of 12."""
    method, clip = _built(MMA(), frozen, classes), Clip(frozen.backbone)
    assert isinstance(method, MMA)
    ids, sites = pad(method.encoded[0].rows, clip), list(method.sites("text"))
    return method, reference.MMA(clip, ids, sites, method.scale, dict(method.named_parameters()))


def mmrl(frozen: Frozen, classes: tuple[ClassList, ...]) -> tuple[Method, Reference]:
    """MMRL in the upper blocks of both towers, 6 to 12 of 12."""
    method, clip = _built(MMRL(), frozen, classes), Clip(frozen.backbone)
    assert isinstance(method, MMRL)
    with torch.no_grad():
        method.text_features()
    ids, parameters = pad(method.texts.rows, clip), dict(method.named_parameters())
    return method, reference.MMRL(clip, ids, list(method.sites("text")), method.alpha, method.weight, parameters)


def apex(frozen: Frozen, classes: tuple[ClassList, ...]) -> tuple[Method, Reference]:
    """APEX with two prompt tokens in every block of the image tower and two learned words."""
    method, clip = _built(Apex(), frozen, classes), Clip(frozen.backbone)
    assert isinstance(method, Apex)
    with torch.no_grad():
        method.prompted_text()
    return method, reference.Apex(clip, pad(method.texts.rows, clip), dict(method.named_parameters()))


def clip_lora(frozen: Frozen, classes: tuple[ClassList, ...]) -> tuple[Method, Reference]:
    """CLIP-LoRA of queries, keys and values in every block of both towers, without dropout."""
    method, clip = _built(ClipLora(dropout=0.0), frozen, classes), Clip(frozen.backbone)
    assert isinstance(method, ClipLora)
    with torch.no_grad():  # B starts from zero, where A has no gradient
        for name, value in method.named_parameters():
            if name.endswith("up"):
                value.normal_(std=0.01)
    scale = method.alpha / method.rank**0.5
    return method, low_rank.ClipLora(clip, pad(method.prompts.rows, clip), scale, dict(method.named_parameters()))


def cocoop(frozen: Frozen, classes: tuple[ClassList, ...]) -> tuple[Method, Reference]:
    """CoCoOp with the words "a photo of a"."""
    return _prompted(CoCoOp(), frozen, classes, reference.CoCoOp)


def maple(frozen: Frozen, classes: tuple[ClassList, ...]) -> tuple[Method, Reference]:
    """MaPLe with two tokens in 9 of 12 blocks."""
    return _prompted(MaPLe(), frozen, classes, reference.MaPLe)


def promptsrc(frozen: Frozen, classes: tuple[ClassList, ...]) -> tuple[Method, Reference]:
    """PromptSRC with four tokens in 9 of 12 blocks of both towers; the teacher's classes are known to both."""
    method = PromptSRC(teacher="task")
    return _prompted(
        method, frozen, classes, lambda clip, ids, own: reference.PromptSRC(clip, ids, method.frozen_classes, own)
    )


def _prompted(
    method: Prompted,
    frozen: Frozen,
    classes: tuple[ClassList, ...],
    other: Callable[[Clip, Tensor, dict[str, Tensor]], Reference],
) -> tuple[Method, Reference]:
    _built(method, frozen, classes)
    clip = Clip(frozen.backbone)
    return method, other(clip, pad(method.texts.rows, clip), dict(method.named_parameters()))


def _built(method: Method, frozen: Frozen, classes: tuple[ClassList, ...]) -> Method:
    method.attach(frozen, classes)
    torch.manual_seed(1)
    method.build(frozen, classes)
    return method


Make = Callable[[Frozen, tuple[ClassList, ...]], tuple[Method, Reference]]
METHODS: dict[str, tuple[Make, tuple[ClassList, ...]]] = {
    "coop": (coop, (ClassList("caltech101", CALTECH101),)),
    "softcpt": (softcpt, TASKS),
    "mma": (mma, (ClassList("caltech101", CALTECH101),)),
    "mmrl": (mmrl, (ClassList("caltech101", CALTECH101),)),
    "apex": (apex, (ClassList("caltech101", CALTECH101),)),
    "clip_lora": (clip_lora, (ClassList("caltech101", CALTECH101),)),
    "cocoop": (cocoop, (ClassList("caltech101", CALTECH101),)),
    "maple": (maple, (ClassList("caltech101", CALTECH101),)),
    "promptsrc": (promptsrc, (ClassList("caltech101", CALTECH101),)),
}


def pair(name: str, size: Size, backbone: Backbone, folder: Path, fresh: bool = False) -> Pair:
    """A method in both manners. folder: where the images of noise go. fresh: ours reads pixels, nothing stored."""
    make, lists = METHODS[name]
    classes = tuple(size.classes_of(task) for task in lists)
    method, other = make(Frozen(backbone, MemoryStore()), classes)
    recipe = method.training_recipe()
    assert recipe is not None
    items = pictures(folder, BATCHES * recipe.batch, size.image_size, sum(method.sizes))
    pool, pixels = ImagePool(items), pixels_of(items, backbone).split(recipe.batch)
    rows = torch.arange(len(items), device=backbone.device).split(recipe.batch)
    images = [Images.of(batch) for batch in pixels] if fresh else [Images(pool, batch) for batch in rows]
    return Pair(method, other, images, list(pixels), list(pool.labels.to(backbone.device).split(recipe.batch)))


def _step(name: str, method: str, at_least: float, size: Size, repeats: int, fresh: bool = False) -> Line:
    backbone = size.backbone()
    with tempfile.TemporaryDirectory() as folder:
        both = pair(method, size, backbone, Path(folder), fresh)
        difference = both.same()  # also reads the stored streams, and warms both up
        both.reference_step()  # makes the optimizer's state
        for _ in range(3):  # and on a GPU a recording
            both.step()
        timing = alternate(both.step, both.reference_step, repeats, steady=True)
        work = {manner: operations_of(partial(both.gradients, manner)) for manner in ("ours", "reference")}
    sizes = {
        "backbone": size.name,
        "classes": sum(both.ours.sizes),
        "tasks": len(both.ours.sizes),
        "batch": both.recipe.batch,
        "views": "fresh" if fresh else "stored",
    }
    target = Target(at_least, "times faster")
    found = timing.fields()
    rates = {f"{manner}_tflops": count / found[f"{manner}_s"] / 1e12 for manner, count in work.items()}
    more = {**found, **rates, "gradient_difference": difference}
    return line(name, found["ratio"], target, backbone.dtype, sizes, **more)


def coop_step(size: Size, repeats: int) -> Line:
    """CoOp, whole training step, batch 32, 100 classes, stored views."""
    return _step("coop_step", "coop", 35, size, repeats)


def coop_step_fresh(size: Size, repeats: int) -> Line:
    """CoOp, whole training step, batch 32, 100 classes, fresh crops."""
    return _step("coop_step_fresh", "coop", 2, size, repeats, fresh=True)


def softcpt_step(size: Size, repeats: int) -> Line:
    """SoftCPT (NATA), whole training step, four tasks, 200 classes in all, batch 32, stored views."""
    return _step("softcpt_step", "softcpt", 25, size, repeats)


def mma_step(size: Size, repeats: int) -> Line:
    """MMA, whole training step, blocks 5 to 12, batch 16, 100 classes, stored views."""
    return _step("mma_step", "mma", 4.2, size, repeats)


def mma_step_fresh(size: Size, repeats: int) -> Line:
    """MMA, whole training step, blocks 5 to 12, batch 16, 100 classes, fresh crops."""
    return _step("mma_step_fresh", "mma", 3, size, repeats, fresh=True)


def mmrl_step(size: Size, repeats: int) -> Line:
    """MMRL, whole training step, blocks 6 to 12, batch 4, 100 classes, stored views."""
    return _step("mmrl_step", "mmrl", 3, size, repeats)


def apex_step(size: Size, repeats: int) -> Line:
    """APEX, whole training step, batch 16, 100 classes, stored views."""
    return _step("apex_step", "apex", 3.2, size, repeats)


def clip_lora_step(size: Size, repeats: int) -> Line:
    """CLIP-LoRA, whole training step, every block of both towers, batch 32, 100 classes, stored views."""
    return _step("clip_lora_step", "clip_lora", 2, size, repeats)


def cocoop_step(size: Size, repeats: int) -> Line:
    """CoCoOp, whole training step, one image, 100 classes, stored views."""
    return _step("cocoop_step", "cocoop", 8, size, repeats)


def maple_step(size: Size, repeats: int) -> Line:
    """MaPLe, whole training step, batch 4, 100 classes, stored views."""
    return _step("maple_step", "maple", 3, size, repeats)


def promptsrc_step(size: Size, repeats: int) -> Line:
    """PromptSRC, whole training step, batch 4, 100 classes, stored views."""
    return _step("promptsrc_step", "promptsrc", 3, size, repeats)
