"""APEX equals the official program: features, logits, gradients, training, distances, coefficients, new classes."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.apex import Apex
from shotfit.methods.recipe import Schedule
from shotfit.towers.layout import Savings

from .backbones import build
from .cases import Case, assert_close, cases
from .recorded import Step, need_clip_vocabulary, optimizer_of, token_texts, train

FORWARD, BACKWARD, LATER, CHANGE, AFTER = 1e-5, 5e-5, 1e-4, 2e-3, 2e-5
DISTANCE = 2e-6  # absolute
OFFICIAL = {
    "prompt_learner.ctx": "context",
    "VPT_adapter_text_matrix": "matrix",
    "VPT_adapter_text_bias": "bias",
    "image_encoder.VPT": "visual_prompts[0]",
    "clip_model_temp.visual.VPT": "reference_visual_prompts[0]",
}
DEEP = {  # the prompts before block I, counted from 0
    r"image_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow": ("visual_prompts", 0),
    r"text_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow": ("text_prompts", 1),
    r"clip_model_temp\.visual\.transformer\.resblocks\.(\d+)\.VPT_shallow": ("reference_visual_prompts", 0),
    r"clip_model_temp\.transformer\.resblocks\.(\d+)\.VPT_shallow": ("reference_text_prompts", 1),
}


def _start(case: Case, savings: Savings = Savings()) -> Apex:
    need_clip_vocabulary()
    settings, kinds = case.settings, {True: "random-prompts", False: "plain"}
    method = Apex(
        visual_tokens=settings["n_ctx_vision"],
        visual_depth=settings["depth_vision"],
        text_tokens=settings["n_ctx_text"],
        text_depth=settings["depth_text"],
        template=settings["template"],
        beta=float(settings["beta"]),
        epsilon=float(settings["epsilon"]),
        image_reference=kinds[settings["reference_visual_prompts"]],
        text_reference=kinds[settings["reference_text_prompts"]],
    )
    frozen = Frozen(build(case), savings=savings)
    method.attach(frozen, [ClassList(case.name, tuple(case.meta["class_names"]))])
    method.build(frozen, method.classes)
    if settings["parameters"] == "as initialised":
        for name in ("prompt_learner.ctx", "VPT_adapter_text_matrix", "VPT_adapter_text_bias"):
            assert_close(_ours(method, name), case[f"param/{name}"].view_as(_ours(method, name)), 0.0, name)
    with torch.no_grad():
        for name, value in case.under("param/").items():
            _ours(method, name).copy_(value.view_as(_ours(method, name)))
        method.register_buffer("fitted_classes", method.reference_features())  # of the recorded reference
        method.register_buffer("alpha", method.coefficients())
    return method


def _ours(method: Apex, official: str, of: dict[str, Tensor] | None = None) -> Tensor:
    """Our tensor, or the entry of `of` by our name, for an official name."""
    name, row = OFFICIAL.get(official), None
    for pattern, (deep, first) in DEEP.items():
        if found := re.fullmatch(pattern, official):
            name, row = deep, int(found[1]) - first
    assert name is not None, f"no parameter is called {official}"
    if name.endswith("[0]"):
        name, row = name[:-3], 0
    tensor: Tensor = getattr(method, name) if of is None else of[name]
    return tensor if row is None else tensor[row]


def _train(method: Apex, case: Case) -> list[Step]:
    settings, recorded = case.settings, case.settings["optimizer"]
    schedule = Schedule(
        recorded["schedule"], "epoch", recorded["warmup_epoch"], recorded["warmup_min_lr"], 0.0, recorded["warmup_type"]
    )
    batches = [(Images.of(case["in/images"]), case["in/labels"])] * settings["steps"]
    per_epoch = settings["batches_per_epoch"]
    return train(method, optimizer_of(settings), schedule, recorded["max_epoch"], per_epoch, batches)


@pytest.mark.parametrize("case", cases("apex"))
def test_names_of_all_parameters_are_known(case: Case) -> None:
    method = _start(case)
    tensors = dict(method.named_parameters()) | dict(method.named_buffers())
    sizes = {name: value.numel() for name, value in tensors.items() if name not in ("fitted_classes", "alpha")}
    assert sum(sizes.values()) == sum(value.numel() for value in case.under("param/").values())


@pytest.mark.parametrize("case", cases("apex"))
def test_prompts_are_the_official_ones(case: Case) -> None:
    method, tokens = _start(case), token_texts(case["in/tokens"]).rows
    method.prompted_text()
    assert method.reference_texts.rows == tokens
    learned, vocabulary = case.settings["n_ctx_text"], method.frozen.backbone.config.text.vocabulary
    for row, official in zip(method.texts.rows, tokens, strict=True):
        assert row[1 : 1 + learned] == tuple(range(vocabulary, vocabulary + learned))
        assert row[:1] + row[1 + learned :] == official[:1] + official[1 + learned :]


@pytest.mark.parametrize("savings", [Savings(), Savings.none()], ids=["savings", "none"])
@pytest.mark.parametrize("case", cases("apex"))
def test_training_logits_and_gradients_equal_the_official_ones(case: Case, savings: Savings) -> None:
    method, images = _start(case, savings), Images.of(case["in/images"])
    text, image = method.prompted_text(), method.prompted_image(images)
    assert_close(text, case["out/train/text_features"], FORWARD)
    assert_close(image, case["out/train/image_features"], FORWARD)
    adapted = method.adapt(text)
    assert_close(normalize(adapted), case["out/train/text_features_normalised"], FORWARD)
    assert_close(normalize(image), case["out/train/image_features_normalised"], FORWARD)
    assert_close(method.frozen.logits(image, adapted), case["out/train/logits"], FORWARD)
    loss = method.loss(images, case["in/labels"])
    assert_close(loss, case["out/train/loss"], FORWARD)
    names = [name for name, _ in method.named_parameters()]
    gradients = dict(zip(names, torch.autograd.grad(loss, list(method.parameters())), strict=True))
    for name, value in case.under("grad/").items():
        assert_close(_ours(method, name, gradients), value.view_as(_ours(method, name)), BACKWARD, name)


@pytest.mark.parametrize("case", cases("apex"))
def test_training_equals_the_official_one(case: Case) -> None:
    method, settings = _start(case), case.settings
    steps, last = _train(method, case), settings["steps"]
    assert_close(torch.tensor([step.lr for step in steps]), torch.tensor(settings["learning_rates"]), 1e-6)
    for number, step in enumerate(steps):
        assert_close(step.loss, case[f"step/{number}/loss"], FORWARD if number == 0 else LATER, f"loss {number}")
    trained = {name: start for name, start in case.under("param/").items() if not name.startswith("clip_model_temp")}
    for name, start in trained.items():
        ours = _ours(method, name, steps[-1].parameters)
        start, after = start.view_as(ours), case[f"step/{last}/{name}"].view_as(ours)
        assert_close(ours, after, LATER, name)
        assert_close(ours - start, after - start, CHANGE, f"change of {name}")


@torch.no_grad()
@pytest.mark.parametrize("case", cases("apex"))
def test_seen_and_new_classes_are_predicted_as_by_the_official_program(case: Case) -> None:
    method = _start(case)
    method.bake()
    _compare_prediction(method, case, "seen", FORWARD)
    new = ClassList("new", tuple(case.meta["new_class_names"]))
    _compare_prediction(method.for_classes([new]), case, "new", FORWARD)
    with torch.enable_grad():
        _train(method, case)
    _compare_prediction(method.for_classes([new]), case, "after", AFTER)


def _compare_prediction(method: object, case: Case, when: str, tolerance: float) -> None:
    assert isinstance(method, Apex)
    images, official = Images.of(case["in/images"]), case.under(f"out/{when}/")
    nearest, average = method.distances()
    for ours, name in ((nearest, "distance_nearest"), (average, "distance_average")):
        torch.testing.assert_close(ours, official[name], rtol=0, atol=DISTANCE)
    assert_close(method.get_buffer("fitted_classes"), official["reference_trained"], tolerance)
    assert_close(method.reference_features(), official["reference_classes"], tolerance)
    assert_close(method.get_buffer("alpha"), official["alpha"], tolerance)
    assert_close(method.prompted_text(), official["text_features"], tolerance)
    assert_close(method.prompted_image(images), official["image_features_adapted"], tolerance)
    assert_close(method.plain_image(images), official["image_features_reference"], tolerance)
    assert_close(normalize(method.class_features()), official["text_features_normalised"], tolerance)
    assert_close(normalize(method.image_features(images)), official["image_features_normalised"], tolerance)
    assert_close(method.logits(images), official["logits"], tolerance)
