"""Edits: what a method may change inside a frozen tower, and where. Plain data that imports nothing of shotfit.

An edit refers to parameters; the method owns them. Each says in which tower it acts and which steps do not depend on
it: step 0 embeds, steps 1 to L are blocks, step L + 1 pools and projects. All savings of section 2 of the design
follow from this and from the ids of a text, never from a method's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

__all__ = ["NOTHING", "Context", "Edit", "frozen_until"]

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


def frozen_until(edits: Sequence[Edit], last: int) -> int:
    """The last step that depends on none of the edits; `last` (the tower's last step) without edits."""
    return min((edit.frozen_until for edit in edits), default=last)
