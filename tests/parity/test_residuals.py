"""CLIP-Adapter and TaskRes equal their official programs: features, logits, gradients, steps."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from shotfit.engine.frozen import Images
from shotfit.methods.base import Method
from shotfit.methods.clip_adapter import ClipAdapter, adapt
from shotfit.methods.taskres import TaskRes
from shotfit.methods.zero_shot import ZeroShot

from .cases import Case, assert_close, cases
from .recorded import RecordedFrozen, class_list, optimizer_of, schedule_of, train

FORWARD, BACKWARD, SEVERAL_ADAM_STEPS = 1e-5, 5e-5, 1e-3
ADAPTER = {"image_down": "adapter.fc.0.weight", "image_up": "adapter.fc.2.weight"}
RESIDUAL = {"residual": "text_feature_residuals"}


def _adapter(case: Case) -> ClipAdapter:
    settings = case.settings
    method = ClipAdapter(ratio=float(settings["ratio"]), reduction=settings["reduction"])
    _start(method, case, ADAPTER)
    return method


def _residual(case: Case) -> TaskRes:
    method = TaskRes(alpha=float(case.settings["alpha"]))
    _start(method, case, RESIDUAL)
    return method


def _start(method: Method, case: Case, official: Mapping[str, str]) -> None:
    frozen = RecordedFrozen(case)
    method.attach(frozen, [class_list(case)])
    method.build(frozen, method.classes)
    with torch.no_grad():
        for name, recorded in official.items():
            method.get_parameter(name).copy_(case[f"param/{recorded}"])


@pytest.mark.parametrize("case", cases("clip_adapter"))
def test_adapted_features_equal_the_official_ones(case: Case) -> None:
    method, images = _adapter(case), Images.of(case["in/images"])
    features = method.frozen.image(images)
    assert_close(features, case["out/image/features"], FORWARD)
    assert_close(method.text_features(), case["out/text/features"], FORWARD)
    assert_close(adapt(features, method.image_down, method.image_up), case["out/adapter"], FORWARD)
    assert_close(method.logits(images), case["out/logits"], FORWARD)


@pytest.mark.parametrize("case", cases("taskres"))
def test_shifted_features_equal_the_official_ones(case: Case) -> None:
    method, images = _residual(case), Images.of(case["in/images"])
    assert_close(method.frozen.image(images), case["out/image/features"], FORWARD)
    assert_close(method.base, case["out/base_text_features"], FORWARD)
    assert_close(method.text_features(), case["out/text/features"], FORWARD)
    assert_close(method.logits(images), case["out/logits"], FORWARD)


@pytest.mark.parametrize("case", cases("taskres"))
def test_zero_shot_averages_raw_features_if_asked(case: Case) -> None:
    method = ZeroShot(ensemble="raw")
    method.attach(RecordedFrozen(case), [class_list(case)])
    assert_close(method.text_features(), case["out/base_text_features"], FORWARD)


@pytest.mark.parametrize("case", cases("clip_adapter"))
def test_adapter_training_equals_the_official_one(case: Case) -> None:
    _compare_training(_adapter(case), case, ADAPTER)


@pytest.mark.parametrize("case", cases("taskres"))
def test_residual_training_equals_the_official_one(case: Case) -> None:
    _compare_training(_residual(case), case, RESIDUAL)


def _compare_training(method: Method, case: Case, official: Mapping[str, str]) -> None:
    settings = case.settings
    images, labels = Images.of(case["in/images"]), case["in/labels"]
    schedule, period = schedule_of(settings)
    optimizer, last = optimizer_of(settings), settings["steps"]
    batches = [(images, labels)] * last
    steps = train(method, optimizer, schedule, period, settings["batches_per_epoch"], batches)
    several = SEVERAL_ADAM_STEPS if optimizer.name.startswith("adam") else BACKWARD

    assert_close(torch.tensor([step.lr for step in steps]), case["out/lr"], 1e-6, "learning rates")
    for name, recorded in official.items():
        assert_close(steps[0].gradients[name], case[f"grad/{recorded}"], BACKWARD, f"gradient of {name}")
        assert_close(steps[0].parameters[name], case[f"step/1/{recorded}"], BACKWARD, f"{name} after step 1")
        assert_close(
            steps[-1].parameters[name], case[f"step/{last}/{recorded}"], several, f"{name} after the last step"
        )
    _compare_losses([step.loss for step in steps], case)
    assert_close(method.logits(images), case["out/logits_after"], several, "logits after the steps")


def _compare_losses(losses: list[Tensor], case: Case) -> None:
    for number, loss in enumerate(losses, start=1):
        if f"step/{number}/loss" in case:
            assert_close(loss, case[f"step/{number}/loss"], BACKWARD, f"loss of step {number}")
