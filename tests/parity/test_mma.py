"""MMA equals the official program: features, streams, logits, gradients, training, new classes."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.mma import MMA
from shotfit.methods.recipe import Schedule
from shotfit.towers.layout import Savings
from shotfit.towers.transformer import VisionTransformer

from .backbones import build
from .cases import Case, assert_close, cases
from .recorded import Step, assert_features, assert_losses, need_clip_vocabulary, optimizer_of, token_texts, train

FORWARD, BACKWARD = 1e-5, 5e-5
TOWERS = {None: "both", "no-shared": "both", "text-only": "text", "vision-only": "image"}


def _start(case: Case, savings: Savings = Savings()) -> MMA:
    need_clip_vocabulary()
    settings = case.settings
    method = MMA(
        start=settings["adapter_start"],
        end=settings["adapter_end"],
        dim=settings["adapter_dim"],
        scale=float(settings["adapter_scale"]),
        towers=TOWERS[settings["ablation"]],
        shared=settings["ablation"] != "no-shared",
        gradient_rule=settings["gradient_rule"],
        pairing=settings["pairing"],
        prefix=settings["text_ctx_init"],
    )
    frozen = Frozen(build(case), savings=savings)
    method.attach(frozen, [ClassList(case.name, tuple(case.meta["class_names"]))])
    method.build(frozen, method.classes)
    official = {_name(method, name): value for name, value in case.under("param/").items()}
    assert official.keys() == dict(method.named_parameters()).keys()
    with torch.no_grad():
        for name, value in official.items():
            method.get_parameter(name).copy_(value)
    return method


def _name(method: MMA, official: str) -> str:
    """Our name: image adapters are named by their site, the official ones by their block."""
    kind, number, part, value = re.fullmatch(
        r"(text|visual|shared)_adapter\.(\d+)(\.down|\.up|)(?:\.0)?\.(\w+)", official
    ).groups()  # type: ignore[union-attr]
    site = int(number)
    if kind == "visual":
        site = next(site for site, block in method.sites("image").items() if block == int(number))
    tower = {"visual": "image"}.get(kind, kind)
    return f"{tower}_{site}{part.replace('.', '_')}_{value}"


def _train(method: MMA, case: Case) -> list[Step]:
    recorded = case.settings["optimizer"]
    assert recorded["schedule"] == "cosine" and recorded["schedule_unit"] == "epoch" and not recorded["eta_min"]
    schedule = Schedule("cosine", "epoch", recorded["warmup_epoch"], recorded.get("warmup_lr", 0.0))
    batches = [
        (Images.of(case["in/images"][first:last]), case["in/labels"][first:last])
        for first, last in case.settings["step_batches"]
    ]
    per_epoch = case.settings["batches_per_epoch"]
    return train(method, optimizer_of(case.settings), schedule, recorded["max_epoch"], per_epoch, batches)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("mma", lambda case: case.settings["parameters"].startswith("as initialised")))
def test_maps_start_as_wide_as_the_official_ones(case: Case) -> None:
    method = _start(case)
    torch.manual_seed(0)
    method.build(method.frozen, method.classes)
    for official, value in case.under("param/").items():
        ours = method.get_parameter(_name(method, official))
        if official.endswith("bias"):
            assert not value.any() and not ours.any()
        else:
            wide = math.sqrt(2 / len(value))
            for drawn in (ours, value):  # the mean square of n normal entries is within 6 deviations of its expectation
                assert abs(float(drawn.pow(2).mean()) / wide**2 - 1) < 6 * math.sqrt(2 / drawn.numel())


@pytest.mark.parametrize("case", cases("mma"))
def test_prompts_are_the_official_ones(case: Case) -> None:
    method = _start(case)
    assert method.encoded[0].rows == token_texts(case["in/tokens"]).rows


@pytest.mark.parametrize("savings", [Savings(), Savings.none()], ids=["savings", "none"])
@pytest.mark.parametrize("case", cases("mma"))
def test_features_logits_and_gradients_equal_the_official_ones(case: Case, savings: Savings) -> None:
    method, images = _start(case, savings), Images.of(case["in/images"])
    assert_features(method, case, FORWARD)
    loss = method.loss(images, case["in/labels"])
    assert_close(loss, case["out/loss"], FORWARD)
    torch.autograd.backward(loss)
    method.adjust_gradients()
    for name, value in case.under("grad/").items():
        gradient = method.get_parameter(_name(method, name)).grad
        assert gradient is not None
        assert_close(gradient, value, BACKWARD, name)


@pytest.mark.parametrize("case", cases("mma"))
def test_scale_zero_at_prediction_is_the_frozen_model(case: Case) -> None:
    method = _start(case)
    method.prediction_scale = 0.0
    assert_close(method.logits(Images.of(case["in/images"])), case["out/zero_shot_logits"], FORWARD)


@pytest.mark.parametrize("case", cases("mma"))
def test_training_equals_the_official_one(case: Case) -> None:
    method, last = _start(case), len(case.settings["step_batches"])
    recorded = case.settings["optimizer"]
    sharp = 5e-4 if recorded["lr"] <= 0.0015 else 2e-4  # a small change drowns in the rounding of the parameter
    steps = _train(method, case)
    assert_close(torch.tensor([step.lr for step in steps]), torch.tensor(recorded["lr_of_step"]), 1e-6)
    assert_losses(steps, case, BACKWARD, BACKWARD)
    for official, start in case.under("param/").items():
        ours, theirs = steps[-1].parameters[_name(method, official)], case[f"step/{last}/{official}"]
        assert_close(ours, theirs, BACKWARD, official)
        assert_close(ours - start, theirs - start, sharp, f"change of {official}")
    assert_close(method.logits(Images.of(case["in/images"])), case[f"out/logits_after_{last}_steps"], BACKWARD)


@pytest.mark.parametrize("case", cases("mma", lambda case: "out/new_logits" in case))
def test_new_classes_are_predicted_as_by_the_official_program(case: Case) -> None:
    method = _start(case)
    other = method.for_classes([ClassList("new", tuple(case.meta["new_class_names"]))])
    assert isinstance(other, MMA) and other.encoded[0].rows == token_texts(case["in/new_tokens"]).rows
    assert_close(normalize(other.class_features()), case["out/new_text_features"], FORWARD)
    assert_close(other.logits(Images.of(case["in/images"])), case["out/new_logits"], FORWARD)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("mma", lambda case: "out/text_block/1" in case))
def test_streams_after_every_block_equal_the_official_ones(case: Case) -> None:
    method, savings = _start(case), Savings.none()
    backbone, edits = method.frozen.backbone, method.edits(method.scale)
    text, image = ([edit for edit in edits if edit.tower == tower] for tower in ("text", "image"))
    assert isinstance(backbone.image, VisionTransformer)
    words = backbone.text.start(token_texts(case["in/tokens"]), text, savings)
    patches = backbone.image.start(case["in/images"], image, savings)
    for tower, stream, chosen, kind in (
        (backbone.text, words, text, "text_block"),
        (backbone.image, patches, image, "vision_block"),
    ):
        for step in range(1, tower.last):
            stream = tower.run(stream, chosen, until=step)
            recorded: Tensor = case[f"out/{kind}/{step}"]
            # `ready` adds what stands beside the block; the stream goes on from before it
            assert_close(tower.ready(stream, chosen).hidden.view_as(recorded), recorded, FORWARD, f"{kind} {step}")
