"""What each protocol fits on and judges on, against examples by hand; and what it refuses."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import Any

import pytest
import torch

from shotfit.commands.cli import main
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.data.tasks import ClassList, Item, Task
from shotfit.engine.frozen import ImagePool
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.compare import compare, plan_of
from shotfit.evaluation.evaluate import evaluate
from shotfit.evaluation.protocols import plan_protocol
from shotfit.evaluation.rows import Row
from shotfit.evaluation.table import table
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.methods import find
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone

NAMES = ("ant", "bee", "cat", "dog", "elk")
STORE = MemoryStore()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return tiny_task(tmp_path_factory.mktemp("source") / "photo", NAMES)


@pytest.fixture(scope="module")
def sketches(source: Task, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Three of the source's classes in another order and manner of writing, other images."""
    return tiny_task(tmp_path_factory.mktemp("target") / "sketch", ("Cat", "ELK", "bee"), images=4, seed=1)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("target") / "toys"
    tiny_task(folder, ("ball", "doll"), images=5, seed=2)
    (folder / "classes.toml").write_text('template = "a toy {}."\n[names]\ndoll = "rag doll"\n')
    return read_task(folder)


def only(folder: Path, task: Task, names: tuple[str, ...]) -> Task:
    """The same images of some classes as a task of their own; its test part is the same, chosen class by class."""
    for name in names:
        shutil.copytree(task.source / name, folder / task.name / name)
    return read_task(folder / task.name)


def cells(rows: list[Row]) -> dict[tuple[str, str], float]:
    return {(row.method, row.column): row.mean for row in rows}


def run(task: Task, backbone: Backbone, *methods: str, **settings: Any) -> dict[tuple[str, str], float]:
    return cells(compare(task, methods, [2], [1], backbone=backbone, store=STORE, epochs=2, **settings))


# Base to new.


def listed(train: list[int], test: list[int], classes: int) -> Task:
    """A task of images that are only names."""
    parts = {
        part: tuple(
            Item(Picture(Path(f"{part}{place}")), label, f"{part}{place}") for place, label in enumerate(labels)
        )
        for part, labels in (("train", train), ("test", test))
    }
    names = tuple(f"class {label}" for label in range(classes))
    return Task(ClassList("listed", names), parts["train"], held_out=parts["test"])


def test_shots_are_drawn_from_all_classes_before_the_new_ones_are_left_out() -> None:
    # label 4 comes first, so it draws first although it is a new class
    labels = [4, 4, 4, 1, 1, 1, 0, 0, 0, 2, 2, 2, 3, 3, 3]
    (lesson,) = plan_protocol("base-to-new", listed(labels, [0, 1, 2, 3, 4], 5)).lessons
    (support,) = lesson.support(shots=2, seed=7)
    generator = random.Random(7)
    drawn = {label: generator.sample([f"train{p}" for p, x in enumerate(labels) if x == label], 2) for label in
             (4, 1, 0, 2, 3)}  # fmt: skip
    assert [item.picture.path.name for item in support.train] == drawn[1] + drawn[0] + drawn[2]
    assert [item.label for item in support.train] == [1, 1, 0, 0, 2, 2]
    assert support.classes.names == ("class 0", "class 1", "class 2")
    assert support.is_sealed


def test_first_half_of_the_learned_labels_is_base_and_the_rest_is_new() -> None:
    # label 1 has no train image: it is neither
    (lesson,) = plan_protocol("base-to-new", listed([0, 2, 3, 4, 5], [0, 1, 2, 3, 4, 4, 5], 6)).lessons
    base, new = lesson.exams
    assert lesson.kept == ((0, 2, 3),)
    assert [(item.picture.path.name, item.label) for item in base.items] == [("test0", 0), ("test2", 1), ("test3", 2)]
    assert [(item.picture.path.name, item.label) for item in new.items] == [("test4", 0), ("test5", 0), ("test6", 1)]
    assert new.classes is not None
    assert new.classes.names == ("class 4", "class 5")


def test_base_and_new_are_judged_among_their_own_classes(source: Task, backbone: Backbone, tmp_path: Path) -> None:
    found = run(source, backbone, "zero_shot", "linear_probe", "coop", protocol="base-to-new")
    base, new = only(tmp_path / "base", source, NAMES[:3]), only(tmp_path / "new", source, NAMES[3:])
    assert found["zero_shot", "base"] == run(base, backbone, "zero_shot")["zero_shot", "photo"]
    assert found["zero_shot", "new"] == run(new, backbone, "zero_shot")["zero_shot", "photo"]
    alone = run(base, backbone, "linear_probe", "coop")
    assert found["linear_probe", "base"] == alone["linear_probe", "photo"]
    assert found["coop", "base"] == alone["coop", "photo"]
    model = fit(base.sealed(), "coop", shots=2, epochs=2, backbone=backbone, store=STORE, check=False)
    assert found["coop", "new"] == evaluate(model.for_classes(["dog", "elk"]), new.test).accuracy


def test_h_is_the_harmonic_mean_of_the_means_and_its_spread_that_over_seeds(source: Task, backbone: Backbone) -> None:
    rows = compare(source, ["zero_shot", "coop"], [1], [1, 2], protocol="base-to-new", backbone=backbone, epochs=1,
                   store=STORE)  # fmt: skip
    base, new, h = (next(row for row in rows if (row.method, row.column) == ("coop", x)) for x in ("base", "new", "H"))
    assert h.mean == pytest.approx(2 * base.mean * new.mean / (base.mean + new.mean))
    each = [2 * b * n / (b + n) for b, n in zip(base.accuracies, new.accuracies, strict=True)]
    assert list(h.accuracies) == pytest.approx(each)
    assert h.spread == pytest.approx(abs(each[0] - each[1]) / 2**0.5)


def test_method_without_new_classes_has_a_dash(source: Task, backbone: Backbone) -> None:
    runs: list[Mapping[str, Any]] = []
    methods = ["tip_adapter", "coop+class_specific=true+epochs=1"]
    rows = compare(source, methods, [1], [1], protocol="base-to-new", backbone=backbone, store=STORE,
                   report=runs.append)  # fmt: skip
    assert {row.column for row in rows} == {"base"}
    lines = table(rows, ("base", "new", "H"))
    assert lines[0].split() == ["1", "shot", "base", "new", "H"]
    assert [line.split()[-2:] for line in lines[1:]] == [["-", "-"], ["-", "-"]]
    assert "cannot predict others. Methods that can: zero_shot" in runs[0]["refusal"]
    assert "class_specific=false" in runs[1]["refusal"]


# Transfer.


def test_transfer_judges_the_same_fit_on_all_images_of_a_target(
    source: Task, others: Task, sketches: Task, backbone: Backbone
) -> None:
    found = run(source, backbone, "zero_shot", "clip_adapter", protocol="transfer", targets=[others, sketches])
    everything = [*others.train, *others.val, *others.test]
    plain = fit(others.sealed(), "zero_shot", shots=1, backbone=backbone, store=STORE)
    assert plain.classes[0].prompts()[1] == ["a toy rag doll."]
    assert found["zero_shot", "toys"] == evaluate(plain, everything).accuracy
    model = fit(source.sealed(), "clip_adapter", shots=2, epochs=2, backbone=backbone, store=STORE, check=False)
    assert found["clip_adapter", "toys"] == evaluate(model.for_classes(others.classes), everything).accuracy
    assert found["clip_adapter", "photo"] == evaluate(model, source.test).accuracy
    mean = (found["zero_shot", "toys"] + found["zero_shot", "sketch"]) / 2
    assert found["zero_shot", "average"] == pytest.approx(mean)


def test_other_classes_carry_their_own_templates(source: Task, others: Task, backbone: Backbone) -> None:
    model = fit(source.sealed(), "zero_shot", shots=1, backbone=backbone, store=STORE)
    assert model.for_classes(others.classes).classes == (others.classes,)
    assert model.for_classes(["ball"]).classes[0].prompts() == [["a photo of a ball."]]


@pytest.mark.parametrize("method", ["zero_shot", "clip_adapter", "coop"])
def test_opened_model_predicts_other_classes_as_the_fitted_one_does(
    source: Task, others: Task, backbone: Backbone, tmp_path: Path, method: str
) -> None:
    epochs = 1 if find(method).recipe else None
    model = fit(source.sealed(), method, shots=1, epochs=epochs, backbone=backbone, store=STORE, check=False)
    opened = Model.open(model.save(tmp_path / "model"), backbone, STORE)
    fitted, again = (one.for_classes(others.classes) for one in (model, opened))
    twice = fitted.for_classes(others.classes)
    assert torch.equal(fitted.probabilities(others.test), again.probabilities(others.test))
    assert torch.equal(fitted.probabilities(others.test), twice.probabilities(others.test))
    assert not any(parameter.requires_grad for parameter in fitted.method.parameters())


# Domain shift.


def test_target_with_some_classes_is_judged_among_these(source: Task, sketches: Task, backbone: Backbone) -> None:
    found = run(source, backbone, "zero_shot", "linear_probe", protocol="domain-shift", targets=[sketches])
    for method in ("zero_shot", "linear_probe"):
        model = fit(source.sealed(), method, shots=2, backbone=backbone, store=STORE, check=False)
        images = [*sketches.train, *sketches.test]
        candidates = model.method.logits(ImagePool(images).all())[:, [1, 2, 4]].argmax(dim=1)  # bee, cat, elk
        names = [sketches.classes.names[item.label].lower() for item in images]
        right = [("bee", "cat", "elk")[place] == name for place, name in zip(candidates.tolist(), names, strict=True)]
        assert found[method, "sketch"] == pytest.approx(sum(right) / len(images))
        assert found[method, "photo"] == evaluate(model, source.test).accuracy


def test_target_with_all_classes_is_judged_by_the_model_as_it_is(source: Task, tmp_path: Path) -> None:
    target = tiny_task(tmp_path / "art", [name.upper() for name in reversed(NAMES)], images=2, seed=1)
    exam = plan_protocol("domain-shift", source, [target]).lessons[0].exams[1]
    assert exam.classes is None
    assert exam.among == ()
    assert len(exam.items) == 10
    assert {(item.picture.path.parent.name.lower(), NAMES[item.label]) for item in exam.items} == {
        (n, n) for n in NAMES
    }


def test_targets_of_one_name_have_columns_of_their_own(source: Task, tmp_path: Path) -> None:
    first, second = (tiny_task(tmp_path / place / "photo", ("ant",), images=1) for place in ("attic", "cellar"))
    columns = plan_protocol("transfer", replace(source, source=Path("/data/here/photo")), [first, second]).columns
    assert columns == ("here/photo", "attic/photo", "cellar/photo", "average")


# Several tasks.


@pytest.fixture(scope="module")
def tasks(source: Task, others: Task, sketches: Task) -> list[Task]:
    return [source, others, sketches]


def test_several_tasks_are_fitted_together_or_one_by_one(tasks: list[Task], backbone: Backbone) -> None:
    runs: list[Mapping[str, Any]] = []
    found = cells(compare(tasks, ["coop", "softcpt"], [2], [1], backbone=backbone, store=STORE, epochs=2,
                          report=runs.append))  # fmt: skip
    assert [(run["method"], run["tasks"]) for run in runs] == [
        ("coop", ["photo"]), ("coop", ["toys"]), ("coop", ["sketch"]), ("softcpt", ["photo", "toys", "sketch"])
    ]  # fmt: skip
    assert [(run["number"], run["total"]) for run in runs] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    sealed = [task.sealed() for task in tasks]
    together = fit(sealed, "softcpt", shots=2, epochs=2, backbone=backbone, store=STORE, check=False)
    for task, own in zip(tasks, sealed, strict=True):
        alone = fit(own, "coop", shots=2, epochs=2, backbone=backbone, store=STORE, check=False)
        assert found["coop", task.name] == evaluate(alone, task.test).accuracy
        assert found["softcpt", task.name] == evaluate(together.for_task(task.name), task.test).accuracy
    for method in ("coop", "softcpt"):
        assert found[method, "average"] == pytest.approx(sum(found[method, task.name] for task in tasks) / 3)


def test_task_left_out_is_predicted_from_its_name_beside_zero_shot(tasks: list[Task], backbone: Backbone) -> None:
    methods = ["coop", "softcpt", "softcpt+variant=nats"]
    rows = compare(tasks, methods, [1], [1], backbone=backbone, store=STORE, epochs=1, leave_out="toys")
    found = cells(rows)
    sealed = [task.sealed() for task in tasks if task.name != "toys"]
    model = fit(sealed, "softcpt", shots=1, epochs=1, backbone=backbone, store=STORE, check=False)
    new = model.for_task("toys", tasks[1].classes.names, tasks[1].classes.templates)
    assert found["softcpt", "toys (left out)"] == evaluate(new, tasks[1].test).accuracy
    plain = fit(tasks[1].sealed(), "zero_shot", shots=1, backbone=backbone, store=STORE)
    assert found["zero_shot", "toys (left out)"] == evaluate(plain, tasks[1].test).accuracy
    assert {("coop", "toys (left out)"), ("softcpt+variant=nats", "toys (left out)")}.isdisjoint(found)
    columns = plan_of(tasks, leave_out="toys").columns
    assert columns == ("photo", "sketch", "average", "toys (left out)")
    assert table(rows, columns)[-1].split()[-1] == "-"


def test_several_tasks_can_be_left_out(tasks: list[Task]) -> None:
    another = replace(tasks[2], classes=replace(tasks[2].classes, task="another"))
    plan = plan_of([*tasks, another], leave_out=["toys", "photo"])
    assert plan.columns == ("sketch", "another", "average", "photo (left out)", "toys (left out)")
    assert plan.together is not None and [task.name for task in plan.together.tasks] == ["sketch", "another"]


def test_base_halves_of_several_tasks_are_fitted_together(tasks: list[Task], backbone: Backbone) -> None:
    settings: dict[str, Any] = {"backbone": backbone, "store": STORE, "epochs": 2}
    found = cells(compare(tasks, ["coop", "softcpt"], [2], [1], protocol="base-to-new", **settings))
    assert plan_of(tasks, "base-to-new").columns == (
        *("photo base", "toys base", "sketch base", "base"), *("photo new", "toys new", "sketch new", "new"), "H"
    )  # fmt: skip
    alone = cells(compare(tasks[0], ["coop"], [2], [1], protocol="base-to-new", **settings))
    assert [found["coop", f"photo {half}"] for half in ("base", "new")] == [alone["coop", "base"], alone["coop", "new"]]
    halves = [plan_of(task, "base-to-new").lessons[0] for task in tasks]
    supports = [support for half in halves for support in half.support(2, 1)]
    together = fit(supports, "softcpt", shots=None, epochs=2, backbone=backbone, store=STORE, check=False)
    for task, half in zip(tasks, halves, strict=True):
        base, new = half.exams
        assert new.classes is not None
        assert found["softcpt", f"{task.name} base"] == evaluate(together.for_task(task.name), base.items).accuracy
        assert found["softcpt", f"{task.name} new"] == evaluate(together.for_classes(new.classes), new.items).accuracy
    for method in ("coop", "softcpt"):
        means = [fmean(found[method, f"{task.name} {half}"] for task in tasks) for half in ("base", "new")]
        assert [found[method, "base"], found[method, "new"]] == pytest.approx(means)
        assert found[method, "H"] == pytest.approx(harmonic_mean(means))


def test_single_task_runs_are_shared_with_a_comparison_of_that_task(
    tasks: list[Task], backbone: Backbone, tmp_path: Path
) -> None:
    resumed: list[bool] = []
    run(tasks[0], backbone, "coop", out=tmp_path / "runs")
    compare(tasks, ["coop"], [2], [1], backbone=backbone, store=STORE, epochs=2, out=tmp_path / "runs",
            report=lambda run: resumed.append(run["resumed"]))  # fmt: skip
    assert resumed == [True, False, False]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"leave_out": "toy"}, "There is no task 'toy' to leave out; the tasks: photo, toys, sketch"),
        ({"protocol": "base-to-new", "leave_out": "toys"}, "base-to-new leaves classes out of every task, not tasks"),
    ],
)
def test_impossible_comparison_of_tasks_is_refused(tasks: list[Task], settings: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        plan_of(tasks, **settings)


def test_one_task_is_not_several(tasks: list[Task]) -> None:
    with pytest.raises(UsageError, match="expected two or more"):
        plan_of(tasks[:2], leave_out="toys")
    with pytest.raises(UsageError, match="left out of several only"):
        plan_of(tasks[0], leave_out="photo")


# What is kept of a comparison, and what is refused.


def test_finished_runs_are_told_apart_by_protocol_and_targets(
    source: Task, sketches: Task, others: Task, backbone: Backbone, tmp_path: Path
) -> None:
    resumed: list[bool] = []

    def again(**settings: Any) -> bool:
        run(source, backbone, "zero_shot", out=tmp_path / "runs", report=lambda r: resumed.append(r["resumed"]),
            **settings)  # fmt: skip
        return resumed[-1]

    assert not again()
    assert not again(protocol="base-to-new")
    assert not again(protocol="domain-shift", targets=[sketches])
    assert not again(protocol="transfer", targets=[sketches])
    assert not again(protocol="transfer", targets=[sketches, others])
    assert not again(protocol="transfer", targets=[replace(sketches, train=sketches.train[1:]), others])
    retold = replace(others, classes=replace(others.classes, templates=("{}",)))
    assert not again(protocol="transfer", targets=[sketches, retold])
    assert again() and again(protocol="base-to-new") and again(protocol="transfer", targets=[sketches, others])


def test_variants_are_methods_with_options(source: Task, backbone: Backbone, tmp_path: Path) -> None:
    names = ["coop+length=2", "coop+length=2+epochs=1+lr=0.5", "clip_adapter+ratio=0.5"]
    runs: list[Mapping[str, Any]] = []
    rows = compare(source, names, [1], [1], backbone=backbone, store=STORE, epochs=1, out=tmp_path / "runs")
    assert [row.method for row in rows] == names
    same = ["coop+length=2+epochs=1", "coop+epochs=1+length=2+position=end", "coop+length=3"]
    rows = compare(source, same, [1], [1], backbone=backbone, store=STORE, epochs=1, out=tmp_path / "runs",
                   report=runs.append)  # fmt: skip
    assert [run["resumed"] for run in runs] == [True, True, False]
    assert [row.method for row in rows] == same


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("coop+lenght=4", "has no option 'lenght'"),
        ("coop+length=none", "length must be a whole number"),
        ("coop+length=0", "length must be a whole number at least 1"),
        ("coop+length=4+length=8", "gives length twice"),
        ("coop+length", "write name+option=value"),
        ("coop+lr=fast", "lr must be a number above 0"),
        ("coop+epochs=0", "epochs must be a whole number from 1"),
        ("zero_shot+lr=0.1", "takes no gradient steps"),
        ("cop+length=4", "Did you mean coop?"),
        ("dualadapter+lambda_grid=0", "expected low,high,steps"),
    ],
)
def test_wrong_variant_is_refused_before_any_fit(
    source: Task, backbone: Backbone, tmp_path: Path, method: str, sentence: str
) -> None:
    with pytest.raises(UsageError, match=r".*") as refusal:
        run(source, backbone, "zero_shot", method, out=tmp_path / "runs")
    assert sentence in str(refusal.value)
    assert not (tmp_path / "runs").exists()


def test_target_with_an_unknown_class_is_refused_by_name(source: Task, others: Task) -> None:
    with pytest.raises(ShotfitError, match=r"toys has classes that photo has not: ball, rag doll\. .*transfer"):
        plan_protocol("domain-shift", source, [others])


def test_classes_of_one_name_are_refused(source: Task, tmp_path: Path) -> None:
    target = tiny_task(tmp_path / "twins", ("red fox", "Red_Fox"), images=1)
    for protocol in ("transfer", "domain-shift"):
        with pytest.raises(ShotfitError, match="twins has two classes that are called 'Red Fox' and 'red fox'"):
            plan_protocol(protocol, source, [target])
    with pytest.raises(ShotfitError, match="two classes that are called"):
        plan_protocol("base-to-new", replace(target, held_out=target.train))


def test_images_that_a_fit_learns_from_are_told_if_a_target_holds_them(
    source: Task, backbone: Backbone, tmp_path: Path
) -> None:
    copy = only(tmp_path, source, ("ant", "bee"))
    with pytest.warns(UserWarning, match=r"10 images of the target photo are also among those that photo is fitted to"):
        run(source, backbone, "zero_shot", protocol="transfer", targets=[copy])


def test_base_to_new_needs_two_classes(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match="single class"):
        plan_protocol("base-to-new", tiny_task(tmp_path, ("ant",), images=2))


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--protocol", "zero-to-hero"], 2, "There is no protocol 'zero-to-hero': use few-shot"),
        (["--protocol", "transfer"], 2, "transfer needs targets"),
        (["--targets", "TARGET"], 2, "few-shot has no targets"),
        (["--protocol", "base-to-new", "--targets", "TARGET"], 2, "base-to-new has no targets"),
        (["--protocol", "domain-shift", "--targets", "nowhere"], 3, "nowhere does not exist"),
        (["--protocol", "domain-shift", "--targets", "SOURCE"], 2, "is the source itself"),
        (["--protocol", "transfer", "--targets", "TARGET", "TARGET"], 2, "named twice"),
        (["--methods", "zero_shot,coop+size=3"], 2, "has no option 'size'"),
        (["--lr", "-1"], 2, "The learning rate must be a number above 0"),
        (["--tasks", "TASKS"], 2, "give one of them"),
        (["--leave-out", "photo"], 2, "left out of several only"),
    ],
)
def test_wrong_protocol_is_one_line(
    source: Task, sketches: Task, backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, sentence: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    places = {"SOURCE": str(source.source), "TARGET": str(sketches.source), "TASKS": "tasks.toml"}
    given = ["compare", places["SOURCE"], "--backbone", backbone.name, "--out", str(tmp_path / "runs.jsonl")]
    assert main([*given, *(places.get(word, word) for word in words)]) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert len(lines) == 1 and sentence in lines[0]
    assert not (tmp_path / "runs.jsonl").exists()


def test_command_compares_several_tasks_and_one_left_out(
    tasks: list[Task], backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    listed = "".join(f'[[task]]\nname = "my {task.name}"\ndata = "{task.source}"\n' for task in tasks)
    (tmp_path / "tasks.toml").write_text(listed)
    words = ["compare", "--tasks", tmp_path / "tasks.toml", "--backbone", backbone.name, "--methods", "coop,softcpt"]
    words += ["--leave-out", "my toys", "--shots", "1", "--seeds", "1,2", "--epochs", "1", "--out", tmp_path / "runs"]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr()
    assert "8 of 8: softcpt, 1 shot, seed 2: my photo" in printed.err
    lines = printed.out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("1 shot "))
    head, zero_shot, coop, softcpt = (line.rstrip(" *~") for line in lines[first : first + 4])
    assert head.split("  ")[-1] == "my toys (left out)"
    assert (zero_shot.split()[0], coop.split()[-1], softcpt.split()[0]) == ("zero_shot", "-", "softcpt")
    assert "average: mean over my photo, my sketch" in printed.out
    assert main(["compare", "--tasks", str(tmp_path / "tasks.toml"), "--template", "a {}."]) == 2
    assert "--template goes with a folder" in capsys.readouterr().err
    assert main(["compare", "--tasks", str(tmp_path / "none.toml")]) == 3
    assert "none.toml cannot be read" in capsys.readouterr().err


def test_command_compares_domains_in_one_table(
    source: Task, sketches: Task, backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    cartoons = tiny_task(tmp_path / "cartoon", NAMES, images=3, seed=3)
    words = ["compare", source.source, "--backbone", backbone.name, "--methods", "zero_shot,linear_probe"]
    words += ["--protocol", "domain-shift", "--targets", sketches.source, cartoons.source]
    words += ["--shots", "1,2", "--seeds", "1,2", "--out", tmp_path / "runs.jsonl"]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr()
    assert "1 of 8: zero_shot, 1 shot, seed 1: photo " in printed.err
    heads = [line.split() for line in printed.out.splitlines() if line[:1].isdigit() and "average" in line]
    columns = ["photo", "sketch", "cartoon", "average"]
    assert heads == [["1", "shot", *columns], ["2", "shots", *columns]]
    assert "average: mean over sketch, cartoon" in printed.out
    assert main([str(word) for word in [*words, "--json"]]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("found in the file") == 8
    found = json.loads(printed.out)
    assert found["protocol"] == "domain-shift"
    assert [row["column"] for row in found["rows"][:4]] == columns
    assert len(found["rows"]) == 16
