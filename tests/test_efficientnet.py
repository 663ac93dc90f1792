"""EfficientNet-Lite1 with its savings equals the network as the paper writes it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from shotfit.towers.efficientnet import CHANNELS, TOGETHER, EfficientNetLite1, InvertedResidual, SameConv


@pytest.fixture(scope="module")
def network() -> EfficientNetLite1:
    """Random weights, in the scale that keeps maps of ordinary size."""
    torch.manual_seed(0)
    network = EfficientNetLite1().double().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.3)
    return network


def plain(network: EfficientNetLite1, pixels: Tensor) -> Tensor:
    """The network written out: every map padded and made anew."""
    maps = F.relu6(convolved(network.stem, pixels))
    for block in network.blocks:
        early = maps
        assert isinstance(block, InvertedResidual)
        hidden = maps if block.expand is None else F.relu6(convolved(block.expand, maps))
        hidden = convolved(block.project, F.relu6(convolved(block.depthwise, hidden)))
        maps = maps + hidden if block.residual else hidden
    return torch.cat([F.relu6(convolved(network.head, maps)), early], dim=1)


def convolved(layer: SameConv, maps: Tensor) -> Tensor:
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in maps.shape[2:])
    maps = F.pad(maps, (width // 2, width - width // 2, height // 2, height - height // 2))
    return F.conv2d(maps, layer.weight, layer.bias, stride, groups=layer.groups)


@pytest.mark.parametrize("size", [32, 64, 72])  # 72 leaves odd maps, whose margins are alike on both sides
def test_grid_is_that_of_the_plain_network(network: EfficientNetLite1, size: int) -> None:
    pixels = torch.randn(TOGETHER + 1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        grid = network(pixels)
        assert grid.shape == (TOGETHER + 1, CHANNELS, -(-size // 32), -(-size // 32))
        torch.testing.assert_close(grid, plain(network, pixels), rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_plain_network(network: EfficientNetLite1) -> None:
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = []
    for run in (network, lambda pixels: plain(network, pixels)):
        leaf = pixels.clone().requires_grad_()
        leaves = [leaf, *network.parameters()]
        gradients.append(torch.autograd.grad(run(leaf).square().sum(), leaves))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_pixels_are_left_as_they_were(network: EfficientNetLite1) -> None:
    pixels = torch.randn(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    kept = pixels.clone()
    with torch.no_grad():
        network(pixels)
    assert torch.equal(pixels, kept)
