"""Commands that several processes run as one, where torchrun starts them: `torchrun -m shotfit fit ...`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["as_one", "may_tell"]

P = ParamSpec("P")
R = TypeVar("R")


def as_one(command: Callable[P, R]) -> Callable[P, R]:
    """The command, whose trainings all processes share out; the first one alone prints."""

    @wraps(command)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        if not _of_several():
            return command(*arguments, **named)
        from shotfit.engine.ranks import joined

        with joined(str(named.get("device", "auto"))):
            return command(*arguments, **named)

    return run


def may_tell() -> bool:
    """Whether this process is the one that says why a command ends: of several, the first that asks."""
    if not _of_several():
        return True
    from shotfit.engine import ranks

    return ranks.may_tell()


def _of_several() -> bool:
    """As `ranks.is_asked`, which imports torch."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "TORCHELASTIC_RUN_ID" in os.environ
