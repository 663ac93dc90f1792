"""ProLIP, its text variant and the linear adapter equal the official programs: steps, search, new classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Images, normalize
from shotfit.methods.base import Support
from shotfit.methods.class_features import last_matrix
from shotfit.methods.prolip import ProLIP
from shotfit.methods.recipe import Optimizer
from shotfit.methods.zero_shot import ZeroShot
from shotfit.towers.edits import Unprojected
from shotfit.towers.texts import Texts

from .cases import Case, assert_close, cases
from .recorded import (
    FeaturePool,
    RecordedFrozen,
    Step,
    assert_losses,
    class_list,
    optimizer_of,
    schedule_of,
    token_texts,
    train,
)

FORWARD, BACKWARD, STEPPED, MOVED, LOGITS = 1e-5, 5e-5, 1e-3, 5e-2, 1e-4
SIDES = {"prolip": "image", "text": "text", "rla": "features"}
NAMES = ("visual.proj", "visual.attnpool.c_proj.weight", "text_projection", "linear2.weight")
STORED = ("visual.proj", "text_projection")  # [width, embed], the other way around than here
ALL = cases("prolip")


class NewFrozen(RecordedFrozen):
    """The case's backbone, where prompts of new classes are the recorded ones too."""

    def class_texts(self, classes: list[ClassList]) -> tuple[Texts, int]:  # type: ignore[override]
        new = classes[0].names == tuple(self.case.meta.get("new_class_names", ()))
        tokens = self.case["in/new_tokens" if new else "in/tokens"]
        return token_texts(tokens), tokens.shape[1]


def _name(case: Case) -> str:
    return next(name for name in NAMES if f"param/{name}" in case)


def _ours(case: Case, recorded: Tensor) -> Tensor:
    return recorded.T if _name(case) in STORED else recorded


def _start(case: Case, penalty: float) -> tuple[ProLIP, FeaturePool]:
    """The method of the case, and its views as it reads them."""
    settings = case.settings
    side = SIDES[settings["kind"]]
    method = ProLIP(side=side, penalty=penalty, per="nothing", temperature=float(settings["logit_scale"]))
    frozen = NewFrozen(case)
    method.attach(frozen, [class_list(case)])
    views = case["in/views"]
    if side != "image":
        projection = last_matrix(frozen.backbone.image)
        assert projection is not None
        with torch.no_grad():
            views = projection(views)
    pool = FeaturePool(views, case["in/labels"])
    method.check()
    method.prepare(Support(pool, pool, settings["shots"] or 1))
    method.build(frozen, method.classes)
    return method, pool


def _train(method: ProLIP, pool: FeaturePool, case: Case, optimizer: Optimizer) -> list[Step]:
    schedule, period = schedule_of(case.settings)
    items, order = torch.arange(len(pool.labels)), case.settings["view_order"]
    batches = [(pool.take(items, view), pool.labels) for view in order]
    return train(method, optimizer, schedule, period, case.settings["batches_per_epoch"], batches)


def _loaded(case: Case) -> dict[str, Any]:
    return {"penalty": float(case.settings["lambda"])}


@pytest.mark.parametrize("case", ALL)
def test_start_is_zero_shot_and_pooled_features_are_the_official_ones(case: Case) -> None:
    method, _ = _start(case, **_loaded(case))
    assert_close(method.weight, _ours(case, case[f"param/{_name(case)}"]), FORWARD, "projection")
    test = Images.of(case["in/test/images"])
    logits = method.logits(test)
    if method.side == "text":  # raw templates are averaged, but the recorded classifier is of normalized ones
        logits = method.temperature * normalize(method.frozen.image(test)) @ case["in/clip_weights"]
    assert_close(logits, case["out/zero_shot_logits"], FORWARD, "zero-shot logits")
    tower, zero_shot = [Unprojected("image", method.frozen.backbone.image.last - 1)], ZeroShot()
    assert_close(method.frozen.image(test, tower), case["out/test/pooled"], FORWARD, "pooled")
    if "in/images" in case:
        assert_close(method.frozen.image(Images.of(case["in/images"]), tower), case["out/image/pooled"], FORWARD)
    zero_shot.attach(method.frozen, method.classes)
    assert_close(zero_shot.text_features().T, case["in/clip_weights"], FORWARD, "classifier")
    if method.side == "text":
        assert_close(method.base, case["in/text/before"].mean(dim=0), FORWARD, "texts")


@pytest.mark.parametrize("case", ALL)
def test_training_equals_the_official_one(case: Case) -> None:
    method, pool = _start(case, **_loaded(case))
    name, start = _name(case), method.weight.detach().clone()
    steps = _train(method, pool, case, optimizer_of(case.settings))

    assert_close(torch.tensor([step.lr for step in steps]), torch.tensor(case.settings["learning_rates"]), 1e-6)
    assert_close(steps[0].gradients["weight"], _ours(case, case[f"grad/{name}"]), BACKWARD, "gradient")
    assert_losses(steps, case, BACKWARD, BACKWARD)
    for number in (1, len(steps)):
        found, recorded = steps[number - 1].parameters["weight"], _ours(case, case[f"step/{number}/{name}"])
        assert_close(found, recorded, STEPPED, f"step {number}")
        assert_close(found - start, recorded - start, MOVED, f"what step {number} moved")
    test = Images.of(case["in/test/images"])
    assert_close(method.logits(test), case["out/test/logits"], LOGITS, "logits")
    if "out/text/weights" in case:
        assert_close(normalize(method.text_features()), case["out/text/weights"], LOGITS, "texts after the last step")
    if "out/test/new_logits" in case:
        new = ClassList(case.name, tuple(case.meta["new_class_names"]))
        other = ProLIP(**method.options())
        other.attach(method.frozen, [new])
        other.rebuild(method)
        assert_close(other.logits(test), case["out/test/new_logits"], LOGITS, "new classes")


@pytest.mark.parametrize("case", cases("prolip", lambda case: case.settings["search"], partly=True))
def test_search_of_rate_and_penalty_equals_the_official_one(case: Case) -> None:
    settings, held, right = case.settings, Images.of(case["in/val/images"]), []
    method, pool = _start(case, **_loaded(case))
    for rate in settings["search_learning_rates"]:
        for method.penalty in map(float, settings["search_lambdas"]):
            method.weight.data.copy_(method.start)
            optimizer = optimizer_of(settings | {"optimizer": settings["optimizer"] | {"lr": rate}})
            _train(method, pool, case, optimizer)
            predicted = method.logits(held).argmax(dim=1)
            right.append(float((predicted == case["in/val/labels"]).float().mean()) * 100)
    accuracy = torch.tensor(right).reshape(len(settings["search_learning_rates"]), -1)
    assert_close(accuracy, case["out/val_accuracy"], 1e-6)
    row, column = divmod(right.index(max(right)), accuracy.shape[1])
    chosen = settings["search_learning_rates"][row], settings["search_lambdas"][column]
    assert chosen == (settings["optimizer"]["lr"], settings["lambda"])


@pytest.mark.parametrize("case", cases("prolip", lambda case: bool(case.settings["lambda_rule"]), partly=True))
def test_penalty_falls_with_the_shots_as_published(case: Case) -> None:
    method, pool = _start(case, 1.0)
    method.per = {"1/N": "shot", "1/N2": "shot-squared"}[case.settings["lambda_rule"]]
    method.prepare(Support(pool, pool, case.settings["shots"]))
    assert method.penalty / method.divisor == pytest.approx(case.settings["lambda"])
