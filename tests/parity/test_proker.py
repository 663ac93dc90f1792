"""ProKeR equals the authors' program: kernel, system, search, and what it says of images that are left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shotfit.engine.frozen import Images, normalize
from shotfit.methods.base import Support, Validation
from shotfit.methods.proker import ProKeR, kernel
from shotfit.methods.zero_shot import ZeroShot

from .cases import Case, assert_close, cases
from .recorded import FeaturePool, PixelPool, RecordedFrozen, assert_counts, class_list, judged_by

FORWARD, SOLVED = 1e-5, 5e-5
NOT_SEARCHED = Validation("none", ())
SEVERAL = cases("proker", lambda case: "out/fixed/loo/logits" in case)


def _solved(case: Case, some: Tensor, validation: Validation = NOT_SEARCHED) -> ProKeR:
    """The method at the case's beta and lambda, fitted to some of the images."""
    settings = case.settings
    betas, lambdas = (",".join(map(str, case[f"in/search/{name}"].tolist())) for name in ("betas", "lambdas"))
    method = ProKeR(
        beta=float(settings["beta"]),
        lmbda=float(settings["lmbda"]),
        betas=betas,
        lambdas=lambdas,
        views=settings["augment_epoch"],
        temperature=float(settings["logit_scale"]),
    )
    method.check()
    pool = FeaturePool(case["in/train/features"][:, some], case["in/train/labels"][some])
    support = Support(pool, pool, settings["shots"] or 1)
    method.attach(RecordedFrozen(case), [class_list(case)])
    method.prepare(support)
    method.build(method.frozen, method.classes)
    method.solve(support, validation)
    return method


def _all(case: Case) -> Tensor:
    return torch.arange(len(case["in/train/labels"]))


@pytest.mark.parametrize("case", cases("proker"))
def test_classifier_and_features_equal_the_recorded_ones(case: Case) -> None:
    zero_shot = ZeroShot()
    zero_shot.attach(RecordedFrozen(case), [class_list(case)])
    assert_close(zero_shot.text_features().T, case["in/clip_weights"], FORWARD)
    if "in/images/train" in case:
        views, images = case["in/images/train"].shape[:2]
        pool = PixelPool(case["in/images/train"], case["in/train/labels"]).in_views(views)
        for view in range(views):
            features = normalize(zero_shot.frozen.image(pool.take(torch.arange(images), view)))
            assert_close(features, case["in/train/features"][view], FORWARD)


@pytest.mark.parametrize("case", cases("proker"))
def test_system_and_logits_equal_the_official_ones(case: Case) -> None:
    method, test = _solved(case, _all(case)), Images.of(case["in/test/features"])
    rows = method.get_buffer("support")
    assert_close(kernel(rows @ rows.T, method.beta), case["out/fixed/kernel"], FORWARD)
    assert_close(method.get_buffer("dual"), case["out/fixed/alpha"], SOLVED)
    assert_close(method.logits(test), case["out/fixed/test/logits"], FORWARD)
    method.get_buffer("dual").zero_()
    assert_close(method.logits(test), case["out/zero_shot_logits"], FORWARD)


@pytest.mark.parametrize("case", SEVERAL)
def test_images_that_are_left_out_get_the_official_scores(case: Case) -> None:
    everything, recorded = _all(case), {"loo": _all(case), "folds": case["in/train/fold"]}
    for name, folds in recorded.items():
        expected = case[f"out/fixed/{name}/logits"]  # [views, images, classes]
        for fold in folds.unique():
            method = _solved(case, everything[folds != fold])
            for view, features in enumerate(case["in/train/features"]):
                held = folds == fold
                assert_close(method.logits(Images.of(features[held])), expected[view, held], SOLVED, name)


@pytest.mark.parametrize("case", cases("proker"))
def test_search_equals_the_official_one(case: Case) -> None:
    held, labels = Images.of(case["in/val/features"]), case["in/val/labels"]
    method = _solved(case, _all(case), judged_by(held, labels, len(_all(case))))
    assert method.pair is not None
    if not assert_counts(method.correct, case["out/search/accuracy"], len(labels), share=0.02):
        return
    assert_close(torch.tensor(method.pair), case["out/search/best"], 1e-6)
    assert_close(method.get_buffer("dual"), case["out/search/alpha"], SOLVED)
    assert_close(method.logits(Images.of(case["in/test/features"])), case["out/search/test/logits"], FORWARD)
