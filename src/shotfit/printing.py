"""Text from outside on its way to people and programs: file names, labels, columns, names of tasks and tensors.

print(printable(label))           # a terminal: what would move its cursor or turn text around is an escape
print(as_json(row))               # a program: exact, and a terminal may show it
as_csv(rows)                      # CSV: exact, and no spreadsheet runs it; `from_cell` reads a cell back
f"| {as_markdown(label)} |"       # a model card, a table
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["as_cell", "as_code", "as_csv", "as_json", "as_markdown", "cut", "from_cell", "printable"]

# Control signs (ESC, BEL, line ends, C1), signs that are not seen (bidi, zero width), halves of surrogate pairs (bytes
# of a file name that are no text), and the two other line ends of Unicode.
_UNSEEN = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])
_JOINERS = "\u200c\u200d"  # unseen too, but part of words in Persian and Hindi, and of emoji

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""How a cell begins that a spreadsheet takes for a formula, with the apostrophes that `as_cell` puts in front."""


def printable(text: object) -> str:
    r"""The text in one line that does nothing to a terminal: signs that control it or are not seen become escapes.

    >>> printable("a\x1b[31m\u202ecat.jpg\n"), printable("Käse 猫")
    ('a\\x1b[31m\\u202ecat.jpg\\n', 'Käse 猫')
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(_escaped(sign) if _is_unseen(sign) else sign for sign in plain)


def cut(text: str, most: int) -> str:
    """The text, or its beginning and end where it has more characters.

    >>> cut("abcdefgh", 4), cut("abcd", 4)
    ('ab ... gh', 'abcd')
    """
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def _is_unseen(sign: str) -> bool:
    return unicodedata.category(sign) in _UNSEEN and sign not in _JOINERS


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def as_json(value: Any) -> str:
    r"""One line of JSON with the value as it is, in which control signs and unseen ones are JSON's own escapes.

    >>> as_json({"label": "é\x9b\u202e"})
    '{"label": "é\\u009b\\u202e"}'
    """
    line = json.dumps(value, ensure_ascii=False)
    if line.isprintable():
        return line
    return "".join(json.dumps(sign)[1:-1] if _is_unseen(sign) else sign for sign in line)


def as_cell(value: object) -> object:
    """A cell of a CSV file: a text that a spreadsheet would run as a formula gets an apostrophe in front.

    Such texts begin with = + - @, a tab or a line end. Numbers stay as they are.

    >>> as_cell("=1+1"), as_cell("it's"), as_cell(-1.5)
    ("'=1+1", "it's", -1.5)
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def as_csv(rows: Iterable[Sequence[object]]) -> str:
    r"""Rows as lines of a CSV file, each with its line end.

    >>> as_csv([["image", "label"], ["a.jpg", "@home"]])
    "image,label\na.jpg,'@home\n"
    """
    text = io.StringIO(newline="")
    for row in rows:
        cells = [as_cell(cell) for cell in row]
        line_end = any("\r" in str(cell) for cell in cells)  # which the writer leaves without quotes
        csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if line_end else csv.QUOTE_MINIMAL).writerow(cells)
    return text.getvalue()


def from_cell(text: str) -> str:
    """The inverse of `as_cell` for texts.

    >>> from_cell("'=1+1"), from_cell(as_cell("'=1+1")), from_cell("it's")
    ('=1+1', "'=1+1", "it's")
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def as_markdown(text: object) -> str:
    r"""The text as Markdown shows it: nothing in it is markup, a link, HTML, or ends a cell of a table.

    >>> as_markdown("<b>|`x`](http://a)")
    '\\<b\\>\\|\\`x\\`\\](http:\\//a)'
    """
    # an underscore within a word is none of Markdown's, and names of methods have it
    return re.sub(r"([\\|*`<>~\[\]&$]|(?<=:)/|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", printable(text))


def as_code(text: object) -> str:
    r"""The text as a piece of code in Markdown, between as many backticks as it needs.

    >>> as_code("mini"), as_code("a`b")
    ('`mini`', '`` a`b ``')
    """
    plain = printable(text)
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {plain} {fence}" if longest or plain != plain.strip() or not plain else f"{fence}{plain}{fence}"
