"""What a saved model must be before anything of it is used: whole, of a known form, and as its method declares.

    saved = read_saved(folder, method=None)     # record, options, classes, tensors: needs no backbone
    saved.attach(frozen)                        # its tensors against the method's own declaration

    read_saved(folder, method=None, task="birds")       # of many tasks one, without the rows of the others

A folder may come from anybody, and whoever changes it can make its hashes anew. So nothing is believed for being there:
every field has a type and a range, options go through the method's own checks, and every tensor has the name, shape and
kind that the method asks for with these options, classes and towers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotfit.data.rules import Rule
from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen
from shotfit.errors import ShotfitError
from shotfit.fitting.figures import PRECISION
from shotfit.fitting.folder import RECORD, WEIGHTS
from shotfit.fitting.learned import LEARNED, marks
from shotfit.fitting.record import damaged, here, kind_of, read_record, read_tensors
from shotfit.fitting.several_labels import SeveralTrust
from shotfit.fitting.task_parts import BY_CLASS, for_task, has_parts, one_task, trust_of_task
from shotfit.fitting.trust import PREFIX, Trust
from shotfit.methods.base import Method
from shotfit.methods.declared import check_declared

__all__ = ["Saved", "read_saved"]


@dataclass(frozen=True, eq=False)
class Saved:
    """A model as it lies in a folder. tensors: those of the method. learned: [images] marks.

    number: of many tasks the one that was read; the record, trust and rows of classes are of it alone then.
    """

    folder: Path
    record: dict[str, Any]
    method: Method
    classes: tuple[ClassList, ...]
    tensors: Mapping[str, Tensor]
    learned: Tensor
    trust: Trust | None
    number: int | None = None

    def attach(self, frozen: Frozen) -> Method:
        """The method with the frozen model, the classes and what it learned, once that is what it declares.

        Raises ShotfitError.
        """
        own = self.check(frozen).items()
        dtype = frozen.parameter_dtype
        self.method.restore({key: value.to(dtype) if value.is_floating_point() else value for key, value in own})
        return self.method

    def check(self, frozen: Frozen) -> Mapping[str, Tensor]:
        """Compare the tensors with what the method declares for these towers; it is attached, and holds none of them.

        Gives the tensors, of many tasks those of the one that was read. Raises ShotfitError.
        """
        tensors, path = self.tensors, self.folder / WEIGHTS
        try:
            self.method.attach(frozen, self.classes)
            declared = self.method.all_declared()
            if self.number is not None:
                whole = self.method.declared()
                self.method.attach(frozen, (self.classes[self.number],))
                one = self.method.declared()
                assert whole is not None and one is not None  # the only ones that are read so
                check_declared({name: value for name, value in tensors.items() if name not in BY_CLASS}, whole)
                tensors = for_task(tensors, whole, one, [len(own.names) for own in self.classes], self.number)
                declared = self.method.all_declared()
        except ShotfitError as error:
            raise _refused(self.folder / RECORD, str(error)) from None
        if declared is None:
            self._check_names(path)
        else:
            try:
                check_declared(tensors, declared)
            except ShotfitError as error:
                raise ShotfitError(f"{path} {error}: fit the model again.") from None
        if self.trust is not None and len(self.trust) and self.trust.means.shape[1] != frozen.embed:
            raise ShotfitError(
                f"{path} has trust.means of shape {list(self.trust.means.shape)}, where "
                f"[{sum(self.method.sizes)}, {frozen.embed}] is expected: fit the model again."
            )
        return tensors

    def _check_names(self, path: Path) -> None:
        """Of a method that declares nothing: names that it can take, and class features of the right shape."""
        for name, tensor in self.tensors.items():
            kind, _, own = name.partition(".")
            if name == "baked":
                expected = [sum(self.method.sizes), self.method.frozen.embed]
                if list(tensor.shape) != expected:
                    raise ShotfitError(
                        f"{path} has baked of shape {list(tensor.shape)}, where {expected} is expected: fit the model "
                        "again."
                    )
            elif kind not in ("parameter", "buffer") or not own.isidentifier() or hasattr(self.method, own):
                raise ShotfitError(f"{path} has no place for {name}: fit the model again.")


def read_saved(
    folder: Path, method: str | type[Method] | None = None, asked: Path | None = None, task: str | None = None
) -> Saved:
    """Read a model's folder, and check what needs no backbone. asked: where it stands for the user.

    task: one of the model's, which is read without the others where it holds many; else all of it is read.

    Raises ShotfitError or UsageError, in one sentence.
    """
    record = here(read_record(folder), folder if asked is None else asked)
    check_record(folder, record)
    number = None if task is None else _alone(record, kind_of(folder, record, method), task)
    tensors = read_tensors(folder, record) if number is None else one_task(folder, record, number)
    kind = kind_of(folder, record, method)  # last: a damaged file is said before a missing class
    if record["options"].keys() - {field.name for field in fields(kind)}:  # type: ignore[arg-type]
        raise damaged(folder)
    try:
        fitted = kind(**record["options"])
        if fitted.options_to_find:  # a fit has found them all
            raise damaged(folder)
        classes = tuple(map(_class_list, record["classes"]))
    except ShotfitError as error:
        raise _refused(folder / RECORD, str(error)) from None
    if len({own.task for own in classes}) < len(classes):
        raise _refused(folder / RECORD, "two tasks have the same name.")
    learned = tensors.pop(LEARNED, None)
    if learned is not None and (learned.dtype != torch.int64 or learned.dim() != 1):
        raise damaged(folder)
    sizes = [len(own.names) for own in classes]
    try:
        held = tensors if number is None else trust_of_task(tensors, sizes, number)
        if classes[0].several_labels:
            trust: Trust | None = SeveralTrust.read(held, record.get("trust"), sizes[0])
        else:
            trust = Trust.restore(held, record.get("trust"), sizes if number is None else [sizes[number]])
    except ValueError:
        raise damaged(folder) from None
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    record = record if number is None else _of_one(record, number)
    return Saved(folder, record, fitted, classes, own, marks(()) if learned is None else learned, trust, number)


def _class_list(own: Mapping[str, Any]) -> ClassList:
    names, templates, parents = (tuple(own.get(name, ())) for name in ("names", "templates", "parents"))
    return ClassList(own["task"], names, templates, parents, own.get("several_labels", False))


def _alone(record: Mapping[str, Any], kind: type[Method], task: str) -> int | None:
    """The number of a task that can be read without the others; None where all of the model must be read."""
    names = [own["task"] for own in record["classes"]]
    able = kind.declared is not Method.declared and kind.logits is Method.logits
    return names.index(task) if able and has_parts(record) and task in names else None


def _of_one(record: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The record as that of a model of one of its tasks."""
    own = record["classes"][number]
    kept = {name: value for name, value in record.items() if name not in ("parts", "scores", "checked")}
    for name in ("scores", "checked"):
        found = record.get(name, {}).get("tasks")
        if isinstance(found, dict) and isinstance(found.get(own["task"]), dict):
            kept[name] = found[own["task"]]
    return kept | {"classes": [own]}


def _refused(path: Path, why: str) -> ShotfitError:
    return ShotfitError(f"{path} cannot be used ({why.rstrip('.')}): fit the model again.")


# What a record may say of a fit beside what every model has; other fields are nobody's, and are left alone.
_NUMBER = (int, float)
_FIELDS: dict[str, tuple[type, ...]] = {
    "fitted_method": (str,), "recipe": (str, type(None)), "selection": (str,), "fell_back": (bool,), "refit": (bool,),
    "shots": (int, type(None)), "seed": (int, type(None)), "support_images": (int,), "labelled_images": (int,),
    "learned_images": (int,), "views": (int, str, type(None)), "seconds": _NUMBER, "choice": (dict,),
    "training": (dict,), "half_of_the_labels": (dict,), "checked": (dict,), "trust": (dict,), "scores": (dict,),
    "found": (list,), "padding": (*_NUMBER, type(None)),
    "preprocessing": (dict,), "versions": (dict,), "pictures": (dict,), "race": (list,), "card": (str,),
}  # fmt: skip
PRECISIONS_OF_SETS = (PRECISION, f"zero_shot_{PRECISION}")
_FIGURES = {
    "scores": ("accuracy", "zero_shot_accuracy", *PRECISIONS_OF_SETS, "micro_f1", "macro_f1", "test_images"),
    "checked": ("accuracy", "zero_shot_accuracy", *PRECISIONS_OF_SETS, "images"),
    "trust": ("images", "log_loss", "log_loss_before"),
    "training": (
        *("steps", "first_loss", "last_loss", "right_before", "right_after"),
        *("right_zero_shot", "looked_at"),
    ),
    "half_of_the_labels": ("accuracy", "half", "images", "error"),
}
_PRECISIONS = ("float32", "bfloat16", "float64", "int8")


def check_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse a record with a field that is not what a fit writes there.

    Raises ShotfitError.
    """
    path = folder / RECORD
    for name, kinds in _FIELDS.items():
        value = record.get(name)
        if name in record and (type(value) not in kinds or (isinstance(value, _NUMBER) and not _counts(value))):
            raise _refused(path, f"its field {name} is {str(value)[:80]}")
    for name, figures in _FIGURES.items():
        odd = [figure for figure in figures if not _is_figure(record.get(name, {}).get(figure))]
        if odd:
            raise _refused(path, f"its field {name} holds no number for {odd[0]}")
    if record["precision"] not in _PRECISIONS:
        raise _refused(path, f"its precision is {record['precision'][:80]}; expected one of {', '.join(_PRECISIONS)}")
    if not isinstance(record.get("versions", {}).get("shotfit", ""), str):
        raise _refused(path, "its field versions holds no text for shotfit")
    try:
        Rule.from_json(record.get("pictures", {}))
    except (ShotfitError, TypeError, ValueError):
        raise _refused(path, "its field pictures names no window and bands") from None
    tried = record.get("choice", {}).get("tried") or []
    if not isinstance(tried, list) or not all(map(_is_trial, tried)):
        raise _refused(path, "its field choice holds no list of what was tried")
    if not all(isinstance(name, str) and name in record["options"] for name in record.get("found", [])):
        raise _refused(path, "its field found holds no names of options")
    if not all(map(_is_entrant, record.get("race", []))):
        raise _refused(path, "its field race holds no list of methods")


def _counts(value: float) -> bool:
    """Whether a number may be a count, a seed or seconds."""
    return isinstance(value, bool) or (0 <= value < 2**63 and math.isfinite(value))


def _is_trial(row: Any) -> bool:
    match row:
        case {"point": dict(), "steps": int() | None, "accuracy": found, "score": score}:
            return _is_figure(found) and _is_figure(score)
    return False


def _is_entrant(row: Any) -> bool:
    match row:
        case {"method": str(), "chosen": dict(), "accuracy": found, "score": score}:
            return _is_figure(found) and _is_figure(score)
    return False


def _is_figure(value: Any) -> bool:
    return value is None or type(value) in _NUMBER
