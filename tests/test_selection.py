"""What `--recipe auto` chooses: from which grid, by what, with what left open, and what it never does twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import Item, Task
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore, Store
from shotfit.errors import DivergedError
from shotfit.fitting import fit as module
from shotfit.fitting.checking import with_half
from shotfit.fitting.fit import fit
from shotfit.fitting.fitter import Fitter, Setting
from shotfit.fitting.heldout import HeldOut, log_likelihoods, standard_error
from shotfit.fitting.model import Model
from shotfit.fitting.race import Entrant
from shotfit.fitting.selection import Candidate, Judge, candidate_at, choose, hold_out
from shotfit.methods import METHODS, Axis, Grid, find, option
from shotfit.methods.base import Fold, Method, Validation
from shotfit.methods.clip_adapter import ClipAdapter
from shotfit.methods.taskres import TaskRes
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone

WITH_GRID = [name for name in METHODS if find(name).grid is not None]


class Shift(TaskRes):
    """TaskRes with a grid of four short trainings."""

    name: ClassVar[str] = "shift"
    grid: ClassVar[Grid | None] = Grid(
        (Axis("alpha", (0.5, 2.0), "scale"), Axis("lr", (2e-3, 2e-2), "rate"), Axis("steps", (8,), "length")),
        robust={"alpha": 2.0, "lr": 2e-3, "steps": 5},
    )


class Leaping(ClipAdapter):
    """CLIP-Adapter with a rate that no training survives."""

    name: ClassVar[str] = "leaping"
    grid: ClassVar[Grid | None] = Grid((Axis("lr", (2e-3, 1e30), "rate"), Axis("steps", (8,), "length")), robust={})


class WithFile(Shift):
    """A method that reads a file."""

    name: ClassVar[str] = "with_file"

    notes: str = option("", "a file")

    def files(self) -> list[Path]:
        """The file."""
        return [Path(self.notes)]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("selection") / "backbone")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return tiny_task(tmp_path_factory.mktemp("selection") / "images", images=8).sealed()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What every training was for."""
    noted, train = list[str](), Fitter.fit

    def note(fitter: Fitter, *words: Any, **named: Any) -> Method:
        noted.append(words[3])
        return train(fitter, *words, **named)

    monkeypatch.setattr(Fitter, "fit", note)
    yield noted


def fitted(task: Task, backbone: Backbone, method: Method | None = None, **settings: Any) -> Model:
    given: dict[str, Any] = {
        "shots": 4,
        "store": MemoryStore(),
        "keep": True,
        "check": False,
        "views": "center",
    } | settings
    return fit(task, Shift() if method is None else method, backbone=backbone, **given | settings)


def points(model: Model, rung: int = 1) -> list[dict[str, Any]]:
    """What was tried on a rung."""
    return [trial["point"] for trial in model.record["choice"]["tried"] if trial["rung"] == rung]


# The grid


@pytest.mark.parametrize("name", WITH_GRID)
def test_grid_begins_at_the_papers_recipe(name: str) -> None:
    kind = find(name)
    assert kind.grid is not None and kind.recipe is not None
    first = {axis.name: axis.values[0] for axis in kind.grid.axes}
    own = kind().options() | {"lr": kind.recipe.optimizer.lr}
    assert kind.grid.points()[0] == first
    assert {name: value for name, value in first.items() if name != "steps"} == {
        name: own[name] for name in first if name != "steps"
    }
    assert kind.grid.robust.keys() == first.keys()
    assert all(axis.reason for axis in kind.grid.axes)


@pytest.mark.parametrize("name", WITH_GRID)
def test_points_nearest_the_papers_come_first(name: str) -> None:
    grid = find(name).grid
    assert grid is not None
    away = [sum(axis.values.index(point[axis.name]) for axis in grid.axes) for point in grid.points()]
    assert away == sorted(away) and away[0] == 0
    assert len({tuple(point.values()) for point in grid.points()}) == len(away)


@pytest.mark.parametrize("name", WITH_GRID)
def test_every_point_of_a_grid_is_a_method_that_can_be_made(name: str) -> None:
    grid = find(name).grid
    assert grid is not None
    for point in [*grid.points(), grid.robust]:
        candidate = candidate_at(find(name)(), point, Setting())
        assert candidate.setting == Setting(point["lr"], None, point["steps"])
        assert (
            candidate.prototype.options().items()
            >= {name: value for name, value in point.items() if name not in ("lr", "steps")}.items()
        )


# What is searched


def test_every_point_is_tried_on_the_first_rung_and_the_better_ones_on_the_next(task: Task, backbone: Backbone) -> None:
    model = fitted(task, backbone)
    assert Shift.grid is not None and points(model) == Shift.grid.points()
    assert len(points(model, 2)) == 2
    choice = model.record["choice"]
    assert choice["chosen"] in points(model, 2) and choice["rungs"] == ["rung 1: done", "rung 2: done"]
    assert model.method.options()["alpha"] == choice["chosen"]["alpha"]
    assert choice["setting"] == {"lr": choice["chosen"]["lr"], "epochs": None, "steps": 8}
    assert model.record["training"] == {} or model.record["training"]["steps"] == 8
    assert model.record["selection"].startswith("alpha=")


@pytest.mark.parametrize(
    ("options", "settings", "left"),
    [
        ({}, {"lr": 0.1}, {"alpha", "steps"}),
        ({}, {"steps": 6}, {"alpha", "lr"}),
        ({}, {"epochs": 3}, {"alpha", "lr"}),
        ({"alpha": "1.0"}, {}, {"lr", "steps"}),
        ({"alpha": "0.5"}, {}, {"lr", "steps"}),  # its default, which was asked for
        ({"alpha": "0.5"}, {"lr": 0.1}, {"steps"}),
        ({"alpha": "0.5"}, {"lr": 0.1, "steps": 6}, set()),
    ],
)
def test_what_the_caller_fixes_is_not_searched(
    task: Task, backbone: Backbone, options: dict[str, str], settings: dict[str, Any], left: set[str]
) -> None:
    model = fitted(task, backbone, Shift.with_options(options), **settings)
    chosen = model.record["choice"]
    assert chosen["chosen"].keys() == left and all(point.keys() == left for point in points(model))
    assert model.method.options()["alpha"] == float(options.get("alpha", chosen["chosen"].get("alpha")))
    assert chosen["setting"]["lr"] == settings.get("lr", chosen["chosen"].get("lr"))


def test_option_of_an_object_is_fixed_where_it_is_not_the_default(task: Task, backbone: Backbone) -> None:
    model = fitted(task, backbone, Shift(alpha=1.0))
    assert model.method.options()["alpha"] == 1.0 and all("alpha" not in point for point in points(model))


def test_epochs_are_a_length_in_steps(task: Task, backbone: Backbone) -> None:
    model = fitted(task, backbone, ClipAdapter(), shots=4, epochs=3)  # one batch an epoch of 12 images
    assert model.record["choice"]["setting"]["steps"] == 3 and model.record["choice"]["setting"]["epochs"] is None


def test_nothing_held_out_takes_what_is_robust(task: Task, backbone: Backbone) -> None:
    model = fitted(task, backbone, shots=1)
    assert Shift.grid is not None and model.record["choice"]["chosen"] == Shift.grid.robust
    assert model.record["choice"]["tried"] == [] and model.method.options()["alpha"] == 2.0
    assert "fixed defaults (no validation part and too few shots" in model.record["selection"]


def test_validation_part_judges_every_rung(task: Task, backbone: Backbone) -> None:
    split = replace(task, train=task.train[::2], val=task.train[1::2])
    model = fitted(split, backbone, shots=None)
    tried = model.record["choice"]["tried"]
    assert {trial["images"] for trial in tried} == {len(split.support(None, 1).val)}
    assert "by validation part" in model.record["selection"]


# The recipe of the paper


@pytest.mark.parametrize("name", ["shift", "coop"])
def test_paper_is_the_fit_without_a_choice(name: str, task: Task, backbone: Backbone) -> None:
    method = Shift() if name == "shift" else find(name).with_options({"length": "4"})
    model = fitted(task, backbone, method, recipe="paper", epochs=2, views=None)
    few = task.support(4, 1)
    fitter = Fitter(Frozen(backbone, MemoryStore()), (few.classes,), 1, None)
    expected = fitter.fit(method, few.train, fitter.folds(few.train), "", Setting(epochs=2)).state()
    assert model.record["choice"]["tried"] == [] and model.record["choice"]["chosen"] == {}
    assert expected.keys() == model.method.state().keys()
    assert all(torch.equal(expected[key], value) for key, value in model.method.state().items())


def test_paper_without_settings_has_the_papers_length(task: Task, backbone: Backbone) -> None:
    method = find("mma")()
    model = fitted(task, backbone, method, recipe="paper", check=True)
    assert method.recipe is not None
    steps = method.recipe.epochs_for(4) * method.recipe.steps_for(12)
    assert model.record["training"]["steps"] == steps
    assert model.record["choice"]["setting"] == {"lr": None, "epochs": None, "steps": None}


# Again, and within bounds


def test_same_seed_chooses_the_same_and_learns_the_same_bits(task: Task, backbone: Backbone) -> None:
    one, other = (fitted(task, backbone, seed=3) for _ in range(2))
    assert one.record["choice"] == other.record["choice"]
    states = one.method.state(), other.method.state()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_second_fit_makes_no_trial_again(task: Task, backbone: Backbone, tmp_path: Path, trained: list[str]) -> None:
    first = fitted(task, backbone, check=True, store=Store(tmp_path / "store"))
    assert len(trained) == 4 + 2 + 1 + 2 + 1  # the rungs, the fit, the folds that no rung had, and half of the labels
    trained.clear()
    again = fitted(task, backbone, check=True, store=Store(tmp_path / "store"))
    assert trained == ["Fitting shift"]
    assert again.record["choice"] == first.record["choice"] and again.record["checked"] == first.record["checked"]


def test_interrupted_choice_goes_on_where_it_stopped(
    task: Task, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    uninterrupted = fitted(task, backbone)
    whole, train = list(trained), Fitter.fit
    trained.clear()

    def stopped(fitter: Fitter, *words: Any, **named: Any) -> Method:
        if len(trained) == 1:
            raise KeyboardInterrupt
        return train(fitter, *words, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Fitter, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            fitted(task, backbone, store=Store(tmp_path / "store"))
    again = fitted(task, backbone, store=Store(tmp_path / "store"))
    assert trained == whole  # one before it was stopped, and all others after
    assert again.record["choice"] == uninterrupted.record["choice"]


@pytest.mark.parametrize("change", ["seed", "shots", "group", "content of a file", "savings"])
def test_trial_is_made_anew_where_it_depends_on_what_changed(
    task: Task, backbone: Backbone, tmp_path: Path, trained: list[str], change: str
) -> None:
    (tmp_path / "notes").write_text("one")
    method, store, settings = WithFile(notes=str(tmp_path / "notes")), MemoryStore(), dict[str, Any]()
    fitted(task, backbone, method, store=store)
    trained.clear()
    if change == "seed":
        settings = {"seed": 2}
    elif change == "shots":
        settings = {"shots": 5}
    elif change == "savings":
        settings = {"savings": replace(Frozen(backbone).savings, reduced_images=False)}
    elif change == "group":
        task = replace(
            task, train=tuple(replace(item, group=f"{item.label}{item.picture.path.stem}") for item in task.train)
        )
    else:
        (tmp_path / "notes").write_text("another")
    fitted(task, backbone, method, store=store, **settings)
    assert "Trying with_file" in trained


def test_candidate_that_diverges_loses_and_is_recorded(task: Task, backbone: Backbone) -> None:
    model = fitted(task, backbone, Leaping())
    assert model.record["choice"]["chosen"] == {"lr": 2e-3, "steps": 8}
    scores = {trial["point"]["lr"]: trial["score"] for trial in model.record["choice"]["tried"]}
    assert scores[1e30] is None and scores[2e-3] is not None


def test_fit_of_which_every_candidate_diverges_says_so(task: Task, backbone: Backbone) -> None:
    with pytest.raises(DivergedError, match="leaping did not converge"):
        fitted(task, backbone, Leaping(), lr=1e30)


def test_budget_of_seconds_leaves_out_what_would_overrun_it(task: Task, backbone: Backbone) -> None:
    model = fitted(task, backbone, budget=1e-9)
    assert model.record["choice"]["rungs"] == ["rung 1: left out, it would overrun the budget"]
    assert Shift.grid is not None and model.record["choice"]["chosen"] == Shift.grid.points()[0]


def test_budget_of_seconds_stops_at_the_end_of_a_rung(
    task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    # begun; two trainings of 4 and 20 steps that are timed; before the first rung; before the second
    clock = iter([0.0, 0.0, 1.0, 1.0, 3.0, 3.0, 4.5])
    monkeypatch.setattr("shotfit.fitting.selection.time", SimpleNamespace(perf_counter=lambda: next(clock, 4.5)))
    model = fitted(task, backbone, budget=4.8)
    assert model.record["choice"]["rungs"] == ["rung 1: done", "rung 2: left out, it would overrun the budget"]
    assert len(points(model)) == 4 and points(model, 2) == []


def test_budget_of_a_race_counts_what_earlier_methods_took_to_encode_and_fit(
    task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, budgets, entrant = [0.0], list[Any](), module._entrant

    def slow(judge: Judge, *more: Any) -> Entrant:
        budgets.append(judge.budget)
        now[0] += 6
        return entrant(judge, *more)

    monkeypatch.setattr(module, "_entrant", slow)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr("shotfit.fitting.race.SHORTLIST", ("zero_shot", "tip_adapter", "linear_probe"))
    fit(task, shots=4, budget=9.0, backbone=backbone, store=MemoryStore(), keep=True)
    assert budgets == [3.0, 1.5, 0.0]


def test_rungs_that_choose_take_as_many_steps_as_the_longest_candidate(task: Task, backbone: Backbone) -> None:
    model = fitted(task, backbone, steps=40)
    rungs = [
        sum(trial["steps"] for trial in model.record["choice"]["tried"] if trial["rung"] == rung) for rung in (1, 2)
    ]
    assert rungs == [20, 20]


# Who wins


class _Said:
    """A judge that knows beforehand what each candidate says."""

    def __init__(self, said: Sequence[Tensor], labels: Tensor) -> None:
        fold = Fold(torch.arange(4), ImagePool(()).all(), labels)
        self.validation, self.said, self.labels = Validation("cross-validation", (fold, fold)), said, labels
        self.fitter = SimpleNamespace(sizes=(2,))
        self.told, self.rungs, self.budget = list[Any](), list[str](), None

    def affords(self, steps: float, rung: str) -> bool:
        return True

    def tell(self, *_: object) -> None:
        """Nothing is recorded."""

    def trials(self, candidates: Sequence[Candidate], fold: Fold, share: float, rung: int) -> dict[int, HeldOut]:
        none = torch.zeros(len(self.labels), 1)
        return {one.rank: HeldOut(self.said[one.rank], self.labels, none, "") for one in candidates}


def winner(*said: Tensor) -> int:
    """Which of the candidates wins, by logits [images, 2] of images of class 0 and 1 in turn."""
    labels = torch.arange(len(said[0])) % 2
    candidates = [Candidate(Shift(), Setting(steps=8), {}, rank) for rank in range(len(said))]
    judge: Any = _Said(said, labels)
    return choose(judge, candidates).candidate.rank


def logits(right: float, seed: int, noise: float = 1.0) -> Tensor:
    """Of forty images: so far apart on average, with noise."""
    drawn = torch.randn(40, 2, generator=torch.Generator().manual_seed(seed)) * noise
    return drawn + right * torch.eye(2)[torch.arange(40) % 2]


def test_tie_goes_to_the_candidate_nearest_the_papers() -> None:
    near = logits(1.0, 1)
    better = near + 0.1 * logits(0.0, 10)
    labels = torch.arange(40) % 2
    gain = log_likelihoods(better, labels, (2,)) - log_likelihoods(near, labels, (2,))
    assert 0 < float(gain.mean()) < standard_error(gain)
    assert winner(near, better) == 0


def test_clearly_better_candidate_wins_wherever_it_stands() -> None:
    assert winner(logits(0.0, 1), logits(0.1, 2), logits(5.0, 3)) == 2


def test_scale_of_logits_decides_nothing() -> None:
    near = logits(1.0, 1)
    assert winner(near, 100 * near) == 0 and winner(100 * near, near) == 0


# Whether more labels would help


@pytest.mark.parametrize("shots", [1, 2])
def test_too_few_labels_have_no_half(task: Task, backbone: Backbone, shots: int) -> None:
    assert fitted(task, backbone, shots=shots, check=True).record["half_of_the_labels"] == {}


def test_half_of_the_labels_is_a_fit_to_half_of_the_first_fold(task: Task, backbone: Backbone) -> None:
    few = task.support(4, 1)
    learned: list[int] = []

    class Noting(Fitter):
        def fit(self, prototype: Method, items: Sequence[Item], *words: Any, **named: Any) -> Method:
            learned.append(len(items))
            return super().fit(prototype, items, *words, **named)

    fitter = Noting(Frozen(backbone, MemoryStore()), (few.classes,), 1, "center")
    judge = Judge(fitter, few.train, fitter.folds(few.train))
    plain = Candidate(Shift(), Setting(steps=8), {}, 0)
    whole = fitter.fit(plain.prototype, few.train, judge.validation, "", plain.setting)
    entrant = Entrant(choose(judge, [plain]), whole, hold_out(judge, plain, whole))
    found = with_half(judge, entrant)
    assert learned == [12, 9, 9, 9, 9, learned[-1]] and 4 <= learned[-1] <= 5
    held = entrant.parts[0][1]
    assert held is not None and found["images"] == len(held)
    assert found["accuracy"] == float(held.right((3,)).double().mean())
    assert 0 <= found["half"] <= 1 and found["error"] >= 0


@pytest.mark.parametrize("kind", ["linear_probe", "tip_adapter_f"])  # both search by the validation part
def test_validation_part_tells_what_half_of_the_labels_would_do(task: Task, backbone: Backbone, kind: str) -> None:
    split = replace(task, train=task.train[1::2], val=task.train[::2])
    model = fit(split, kind, backbone=backbone, store=MemoryStore(), views="center", recipe="paper")
    half, checked = model.record["half_of_the_labels"], model.record["checked"]
    assert (half["images"], half["accuracy"]) == (checked["images"], checked["accuracy"])
    assert 0 <= half["half"] <= 1
