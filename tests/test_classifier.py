"""shotfit.Classifier: what scikit-learn asks of a classifier, and the kinds of images that X holds."""

from __future__ import annotations

import io
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import shotfit
from shotfit import Classifier
from shotfit.checkpoints.weights import save_backbone
from shotfit.errors import ShotfitError, UsageError
from shotfit.methods import find
from shotfit.testing.tiny import random_backbone, tiny_backbone
from shotfit.towers.preprocess import siglip_preprocessing

QUICK = {"search": False, "max_iterations": 100}


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a backbone `tiny` that sees the whole of an image, however wide: rows of numbers are strips."""
    folder = tmp_path_factory.mktemp("classifier")
    cropping = tiny_backbone(folder / "cropping")
    (folder / "tiny").mkdir()
    shutil.copy(folder / "cropping" / "tokenizer.json", folder / "tiny")
    config = replace(cropping.config, preprocessing=siglip_preprocessing(32))
    save_backbone(random_backbone(config, cropping.tokenizer, name="tiny"), folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def quick(**more: Any) -> Classifier:
    return Classifier("linear_probe", "tiny", options=QUICK, recipe="paper", check=False, **more)


# Of scikit-learn's checks that cannot hold for images: each by name, with the reason.
NOT_FOR_IMAGES = {
    "check_methods_subset_invariance": "towers compute in float32, and an image that runs with others may differ "
    "in its seventh digit from the same one by itself; the check allows 1e-7 (1e-5 is tested below)",
}


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [quick(image_shape=(1, -1), value_range=(-10.0, 10.0))], expected_failed_checks=lambda _: NOT_FOR_IMAGES
)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """[12, 32, 32, 3]: dark ones, then light ones."""
    generator = np.random.default_rng(1)
    drawn = [generator.integers(low, low + 90, (32, 32, 3), dtype=np.uint8) for low in (0, 160) for _ in range(6)]
    return np.stack(drawn)


LABELS = ["night"] * 6 + ["day"] * 6


def encoded(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def test_every_kind_of_x_is_the_same_images(images: NDArray[np.uint8], place: Path) -> None:
    paths = []
    for number, image in enumerate(images):
        paths.append(place / f"{number}.png")
        paths[-1].write_bytes(encoded(image))
    objects = np.empty(12, dtype=object)
    objects[:] = [Image.fromarray(image) for image in images]
    texts = [str(path) for path in paths]
    kinds: dict[str, Any] = {
        "array": images,
        "list of arrays": list(images),
        "paths": paths,
        "texts": texts,
        "array of texts": np.array(texts),
        "column of texts": np.array(texts)[:, None],
        "PIL images": [Image.fromarray(image) for image in images],
        "object array": objects,
        "object column": objects[:, None],
        "bytes": [encoded(image) for image in images],
        "series": pd.Series(texts, index=range(100, 112)),
        "frame": pd.DataFrame({"picture": texts}),
        "frame of bytes": pd.DataFrame({"picture": [encoded(image) for image in images]}),
        "floats": images.astype(np.float32) / 255,
        "rows of pixels": images.reshape(12, -1),
    }
    special: dict[str, dict[str, Any]] = {
        "floats": {"value_range": (0.0, 1.0)},
        "rows of pixels": {"image_shape": (32, 32, 3)},
    }
    expected = quick().fit(images, LABELS).predict_proba(images)
    for name, given in kinds.items():
        found = quick(**special.get(name, {})).fit(given, LABELS).predict_proba(given)
        assert np.allclose(found, expected, atol=1e-5), name


def test_gray_images_are_a_stack(images: NDArray[np.uint8]) -> None:
    gray = images[..., 0]  # [12, 32, 32]
    assert quick().fit(gray, LABELS).score(gray, LABELS) == 1


def test_columns_are_counted_and_have_to_stay(images: NDArray[np.uint8]) -> None:
    rows = images.reshape(12, -1)
    fitted = quick(image_shape=(32, 32, 3)).fit(rows, LABELS)
    assert fitted.n_features_in_ == 32 * 32 * 3
    assert not hasattr(quick().fit(images, LABELS), "n_features_in_")
    with pytest.raises(ValueError, match="X has 3075 features, but Classifier is expecting 3072"):
        fitted.set_params(image_shape=(1, -1, 3)).predict(np.zeros((2, 3075), np.uint8))


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["b"] * 6 + ["a"] * 6, "U"),
        ([7] * 6 + [3] * 6, "i"),
        ([True] * 6 + [False] * 6, "b"),
        (np.array(["b"] * 6 + ["a"] * 6, dtype=object), "O"),
        (pd.Series(["b"] * 6 + ["a"] * 6), "OUT"),
        (np.array([7] * 6 + [3] * 6, dtype=np.uint8), "u"),
    ],
)
def test_classes_keep_the_type_of_the_labels(images: NDArray[np.uint8], labels: Any, kind: str) -> None:
    fitted = quick().fit(images, labels)
    assert fitted.classes_.dtype.kind in kind
    assert list(fitted.classes_) == sorted(set(labels))
    assert (fitted.predict(images) == np.asarray(labels)).all()


def test_class_names_are_what_prompts_say(images: NDArray[np.uint8]) -> None:
    labels = [0] * 6 + [1] * 6
    assert quick().fit(images, labels).model_.class_names == ("0", "1")
    assert quick(class_names=["night", "day"]).fit(images, labels).model_.class_names == ("night", "day")
    assert quick(class_names={1: "day", 0: "night"}).fit(images, labels).model_.class_names == ("night", "day")
    for wrong in (["night"], "night", {0: "night"}):
        with pytest.raises(ValueError, match="class_names"):
            quick(class_names=wrong).fit(images, labels)


def test_decisions_are_logs_of_probabilities(images: NDArray[np.uint8]) -> None:
    two = quick().fit(images, LABELS)
    probabilities = two.predict_proba(images)
    assert np.allclose(two.decision_function(images), np.log(probabilities[:, 1] / probabilities[:, 0]), atol=1e-4)
    three = quick().fit(images, [0, 1, 2] * 4)
    assert three.decision_function(images).shape == (12, 3)
    assert (three.decision_function(images).argmax(1) == three.predict_proba(images).argmax(1)).all()


def test_image_by_itself_is_predicted_as_among_others(images: NDArray[np.uint8]) -> None:
    fitted = quick().fit(images, LABELS)
    alone = np.concatenate([fitted.predict_proba(image[None]) for image in images])
    assert np.allclose(alone, fitted.predict_proba(images), atol=1e-5)


def test_cross_validation_and_pipelines(images: NDArray[np.uint8]) -> None:
    halved = make_pipeline(FunctionTransformer(lambda many: many[:, ::2, ::2]), quick())
    for estimator in (quick(), halved):
        assert cross_val_score(estimator, images, LABELS, cv=3).tolist() == [1, 1, 1]
    frame = pd.DataFrame({"image": [encoded(image) for image in images]})
    assert cross_val_score(quick(), frame, LABELS, cv=3).mean() == 1
    assert cross_val_score(quick(), list(images), LABELS, cv=3, scoring="roc_auc").mean() == 1


def test_search_over_methods_and_options(images: NDArray[np.uint8]) -> None:
    grid = [
        {"method": ["linear_probe"], "options": [QUICK, QUICK | {"c": 10.0}]},
        {"method": ["tip_adapter"], "options": [{"alpha": 2.0}, None]},
    ]
    search = GridSearchCV(quick(), grid, cv=2).fit(images, LABELS)
    assert len(search.cv_results_["params"]) == 4 and search.best_score_ == 1
    assert search.best_estimator_.model_.record["method"] == search.best_params_["method"]


def test_parameters_and_clones(images: NDArray[np.uint8]) -> None:
    first = quick(class_names=["a night", "a day"])
    again = clone(first)
    assert again.get_params() == first.get_params()
    assert again.set_params(method="tip_adapter").method == "tip_adapter" and first.method == "linear_probe"
    assert repr(Classifier()) == "Classifier()"
    with pytest.raises(NotFittedError):
        again.predict(images)
    of_options = Classifier(find("linear_probe")(search=False), "tiny", check=False, recipe="paper")
    assert clone(of_options).fit(images, LABELS).model_.method.options()["search"] is False


def test_method_auto_is_the_default_and_races(images: NDArray[np.uint8]) -> None:
    fitted = Classifier(backbone="tiny", budget=0.5).fit(images, LABELS)
    assert fitted.model_.record["race"]
    assert fitted.score(images, LABELS) > 0.5


def test_pickle_gives_the_same_answers_and_needs_no_folder(images: NDArray[np.uint8], tmp_path: Path) -> None:
    fitted = quick().fit(images, LABELS)
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict_proba(images) == fitted.predict_proba(images)).all()
    assert again.get_params() == fitted.get_params()
    assert fitted.model_.source is None
    assert clone(again).fit(images, LABELS).score(images, LABELS) == 1
    assert shotfit.load(again.model_.save(tmp_path / "model"), "tiny").class_names == ("day", "night")


def test_method_of_a_file_pickles(images: NDArray[np.uint8], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from shotfit.methods.zero_shot import ZeroShot\nclass Mine(ZeroShot):\n    name = 'mine'\n")
    fitted = Classifier(f"{file}:Mine", "tiny", check=False).fit(images, LABELS)
    assert (pickle.loads(pickle.dumps(fitted)).predict(images) == fitted.predict(images)).all()


def test_threads_predict_as_one_does(images: NDArray[np.uint8]) -> None:
    fitted = quick().fit(images, LABELS)
    expected = fitted.predict_proba(images)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: fitted.predict_proba(images), range(8)))
    assert all(np.allclose(one, expected, atol=1e-6) for one in found)


def test_workers_of_joblib_fit_and_give_back(images: NDArray[np.uint8]) -> None:
    search = GridSearchCV(quick(), {"shots": [2, None]}, cv=2, n_jobs=2, error_score="raise").fit(images, LABELS)
    assert search.best_score_ == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("photos/", "X is one str; expected a list"),
        (b"abc", "X is one bytes"),
        (5, "X is one int"),
        (np.zeros((12, 64)), r"X is an array \[12, 64\] of float64; .* image_shape="),
        (np.zeros(12), r"X is an array \[12\] of float64"),
        (np.full((12, 2), "a.jpg"), r"X is an array \[12, 2\]"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "X is a table of 2 columns"),
        ([], r"X has 0 sample\(s\)"),
        (np.zeros((12, 8, 8, 3)), r"X holds numbers of float64; .* value_range="),
    ],
)
def test_x_of_another_form_is_refused_in_a_sentence(given: Any, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        quick().fit(given, LABELS)


def test_images_labels_and_options_that_cannot_be_used(images: NDArray[np.uint8]) -> None:
    with pytest.raises(ShotfitError, match=r"missing\.png"):
        quick().fit(["missing.png"] * 12, LABELS)
    with pytest.raises(UsageError, match="image 0 is a int"):
        quick().fit([1] * 12, LABELS)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        quick().fit(images, LABELS[:5])
    with pytest.raises(ValueError, match="y has 1 class"):
        quick().fit(images, ["day"] * 12)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        quick().fit(images, np.linspace(0, 1, 12))
    with pytest.raises(ValueError, match="image_shape"):
        quick(image_shape=(5, 5)).fit(images.reshape(12, -1), LABELS)
    with pytest.raises(ValueError, match="value_range"):
        quick(value_range=(1.0, 0.0)).fit(images / 255, LABELS)
    with pytest.raises(UsageError, match="There is no method 'linear_prob'"):
        Classifier("linear_prob", "tiny").fit(images, LABELS)


def test_data_sets_of_scikit_learn_are_rows_of_pixels() -> None:
    digits = load_digits(n_class=3)
    fitted = quick(image_shape=(8, 8), value_range=(0, 16)).fit(digits.data[:60], digits.target[:60])
    assert fitted.n_features_in_ == 64
    assert fitted.score(digits.data[60:120], digits.target[60:120]) > 0.6


def test_import_of_shotfit_waits_for_no_scikit_learn() -> None:
    program = "import sys, shotfit; print('Classifier' in dir(shotfit), {'sklearn', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "set()"]
