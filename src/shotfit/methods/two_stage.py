"""2SFS: norms of both towers first, then the classifier.

Farina, Mancini, Iacca and Ricci, "Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages", CVPR 2025,
arXiv 2503.11609.

    first stage   gains and shifts of the blocks' norms;   logits = exp(s) * norm(image) @ norm(text).T
    second stage  Phi [classes, embed], the text features that the first has made;  exp(s) * norm(image) @ norm(Phi).T

M steps for each shot, of which the share `fraction` makes up the first stage. The second, where both towers are frozen,
runs on stored features. A class of the fit is predicted by its row of Phi, a new one by its prompt: any mixture of both
is one list of classes. `fraction=1` leaves out the second stage, `fraction=0` the first. Prompts are those of the
task's first template; the authors have `a photo of a {}.` for every data set.

# differs: with `--recipe auto` the second stage is as long as M says, whatever the length of the first.
# differs: `peft=biases` leaves out the biases of queries, keys and values as the program does, which does not see them.
# differs: views are drawn once, of half an image at least (`--views fresh` draws a new crop at every step of the first
stage, of 8 % at least, as the official program does in both).
The norms outside the blocks stay frozen, as in the program; `outer_norms` trains them, as the paper says. Published:
see docs/methods.md#two_stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.base import Method, Support, Validation, option
from shotfit.methods.declared import Declared
from shotfit.methods.recipe import Axis, Grid, Optimizer, ParameterGroup, Recipe, Schedule
from shotfit.methods.tuned import Site, TunedWeights, grouped, named
from shotfit.towers.changed import parameters_at
from shotfit.towers.edits import Weights

__all__ = ["TwoStage"]

CHUNK = 256  # images whose features are computed together
BIASES = ("attention.out.bias", "mlp.up.bias", "mlp.down.bias")


class TwoStage(TunedWeights):
    """Norms of both towers, then a row for each class."""

    name: ClassVar[str] = "two_stage"
    title: ClassVar[str] = "2SFS"
    paper: ClassVar[str] = "Farina et al., CVPR 2025, arXiv 2503.11609"
    verified: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        Optimizer("adamw", lr=2e-4, weight_decay=0.01), Schedule("cosine", "step", final=1e-6), steps_per_shot=180,
        replayable=True,
    )  # fmt: skip
    grid: ClassVar[Grid | None] = Grid(
        (
            Axis("lr", (2e-4, 1e-3, 4e-3), "the published rate is for 2,880 steps, of which few are affordable"),
            Axis("steps", (300,), "a step runs all of both towers"),
        ),
        robust={"lr": 1e-3, "steps": 200},
    )

    peft: str = option("norms", "what the first stage trains", choices=("norms", "biases"))
    outer_norms: bool = option(False, "train the norms before and after the blocks too")
    steps_per_shot: int = option(300, "steps M of both stages for each shot", at_least=1)
    fraction: float = option(0.6, "share of the steps that the first stage takes", at_least=0, at_most=1)
    second_lr: float = option(2e-4, "learning rate of the second stage", above=0)

    def training_recipe(self) -> Recipe | None:
        """Of the first stage; none where there is none."""
        assert self.recipe is not None
        return replace(self.recipe, steps_per_shot=self.steps_per_shot * self.fraction) if self.fraction else None

    def second_steps(self, shots: int) -> int:
        """The length of the second stage."""
        recipe = self.training_recipe()
        return self.steps_per_shot * shots - ((recipe.length_for(shots) or 0) if recipe else 0)

    def sites(self) -> dict[Site, Tensor]:
        """The frozen values of what the first stage trains, by tower, step and name."""
        found: dict[Site, Tensor] = {}
        for tower, (_, chosen) in self.tuned().items() if self.fraction else ():
            own = self.frozen.backbone.text if tower == "text" else self.frozen.backbone.image
            outer = [0, own.last] if self.outer_norms or self.peft == "biases" else []
            for step in (*chosen, *outer):
                for name, value in parameters_at(own, step).items():
                    kind = name.split(".")[-2:]
                    norm = "norm" in kind[0] and (self.peft == "norms" or kind[1] == "bias")
                    if norm or (self.peft == "biases" and name in BIASES):
                        found[tower, step, name] = value
        return found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what the first stage trains."""
        return {named(site): tuple(value.shape) for site, value in self.sites().items()}

    def declared(self) -> dict[str, Declared]:
        """The first stage's parameters and the second's rows."""
        rows = {"buffer.classifier": Declared(len(self.class_names), self.frozen.embed)} if self.fraction < 1 else {}
        return super().declared() | rows

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """The towers' own values."""
        for site, value in self.sites().items():
            self.register_parameter(named(site), nn.Parameter(value.detach().to(frozen.parameter_dtype, copy=True)))

    def edits(self) -> list[Weights]:
        """Other norms, or biases, of every step."""
        return grouped({site: self.get_parameter(named(site)) for site in self.sites()})

    def text_features(self) -> Tensor:
        """[classes, embed]: Phi, once there is one."""
        rows = dict(self.named_buffers()).get("classifier")
        return super().text_features() if rows is None else rows

    def solve(self, support: Support, validation: Validation) -> None:
        """The second stage, on features of all views."""
        if self.fraction == 1:
            return
        steps, pool, views = self.second_steps(support.shots), support.random, max(support.random.views, 1)
        rows = torch.arange(len(pool.labels) * views)
        features = torch.cat([self.image_features(Images(pool, some)) for some in rows.split(CHUNK)])
        labels = pool.labels.to(features.device)
        for _ in self.second_stage(features, labels, views, _drawn(len(labels), views, steps), steps):
            pass

    def second_stage(
        self, features: Tensor, labels: Tensor, views: int, batches: Iterable[Tensor], steps: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Train Phi on features [images * views, embed]; before each step its loss, [], and gradient, as Phi.

        batches: rows of the features.
        """
        assert self.recipe is not None
        features, scale = normalize(features), self.temperature or self.frozen.temperature.to(features)
        classifier = nn.Parameter(normalize(self.text_features().detach()).clone())
        self.register_buffer("classifier", classifier.data)
        schedule = self.recipe.schedule
        optimizer = replace(self.recipe.optimizer, lr=self.second_lr).over([ParameterGroup((classifier,))])
        for number, rows in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(self.second_lr, number, steps)
            with torch.enable_grad():
                loss = F.cross_entropy(scale * features[rows] @ normalize(classifier).T, labels[rows // views])
                (classifier.grad,) = torch.autograd.grad(loss, classifier)
            yield loss.detach(), classifier.grad
            optimizer.step()

    def rebuild(self, fitted: Method) -> None:
        """Classes of the fit keep their rows, others have their text features."""
        self.build(self.frozen, self.classes)
        self.load_state_dict({name: value for name, value in fitted.state_dict().items() if name != "classifier"})
        if (learned := dict(fitted.named_buffers()).get("classifier")) is not None:
            rows = normalize(super().text_features().detach())
            known = dict(zip((name.replace("_", " ") for name in fitted.class_names), learned, strict=True))
            own = [known.get(name.replace("_", " "), row) for name, row in zip(self.class_names, rows, strict=True)]
            self.register_buffer("classifier", torch.stack(own))


def _drawn(images: int, views: int, steps: int) -> Iterator[Tensor]:
    """So many batches, epoch after epoch, each image in one of its views: rows of features."""
    batch, taken = min(32, images), 0
    while taken < steps:
        order = torch.randperm(images)
        for some in order[: images // batch * batch].split(batch)[: steps - taken]:
            yield some * views + torch.randint(views, (batch,))
            taken += 1
