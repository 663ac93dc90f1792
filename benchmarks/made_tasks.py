"""Small tasks that are made from a list of classes by WordNet: neighbours in its tree of nouns, five or so at a time.

WordNet 3.0 comes with Debian's package `wordnet-base` (`/usr/share/wordnet`): the numbers of ImageNet's classes are
places in its `data.noun`.

A window of neighbours, in the order of a walk through the tree, is a task of its own. It is named as the parts of the
emoji's groups are ("dog, chihuahua to collie"), by the lowest synset above all of them, and has the names above that as
parents. Windows of the narrowest synsets come first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from shotfit.errors import ShotfitError

__all__ = ["Made", "WordNet", "made_tasks"]

SIZES = (5, 4, 6, 3, 7)  # classes of a task
TOPS = {"entity", "physical entity", "object", "whole", "matter", "abstraction", "thing"}  # they say nothing
ABOVE = 4  # names of a path at most


@dataclass(frozen=True)
class Made:
    """A task: its name, what is above it, the nearest first, and its classes, by their numbers in the list."""

    name: str
    parents: tuple[str, ...]
    classes: tuple[int, ...]


class WordNet:
    """The nouns of WordNet 3.0: of each synset, by its number, its first word and the synset above it."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "data.noun").is_file():
            raise ShotfitError(f"{folder} holds no data.noun of WordNet 3.0: apt-get install wordnet-base.")
        self.word: dict[str, str] = {}
        self.above: dict[str, str] = {}
        for line in (folder / "data.noun").read_text("utf-8").splitlines():
            if line.startswith(" "):
                continue
            fields = line.split(" | ")[0].split()
            words = int(fields[3], 16)
            self.word[fields[0]] = fields[4].replace("_", " ")
            pointers = fields[5 + 2 * words :]
            upward = [other for kind, other in pairwise(pointers) if kind in ("@", "@i")]
            if upward:
                self.above[fields[0]] = upward[0]
        self.senses: dict[str, str] = {}  # of a word its first synset
        for line in (folder / "index.noun").read_text("utf-8").splitlines():
            if not line.startswith(" "):
                fields = line.split()
                self.senses[fields[0]] = fields[-int(fields[2])]

    def name(self, synset: str) -> str:
        """The first word of a synset, with that of the one above it where the word means something else first."""
        word, above = self.word[synset], self.above.get(synset)
        first = self.senses.get(word.lower().replace(" ", "_")) == synset
        return word if first or above is None else f"{word} ({self.word[above]})"

    def path(self, synset: str) -> list[str]:
        """A synset and all above it, the nearest first."""
        found = [synset]
        while found[-1] in self.above:
            found.append(self.above[found[-1]])
        return found

    def synset_of(self, name: str) -> str | None:
        """The first sense of a class name, or of its words from the front; None where WordNet knows none of them."""
        words = name.lower().replace(" ", "_").split("_")
        tried = ["_".join(words), *("_".join(words[:-count]) for count in range(1, len(words)))]
        return next((self.senses[one] for one in tried if one in self.senses), None)


def made_tasks(
    wordnet: WordNet, classes: Sequence[tuple[str, str]], count: int, without: Mapping[int, object] | None = None
) -> list[Made]:
    """So many tasks of classes (name, synset), or as many as there are; without: classes that none may have."""
    paths = {number: wordnet.path(synset)[::-1] for number, (_, synset) in enumerate(classes)}  # from the top
    order = sorted((number for number in paths if number not in (without or {})), key=lambda number: paths[number])
    wide: dict[str, int] = {}
    for path in paths.values():
        for synset in set(path):
            wide[synset] = wide.get(synset, 0) + 1
    windows: list[tuple[int, int, int, str]] = []
    for rank, size in enumerate(SIZES):
        for start in range(len(order) - size + 1):
            some = order[start : start + size]
            common = [one for one, *others in zip(*(paths[number] for number in some), strict=False)
                      if all(other == one for other in others)]  # fmt: skip
            windows.append((wide[common[-1]], rank, start, common[-1]))
    made: list[Made] = []
    for _, rank, start, synset in sorted(windows):
        some = order[start : start + SIZES[rank]]
        names = [classes[number][0] for number in some]
        if len({*map(str.casefold, names)}) < len(names) or len(made) == count:
            continue
        above = [one for one in wordnet.path(synset) if wordnet.word[one] not in TOPS][:ABOVE]
        name = f"{wordnet.name(synset)}, {names[0]} to {names[-1]} ({len(some)})"
        made.append(Made(name, tuple(map(wordnet.name, above)), tuple(some)))
    return made
