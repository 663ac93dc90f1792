"""`shotfit fit --classes`: a zero-shot model of class names, without an image."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer

from shotfit.commands.arguments import as_classes, as_precision
from shotfit.commands.console import Say, print_json, say_terms
from shotfit.errors import UsageError, first_few, plural

__all__ = ["start"]

TAKEN = {"classes", "template", "backbone", "text", "architecture", "precision", "device", "out", "as_json"}
"""Arguments of `fit` that go with class names alone."""


def start(context: typer.Context, classes: str, out: Path, say: Say) -> None:
    """Make, save and report the model; `context` has the other arguments of `fit`."""
    given: dict[str, Any] = context.params
    for parameter in context.command.params:
        name = parameter.name or ""
        allowed = name in TAKEN or (name == "method" and given[name] == "zero_shot")
        if given.get(name) and given[name] != parameter.get_default(context) and not allowed:
            flag = parameter.opts[-1] if parameter.opts[-1].startswith("-") else str(given[name])
            raise UsageError(
                f"--classes makes a zero-shot model of class names alone, and {flag} goes with images: leave one out."
            )
    names, computing = as_classes(classes), as_precision(given["precision"])
    from shotfit.checkpoints.asked import with_asked
    from shotfit.evaluation.evaluate import TaskScores
    from shotfit.evaluation.several import Fitted
    from shotfit.fitting.folder import check_target, how_to_open
    from shotfit.fitting.start import zero_shot

    check_target(out)
    model = zero_shot(
        names,
        templates=given["template"] or (),
        backbone=with_asked(given["backbone"], given["text"], given["architecture"]),
        precision=computing,
        device=given["device"],
    )
    model.save(out)
    say(f"zero-shot model of {plural(len(names), 'class', 'classes')} ({first_few(names, 5)}), learned from no image")
    flags = how_to_open(model.frozen.backbone.name)
    say(f"saved {out} (predict: shotfit predict {shlex.quote(str(out))} IMAGES{flags})")
    say_terms(model.frozen.backbone.name, say)
    if given["as_json"]:
        none = TaskScores({})
        print_json({"method": "zero_shot"} | Fitted(model, out, none, none).as_json())
