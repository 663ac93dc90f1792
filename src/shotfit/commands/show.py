"""`shotfit show`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_bytes, as_options, as_savings
from shotfit.commands.console import to

__all__ = ["show"]


def show(
    method: Annotated[str, typer.Argument(help="A method's name, or path/to/file.py:Class.")],
    backbone: flags.Backbone = "mini",
    options: flags.Options = None,
    memory: flags.Memory = None,
    without: flags.Without = None,
) -> None:
    """Show a method: what it computes, its options, its recipe, what --recipe auto chooses, and each call of a tower.

    \b
    Example:
      shotfit show coop
      shotfit show coop --set length=4
    """
    settings, savings, bound = as_options(options or []), as_savings(without), as_bytes("--memory", memory)
    from shotfit.commands.describe import describe

    for line in describe(method, backbone, settings, savings=savings, memory=bound):
        to(sys.stdout)(line)
