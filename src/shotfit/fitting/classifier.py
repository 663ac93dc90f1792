"""shotfit as a classifier of scikit-learn: in pipelines, cross-validation and searches.

    classifier = Classifier(method="tip_adapter", backbone="mini").fit(paths, labels)
    cross_val_score(classifier, paths, labels, cv=5).mean()

Features of images are kept in the store, so that folds and searches decode each image once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_consistent_length, check_is_fitted, column_or_1d

from shotfit.checkpoints.names import find
from shotfit.checkpoints.weights import load_in
from shotfit.data.columns import images_of
from shotfit.data.finding import identified
from shotfit.data.pictures import Picture
from shotfit.data.tasks import DEFAULT_TEMPLATE, ClassList, Task, expand_templates
from shotfit.engine.store import cache_folder
from shotfit.fitting.aside import contents_of, opened_from
from shotfit.fitting.fit import RecipeName, fit
from shotfit.methods import in_file
from shotfit.methods.base import Method
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import Encoder
from shotfit.towers.precision import Precision

__all__ = ["Classifier"]


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A frozen vision-language model that is fitted to labelled images, with the interface of scikit-learn.

    X is a list, an array or a column of images, one for each label: paths, bytes, PIL images, arrays [height, width,
    3]; an array [n, height, width, 3] or [n, height, width]; a Series, a data frame of one column, an array [n, 1] of
    objects; with image_shape also an array [n, pixels]. y holds texts, whole numbers or booleans.

    Args:
        method, backbone, options, templates, shots, recipe, epochs, lr, steps, budget, check, keep, precision, device:
            as of `shotfit.fit`. A search tries several options as {"options": [{"alpha": 1}, {"alpha": 2}]}.
        class_names: what prompts call the classes: a name for each label in a mapping, or names in the order of
            `classes_`. By default the labels themselves.
        random_state: the seed of `shotfit.fit`; a whole number, or what else scikit-learn takes.
        image_shape: (height, width) or (height, width, 3) of rows of pixels, as scikit-learn's own data sets have them;
            one of the numbers may be -1, as in numpy.reshape.
        value_range: (black, white) in arrays that are not of uint8, such as (0.0, 1.0); what lies beyond is cut.

    Attributes:
        classes_: the labels, sorted, of the type that y has. [classes]
        model_: the fitted `shotfit.Model`, which saves, explains and predicts more.
        n_features_in_: columns of X, where X has columns.

    Raises, when it is fitted or predicts: ValueError and TypeError for an X or y of another form, as scikit-learn does;
    ShotfitError and UsageError, in one sentence, for images that cannot be read, and methods, options or backbones.

    Example:
        >>> generator = np.random.default_rng(1)
        >>> dark, light = (generator.integers(low, low + 99, (5, 32, 32, 3), dtype=np.uint8) for low in (0, 150))
        >>> X, y = np.concatenate([dark, light]), ["night"] * 5 + ["day"] * 5
        >>> Classifier("linear_probe", check=False).fit(X, y).predict(light[:2]).tolist()
        ['day', 'day']
    """

    classes_: NDArray[Any]
    n_features_in_: int

    def __init__(
        self,
        method: str | Method = "auto",
        backbone: str | Backbone | Encoder = "mini",
        *,
        options: Mapping[str, str | float | bool] | None = None,
        class_names: Mapping[Any, str] | Sequence[str] | None = None,
        templates: Sequence[str] = (),
        shots: int | None = None,
        recipe: RecipeName = "auto",
        epochs: int | None = None,
        lr: float | None = None,
        steps: int | None = None,
        budget: float | None = None,
        check: bool = True,
        keep: bool = False,
        random_state: Any = 1,
        image_shape: Sequence[int] | None = None,
        value_range: tuple[float, float] | None = None,
        precision: Precision = "auto",
        device: str = "auto",
    ) -> None:
        self.method = method
        self.backbone = backbone
        self.options = options
        self.class_names = class_names
        self.templates = templates
        self.shots = shots
        self.recipe = recipe
        self.epochs = epochs
        self.lr = lr
        self.steps = steps
        self.budget = budget
        self.check = check
        self.keep = keep
        self.random_state = random_state
        self.image_shape = image_shape
        self.value_range = value_range
        self.precision = precision
        self.device = device

    def fit(self, X: Any, y: ArrayLike) -> Classifier:  # noqa: N803  (scikit-learn's names)
        """Fit to images and their labels. All of them are learned from: what is held out is scikit-learn's to say."""
        if y is None:
            raise ValueError(
                "Classifier requires y to be passed, but the target y is None: give a label for each image."
            )
        pictures, columns = images_of(X, self.image_shape, self.value_range)
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        check_consistent_length(pictures, labels)
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y has 1 class ({str(classes[0])[:80]}); expected at least two.")
        items, broken = identified(pictures, cache_folder())
        if broken:
            raise next(iter(broken.values()))
        train = tuple(replace(item, label=int(code)) for item, code in zip(items, codes, strict=True))
        lists = ClassList("images", self._names(classes), expand_templates(self.templates) or (DEFAULT_TEMPLATE,))
        seed = self.random_state
        self.model_ = fit(
            Task(lists, train),
            method=self.method,
            shots=self.shots,
            seed=int(seed) if isinstance(seed, Integral) else int(check_random_state(seed).randint(2**31)),
            backbone=self._loaded(),
            options=self.options,
            recipe=self.recipe,
            epochs=self.epochs,
            lr=self.lr,
            steps=self.steps,
            budget=self.budget,
            check=self.check,
            keep=self.keep,
        )
        self.classes_ = classes
        if columns is not None:
            self.n_features_in_ = columns
        elif hasattr(self, "n_features_in_"):  # of an earlier fit
            del self.n_features_in_
        return self

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """The label of each image. [n]"""
        found = self.predict_proba(X)
        return self.classes_[found.argmax(axis=1)]

    def predict_proba(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Probabilities in the order of `classes_`, calibrated where images were held out. [n, classes]"""
        pictures = self._pictures(X)
        probabilities: NDArray[Any] = self.model_.predict_proba(pictures)
        return probabilities

    def decision_function(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Log probabilities [n, classes]; of two classes the log odds of the second one, [n]."""
        found = self.predict_proba(X).astype(np.float64)
        logs = np.log(found.clip(min=np.finfo(np.float32).tiny))
        return logs[:, 1] - logs[:, 0] if len(self.classes_) == 2 else logs

    def _pictures(self, given: Any) -> list[Picture]:
        check_is_fitted(self)
        pictures, columns = images_of(given, self.image_shape, self.value_range)
        expected = getattr(self, "n_features_in_", None)
        if columns is not None and expected is not None and columns != expected:
            raise ValueError(
                f"X has {columns} features, but Classifier is expecting {expected} features as input: give the columns "
                "that it was fitted to."
            )
        return pictures

    def _names(self, classes: NDArray[Any]) -> tuple[str, ...]:
        """What each class is called in prompts."""
        given = self.class_names
        if given is None:
            return tuple(str(label) for label in classes)
        if isinstance(given, Mapping):
            missing = [label for label in classes.tolist() if label not in given]
            if missing:
                raise ValueError(f"class_names has no name for the label {missing[0]!r}; expected one for each.")
            return tuple(str(given[label]) for label in classes.tolist())
        if isinstance(given, str) or len(given) != len(classes):
            raise ValueError(
                f"class_names is {given!r:.80}, but y has {len(classes)} classes; expected one for each, in the order "
                "of the sorted labels."
            )
        return tuple(map(str, given))

    def _loaded(self) -> Backbone:
        if isinstance(self.backbone, str) and find(self.backbone) is not None:
            return _known(self.backbone, self.precision, self.device)
        return load_in(self.backbone, self.precision, self.device)

    def __getstate__(self) -> dict[str, Any]:
        """With the model as the bytes of its files: a model itself goes to other processes by its folder alone."""
        state = dict(super().__getstate__())
        model = state.pop("model_", None)
        return state if model is None else state | {"_contents": contents_of(model)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        contents = state.get("_contents")
        super().__setstate__({name: value for name, value in state.items() if name != "_contents"})
        if contents is not None:
            by_file = isinstance(self.method, str) and in_file(self.method)
            method = type(self.method) if isinstance(self.method, Method) else self.method if by_file else None
            self.model_ = opened_from(contents, self._loaded(), method)


@lru_cache(maxsize=1)
def _known(backbone: str, precision: Precision, device: str) -> Backbone:
    """A backbone by its short name, which is the same weights for ever: the fits of a search share it."""
    return load_in(backbone, precision, device)
