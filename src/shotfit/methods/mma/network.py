"""The adapters of MMA: where they stand, their maps, and the edits that they are.

    A_i^m(h) = U_i^m drop(relu(S_i relu(D_i^m h)))        D [dim, width of tower m], S [dim, dim], U [width, dim]

Sites are blocks from 1 of the text tower; site 0 is the embedding. Dropout is of training alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen
from shotfit.engine.layers import image_levels
from shotfit.errors import UsageError
from shotfit.methods.base import Method, Support, option
from shotfit.methods.declared import Declared
from shotfit.methods.levels import first_block, told_apart
from shotfit.towers.config import BlocksConfig
from shotfit.towers.edits import Adapter

__all__ = ["Adapters", "Tower"]

Tower = Literal["image", "text"]
SEEDS = (1, 2, 3)  # of the halves that `start=auto` judges by


class Adapters(Method):
    """The network and its options; `MMA` trains and reads it."""

    title: ClassVar[str] = "MMA's adapters"

    start: int = option(-1, "first adapted block; 0: the embedding; -1: by depth, 5 of 12", at_least=-1, auto=True)
    end: int = option(-1, "last adapted block of the text tower; -1: its last", at_least=-1)
    dim: int = option(32, "width of the bottleneck", at_least=1)
    towers: str = option("both", "towers with adapters", choices=("both", "text", "image"))
    shared: bool = option(True, "a middle map at each site, shared by both towers")
    pairing: str = option("top", "towers of unequal depth are paired from here", choices=("top", "index"))
    dropout: float = option(0.0, "share of the middle's outputs that training leaves out", at_least=0, at_most=0.9)
    protocol: str = option(
        "base-to-new", "setting of the paper for range and epochs", choices=("base-to-new", "transfer")
    )

    def find_option(self, name: str, support: Support) -> int:
        """start: from where on the image tower tells the classes apart (`first_block`), or by depth where no image can
        be held out.

        Half of the support images are learned from and half judged, thrice; an image's level is that of the text block
        at the same distance from the end.
        """
        depth, items = self.frozen.backbone.config.text.blocks.layers, support.center
        last = self.end if self.end >= 0 else depth
        levels, labels = image_levels(self.frozen, items)[:-1], items.labels.tolist()
        told = [fmean(told_apart(level, labels, seed, items.groups) for seed in SEEDS) for level in levels]
        if any(map(math.isnan, told)):
            return min(self.usual_start(depth), last)
        ahead = len(levels) - 1 - depth if self.pairing == "top" else 0
        return min(max(first_block(told) - ahead, 1), last)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Down, shared and up maps of every site: weights of variance 2 / rows, biases zero."""
        for name, (rows, columns) in self._maps().items():
            self._add(name, rows, columns)

    def _maps(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of every map by its name."""
        maps: dict[str, tuple[int, int]] = {}
        for tower, widths in self._widths().items():
            for site in self.sites(tower):
                maps[f"{tower}_{site}_down"] = self.dim, widths
                maps[f"{tower}_{site}_up"] = widths, self.dim
        for site in sorted({site for tower in self._widths() for site in self.sites(tower)} if self.shared else ()):
            maps[f"shared_{site}"] = self.dim, self.dim
        return maps

    def declared(self) -> dict[str, Declared]:
        """The maps with their biases."""
        found = {f"parameter.{name}_weight": Declared(*shape) for name, shape in self._maps().items()}
        return found | {f"parameter.{name}_bias": Declared(rows) for name, (rows, _) in self._maps().items()}

    def _add(self, name: str, rows: int, columns: int) -> None:
        device, dtype = self.frozen.backbone.device, self.frozen.parameter_dtype
        weight = torch.randn(rows, columns) * math.sqrt(2 / rows)
        self.register_parameter(f"{name}_weight", nn.Parameter(weight.to(device, dtype)))
        self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(rows, device=device, dtype=dtype)))

    def sites(self, tower: Tower) -> dict[int, int]:
        """The tower's adapted blocks by site. Refuses a range that the towers do not have."""
        config = self.frozen.backbone.config
        if self.towers == "text":
            return {site: site for site in self._range(config.text.blocks.layers)} if tower == "text" else {}
        image, text = self.frozen.image_blocks(self.name, "towers=text").layers, config.text.blocks.layers
        if self.pairing == "index" and text > image:
            raise UsageError(
                f"{self.name}: pairing=index counts the blocks of both towers from below, which needs a text tower "
                f"that is not deeper than the image tower, but it has {text} blocks and the image tower {image}: use "
                "pairing=top."
            )
        ahead = image - text if self.pairing == "top" else 0
        sites = self._range(text)
        partners = {site: site + ahead if site else 0 for site in sites if not site or site + ahead > 0}
        if self.towers == "image" and not partners:
            raise UsageError(
                f"{self.name}: blocks {sites[0]} to {sites[-1]} of the text tower have no partner among the "
                f"{image} blocks of the image tower, so there is nothing to train: choose a later end."
            )
        if tower == "image":
            return partners
        return {} if self.towers == "image" else {site: site for site in sites}

    def _range(self, depth: int) -> range:
        start = self.start if self.start >= 0 else self.usual_start(depth)
        end = self.end if self.end >= 0 else depth
        if end > depth:
            raise UsageError(f"{self.name}: end is {end}, but the text tower has {depth} blocks: choose end={depth}.")
        if start > end:
            raise UsageError(f"{self.name}: blocks {start} to {end} are an empty range: choose a start up to the end.")
        return range(start, end + 1)

    def usual_start(self, depth: int) -> int:
        """The first adapted block of so many: of the upper two thirds, or of one third for classes of other tasks."""
        return (depth // 3 if self.protocol == "base-to-new" else 2 * depth // 3) + 1

    def _widths(self) -> dict[Tower, int]:
        config = self.frozen.backbone.config
        blocks: dict[Tower, BlocksConfig] = {"text": config.text.blocks}
        if self.towers != "text":
            blocks["image"] = self.frozen.image_blocks(self.name, "towers=text")
        return {tower: config.width for tower, config in blocks.items()}

    def edits(self, scale: float, dropping: bool = False) -> list[Adapter]:
        """An adapter beside every block of a site; `dropping`: with masks of its own."""
        return [
            Adapter(tower, block, self._map(tower, site, scale, dropping and self.dropout_rate > 0))
            for tower in self._widths()
            for site, block in self.sites(tower).items()
        ]

    @property
    def dropout_rate(self) -> float:
        """The share that training leaves out."""
        return self.dropout

    def kept(self, tower: Tower, site: int, hidden: Tensor, seed: int) -> Tensor:
        """What dropout keeps of `hidden` [tokens, dim], as factors of its shape.

        From a seed, as a map runs again in the backward pass where its call runs in chunks.
        """
        generator = torch.Generator(hidden.device).manual_seed(seed)
        rate = self.dropout_rate
        return torch.empty_like(hidden, requires_grad=False).bernoulli_(1 - rate, generator=generator) / (1 - rate)

    def _map(self, tower: Tower, site: int, scale: float, dropping: bool) -> Callable[[Tensor], Tensor]:
        names = [f"{tower}_{site}_down", *([f"shared_{site}"] if self.shared else []), f"{tower}_{site}_up"]
        layers = [(self.get_parameter(f"{name}_weight"), self.get_parameter(f"{name}_bias")) for name in names]
        seed = int(torch.randint(2**62, ())) if dropping else None

        def adapt(tokens: Tensor) -> Tensor:
            hidden = tokens.to(layers[0][0].dtype)
            for weight, bias in layers[:-1]:
                hidden = F.relu(F.linear(hidden, weight, bias))
            if seed is not None:
                hidden = hidden * self.kept(tower, site, hidden, seed)
            return (scale * F.linear(hidden, *layers[-1])).to(tokens.dtype)

        return adapt
