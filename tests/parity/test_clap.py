"""ZS-LP and CLAP equal the official program: start, multipliers, losses, gradients, steps."""

from __future__ import annotations

import pytest
import torch

from shotfit.engine.frozen import Images
from shotfit.methods.base import Support
from shotfit.methods.clap import CLAP, ZSLP

from .cases import Case, assert_close, cases
from .recorded import FeaturePool, RecordedFrozen, assert_losses, class_list, optimizer_of, schedule_of, train

FORWARD, BACKWARD = 1e-5, 5e-5
HELD = cases("clap", lambda case: case.settings["constraint"] != "none")


def _start(case: Case) -> ZSLP:
    """The method of the case, before the recorded start of the prototypes."""
    distance, _, mode = case.settings["constraint"].partition("-")
    method = ZSLP() if distance == "none" else CLAP(distance=distance, mode=mode or "class")
    frozen = RecordedFrozen(case)
    pool = FeaturePool(frozen.image(Images.of(case["in/images"])), case["in/labels"])
    method.attach(frozen, [class_list(case)])
    method.prepare(Support(pool, pool, case.settings["shots"] or 1))
    method.build(frozen, method.classes)
    return method


@pytest.mark.parametrize("case", cases("clap"))
def test_start_is_the_official_one(case: Case) -> None:
    method, images = _start(case), Images.of(case["in/images"])
    assert_close(method.prototypes, case["out/base_text_features"], FORWARD, "prototypes")
    assert_close(method.frozen.image(images), case["out/image/features"], FORWARD, "image features")
    assert_close(method.logits(images), case["out/logits"], FORWARD, "logits")


@pytest.mark.parametrize("case", HELD)
def test_multipliers_are_the_official_ones(case: Case) -> None:
    method = _start(case)
    assert isinstance(method, CLAP)
    assert_close(method.multipliers, case["out/multipliers"], FORWARD)


@pytest.mark.parametrize("case", cases("clap"))
def test_training_equals_the_official_one(case: Case) -> None:
    method, settings = _start(case), case.settings
    method.prototypes.data.copy_(case["param/prototypes"])
    images, labels = Images.of(case["in/images"]), case["in/labels"]
    (schedule, period), course = schedule_of(settings), []
    batches = [(images, labels)] * settings["steps"]

    steps = train(method, optimizer_of(settings), schedule, period, settings["batches_per_epoch"], batches)

    assert_close(torch.tensor([step.lr for step in steps]), case["out/lr"], 1e-6, "learning rates")
    assert_losses(steps, case, BACKWARD, BACKWARD)
    assert_close(steps[0].gradients["prototypes"], case["grad/prototypes"], BACKWARD, "gradient")
    for number in (1, len(steps)):
        after = steps[number - 1].parameters["prototypes"]
        assert_close(after, case[f"step/{number}/prototypes"], BACKWARD, f"prototypes after step {number}")
    assert_close(method.logits(images), case["out/logits_after"], BACKWARD, "logits after the steps")
    if "out/multipliers_by_epoch" in case:
        assert isinstance(method, CLAP)
        again = _start(case)
        assert isinstance(again, CLAP)
        for step in steps:
            again.prototypes.data.copy_(step.parameters["prototypes"])
            again.end_epoch()
            course.append(again.multipliers.clone())
        assert_close(torch.stack(course), case["out/multipliers_by_epoch"], BACKWARD, "multipliers")
