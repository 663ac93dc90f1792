"""What the page asks of a model, in the process that holds it: guesses, fits, answers for one picture.

    studio = Studio(Path("photos"), home)
    studio.fit({"a.jpg": "cat", "b.jpg": "dog"})        # what the page shows of it
    studio.guess(["c.jpg"], ["cat", "dog"])

`home` keeps the latest fit, so that a page that is opened again goes on with it. Features of pictures are in the store:
a second fit decodes none.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shotfit.checkpoints.weights import load_in
from shotfit.data.doctor import examine
from shotfit.data.finding import identified
from shotfit.data.given import from_images
from shotfit.data.images import as_jpeg
from shotfit.data.pictures import Picture
from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen
from shotfit.engine.store import cache_folder, open_store
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.intervals import interval_by_image
from shotfit.evaluation.suggest import suggest
from shotfit.files import SETTINGS_BYTES, UnreadableError, read_text, write_atomically
from shotfit.fitting.asked import NOTHING_MORE, Asked, judge
from shotfit.fitting.fit import fit
from shotfit.fitting.fitter import zero_shot
from shotfit.fitting.folder import check_target
from shotfit.fitting.model import Model
from shotfit.fitting.record import record_of
from shotfit.fitting.refit import everything
from shotfit.methods.ensemble import Ensemble
from shotfit.report.plots import confusion, reliability
from shotfit.server.app.kept import MODEL
from shotfit.server.app.looking import held_out_answers, looked
from shotfit.server.app.record import RESULT, VERSION

__all__ = ["Studio"]

QUICK = "taskres"  # of what learns from stored features in a second, the best by far where labels are few
SEEN = 640  # pixels of the longer side of a picture that was tried: browsers show no HEIC, and no TIFF
FOR_BINS = 100  # pictures that a reliability diagram needs to say something
COVERAGES = (0.95, 0.9, 0.8)  # of the sets of classes that the page shows, the first that can be had


class Studio:
    """The models of one folder of pictures; see above. Its methods give what JSON can say."""

    def __init__(self, folder: Path, home: Path, backbone: str = "mini", device: str = "auto") -> None:
        self.folder, self.home, self.backbone, self.device = folder, home, backbone, device
        self._fitted: Model | None = None
        self._plain: tuple[tuple[str, ...], Model] | None = None

    @cached_property
    def frozen(self) -> Frozen:
        """The backbone, loaded when it is first needed."""
        return Frozen(load_in(self.backbone, "auto", self.device), open_store())

    def guess(self, paths: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
        """The best class of each picture with its probability, None for one that cannot be read.

        by: "fit" where there is a fit of exactly these classes, else "names": zero-shot, by the classes' names.
        """
        model, by = self._for(classes)
        found = model.predict_each(self._pictures(paths), keep_broken=True)
        guesses = [None if one.error else [one.labels[0], round(one.probabilities[0], 4)] for one in found]
        return {"by": by, "guesses": guesses}

    def fit(self, labels: Mapping[str, str], thorough: bool = False) -> dict[str, Any]:
        """Fit to labelled pictures, by path, and say how good it is. What cannot be read is left out, and told.

        thorough: race the methods of `--method auto`, which takes many times as long as the one that is quickest.

        Raises ShotfitError where there is too little to fit to.
        """
        started = time.perf_counter()
        pictures, cache = self._pictures([*labels]), cache_folder()
        unread = _unread(dict(zip(pictures, labels.values(), strict=True)), cache)
        kept = [(path, one) for path, one in zip(labels, pictures, strict=True) if one not in unread]
        names = [labels[path] for path, _ in kept]
        if len(set(names)) < 2:
            raise UsageError("A fit needs labelled pictures of at least two classes.")
        found = from_images([one for _, one in kept], names, name=self.folder.name or "pictures", cache=cache)
        task = everything(found, None, seed=1)  # labels are few: held-out answers come from cross-validation
        method = "auto" if thorough else QUICK
        model = fit(task, method, backbone=self.frozen.backbone, store=self.frozen.store, views="center")
        model.save(self.home / MODEL)
        self._fitted, result = model, _told(model)
        path_of = {one: path for path, one in kept}
        paths = [path_of[item.picture] for item in task.train]
        result["before"] = self._before()
        self._draw(model, result)
        look = looked(model, task.train)
        for one in (*look["suspects"], *look["mistakes"]):
            one["path"] = paths[one.pop("place")]
            one["near"] = [[paths[place], label, cosine] for place, label, cosine in one["near"]]
        result |= {
            "version": VERSION,
            "look": look,
            "thorough": thorough,
            "labels": {path: labels[path] for path in paths},
            "unreadable": {path: unread[one] for path, one in zip(labels, pictures, strict=True) if one in unread},
            "seconds": round(time.perf_counter() - started, 1),
            "at": time.time(),
        }
        write_atomically(self.home / RESULT, json.dumps(result).encode())
        return result

    def _before(self) -> dict[str, Any] | None:
        """What the fit before this one said."""
        try:
            told = json.loads(read_text(self.home / RESULT, SETTINGS_BYTES, "the record of a fit"))
            return {"labels": len(told["labels"]), "accuracy": told["checked"].get("accuracy")}
        except (UnreadableError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _draw(self, model: Model, result: dict[str, Any]) -> None:
        """The plots of the fit, as the report has them, and the scores of each class."""
        found = held_out_answers(model)
        result["plots"], result["per_class"], drawn = [], [], dict[str, str]()
        if found is not None:
            scores = found[1].scores()
            result["per_class"] = [asdict(one) for one in scores.per_class]
            try:
                drawn["confusion"], _ = confusion(scores)
                if scores.images >= FOR_BINS:
                    drawn["reliability"] = reliability(found[1])
            except UsageError as error:  # the extra `report`
                result["without_plots"] = str(error)
        for name, svg in drawn.items():
            write_atomically(self.home / f"{name}.svg", svg.encode())
            result["plots"].append(name)

    def classify(self, content: bytes, classes: Sequence[str]) -> dict[str, Any]:
        """What the latest fit, or without one the classes' names, says of a picture that is not in the folder."""
        picture = Picture.of(content, "the picture")
        model, by = (self.fitted, "fit") if self.fitted is not None else self._for(classes)
        asked = _askable(model)
        (found,) = model.predict_each([picture], top=len(model.class_names), asked=asked)
        seen = base64.b64encode(as_jpeg(picture, SEEN, quality=85)).decode()
        return {
            "picture": f"data:image/jpeg;base64,{seen}",
            "by": by,
            "classes": [[label, value] for label, value in zip(found.labels, found.probabilities, strict=True)],
            "set": found.set,
            "coverage": asked.coverage,
            "unknown": found.unknown,
        }

    def save(self, out: str) -> str:
        """Save the latest fit as a folder; gives its path."""
        folder = Path(out).absolute()
        check_target(folder)
        self._need().save(folder)
        return str(folder)

    def suggest(self, paths: Sequence[str], classes: Sequence[str], count: int) -> dict[str, Any]:
        """The pictures to label next, by path, the most telling first; see `evaluation/suggest.py`."""
        model, by = self._for(classes)
        found = suggest(model, self._pictures(paths), count)
        path_of = {picture: path for path, picture in zip(paths, self._pictures(paths), strict=True)}
        return {"by": by, "paths": [path_of[one.picture] for one in found]}

    def export(self, to: str, out: str) -> str:
        """Write the latest fit for another runtime, once that computes the same; gives the folder's path.

        Raises UsageError where the libraries for it are missing.
        """
        from shotfit.export.write import export_model

        return str(export_model(self._need(), to, out).folder.absolute())  # type: ignore[arg-type]  # which it checks

    @property
    def fitted(self) -> Model | None:
        """The latest fit, also of an earlier time."""
        if self._fitted is None and (self.home / RESULT).is_file() and (self.home / MODEL).is_dir():
            try:
                self._fitted = Model.open(self.home / MODEL, backbone=self.frozen.backbone, store=self.frozen.store)
            except ShotfitError:  # of another backbone or version
                (self.home / RESULT).unlink(missing_ok=True)
        return self._fitted

    def _need(self) -> Model:
        if self.fitted is None:
            raise UsageError("There is no fit yet: label some pictures, then fit.")
        return self.fitted

    def _for(self, classes: Sequence[str]) -> tuple[Model, str]:
        if self.fitted is not None and {*self.fitted.class_names} == {*classes}:
            return self.fitted, "fit"
        if not classes:
            raise UsageError("There is no class yet: name one.")
        if self._plain is None or self._plain[0] != tuple(classes):
            method = zero_shot(self.frozen, (ClassList(self.folder.name or "pictures", tuple(classes)),))
            self._plain = tuple(classes), Model(method, self.frozen, record_of(method, self.frozen.backbone))
        return self._plain[1], "names"

    def _pictures(self, paths: Sequence[str]) -> list[Picture]:
        return [Picture(self.folder / path) for path in paths]


def _unread(labels: Mapping[Picture, str], cache: Path | None) -> dict[Picture, str]:
    """Why labelled pictures cannot be read, of those that cannot; what was read once is known by its content."""
    items, broken = identified([*labels], cache)
    said = {picture: str(error) for picture, error in broken.items()}
    readable = [item.picture for item in items]
    if readable:
        report = examine(from_images(readable, [labels[one] for one in readable], cache=cache), cache=cache)
        said |= {picture: problem.message for problem in report.errors for picture in problem.pictures}
    return said


def _askable(model: Model) -> Asked:
    """Sets of the largest coverage that the model's held-out pictures are enough for, and marks of unknown pictures."""
    if model.own_trust is None:
        return NOTHING_MORE
    for asked in (*(Asked(coverage=one, unknown=True) for one in COVERAGES), Asked(unknown=True)):
        try:
            judge(asked, model.own_trust, model.record, model.class_names)
        except UsageError:
            continue
        return asked
    return NOTHING_MORE


def _told(model: Model) -> dict[str, Any]:
    """What the page shows of a fit."""
    record, method = model.record, model.method
    checked = record["checked"]
    parts = [part.name for part in method.parts] if isinstance(method, Ensemble) else [method.name]
    told: dict[str, Any] = {
        "method": method.name,
        "parts": parts,
        "classes": list(model.class_names),
        "backbone": model.frozen.backbone.name,
        "images": record["support_images"],
        "fell_back": record["fell_back"],
        "race": [{"method": row["method"], "accuracy": row.get("accuracy")} for row in record["race"]],
        "half": record["half_of_the_labels"],
        "checked": checked,
        "intervals": {},
    }
    if checked:
        for name in ("accuracy", "zero_shot_accuracy"):
            right = round(checked[name] * checked["images"])
            told["intervals"][name] = interval_by_image((np.arange(checked["images"]) < right).astype(float))
    return told
