"""SoftCPT and hard sharing equal the official program: prompts, features, training, sampling, new classes and tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from shotfit.data.shots import draw
from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.evaluation.evaluate import score
from shotfit.methods.numbering import among_own, labels_by_task, tasks_of
from shotfit.methods.recipe import Schedule
from shotfit.methods.softcpt import CoOpMT, SoftCPT
from shotfit.towers.texts import Texts

from .backbones import build
from .cases import Case, assert_close, cases
from .recorded import Step, assert_features, assert_losses, need_clip_vocabulary, optimizer_of, train

FORWARD, BACKWARD, CHANGE, LATER = 2e-5, 1e-4, 5e-4, 1e-3
UNUSED = 3e-3  # change of a parameter that only decays: its gradient is zero
VARIANTS = {(False, False): "na", (True, False): "ca", (True, True): "cs"}
OFFICIAL = {
    "projection": "prompt_gen.proj",
    "task_context": "task_prompt_learner.ctx",
    "class_context": "class_prompt_learner.ctx",
    "context": "prompt_learner.ctx",
}

FITS = cases("softcpt", lambda case: "out/text_features_raw" in case)
SOFT = [parameter for parameter in FITS if not parameter.values[0].settings["hard"]]
SAMPLED = [parameter for parameter in SOFT if "out/selected" in parameter.values[0]]


def _method(settings: dict[str, Any]) -> SoftCPT | CoOpMT:
    if settings["hard"]:
        sharing = "class" if settings["csc"] else "task" if settings.get("tsc") else "all"
        return CoOpMT(sharing=sharing, length=settings["n_ctx"], position=settings["position"])
    conditioned = bool(settings["csc"])
    variant = VARIANTS[conditioned, conditioned and bool(settings["class_csc"])]
    return SoftCPT(
        variant=variant + ("ts" if settings["task_csc"] else "ta"),
        network=settings["meta"] if conditioned else "lin",
        length=settings["n_ctx"],
        task_length=settings["task_n_ctx"],
        class_length=settings["class_n_ctx"],
        position=settings["position"],
        task_position=settings["task_position"],
        class_position=settings["class_position"],
        task_words=settings["task_ctx_init"],
        class_words=settings["class_ctx_init"] if conditioned else "",
        freeze_class_context=conditioned and bool(settings["freeze_class_context"]),
        class_sampling=float(settings["class_sample_rate"]) if conditioned else 0.0,
        update=settings["update"],
    )


def _lists(tasks: list[str], names: list[list[str]]) -> list[ClassList]:
    return [ClassList(task, tuple(classes)) for task, classes in zip(tasks, names, strict=True)]


def _recorded(case: Case, prefix: str) -> dict[str, Tensor]:
    """Tensors under our names; the contexts of tasks that are recorded one by one as one."""
    official = case.under(prefix)
    found = {ours: official[name] for ours, name in OFFICIAL.items() if name in official}
    parts = [name for name in official if name.startswith("prompt_learner.learners.")]
    if parts:
        tensors = [official[name] for name in sorted(parts, key=lambda name: int(name.split(".")[2]))]
        per_class = tensors[0].dim() == 3
        found["context"] = torch.cat(tensors) if per_class else torch.stack(tensors)
    return found


def _start(case: Case, official: bool = True) -> SoftCPT | CoOpMT:
    need_clip_vocabulary()
    method, frozen = _method(case.settings), Frozen(build(case))
    method.attach(frozen, _lists(case.meta["task_names"], case.meta["class_names"]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.settings["seed"])
        method.build(frozen, method.classes)
    if official:
        recorded = _recorded(case, "param/")
        held = dict(method.named_parameters()) | dict(method.named_buffers())
        assert held.keys() == recorded.keys()
        for name, value in recorded.items():
            held[name].data.copy_(value)
        if isinstance(method, SoftCPT):
            method.lay_out()  # what is constant depends on the contexts
    return method


def _labels(case: Case) -> Tensor:
    """[images, tasks] the class within each task, or -1, of the recorded [images, classes] in {-1, 0, 1}."""
    parts = case["in/labels"].split(case.settings["n_classes"], dim=1)
    return torch.stack([torch.where((part == 1).any(1), (part == 1).int().argmax(1), -1) for part in parts], dim=1)


def _numbers(case: Case) -> Tensor:
    """[images] the class through all tasks, of images of one task each."""
    return case["in/labels"].argmax(dim=1)


def _train(method: SoftCPT | CoOpMT, case: Case) -> list[Step]:
    recorded, settings = case.settings["optimizer"], case.settings
    schedule = Schedule(
        recorded["schedule"],
        "epoch",
        recorded["warmup_epoch"],
        recorded["warmup_lr"],
        warming=recorded["warmup"],
        stride=recorded["schedule_steps_per_epoch"],
    )

    def batches() -> Iterator[tuple[Images, Tensor]]:
        for number in range(1, settings["steps"] + 1):
            torch.manual_seed(settings["sample_seed"] + number)
            yield Images.of(case["in/images"]), _labels(case)

    with torch.random.fork_rng(devices=[]):
        per_epoch, updates = recorded["batches_per_epoch"], recorded["updates_per_batch"]
        return train(method, optimizer_of(settings), schedule, recorded["max_epoch"], per_epoch, batches(), updates)


@pytest.mark.parametrize("case", FITS)
def test_parameters_start_as_the_official_ones(case: Case) -> None:
    method, recorded = _start(case, official=False), _recorded(case, "param/")
    held = dict(method.named_parameters()) | dict(method.named_buffers())
    for name, value in recorded.items():
        assert held[name].shape == value.shape, name
        if case.settings["parameters"] == "as initialised":
            assert_close(held[name], value, 1e-6, name)


@pytest.mark.parametrize("case", FITS)
def test_recipe_repeats_updates_as_the_official_program(case: Case) -> None:
    recipe, recorded = _method(case.settings).training_recipe(), case.settings["optimizer"]
    assert recipe is not None
    assert recipe.updates == recorded["updates_per_batch"]
    if case.settings["update"] == "released":
        assert recipe.schedule.stride == recorded["schedule_steps_per_epoch"]


def _check_prompts(texts: Texts, tokens: Tensor, vocabulary: int) -> None:
    """The fixed ids are the recorded ones where placeholders are left out."""
    assert len(texts) == len(tokens)
    for row, official in zip(texts.rows, tokens.tolist(), strict=True):
        fixed = [token for token in row if token < vocabulary]
        length = len(row) - len(fixed)
        assert fixed == (official[:1] + official[1 + length :])[: len(fixed)]
        assert not any(official[len(row) :])


@pytest.mark.parametrize("case", FITS)
def test_prompts_are_the_official_ones(case: Case) -> None:
    method = _start(case)
    vocabulary = method.frozen.backbone.config.text.vocabulary
    _check_prompts(method.texts, case["in/tokens"], vocabulary)
    if isinstance(method, SoftCPT):
        _check_prompts(method.task_texts, case["in/task_tokens"], vocabulary)
        if method.conditioned:
            _check_prompts(method.class_texts, case["in/class_tokens"], vocabulary)


@pytest.mark.parametrize("case", SOFT)
def test_contexts_are_made_as_by_the_official_program(case: Case) -> None:
    method = _start(case)
    assert isinstance(method, SoftCPT)
    assert_close(method.task_features(), case["out/task_features_raw"], FORWARD)
    if method.conditioned:
        assert_close(method.class_conditions(), case["out/class_features_raw"], FORWARD)
    assert_close(method.contexts(), case["out/context"], FORWARD)


@pytest.mark.parametrize("case", FITS)
def test_features_and_gradients_equal_the_official_ones(case: Case) -> None:
    method, images = _start(case), Images.of(case["in/images"])
    logits = assert_features(method, case, FORWARD)
    sizes = case.settings["n_classes"]
    assert_close(torch.cat([part.softmax(1) for part in logits.split(sizes, 1)], 1), case["out/scores"], FORWARD)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.settings["sample_seed"])
        loss = method.loss(images, _labels(case))
    assert_close(loss, case["out/loss"], FORWARD)
    recorded, parameters = _recorded(case, "grad/"), dict(method.named_parameters())
    assert parameters.keys() == recorded.keys()
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for (name, official), gradient in zip(((n, recorded[n]) for n in parameters), gradients, strict=True):
        assert_close(gradient, official, BACKWARD, name)


@pytest.mark.parametrize("case", FITS)
def test_numbers_through_all_tasks_mean_the_same_labels(case: Case) -> None:
    within = _labels(case)
    if not ((within >= 0).sum(dim=1) == 1).all():
        assert (within >= 0).any(dim=1).all()  # images of several tasks have no single number
        return
    assert torch.equal(labels_by_task(_numbers(case), case.settings["n_classes"]), within)


@pytest.mark.parametrize("case", SAMPLED)
def test_classes_are_sampled_as_by_the_official_program(case: Case) -> None:
    method, images = _start(case), Images.of(case["in/images"])
    assert isinstance(method, SoftCPT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.settings["sample_seed"])
        chosen, sizes, _ = method.sample(_labels(case))
    assert torch.equal(chosen, case["out/selected"].long())
    assert sum(sizes) == len(chosen)
    features = method.text_features(chosen) + 1e-6
    logits = method.frozen.logits(method.image_features(images), features)
    assert_close(logits, case["out/train_logits"][:, chosen], FORWARD)


@pytest.mark.parametrize("case", FITS)
def test_training_equals_the_official_one(case: Case) -> None:
    method, last = _start(case), case.settings["steps"]
    steps = _train(method, case)
    assert_close(torch.tensor([step.lr for step in steps]), case["step/lr"].float(), 1e-6)
    assert_losses(steps, case, FORWARD, LATER)
    before, official = _recorded(case, "param/"), _recorded(case, f"step/{last}/")
    assert official.keys() == steps[-1].parameters.keys()
    for name, value in official.items():
        after = steps[-1].parameters[name]
        assert_close(after, value, BACKWARD, name)
        unused = isinstance(method, SoftCPT) and method.network == "lincls" and name == "task_context"
        assert_close(after - before[name], value - before[name], UNUSED if unused else CHANGE, f"change of {name}")
    assert_close(method.logits(Images.of(case["in/images"])), case["out/logits_after"], LATER)


@pytest.mark.parametrize("case", cases("softcpt", lambda case: "out/new_logits" in case))
def test_new_classes_and_tasks_are_predicted_as_by_the_official_program(case: Case) -> None:
    method = _start(case)
    _train(method, case)
    other = method.for_classes(_lists(case.meta["new_task_names"], case.meta["new_class_names"]))
    if isinstance(other, SoftCPT):
        assert_close(other.task_features(), case["out/new_task_features_raw"], LATER)
        assert_close(other.contexts(), case["out/new_context"], LATER)
    assert_close(other.logits(Images.of(case["in/images"])), case["out/new_logits"], LATER)


@pytest.mark.parametrize("case", cases("softcpt", lambda case: case.meta["variant"] == "evaluation"))
def test_scores_of_tasks_equal_the_official_ones(case: Case) -> None:
    logits, sizes, metrics = case["in/logits"], case.settings["n_classes"], case.settings["metrics"]
    assert_close(torch.cat([part.softmax(1) for part in logits.split(sizes, 1)], 1), case["out/scores"], 1e-6)
    found = []
    parts = zip(logits.split(sizes, 1), case["in/labels"].split(sizes, 1), metrics, strict=True)
    for own, marks, metric in parts:
        mine = (marks != -1).any(dim=1)
        labels, probabilities = marks[mine].argmax(dim=1), own[mine].double().softmax(dim=1)
        scores = score(labels.numpy(), probabilities.numpy(), [str(number) for number in range(own.shape[1])])
        found.append(100 * (scores.mean_class_accuracy if metric == "mean_acc" else scores.accuracy))
    assert_close(torch.tensor(found, dtype=torch.float64), case["out/per_task"], 1e-6)
    assert_close(torch.tensor(found, dtype=torch.float64).mean().reshape([]), case["out/metric"].reshape([]), 1e-6)
    marks = case["in/labels"]
    if (marks == 1).sum(dim=1).eq(1).all():  # each image of one task: the same by numbers through all tasks
        numbers = marks.argmax(dim=1)
        right = among_own(logits, numbers, sizes).argmax(dim=1) == numbers
        task = tasks_of(numbers, sizes)
        shares = [100 * float(right[task == t].double().mean()) for t in range(len(sizes))]
        for ours, share, metric in zip(found, shares, metrics, strict=True):
            assert metric == "mean_acc" or ours == pytest.approx(share)


@pytest.mark.parametrize("case", cases("softcpt", lambda case: case.meta["variant"] == "schedule"))
def test_learning_rates_of_all_epochs_equal_the_official_ones(case: Case) -> None:
    settings = case.settings
    for key, official in case.under("out/lr/").items():
        stride, epochs = (int(part.lstrip("stepoch")) for part in key.split("/"))
        schedule = Schedule(
            settings["schedule"],
            "epoch",
            settings["warmup_epoch"],
            settings["warmup_lr"],
            warming=settings["warmup"],
            stride=stride,
        )
        rates = [schedule.rate(settings["lr"], epoch, epochs) for epoch in range(len(official))]
        assert_close(torch.tensor(rates, dtype=torch.float64), official, 1e-6, key)


@pytest.mark.parametrize("case", cases("softcpt", lambda case: case.meta["variant"] == "shots"))
def test_shots_of_tasks_are_those_of_the_official_program(case: Case) -> None:
    pairs = {part: [tuple(row) for row in case[f"in/{part}"].tolist()] for part in ("train", "val")}
    numbers = {pair: number for number, pair in enumerate(sorted({*pairs["train"], *pairs["val"]}))}
    train_part, val_part = ([numbers[pair] for pair in pairs[part]] for part in ("train", "val"))
    for seed in case.settings["seeds"]:
        for shots in case.settings["shots"]:
            recorded = case.under(f"out/seed{seed}/shots{shots}/")
            expected = (recorded["train"].tolist(), recorded["val"].tolist())
            assert draw(train_part, val_part, shots, seed) == expected, f"seed {seed}, {shots} shots"
