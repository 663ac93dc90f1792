"""GDA equals the official program: Gaussians, search, logits."""

from __future__ import annotations

import pytest
import torch

from shotfit.engine.frozen import Images, normalize
from shotfit.methods.base import Support
from shotfit.methods.gda import GDA, gaussians
from shotfit.methods.support_features import support_features

from .cases import Case, assert_close, cases
from .recorded import ClassifierFrozen, FeaturePool, assert_counts, class_list, judged_by

TOLERANCE = 2e-5


def _solved(case: Case) -> tuple[GDA, Support]:
    """The method, searched on the recorded validation features."""
    settings = case.settings
    method = GDA(
        alphas=",".join(str(alpha) for alpha in settings["alphas"]),
        views=settings["augment_epoch"],
        temperature=float(settings["logit_scale"]),
    )
    method.check()
    pool = FeaturePool(case["in/train/features"], case["in/train/labels"])
    support = Support(pool, pool, settings["shots"] or 1)
    method.attach(ClassifierFrozen(case), [class_list(case)])
    method.prepare(support)
    method.build(method.frozen, method.classes)
    held = Images.of(case["in/val/features"])
    method.solve(support, judged_by(held, case["in/val/labels"], len(support.labels)))
    return method, support


@pytest.mark.parametrize("case", cases("gda"))
def test_gaussians_equal_the_official_ones(case: Case) -> None:
    method, support = _solved(case)
    samples = normalize(support_features(method.frozen, support, method.views))
    found = gaussians(samples.flatten(0, 1), support.labels.repeat(method.views), len(method.class_names))
    assert_close(found.means, case["out/means"], TOLERANCE, "means")
    assert_close(found.precision, case["out/precision"], TOLERANCE, "precision")
    assert_close(method.get_buffer("weight").T, case["out/W"], TOLERANCE, "W")
    assert_close(method.get_buffer("bias"), case["out/b"], TOLERANCE, "b")


@pytest.mark.parametrize("case", cases("gda"))
def test_search_and_logits_equal_the_official_ones(case: Case) -> None:
    method, _ = _solved(case)
    if assert_counts(method.correct, case["out/val_accuracy"], len(case["in/val/labels"]), share=0.15):
        assert_close(method.get_buffer("scale"), case["out/alpha"], 1e-6)
    method.get_buffer("scale").copy_(case["out/alpha"])
    assert_close(method.logits(Images.of(case["in/test/features"])), case["out/test/logits"], TOLERANCE)


def test_class_without_images_has_the_mean_of_the_others() -> None:
    samples = normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    found = gaussians(samples, torch.tensor([0, 0, 0, 2, 2, 2]), 3)
    assert_close(found.means[1], (found.means[0] + found.means[2]) / 2, 1e-12)
    assert bool(found.weight.isfinite().all())
