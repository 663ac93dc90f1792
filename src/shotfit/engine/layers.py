"""What each step of a tower has made of an image or a text: a vector a step, all steps in one run of the tower.

    levels = image_levels(frozen, pool)       # [images, width] after step 0 and each block, [images, embed] at the end
    levels = text_levels(frozen, texts)

A vector is the token that the tower is read at, as it is after that step. Where a tower is read at all of its tokens it
is their mean, and of a ResNet the mean over the map. The last is the tower's feature. Rows go to the store as they
come, so that memory holds a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shotfit.engine.frozen import TEXT_ROWS, Frozen, ImagePool
from shotfit.engine.store import Compute
from shotfit.errors import UsageError
from shotfit.towers.config import ResNetConfig
from shotfit.towers.layout import Stream
from shotfit.towers.resnet import EXPANSION
from shotfit.towers.texts import Texts
from shotfit.towers.transformer import TextTower, VisionTransformer

__all__ = ["image_levels", "text_levels"]


def image_levels(frozen: Frozen, pool: ImagePool) -> list[Tensor]:
    """One matrix a step, float32: [images, width] after step 0 and after each block, [images, embed] after the last.

    Raises UsageError for a closed backbone.
    """
    _check_open(frozen)
    config = frozen.backbone.config.image
    if isinstance(config, ResNetConfig):
        widths = [config.width, *(config.width * 2**stage * EXPANSION for stage in range(len(config.layers)))]
    else:
        widths = [config.blocks.width] * (config.blocks.layers + 1)

    def compute(missing: list[int]) -> Iterator[Tensor]:
        for pixels in frozen.pixels(pool, missing):
            # as `Frozen` does it: a row alone is multiplied another way, and would have other last digits
            alone = len(pixels) == 1
            yield _every_step(frozen, "image", pixels.repeat(2, 1, 1, 1) if alone else pixels)[: len(pixels)]

    kind = {"reduced_images": frozen.savings.reduced_images}
    return _levels(frozen, "image", kind, pool.keys(), compute, widths)


def text_levels(frozen: Frozen, texts: Texts) -> list[Tensor]:
    """The same of texts, [texts, width] a step and [texts, embed] after the last."""
    _check_open(frozen)
    blocks = frozen.backbone.config.text.blocks

    def compute(missing: list[int]) -> Iterator[Tensor]:
        for start in range(0, len(missing), TEXT_ROWS):
            rows = Texts(tuple(texts.rows[index] for index in missing[start : start + TEXT_ROWS]))
            yield _every_step(frozen, "text", rows)

    keys = [Texts((ids,)).digest for ids in texts.rows]
    return _levels(frozen, "text", {}, keys, compute, [blocks.width] * (blocks.layers + 1))


def _levels(
    frozen: Frozen, tower: str, kind: dict[str, bool], keys: Sequence[str], compute: Compute, widths: Sequence[int]
) -> list[Tensor]:
    """From the store, where a row is the vectors of all steps one after another."""
    whole = {"tower": tower, "levels": True, **kind, **frozen.kind()}
    rows = frozen.store.rows(whole, keys, compute, f"Looking into the {tower} tower")  # [rows, widths and embed]
    return list(rows.split([*widths, rows.shape[1] - sum(widths)], dim=1))


@torch.no_grad()
def _every_step(frozen: Frozen, name: str, inputs: Any) -> Tensor:
    """[rows, widths of all steps and embed], float32."""
    tower: Any = frozen.backbone.image if name == "image" else frozen.backbone.text
    savings = replace(frozen.savings, read_alone=False, shared=False)  # every row has all of its tokens
    given = inputs.to(frozen.backbone.device) if isinstance(inputs, Tensor) else inputs
    stream = tower.start(given, (), savings)
    alone = isinstance(tower, (VisionTransformer, TextTower)) and tower.pooled_alone
    found = [_vectors(stream, alone)]
    for step in range(1, tower.last):
        stream = tower.run(stream, until=step)
        found.append(_vectors(stream, alone))
    return torch.cat([*found, tower.finish(stream).float()], dim=1)


def _vectors(stream: Stream, alone: bool) -> Tensor:
    """[rows, width], float32: the read token, the mean of a row's tokens but for padding, or the mean of a map."""
    x, layout = stream.hidden.float(), stream.layout
    if layout is None:
        return x.mean(dim=(2, 3))
    if alone:
        return x.index_select(0, layout.read)
    padded, present = layout.own.pad(x), layout.unpadded  # [rows, longest, width]
    if present is None:
        if layout.own.even:
            return padded.mean(dim=1)
        present = layout.own.present
    return (padded * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True)


def _check_open(frozen: Frozen) -> None:
    if frozen.backbone.closed:
        raise UsageError(
            f"{frozen.backbone.name} is closed: nothing can be seen between its steps. Choose a backbone of shotfit's "
            "own towers, such as mini."
        )
