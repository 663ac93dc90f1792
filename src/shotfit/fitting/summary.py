"""What a saved model is, by its record alone: nothing of it runs, and no backbone is opened.

print("\\n".join(summary_lines(summary(Path("shotfit-model")))))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shotfit.checkpoints.names import terms_of
from shotfit.data.rules import Rule
from shotfit.errors import ShotfitError, first_few
from shotfit.files import standing
from shotfit.fitting.addresses import called
from shotfit.fitting.card import said_of_support
from shotfit.fitting.figures import figures_of
from shotfit.fitting.folder import EXPORTED, RECORD
from shotfit.fitting.opening import check_record
from shotfit.fitting.record import read_record

__all__ = ["described", "half_lines", "models_in", "summary", "summary_lines", "summary_rows", "training_lines"]

SHOWN = 20  # class names of a task
TRAINED = ("steps", "first_loss", "last_loss", "right_before", "right_after", "right_zero_shot", "looked_at")
HALVED = ("accuracy", "half", "images", "error")


def models_in(folder: Path) -> list[Path]:
    """The folder, if it is a model's, or those of models directly below it, sorted by name.

    Raises ShotfitError for a folder that holds neither.
    """
    if (standing(folder) / RECORD).exists():
        return [folder]
    below = sorted(path for path in folder.iterdir() if path.name[0] != "." and (path / RECORD).is_file())
    if not below and (standing(folder) / EXPORTED).is_file():
        read_record(standing(folder))  # says what it is
    if not below:
        raise ShotfitError(
            f"{folder} is not a shotfit model: it has no {RECORD}. Name a folder that `shotfit fit` wrote, or a method."
        )
    return below


def summary(folder: Path) -> dict[str, Any]:
    """What the record of a model says, as plain data.

    Raises ShotfitError for a folder that is no whole model.
    """
    place = standing(folder)
    record = read_record(place)
    check_record(place, record)
    size = sum(path.stat().st_size for path in place.iterdir() if path.is_file())
    return {"model": called(folder)} | described(record) | {"bytes": size}


def described(record: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a record, without what its folder says."""
    choice = record.get("choice") or {}
    return {
        "method": record["method"],
        "found_at": record["found_at"],
        "recipe": record.get("recipe"),
        "options": record["options"],
        "chosen": choice.get("chosen") or {},
        "found": {name: record["options"][name] for name in record.get("found", [])},
        "selection": record.get("selection"),
        "backbone": record["backbone"] | {"terms": terms_of(record["backbone"]["name"])},
        "precision": record["precision"],
        "tasks": [{"name": task["task"], "classes": task["names"], "templates": task["templates"],
                   "several_labels": task.get("several_labels", False)}
                  for task in record["classes"]],
        "learned_from": said_of_support(record),
        "pictures": record.get("pictures") or {},
        "fell_back": record.get("fell_back", False),
        "checked": record.get("checked") or {},
        "scores": record.get("scores") or {},
        "trust": record.get("trust") or {},
        "versions": record.get("versions") or {},
        "seconds": record.get("seconds"),
    }  # fmt: skip


def summary_lines(found: Mapping[str, Any]) -> list[str]:
    """The summary for people: a heading and its value a line."""
    rows = [("model", f"{found['model']} ({found['bytes'] / 1e6:,.1f} MB without its backbone)"), *summary_rows(found)]
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {value}" for name, value in rows]


def summary_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What `described` gives, for people: headings and their values."""
    backbone, tasks, scores, checked, trust = (
        found[name] for name in ("backbone", "tasks", "scores", "checked", "trust")
    )
    rows = list[tuple[str, str]]()
    recipe = f", recipe {found['recipe']}" if found["recipe"] and found["recipe"] != "paper" else ""
    recipe = ", published recipe" if found["recipe"] == "paper" else recipe
    rows.append(("method", f"{found['method']}{recipe}{', in place of a worse fit' if found['fell_back'] else ''}"))
    rows.append(("chosen", found["selection"] or "nothing"))
    rows.append(("options", _pairs(found["options"]) or "none"))
    rows.append(("backbone", f"{backbone['name']}, fingerprint {backbone['fingerprint'][:12]}, {found['precision']}"))
    rows += [("terms", backbone["terms"])] if backbone["terms"] else []
    for task in tasks:
        several = ", several labels a picture" if task["several_labels"] else ""
        listed = first_few(task["classes"], SHOWN)
        rows.append(("task", f"{task['name']}: {len(task['classes']):,} classes{several} ({listed})"))
        rows.append(("templates", first_few([repr(template) for template in task["templates"]])))
    rows.append(("learned from", found["learned_from"]))
    rows += [("pictures", f"read with {Rule.from_json(found['pictures']).flags()}")] if found["pictures"] else []
    if figures_of(checked)[1] is not None:
        rows.append(("checked", f"{_percent(checked)} on {checked.get('on', 'held-out images')}"))
    if figures_of(scores)[1] is not None:
        images = scores.get("test_images")
        rows.append(("held out", _percent(scores) + ("" if images is None else f" of {images:,} images")))
    else:
        rows.append(("held out", "no figure: no image was held out"))
    rows.append(("trust", _said_of_trust(trust)))
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    took = "" if found["seconds"] is None else f" in {found['seconds']:,.1f} s"
    rows.append(("fitted", f"with {versions or 'an unknown version'}{took}"))
    return rows


def training_lines(record: Mapping[str, Any]) -> list[str]:
    """What a training did, and what to do where it did nothing."""
    training = record.get("training") or {}
    if any(training.get(name) is None for name in TRAINED) or not training["looked_at"]:
        return []
    before, after = 100 * training["right_before"], 100 * training["right_after"]
    losses = f"loss {training['first_loss']:.3g} to {training['last_loss']:.3g}"
    several = any(one.get("several_labels") for one in record.get("classes", ()))
    judged = "mean average precision of support images" if several else "support images right"
    lines = [f"training: {training['steps']:,} steps, {losses}, {judged} {before:.1f} to {after:.1f} %"]
    noise = 100 * (0.25 / training["looked_at"]) ** 0.5
    if abs(after - 100 * training["right_zero_shot"]) <= noise:
        method = record.get("fitted_method") or record["method"]
        more = "" if record.get("recipe") == "auto" else ", or --recipe auto"
        lines.append(
            f"{method} is no better than zero-shot on the images that it has learned from: give it more steps "
            f"(--steps) or a higher rate (--lr){more}."
        )
    return lines


def half_lines(record: Mapping[str, Any]) -> list[str]:
    """Whether more labels would help, where that was tried."""
    half = record.get("half_of_the_labels") or {}
    if any(half.get(name) is None for name in HALVED):
        return []
    lost = 100 * (half["accuracy"] - half["half"])
    verdict = "more labels would help" if lost > 100 * half["error"] else "more labels would change little"
    points = f"{abs(lost):.1f}"
    much = "as many" if points == "0.0" else f"{points} points {'fewer' if lost > 0 else 'more'}"
    images = f"{half['images']:,} held-out image{'' if half['images'] == 1 else 's'}"
    return [f"{verdict}: with half of them, {much} are right of {images}"]


def _percent(found: Mapping[str, Any]) -> str:
    title, own, plain = figures_of(found)
    beside = "" if plain is None else f" (zero-shot {100 * plain:.1f} %)"
    return f"{title} {100 * (own or 0.0):.1f} %{beside}"


def _said_of_trust(trust: Mapping[str, Any]) -> str:
    if not trust.get("images"):
        return "not calibrated: nothing was held out"
    before, after = trust.get("log_loss_before"), trust.get("log_loss")
    moved = "" if before is None or after is None else f", log loss {before:.3f} to {after:.3f}"
    return f"calibrated ({trust.get('calibration', 'temperature')}) on {trust['images']:,} held-out images{moved}"


def _pairs(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={str(value).lower() if isinstance(value, bool) else value}"
                     for name, value in options.items() if value != "")  # fmt: skip
