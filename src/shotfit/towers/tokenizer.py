"""What a text tower has to know about the tokenizer of its checkpoint, and how texts become rows of token ids.

A row is start, text, end, and nothing after it. Only where a tower reads padding too (SigLIP, or a text tower without a
causal mask or read at its last position) is it filled up to the full length.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from shotfit.errors import ShotfitError

__all__ = ["Tokenizer"]


class Tokenizer(ABC):
    """Texts to ids, with what a text tower has to know about them.

    `context`: longest row, start and end included. `vocabulary`: ids of the text tower. `start`, `end`: the ids put in
    front of and after every text. `padding`: the id that fills rows up to `context`, None where rows stay as long as
    they are. `identity`: sha256 hex digits over all that decides the ids.
    """

    def __init__(
        self,
        *,
        context: int,
        vocabulary: int,
        start: tuple[int, ...],
        end: tuple[int, ...],
        padding: int | None,
        special: Sequence[str],
        source: dict[str, Any],
    ) -> None:
        if context < len(start) + len(end):
            raise ShotfitError(
                f"a text tower of {context} positions has no room for a text's start and end; "
                "its configuration is wrong."
            )
        outside = [token for token in (*start, *end, *([] if padding is None else [padding])) if token >= vocabulary]
        if outside:
            raise ShotfitError(
                f"the tokenizer's special token {outside[0]} is beyond the text tower's {vocabulary:,} ids; "
                "it belongs to another checkpoint, put the right files beside this one."
            )
        self.context = context
        self.vocabulary = vocabulary
        self.start = start
        self.end = end
        self.padding = padding
        self.special = tuple(sorted(special))
        settings = {"context": context, "vocabulary": vocabulary, "start": start, "end": end, "padding": padding}
        self.identity = hashlib.sha256(json.dumps(source | settings, sort_keys=True).encode()).hexdigest()

    @abstractmethod
    def tokens(self, text: str) -> list[int]:
        """The ids of the bare text: no start, no end, of any length."""

    def encode(self, texts: Sequence[str], truncate: bool = False) -> list[list[int]]:
        """One row of ids per text, start and end included, filled up to `context` only where `padding` says so.

        A text that is too long raises ShotfitError, or loses its last tokens before the end where `truncate` is set.
        """
        if isinstance(texts, str):
            raise TypeError("encode takes a sequence of texts, not one string")
        return [self._row(text, truncate) for text in texts]

    def count(self, text: str) -> int:
        """How many tokens the bare text has, without start and end."""
        return len(self.tokens(text))

    def check(self, text: str) -> None:
        """Refuse a class name, template or prompt that holds a special token: the tower would end the text there."""
        held = self._special_in(text)
        if held is not None:
            raise ShotfitError(
                f"{_shown(text)} holds {held}, where the text tower would stop reading; "
                "use a class name or template without it."
            )

    def _special_in(self, text: str) -> str | None:
        lowered = text.lower()
        for token in self.special:
            if token.lower() in lowered:
                return f"the special token {token}"
        marks = {*self.start, *self.end}
        if not marks.isdisjoint(self.tokens(text)):
            return "something that its tokenizer takes for a text's start or end"
        return None

    def known(self, text: str) -> list[int]:
        """As `tokens`; refuses ids that the text tower has not."""
        tokens = self.tokens(text)
        beyond = next((token for token in tokens if token >= self.vocabulary), None)
        if beyond is not None:
            raise ShotfitError(
                f"the tokenizer gives {_shown(text)} the id {beyond}, but the text tower has {self.vocabulary:,} ids; "
                "the tokenizer belongs to another checkpoint, put the right files beside this one."
            )
        return tokens

    def _row(self, text: str, truncate: bool) -> list[int]:
        tokens = self.known(text)
        room = self.context - len(self.start) - len(self.end)
        if len(tokens) > room and not truncate:
            raise ShotfitError(
                f"{_shown(text)} has {len(tokens)} tokens, but the text tower has room for {room}; "
                "shorten the class name or the template."
            )
        row = [*self.start, *tokens[:room], *self.end]
        if self.padding is not None:
            row += [self.padding] * (self.context - len(row))
        return row


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
