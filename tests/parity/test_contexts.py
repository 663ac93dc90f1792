"""KgCoOp, ProGrad and CoCoOp equal the official programs: prompts, features, both losses, training, new classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.base import Method
from shotfit.methods.cocoop import CoCoOp
from shotfit.methods.kgcoop import KgCoOp
from shotfit.methods.prograd import ProGrad
from shotfit.towers.layout import Savings

from .backbones import build
from .cases import Case, assert_close, cases
from .recorded import Step, assert_losses, need_clip_vocabulary, optimizer_of, schedule_of, token_texts, train

FORWARD, BACKWARD, GATED, LATER, CHANGE, AFTER = 1e-5, 5e-5, 1e-4, 5e-5, 5e-5, 1e-4
META = {
    "meta_net.linear1.weight": "meta_1_weight",
    "meta_net.linear1.bias": "meta_1_bias",
    "meta_net.linear2.weight": "meta_2_weight",
    "meta_net.linear2.bias": "meta_2_bias",
}
BOTH_MANNERS = pytest.mark.parametrize("savings", [Savings(), Savings.none()], ids=["savings", "none"])


def _started(method: Method, case: Case, savings: Savings) -> None:
    """Attach the case's classes and backbone, and start from the recorded parameters."""
    need_clip_vocabulary()
    frozen = Frozen(build(case), savings=savings)
    templates = tuple(case.meta["templates"]) if "in/teacher_tokens" in case else ("a photo of a {}.",)
    method.attach(frozen, [ClassList(case.name, tuple(case.meta["class_names"]), templates)])
    method.check()
    method.build(frozen, method.classes)
    context = method.get_parameter("context")
    if case.settings["ctx_init"]:
        assert_close(context, case["param/ctx"], 0.0, "words")
    with torch.no_grad():
        for name, value in case.under("param/").items():
            method.get_parameter(_ours(name)).copy_(value)


def _ours(official: str) -> str:
    return META.get(official, "context")


def kgcoop(case: Case, savings: Savings = Savings()) -> KgCoOp:
    settings = case.settings
    assert not settings["csc"]
    words = case.meta["prompts"][0].partition(case.meta["class_names"][0].replace("_", " "))[0].strip()
    method = KgCoOp(
        length=settings["n_ctx"], weight=float(settings["lambda"]), words=words if settings["ctx_init"] else ""
    )
    _started(method, case, savings)
    return method


def prograd(case: Case, savings: Savings = Savings()) -> ProGrad:
    settings = case.settings
    method = ProGrad(
        length=settings["n_ctx"],
        start="template" if settings["ctx_init"] else "random",
        class_specific=settings["csc"],
        strength=float(settings["lambda"]),
        temperature=float(settings["temperature"]),
    )
    _started(method, case, savings)
    return method


def cocoop(case: Case, savings: Savings = Savings()) -> CoCoOp:
    method = CoCoOp(length=case.settings["n_ctx"], words=case.settings["ctx_init"] or "")
    _started(method, case, savings)
    return method


def _batches(case: Case) -> list[tuple[Images, Tensor]]:
    images, labels = case["in/images"], case["in/labels"]
    return [(Images.of(images[rows]), labels[rows]) for rows in map(torch.tensor, case.settings["batches"])]


def _trained(method: Method, case: Case) -> list[Step]:
    settings = case.settings
    schedule, period = schedule_of(settings)
    return train(method, optimizer_of(settings), schedule, period, settings["batches_per_epoch"], _batches(case))


def _assert_prompts(rows: tuple[tuple[int, ...], ...], case: Case, tokens: str = "in/tokens") -> None:
    """Fixed tokens are the official ones, and as many are learned as the context is long."""
    length, vocabulary = case.settings["n_ctx"], case.backbone()["token_embedding.weight"].shape[0]
    for row, official in zip(rows, token_texts(case[tokens]).rows, strict=True):
        assert len(row) == len(official) and all(token >= vocabulary for token in row[1 : 1 + length])
        assert row[:1] + row[1 + length :] == official[:1] + official[1 + length :]


def _assert_steps(steps: list[Step], case: Case) -> None:
    """Rates and losses of all steps, parameters of the recorded ones, and what the training changed."""
    settings, last = case.settings, case.settings["steps"]
    assert_close(torch.tensor([step.lr for step in steps]), torch.tensor(settings["learning_rates"]), 1e-6)
    assert_losses(steps, case, FORWARD, LATER)
    for name, start in case.under("param/").items():
        for number in sorted({1, 2, 5, last} & {*range(1, last + 1)}):
            if f"step/{number}/{name}" in case:
                assert_close(steps[number - 1].parameters[_ours(name)], case[f"step/{number}/{name}"], BACKWARD, name)
        change, official = steps[-1].parameters[_ours(name)] - start, case[f"step/{last}/{name}"] - start
        assert_close(change, official, CHANGE, f"change of {name}")


def _assert_predictions(method: Method, case: Case, tolerance: float = AFTER) -> None:
    """After the training: class features and logits of the classes of the fit, and of others."""
    images = Images.of(case["in/images"])
    method.bake()
    others = {"after": method}
    if case.meta.get("new_class_names"):
        others["new"] = method.for_classes([ClassList("new", tuple(case.meta["new_class_names"]))])
    for when, one in others.items():
        features = (
            one.class_features_of(normalize(one.image_features(images)))
            if isinstance(one, CoCoOp)
            else (one.class_features())
        )
        assert_close(features, case[f"out/{when}/text_features"], tolerance, when)
        assert_close(one.logits(images), case[f"out/{when}/logits"], tolerance, when)


def _assert_features(method: Method, case: Case) -> None:
    images = Images.of(case["in/images"])
    assert_close(method.image_features(images), case["out/image_features"], FORWARD, "image")
    assert_close(method.logits(images), case["out/logits"], FORWARD, "logits")


# KgCoOp


@BOTH_MANNERS
@pytest.mark.parametrize("case", cases("kgcoop"))
def test_kgcoop_features_losses_and_gradients_equal_the_official_ones(case: Case, savings: Savings) -> None:
    method, (images, labels) = kgcoop(case, savings), _batches(case)[0]
    _assert_prompts(method.texts.rows, case)
    _assert_features(method, case)
    assert_close(method.text_features(), case["out/text_features"], FORWARD)
    assert_close(method.teacher, case["out/teacher/text_features"], FORWARD)
    assert_close(method.distance(method.text_features()), case["step/1/distance"], FORWARD)
    (gradient,) = torch.autograd.grad(method.loss(images, labels), [method.get_parameter("context")])
    assert_close(gradient, case["grad/ctx"], BACKWARD)


@pytest.mark.parametrize("case", cases("kgcoop"))
def test_kgcoop_trains_and_predicts_as_the_official_program(case: Case) -> None:
    method = kgcoop(case)
    _assert_steps(_trained(method, case), case)
    _assert_predictions(method, case)


# ProGrad


@BOTH_MANNERS
@pytest.mark.parametrize("case", cases("prograd"))
def test_prograd_losses_and_both_gradients_equal_the_official_ones(case: Case, savings: Savings) -> None:
    method, (images, labels) = prograd(case, savings), _batches(case)[0]
    _assert_prompts(method.texts.rows, case)
    _assert_features(method, case)
    assert_close(method.text_features(), case["out/text_features"], FORWARD)
    assert_close(method.teacher, case["out/teacher/text_features"], FORWARD)
    whole = Images.of(case["in/images"])
    assert_close(method.frozen.logits(method.image_features(whole), method.teacher), case["out/teacher/logits"], 1e-5)
    for loss, name in zip(method.losses(images, labels), ("loss", "loss_kl"), strict=True):
        assert_close(loss, case[f"step/1/{name}"], FORWARD, name)
        (gradient,) = torch.autograd.grad(loss, method.context, retain_graph=True)
        assert_close(gradient, case[f"grad/{name}/ctx"], GATED, name)
    (update,) = torch.autograd.grad(method.loss(images, labels), method.context)
    assert_close(update, case["grad/update/ctx"], GATED)


@pytest.mark.parametrize("case", cases("prograd"))
def test_prograd_trains_and_predicts_as_the_official_program(case: Case) -> None:
    method, conflicts, cosines = prograd(case), [], []
    plain = method.update

    def noted(gradient: Tensor, other: Tensor) -> Tensor:
        cosines.append(torch.cosine_similarity(gradient.flatten(), other.flatten(), dim=0))
        update = plain(gradient, other)
        conflicts.append(not torch.equal(update, gradient))
        return update

    object.__setattr__(method, "update", noted)
    _assert_steps(_trained(method, case), case)
    assert conflicts == case.settings["conflict"]
    for number, cosine in enumerate(cosines, start=1):
        torch.testing.assert_close(cosine, case[f"step/{number}/cosine"], rtol=0, atol=1e-4)
    _assert_predictions(method, case)


# CoCoOp


@BOTH_MANNERS
@pytest.mark.parametrize("case", cases("cocoop"))
def test_cocoop_features_and_gradients_equal_the_official_ones(case: Case, savings: Savings) -> None:
    method, (images, labels) = cocoop(case, savings), _batches(case)[0]
    _assert_prompts(method.texts.rows, case)
    _assert_features(method, case)
    image = normalize(method.image_features(Images.of(case["in/images"])))
    assert_close(method.shift(image), case["out/context_shift"], FORWARD)
    assert_close(method.class_features_of(image), case["out/text_features"], FORWARD)
    names = [name for name, _ in method.named_parameters()]
    gradients = torch.autograd.grad(method.loss(images, labels), [*method.parameters()])
    for name, value in case.under("grad/").items():
        assert_close(gradients[names.index(_ours(name))], value, BACKWARD, name)


@pytest.mark.parametrize("case", cases("cocoop"))
def test_cocoop_trains_and_predicts_as_the_official_program(case: Case) -> None:
    method = cocoop(case)
    _assert_steps(_trained(method, case), case)
    with torch.no_grad():
        _assert_predictions(method, case, LATER)
