"""The tokens of MMRL: the blocks that they stand before, the maps that make them, and the edits that they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen
from shotfit.errors import UsageError
from shotfit.methods.base import Method, option
from shotfit.methods.block_lists import listed_blocks
from shotfit.methods.declared import Declared
from shotfit.towers.edits import Edit, PromptTokens
from shotfit.towers.transformer import VisionTransformer

__all__ = ["SharedTokens"]

Tower = Literal["image", "text"]
STD = 0.02  # of R at the start


class SharedTokens(Method):
    """The parameters and their options; `MMRL` trains and reads them."""

    title: ClassVar[str] = "MMRL's tokens"

    plus: bool = option(False, "MMRL++: one map with residuals of low rank, and mixed tokens")
    blocks: str = option("", "listed blocks of the text tower, such as 6-12 or 1,3; empty: 6 to 12 of 12")
    tokens: int = option(5, "tokens in a row", at_least=1, at_most=64)
    dim: int = option(512, "width of the shared space; the authors use 2048 on EuroSAT", at_least=1)
    projection_start: str = option("random", "where P_r begins, without plus", choices=("random", "frozen"))
    beta: float = option(0.9, "of plus: new tokens' share where they replace others", at_least=0, at_most=1)
    rank: int = option(4, "of plus: rank of a block's residual", at_least=1)
    projection_rank: int = option(64, "of plus: rank of P_r's residual", at_least=1)
    pairing: str = option("top", "towers of unequal depth are paired from here", choices=("top", "index"))

    def sites(self, tower: Tower) -> dict[int, int]:
        """The tower's blocks by listed block, ascending. Refuses a list of which a tower has none."""
        image = self.frozen.image_blocks(self.name, "another method").layers
        depth = {"image": image, "text": self.frozen.backbone.config.text.blocks.layers}
        ahead = image - depth["text"] if self.pairing == "top" and tower == "image" else 0
        last, text = depth["text"] if self.pairing == "top" else max(depth.values()), depth["text"]
        listed: Sequence[int] = range(max(1, text // 2), text + 1)
        if self.blocks:
            listed = listed_blocks(self.blocks, last, f"{self.name}: blocks")
        found = {block: block + ahead for block in listed if 1 <= block + ahead <= depth[tower]}
        if not found:
            raise UsageError(
                f"{self.name}: none of the blocks {self.blocks or 'chosen'} is in the {tower} tower, which has "
                f"{depth[tower]} blocks: list others."
            )
        return found

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape by its name."""
        config, embed = self.frozen.backbone.config, self.frozen.embed
        widths: dict[Tower, int] = {
            "image": self.frozen.image_blocks(self.name, "another method").width,
            "text": config.text.blocks.width,
        }
        shapes: dict[str, tuple[int, ...]] = {"shared": (self.tokens, self.dim)}
        for tower, width in widths.items():
            if self.plus:
                shapes[f"{tower}_weight"] = width, self.dim
            for site in self.sites(tower):
                shapes[f"{tower}_{site}_bias"] = (width,)
                if self.plus:
                    shapes[f"{tower}_{site}_left"] = width, self.rank
                    shapes[f"{tower}_{site}_right"] = self.rank, self.dim
                else:
                    shapes[f"{tower}_{site}_weight"] = width, self.dim
        inner = {
            "projection_left": (widths["image"], self.projection_rank),
            "projection_right": (self.projection_rank, embed),
        }
        return shapes | (inner if self.plus else {"projection": (widths["image"], embed)})

    def declared(self) -> dict[str, Declared]:
        """R, the maps and P_r."""
        return {f"parameter.{name}": Declared(*shape) for name, shape in self._shapes().items()}

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Every block of a tower begins with the same map; a residual of low rank begins without effect."""
        like, starts = frozen.backbone.logit_scale.to(frozen.parameter_dtype), dict[str, Tensor]()
        for name, shape in self._shapes().items():
            tower, kind = name.partition("_")[0], name.rpartition("_")[2]
            if kind in ("weight", "bias"):  # a linear map's own start, drawn once for a tower
                key = f"{tower}_{kind}"
                starts.setdefault(key, (2 * torch.rand(*shape) - 1) * self.dim**-0.5)
                value = starts[key].clone()
            elif kind == "left":
                value = (2 * torch.rand(*shape) - 1) * shape[1] ** -0.5
            elif kind == "right":
                value = torch.zeros(*shape)
            else:
                value = torch.randn(*shape) * (STD if name == "shared" else shape[0] ** -0.5)
            self.register_parameter(name, nn.Parameter(value.to(like)))
        if self.projection_start == "frozen" and not self.plus:
            self.get_parameter("projection").data.copy_(self.frozen_projection())

    def edits(self) -> list[Edit]:
        """The tokens before every listed block of both towers."""
        share, place = (self.beta if self.plus else 1.0), len(self.frozen.backbone.checked_tokenizer().start)
        image = [
            PromptTokens("image", block, self._made("image", site), i > 0, share=share, input_norm=False, read=i == 0)
            for i, (site, block) in enumerate(self.sites("image").items())
        ]
        text = [
            PromptTokens("text", block, self._made("text", site), position=place, insert=i == 0, share=share)
            for i, (site, block) in enumerate(self.sites("text").items())
        ]
        return [*image, *text]

    def _made(self, tower: Tower, site: int) -> Tensor:
        """The tokens [tokens, width] of a listed block."""
        name, shared = f"{tower}_{site}", self.get_parameter("shared")
        bias = self.get_parameter(f"{name}_bias")
        if not self.plus:
            return F.linear(shared, self.get_parameter(f"{name}_weight"), bias)
        made = F.linear(shared, self.get_parameter(f"{tower}_weight"), bias)
        return made + shared @ self.get_parameter(f"{name}_right").T @ self.get_parameter(f"{name}_left").T

    def frozen_projection(self) -> Tensor:
        """P [image width, embed], the identity where the tower has none."""
        tower, shared = self.frozen.backbone.image, self.get_parameter("shared")
        assert isinstance(tower, VisionTransformer)
        if tower.projection is None:
            return torch.eye(self.frozen.embed, device=shared.device, dtype=shared.dtype)
        return tower.projection.weight.T.to(shared.dtype)

    def projected(self, tokens: Tensor) -> Tensor:
        """P_r on what was read of tokens: [images, image width] to [images, embed]."""
        if not self.plus:
            return tokens @ self.get_parameter("projection")
        left, right = (self.get_parameter(f"projection_{side}") for side in ("left", "right"))
        return tokens @ self.frozen_projection() + tokens @ left @ right
