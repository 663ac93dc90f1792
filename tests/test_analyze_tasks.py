"""How alike tasks are: by names, contexts and transfer; what belongs together, and the list that is proposed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shotfit.analysis.tasks import Gains, Likeness, grouped, likenesses, transfer
from shotfit.analysis.tasks_plot import plot_tasks
from shotfit.checkpoints.weights import load_in
from shotfit.commands.analyze_tasks import _proposed
from shotfit.data.tasks import Task
from shotfit.data.toml import read_toml
from shotfit.engine.frozen import Frozen, normalize
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.fit import fit
from shotfit.fitting.model import load
from shotfit.methods.softcpt import SoftCPT
from shotfit.testing.tiny import tiny_backbone, tiny_task

from .test_cli import Shell, one_line, shell

__all__ = ["shell"]

NAMES = ("red flowers", "blue flowers", "engines")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    folder = tmp_path_factory.mktemp("tasks")
    found = [
        tiny_task(folder / name.split()[0], ("rose", "tulip"), images=8, seed=seed) for seed, name in enumerate(NAMES)
    ]
    return [replace(task, classes=replace(task.classes, task=name)) for task, name in zip(found, NAMES, strict=True)]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Frozen:
    return Frozen(load_in(tiny_backbone(tmp_path_factory.mktemp("b") / "backbone"), "float32", "cpu"), MemoryStore())


@pytest.mark.parametrize("variant", ["nata", "cata"])
def test_contexts_are_those_of_the_fitted_model(
    tmp_path: Path, tasks: list[Task], frozen: Frozen, variant: str
) -> None:
    prototype = SoftCPT(variant=variant)
    model = fit(tasks, prototype, backbone=frozen.backbone, store=frozen.store, steps=2, lr=0.01, check=False)
    found = likenesses(frozen, tasks, model)
    assert isinstance(model.method, SoftCPT)
    with torch.no_grad():
        rows = model.method.contexts().flatten(1).double()
    if variant == "cata":
        rows = rows.unflatten(0, (3, 2)).mean(dim=1)
    assert found.by_context == pytest.approx((normalize(rows) @ normalize(rows).T).numpy(), abs=1e-6)
    tiny_backbone(tmp_path / "backbone")
    saved = load(model.save(tmp_path / "model"), backbone=str(tmp_path / "backbone"), store=MemoryStore())
    assert likenesses(frozen, tasks, saved).by_context == pytest.approx(found.by_context, abs=1e-6)
    assert found.shared is not None
    assert 0 < found.shared <= 1
    assert found.basis == "contexts"
    assert np.diag(found.by_name) == pytest.approx([1, 1, 1])
    other = replace(tasks[0], classes=replace(tasks[0].classes, task="unseen flowers"))
    again = likenesses(frozen, [other, *tasks[1:]], model)
    assert again.by_context is not None
    assert again.by_context[1, 2] == pytest.approx(found.by_context[1, 2])


def test_transfer_is_judged_on_images_that_no_fit_has_seen(tasks: list[Task], frozen: Frozen) -> None:
    told: list[str] = []
    gains = transfer(frozen, tasks, "clip_adapter", shots=1, seeds=(1, 2), images=4, steps=3, told=told.append)
    assert gains.values.shape == (2, 3, 3)
    assert gains.mean == pytest.approx(gains.values.mean(axis=0))
    assert len(told) == 1
    assert told[0].startswith("the first of 6 fits took")
    with pytest.raises(ShotfitError, match="no training image beside the shots"):
        transfer(frozen, tasks, "clip_adapter", shots=50, seeds=(1,))
    with pytest.raises(UsageError, match="taskres predicts no classes but its own"):
        transfer(frozen, tasks, "taskres")


def made(gains: bool = True) -> Likeness:
    """Two alike, one that harms and is harmed."""
    names = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]])
    mean = np.array([[0.2, 0.1, -0.2], [0.1, 0.2, -0.1], [-0.1, 0.0, 0.3]])
    ends = tuple(tuple((float(value - 0.05), float(value + 0.05)) for value in row) for row in mean)
    own = Gains("coop", 4, (1, 2), np.stack([mean, mean]), np.full(3, 0.5), ends, NAMES)
    return Likeness("tiny", NAMES, (2, 2, 2), names, gains=own if gains else None)


def test_negative_transfer_and_groups_are_named() -> None:
    found = made()
    assert found.gains is not None
    lost = [(one, other) for one, other, *_ in found.gains.negative()]
    assert lost == [("red flowers", "engines"), ("blue flowers", "engines"), ("engines", "red flowers")]
    assert found.groups() == [["red flowers", "blue flowers"], ["engines"]]
    same, other = found.within_and_between() or (0, 0)
    assert (same, other) == pytest.approx((0.1, -0.1))
    assert found.findings()["names and gains"] == pytest.approx(0.9, abs=0.15)
    assert found.findings()["names and contexts"] is None
    json.dumps(found.as_json())


def test_all_alike_is_no_reason_to_fail() -> None:
    assert sorted(place for group in grouped(np.zeros((4, 4))) for place in group) == [0, 1, 2, 3]


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_likeness_is_drawn(tmp_path: Path, ending: str) -> None:
    plot_tasks(made(), tmp_path / f"tasks.{ending}")
    content = (tmp_path / f"tasks.{ending}").read_bytes()
    assert content.startswith(b"\x89PNG") if ending == "png" else b"red flowers" in content


def test_list_of_folders_of_any_name_is_read_again(tmp_path: Path) -> None:
    names = ["🌷", 'a "rose"', "engines"]
    said = _proposed([names[:2], names[2:]], None, [(name, tmp_path / name) for name in names])
    (tmp_path / "proposed.toml").write_text(said, encoding="utf-8")
    tasks = read_toml(tmp_path / "proposed.toml", "a task list")["task"]
    assert [one["name"] for one in tasks] == names and tasks[0]["data"] == str(tmp_path / "🌷")
    assert [one.get("parent") for one in tasks] == ['🌷 and a "rose"'] * 2 + [None]


def test_drawing_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    plot_tasks(replace(made(), backbone="/home/someone/clip"), tmp_path / "tasks.svg")
    assert "/home/someone" not in (tmp_path / "tasks.svg").read_text(encoding="utf-8")


def test_command_prints_what_belongs_together_and_a_list(tmp_path: Path, shell: Shell) -> None:
    lines: list[str] = []
    for name, word in zip(NAMES, ("a", "b", "c"), strict=True):
        tiny_task(tmp_path / word, ("rose", "tulip"), images=4, seed=len(lines))
        lines += ["[[task]]  # one", f'name = "{name}"', f'data = "{word}"', ""]
    (tmp_path / "tasks.toml").write_text("\n".join(lines))
    tiny_backbone(tmp_path / "backbone")
    words = ["--tasks", str(tmp_path / "tasks.toml"), "--backbone", str(tmp_path / "backbone"), "--json"]
    done = shell("analyze", "tasks", *words)
    assert done.code == 0, one_line(done)
    told = json.loads(done.out.splitlines()[-1])
    (tmp_path / "proposed.toml").write_text(told["proposed"])
    proposed = read_toml(tmp_path / "proposed.toml", "a task list")["task"]
    assert [one["name"] for one in proposed] == list(NAMES)
    parents = {tuple(group): " and ".join(group[:2]) for group in told["groups"] if len(group) > 1}
    for one in proposed:
        expected = next((parent for group, parent in parents.items() if one["name"] in group), None)
        assert one.get("parent") == expected
    refused = shell("analyze", "tasks", str(tmp_path / "a"))
    assert refused.code == 2
    assert "is asked of three or more" in one_line(refused)
