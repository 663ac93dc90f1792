"""What is done with each part of many pictures, in three steps that need not be in one process.

    job = Predicting(model)                             # or Embedding("mini"); goes to workers by its folder or name
    seen = decode(part.pictures(), job.shown)           # bytes [n, size, size, 3]: needs no model
    table = job.run(seen)                               # rows as a table of pyarrow
    folder.write(part, table)                           # see part_folder.py

Batches never cross parts, and a picture that cannot be read keeps its place in its batch. So the rows of a part are
those of that part alone: bit for bit, whoever computes them with as many threads on the same kind of machine.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shotfit.checkpoints.weights import load_in
from shotfit.data.clips import is_clip
from shotfit.data.containers import arrow
from shotfit.data.images import BrokenImageError, is_truncated
from shotfit.data.parts import Part
from shotfit.data.pictures import Picture
from shotfit.data.remote.pictures import together
from shotfit.data.rows import as_text, table_of
from shotfit.data.rules import AS_STORED, Rule
from shotfit.engine.decoding import center_square
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.asked import NOTHING_MORE, Asked, judge
from shotfit.fitting.batches import BATCH
from shotfit.fitting.decoded import not_finite, said_of
from shotfit.fitting.learned import LEARNED
from shotfit.fitting.model import Model
from shotfit.fitting.predict import COLUMNS, SEVERAL, rows_of
from shotfit.fitting.predictions import Prediction
from shotfit.fitting.record import weights_of
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import Encoder
from shotfit.towers.config import Preprocessing
from shotfit.towers.precision import Precision
from shotfit.towers.preprocess import normalized_batch

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Embedding", "FeatureType", "Job", "Predicting", "Seen", "Shown", "batches", "decode"]

FeatureType = Literal["float16", "float32"]


@dataclass(frozen=True)
class Shown:
    """How pictures are shown to a tower. broken: what becomes of one that cannot be read, as in `predict`.

    pictures: the window and bands that they are read under.
    """

    rule: Preprocessing
    reduced: bool = True
    lenient: bool = False
    broken: Literal["keep", "skip", "stop"] = "keep"
    pictures: Rule = AS_STORED


@dataclass(frozen=True)
class Seen:
    """Pictures of a part, decoded: their names, pixels [n, size, size, 3] in bytes, and why some have none."""

    names: tuple[str, ...]
    pixels: NDArray[np.uint8]
    errors: dict[int, str]

    def __len__(self) -> int:
        return len(self.names)


def batches(part: Part) -> Iterator[list[Picture]]:
    """The pictures of a part, as they run together."""
    pictures = part.pictures()
    yield from (pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH))


def decode(pictures: Sequence[Picture], shown: Shown) -> Seen:
    """Read and decode pictures, one after the other. One that cannot be read, or is a clip, is black, and has an error.

    Raises ShotfitError for that where `shown` says stop.
    """
    size = shown.rule.size
    pixels = np.empty((len(pictures), size, size, 3), np.uint8)
    errors = dict[int, str]()
    together(pictures)
    for place, picture in enumerate(pictures):
        try:
            if is_clip(picture):  # its frames would be pictures that the part does not count
                raise ShotfitError(
                    f"{picture} is a clip, and a folder of parts takes pictures: write one file instead, such as --out "
                    "FILE.parquet, or name moments of it, as in CLIP.mp4#t=1.5."
                )
            pixels[place] = _square(picture, shown)
        except ShotfitError as error:
            if shown.broken == "stop":
                raise
            pixels[place] = 0
            errors[place] = " ".join(str(error).split())
    return Seen(tuple(map(str, pictures)), pixels, errors)


def _square(picture: Picture, shown: Shown) -> NDArray[np.uint8]:
    try:
        return center_square(picture.under(shown.pictures), shown.rule, shown.reduced)
    except BrokenImageError as error:
        if shown.lenient and not picture.lenient and is_truncated(error):
            return _square(picture.as_lenient(), shown)
        raise


class Job(ABC):
    """What is done with pictures. shown: how they are decoded for it. asked: all that its rows depend on, as JSON."""

    what: str
    shown: Shown
    frozen: Frozen

    @property
    @abstractmethod
    def asked(self) -> dict[str, Any]:
        """All that rows depend on, but the pictures: model, options, precision, columns, size of a batch."""

    @abstractmethod
    def run(self, seen: Seen) -> pyarrow.Table:
        """The rows of decoded pictures, at most BATCH of which run together."""

    @abstractmethod
    def prepare(self) -> None:
        """Compute what all pictures share (features of texts), before several threads ask for it."""

    def broken(self, seen: Seen, rows: pyarrow.Table) -> int:
        """How many pictures could not be read, by the rows that `run` gave of them."""
        if self.shown.broken != "keep":
            return len(seen.errors)
        return int(rows.num_rows - rows.column("error").null_count)

    def images(self, seen: Seen, start: int) -> Images:
        """The images of one batch, as the tower takes them."""
        values = normalized_batch(seen.pixels[start : start + BATCH], self.shown.rule)
        return Images.of(values.to(self.frozen.backbone.dtype))

    def _common(self) -> dict[str, Any]:
        backbone = self.frozen.backbone
        return {
            "what": self.what,
            "backbone": backbone.fingerprint,
            "precision": backbone.precision,
            "lenient": self.shown.lenient,
            "broken": "skip" if self.shown.broken == "skip" else "keep",
            "batch": BATCH,
        }


class Predicting(Job):
    """Predictions with the columns of `predict --format parquet`.

    model: of one task, see `Model.for_task`; one that was opened from a folder goes to other processes. top, asked,
    lenient, broken: as in `predict.predictions`.

    Raises UsageError for what the model cannot answer, and where pyarrow is missing.
    """

    what = "predict"

    def __init__(
        self,
        model: Model,
        top: int | None = None,
        asked: Asked = NOTHING_MORE,
        lenient: bool = False,
        broken: Literal["keep", "skip", "stop"] = "keep",
    ) -> None:
        if top is not None and top < 1:
            raise UsageError(f"--top is {top}; expected 1 or more.")
        arrow()
        self.model, self.top, self.question = model, top, asked
        self.frozen, self.columns = model.frozen, SEVERAL if model.several_labels else COLUMNS
        self.names = model.one_task().names
        self.answers = judge(asked, model.own_trust, model.record, self.names)
        self.shown = Shown(_rule(self.frozen), self.frozen.savings.reduced_images, lenient, broken, model.rule)

    def __reduce__(self) -> tuple[Any, ...]:
        return Predicting, (self.model, self.top, self.question, self.shown.lenient, self.shown.broken)

    @property
    def asked(self) -> dict[str, Any]:
        """See Job."""
        weights = self.model.record.get("weights") if self.model.opened else None
        return self._common() | {
            "model": weights or _weights(self.model),
            "method": _digest([self.model.record.get(name) for name in ("method", "options", "classes")]),
            "task": self.model.one_task().task,
            "parents": list(self.model.one_task().parents),
            "classes": _digest(list(self.names)),
            "top": min(self.top or 1, len(self.names)) if self.top or not self.model.several_labels else None,
            **asdict(self.question),
            "columns": list(self.columns),
        } | ({"pictures": self.model.rule.as_json()} if self.model.rule else {})  # fmt: skip

    @torch.no_grad()
    def prepare(self) -> None:
        """See Job."""
        size = self.shown.rule.size
        self.run(Seen(("",), np.zeros((1, size, size, 3), np.uint8), {}))

    @torch.no_grad()
    def run(self, seen: Seen) -> pyarrow.Table:
        """See Job. Raises ShotfitError for numbers that are not finite, where a broken picture is to stop all."""
        found = list[Prediction]()
        for start in range(0, len(seen), BATCH):
            judged = self.model.judged(self.images(seen, start), self.answers)
            for place, (values, verdict) in enumerate(judged, start):
                source, why = seen.names[place], seen.errors.get(place)
                if why is None and not values.isfinite().all():
                    why = not_finite(source, self.frozen)
                    if self.shown.broken == "stop":
                        raise ShotfitError(why)
                if why is None:
                    found.append(said_of(self.model, source, values, verdict, self.top))
                elif self.shown.broken == "keep":
                    found.append(Prediction(source, (), (), error=why, several_labels=self.model.several_labels))
        return table_of(self.columns, list(rows_of(found)))


class Embedding(Job):
    """Features of length 1 of the frozen model, as a list of a fixed size in each row: image, error, features.

    backbone: its name goes to other processes. dtype: of the features.

    Raises UsageError for another dtype, and where pyarrow is missing.
    """

    what = "embed"

    def __init__(
        self,
        backbone: str | Backbone | Encoder = "mini",
        precision: Precision = "auto",
        device: str = "auto",
        dtype: FeatureType = "float32",
        lenient: bool = False,
        broken: Literal["keep", "skip", "stop"] = "keep",
    ) -> None:
        if dtype not in get_args(FeatureType):
            raise UsageError(f"--dtype is {dtype!r}; expected float16 or float32.")
        arrow()
        self.loaded = backbone, precision, device
        self.dtype: FeatureType = dtype
        self.frozen = Frozen(load_in(backbone, precision, device))
        self.shown = Shown(_rule(self.frozen), self.frozen.savings.reduced_images, lenient, broken)

    def __reduce__(self) -> tuple[Any, ...]:
        return Embedding, (*self.loaded, self.dtype, self.shown.lenient, self.shown.broken)

    @property
    def asked(self) -> dict[str, Any]:
        """See Job."""
        return self._common() | {"dtype": self.dtype, "columns": ["image", "error", "features"]}

    def prepare(self) -> None:
        """See Job: there is nothing."""

    @torch.no_grad()
    def run(self, seen: Seen) -> pyarrow.Table:
        """See Job."""
        rows = [torch.zeros(0, self.frozen.embed)]
        for start in range(0, len(seen), BATCH):
            rows.append(normalize(self.frozen.image(self.images(seen, start))).float().cpu())
        return self._table(seen, torch.cat(rows))

    def _table(self, seen: Seen, features: Tensor) -> pyarrow.Table:
        pa = arrow()
        kind = pa.float16() if self.dtype == "float16" else pa.float32()
        flat = features.numpy().astype(np.dtype(self.dtype))  # [n, embed]
        missing = np.zeros(len(seen), bool)
        missing[list(seen.errors)] = True
        flat[missing] = 0
        vector = pa.list_(kind, self.frozen.embed)
        columns = {
            "image": pa.array([as_text(name) for name in seen.names], pa.string()),
            "error": pa.array([seen.errors.get(place) for place in range(len(seen))], pa.string()),
            "features": pa.FixedSizeListArray.from_arrays(
                pa.array(flat.ravel(), kind), type=vector, mask=pa.array(missing)
            ),
        }
        table = pa.table(columns)
        return table.filter(pa.array(~missing)) if self.shown.broken == "skip" and missing.any() else table


def _rule(frozen: Frozen) -> Preprocessing:
    """How pictures are shown. Raises UsageError where a function of the user's shows them, which gives no bytes."""
    if frozen.backbone.closed:
        raise UsageError(
            f"Parts are decoded for shotfit's own towers, and {frozen.backbone.name} is closed: write one file in "
            "place of a folder, such as --out FILE.parquet."
        )
    return frozen.backbone.config.preprocessing


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _weights(model: Model) -> str:
    """The digest that `save` would record of the model's tensors."""
    kept = ({LEARNED: model.learned} if len(model.learned) else {}) | (
        {} if model.trust is None else model.trust.state()
    )
    return hashlib.sha256(weights_of(model.method.state() | kept, model.record["classes"])).hexdigest()
