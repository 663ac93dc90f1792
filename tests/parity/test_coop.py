"""CoOp equals the official program: prompts, features, training, new classes, schedule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.methods.coop import CoOp
from shotfit.methods.recipe import Schedule

from .backbones import build
from .cases import Case, assert_close, cases
from .recorded import Step, assert_features, assert_losses, need_clip_vocabulary, optimizer_of, train

FORWARD, BACKWARD, CHANGE, LATER = 1e-5, 5e-5, 2e-4, 2e-4
FITS = cases("coop", lambda case: "param/ctx" in case)


def _start(case: Case, official: bool = True) -> CoOp:
    need_clip_vocabulary()
    settings = case.settings
    method = CoOp(
        length=settings["n_ctx"],
        class_specific=settings["csc"],
        words=settings["ctx_init"],
        position=settings["position"],
    )
    frozen = Frozen(build(case))
    method.attach(frozen, [ClassList(case.name, tuple(case.meta["class_names"]))])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        method.build(frozen, method.classes)
    if official:
        method.context.data.copy_(case["param/ctx"])
    return method


def _train(method: CoOp, case: Case) -> list[Step]:
    recorded = case.settings["optimizer"]
    schedule = Schedule(
        recorded["schedule"], "epoch", recorded["warmup_epoch"], recorded["warmup_lr"], warming=recorded["warmup"]
    )
    batches = [(Images.of(case["in/images"]), case["in/labels"])] * case.settings["steps"]
    per_epoch = recorded["batches_per_epoch"]
    return train(method, optimizer_of(case.settings), schedule, recorded["max_epoch"], per_epoch, batches)


@pytest.mark.parametrize("case", FITS)
def test_context_starts_as_the_official_one(case: Case) -> None:
    method = _start(case, official=False)
    assert method.context.shape == case["param/ctx"].shape
    if case.settings["params"] == "as initialised":
        assert_close(method.context, case["param/ctx"], 1e-6)


@pytest.mark.parametrize("case", FITS)
def test_prompts_are_the_official_ones(case: Case) -> None:
    method = _start(case)
    vocabulary, length = method.frozen.backbone.config.text.vocabulary, method.context.shape[-2]
    for row, tokens in zip(method.texts.rows, case["in/tokens"].tolist(), strict=True):
        fixed = [token for token in row if token < vocabulary]
        assert len(row) == len(fixed) + length
        assert fixed == (tokens[:1] + tokens[1 + length :])[: len(fixed)]
        assert not any(tokens[len(row) :])
    if "out/prompts" in case:
        assert_close(_embedded(method), case["out/prompts"], 0.0)


def _embedded(method: CoOp) -> Tensor:
    """Prompt embeddings [classes, context, width] of the rows, as the official program assembles them."""
    config = method.frozen.backbone.config.text
    rows = [[*row, *[config.padding] * (config.context - len(row))] for row in method.texts.rows]
    table = torch.cat([method.frozen.backbone.text.token_embedding.weight, method.context.flatten(0, -2)])
    return table[torch.tensor(rows)]


@pytest.mark.parametrize("case", FITS)
def test_features_and_gradients_equal_the_official_ones(case: Case) -> None:
    method, images = _start(case), Images.of(case["in/images"])
    assert_features(method, case, FORWARD)
    loss = method.loss(images, case["in/labels"])
    assert_close(loss, case["out/loss"], FORWARD)
    (gradient,) = torch.autograd.grad(loss, [method.context])
    assert_close(gradient, case["grad/ctx"], BACKWARD)


@pytest.mark.parametrize("case", FITS)
def test_training_equals_the_official_one(case: Case) -> None:
    method, last = _start(case), case.settings["steps"]
    steps = _train(method, case)
    assert_close(torch.tensor([step.lr for step in steps]), case["step/lr"].float(), 1e-6)
    assert_losses(steps, case, FORWARD, LATER)
    for number in (1, last):
        assert_close(steps[number - 1].parameters["context"], case[f"step/{number}/ctx"], BACKWARD)
    change, official = steps[-1].parameters["context"] - case["param/ctx"], case[f"step/{last}/ctx"] - case["param/ctx"]
    assert_close(change, official, CHANGE)
    assert_close(method.logits(Images.of(case["in/images"])), case["out/logits_after"], LATER)


@pytest.mark.parametrize("case", cases("coop", lambda case: "in/new_tokens" in case))
def test_new_classes_are_predicted_as_by_the_official_program(case: Case) -> None:
    method = _start(case)
    _train(method, case)
    other = method.for_classes([ClassList("new", tuple(case.meta["new_class_names"]))])
    assert_close(other.class_features(), case["out/new_text_features_raw"], LATER)
    assert_close(other.logits(Images.of(case["in/images"])), case["out/new_logits"], LATER)


@pytest.mark.parametrize("case", cases("coop", lambda case: case.meta["variant"] == "schedule"))
def test_learning_rates_of_all_epochs_equal_the_official_ones(case: Case) -> None:
    settings = case.settings
    schedule = Schedule(
        settings["schedule"], "epoch", settings["warmup_epoch"], settings["warmup_lr"], warming=settings["warmup"]
    )
    for epochs, official in case.under("out/lr/epochs").items():
        rates = [schedule.rate(settings["lr"], epoch, int(epochs)) for epoch in range(len(official))]
        assert_close(torch.tensor(rates, dtype=torch.float64), official, 1e-6)
