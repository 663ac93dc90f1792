"""Products with frozen matrices equal torch's, forth and back, in every shape that a tower gives them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from shotfit.towers.linear import Linear, linear


def _layer(inner: int = 48, outer: int = 80, bias: bool = True) -> Linear:
    torch.manual_seed(0)
    layer = Linear(inner, outer, bias=bias)
    layer.requires_grad_(False)
    return layer


SHAPES = {
    "tokens": torch.randn(37, 48),
    "rows": torch.randn(5, 7, 48),
    "cut rows": torch.randn(5, 9, 48)[:, :-2],
    "every other": torch.randn(20, 48)[::2],
    "one": torch.randn(1, 48),
    "none": torch.randn(0, 48),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("x", SHAPES.values(), ids=SHAPES.keys())
def test_product_and_gradient_equal_torchs(x: Tensor, bias: bool) -> None:
    layer = _layer(bias=bias)
    found, expected = (x.clone().requires_grad_() for _ in range(2))
    ours, other = layer(found), F.linear(expected, layer.weight, layer.bias)
    torch.testing.assert_close(ours, other)
    (ours**2).sum().backward()
    (other**2).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_bfloat16_rounds_like_torchs() -> None:
    layer, x = _layer().bfloat16(), torch.randn(9, 48).bfloat16()
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_a_gradient_that_is_the_same_everywhere() -> None:
    layer, x = _layer(), torch.randn(4, 48, requires_grad=True)
    layer(x).sum().backward()  # its gradient is one number, expanded
    torch.testing.assert_close(x.grad, layer.weight.sum(dim=0).expand(4, -1))


def test_a_part_of_a_matrix() -> None:
    layer, x = _layer(), torch.randn(6, 48)
    torch.testing.assert_close(linear(x, layer.weight[16:], layer.bias[16:]), layer(x)[:, 16:])


@pytest.mark.parametrize("trained", ["weight", "bias"])
def test_trained_matrices_get_gradients(trained: str) -> None:
    layer = _layer()
    layer.get_parameter(trained).requires_grad_()
    layer(torch.randn(3, 48)).sum().backward()
    assert layer.get_parameter(trained).grad is not None


def test_double_precision_is_exact() -> None:
    layer, x = _layer().double(), torch.randn(9, 48, dtype=torch.double)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_torchs_switch_takes_its_own_product() -> None:
    layer, x, before = _layer(), torch.randn(9, 48), torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # what `torch.backends.mkldnn.flags` calls, which also warns of Intel's GPUs
    try:
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    finally:
        torch._C._set_mkldnn_enabled(before)
