"""Several tasks from the command line and from Python: one model of all, one a task, a new task from its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from shotfit.checkpoints.weights import load_backbone
from shotfit.commands.cli import main
from shotfit.data.tasklist import read_tasks
from shotfit.data.tasks import joined
from shotfit.engine.store import MemoryStore
from shotfit.errors import UsageError
from shotfit.evaluation.evaluate import evaluate_tasks, zero_shot_of
from shotfit.evaluation.several import models_of
from shotfit.fitting import checking
from shotfit.fitting.checking import compared
from shotfit.fitting.fit import fit
from shotfit.fitting.heldout import HeldOut
from shotfit.fitting.model import Model
from shotfit.methods.numbering import among_own, labels_by_task, loss_within_tasks
from shotfit.methods.softcpt import SoftCPT
from shotfit.testing.tiny import tiny_backbone, tiny_task

from .test_cli import Result, Shell, one_line, shell

TRUST = "--trust-backbone"  # the models were fitted on a folder

__all__ = ["shell"]  # a fixture

LIST = """
[[task]]
name = "colored things"
data = "things"
template = "a {} thing."

[[task]]
name = "weather"
description = "what it is like outside"
data = "weather"
"""
SHORT = ("--set", "length=2", "--set", "task_length=2")


@dataclass(frozen=True)
class Home:
    """A task list of two tasks, a tiny backbone, and a SoftCPT model of both."""

    folder: Path
    tasks: Path
    backbone: Path
    model: Path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("several")
    tiny_task(folder / "things", ("red", "green", "blue"))
    tiny_task(folder / "weather", ("wet", "dry"), images=8)
    tiny_backbone(folder / "backbone")
    (folder / "tasks.toml").write_text(LIST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOTFIT_CACHE", str(folder / "cache"))
        words = ["fit", "--tasks", folder / "tasks.toml", "--method", "softcpt", *SHORT, "--backbone"]
        words += [folder / "backbone", "--shots", 2, "--epochs", 2, "--keep", "--out", folder / "model"]
        assert main([str(word) for word in words]) == 0
        yield Home(folder, folder / "tasks.toml", folder / "backbone", folder / "model")


def picture(home: Home) -> Path:
    return next((home.folder / "weather").rglob("*.png"))


def labels(result: Result) -> set[str]:
    assert result.code == 0, result.err
    return {line.split(",")[2] for line in result.out.splitlines()[1:]}


# The command line


def test_model_of_all_tasks_predicts_for_the_named_one(home: Home, shell: Shell) -> None:
    words = ["predict", TRUST, home.model, picture(home), "--format", "csv", "--top", 9]
    assert labels(shell(*words, "--task", "weather")) == {"wet", "dry"}
    assert labels(shell(*words, "--task", "colored things")) == {"red", "green", "blue"}


def test_steps_that_draw_classes_are_never_replayed() -> None:
    assert SoftCPT().training_recipe().replayable
    for update in ("single", "released"):
        assert not SoftCPT(variant="cata", class_sampling=0.5, update=update).training_recipe().replayable


def test_model_of_several_tasks_asks_which_one(home: Home, shell: Shell) -> None:
    result = shell("predict", TRUST, home.model, picture(home), "--format", "csv")
    assert result.code == 2 and not result.out
    assert "holds 2 tasks (colored things, weather): name one with --task 'colored things'" in one_line(result)


def test_new_task_is_predicted_from_its_name_and_class_names(home: Home, shell: Shell) -> None:
    words = [
        "predict",
        TRUST,
        home.model,
        picture(home),
        "--format",
        "csv",
        "--top",
        9,
        "--classes",
        "robin,wren,tit",
    ]
    first = shell(*words, "--task", "garden birds")
    assert labels(first) == {"robin", "wren", "tit"}
    assert shell(*words, "--task", "cars").out != first.out  # the name makes the context
    assert labels(shell(*words, "--task", "weather")) == {"robin", "wren", "tit"}


def test_unknown_task_without_classes_is_one_line(home: Home, shell: Shell) -> None:
    result = shell("predict", TRUST, home.model, picture(home), "--task", "birds")
    assert "has no task 'birds'; its tasks: colored things, weather." in one_line(result)
    assert result.code == 2


def test_evaluate_scores_every_task_and_their_mean(home: Home, shell: Shell) -> None:
    result = shell("evaluate", TRUST, home.model, "--tasks", home.tasks, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    record = json.loads((home.model / "adapter.json").read_text())
    assert found["tasks"].keys() == record["scores"]["tasks"].keys() == {"colored things", "weather"}
    accuracies = [found["tasks"][name]["accuracy"] for name in found["tasks"]]
    assert found["accuracy"] == pytest.approx(sum(accuracies) / 2) == pytest.approx(record["scores"]["accuracy"])
    text = shell("evaluate", TRUST, home.model, "--tasks", home.tasks).out
    assert "\nweather " in text and "\nmean " in text


def test_evaluate_takes_one_folder_for_a_named_task(home: Home, shell: Shell) -> None:
    named = shell("evaluate", TRUST, home.model, home.folder / "weather", "--task", "weather", "--json")
    assert json.loads(named.out)["class_names"] == ["dry", "wet"]
    new = shell("evaluate", TRUST, home.model, home.folder / "weather", "--task", "outside", "--json")
    assert json.loads(new.out)["class_names"] == ["dry", "wet"]
    unnamed = shell("evaluate", TRUST, home.model, home.folder / "weather")
    assert "name one with --task" in one_line(unnamed) and unnamed.code == 2


def test_evaluate_predicts_a_task_that_was_left_out(home: Home, shell: Shell, tmp_path: Path) -> None:
    listed = f'[[task]]\nname = "outside"\ndata = "{home.folder / "weather"}"\n'
    (tmp_path / "tasks.toml").write_text(listed)
    result = shell("evaluate", TRUST, home.model, "--tasks", tmp_path / "tasks.toml", "--json")
    assert json.loads(result.out)["new_tasks"] == ["outside"]
    assert "outside (new)" in shell("evaluate", TRUST, home.model, "--tasks", tmp_path / "tasks.toml").out


def test_method_of_one_task_fits_a_list_task_by_task(home: Home, shell: Shell, tmp_path: Path) -> None:
    words = ["fit", "--tasks", home.tasks, "--method", "taskres", "--backbone", home.backbone, "--shots", 2]
    result = shell(*words, "--epochs", 1, "--no-check", "--out", tmp_path / "m", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert set(found["models"]) == {"colored things", "weather"}
    assert "\nmean " in result.err and f"saved {tmp_path / 'm' / 'colored_things'}" in result.err
    place = found["models"]["weather"]["model"]
    assert labels(shell("predict", TRUST, place, picture(home), "--format", "csv", "--top", 9)) == {
        "wet",
        "dry",
    }
    named = shell("predict", TRUST, tmp_path / "m", picture(home), "--task", "weather", "--format", "csv", "--top", 9)
    assert labels(named) == {"wet", "dry"}
    assert "holds those of the tasks colored things, weather: name one with --task" in one_line(
        shell("predict", TRUST, tmp_path / "m", picture(home))
    )
    assert "no model of the task 'wether'" in one_line(
        shell("predict", TRUST, tmp_path / "m", picture(home), "--task", "wether")
    )
    spaced = shell("evaluate", TRUST, tmp_path / "m", home.folder / "things", "--task", "colored things", "--json")
    assert spaced.code == 0, spaced.err
    again = json.loads(shell("evaluate", TRUST, tmp_path / "m", "--tasks", home.tasks, "--json").out)
    assert again["accuracy"] == pytest.approx(found["accuracy"])


@pytest.mark.filterwarnings("default")
def test_models_of_a_list_share_a_backbone_and_survive_killed_writers(home: Home, shell: Shell, tmp_path: Path) -> None:
    words = ["fit", "--tasks", home.tasks, "--method", "tip_adapter", "--backbone", home.backbone, "--shots", 2]
    assert shell(*words, "--out", tmp_path / "m").code == 0
    first, second = models_of(tmp_path / "m", read_tasks(home.tasks), None, trust_backbone=True)
    assert first[0].frozen.backbone is second[0].frozen.backbone
    (tmp_path / "m" / ".shotfit-old-weather").mkdir()  # as `write_folder` leaves it between its two renames
    (tmp_path / "m" / "weather").rename(tmp_path / "m" / ".shotfit-old-weather" / "weather")
    (tmp_path / "m" / "colored_things").rename(tmp_path / "m" / ".shotfit-1234")  # never finished
    named = ["predict", TRUST, tmp_path / "m", picture(home), "--format", "csv", "--top", 9, "--task"]
    older = shell(*named, "weather")
    assert labels(older) == {"wet", "dry"} and older.err.count("was being replaced") == 1
    assert "is not a shotfit model" in one_line(shell(*named, "colored things"))


def test_fit_prints_the_tasks_and_the_mean(home: Home, shell: Shell, tmp_path: Path) -> None:
    words = ["fit", "--tasks", home.tasks, "--method", "coop_mt", "--set", "length=2", "--backbone", home.backbone]
    result = shell(*words, "--shots", 2, "--epochs", 1, "--keep", "--out", tmp_path / "m")
    assert result.code == 0, result.err
    assert "task            zero-shot    coop_mt" in result.out
    assert "--task TASK" in result.out
    card = (tmp_path / "m" / "README.md").read_text()
    assert "5 classes of 2 tasks" in card and "Classes of weather: dry, wet" in card


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["fit"], 2, "Missing argument FOLDER: name a folder of images, or a task list with --tasks"),
        (["fit", "HOME/things", "--tasks", "LIST"], 2, "give one of them"),
        (["fit", "LIST"], 2, "if it is a task list, name it with --tasks"),
        (["fit", "--tasks", "HOME/things"], 2, "expected a task list, a file that ends in .toml"),
        (["fit", "--tasks", "HOME/none.toml", "--out", "NEW"], 3, "none.toml cannot be read"),
        (["fit", "--tasks", "LIST", "--template", "a {}."], 2, "--template goes with a folder"),
        (["fit", "--tasks", "LIST", "--method", "taskres", "--out", "MODEL"], 2, "choose another --out"),
        (["fit", "--tasks", "LIST", "--method", "softcpt", "--set", "variant=nota"], 2, "variant must be one of nata"),
        (
            ["fit", "--tasks", "LIST", "--method", "softcpt", "--set", "network=lincls"],
            2,
            "needs a variant with a class",
        ),
        (
            ["evaluate", TRUST, "MODEL", "--tasks", "LIST", "--task", "weather"],
            2,
            "--task goes with a folder",
        ),
        (
            ["predict", TRUST, "MODEL", "PICTURE", "--task", "weather", "--classes", "wet,dry,Wet"],
            2,
            "The other classes name 'wet' twice: give each class once",
        ),
        (
            ["predict", TRUST, "MODEL", "PICTURE", "--task", "weather", "--classes", "wet,<end>"],
            3,
            "holds the special token <end>",
        ),
        (
            ["evaluate", "HOME", "--tasks", "LIST"],
            3,
            "holds no model, and none of the task 'colored things' below it",
        ),
    ],
)
def test_wrong_use_is_one_line(
    home: Home, shell: Shell, tmp_path: Path, words: list[str], code: int, sentence: str
) -> None:
    places = {"LIST": home.tasks, "MODEL": home.model, "NEW": tmp_path / "new", "HOME": home.folder}
    places["PICTURE"] = Path(picture(home))
    for name, path in places.items():
        words = [word.replace(name, str(path)) for word in words]
    result = shell(*words)
    assert sentence in result.err.splitlines()[-1]
    assert result.code == code and "Traceback" not in result.err


@pytest.mark.slow
def test_race_of_several_tasks_takes_one_model_of_all_where_that_is_better(
    home: Home, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shotfit.fitting.race.SHORTLIST", ("zero_shot", "tip_adapter"))
    words = ["fit", "--tasks", home.tasks, "--backbone", home.backbone, "--shots", 4, "--recipe", "paper", "--json"]
    for gain, places in ((0.0, {"colored_things", "weather"}), (1.0, {""})):
        out = tmp_path / f"gain{gain}"

        def better(checked: dict[str, Any], gain: float = gain) -> dict[str, Any]:
            for found in [checked, *checked.get("tasks", {}).values()]:
                found |= {"accuracy": gain if "tasks" in checked else 0.5, "zero_shot_accuracy": 0.0}
            return checked

        monkeypatch.setattr("shotfit.fitting.fit.compared", lambda *given, better=better: better(compared(*given)))
        result = shell(*words, "--out", out)
        assert result.code == 0, result.err
        found = {"" if path.parent == out else path.parent.name for path in out.rglob("adapter.json")}
        assert found == places
        for path in out.rglob("adapter.json"):
            raced = {row["method"]: row["accuracy"] for row in json.loads(path.read_text())["race"]}
            assert raced["softcpt"] == gain
        again = shell(*words, "--out", out)
        assert (again.code, "is not empty" in again.err.splitlines()[-1]) == (2, True)


# The library


def fitted(home: Home, method: SoftCPT, **settings: object) -> Model:
    backbone = load_backbone(str(home.backbone))
    return fit(read_tasks(home.tasks), method, shots=2, epochs=1, backbone=backbone, store=MemoryStore(), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "nats"}, "learned a context for each of its tasks .* and cannot predict others \\(birds\\)"),
        ({"variant": "cats"}, "learned a context for each of its tasks"),
        ({"variant": "csta"}, "learned a context for each of its classes and cannot predict others"),
        ({"variant": "csts"}, "learned a context for each of its classes"),
    ],
)
def test_variant_that_learned_for_tasks_or_classes_refuses_new_ones(
    home: Home, options: dict[str, str], words: str
) -> None:
    model = fitted(home, SoftCPT(**options, length=2, task_length=2, class_length=2), check=False)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=words):
        model.for_task("birds", ["robin", "wren"])
    if options["variant"] in ("nats", "cats"):
        other = model.for_task("weather", ["wet", "dry", "foggy"])
        assert other.class_names == ("wet", "dry", "foggy")


def test_check_against_zero_shot_counts_each_task_once(home: Home) -> None:
    model = fitted(home, SoftCPT(length=2, task_length=2), keep=True)
    checked = model.record["checked"]
    tasks = checked["tasks"]
    assert tasks.keys() == {"colored things", "weather"}
    for name in ("accuracy", "zero_shot_accuracy"):
        assert checked[name] == pytest.approx(sum(task[name] for task in tasks.values()) / 2)


def test_fit_below_zero_shot_falls_back_to_it_for_all_tasks(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing, everything = (partial(torch.full, fill_value=value, dtype=torch.bool) for value in (False, True))
    monkeypatch.setattr(HeldOut, "right", lambda held, sizes: nothing(tuple(held.labels.shape)))
    monkeypatch.setattr(checking, "hits", lambda method, images, labels: everything(tuple(labels.shape)))
    model = fitted(home, SoftCPT(length=2, task_length=2))
    assert (model.record["fell_back"], model.method.name) == (True, "zero_shot")
    assert model.tasks == ("colored things", "weather")


def test_zero_shot_of_a_list_uses_each_tasks_own_templates(home: Home) -> None:
    tasks = read_tasks(home.tasks)
    backbone = load_backbone(str(home.backbone))
    together = fit(tasks, "zero_shot", shots=1, backbone=backbone, store=MemoryStore(), check=False)
    scores = evaluate_tasks(together, tasks)
    for task in tasks:
        alone = fit(task, "zero_shot", shots=1, backbone=backbone, store=MemoryStore(), check=False)
        items = task.test
        expected = alone.probabilities(items)
        torch.testing.assert_close(together.for_task(task.name).probabilities(items), expected, rtol=1e-5, atol=1e-6)
        assert scores.tasks[task.name].images == len(items)
    assert evaluate_tasks(zero_shot_of(together), tasks).accuracy == scores.accuracy


def test_shots_are_drawn_in_each_task_as_if_it_stood_alone(home: Home) -> None:
    tasks = read_tasks(home.tasks)
    drawn = [task.shots(2, 1) for task in tasks]
    items = joined([(task.classes, task.train) for task in drawn])
    assert [item.picture.path for item in items] == [item.picture.path for task in drawn for item in task.train]
    assert [item.label for item in items] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]  # in order of first appearance


def test_image_of_two_tasks_counts_in_both(home: Home) -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    both = torch.tensor([[0, -1], [2, 1], [-1, 0]])
    losses = [-logits[i].split([3, 2])[t].log_softmax(0)[both[i, t]] for i, t in ((0, 0), (1, 0), (1, 1), (2, 1))]
    assert loss_within_tasks(logits, both, (3, 2)) == pytest.approx(float(sum(losses)) / 3, rel=1e-6)


def test_image_is_judged_among_its_own_classes() -> None:
    logits, labels = torch.tensor([[0.0, 1.0, 5.0], [9.0, 0.0, 1.0]]), torch.tensor([1, 2])
    assert among_own(logits, labels, (2, 1)).argmax(dim=1).tolist() == [1, 2]
    assert labels_by_task(labels, (2, 1)).tolist() == [[1, -1], [-1, 0]]


def test_two_tasks_of_one_name_are_refused(home: Home) -> None:
    task = read_tasks(home.tasks)[0]
    with pytest.raises(UsageError, match="Two tasks are called 'colored things'"):
        fit([task, task], "zero_shot", backbone=str(home.backbone))
