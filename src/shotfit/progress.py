"""Progress of long work, on standard error and only where somebody looks at it; or told to whoever asked for it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from shotfit.printing import printable

if TYPE_CHECKING:
    from rich.progress import Task

__all__ = ["lasting", "say", "telling", "track"]

T = TypeVar("T")
_showing = False
_told: Callable[[str, int, int | None], None] | None = None


@contextmanager
def telling(told: Callable[[str, int, int | None], None]) -> Iterator[None]:
    """While the block lasts, `told` hears of each step that `track` makes, and no bar is drawn.

    It is called with the description, how many are done, and of how many (None: nobody knows). Of loops in a loop the
    outer one is told of.
    """
    global _told
    before, _told = _told, told
    try:
        yield
    finally:
        _told = before


def track(iterable: Iterable[T], description: str, total: int | None = None, rate: bool = False) -> Iterator[T]:
    """Iterate with a bar (how many, time left) if standard error is a terminal or a notebook, else just iterate.

    rate: show how many a second, too.

    A notebook without ipywidgets, which draw its bars, is told what begins in one line. An inner loop of a loop that is
    shown already has no bar of its own.

    Example:
        >>> list(track([1, 2], "Counting"))
        [1, 2]
    """
    global _showing
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if _told is not None and not _showing:
        _showing = True
        try:
            yield from _counted(iterable, description, total, _told)
        finally:
            _showing = False
        return
    notebook = _in_notebook()
    if _showing or not (notebook or sys.stderr.isatty()):
        yield from iterable
        return
    if notebook and importlib.util.find_spec("ipywidgets") is None:
        say(f"{description} ...")
        yield from iterable
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.1f} a second")

    columns: tuple[ProgressColumn, ...] = (TextColumn("{task.description}", markup=False), BarColumn())
    columns += (MofNCompleteColumn(), TimeRemainingColumn(), *([Rate()] if rate else []))
    _showing = True
    try:
        with Progress(*columns, console=Console(stderr=not notebook), transient=True) as bar:
            yield from bar.track(iterable, total=total, description=printable(description))
    finally:
        _showing = False


def _counted(
    iterable: Iterable[T], description: str, total: int | None, told: Callable[[str, int, int | None], None]
) -> Iterator[T]:
    told(description, 0, total)
    for done, one in enumerate(iterable, start=1):
        yield one
        told(description, done, total)


def _in_notebook() -> bool:
    """Whether the kernel of a notebook runs this."""
    shell = sys.modules.get("IPython")
    return shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None


def say(message: str) -> None:
    """One line for the user on standard error."""
    print(printable(message), file=sys.stderr)


def lasting(seconds: float) -> str:
    """How long something takes, as a forecast says it.

    >>> lasting(61.4), lasting(600), lasting(9000)
    ('61 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:,.1f} h"
