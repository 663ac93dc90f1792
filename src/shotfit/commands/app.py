"""`shotfit app`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.console import to

__all__ = ["app"]


def app(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures, sorted into class folders or not.")],
    backbone: flags.Backbone = "mini",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where the page is; 0 takes any free port.", show_default="any free")
    ] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address and open nothing.", show_default="off")
    ] = False,
    unsorted: Annotated[
        bool, typer.Option("--unsorted", help="Take no labels from the names of folders.", show_default="off")
    ] = False,
    device: flags.Device = "auto",
) -> None:
    """Label the pictures of a folder in the browser, fit, look at mistakes, try, and save.

    The page is on this machine alone, behind an address that nobody can guess. Labels go into a file in FOLDER,
    .shotfit-labels.jsonl, as you give them. No picture is moved or changed.

    \b
    Examples:
      shotfit app photos/
      shotfit app photos/ --no-browser --port 8000
    """
    from shotfit.server.app.start import run_app

    run_app(
        folder,
        backbone=backbone,
        device=device,
        port=port,
        unsorted=unsorted,
        browser=not no_browser,
        say=to(sys.stdout),
    )
