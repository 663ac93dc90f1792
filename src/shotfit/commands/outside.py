"""What the system does to a command: streams that are closed or full, signals, no more memory, disk or descriptors.

with standing_streams(), threads_end(), signals_end() as received:      # SIGTERM ends a command as Ctrl-C does
    check_place()                                       # the folder that the user is in may be gone
    ...
except Exception as error: line_of(error)               # one line for what is nobody's bug, or None
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

from shotfit.errors import ShotfitError
from shotfit.files import remove_unfinished

__all__ = ["check_place", "drop_output", "line_of", "signals_end", "standing_streams", "threads_end"]

OUT, ERR = "standard output", "standard error"
_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
_TOO_MANY_FILES = "too many files are open. Allow more, with `ulimit -n 1024`."
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "failed to map segment",
              "can't start new thread", "not enough memory", "could not create a primitive")  # fmt: skip
_NO_MEMORY_LINE = (
    "out of memory. Close other programs, or use a smaller backbone or fewer images; --memory bounds what a training "
    "takes."
)
_A_LITTLE = 2**26  # bytes; who cannot have so many has no memory left
_LOOP = "Symlink loop from "  # how Path.resolve says it, up to Python 3.12


class _Named:
    """A stream whose errors name it, as those of files name them."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._stream, attribute)

    def write(self, text: str) -> int:
        with self._errors():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._errors():
            self._stream.flush()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._name) from error


@contextmanager
def standing_streams() -> Iterator[None]:
    """Closed streams (`shotfit ... >&-`) lead nowhere, else the next file that is opened becomes the stream.

    Errors of those that are full name them. What a broken one did not take is forgotten in the end.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, _Named(before[0], OUT)), cast(TextIO, _Named(before[1], ERR))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before  # also where the parser of arguments put others, which hide what is broken
        drop_output()


def _open_closed() -> None:
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
        remove_unfinished()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def threads_end() -> Iterator[None]:
    """A thread that cannot begin for want of memory ends the command: whoever started it would wait for ever."""
    said = f"error: {_NO_MEMORY_LINE}\n".encode()  # while there is memory for it
    told = threading.excepthook, sys.unraisablehook

    def ending(otherwise: Callable[[Any], object]) -> Callable[[Any], None]:
        def hook(failed: Any) -> None:
            if isinstance(failed.exc_value, MemoryError):
                _end(said)
            otherwise(failed)

        return hook

    threading.excepthook, sys.unraisablehook = ending(told[0]), ending(told[1])  # the second hears of its first steps
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = told


def _end(said: bytes) -> NoReturn:
    try:
        remove_unfinished()
        os.write(2, said)
    finally:  # also where there is no memory for these either
        os._exit(ShotfitError.exit_code)


def check_place() -> None:
    """Refuse to work in a folder that is gone: libraries end the process there with words of their own.

    Raises ShotfitError.
    """
    try:
        os.getcwd()  # noqa: PTH109  (what Path asks too)
    except OSError:
        raise ShotfitError("the folder that you are in is gone. Change to another one, with cd.") from None


def line_of(error: BaseException) -> str | None:
    """The sentence for an error that comes from the machine or the system; None for any other.

    >>> line_of(OSError(errno.ENOSPC, "No space left on device", "rows.csv"))
    'rows.csv cannot be written: the disk is full. Make room, or name another place.'
    """
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return _NO_MEMORY_LINE
    if isinstance(error, RuntimeError) and os.strerror(errno.EMFILE) in str(error):  # torch's own way to open files
        return _TOO_MANY_FILES
    if isinstance(error, Warning):  # PYTHONWARNINGS=error asks to end at one
        return str(error)
    if isinstance(error, RecursionError):
        return "something in the input is nested too deeply to be read. Look for brackets within brackets."
    if isinstance(error, RuntimeError) and str(error).startswith(_LOOP):
        place = str(error).removeprefix(_LOOP).strip("'")
        return f"{place} cannot be used: its symbolic links lead in a circle."
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _TOO_MANY_FILES
    what = "a file" if error.filename is None else os.fsdecode(error.filename)
    if error.errno in _FULL:
        return f"{what} cannot be written: the disk is full. Make room, or name another place."
    return f"{what} cannot be used: {error.strerror or error}."


def drop_output() -> None:
    """Forget what could not be written, so that the interpreter does not try again, and complain, when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):  # a stream without a descriptor, as tests have
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def _is_out_of_memory(error: BaseException) -> bool:
    """Libraries say it in their own words: torch's RuntimeError, the loader's ImportError, the system's OSError."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, SystemError):  # of code in C that could not even say it
        try:
            bytearray(_A_LITTLE)
        except MemoryError:
            return True
        return False
    return isinstance(error, (RuntimeError, ImportError)) and any(word in str(error).lower() for word in _NO_MEMORY)
