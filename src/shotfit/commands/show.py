"""`shotfit show`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_bytes, as_options, as_savings
from shotfit.commands.console import print_json, to
from shotfit.errors import UsageError

__all__ = ["show"]


def show(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD|MODEL",
            help="A method's name, path/to/file.py:Class, or the folder or hf://owner/name of a fitted model.",
        ),
    ],
    backbone: flags.Backbone = "mini",
    text: flags.Text = None,
    architecture: flags.Architecture = None,
    options: flags.Options = None,
    memory: flags.Memory = None,
    without: flags.Without = None,
    as_json: flags.Json = False,
) -> None:
    """Show a method: what it computes, its options, its recipe, what --recipe auto chooses, and each call of a tower.

    Of a model's folder: its method, recipe and options, backbone, classes, what it learned from, held-out figures, size
    and calibration, by its record alone; nothing of it runs. A method's name wins over a folder of that name (write
    ./coop for the folder).

    \b
    Examples:
      shotfit show coop
      shotfit show coop --set length=4
      shotfit show shotfit-model --json
      shotfit show hf://owner/name
    """
    if method not in _names() and (Path(method).is_dir() or "://" in method):
        _show_model(method, as_json)
        return
    if method not in (*_names(), "ensemble") and not _in_file(method):
        known = ", ".join(_names())
        raise UsageError(f"There is no method {method!r}, and no folder of a model of that name. Methods: {known}.")
    settings, savings, bound = as_options(options or []), as_savings(without), as_bytes("--memory", memory)
    from shotfit.checkpoints.asked import with_asked
    from shotfit.commands.describe import describe, facts

    backbone = with_asked(backbone, text, architecture)
    lines = describe(method, backbone, settings, savings=savings, memory=bound)
    for line in () if as_json else lines:
        to(sys.stdout)(line)
    if as_json:
        print_json(facts(method) | {"text": lines})


def _names() -> tuple[str, ...]:
    from shotfit.methods import names

    return tuple(names())


def _in_file(method: str) -> bool:
    from shotfit.methods import in_file

    return in_file(method)


def _show_model(model: str, as_json: bool) -> None:
    from shotfit.fitting.addresses import local_folder
    from shotfit.fitting.summary import models_in, summary, summary_lines

    folder = local_folder(model)
    found = [summary(place) for place in models_in(folder)]
    if as_json:
        print_json(found[0] if len(found) == 1 else {"model": str(folder), "models": found})
        return
    for number, one in enumerate(found):
        for line in [*([""] if number else []), *summary_lines(one)]:
            to(sys.stdout)(line)
