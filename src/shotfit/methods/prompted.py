"""Learned tokens in front of the blocks of one tower or both: what the prompting methods share.

    text    start, v_1 .. v_n, the rest of the words, name, ".", end      T_i in place of v before block i + 1
    image   the tower's tokens, V_0                                       V_i in place of V_{i-1} before block i + 1

v [n, width] and T [depth - 1, n, width] in the text tower, V [depth, m, width] in the image tower. A depth of 1 is the
input alone; tokens that no block replaces flow on. V_0 passes the image tower's input norm, and nothing that is learned
has a position but v.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.errors import UsageError
from shotfit.methods.base import Method, check_texts, option
from shotfit.methods.declared import Declared
from shotfit.methods.prompts import context_length, context_of_words, lay_out, random_prompts
from shotfit.towers.config import BlocksConfig
from shotfit.towers.edits import Context, Edit, PromptTokens
from shotfit.towers.texts import Texts

__all__ = ["Prompted", "PromptedBoth", "deep_image", "deep_text", "linear_start"]


def deep_image(prompts: Sequence[Tensor]) -> list[Edit]:
    """Prompt tokens at the end of an image's rows, one block's in place of those of the block before."""
    return [PromptTokens("image", i + 1, tokens, replace=i > 0) for i, tokens in enumerate(prompts)]


def deep_text(frozen: Frozen, prompts: Sequence[Tensor]) -> list[Edit]:
    """Prompt tokens behind a text's start token, from block 2 on; those of blocks that the tower lacks act nowhere."""
    first, blocks = len(frozen.backbone.checked_tokenizer().start), frozen.backbone.config.text.blocks.layers
    return [PromptTokens("text", i + 2, tokens, position=first) for i, tokens in enumerate(prompts[: blocks - 1])]


def linear_start(frozen: Frozen, shape: Sequence[int], inputs: int) -> Tensor:
    """How a linear layer of so many inputs starts, weight or bias: uniform in +-1 / sqrt(inputs)."""
    return (2 * torch.rand(*shape) - 1).to(frozen.backbone.device, frozen.parameter_dtype) / math.sqrt(inputs)


class Prompted(Method):
    """Base of methods with a learned context, deep prompts, or both. It trains nothing that belongs to a class.

    A subclass says by `text_asked` and `visual_asked` how many tokens are learned, in how many blocks.
    """

    accepts_new_classes: ClassVar[bool] = True
    edits_towers: ClassVar[bool] = True

    words: str = option("a photo of a", "words in front of the class name; empty: none, and a random context")

    def _check(self) -> None:
        super()._check()
        if self.words and not self.words.replace("_", " ").strip():
            raise UsageError(f"{self.name}: the words {self.words!r} hold no word: give some, or none (words=).")
        for name in ("depth", "text_depth"):  # which a subclass has; an image tower may do without prompts
            if getattr(self, name, None) == 0:
                raise UsageError(
                    f"{self.name}: {name} must be 1 or more, or -1 for as many blocks as in the paper, but is 0."
                )

    def text_asked(self) -> tuple[int, int]:
        """Tokens and blocks of the text tower."""
        return 0, 0

    def visual_asked(self) -> tuple[int, int]:
        """Tokens and blocks of the image tower."""
        return 0, 0

    def share(self, asked: int, blocks: int) -> int:
        """Blocks with prompts of their own, of so many; asked: -1 for the paper's share of them."""
        return min(asked, blocks) if asked >= 0 else max(1, blocks * self.twelfths() // 12)

    def twelfths(self) -> int:
        """The paper's share of a tower's blocks, in twelfths."""
        return 12

    def words_asked(self, length: int) -> int:
        """The context's length where words set it: by their number, as the authors' programs count."""
        return len(self.words.replace("_", " ").split()) if self.words else length

    @property
    def text_blocks(self) -> BlocksConfig:
        """The text tower's blocks."""
        return self.frozen.backbone.config.text.blocks

    @property
    def image_blocks(self) -> BlocksConfig:
        """The image tower's blocks; a tower without any is refused."""
        return self.frozen.image_blocks(self.name, "a method that leaves that tower alone, such as coop")

    def check(self) -> None:
        """Refuse a context that is longer than the words, prompts that cannot be read and towers without blocks."""
        tokens, _ = self.text_asked()
        fixed = context_length(self.frozen, self.words, tokens)
        if tokens > fixed:
            raise UsageError(
                f"{self.name}: {tokens} tokens are to be learned, but {self.words!r} has {fixed}, and more would "
                "overwrite the class name: choose longer words, or none (words=) for a random context."
            )
        self.shapes()
        check_texts(self.frozen.backbone, [f"{self.words} {name}." for task in self.classes for name in task.readable])
        self._lay_out()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every parameter, by name."""
        found: dict[str, tuple[int, ...]] = {}
        tokens, depth = self.text_asked()
        if tokens:
            found["context"] = tokens, self.text_blocks.width
        if tokens and depth > 1:
            found["text_prompts"] = depth - 1, tokens, self.text_blocks.width
        tokens, depth = self.visual_asked()
        if tokens and depth:
            found["visual_prompts"] = depth, tokens, self.image_blocks.width
        return found

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """The parameters, as they start."""
        for name, shape in self.shapes().items():
            self.register_parameter(name, nn.Parameter(self.start(name, shape)))

    def start(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """How a parameter starts: the context as words, all else as Normal(0, 0.02)."""
        if name == "context" and self.words:
            return context_of_words(self.frozen, self.words)[: shape[0]].clone()
        return random_prompts(self.frozen, *shape)

    def declared(self) -> dict[str, Declared]:
        """The parameters."""
        return {f"parameter.{name}": Declared(*shape) for name, shape in self.shapes().items()}

    @cached_property
    def texts(self) -> Texts:
        """The prompts as rows of ids."""
        return self._lay_out()

    def _lay_out(self) -> Texts:
        tokens, _ = self.text_asked()
        replaced = tokens if self.words else 0
        return lay_out(self.frozen, self.class_names, tokens, method=self.name, words=self.words, replaced=replaced)

    def rows(self, name: str) -> Sequence[Tensor]:
        """The prompts of this name, one block's after another's; none if there are none."""
        return tuple(self.get_parameter(name)) if name in self._parameters else ()

    def visual_rows(self) -> Sequence[Tensor]:
        """V_0 .. V_{depth - 1}, [tokens, width] each."""
        return self.rows("visual_prompts")

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        edits: list[Edit] = [Context(self.get_parameter("context"))] if "context" in self._parameters else []
        return self.frozen.text(self.texts, [*edits, *deep_text(self.frozen, self.rows("text_prompts"))])

    def image_features(self, images: Images) -> Tensor:
        """[images, embed]."""
        return self.frozen.image(images, deep_image(self.visual_rows()))


class PromptedBoth(Prompted):
    """Base of methods with independent prompts in both towers."""

    text_tokens: int = option(2, "tokens of the words that are learned, and prompt tokens in a text block", at_least=1)
    text_depth: int = option(
        -1, "text blocks with prompts of their own, the input counted; -1: as the paper", at_least=-1
    )
    visual_tokens: int = option(2, "prompt tokens in an image block", at_least=1)
    visual_depth: int = option(-1, "image blocks with prompts of their own; 0: none; -1: as the paper", at_least=-1)

    def text_asked(self) -> tuple[int, int]:
        """Tokens and blocks of the text tower."""
        return self.text_tokens, self.share(self.text_depth, self.text_blocks.layers)

    def visual_asked(self) -> tuple[int, int]:
        """Tokens and blocks of the image tower; without prompts it may be of any kind."""
        return self.visual_tokens, 0 if self.visual_depth == 0 else self.share(
            self.visual_depth, self.image_blocks.layers
        )
