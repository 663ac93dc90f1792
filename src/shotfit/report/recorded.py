"""What a model's record tells of the fit: method, options, what selection tried, and the commands that repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shotfit.data.rules import Rule
from shotfit.data.tasks import DEFAULT_TEMPLATE
from shotfit.fitting.card import tried
from shotfit.fitting.summary import described, half_lines, summary_rows, training_lines
from shotfit.methods import find, in_file, names
from shotfit.report.page import named_place

__all__ = ["HEAD", "Recorded", "how_to_fit", "recorded", "without_places"]

HEAD = ("method", "setting", "steps", "accuracy", "score")


@dataclass(frozen=True)
class Recorded:
    """A fit for people. rows: headings and values; notes: sentences; tried: the rows of a table, HEAD its head."""

    rows: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    tried: tuple[tuple[str, ...], ...]


def recorded(record: Mapping[str, Any]) -> Recorded:
    """What the record of a model says."""
    refused = [
        f"not tried: {row['method']} ({str(row['refused']).rstrip('.')})"
        for row in record.get("race") or ()
        if "refused" in row
    ]
    return Recorded(
        rows=tuple(summary_rows(described(record))),
        notes=(*training_lines(record), *half_lines(record), *refused),
        tried=tuple(tried(record)),
    )


def how_to_fit(record: Mapping[str, Any], source: str) -> str:
    """The command that fits the model again, as far as the record holds how it was called.

    >>> record = {"method": "coop", "found_at": "coop", "options": {"length": 4}, "shots": 16, "seed": 2,
    ...           "recipe": "paper", "backbone": {"name": "mini-6"}, "classes": [], "choice": {}, "race": []}
    >>> how_to_fit(record, "my photos")
    "shotfit fit 'my photos' --method coop --shots 16 --seed 2 --recipe paper --set length=4 --backbone mini-6"
    """
    choice = record.get("choice") or {}
    chosen, setting = (choice.get(name) for name in ("chosen", "setting"))
    chosen, setting = ({} if not isinstance(one, dict) else one for one in (chosen, setting))
    several = len(record["classes"]) > 1
    if record.get("support_images") == 0:
        (classes, *_) = record["classes"]
        words = ["--classes", ",".join(f'"{name}"' if "," in name else name for name in classes["names"])]
    else:
        words = ["--tasks", "tasks.toml"] if several else [source]
        words += ["--several-labels"] if any(one.get("several_labels") for one in record["classes"]) else []
        words += Rule.from_json(record.get("pictures") or {}).flags().split()
        words += ["--padding", f"{record['padding']:g}"] if record.get("padding") else []
        own = {name: value for name, value in _options(record).items() if name not in chosen}
        own |= dict.fromkeys(record.get("found", []), "auto")
        given = {name: setting.get(name) for name in ("lr", "epochs", "steps") if name not in chosen}
        if not record.get("race"):
            fitted = str(record.get("fitted_method") or record["method"])
            words += ["--method", record["found_at"] if in_file(record["found_at"]) else fitted]
        else:
            own, given = {}, {}  # auto decides them
        words += _flags({name: record.get(name) for name in ("shots", "seed", "recipe")})
        words += _flags({"views": record.get("views")} | given)
        words += [word for name, value in own.items() for word in ("--set", f"{name}={_text(value)}")]
    templates = [] if several else [template for one in record["classes"] for template in one["templates"]]
    if templates != [DEFAULT_TEMPLATE]:
        words += [word for template in templates for word in ("--template", template)]
    words += _flags({"backbone": record["backbone"]["name"]})
    words += ["--refit"] if record.get("refit") else []
    return f"shotfit fit {' '.join(shlex.quote(str(word)) for word in words)}"


def without_places(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the names alone of files and folders of this machine."""
    file, colon, attribute = str(record["found_at"]).rpartition(":")
    return dict(record) | {
        "found_at": f"{named_place(file)}{colon}{attribute}",
        "backbone": dict(record["backbone"]) | {"name": named_place(record["backbone"]["name"])},
        "options": {
            name: named_place(value) if isinstance(value, str) and value else value
            for name, value in record["options"].items()
        },
    }


def _flags(values: Mapping[str, Any]) -> list[str]:
    return [word for name, value in values.items() if value is not None for word in (f"--{name}", _text(value))]


def _options(record: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not the method's own defaults; a method's file is not run to find those out."""
    if record.get("fell_back") or record["method"] not in names() or in_file(record["found_at"]):
        return {} if record.get("fell_back") else dict(record["options"])
    defaults = find(record["method"])().options()
    return {name: value for name, value in record["options"].items() if value != defaults.get(name)}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
