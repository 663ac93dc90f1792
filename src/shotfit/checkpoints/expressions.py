"""Which regular expressions of a tokenizer file are run: those that cannot take for ever.

The library's engine tries every way in which an expression can match. `(a+)+b` has 2 ** n of them on a text of n times
`a`, so that a name of forty letters takes hours. What is let through repeats little, and nothing within what repeats.

    >>> problem_of(r"\\s+(?!\\S)|[\\p{L}]+|'s")
    >>> problem_of(r"(a+)+b")
    'repeats without bound within a group'
"""

from __future__ import annotations

import re

__all__ = ["problem_of"]

LONGEST = 1_000  # characters
MOST_WAYS = 256  # in which what is bounded may match, for each alternative
MOST_SQUARED = 8  # alternatives that something follows on what repeats without bound

# one part of an expression: the beginning or end of a group, an alternative, or a character or class of them
_PART = re.compile(
    r"""
    (?P<open>\((?:\?(?:[:=!]|<[=!]|i:))?)
    | (?P<close>\))
    | (?P<either>\|)
    | (?P<atom>
        \\[pP]\{\^?\w{1,40}\} | \\x\{[0-9a-fA-F]{1,6}\} | \\x[0-9a-fA-F]{2} | \\u[0-9a-fA-F]{4} | \\[^\dxugkKXpP]
        | \[ (?: \\[pP]\{\^?\w{1,40}\} | \\x\{[0-9a-fA-F]{1,6}\} | \\[^\d] | [^\\\[\]] )+ \]
        | [^\\()\[\]|*+?{}]
      )
    """,
    re.VERBOSE | re.DOTALL,
)
_TIMES = re.compile(r"(?P<endless>[*+])|(?P<maybe>\?)|\{(?P<least>\d{1,2})(?P<comma>,)?(?P<most>\d{0,2})\}")


def problem_of(expression: str, squared: bool = True) -> str | None:
    """Why an expression is not run, as the end of a sentence; None for one that is.

    Each alternative may repeat one thing without bound in its middle (not where `squared` is False: the time is then
    in proportion to the text, else to its square) and one at its end. A group may be left out but not repeated, and
    holds nothing without bound. There are no references back and no lazy or possessive repetitions.
    """
    if len(expression) > LONGEST:
        return f"has more than {LONGEST:,} characters"
    place, inner, ways, costly = 0, 0, 1, 0
    at_end = False  # whether the part before repeats without bound
    groups: list[int] = []  # alternatives of each open group
    while place < len(expression):
        part = _PART.match(expression, place)
        if part is None:
            return f"has something in it that is not known ({expression[place : place + 8]!r})"
        place = part.end()
        if part["either"]:
            if groups:
                groups[-1] += 1
            else:
                inner, ways, at_end = 0, 1, False
            continue
        inner, costly, at_end = inner + at_end, costly + at_end, False
        if part["open"]:
            groups.append(1)
            continue
        if part["close"]:
            if not groups:
                return "closes a group that it did not open"
            ways *= groups.pop()
        times = _TIMES.match(expression, place)
        if times is not None:
            place = times.end()
            endless = bool(times["endless"] or (times["comma"] and not times["most"]))
            if part["close"] and not times["maybe"]:
                return "repeats a group"
            if endless and groups:
                return "repeats without bound within a group"
            if place < len(expression) and expression[place] in "*+?{":
                return "repeats what is repeated"
            at_end = endless
            if times["maybe"]:
                ways *= 2
            elif times["comma"] and times["most"]:
                ways *= max(1, int(times["most"]) - int(times["least"]) + 1)
        if inner > squared or ways > MOST_WAYS or costly > MOST_SQUARED:
            return "could take too long"
    return "does not close a group" if groups else None
