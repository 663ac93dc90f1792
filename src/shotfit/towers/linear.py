"""Products with a tower's matrices, by the library that the processor is fastest with.

PyTorch multiplies float32 on a CPU with MKL. On a processor with AVX-512 oneDNN, which comes with PyTorch too, was
faster at every size that a tower has (a tenth at 3,000 tokens, a third at 100; docs/log/), so matrices that are not
trained go there; in bfloat16, where PyTorch takes oneDNN itself, this spares a copy of the bias to every token.
`torch.backends.mkldnn.flags(enabled=False)` takes MKL again. Each rounds the last digit its own way.

A frozen matrix may be in 8 bits (`int8.py`). A matrix that an edit gives in factors (`Factors`) is multiplied factor by
factor, or put together first, whichever takes fewer operations for so many tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.towers.edits import Factors
from shotfit.towers.int8 import Int8

__all__ = ["Int8Linear", "Linear", "Matrix", "linear"]


class Linear(nn.Linear):
    """`torch.nn.Linear` by way of `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return linear(input, self.weight, self.bias)


class Int8Linear(Linear):
    """A frozen `Linear` whose weight is kept in 8 bits. An edit gives a copy of it another weight, as of any."""

    values: Tensor
    scale: Tensor

    def __init__(self, layer: Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        kept = Int8.of(layer.weight)
        self.register_buffer("values", kept.values)
        self.register_buffer("scale", kept.scale)

    @property
    def kept(self) -> Int8:
        """The matrix."""
        return Int8(self.values, self.scale)

    def __getattr__(self, name: str) -> Any:
        if name == "weight" and name not in self._parameters:
            return self.kept
        return super().__getattr__(name)


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix [out, in] of which some rows have factors, in the place of a weight.

    parts: first row and factors, in ascending order, each for as many rows as the factors have.
    """

    weight: Tensor | Int8
    parts: tuple[tuple[int, Factors], ...]

    def __getitem__(self, rows: slice) -> Matrix:
        first, last, _ = rows.indices(len(self.weight))
        kept = []
        for row, factors in self.parts:
            begin, end = max(first, row), min(last, row + factors.shape[0])
            if begin < end:
                kept.append((begin - first, replace(factors, up=factors.up[begin - row : end - row])))
        return Matrix(self.weight[first:last], tuple(kept))

    def merged(self) -> Tensor:
        """All of it as one matrix, [out, in]."""
        return torch.cat([self._rows(run) for run in self._runs()])

    def times(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x @ self.T + bias: [..., in] to [..., out]."""
        tokens, made, together = prod(x.shape[:-1]), list[Tensor](), list[Tensor]()
        begun = 0  # the first row of those that are multiplied together
        for first, last, factors in self._runs():
            in_8_bits = factors is None and isinstance(self.weight, Int8)
            if not in_8_bits and (factors is None or _put_together(factors, tokens)):
                together.append(self._rows((first, last, factors)))
                continue
            if together:
                made.append(linear(x, torch.cat(together), None if bias is None else bias[begun:first]))
            if factors is None:
                made.append(linear(x, self.weight[first:last], None if bias is None else bias[first:last]))
            else:
                made.append(self._factored(x, first, last, factors, bias))
            together, begun = [], last
        if together:
            made.append(linear(x, torch.cat(together), None if bias is None else bias[begun:]))
        return made[0] if len(made) == 1 else torch.cat(made, dim=-1)

    def _runs(self) -> list[tuple[int, int, Factors | None]]:
        """First and last row of every part, and of what is frozen between them."""
        runs, reached = list[tuple[int, int, Factors | None]](), 0
        for first, factors in self.parts:
            if first > reached:
                runs.append((reached, first, None))
            reached = first + factors.shape[0]
            runs.append((first, reached, factors))
        return runs if reached == len(self.weight) else [*runs, (reached, len(self.weight), None)]

    def _rows(self, run: tuple[int, int, Factors | None]) -> Tensor:
        first, last, factors = run
        frozen = self.weight[first:last]
        frozen = frozen.whole() if isinstance(frozen, Int8) else frozen
        return frozen if factors is None else factors.over(frozen)

    def _factored(self, x: Tensor, first: int, last: int, factors: Factors, bias: Tensor | None) -> Tensor:
        bias = None if bias is None else bias[first:last]
        inner = linear(x, factors.down.to(x.dtype), None)
        if factors.gains is not None:  # which may be in more digits than the tower computes in
            inner = (inner * factors.gains).to(x.dtype)
        up = factors.up.to(x.dtype)
        if not factors.beside:
            return linear(inner, up, bias)
        frozen = linear(x, self.weight[first:last], bias)
        return torch.addmm(frozen.flatten(0, -2), inner.flatten(0, -2), up.T).view_as(frozen)


def _put_together(factors: Factors, tokens: int) -> bool:
    """Whether one matrix takes fewer multiplications than its factors, gradients counted.

    A matrix that depends on parameters costs a third product, of which the gradients of the parameters are made.
    """
    (out, inputs), rank = factors.shape, len(factors.down)
    matrix, both = out * inputs, rank * (out + inputs)
    learned = factors.up.requires_grad or factors.down.requires_grad
    trained = learned or (factors.gains is not None and factors.gains.requires_grad)
    if not (trained and torch.is_grad_enabled()):
        return (tokens + rank) * matrix < tokens * (both + matrix * factors.beside)
    return (3 * tokens + (3 if learned else 2) * rank) * matrix < tokens * (
        (3 if learned else 2) * both + 2 * matrix * factors.beside
    )


def linear(x: Tensor, weight: Tensor | Matrix | Int8, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias: [..., in] to [..., out]; weight [out, in], bias [out]."""
    if isinstance(weight, (Matrix, Int8)):
        return weight.times(x, bias)
    frozen = not (weight.requires_grad or (bias is not None and bias.requires_grad))
    alike = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.bfloat16)
    if frozen and alike and x.device.type == "cpu" and _onednn_is_faster():
        product: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return product
    return F.linear(x, weight, bias)


def _onednn_is_faster() -> bool:
    return torch._C._get_mkldnn_enabled() and _avx512()


@cache
def _avx512() -> bool:
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


class _Product(torch.autograd.Function):
    """The operation that torch's compiler uses too; by itself it has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return torch.ops.mkldnn._linear_pointwise(gradient, weight.t(), None, "none", [], ""), None, None
