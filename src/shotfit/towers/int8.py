"""Frozen matrices in 8 bits: a quarter of float32's memory, and faster where the processor multiplies 8-bit numbers.

    W = scale_o * values     values int8, one scale a row, so that the largest entry of a row is 127
    x = scale_t * rounded    the same of each token, as it comes
    x @ W.T = scale_t * scale_o * (rounded @ values.T)          the product in whole numbers, exact

The gradient of the input is that of the product with W as it is kept; rounding the tokens counts as no change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Int8"]

LARGEST = 127
ROWS = 64  # that are rounded together
SMALLEST = 1e-30  # of a scale: a row of zeros stays one


@dataclass(frozen=True, eq=False)
class Int8:
    """A frozen matrix, values [out, in] times scale [out, 1], in the place of a weight."""

    values: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Int8:
        """The nearest to a matrix [out, in]. Few rows at a time are in float32, so that no memory is left in holes."""
        values = torch.empty(weight.shape, dtype=torch.int8)
        scale = torch.empty(len(weight), 1)
        for first in range(0, len(weight), ROWS):
            rows = slice(first, first + ROWS)
            values[rows], scale[rows] = _rounded(weight[rows].detach().float())
        return cls(values, scale)

    @property
    def shape(self) -> torch.Size:
        """[out, in]."""
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Int8:
        return Int8(self.values[rows], self.scale[rows])

    def whole(self) -> Tensor:
        """The matrix in float32, [out, in]."""
        return self.values * self.scale

    def times(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x @ self.T + bias: [..., in] to [..., out]."""
        flat: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), self.values, self.scale, bias)  # type: ignore[no-untyped-call]
        return flat.view(*x.shape[:-1], -1)


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [n, d] as 8-bit numbers and a scale [n, 1]."""
    scale = (rows.abs().amax(dim=1, keepdim=True) / LARGEST).clamp_min(SMALLEST)
    return (rows / scale).round_().to(torch.int8), scale


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, scale)
        rounded, own = _rounded(x)
        product = torch._int_mm(rounded, values.t()).to(x.dtype).mul_(own).mul_(scale.t())
        return product if bias is None else product.add_(bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, Tensor | None]:
        values, scale = ctx.saved_tensors
        of_bias = gradient.sum(dim=0) if ctx.needs_input_grad[3] else None
        return gradient @ (values * scale), None, None, of_bias
