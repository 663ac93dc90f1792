"""Blocks that an option lists."""

from __future__ import annotations

from shotfit.errors import UsageError

__all__ = ["listed_blocks"]


def listed_blocks(text: str, layers: int, what: str) -> list[int]:
    """Numbers of blocks from 1, ascending, of a text with numbers and ranges.

    >>> listed_blocks("1, 4-6", 12, "clip_lora: text_blocks")
    [1, 4, 5, 6]

    what: the option, for the error. Raises UsageError for another text, and for blocks that a tower of so many layers
    does not have.
    """
    found = set[int]()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        last = last if dash else first
        fits = first.isdecimal() and last.isdecimal() and len(first) < 5 > len(last)
        if not (fits and 1 <= int(first) <= int(last) <= layers):
            raise UsageError(
                f"{what} must be numbers from 1 to {layers} or ranges of them, such as 1,3 or "
                f"{max(1, layers // 2)}-{layers}, but is {text!r}."
            )
        found.update(range(int(first), int(last) + 1))
    return sorted(found)
