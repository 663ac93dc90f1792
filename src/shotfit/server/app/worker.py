"""The process that holds the model, beside the one that serves the page.

    worker = Worker({"folder": ..., "home": ...}, told=print)
    worker.call("fit", labels={...})            # waits for the answer
    worker.stop()                               # from another thread: what is under way ends at once

So the page answers while a model is fitted, a fit ends when it is cancelled, whatever it is doing, and labels are safe
from whatever happens to a model.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from shotfit.errors import ShotfitError

__all__ = ["StoppedError", "Worker"]

BETWEEN = 0.1  # seconds between two words of progress


class StoppedError(ShotfitError):
    """The work was cancelled."""


class Worker:
    """One question at a time; who asks while another is answered waits.

    arguments: of `Studio`. told: called with (description, done, total) while something is under way.
    """

    def __init__(self, arguments: Mapping[str, Any], told: Callable[[str, int, int | None], None]) -> None:
        self._arguments, self._told = dict(arguments), told
        self._turn = threading.Lock()
        self._process: Any = None
        self._connection: Connection | None = None

    def call(self, question: str, cancelled: threading.Event | None = None, **given: Any) -> Any:
        """What the method of that name of `Studio` answers; the process is started where none runs.

        cancelled: where that is set by the time that it is this question's turn, it is not asked.

        Raises what it raises, if that is a ShotfitError; StoppedError; and ShotfitError for a process that died.
        """
        with self._turn:
            if cancelled is not None and cancelled.is_set():
                raise StoppedError("Cancelled.")
            connection = self._running()
            try:
                connection.send((question, given))
                while True:
                    kind, *said = connection.recv()
                    if kind == "progress":
                        self._told(*said)
                    elif kind == "answer":
                        return said[0]
                    else:
                        raise ShotfitError(said[0])
            except (EOFError, OSError):
                process, self._process = self._process, None
                if process is None or getattr(process, "asked_to_stop", False):
                    raise StoppedError("Cancelled.") from None
                process.join()
                raise ShotfitError(_why(process.exitcode)) from None

    def stop(self) -> None:
        """End the process. What is under way raises StoppedError; the next call starts another one."""
        process = self._process
        if process is not None:
            process.asked_to_stop = True
            process.kill()
            process.join()

    def _running(self) -> Connection:
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, self._arguments, os.getpid()), daemon=True)
            process.start()
            theirs.close()
            self._process = process
        assert self._connection is not None
        return self._connection


def _why(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "The process that fits was killed; most often the system had no memory left. Labels are safe: try again."
    return f"The process that fits ended unexpectedly (code {code}). Labels are safe: try again."


def _work(connection: Connection, arguments: Mapping[str, Any], parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server's to handle, which ends this process
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    warnings.simplefilter("ignore")  # the page says what there is to say
    from shotfit.progress import telling
    from shotfit.server.app.studio import Studio

    last = 0.0

    def told(description: str, done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if done == 0 or done == total or now - last > BETWEEN:
            last = now
            connection.send(("progress", description, done, total))

    studio = Studio(**arguments)
    with suppress(EOFError, OSError), telling(told):
        while True:
            question, given = connection.recv()
            connection.send(_answer(studio, question, given))


def _answer(studio: Any, question: str, given: Mapping[str, Any]) -> tuple[str, Any]:
    try:
        return "answer", getattr(studio, question)(**given)
    except ShotfitError as error:
        return "refusal", str(error)
    except (OSError, MemoryError) as error:
        return "refusal", f"The system has no more to give: {error}."
    except Exception as error:
        return "refusal", f"This is a bug of shotfit: {type(error).__name__}: {error}"


def _end_with(parent: int) -> None:
    """A server that is killed takes its worker along."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
