"""APEX weighs classes by their distance, runs no tower whose weight is 0, and refuses what cannot be learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from shotfit.data.tasks import TEMPLATE_SETS, ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.engine.plans import Plan
from shotfit.errors import UsageError
from shotfit.methods.apex import Apex
from shotfit.testing.tiny import tiny_backbone
from shotfit.towers.backbone import Backbone

FIT = ClassList("fit", ("cat", "dog", "traffic light"))
NEW = ClassList("new", ("dog", "a wooden chair"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("vit"))


def built(backbone: Backbone, options: Mapping[str, str]) -> Apex:
    method = Apex.with_options({"epsilon": "1e-4"} | dict(options))  # a random text tower puts all names close together
    assert isinstance(method, Apex)
    method.attach(Frozen(backbone), [FIT])
    method.frozen.plans = []
    torch.manual_seed(0)
    method.build(method.frozen, [FIT])
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    method.bake()
    return method


def image_calls(method: Apex) -> list[int]:
    """The edits of each call of the image tower that a prediction makes."""
    method.frozen.plans = plans = list[Plan]()
    size = method.frozen.backbone.image.image_size
    with torch.no_grad():
        method.logits(Images.of(torch.zeros(1, 3, size, size)))
    return [len(plan.edits) for plan in plans if plan.tower == "image"]


def test_classes_of_the_fit_have_coefficient_1_and_need_no_reference(vit: Backbone) -> None:
    method = built(vit, {})
    assert method.get_buffer("alpha").tolist() == [[1.0]] * 3
    assert image_calls(method) == [4]


def test_new_classes_are_weighed_and_a_seen_one_keeps_1(vit: Backbone) -> None:
    method = built(vit, {"beta": "20"}).for_classes([NEW])
    assert isinstance(method, Apex)
    seen, new = method.get_buffer("alpha").flatten().tolist()
    assert seen == 1 and 0 < new < 1
    assert image_calls(method) == [4, 0]


def test_same_names_are_seen_even_with_epsilon_0(vit: Backbone) -> None:
    assert built(vit, {"epsilon": "0"}).get_buffer("alpha").eq(1).all()


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({"coefficient": "0"}, [0]),
        ({"coefficient": "1"}, [4]),
        ({"coefficient": "0.4"}, [4, 0]),
        ({"coefficient": "0.4", "image_reference": "random-prompts"}, [4, 4]),
        ({"coefficient": "0.4", "image_ensemble": "false"}, [4]),
        ({"coefficient": "0.4", "visual_depth": "0"}, [0]),
        ({"coefficient": "0.4", "visual_depth": "0", "adapter_side": "image"}, [0]),  # one image, asked for twice
    ],
)
def test_a_tower_of_weight_0_does_not_run(vit: Backbone, options: dict[str, str], calls: list[int]) -> None:
    assert image_calls(built(vit, options)) == calls


def test_fixed_coefficient_mixes_both_sides(vit: Backbone) -> None:
    method, (only, none) = built(vit, {"coefficient": "0.4"}), (built(vit, {"coefficient": c}) for c in ("1", "0"))
    pixels = Images.of(torch.randn(2, 3, 32, 32))
    methods = (method, only, none)
    for mixed, one, other in ([m.class_features() for m in methods], [m.image_features(pixels) for m in methods]):
        torch.testing.assert_close(mixed, 0.4 * one + 0.6 * other)


def test_steps_before_the_prompts_are_frozen(vit: Backbone) -> None:
    method = built(vit, {})
    method.prompted_image(Images.of(torch.zeros(1, 3, 32, 32)))
    assert method.frozen.plans and method.frozen.plans[-1].frozen_until == 0  # the embedding is stored
    manual = built(vit, {"prompt": "manual"})
    texts = [plan for plan in manual.frozen.plans or () if plan.tower == "text"]
    assert texts and all(plan.frozen_until == plan.last for plan in texts)


def test_sixty_templates_are_averaged(vit: Backbone) -> None:
    method = built(vit, {"prompt": "ensemble", "adapter": "none"})
    texts = method.frozen.encode([template.replace("{}", "dog") for template in TEMPLATE_SETS["imagenet-60"]])
    torch.testing.assert_close(method.class_features()[1], method.frozen.text(texts).mean(dim=0))


def test_depth_follows_the_tower(vit: Backbone) -> None:
    assert len(built(vit, {}).visual_prompts) == len(built(vit, {"visual_depth": "99"}).visual_prompts) == 4
    assert len(built(vit, {"protocol": "transfer"}).visual_prompts) == 1


def test_low_rank_map_starts_as_the_identity_on_the_classes(vit: Backbone) -> None:
    method = Apex(adapter="low-rank", rank=3)
    method.attach(Frozen(vit), [FIT])
    method.build(method.frozen, [FIT])
    features = method.reference_features()
    torch.testing.assert_close(method.adapt(features), features)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text_tokens": "13"}, "text_tokens is 13, but 'a photo of a {}.' has 12 tokens before the name"),
        ({"template": "a photo"}, "template must hold {} once"),
        ({"text_depth": "2", "prompt": "manual"}, "text_depth=2 needs prompt=learned"),
        ({"visual_depth": "0", "text_tokens": "0", "adapter": "none"}, "nothing is trained"),
        ({"coefficient": "-0.5"}, "coefficient must be from 0 to 1, or -1"),
        ({"coefficient": "2"}, "coefficient must be"),
        ({"adapter": "quadratic"}, "adapter must be one of linear"),
        ({"rank": "-1"}, "rank must be"),
        ({"rank": "100000"}, "rank is 100000, but this backbone's features have"),
    ],
)
def test_what_cannot_be_learned_is_refused(vit: Backbone, options: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        built(vit, options)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


def test_resnet_is_refused_by_name_unless_it_gets_no_prompts(tmp_path: Path) -> None:
    resnet = tiny_backbone(tmp_path, "resnet")
    with pytest.raises(UsageError, match=rf"but {tmp_path} has a ResNet: choose .* or visual_depth=0"):
        built(resnet, {})
    assert image_calls(built(resnet, {"visual_depth": "0"})) == [0]
