"""The page of one model: what was measured on labelled pictures, or what its record tells where there are none."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shotfit.data.images import shown
from shotfit.data.pictures import Picture
from shotfit.data.tasks import Item, Task
from shotfit.evaluation.clean import DoublePictures, Suspect
from shotfit.evaluation.evaluate import ClassScores, Scores
from shotfit.evaluation.intervals import Interval, interval_by_image
from shotfit.fitting.figures import figures_of
from shotfit.progress import track
from shotfit.report.facts import Facts, Seen
from shotfit.report.label_facts import LabelFacts, Slip
from shotfit.report.mapping import map_of
from shotfit.report.page import named_in, named_place, rendered, thumbnail
from shotfit.report.plots import accuracies, confusion, map_plot, reliability
from shotfit.report.recorded import HEAD, how_to_fit, recorded, without_places

__all__ = ["Drawn", "commands_of", "judged_on", "page_of_facts", "page_of_record"]

MISTAKES, HITS, SUSPECTS, DOUBLES, ALIKE = 24, 12, 20, 16, 4
"""So many pictures of each kind, and of each group of doubles (ALIKE), stand on a page, however many there are: the
page's size is bounded by them."""
PARTS = {"train": "training part", "val": "validation part", "test": "test part"}
LARGE, SMALL = 128, 64  # pixels of a thumbnail's side
CLASSES = 2000  # rows of the table
CONFUSED = 25
WARNINGS = 50
FIRST = 30  # rows of classes that are seen at once
COUNTED = 10_000_000  # images of a record that an interval is computed for


def page_of_facts(
    facts: Facts, task: Task, record: Mapping[str, Any], heard: Sequence[str], model: str, images: bool = True
) -> str:
    """The page of a model that was asked. heard: what the doctor said. model: its folder's name, for commands."""
    record = without_places(record)
    scores, plain, paired = facts.answers.scores(), facts.plain.scores(), facts.paired()
    method = str(record.get("method", "model"))
    rows = [("zero-shot", plain.accuracy, plain.accuracy_interval)]
    rows += [] if facts.is_plain else [(method, scores.accuracy, scores.accuracy_interval)]
    heat, classes = confusion(scores)
    drawn = map_of(facts.features)
    maps = []
    if drawn is not None:
        labels, right = facts.answers.labels[drawn.rows], facts.answers.right[drawn.rows]
        pictures = {"PCA": drawn.pca, "t-SNE": drawn.tsne}
        maps = [
            map_plot(places, labels, right, facts.class_names, f"Map of the images by {kind}", f"map-{number}")
            for number, (kind, places) in enumerate(pictures.items())
            if places is not None
        ]
    draw = Drawn(facts, images)
    return rendered(
        "model.html",
        title=f"{method} on {facts.task}",
        method=method,
        task=facts.task,
        backbone=str(record["backbone"]["name"]),
        is_plain=facts.is_plain,
        scores=scores,
        plain=plain,
        paired=paired,
        judged=judged_on(facts, task),
        learned=facts.learned,
        refitted=bool(record.get("refit")),
        chart=accuracies(rows),
        figures=_figures(scores, plain),
        classes=_worst_first(scores.per_class)[:CLASSES],
        class_count=len(scores.per_class),
        first=FIRST,
        heat=heat,
        heat_classes=classes,
        confused=scores.most_confused(CONFUSED),
        reliability=reliability(facts.answers),
        with_images=images,
        mistakes=[draw.seen(one) for one in track(facts.mistakes(MISTAKES), "Mistakes")],
        mistake_count=int((~facts.answers.right).sum()),
        hits=[draw.seen(one) for one in track(facts.hits(HITS), "Hits")],
        hit_count=int(facts.answers.right.sum()),
        suspects=[draw.suspect(one) for one in facts.suspects(SUSPECTS)],
        suspect_count=facts.wrong_labels,
        doubles=[draw.double(one) for one in facts.doubles(DOUBLES)],
        double_count=len(facts.examined.doubles),
        maps=maps,
        image_count=len(facts.items),
        mapped=0 if drawn is None else len(drawn.rows),
        explained=None if drawn is None else drawn.explained,
        heard=[one.replace(f"{facts.source}{os.sep}", "") for one in heard[:WARNINGS]],
        heard_count=len(heard),
        fit=recorded(record),
        head=HEAD,
        commands=commands_of(record, named_place(shown(facts.source)), model, facts.whole),
    )


def page_of_record(record: Mapping[str, Any], model: str) -> str:
    """The page of a model by its record alone: nothing is asked, and there are no pictures."""
    record = without_places(record)
    tested, checked = (record.get(name) or {} for name in ("scores", "checked"))
    method = str(record.get("method", "model"))
    tasks = [(one["task"], one["names"]) for one in record["classes"]]
    charts = []
    for number, (found, on, images) in enumerate(
        (
            (tested, "the test part", tested.get("test_images")),
            (checked, str(checked.get("on", "held-out images")), checked.get("images")),
        )
    ):
        title, own, plain = figures_of(found)
        counted = images if title == "accuracy" else None  # else it is no share of the images
        rows = [
            (name, share, _interval(share, counted, len(tasks)))
            for name, value in (("zero-shot", plain), (method, own))
            if (share := _share(value)) is not None
        ]
        if rows:
            chart = accuracies(rows, f"accuracy-{number}", title)
            charts.append({"on": on, "images": images, "rows": rows, "chart": chart})
    return rendered(
        "record.html",
        title=f"{method} on {', '.join(name for name, _ in tasks[:3])}",
        backbone=str(record["backbone"]["name"]),
        charts=charts,
        tasks=tasks,
        several=len(tasks) > 1,
        fit=recorded(record),
        head=HEAD,
        commands=commands_of(record, "FOLDER", model, False),
    )


class Drawn:
    """Pictures as the page shows them: names, probabilities, thumbnails."""

    def __init__(self, facts: Facts | LabelFacts, images: bool) -> None:
        self.names, self.source, self.images = facts.class_names, facts.source, images

    def seen(self, seen: Seen) -> dict[str, Any]:
        names = self.names
        near = [self._small(one.item.picture, names[one.item.label], one.similarity) for one in seen.nearest]
        return self._card(seen.item.picture, names[seen.label]) | {
            "top": [(names[one], share) for one, share in seen.top],
            "own": None if seen.label in {one for one, _ in seen.top} else seen.probability,
            "near": near,
            "near_title": "Nearest labelled images:",
        }

    def slip(self, slip: Slip) -> dict[str, Any]:
        names, own = self.names, set(slip.item.labels)
        near = [self._small(one.item.picture, self._all(one.item), one.similarity) for one in slip.nearest]
        return self._card(slip.item.picture, self._all(slip.item)) | {
            "said": [(names[one], share, one in own) for one, share in slip.shown],
            "wrong": names[slip.label],
            "near": near,
            "near_title": "Nearest labelled images:",
        }

    def _all(self, item: Item) -> str:
        return ", ".join(self.names[label] for label in item.labels) or "none of the classes"

    def suspect(self, found: Suspect) -> dict[str, Any]:
        return self._card(found.picture, found.label) | {
            "top": [(found.likely, found.score), (found.label, 1 - found.score)],
            "own": None,
            "part": PARTS[found.part],
            "near": [self._small(picture, found.likely, cosine) for picture, cosine in found.nearest],
            "near_title": "Most like it of the likely class:",
        }

    def double(self, found: DoublePictures) -> dict[str, Any]:
        first, *others = zip(found.pictures, found.labels, found.parts, strict=True)
        others.sort(key=lambda one: one[1:] == first[1:])  # those that differ from it are why the group is bad
        shown = [first, *others]
        return {
            "problem": found.problem,
            "pictures": [self._card(picture, label) | {"part": PARTS[part]} for picture, label, part in shown[:ALIKE]],
            "more": len(shown[ALIKE:]),
            "cosine": None if found.same else found.cosine,
        }

    def _card(self, picture: Picture, label: str) -> dict[str, Any]:
        image = thumbnail(picture, LARGE) if self.images else None
        return {"name": named_in(picture, self.source), "label": label, "image": image}

    def _small(self, picture: Picture, label: str, similarity: float) -> dict[str, Any]:
        return {"label": label, "image": thumbnail(picture, SMALL) if self.images else None, "similarity": similarity}


def judged_on(facts: Facts | LabelFacts, task: Task) -> str:
    """Which pictures a model was judged on, in words."""
    if facts.whole:
        return f"all {len(facts.items):,} images"
    origin = f" ({task.test_origin})" if task.test_origin else ""
    return f"the {len(facts.items):,} images of the test part{origin}"


def _figures(scores: Scores, plain: Scores) -> list[tuple[str, str, str]]:
    """Name, the model's and zero-shot's figure."""
    named = {
        "accuracy": "accuracy",
        "mean class accuracy": "mean_class_accuracy",
        "macro F1": "macro_f1",
        "top-5 accuracy": "top5_accuracy",
        "calibration error": "calibration_error",
    }
    rows = []
    for title, name in named.items():
        own, theirs = getattr(scores, name), getattr(plain, name)
        if own is not None and theirs is not None:
            rows.append((title, f"{100 * own:.1f} %", f"{100 * theirs:.1f} %"))
    return [*rows, ("log loss", f"{scores.log_loss:.3f}", f"{plain.log_loss:.3f}")]


def _worst_first(classes: Sequence[ClassScores]) -> list[ClassScores]:
    """By F1, those that say nothing last."""
    return sorted(classes, key=lambda one: (one.f1 is None, one.f1 or 0.0, -one.images))


def _interval(share: float, images: Any, tasks: int) -> Interval:
    """The 95 % interval of a recorded accuracy; the figure alone where it is a mean over tasks, or of no count."""
    if tasks > 1 or type(images) is not int or not 0 < images <= COUNTED:
        return share, share
    right = np.zeros(images)
    right[: round(share * images)] = 1
    return interval_by_image(right)


def _share(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= 1
    return float(value) if good else None


def commands_of(record: Mapping[str, Any], source: str, model: str, whole: bool) -> list[str]:
    """What to type to have the page, and the model, again. whole: it is judged on all pictures."""
    place, data = shlex.quote(model), shlex.quote(source) if source != "FOLDER" else source
    return [
        f"pip install 'shotfit[report]=={record.get('versions', {}).get('shotfit', '')}'",
        how_to_fit(record, source) + f" --out {place}",
        f"shotfit report {place} {data}{' --all' if whole else ''}",
        f"shotfit predict {place} IMAGES",
    ]
