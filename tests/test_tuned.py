"""Methods that change weights: which blocks, what a fitted model costs, two stages, averages, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, ImagePool, Images
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.fit import fit
from shotfit.fitting.model import load
from shotfit.methods.base import Method
from shotfit.methods.clip_lora import ClipLora
from shotfit.methods.clip_svd import ClipSVD
from shotfit.methods.fine_tune import FineTune, WiseFT
from shotfit.methods.fine_tune.cite import contrasted, diverged
from shotfit.methods.tuned import chosen_blocks
from shotfit.methods.two_stage import TwoStage
from shotfit.testing.tiny import random_backbone, tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone
from shotfit.towers.config import BackboneConfig, BlocksConfig, ImageConfig, TextConfig
from shotfit.towers.preprocess import clip_preprocessing


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("resnet"), "resnet")


def attached(method: Method, backbone: Backbone) -> Method:
    method.attach(Frozen(backbone), [ClassList("task", ("red thing", "blue"))])
    method.check()
    method.build(method.frozen, method.classes)
    return method


def test_blocks_by_part_and_number() -> None:
    parts = {"all": [1, 2, 3, 4], "bottom": [1], "up": [4], "half-up": [3, 4], "top3": [2, 3, 4], "1, 3-4": [1, 3, 4]}
    assert {part: chosen_blocks("m", "text", 4, part) for part in parts} == parts
    assert [len(chosen_blocks("m", "text", 12, part)) for part in ("bottom", "mid", "up", "half-bottom")] == [
        4,
        4,
        4,
        6,
    ]
    for wrong in ("0-2", "5", "3-2", "", "1-", "a", "-1", "1,,2"):
        with pytest.raises(UsageError, match="text_blocks"):
            chosen_blocks("m", "text", 4, wrong)


def test_published_numbers_of_parameters() -> None:
    image, text = (BlocksConfig(width, 12, 8, width, "quick_gelu", 1e-5) for width in (768, 512))
    vision = ImageConfig(32, 16, image, 512, True, False, True, "token", True)
    words = TextConfig(16, 8, text, 512, True, "end", 15, 0, False)
    weights = random_backbone(BackboneConfig(vision, words, clip_preprocessing(32), False))
    for method, count in ((ClipSVD(), 92_160), (TwoStage(), 61_440), (ClipLora(), 184_320)):
        method.attach(Frozen(weights), [])
        assert sum(torch.Size(shape).numel() for shape in method.shapes().values()) == count


@pytest.mark.parametrize("make", [ClipLora, ClipSVD, TwoStage, FineTune])
@torch.no_grad()
def test_all_begin_as_zero_shot(make: type[Method], backbone: Backbone) -> None:
    method, pixels = attached(make(), backbone), Images.of(torch.randn(3, 3, 32, 32))
    frozen = method.frozen
    texts, _ = frozen.class_texts(method.classes)
    expected = frozen.logits(frozen.image(pixels), frozen.text(texts))
    torch.testing.assert_close(method.logits(pixels), expected, rtol=0, atol=2e-4)


def test_resnets_are_tuned_whole_or_not_at_all(resnet: Backbone) -> None:
    for method in (ClipLora(), ClipSVD(), TwoStage()):
        with pytest.raises(UsageError, match="towers=text"):
            attached(method, resnet)
        attached(type(method)(towers="text"), resnet)
    assert any(name.startswith("image_2_") for name, _ in attached(FineTune(), resnet).named_parameters())
    assert not any("running" in name for name, _ in attached(FineTune(), resnet).named_parameters())


def test_fitted_model_multiplies_whole_matrices(backbone: Backbone) -> None:
    method = attached(ClipSVD(), backbone)
    pixels, parameters = Images.of(torch.randn(2, 3, 32, 32)), dict(method.named_parameters())
    with torch.no_grad():
        for value in parameters.values():
            value.mul_(1.1)
        factors = method.logits(pixels)
        method.requires_grad_(False)
        method.bake()
        torch.testing.assert_close(method.logits(pixels), factors)
        assert isinstance(method, ClipSVD)
        assert all(isinstance(value, torch.Tensor) for edit in method.used() for value in edit.values.values())


def test_two_stages_learn_and_mix_known_and_new_classes(tmp_path: Path, backbone: Backbone) -> None:
    task = tiny_task(tmp_path / "images")
    model = fit(
        task, TwoStage(steps_per_shot=40, second_lr=0.05), shots=4, recipe="paper", backbone=backbone,
        store=MemoryStore(), keep=True, check=False,
    )  # fmt: skip
    method = model.method
    assert isinstance(method, TwoStage) and method.course_of_training["steps"] == 96
    assert method.course_of_training["right_after"] == 1
    mixed = model.for_classes([task.classes.names[1], "another"]).method
    rows = mixed.class_features()
    torch.testing.assert_close(rows[0], method.get_buffer("classifier")[1])
    assert not torch.equal(rows[1], method.get_buffer("classifier")[0])


def test_two_stages_of_a_single_step_are_saved_and_opened(tmp_path: Path, backbone: Backbone) -> None:
    task = tiny_task(tmp_path / "images")
    model = fit(
        task, TwoStage(steps_per_shot=1), shots=1, recipe="paper", backbone=backbone, store=MemoryStore(), keep=True,
        check=False,
    )  # fmt: skip
    assert model.method.course_of_training["steps"] == 1
    opened = load(model.save(tmp_path / "model"), backbone)
    torch.testing.assert_close(opened.method.get_buffer("classifier"), model.method.get_buffer("classifier"))


def test_known_class_is_known_with_spaces_for_underscores(tmp_path: Path, backbone: Backbone) -> None:
    method = attached(TwoStage(fraction=0), backbone)
    method.attach(method.frozen, [ClassList("", ("sea_lion", "cat"))])
    method.build(method.frozen, method.classes)
    method.register_buffer("classifier", torch.eye(method.frozen.embed)[:2])
    rows = method.for_classes([ClassList("", ("cat", "sea lion", "sea lions"))]).class_features()
    assert torch.equal(rows[:2], torch.eye(method.frozen.embed)[[1, 0]]) and rows[2].count_nonzero() > 1


def test_wise_ft_is_between_zero_shot_and_fine_tuning(tmp_path: Path, backbone: Backbone) -> None:
    task = tiny_task(tmp_path / "images")

    def fitted(method: Method) -> dict[str, torch.Tensor]:
        return fit(
            task, method, shots=2, epochs=3, lr=1e-3, recipe="paper", backbone=backbone, store=MemoryStore(),
            keep=True, check=False,
        ).method.state()  # fmt: skip

    begin = attached(FineTune(), backbone)
    begin.attach(begin.frozen, [task.classes])
    begin.build(begin.frozen, [task.classes])
    tuned, half, none = fitted(FineTune()), fitted(WiseFT(mix=0.25)), fitted(WiseFT(mix=0.0))
    for name, start in begin.state().items():
        torch.testing.assert_close(none[name], start)
        torch.testing.assert_close(half[name], 0.75 * start + 0.25 * tuned[name], rtol=1e-5, atol=1e-6)


# CLIP-CITE's terms of the loss of full fine-tuning


def test_contrast_is_against_texts_of_other_classes() -> None:
    scores = torch.randn(4, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 2])
    other = scores.clone()
    other[0, 2] += 5  # image and text of one class
    other[2, 0] -= 3
    assert contrasted(other, labels) == contrasted(scores, labels) > 0
    assert contrasted(scores, torch.zeros(4, dtype=torch.long)) == 0  # nothing to tell apart
    assert contrasted(scores + 100 * torch.eye(4), labels) < 1e-9
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(contrasted(scores[order][:, order], labels[order]), contrasted(scores, labels))
    torch.testing.assert_close(contrasted(scores.T, labels), contrasted(scores, labels))
    expected = sum(torch.nn.functional.cross_entropy(own, torch.arange(4)) for own in (scores, scores.T))
    torch.testing.assert_close(contrasted(scores, torch.arange(4)), torch.as_tensor(expected))


def test_divergence_is_none_from_itself_and_counts_no_shift() -> None:
    scores, frozen = torch.randn(2, 5, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    assert abs(diverged(frozen + 3, frozen)) < 1e-12 < diverged(scores, frozen)
    p, p0 = scores.softmax(dim=1), frozen.softmax(dim=1)
    torch.testing.assert_close(diverged(scores, frozen), (p * (p / p0).log()).sum(dim=1).mean())


def test_divergence_pulls_nowhere_from_the_frozen_model(tmp_path: Path, backbone: Backbone) -> None:
    pool = ImagePool(tiny_task(tmp_path / "images", images=1).train)
    found = []
    for distill in (0.0, 100.0):
        method = attached(FineTune(distill=distill, towers="both" if distill else "image"), backbone)
        method.loss(pool.all(), torch.tensor([0, 1, 0])).backward()
        found.append({name: value.grad for name, value in method.named_parameters()})
    for name, gradient in found[0].items():
        assert gradient is not None
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4)


def test_both_towers_learn_and_texts_predict_new_classes(tmp_path: Path, backbone: Backbone) -> None:
    task = tiny_task(tmp_path / "images")
    model = fit(
        task, WiseFT(towers="both", contrast=0.7, distill=0.1), shots=4, epochs=3, lr=1e-3, recipe="paper",
        backbone=backbone, store=MemoryStore(), keep=True, check=False,
    )  # fmt: skip
    start = WiseFT(towers="both", contrast=0.7)
    start.attach(model.frozen, [task.classes])
    start.build(model.frozen, [task.classes])
    learned = dict(model.method.named_parameters())
    moved = {name.partition("_")[0] for name, own in start.named_parameters() if not torch.equal(own, learned[name])}
    assert moved == {"image", "text", "head", "bias"}
    names = [task.classes.names[1], "another"]
    rows = model.for_classes(names).method.class_features()
    torch.testing.assert_close(rows[0], model.method.class_features()[1])
    saved = model.save(tmp_path / "model")
    again = load(saved, backbone=backbone, trust_backbone=True).for_classes(names).method.class_features()
    torch.testing.assert_close(again, rows)


@pytest.mark.parametrize("options", [{"towers": "both"}, {"variant": "linear", "contrast": 1.0}])
def test_terms_that_would_train_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="contrast"):
        FineTune(**options)


def test_dropout_leaves_out_the_same_inputs_for_the_same_seed(tmp_path: Path, backbone: Backbone) -> None:
    pool = ImagePool(tiny_task(tmp_path / "images", images=1).train)
    losses = []
    for dropout in (0.5, 0.5, 0.0):
        method = attached(ClipLora(dropout=dropout, rank=4), backbone)
        with torch.no_grad():
            for number, value in enumerate(method.parameters()):
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(number)))
        torch.manual_seed(0)
        losses.append(float(method.loss(pool.all(), torch.tensor([0, 1, 0])).detach()))
    assert losses[0] == losses[1] != losses[2]


def test_wrong_matrices_are_refused() -> None:
    for make, wrong in ((ClipLora, "qx"), (ClipLora, ""), (ClipSVD, "mlp")):
        with pytest.raises(ShotfitError, match="matrices must be some of the letters"):
            make(matrices=wrong)
