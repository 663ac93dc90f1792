"""What boxes have around them: the same where a model is fitted, evaluated and asked.

padding_of(tasks)                   # of the tasks that a model is fitted to
padding_for(model.record, 0.1)      # of what it is to judge
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shotfit.data.listing import check_padding
from shotfit.data.tasks import Task
from shotfit.errors import UsageError

__all__ = ["check_same_padding", "padding_for", "padding_of"]


def padding_of(tasks: Iterable[Task], asked: float | None = None) -> float | None:
    """What the boxes of tasks have around them; None where no image is a box.

    asked: what the user said. Raises UsageError where it is of no use, and for tasks that differ.
    """
    found = sorted({task.padding for task in tasks if task.padding is not None})
    if len(found) > 1:
        raise UsageError(
            f"the boxes of some tasks have a padding of {found[0]:g}, those of others {found[-1]:g}: give all the same "
            "`padding`."
        )
    if asked is not None and not found:
        raise UsageError(f"padding {asked:g} goes around boxes, but the images are whole pictures: leave it out.")
    if asked is not None and asked != found[0]:
        raise UsageError(
            f"padding is {asked:g}, but the boxes of the task were read with {found[0]:g} around them: give padding to "
            "read_task, and fit what that gives."
        )
    return found[0] if found else None


def padding_for(record: Mapping[str, Any], asked: float | None = None) -> float:
    """What boxes get around them that a model is to judge: as in its fit, or what is asked where it had no boxes.

    Raises UsageError where something else is asked than the model was fitted with.
    """
    check_padding(asked)
    known = record.get("padding")
    if known is not None and asked is not None and asked != known:
        raise UsageError(
            f"the model was fitted to boxes with a padding of {known:g}, not {asked:g}: leave --padding out, or fit it "
            f"again with --padding {asked:g}."
        )
    return float(asked or 0.0) if known is None else float(known)


def check_same_padding(record: Mapping[str, Any], task: Task) -> None:
    """Refuse a task whose boxes have another padding than the model was fitted with. Raises UsageError."""
    known = record.get("padding")
    if None not in (known, task.padding) and known != task.padding:
        raise UsageError(
            f"the boxes of {task.name} have a padding of {task.padding:g}, but the model was fitted with {known:g}: "
            f"read them with padding {known:g}."
        )
