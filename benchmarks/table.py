"""The tables of docs/performance.md, out of results.jsonl and gpu.jsonl: python -m benchmarks table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["fill", "gpu_rows", "rows"]

RESULTS, GPU, PAGE = Path("benchmarks/results.jsonl"), Path("benchmarks/gpu.jsonl"), Path("docs/performance.md")
HEAD = ("name", "what is measured", "ours", "reference", "value", "aim")
GPU_HEAD = ("name", "ours", "reference", "value", "TFLOP/s of ours", "of the reference")
BEGIN, GPU_BEGIN, END = "<!-- table -->\n", "<!-- table of a GPU -->\n", "<!-- end of the table -->\n"


def fill(about: Mapping[str, str]) -> None:
    """Write the tables into the page. about: each benchmark's name and its first line."""
    page = PAGE.read_text(encoding="utf-8")
    for begin, table in ((BEGIN, rows(about, _read(RESULTS))), (GPU_BEGIN, gpu_rows(_read(GPU)))):
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(END)
        page = f"{before}{begin}{table}{END}{after}"
    PAGE.write_text(page, encoding="utf-8")


def _read(file: Path) -> dict[str, dict[str, Any]]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {entry["name"]: entry for entry in map(json.loads, lines)}


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


def gpu_rows(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The GPU's table as Markdown.

    Example:
        >>> line = {"value": 2, "unit": "times faster", "ours_s": 0.01, "reference_s": 0.02, "ours_tflops": 8.0}
        >>> print(gpu_rows({"mma_step": line}).splitlines()[-1])
        | `mma_step` | 0.01 s | 0.02 s | 2 times faster | 8 | |
    """
    table = [_row(GPU_HEAD), "|---" * len(GPU_HEAD) + "|"]
    for name, entry in found.items():
        times = [_seconds(entry.get(f"{manner}_s")) for manner in ("ours", "reference")]
        rates = [entry.get(f"{manner}_tflops") for manner in ("ours", "reference")]
        table.append(
            _row([f"`{name}`", *times, _value(entry), *("" if rate is None else f"{rate:.3g}" for rate in rates)])
        )
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
