"""Linear probe: logistic regression on frozen image features.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020;
the search for C is that of Zhou et al., IJCV 2022, arXiv 2109.01134.

    logits      = f @ W.T + b                                          f not normalized
    objective   = sum_i CE(W f_i + b, y_i) + ||W||^2 / (2 C)           b is not penalized

What is frozen: the image tower; the text tower is not used. What is solved for: W and b, by scikit-learn's L-BFGS in
float64 on center views. C is searched on validation images: seven powers of 100, then eight halvings around the best.
Where random views are asked for (`--views 4`), they are samples beside the center view, and the sum over an image's
samples is their mean, so that C means the same.

With several labels a picture each class has a regression of its own, against the images without it:

    objective   = sum_i BCE(w_c f_i + b_c, y_ic) + ||w_c||^2 / (2 C)   for each class c

all solved together by L-BFGS, since they share f; C is one number, chosen by the mean average precision.

With two classes scikit-learn fits one row w (its penalty is ||w||^2 / (2 C)); here the classes get -w/2 and w/2.
Published: see docs/methods.md#linear_probe.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from shotfit.data.budget import thread_pool
from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.methods.base import Fold, Method, Support, Validation, option
from shotfit.methods.declared import Declared
from shotfit.methods.several_labels import mean_average_precision

__all__ = ["LinearProbe", "Search", "search_c"]

Matrix = np.ndarray[Any, Any]
Solution = tuple[Matrix, Matrix]  # W [classes, embed] and b [classes], float64

COARSE = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
ROUNDS = 8
EPSILON = float(np.finfo(np.float64).eps)
NO_IMAGES = -1e6  # bias of a class that has none


@dataclass(frozen=True)
class Search:
    """A search's course: the C of every fit in order, and the one kept in each round."""

    tried: tuple[float, ...]
    kept: tuple[float, ...]

    @property
    def best(self) -> float:
        """The C of the last round."""
        return self.kept[-1]


def search_c(score: Callable[[float], float], start: Callable[[float], object] = lambda c: None) -> Search:
    """CoOp's search for C by `score`, higher is better. start: is told as early as possible what will be asked for.

    Among the coarse values the largest of equals is taken. The rounds then try ten times less and more than it, never
    itself, and move the losing end to the middle; of equals the smaller stays.

    Example:
        >>> round(search_c(lambda c: -abs(np.log10(c) - 0.5)).best, 1)
        3.2
    """
    for c in COARSE:
        start(c)
    scores = [score(c) for c in COARSE]
    peak = COARSE[scores.index(max(scores))]
    left, right = 1e-1 * peak, 1e1 * peak
    tried, kept = list(COARSE), []
    for number in range(ROUNDS):
        tried += [left, right]
        middle = float(10 ** ((np.log10(left) + np.log10(right)) / 2))  # which the next round tries, however this ends
        for c in (left, right, middle) if number + 1 < ROUNDS else (left, right):
            start(c)
        better_right = score(left) < score(right)
        kept.append(right if better_right else left)
        left, right = (middle, right) if better_right else (left, middle)
    return Search(tuple(tried), tuple(kept))


class LinearProbe(Method):
    """Logistic regression with L2 penalty."""

    name: ClassVar[str] = "linear_probe"
    title: ClassVar[str] = "linear probe"
    paper: ClassVar[str] = "Radford et al., ICML 2021, arXiv 2103.00020"
    verified: ClassVar[bool] = True
    several_labels: ClassVar[bool] = True

    search: bool = option(True, "search C on validation images; false: take `c`")
    c: float = option(0.316, "inverse strength of the penalty where nothing is searched, as in CLIP's example", above=0)
    tolerance: float = option(1e-4, "gradient at which the solver stops", above=0)
    max_iterations: int = option(1000, "steps after which the solver stops", at_least=1)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """W [classes, embed] and b [classes], zero until solved."""
        count = sum(len(task.names) for task in classes)
        self.register_buffer("weight", torch.zeros(count, frozen.embed, device=frozen.backbone.device))
        self.register_buffer("bias", torch.zeros(count, device=frozen.backbone.device))
        self.course: Search | None = None

    def declared(self) -> dict[str, Declared]:
        """W and b."""
        classes = len(self.class_names)
        return {"buffer.weight": Declared(classes, self.frozen.embed), "buffer.bias": Declared(classes)}

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        features = self.frozen.image(images).float()
        return features @ self.get_buffer("weight").T + self.get_buffer("bias")

    def chosen(self) -> dict[str, Any]:
        """C: one number, for which a search takes 16 fits on each of four folds."""
        return {"search": False, "c": self.course.best} if self.course else {}

    def selection(self, validation: Validation) -> str:
        """What C was chosen by."""
        return validation.said(self.search, "C")

    @torch.no_grad()
    def solve(self, support: Support, validation: Validation) -> None:
        """Search C on the folds, then fit it to all support images."""
        features = self._samples(support)
        labels = support.labels.numpy()
        c = self.c
        whole = cache(partial(self._solved, features, labels))  # where a validation part judges, the search fits it too
        with _one_thread_a_fit():
            if self.search and validation.folds:
                self.course = self._searched(features, labels, validation.folds, whole)
                c = self.course.best
            weight, bias = whole(c)
        self.get_buffer("weight").copy_(torch.from_numpy(weight))
        self.get_buffer("bias").copy_(torch.from_numpy(bias))

    def _searched(
        self, features: Matrix, labels: Matrix, folds: Sequence[Fold], whole: Callable[[float], Solution]
    ) -> Search:
        """The search for C; what is sure to be asked for is fitted side by side. whole: fits all support images."""

        def fits(train: Matrix) -> Callable[[float], Solution]:
            everything = np.array_equal(train, np.arange(len(labels)))
            return whole if everything else partial(self._solved, features[:, train], labels[train])

        parts = [(fits(fold.train.numpy()), self._features(fold.held), fold.labels.numpy()) for fold in folds]
        workers = thread_pool(torch.get_num_threads())

        def right(c: float, fit: Callable[[float], Solution], held: Matrix, truth: Matrix) -> float:
            weight, bias = fit(c)
            logits = held @ weight.T + bias
            if self.judges_alone:
                return mean_average_precision(torch.from_numpy(logits), torch.from_numpy(truth))
            return int((logits.argmax(axis=1) == truth).sum())

        @cache  # a round tries the end again that the one before has kept
        def start(c: float) -> list[Future[float]]:
            return [workers.submit(right, c, *part) for part in parts]

        try:
            return search_c(lambda c: sum(one.result() for one in start(c)), start)
        finally:
            workers.shutdown(cancel_futures=True)  # there are some where it was interrupted

    def _features(self, images: Images) -> Matrix:
        return self.frozen.image(images).cpu().double().numpy()  # in this order: MPS has no float64

    def _samples(self, support: Support) -> Matrix:
        """Features [1 + views, images, embed]: of the center view, and of random views where there are some."""
        views, everything = support.random.views, torch.arange(len(support.labels))
        random = [self._features(support.random.take(everything, view)) for view in range(views)]
        return np.stack([self._features(support.center.all()), *random])

    def _solved(self, samples: Matrix, labels: Matrix, c: float) -> Solution:
        """samples: [samples, images, embed]; labels: of the images."""
        count = len(samples)
        each = np.concatenate([labels] * count)
        return (self._fit_sets if self.judges_alone else self._fit)(np.concatenate(samples), each, c / count)

    def _fit_sets(self, features: Matrix, sets: Matrix, c: float) -> Solution:
        """W [classes, embed] and b [classes], float64. A class that none or all have gets the odds of half an image."""
        (count, classes), width = sets.shape, features.shape[1]
        known = np.flatnonzero((sets.sum(axis=0) > 0) & (sets.sum(axis=0) < count))
        own = sets[:, known].astype(np.float64)
        signs = 2 * own - 1

        def objective(point: Matrix) -> tuple[float, Matrix]:
            weight, bias = np.split(point.reshape(width + 1, len(known)), [width])
            logits = features @ weight + bias
            loss = np.logaddexp(0, -signs * logits).sum() + (weight**2).sum() / (2 * c)
            slope = expit(logits) - own
            slopes = np.concatenate([features.T @ slope + weight / c, slope.sum(axis=0, keepdims=True)])
            return loss / count, slopes.ravel() / count  # the mean, as scikit-learn's tolerance is of it

        odds = np.log((sets.sum(axis=0) + 0.5) / (count - sets.sum(axis=0) + 0.5))
        weight, bias = np.zeros((classes, width)), odds
        if len(known):
            begin = np.concatenate([np.zeros((width, len(known))), odds[None, known]]).ravel()
            options = {"maxiter": self.max_iterations, "gtol": self.tolerance, "maxls": 50, "ftol": 64 * EPSILON}
            found = minimize(objective, begin, jac=True, method="L-BFGS-B", options=options).x
            solved = found.reshape(width + 1, len(known))
            weight[known], bias[known] = solved[:-1].T, solved[-1]
        return weight, bias

    def _fit(self, features: Matrix, labels: Matrix, c: float) -> Solution:
        """W [classes, embed] and b [classes], float64."""
        count = len(self.get_buffer("bias"))
        weight, bias = np.zeros((count, features.shape[1])), np.full(count, NO_IMAGES)
        present = np.unique(labels)
        if len(present) == 1:  # nothing to tell apart
            bias[present] = 0.0
            return weight, bias
        model = LogisticRegression(C=c, max_iter=self.max_iterations, tol=self.tolerance)
        model.fit(features, labels)
        rows, offsets = model.coef_, model.intercept_
        if len(present) == 2:
            rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
        weight[present], bias[present] = rows, offsets
        return weight, bias


@contextmanager
def _one_thread_a_fit() -> Iterator[None]:
    """Fits run side by side, each in one thread: the solver's threads and the products' only hold each other up.

    That a fit ends at the last step that is allowed is no warning: the programs that are followed stop there too.
    """
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
