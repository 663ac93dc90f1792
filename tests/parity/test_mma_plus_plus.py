"""MMA++ equals the official program: features at every scale, losses, gradients, training, new classes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.methods.mma import MMAPlusPlus
from shotfit.methods.mma.network import Tower
from shotfit.towers.layout import Savings
from shotfit.towers.texts import Texts

from .backbones import build
from .cases import Case, assert_close, cases
from .recorded import class_list, need_clip_vocabulary, optimizer_of, schedule_of, token_texts, train
from .test_mma import _name

FORWARD, BACKWARD, TRAINED, CHANGE = 2e-5, 5e-5, 5e-5, 5e-4


class Recorded(MMAPlusPlus):
    """The method with the case's templates, which may name a class twice, and its draws."""

    case = cast(Case, None)  # a subclass of each case has it
    row = 0  # of the draws: 0 for `out/loss`, k for step k
    passes = 0

    def class_texts(self) -> list[list[str]]:
        if self.descriptions:
            return super().class_texts()
        names = [name for task in self.classes for name in task.readable]
        return [[template.replace("{}", name) for template in self.case.meta["templates"]] for name in names]

    def drawn(self) -> Texts:
        super().drawn()
        (texts, counts), chosen = self.encoded, self.case["in/prompt_index"][self.row].tolist()
        starts = itertools.accumulate(counts, initial=0)
        return Texts(tuple(texts.rows[start + index] for start, index in zip(starts, chosen, strict=False)))

    def drawn_share(self) -> float:
        assert 0 <= super().drawn_share() < 1
        return float(self.case["in/scale_draw"][self.row])

    def features(self, texts: Texts, images: Images, scale: float) -> tuple[Tensor, Tensor]:
        self.passes += 1
        self.found = super().features(texts, images, scale)
        return self.found

    def kept(self, tower: Tower, site: int, hidden: Tensor, seed: int) -> Tensor:
        kind, kept = "main" if self.passes % 2 else "random", super().kept(tower, site, hidden, seed)
        assert kept.unique().tolist() == pytest.approx([0, 1 / (1 - self.dropout)])
        name = {"text": "text", "image": "vision"}[tower]
        recorded = self.case[f"in/dropout/{self.row}/{kind}/{name}.{site}"].view_as(hidden)
        return recorded.to(hidden.dtype) / (1 - self.dropout)


def _start(case: Case, folder: Path, savings: Savings = Savings()) -> Recorded:
    need_clip_vocabulary()
    settings, options = case.settings, dict[str, Any]()
    if settings["input_prompts"] == "cupl":
        file = folder / "descriptions.json"
        file.write_text(json.dumps(case.meta["descriptions"]))
        options["descriptions"] = str(file)
    method = type("Recorded", (Recorded,), {"case": case})(
        start=settings["adapter_start"],
        end=settings["adapter_end"],
        dim=settings["adapter_dim"],
        scale=float(settings["train_scale"]),
        prediction_scale=float(settings["test_scale"]),
        consistency=float(settings["consistency"]),
        dropout=float(settings["dropout"]),
        pairing=settings["pairing"],
        **options,
    )
    # masks are recorded for every token of every padded row
    frozen = Frozen(build(case), savings=Savings.none() if settings["dropout"] else savings)
    method.attach(frozen, [class_list(case)])
    method.check()
    method.build(frozen, method.classes)
    official = {_name(method, name): value for name, value in case.under("param/").items()}
    assert official.keys() == dict(method.named_parameters()).keys()
    with torch.no_grad():
        for name, value in official.items():
            method.get_parameter(name).copy_(value)
    return method


@pytest.mark.parametrize("case", cases("mma_plus_plus"))
def test_texts_are_the_official_ones(case: Case, tmp_path: Path) -> None:
    assert _start(case, tmp_path).encoded[0].rows == token_texts(case["in/tokens"]).rows


@pytest.mark.parametrize("savings", [Savings(), Savings.none()], ids=["savings", "none"])
@pytest.mark.parametrize("case", cases("mma_plus_plus"))
def test_loss_and_gradients_equal_the_official_ones(case: Case, savings: Savings, tmp_path: Path) -> None:
    method, images = _start(case, tmp_path, savings), Images.of(case["in/images"])
    loss = method.loss(images, case["in/labels"])
    assert abs(float(loss.detach()) - float(case["out/loss"])) <= FORWARD
    if method.consistency:  # the last pass was the one at the smaller scale
        for kind, features in zip(("text", "image"), method.found, strict=True):
            assert_close(normalize(features), case[f"out/random/{kind}_features"], FORWARD, f"{kind} at random")
    torch.autograd.backward(loss)
    method.adjust_gradients()
    for name, value in case.under("grad/").items():
        gradient = method.get_parameter(_name(method, name)).grad
        assert gradient is not None
        assert_close(gradient, value, BACKWARD, name)
    method.passes = 0
    text, image = method.features(method.drawn(), images, method.scale)
    assert_close(normalize(text), case["out/train/text_features"], FORWARD, "text")
    assert_close(normalize(image), case["out/train/image_features"], FORWARD, "image")
    assert_close(method.frozen.logits(image, text), case["out/train/logits"], FORWARD, "logits")


@torch.no_grad()
@pytest.mark.parametrize("case", cases("mma_plus_plus"))
def test_predictions_equal_the_official_ones(case: Case, tmp_path: Path) -> None:
    method, images = _start(case, tmp_path), Images.of(case["in/images"])
    assert_close(normalize(method.text_features()), case["out/test/text_features"], FORWARD, "text")
    assert_close(normalize(method.image_features(images)), case["out/test/image_features"], FORWARD, "image")
    assert_close(method.logits(images), case["out/test/logits"], FORWARD, "logits")
    method.prediction_scale = 0.0
    assert_close(method.logits(images), case["out/zero_shot_logits"], FORWARD, "zero-shot")


@pytest.mark.parametrize("case", cases("mma_plus_plus"))
def test_training_equals_the_official_one(case: Case, tmp_path: Path) -> None:
    method, rows = _start(case, tmp_path), case.settings["step_rows"]
    schedule, period = schedule_of(case.settings)

    def batches() -> Any:
        for number, (first, last) in enumerate(rows, start=1):
            method.row, method.passes = number, 0
            yield Images.of(case["in/images"][first:last]), case["in/labels"][first:last]

    each = case.settings["batches_per_epoch"]
    steps = train(method, optimizer_of(case.settings), schedule, period, each, batches())
    assert_close(torch.tensor([step.lr for step in steps]), torch.tensor(case.settings["learning_rates"]), 1e-6)
    for number, step in enumerate(steps, start=1):
        assert abs(float(step.loss) - float(case[f"step/{number}/loss"])) <= TRAINED
    for official, start in case.under("param/").items():
        ours, theirs = steps[-1].parameters[_name(method, official)], case[f"step/{len(rows)}/{official}"]
        assert_close(ours, theirs, TRAINED, official)
        assert_close(ours - start, theirs - start, CHANGE, f"change of {official}")
    logits = method.logits(Images.of(case["in/images"]))
    assert_close(logits, case[f"out/test/logits_after_{len(rows)}_steps"], TRAINED)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("mma_plus_plus", lambda case: "out/new_logits" in case))
def test_new_classes_are_predicted_as_by_the_official_program(case: Case, tmp_path: Path) -> None:
    other = _start(case, tmp_path).for_classes([ClassList("new", tuple(case.meta["new_class_names"]))])
    assert isinstance(other, MMAPlusPlus) and other.encoded[0].rows == token_texts(case["in/new_tokens"]).rows
    assert_close(normalize(other.class_features()), case["out/new_text_features"], FORWARD)
    assert_close(other.logits(Images.of(case["in/images"])), case["out/new_logits"], FORWARD)
