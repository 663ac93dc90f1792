"""Texts as rows of token ids, and the beginnings that they share.

A row runs from the start token to the end token; a learned vector is an id beyond the vocabulary, so a prompt with a
context is a list operation on ids and no method assembles embeddings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

from shotfit.towers.config import BertConfig, TextConfig

__all__ = ["Group", "Texts", "read_position", "share_beginnings", "trim", "words"]


@dataclass(frozen=True, eq=False)
class Texts:
    """Rows of token ids, as a tokenizer gives them or as a method assembles them.

    Example:
        >>> Texts.of([[49406, 320, 2368, 49407], [49406, 320, 1929, 49407]]).rows[1]
        (49406, 320, 1929, 49407)
    """

    rows: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, rows: Iterable[Iterable[int]]) -> Texts:
        """Texts from any rows of ids."""
        return cls(tuple(tuple(row) for row in rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> Texts:
        return Texts(self.rows[rows])

    @cached_property
    def digest(self) -> str:
        """sha256 over the rows, the key of what is stored for them."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(np.asarray([len(row), *row], dtype="<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Group:
    """Rows (by index) whose first `shared` ids are the same and run once."""

    rows: tuple[int, ...]
    shared: int


def read_position(row: Sequence[int], config: TextConfig) -> int:
    """Where the text tower reads a row. Learned ids do not count: the original ids decide."""
    if config.pooling == "first":
        return 0
    if config.pooling == "last":
        return len(row) - 1
    if config.pooling == "end":
        return next((place for place, token in enumerate(row) if token == config.end), 0)
    known = [(-1 if token >= config.vocabulary else token) for token in row]
    return known.index(max(known))


def words(row: Sequence[int], padding: int) -> int:
    """How many tokens stand in front of a row's padding, one at least."""
    count = len(row)
    while count > 1 and row[count - 1] == padding:
        count -= 1
    return count


def trim(row: Sequence[int], config: TextConfig | BertConfig, cut: bool) -> tuple[tuple[int, ...], int]:
    """A row as it runs, and its read position.

    With `cut`, a causal row ends at the token that is read, because nothing after it can reach that token, and a row of
    BERT's in front of its padding, which no token sees. Otherwise, and always where the tower sees the padding (no
    causal mask, or read at the last position), it has full length.
    """
    if isinstance(config, BertConfig):
        kept = tuple(row[: words(row, config.padding)])
        return (kept if cut else (*kept, *[config.padding] * (config.context - len(kept)))), 0
    causal_read = config.causal and config.pooling != "last"
    if cut and causal_read:
        position = read_position(row, config)
        return tuple(row[: position + 1]), position
    full = (*row, *[config.padding] * (config.context - len(row)))
    return full, read_position(row if causal_read else full, config)


def share_beginnings(rows: Sequence[Sequence[int]]) -> list[Group]:
    """Group rows by the beginnings that cost the fewest tokens when each group's beginning runs once.

    The rows form a trie; sharing at depth p among r rows saves p (r - 1) tokens, and of a node and its subtrees the
    better choice is kept, so the result is the cheapest one of one beginning a row. At least the last token of a row
    stays its own, because it is read there. Rows that share nothing form groups with a beginning of length 0.

    Attention runs on groups of the same number of places, so a long list beside short ones would mostly run on empty
    places. Groups are therefore cut to a number of places that makes tokens and empty places together cheapest, and
    a beginning that saves less than its empty places cost is not shared.
    """
    order = sorted(range(len(rows)), key=lambda index: tuple(rows[index]))
    _, groups = _best_groups(rows, order, 0)
    together = [group for group in groups if len(group.rows) > 1 and group.shared > 0]
    longest, widest = max(map(len, rows)), max((len(group.rows) for group in together), default=1)
    widths = [widest, *(2**power for power in reversed(range(widest.bit_length())) if 2**power < widest)]
    cuts = {width: _cut(together, width, longest) for width in widths}
    width = max(widths, key=lambda width: cuts[width][0])
    kept = cuts[width][1]
    taken = {index for group in kept for index in group.rows}
    alone = [index for index in range(len(rows)) if index not in taken]
    step = width if kept else len(rows)
    return [*(Group(tuple(alone[at : at + step]), 0) for at in range(0, len(alone), step)), *kept]


_EMPTY = 8  # empty places that cost as much as one token: attention alone runs for them, once a block


def _cut(groups: list[Group], width: int, longest: int) -> tuple[float, list[Group]]:
    """Tokens saved less what empty places cost, and the groups in pieces of `width` rows, without those that lose."""
    saved, kept = 0.0, list[Group]()
    for group in groups:
        pieces = [group.rows[at : at + width] for at in range(0, len(group.rows), width)]
        empty = (len(pieces) * width - len(group.rows)) * longest
        gain = group.shared * (len(group.rows) - len(pieces)) - empty / _EMPTY
        if gain > 0:
            saved += gain
            kept += [Group(piece, group.shared) for piece in pieces]
    return saved, kept


def _best_groups(rows: Sequence[Sequence[int]], members: list[int], depth: int) -> tuple[int, list[Group]]:
    """Tokens saved, and the groups, of sorted `members` that agree in their first `depth` ids."""
    first, last = rows[members[0]], rows[members[-1]]
    longest = min(len(rows[index]) for index in members) - 1
    while depth < longest and first[depth] == last[depth]:  # sorted: what the ends share, all share
        depth += 1
    here = depth * (len(members) - 1)
    if len(members) == 1 or depth == longest:
        return here, [Group(tuple(sorted(members)), depth)]
    saved, below = 0, list[Group]()
    for _, branch in groupby(members, key=lambda index: rows[index][depth]):
        gain, groups = _best_groups(rows, list(branch), depth + 1)
        saved, below = saved + gain, below + groups
    return (saved, below) if saved > here else (here, [Group(tuple(sorted(members)), depth)])
