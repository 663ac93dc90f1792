"""What commands open: an export, a fitted model for its own classes or for others, or a frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shotfit.commands.arguments import as_classes, first_given
from shotfit.errors import UsageError

if TYPE_CHECKING:
    from shotfit.engine.frozen import Frozen
    from shotfit.fitting.model import Model
    from shotfit.fitting.predict import Predictor
    from shotfit.towers.precision import Precision

__all__ = ["open_export", "open_fitted", "open_frozen"]


def open_export(folder: Path, given: Mapping[str, object]) -> tuple[Predictor, Sequence[str]]:
    """An export and its class names, opened without torch. given: flags that go with a fitted model alone."""
    flag = first_given(given)
    if flag is not None:
        raise UsageError(f"{flag} goes with a fitted model, and {folder} is an export: leave it out.")
    from shotfit.light import load

    exported = load(folder)
    return exported, exported.class_names


def open_fitted(
    folder: Path,
    task: str | None,
    classes: str | None,
    parents: Sequence[str],
    backbone: str | None,
    method: str | None,
    precision: Precision | None,
    device: str,
    trust_backbone: bool,
) -> tuple[Model, Sequence[str]]:
    """A fitted model, for other classes or a task where they are named, and the names of its classes."""
    from shotfit.engine.store import open_store
    from shotfit.evaluation.several import load_task

    if parents and (task is None or classes is None):
        raise UsageError("--parent is of a new task: name that with --task, and its classes with --classes.")
    others, store = [] if classes is None else as_classes(classes), open_store()
    fitted = load_task(folder, task, backbone, method, precision, device, store, trust_backbone, alone=not others)
    if task is not None:
        fitted = fitted.for_task(task, others, parent=parents)
    elif others:
        fitted = fitted.for_classes(others)
    return fitted, fitted.one_task().names


def open_frozen(backbone: str, text: str | None, architecture: str | None, precision: Precision, device: str) -> Frozen:
    """The frozen backbone that --backbone, --text and --architecture name, with the store of its features."""
    from shotfit.checkpoints.asked import with_asked
    from shotfit.checkpoints.weights import load_in
    from shotfit.engine.frozen import Frozen
    from shotfit.engine.store import open_store

    return Frozen(load_in(with_asked(backbone, text, architecture), precision, device), open_store())
