"""Write reports: of a model on labelled pictures, of a model by its record, and of a comparison.

write_report("my-model", "photos/", out="report.html")
write_report("my-model")                                # by its record: no picture is looked at
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shotfit.calls import checked
from shotfit.data.doctor import examine
from shotfit.data.given import Data, Labels, all_count, tasks_of
from shotfit.data.tasks import Task
from shotfit.engine.store import cache_folder, open_store
from shotfit.errors import UsageError
from shotfit.files import standing
from shotfit.fitting.addresses import address_of, local_folder
from shotfit.fitting.model import Model, load
from shotfit.fitting.opening import check_record
from shotfit.fitting.record import here, read_record
from shotfit.report.facts import look
from shotfit.report.label_facts import look_at_labels
from shotfit.report.labels_page import page_of_labels
from shotfit.report.model_page import page_of_facts, page_of_record
from shotfit.report.page import check_page, named_place, write_page

__all__ = ["write_report"]

UNSAVED = "MODEL"  # how commands on the page name a model that lies in no folder


@checked
def write_report(
    model: Model | str | Path,
    data: Data | None = None,
    labels: Labels | None = None,
    *,
    out: str | Path = "report.html",
    images: bool = True,
    everything: bool = False,
    heard: Sequence[str] | None = None,
    device: str = "auto",
) -> Path:
    """Write one self-contained HTML page about a model, and give back where it stands.

    model: a model, its folder, or its address on the hub. data, labels: labelled images as `evaluate` takes them; the
    test part is judged, or with `everything` all images. Without data, the page holds what the model's record knows,
    and no model is opened. images: show thumbnails. heard: what the doctor said of the data, where the caller has it
    already. device: as in `fit`, for a folder.

    Raises UsageError for a file that is no .html or cannot be written, for several tasks, and where the extra `report`
    is not installed; otherwise as `evaluate` and `load` do.

    Example (needs a saved model):
        write_report("shotfit-model", "photos", out="report.html")
    """
    place = Path(out)
    check_page(place, model=None if isinstance(model, Model) else Path(model))
    name = _name_of(model)
    if data is None:
        if isinstance(model, Model):
            record = model.record
        else:
            asked = local_folder(model)
            folder = standing(asked)
            record = here(read_record(folder), asked)
            check_record(folder, record)
        write_page(place, page_of_record(record, name))
        return place
    opened = model if isinstance(model, Model) else load(model, store=open_store(), device=device)
    told = list[str]()
    how = replace(opened.how, several_labels=opened.several_labels and not isinstance(data, Task))  # it is read already
    tasks = tasks_of(data, labels, how, cache=cache_folder(), to_fit=False, warned=told.append)
    if len(tasks) > 1:
        raise UsageError(f"{len(tasks)} tasks are given; a report is about one: name the folder of one of them.")
    task = tasks[0]
    if isinstance(data, Task):
        found = examine(task, cache=cache_folder(), to_fit=False) if heard is None else None
        told = list(heard or ()) if found is None else [one.message for one in (*found.errors, *found.warnings)]
    everything |= all_count(data, labels)
    if opened.several_labels:
        seen = look_at_labels(opened, task, everything)
        page = page_of_labels(seen, task, opened.record, told, name, images)
    else:
        page = page_of_facts(look(opened, task, everything), task, opened.record, told, name, images)
    write_page(place, page)
    return place


def _name_of(model: Model | str | Path) -> str:
    if not isinstance(model, Model):
        return str(address_of(model) or named_place(model))
    return Path(model.opened["folder"]).name if model.opened else UNSAVED
