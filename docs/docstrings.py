"""Docstrings of shotfit as reStructuredText, for the API's pages: parameters as a list, examples as code.

A docstring says what a parameter is in running text, `shots: images a class`, as it reads well in a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby

__all__ = ["as_rst"]

NAMES = r"[a-z_]\w*(?:, [a-z_]\w*)*"


def as_rst(lines: Sequence[str], parameters: Collection[str]) -> list[str]:
    """The lines of a docstring; what stands behind the name of a parameter and a colon becomes an entry of a list.

    >>> as_rst(["Draw.", "", "shots: images a class. seed: of the", "draw."], {"shots", "seed"})
    ['Draw.', '', '- **shots**: images a class.', '- **seed**: of the draw.', '']
    >>> as_rst(["Example (needs images):", "    fit(images)"], {"images"})
    ['Example (needs images)::', '', '    fit(images)', '']
    """
    return [line for block in _blocks(lines) for line in [*_converted(block, parameters), ""]]


def _blocks(lines: Sequence[str]) -> Iterator[list[str]]:
    """Paragraphs, each with what is indented below it."""
    for empty, block in groupby(lines, key=lambda line: not line.strip()):
        if not empty:
            yield list(block)


def _converted(block: list[str], parameters: Collection[str]) -> list[str]:
    head, *rest = block
    if head.startswith("Example") and head.endswith(":") and rest:
        return [head, *rest] if ">>> " in rest[0] else [f"{head}:", "", *rest]
    if any(line.startswith((" ", ">>> ")) for line in block):
        return block
    entries = _entries(" ".join(block), parameters)
    return block if len(entries) == 1 and not entries[0][0] else [_entry(*entry) for entry in entries if any(entry)]


def _entry(names: str, text: str) -> str:
    return f"- **{names}**: {text}" if names else f"{text}\n"


def _entries(text: str, parameters: Collection[str]) -> list[tuple[str, str]]:
    """Names and what is said of them; first, without names, what stands before."""
    found = [("", "")]
    for sentence in re.split(r"(?<=[.;]) ", text):
        match = re.match(rf"({NAMES}): ", sentence)
        if match and set(match[1].split(", ")) <= set(parameters):
            found.append((match[1], sentence[match.end() :]))
        else:
            names, said = found[-1]
            found[-1] = (names, f"{said} {sentence}".strip())
    return [(names, re.sub(r";$", ".", said) if names else said) for names, said in found]
