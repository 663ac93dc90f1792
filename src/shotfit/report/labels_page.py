"""The page of a model of several labels a picture: what was measured on labelled pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from shotfit.data.images import shown
from shotfit.data.tasks import Task
from shotfit.evaluation.several_labels import LabelScores, by_precision
from shotfit.progress import track
from shotfit.report.label_facts import LabelFacts
from shotfit.report.model_page import CLASSES, FIRST, MISTAKES, WARNINGS, Drawn, commands_of, judged_on
from shotfit.report.page import named_place, rendered
from shotfit.report.plots import accuracies, reliability_of
from shotfit.report.recorded import HEAD, recorded, without_places

__all__ = ["page_of_labels"]


def page_of_labels(
    facts: LabelFacts, task: Task, record: Mapping[str, Any], heard: Sequence[str], model: str, images: bool = True
) -> str:
    """The page. heard: what the doctor said. model: its folder's name, for commands."""
    record = without_places(record)
    scores, plain = facts.answers.scores(), facts.plain.scores()
    method = str(record.get("method", "model"))
    figures = [("zero-shot", plain.mean_average_precision)]
    figures += [] if facts.is_plain else [(method, scores.mean_average_precision)]
    missed, added = facts.wrong
    said, there = facts.answers.probabilities.ravel(), facts.answers.sets.astype(bool).ravel()
    words = ("there", "labels that are there", "labels")
    draw = Drawn(facts, images)
    return rendered(
        "labels.html",
        title=f"{method} on {facts.task}",
        method=method,
        is_plain=facts.is_plain,
        scores=scores,
        plain=plain,
        judged=judged_on(facts, task),
        learned=facts.learned,
        image_count=len(facts.items),
        refitted=bool(record.get("refit")),
        chart=accuracies([(name, one, (one, one)) for name, one in figures], title="mean average precision"),
        figures=_figures(scores),
        classes=by_precision(scores)[:CLASSES],
        class_count=len(scores.per_class),
        first=FIRST,
        reliability=reliability_of(said, there, words, "probability of a label, in percent"),
        with_images=images,
        missed=[draw.slip(one) for one in track(facts.missed(MISTAKES), "Missed labels")],
        missed_count=int(missed.sum()),
        added=[draw.slip(one) for one in track(facts.added(MISTAKES), "Added labels")],
        added_count=int(added.sum()),
        heard=[one.replace(f"{facts.source}{os.sep}", "") for one in heard[:WARNINGS]],
        heard_count=len(heard),
        fit=recorded(record),
        fit_head=HEAD,
        commands=commands_of(record, named_place(shown(facts.source)), model, facts.whole),
    )


def _figures(scores: LabelScores) -> list[tuple[str, str]]:
    """Name and figure of what is measured at the thresholds."""
    named = {
        "micro F1": scores.micro_f1,
        "macro F1": scores.macro_f1,
        "all labels right": scores.exact,
        "calibration error": scores.calibration_error,
    }
    return [(title, f"{100 * value:.1f} %") for title, value in named.items()]
