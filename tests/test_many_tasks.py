"""Many tasks at once: absent ones cost nothing, batches of few tasks, relations, and one opened of many."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shotfit import files
from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, ImagePool, Images
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting import task_parts
from shotfit.fitting.calibration import Calibration
from shotfit.fitting.epochs import Epochs
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.fitting.record import record_of
from shotfit.fitting.train import hits, right_of
from shotfit.fitting.trust import Trust
from shotfit.methods import find
from shotfit.methods.base import Method
from shotfit.methods.numbering import MANY, labels_by_task
from shotfit.methods.recipe import Optimizer, Recipe
from shotfit.methods.softcpt import SoftCPT
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone
from shotfit.towers.layout import Savings

from .test_cli import Shell, one_line, shell

__all__ = ["shell"]  # a fixture

SIZES = (2, 3, 1, 4, 2)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


def class_lists(sizes: Sequence[int] = SIZES, parents: bool = True) -> tuple[ClassList, ...]:
    """Tasks of so many classes; every second one has a parent, and that one too."""
    return tuple(
        ClassList(
            f"kind {task} of things",
            tuple(f"class {task} {place}" for place in range(size)),
            parents=(f"group {task % 3}", "everything") if parents and task % 2 else (),
        )
        for task, size in enumerate(sizes)
    )


def built(method: Method, frozen: Frozen, lists: Sequence[ClassList]) -> Any:
    method.attach(frozen, lists)
    torch.manual_seed(0)
    method.build(frozen, lists)
    return method


# Absent tasks

METHODS = [
    ("softcpt", {"length": "3"}),
    ("softcpt", {"length": "2", "variant": "nats"}),
    ("softcpt", {"length": "2", "variant": "cata"}),
    ("softcpt", {"length": "2", "variant": "csts", "class_sampling": "0.5"}),
    ("softcpt", {"length": "2", "hierarchy": "true"}),
    ("softcpt", {"length": "2", "neighbours": "2"}),
    ("softcpt", {"length": "2", "hierarchy": "true", "neighbours": "3", "mix": "0.2", "variant": "cata"}),
    ("coop_mt", {"length": "3"}),
    ("coop_mt", {"length": "2", "sharing": "task"}),
    ("coop_mt", {"length": "2", "sharing": "class"}),
]


def step_of(name: str, options: dict[str, str], backbone: Backbone, savings: Savings, labels: Tensor) -> Any:
    frozen = Frozen(backbone, savings=savings)
    method = built(find(name).with_options(options), frozen, class_lists())
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    frozen.plans = []
    torch.manual_seed(1)  # a loss may draw
    loss = method.loss(Images.of(pixels), labels)
    gradients = torch.autograd.grad(loss, list(method.parameters()))
    texts = sum(plan.rows for plan in frozen.plans if plan.tower == "text")
    return [loss.detach(), *gradients], texts


@pytest.mark.parametrize("both", [False, True], ids=["one task an image", "an image of two tasks"])
@pytest.mark.parametrize(("name", "options"), METHODS)
def test_step_without_absent_tasks_equals_the_full_one(
    name: str, options: dict[str, str], both: bool, tmp_path: Path
) -> None:
    backbone = tiny_backbone(tmp_path).double()
    labels = torch.tensor([3, 10, 4, 11])  # of the second and the last task
    if both:
        labels = labels_by_task(labels, SIZES)
        labels[0, 4] = 1
    full, all_texts = step_of(name, options, backbone, Savings.without(["absent_tasks"]), labels)
    some, texts = step_of(name, options, backbone, Savings(), labels)
    assert texts < all_texts
    for expected, found in zip(full, some, strict=True):
        assert float((expected - found).abs().max()) <= 1e-12 * max(float(expected.abs().max()), 1e-30)


def test_batch_of_all_tasks_runs_as_ever(backbone: Backbone) -> None:
    method = built(SoftCPT(length=2), Frozen(backbone), class_lists())
    assert method.shown(torch.tensor([0, 2, 5, 6, 10])) is None
    assert method.shown(torch.tensor([0, 2, 5, 6])) == [0, 1, 2, 3]


def test_command_tells_of_absent_tasks_and_does_without_them(shell: Shell, tmp_path: Path) -> None:
    tiny_backbone(tmp_path)
    words = ["show", "softcpt", "--backbone", tmp_path, "--set", "length=2"]
    told = "6 texts of tasks that the batch does not show are left out (absent_tasks)"
    assert told in shell(*words).out
    assert "absent_tasks" not in shell(*words, "--without", "absent_tasks").out.split("Calls of the towers")[1]


# Batches of few tasks


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    batch=st.integers(1, 16),
    most=st.integers(0, 12),
    seed=st.integers(0, 1000),
)
def test_every_image_comes_once_an_epoch_in_batches_of_few_tasks(
    counts: list[int], batch: int, most: int, seed: int
) -> None:
    sizes = [1] * len(counts)
    labels = torch.tensor([task for task, count in enumerate(counts) for _ in range(count)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    recipe = Recipe(Optimizer("sgd", 0.1), batch=batch, tasks_per_batch=most)
    epochs = Epochs(recipe, labels, sizes)
    drawn = epochs.drawn(torch.Generator().manual_seed(seed))
    again = epochs.drawn(torch.Generator().manual_seed(seed))
    assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))
    assert len(drawn) == epochs.steps and all(0 < len(some) <= batch for some in drawn)
    images = torch.cat(drawn).tolist()
    if 0 < most < len(counts):
        assert sorted(images) == list(range(len(labels)))
        assert all(len(labels[some].unique()) <= most for some in drawn)
        first = epochs.drawn(torch.Generator().manual_seed(seed), 1)
        assert len(first) == 1 and torch.equal(first[0], drawn[0])
    else:  # as without the bound, bit for bit
        size = min(batch, len(labels))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        assert images == order[: len(labels) // size * size].tolist()


def test_batches_show_as_many_tasks_as_they_may() -> None:
    recipe = Recipe(Optimizer("sgd", 0.1), batch=32, tasks_per_batch=8)
    epochs = Epochs(recipe, torch.arange(2000) // 20, [1] * 100)
    generator = torch.Generator().manual_seed(1)
    first, second = epochs.drawn(generator), epochs.drawn(generator)
    shown = [len({int(image) // 20 for image in some}) for some in (*first, *second)]
    assert sum(shown) / len(shown) > 7.5 and {len(some) for some in first} == {32, 16}
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_fit_takes_the_bound_of_tasks_as_an_option(backbone: Backbone, tmp_path: Path) -> None:
    tasks = [tiny_task(tmp_path / str(number), (f"a{number}", f"b{number}")) for number in range(3)]
    method = SoftCPT(length=2, tasks_per_batch=1)
    model = fit(tasks, method, shots=4, backbone=backbone, epochs=2, recipe="paper", check=False)
    assert model.record["training"]["steps"] == 2 * 3  # eight images of each task, a task a batch
    assert model.record["options"]["tasks_per_batch"] == 1


# One of many


def many(backbone: Backbone, options: dict[str, Any], tasks: int = MANY + 6) -> Model:
    """A model of many tasks of one to three classes, of random numbers, as if it had been fitted."""
    lists = class_lists([1 + task % 3 for task in range(tasks)])
    frozen = Frozen(backbone)
    method = built(SoftCPT(length=2, **options), frozen, lists)
    method.requires_grad_(False)
    method.bake()
    count = sum(method.sizes)
    generator = torch.Generator().manual_seed(2)
    summary = {"source": "made up", "images": count, "temperature": 2.0, "plain_temperature": 2.0}
    trust = Trust(
        Calibration(2.0, 2.0, torch.randn(count, generator=generator)),
        torch.rand(count, generator=generator), torch.arange(count), torch.rand(count, generator=generator),
        torch.randn(count, frozen.embed, generator=generator), torch.zeros(tasks, 2), torch.ones(tasks, 2), summary,
    )  # fmt: skip
    scores = {"accuracy": 0.5, "tasks": {own.task: {"accuracy": 0.25, "test_images": 4} for own in lists}}
    record = record_of(method, backbone) | {"trust": summary, "scores": scores}
    return Model(method, frozen, record, trust=trust)


@pytest.fixture(scope="module")
def saved(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many(backbone, {}).save(tmp_path_factory.mktemp("many") / "model")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return tiny_task(tmp_path / "picture", ("x",), images=2).test[0].picture.path


NAME, OTHER = "kind 41 of things", "kind 5 of things"


@pytest.mark.parametrize("options", [{}, {"variant": "nats"}, {"variant": "csts"}, {"hierarchy": True}])
def test_task_opened_alone_is_that_of_the_whole_model(
    options: dict[str, Any], backbone: Backbone, picture: Path, tmp_path: Path
) -> None:
    model = many(backbone, options)
    place = model.save(tmp_path / "model")
    whole, alone = Model.open(place, backbone).for_task(NAME), Model.open(place, backbone, task=NAME)
    assert alone.tasks == (NAME,) and alone.classes == whole.classes
    assert (
        alone.predict(picture, top=3)[0]
        == whole.predict(picture, top=3)[0]
        == model.for_task(NAME).predict(picture, top=3)[0]
    )
    assert alone.own_trust is not None and whole.own_trust is not None
    for name, value in whole.own_trust.state().items():
        assert torch.equal(alone.own_trust.state()[name], value), name
    assert alone.record["scores"] == {"accuracy": 0.25, "test_images": 4}
    with pytest.raises(UsageError, match="one task of the model in"):
        alone.save(place)
    moved = Model.open(alone.save(tmp_path / "alone"), backbone)  # a model like any other
    assert moved.predict(picture, top=3)[0] == alone.predict(picture, top=3)[0]


def copied(saved: Path, tmp_path: Path) -> tuple[Path, bytearray, list[Any]]:
    """A copy of a model, the bytes of its weights, and the entries of these."""
    place = Path(shutil.copytree(saved, tmp_path / "model"))
    content = bytearray((place / "adapter.safetensors").read_bytes())
    return place, content, list(task_parts._entries(lambda begin, end: bytes(content[begin:end]), len(content))[1])


def test_task_opens_though_the_bytes_of_another_are_damaged(backbone: Backbone, saved: Path, tmp_path: Path) -> None:
    place, content, entries = copied(saved, tmp_path)
    (baked,) = (entry for entry in entries if entry.name == "baked")
    first = sum(1 + task % 3 for task in range(5))  # of OTHER
    content[baked.begin + first * backbone.embed * 4] ^= 1
    (place / "adapter.safetensors").write_bytes(content)
    assert Model.open(place, backbone, task=NAME).tasks == (NAME,)
    for refused in ({"task": OTHER}, {}):
        with pytest.raises(ShotfitError, match="is not the file that"):
            Model.open(place, backbone, **refused)  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", ["rest", "cut", "header", "text", "empty"])
def test_task_of_a_damaged_file_is_refused_in_one_line(
    broken: str, backbone: Backbone, saved: Path, tmp_path: Path
) -> None:
    place, content, entries = copied(saved, tmp_path)
    (learned,) = (entry for entry in entries if entry.name == "parameter.projection")
    content[learned.begin] ^= 1
    damaged = {
        "rest": bytes(content),
        "cut": bytes(content[:-3]),
        "header": b"\xff" * 8 + bytes(content[8:]),
        "text": b"something else",
        "empty": b"",
    }[broken]
    (place / "adapter.safetensors").write_bytes(damaged)
    with pytest.raises(ShotfitError, match=r"adapter\.safetensors (is not the file|is damaged)") as error:
        Model.open(place, backbone, task=NAME)
    assert "\n" not in str(error.value)


def test_bytes_of_other_tasks_are_not_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[int]()
    opened = files.open_regular

    class Counting:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def seek(self, *words: int) -> int:
            return int(self.file.seek(*words))

        def read(self, size: int) -> bytes:
            read.append(size)
            return bytes(self.file.read(size))

    monkeypatch.setattr("shotfit.fitting.task_parts.open_regular", lambda *words: Counting(opened(*words)))
    record = json.loads((saved / "adapter.json").read_text())
    tensors = task_parts.one_task(saved, record, 41)
    size, rows = 1 + 41 % 3, sum(1 + task % 3 for task in range(MANY + 6))
    assert tensors["baked"].shape[0] == tensors["trust.means"].shape[0] == size
    unread = 2 * (rows - size) * tensors["baked"].shape[1] * 4
    assert sum(read) == (saved / "adapter.safetensors").stat().st_size - unread


def test_model_without_hashes_by_task_opens_whole(
    backbone: Backbone, saved: Path, picture: Path, tmp_path: Path
) -> None:
    place = tmp_path / "model"  # as an older version would have written it
    place.mkdir()
    for path in saved.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    record = json.loads((place / "adapter.json").read_text())
    record.pop("parts")
    (place / "adapter.json").write_text(json.dumps(record))
    older = Model.open(place, backbone, task=NAME)
    assert older.task == NAME and len(older.tasks) == MANY + 6
    assert older.predict(picture)[0] == Model.open(saved, backbone, task=NAME).predict(picture)[0]


def test_command_predicts_one_of_many_tasks(shell: Shell, saved: Path, backbone: Backbone, picture: Path) -> None:
    words = ["predict", "--trust-backbone", saved, picture, "--format", "csv", "--top", 9]
    result = shell(*words, "--task", NAME)
    assert result.code == 0, result.err
    assert {line.split(",")[2] for line in result.out.splitlines()[1:]} == {f"class 41 {place}" for place in range(3)}
    assert "kind 19 of things and 50 more" in one_line(shell(*words, "--task", "birds"))
    assert "kind 19 of things and 50 more): name one with --task" in one_line(shell(*words))
    assert shell(*words, "--task", "birds", "--classes", "wren,tit").code == 0
    checked = shell("verify", saved, "--trust-backbone")
    assert checked.code == 0, checked.out


def test_hashes_by_task_that_are_not_the_files_are_found(shell: Shell, saved: Path, tmp_path: Path) -> None:
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    record = json.loads((tmp_path / "adapter.json").read_text())
    record["parts"]["tasks"][3] = "0" * 64
    (tmp_path / "adapter.json").write_text(json.dumps(record))
    result = shell("verify", tmp_path)
    assert result.code != 0 and "other hashes of single tasks" in result.out


def test_features_and_hits_of_many_tasks_are_those_of_all_at_once(backbone: Backbone, tmp_path: Path) -> None:
    sizes = [1 + task % 3 for task in range(MANY + 6)]
    method = built(SoftCPT(length=2, neighbours=2), Frozen(backbone), class_lists(sizes))
    with torch.no_grad():
        together, streamed = method.text_features(), method.class_features()
    assert torch.allclose(together, streamed, atol=1e-5)
    task = tiny_task(tmp_path / "images", ("x", "y"), images=5)
    items = [replace(item, label=(37 * place) % sum(sizes)) for place, item in enumerate(task.train)]
    pool = ImagePool(items)
    expected = right_of(method.frozen.logits(method.frozen.image(pool.all()), together), pool.labels, sizes)
    assert torch.equal(hits(method, pool.all(), pool.labels), expected)
