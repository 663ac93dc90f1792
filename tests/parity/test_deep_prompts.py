"""VPT, deep language prompting, IVLP, MaPLe and PromptSRC equal the official programs: start, features, training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import TEMPLATE_SETS, ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.fitting.train import Average
from shotfit.methods.deep_language import DeepLanguage
from shotfit.methods.ivlp import IVLP
from shotfit.methods.maple import MaPLe
from shotfit.methods.prompted import Prompted
from shotfit.methods.promptsrc import PromptSRC
from shotfit.methods.vpt import VPT
from shotfit.towers.layout import Savings

from .backbones import build
from .cases import Case, assert_close, cases
from .recorded import Step, assert_course, need_clip_vocabulary, optimizer_of, schedule_of, token_texts, train

FORWARD, BACKWARD, LATER, STEP, CHANGE, AFTER = 1e-5, 5e-5, 5e-5, 1e-4, 2e-4, 2e-4
OFFICIAL = {  # the name of a tensor, and the row of it that belongs to number I of the official ones
    r"prompt_learner\.ctx": ("context", None),
    r"image_encoder\.VPT": ("visual_prompts", 0),
    r"image_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow": ("visual_prompts", 0),
    r"text_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow": ("text_prompts", -1),
    r"prompt_learner\.compound_prompts_text\.(\d+)": ("text_prompts", 0),
    r"prompt_learner\.proj\.weight": ("map_weights", 0),
    r"prompt_learner\.proj\.bias": ("map_biases", 0),
    r"prompt_learner\.compound_prompt_projections\.(\d+)\.weight": ("map_weights", 1),
    r"prompt_learner\.compound_prompt_projections\.(\d+)\.bias": ("map_biases", 1),
}
ALL = [one for folder in ("vpt", "deep_language", "ivlp", "maple", "promptsrc") for one in cases(folder)]
SOURCED = cases("promptsrc")


def _method(case: Case) -> Prompted:
    settings: Mapping[str, Any] = case.settings
    words = settings["template"].partition("{}")[0].strip() if settings["context"] != "random" else ""
    text, visual = (
        (settings["n_ctx_text"], settings["depth_text"]),
        (settings["n_ctx_vision"], settings["depth_vision"]),
    )
    match case.method:
        case "vpt":
            return VPT(words=words, tokens=visual[0], depth=visual[1])
        case "deep_language":
            return DeepLanguage(words=words, tokens=text[0], depth=text[1])
        case "maple":
            assert text == visual
            return MaPLe(words=words, tokens=text[0], depth=text[1])
    both: dict[str, Any] = {"words": words, "text_tokens": text[0], "text_depth": text[1]}
    both |= {"visual_tokens": max(visual[0], 1), "visual_depth": visual[1]}
    if case.method == "ivlp":
        return IVLP(**both)
    both |= {f"{name}_weight": float(settings[f"{name}_loss_weight"]) for name in ("text", "image", "logit")}
    at, width = (float(settings[f"gpa_{name}"]) / settings["epochs"] for name in ("mean", "std"))
    return PromptSRC(**both, teacher="task", average_at=at, average_width=width)


def _start(case: Case, savings: Savings = Savings()) -> Prompted:
    """The method with the recorded parameters; what the program initialises from words is so here too."""
    need_clip_vocabulary()
    method, frozen = _method(case), Frozen(build(case), savings=savings)
    templates = tuple(case.meta["templates"])
    method.attach(frozen, [ClassList(case.name, tuple(case.meta["class_names"]), templates)])
    method.check()
    method.build(frozen, method.classes)
    own = dict(method.named_parameters())
    if case.settings["parameters"] == "as initialised" and case.settings["context"] == "words":
        assert_close(method.get_parameter("context"), case["param/prompt_learner.ctx"], 0.0)
    with torch.no_grad():
        for name, value in case.under("param/").items():
            _ours(own, name).copy_(value)
    recorded = sum(value.numel() for value in case.under("param/").values())
    assert sum(value.numel() for value in own.values()) == recorded
    return method


def _ours(tensors: Mapping[str, Tensor], official: str) -> Tensor:
    """Our tensor for an official name."""
    for pattern, (name, first) in OFFICIAL.items():
        if found := re.fullmatch(pattern, official):
            row = None if first is None else first + int(found[1] if found.groups() else 0)
            return tensors[name] if row is None else tensors[name][row]
    raise AssertionError(f"no parameter is called {official}")


def _batches(case: Case) -> list[tuple[Images, Tensor]]:
    images, labels = case["in/images"], case["in/labels"]
    return [(Images.of(images[rows]), labels[rows]) for rows in map(torch.tensor, case.settings["batches"])]


def _trained(method: Prompted, case: Case) -> list[Step]:
    settings = case.settings
    schedule, period = schedule_of(settings)
    return train(method, optimizer_of(settings), schedule, period, settings["batches_per_epoch"], _batches(case))


def _rebuilt(method: Prompted, case: Case) -> Prompted:
    """For the new classes."""
    other = method.for_classes([ClassList("new", tuple(case.meta["new_class_names"]))])
    assert isinstance(other, Prompted)
    return other


@pytest.mark.parametrize("case", ALL)
def test_prompts_are_the_official_ones(case: Case) -> None:
    method, learned = _start(case), case.settings["n_ctx_text"]
    vocabulary = method.frozen.backbone.config.text.vocabulary
    for of, tokens in ((method, "in/tokens"), (_rebuilt(method, case), "in/new_tokens")):
        for row, official in zip(of.texts.rows, token_texts(case[tokens]).rows, strict=True):
            assert row[1 : 1 + learned] == tuple(range(vocabulary, vocabulary + learned))
            assert row[:1] + row[1 + learned :] == official[:1] + official[1 + learned :]


@pytest.mark.parametrize("savings", [Savings(), Savings.none()], ids=["savings", "none"])
@pytest.mark.parametrize("case", ALL)
def test_features_logits_and_gradients_equal_the_official_ones(case: Case, savings: Savings) -> None:
    method, images = _start(case, savings), Images.of(case["in/images"])
    assert_close(method.text_features(), case["out/text_features_raw"], FORWARD, "text")
    assert_close(method.image_features(images), case["out/image_features_raw"], FORWARD, "image")
    assert_close(method.logits(images), case["out/logits"], FORWARD, "logits")
    for number, prompt in case.under("out/visual_prompt/").items():
        assert_close(method.visual_rows()[int(number)], prompt, FORWARD, f"prompt {number}")
    with torch.no_grad():
        other = _rebuilt(method, case)
        assert_close(other.class_features(), case["out/new_text_features_raw"], FORWARD, "new text")
        assert_close(other.logits(images), case["out/new_logits"], FORWARD, "new logits")
    loss, own = method.loss(*_batches(case)[0]), dict(method.named_parameters())
    assert_close(loss, case["step/1/loss"], FORWARD, "loss")
    gradients = dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))
    for name, value in case.under("grad/").items():
        assert_close(_ours(gradients, name), value, BACKWARD, name)


@pytest.mark.parametrize("case", ALL)
def test_training_equals_the_official_one(case: Case) -> None:
    method, settings = _start(case), case.settings
    steps, last = _trained(method, case), settings["steps"]
    assert_close(torch.tensor([step.lr for step in steps]), torch.tensor(settings["learning_rates"]), 1e-6)
    assert_close(steps[0].loss, case["step/1/loss"], FORWARD)
    assert_course([step.loss for step in steps], case, LATER)
    for name, start in case.under("param/").items():
        for number in (1, 2, last):
            if f"step/{number}/{name}" in case:
                assert_close(_ours(steps[number - 1].parameters, name), case[f"step/{number}/{name}"], STEP, name)
        change, official = _ours(steps[-1].parameters, name) - start, case[f"step/{last}/{name}"] - start
        assert_close(change, official, LATER if case.method == "vpt" else CHANGE, f"change of {name}")
    if isinstance(method, PromptSRC):
        _average(method, case, steps)
    _assert_predictions(method, case)


@torch.no_grad()
def _assert_predictions(method: Prompted, case: Case) -> None:
    images = Images.of(case["in/images"])
    assert_close(method.logits(images), case["out/after/logits"], AFTER, "after")
    assert_close(_rebuilt(method, case).logits(images), case["out/after/new_logits"], AFTER, "new classes after")


@torch.no_grad()
def _average(method: PromptSRC, case: Case, steps: list[Step]) -> None:
    """Average over the ends of epochs as the loop of training does, and compare."""
    settings, recipe, own = case.settings, method.training_recipe(), dict(method.named_parameters())
    assert recipe is not None
    average = Average(method, recipe, settings["epochs"])
    assert_close(torch.tensor(average.weights, dtype=torch.float64), case["out/gpa_weights"], 1e-12)
    for end in range(settings["batches_per_epoch"], settings["steps"] + 1, settings["batches_per_epoch"]):
        for name, value in steps[end - 1].parameters.items():
            own[name].copy_(value)
        average.add()
    average.keep()
    for name, value in case.under("out/gpa/").items():
        assert_close(_ours(own, name), value, LATER, name)
        start = case[f"param/{name}"]
        assert_close(_ours(own, name) - start, value - start, CHANGE, f"change of {name}")


@pytest.mark.parametrize("case", SOURCED)
def test_promptsrc_terms_and_teacher_equal_the_official_ones(case: Case) -> None:
    method = _start(case)
    assert isinstance(method, PromptSRC)
    assert_close(method.frozen_classes, case["out/teacher_text_features"], FORWARD)
    assert_close(method.frozen.image(Images.of(case["in/images"])), case["out/teacher_image_features"], FORWARD)
    terms = method.losses(*_batches(case)[0])
    for ours, official in (("cross-entropy", "ce"), ("text", "text"), ("image", "image"), ("logits", "logits")):
        if ours == "image" and not case.settings["depth_vision"]:
            assert ours not in terms and float(case["out/loss_image"]) < 1e-5  # both towers are the same, to rounding
            continue
        term = terms.get(ours, torch.zeros(()))
        assert_close(term, case[f"out/loss_{official}"], FORWARD, ours)
    if len(case.meta["templates"]) == 60:
        assert {*case.meta["templates"]} == {*TEMPLATE_SETS["imagenet-60"]}


@pytest.mark.parametrize("case", cases("maple"))
def test_maps_of_maple_start_alike_but_the_first(case: Case) -> None:
    method = _method(case)
    method.attach(Frozen(build(case)), [ClassList(case.name, tuple(case.meta["class_names"]))])
    method.build(method.frozen, method.classes)
    weights, biases = method.get_parameter("map_weights"), method.get_parameter("map_biases")
    for one in (weights, biases):
        assert all(torch.equal(one[1], other) for other in one[2:])
        assert len(one) == 1 or not torch.equal(one[0], one[1])
        assert float(one.detach().abs().max()) <= case.settings["text_width"] ** -0.5
