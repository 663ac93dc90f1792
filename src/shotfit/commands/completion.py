"""What the shell proposes for a word that is half typed: methods, backbones, formats, devices.

`shotfit --install-completion` puts it into the shell's settings. Each proposal is a table that is there without torch,
so that a press of the tab key does not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["backbones", "choices", "method_lists", "methods"]


def methods(begun: str) -> list[str]:
    """Methods of `fit`, auto among them."""
    return _beginning(begun, ["auto", *_methods()])


def method_lists(begun: str) -> list[str]:
    """The last of several methods between commas, with those before it.

    >>> method_lists("zero_shot,coo")
    ['zero_shot,coop', 'zero_shot,coop_mt']
    """
    before, comma, last = begun.rpartition(",")
    return [f"{before}{comma}{name}" for name in _beginning(last, _methods())]


def backbones(begun: str) -> list[str]:
    """Short names of backbones.

    >>> backbones("ViT-B")
    ['ViT-B/32', 'ViT-B/16']
    """
    from shotfit.checkpoints.names import NAMES

    return _beginning(begun, ["mini", *(entry.name for entry in NAMES)])


def choices(*words: str) -> Callable[[str], list[str]]:
    """Those of a few words that begin so."""

    def those(begun: str) -> list[str]:
        return _beginning(begun, words)

    return those


def _methods() -> list[str]:
    from shotfit.methods import METHODS

    return list(METHODS)


def _beginning(begun: str, words: Sequence[str]) -> list[str]:
    return [word for word in words if word.startswith(begun)]
