"""`shotfit analyze layers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import flags

__all__ = ["layers"]


def layers(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]...", help="Two or more data sets: folders, manifests, ...", show_default=False
        ),
    ] = None,
    tasks: flags.Tasks = None,
    backbone: flags.Backbone = "mini",
    as_json: flags.Json = False,
) -> None:
    """Look at each layer of both towers: which data set is a sample from, and how far apart are images and texts?

    \b
    Examples:
      shotfit analyze layers --tasks tasks.toml
      shotfit analyze layers --tasks tasks.toml --plot layers.svg
    """
