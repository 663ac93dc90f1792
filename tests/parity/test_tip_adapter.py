"""Tip-Adapter and Tip-Adapter-F equal the official program: cache, search, training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from shotfit.engine.frozen import Images, normalize
from shotfit.methods.base import Support
from shotfit.methods.tip_adapter import TipAdapter, TipAdapterF
from shotfit.methods.zero_shot import ZeroShot

from .cases import Case, assert_close, cases
from .recorded import PixelPool, RecordedFrozen, class_list, judged_by, optimizer_of, schedule_of, train

FORWARD, BACKWARD = 1e-5, 5e-5
TRAINED = cases("tip_adapter", lambda case: case.settings["optimizer"] is not None)


def _start(kind: type[TipAdapter], case: Case) -> tuple[TipAdapter, Support]:
    settings = case.settings
    (beta_scale, alpha_scale), (beta_steps, alpha_steps) = settings["search_scale"], settings["search_step"]
    method = kind(
        alpha=float(settings["init_alpha"]),
        beta=float(settings["init_beta"]),
        alpha_scale=float(alpha_scale),
        beta_scale=float(beta_scale),
        alpha_steps=alpha_steps,
        beta_steps=beta_steps,
        cache_views=settings["augment_epoch"],
        temperature=float(settings["logit_scale"]),
    )
    pool = PixelPool(case["in/images/train"], case["in/labels/train"])
    support = Support(pool, pool, settings["shots"] or 1)
    frozen = RecordedFrozen(case)
    method.attach(frozen, [class_list(case)])
    method.prepare(support)
    method.build(frozen, method.classes)
    return method, support


def _search(method: TipAdapter, support: Support, case: Case, recorded: str) -> None:
    """Search on the validation set, compare with the recorded course, and go on with the recorded pair."""
    held, labels = Images.of(case["in/val/features"]), case["in/labels/val"]
    method.solve(support, judged_by(held, labels, len(support.labels)))
    found = method.get_buffer("beta_alpha")
    accuracy, one = case[f"{recorded}/accuracy"], 100 / len(labels)
    difference = (method.correct * one - accuracy).abs()
    assert float(difference.max()) < 1.01 * one
    assert float((difference > 0.5 * one).float().mean()) <= 0.01
    if float(difference.max()) < 0.5 * one and float(accuracy.max()) > 0:
        assert_close(found, case[f"{recorded}/best"], 1e-6)
    found.copy_(case[f"{recorded}/best"])


@pytest.mark.parametrize("case", cases("tip_adapter"))
def test_cache_and_classifier_equal_the_official_ones(case: Case) -> None:
    method, _ = _start(TipAdapter, case)
    assert_close(method.keys().T, case["out/cache_keys"], FORWARD)
    assert_close(method.get_buffer("cache_values"), case["out/cache_values"], 0.0)
    assert_close(method.text_features().T, case["out/clip_weights"], FORWARD)


@pytest.mark.parametrize("case", cases("tip_adapter"))
def test_zero_shot_with_templates_equals_the_official_classifier(case: Case) -> None:
    method = ZeroShot()
    method.attach(RecordedFrozen(case), [class_list(case)])
    assert_close(method.text_features().T, case["out/clip_weights"], FORWARD)
    factor = case.settings["logit_scale"] / float(method.frozen.temperature)
    logits = method.logits(Images.of(case["in/test/features"])) * factor
    assert_close(logits, case["out/test/zero_shot_logits"], FORWARD)


@pytest.mark.parametrize("case", cases("tip_adapter"))
def test_image_features_equal_the_official_ones(case: Case) -> None:
    method, support = _start(TipAdapter, case)
    passes = case.settings["augment_epoch"]
    pool = support.center.in_views(passes)
    features = [method.frozen.image(pool.take(torch.arange(len(support.labels)), view)) for view in range(passes)]
    assert_close(torch.stack(features), case["in/train/features"], FORWARD)
    if "in/images/val" in case:
        features_of_every_third = method.frozen.image(Images.of(case["in/images/val"]))
        assert_close(normalize(features_of_every_third), case["in/val/features"][::3], FORWARD)


@pytest.mark.parametrize("case", cases("tip_adapter"))
def test_search_and_logits_equal_the_official_ones(case: Case) -> None:
    method, support = _start(TipAdapter, case)
    for part in ("val", "test"):
        features = normalize(case[f"in/{part}/features"])
        assert_close(method.text_logits(features), case[f"out/{part}/zero_shot_logits"], FORWARD)
    assert_close(method.logits(Images.of(case["in/val/features"])), case["out/val/tip_logits_init"], FORWARD)
    _search(method, support, case, "out/search")
    assert_close(method.logits(Images.of(case["in/test/features"])), case["out/test/tip_logits_best"], FORWARD)


@pytest.mark.parametrize("case", TRAINED)
def test_training_of_the_keys_equals_the_official_one(case: Case) -> None:
    settings = case.settings
    method, support = _start(TipAdapterF, case)
    keys, per_epoch = method.keys(), settings["batches_per_epoch"]
    assert_close(keys, case["param/adapter.weight"], FORWARD)
    keys.data.copy_(case["param/adapter.weight"])
    views, labels = support.center.in_views(settings["augment_epoch"]), case["in/labels/train"]
    batches = [(views.take(batch, 0), labels[batch]) for batch in case["in/batches"].flatten(0, 1)]
    assert_close(method.logits(batches[0][0]), case["out/train/logits_step0"], FORWARD)

    schedule, period = schedule_of(settings)
    steps = train(method, optimizer_of(settings), schedule, period, per_epoch, batches)

    assert_close(torch.tensor([step.lr for step in steps]), case["out/train/lr"], 1e-6)
    losses = torch.stack([step.loss for step in steps])
    assert_close(losses, case["out/train/loss"], BACKWARD)
    for number in range(1, len(steps) + 1):
        assert_close(losses[number - 1], case[f"step/{number}/loss"], BACKWARD)
    assert_close(steps[0].gradients["cache_keys"], case["grad/adapter.weight"], BACKWARD)
    for number in (1, len(steps)):
        after = steps[number - 1].parameters["cache_keys"]
        assert_close(after, case[f"step/{number}/adapter.weight"], BACKWARD)

    epochs = [steps[end - 1].parameters["cache_keys"] for end in range(per_epoch, len(steps) + 1, per_epoch)]
    for name, after in (("first", epochs[0]), ("last", epochs[-1])):
        assert_close(_test_logits(method, case, after), case[f"out/f/test_logits_{name}_epoch"], BACKWARD)
    right = [(_test_logits(method, case, after).argmax(1) == case["in/labels/test"]).float() for after in epochs]
    one = 100 / len(case["in/labels/test"])
    assert float((torch.stack(right).mean(1) * 100 - case["out/f/test_accuracy_by_epoch"]).abs().max()) < 1.01 * one

    keys.data.copy_(epochs[settings["accuracies"]["f_best_epoch"]])
    _search(method, support, case, "out/f/search")
    assert_close(method.logits(Images.of(case["in/test/features"])), case["out/f/test_logits_best"], BACKWARD)


@pytest.mark.parametrize("case", TRAINED)
def test_trained_keys_are_not_searched_by_cross_validation(case: Case) -> None:
    method, support = _start(TipAdapterF, case)
    part = judged_by(Images.of(case["in/val/features"]), case["in/labels/val"], len(support.labels))
    method.solve(support, replace(part, source="cross-validation"))
    defaults = [float(case.settings["init_beta"]), float(case.settings["init_alpha"])]
    assert torch.equal(method.get_buffer("beta_alpha"), torch.tensor(defaults))


@torch.no_grad()
def _test_logits(method: TipAdapter, case: Case, keys: Tensor) -> Tensor:
    method.keys().data.copy_(keys)
    return method.logits(Images.of(case["in/test/features"]))
