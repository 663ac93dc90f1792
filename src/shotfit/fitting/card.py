"""The model card: what a model is, what it learned from, what was tried, and how to predict with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shotfit.checkpoints.closed import named_by_library
from shotfit.checkpoints.names import terms_of
from shotfit.checkpoints.weights import is_known
from shotfit.data.rules import Rule
from shotfit.methods import in_file
from shotfit.methods.base import Method
from shotfit.printing import as_code, as_markdown

__all__ = ["PLACE", "card", "said_of_support", "split_card", "tried"]

PLACE = "FOLDER_OF_THIS_MODEL"  # in the command of a card; who puts the model elsewhere puts that in its place
_METADATA = re.compile(r"---\n(.*?\n)---\n+", re.DOTALL)


def card(method: Method, record: Mapping[str, Any]) -> str:
    """The card of a fitted method, in Markdown, by the model's record. Names are shown as they are, and run nothing."""
    lists, backbone = method.classes, record["backbone"]
    scores = {name: value for name, value in record.get("scores", {}).items() if name != "tasks"}
    labels = ", of which a picture may have several or none" if lists[0].several_labels else ""
    several, known = len(lists) > 1, is_known(backbone["name"])
    public = known or named_by_library(backbone["name"])
    name = backbone["name"] if public else Path(backbone["name"]).name  # where it lies is of no use elsewhere
    terms = terms_of(name)
    to_open = "" if known else f" --backbone {name if public else 'PATH_OF_THE_BACKBONE'}"
    to_open += " --method PATH_OF_THE_METHOD.py:CLASS" if in_file(record["found_at"]) else ""
    read_with = Rule.from_json(record.get("pictures") or {}).flags()
    lines = [
        f"# {as_markdown(method.title)} on {as_markdown(name)}",
        "",
        f"An image classifier for {sum(method.sizes)} classes{labels}{f' of {len(lists)} tasks' if several else ''}, "
        f"fitted with shotfit {as_markdown(record['versions']['shotfit'])} ({as_markdown(method.paper)}).",
        "",
        f"- Method: {as_code(record['method'])}, options {as_code(json.dumps(record['options']))}",
        f"- Backbone: {as_code(name)}, fingerprint {as_code(backbone['fingerprint'])}",
        *([f"- Terms: {as_markdown(terms)}; for a product, fit on another backbone"] if terms else []),
        f"- Learned from: {as_markdown(said_of_support(record))}",
        *([f"- Pictures: read with {as_code(read_with)}"] if read_with else []),
        f"- Selection: {as_markdown(record.get('selection', 'none'))}",
        *[f"- {as_markdown(title.replace('_', ' '))}: {as_markdown(value)}" for title, value in scores.items()],
        "",
        *_tried(record),
        *[
            f"{f'Classes of {as_markdown(task.task)}' if several else 'Classes'}: "
            f"{', '.join(map(as_markdown, task.names))}\n"
            for task in lists
        ],
        f"Predict: `shotfit predict {PLACE} image.jpg{' --task TASK' if several else ''}{to_open}`",
        "",
    ]
    return "\n".join(lines)


def split_card(text: str) -> tuple[str, str]:
    r"""The metadata of a card, YAML between two lines of ---, and its text. The first is "" where there is none.

    >>> split_card("---\ntags: [a]\n---\n# A model")
    ('tags: [a]\n', '# A model')
    """
    found = _METADATA.match(text)
    return ("", text) if found is None else (found[1], text[found.end() :])


def said_of_support(record: Mapping[str, Any]) -> str:
    """What the card says of the images that were learned."""
    images = record.get("support_images")
    if images == 0:
        return "no image (zero-shot, by the names of the classes alone)"
    if record.get("method") == "zero_shot":
        return f"no image (zero-shot); {images} labelled images were used to choose it and to calibrate it"
    if record.get("refit"):
        return (
            f"{images} labelled images, the held-out ones among them; what was measured on those, was measured before "
            "that, and the model has no held-out figure of its own"
        )
    of = f" of {record['labelled_images']}" if "labelled_images" in record else ""
    shots = f"{record['shots']} shots" if record.get("shots") else "all shots"
    number = "an unknown number of" if images is None else f"{images}{of}"
    return f"{number} labelled images ({shots}, seed {record.get('seed')})"


def tried(record: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """What was tried on held-out images: method, setting, steps, accuracy and score as texts.

    The methods of a race, then the settings of the one that was chosen.
    """
    rows = [_row(row["method"], _point(row["chosen"]), None, row["accuracy"], row["score"])
            for row in record.get("race") or ()]  # fmt: skip
    return rows + [
        _row(record.get("fitted_method", ""), _point(row["point"]), row["steps"], row["accuracy"], row["score"])
        for row in (record.get("choice") or {}).get("tried") or ()
        if row["point"]
    ]


def _tried(record: Mapping[str, Any]) -> list[str]:
    rows = tried(record)
    if not rows:
        return []
    head = ["Tried on held-out images (score: mean log probability of the true class, at the best temperature):", ""]
    several = record["classes"][0].get("several_labels")
    head += [f"| method | setting | steps | {'mean AP' if several else 'accuracy'} | score |", "|---|---|---|---|---|"]
    return [*head, *(f"| {' | '.join(map(as_markdown, row))} |" for row in rows), ""]


def _row(
    method: str, point: str, steps: int | None, accuracy: float | None, score: float | None
) -> tuple[str, str, str, str, str]:
    shown = ("-", "diverged") if score is None or accuracy is None else (f"{100 * accuracy:.1f} %", f"{score:.3f}")
    return (method, point, "" if steps is None else str(steps), *shown)


def _point(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in
                     point.items())  # fmt: skip
