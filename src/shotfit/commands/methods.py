"""`shotfit methods`."""

from __future__ import annotations

import sys

from shotfit.commands import flags
from shotfit.commands.console import is_terminal, print_json, show_table, to

__all__ = ["methods"]


def methods(as_json: flags.Json = False) -> None:
    """List the methods. Verified: compared with results of its authors' program.

    \b
    Example:
      shotfit methods
    """
    from shotfit.commands.describe import overview

    rows = overview()
    if as_json:
        keys = ("method", "title", "new_classes", "verified", "source")
        print_json({"methods": [dict(zip(keys, row, strict=True)) for row in rows]})
        return
    head = ("method", "title", "new classes", "verified", "source")
    if is_terminal(sys.stdout):
        show_table([head, *rows], sys.stdout, left=True)
        return
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        to(sys.stdout)("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
