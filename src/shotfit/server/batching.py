"""Pictures of requests that arrive together run together.

    batches = Batches(model, limits)
    batches.start()
    found = await batches.predict(pictures, Question(top=3))

A pool of threads decodes, one thread runs the model. That thread takes what is decoded, at most BATCH pictures with the
same question. While others are still being decoded it waits for them, but no longer than WAIT: sixteen pictures take
half the time together that they take one by one.

On one core decoding and the model take turns anyway, so the thread also waits for the next requests of the clients that
it has just answered, as long as no LINGER passes without one. Else two halves of the clients would take turns, in
batches of half the size.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from shotfit.data.budget import thread_pool
from shotfit.data.images import TooLargeImageError
from shotfit.data.pictures import Picture
from shotfit.engine.allocator import give_back, kept_memory
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.decoded import decoded, predict_decoded
from shotfit.fitting.model import Model
from shotfit.fitting.predictions import Prediction
from shotfit.server.limits import Held, Limits, RefusedError
from shotfit.server.metrics import Metrics
from shotfit.server.questions import Question, as_field

__all__ = ["BATCH", "Answered", "Batches"]

BATCH = 32  # pictures that run together: as many as the library runs
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, BATCH)
"""Of batches. oneDNN keeps what it prepares for each size, 6 MB of `mini`, so not every number is one; the rest of the
pictures is in the next batch."""
WAIT = 0.025  # seconds that a decoded picture waits at most for others
LINGER = 0.004  # seconds without a new picture, after which no more are expected
AHEAD = 2 * BATCH  # decoded pictures that wait for the model
TRIM = 20  # seconds after which what batches of all sizes left free goes back to the system; else memory creeps up
CLASS_LISTS = 16  # of other classes, whose features are kept


@dataclass(frozen=True)
class Answered:
    """A prediction, and whether the picture is beyond what is decoded."""

    prediction: Prediction
    too_large: bool = False


@dataclass(eq=False)
class _Request:
    question: Question
    future: asyncio.Future[list[Answered]]
    answers: list[Answered | None]
    left: int


@dataclass(eq=False)
class _Entry:
    """One picture of a request."""

    request: _Request
    place: int
    picture: Picture
    pixels: Tensor | None = None
    since: float = field(default=0.0)


class Batches:
    """The queue of pictures in front of a model. All but the threads' own work happens in the event loop."""

    def __init__(self, model: Model, limits: Limits, metrics: Metrics | None = None) -> None:
        self.model, self.metrics = model, metrics or Metrics()
        self.waiting = Held(limits.queue, f"{limits.queue:,} pictures wait for their predictions")
        self._others: OrderedDict[tuple[str | None, tuple[str, ...]], Model] = OrderedDict()
        self._changed = threading.Condition()
        self._ready = deque[_Entry]()
        self._coming = 0  # pictures that are being decoded, or wait for it
        self._closing = False
        self._room = threading.Semaphore(AHEAD)
        self._free = 0.0  # when the model's thread last had nothing to do
        self._latest = 0.0  # when the latest picture was decoded
        self._expected = 0  # as many pictures are worth a LINGER
        self._decoders = thread_pool(_cores(), "decode")
        self._worker = threading.Thread(target=self._work, name="predict", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to work, for the event loop that this is called in."""
        self._loop = asyncio.get_running_loop()
        self._worker.start()

    @property
    def works(self) -> bool:
        """Whether pictures are taken, and will be answered."""
        return self._worker.is_alive() and not self._closing

    def close(self) -> None:
        """Finish what was taken, and end the threads."""
        self._decoders.shutdown()
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._worker.ident is not None:
            self._worker.join()

    async def predict(self, pictures: Sequence[Picture], question: Question) -> list[Answered]:
        """The predictions of a request's pictures, in order; one that cannot be read has an error.

        Raises RefusedError: 400 for a question that the model cannot answer, 429 where too many pictures wait.
        """
        assert self._loop is not None
        with self.waiting.taken(len(pictures)):
            if question.top is None and not self.model.several_labels:
                question = replace(question, top=1)
            request = _Request(question, self._loop.create_future(), [None] * len(pictures), len(pictures))
            with self._changed:
                self._coming += len(pictures)
            for place, picture in enumerate(pictures):
                self._decoders.submit(self._decode, _Entry(request, place, picture))
            return await request.future

    def _decode(self, entry: _Entry) -> None:
        self._room.acquire()
        answer: Answered | Exception | None = None
        try:
            if not entry.request.future.done():
                entry.pixels = decoded(self.model, entry.picture)
        except ShotfitError as error:
            broken = Prediction(str(entry.picture), (), (), error=str(error))
            answer = Answered(broken, isinstance(error, TooLargeImageError))
        except Exception as error:
            answer = error
        with self._changed:
            self._latest = entry.since = time.monotonic()
            self._coming -= 1
            if entry.pixels is not None:
                self._ready.append(entry)
            if not self._coming or len(self._ready) in (1, BATCH):
                self._changed.notify()
        if entry.pixels is None:
            self._room.release()
            if answer is not None:
                self._tell([(entry, answer)])

    def _work(self) -> None:
        trimmed = time.monotonic()
        with kept_memory(), torch.no_grad():
            while batch := self._next():
                self._room.release(len(batch))
                answers = self._answered(batch)
                self._expected = min(self.waiting.now, BATCH) if _cores() == 1 else 0
                self._tell(answers)
                if time.monotonic() - trimmed > TRIM:
                    give_back()
                    trimmed = time.monotonic()
                self._free = time.monotonic()

    def _next(self) -> list[_Entry]:
        """The next batch, the oldest picture's and those that can run with it; empty at the end."""
        with self._changed:
            while not self._closing or self._ready or self._coming:
                if not self._ready:
                    self._changed.wait()
                    continue
                kind = _kind(self._ready[0])
                batch = [entry for entry in self._ready if _kind(entry) == kind][:BATCH]
                now = time.monotonic()
                rest = max(self._ready[0].since, self._free) + WAIT - now
                if not self._coming and not self._closing:
                    more = len(self._ready) < self._expected
                    rest = min(rest, max(self._latest, self._free) + LINGER - now if more else 0)
                if len(batch) == BATCH or rest <= 0:
                    batch = batch[: max(size for size in SIZES if size <= len(batch))]
                    taken = set(map(id, batch))
                    self._ready = deque(entry for entry in self._ready if id(entry) not in taken)
                    return batch
                self._changed.wait(rest)
        return []

    def _answered(self, batch: list[_Entry]) -> list[tuple[_Entry, Answered | Exception]]:
        kind = _kind(batch[0])
        tops = [entry.request.question.top for entry in batch]
        top = None if tops[0] is None else max(one or 1 for one in tops)
        begun = time.monotonic()
        try:
            pixels = torch.stack([entry.pixels for entry in batch if entry.pixels is not None])
            sources = [str(entry.picture) for entry in batch]
            found = predict_decoded(self._model(kind), pixels, sources, top, kind.asked)
        except UsageError as error:
            return [(entry, RefusedError(400, as_field(str(error)))) for entry in batch]
        except Exception as error:
            return [(entry, error) for entry in batch]
        finally:
            for entry in batch:
                entry.pixels = None
            self.metrics.ran(len(batch), time.monotonic() - begun)
        return [
            (entry, Answered(_cut(one, entry.request.question.top))) for entry, one in zip(batch, found, strict=True)
        ]

    def _model(self, kind: Question) -> Model:
        """The model of a question's task and classes; those of other classes lately asked for are kept.

        Raises UsageError for what cannot be asked, also for names that the text tower cannot read.
        """
        if kind.task is None and not kind.classes:
            return self.model
        key = kind.task, kind.classes
        if key not in self._others:
            task = self.model.one_task().task if kind.task is None else kind.task
            try:
                self._others[key] = self.model.for_task(task, kind.classes)
            except ShotfitError as error:
                raise UsageError(str(error)) from error
            if len(self._others) > CLASS_LISTS:
                self._others.popitem(last=False)
        self._others.move_to_end(key)
        return self._others[key]

    def _tell(self, answers: list[tuple[_Entry, Answered | Exception]]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(_deliver, answers)


def _deliver(answers: list[tuple[_Entry, Answered | Exception]]) -> None:
    """Put answers where they are waited for; in the event loop."""
    for entry, answer in answers:
        request = entry.request
        if request.future.done():
            continue
        if isinstance(answer, Exception):
            request.future.set_exception(answer)
            continue
        request.answers[entry.place] = answer
        request.left -= 1
        if not request.left:
            request.future.set_result([one for one in request.answers if one is not None])


def _kind(entry: _Entry) -> Question:
    question = entry.request.question
    return replace(question, top=None if question.top is None else 1)  # several labels have no one number


def _cut(one: Prediction, top: int | None) -> Prediction:
    if top is None or len(one.labels) <= top:
        return one
    return replace(one, labels=one.labels[:top], probabilities=one.probabilities[:top])


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
