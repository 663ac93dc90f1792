"""What `predict` and `embed` have in common where they write a folder of parts (`--out DIR`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shotfit.commands.arguments import first_given
from shotfit.commands.console import to
from shotfit.errors import LEFT_OUT, UsageError, first_few, plural

if TYPE_CHECKING:
    from shotfit.fitting.parts import WrittenParts

__all__ = ["is_parts", "refuse", "say_parts"]


def is_parts(out: Path | None, form: str | None) -> bool:
    """Whether --out names a folder of parts: a folder, or a name without an ending, and no format is asked for.

    >>> is_parts(Path("labels"), None), is_parts(Path("labels.csv"), None), is_parts(Path("labels"), "csv")
    (True, False, False)
    """
    return out is not None and form is None and (not out.suffix or (out / "job.json").is_file())


def refuse(out: Path | None, given: Mapping[str, object], parts: bool) -> None:
    """Refuse flags that go with a folder of parts alone, or with anything else alone.

    given: what was given for these, by flag. parts: whether --out names such a folder. Raises UsageError.
    """
    flag = first_given(given)
    if flag is None:
        return
    if parts:
        raise UsageError(f"{flag} does not go with a folder of parts, which --out {out} names: leave one of them out.")
    raise UsageError(f"{flag} goes with a folder of parts: add --out DIR, a name without an ending.")


def say_parts(done: WrittenParts, word: str, skipped: bool = False) -> None:
    """Print what was done; a command that left something out ends with exit code 4.

    word: what was done with pictures ("predicted"). skipped: pictures that cannot be read were to be left out.
    """
    say = to(sys.stderr)
    for sentence in done.damaged:
        say(f"note: {sentence}")
    if done.again:
        say(f"note: {plural(done.again, 'part')} had other pictures, or no end, and {_was(done.again)} done again")
    if done.removed:
        say(f"note: removed {plural(done.removed, 'part')} of pictures that are no longer listed")
    if done.passed_over:
        entries = plural(len(done.passed_over), "entry", "entries")
        say(f"note: passed over {entries} that cannot be read: {first_few(done.passed_over)}.")
    there = f" ({done.there:,} there before)" if done.there else ""
    rate = f", {done.computed / done.seconds:,.1f} pictures a second" if done.computed and done.seconds else ""
    broken = f", {done.broken:,} not {word}" if done.broken else ""
    say(f"written: {done.out}: {plural(done.parts, 'part')}{there}, {plural(done.pictures, 'picture')}{broken}{rate}")
    if done.damaged or (done.broken and not skipped):
        raise typer.Exit(LEFT_OUT)


def _was(count: int) -> str:
    return "was" if count == 1 else "were"
