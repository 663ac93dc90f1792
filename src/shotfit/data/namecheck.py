"""Class names that say nothing to a text tower: numbers, WordNet ids, hashes, codes, single letters, `class_3`.

    without_meaning(["n01440764", "red fox", "class_3"])      # ["n01440764", "class_3"]

A prompt such as "a photo of a n01440764." tells a text tower nothing, so zero-shot and every method that starts from
texts work on noise, without an error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from shotfit.errors import first_few

__all__ = ["IN_FILE", "naming_advice", "without_meaning"]

IN_FILE = ", in classes.toml or with --class-names FILE"

# Words that number a class and do not name it, as in class_3 or img-0042.
_LABELS = frozenset((
    "class", "classes", "cls", "category", "categories", "label", "lbl", "id", "idx", "index", "type", "group", "grp",
    "cluster", "item", "object", "obj", "kind", "set", "sku", "code", "no", "nr", "num", "number", "folder", "dir",
    "img", "image", "pic", "picture", "photo", "part", "product", "sample", "synset", "wnid", "uid", "uuid",
    "grade", "level", "stage", "score", "rank", "tier", "bucket", "slot", "batch", "tag", "target", "variant",
    "version", "species", "breed", "unit",
    "klasse", "gruppe", "typ", "nummer", "classe", "clase", "categoria",
))  # fmt: skip
# Short forms without a vowel that text towers know: they stand in many captions.
_KNOWN_SHORT = frozenset(["tv", "bmw", "dvd", "cd", "pc", "vw", "gmc", "mg", "kfc", "ufo"])
_ALONE = frozenset(
    {"photo", "picture", "set", "object", "image", "stage", "bucket", "tag", "target", "batch"}
)  # things too, where no number follows
_HEX = re.compile(r"(?=.*\d)[0-9a-f]{6,}")
_ROMAN = re.compile(r"[ivx]+")


def without_meaning(names: Sequence[str]) -> list[str]:
    """The names, each once, that hold no word.

    >>> without_meaning(["7", "A300B4", "bcc", "d41d8cd98f00b204", "class_a", "ox", "speed limit 20", "鳥", "cat"])
    ['7', 'A300B4', 'bcc', 'd41d8cd98f00b204', 'class_a']
    """
    return [name for name in dict.fromkeys(names) if not _says_something(name)]


def naming_advice(names: Sequence[str], number: int, where: str = IN_FILE) -> str:
    """One line: which of so many class names say nothing, and what to do. where: a better name can be given."""
    of = f"{len(names):,} of {number:,} class names say" if len(names) > 1 else f"1 of {number:,} class names says"
    return f"{of} nothing to a text tower ({first_few(names, 5)}): give each class its name in words{where}"


def _says_something(name: str) -> bool:
    text = unicodedata.normalize("NFKC", name).replace("_", " ")
    text = re.sub(r"(?<=[a-z]{3})(?=[A-Z])", " ", text).casefold()  # CamelCase, as words
    tokens = re.findall(r"[^\W_]+", text)
    if len(tokens) == 1 and tokens[0] in _ALONE:
        return True
    return any(_is_word(token) for token in tokens)


def _is_word(token: str) -> bool:
    if _HEX.fullmatch(token):  # a hash, or a piece of one
        return False
    letters = re.findall(r"[^\W\d_]+", token)
    if not letters or (len(letters) > 1 and any(map(str.isdigit, token))):  # a number, or letters between digits
        return False
    (word,) = letters
    if not word.isascii():
        # One character of most other scripts can be a word; a single accented Latin letter, or a Greek one, cannot.
        return len(word) > 1 or not unicodedata.name(word, "").startswith(("LATIN", "GREEK", "CYRILLIC"))
    if word in _KNOWN_SHORT:
        return True
    if word in _LABELS or _ROMAN.fullmatch(word) or not re.search("[aeiouy]", word):
        return False
    return len(word) > 2 or (len(word) == 2 and word == token)
