"""`export.json`: what a runtime has to know that is not in the graph, in numbers and words alone.

`FORMAT` counts up when an older runtime could misread it.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import shotfit
from shotfit.checkpoints.names import find, terms_of
from shotfit.checkpoints.weights import is_known
from shotfit.export.preparing import preprocess_record
from shotfit.fitting.card import said_of_support
from shotfit.fitting.folder import EXPORTED
from shotfit.fitting.model import Model
from shotfit.fitting.trust import Trust

__all__ = ["FORMAT", "RECORD", "record_of"]

FORMAT = 1
RECORD = EXPORTED


def record_of(model: Model, kind: str, file: str, precision: str) -> dict[str, Any]:
    """What every export says of its model: see docs/export.md."""
    classes, backbone = model.one_task(), model.frozen.backbone
    return {
        "format": FORMAT,
        "kind": kind,
        "shotfit": shotfit.__version__,
        "model": file,
        "precision": precision,
        "task": classes.task,
        "classes": list(classes.names),
        "preprocess": preprocess_record(backbone.config.preprocessing),
        "input": {"name": "pixels", "type": "float32", "shape": ["n", 3, *[backbone.image.image_size] * 2]},
        "outputs": {"logits": ["n", len(classes.names)], "features": ["n", backbone.embed]},
        "calibrated": model.trust is not None,
        "trust": _trust_record(model.own_trust),
        "card": _card(model),
    }


def _trust_record(trust: Trust | None) -> dict[str, Any] | None:
    """What prediction sets and marks of unknown images need; None where no image was held out."""
    if trust is None or not len(trust):
        return None
    means = trust.means.numpy().astype("<f2")
    return {
        "scores": trust.scores.tolist(),
        "labels": trust.labels.tolist(),
        "strange": trust.strange.tolist(),
        "center": trust.center[0].tolist(),
        "width": trust.width[0].tolist(),
        "means": {
            "type": "float16",
            "shape": list(means.shape),
            "base64": base64.b64encode(means.tobytes()).decode("ascii"),
        },
    }


def _card(model: Model) -> dict[str, Any]:
    record = model.record
    name = record["backbone"]["name"]
    name = name if is_known(name) else Path(name).name  # where it lies is of no use elsewhere
    entry, (repository, _, revision) = find(name), name.partition("@")
    if entry is not None and entry.repository is not None:
        repository, revision = entry.repository, entry.revision
    return {
        "method": record["method"],
        "title": model.method.title,
        "paper": model.method.paper,
        "backbone": name,
        "checkpoint": {"name": repository, "revision": revision or None},
        "fingerprint": record["backbone"]["fingerprint"],
        "recipe": record.get("recipe"),
        "learned_from": said_of_support(record),
        "fitted_in": record["precision"],
        "terms": terms_of(name),
    }
