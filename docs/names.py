"""Write the table of names into docs/backbones.md, from src/shotfit/assets/backbones.json.

    python docs/names.py

`tests/test_names.py` checks that the page has today's table.
"""

from __future__ import annotations

from pathlib import Path

from shotfit.checkpoints.names import markdown

PAGE = Path(__file__).parent / "backbones.md"
BEGIN, END = "<!-- names -->", "<!-- end of names -->"


def written(page: str) -> str:
    """The page with today's table between its marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{markdown()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
