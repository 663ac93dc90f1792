"""`shotfit methods`."""

from __future__ import annotations

import sys

from shotfit.commands import flags
from shotfit.commands.console import print_json, show_table

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
    show_table([head, *rows], sys.stdout, left=True)
