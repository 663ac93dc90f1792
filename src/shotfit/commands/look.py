"""What looks and fits nothing: `shotfit methods`, `show`, `doctor` and `cache`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shotfit.arguments import as_bytes, as_options, as_savings
from shotfit.console import plural, print_json, say_task, to
from shotfit.errors import ShotfitError
from shotfit.flags import Backbone, ClassNames, Folder, ImagesDir, Json, Memory, Options, Without

__all__ = ["cache", "doctor", "methods", "show"]


def methods(as_json: Json = False) -> None:
    """List the methods.

    \b
    Example:
      shotfit methods
    """
    from shotfit.show import overview

    rows = overview()
    if as_json:
        keys = ("method", "title", "new_classes", "source")
        print_json({"methods": [dict(zip(keys, row, strict=True)) for row in rows]})
        return
    head = ("method", "title", "new classes", "source")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(4)]
    for row in [head, *rows]:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def show(
    method: Annotated[str, typer.Argument(help="A method's name, or path/to/file.py:Class.")],
    backbone: Backbone = "mini",
    options: Options = None,
    memory: Memory = None,
    without: Without = None,
) -> None:
    """Show a method: what it computes, its options, its recipe, and each call of a tower.

    \b
    Example:
      shotfit show coop
      shotfit show coop --set length=4
    """
    settings, savings, bound = as_options(options or []), as_savings(without), as_bytes("--memory", memory)
    from shotfit.show import describe

    for line in describe(method, backbone, settings, savings=savings, memory=bound):
        print(line)


def doctor(
    folder: Folder,
    class_names: ClassNames = None,
    images: ImagesDir = None,
    shots: Annotated[int, typer.Option(min=0, help="Also report classes with fewer images; 0 asks for none.")] = 16,
    as_json: Json = False,
) -> None:
    """Look for problems in a folder of images: everything that would stop a fit, and what is odd.

    Exits with 3 if there are errors, with 0 if there are only warnings.

    \b
    Example:
      shotfit doctor photos/
    """
    say = to(sys.stderr if as_json else sys.stdout)
    from shotfit.data.doctor import examine
    from shotfit.data.readers import read_task
    from shotfit.engine.store import cache_folder

    task = read_task(folder, images=images, class_names=class_names, cache=cache_folder())
    say_task(task, say)
    report = examine(task, shots or None, cache_folder())
    for kind, problems in (("error", report.errors), ("warning", report.warnings)):
        for problem in problems:
            say(f"{kind}: {problem.message}")
    found = f"{plural(len(report.errors), 'error')}, {plural(len(report.warnings), 'warning')}"
    say(f"{report.images:,} images of {plural(report.classes, 'class', 'classes')}: {found}")
    if as_json:
        print_json(report.to_json())
    if report.errors:
        raise typer.Exit(ShotfitError.exit_code)


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of it.", show_default="off")] = False,
    as_json: Json = False,
) -> None:
    """Show where features and verdicts are kept and how large that is, or delete it.

    The folder is $SHOTFIT_CACHE, else shotfit in $XDG_CACHE_HOME or ~/.cache. Features take $SHOTFIT_CACHE_LIMIT at
    most, such as 500MB or 2GiB (default: 20GB); those used longest ago are deleted first.

    \b
    Examples:
      shotfit cache
      shotfit cache --clear
    """
    from shotfit.engine.store import Store, cache_folder

    folder = cache_folder()
    store = Store(folder / "streams")
    entries = store.entries()
    size = sum(entry.bytes for entry in entries)
    if clear:
        store.clear()
        for path in folder.glob("files.sqlite*"):
            path.unlink(missing_ok=True)
    if as_json:
        kinds = [{**entry.kind, "rows": entry.rows, "bytes": entry.bytes} for entry in entries]
        print_json({"folder": str(folder), "bytes": size, "limit": store.limit, "cleared": clear, "kinds": kinds})
        return
    print(f"{folder}: {size / 1e6:,.1f} MB of at most {store.limit / 1e6:,.0f} MB{', deleted' if clear else ''}")
    for entry in entries:
        what = f"{entry.kind.get('tower')} tower, step {entry.kind.get('step', 'last')}"
        of = f"backbone {str(entry.kind.get('backbone'))[:12]}"
        print(f"  {what}, {of}: {entry.rows:,} rows, {entry.bytes / 1e6:,.1f} MB")
