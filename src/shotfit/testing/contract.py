"""The contract that every method keeps, as checks that anybody's tests can call.

    import pytest
    from shotfit.testing import CONTRACT, check

    @pytest.mark.parametrize("name", CONTRACT)
    def test_contract(name, tmp_path):
        check(name, lambda: MyMethod(strength=0.3), tmp_path)

Each check builds what it needs (tiny backbones with random weights, a few small images) and raises AssertionError with
a sentence. They cost a second or two each.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shotfit.data.tasks import ClassList, Item, Task
from shotfit.engine.frozen import ImagePool, Images
from shotfit.engine.store import MemoryStore, Store
from shotfit.errors import NewClassesError, ShotfitError
from shotfit.fitting.fit import fit
from shotfit.fitting.learned import LEARNED
from shotfit.fitting.model import Model
from shotfit.fitting.train import Stepper, train
from shotfit.methods import address
from shotfit.methods.numbering import step_labels
from shotfit.testing.stage import Make, Stage, same, some_savings
from shotfit.testing.tiny import of_sets, tiny_backbone, tiny_task
from shotfit.towers.layout import Savings

__all__ = ["CONTRACT", "check"]

FORWARD, BACKWARD = 1e-5, 5e-5  # what rounding in float32 may move, of the largest entry


def stored_equals_full(make: Make, folder: Path) -> None:
    """Logits and gradients from stored streams equal those from pixels and ids."""
    full = Stage(make, folder, replace(Savings(), frozen_beginning=False)).outcome()
    same(full, Stage(make, folder).outcome(), 1e-12, "stored against full")


def savings_change_nothing(make: Make, folder: Path) -> None:
    """No combination of savings moves logits, loss or gradients: in float64 by 1e-12, in float32 by rounding."""
    for dtype, tolerances in ((torch.float64, [1e-12] * 2), (torch.float32, [FORWARD, BACKWARD])):
        expected = Stage(make, folder, Savings.none(), dtype=dtype).outcome()
        for savings in some_savings():
            outcome = Stage(make, folder, savings, dtype=dtype).outcome()
            same(expected[:2], outcome[:2], tolerances[0], f"logits and loss in {dtype} with {savings}")
            same(expected[2:], outcome[2:], tolerances[1], f"gradients in {dtype} with {savings}")


def twenty_steps_agree(make: Make, folder: Path) -> None:
    """Twenty training steps in the fast and in the reference manner end at the same parameters, in float64 to 1e-9."""
    _agree(Stage(make, folder), Stage(make, folder, Savings.none()))


def gpu_agrees(make: Make, folder: Path) -> None:
    """On a GPU logits, loss, gradients and what twenty steps end at are those of the CPU, in float64 to 1e-6.

    Not closer: the temperature is a number in float32, and solvers stop where their gradient is small.
    """
    gpu, cpu = Stage(make, folder, device="cuda"), Stage(make, folder)
    same(cpu.outcome(), gpu.outcome(), 1e-6, "logits, loss and gradients")
    _agree(gpu, cpu, 1e-6)


def _agree(fast: Stage, reference: Stage, tolerance: float = 1e-9) -> None:
    """Both end at the same parameters."""
    recipe = fast.method.training_recipe()
    if recipe is None:
        return
    short, losses = replace(recipe, batch=4), list[Tensor]()
    for stage in (fast, reference):
        torch.manual_seed(1)  # a loss may draw
        history = train(stage.method, stage.support, short, 7, torch.Generator().manual_seed(1))  # 3 steps an epoch
        losses.append(torch.tensor(history, dtype=torch.double))
    assert len(set(losses[0].tolist())) > 1, "nothing was trained"
    same(losses[:1], losses[1:], tolerance, "losses of 21 steps")
    states = [list(stage.method.state().values()) for stage in (fast, reference)]
    same(states[0], states[1], tolerance, "state after 21 steps")
    same(fast.outcome(), reference.outcome(), tolerance, "logits, loss and gradients after 21 steps")


def gpu_never_waits(make: Make, folder: Path) -> None:
    """On a GPU no step of a replayable recipe waits for what the GPU has computed."""
    stage = Stage(make, folder, device="cuda")
    recipe = stage.method.training_recipe()
    if recipe is None or not recipe.replayable:
        return
    stepper = Stepper(stage.method, recipe, epochs=10, steps=2)
    images = Images(stage.images().pool, stage.images().rows.cuda())
    labels = step_labels(stage.support.labels, stage.method.sizes).cuda()
    for _ in range(2):  # reads streams, makes buffers and the recording
        stepper(images, labels)
    with warnings.catch_warnings():  # torch warns that it does not know all that waits
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        stepper(images, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _epochs(make: Make, count: int) -> int | None:
    """So many epochs, of a method that takes gradient steps."""
    return count if make().training_recipe() else None


def saved_equals_fitted(make: Make, folder: Path) -> None:
    """A saved model predicts the same bits in another process; damaged folders are refused with a sentence."""
    task = tiny_task(folder / "images")
    model = fit(
        task,
        make(),
        shots=3,
        epochs=_epochs(make, 2),
        recipe="paper",
        backbone=tiny_backbone(folder / "backbone"),
        store=MemoryStore(),
        keep=True,
    )
    items = task.test
    expected = torch.tensor([p.probabilities for p in model.predict([item.picture for item in items], top=3)])
    saved = model.save(folder / "model")
    predicted = _predicted_elsewhere(saved, address(type(make())), [str(item.picture) for item in items])
    assert torch.equal(expected, torch.tensor(predicted)), "another process predicts otherwise"
    weights = (saved / "adapter.safetensors").read_bytes()
    if weights[8:]:
        for broken in (weights[: len(weights) // 2], b"", b"something else"):
            (saved / "adapter.safetensors").write_bytes(broken)
            _refused(lambda: Model.open(saved), "damaged")
    save_file({"x": torch.zeros(1)}, saved / "adapter.safetensors")
    _refused(lambda: Model.open(saved), "not written by shotfit")
    (saved / "adapter.safetensors").unlink()
    _refused(lambda: Model.open(saved), "lacks")


_READER = """
import json, os, sys
from shotfit.fitting.model import Model
for line in sys.stdin:
    place, folder, method, images = json.loads(line)
    os.chdir(place)
    model = Model.open(folder, method=method, trust_backbone=True)
    print(json.dumps([p.probabilities for p in model.predict(images, top=3)]), flush=True)
"""


@functools.cache
def _reader() -> subprocess.Popen[str]:
    """A process that has fitted nothing and opens what others saved. One for all checks: its start costs seconds."""
    reader = subprocess.Popen([sys.executable, "-c", _READER], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(reader.communicate)
    return reader


def _predicted_elsewhere(saved: Path, method: str, images: list[str]) -> list[list[float]]:
    """The probabilities of images by a saved model that another process opens."""
    reader = _reader()
    assert reader.stdin is not None and reader.stdout is not None
    print(json.dumps([str(Path.cwd()), str(saved.absolute()), method, images]), file=reader.stdin, flush=True)
    answer = reader.stdout.readline()
    if not answer:  # it ended, and said why on its stderr
        _reader.cache_clear()
        raise AssertionError("another process cannot open the model")
    probabilities: list[list[float]] = json.loads(answer)
    return probabilities


def seeds_decide(make: Make, folder: Path) -> None:
    """The same seed gives the same bits; another seed draws other shots."""
    task, backbone = tiny_task(folder / "images"), tiny_backbone(folder / "backbone")

    def state(seed: int) -> dict[str, Tensor]:
        fitted = fit(
            task,
            make(),
            shots=2,
            seed=seed,
            epochs=_epochs(make, 2),
            backbone=backbone,
            store=MemoryStore(),
            check=False,
        )
        return fitted.method.state()

    first, again, other = state(1), state(1), state(3)
    assert first.keys() == again.keys() and all(torch.equal(first[key], again[key]) for key in first), "seed 1 twice"
    learns = make().training_recipe() is not None or any(key.startswith("buffer.") for key in first)
    differs = any(first[key].shape != other[key].shape or not torch.equal(first[key], other[key]) for key in first)
    assert differs or not learns, "seeds 1 and 3 give the same model"


def new_classes_as_declared(make: Make, folder: Path) -> None:
    """Other class names are accepted and predicted, or refused in a sentence that names the methods that can."""
    task, method = tiny_task(folder / "images"), make()
    model = fit(
        task,
        method,
        shots=2,
        epochs=_epochs(make, 1),
        recipe="paper",
        backbone=tiny_backbone(folder / "backbone"),
        store=MemoryStore(),
        check=False,
    )
    if not method.accepts_new_classes:
        _refused(lambda: model.for_classes(["a", "b"]), "zero_shot")
        return
    try:
        other = model.for_classes([*reversed(model.class_names), "another"])
    except NewClassesError as refusal:
        assert "predict others" in str(refusal), f"refused without saying why: {refusal}"
        return
    path = task.test[0].picture.path
    old, new = model.predict(path, top=3)[0], other.predict(path, top=4)[0]
    ranks = [label for label in new.labels if label != "another"]
    assert ranks == list(old.labels), "the order of the old classes changed"


def several_tasks_as_declared(make: Make, folder: Path) -> None:
    """A method of one task refuses two. Another takes a list of one as the task alone, and keeps two in one model."""
    backbone, method = tiny_backbone(folder / "backbone"), make()
    first, second = tiny_task(folder / "first"), tiny_task(folder / "second", ("wet", "dry"))

    def fitted(tasks: Task | list[Task]) -> Model:
        return fit(
            tasks,
            make(),
            shots=2,
            epochs=_epochs(make, 2),
            backbone=backbone,
            store=MemoryStore(),
            check=False,
            recipe="paper",
        )

    if not method.several_tasks:
        _refused(lambda: fitted([first, second]), "one task at a time")
        return
    alone, listed = fitted(first).method.state(), fitted([first]).method.state()
    assert alone.keys() == listed.keys() and all(torch.equal(alone[key], listed[key]) for key in alone), "a list of one"
    both = fitted([first, second])
    opened = Model.open(both.save(folder / "model"), backbone, method=type(method))
    for task in (first, second):
        path = task.test[0].picture.path
        _refused(partial(opened.predict, path), task.name)
        (prediction,) = opened.predict(path, top=9, task=task.name)
        assert prediction == both.predict(path, top=9, task=task.name)[0], "the opened model predicts otherwise"
        assert sorted(prediction.labels) == sorted(task.classes.names)
        assert abs(sum(prediction.probabilities) - 1) < 1e-5
    _refused(lambda: opened.for_task("third"), "no task 'third'")


def several_labels_as_declared(make: Make, folder: Path) -> None:
    """Several labels a picture: refused by name, or fitted, saved and opened, and no saving moves loss or gradients."""
    task, backbone = of_sets(tiny_task(folder / "images")), tiny_backbone(folder / "backbone")
    given: dict[str, Any] = {"epochs": _epochs(make, 2), "recipe": "paper", "backbone": backbone, "keep": True}
    if not make().several_labels:
        _refused(lambda: fit(task, make(), store=MemoryStore(), **given), "gives each image one label")
        return
    expected, outcome = (Stage(make, folder, one, several_labels=True).outcome() for one in (Savings.none(), Savings()))
    same(expected, outcome, 1e-12, "logits, loss and gradients of several labels")
    model = fit(task, make(), store=MemoryStore(), **given)
    again = Model.open(model.save(folder / "several"), method=type(make()), trust_backbone=True)
    pictures = [item.picture for item in task.test]
    assert model.predict(pictures) == again.predict(pictures), "a model that is opened predicts otherwise"
    assert all(len(one.labels) == 2 for one in again.predict(pictures, top=2))


def chunks_change_nothing(make: Make, folder: Path) -> None:
    """With a memory budget that holds a single class and image at a time, logits and gradients are the same."""
    same(Stage(make, folder).outcome(), Stage(make, folder, memory=1).outcome(), 1e-12, "chunks")


def bfloat16_is_close(make: Make, folder: Path) -> None:
    """With towers in bfloat16 a method trains float32 parameters, and its first loss differs by a few hundredths."""
    exact, rough = Stage(make, folder), Stage(make, folder, dtype=torch.bfloat16)
    images = ImagePool(exact.task.train).all()
    cosine = torch.cosine_similarity(rough.frozen.image(images).double(), exact.frozen.image(images), dim=-1)
    assert float(cosine.min()) > 0.99, f"bfloat16 features differ: cosine {float(cosine.min()):.3f}"
    kept = rough.method.state()
    assert all(value.dtype != torch.bfloat16 for value in kept.values()), "what is learned and kept is not float32"
    recipe = rough.method.training_recipe()
    if recipe is None:
        return
    losses = []
    for stage in (exact, rough):
        torch.manual_seed(0)  # a loss may draw
        losses.append(float(stage.method.loss(stage.images(), stage.support.labels).detach()))
    assert abs(losses[0] - losses[1]) < 0.05 * max(1.0, abs(losses[0])), f"losses {losses[0]:.4f}, {losses[1]:.4f}"
    history = train(rough.method, rough.support, replace(recipe, batch=4), 2, torch.Generator().manual_seed(1))
    assert all(math.isfinite(value) for value in history), "bfloat16 does not train"


def options_are_documented(make: Make, folder: Path) -> None:
    """Each option has a help text, is saved, and an impossible value is refused in one line."""
    method = make()
    for field in fields(method):  # type: ignore[arg-type]
        assert field.metadata.get("help"), f"{field.name} has no help text"
        impossible = "three" if not isinstance(field.default, str) else 3
        _refused(partial(type(method), **{field.name: impossible}), field.name)
    assert json.loads(json.dumps(method.options())) == method.options()


def options_are_found(make: Make, folder: Path) -> None:
    """An option that may be `auto` is found by a fit, and the saved model opens with what was found."""
    task, backbone = tiny_task(folder / "images"), tiny_backbone(folder / "backbone")
    kind, epochs = type(make()), _epochs(make, 1)
    for name in [field.name for field in fields(kind) if field.metadata["auto"]]:  # type: ignore[arg-type]
        asked = kind(**make().options() | {name: "auto"})
        model = fit(task, asked, shots=2, epochs=epochs, backbone=backbone, store=MemoryStore(), keep=True)
        found = model.method.options()[name]
        assert model.record["found"] == [name] and found != "auto", f"{name} was not found"
        opened = Model.open(model.save(folder / name), method=address(kind), trust_backbone=True)
        assert opened.method.options()[name] == found, f"{name} is {found} in the fit, and another once it is opened"


def shapes_of_all_kinds(make: Make, folder: Path) -> None:
    """One class, one image, one shot; a thousand classes of long names; a name in Chinese."""
    backbone = tiny_backbone(folder / "backbone")
    many = [f"number {index:04d} of the long names" for index in range(1000)]
    for number, names in enumerate((["only"], ["小猫", "dog"], many)):
        path = folder / f"images{number}"
        if names is many:
            task = tiny_task(path, ["any"], images=2)
            items = tuple(Item(task.train[0].picture, label, task.train[0].digest) for label in range(0, 1000, 125))
            task = replace(task, classes=ClassList("many", tuple(names)), train=items, val=())
        else:
            task = tiny_task(path, names, images=2)
        model = fit(
            task,
            make(),
            shots=1,
            epochs=_epochs(make, 1),
            backbone=backbone,
            store=MemoryStore(),
            check=False,
            recipe="paper",
        )
        prediction = model.predict(task.train[0].picture.path)[0]
        assert prediction.labels[0] in names and 0 < prediction.probabilities[0] <= 1


def places_sum_to_the_image(make: Make, folder: Path) -> None:
    """Of each place of the grid a method says something finite; features of places have the image's as their mean."""
    stage, pixels = Stage(make, folder), torch.linspace(-1, 1, 2 * 3 * 32 * 32).double().view(2, 3, 32, 32).sin()
    with torch.no_grad():
        with mock.patch.object(stage.frozen, "image", wraps=stage.frozen.image) as asked:
            of_places, _ = (stage.method.logits(Images(None, pixels, places)) for places in (True, False))
        found = [stage.frozen.image(*call.args) for call in asked.call_args_list]
    assert len(of_places) % len(pixels) == 0 and of_places.isfinite().all(), "logits of places"
    means = [one.unflatten(0, (len(pixels), -1)).mean(dim=1) for one in found[: len(found) // 2]]
    same(found[len(found) // 2 :], means, 1e-10, "mean of the features of places")


class _Untouchable(tuple[Item, ...]):
    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("the test part was touched")

    def __iter__(self) -> Iterator[Item]:
        raise AssertionError("the test part was touched")

    def __len__(self) -> int:
        raise AssertionError("the test part was touched")


def test_part_stays_sealed(make: Make, folder: Path) -> None:
    """A task whose test part raises when touched is fitted."""
    task = replace(tiny_task(folder / "images"), held_out=_Untouchable())
    fit(
        task, make(), shots=2, epochs=_epochs(make, 1), backbone=tiny_backbone(folder / "backbone"), store=MemoryStore()
    )


def interrupted_fit_leaves_nothing(make: Make, folder: Path) -> None:
    """A fit that is interrupted at any write to the store goes on; a save that is killed leaves nothing that opens."""
    task, backbone = tiny_task(folder / "images"), tiny_backbone(folder / "backbone")

    def fitted() -> Model:
        store = Store(folder / "store")
        return fit(
            task, make(), shots=2, epochs=_epochs(make, 1), backbone=backbone, store=store, check=False, recipe="paper"
        )

    def interrupted_at(write: int) -> Callable[[str, str], None]:
        written, rename = itertools.count(), os.replace

        def rename_or_stop(source: str, target: str) -> None:
            if next(written) == write:
                raise KeyboardInterrupt
            rename(source, target)

        return rename_or_stop

    for write in itertools.count():
        try:
            with mock.patch("os.replace", interrupted_at(write)):
                model = fitted()
        except KeyboardInterrupt:
            continue
        break
    saved, killed = model.save(folder / "model"), folder / "killed"
    script = (
        "import os, sys; from shotfit.fitting.model import Model\n"
        "model = Model.open(sys.argv[1], method=sys.argv[2], trust_backbone=True)\n"
        "rename = os.replace\n"
        "os.replace = lambda a, b: os._exit(9) if os.path.basename(b) == 'killed' else rename(a, b)\n"
        "model.save(sys.argv[3])"
    )
    command = [sys.executable, "-c", script, str(saved), address(type(make())), str(killed)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 9, ended.stderr
    _refused(lambda: Model.open(killed), "not a shotfit model")
    whole = load_file(fitted().save(killed) / "adapter.safetensors")
    assert whole.keys() - {LEARNED} == model.method.state().keys()


def _refused(action: Callable[[], Any], words: str) -> None:
    try:
        action()
    except ShotfitError as error:
        assert words in str(error) and "\n" not in str(error), f"refused with: {error}"
        return
    raise AssertionError(f"accepted, but a refusal with {words!r} was expected")


_CHECKS: tuple[Callable[[Make, Path], None], ...] = (
    stored_equals_full,
    savings_change_nothing,
    twenty_steps_agree,
    saved_equals_fitted,
    seeds_decide,
    new_classes_as_declared,
    several_tasks_as_declared,
    several_labels_as_declared,
    chunks_change_nothing,
    bfloat16_is_close,
    options_are_documented,
    options_are_found,
    shapes_of_all_kinds,
    places_sum_to_the_image,
    test_part_stays_sealed,
    interrupted_fit_leaves_nothing,
)
_GPU_CHECKS = (gpu_agrees, gpu_never_waits)  # part of the contract where there is a GPU
CONTRACT = {check.__name__: check for check in (*_CHECKS, *(_GPU_CHECKS if torch.cuda.is_available() else ()))}


def check(name: str, make: Make, folder: Path, kind: str = "vit") -> None:
    """Run one check of the contract on a method, made anew as often as the check needs it.

    kind: of the tiny backbone (`tiny_backbone` lists them).
    """
    with mock.patch(f"{__name__}.tiny_backbone", partial(tiny_backbone, kind=kind)):
        CONTRACT[name](make, folder)
