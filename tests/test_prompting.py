"""The prompting methods: what they refuse, other kinds of towers, averages over epochs, prompts of images in parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import ClassList, Task
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore
from shotfit.errors import UsageError
from shotfit.fitting.train import Average, train
from shotfit.methods import cocoop as conditional
from shotfit.methods import find
from shotfit.methods.base import Method, Support
from shotfit.methods.cocoop import CoCoOp
from shotfit.methods.prograd import ProGrad
from shotfit.methods.promptsrc import PromptSRC
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone
from shotfit.towers.layout import Savings

TOKENS = ("vpt", "ivlp", "maple", "promptsrc")
CONTEXTS = ("kgcoop", "prograd", "cocoop", "deep_language")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return tiny_task(tmp_path_factory.mktemp("images"), images=3)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    folder = tmp_path_factory.mktemp("backbones")
    return {kind: tiny_backbone(folder / kind, kind).double() for kind in ("vit", "resnet", "siglip")}


def built(method: Method, frozen: Frozen, task: Task) -> Method:
    method.attach(frozen, [task.classes])
    method.check()
    torch.manual_seed(0)
    method.build(frozen, method.classes)
    return method


def outcome(name: str, backbone: Backbone, task: Task, savings: Savings) -> list[Tensor]:
    """Logits, loss and gradients."""
    method, pool = built(find(name)(), Frozen(backbone, MemoryStore(), savings), task), ImagePool(task.train)
    loss = method.loss(pool.all(), pool.labels)
    return [method.logits(pool.all()).detach(), loss.detach(), *torch.autograd.grad(loss, [*method.parameters()])]


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "siglip") for name in TOKENS + CONTEXTS), *((name, "resnet") for name in CONTEXTS[:3])]
)
def test_savings_change_nothing_on_other_towers(
    name: str, kind: str, backbones: dict[str, Backbone], task: Task
) -> None:
    found = [outcome(name, backbones[kind], task, savings) for savings in (Savings(), Savings.none())]
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-11 * max(1.0, float(plain.abs().max())))


@pytest.mark.parametrize("name", TOKENS)
def test_image_tower_without_blocks_is_refused(name: str, backbones: dict[str, Backbone], task: Task) -> None:
    with pytest.raises(UsageError, match=f"{name} changes transformer blocks .* leaves that tower alone, such as coop"):
        built(find(name)(), Frozen(backbones["resnet"]), task)


def test_prompts_of_the_text_tower_alone_fit_any_image_tower(backbones: dict[str, Backbone], task: Task) -> None:
    method = built(find("ivlp").with_options({"visual_depth": "0"}), Frozen(backbones["resnet"]), task)
    assert {name for name, _ in method.named_parameters()} == {"context", "text_prompts"}


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("vpt", {"depth": "0"}, "depth must be 1 or more, or -1"),
        ("maple", {"depth": "0"}, "depth must be 1 or more, or -1"),
        ("ivlp", {"text_depth": "0"}, "text_depth must be 1 or more, or -1"),
        ("deep_language", {"tokens": "13"}, "13 tokens are to be learned, but 'a photo of a' has 12"),
        ("kgcoop", {"words": " "}, "hold no word"),
        ("prograd", {"length": "3"}, "length is 3, but 'a photo of a' has 4 words"),
        ("cocoop", {"words": "", "length": "80"}, "but this backbone reads 77"),
        ("promptsrc", {"average_at": "-0.5"}, "average_at must be 0 or more"),
        ("promptsrc", {"average_width": "0"}, "average_width above 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    name: str, options: dict[str, str], sentence: str, backbones: dict[str, Backbone], task: Task
) -> None:
    with pytest.raises(UsageError, match=sentence):
        built(find(name).with_options(options), Frozen(backbones["vit"]), task)


def test_depth_is_the_papers_share_of_each_tower(backbones: dict[str, Backbone], task: Task) -> None:
    shapes = {
        name: {
            key: value.shape[0] for key, value in built(find(name)(), Frozen(backbones["vit"]), task).named_parameters()
        }
        for name in ("ivlp", "promptsrc", "maple")
    }
    assert (shapes["ivlp"]["text_prompts"], shapes["ivlp"]["visual_prompts"]) == (2, 4)  # of 3 and 4 blocks
    assert (shapes["promptsrc"]["text_prompts"], shapes["promptsrc"]["visual_prompts"]) == (1, 3)
    assert (shapes["maple"]["text_prompts"], shapes["maple"]["map_weights"]) == (2, 3)


def test_training_keeps_the_weighted_mean_over_its_epochs(
    backbones: dict[str, Backbone], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = built(PromptSRC(teacher="task"), Frozen(backbones["vit"], MemoryStore()), task)
    recipe, ends, add = method.training_recipe(), list[dict[str, Tensor]](), Average.add
    assert recipe is not None

    def noted(average: Average) -> None:
        ends.append({name: value.detach().clone() for name, value in method.named_parameters()})
        add(average)

    monkeypatch.setattr(Average, "add", noted)
    pool = ImagePool(task.train)
    train(method, Support(pool, pool, 3), recipe, 3, torch.Generator().manual_seed(0))
    weights = recipe.average_weights(3)
    assert len(ends) == 3 and sum(weights) == pytest.approx(1) and max(weights) < 1
    for name, value in method.named_parameters():
        mean = sum(weight * end[name] for weight, end in zip(weights, ends, strict=True))
        torch.testing.assert_close(value.detach(), mean)


def test_average_is_left_out_where_it_is_not_asked_for() -> None:
    recipe = PromptSRC(average=False).training_recipe()
    assert recipe is not None and recipe.average is None and recipe.average_weights(3) == [0.0, 0.0, 1.0]


@torch.no_grad()
def test_conditional_prompts_are_the_same_in_parts(
    backbones: dict[str, Backbone], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, pool = built(CoCoOp(), Frozen(backbones["vit"], MemoryStore()), task), ImagePool(task.train)
    whole = method.logits(pool.all())
    monkeypatch.setattr(conditional, "ROWS", 1)
    torch.testing.assert_close(method.logits(pool.all()), whole, rtol=0, atol=1e-12)
    assert {*method.__dict__["_prompts"]} == {6, 1}


def test_context_that_starts_as_the_frozen_model_has_no_conflict(backbones: dict[str, Backbone]) -> None:
    classes = ClassList("things", ("red", "green", "blue"), ("photo {}.",))  # one word, of which one token is learned
    method = ProGrad(length=1)
    method.attach(Frozen(backbones["vit"]), [classes])
    method.build(method.frozen, method.classes)
    torch.testing.assert_close(method.text_features(), method.frozen.text(method.frozen.class_texts([classes])[0]))
    gradient, noise = torch.ones(1, 16).double(), -1e-7 * torch.rand(1, 16).double()
    for other in (noise, torch.zeros_like(noise)):
        assert torch.equal(method.update(gradient, other), gradient)
    torch.testing.assert_close(method.update(gradient, -gradient), torch.zeros_like(gradient))


@torch.no_grad()
def test_new_classes_keep_the_words_of_the_fit(backbones: dict[str, Backbone], task: Task) -> None:
    method = built(ProGrad(), Frozen(backbones["vit"]), task)
    other = method.for_classes([ClassList("other", task.classes.names, ("a drawing of some {}.",))])
    assert isinstance(other, ProGrad) and isinstance(method, ProGrad)
    assert other.texts.rows == method.texts.rows
