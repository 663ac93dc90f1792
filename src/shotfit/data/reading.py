"""Tasks that the doctor has seen: what the commands and `shotfit.fit` read, so that both stop at the same errors.

(photos,) = Reading(templates=["a sketch of a {}."]).tasks(Path("photos"), cache)
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shotfit.data.doctor import examine
from shotfit.data.listing import AS_IT_IS, How
from shotfit.data.readers import read_task
from shotfit.data.tasklist import read_tasks
from shotfit.data.tasks import Task

__all__ = ["LEFT", "Reading"]

LEFT = "left out: "
"""How it begins what is said of a file that is left out."""


def _unheard(_: object) -> None:
    pass


@dataclass(frozen=True)
class Reading:
    """How tasks are read.

    how, class_names, templates: as in `read_task`; a task list says them for each of its tasks. shots:
    the doctor warns of classes with fewer images. skip_broken: leave out the files that cannot be read instead of
    stopping. to_fit: the train images are for a fit, so that each class needs one; else any image of a class will do.
    lenient: read what is there of files that are cut off.
    """

    how: How = AS_IT_IS
    class_names: Path | None = None
    templates: Sequence[str] = ()
    shots: int | None = None
    skip_broken: bool = False
    to_fit: bool = True
    lenient: bool = False

    def task(
        self,
        source: Path,
        cache: Path | None,
        found: Callable[[Task], None] = _unheard,
        warned: Callable[[str], None] = _unheard,
    ) -> Task:
        """The task of a folder, manifest or split file.

        cache: the folder of digests and verdicts. found: told the task before the doctor looks at it. warned: told each
        of the doctor's warnings, and what was left out.

        Raises ShotfitError for what `read_task` refuses, and in one sentence for all that the doctor calls an error.
        """
        task = read_task(source, class_names=self.class_names, templates=self.templates, cache=cache, **vars(self.how))
        return self.examined(task, cache, found, warned)

    def tasks(
        self,
        source: Path,
        cache: Path | None,
        found: Callable[[Task], None] = _unheard,
        warned: Callable[[str], None] = _unheard,
    ) -> list[Task]:
        """The tasks of a task list (.toml), or the one of anything else, as `task` gives it."""
        if source.suffix != ".toml":
            return [self.task(source, cache, found, warned)]
        return [self.examined(task, cache, found, warned) for task in read_tasks(source, cache=cache)]

    def _flags(self) -> str:
        """What the command line has for how the task is read, with a space before it."""
        given = {**self.how.flags(), "--class-names": self.class_names}
        said = {flag: flag if value is True else f"{flag} {shlex.quote(str(value))}" for flag, value in given.items()
                if value is not None}  # fmt: skip
        return "".join(f" {one}" for one in said.values())

    def examined(
        self,
        task: Task,
        cache: Path | None,
        found: Callable[[Task], None] = _unheard,
        warned: Callable[[str], None] = _unheard,
    ) -> Task:
        """A task that was read, once the doctor has seen it; the rest as `task`."""
        found(task)
        for note in task.notes:
            warned(note)
        report = examine(task, self.shots, cache, self.to_fit, self.lenient)
        for problem in report.warnings:
            warned(problem.message)
        report.raise_for_errors(self.skip_broken, self._flags())
        for problem in report.errors:
            warned(f"{LEFT}{problem.message}")
        return report.without_broken(task)
