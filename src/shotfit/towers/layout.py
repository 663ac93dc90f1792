"""Streams: the hidden states of a tower between two steps, and which tokens form which row.

A `Stream` is one flat matrix [tokens, width] with a `Layout`. Norms, MLPs and adapters never look at the layout; only
attention, prompt tokens and the final reading do. That keeps packing (rows of unequal length without padding), shared
beginnings and reading one token independent of each other and of every edit.

Flat order: the shared beginnings of all groups, one after another, then each row's own tokens, rows in group order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor

from shotfit.errors import UsageError
from shotfit.towers.texts import Group

__all__ = ["Layout", "Packing", "Savings", "Stream"]


@dataclass(frozen=True)
class Savings:
    """The savings, each of which can be switched off for comparison; all but `reduced_images` are exact.

    `frozen_beginning`: steps before the first edit come from the store. `cut`: causal rows end at the read token.
    `shared`: what prompts have in common runs once. `read_alone`: the last block runs for the read token alone.
    `replaced`: tokens that the next step replaces give keys and values only. `silu`: QuickGELU runs as SiLU.
    `reduced_images`: large JPEGs are decoded at reduced size (`decoding.py`). `replayed`: a GPU records a training step
    once and replays it (`replay.py`). `absent_tasks`: a training step runs no prompt of a task without an image in its
    batch (`base.py`).
    """

    frozen_beginning: bool = True
    cut: bool = True
    shared: bool = True
    read_alone: bool = True
    replaced: bool = True
    silu: bool = True
    reduced_images: bool = True
    replayed: bool = True
    absent_tasks: bool = True

    @classmethod
    def none(cls) -> Savings:
        """The reference manner: everything runs for every row and token."""
        return cls.without([field.name for field in fields(cls)])

    @classmethod
    def without(cls, names: Sequence[str]) -> Savings:
        """All savings but those named. Raises UsageError, with the names that there are.

        Example:
            >>> Savings.without(["cut", "shared"]).cut
            False
        """
        known = [field.name for field in fields(cls)]
        for name in names:
            if name not in known:
                raise UsageError(f"There is no saving {name!r}: use {', '.join(known[:-1])} or {known[-1]}.")
        return cls(**dict.fromkeys(names, False))


class Packing:
    """Rows of unequal length in one flat matrix, padded where an operation needs a rectangle.

    Rows of equal length are only viewed, never copied. Rows of length 0 are allowed: places without a row.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = tuple(lengths)
        self.rows, self.longest, self.tokens = len(lengths), max(lengths, default=0), sum(lengths)
        self.even = all(length == self.longest for length in lengths)
        starts = [0, *accumulate(lengths)]
        span = range(self.longest)
        self._gather = torch.tensor(
            [start + i if i < length else 0 for start, length in zip(starts, lengths, strict=False) for i in span]
        )
        self._places = torch.tensor(
            [row * self.longest + i for row, length in enumerate(lengths) for i in range(length)], dtype=torch.long
        )
        self.present = torch.tensor([[i < length for i in span] for length in lengths])  # [rows, longest]

    def to(self, device: torch.device) -> None:
        """Move the index tables."""
        self._gather, self._places = self._gather.to(device), self._places.to(device)
        self.present = self.present.to(device)

    def pad(self, flat: Tensor) -> Tensor:
        """[tokens, ...] to [rows, longest, ...]; what stands in padded places is arbitrary but finite."""
        full = flat if self.even else flat.index_select(0, self._gather)
        return full.view(self.rows, self.longest, *flat.shape[1:])

    def flatten(self, padded: Tensor) -> Tensor:
        """[rows, longest, ...] to [tokens, ...]."""
        flat = padded.reshape(self.rows * self.longest, *padded.shape[2:])
        return flat if self.even else flat.index_select(0, self._places)


class Layout:
    """Which tokens of a stream form which row. Built once on the CPU, then only used.

    groups: how rows share beginnings; `shared` packs the groups' beginnings (None if nothing is shared), `own` the
    rows' own tokens in [groups x most rows of a group] places, `reads` one query a place.
    visible: [places, longest], which own tokens a read token sees, None if all (empty places see everything; unused).
    unpadded: [rows, longest], without the padding, which no token may see; None where nothing is hidden.
    positions: place of each token in its row. read: flat index of the token that each row is read at, in group order;
    `order` brings rows back to the caller's order (None if it is that already).
    """

    def __init__(
        self,
        lengths: Sequence[int],
        reads: Sequence[int],
        groups: Sequence[Group],
        causal: bool,
        unpadded: Sequence[int] | None = None,
    ) -> None:
        """unpadded: how many tokens of each row stand in front of padding that none may see; only without groups."""
        self.rows, self.causal = len(lengths), causal
        self.groups = tuple(groups)
        self._made_of = tuple(lengths), tuple(reads)
        self.places = max(len(group.rows) for group in groups)  # rows of a group, empty places included
        own, places, read = [], [], []
        positions = [place for group in groups for place in range(group.shared)]
        self.shared = Packing([group.shared for group in groups]) if any(group.shared for group in groups) else None
        flat = self.shared.tokens if self.shared else 0
        for group in groups:
            for row in group.rows:
                own.append(lengths[row] - group.shared)
                read.append(flat + reads[row] - group.shared)
                flat += own[-1]
                positions += range(group.shared, lengths[row])
            empty = [0] * (self.places - len(group.rows))
            places += [1] * len(group.rows) + empty
            own += empty
        self.own, self.reads = Packing(own), Packing(places)
        self.tokens = flat
        self.read = torch.tensor(read)
        self.positions = torch.tensor(positions)
        self._positions, self._found = positions, dict[tuple[int, int], tuple[Tensor, Tensor]]()
        self._longer = dict[tuple[int, int], tuple[Layout, Tensor]]()
        sequence = [row for group in groups for row in group.rows]
        self.order = None if sequence == sorted(sequence) else torch.tensor(sequence).argsort()
        self.visible = self._visible([reads[row] - lengths[row] + 1 for row in sequence])
        self.unpadded: Tensor | None = None
        if unpadded is not None and min(unpadded) < self.own.longest:
            self.visible = self.unpadded = torch.arange(self.own.longest) < torch.tensor(unpadded)[:, None]

    def _visible(self, behind: Sequence[int]) -> Tensor | None:
        """behind: how many places from its row's end each read token stands, as a negative number."""
        if self.own.even and not (self.causal and any(behind)):
            return None
        own = self.own.present  # [places, longest]
        if self.causal:
            last = own.sum(dim=1)
            last[last > 0] += torch.tensor(behind)
            own = torch.arange(self.own.longest) < last[:, None]
        return own | ~self.own.present[:, :1]

    @classmethod
    def even(cls, rows: int, tokens: int, device: torch.device, last: int = 0) -> Layout:
        """Rows of equal length that share nothing and are read at their first token: an image tower's.

        last: how many tokens at the end of each row are read too.
        """
        if isinstance(rows, int):
            return _counted(rows, tokens, device, last)
        return OpenLayout(rows, tokens, device, last)

    def lengthened(self, position: int, count: int) -> tuple[Layout, Tensor]:
        """The layout of rows with `count` more tokens from place `position` on, and where the tokens of this one stand.

        The new ones (`standing` says where) are of the shared beginning where it reaches so far, and run once for its
        rows.
        """
        if (position, count) not in self._longer:
            lengths, reads = self._made_of
            if position > min(lengths):
                raise ValueError(f"no token can stand at place {position} of a row of {min(lengths)}")
            groups = [
                Group(group.rows, group.shared + count if 0 < group.shared >= position else group.shared)
                for group in self.groups
            ]
            moved = [read + count if read >= position else read for read in reads]
            with torch.inference_mode(False):
                longer = Layout([length + count for length in lengths], moved, groups, self.causal)
                new = set(longer.standing(position, count)[0].tolist())
                kept = torch.tensor([index for index in range(longer.tokens) if index not in new], dtype=torch.long)
            longer.to(self.read.device)
            self._longer[position, count] = longer, kept.to(self.read.device)
        return self._longer[position, count]

    def standing(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """The tokens at places `first` to `first + count - 1` of their rows: flat index, and number from `first` on."""
        if (first, count) not in self._found:
            found = [(index, place - first) for index, place in enumerate(self._positions)]
            with torch.inference_mode(False):
                table = torch.tensor([pair for pair in found if 0 <= pair[1] < count], dtype=torch.long).view(-1, 2)
                indices, numbers = table.to(self.read.device).unbind(dim=1)
            self._found[first, count] = indices, numbers
        return self._found[first, count]

    def to(self, device: torch.device) -> Layout:
        """Move the index tables; done once, before the first step."""
        if self.read.device != device:
            self.read, self.positions = self.read.to(device), self.positions.to(device)
            self._found.clear()
            self._longer.clear()
            self.order = None if self.order is None else self.order.to(device)
            self.visible = None if self.visible is None else self.visible.to(device)
            self.unpadded = None if self.unpadded is None else self.unpadded.to(device)
            for packing in (self.shared, self.own, self.reads):
                if packing is not None:
                    packing.to(device)
        return self


@cache  # never dropped: a recording on a GPU (`replay.py`) reads the tables where they lie
def _counted(rows: int, tokens: int, device: torch.device, last: int) -> Layout:
    with torch.inference_mode(False):  # it is kept, and may serve a training next
        layout = Layout([tokens] * rows, [0] * rows, [Group(tuple(range(rows)), 0)], False)
        if last:
            layout.reads = Packing([1 + last] * rows)
            layout.read = _read_places(layout.read, tokens, last)
        return layout.to(device)


def _read_places(first: Tensor, tokens: int, last: int) -> Tensor:
    """Flat indices of the first and the last tokens of rows of equal length that begin at `first`."""
    places = torch.tensor([0, *range(tokens - last, tokens)], device=first.device)
    return (first[:, None] + places).flatten()


class OpenPacking(Packing):
    """Rows of equal length, however many there are."""

    def __init__(self, longest: int) -> None:
        self.longest, self.even = longest, True

    def pad(self, flat: Tensor) -> Tensor:
        """[tokens, ...] to [rows, longest, ...]."""
        return flat.unflatten(0, (-1, self.longest))

    def flatten(self, padded: Tensor) -> Tensor:
        """[rows, longest, ...] to [tokens, ...]."""
        return padded.flatten(0, 1)


class OpenLayout(Layout):
    """What `even` gives while a tower is traced for any number of images: their count is a symbol, not a number."""

    def __init__(self, rows: torch.SymInt, tokens: int, device: torch.device, last: int = 0) -> None:
        self.rows, self.causal = rows, False  # type: ignore[assignment]
        self.shared = self.visible = self.unpadded = self.order = None
        self.own, self.reads = OpenPacking(tokens), OpenPacking(1 + last)
        first = torch.arange(rows, device=device) * tokens  # type: ignore[call-overload]
        self.read = _read_places(first, tokens, last) if last else first


@dataclass(frozen=True, eq=False)
class Stream:
    """Hidden states after `step`: [tokens, width] with a layout; a ResNet's are maps [n, channels, h, w] without one.

    `before`: what the last block read, for edits that stand beside it. `read`: only the tokens that are read are left
    (after a last block that ran for them alone). `prompts`: prompt tokens at the end of each row.
    """

    hidden: Tensor
    layout: Layout | None
    step: int
    savings: Savings = Savings()
    before: Tensor | None = None
    read: bool = False
    prompts: int = 0
