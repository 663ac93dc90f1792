"""What the page asks of a model, in the process that holds it: guesses, fits, answers for one picture.

    studio = Studio(Path("photos"), home)
    studio.fit({"a.jpg": "cat", "b.jpg": "dog"})        # what the page shows of it
    studio.guess(["c.jpg"], ["cat", "dog"])

`home` keeps the latest fit, so that a page that is opened again goes on with it. Features of pictures are in the store:
a second fit decodes none.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shotfit.checkpoints.weights import load_in
from shotfit.data.finding import identified
from shotfit.data.images import open_image
from shotfit.data.pictures import Picture
from shotfit.data.tasks import ClassList, Task
from shotfit.engine.frozen import Frozen
from shotfit.engine.store import cache_folder, open_store
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.intervals import interval_by_image
from shotfit.files import write_atomically
from shotfit.fitting.asked import NOTHING_MORE, Asked
from shotfit.fitting.fit import fit
from shotfit.fitting.fitter import zero_shot
from shotfit.fitting.folder import check_target
from shotfit.fitting.model import Model
from shotfit.fitting.record import record_of
from shotfit.methods.ensemble import Ensemble

__all__ = ["RESULT", "Studio"]

RESULT = "fit.json"
MODEL = "model"
QUICK = "linear_probe"  # seconds on a thousand pictures, and near the best on most tasks
SEEN = 640  # pixels of the longer side of a picture that was tried: browsers show no HEIC, and no TIFF
COVERAGE = 0.95  # of the sets of classes that the page shows


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

    def warm(self) -> None:
        """Load the backbone, so that the first question does not wait for it."""
        self.frozen  # noqa: B018

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
        pictures = self._pictures([*labels])
        items, broken = identified(pictures, cache_folder())
        readable = {item.picture for item in items}
        kept = [(path, one) for path, one in zip(labels, pictures, strict=True) if one in readable]
        names = [labels[path] for path, _ in kept]
        if len(set(names)) < 2:
            raise UsageError("A fit needs labelled pictures of at least two classes.")
        images = [one for _, one in kept]
        task = Task.from_images(images, names, parts=["train"] * len(names), name=self.folder.name or "pictures")
        method = "auto" if thorough else QUICK
        model = fit(task, method, backbone=self.frozen.backbone, store=self.frozen.store, views="center")
        model.save(self.home / MODEL)
        self._fitted, result = model, _told(model)
        result |= {
            "thorough": thorough,
            "labels": dict(zip([path for path, _ in kept], names, strict=True)),
            "unreadable": {str(one.file): str(error) for one, error in broken.items()},
            "seconds": round(time.perf_counter() - started, 1),
            "at": time.time(),
        }
        write_atomically(self.home / RESULT, json.dumps(result).encode())
        return result

    def classify(self, content: bytes, classes: Sequence[str]) -> dict[str, Any]:
        """What the latest fit, or without one the classes' names, says of a picture that is not in the folder."""
        picture = Picture.of(content, "the picture")
        model, by = (self.fitted, "fit") if self.fitted is not None else self._for(classes)
        asked = NOTHING_MORE if model.own_trust is None else Asked(coverage=COVERAGE, unknown=True)
        (found,) = model.predict_each([picture], top=len(model.class_names), asked=asked)
        image = open_image(picture, shorter=SEEN)
        image.thumbnail((SEEN, SEEN))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=85)
        return {
            "picture": f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}",
            "by": by,
            "classes": [[label, value] for label, value in zip(found.labels, found.probabilities, strict=True)],
            "set": found.set,
            "coverage": COVERAGE if found.set is not None else None,
            "unknown": found.unknown,
        }

    def save(self, out: str) -> str:
        """Save the latest fit as a folder; gives its path."""
        folder = Path(out).absolute()
        check_target(folder)
        self._need().save(folder)
        return str(folder)

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
