"""Products with a tower's matrices, by the library that the processor is fastest with.

PyTorch multiplies float32 on a CPU with MKL. On a processor with AVX-512 oneDNN, which comes with PyTorch too, was
faster at every size that a tower has (a tenth at 3,000 tokens, a third at 100; docs/log/), so matrices that are not
trained go there; in bfloat16, where PyTorch takes oneDNN itself, this spares a copy of the bias to every token.
`torch.backends.mkldnn.flags(enabled=False)` takes MKL again. Each rounds the last digit its own way.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Linear", "linear"]


class Linear(nn.Linear):
    """`torch.nn.Linear` by way of `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias: [..., in] to [..., out]; weight [out, in], bias [out]."""
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
