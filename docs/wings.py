"""Draw docs/wings.svg: the wings of shotfit, what lies in each, and which imports which, read from the imports.

    python docs/wings.py

WINGS is the order of the house: a wing imports only from wings above it. `tests/test_wings.py` holds the code to it and
the picture to the code.
"""

from __future__ import annotations

import ast
from collections import Counter
from html import escape
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).parent.parent
SOURCE, PICTURE = ROOT / "src" / "shotfit", ROOT / "docs" / "wings.svg"
EVERYWHERE = ("calls", "errors", "files", "printing", "progress")  # files of the root that every wing may use
WINGS = (
    *("data", "towers", "checkpoints", "engine", "methods", "fitting", "evaluation", "testing"),
    *("report", "export", "distributed", "analysis", "server", "commands"),
)
FACE = ("__init__", "__main__", "light")

WIDTH, LINE, PAD, RAIL = 920, 18, 12, 660  # RAIL: where boxes end and arcs begin
STYLE = """
  svg { font: 13px system-ui, sans-serif; fill: #1f2933; }
  .box { fill: #f4f6f8; stroke: #9aa5b1; }
  .name { font-weight: 600; font-size: 15px; }
  .about { fill: #52606d; }
  .files { font-family: ui-monospace, monospace; font-size: 12px; }
  .arc { fill: none; stroke: #2f6f9f; stroke-opacity: 0.55; }
  .end { fill: #2f6f9f; }
  @media (prefers-color-scheme: dark) {
    svg { fill: #e4e7eb; }
    .box { fill: #242b33; stroke: #616e7c; }
    .about { fill: #b8c1cb; }
    .arc { stroke: #7cc4f5; }
    .end { fill: #7cc4f5; }
  }
"""


def imports(source: Path = SOURCE) -> list[tuple[str, str]]:
    """Every import of a shotfit module by another, as dotted paths below the package: ("fitting.fit", "data.tasks")."""
    found = []
    for file in sorted(source.rglob("*.py")):
        inside = file.relative_to(source).with_suffix("")
        importer = ".".join(part for part in inside.parts if part != "__init__" or len(inside.parts) == 1)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "shotfit":
                below = node.module.split(".")[1:]
                names = [".".join([*below, alias.name]) for alias in node.names]
                found += [(importer, name) for name in names]
            elif isinstance(node, ast.Import):
                named = [alias.name.split(".") for alias in node.names]
                found += [(importer, ".".join(name[1:]) or "__init__") for name in named if name[0] == "shotfit"]
    return found


def wing_of(module: str) -> str:
    """The wing of a dotted path, or the file of the root."""
    return module.split(".")[0]


def between(found: list[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """How many imports go from one wing to another; what every wing may use is left out."""
    pairs = Counter((wing_of(importer), wing_of(imported)) for importer, imported in found)
    return Counter({pair: count for pair, count in pairs.items() if set(pair) <= set(WINGS) and pair[0] != pair[1]})


def drawn() -> str:
    """The picture as SVG text."""
    parts, middles, top = list[str](), dict[str, float](), PAD
    for wing in WINGS:
        about = ast.get_docstring(ast.parse((SOURCE / wing / "__init__.py").read_text(encoding="utf-8"))) or ""
        entries = sorted(path for path in (SOURCE / wing).iterdir() if not path.name.startswith("_"))
        names = [path.stem if path.is_file() else f"{path.name}/" for path in entries]
        lines = wrap(" ".join(names), 84)
        first, *rest = wrap(about.partition("\n")[0], 70)
        height = 2 * PAD + LINE * (1 + len(rest) + len(lines))
        middles[wing] = top + height / 2
        parts.append(f'<rect class="box" x="{PAD}" y="{top}" width="{RAIL - PAD}" height="{height}" rx="6"/>')
        at = top + PAD + 13
        parts.append(f'<text class="name" x="{2 * PAD}" y="{at}">{wing}/</text>')
        for line in (first, *rest):
            parts.append(f'<text class="about" x="{2 * PAD + 110}" y="{at}">{escape(line)}</text>')
            at += LINE
        for line in lines:
            parts.append(f'<text class="files" x="{2 * PAD}" y="{at}">{escape(line)}</text>')
            at += LINE
        top += height + PAD
    for (importer, imported), count in sorted(between(imports()).items()):
        start, end = middles[importer] - 5, middles[imported] + 5
        reach = RAIL + 28 + 26 * (WINGS.index(importer) - WINGS.index(imported))
        parts.append(
            f'<path class="arc" stroke-width="{1 + count**0.5 / 3:.1f}" '
            f'd="M{RAIL} {start:.0f} C{reach} {start:.0f} {reach} {end:.0f} {RAIL + 8} {end:.0f}">'
            f"<title>{importer} imports {imported}: {count} names</title></path>"
            f'<path class="end" d="M{RAIL} {end:.0f} l9 -4 v8 z"/>'
        )
    size = f'viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    title = "<title>The wings of shotfit: each imports only from wings above it</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
