"""What the pages of one folder share: its pictures, their labels, the work under way, and who is to hear of changes.

    board = Board(Path("photos"), home)
    board.label({"3f0a...": "cat"})             # on the disk when it returns; every page hears of it
    board.begin("fit")

Methods may be called from any thread. A class name that comes from a page is checked here.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shotfit.data.tasks import composed
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import SETTINGS_BYTES, UnreadableError, read_text
from shotfit.printing import printable
from shotfit.server.app.gallery import Gallery, Shown
from shotfit.server.app.journal import NAME, Change, Journal
from shotfit.server.app.record import RESULT, VERSION
from shotfit.server.app.taken import take
from shotfit.server.app.worker import StoppedError, Worker

__all__ = ["LONGEST_NAME", "Board", "BusyError"]

LONGEST_NAME = 200  # letters of a class name from a page; what folders and journals say is taken as it is
SETTLED = 3.0  # seconds for which pictures that were found count as all that there are
FOLLOW = 0.5  # seconds between two looks at what other servers have written

Heard = Callable[[dict[str, Any]], None]


class BusyError(ShotfitError):
    """There is work under way, or something in use."""


@dataclass
class Job:
    """Long work: what, how far, and how it ended ("running", "done", "failed" or "cancelled")."""

    kind: str
    state: str = "running"
    doing: str = ""
    done: int = 0
    total: int | None = None
    error: str = ""
    began: float = 0.0
    answer: Any = None


class Board:
    """See above. home: a folder for the latest fit. settings: of the worker's `Studio`."""

    def __init__(self, folder: Path, home: Path, unsorted: bool = False, **settings: Any) -> None:
        self.folder, self.home, self.unsorted = folder.absolute(), home, unsorted
        here = Path.cwd()
        inside = here == self.folder or self.folder in here.parents
        self.here = self.folder.parent if inside else here  # what is written does not lie among the pictures
        self._listeners: list[Heard] = []
        self._follows = False  # whether a thread looks at what other servers write
        self._have(Gallery.of(self.folder, unsorted))
        self._looked = time.monotonic()
        self.journal = Journal(self.folder, self._heard)
        self.job: Job | None = None
        self._cancelled: threading.Event | None = None  # of the work under way
        self._starting = threading.Lock()
        self.worker = Worker({"folder": self.folder, "home": home, **settings}, self._progress)

    def listen(self, heard: Heard) -> Callable[[], None]:
        """Tell of every change from now on, also of those that other servers write; gives what ends that."""
        with self._starting:
            self._listeners.append(heard)
            if not self._follows:  # one that is still asleep since another page went is enough
                self._follows = True
                threading.Thread(target=self._follow, daemon=True).start()
        return lambda: self._listeners.remove(heard)

    def look_again(self) -> None:
        """Find out, aside, which pictures have come or gone; pages hear of it."""
        if time.monotonic() - self._looked > SETTLED:
            self._looked = time.monotonic()
            threading.Thread(target=self._look_again, daemon=True).start()

    def _look_again(self) -> None:
        with suppress(ShotfitError):  # the folder is out of reach for now
            gallery = Gallery.of(self.folder, self.unsorted)
            if gallery.pictures.keys() != self.gallery.pictures.keys():
                self._have(gallery)
                self._tell({"type": "pictures", "pictures": len(gallery.pictures)})

    def state(self) -> dict[str, Any]:
        """All that a page needs to begin."""
        self.journal.follow()
        with self.journal.still() as journal:
            labels, classes = self.labels(), self.classes()
            position = {name: place for place, name in enumerate(classes)}
            pictures = self.gallery.pictures.values()
            return {
                "folder": printable(self.folder.name or str(self.folder)),
                "path": printable(self.folder),
                "journal": NAME,
                "number": journal.number,
                "damaged": journal.damaged,
                "classes": classes,
                "names": [one.name for one in pictures],
                "paths": [one.path for one in pictures],
                "labels": [position.get(labels.get(one.path, ""), -1) for one in pictures],
                "passed_over": len(self.gallery.passed_over),
                "left_out": self.gallery.left_out(),
                "here": printable(self.here),
                "job": None if self.job is None else self._said(self.job),
                "fit": self.result(),
            }

    def labels(self) -> dict[str, str]:
        """The labels by path, of the pictures that are there."""
        with self.journal.still() as journal:
            said = ((one.path, journal.labels.get(one.path, one.folder_label)) for one in self._all())
            return {path: label for path, label in said if label is not None}

    def classes(self) -> list[str]:
        """The classes: those of folders, then those that were named."""
        with self.journal.still() as journal:
            return [name for name in dict.fromkeys([*self.gallery.classes, *journal.classes])
                    if name not in journal.dropped]  # fmt: skip

    def label(
        self, labels: Mapping[str, str | None], expected: Mapping[str, str | None] | None = None
    ) -> tuple[int, list[str]]:
        """Label pictures by name, None for no label; gives the journal's number, and names that were not changed.

        expected: change only those whose label is this now, so that undoing leaves alone what somebody else has said.
        """
        with self.journal.still() as journal:
            now, changed, left = self.labels(), dict[str, str | None](), list[str]()
            checked = {label: None if label is None else self._checked(label) for label in {*labels.values()}}
            for name, label in labels.items():
                path = self.picture(name).path
                if expected is not None and now.get(path) != expected.get(name):
                    left.append(name)
                elif now.get(path) != checked[label]:
                    changed[path] = checked[label]
            return journal.append(Change(labels=changed)) if changed else journal.number, left

    def unlabelled(self) -> list[str]:
        """The paths of pictures without a label."""
        now = self.labels()
        return [one.path for one in self._all() if one.path not in now]

    def confirm(self, names: Sequence[str]) -> None:
        """Keep the labels of pictures: they are not suspected again while they have them."""
        with self.journal.still() as journal:
            now = self.labels()
            paths = [self.picture(name).path for name in names]
            journal.append(Change(confirmed={path: now[path] for path in paths if path in now}))

    def confirmed(self) -> set[str]:
        """The paths of pictures whose labels somebody has looked at and kept."""
        with self.journal.still() as journal:
            now = self.labels()
            return {path for path, label in journal.confirmed.items() if now.get(path) == label}

    def name_class(self, name: str) -> str:
        """A new class, without pictures as yet; one that is there stays as it is. Gives its name, as it is kept."""
        with self.journal.still() as journal:
            name = self._checked(name)
            if name not in self.classes():
                journal.append(Change(added=(name,)))
            return name

    def rename_class(self, old: str, new: str) -> None:
        """Another name for a class; that of another class puts both together."""
        with self.journal.still() as journal:
            new = self._checked(new)
            if old not in self.classes():
                raise UsageError(f"There is no class {old!r} any more.")
            if new != old:
                moved = {path: new for path, label in self.labels().items() if label == old}
                journal.append(Change(labels=moved, added=(new,), dropped=(old,)))

    def drop_class(self, name: str) -> None:
        """Take away a class that has no pictures."""
        with self.journal.still() as journal:
            count = sum(label == name for label in self.labels().values())
            if count:
                raise BusyError(f"{name!r} has {count:,} pictures: give them another label first.")
            journal.append(Change(dropped=(name,)))

    def picture(self, name: str) -> Shown:
        """The picture of a name. Raises UsageError."""
        found = self.gallery.pictures.get(name)
        if found is None:
            raise UsageError("That picture has changed or gone: load the page again.")
        return found

    def named(self, path: str) -> str | None:
        """The name of a picture by its path."""
        return self._paths.get(path)

    def result(self) -> dict[str, Any] | None:
        """What the latest fit says, with the number of labels that it would now learn otherwise."""
        try:
            told = json.loads(read_text(self.home / RESULT, SETTINGS_BYTES, "the record of a fit"))
        except (UnreadableError, ValueError, RecursionError):
            return None
        if not isinstance(told, dict) or told.get("version") != VERSION:
            return None
        learned, now = told.pop("labels"), self._to_learn()
        for path in told["unreadable"]:
            now.pop(path, None)
        told["count"] = len(learned)
        kept = self.confirmed()
        for kind, rows in told["look"].items():
            told["look"][kind] = [row for one in rows if (row := self._looked_at(one, kept)) is not None]
        told["changed"] = sum(learned.get(path) != now.get(path) for path in {*learned, *now})
        told["unreadable"] = {Path(path).name: reason for path, reason in told["unreadable"].items()}
        return dict(told)

    def _looked_at(self, one: Mapping[str, Any], kept: set[str]) -> dict[str, Any] | None:
        """A row of what is worth a look, by names of pictures; None where somebody has looked, or it is gone."""
        name = self._paths.get(one["path"])
        if name is None or one["path"] in kept:
            return None
        near = [[self._paths[path], label, cosine] for path, label, cosine in one["near"] if path in self._paths]
        return {**one, "name": name, "near": near}

    def begin(self, kind: str, **given: Any) -> None:
        """Start long work of the worker, of which every page hears. Raises BusyError while there is other."""
        cancelled = threading.Event()
        self.start(kind, partial(self.worker.call, kind, cancelled, **given), cancelled)

    def fit(self, thorough: bool) -> None:
        """Start to fit to the labels; pictures of a test part are not learned."""
        self.begin("fit", labels=self._to_learn(), thorough=thorough)

    def suggest(self, count: int) -> None:
        """Start to look for the pictures to label next."""
        paths = self.unlabelled()
        if not paths:
            raise UsageError("Every picture has a label already.")
        if len(self.classes()) < 2:
            raise UsageError("Name two classes first: what to label next depends on what there is to tell apart.")
        self.begin("suggest", paths=paths, classes=self.classes(), count=count)

    def take(self, form: str, name: str, link: bool) -> None:
        """Start to write the labels to a place beside where the server was started."""
        with self.journal.still():
            now = self.labels()
            labelled = [(one, now[one.path]) for one in self._all() if one.path in now]
        out = self.place(name)
        self.start("take", partial(take, labelled, form, out, self.folder, link))

    def place(self, name: str) -> Path:
        """A place for what a page asks to have written, in `here`.

        Raises UsageError.
        """
        place = (self.here / name.strip()).absolute()
        if not name.strip() or ".." in Path(name).parts or self.here not in place.parents:
            raise UsageError(f"Give a name, such as my-model: it is written into {printable(self.here)}.")
        if printable(name) != name:
            raise UsageError("The name has signs in it that nobody sees: leave them out.")
        return place

    def start(self, kind: str, work: Callable[[], Any], cancelled: threading.Event | None = None) -> None:
        """Start long work in a thread of its own; without `cancelled` it goes on to its end. Raises BusyError."""
        with self._starting:
            if self.job is not None and self.job.state == "running":
                raise BusyError(f"A {self.job.kind} is under way: wait for it, or cancel it.")
            self.job, self._cancelled = Job(kind, began=time.time()), cancelled
        self._tell_job()
        threading.Thread(target=self._run, args=(self.job, work), daemon=True).start()

    def cancel(self) -> None:
        """End the work under way."""
        if self.job is not None and self.job.state == "running" and self._cancelled is not None:
            self._cancelled.set()
            self.worker.stop()

    def close(self) -> None:
        """End the process that holds the model, and let go of the journal."""
        self.worker.stop()
        self.journal.close()

    def _follow(self) -> None:
        while self._is_heard():
            with suppress(ShotfitError, OSError):
                self.journal.follow()
            time.sleep(FOLLOW)

    def _is_heard(self) -> bool:
        with self._starting:
            self._follows = bool(self._listeners)
            return self._follows

    def _run(self, job: Job, work: Callable[[], Any]) -> None:
        try:
            job.answer = work()
            job.state = "done"
        except StoppedError:
            job.state = "cancelled"
        except ShotfitError as error:
            job.state, job.error = "failed", str(error)
        except Exception as error:  # else no work could begin any more
            job.state, job.error = "failed", f"This is a bug of shotfit: {type(error).__name__}: {error}"
        self._tell_job()

    def _progress(self, description: str, done: int, total: int | None) -> None:
        job = self.job
        if job is not None and job.state == "running":
            job.doing, job.done, job.total = description, done, total
            self._tell_job()

    def _tell_job(self) -> None:
        assert self.job is not None
        self._tell({"type": "job", "job": self._said(self.job), **({"fit": self.result()} if self._fitted() else {})})

    def _fitted(self) -> bool:
        return self.job is not None and self.job.kind == "fit" and self.job.state == "done"

    def _said(self, job: Job) -> dict[str, Any]:
        """The work as a page hears of it; a fit's answer is `result`, and pictures go by their names."""
        answer = None if job.kind == "fit" else job.answer
        if job.kind == "suggest" and answer is not None:
            names = [self._paths.get(path) for path in answer["paths"]]
            answer = {"by": answer["by"], "names": [name for name in names if name is not None]}
        return {**vars(job), "answer": answer}

    def _heard(self, change: Change) -> None:
        if not self._listeners:
            return
        known = {self._paths[path]: label for path, label in change.labels.items() if path in self._paths}
        kept = [self._paths[path] for path in change.confirmed if path in self._paths]
        said = {"type": "labels", "number": self.journal.number, "labels": known, "confirmed": kept}
        self._tell(said | {"classes": self.classes()})

    def _tell(self, said: dict[str, Any]) -> None:
        for heard in [*self._listeners]:
            with suppress(RuntimeError):  # a page that has just gone
                heard(said)

    def _to_learn(self) -> dict[str, str]:
        """The labels by path, of the pictures that are in no test part."""
        tested = {one.path for one in self._all() if one.held_out}
        return {path: label for path, label in self.labels().items() if path not in tested}

    def _have(self, gallery: Gallery) -> None:
        self.gallery, self._paths = gallery, {one.path: one.name for one in gallery.pictures.values()}

    def _all(self) -> Sequence[Shown]:
        return [*self.gallery.pictures.values()]

    def _checked(self, name: str) -> str:
        """A class name as it is kept; one that exists passes as it is."""
        if name in self.classes():
            return name
        name = " ".join(composed(name).split())
        if not name.replace("_", " ").strip():
            raise UsageError("A class needs a name.")
        if len(name) > LONGEST_NAME:
            raise UsageError(f"A class name has at most {LONGEST_NAME} letters; this one has {len(name):,}.")
        if printable(name) != name:
            raise UsageError(f"The class name {name!r} has signs in it that nobody sees: leave them out.")
        return name
