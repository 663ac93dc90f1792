"""CLIP's modified ResNet as a tower: step 0 is the stem, steps 1 to 4 the stages, step 5 pools and projects.

Three 3x3 stem convolutions and an average pool; bottlenecks whose stride is an average pool in front of the last
convolution and of the shortcut; attention pooling with the mean of the grid as its only query. Batch norms use their
running statistics. It has no transformer sites, so methods that edit blocks refuse it by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.errors import ShotfitError
from shotfit.towers.changed import changed
from shotfit.towers.config import ResNetConfig
from shotfit.towers.edits import Edit, ends_unprojected
from shotfit.towers.layout import Savings, Stream

__all__ = ["ModifiedResNet"]

EXPANSION = 4  # a bottleneck's output channels over its inner ones


class FrozenBatchNorm(nn.Module):
    """Batch norm with its running statistics, epsilon 1e-5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.running_mean, self.running_var = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] to the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=1e-5)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Stem(nn.Module):
    """[n, 3, s, s] to [n, width, s / 4, s / 4]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(3, width // 2, 3, 2), FrozenBatchNorm(width // 2)
        self.conv2, self.norm2 = _conv(width // 2, width // 2, 3), FrozenBatchNorm(width // 2)
        self.conv3, self.norm3 = _conv(width // 2, width, 3), FrozenBatchNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Three convolutions, each with norm and ReLU, then a 2x2 average pool."""
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return F.avg_pool2d(F.relu(self.norm3(self.conv3(x))), 2)


class Shortcut(nn.Module):
    """The first bottleneck's way around: pooled where it strides, 1x1 convolution, norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv, self.norm, self.stride = _conv(inputs, outputs, 1), FrozenBatchNorm(outputs), stride

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        pooled = F.avg_pool2d(x, self.stride) if self.stride > 1 else x
        return self.norm(self.conv(pooled))


class Bottleneck(nn.Module):
    """1x1, 3x3, pool, 1x1, around which the input is added."""

    def __init__(self, inputs: int, inner: int, stride: int, first: bool) -> None:
        super().__init__()
        outputs = inner * EXPANSION
        self.conv1, self.norm1 = _conv(inputs, inner, 1), FrozenBatchNorm(inner)
        self.conv2, self.norm2 = _conv(inner, inner, 3), FrozenBatchNorm(inner)
        self.conv3, self.norm3 = _conv(inner, outputs, 1), FrozenBatchNorm(outputs)
        self.shortcut = Shortcut(inputs, outputs, stride) if first else nn.Identity()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] to [n, 4 inner, h / stride, w / stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = F.avg_pool2d(y, self.stride) if self.stride > 1 else y
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


class AttentionPool(nn.Module):
    """Tokens are the grid's mean and the grid; the mean is the only query: [n, c, h, w] to [n, c].

    `out` projects that into the joint space.
    """

    def __init__(self, channels: int, heads: int, grid: int, embed: int) -> None:
        super().__init__()
        self.heads = heads
        self.positions = nn.Parameter(torch.zeros(grid * grid + 1, channels))
        self.query, self.key = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.value, self.out = nn.Linear(channels, channels), nn.Linear(channels, embed)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] to [n, channels]."""
        grid = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([grid.mean(dim=1, keepdim=True), grid], dim=1) + self.positions
        query = self.query(tokens[:, :1]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key = self.key(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        value = self.value(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, value).flatten(1)


class ModifiedResNet(nn.Module):
    """The image tower of RN50, RN101 and RN50x4 and their like."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.image_size, self.last = config.image_size, 5
        self.stem = Stem(config.width)
        stages, inputs = [], config.width
        for stage, blocks in enumerate(config.layers):
            inner, stride = config.width * 2**stage, 1 if stage == 0 else 2
            first = Bottleneck(inputs, inner, stride, first=True)
            inputs = inner * EXPANSION
            stages.append(nn.Sequential(first, *[Bottleneck(inputs, inner, 1, first=False) for _ in range(blocks - 1)]))
        self.stages = nn.ModuleList(stages)
        self.pool = AttentionPool(inputs, config.heads, config.image_size // 32, config.embed)

    def start(self, pixels: Tensor, edits: Sequence[Edit] = (), savings: Savings = Savings()) -> Stream:
        """Step 0: pixels [n, 3, size, size], preprocessed."""
        if pixels.shape[1:] != (3, self.image_size, self.image_size):
            size = self.image_size
            raise ShotfitError(
                f"The image tower takes [n, 3, {size}, {size}] pixels, but was given {list(pixels.shape)}."
            )
        return Stream(changed(self, 0, edits).stem(pixels), None, 0)

    def resume(self, hidden: Tensor, step: int, savings: Savings = Savings(), before: Tensor | None = None) -> Stream:
        """A stream from stored maps [n, channels, h, w] after `step`."""
        return Stream(hidden, None, step)

    def run(self, stream: Stream, edits: Sequence[Edit] = (), until: int | None = None) -> Stream:
        """Run the stages up to step `until` (all of them by default)."""
        until, x = self.last - 1 if until is None else until, stream.hidden
        for step in range(stream.step + 1, until + 1):
            x = changed(self.stages[step - 1], step, edits)(x)
        return Stream(x, None, max(until, stream.step))

    def finish(self, stream: Stream, edits: Sequence[Edit] = ()) -> Tensor:
        """The remaining stages and the attention pooling: [n, embed], or [n, channels] in front of its last map."""
        own = changed(self, self.last, edits)
        pooled = own.pool(self.run(stream, edits).hidden)
        return pooled if ends_unprojected(edits) else own.pool.out(pooled)
