"""How a text is cleaned before its pieces are looked up, as the checkpoint was trained.

    spaced       ftfy, HTML unescaped twice, runs of white space to one space: open_clip's, unless it says another
    lowered      the same in lower case: OpenAI's
    canonical    spaced, then _ to a space, punctuation removed, lower case: SigLIP's training (big_vision's)

Text of plain ASCII without & needs neither ftfy nor HTML's rules, so that most class names need no package.
"""

from __future__ import annotations

import html
import re
import string
from collections.abc import Callable
from functools import cache
from typing import Literal

from shotfit.errors import ShotfitError

__all__ = ["CLEANINGS", "Cleaning", "canonical", "lowered", "spaced", "without_punctuation"]

Cleaning = Literal["whitespace", "lower", "canonicalize"]  # by open_clip's words

_PLAIN = re.compile(r"[ -%'-~\s]*", re.ASCII)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def spaced(text: str) -> str:
    """open_clip's basic cleaning.

    >>> spaced("  a   small dog ")
    'a small dog'
    """
    if not _PLAIN.fullmatch(text):
        text = html.unescape(html.unescape(_fix_text()(text)))
    return " ".join(text.split())


def lowered(text: str) -> str:
    """Basic cleaning, in lower case."""
    return spaced(text).lower()


def canonical(text: str) -> str:
    """Basic cleaning, punctuation removed, in lower case.

    >>> canonical("A photo of a snow_leopard.")
    'a photo of a snow leopard'
    """
    return without_punctuation(spaced(text).replace("_", " "))


def without_punctuation(text: str) -> str:
    """Lower case, no punctuation of ASCII, one space between words: what SigLIP's own tokenizer does."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


CLEANINGS: dict[Cleaning, Callable[[str], str]] = {"whitespace": spaced, "lower": lowered, "canonicalize": canonical}


@cache
def _fix_text() -> Callable[[str], str]:
    try:
        from ftfy import fix_text
    except ImportError:
        raise ShotfitError(
            "texts with & or beyond ASCII are cleaned by ftfy for this checkpoint, which is not installed; "
            "run pip install 'shotfit[clip]'."
        ) from None
    return fix_text
