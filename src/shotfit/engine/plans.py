"""What one call of a tower does: which steps are frozen, and which savings apply. Chosen from ids and edits alone.

`shotfit show METHOD` prints it. All numbers are of the call as it runs, chunks and stored beginnings included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shotfit.towers.backbone import Backbone
from shotfit.towers.config import BlocksConfig, ResNetConfig
from shotfit.towers.edits import Edit, PromptTokens, frozen_until, input_is_read
from shotfit.towers.layout import Layout, Savings
from shotfit.towers.transformer import VisionTransformer

__all__ = ["Plan", "activation_bytes", "plan_images", "plan_texts"]


@dataclass(frozen=True)
class Plan:
    """One call.

    frozen_until: the last step that depends on no edit, of `last`. paired: a block's input is kept with its output.
    tokens, padded_tokens: of a text call, those that run at step 0 and those of rows padded to the full context.
    shared: length and rows of each beginning that runs once. read_alone: the last block runs for the read token alone.
    replaced: prompt tokens that give keys and values only, summed over blocks. silu: QuickGELU runs as SiLU. chunks: in
    how many parts the call runs, recomputed in the backward pass if more than one. absent: texts that are left out
    because they are of tasks that the batch does not show.
    """

    tower: str
    rows: int
    edits: tuple[str, ...]
    frozen_until: int
    last: int
    savings: Savings
    paired: bool = False
    tokens: int | None = None
    padded_tokens: int | None = None
    shared: tuple[tuple[int, int], ...] = ()
    read_alone: bool = False
    replaced: int = 0
    silu: bool = False
    chunks: int = 1
    absent: int = 0

    @property
    def all_stored(self) -> bool:
        """Nothing depends on an edit."""
        return self.frozen_until >= self.last


def plan_texts(
    backbone: Backbone, layout: Layout, edits: Sequence[Edit], savings: Savings, chunks: int = 1, absent: int = 0
) -> Plan:
    """The plan of a text call that runs in this layout."""
    if backbone.closed:
        return Plan("text", layout.rows, (), backbone.text.last, backbone.text.last, savings, chunks=chunks)
    tower, config = backbone.text, backbone.config.text
    until = frozen_until(edits, tower.last)
    return Plan(
        "text", layout.rows, _names(edits), until, tower.last, savings,
        paired=input_is_read(edits, until),
        tokens=layout.tokens,
        padded_tokens=layout.rows * config.context,
        shared=tuple((group.shared, len(group.rows)) for group in layout.groups if group.shared),
        read_alone=savings.read_alone and tower.pooled_alone,
        silu=savings.silu and config.blocks.silu,
        chunks=chunks,
        absent=absent,
    )  # fmt: skip


def plan_images(backbone: Backbone, rows: int, edits: Sequence[Edit], savings: Savings, chunks: int = 1) -> Plan:
    """The plan of an image call."""
    if backbone.closed:
        return Plan("image", rows, (), backbone.image.last, backbone.image.last, savings, chunks=chunks)
    tower, config = backbone.image, backbone.config.image
    until = frozen_until(edits, tower.last)
    if isinstance(config, ResNetConfig):
        return Plan("image", rows, _names(edits), until, tower.last, savings)
    assert isinstance(tower, VisionTransformer)
    return Plan(
        "image", rows, _names(edits), until, tower.last, savings,
        paired=input_is_read(edits, until),
        read_alone=savings.read_alone and tower.pooled_alone,
        replaced=_replaced(edits) if savings.replaced else 0,
        silu=savings.silu and config.blocks.silu,
        chunks=chunks,
    )  # fmt: skip


def activation_bytes(
    blocks: BlocksConfig, tokens: int, places: int, steps: int, visible: int, savings: Savings, size: int
) -> int:
    """What autograd keeps of `steps` blocks at most, in bytes.

    For each token: the inputs of both norms, and vectors of the MLP's width: four of a gated MLP, three of QuickGELU
    that does not run as SiLU, one otherwise, and one more for a norm inside. For each of the `places` that rows padded
    to the longest take in attention: seven vectors of the width (queries, keys, values, rearranged copies of them, what
    attention gives), and two attention weights for each of the `visible` tokens of a row: 0 where nothing is shared,
    because fused attention keeps none. size: bytes of a number.
    """
    quick = blocks.activation == "quick_gelu" and not (savings.silu and blocks.silu)
    hidden = (4 if blocks.gated else 3 if quick else 1) + blocks.inner_norms
    of_tokens = tokens * (2 * blocks.width + hidden * blocks.mlp_width)
    return (of_tokens + places * (7 * blocks.width + 2 * blocks.heads * visible)) * steps * size


def _replaced(edits: Sequence[Edit]) -> int:
    """Prompt tokens that stand before a block and are replaced before the next."""
    prompts = {edit.block: edit for edit in edits if isinstance(edit, PromptTokens) and edit.position is None}
    return sum(
        len(prompts[block - 1].tokens)
        for block, edit in prompts.items()
        if edit.replace and edit.share == 1 and block - 1 in prompts
    )


def _names(edits: Sequence[Edit]) -> tuple[str, ...]:
    return tuple(type(edit).__name__ for edit in edits)
