"""MMRL and MMRL++ equal the official program: streams, features, both heads, gradients, training, new classes."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.mmrl import MMRL
from shotfit.towers.layout import Savings
from shotfit.towers.transformer import VisionTransformer

from .backbones import build
from .cases import Case, assert_close, cases
from .recorded import assert_losses, need_clip_vocabulary, optimizer_of, schedule_of, token_texts, train

FORWARD, BACKWARD, LATER, CHANGE = 2e-5, 1e-4, 5e-5, 5e-3
HEADS = {"": "class", "_rep": "representation", "_fusion": "fused"}


def _start(case: Case, savings: Savings = Savings()) -> MMRL:
    need_clip_vocabulary()
    settings = case.settings
    method = MMRL(
        plus=bool(settings.get("plus_plus")),
        blocks=",".join(map(str, settings["rep_layers"])),
        tokens=settings["n_rep_tokens"],
        dim=settings["rep_dim"],
        alpha=float(settings["alpha"]),
        regularization=float(settings["reg_weight"]),
        temperature=float(settings["logit_scale"]),
        beta=float(settings.get("beta", 1.0)),
        rank=settings.get("res_rank", 4),
        projection_rank=settings.get("proj_rank", 64),
        pairing="index",
    )
    frozen = Frozen(build(case), savings=savings)
    method.attach(frozen, [ClassList(case.name, tuple(case.meta["class_names"]), tuple(case.meta["templates"]))])
    method.check()
    method.build(frozen, method.classes)
    official = _ours(case, case.under("param/"))
    assert official.keys() == dict(method.named_parameters()).keys()
    with torch.no_grad():
        for name, value in official.items():
            method.get_parameter(name).copy_(value)
    return method


def _ours(case: Case, official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Recorded tensors by our names, without maps of blocks that a tower does not have."""
    unused = set(case.settings.get("unused_parameters", []))
    return {_name(case, name): value for name, value in official.items() if name not in unused}


def _name(case: Case, official: str) -> str:
    fixed = {
        "representation_learner.compound_rep_tokens": "shared",
        "image_encoder.proj_rep": "projection",
        "image_encoder.A": "projection_left",
        "image_encoder.B": "projection_right",
    }
    if official in fixed:
        return fixed[official]
    found = re.fullmatch(r"representation_learner\.\w+_r2([vt])proj\.(?:srra\.)?(?:(\d+)\.)?(\w+)", official)
    assert found is not None
    tower, kind = {"v": "image", "t": "text"}[found[1]], {"A": "left", "B": "right"}.get(found[3], found[3])
    return f"{tower}_{kind}" if found[2] is None else f"{tower}_{case.settings['rep_layers'][int(found[2])]}_{kind}"


def _assert_heads(method: MMRL, case: Case, prefix: str, tolerance: float) -> None:
    """The logits of each head and of both equal the recorded ones."""
    for ending, prediction in HEADS.items():
        method.prediction = prediction
        method.get_buffer("class_share").fill_(method._share())
        logits = method.logits(Images.of(case["in/images"]))
        assert_close(logits, case[f"{prefix}logits{ending}"], tolerance, f"{prefix}logits{ending}")


@pytest.mark.parametrize("savings", [Savings(), Savings.none()], ids=["savings", "none"])
@pytest.mark.parametrize("case", cases("mmrl"))
def test_features_logits_and_gradients_equal_the_official_ones(case: Case, savings: Savings) -> None:
    method, images = _start(case, savings), Images.of(case["in/images"])
    text, (own, tokens) = method.text_features(), method.readings(images)
    assert method.texts.rows == token_texts(case["in/tokens"]).rows
    for features, name in ((text, "text_features"), (own, "image_features"), (tokens, "image_features_rep")):
        assert_close(normalize(features), case[f"out/{name}"], FORWARD, name)
    loss = method.loss(images, case["in/labels"])
    assert_close(loss, case["out/loss"], FORWARD, "loss")
    frozen = method.frozen.image(images)
    assert_close(normalize(method.frozen_text), case["out/text_features_clip"], FORWARD, "frozen text")
    assert_close(normalize(frozen), case["out/image_features_clip"], FORWARD, "frozen image")
    torch.autograd.backward(loss)
    for name, value in _ours(case, case.under("grad/")).items():
        gradient = method.get_parameter(name).grad
        assert gradient is not None
        assert_close(gradient, value, BACKWARD, name)
    with torch.no_grad():
        _assert_heads(method, case, "out/", FORWARD)


@pytest.mark.parametrize("case", cases("mmrl"))
def test_training_equals_the_official_one(case: Case) -> None:
    method, rows = _start(case), case.settings["step_batches"]
    schedule, period = schedule_of(case.settings)
    batches = [(Images.of(case["in/images"][first:last]), case["in/labels"][first:last]) for first, last in rows]
    each = case.settings["batches_per_epoch"]
    steps = train(method, optimizer_of(case.settings), schedule, period, each, batches)
    assert_close(torch.tensor([step.lr for step in steps]), torch.tensor(case.settings["learning_rates"]), 1e-6)
    assert_losses(steps, case, LATER, LATER)
    after = {name: value for name, value in case.under(f"step/{len(rows)}/").items() if name != "loss"}
    trained = _ours(case, after)
    for name, start in _ours(case, case.under("param/")).items():
        ours, theirs = steps[-1].parameters[name], trained[name]
        assert_close(ours, theirs, BACKWARD, name)
        assert_close(ours - start, theirs - start, CHANGE, f"change of {name}")
    with torch.no_grad():
        _assert_heads(method, case, "out/after/", LATER)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("mmrl", lambda case: "out/new_logits" in case))
def test_new_classes_are_predicted_as_by_the_official_program(case: Case) -> None:
    templates = tuple(case.meta["templates"])
    other = _start(case).for_classes([ClassList("new", tuple(case.meta["new_class_names"]), templates)])
    assert isinstance(other, MMRL) and other.texts.rows == token_texts(case["in/new_tokens"]).rows
    assert_close(normalize(other.class_features()), case["out/new_text_features"], FORWARD)
    assert_close(other.logits(Images.of(case["in/images"])), case["out/new_logits"], FORWARD)
    _assert_heads(other, case, "out/new_", FORWARD)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("mmrl", lambda case: "out/text_block/1" in case))
def test_streams_after_every_block_equal_the_official_ones(case: Case) -> None:
    method, savings, count = _start(case), Savings.none(), case.settings["n_rep_tokens"]
    backbone = method.frozen.backbone
    text, image = ([edit for edit in method.edits() if edit.tower == tower] for tower in ("text", "image"))
    assert isinstance(backbone.image, VisionTransformer)
    words = backbone.text.start(token_texts(case["in/tokens"]), text, savings)
    patches = backbone.image.start(case["in/images"], image, savings)
    for step in range(1, backbone.text.last):
        words = backbone.text.run(words, text, until=step)
        recorded: Tensor = case[f"out/text_block/{step}"]
        assert_close(words.hidden.view_as(recorded), recorded, FORWARD, f"text {step}")
    for step in range(1, backbone.image.last):
        patches = backbone.image.run(patches, image, until=step)
        recorded = case[f"out/vision_block/{step}"]
        rows = patches.hidden.unflatten(0, (len(recorded), -1))
        if patches.prompts:  # ours stand at the row's end, the official ones behind the class token
            rows = torch.cat([rows[:, :1], rows[:, -count:], rows[:, 1:-count]], dim=1)
        assert_close(rows, recorded, FORWARD, f"image {step}")
