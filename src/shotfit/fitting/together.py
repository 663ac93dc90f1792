"""Candidates of a method that looks at stored features, trained as one batch with a leading axis.

Their steps are many small operations that cost the same for one candidate as for several, so that several cost little
more than one. Each candidate has its own parameters, rate and length, and sees the batches that it would see alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from shotfit.engine.frozen import Images
from shotfit.fitting.train import drawn_batches
from shotfit.methods.base import Method, Support
from shotfit.methods.numbering import step_labels
from shotfit.methods.recipe import Recipe

__all__ = ["train_together"]


class _Loss(nn.Module):
    """A method's loss as a call, which is what functional torch replaces parameters in."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Images, labels: Tensor) -> Tensor:
        return self.method.loss(images, labels)


def train_together(
    methods: Sequence[Method], recipes: Sequence[Recipe], steps: Sequence[int], support: Support, seed: int
) -> None:
    """Train methods of one kind, which are built already, on the same support, in place.

    recipes: one a method, alike but for the rate. steps: one a method; one that has done its own leaves the batch.
    """
    sizes, frozen = methods[0].sizes, methods[0].frozen
    device = frozen.backbone.device
    frozen.image(support.random.all())  # encoded before functional torch looks on, which the towers do not allow
    optimizers = [
        recipe.optimizer.over(method.parameter_groups()) for method, recipe in zip(methods, recipes, strict=True)
    ]
    labels = step_labels(support.labels, sizes).to(device)
    batches = drawn_batches(support, recipes[0], labels, torch.Generator().manual_seed(seed), max(steps))
    for taken, (images, targets) in enumerate(batches):
        alive = [number for number, own in enumerate(steps) if taken < own]
        for number in alive:
            rate = recipes[number].schedule.rate(recipes[number].optimizer.lr, taken, steps[number])
            for group in optimizers[number].param_groups:
                group["lr"] = rate * group["rate"]
            optimizers[number].zero_grad()
        torch.autograd.backward(_losses([methods[number] for number in alive], images, targets).sum())
        for number in alive:
            methods[number].adjust_gradients()
            for _ in range(recipes[number].updates):
                optimizers[number].step()


def _losses(methods: Sequence[Method], images: Images, targets: Tensor) -> Tensor:
    """[methods] the loss of each, computed side by side; gradients reach the parameters of each."""
    first, call = methods[0], _Loss(methods[0])
    options = first.options()
    differing = [name for name in options if len({one.options()[name] for one in methods}) > 1]
    named: dict[str, Tensor] = {}
    for name, tensor in [*first.named_parameters(), *first.named_buffers()]:
        own = [dict([*one.named_parameters(), *one.named_buffers()])[name] for one in methods]
        if any(other is not tensor and not torch.equal(other, tensor) for other in own) or tensor.requires_grad:
            named[f"method.{name}"] = torch.stack(own)
    device = first.frozen.backbone.device
    values = {name: torch.tensor([float(one.options()[name]) for one in methods], device=device) for name in differing}

    def one_loss(tensors: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Tensor:
        for name, value in given.items():
            setattr(first, name, value)
        return functional_call(call, dict(tensors), (images, targets))

    try:
        return vmap(one_loss)(named, values) if values else vmap(lambda tensors: one_loss(tensors, {}))(named)
    finally:
        for name in differing:
            setattr(first, name, options[name])
