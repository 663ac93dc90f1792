"""What the system does to a command: streams that are closed or full, signals, no more memory, disk or descriptors.

open_streams()
with signals_end() as received: ...         # SIGTERM and SIGHUP end a command as Ctrl-C does: nothing half written
except Exception as error: line_of(error)   # one line for what is nobody's bug, or None
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

__all__ = ["drop_output", "line_of", "open_streams", "signals_end"]

_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "failed to map segment",
              "can't start new thread", "not enough memory")  # fmt: skip


def open_streams() -> None:
    """Let closed streams (`shotfit ... >&-`) lead nowhere; else the next file that is opened becomes the stream."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  (open as long as the process lives)


@contextmanager
def signals_end() -> Iterator[list[signal.Signals]]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, once, and are listed. One that is ignored (`nohup`) stays ignored."""
    received: list[signal.Signals] = []

    def end(number: int, _: FrameType | None) -> None:
        if not received:  # a second one must not disturb what the first one ends
            received.append(signal.Signals(number))
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may ask for signals
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def line_of(error: BaseException) -> str | None:
    """The sentence for an error that comes from the machine or the system; None for any other.

    >>> line_of(OSError(errno.ENOSPC, "No space left on device", "rows.csv"))
    'rows.csv cannot be written: the disk is full. Make room, or name another place.'
    """
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return (
            "out of memory. Close other programs, or use a smaller backbone or fewer images; --memory bounds what a "
            "training takes."
        )
    if isinstance(error, RecursionError):
        return "something in the input is nested too deeply to be read. Look for brackets within brackets."
    if not isinstance(error, OSError):
        return None
    if error.filename is None:
        for stream, name in ((sys.stdout, "standard output"), (sys.stderr, "standard error")):
            if _is_broken(stream):
                return f"{name} cannot be written to ({error.strerror})."
    try:
        os.getcwd()  # noqa: PTH109  (what Path asks too)
    except OSError:
        return "the folder that you are in is gone. Change to another one, with cd."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many files are open. Allow more, with `ulimit -n 1024`."
    what = "a file" if error.filename is None else os.fsdecode(error.filename)
    if error.errno in _FULL:
        return f"{what} cannot be written: the disk is full. Make room, or name another place."
    return f"{what} cannot be used: {error.strerror or error}."


def drop_output() -> None:
    """Forget what could not be written, so that the interpreter does not try again, and complain, when it ends."""
    for stream in (sys.stdout, sys.stderr):
        if _is_broken(stream):
            with suppress(OSError, ValueError):  # a stream without a descriptor, as tests have
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def _is_broken(stream: TextIO) -> bool:
    """Whether what was printed cannot be written; it stays in the buffer then."""
    try:
        stream.flush()
    except OSError:
        return True
    except ValueError:  # closed
        return False
    return False


def _is_out_of_memory(error: BaseException) -> bool:
    """Libraries say it in their own words: torch's RuntimeError, the loader's ImportError, the system's OSError."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, (RuntimeError, ImportError)) and any(word in str(error).lower() for word in _NO_MEMORY)
