"""Edits: what a method may change inside a frozen tower, and where. Plain data that imports nothing of shotfit.

An edit refers to parameters; the method owns them. Each says in which tower it acts and which steps do not depend on
it: step 0 embeds, steps 1 to L are blocks, step L + 1 pools and projects. All savings of section 2 of the design
follow from this and from the ids of a text, never from a method's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

__all__ = [
    "NOTHING",
    "Adapter",
    "Context",
    "Edit",
    "Factors",
    "PromptTokens",
    "Unprojected",
    "Weights",
    "ends_unprojected",
    "frozen_until",
    "input_is_read",
    "inserted_are_read",
]

NOTHING = -1  # the answer of an edit that acts in step 0: no step is frozen before it


class Edit(Protocol):
    """What every edit answers."""

    @property
    def tower(self) -> Literal["image", "text"]:
        """The tower that it changes."""

    @property
    def frozen_until(self) -> int:
        """The last step that does not depend on it; NOTHING if it acts in step 0."""


@dataclass(frozen=True, eq=False)
class Context:
    """The vectors of learned ids: in a text, id `vocabulary + i` is embedded as row i of `vectors`.

    `vectors`: [learned ids, width], in front of the positions, as a word's embedding is.
    """

    vectors: Tensor
    tower: ClassVar[Literal["image", "text"]] = "text"
    frozen_until: ClassVar[int] = NOTHING


@dataclass(frozen=True, eq=False)
class Adapter:
    """A map beside a block: it reads the block's input, and what it gives is added to the block's output.

    `map`: [tokens, width] to [tokens, width]. `through_norm`: it reads the input as the block's attention does, through
    the block's own first norm where norms stand before (BERT's blocks read what is normed already).
    Block 0 stands for the embedding: there the map reads what step 0 makes and is added to it, in the text tower before
    the positions are added (and BERT's norm of the sum), in the image tower after the input norm.

    The block itself does not depend on it, so its output and its input can be kept; the sum is taken where the next
    step begins.
    """

    tower: Literal["image", "text"]
    block: int
    map: Callable[[Tensor], Tensor]
    through_norm: bool = True

    @property
    def frozen_until(self) -> int:
        """The block that it stands beside; NOTHING for the embedding."""
        return self.block or NOTHING


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """Tokens [n, width] that stand in every row before a block.

    Without a position they stand at the row's end (image tower): beside those that came before, or with `replace` in
    their place. Tokens before block 1 pass the tower's input norm, as its own tokens do; they have no position.
    With a position they take the place of the tokens there, counted from 0; a row that ends earlier takes what fits.
    With `insert` too they stand in front of the token there, and the row is longer from then on: later edits count
    places in the longer row.

    share: the tokens' part of what stands there afterwards, where they replace others; the rest is of the replaced
    ones, as the block before made them. input_norm: false lets tokens before block 1 in as they are.
    read: the tower also gives the mean of the tokens at the end of its rows, each through the final norm, behind its
    features: [rows, embed + width]. One such edit of a tower is enough.
    """

    tower: Literal["image", "text"]
    block: int
    tokens: Tensor
    replace: bool = False
    position: int | None = None
    insert: bool = False
    share: float = 1.0
    input_norm: bool = True
    read: bool = False

    def __post_init__(self) -> None:
        if self.insert and (self.position is None or self.replace):
            raise ValueError("inserted prompt tokens need a position, and replace none")
        if self.read and self.position is not None:
            raise ValueError("prompt tokens that are read stand at the row's end, and have no position")
        if self.tower == "text" and self.position is None:
            raise ValueError("prompt tokens of a text tower need a position: what stands after the end is never read")

    @property
    def frozen_until(self) -> int:
        """The step before."""
        return self.block - 1


@dataclass(frozen=True, eq=False)
class Unprojected:
    """The tower ends in front of its projection: features are what is pooled and normed, [rows, width].

    last: the tower's last block, which does not depend on it.
    """

    tower: Literal["image", "text"]
    last: int

    @property
    def frozen_until(self) -> int:
        """The last block."""
        return self.last


@dataclass(frozen=True, eq=False)
class Factors:
    """A matrix [out, in] in factors, up diag(gains) down, beside the frozen one or in its place.

    up: [out, rank]. down: [rank, in]. gains: [rank], all 1 if None. Where it is cheaper, the product is multiplied by
    tokens factor by factor; `towers/linear.py` counts.
    """

    up: Tensor
    down: Tensor
    gains: Tensor | None = None
    beside: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Of the product."""
        return self.up.shape[0], self.down.shape[1]

    def over(self, weight: Tensor) -> Tensor:
        """The values of a matrix that has these factors: weight + product, or the product alone, [out, in]."""
        product = (self.up if self.gains is None else self.up * self.gains) @ self.down
        return (weight.to(product.dtype) + product if self.beside else product).to(weight.dtype)


@dataclass(frozen=True, eq=False)
class Weights:
    """A step runs with other values of some of its weights: norm gains, biases, a projection, W + BA, all of them.

    values: by the names that the parameters have within the step's block (`norm1.weight`, `mlp.up.bias`), in step 0 and
    the last within the tower (`projection.weight`). The thirds of a joint matrix of queries, keys and values have names
    of their own, `attention.query.weight` and so on. Shapes are the parameters'.
    """

    tower: Literal["image", "text"]
    step: int
    values: Mapping[str, Tensor | Factors]

    @property
    def frozen_until(self) -> int:
        """The step before."""
        return self.step - 1 if self.step else NOTHING

    @property
    def kept(self) -> int:
        """Numbers that autograd keeps of each token for the gradients of matrices, at most."""
        kept = 0
        for value in self.values.values():
            if isinstance(value, Factors):
                rank = len(value.down)
                kept += value.shape[1] + (rank if value.gains is None else 2 * rank)
            elif value.dim() > 1:
                kept += value.shape[-1]
        return kept


def frozen_until(edits: Sequence[Edit], last: int) -> int:
    """The last step that depends on none of the edits; `last` (the tower's last step) without edits."""
    for edit in edits:
        if not NOTHING <= edit.frozen_until < last:
            raise ValueError(
                f"{type(edit).__name__} acts after step {edit.frozen_until}, but the blocks end at {last - 1}"
            )
    return min((edit.frozen_until for edit in edits), default=last)


def input_is_read(edits: Sequence[Edit], step: int) -> bool:
    """Does an edit beside this block read what the block read?"""
    return any(isinstance(edit, Adapter) and edit.block == step for edit in edits)


def ends_unprojected(edits: Sequence[Edit]) -> bool:
    """Does the tower end in front of its projection?"""
    return any(isinstance(edit, Unprojected) for edit in edits)


def inserted_are_read(edits: Sequence[Edit]) -> bool:
    """Does the tower of these edits also give what its last block made of prompt tokens?"""
    return any(isinstance(edit, PromptTokens) and edit.read for edit in edits)
