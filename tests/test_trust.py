"""Calibration, prediction sets and unknown images: on logits whose answer is known, and through a fit and a file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.trust import auroc, evaluate_trust, fpr_at
from shotfit.fitting.asked import Asked
from shotfit.fitting.calibration import calibrate, log_losses
from shotfit.fitting.conformal import needed, rank_of, thresholds, true_class_scores
from shotfit.fitting.fit import fit
from shotfit.fitting.heldout import HeldOut
from shotfit.fitting.model import Model
from shotfit.fitting.trust import Trust, trust_of
from shotfit.fitting.unknown import strangeness_of
from shotfit.testing.tiny import tiny_backbone, tiny_task


def held(logits: Tensor, labels: Tensor, seed: int = 0) -> HeldOut:
    features = torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(seed))
    return HeldOut(logits, labels, F.normalize(features, dim=1), "by hand")


def drawn(images: int, classes: int, seed: int = 0, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Logits that are calibrated (with the bias, if any), and labels drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    truth = logits if bias is None else logits + bias
    return logits, torch.multinomial(truth.softmax(dim=1), 1, generator=generator).flatten()


@pytest.mark.parametrize("factor", [0.02, 0.3, 5.0, 60.0])
def test_temperature_undoes_a_factor(factor: float) -> None:
    logits, labels = drawn(4000, 5)
    found, calibrated = calibrate(held(factor * logits, labels), (5,))
    # a temperature below 1 stops within one standard error of the best
    assert math.log(found.temperature) == pytest.approx(math.log(factor), abs=0.2)
    assert found.bias is None
    losses = [log_losses(own, labels, (5,)).mean().item() for own in (calibrated, logits)]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


def test_calibrated_logits_stay_nearly_as_they_are() -> None:
    logits, labels = drawn(400, 5, seed=3)
    assert calibrate(held(logits, labels), (5,))[0].temperature == pytest.approx(1, abs=0.15)


def test_few_images_that_are_all_right_do_not_make_a_model_sure() -> None:
    logits = 2 * F.one_hot(torch.arange(6) % 3, 3).float()
    assert calibrate(held(logits, torch.arange(6) % 3), (3,))[0].temperature > 0.3


def test_one_image_is_enough() -> None:
    assert 0.01 <= calibrate(held(torch.tensor([[1.0, 2.0]]), torch.tensor([0])), (2,))[0].temperature <= 100


def test_bias_is_learned_where_a_class_is_preferred_far_too_often() -> None:
    wrong = torch.tensor([3.0, 0.0, -3.0])
    logits, labels = drawn(1500, 3, bias=-wrong)
    found, _ = calibrate(held(logits, labels), (3,))
    assert found.bias is not None
    assert (found.bias - found.bias.mean() + wrong).abs().max() < 0.8


def test_bias_that_only_nearly_equal_images_ask_for_is_not_learned() -> None:
    # four pictures a class, each forty times: with random folds they vouch for each other, in blocks they do not
    pictures = held(torch.zeros(12, 3), torch.arange(12) % 3).features
    logits = 3 * torch.randn(12, 3, generator=torch.Generator().manual_seed(2))
    rows, labels = torch.arange(12).repeat_interleave(40), (torch.arange(12) % 3).repeat_interleave(40)
    assert calibrate(HeldOut(logits[rows], labels, pictures[rows], "by hand"), (3,))[0].bias is None


def test_tasks_share_a_temperature_and_judge_each_image_among_its_own_classes() -> None:
    (one, of_one), (two, of_two) = drawn(1500, 3, seed=1), drawn(1500, 4, seed=2)
    noise = torch.full((1500, 1), 50.0)  # classes of the other task, which must not count
    logits = torch.cat([torch.cat([one, noise.expand(-1, 4)], 1), torch.cat([noise.expand(-1, 3), two], 1)])
    found, _ = calibrate(held(4 * logits, torch.cat([of_one, of_two + 3])), (3, 4))
    assert found.temperature == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize(("coverage", "images"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99), (0.8, 4)])
def test_coverage_needs_its_images(coverage: float, images: int) -> None:
    assert needed(coverage) == images
    assert rank_of(images, coverage) <= images < rank_of(images - 1, coverage) + 1


@settings(deadline=None, max_examples=25)
@given(coverage=st.sampled_from([0.5, 0.8, 0.9]), images=st.integers(20, 60), seed=st.integers(0, 2**31))
def test_sets_of_exchangeable_images_cover_what_they_say(coverage: float, images: int, seed: int) -> None:
    # leave one out of n + 1: by exchangeability exactly ceil((n + 1) c) or more of the n + 1 images are covered
    logits, labels = drawn(images, 4, seed=seed)
    scores = true_class_scores(logits.softmax(dim=1), labels)
    covered = [
        bool(scores[i] <= thresholds(scores[torch.arange(images) != i], labels, tuple("abcd"), coverage)[0])
        for i in range(images)
    ]
    assert np.mean(covered) >= coverage - 1e-9


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_sets_per_class_cover_each_class(seed: int) -> None:
    logits, labels = drawn(6000, 3, seed=seed, bias=torch.tensor([2.0, 0.0, -1.0]))
    probabilities = logits.softmax(dim=1)
    fitted, fresh = slice(0, 3000), slice(3000, 6000)
    bounds = thresholds(
        true_class_scores(probabilities[fitted], labels[fitted]), labels[fitted], tuple("abc"), 0.9, per_class=True
    )
    inside = (1 - probabilities[fresh]) <= torch.from_numpy(bounds)
    for number in range(3):
        own = labels[fresh] == number
        spread = (0.09 / int(own.sum()) + 0.09 / int((labels[fitted] == number).sum())) ** 0.5
        assert inside[own, number].double().mean() >= 0.9 - 5 * spread


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, 95.0, math.nan, math.inf])
def test_coverage_outside_its_range_is_refused(coverage: float) -> None:
    with pytest.raises(UsageError, match="expected a share between 0 and 1"):
        Asked(coverage=coverage)


def test_too_few_images_are_refused_by_number() -> None:
    scores, labels = torch.linspace(0, 1, 18), torch.arange(18) % 2
    with pytest.raises(UsageError, match="needs 19 held-out images, but the model was fitted with 18"):
        thresholds(scores, labels, ("cat", "dog"), 0.95)
    with pytest.raises(UsageError, match="19 held-out images of each class, but the class 'cat' was fitted with 9"):
        thresholds(scores, labels, ("cat", "dog"), 0.95, per_class=True)
    with pytest.raises(UsageError, match=r"at most 0\.94"):
        thresholds(scores, labels, ("cat", "dog"), 0.96)
    assert needed(0.94) <= 18


def test_unlike_images_are_strange() -> None:
    features = F.normalize(torch.eye(4)[[0, 0, 1, 1]] + 0.1 * torch.rand(4, 4, generator=torch.Generator()), dim=1)
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7]])
    measure, own = strangeness_of(probabilities, features, torch.tensor([0, 0, 1, 1]), 2)
    unlike, unsure = measure(probabilities[:1], torch.eye(4)[[3]]), measure(torch.tensor([[0.5, 0.5]]), features[:1])
    assert unlike > own.max() and unsure > measure(probabilities[:1], features[:1])


def test_class_with_one_held_out_image_has_a_finite_strangeness() -> None:
    features = F.normalize(torch.rand(3, 4), dim=1)
    measure, own = strangeness_of(torch.full((3, 2), 0.5), features, torch.tensor([0, 0, 1]), 2)
    assert own.isfinite().all() and measure(torch.full((3, 2), 0.5), features).isfinite().all()


def test_auroc_equals_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    generator = torch.Generator().manual_seed(0)
    known, unknown = torch.randint(0, 9, (50,), generator=generator), torch.randint(3, 12, (30,), generator=generator)
    truth = np.repeat([0, 1], [50, 30])
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, torch.cat([known, unknown]).numpy()))
    assert fpr_at(known.float(), torch.tensor([100.0])) == 0


def test_part_of_one_task_is_that_of_its_own_images() -> None:
    logits, labels = drawn(120, 5)
    labels = torch.arange(120) % 5
    own = trust_of(held(logits, labels), (2, 3)).for_task(1, (2, 3))
    assert len(own) == 72 and own.labels.max() == 2 and own.means.shape[0] == 3
    assert own.strangest(0.5) == own.strange.sort().values[36].item()


def test_state_of_trust_comes_back() -> None:
    logits, labels = drawn(1500, 3, bias=torch.tensor([3.0, 0.0, -3.0]))
    trust = trust_of(held(logits, labels), (3,))
    again = Trust.restore(trust.state(), trust.summary, (3,))
    assert again is not None and trust.calibration.bias is not None
    torch.testing.assert_close(again.calibration(logits), trust.calibration(logits), rtol=0, atol=0)
    assert again.thresholds("abc", 0.9).tolist() == trust.thresholds("abc", 0.9).tolist()
    for name in ("scores", "means"):
        with pytest.raises(ValueError, match="does not fit together"):
            Trust.restore(trust.state() | {f"trust.{name}": torch.zeros(2)}, trust.summary, (3,))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny_backbone(folder / "backbone")
    task = tiny_task(folder / "photos", images=14)
    model = fit(task, "tip_adapter", backbone=str(folder / "backbone"), store=MemoryStore(), keep=True)
    model.save(folder / "model")
    return folder


def format_1(home: Path, folder: Path) -> Path:
    """The model as an older shotfit wrote it."""
    model = Model.open(home / "model", store=MemoryStore(), trust_backbone=True)
    model.trust = None
    model.record.pop("trust")
    model.save(folder)
    record = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps(record | {"format": 1}))
    return folder


def test_saved_model_answers_as_the_fitted_one(home: Path) -> None:
    images = sorted((home / "photos").rglob("*.png"))[:5]
    asked = Asked(coverage=0.9, unknown=True, known_share=0.9)
    first, again = (
        Model.open(home / "model", store=MemoryStore(), trust_backbone=True).predict(images, asked=asked)
        for _ in range(2)
    )
    assert first == again
    assert all(one.set is not None and one.unknown is not None for one in first)
    record = json.loads((home / "model" / "adapter.json").read_text())
    assert record["format"] == 2 and record["trust"]["source"] == "cross-validation of the support images (4 folds)"
    assert record["trust"]["log_loss"] <= record["trust"]["log_loss_before"] + 0.05


def test_prediction_is_calibrated(home: Path) -> None:
    model = Model.open(home / "model", store=MemoryStore(), trust_backbone=True)
    assert model.trust is not None
    model.trust = None
    image = next((home / "photos").rglob("*.png"))
    plain = model.predict(image, top=3)[0]
    calibrated = Model.open(home / "model", store=MemoryStore(), trust_backbone=True).predict(image, top=3)[0]
    assert plain.labels == calibrated.labels and plain.probabilities != calibrated.probabilities


def test_model_of_format_1_opens_and_says_what_it_lacks(home: Path, tmp_path: Path) -> None:
    model = Model.open(format_1(home, tmp_path / "old"), store=MemoryStore(), trust_backbone=True)
    image = next((home / "photos").rglob("*.png"))
    assert model.predict(image)[0].set is None
    for asked in (Asked(unknown=True), Asked(coverage=0.9)):
        with pytest.raises(UsageError, match="this model of an older format has kept none: fit it again"):
            model.predict(image, asked=asked)


def test_one_shot_has_no_held_out_images_and_says_so(home: Path) -> None:
    task = tiny_task(home / "photos", images=14)
    model = fit(task, "tip_adapter", shots=1, backbone=str(home / "backbone"), store=MemoryStore(), keep=True)
    assert model.trust is None and model.record["trust"] == {}
    with pytest.raises(UsageError, match="too few shots, or the check was off"):
        model.predict(next((home / "photos").rglob("*.png")), asked=Asked(unknown=True))


def test_other_classes_keep_the_temperature_and_refuse_the_rest(home: Path) -> None:
    task = tiny_task(home / "photos", images=14)
    model = fit(task, "zero_shot", backbone=str(home / "backbone"), store=MemoryStore())
    other = model.for_classes(["robin", "wren"])
    assert other.trust is not None and model.trust is not None
    assert other.trust.calibration.temperature == model.trust.calibration.plain_temperature
    with pytest.raises(UsageError, match="for the classes that the model was fitted to"):
        other.predict(next((home / "photos").rglob("*.png")), asked=Asked(coverage=0.9))


def test_tensors_of_another_model_are_refused(home: Path, tmp_path: Path) -> None:
    model = Model.open(home / "model", store=MemoryStore(), trust_backbone=True)
    model.record["trust"] = model.record["trust"] | {"temperature": -1.0}
    model.save(tmp_path / "model")
    with pytest.raises(ShotfitError, match="is damaged or of another version"):
        Model.open(tmp_path / "model", store=MemoryStore(), trust_backbone=True)


def test_evaluation_shows_before_and_after(home: Path) -> None:
    task = tiny_task(home / "photos", images=14)
    model = Model.open(home / "model", store=MemoryStore(), trust_backbone=True)
    found = evaluate_trust(model, task.test, Asked(coverage=0.9), unknown=task.train[:6])
    assert model.trust is not None and found.calibration_error != found.calibration_error_before
    assert found.covered is not None and found.mean_set_size is not None and found.auroc is not None
    assert 0 <= found.covered <= 1 and 0 <= found.mean_set_size <= 3 and 0 <= found.auroc <= 1
