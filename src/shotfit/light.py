"""Predict with an exported model, without torch: the standard library, NumPy, Pillow and onnxruntime.

    model = shotfit.light.load("my-export")             # what `shotfit export MODEL --to onnx --out my-export` wrote
    model.predict(["a.jpg", "b.jpg"], top=3)            # the same Predictions as the model that was exported

Pictures are read, cut and normalized by the files that the towers use (`data/images.py`, `towers/pixels.py`), and
prediction sets and unknown images are found by the same rules (`fitting/asked.py`), none of which imports torch.
The distribution shotfit-light (packages/light) carries this file and what it imports.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import shotfit
from shotfit.calls import checked
from shotfit.data.budget import thread_pool
from shotfit.data.finding import pictures_in
from shotfit.data.images import BrokenImageError, is_truncated, opened_image
from shotfit.data.pictures import Picture, PictureLike
from shotfit.engine.allocator import kept_memory
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import SETTINGS_BYTES, WEIGHTS_BYTES, UnreadableError, read_text, sha256
from shotfit.fitting import conformal
from shotfit.fitting.asked import NOTHING_MORE, Answer, Asked, Verdict, judge
from shotfit.fitting.batches import growing
from shotfit.fitting.predictions import Prediction, Predictions
from shotfit.towers.config import Preprocessing
from shotfit.towers.pixels import FILTERS, MARGIN, pixels

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["ExportedModel", "load"]

RECORD = "export.json"
FORMAT = 1
KINDS = ("onnx", "web")  # those that hold a model.onnx
DISTANCE_SHARE = 2.0  # as `fitting/unknown.py` has it
RESIZES = ("shortest", "squash", "longest")

A = TypeVar("A")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What was measured on the held-out images of the fit, as `fitting.trust.Trust` has it for one task.

    scores: [images] 1 - p of the true class. labels: [images]. strange: [images]. means: [classes, embed]. center,
    width: [2] of entropy and distance.
    """

    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    strange: NDArray[np.float32]
    means: NDArray[np.float32]
    center: NDArray[np.float32]
    width: NDArray[np.float32]

    def thresholds(self, names: Sequence[str], coverage: float, per_class: bool = False) -> NDArray[Any]:
        """The largest 1 - p of a class in a prediction set, [classes]."""
        return conformal.thresholds(self.scores, self.labels, names, coverage, per_class)

    def strangest(self, share: float) -> float:
        """The strangeness above which an image is unknown."""
        return conformal.strangest(self.strange, share)

    def strangeness(self, probabilities: NDArray[Any], features: NDArray[Any]) -> NDArray[Any]:
        """[images] of probabilities [images, classes] and features [images, embed] of unit length."""
        some = np.where(probabilities > 0, probabilities, 1)
        entropy = -(probabilities * np.log(some)).sum(axis=1)
        distance = 1 - (features @ self.means.T).max(axis=1)
        parts = np.stack([entropy, distance], axis=1)
        return ((parts - self.center) / self.width) @ np.array([1.0, DISTANCE_SHARE], np.float32)


class ExportedModel:
    """An export that is open: it predicts what the model predicts that it was made from.

    Example (needs an export):
        shotfit.light.load("my-export").predict(["a.jpg", "b.jpg"], top=3)
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, names: Sequence[str], rule: Preprocessing, held_out: HeldOut | None
    ) -> None:
        self.session, self.class_names, self.rule, self.held_out = session, tuple(names), rule, held_out

    @checked
    def predict(
        self,
        images: PictureLike | Sequence[PictureLike],
        top: int | None = None,
        keep_broken: bool = False,
        asked: Asked = NOTHING_MORE,
        lenient: bool = False,
    ) -> Predictions:
        """The `top` most probable classes of each image; arguments, errors and answers are those of `Model.predict`."""
        return Predictions(self.predict_each(pictures_in(images), top, keep_broken, asked, lenient))

    def predict_each(
        self,
        images: Iterable[Picture | None],
        top: int | None = None,
        keep_broken: bool = False,
        asked: Asked = NOTHING_MORE,
        lenient: bool = False,
    ) -> Iterator[Prediction]:
        """As `predict`, each as soon as it is known; see `Model.predict_each`."""
        top = min(max(top or 1, 1), len(self.class_names))
        answers = judge(asked, self.held_out, {}, self.class_names)
        for picture, answer in self._told(images, answers, asked.unknown, lenient):
            if picture.clip:
                raise UsageError(
                    f"{picture.clip} is a clip, and an export predicts pictures: ask for each frame with --each-frame, "
                    "or use the fitted model."
                )
            source = str(picture)
            if isinstance(answer, ShotfitError):
                if not keep_broken:
                    raise answer
                yield Prediction(source, (), (), error=str(answer), picture=picture)
                continue
            values, verdict = answer
            best = (-values).argsort(kind="stable")[:top].tolist()
            labels, shares = tuple(self.class_names[k] for k in best), tuple(values[best].tolist())
            yield Prediction(source, labels, shares, None, verdict.set, verdict.unknown, picture)

    @checked
    def predict_proba(self, images: PictureLike | Sequence[PictureLike], lenient: bool = False) -> NDArray[Any]:
        """Probabilities [images, classes], in the order of `class_names`. Raises as `Model.predict_proba` does."""
        answers = judge(NOTHING_MORE, self.held_out, {}, self.class_names)
        rows = [np.zeros((0, len(self.class_names)), np.float32)]
        for _, answer in self._told(pictures_in(images), answers, False, lenient):
            if isinstance(answer, ShotfitError):
                raise answer
            rows.append(answer[0][None])
        return np.concatenate(rows)

    def _told(
        self, images: Iterable[Picture | None], answers: Answer[Verdict], with_features: bool, lenient: bool
    ) -> Iterator[tuple[Picture, ShotfitError | tuple[NDArray[Any], Verdict]]]:
        """Each picture with its probabilities [classes] and what else was asked, or why it has none."""
        for batch, shown in _read(growing(images), lambda picture: self._pixels(picture, lenient)):
            whole = [found for found in shown if not isinstance(found, ShotfitError)]
            rows = iter(self._answered(whole, answers, with_features) if whole else ())
            for picture, found in zip(batch, shown, strict=True):
                answer = found if isinstance(found, ShotfitError) else next(rows)
                if not isinstance(answer, ShotfitError) and not np.isfinite(answer[0]).all():
                    answer = ShotfitError(f"{picture} has no prediction: the export gives numbers that are not finite.")
                yield picture, answer

    def _pixels(self, picture: Picture, lenient: bool) -> NDArray[np.float32] | ShotfitError:
        """The picture as the model sees it, [3, size, size], or why it cannot be read."""
        try:
            with opened_image(picture, shorter=MARGIN * self.rule.size) as image:
                return pixels(image, self.rule)
        except BrokenImageError as error:
            if lenient and not picture.lenient and is_truncated(error):
                return self._pixels(picture.as_lenient(), lenient)
            return error

    def _answered(
        self, shown: Sequence[NDArray[np.float32]], answers: Answer[Verdict], with_features: bool
    ) -> list[tuple[NDArray[Any], Verdict]]:
        """Probabilities [classes] of pictures [3, size, size], and what else was asked of each."""
        import onnxruntime

        wanted, options = ["logits", *(["features"] if with_features else [])], onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True  # of a changed tower, features are those of a second one
        logits, *features = self.session.run(wanted, {"pixels": np.stack(shown)}, options)
        with np.errstate(all="ignore"):  # what is not finite is told picture by picture
            raised = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities = raised / raised.sum(axis=1, keepdims=True)
        return list(zip(probabilities, answers(probabilities, lambda: features[0]), strict=True))


@checked
def load(folder: str | Path) -> ExportedModel:
    """Open what `shotfit export MODEL --to onnx` (or web) wrote.

    Raises ShotfitError for a folder that is no such export, is damaged, or is of another kind; UsageError where
    onnxruntime is not installed.
    """
    folder = Path(folder)
    _check_one_distribution(Path(shotfit.__file__).parent.parent)
    try:
        record = json.loads(read_text(folder / RECORD, SETTINGS_BYTES, "the record of an export"))
    except UnreadableError as error:
        if error.missing:
            raise ShotfitError(f"{folder} is no export: it has no {RECORD}. `shotfit export` makes one.") from None
        raise
    except (ValueError, RecursionError):
        raise ShotfitError(f"{folder / RECORD} is damaged: it is no JSON. Export the model again.") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ShotfitError(f"{folder} is an export of another format than {FORMAT}: use the shotfit that wrote it.")
    if record.get("kind") not in KINDS:
        raise ShotfitError(
            f"{folder} is an export of the kind {str(record.get('kind'))[:80]!r}, which is used as its README says; "
            "expected one of --to onnx."
        )
    try:
        names, rule, held_out, file, digests = _parsed(record)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, ShotfitError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ShotfitError(f"{folder / RECORD} is damaged ({said}). Export the model again.") from None
    with thread_pool(1) as beside:  # files are hashed while the runtime is imported, which takes as long
        found = {name: beside.submit(sha256, folder / name, WEIGHTS_BYTES, "a file of an export") for name in digests}
        runtime = _runtime()
        for name, digest in digests.items():
            if found[name].result() != digest:
                raise ShotfitError(f"{folder / name} is damaged: it is not what was written. Export the model again.")
    session = _session(runtime, folder / file)
    shapes = {value.name: value.shape[1:] for value in (*session.get_inputs(), *session.get_outputs())}
    if shapes.get("pixels") != [3, rule.size, rule.size] or shapes.get("logits") != [len(names)]:
        raise ShotfitError(f"{folder / file} has other classes or another size than {RECORD}. Export the model again.")
    return ExportedModel(session, names, rule, held_out)


def _check_one_distribution(place: Path) -> None:
    """Refuse shotfit and shotfit-light of different versions in one folder: they share files, and one has lost some."""
    installed = sorted(path.stem for name in ("shotfit", "shotfit_light") for path in place.glob(f"{name}-*.dist-info"))
    if len({stem.partition("-")[2] for stem in installed}) > 1:
        both = " and ".join(stem.replace("-", " ").replace("_", "-") for stem in installed)
        raise ShotfitError(f"{both} are both installed, and share their files: uninstall both, then install one.")


def _parsed(record: Mapping[str, Any]) -> tuple[tuple[str, ...], Preprocessing, HeldOut | None, str, dict[str, str]]:
    """Class names, preprocessing, what held-out images said, the file of the graph, and the digests of its parts.

    Raises what Python raises for entries that are missing or of another type, and ValueError and ShotfitError.
    """
    names, shown, file, digests = record["classes"], record["preprocess"], record["model"], record["sha256"]
    named = isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)
    if not named or len(set(names)) < len(names):
        raise ValueError("classes are a list of different names")
    own = {name: digest for name, digest in digests.items() if name in (file, f"{file}.data")}
    if file not in own or Path(file).name != file:
        raise ValueError("model names a file beside it, which sha256 has")
    height, width = shown["size"]
    if height != width or shown["resize"] not in RESIZES or shown["interpolation"] not in FILTERS:
        raise ValueError("preprocess is none that is known")
    rule = Preprocessing(
        size=int(height),
        mean=_three(shown["mean"]),
        std=_three(shown["std"]),
        interpolation=shown["interpolation"],
        resize=shown["resize"],
        crop_offset="floor" if shown["crop"] == "center-floor" else "round",
        fill=shown["fill"] or 0,
        rgb="first",
        transparency="white",
    )
    return tuple(names), rule, _held_out(record["trust"], len(names)), file, own


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _held_out(plain: Mapping[str, Any] | None, classes: int) -> HeldOut | None:
    """What the record has of held-out images; None where there were none."""
    if plain is None:
        return None
    means = plain["means"]
    if means["type"] != "float16":
        raise ValueError(f"means are of the type {means['type']!r}")
    rows = np.frombuffer(base64.b64decode(means["base64"], validate=True), "<f2").reshape(means["shape"])
    found = HeldOut(
        labels=np.array(plain["labels"], np.int64),
        means=rows.astype(np.float32),
        **{name: np.array(plain[name], np.float32) for name in ("scores", "strange", "center", "width")},
    )
    images = (len(found.labels),)
    fits = found.scores.shape == found.strange.shape == images and found.center.shape == found.width.shape == (2,)
    finite = all(np.isfinite(values).all() for values in vars(found).values())
    if not (fits and finite) or found.means.ndim != 2 or len(found.means) != classes or not (found.width > 0).all():
        raise ValueError("what is kept of held-out images does not fit together")
    return found


def _runtime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError:
        raise UsageError("Exports need onnxruntime, which is not installed: pip install 'shotfit[onnx]'.") from None
    return onnxruntime


def _session(runtime: ModuleType, path: Path) -> onnxruntime.InferenceSession:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait burn no core
    try:
        with kept_memory():  # the graph is copied several times before it is ready
            return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has errors of many kinds
        said = " ".join(str(error).split())[:200]
        raise ShotfitError(f"{path} cannot be run by onnxruntime {runtime.__version__} ({said}).") from None


def _read(batches: Iterable[list[Picture]], read: Callable[[Picture], A]) -> Iterator[tuple[list[Picture], list[A]]]:
    """Each batch with what `read` gives for its pictures; a batch of several is read in threads."""
    with thread_pool(os.cpu_count() or 1) as pool:
        for batch in batches:
            yield batch, [read(batch[0])] if len(batch) == 1 else list(pool.map(read, batch))
