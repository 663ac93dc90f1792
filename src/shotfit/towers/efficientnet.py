"""EfficientNet-Lite1 as step 0 of an image tower: the start of `mini`.

Tan and Le, "EfficientNet", ICML 2019, arXiv 1905.11946; the Lite variants have no squeeze-and-excitation, ReLU6 in
place of swish, and a stem and head that do not scale. Batch normalization is folded into the convolutions, so the
network is convolutions and clipped rectifiers alone.

    grid = network(pixels)                                              [n, 1472, s/32, s/32]
    class token = position
    other tokens = grid @ T.T + positions

A place of the grid is the head's 1,280 channels and the 192 that its last stage reads. The head's are what a thousand
classes need; the earlier ones know more of what is none of them, and of poor pictures.

T is made so that each place says what it shows in the space of the text features. The class token knows nothing of the
picture: what it says in the end, the blocks' attention has gathered.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from shotfit.towers.config import StemConfig
from shotfit.towers.linear import Linear

__all__ = ["CHANNELS", "EARLY", "HEAD", "STRIDE", "EfficientNetLite1", "StemEmbedding"]

HEAD = 1280  # channels of the head
EARLY = 192  # channels of what the last stage reads
CHANNELS = HEAD + EARLY  # of the grid
STRIDE = 32  # pixels a grid place
TOGETHER = 4  # images that run together on a CPU

# repeats, kernel, stride of the first, expansion, channels: the published table at width 1.0, and at depth 1.1 all
# stages but the first and the last, as the Lite variants scale
_STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 40),
    (4, 3, 2, 6, 80),
    (4, 5, 1, 6, 112),
    (5, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM = 32


class SameConv(nn.Conv2d):
    """A convolution padded so that the output has ceil(size / stride) places; an odd padding is larger behind."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = (kernel - 1) // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups)

    def margins(self, maps: Tensor) -> tuple[int, int, int, int]:
        """What has to be put around maps [n, inputs, h, w] before a stride: left, right, top, bottom."""
        if self.stride[0] == 1:
            return 0, 0, 0, 0  # the convolution pads by itself, alike on both sides
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in maps.shape[2:])
        return width // 2, width - width // 2, height // 2, height - height // 2

    def forward(self, maps: Tensor) -> Tensor:
        """[n, inputs, h, w] to [n, outputs, ceil(h / stride), ceil(w / stride)]."""
        margins = self.margins(maps)
        return super().forward(functional.pad(maps, margins) if any(margins) else maps)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; added to the input where the shape stays.

    What a convolution made is clipped and added to where it lies: new memory for it would cost more than the sums. The
    margins of a stride are put around the narrow input and emptied after the expansion, not around what is six times
    as wide.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = SameConv(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConv(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        """[n, inputs, h, w] to [n, outputs, ceil(h / stride), ceil(w / stride)]."""
        hidden = maps if self.expand is None else self._expanded(maps, self.expand)
        hidden = nn.Conv2d.forward(self.depthwise, hidden)  # the margins are there
        projected: Tensor = self.project(functional.relu6(hidden, inplace=True))
        return projected.add_(maps) if self.residual else projected

    def _expanded(self, maps: Tensor, expand: SameConv) -> Tensor:
        """[n, inputs, h, w] to [n, hidden, h + margins, w + margins], zero in the margins."""
        margins = left, right, top, bottom = self.depthwise.margins(maps)
        if not isinstance(maps.shape[0], int):  # traced for any number of images: a graph has no memory to spare
            return functional.pad(functional.relu6(expand(maps)), margins)
        hidden: Tensor = expand(functional.pad(maps, margins) if any(margins) else maps)
        height, width = hidden.shape[2:]
        for margin in (
            hidden[:, :, :top],
            hidden[:, :, height - bottom :],
            hidden[..., :left],
            hidden[..., width - right :],
        ):
            margin.zero_()
        return functional.relu6(hidden, inplace=True)


class EfficientNetLite1(nn.Module):
    """The network up to its last feature map, batch normalization folded in.

    Parameters: stem, blocks.I.{expand,depthwise,project} (I from 0 to 20; block 0 has no expand), head.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, _STEM, 3, 2)
        blocks, inputs = [], _STEM
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for repeat in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if repeat == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(inputs, HEAD, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalized pixels [n, 3, s, s] to the grid [n, 1472, s/32, s/32]."""
        # On a CPU a few images at a time: their widest maps stay in the processor's cache and in memory that is used
        # again, where those of a whole batch would be fetched from the system anew for each convolution.
        # An export traces one part of any size.
        apart = pixels.device.type == "cpu" and isinstance(pixels.shape[0], int)
        parts = pixels.split(TOGETHER) if apart else (pixels,)
        grids = [self.widen(self.narrow(part)) for part in parts]
        return grids[0] if len(grids) == 1 else torch.cat(grids)

    def narrow(self, pixels: Tensor) -> Tensor:
        """Normalized pixels [n, 3, s, s] to what the head reads and the earlier map, [n, 320 + 192, s/32, s/32]."""
        # Channels last: the depthwise convolutions are half as fast again that way on a CPU.
        maps = functional.relu6(self.stem(pixels.contiguous(memory_format=torch.channels_last)), inplace=True)
        for block in self.blocks[:-1]:
            maps = block(maps)
        return torch.cat([self.blocks[-1](maps), maps], dim=1)

    def widen(self, maps: Tensor) -> Tensor:
        """The head, on what `narrow` gives: [n, 320 + 192, g, g] to the grid [n, 1472, g, g]."""
        last, early = maps[:, :-EARLY], maps[:, -EARLY:]
        return torch.cat([functional.relu6(self.head(last), inplace=True), early], dim=1)


class StemEmbedding(nn.Module):
    """Step 0 of a `StemConfig` tower: pixels to tokens, class token first.

    Parameters: network.* (EfficientNetLite1), token.weight [width, 1472], positions [1 + places, width] with
    places = (image_size / 32)^2.
    """

    def __init__(self, config: StemConfig) -> None:
        super().__init__()
        width, places = config.blocks.width, (-(-config.image_size // STRIDE)) ** 2
        self.network = EfficientNetLite1()
        self.token = Linear(CHANNELS, width, bias=False)
        self.positions = nn.Parameter(torch.zeros(1 + places, width))
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalized pixels [n, 3, s, s] to tokens [n, 1 + places, width]."""
        return self.tokens(self.network(pixels))

    def tokens(self, grid: Tensor) -> Tensor:
        """The network's grid [n, 1472, g, g] to tokens [n, 1 + g*g, width]."""
        places = self.token(grid.flatten(2).transpose(1, 2))  # [n, places, width]
        return torch.cat([places.new_zeros(places.shape[0], 1, places.shape[2]), places], dim=1) + self.positions
