"""LP++ equals the official program: start, rates, training, the epoch that is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shotfit.engine.frozen import Images, normalize
from shotfit.fitting.train import train as train_by_epochs
from shotfit.methods.base import Support
from shotfit.methods.lp_plus_plus import LPPlusPlus

from .cases import Case, assert_close, cases
from .recorded import ClassifierFrozen, FeaturePool, assert_counts, class_list, judged_by, optimizer_of, train

FORWARD, BACKWARD = 1e-5, 5e-5


def _start(case: Case) -> tuple[LPPlusPlus, Support]:
    settings = case.settings
    method = LPPlusPlus(alpha_factor=float(settings["alpha_factor"]), alpha_interval=settings["alpha_interval"])
    pool = FeaturePool(case["in/train/features"], case["in/train/labels"])
    support = Support(pool, pool, settings["shots"] or 1)
    method.attach(ClassifierFrozen(case), [class_list(case)])
    method.prepare(support)
    method.build(method.frozen, method.classes)
    method.bias.data.copy_(case["param/bias"])
    return method, support


@pytest.mark.parametrize("case", cases("lp_plus_plus"))
def test_start_and_rates_are_the_official_ones(case: Case) -> None:
    method, support = _start(case)
    assert_close(method.weight, case["param/weight"], FORWARD, "W")
    assert_close(method.alpha, case["param/alpha"][0], FORWARD, "alpha")
    assert_close(torch.tensor(method.rate), case["out/lr_w"], FORWARD, "rate of W")
    assert_close(torch.tensor(method.alpha_rate), case["out/lr_alpha"], FORWARD, "rate of alpha")
    assert_close(method.logits(support.random.all()), case["out/train/logits_step0"], FORWARD, "logits")


@pytest.mark.parametrize("case", cases("lp_plus_plus"))
def test_training_equals_the_official_one(case: Case) -> None:
    method, support = _start(case)
    epochs, recipe = case.settings["epochs"], method.recipe
    assert recipe is not None
    optimizer = replace(optimizer_of(case.settings), lr=recipe.optimizer.lr)
    assert optimizer == recipe.optimizer
    batches = [(support.random.all(), support.labels)] * epochs
    steps, right = [], []
    held = Images.of(case["in/val/features"])
    stepped = train(method, optimizer, recipe.schedule, epochs, 1, batches)
    for step in stepped:
        steps.append(step.loss)
        method.load_state_dict(step.parameters)
        right.append(int((method.logits(held).argmax(dim=1) == case["in/val/labels"]).sum()))
    assert_close(torch.stack(steps), case["out/train/loss"], BACKWARD, "losses")
    for name in ("weight", "bias"):
        assert_close(stepped[0].gradients[name], case[f"grad/{name}"], BACKWARD, f"gradient of {name}")
        assert_close(stepped[-1].parameters[name], case[f"step/{epochs}/{name}"], BACKWARD, name)
    assert_close(stepped[0].parameters["weight"], case["step/1/weight"], BACKWARD, "W after step 1")
    assert_close(stepped[-1].parameters["alpha"], case[f"step/{epochs}/alpha"][0], BACKWARD, "alpha")
    assert_counts(torch.tensor(right), case["out/val_accuracy"], len(case["in/val/labels"]), share=0.1)


@pytest.mark.parametrize("case", cases("lp_plus_plus"))
def test_last_of_the_best_epochs_is_kept(case: Case) -> None:
    method, support = _start(case)
    assert method.recipe is not None
    labels = case["in/val/labels"]
    judged = judged_by(Images.of(case["in/val/features"]), labels, len(support.labels))
    epochs = case.settings["epochs"]
    train_by_epochs(method, support, method.recipe, epochs, torch.Generator().manual_seed(1), judged, trainings=0)
    test = Images.of(normalize(case["in/test/features"]))
    right = (method.logits(test).argmax(dim=1) == case["in/test/labels"]).float().mean() * 100
    assert abs(float(right - case["out/test_accuracy"])) < 101 / len(case["in/test/labels"])
