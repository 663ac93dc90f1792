"""Docstrings of shotfit as reStructuredText, for the pages of its interface: parameters as a list, examples as code.

A docstring says what a parameter is in running text, `shots: images a class`, as it reads well in a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from textwrap import dedent

__all__ = ["as_rst"]

NAMES = r"\w+(?:, \w+)*"
CODE = [".. code-block:: python", ""]
SECTIONS = {"Args:": "Parameters:", "Attributes:": "Attributes:", "Raises:": "Raises:"}


def as_rst(lines: Sequence[str], parameters: Collection[str]) -> list[str]:
    """The lines of a docstring; what stands behind the name of a parameter and a colon becomes an entry of a list.

    >>> as_rst(["Draw.", "", "shots: images a class. seed: of the", "draw."], {"shots", "seed"})
    ['Draw.', '', '- **shots**: images a class.', '- **seed**: of the draw.', '']
    >>> as_rst(["Raises:", "    ShotfitError: no class, an empty name,", "        or no template."], {})
    ['Raises:', '', '- **ShotfitError**: no class, an empty name, or no template.', '']
    >>> as_rst(["Example (needs images):", "    fit(images)"], {"images"})
    ['Example (needs images):', '', '.. code-block:: python', '', '    fit(images)', '']
    """
    return [line for block in _blocks(lines) for line in [*_converted(block, parameters), ""]]


def _blocks(lines: Sequence[str]) -> Iterator[list[str]]:
    """Paragraphs, each with what is indented below it."""
    for empty, block in groupby(lines, key=lambda line: not line.strip()):
        if not empty:
            yield list(block)


def _converted(block: list[str], parameters: Collection[str]) -> list[str]:
    head, *rest = block
    inner = dedent("\n".join(rest)).split("\n")
    if head in SECTIONS:
        return [SECTIONS[head], "", *_section(inner)]
    if head.startswith("Example") and head.endswith(":") and rest:
        return [head, "", *inner] if inner[0].startswith(">>> ") else [head, "", *CODE, *rest]
    if any(line.startswith((" ", ">>> ")) for line in block):
        return block
    before, *entries = _sentences(" ".join(block), parameters)
    return [*([before[1], ""] if before[1] and entries else []), *map(_entry, entries)] if entries else block


def _section(lines: Sequence[str]) -> Iterator[str]:
    """The entries of a section, each with what is indented below it."""
    for line in re.split(r"\n(?! )", "\n".join(lines)):
        names, _, said = re.sub(r"\s+", " ", line).partition(": ")
        yield _entry((names, said))


def _entry(entry: tuple[str, str]) -> str:
    names, said = entry
    return f"- **{names}**: {said}"


def _sentences(text: str, parameters: Collection[str]) -> list[tuple[str, str]]:
    """Names of parameters and what is said of them; first, without names, what stands before."""
    found = [("", "")]
    for sentence in re.split(r"(?<=[.;]) ", text):
        match = re.match(rf"({NAMES}): ", sentence)
        if match and set(match[1].split(", ")) <= set(parameters):
            found.append((match[1], sentence[match.end() :]))
        else:
            names, said = found[-1]
            found[-1] = (names, f"{said} {sentence}".strip())
    return [(names, re.sub(r";$", ".", said)) for names, said in found]
