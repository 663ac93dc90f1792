"""The errors that shotfit raises for people, and the exit codes of the command line.

0    success
1    a bug of shotfit: anything that is not a ShotfitError (`--debug` shows the traceback)
2    wrong usage: an unknown flag, method, option or backbone name
3    wrong input: images, manifests, checkpoints, models; or the system has no more to give: disk, memory, descriptors
4    done, but something was left out: pictures that cannot be read
130  interrupted, or ended by SIGTERM or SIGHUP
"""

from __future__ import annotations

from collections.abc import Sequence

from shotfit.printing import printable

__all__ = [
    "LEFT_OUT", "ActivationWarning", "DivergedError", "FallbackWarning", "NamesWarning",
    "NewClassesError", "ShotfitError", "UsageError",
    "first_few", "plural",
]  # fmt: skip


LEFT_OUT = 4  # the exit code of a command that did its work, but for some of its input


class ShotfitError(Exception):
    """One line for the user: what was wrong, what was expected, what to do.

    Names from outside may stand in it as they are: what would control a terminal becomes an escape.
    """

    exit_code = 3

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message))


class UsageError(ShotfitError):
    """The call itself is wrong: an unknown method, option, backbone or flag."""

    exit_code = 2


class DivergedError(ShotfitError):
    """A training ended in numbers that are not finite. A comparison shows it as a dash instead of stopping."""


class NewClassesError(UsageError):
    """A fitted method knows no other classes than its own. A comparison shows it as a dash instead of stopping."""


def plural(number: int, word: str, words: str = "") -> str:
    """A number of things, as a sentence has it.

    >>> plural(1, "entry", "entries"), plural(2000, "picture")
    ('1 entry', '2,000 pictures')
    """
    return f"{number:,} {word if number == 1 else words or word + 's'}"


def first_few(names: Sequence[str], most: int = 3) -> str:
    """Names in a sentence, printable: the first ones and how many more.

    >>> first_few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(map(printable, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


class ActivationWarning(UserWarning):
    """A file of weights does not say its activation, and was read with OpenAI's."""


class FallbackWarning(UserWarning):
    """A fit was worse than zero-shot on held-out images, and zero-shot was given in its place."""


class NamesWarning(UserWarning):
    """Class names say nothing to a text tower, or it reads two of them alike."""
