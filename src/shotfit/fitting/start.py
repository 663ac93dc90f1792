"""A start without labels: the zero-shot model of a list of class names."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from shotfit.calls import checked
from shotfit.checkpoints.weights import load_in
from shotfit.data.tasks import DEFAULT_TEMPLATE, ClassList, expand_templates, plain_name
from shotfit.engine.frozen import Frozen
from shotfit.engine.store import MemoryStore
from shotfit.errors import UsageError
from shotfit.fitting.fitter import zero_shot as zero_shot_method
from shotfit.fitting.model import Model
from shotfit.fitting.names import warn_of_names
from shotfit.fitting.record import record_of
from shotfit.methods.base import check_prompts
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import Encoder
from shotfit.towers.precision import Precision

__all__ = ["zero_shot"]


@checked
def zero_shot(
    classes: Sequence[str],
    *,
    templates: Sequence[str] = (),
    name: str = "classes",
    backbone: str | Backbone | Encoder = "mini",
    precision: Precision = "auto",
    device: str = "auto",
) -> Model:
    """A model that tells the classes apart by their names alone; it needs no image, and saves and predicts like any.

    templates: texts with one {}, or names of sets ("ensemble"). name: of the task.

    Raises UsageError for no class, or one that is named twice; ShotfitError for names that cannot be read.

    Example:
        >>> zero_shot(["red kite", "buzzard"]).class_names
        ('red kite', 'buzzard')
    """
    started = time.perf_counter()
    if not classes:
        raise UsageError(f"The classes are {classes!r}; expected a list of different names, at least one.")
    counts = Counter(map(plain_name, classes))
    twice = next((own for own in classes if counts[plain_name(own)] > 1), None)
    if twice is not None:
        raise UsageError(f"The classes name {twice!r} twice: give each class once, under a name of its own.")
    lists = (ClassList(name, tuple(classes), expand_templates(templates) or (DEFAULT_TEMPLATE,)),)
    loaded = load_in(backbone, precision, device)
    check_prompts(loaded, lists)
    frozen = Frozen(loaded, MemoryStore())
    warn_of_names(frozen, lists, meaning=True, where="")
    method = zero_shot_method(frozen, lists)
    record = record_of(method, loaded) | {
        "fitted_method": method.name,
        "shots": None,
        "seed": None,
        "support_images": 0,
        "labelled_images": 0,
        "learned_images": 0,
        "selection": "nothing was chosen (no labelled image was given)",
        "checked": {},
        "fell_back": False,
        "seconds": round(time.perf_counter() - started, 3),
        "scores": {"test_images": 0, "zero_shot_accuracy": None, "accuracy": None},
    }
    return Model(method, frozen, record)
