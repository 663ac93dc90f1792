"""`shotfit backbones`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shotfit.commands import completion, flags
from shotfit.commands.console import is_terminal, print_json, show_table, to
from shotfit.errors import UsageError, plural

if TYPE_CHECKING:
    from shotfit.checkpoints.names import Name

__all__ = ["backbones"]


def backbones(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show all that is known of one, with the addresses where it was read.",
            autocompletion=completion.backbones,
            show_default=False,
        ),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            help="Only those for general, small, medical, remote sensing, nature, fashion, multilingual.",
            show_default="all",
        ),
    ] = None,
    search: Annotated[
        str, typer.Option(metavar="WORDS", help="Only those in which each of these words stands.", show_default="all")
    ] = "",
    here: Annotated[bool, typer.Option("--here", help="Only those that are on this disk.", show_default="off")] = False,
    as_json: flags.Json = False,
) -> None:
    """List the backbones that have a name, and say which are on this disk. Any other is named by its file or hub id.

    What was read from no public source is "not verified"; the commit of such a name is recorded at its first load.

    \b
    Examples:
      shotfit backbones
      shotfit backbones --domain medical
      shotfit backbones --search "siglip apache"
      shotfit backbones BiomedCLIP
    """
    from shotfit.checkpoints.names import domains, find, matching, suggestions

    if domain is not None and domain not in domains():
        raise UsageError(f"There is no domain {domain!r}: use {', '.join(domains())}.")
    if name is not None:
        entry = find(name)
        if entry is None:
            close = suggestions(name)
            meant = f"Did you mean {' or '.join(close)}?" if close else "`shotfit backbones` lists the names."
            raise UsageError(f"No backbone has the name {name!r}. {meant}")
        _show(entry, as_json)
        return
    rows = [(entry, _place(entry)) for entry in matching(domain, search)]
    rows = [(entry, place) for entry, place in rows if place or not here]
    if as_json:
        print_json({"backbones": [_plain(entry, place) for entry, place in rows]})
        return
    head = ("name", "for", "tower", "px", "licence", "on this disk", "what")
    cells = [_cells(entry, place) for entry, place in rows]
    if is_terminal(sys.stdout):
        show_table([head, *cells], sys.stdout, left=True)
    else:
        widths = [max(len(row[column]) for row in [head, *cells]) for column in range(len(head))]
        for row in [head, *cells]:
            to(sys.stdout)("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    to(sys.stdout)(f"{plural(len(rows), 'backbone')}; shotfit backbones NAME shows commit, file and sources of one")


def _cells(entry: Name, place: str) -> tuple[str, ...]:
    from shotfit.checkpoints.names import NOT_VERIFIED

    facts = (entry.name, entry.domain, entry.tower, str(entry.pixels), entry.license or NOT_VERIFIED)
    return (*facts, place, entry.about)


def _place(entry: Name) -> str:
    """Where its weights lie on this disk; "" where they do not."""
    from shotfit.checkpoints import hub

    if entry.repository is None:
        return "in the package"
    commits = hub.on_disk(entry.repository)
    if not commits:
        return ""
    return "in the hub's cache" if entry.revision in ("", *commits) else "in the hub's cache, another commit"


def _plain(entry: Name, place: str) -> dict[str, Any]:
    more = {"sources": dict(entry.sources), "on_disk": place, "opens_as": entry.closed_name or entry.name}
    return vars(entry) | {"also": list(entry.also), **more}


def _show(entry: Name, as_json: bool) -> None:
    """All that is known of one, a line for each fact."""
    from shotfit.checkpoints.names import NOT_VERIFIED

    if as_json:
        print_json(_plain(entry, _place(entry)))
        return
    facts = {
        "name": entry.name, "also": ", ".join(entry.also), "what": entry.about, "for": entry.domain,
        "tower": entry.tower, "pixels": str(entry.pixels), "repository": entry.repository or "in the package",
        "revision": entry.revision or NOT_VERIFIED, "file": entry.file or NOT_VERIFIED,
        "size": entry.size or NOT_VERIFIED, "sha256": entry.sha256 or NOT_VERIFIED,
        "architecture": entry.architecture, "license": entry.license or NOT_VERIFIED,
        "towers checked": entry.checked or "no", "texts checked": entry.texts,
        "opens as": entry.closed_name,
        "on this disk": _place(entry) or "no",
    }  # fmt: skip
    for what, fact in facts.items():
        if fact:
            source = entry.sources.get(what)
            to(sys.stdout)(f"{what:14}  {fact}" + (f"  (from {source})" if source else ""))
