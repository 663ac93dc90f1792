"""The fitted model: save, open, predict, other classes.

A folder of `adapter.safetensors` (parameters, buffers, baked class features, marks of the images that were learned),
`adapter.json` (method, options, classes, templates, backbone by name and fingerprint, how it was selected, scores,
versions) and `README.md` (a model card). No pickle. It is written to a temporary folder and renamed, so that nothing
half-written is ever opened.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from shotfit.calls import checked
from shotfit.checkpoints.weights import load_in
from shotfit.data.clips import framed
from shotfit.data.finding import identified, leniently, pictures_in
from shotfit.data.given import Data, Labels
from shotfit.data.images import BrokenImageError, shown
from shotfit.data.listing import AS_IT_IS, How
from shotfit.data.pictures import Picture, PictureLike
from shotfit.data.rules import Rule
from shotfit.data.tasks import ClassList, Item, Task, composed
from shotfit.engine.allocator import kept_memory
from shotfit.engine.frozen import Frozen, ImagePool, Images
from shotfit.engine.store import MemoryStore, Store, cache_folder
from shotfit.errors import ShotfitError, UsageError, first_few
from shotfit.files import standing, write_folder
from shotfit.fitting.addresses import called, local_folder
from shotfit.fitting.asked import NOTHING_MORE, Answer, Asked, judge
from shotfit.fitting.batches import growing
from shotfit.fitting.card import card
from shotfit.fitting.clips import averaged
from shotfit.fitting.decoded import not_finite, said_of
from shotfit.fitting.embedding import features_of
from shotfit.fitting.folder import CARD, RECORD, WEIGHTS, backbone_of, card_to_keep, check_target
from shotfit.fitting.heldout import HeldOut, frozen_features
from shotfit.fitting.learned import LEARNED, marks
from shotfit.fitting.maps import Map, maps
from shotfit.fitting.notebook import model_line, model_table
from shotfit.fitting.opening import read_saved
from shotfit.fitting.predictions import Prediction, Predictions
from shotfit.fitting.record import encoded, portable, weights_of
from shotfit.fitting.several_labels import SeveralTrust
from shotfit.fitting.task_parts import digests
from shotfit.fitting.trust import Trust
from shotfit.methods import address, in_file
from shotfit.methods.base import Method
from shotfit.printing import printable
from shotfit.progress import say
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import Encoder
from shotfit.towers.precision import Precision, fast_precision

__all__ = ["Model", "Prediction", "load"]

T = TypeVar("T")
SCORED = 256  # stored images that run together
NAMED = 20  # tasks that a sentence names


class Model:
    """A fitted method with its frozen model.

    Example (needs a saved model):
        model = Model.open("shotfit-model")
        model.predict(["a.jpg", "b.jpg"], top=3)
    """

    def __init__(
        self,
        method: Method,
        frozen: Frozen,
        record: Mapping[str, Any],
        task: str | None = None,
        learned: Tensor | None = None,
        trust: Trust | None = None,
    ) -> None:
        self.method, self.frozen, self.record = method, frozen, dict(record)
        self.rule = Rule.from_json(self.record.get("pictures", {}))  # window and bands that every picture is read under
        self.task = task  # of several, the one that it predicts
        self.learned = marks(()) if learned is None else learned  # [images] marks of those that it has learned
        self.trust = trust  # of all tasks; None: nothing was held out
        self.support: tuple[Task, ...] | None = None  # what it was fitted to; None: a folder keeps no images
        # what it said of support images when it had not learned them, and their places; None: nothing, or a folder
        self.held_out: tuple[Tensor, HeldOut] | None = None
        self.opened: dict[str, Any] | None = None  # how `open` gives it again; None: it lies in no folder

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks that it was fitted to."""
        return tuple(classes.task for classes in self.method.classes)

    @property
    def classes(self) -> tuple[ClassList, ...]:
        """The class lists that it predicts: one a task."""
        return self.method.classes if self.task is None else (self.method.classes[self.tasks.index(self.task)],)

    @property
    def class_names(self) -> tuple[str, ...]:
        """All class names, in the order of the probabilities."""
        return tuple(name for task in self.classes for name in task.names)

    @property
    def how(self) -> How:
        """How pictures are read for it: with the window, bands and padding that it was fitted with."""
        return AS_IT_IS.under(self.rule, self.record.get("padding"))

    @property
    def source(self) -> str | None:
        """Where it was opened from or saved to: hf://owner/name@COMMIT, or the folder; None for neither."""
        return None if self.opened is None else called(self.opened["folder"])

    @property
    def several_labels(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.method.judges_alone

    def one_task(self) -> ClassList:
        """The classes of the one task that it predicts; a model of several asks which one is meant.

        Raises UsageError.
        """
        if len(self.classes) > 1:
            raise UsageError(
                f"This model holds {len(self.tasks)} tasks ({first_few(self.tasks, NAMED)}): name one with "
                f"--task {self.tasks[0]!r}, or for_task({self.tasks[0]!r}) in Python."
            )
        return self.classes[0]

    def logits(self, images: Images, calibrated: bool = True) -> Tensor:
        """Logits [images, classes] of the task that it predicts; calibrated ones make probabilities."""
        self.one_task()
        if self.task is None:
            logits = self.method.logits(images).float()
            return self.trust.calibration(logits) if calibrated and self.trust is not None else logits
        number = self.tasks.index(self.task)
        logits = self.method.task_logits(images, [number]).float()
        if not calibrated or self.trust is None:
            return logits
        return self.trust.calibration_of(number, self.method.sizes)(logits)

    @property
    def own_trust(self) -> Trust | None:
        """That of the task that it predicts."""
        if self.trust is None or self.task is None:
            return self.trust
        return self.trust.for_task(self.tasks.index(self.task), self.method.sizes)

    @kept_memory()
    @torch.no_grad()
    def probabilities(self, items: Sequence[Item], among: Sequence[int] = (), calibrated: bool = True) -> Tensor:
        """Probabilities [images, classes] of images that belong to a task; their features are kept in the store.

        among: positions of the classes that are candidates; the others get 0. All are where it is empty. calibrated: as
        the images that were held out say, where there were any. Images that were read under another rule are refused.
        """
        items = [item.under(self.rule) for item in items]
        pool, barred = ImagePool(items), torch.zeros(len(self.class_names), dtype=torch.bool)
        if among:
            barred = torch.ones_like(barred).index_fill(0, torch.tensor(among), False)
        parts = []
        for rows in torch.arange(len(items)).split(SCORED):
            logits = self.logits(pool.take(rows), calibrated).cpu()
            parts.append(self.method.probabilities(logits.masked_fill(barred, -torch.inf)))
        found = torch.cat(parts)
        wrong = (~found.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if wrong:
            raise ShotfitError(not_finite(shown(items[wrong[0]].picture), self.frozen))
        return found

    @checked
    @torch.no_grad()
    def predict(
        self,
        images: PictureLike | Sequence[PictureLike],
        top: int | None = None,
        task: str | None = None,
        keep_broken: bool = False,
        asked: Asked = NOTHING_MORE,
        lenient: bool = False,
    ) -> Predictions:
        """The `top` most probable classes of each image: paths, bytes, PIL images or arrays [height, width, 3].

        top: None is the most probable class, or of a model of several labels all classes above their thresholds. task:
        which one is meant, of a model of several. keep_broken: an image that cannot be read becomes a prediction with
        an `error` and no labels, and the others are predicted. asked: sets and unknown images, as in
        Asked(coverage=0.95, unknown=True). lenient: an image that is cut off is predicted by what is there of it.

        Raises ShotfitError for an image that cannot be read, or whose prediction is not finite, without keep_broken.
        """
        if task is not None:
            return self.for_task(task).predict(images, top, keep_broken=keep_broken, asked=asked, lenient=lenient)
        return Predictions(self.predict_each(pictures_in(images), top, keep_broken, asked, lenient))

    @torch.no_grad()
    def predict_each(
        self,
        images: Iterable[Picture | None],
        top: int | None = None,
        keep_broken: bool = False,
        asked: Asked = NOTHING_MORE,
        lenient: bool = False,
    ) -> Iterator[Prediction]:
        """As `predict`, each as soon as it is known; the next files are read meanwhile.

        images: None among them says that the next one may be long in coming; those before it do not wait for it.
        """
        names = self.one_task().names
        told = self._each(images, judge(asked, self.own_trust, self.record, names), lenient)
        for source, picture, answer, timeline in averaged(told, names, asked):
            if isinstance(answer, ShotfitError):
                if not keep_broken:
                    raise answer
                several = self.several_labels
                yield Prediction(source, (), (), error=str(answer), picture=picture, several_labels=several)
                continue
            yield replace(said_of(self, source, *answer, top, picture), timeline=timeline)

    def _each(
        self, images: Iterable[Picture | None], answers: Answer[T], lenient: bool
    ) -> Iterator[tuple[Picture, tuple[Tensor, T] | ShotfitError]]:
        """Each picture, or frame of a clip, with its answer, as `answered` gives it."""
        with ExitStack() as kept:
            for number, batch in enumerate(growing(framed(images))):
                if number == 1:  # what one batch freed, the system has back sooner
                    kept.enter_context(kept_memory())
                yield from zip(batch, self.answered(batch, answers, lenient), strict=True)

    @property
    def cutoffs(self) -> Tensor:
        """[classes] the probability from which on an image has a class, of a model of several labels a picture."""
        trust = self.trust
        return trust.cutoffs if isinstance(trust, SeveralTrust) else torch.full((len(self.class_names),), 0.5)

    def predict_proba(
        self, images: PictureLike | Sequence[PictureLike], task: str | None = None, lenient: bool = False
    ) -> NDArray[Any]:
        """Probabilities [images, classes], in the order of `class_names`, of what `predict` takes.

        task, lenient: as in `predict`.

        Raises ShotfitError for an image that cannot be read, or whose prediction is not finite.
        """
        if task is not None:
            return self.for_task(task).predict_proba(images, lenient=lenient)
        names = self.one_task().names
        rows = [torch.zeros(0, len(self.class_names))]
        told = self._each(pictures_in(images), judge(NOTHING_MORE, None, self.record, names), lenient)
        for _, _, answer, _ in averaged(told, names, NOTHING_MORE):
            if isinstance(answer, ShotfitError):
                raise answer
            rows.append(answer[0][None])
        return torch.cat(rows).numpy()

    def add(
        self, images: Iterable[PictureLike], labels: Labels, data: Data | None = None, *, lenient: bool = False
    ) -> Model:
        """The model fitted again with more images, corrected labels or a new class; see `adding.add`."""
        from shotfit.fitting.adding import add  # which fits models

        return add(self, images, labels, data, lenient=lenient)

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process goes the folder, which it opens; a model without one is refused."""
        if self.opened is None:
            raise UsageError("A model goes to another process by its folder: save it first, or open it from one.")
        return _opened_again, (self.opened, self.task)

    def embed(self, images: PictureLike | Sequence[PictureLike], lenient: bool = False) -> NDArray[Any]:
        """Features [images, embed] of the frozen model, each of length 1, of what `predict` takes.

        lenient: as in `predict`. Raises ShotfitError for an image that cannot be read.
        """
        return features_of(self.frozen, [one.under(self.rule) for one in pictures_in(images)], lenient)

    @checked
    def maps(
        self,
        images: PictureLike | Sequence[PictureLike],
        classes: Sequence[str] = (),
        top: int = 1,
        lenient: bool = False,
    ) -> list[Map]:
        """Where in each picture these classes are seen, or its `top` most probable ones; see `maps.maps`."""
        return [*maps(self, images, classes, top, lenient)]

    __repr__, _repr_html_ = model_line, model_table

    @torch.no_grad()
    def answered(
        self, pictures: Sequence[Picture], answers: Answer[T], lenient: bool = False
    ) -> Iterator[tuple[Tensor, T] | ShotfitError]:
        """Probabilities [classes] of each picture and what else was asked, or why it has none.

        answers: gives an answer for each of probabilities [pictures, classes] and what gives features [pictures,
        embed]. Features that the store holds are not computed again. lenient: what is cut off is read as far as it is
        there.
        """
        pictures = [picture.under(self.rule) for picture in pictures]
        items = [Item(picture, 0, str(place)) for place, picture in enumerate(pictures)]
        broken: dict[Picture, ShotfitError] = {}
        if isinstance(self.frozen.store, Store):  # which knows images by their digests
            items, broken = identified(pictures, cache_folder())
        while True:
            whole = [item for item in items if item.picture not in broken]
            rows: Iterator[tuple[Tensor, T]] = iter(())
            try:
                if whole:
                    rows = iter(self.judged(ImagePool(whole, passing=True).all(), answers))
                break
            except BrokenImageError as error:  # the others are asked for again; what was computed is kept
                again = leniently(items, error) if lenient else None
                if again is None:
                    broken[error.picture] = error
                else:
                    items = again
        for picture in pictures:
            told = broken.get(picture) or broken.get(picture.as_lenient())
            answer = next(rows) if told is None else told
            if not isinstance(answer, ShotfitError) and not answer[0].isfinite().all():
                answer = ShotfitError(not_finite(str(picture), self.frozen))
            yield answer

    def judged(self, images: Images, answers: Answer[T]) -> list[tuple[Tensor, T]]:
        """Probabilities [classes] of each image, in the order of `class_names`, and what else was asked."""
        probabilities = self.method.probabilities(self.logits(images)).cpu()
        features = partial(frozen_features, self.frozen, images)
        return list(zip(probabilities, answers(probabilities, features), strict=True))

    @checked
    def for_classes(self, classes: Sequence[str] | ClassList) -> Model:
        """The model for another class list, or a refusal that names the methods that can.

        classes: names, which go into the templates of the fitted classes; or a list that has its own templates.

        Raises UsageError for an empty list or one that names a class twice; NewClassesError.
        """
        if isinstance(classes, ClassList):
            return self.for_task(classes.task, classes.names, classes.templates)
        if not classes:
            raise UsageError("Other classes are a list of different names, at least one.")
        return self.for_task(self.one_task().task, classes)

    @checked
    def for_task(
        self,
        name: str,
        classes: Sequence[str] = (),
        templates: Sequence[str] = (),
        parent: str | Sequence[str] = (),
    ) -> Model:
        """The model for one of its tasks, or for a task and classes that it was not fitted to, or a refusal.

        classes: other class names for the task; a new task needs them. templates: of a new task, where prompts are made
        from them. parent: the name above a new task, or the names, the nearest first, for methods that use it. Saving
        a model for one of its tasks saves all of them.

        Raises UsageError for a task that is not known and has no classes, or names one twice; NewClassesError.

        Example (needs a saved model):
            Model.open("shotfit-model").for_task("garden birds", ["robin", "wren"]).predict("a.jpg")
        """
        from shotfit.fitting.other_tasks import for_task  # which makes models

        return for_task(self, name, classes, templates, parent)

    @checked
    def save(self, folder: str | Path) -> Path:
        """Write the model folder, all or nothing; an older model there is replaced, anything else is not.

        A link to a folder stays one: what it leads to is replaced.
        """
        folder = Path(folder)
        check_target(folder)
        kept = {LEARNED: self.learned} if len(self.learned) else {}
        kept |= {} if self.trust is None else self.trust.state()
        tensors = self.method.state() | kept
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ShotfitError(
                f"The model holds numbers that are not finite, so {folder} is not written: fit it again."
            )
        if self.opened is not None and self.opened.get("task") and self.opened["folder"] == folder.resolve():
            raise UsageError(f"This is one task of the model in {folder}, which has others: save it elsewhere.")
        state, record = weights_of(tensors, self.record["classes"]), portable(self.record, self.method, folder)
        parts = digests(state, self.method.sizes)
        record = {name: value for name, value in record.items() if name != "parts"}
        record |= {} if parts is None else {"parts": parts}
        written = encoded(card(self.method, record))
        record |= {name: hashlib.sha256(data).hexdigest() for name, data in (("weights", state), ("card", written))}
        content = encoded(json.dumps(record, indent=2, ensure_ascii=False, default=str))
        edited = card_to_keep(folder)
        if edited is not None:
            warnings.warn(
                f"{folder / CARD} was changed by hand, and is kept as it is: delete it before a fit for a new one.",
                stacklevel=3,
            )
        try:
            kept_card = written if edited is None else edited
            write_folder(folder.resolve(), {WEIGHTS: state, RECORD: content, CARD: kept_card})
        except OSError as error:
            raise ShotfitError(f"{folder} cannot be written ({error.strerror}): choose another --out.") from error
        backbone, own = self.frozen.backbone, address(type(self.method))
        before = self.opened or {"method": own if in_file(own) else None}  # a file that ran here may run again
        self.opened = {"folder": folder.resolve(), "backbone": backbone.name, "device": str(backbone.device)}
        self.opened |= {name: before.get(name) for name in ("method", "precision")}
        return folder

    def card(self) -> str:
        """The model card."""
        return card(self.method, self.record)

    @classmethod
    @checked
    def open(
        cls,
        folder: str | Path,
        backbone: str | Backbone | Encoder | None = None,
        store: Store | MemoryStore | None = None,
        method: str | type[Method] | None = None,
        precision: Precision | None = None,
        device: str = "auto",
        trust_backbone: bool = False,
        task: str | None = None,
    ) -> Model:
        """Open a saved model. The backbone is the recorded one, or one that is given and has the same fingerprint.

        folder: its folder, or hf://owner/name[@revision] for one on the hub, which is fetched into its client's cache;
        `source` tells the commit.

        trust_backbone: open the backbone wherever the model says it is. Otherwise one that it names is a short name or
        a hub id, and comes from the package or the hub's local cache: no path that the model names is opened, and
        nothing is fetched for it.

        method: the class, or path/to/file.py:Class, of a model whose method is not installed. A file that only the
        model names is never run. precision: in which the towers compute; as recorded, or as those of a backbone that is
        given, without one. device: cpu, cuda, cuda:1, mps, or auto, which is a GPU of
        CUDA if there is one.

        task: one of the tasks that it was fitted to, which becomes a model of its own; of a model of many tasks the
        others are not read.

        Raises ShotfitError or UsageError, in one sentence, for a folder that is no whole model, another backbone, and a
        method that is to be named or is another.
        """
        asked = local_folder(folder)
        folder = standing(asked)
        if folder != asked:
            warnings.warn(
                f"{printable(asked)} was being replaced when its writer was stopped; the older one is used, which is "
                f"kept in {printable(folder)}.",
                stacklevel=2,
            )
        saved = read_saved(folder, method, asked, None if task is None else composed(task))
        record = saved.record
        name, fingerprint = record["backbone"]["name"], record["backbone"]["fingerprint"]
        kept: dict[str, Precision] = {"bfloat16": "bfloat16", "int8": "int8"}
        recorded = kept.get(record["precision"], "float32")
        if backbone is not None and not isinstance(backbone, str):
            loaded = load_in(backbone, precision or "auto", device)
        else:
            loaded = backbone_of(folder, name, backbone, trust_backbone, precision or recorded, device)
            if loaded.dtype == torch.bfloat16 != fast_precision(loaded.device) and precision is None:
                say(
                    f"note: {folder} computes in bfloat16, as it was fitted, which this processor is slow at; "
                    "--precision float32 is faster and moves probabilities in their third digit."
                )
        if loaded.fingerprint != fingerprint:
            raise ShotfitError(
                f"{folder} was fitted on {name} (fingerprint {fingerprint[:12]}), but {loaded.name} has fingerprint "
                f"{loaded.fingerprint[:12]}: open it with the backbone it was fitted on, or fit it again."
            )
        frozen = Frozen(loaded, store if store is not None else MemoryStore())
        model = cls(saved.attach(frozen), frozen, record, learned=saved.learned, trust=saved.trust)
        model.opened = {"folder": folder.resolve(), "backbone": loaded.name, "device": str(loaded.device)}
        model.opened |= {"method": method, "precision": precision}
        if saved.number is not None:
            model.opened["task"] = task
        elif task is not None:
            model = model.for_task(task)
        return model


load = Model.open


def _opened_again(opened: dict[str, Any], task: str | None) -> Model:
    model = Model.open(**opened)
    return model if task is None else model.for_task(task)
