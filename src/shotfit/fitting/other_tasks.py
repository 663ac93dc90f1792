"""A fitted model for one of its tasks, or for classes that it was not fitted to; see `Model.for_task`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from shotfit.data.tasklist import paths_above
from shotfit.data.tasks import ClassList, composed, expand_templates, plain_name
from shotfit.errors import NewClassesError, UsageError, first_few
from shotfit.fitting.model import NAMED, Model
from shotfit.fitting.record import record_of

__all__ = ["for_task"]


def for_task(
    model: Model, name: str, classes: Sequence[str], templates: Sequence[str], parent: str | Sequence[str]
) -> Model:
    """See `Model.for_task`."""
    name = composed(name)
    known = name in model.tasks
    if not classes and not known:
        raise UsageError(
            f"The model has no task {name!r}; its tasks: {first_few(model.tasks, NAMED)}. To predict a new task "
            "from its name, give its class names (--classes a,b,c)."
        )
    if not classes:
        of_task = Model(model.method, model.frozen, model.record, name, model.learned, model.trust)
        of_task.opened = model.opened
        return of_task
    if model.several_labels:
        raise NewClassesError(
            "A model of several labels a picture has a threshold for each of its own classes, and none for others."
        )
    counts = Counter(map(plain_name, classes))
    twice = next((own for own in classes if counts[plain_name(own)] > 1), None)
    if twice is not None:
        raise UsageError(f"The other classes name {twice!r} twice: give each class once, under a name of its own.")
    fitted = model.method.classes[model.tasks.index(name)] if known else ClassList(name, tuple(classes))
    above = _path(model, name, [parent] if isinstance(parent, str) else parent) or fitted.parents
    other = ClassList(name, tuple(classes), expand_templates(templates) or fitted.templates, above)
    method = model.method.for_classes((other,))
    measured = ("checked", "fell_back", "scores", "trust")  # on the classes of the fit
    kept = {name: value for name, value in model.record.items() if name not in measured}
    trust = None if model.trust is None else model.trust.for_new_classes()
    kept |= record_of(method, model.frozen.backbone) | ({} if trust is None else {"trust": trust.summary})
    return Model(method, model.frozen, kept, learned=model.learned, trust=trust)


def _path(model: Model, name: str, parents: Sequence[str]) -> tuple[str, ...]:
    """The names above a task, of the parents given; where the model knows what is above one, the path goes on."""
    known = {task.task: task.parents for task in model.method.classes if task.task != name} if parents else {}
    return paths_above(known | {name: parents})[name]
