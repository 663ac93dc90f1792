"""The table of docs/performance.md, out of results.jsonl: python -m benchmarks table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["fill", "rows"]

RESULTS, PAGE = Path("benchmarks/results.jsonl"), Path("docs/performance.md")
HEAD = ("name", "what is measured", "ours", "reference", "value", "aim")
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"


def fill(about: Mapping[str, str]) -> None:
    """Write the table into the page. about: each benchmark's name and its first line."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
    found = {entry["name"]: entry for entry in map(json.loads, lines)}
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{rows(about, found)}{END}{after}", encoding="utf-8")


def rows(about: Mapping[str, str], found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as Markdown; what was not measured has no figure.

    Example:
        >>> print(rows({"coop_step": "CoOp, whole step."}, {}).splitlines()[-1])
        | `coop_step` | CoOp, whole step. | | | | |
    """
    table = [_row(HEAD), "|---" * len(HEAD) + "|"]
    for name, what in about.items():
        entry = found.get(name, {})
        cells = [f"`{name}`", what, *(_seconds(entry.get(key)) for key in ("ours_s", "reference_s"))]
        table.append(_row([*cells, _value(entry), _aim(entry)]))
    return "\n".join(table) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} s"


def _value(entry: Mapping[str, Any]) -> str:
    if entry.get("value") is None:
        return str(entry.get("note", "")).partition(":")[0]
    return f"{entry['value']:.3g} {entry['unit']}"


def _aim(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('target_is', 'at least')} {entry['target']:g}" if entry else ""
