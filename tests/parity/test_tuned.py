"""Methods that change weights of the towers equal the official programs: CLIP-LoRA, CLIP-SVD and 2SFS."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.base import Method
from shotfit.methods.clip_lora import ClipLora
from shotfit.methods.clip_svd import ClipSVD
from shotfit.methods.recipe import Recipe
from shotfit.methods.tuned import TunedWeights, named
from shotfit.methods.two_stage import TwoStage
from shotfit.towers.layout import Savings

from .backbones import build
from .cases import Case, assert_close, cases
from .recorded import Step, assert_course, need_clip_vocabulary, optimizer_of, schedule_of, token_texts, train

M = TypeVar("M", bound=TunedWeights)
TOWERS = {"both": "both", "text": "text", "vision": "image", "image": "image"}
BOTH = pytest.mark.parametrize("savings", [Savings(), Savings.none()], ids=["savings", "none"])


def start(method: M, case: Case, savings: Savings = Savings()) -> M:
    """The method with the recorded parameters."""
    need_clip_vocabulary()
    method.attach(Frozen(build(case), savings=savings), [classes(case, case.meta["class_names"])])
    method.check()
    method.build(method.frozen, method.classes)
    official = {_our(method, name): value for name, value in case.under("param/").items()}
    assert official.keys() == dict(method.named_parameters()).keys()
    with torch.no_grad():
        for name, value in official.items():
            method.get_parameter(name).copy_(value.view_as(method.get_parameter(name)))
    assert method.prompts.rows == token_texts(case["in/tokens"]).rows
    return method


def classes(case: Case, names: Sequence[str]) -> ClassList:
    return ClassList(case.name, tuple(names), tuple(case.meta["templates"]))


OURS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "c_fc": "up", "c_proj": "down", "ln_1": "norm1",
        "ln_2": "norm2", "out_proj": "attention_out"}  # fmt: skip


def _our(method: Method, official: str) -> str:
    """Our name of a parameter, of the norms outside the blocks too."""
    outer = re.fullmatch(r"(?:visual\.)?(ln_pre|ln_post|ln_final)\.(\w+)", official)
    if outer is None:
        return our(official)
    backbone = method.frozen.backbone
    places = {
        "ln_pre": "image_0_embedding_norm",
        "ln_post": f"image_{backbone.image.last}_post_norm",
        "ln_final": f"text_{backbone.text.last}_final_norm",
    }
    return f"{places[outer[1]]}_{outer[2]}"


def our(official: str) -> str:
    """Our name of a block's parameter."""
    block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.*)", official)
    assert block is not None, official
    tower, rest = "image" if block[1] else "text", block[3]
    begin = f"{tower}_{int(block[2]) + 1}"
    if (lora := re.fullmatch(r"attn\.(\w+)\.w_lora_([AB])", rest)) is not None:
        return f"{begin}_{OURS.get(lora[1], 'out')}_{'down' if lora[2] == 'A' else 'up'}"
    if rest.endswith("vector_S"):
        above, part, _ = rest.split(".")
        return f"{begin}_{'attention' if above == 'attn' else 'mlp'}_{OURS.get(part, 'out')}_weight"
    part, leaf = rest.split(".")[-2:]
    return f"{begin}_{'mlp_' if part.startswith('c_') else ''}{OURS[part]}_{leaf}"


def numbered(zero_based: Sequence[int]) -> str:
    return ",".join(str(block + 1) for block in zero_based) or "all"


def assert_gradients(
    method: Method, case: Case, tolerance: float, near: Callable[[str, Tensor], Tensor] | None = None
) -> None:
    """near: which entries of a gradient are known to a hundredth of the largest alone."""
    loss = method.loss(Images.of(case["in/images"]), case["in/labels"])
    torch.autograd.backward(loss)
    for name, value in case.under("grad/").items():
        gradient = method.get_parameter(_our(method, name)).grad
        assert gradient is not None
        ours = gradient.view_as(value)
        if near is not None:
            loose = near(name, value)
            assert bool(((ours - value).abs()[loose] <= 1e-2 * value.abs().max()).all()), name
            ours, value = ours.masked_fill(loose, 0), value.masked_fill(loose, 0)
        assert_close(ours, value, tolerance, name)


def trained(method: Method, case: Case, steps: int | None = None) -> list[Step]:
    schedule, period = schedule_of(case.settings)
    images, labels = Images.of(case["in/images"]), case["in/labels"]
    whole = [[0, len(labels)]] * case.settings["steps"]
    batches = [
        (Images.of(images.rows[first:last]), labels[first:last])
        for first, last in case.settings.get("step_batches", whole)[:steps]
    ]
    return train(method, optimizer_of(case.settings), schedule, period, 1, batches)


# CLIP-LoRA


def lora(case: Case, savings: Savings = Savings()) -> ClipLora:
    settings = case.settings
    method = ClipLora(
        towers=TOWERS[settings["encoder"]],
        temperature=float(settings["logit_scale"]),
        rank=settings["r"],
        alpha=float(settings["alpha"]),
        dropout=float(settings["dropout"]),
        matrices="".join(settings["params"]),
        image_blocks=numbered(settings["vision_blocks"]),
        text_blocks=numbered(settings["text_blocks"]),
    )
    return start(method, case, savings)


@BOTH
@pytest.mark.parametrize("case", cases("clip_lora"))
def test_clip_lora_gives_the_official_features_logits_and_gradients(case: Case, savings: Savings) -> None:
    method, images = lora(case, savings), Images.of(case["in/images"])
    assert_close(method.image_features(images), case["out/image/features"], 1e-5)
    assert_close(method.text_features(), case["out/text/features"], 1e-5)
    assert_close(method.logits(images), case["out/logits"], 1e-5)
    assert_gradients(method, case, 1e-4)


@pytest.mark.parametrize("case", cases("clip_lora"))
def test_clip_lora_is_trained_as_by_the_official_program(case: Case) -> None:
    method, last, images = lora(case), case.settings["steps"], Images.of(case["in/images"])
    zero = not any(value.any() for name, value in case.under("param/").items() if name.endswith("_B"))
    steps = trained(method, case)
    assert_close(torch.tensor([step.lr for step in steps]), torch.tensor(case.settings["learning_rates"]), 1e-6)
    assert_course([step.loss for step in steps], case, 1e-4)
    assert_close(steps[0].loss, case["step/1/loss"], 1e-5)
    for number in (1, last):
        for name in case.under("param/"):
            ours, theirs = steps[number - 1].parameters[our(name)], case[f"step/{number}/{name}"]
            assert_close(ours, theirs, 1e-3 if zero else 2e-4, f"{name} after {number}")
            if number == last and not zero:
                assert float(((ours - theirs).abs() > 5e-5).float().mean()) <= 0.03, name
    for form in ("factors", "merged"):
        if form == "merged":
            method.requires_grad_(False)
            method.bake()
        assert_close(method.image_features(images), case["out/image/features_after"], 1e-4, form)
        assert_close(method.class_features(), case["out/text/features_after"], 1e-4, form)


# CLIP-SVD


def svd(case: Case, savings: Savings = Savings()) -> ClipSVD:
    settings, backbone = case.settings, build(case)
    towers = settings["towers"]
    assert settings["blocks"] in ("all", "bottom")
    chosen = {
        tower: "all" if settings["blocks"] == "all" else f"1-{min(4, config.layers)}"
        for tower, config in (("image", Frozen(backbone).image_blocks("", "")), ("text", backbone.config.text.blocks))
    }
    method = ClipSVD(
        towers="both" if len(towers) == 2 else TOWERS[towers[0]],
        temperature=float(settings["logit_scale"]),
        matrices="".join(settings["matrices"]).replace("mlp", "m"),
        image_blocks=chosen["image"],
        text_blocks=chosen["text"],
        rank_ratio=float(settings["rank_ratio"]),
        protocol={"few_shot": "few-shot", "base2new": "base-to-new"}[settings["mode"]],
    )
    return start(method, case, savings)


def forward_tolerance(case: Case) -> float:
    plain = case.settings["parameters"] == "as decomposed" and case.settings["rank_ratio"] == 1
    return 2e-5 if plain else 3e-4


def alone(values: Tensor) -> Tensor:
    """Which singular values have no other within a thousandth of the largest.

    Vectors of two that are nearer follow the rounding of the decomposition, which is another on another processor.
    """
    gaps = (values[:-1] - values[1:]) >= 1e-3 * values[0]
    end = torch.ones(1, dtype=torch.bool)
    return torch.cat([end, gaps]) & torch.cat([gaps, end])


@BOTH
@pytest.mark.parametrize("case", cases("clip_svd"))
def test_clip_svd_gives_the_official_features_logits_and_gradients(case: Case, savings: Savings) -> None:
    method, images, tolerance = svd(case, savings), Images.of(case["in/images"]), forward_tolerance(case)
    for site, (_, values, _) in method.decomposed().items():
        assert bool((values.diff() <= 0).all()), site
    decomposed = {named(site): values for site, (_, values, _) in method.decomposed().items()}
    for name, value in case.under("out/singular_values/").items():
        assert_close(decomposed[our(name)], value.flatten()[: len(decomposed[our(name)])], 1e-5, name)
    assert_close(normalize(method.image_features(images)), case["out/image_features"], tolerance)
    assert_close(normalize(method.text_features()), case["out/text_features"], tolerance)
    assert_close(method.logits(images), case["out/logits"], tolerance)
    frozen = method.cosines(method.frozen.image(images), method.frozen.text(method.prompts))
    assert_close(frozen, case["out/zero_shot_logits"], 1e-5)
    assert_close(method.loss(images, case["in/labels"]), case["out/loss"], 1e-3)

    def near(name: str, value: Tensor) -> Tensor:
        return ~alone(case[f"out/singular_values/{name}"].flatten())[: value.numel()].view_as(value)

    assert_gradients(method, case, 5e-4, near)
    if "new_class_names" in case.meta:
        other = method.for_classes([classes(case, case.meta["new_class_names"])])
        assert_close(normalize(other.class_features()), case["out/new_text_features"], tolerance)
        assert_close(other.logits(images), case["out/new_logits"], tolerance)


@pytest.mark.parametrize("case", cases("clip_svd"))
def test_clip_svd_is_trained_as_by_the_official_program(case: Case) -> None:
    method, images, last = svd(case), Images.of(case["in/images"]), case.settings["steps"]
    steps = trained(method, case)
    assert_close(torch.tensor([step.lr for step in steps]), torch.tensor(case.settings["learning_rates"]), 1e-6)
    assert_course([step.loss for step in steps], case, 1e-3)
    off = every = 0
    for number in (1, last):
        for name, begin in case.under("param/").items():
            theirs = case[f"step/{number}/{name}"]
            ours = steps[number - 1].parameters[our(name)].view_as(theirs)
            far = (ours - theirs).abs() > 1e-4 * theirs.abs().max()
            assert float(far.float().mean()) <= 1e-3, f"{name} after {number}"
            change = theirs - begin
            off += int(((ours - theirs).abs() > 0.01 * change.abs().max()).sum())
            every += change.numel()
    assert off <= 0.01 * every
    for form in ("factors", "merged"):
        if form == "merged":
            method.requires_grad_(False)
            method.bake()
        for name, ours in after(method, images, case).items():
            if f"out/after/{name}" in case:
                assert_close(ours, case[f"out/after/{name}"], 1e-3, f"{name}, {form}")


def after(method: TunedWeights, images: Images, case: Case) -> dict[str, Tensor]:
    found = {
        "image_features": normalize(method.image_features(images)),
        "text_features": normalize(method.class_features()),
        "logits": method.logits(images),
    }
    if "new_class_names" in case.meta:
        other = method.for_classes([classes(case, case.meta["new_class_names"])])
        found |= {"new_text_features": normalize(other.class_features()), "new_logits": other.logits(images)}
    return found


# 2SFS


def two_stage(case: Case, savings: Savings = Savings()) -> TwoStage:
    settings = case.settings
    second, period = schedule_of(settings | {"schedule": settings["second_schedule"]})
    assert period == settings["steps_second"]
    recorded = {"recipe": Recipe(optimizer_of(settings), second)}  # by which the second stage is trained
    method: TwoStage = type("Recorded", (TwoStage,), recorded)(
        towers=TOWERS[settings["towers"]],
        peft={"ln": "norms", "bitfit": "biases"}[settings["peft"]],
        image_blocks=f"{settings['vision_start'] + 1}-{Frozen(build(case)).image_blocks('', '').layers}",
        text_blocks=f"{settings['text_start'] + 1}-{build(case).config.text.blocks.layers}",
        outer_norms=settings["outer_norms"],
        steps_per_shot=settings["iterations_per_shot"],
        fraction=settings["fraction"],
        second_lr=settings["optimizer"]["lr"],
    )
    return start(method, case, savings)


@BOTH
@pytest.mark.parametrize("case", cases("two_stage"))
def test_two_stage_gives_the_official_features_logits_and_gradients(case: Case, savings: Savings) -> None:
    method, images = two_stage(case, savings), Images.of(case["in/images"])
    assert_close(normalize(method.image_features(images)), case["out/image_features"], 2e-5)
    assert_close(normalize(method.text_features()), case["out/text_features"], 2e-5)
    assert_close(method.logits(images), case["out/logits"], 2e-5)
    frozen = method.cosines(method.frozen.image(images), method.frozen.text(method.prompts))
    assert_close(frozen, case["out/zero_shot_logits"], 2e-5)
    assert_close(method.loss(images, case["in/labels"]), case["out/loss"], 2e-5)
    assert_gradients(method, case, 5e-5)
    other = method.for_classes([classes(case, case.meta["new_class_names"])])
    assert_close(normalize(other.class_features()), case["out/new_text_features"], 2e-5)
    assert_close(other.logits(images), case["out/new_logits"], 2e-5)


@pytest.mark.parametrize("case", cases("two_stage"))
def test_two_stage_is_trained_as_by_the_official_program(case: Case) -> None:
    method, images, settings = two_stage(case), Images.of(case["in/images"]), case.settings
    first, last = settings["steps_first"], settings["steps"]
    recipe = method.training_recipe()
    assert recipe is not None and recipe.length_for(settings["shots"]) == first
    assert method.second_steps(settings["shots"]) == settings["steps_second"] == last - first
    steps = trained(method, case, first)
    for number in {1, first}:
        for name, begin in case.under("param/").items():
            ours, theirs = steps[number - 1].parameters[_our(method, name)], case[f"step/{number}/{name}"]
            assert_close(ours, theirs, 1e-4, f"{name} after {number}")
            assert_close(ours - begin, theirs - begin, 5e-3, f"change of {name} after {number}")
    with torch.no_grad():
        assert_close(method.logits(images), case["out/after/stage_one_logits"], 2e-5)
        features = method.image_features(images)
        batches = [torch.arange(*some) for some in settings["step_batches"][first:]]
        losses = list[Tensor]()
        begin = case["out/classifier"]
        assert_close(normalize(method.text_features()), begin, 2e-5)
        for loss, gradient in method.second_stage(features, case["in/labels"], 1, iter(batches), last - first):
            losses.append(loss)
            if len(losses) == 1:
                assert_close(gradient, case["out/classifier_gradient"], 5e-5)
            if len(losses) == 2:
                assert_classifier(method, case, begin, first + 1)
        assert_classifier(method, case, begin, last)
    assert_course([*[step.loss for step in steps], *losses], case, 2e-5)
    method.requires_grad_(False)
    method.bake()
    assert_close(normalize(method.image_features(images)), case["out/after/image_features"], 2e-5)
    assert_close(method.logits(images), case["out/after/logits"], 2e-5)
    new = method.for_classes([classes(case, case.meta["new_class_names"])])
    assert_close(normalize(new.class_features()), case["out/after/new_text_features"], 2e-5)
    assert_close(new.logits(images), case["out/after/new_logits"], 2e-5)
    mixed = method.for_classes([classes(case, case.meta["mixed_class_names"])])
    assert_close(mixed.logits(images), case["out/after/mixed_logits"], 2e-5)


def assert_classifier(method: TwoStage, case: Case, begin: Tensor, number: int) -> None:
    ours, theirs = method.get_buffer("classifier"), case[f"step/{number}/classifier"]
    assert_close(ours, theirs, 1e-4, f"classifier after {number}")
    assert_close(ours - begin, theirs - begin, 5e-3, f"change of the classifier after {number}")
