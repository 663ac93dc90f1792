"""More images, corrected labels or a new class for a model that was fitted: the same fit, with these too.

model = shotfit.fit("photos/")
model = model.add(["new.jpg"], ["wren"])            # a class that it did not have
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from shotfit.data.given import Data, Labels, from_images, tasks_of
from shotfit.data.pictures import PictureLike
from shotfit.data.reading import Reading
from shotfit.data.tasks import Item, Task, plain_name
from shotfit.engine.store import cache_folder
from shotfit.errors import UsageError
from shotfit.fitting.model import Model
from shotfit.fitting.refit import once_more

__all__ = ["add"]


def add(
    model: Model, images: Iterable[PictureLike], labels: Labels, data: Data | None = None, *, lenient: bool = False
) -> Model:
    """The model fitted again, with more images, and with their classes where it did not have them.

    An image that it has learned under another label counts under the new one alone. Method, options, rate and length
    stay as they were chosen. data: what the model was fitted to, as `fit` takes it; a model that was just fitted knows,
    one that was opened from its folder does not. lenient: an image that is cut off is read as far as it is there.

    Raises UsageError for a model of several tasks, one that does not know its images, and what is no image or label;
    ShotfitError for an image that cannot be read.
    """
    model.one_task()
    known = model.support
    how = replace(model.how, several_labels=model.several_labels)
    if data is not None:
        is_read = isinstance(data, (Task, list, tuple))  # and says itself what its labels are
        reading = model.how if is_read else how
        known = tuple(task.sealed() for task in tasks_of(data, None, reading, cache=cache_folder(), lenient=lenient))
    if known is None:
        raise UsageError(
            "This model was opened from its folder, which keeps no images: say what it was fitted to as well, as in "
            'model.add(images, labels, data="photos/").'
        )
    if len(known) != 1:
        raise UsageError(f"The data are {len(known)} tasks; images are added to a model of one.")
    names = known[0].classes.names if model.several_labels else ()  # a picture may have none, and is added all the same
    given = from_images(images, labels, parts=None, name="added", cache=cache_folder(), how=how, known=names)
    more = Reading(to_fit=False, lenient=lenient).examined(given, cache_folder())
    task = joined(known[0], [*more.train, *more.test], more.classes.names)
    seed = model.record["seed"]  # None of class names alone
    again = once_more(model, [task], seed=1 if seed is None else seed, check=bool(model.record["checked"]))
    again.support = (task,)
    return again


def joined(task: Task, items: Sequence[Item], names: Sequence[str]) -> Task:
    """The task with more train images, whose labels count `names`; classes that it has not come behind its own."""
    places = {plain_name(name): place for place, name in enumerate(task.classes.names)}
    new = [name for name in names if plain_name(name) not in places]
    places |= {plain_name(name): len(task.classes.names) + place for place, name in enumerate(new)}
    added = [item.with_labels([places[plain_name(names[label])] for label in item.labels]) for item in items]
    digests = {item.digest for item in added} - {""}
    kept = [item for item in task.train if item.digest not in digests]
    classes = replace(task.classes, names=(*task.classes.names, *new))
    val = tuple(item for item in task.val if item.digest not in digests)
    return replace(task, classes=classes, train=(*kept, *added), val=val)
