"""`shotfit cache`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.console import print_json, to

__all__ = ["cache"]


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of it.", show_default="off")] = False,
    as_json: flags.Json = False,
) -> None:
    """Show where features, verdicts and thumbnails are kept and how large that is, or delete it.

    The folder is $SHOTFIT_CACHE, else shotfit in $XDG_CACHE_HOME or ~/.cache. Features take $SHOTFIT_CACHE_LIMIT at
    most, such as 500MB or 2GiB (default: 20GB); those used longest ago are deleted first. Only what shotfit wrote is
    ever deleted.

    \b
    Examples:
      shotfit cache
      shotfit cache --clear
    """
    from shotfit.data.filecache import FileCache
    from shotfit.engine.store import Store, cache_folder

    folder = cache_folder()
    if folder is None:
        if as_json:
            print_json({"folder": None, "bytes": 0, "limit": 0, "cleared": clear, "kinds": []})
        return
    store = Store(folder / "streams")
    entries = store.entries()
    size = sum(entry.bytes for entry in entries)
    if clear:
        from shotfit.server.app.kept import clear as clear_app

        clear_app(folder)
        store.clear()
        FileCache(folder).clear()
    if as_json:
        kinds = [{**entry.kind, "rows": entry.rows, "bytes": entry.bytes} for entry in entries]
        print_json({"folder": str(folder), "bytes": size, "limit": store.limit, "cleared": clear, "kinds": kinds})
        return
    say = to(sys.stdout)
    say(f"{folder}: {size / 1e6:,.1f} MB of at most {store.limit / 1e6:,.0f} MB{', deleted' if clear else ''}")
    held = [entry for entry in entries if entry.kind.get("tower") == "held out"]
    if held:
        rows, size = sum(entry.rows for entry in held), sum(entry.bytes for entry in held)
        say(f"  answers on held-out images: {rows:,} trainings, {size / 1e6:,.1f} MB")
    for entry in (entry for entry in entries if entry not in held):
        what = f"{entry.kind.get('tower')} tower, step {entry.kind.get('step', 'last')}"
        of = f"backbone {str(entry.kind.get('backbone'))[:12]}"
        say(f"  {what}, {of}: {entry.rows:,} rows, {entry.bytes / 1e6:,.1f} MB")
