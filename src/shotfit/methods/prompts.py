"""Prompts with a learned context, as rows of ids, by where the name stands.

    end      v_1 .. v_L (the context), name, "."
    middle   the first half of the context, name, the longer half, "."
    front    name, context, "."

With `words` (position `end`) the context stands in place of their first tokens, and the others stay in front of the
name: v_1 .. v_L, the rest of the words, name, ".".

A learned vector is an id beyond the vocabulary, so that names may share one context or have one each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shotfit.engine.frozen import Frozen
from shotfit.errors import UsageError
from shotfit.methods.declared import Declared
from shotfit.towers.texts import Texts

__all__ = [
    "POSITIONS",
    "context_length",
    "context_of_words",
    "declared_context",
    "lay_out",
    "random_context",
    "random_prompts",
    "some",
]

POSITIONS = ("end", "middle", "front")
SCALE = 0.02  # standard deviation of a random context


def random_context(frozen: Frozen, *shape: int) -> Tensor:
    """[*shape, width] of Normal(0, 0.02), drawn by torch's default generator; in float32 at least."""
    return random_prompts(frozen, *shape, frozen.backbone.config.text.blocks.width)


def random_prompts(frozen: Frozen, *shape: int) -> Tensor:
    """The same in any shape, for prompt tokens of either tower."""
    return torch.randn(*shape).to(frozen.backbone.device, frozen.parameter_dtype) * SCALE


def context_of_words(frozen: Frozen, words: str) -> Tensor:
    """The word embeddings [tokens, width] of a text without its start and end."""
    words_of = frozen.backbone.text.token_embedding.weight[torch.tensor(_ids(frozen, words))].detach()
    return words_of.to(frozen.parameter_dtype, copy=True)


def context_length(frozen: Frozen, words: str, length: int) -> int:
    """Of a context that starts from words their tokens, else the length."""
    return len(_ids(frozen, words)) if words else length


def declared_context(frozen: Frozen, *shape: int) -> Declared:
    """What a saved context is."""
    return Declared(*shape, frozen.backbone.config.text.blocks.width)


def _ids(frozen: Frozen, words: str) -> list[int]:
    tokenizer, readable = frozen.backbone.checked_tokenizer(), words.replace("_", " ")
    tokenizer.check(readable)
    ids = tokenizer.known(readable)
    if not ids:
        raise UsageError(f"The initial words {words!r} hold no word: give some, or leave the option out.")
    return ids


def lay_out(
    frozen: Frozen,
    names: Sequence[str],
    length: int,
    position: str = "end",
    owners: Sequence[int] | None = None,
    method: str = "",
    words: str = "",
    replaced: int = 0,
) -> Texts:
    """One prompt a name, with `length` learned ids; underscores of names become spaces.

    owners: the context of each name, by number (None: all share the first). Context i has the learned ids
    vocabulary + i length and on. words: in front of the name; their first `replaced` tokens make room for the context.

    Raises UsageError, for `method`, where a prompt is longer than the text tower reads.
    """
    backbone = frozen.backbone
    tokenizer, vocabulary = backbone.checked_tokenizer(), backbone.config.text.vocabulary
    readable = [name.replace("_", " ") for name in names]
    half, ahead = length // 2, f"{words.replace('_', ' ')} " if words else ""
    rows, context = [], list(range(vocabulary, vocabulary + length))
    for index, name in enumerate(readable):
        text, size = tokenizer.known(f"{ahead}{name}.")[replaced:], 0 if position == "end" else tokenizer.count(name)
        first = vocabulary + (0 if owners is None else owners[index] * length)
        if context and first != context[0]:  # of neighbours that have one context, the ids are the same numbers
            context = list(range(first, first + length))
        before = {"end": length, "middle": half, "front": 0}[position]
        inside = [*context[:before], *text[:size], *context[before:], *text[size:]]
        rows.append([*tokenizer.start, *inside, *tokenizer.end])
    longest, room = max(len(row) for row in rows), tokenizer.context
    if longest > room:
        raise UsageError(
            f"{method}: a context of {length} and the longest name take {longest} tokens, but this backbone "
            f"reads {room}: use a smaller length or shorter names."
        )
    padding = tokenizer.padding
    return Texts.of(rows if padding is None else [[*row, *[padding] * (room - len(row))] for row in rows])


def some(texts: Texts, chosen: Sequence[int], learned: int = 0, lower: Sequence[int] | None = None) -> Texts:
    """Some of the rows. lower: by how much the learned ids of each, which begin at `learned`, are lower than before."""
    if lower is None:
        return Texts(tuple(texts.rows[number] for number in chosen))
    return Texts.of(
        [token - less if token >= learned else token for token in texts.rows[number]]
        for number, less in zip(chosen, lower, strict=True)
    )
