"""DualAdapter and SimNL equal their official programs: caches, logits, losses, training, search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, ImagePool, Images, normalize
from shotfit.methods.base import Support
from shotfit.methods.dualadapter import DualAdapter
from shotfit.methods.recipe import Optimizer, Schedule
from shotfit.towers.edits import Edit
from shotfit.towers.texts import Texts

from .backbones import stand_in
from .cases import Case, assert_close, cases
from .recorded import FeaturePool, PixelPool, RecordedFrozen, Step, judged_by, token_texts, train

FORWARD, BACKWARD, TRAINED, FROM_ZERO = 1e-5, 5e-5, 2e-5, 1e-3
OFFICIAL = {
    "residual_template": "res_template",
    "residual_description": "res_cupl",
    "residual_keys": "res_keys",
    "residual_negative": "res_negative",
    "residual_negative_keys": "res_keys2",
}
KINDS = {"template": "template", "description": "cupl", "negative": "negative"}  # our names and the recorded ones
ALL = cases("dualadapter")
STEPPED = cases("dualadapter", lambda case: case.settings["training"])
SEARCHED = cases("dualadapter", lambda case: "out/search_best" in case)


class TokenFrozen(RecordedFrozen):
    """The case's backbone, where each prompt is its recorded tokens and no other prompt is known."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.rows: dict[str, tuple[int, ...]] = {}
        for kind in KINDS.values():
            prompts = [prompt for own in case.meta["prompts"][kind] for prompt in own]
            self.rows |= dict(zip(prompts, token_texts(case[f"in/tokens_{kind}"]).rows, strict=True))

    def encode(self, texts: Sequence[str]) -> Texts:
        return Texts.of(self.rows[text] for text in texts)

    def sentences(self, texts: Sequence[str]) -> Texts:
        return self.encode(texts)

    def class_texts(self, classes: Sequence[ClassList]) -> tuple[Texts, int]:
        return Frozen.class_texts(self, classes)


class FeatureFrozen(RecordedFrozen):
    """Recorded text features in the place of a text tower: the prompt "cupl 3" is the description of class 3."""

    def __init__(self, case: Case) -> None:
        Frozen.__init__(self, stand_in())
        self.recorded = [case[f"in/text_{kind}"] for kind in KINDS.values()]  # [embed, classes] each

    @property
    def embed(self) -> int:
        return len(self.recorded[0])

    def encode(self, texts: Sequence[str]) -> Texts:
        kinds = list(KINDS.values())
        return Texts.of((kinds.index(kind), int(name)) for kind, name in (text.split() for text in texts))

    def sentences(self, texts: Sequence[str]) -> Texts:
        return self.encode(texts)

    def class_texts(self, classes: Sequence[ClassList]) -> tuple[Texts, int]:
        return Frozen.class_texts(self, classes)

    def text(self, texts: Texts, edits: Sequence[Edit] = (), absent: int = 0) -> Tensor:
        return torch.stack([self.recorded[kind][:, index] for kind, index in texts.rows])


def _start(case: Case, folder: Path, **options: Any) -> tuple[DualAdapter, Support]:
    """The method as the case sets it, with the recorded residuals, and its support."""
    settings, meta = case.settings, case.meta
    names = meta.get("class_names") or [str(label) for label in range(settings["classes"])]
    templates = meta.get("templates") or {"positive": ["template {}"], "negative": ["negative {}"]}
    descriptions = meta.get("descriptions") or {name: [f"cupl {name}"] for name in names}
    file = folder / "descriptions.json"
    file.write_text(json.dumps(descriptions))
    method = DualAdapter(**(_options(case) | options), descriptions=str(file),
                         negative_templates="|".join(templates["negative"]))  # fmt: skip
    pool: ImagePool
    if "in/cache_images" in case:
        labels = case["in/cache_labels"]
        pool = PixelPool(case["in/cache_images"], labels).in_views(settings["augment_views"])
    else:
        labels = case["in/cache_values"].argmax(dim=1)
        pool = FeaturePool(case["in/cache_keys"].T.contiguous(), labels)
    support = Support(pool, pool, settings["shots"])
    method.attach(FeatureFrozen(case) if meta["backbone"] is None else TokenFrozen(case), [
        ClassList(case.name, tuple(names), tuple(templates["positive"]))
    ])  # fmt: skip
    method.prepare(support)
    # The official program takes K rows in a row for a class, also where their labels were made wrong afterwards.
    groups = torch.arange(settings["classes"]).repeat_interleave(settings["shots"])
    method.prepared = replace(method.prepared, groups=groups)
    method.build(method.frozen, method.classes)
    if not method.training_free:
        for name, official in OFFICIAL.items():
            method.get_parameter(name).data.copy_(case[f"param/{official}"])
    return method, support


def _options(case: Case) -> dict[str, Any]:
    settings, optimizer = case.settings, case.settings["optimizer"]
    shares = settings["text_mix"]
    assert abs(sum(shares) - 1) < 1e-9
    simnl = case.meta["variant"] == "simnl"
    assert ("negative" in settings["refinement_applies_to"]) == simnl
    grids = {
        f"{axis}_grid": "{},{},{}".format(*ends_and_steps)
        for axis, ends_and_steps in settings.get("search", {}).items()
    }
    rate = optimizer["lr_negative"] / optimizer["lr_positive"] if optimizer["lr_positive"] else 5.0
    return grids | {
        "revision": case.meta["variant"],
        "temperature": float(settings["logit_scale"]),
        "beta": float(settings["init_beta"]),
        "alpha": float(settings["init_alpha"]),
        "positive_weight": float(settings["init_lambda"]),
        "description_weight": float(shares[1]),
        "negative_scale": float(settings["negative_text_scale"]),
        "refinement_temperature": float(settings["refinement_temperature"]),
        "rerank_weight": float(settings["rerank_weight"]),
        "rerank_neighbours": settings["rerank_knn"],
        "rerank_scale": float(settings["rerank_scale"]),
        "consistency_weight": float(settings["consistency_weight"]),
        "consistency_axis": "dimension",
        "negative_rate": rate,
    }


def _batch(case: Case, step: int) -> tuple[Images, Tensor]:
    where = f"in/batch/{step}"
    given = f"{where}/images" if f"{where}/images" in case else f"{where}/features"
    return Images.of(case[given]), case[f"{where}/labels"]


def _validation(case: Case) -> Images:
    return Images.of(case["in/val_images" if "in/val_images" in case else "in/val_features"])


def _features(case: Case, name: str) -> Tensor:
    """Features that are an input, or an output where the case has a backbone."""
    return case[f"in/{name}" if f"in/{name}" in case else f"out/{name}"]


@pytest.mark.parametrize("case", ALL)
def test_texts_and_caches_equal_the_official_ones(case: Case, tmp_path: Path) -> None:
    method, _ = _start(case, tmp_path)
    for name, kind in KINDS.items():
        assert_close(method.get_buffer(name).T, _features(case, f"text_{kind}"), FORWARD, name)
        assert_close(method.adapted(name).T, case[f"out/new_text_{kind}"], FORWARD, f"adapted {name}")
    assert_close(method.get_buffer("keys").T, _features(case, "cache_keys"), FORWARD)
    assert_close(method.get_buffer("negative_keys"), case["out/negative_cache_keys"], FORWARD)
    assert_close(method.adapted("keys"), case["out/new_cache_keys"], FORWARD)
    assert_close(method.adapted("negative_keys"), case["out/new_negative_cache_keys"], FORWARD)
    hard, soft = _features(case, "cache_values"), case["out/soft_cache_values"]
    assert_close(F.one_hot(method.get_buffer("labels"), hard.shape[1]).float(), hard, 0.0)
    positive, negative = method.values()
    assert_close(positive, soft, FORWARD)
    assert_close(negative, soft if method.revision == "simnl" else hard, FORWARD)


@pytest.mark.parametrize("case", cases("dualadapter", lambda case: case.meta["backbone"] is not None))
def test_image_and_text_features_equal_the_official_ones(case: Case, tmp_path: Path) -> None:
    method, support = _start(case, tmp_path)
    frozen, pool = method.frozen, support.random
    for name, kind in KINDS.items():
        prompts = [prompt for own in case.meta["prompts"][kind] for prompt in own]
        assert_close(frozen.text(frozen.encode(prompts)), case[f"out/text_raw_{kind}"], FORWARD, name)
    items = torch.arange(len(support.labels))
    views = torch.stack([frozen.image(pool.take(items, view)) for view in range(pool.views)])
    assert_close(views, case["out/cache_view_features"], FORWARD)
    assert_close(normalize(frozen.image(_validation(case))), case["out/val_features"], FORWARD)
    steps = [name.split("/")[0] for name in case.under("in/batch/") if name.endswith("/images")]
    for step in steps:
        assert_close(frozen.image(_batch(case, int(step))[0]), case[f"out/batch/{step}/features"], FORWARD)


@pytest.mark.parametrize("case", ALL)
def test_logits_losses_and_gradients_equal_the_official_ones(case: Case, tmp_path: Path) -> None:
    method, _ = _start(case, tmp_path)
    images, labels = _batch(case, 1)
    features = normalize(method.image_features(images))
    logits = method.logits(images)
    assert_close(logits, case["out/train_logits"], FORWARD)
    assert_close(F.cross_entropy(logits, labels), case["out/loss_ce"], FORWARD)
    assert_close(method.rerank(features, labels), case["out/loss_rerank"], FORWARD)
    assert_close(method.consistency(), case["out/loss_consistency"], FORWARD)
    loss = method.loss(images, labels)
    assert_close(loss, case["out/loss"], FORWARD)
    gradients = torch.autograd.grad(loss, [method.get_parameter(name) for name in OFFICIAL])
    for gradient, official in zip(gradients, OFFICIAL.values(), strict=True):
        assert_close(gradient, case[f"grad/{official}"], BACKWARD, official)
    assert_close(method.logits(_validation(case)), case["out/val_logits_initial"], FORWARD)


def _train(method: DualAdapter, case: Case) -> list[Step]:
    settings, recorded = case.settings, case.settings["optimizer"]
    assert recorded["name"] == "AdamW" and recorded["schedule"] == "cosine to 0 per iteration"
    optimizer = Optimizer(
        "adamw", recorded["lr_positive"], recorded["weight_decay"], betas=tuple(recorded["betas"]), eps=recorded["eps"]
    )
    count = settings["epochs"] * settings["iterations_per_epoch"]
    batches = [_batch(case, step) for step in range(1, count + 1)]
    schedule = Schedule("cosine", "step")
    return train(method, optimizer, schedule, recorded["T_max"], settings["iterations_per_epoch"], batches)


@torch.no_grad()
def _set(method: DualAdapter, step: Step) -> None:
    for name, value in step.parameters.items():
        method.get_parameter(name).copy_(value)


@torch.no_grad()
def _best_epoch(method: DualAdapter, case: Case, steps: list[Step]) -> tuple[int, list[float], list[Tensor]]:
    """The first best epoch, whose residuals the method then has; accuracies in per cent and logits of all epochs."""
    ends, accuracies, logits = (
        steps[case.settings["iterations_per_epoch"] - 1 :: case.settings["iterations_per_epoch"]],
        [],
        [],
    )
    for end in ends:
        _set(method, end)
        logits.append(method.logits(_validation(case)))
        accuracies.append(100 * float((logits[-1].argmax(dim=1) == case["in/val_labels"]).double().mean()))
    best = accuracies.index(max(accuracies))
    _set(method, ends[best])
    return best, accuracies, logits


@pytest.mark.parametrize("case", STEPPED)
def test_training_and_choice_of_the_epoch_equal_the_official_ones(case: Case, tmp_path: Path) -> None:
    method, _ = _start(case, tmp_path)
    zero = not any(bool(case[f"param/{official}"].any()) for official in OFFICIAL.values())
    steps = _train(method, case)
    for number, step in enumerate(steps, start=1):
        rates = torch.tensor([step.lr, step.lr * method.negative_rate])
        assert_close(rates, case[f"step/{number}/lr"], 1e-6, f"rates of step {number}")
        assert_close(step.loss, case[f"step/{number}/loss"], FORWARD, f"loss {number}")
        for name, official in OFFICIAL.items():
            if f"step/{number}/{official}" in case:
                recorded = case[f"step/{number}/{official}"]
                assert_close(step.parameters[name], recorded, FROM_ZERO if zero else BACKWARD, f"{name}, {number}")
    best, accuracies, logits = _best_epoch(method, case, steps)
    assert best == int(case["out/best_epoch"])
    assert_close(torch.tensor(accuracies), case["out/val_accuracy_epoch"], 1e-6)
    for epoch, recorded in case.under("out/val_logits_epoch/").items():
        assert_close(logits[int(epoch)], recorded, TRAINED, f"logits after epoch {epoch}")


@pytest.mark.parametrize("case", SEARCHED)
def test_search_and_test_equal_the_official_ones(case: Case, tmp_path: Path) -> None:
    method, support = _start(case, tmp_path)
    if case.settings["training"]:
        _best_epoch(method, case, _train(method, case))
    _compare_search(method, support, case)


def _compare_search(method: DualAdapter, support: Support, case: Case) -> None:
    labels = case["in/val_labels"]
    method.solve(support, judged_by(_validation(case), labels, len(support.labels)))
    axes = [case[f"out/search_grid_{axis}"] for axis in ("beta", "alpha", "lambda")]
    for ours, recorded in zip(method.grids(), axes, strict=True):
        assert_close(torch.tensor(ours), recorded, 1e-6)
    one = 100 / len(labels)
    difference = (method.right * one - case["out/search_accuracy"]).abs()
    assert float(difference.max()) < 1.01 * one
    assert float((difference > 0.5 * one).float().mean()) <= 0.002
    assert_close(method.get_buffer("coefficients"), case["out/search_best"], 1e-6)
    logits = method.logits(Images.of(case["in/test_features"]))
    assert_close(logits, case["out/test_logits"], TRAINED if case.settings["training"] else FORWARD)
    accuracy = 100 * (logits.argmax(dim=1) == case["in/test_labels"]).double().mean()
    assert abs(float(accuracy) - float(case["out/test_accuracy"])) < 1e-3


def _untouched(case: Case) -> bool:
    """Whether the case leaves all residuals at zero."""
    return not case.settings["training"] and not any(value.any() for value in case.under("param/res_").values())


@pytest.mark.parametrize("case", cases("dualadapter", _untouched, partly=True))
def test_training_free_variant_equals_the_official_program_at_rate_zero(case: Case, tmp_path: Path) -> None:
    method, support = _start(case, tmp_path, training_free=True)
    assert method.training_recipe() is None and not list(method.parameters())
    assert_close(method.logits(_validation(case)), case["out/val_logits_initial"], FORWARD)
    if "out/search_best" in case:
        _compare_search(method, support, case)
