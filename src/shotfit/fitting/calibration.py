"""Calibration: logits become probabilities that mean what they say, on images that the predictor had not learned from.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599. Alexandari et al., "Maximum
Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation", ICML 2020, arXiv 1901.06852.

    temperature   softmax(z / T)             one number for all classes and tasks; it changes no prediction
    bias          softmax(z / T + b)         b [classes]: which classes the predictor prefers too often

T minimizes the log loss of held-out logits, with a weak prior at 1 for very few images. It stays 1 where that is as
good within one standard error. Where T makes the model more confident (below 1), the T nearest to 1 is taken whose log
loss is within one standard error of the best: held-out images that are easier than new ones would otherwise make a
model too sure. The bias is used only where it lowers the log loss of held-out images by far more than chance, also on
images unlike those that it was fitted to.
docs/trust.md has the measurements behind each rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from shotfit.data.shots import deal
from shotfit.fitting.heldout import HeldOut, standard_error
from shotfit.methods.numbering import among_own

__all__ = ["Calibration", "calibrate", "log_losses"]

LEAST, MOST = 0.01, 100.0  # temperatures: a linear probe's logits and CLIP's are on scales of their own
STEPS = 93  # of the search before it is refined: a tenth of log T each
TEMPERATURE_SPREAD, BIAS_SPREAD = 1.0, 1.0  # standard deviations of the normal priors of log T and of b, around 0
SURE = 6.0  # standard errors that a bias gains at least: with 4 it makes one of six data sets worse
LEAST_GAIN = 0.02  # in nats, so that a bias of no consequence is left out
LEAST_PER_CLASS = 4  # held-out images of each class that a bias asks for
FOLDS, SEED = 4, 1  # that a bias is judged by, and the calibrated held-out logits come from


@dataclass(frozen=True, eq=False)
class Calibration:
    """How logits are changed before softmax.

    bias: [classes of all tasks], where it helps. plain_temperature: the temperature alone, for classes without a bias.
    """

    temperature: float = 1.0
    plain_temperature: float = 1.0
    bias: Tensor | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Calibrated logits [images, classes].

        >>> Calibration(temperature=2.0)(torch.tensor([[4.0, 0.0]])).tolist()
        [[2.0, 0.0]]
        """
        scaled = logits / self.temperature
        return scaled if self.bias is None else scaled + self.bias.to(scaled)


def log_losses(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """The log loss of each image, in nats, among the classes of its own task: [images]."""
    return F.cross_entropy(among_own(logits.double(), labels, sizes), labels, reduction="none")


def calibrate(held: HeldOut, sizes: Sequence[int]) -> tuple[Calibration, Tensor]:
    """The calibration of held-out logits, and these logits [images, classes] calibrated without having been fitted to.

    >>> sharp = torch.tensor([[8.0, 0.0]] * 400)                    # says 99.97 % of the first class
    >>> labels = torch.tensor([0] * 300 + [1] * 100)                # which 75 % of the images belong to
    >>> found, _ = calibrate(HeldOut(sharp, labels, torch.zeros(400, 2), "by hand"), (2,))
    >>> round(found(sharp).softmax(dim=1)[0, 0].item(), 2)
    0.75
    """
    kind: Kind = _biased if _bias_helps(held, sizes) else _temperature
    dealt = torch.tensor(deal(held.labels.tolist(), FOLDS, SEED))  # [images]
    return kind(held.logits, held.labels, sizes), _crossed(held, sizes, dealt, kind)


Kind = Callable[[Tensor, Tensor, Sequence[int]], Calibration]


def _crossed(held: HeldOut, sizes: Sequence[int], dealt: Tensor, kind: Kind) -> Tensor:
    """Logits [images, classes], those of each part ([images] numbers) calibrated by the other parts."""
    calibrated = torch.empty_like(held.logits)
    for number in dealt.unique().tolist():
        own, rest = dealt == number, dealt != number
        calibration = kind(held.logits[rest], held.labels[rest], sizes) if rest.any() else Calibration()
        calibrated[own] = calibration(held.logits[own])
    return calibrated


def _bias_helps(held: HeldOut, sizes: Sequence[int]) -> bool:
    """Whether a bias helps by far more than chance, on images unlike those that it was fitted to.

    The images of a class are put in order along the direction in which their features differ most, and cut into blocks:
    nearly equal images, such as frames of one clip, fall into the same block and cannot vouch for each other.
    """
    if int(torch.bincount(held.labels, minlength=sum(sizes)).min()) < LEAST_PER_CLASS:
        return False
    blocks = torch.empty_like(held.labels)
    for number in range(sum(sizes)):
        (own,) = (held.labels == number).nonzero(as_tuple=True)
        centered = held.features[own] - held.features[own].mean(dim=0)
        order = torch.linalg.svd(centered, full_matrices=False)[0][:, 0].argsort()
        blocks[own[order]] = torch.arange(len(own)) * FOLDS // len(own)
    plain, biased = (
        log_losses(_crossed(held, sizes, blocks, kind), held.labels, sizes) for kind in (_temperature, _biased)
    )
    gain = plain - biased  # [images]
    return gain.mean().item() > max(LEAST_GAIN, SURE * standard_error(gain))


def _temperature(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> Calibration:
    best = _best_temperature(logits, labels, sizes)
    lowest = log_losses(logits / best, labels, sizes)  # [images]
    steps = STEPS if best < 1 else 1
    for step in range(steps):
        found = best ** (step / steps)
        more = log_losses(logits / found, labels, sizes) - lowest
        if more.mean() <= standard_error(more):
            return Calibration(found, found)
    return Calibration(best, best)


def _best_temperature(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> float:
    from scipy.optimize import minimize_scalar  # slow to import, and a prediction does not need it

    own = among_own(logits.double(), labels, sizes)

    def objective(log_temperature: float) -> float:
        loss = F.cross_entropy(own / math.exp(log_temperature), labels, reduction="sum").item()
        return loss + (log_temperature / TEMPERATURE_SPREAD) ** 2 / 2

    grid = np.linspace(math.log(LEAST), math.log(MOST), STEPS)
    best = int(np.argmin([objective(value) for value in grid]))
    around = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, STEPS - 1)])
    return math.exp(minimize_scalar(objective, bounds=around, method="bounded").x)


def _biased(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> Calibration:
    from scipy.optimize import minimize

    start, classes = _best_temperature(logits, labels, sizes), sum(sizes)
    own = logits.double() / start

    def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        values = torch.from_numpy(point.copy()).requires_grad_()
        log_factor, bias = values.split([1, classes])
        loss = F.cross_entropy(among_own(own * log_factor.exp() + bias, labels, sizes), labels, reduction="sum")
        for part, spread in ((log_factor, TEMPERATURE_SPREAD), (bias, BIAS_SPREAD)):
            loss = loss + (part / spread).square().sum() / 2
        (gradient,) = torch.autograd.grad(loss, values)
        return loss.item(), gradient.numpy()

    with torch.enable_grad():
        found = minimize(objective, np.zeros(1 + classes), jac=True, method="L-BFGS-B").x
    log_factor, bias = torch.from_numpy(found).float().split([1, classes])
    plain = _temperature(logits, labels, sizes).temperature
    return Calibration(start / math.exp(log_factor.item()), plain, bias.clone())
